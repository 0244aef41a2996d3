//! Drives [`Supervisor`]: starts, signals and watches what it says, and tells it what happened.
//!
//! A child is a process, or a part of this one ([`Inside`]): the mesh is a child like any other,
//! so that order, restarts and shutdown are decided in one place.

mod hooks;
mod job;
mod readiness;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use holdfast_core::supervise::{self, Ended, Input, Name, Output, Run, Signal, State, Supervisor};
use holdfast_io::clock::Clock;
use holdfast_io::http::Stop;
use holdfast_io::net::Net;
use holdfast_io::spawn::{Spawn, Task};
use tokio::sync::{mpsc, watch};

pub use hooks::{CHECK_LIMIT, Check, Cleanup, Hooks, Look};
pub use job::{Inside, Job, ProcessJob, ReadyNow, Supervised};

use crate::options::Ready;
use crate::processes::Processes;
use crate::status::{ChildStatus, Shared, name_of};

/// What parts of this process have to say at one time.
const TOLD_MAX: usize = 256;

/// SHA-256.
pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// What the driver can be told.
pub enum Command {
    /// These are the children from now on.
    Reload(Vec<Supervised>),
    /// Start this one again.
    Restart(Name),
    /// Send this signal to every process, but not to those named.
    Forward {
        /// Which signal.
        signal: Signal,
        /// Who does not get it.
        except: Vec<Name>,
    },
    /// End everything, in order.
    Shutdown,
    /// Go on with that, with SIGKILL instead of what a process is asked with.
    Hurry,
}

/// What tasks have to say.
pub(crate) enum Told {
    Input(Input),
    /// What was found before the start of a run.
    Checked {
        run: Run,
        result: Result<(), String>,
    },
    /// Why a run is not ready.
    NotReady {
        run: Run,
        why: String,
    },
    /// Nothing of a run is left, nor of what it has left behind.
    Cleaned {
        run: Run,
        how: Ended,
    },
}

impl From<Input> for Told {
    fn from(input: Input) -> Told {
        Told::Input(input)
    }
}

/// A run that has not ended.
struct Active {
    child: Name,
    pid: Option<u32>,
    kind: Kind,
    /// It was asked to end.
    asked: bool,
    /// For what it may leave behind then.
    cleanup: Option<Cleanup>,
    /// Looks whether it is ready.
    _probe: Option<Task>,
}

enum Kind {
    /// Not started yet: dropped, nothing is.
    Checking {
        _task: Task,
    },
    Process,
    /// It has ended, and what it has left behind is about to.
    Cleaning {
        hurry: watch::Sender<bool>,
        _task: Task,
    },
    Inside {
        stop: watch::Sender<bool>,
        task: Option<Task>,
    },
}

/// The driver. [`Children::run`] is its only verb.
pub struct Children<P, N, C, S> {
    supervisor: Supervisor,
    jobs: BTreeMap<Name, Job>,
    active: BTreeMap<Run, Active>,
    processes: Rc<P>,
    net: N,
    clock: C,
    spawn: S,
    status: Shared,
    told: (mpsc::Sender<Told>, mpsc::Receiver<Told>),
    /// What keeps a child from being started, or ready.
    problems: BTreeMap<Name, String>,
    hurried: bool,
}

impl<P: Processes, N: Net, C: Clock, S: Spawn> Children<P, N, C, S> {
    /// Children that are not started yet.
    ///
    /// # Errors
    /// What is wrong with them as a whole.
    pub fn new(
        children: Vec<Supervised>,
        processes: Rc<P>,
        (net, clock, spawn): (N, C, S),
        status: Shared,
    ) -> Result<Self, supervise::ConfigError> {
        let (machine, jobs) = parts(children);
        Ok(Children {
            supervisor: Supervisor::new(machine, clock.now())?,
            jobs,
            active: BTreeMap::new(),
            processes,
            net,
            clock,
            spawn,
            status,
            told: mpsc::channel(TOLD_MAX),
            problems: BTreeMap::new(),
            hurried: false,
        })
    }

