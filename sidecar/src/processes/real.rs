//! Processes of the operating system, and the one reaper.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use holdfast_core::supervise::{Ended, Run, Signal};
use holdfast_io::clock::Clock;
use holdfast_io::real::{RealClock, RealSpawn};
use holdfast_io::spawn::{Spawn, Task};
use libc::{c_int, c_ulong, pid_t};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

use super::Processes;
use super::output::log_lines;
use super::spec::{SpawnError, Spec, inherited};
use super::users::{self, Account};

/// How often the end of a group is looked for whose first process has ended. Only what was left
/// to another reaper ends without a SIGCHLD for us.
const GROUP_TICK: Duration = Duration::from_millis(50);
/// How long the rest of a group may take to die of SIGKILL. Longer means that the kernel holds
/// it, on a disk or network that does not answer.
const GROUP_LIMIT: Duration = Duration::from_secs(5);
/// Longest time that a lost SIGCHLD could go unnoticed.
const REAP_TICK: Duration = Duration::from_secs(5);

/// Processes of the operating system. There is one of these in a process: it reaps every child,
/// also those that others started, and those that were left behind by a parent that ended.
pub struct RealProcesses {
    state: Rc<State>,
    _reaper: Task,
}

#[derive(Default)]
struct State {
    /// By their first process.
    running: RefCell<BTreeMap<pid_t, Process>>,
    /// The first process has ended; the group is about to.
    ending: RefCell<Vec<Ending>>,
    ended: RefCell<VecDeque<(Run, Ended)>>,
    wake: Notify,
    /// Processes reaped that we had not started.
    orphans: Cell<u64>,
}

struct Process {
    run: Run,
    /// It was asked to end: what is left of its group has the same time for that.
    asked: Cell<bool>,
    /// As [`Spec`] says.
    asks_its_own: bool,
    /// Tells its readers that nobody of the group is left.
    over: watch::Sender<bool>,
}

struct Ending {
    group: pid_t,
    process: Process,
    how: Ended,
    /// When the rest of its group was killed.
    killed_at: Option<Instant>,
}

impl RealProcesses {
    /// Become the reaper of everything below this process. Call it once, inside a `LocalSet`, on
    /// the thread that lives as long as the process does: children die with it.
    ///
    /// # Errors
    /// The system's, when SIGCHLD cannot be listened for.
    pub fn new() -> io::Result<RealProcesses> {
        // SAFETY: prctl with integers alone.
        if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1 as c_ulong, 0, 0, 0) } != 0 {
            let error = io::Error::last_os_error();
            tracing::warn!(%error, "processes that children leave behind will not be reaped here");
        }
        let mut told = signal(SignalKind::child())?;
        let state = Rc::new(State::default());
        let own = state.clone();
        let reaper = RealSpawn.spawn("reaper", async move {
            loop {
                own.reap();
                let tick = match own.ending.borrow().is_empty() {
                    true => REAP_TICK,
                    false => GROUP_TICK,
                };
                tokio::select! {
                    _ = told.recv() => {}
                    () = RealClock.sleep(tick) => {}
                }
            }
        });
        Ok(RealProcesses {
            state,
            _reaper: reaper,
        })
    }

    /// How many processes were reaped that had been left to us.
    #[must_use]
    pub fn orphans_reaped(&self) -> u64 {
        self.state.orphans.get()
    }
}

impl Processes for RealProcesses {
    fn spawn(&self, run: Run, spec: &Spec) -> Result<u32, SpawnError> {
        let account = users::find(spec.user.as_deref(), spec.group.as_deref())?;
        let mut command = command(spec, account.as_ref())?;
        let mut child = command.spawn().map_err(|source| SpawnError::System {
            program: spec.command[0].clone(),
            source,
        })?;
        let pid = child.id();
        let (over, ended) = watch::channel(false);
        if let Some(pipe) = child.stdout.take() {
            let logged = log_lines(spec.name.clone(), "stdout", pipe.into(), ended.clone());
            RealSpawn.spawn("child stdout", logged).detach();
        }
        if let Some(pipe) = child.stderr.take() {
            let logged = log_lines(spec.name.clone(), "stderr", pipe.into(), ended);
            RealSpawn.spawn("child stderr", logged).detach();
        }
        // The reaper waits for it: dropping `child` does not.
        let group = pid_t::try_from(pid).expect("the kernel's pids are positive integers");
        let process = Process {
            run,
            asked: Cell::new(false),
            asks_its_own: spec.asks_its_own,
            over,
        };
        self.state.running.borrow_mut().insert(group, process);
        Ok(pid)
    }

