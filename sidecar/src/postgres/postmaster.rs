//! The postmaster of a data directory, which is not Patroni's child: it has a session of its own,
//! lives on when Patroni is killed, and is adopted by the next Patroni.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
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
        // A file that a crash has left names a number that somebody else may have by now.
        let postmaster = Postmaster { pid, fd };
        (is_of(pid, data_dir).ok()? && !postmaster.has_ended()).then_some(postmaster)
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

/// Whether a process is the postmaster of a data directory: it works in it.
fn is_of(pid: pid_t, data_dir: &Path) -> io::Result<bool> {
    let process = Path::new("/proc").join(pid.to_string());
    match fs::read_link(process.join("cwd")) {
        Ok(works_in) => Ok(works_in == fs::canonicalize(data_dir)?),
        // Root of a container may not look at processes of others (CAP_SYS_PTRACE): what everybody
        // can see has to do.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let name = fs::read_to_string(process.join("comm"))?;
            let owner = |path: &Path| fs::metadata(path).map(|found| found.uid());
            Ok(name.trim_end() == "postgres" && owner(&process)? == owner(data_dir)?)
        }
        Err(error) => Err(error),
    }
}

fn read_pid(path: &Path) -> Option<pid_t> {
    let mut text = String::new();
    // The database's user writes it: no link to elsewhere, and no pipe that never ends.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let opened = File::options().read(true).custom_flags(flags).open(path);
    let file = opened.ok()?;
    file.metadata().ok().filter(fs::Metadata::is_file)?;
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

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use holdfast_io::real::{RealClock, block_on};
    use std::os::unix::process::ExitStatusExt;
    use std::path::PathBuf;
    use std::process::{Child, Command};

    /// A process in a data directory, with its number in the file, once it listens to signals.
    pub(in crate::postgres) struct Fake {
        pub(in crate::postgres) folder: PathBuf,
        pub(in crate::postgres) child: Child,
    }

    impl Fake {
        pub(in crate::postgres) fn start(name: &str, traps: &str) -> Fake {
            let folder = format!("holdfast-postmaster-{name}-{}", std::process::id());
            let folder = std::env::temp_dir().join(folder);
            fs::create_dir_all(&folder).unwrap();
            let script = format!("{traps}; echo $$ > ready; while :; do sleep 0.01; done");
            let mut command = Command::new("/bin/sh");
            let child = command
                .args(["-c", &script])
                .current_dir(&folder)
                .spawn()
                .unwrap();
            let began = std::time::Instant::now();
            while fs::read_to_string(folder.join("ready"))
                .unwrap_or_default()
                .is_empty()
            {
                assert!(
                    began.elapsed() < Duration::from_secs(30),
                    "it has not begun"
                );
                std::thread::yield_now();
            }
            let text = format!("{}\n{}\n", child.id(), folder.display());
            fs::write(folder.join("postmaster.pid"), text).unwrap();
            Fake { folder, child }
        }

        /// End it; how it ended, by code or signal.
        fn end(mut self, hurry: bool) -> (Option<i32>, Option<i32>) {
            let (_switch, stop) = tokio::sync::watch::channel(hurry);
            assert!(block_on(end(&self.folder, stop.into(), &RealClock)).unwrap());
            let status = self.child.wait().unwrap();
            fs::remove_dir_all(&self.folder).unwrap();
            (status.code(), status.signal())
        }
    }

    #[test]
    fn a_server_has_time_for_a_clean_end() {
        let fake = Fake::start("fast", "trap 'sleep 0.1; exit 7' INT");
        assert_eq!(fake.end(false), (Some(7), None));
    }

    #[test]
    fn a_server_in_a_hurry_ends_at_once_or_is_killed() {
        let fake = Fake::start("hurry", "trap 'exit 8' QUIT");
        assert_eq!(fake.end(true), (Some(8), None));
        let fake = Fake::start("stuck", "trap '' QUIT");
        assert_eq!(fake.end(true), (None, Some(libc::SIGKILL)));
    }

    #[test]
    fn a_number_that_another_process_has_by_now_is_left_alone() {
        let fake = Fake::start("stale", "true");
        let other = fake.folder.join("other");
        fs::create_dir(&other).unwrap();
        fs::copy(
            fake.folder.join("postmaster.pid"),
            other.join("postmaster.pid"),
        )
        .unwrap();
        assert!(Postmaster::of(&other).is_none());
        assert!(Postmaster::of(&fake.folder).is_some());
        fs::write(other.join("postmaster.pid"), "-5\n").unwrap();
        assert!(Postmaster::of(&other).is_none());
        fake.end(true);
    }

    #[test]
    fn a_number_is_read_from_a_file_and_from_nothing_that_leads_elsewhere_or_blocks() {
        let folder = format!("holdfast-postmaster-links-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        fs::create_dir_all(&folder).unwrap();
        let (file, link, pipe) = (
            folder.join("file"),
            folder.join("link"),
            folder.join("pipe"),
        );
        fs::write(&file, "77\n").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        assert_eq!(read_pid(&file), Some(77));
        assert_eq!((read_pid(&link), read_pid(&pipe)), (None, None));
        assert_eq!(read_pid(&folder), None);
        // One line without an end: what is read of it is bounded.
        fs::write(&file, "0".repeat(1 << 20) + "77").unwrap();
        assert_eq!(read_pid(&file), None);
        fs::remove_dir_all(&folder).unwrap();
    }
}