    /// Run them until all have ended after [`Command::Shutdown`]. A dropped sender of `commands`
    /// changes nothing.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut open = true;
        loop {
            if self.act() {
                return;
            }
            self.show();
            let deadline = self.supervisor.deadline().map(|(at, _why)| at);
            let clock = self.clock.clone();
            let timer = async {
                match deadline {
                    Some(at) => clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                command = commands.recv(), if open => match command {
                    Some(command) => self.command(command),
                    None => open = false,
                },
                (run, how) = self.processes.ended() => self.process_ended(run, how),
                Some(told) = self.told.1.recv() => self.hear(told),
                () = timer => {
                    let now = self.clock.now();
                    // A timer may fire a moment early: the machine has to see it reached.
                    let late = deadline.map_or(Duration::ZERO, |at| at.saturating_duration_since(now.mono));
                    self.supervisor.handle_deadline(now.plus(late));
                }
            }
        }
    }

    fn hear(&mut self, told: Told) {
        match told {
            Told::Input(input) => self.handle(input),
            Told::Checked { run, result } => self.checked(run, result),
            Told::NotReady { run, why } => {
                if let Some(active) = self.active.get(&run) {
                    self.problems.insert(active.child.clone(), why);
                }
            }
            Told::Cleaned { run, how } => self.handle(Input::Ended { run, how }),
        }
    }

    fn handle(&mut self, input: Input) {
        match &input {
            // What was sent before its run ended.
            Input::Ready(run) | Input::Unready(run) if !self.active.contains_key(run) => return,
            Input::Ready(run) => {
                let child = self.active.get(run).map(|active| &active.child);
                child.map(|child| self.problems.remove(child));
            }
            Input::Ended { run, how } => {
                // Why it was not started is worth knowing until it is.
                if let Some(active) = self.active.remove(run)
                    && *how != Ended::NotStarted
                {
                    self.problems.remove(&active.child);
                }
            }
            _ => {}
        }
        self.supervisor.handle(self.clock.now(), input);
    }

