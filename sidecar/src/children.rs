//! Drives [`Supervisor`]: starts, signals and watches what it says, and tells it what happened.
//!
//! A child is a process, or a part of this one ([`Inside`]): the mesh is a child like any other,
//! so that order, restarts and shutdown are decided in one place.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use holdfast_core::supervise::{self, Ended, Input, Name, Output, Run, Signal, State, Supervisor};
use holdfast_io::clock::Clock;
use holdfast_io::http::Stop;
use holdfast_io::net::Net;
use holdfast_io::spawn::{Spawn, Task};
use tokio::sync::{mpsc, watch};

use crate::options::{Child, Ready};
use crate::probe;
use crate::processes::{Processes, Spec};
use crate::status::{ChildStatus, Shared, name_of};

/// First and longest pause between looks at a child that is not ready.
const LOOK_FIRST: Duration = Duration::from_millis(50);
const LOOK_LAST: Duration = Duration::from_secs(1);
/// Pause between looks at one that is.
const LOOK_READY: Duration = Duration::from_secs(5);
/// So many looks in a row have to fail before a child is no longer ready: one may meet a pause.
const LOOKS_FAILED: u32 = 3;
/// Not ready for so long is worth a word in the log, and again every time it has doubled.
const LOOK_TELL: Duration = Duration::from_secs(10);
/// What parts of this process have to say at one time.
const TOLD_MAX: usize = 256;

/// A part of this process that is run like a child.
///
/// The future ends when the part does, with an exit code; `ready` says that it does what it is
/// there for; the stop asks it to end.
pub type Inside = Rc<dyn Fn(Stop, ReadyNow) -> Pin<Box<dyn Future<Output = i32>>>>;

/// Says that a part of this process is ready.
pub struct ReadyNow {
    run: Run,
    told: mpsc::Sender<Input>,
}

impl ReadyNow {
    /// It is.
    pub async fn tell(self) {
        // Without a receiver everything has ended already.
        let _ = self.told.send(Input::Ready(self.run)).await;
    }
}

/// What runs.
#[derive(Clone)]
pub enum Job {
    /// A process.
    Process {
        /// How it is started.
        spec: Spec,
        /// When it is ready.
        ready: Ready,
    },
    /// A part of this process.
    Inside(Inside),
}

/// A child as the driver needs it.
#[derive(Clone)]
pub struct Supervised {
    /// What the machine needs to know.
    pub child: supervise::Child,
    /// What runs.
    pub job: Job,
}

impl From<&Child> for Supervised {
    fn from(child: &Child) -> Supervised {
        let spec = Spec::from(child);
        let definition = format!("{spec:?} {:?} {}", child.ready, child.one_shot);
        Supervised {
            child: supervise::Child {
                name: child.name.clone(),
                after: child.after.clone(),
                ready_at_once: child.ready == Ready::AtOnce,
                one_shot: child.one_shot,
                digest: digest(definition.as_bytes()),
                stop_signal: child.stop_signal,
                stop_deadline: child.stop_deadline,
                backoff_first: child.backoff_first,
                backoff_last: child.backoff_last,
                max_restarts: child.max_restarts,
                window: child.window,
            },
            job: Job::Process {
                spec,
                ready: child.ready.clone(),
            },
        }
    }
}

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

/// A run that has not ended.
struct Active {
    child: Name,
    pid: Option<u32>,
    kind: Kind,
    /// Looks whether it is ready.
    _probe: Option<Task>,
}

