//! What somebody asks for.

use std::time::Instant;

use super::member::{Member, Phase, Then};
use super::{Shutdown, Supervisor};
use crate::supervise::{Child, Name, Output, Run, Signal, check};

impl Supervisor {
    pub(super) fn reload(&mut self, now: Instant, children: Vec<Child>) {
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

    pub(super) fn remove(&mut self, now: Instant, nth: usize) {
        if let Phase::Stopping { then, .. } = &mut self.children[nth].phase {
            // Whatever was to follow.
            *then = Then::Remove;
        } else if self.children[nth].run().is_some() {
            self.stop(now, nth, Then::Remove, "removed");
        } else {
            self.children[nth].phase = Phase::Done;
            self.changed(nth, "removed".into());
            self.children.remove(nth);
        }
    }

    pub(super) fn redefine(&mut self, now: Instant, nth: usize, child: Child) {
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

    pub(super) fn restart(&mut self, now: Instant, name: &Name) {
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

    pub(super) fn shut_down(&mut self) {
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
    pub(super) fn stop(&mut self, now: Instant, nth: usize, then: Then, why: &str) {
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
    pub(super) fn signal(&mut self, now: Instant, nth: usize) {
        let member = &mut self.children[nth];
        if let Phase::Stopping { run, kill_at, .. } = &mut member.phase {
            let (run, signal): (Run, Signal) = (*run, member.child.stop_signal);
            *kill_at = Some(now + member.child.stop_deadline);
            self.outputs.push_back(Output::Signal { run, signal });
        }
    }
}
