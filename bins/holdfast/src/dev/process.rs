//! Processes that outlive the command that started them.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use holdfast_lab::process::ProcessId;

/// Variables of the reference that configure as well.
const FOREIGN: [&str; 5] = [
    "PEERS_JSON",
    "MESH_CONN_ALLOWLIST",
    "SERVICES_JSON",
    "WORKER_ORDINAL",
    "COORDINATOR_ORDINAL",
];

/// Start a command in a session of its own, both outputs appended to `log`, without what
/// would configure it besides its arguments.
pub fn start_detached(mut command: Command, log: &Path) -> io::Result<Child> {
    let out = File::options().create(true).append(true).open(log)?;
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let configures = text.starts_with("HOLDFAST_") && text != "HOLDFAST_LOG";
        if configures || FOREIGN.contains(&text.as_ref()) {
            command.env_remove(&name);
        }
    }
    command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out);
    leave_session(&mut command);
    command.spawn()
}

/// Make the coming process leave its terminal and its process group.
pub fn leave_session(command: &mut Command) {
    // SAFETY: setsid is async-signal-safe, and touches nothing of the parent.
    unsafe {
        command.pre_exec(|| match libc::setsid() {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
}

/// SIGKILL to that very process. False if it is gone already.
pub fn kill(id: ProcessId) -> io::Result<bool> {
    let pid = libc::pid_t::try_from(id.pid).map_err(io::Error::other)?;
    // SAFETY: pidfd_open takes two integers; a non-negative result is a descriptor that
    // nobody else owns.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let Some(fd) = i32::try_from(fd).ok().filter(|fd| *fd >= 0) else {
        return Ok(false);
    };
    // SAFETY: as above.
    let handle = unsafe { OwnedFd::from_raw_fd(fd) };
    // Checked after opening: from here on the handle cannot change its process.
    if !id.is_alive() {
        return Ok(false);
    }
    // SAFETY: the descriptor is open, and a null siginfo means "as kill would send it".
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            handle.as_raw_fd(),
            libc::SIGKILL,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    match result {
        0 => Ok(true),
        _ => Err(io::Error::last_os_error()),
    }
}
