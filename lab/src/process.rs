//! Processes that are started by a lab or a test, and ended by id.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::Error;

/// How often a condition is looked at: short beside anything one waits for, long beside the
/// cost of a look.
const POLL_EVERY: Duration = Duration::from_millis(2);

/// How long a process may take to die of SIGKILL: only one stuck in the kernel takes longer.
const KILL_BOUND: Duration = Duration::from_secs(5);

/// How much of a log goes into an error message, bytes.
const LOG_TAIL_BYTES: usize = 2_000;

/// Waits until `condition` holds, at most `bound`; `what` names it in the error.
///
/// # Errors
/// [`Error::Timeout`].
pub fn wait_for(
    what: &str,
    bound: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<(), Error> {
    wait_for_value(what, bound, || condition().then_some(()))
}

/// Waits until `look` returns a value, at most `bound`; `what` names it in the error.
///
/// # Errors
/// [`Error::Timeout`].
pub fn wait_for_value<T>(
    what: &str,
    bound: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T, Error> {
    let started = Instant::now();
    loop {
        if let Some(value) = look() {
            return Ok(value);
        }
        if started.elapsed() >= bound {
            return Err(Error::Timeout {
                what: what.to_owned(),
                bound,
                detail: String::new(),
            });
        }
        thread::sleep(POLL_EVERY);
    }
}

/// A child process with its output in a file; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    // None once detached.
    child: Option<Child>,
}

impl Process {
    /// Starts `command` with both outputs appended to the file `log` and no input.
    ///
    /// It gets a process group of its own, so that Ctrl-C on the terminal reaches it only
    /// through its owner. `name` is used in errors.
    ///
    /// # Errors
    /// [`Error::Io`] if the log cannot be written or the program not started.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self, Error> {
        let open = || {
            File::options()
                .create(true)
                .append(true)
                .open(log)
                .map_err(Error::io(format!("open log {}", log.display())))
        };
        command
            .stdin(Stdio::null())
            .stdout(open()?)
            .stderr(open()?)
            .process_group(0);
        let child = command
            .spawn()
            .map_err(Error::io(format!("start {name} ({command:?})")))?;
        Ok(Self {
            name: name.to_owned(),
            log: log.to_owned(),
            child: Some(child),
        })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// Everything that it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map_or_else(
            |_| String::new(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// How it ended, or `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child_mut().try_wait().ok().flatten()
    }

    /// Waits until `condition` holds, at most `bound`, and gives up early if the process ends.
    ///
    /// # Errors
    /// [`Error::Ended`] or [`Error::Timeout`], with the tail of the log.
    pub fn wait_ready(
        &mut self,
        bound: Duration,
        mut condition: impl FnMut(&Self) -> bool,
    ) -> Result<(), Error> {
        let started = Instant::now();
        while !condition(self) {
            if let Some(status) = self.ended() {
                return Err(Error::Ended {
                    what: self.name.clone(),
                    status,
                    log: self.log_tail(),
                });
            }
            if started.elapsed() >= bound {
                return Err(Error::Timeout {
                    what: format!("{} ready", self.name),
                    bound,
                    detail: self.log_tail(),
                });
            }
            thread::sleep(POLL_EVERY);
        }
        Ok(())
    }

    /// Waits until the log contains `needle`.
    ///
    /// # Errors
    /// [`Error::Ended`] or [`Error::Timeout`], with the tail of the log.
    pub fn wait_for_log(&mut self, needle: &str, bound: Duration) -> Result<(), Error> {
        self.wait_ready(bound, |process| process.log().contains(needle))
    }

    /// Waits until the process ends by itself.
    ///
    /// # Errors
    /// [`Error::Timeout`], with the tail of the log.
    pub fn wait_end(&mut self, bound: Duration) -> Result<ExitStatus, Error> {
        let name = format!("{} ended", self.name);
        match wait_for_value(&name, bound, || self.ended()) {
            Err(Error::Timeout { what, bound, .. }) => Err(Error::Timeout {
                what,
                bound,
                detail: self.log_tail(),
            }),
            other => other,
        }
    }

    /// Sends a signal (a number of `libc`, such as `libc::SIGSTOP`).
    ///
    /// # Errors
    /// [`Error::Io`] if it has ended.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        // The child is ours and not yet waited for, so its id cannot name another process.
        PidFd::open(self.pid())
            .and_then(|process| process.signal(signal))
            .map_err(Error::io(format!("signal {}", self.name)))
    }

    /// Asks it to end with SIGTERM, and kills it after `grace`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be waited for.
    pub fn stop(mut self, grace: Duration) -> Result<ExitStatus, Error> {
        if self.ended().is_none()
            && let Ok(process) = PidFd::open(self.pid())
        {
            end_all(vec![process], grace);
        }
        self.child_mut()
            .wait()
            .map_err(Error::io("wait for a child"))
    }

    /// Lets it run on after this value, and this process, are gone. Returns its identity.
    #[must_use]
    pub fn detach(mut self) -> ProcessId {
        let pid = self.pid();
        self.child = None;
        ProcessId::of(pid)
    }

    fn log_tail(&self) -> String {
        tail(&self.log())
    }

    fn child(&self) -> &Child {
        self.child
            .as_ref()
            .expect("only detach takes the child, and it takes self as well")
    }

    fn child_mut(&mut self) -> &mut Child {
        self.child
            .as_mut()
            .expect("only detach takes the child, and it takes self as well")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The end of a log, for an error message.
pub(crate) fn tail(log: &str) -> String {
    let mut start = log.len().saturating_sub(LOG_TAIL_BYTES);
    while !log.is_char_boundary(start) {
        start += 1;
    }
    log[start..].trim().to_owned()
}

/// A process id together with its start time, since ids are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process id.
    pub pid: u32,
    /// Start time in clock ticks since boot (field 22 of `/proc/PID/stat`); 0 if it had ended.
    pub start_ticks: u64,
}

impl ProcessId {
    /// The process that has the id now.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let start_ticks = start_ticks(pid).unwrap_or(0);
        Self { pid, start_ticks }
    }

    /// Whether that very process still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.start_ticks != 0 && start_ticks(self.pid) == Some(self.start_ticks)
    }

    /// A handle to that very process, if it still runs.
    pub(crate) fn handle(&self) -> Option<PidFd> {
        let handle = PidFd::open(self.pid).ok()?;
        // Checked after opening: from here on the handle cannot change its process.
        self.is_alive().then_some(handle)
    }
}

