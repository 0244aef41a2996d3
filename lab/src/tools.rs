//! The external programs that configure the kernel, called so that a failure is told in
//! their own words.

use std::{
    env,
    fs::File,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Error, netns};

/// Root's path without a login shell often lacks these.
const SYSTEM_FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The programs that a lab may call, and the Debian package of each.
const PACKAGES: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("ethtool", "ethtool"),
    ("turnserver", "coturn"),
    ("modprobe", "kmod"),
];

/// Checks that a lab can be built here: root, `ip` and `nft`.
///
/// # Errors
/// [`Error::NotRoot`] or [`Error::MissingTool`].
pub fn preconditions() -> Result<(), Error> {
    // SAFETY: geteuid has no preconditions and cannot fail.
    let uid = unsafe { libc::geteuid() };
    if uid != 0 {
        return Err(Error::NotRoot { uid });
    }
    find("ip")?;
    find("nft")?;
    Ok(())
}

/// The path of a program, searched in `PATH` and then in the system's folders.
pub(crate) fn find(tool: &str) -> Result<PathBuf, Error> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(tool))
        .find(|candidate| is_program(candidate))
        .ok_or_else(|| Error::MissingTool {
            tool: tool.to_owned(),
            package: PACKAGES
                .iter()
                .find(|(name, _)| *name == tool)
                .map_or(tool, |(_, package)| package)
                .to_owned(),
        })
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Runs a program to its end, with `input` on its standard input, inside `namespace` if given.
pub(crate) fn run(
    tool: &str,
    arguments: &[&str],
    input: &str,
    namespace: Option<&File>,
) -> Result<(), Error> {
    let mut command = Command::new(find(tool)?);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if let Some(namespace) = namespace {
        let namespace = namespace
            .try_clone()
            .map_err(Error::io("duplicate a namespace handle"))?;
        netns::enter_in_child(&mut command, namespace);
    }
    let line = || format!("{tool} {}", arguments.join(" "));
    let mut child = command
        .spawn()
        .map_err(|source| Error::io(format!("start `{}`", line()))(source))?;
    // A program that fails early closes its input; its exit status tells more than our EPIPE.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|source| Error::io(format!("wait for `{}`", line()))(source))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Tool {
        command: line(),
        status: output.status,
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