    fn signal(&self, run: Run, signal: Signal) {
        let running = self.state.running.borrow();
        // As long as a run is listed its first process is not reaped: its number is its own.
        if let Some((group, process)) = running.iter().find(|(_, process)| process.run == run) {
            process.asked.set(true);
            let sent = match process.asks_its_own && signal.0 != libc::SIGKILL {
                true => kill_one(*group, signal.0),
                false => kill_group(*group, signal.0),
            };
            if let Err(error) = sent {
                tracing::warn!(group, signal = signal.0, %error, "a signal cannot be sent");
            }
            return;
        }
        let mut ending = self.state.ending.borrow_mut();
        let rest = ending.iter_mut().find(|ending| ending.process.run == run);
        if let Some(rest) = rest.filter(|_| signal.0 == libc::SIGKILL) {
            rest.kill();
        }
    }

    async fn ended(&self) -> (Run, Ended) {
        loop {
            if let Some(ended) = self.state.ended.borrow_mut().pop_front() {
                return ended;
            }
            self.state.wake.notified().await;
        }
    }
}

impl Drop for RealProcesses {
    fn drop(&mut self) {
        for group in self.state.running.borrow().keys() {
            let _ = kill_group(*group, libc::SIGKILL);
        }
        for ending in self.state.ending.borrow().iter() {
            let _ = kill_group(ending.group, libc::SIGKILL);
        }
    }
}

impl Ending {
    fn kill(&mut self) {
        let _ = kill_group(self.group, libc::SIGKILL);
        self.killed_at.get_or_insert(RealClock.now().mono);
    }
}

impl State {
    /// Reap everything that has ended.
    fn reap(&self) {
        while let Some(pid) = next_ended() {
            let process = self.running.borrow_mut().remove(&pid);
            let unasked = process.as_ref().is_some_and(|process| !process.asked.get());
            if unasked {
                // Before its number is given back, so that nobody else can have it.
                let _ = kill_group(pid, libc::SIGKILL);
            }
            let how = reap_one(pid);
            match (process, how) {
                (Some(process), Some(how)) => self.ending.borrow_mut().push(Ending {
                    group: pid,
                    process,
                    how,
                    killed_at: unasked.then(|| RealClock.now().mono),
                }),
                (None, Some(_)) => self.orphans.set(self.orphans.get() + 1),
                (_, None) => {}
            }
        }
        let now = RealClock.now().mono;
        self.ending.borrow_mut().retain(|ending| {
            let gone = kill_group(ending.group, 0).is_err();
            let late = ending.killed_at.is_some_and(|at| now >= at + GROUP_LIMIT);
            if late && !gone {
                tracing::warn!(
                    group = ending.group,
                    "a process of the group does not die of SIGKILL: going on without it"
                );
            }
            if !gone && !late {
                return true;
            }
            let _ = ending.process.over.send(true);
            let ended = (ending.process.run, ending.how);
            self.ended.borrow_mut().push_back(ended);
            self.wake.notify_one();
            false
        });
    }
}

/// End whatever children have left behind outside of their groups, and was left to this process:
/// first asked, after `grace` killed. What does not die of that is left to the system.
pub async fn end_strays(grace: Duration) {
    let began = RealClock.now().mono;
    let mut told = false;
    loop {
        let strays = own_children();
        let elapsed = RealClock.now().mono.saturating_duration_since(began);
        if strays.is_empty() || elapsed > grace + GROUP_LIMIT {
            return;
        }
        let signal = match elapsed > grace {
            true => libc::SIGKILL,
            false => libc::SIGTERM,
        };
        if !told || signal == libc::SIGKILL {
            tracing::info!(
                processes = strays.len(),
                signal,
                "ending what children left behind"
            );
            for stray in &strays {
                // SAFETY: two integers. It is our child and not reaped: its number is its own.
                let _ = unsafe { libc::kill(*stray, signal) };
            }
            told = true;
        }
        RealClock.sleep(GROUP_TICK).await;
    }
}