/// `None` for a process that is gone or only waits to be reaped.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name in parentheses may itself contain anything, parentheses too.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// A process that cannot be confused with a later one of the same id.
#[derive(Debug)]
pub(crate) struct PidFd(OwnedFd);

impl PidFd {
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
        // SAFETY: pidfd_open takes two integers; a non-negative result is a descriptor that
        // nobody else owns.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        // SAFETY: the descriptor is open, and a null siginfo means "as kill would send it".
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Whether the process ends before `deadline` (a zombie has ended).
    fn wait_until(&self, deadline: Instant) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, not to give up a fraction of a millisecond early.
            let left_ms = i32::try_from(left.as_micros().div_ceil(1_000)).unwrap_or(i32::MAX);
            let mut poll = libc::pollfd {
                fd: self.0.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one pollfd is passed and its count is one.
            match unsafe { libc::poll(&raw mut poll, 1, left_ms) } {
                1 => return true,
                // Interrupted by a signal to us.
                -1 if !left.is_zero() => {}
                _ => return false,
            }
        }
    }
}

/// SIGTERM to all, then SIGKILL to those that still run after `grace`. True if all are gone.
pub(crate) fn end_all(processes: Vec<PidFd>, grace: Duration) -> bool {
    for process in &processes {
        let _ = process.signal(libc::SIGTERM);
        // A stopped process sees no SIGTERM before it is continued.
        let _ = process.signal(libc::SIGCONT);
    }
    let deadline = Instant::now() + grace;
    let stubborn: Vec<PidFd> = processes
        .into_iter()
        .filter(|process| !process.wait_until(deadline))
        .collect();
    for process in &stubborn {
        let _ = process.signal(libc::SIGKILL);
    }
    let deadline = Instant::now() + KILL_BOUND;
    stubborn.iter().all(|process| process.wait_until(deadline))
}
