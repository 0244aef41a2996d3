//! The end of a claim: lost, or given back.

use std::time::Instant;

use super::super::{Event, Loss, Output, State};
use super::{Asked, RETIRE_PATIENCE, Slots};
use crate::kv::{Condition, Request};

impl Slots {
    pub(super) fn lose(&mut self, why: Loss) {
        let Some(hold) = self.hold.take() else {
            return;
        };
        self.end(State::Lost);
        let slot = hold.slot;
        self.tell(Event::Lost { slot, why });
    }

    pub(super) fn retire(&mut self, now: Instant) {
        if self.retiring.is_some() {
            return;
        }
        let written = self.hold.as_ref().is_some_and(|hold| hold.sent.is_some());
        let written = written || self.pending.is_some();
        let slot = self.hold.as_ref().map(|hold| hold.slot);
        let slot = slot.or(self.pending.as_ref().map(|pending| pending.slot));
        let Some(slot) = slot.filter(|_| written) else {
            return self.retired();
        };
        self.retiring = Some((now + RETIRE_PATIENCE, slot));
        self.failures = 0;
        // A compare-and-set on its way is waited for: what it did is to be undone.
        if !matches!(self.call, Some((_, Asked::Put))) {
            self.look(None);
        }
    }

    /// Delete what this run has written.
    pub(super) fn give_back(&mut self) {
        let own = self.table.iter().find(|(_, seen)| {
            let beat = seen.beat_of(&self.config.instance, &self.run);
            beat.is_some()
        });
        let Some((slot, index)) = own.map(|(slot, seen)| (slot, seen.index)) else {
            return self.retired();
        };
        let request = Request::Delete {
            key: self.config.key(slot),
            condition: Condition::Unchanged(index),
        };
        self.call = Some((self.ask(request), Asked::Delete(slot)));
    }

    pub(super) fn retired(&mut self) {
        let hold = self.hold.take().map(|hold| hold.slot);
        let slot = hold.or(self.retiring.map(|(_, slot)| slot));
        self.end(State::Retired);
        if let Some(slot) = slot {
            self.tell(Event::Retired { slot });
        }
    }

    pub(super) fn end(&mut self, state: State) {
        self.ended = Some(state);
        (self.call, self.pending, self.wake) = (None, None, None);
        // What was not asked yet is not asked any more.
        self.outputs
            .retain(|output| matches!(output, Output::Event(_)));
    }
}
