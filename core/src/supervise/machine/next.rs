//! What follows from it all.

use std::time::Instant;

use super::member::{Member, Phase, Then};
use super::{Shutdown, Supervisor};
use crate::supervise::{Output, Run};

impl Supervisor {
    /// Start whoever has waited long enough; at the end, stop the next.
    pub(super) fn go_on(&mut self, now: Instant) {
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

    pub(super) fn may_start(&self, nth: usize) -> bool {
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

    pub(super) fn spawn(&mut self, nth: usize) {
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
    pub(super) fn stop_next(&mut self, now: Instant) {
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

    pub(super) fn wait(&mut self, nth: usize) {
        self.children[nth].phase = Phase::Waiting;
        self.changed(nth, "waiting".into());
    }

    pub(super) fn changed(&mut self, nth: usize, why: String) {
        let member = &self.children[nth];
        self.outputs.push_back(Output::Changed {
            child: member.child.name.clone(),
            state: member.state(),
            why,
        });
    }
}