/// The children of this process, of all its threads.
fn own_children() -> Vec<pid_t> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let lists = threads
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let lists: Vec<String> = lists.collect();
    let pids = lists.iter().flat_map(|list| list.split_whitespace());
    pids.filter_map(|pid| pid.parse().ok()).collect()
}

/// A child that has ended and is still to be reaped.
fn next_ended() -> Option<pid_t> {
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    loop {
        // SAFETY: an all-zero siginfo_t is a valid one.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is a valid siginfo_t to write to.
        let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) };
        if result != 0 {
            if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
                continue;
            }
            // No children at all.
            return None;
        }
        // SAFETY: waitid has filled in the fields of SIGCHLD, or left them zero.
        let pid = unsafe { info.si_pid() };
        return (pid != 0).then_some(pid);
    }
}

/// Reap one that has ended.
fn reap_one(pid: pid_t) -> Option<Ended> {
    let mut status: c_int = 0;
    // SAFETY: `status` is a valid integer to write to.
    let found = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
    if found != pid {
        return None;
    }
    Some(match libc::WIFSIGNALED(status) {
        true => Ended::Signal(Signal(libc::WTERMSIG(status))),
        false => Ended::Code(libc::WEXITSTATUS(status)),
    })
}

/// Send a signal to a process group; 0 only asks whether there is one.
fn kill_group(group: pid_t, signal: c_int) -> io::Result<()> {
    // SAFETY: two integers.
    match unsafe { libc::killpg(group, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Send a signal to one process.
fn kill_one(pid: pid_t, signal: c_int) -> io::Result<()> {
    // SAFETY: two integers.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The command, up to the point where the program is loaded.
fn command(spec: &Spec, account: Option<&Account>) -> Result<Command, SpawnError> {
    let (program, arguments) = spec.command.split_first().ok_or(SpawnError::Empty)?;
    if program.is_empty() {
        return Err(SpawnError::Empty);
    }
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(inherited(spec));
    if let Some(account) = account {
        // SAFETY: takes nothing, cannot fail.
        let own = unsafe { libc::geteuid() };
        if own != 0 && own != account.uid {
            let user = account.name.clone();
            return Err(SpawnError::NotRoot { user });
        }
        command.env("USER", &account.name);
        command.env("LOGNAME", &account.name);
        command.env("HOME", &account.home);
    }
    command.envs(spec.env.iter().map(|(name, value)| (name, value)));
    if let Some(dir) = &spec.dir {
        enterable(dir)?;
        command.current_dir(dir);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let account = account.cloned();
    let parent = std::process::id();
    // SAFETY: what is called between fork and exec is async-signal-safe and allocates nothing.
    unsafe {
        command.pre_exec(move || prepare(parent, account.as_ref()));
    }
    Ok(command)
}

/// The folder is named in the error: the system would only say that something is missing.
fn enterable(dir: &Path) -> Result<(), SpawnError> {
    let failed = |source| SpawnError::Dir {
        path: dir.to_owned(),
        source,
    };
    match std::fs::metadata(dir).map_err(failed)?.is_dir() {
        true => Ok(()),
        false => Err(failed(io::ErrorKind::NotADirectory.into())),
    }
}

/// Between fork and exec: system calls alone.
fn prepare(parent: u32, account: Option<&Account>) -> io::Result<()> {
    // SAFETY: system calls with integers, and a pointer to a list that outlives the call.
    unsafe {
        check(libc::setsid())?;
        if let Some(account) = account {
            // Groups first: afterwards the right to change them is gone.
            if libc::geteuid() == 0 {
                check(libc::setgroups(
                    account.groups.len(),
                    account.groups.as_ptr(),
                ))?;
            }
            check(libc::setgid(account.gid))?;
            check(libc::setuid(account.uid))?;
            check(libc::prctl(
                libc::PR_SET_NO_NEW_PRIVS,
                1 as c_ulong,
                0,
                0,
                0,
            ))?;
        }
        // After setuid, which clears it.
        check(libc::prctl(
            libc::PR_SET_PDEATHSIG,
            libc::SIGKILL as c_ulong,
            0,
            0,
            0,
        ))?;
        // Had the parent ended before that, nobody would tell.
        if u32::try_from(libc::getppid()) != Ok(parent) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
    }
    Ok(())
}

fn check(result: c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
