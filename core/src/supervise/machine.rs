//! The machine that starts, restarts and ends children.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::{
    Child, ChildView, ConfigError, Ended, Input, KILL, Name, Output, Run, Signal, State, check,
};
use crate::time::Now;

/// Decides when which child runs.
///
/// Outputs are to be worked off in their order. Every [`Output::Spawn`] is answered by
/// [`Input::Ended`] once, at the latest after [`KILL`].
#[derive(Clone, Debug)]
pub struct Supervisor {
    children: Vec<Member>,
    externals: BTreeMap<Name, bool>,
    runs: u64,
    /// Counts readiness: the order in which children became ready.
    readied: u64,
    shutdown: Shutdown,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shutdown {
    No,
    Going,
    Done,
}

/// One child, with its history.
#[derive(Clone, Debug)]
struct Member {
    child: Child,
    phase: Phase,
    spawns: u32,
    /// When it was restarted within the window.
    recent: VecDeque<Instant>,
    /// Ends in a row.
    failures: u32,
    /// The place of its latest readiness among all; 0: never.
    readied: u64,
    last_end: Option<Ended>,
}

#[derive(Clone, Debug)]
enum Phase {
    Waiting,
    Running {
        run: Run,
        started: bool,
        ready_since: Option<Instant>,
    },
    Stopping {
        run: Run,
        started: bool,
        /// `None`: not signalled yet, or killed.
        kill_at: Option<Instant>,
        then: Then,
    },
    Resting {
        until: Instant,
        failed: bool,
    },
    Done,
}

/// What follows when a child that was asked to end has ended.
#[derive(Clone, Debug)]
enum Then {
    Start,
    /// Start as it is defined now.
    Replace(Box<Child>),
    Remove,
    Stay,
}

impl Supervisor {
    /// All children wait; those that wait for nothing are spawned.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] that names the child.
    pub fn new(children: Vec<Child>, now: Now) -> Result<Supervisor, ConfigError> {
        Supervisor::with_externals(children, Vec::new(), now)
    }

    /// As [`Supervisor::new`]. `externals` are names that children may wait for and that are not
    /// ready yet, see [`Input::External`].
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] that names the child.
    pub fn with_externals(
        children: Vec<Child>,
        externals: Vec<Name>,
        now: Now,
    ) -> Result<Supervisor, ConfigError> {
        check(&children, &externals)?;
        let mut supervisor = Supervisor {
            children: children.into_iter().map(Member::new).collect(),
            externals: externals.into_iter().map(|name| (name, false)).collect(),
            runs: 0,
            readied: 0,
            shutdown: Shutdown::No,
            outputs: VecDeque::new(),
        };
        supervisor.go_on(now.mono);
        Ok(supervisor)
    }

    /// Every child, in the order of the configuration.
    #[must_use]
    pub fn views(&self) -> Vec<ChildView> {
        let views = self.children.iter().map(|member| ChildView {
            name: member.child.name.as_str().to_owned(),
            state: member.state(),
            restarts: member.spawns.saturating_sub(1),
            last_end: member.last_end.map(|how| how.to_string()),
        });
        views.collect()
    }

    /// The run of this child that exists or is being started.
    #[must_use]
    pub fn run_of(&self, child: &Name) -> Option<Run> {
        let member = self.children.iter().find(|m| m.child.name == *child)?;
        member.run()
    }