    /// A process and its group are gone. What it has left elsewhere is ended when somebody wanted
    /// its end; else its next run may go on with it.
    fn process_ended(&mut self, run: Run, how: Ended) {
        let hurried = self.hurried;
        let active = self.active.get_mut(&run).filter(|active| active.asked);
        let Some((active, cleanup)) = active.and_then(|active| {
            let cleanup = active.cleanup.take()?;
            Some((active, cleanup))
        }) else {
            return self.handle(Input::Ended { run, how });
        };
        let killed = how == Ended::Signal(Signal(libc::SIGKILL));
        let (hurry, stop) = watch::channel(hurried || killed);
        let told = self.told.0.clone();
        let task = self.spawn.spawn("clean-up of a child", async move {
            cleanup(stop.into()).await;
            // Without a receiver everything has ended already.
            let _ = told.send(Told::Cleaned { run, how }).await;
        });
        active.pid = None;
        active._probe = None;
        active.kind = Kind::Cleaning { hurry, _task: task };
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Reload(children) => {
                let (machine, jobs) = parts(children);
                match supervise::check(&machine, &[]) {
                    Ok(()) => {
                        self.jobs = jobs;
                        self.handle(Input::Reload(machine));
                    }
                    Err(error) => tracing::error!(%error, "the children were not reloaded"),
                }
            }
            Command::Restart(name) => self.handle(Input::Restart(name)),
            Command::Forward { signal, except } => {
                for (run, active) in &self.active {
                    if matches!(active.kind, Kind::Process) && !except.contains(&active.child) {
                        self.processes.signal(*run, signal);
                    }
                }
            }
            Command::Shutdown => self.handle(Input::Shutdown),
            Command::Hurry => {
                self.hurried = true;
                for (run, active) in &mut self.active {
                    match &active.kind {
                        Kind::Process => {
                            active.asked = true;
                            self.processes.signal(*run, Signal(libc::SIGKILL));
                        }
                        Kind::Cleaning { hurry, .. } => drop(hurry.send_replace(true)),
                        Kind::Checking { .. } | Kind::Inside { .. } => {}
                    }
                }
            }
        }
    }

    /// Do what the machine says. Whether it is done for good.
    fn act(&mut self) -> bool {
        while let Some(output) = self.supervisor.poll_output() {
            match output {
                Output::Spawn { child, run } => self.start(child, run),
                Output::Signal { run, signal } => self.signal(run, signal),
                Output::Changed { child, state, why } => log(&child, state, &why),
                Output::Refused(error) => {
                    tracing::error!(%error, "the children were not reloaded");
                }
                Output::Done => {
                    self.show();
                    return true;
                }
            }
        }
        false
    }

    fn start(&mut self, child: Name, run: Run) {
        match self.jobs.get(&child).cloned() {
            None => self.not_started(child, run, "there is nothing to start".to_owned()),
            Some(Job::Process(process)) => match process.hooks.check.clone() {
                Some(check) => self.check(child, run, check),
                None => {
                    if self.start_process(child, run, *process) {
                        self.handle(Input::Started(run));
                    }
                }
            },
            Some(Job::Inside(inside)) => self.start_inside(child, run, &inside),
        }
    }

    /// Look whether it may be started. For the machine it runs from now on, so that it can be
    /// asked to end.
    fn check(&mut self, child: Name, run: Run, check: Check) {
        let (told, clock) = (self.told.0.clone(), self.clock.clone());
        let task = self.spawn.spawn("check of a child", async move {
            let result = check.run(clock).await;
            // Without a receiver everything has ended already.
            let _ = told.send(Told::Checked { run, result }).await;
        });
        let active = Active {
            child,
            pid: None,
            kind: Kind::Checking { _task: task },
            asked: false,
            cleanup: None,
            _probe: None,
        };
        self.active.insert(run, active);
        self.handle(Input::Started(run));
    }

    fn checked(&mut self, run: Run, result: Result<(), String>) {
        let is_checking = |active: &&Active| matches!(active.kind, Kind::Checking { .. });
        let Some(active) = self.active.get(&run).filter(is_checking) else {
            return;
        };
        let child = active.child.clone();
        if let Err(why) = result {
            return self.not_started(child, run, why);
        }
        let Some(Job::Process(process)) = self.jobs.get(&child).cloned() else {
            return self.not_started(child, run, "there is nothing to start".to_owned());
        };
        self.problems.remove(&child);
        let at_once = process.ready == Ready::AtOnce;
        if self.start_process(child, run, *process) && at_once {
            self.handle(Input::Ready(run));
        }
    }

    /// Whether it runs.
    fn start_process(&mut self, child: Name, run: Run, process: ProcessJob) -> bool {
        match self.processes.spawn(run, &process.spec) {
            Ok(pid) => {
                tracing::info!(%child, pid, "started");
                let active = Active {
                    child,
                    pid: Some(pid),
                    kind: Kind::Process,
                    asked: false,
                    cleanup: process.hooks.cleanup,
                    _probe: self.watch(run, &process.spec.name, process.ready),
                };
                self.active.insert(run, active);
                true
            }
            Err(error) => {
                self.not_started(child, run, error.to_string());
                false
            }
        }
    }

    fn not_started(&mut self, child: Name, run: Run, why: String) {
        // Every try says the same until it is mended: once in the log is enough.
        if self.problems.get(&child) != Some(&why) {
            tracing::error!(%child, "cannot be started: {why}");
        }
        self.problems.insert(child, why);
        let how = Ended::NotStarted;
        self.handle(Input::Ended { run, how });
    }

    fn start_inside(&mut self, child: Name, run: Run, inside: &Inside) {
        let (switch, stop) = Stop::new();
        let told = self.told.0.clone();
        let ready = ReadyNow::new(run, told.clone());
        let future = inside(stop, ready);
        let task = self.spawn.spawn("part of the sidecar", async move {
            let how = Ended::Code(future.await);
            // Without a receiver everything has ended already.
            let _ = told.send(Input::Ended { run, how }.into()).await;
        });
        let kind = Kind::Inside {
            stop: switch,
            task: Some(task),
        };
        let active = Active {
            child,
            pid: None,
            kind,
            asked: false,
            cleanup: None,
            _probe: None,
        };
        self.active.insert(run, active);
        self.handle(Input::Started(run));
    }

    fn signal(&mut self, run: Run, signal: Signal) {
        let hurried = self.hurried;
        let Some(active) = self.active.get_mut(&run) else {
            return;
        };
        active.asked = true;
        match &mut active.kind {
            Kind::Checking { .. } => {
                let how = Ended::NotStarted;
                self.handle(Input::Ended { run, how });
            }
            Kind::Cleaning { hurry, .. } => {
                let kill = hurried || signal.0 == libc::SIGKILL;
                hurry.send_if_modified(|now| !std::mem::replace(now, kill) && kill);
            }
            Kind::Process if hurried => self.processes.signal(run, Signal(libc::SIGKILL)),
            Kind::Process => self.processes.signal(run, signal),
            Kind::Inside { task, .. } if signal.0 == libc::SIGKILL => {
                // Aborted: it will tell nobody.
                drop(task.take());
                let how = Ended::Signal(signal);
                self.handle(Input::Ended { run, how });
            }
            Kind::Inside { stop, .. } => {
                // Without a receiver it has ended already.
                let _ = stop.send(true);
            }
        }
    }

    /// Look whether a run is ready, from now on and for as long as it lasts.
    fn watch(&self, run: Run, child: &Name, ready: Ready) -> Option<Task> {
        if ready == Ready::AtOnce {
            return None;
        }
        let world = (self.net.clone(), self.clock.clone(), self.spawn.clone());
        let (told, child) = (self.told.0.clone(), child.clone());
        let looking = readiness::keep_looking(run, child, ready, world, told);
        Some(self.spawn.spawn("readiness", looking))
    }

    /// Let others see how it stands.
    fn show(&self) {
        let pid_of = |name: &str| {
            let mut runs = self.active.values().rev();
            runs.find(|active| active.child.as_str() == name)?.pid
        };
        let views = self.supervisor.views().into_iter();
        let problem_of = |view: &supervise::ChildView| {
            let lasts = !matches!(view.state, State::Ready | State::Done);
            let mut problems = self.problems.iter().filter(|_| lasts);
            let found = problems.find(|(name, _)| name.as_str() == view.name);
            found.map(|(_, why)| why.clone())
        };
        let children: Vec<ChildStatus> = views
            .map(|view| ChildStatus {
                problem: problem_of(&view),
                pid: pid_of(&view.name),
                state: name_of(&view.state),
                name: view.name,
                restarts: view.restarts,
                last_end: view.last_end,
            })
            .collect();
        self.status.update(|status| status.children = children);
    }
}

fn parts(children: Vec<Supervised>) -> (Vec<supervise::Child>, BTreeMap<Name, Job>) {
    let mut jobs = BTreeMap::new();
    let mut machine = Vec::new();
    for Supervised { child, job } in children {
        jobs.insert(child.name.clone(), job);
        machine.push(child);
    }
    (machine, jobs)
}

fn log(child: &Name, state: State, why: &str) {
    let name = name_of(&state);
    match state {
        State::Backoff => tracing::warn!(%child, state = name, "{why}"),
        State::Failed => tracing::error!(%child, state = name, "{why}"),
        _ => tracing::info!(%child, state = name, "{why}"),
    }
}
