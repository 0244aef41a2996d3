//! The machine that starts, restarts and ends children.

mod asked;
mod member;
mod next;
mod runs;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::{Child, ChildView, ConfigError, Input, KILL, Name, Output, Run, check};
use crate::time::Now;
use member::{Member, Phase};

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
}