    /// When to wake, and why.
    #[must_use]
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        let deadlines = self
            .children
            .iter()
            .filter_map(|member| match member.phase {
                Phase::Stopping {
                    kill_at: Some(at), ..
                } => Some((at, "a child has not ended in time")),
                Phase::Resting {
                    until,
                    failed: false,
                } => Some((until, "a child starts again")),
                Phase::Resting {
                    until,
                    failed: true,
                } => Some((until, "a child that failed has rested")),
                _ => None,
            });
        deadlines.min_by_key(|(at, _)| *at)
    }

    /// What to do, or to know.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Time passed.
    pub fn handle_deadline(&mut self, now: Now) {
        let now = now.mono;
        for nth in 0..self.children.len() {
            match &mut self.children[nth].phase {
                Phase::Stopping { run, kill_at, .. } if kill_at.is_some_and(|at| now >= at) => {
                    *kill_at = None;
                    let (run, signal) = (*run, KILL);
                    self.outputs.push_back(Output::Signal { run, signal });
                    let why = "killed: it did not end in time";
                    self.changed(nth, why.into());
                }
                Phase::Resting { until, .. } if now >= *until => self.wait(nth),
                _ => {}
            }
        }
        self.go_on(now);
    }

    /// Something happened.
    pub fn handle(&mut self, now: Now, input: Input) {
        let now = now.mono;
        match input {
            Input::Started(run) => self.started(now, run),
            Input::Ready(run) => {
                self.started(now, run);
                self.ready(now, run);
            }
            Input::Unready(run) => self.unready(run),
            Input::Ended { run, how } => self.ended(now, run, how),
            Input::External { name, ready } => {
                if let Some(known) = self.externals.get_mut(&name) {
                    *known = ready;
                }
            }
            Input::Reload(children) => self.reload(now, children),
            Input::Restart(name) => self.restart(now, &name),
            Input::Shutdown => self.shut_down(),
        }
        self.go_on(now);
    }

    // ---- What a run does ----

    fn find(&self, run: Run) -> Option<usize> {
        let mut members = self.children.iter();
        members.position(|member| member.run() == Some(run))
    }

    fn started(&mut self, now: Instant, run: Run) {
        let Some(nth) = self.find(run) else { return };
        let member = &mut self.children[nth];
        match &mut member.phase {
            Phase::Running { started, .. } if !*started => {
                *started = true;
                if member.child.ready_at_once {
                    self.ready(now, run);
                }
            }
            // It was not wanted any more before it was there.
            Phase::Stopping { started, .. } if !*started => {
                *started = true;
                self.signal(now, nth);
            }
            _ => {}
        }
    }

    fn ready(&mut self, now: Instant, run: Run) {
        let Some(nth) = self.find(run) else { return };
        let member = &mut self.children[nth];
        if let Phase::Running { ready_since, .. } = &mut member.phase
            && ready_since.is_none()
            && !member.child.one_shot
        {
            *ready_since = Some(now);
            self.readied += 1;
            member.readied = self.readied;
            self.changed(nth, "ready".into());
        }
    }

    fn unready(&mut self, run: Run) {
        let Some(nth) = self.find(run) else { return };
        if let Phase::Running { ready_since, .. } = &mut self.children[nth].phase
            && ready_since.take().is_some()
        {
            self.changed(nth, "not ready any more".into());
        }
    }

    fn ended(&mut self, now: Instant, run: Run, how: Ended) {
        let Some(nth) = self.find(run) else { return };
        let member = &mut self.children[nth];
        member.last_end = Some(how);
        let before = std::mem::replace(&mut member.phase, Phase::Waiting);
        match before {
            Phase::Stopping { then, .. } => self.stopped(nth, then, how),
            _ if member.child.one_shot && how == Ended::Code(0) => {
                member.phase = Phase::Done;
                self.readied += 1;
                member.readied = self.readied;
                self.changed(nth, "done".into());
            }
            _ if self.shutdown != Shutdown::No => {
                member.phase = Phase::Done;
                self.changed(nth, how.to_string());
            }
            Phase::Running { ready_since, .. } => self.failed(now, nth, how, ready_since),
            _ => {}
        }
    }

    /// It ended, and nobody had asked it to.
    fn failed(&mut self, now: Instant, nth: usize, how: Ended, ready_since: Option<Instant>) {
        let member = &mut self.children[nth];
        let window = member.child.window;
        if ready_since.is_some_and(|since| now >= since + window) {
            member.failures = 0;
        }
        member.recent.retain(|at| now < *at + window);
        let failed = member.recent.len() >= member.child.max_restarts as usize;
        let (wait, why) = if failed {
            // After the rest it has all its tries again.
            member.recent.clear();
            member.failures = 0;
            let most = member.child.max_restarts;
            let why = format!("{how}, after more than {most} restarts in {window:?}");
            (window, why)
        } else {
            member.recent.push_back(now);
            let wait = member.backoff();
            member.failures = member.failures.saturating_add(1);
            (wait, format!("{how}; again in {wait:?}"))
        };
        let until = now + wait;
        member.phase = Phase::Resting { until, failed };
        self.changed(nth, why);
    }

    /// It ended because it was asked to.
    fn stopped(&mut self, nth: usize, then: Then, how: Ended) {
        match then {
            _ if self.shutdown != Shutdown::No => {
                self.children[nth].phase = Phase::Done;
                self.changed(nth, how.to_string());
            }
            Then::Start => self.wait(nth),
            Then::Replace(child) => {
                let member = &mut self.children[nth];
                member.redefine(*child);
                self.wait(nth);
            }
            Then::Remove => {
                self.children[nth].phase = Phase::Done;
                self.changed(nth, "removed".into());
                self.children.remove(nth);
            }
            Then::Stay => self.children[nth].phase = Phase::Done,
        }
    }

    // ---- What somebody asks for ----

    fn reload(&mut self, now: Instant, children: Vec<Child>) {
        if self.shutdown != Shutdown::No {
            return;
        }
        let externals: Vec<Name> = self.externals.keys().cloned().collect();
        if let Err(error) = check(&children, &externals) {
            return self.outputs.push_back(Output::Refused(error));
        }
        let listed = |member: &Member| children.iter().any(|c| c.name == member.child.name);
        for nth in (0..self.children.len()).rev() {
            if !listed(&self.children[nth]) {
                self.remove(now, nth);
            }
        }
        let order: Vec<Name> = children.iter().map(|child| child.name.clone()).collect();
        for child in children {
            let mut members = self.children.iter();
            match members.position(|member| member.child.name == child.name) {
                Some(nth) => self.redefine(now, nth, child),
                None => self.children.push(Member::new(child)),
            }
        }
        let place = |name: &Name| order.iter().position(|other| other == name);
        let place = |name: &Name| place(name).unwrap_or(usize::MAX);
        self.children
            .sort_by_key(|member| place(&member.child.name));
    }

    fn remove(&mut self, now: Instant, nth: usize) {
        if self.children[nth].run().is_some() {
            self.stop(now, nth, Then::Remove, "removed");
        } else {
            self.children[nth].phase = Phase::Done;
            self.changed(nth, "removed".into());
            self.children.remove(nth);
        }
    }

    fn redefine(&mut self, now: Instant, nth: usize, child: Child) {
        let member = &mut self.children[nth];
        if let Phase::Stopping { then, .. } = &mut member.phase {
            // Whatever was to follow: it is this now. What it is asked to end with stays.
            *then = Then::Replace(Box::new(child));
            return;
        }
        if member.child.is_same_process(&child) {
            member.child = child;
        } else if member.run().is_some() {
            self.stop(
                now,
                nth,
                Then::Replace(Box::new(child)),
                "its definition changed",
            );
        } else {
            member.redefine(child);
            self.wait(nth);
        }
    }

    fn restart(&mut self, now: Instant, name: &Name) {
        let mut members = self.children.iter();
        let Some(nth) = members.position(|member| member.child.name == *name) else {
            return;
        };
        if self.shutdown != Shutdown::No {
            return;
        }
        match self.children[nth].phase {
            Phase::Running { .. } => self.stop(now, nth, Then::Start, "a restart was asked for"),
            Phase::Resting { .. } | Phase::Done => {
                let member = &mut self.children[nth];
                member.recent.clear();
                member.failures = 0;
                self.wait(nth);
            }
            Phase::Waiting | Phase::Stopping { .. } => {}
        }
    }

    fn shut_down(&mut self) {
        if self.shutdown != Shutdown::No {
            return;
        }
        self.shutdown = Shutdown::Going;
        for nth in 0..self.children.len() {
            if matches!(
                self.children[nth].phase,
                Phase::Waiting | Phase::Resting { .. }
            ) {
                self.children[nth].phase = Phase::Done;
                self.changed(nth, "shutdown".into());
            }
        }
    }

    /// Ask a run to end. What it is told is what its definition says, and not that of its
    /// successor.
    fn stop(&mut self, now: Instant, nth: usize, then: Then, why: &str) {
        let Phase::Running { run, started, .. } = self.children[nth].phase else {
            return;
        };
        self.children[nth].phase = Phase::Stopping {
            run,
            started,
            kill_at: None,
            then,
        };
        if started {
            self.signal(now, nth);
        }
        self.changed(nth, why.into());
    }

    /// Send the signal that asks to end, and set the deadline.
    fn signal(&mut self, now: Instant, nth: usize) {
        let member = &mut self.children[nth];
        if let Phase::Stopping { run, kill_at, .. } = &mut member.phase {
            let (run, signal): (Run, Signal) = (*run, member.child.stop_signal);
            *kill_at = Some(now + member.child.stop_deadline);
            self.outputs.push_back(Output::Signal { run, signal });
        }
    }

    // ---- What follows ----

    /// Start whoever has waited long enough; at the end, stop the next.
    fn go_on(&mut self, now: Instant) {
        match self.shutdown {
            Shutdown::No => {
                for nth in 0..self.children.len() {
                    let waits = matches!(self.children[nth].phase, Phase::Waiting);
                    if waits && self.may_start(nth) {
                        self.spawn(nth);
                    }
                }
            }
            Shutdown::Going => self.stop_next(now),
            Shutdown::Done => {}
        }
    }

    fn may_start(&self, nth: usize) -> bool {
        let after = self.children[nth].child.after.iter();
        after
            .into_iter()
            .all(|name| match self.externals.get(name) {
                Some(ready) => *ready,
                None => self
                    .children
                    .iter()
                    .any(|m| m.child.name == *name && m.is_ready()),
            })
    }

    fn spawn(&mut self, nth: usize) {
        self.runs += 1;
        let run = Run(self.runs);
        let member = &mut self.children[nth];
        member.spawns = member.spawns.saturating_add(1);
        member.phase = Phase::Running {
            run,
            started: false,
            ready_since: None,
        };
        let child = member.child.name.clone();
        self.outputs.push_back(Output::Spawn { child, run });
        self.changed(nth, "starting".into());
    }

    /// One after the other, whoever was ready last first; before them who never was, the latest
    /// run first.
    fn stop_next(&mut self, now: Instant) {
        let stopping = |member: &Member| matches!(member.phase, Phase::Stopping { .. });
        if self.children.iter().any(stopping) {
            return;
        }
        let running = self.children.iter().enumerate();
        let running = running.filter(|(_, member)| member.run().is_some());
        let next = running.max_by_key(|(_, member)| {
            let was_ready = member.readied > 0;
            (!was_ready, member.readied, member.run())
        });
        match next.map(|(nth, _)| nth) {
            Some(nth) => self.stop(now, nth, Then::Stay, "shutdown"),
            None => {
                self.shutdown = Shutdown::Done;
                self.outputs.push_back(Output::Done);
            }
        }
    }

    fn wait(&mut self, nth: usize) {
        self.children[nth].phase = Phase::Waiting;
        self.changed(nth, "waiting".into());
    }

    fn changed(&mut self, nth: usize, why: String) {
        let member = &self.children[nth];
        self.outputs.push_back(Output::Changed {
            child: member.child.name.clone(),
            state: member.state(),
            why,
        });
    }
}

