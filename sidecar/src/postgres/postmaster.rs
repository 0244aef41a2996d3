//! The postmaster of a data directory, which is not Patroni's child: it has a session of its own,
//! lives on when Patroni is killed, and is adopted by the next Patroni.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use holdfast_io::clock::{Clock, timeout};
use holdfast_io::http::Stop;
use libc::{c_int, pid_t};

/// How often its end is looked for.
const TICK: Duration = Duration::from_millis(20);
/// How long an immediate shutdown may take before SIGKILL: it writes nothing, its processes end at
/// once.
const IMMEDIATE_LIMIT: Duration = Duration::from_secs(1);
/// How long SIGKILL may take. Longer means that the kernel holds it, on a disk that does not
/// answer.
const KILL_LIMIT: Duration = Duration::from_secs(2);
/// The first lines of `postmaster.pid` are what is read of it, bytes.
const PID_FILE_LEN_MAX: u64 = 4096;

/// A running postmaster. The descriptor means this process and no other, whatever becomes of its
/// number.
pub(super) struct Postmaster {
    pid: pid_t,
    fd: OwnedFd,
}

impl Postmaster {
    /// The one of this data directory, if it runs.
    pub(super) fn of(data_dir: &Path) -> Option<Postmaster> {
        let pid = read_pid(&data_dir.join("postmaster.pid"))?;
        let fd = open(pid).ok()?;
        // A file that a crash has left names a number that somebody else may have by now. A
        // postmaster works in its data directory.
        let own = fs::canonicalize(data_dir).ok()?;
        let works_in = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let postmaster = Postmaster { pid, fd };
        (works_in == own && !postmaster.has_ended()).then_some(postmaster)
    }

    fn signal(&self, signal: c_int) {
        // SAFETY: integers and a null pointer, which the call permits; the descriptor is open.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        let error = io::Error::last_os_error();
        if sent != 0 && error.raw_os_error() != Some(libc::ESRCH) {
            tracing::warn!(pid = self.pid, signal, %error, "PostgreSQL cannot be signalled");
        }
    }

    /// Whether it has, reaped or not.
    fn has_ended(&self) -> bool {
        let mut poll = libc::pollfd {
            fd: self.fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd, and no wait.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }

    async fn ended<C: Clock>(&self, clock: &C) {
        while !self.has_ended() {
            clock.sleep(TICK).await;
        }
    }
}

fn read_pid(path: &Path) -> Option<pid_t> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(PID_FILE_LEN_MAX).read_to_string(&mut text).ok()?;
    let pid = text.lines().next()?.trim().parse().ok()?;
    // A negative number is a single-user server.
    (pid > 1).then_some(pid)
}

fn open(pid: pid_t) -> io::Result<OwnedFd> {
    // SAFETY: two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match RawFd::try_from(fd) {
        // SAFETY: the kernel has just made it for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Let the server of this data directory end, if one runs: clients are thrown out and everything
/// is written (a *fast* shutdown). Told to hurry it is shut down *immediately*, which leaves
/// recovery to the next start, and is killed if that takes longer than a moment. Whether one ran.
pub(super) async fn end<C: Clock>(data_dir: &Path, mut hurry: Stop, clock: &C) -> bool {
    let Some(postmaster) = Postmaster::of(data_dir) else {
        return false;
    };
    let pid = postmaster.pid;
    if !hurry.is_set() {
        tracing::info!(pid, "PostgreSQL runs on without Patroni: it is shut down");
        postmaster.signal(libc::SIGINT);
        tokio::select! {
            () = postmaster.ended(clock) => return true,
            () = hurry.wait() => {}
        }
    }
    tracing::warn!(
        pid,
        "PostgreSQL is shut down immediately: its next start recovers"
    );
    postmaster.signal(libc::SIGQUIT);
    let soon = timeout(clock, IMMEDIATE_LIMIT, postmaster.ended(clock)).await;
    if soon.is_err() {
        postmaster.signal(libc::SIGKILL);
        if timeout(clock, KILL_LIMIT, postmaster.ended(clock))
            .await
            .is_err()
        {
            tracing::error!(
                pid,
                "PostgreSQL does not die of SIGKILL: going on without it"
            );
        }
    }
    true
}