enum Kind {
    Process,
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
    told: (mpsc::Sender<Input>, mpsc::Receiver<Input>),
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
                (run, how) = self.processes.ended() => self.handle(Input::Ended { run, how }),
                Some(input) = self.told.1.recv() => self.handle(input),
                () = timer => {
                    let now = self.clock.now();
                    // A timer may fire a moment early: the machine has to see it reached.
                    let late = deadline.map_or(Duration::ZERO, |at| at.saturating_duration_since(now.mono));
                    self.supervisor.handle_deadline(now.plus(late));
                }
            }
        }
    }

    fn handle(&mut self, input: Input) {
        match &input {
            // What was sent before its run ended.
            Input::Ready(run) | Input::Unready(run) if !self.active.contains_key(run) => return,
            Input::Ended { run, .. } => {
                self.active.remove(run);
            }
            _ => {}
        }
        self.supervisor.handle(self.clock.now(), input);
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
                for (run, active) in &self.active {
                    if matches!(active.kind, Kind::Process) {
                        self.processes.signal(*run, Signal(libc::SIGKILL));
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
            None => {
                tracing::error!(%child, "there is nothing to start");
                let how = Ended::NotStarted;
                self.handle(Input::Ended { run, how });
            }
            Some(Job::Process { spec, ready }) => match self.processes.spawn(run, &spec) {
                Ok(pid) => {
                    tracing::info!(%child, pid, "started");
                    let active = Active {
                        child,
                        pid: Some(pid),
                        kind: Kind::Process,
                        _probe: self.watch(run, &spec.name, ready),
                    };
                    self.active.insert(run, active);
                    self.handle(Input::Started(run));
                }
                Err(error) => {
                    tracing::error!(%child, %error, "cannot be started");
                    let how = Ended::NotStarted;
                    self.handle(Input::Ended { run, how });
                }
            },
            Some(Job::Inside(inside)) => self.start_inside(child, run, &inside),
        }
    }

    fn start_inside(&mut self, child: Name, run: Run, inside: &Inside) {
        let (switch, stop) = Stop::new();
        let told = self.told.0.clone();
        let ready = ReadyNow {
            run,
            told: told.clone(),
        };
        let future = inside(stop, ready);
        let task = self.spawn.spawn("part of the sidecar", async move {
            let how = Ended::Code(future.await);
            // Without a receiver everything has ended already.
            let _ = told.send(Input::Ended { run, how }).await;
        });
        let kind = Kind::Inside {
            stop: switch,
            task: Some(task),
        };
        let active = Active {
            child,
            pid: None,
            kind,
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
        match &mut active.kind {
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
        let (net, clock, spawn) = (self.net.clone(), self.clock.clone(), self.spawn.clone());
        let (told, child) = (self.told.0.clone(), child.clone());
        Some(self.spawn.spawn("readiness", async move {
            let world = (&net, &clock, &spawn);
            loop {
                until_ready(&child, &ready, world).await;
                let _ = told.send(Input::Ready(run)).await;
                let why = until_unready(&ready, world).await;
                tracing::warn!(%child, "no longer ready: {why}");
                let _ = told.send(Input::Unready(run)).await;
            }
        }))
    }

    /// Let others see how it stands.
    fn show(&self) {
        let pid_of = |name: &str| {
            let mut runs = self.active.values().rev();
            runs.find(|active| active.child.as_str() == name)?.pid
        };
        let views = self.supervisor.views().into_iter();
        let children: Vec<ChildStatus> = views
            .map(|view| ChildStatus {
                pid: pid_of(&view.name),
                state: name_of(&view.state),
                name: view.name,
                restarts: view.restarts,
                last_end: view.last_end,
                problem: None,
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

async fn until_ready<N: Net, C: Clock, S: Spawn>(child: &Name, ready: &Ready, world: (&N, &C, &S)) {
    let clock = world.1;
    let since = clock.now().mono;
    let (mut pause, mut tell) = (LOOK_FIRST, LOOK_TELL);
    while let Err(why) = probe::look(ready, world).await {
        let waited = clock.now().mono.saturating_duration_since(since);
        if waited >= tell {
            tracing::info!(%child, waited_s = waited.as_secs(), "not ready yet: {why}");
            tell = waited * 2;
        }
        clock.sleep(pause).await;
        pause = (pause * 2).min(LOOK_LAST);
    }
}

async fn until_unready<N: Net, C: Clock, S: Spawn>(ready: &Ready, world: (&N, &C, &S)) -> String {
    let mut failed = 0;
    loop {
        let pause = match failed {
            0 => LOOK_READY,
            _ => LOOK_LAST,
        };
        world.1.sleep(pause).await;
        match probe::look(ready, world).await {
            Ok(()) => failed = 0,
            Err(why) => {
                failed += 1;
                if failed >= LOOKS_FAILED {
                    return why;
                }
            }
        }
    }
}

fn log(child: &Name, state: State, why: &str) {
    let name = name_of(&state);
    match state {
        State::Backoff => tracing::warn!(%child, state = name, "{why}"),
        State::Failed => tracing::error!(%child, state = name, "{why}"),
        _ => tracing::info!(%child, state = name, "{why}"),
    }
}