impl Child {
    /// Whether a process of the one would do as a process of the other.
    fn is_same_process(&self, other: &Child) -> bool {
        let kind = |child: &Child| (child.digest, child.one_shot, child.ready_at_once);
        kind(self) == kind(other)
    }
}

impl Member {
    fn new(child: Child) -> Member {
        Member {
            child,
            phase: Phase::Waiting,
            spawns: 0,
            recent: VecDeque::new(),
            failures: 0,
            readied: 0,
            last_end: None,
        }
    }

    /// Another definition starts without the history of the one before.
    fn redefine(&mut self, child: Child) {
        self.child = child;
        self.recent.clear();
        self.failures = 0;
    }

    fn run(&self) -> Option<Run> {
        match self.phase {
            Phase::Running { run, .. } | Phase::Stopping { run, .. } => Some(run),
            Phase::Waiting | Phase::Resting { .. } | Phase::Done => None,
        }
    }

    /// Whether those that wait for it may start.
    fn is_ready(&self) -> bool {
        match self.phase {
            Phase::Running { ready_since, .. } => ready_since.is_some(),
            Phase::Done => self.child.one_shot,
            Phase::Waiting | Phase::Stopping { .. } | Phase::Resting { .. } => false,
        }
    }

    fn state(&self) -> State {
        match self.phase {
            Phase::Waiting => State::Waiting,
            Phase::Running {
                ready_since: None, ..
            } => State::Starting,
            Phase::Running { .. } => State::Ready,
            Phase::Stopping { .. } => State::Stopping,
            Phase::Resting { failed: false, .. } => State::Backoff,
            Phase::Resting { failed: true, .. } => State::Failed,
            Phase::Done => State::Done,
        }
    }

    fn backoff(&self) -> Duration {
        let factor = 1u32 << self.failures.min(30);
        let wait = self.child.backoff_first.checked_mul(factor);
        wait.map_or(self.child.backoff_last, |wait| {
            wait.min(self.child.backoff_last)
        })
    }
}
