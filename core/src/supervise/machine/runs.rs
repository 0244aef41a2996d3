//! What a run does.

use std::time::Instant;

use super::member::{Phase, Then};
use super::{Shutdown, Supervisor};
use crate::supervise::{Ended, Run};

impl Supervisor {
    pub(super) fn find(&self, run: Run) -> Option<usize> {
        let mut members = self.children.iter();
        members.position(|member| member.run() == Some(run))
    }

    pub(super) fn started(&mut self, now: Instant, run: Run) {
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

    pub(super) fn ready(&mut self, now: Instant, run: Run) {
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

    pub(super) fn unready(&mut self, run: Run) {
        let Some(nth) = self.find(run) else { return };
        if let Phase::Running { ready_since, .. } = &mut self.children[nth].phase
            && ready_since.take().is_some()
        {
            self.changed(nth, "not ready any more".into());
        }
    }

    pub(super) fn ended(&mut self, now: Instant, run: Run, how: Ended) {
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
    pub(super) fn failed(
        &mut self,
        now: Instant,
        nth: usize,
        how: Ended,
        ready_since: Option<Instant>,
    ) {
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
    pub(super) fn stopped(&mut self, nth: usize, then: Then, how: Ended) {
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
}
