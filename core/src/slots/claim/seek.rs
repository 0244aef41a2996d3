//! From nothing to a slot.

use std::time::Instant;

use super::super::table::Seen;
use super::super::{Obstacle, Slot};
use super::{RACES_MAX, Slots, UNINDEXED_GAP, WATCH_GAP, WATCH_MAX, Why};
use crate::kv::{Condition, Entry, Wait};

impl Slots {
    pub(super) fn listed(&mut self, now: Instant, index: u64, entries: &[Entry]) {
        self.failures = 0;
        // The KV answers: that it did not is worth telling again. That all slots are taken is
        // not, while they are.
        if !matches!(self.told, Some(Obstacle::AllTaken(_))) {
            self.told = None;
        }
        self.table.update(&self.config, now, index, entries);
        self.decide(now);
    }

    /// Act on what we know. Nothing is on its way.
    pub(super) fn decide(&mut self, now: Instant) {
        self.wake = None;
        if self.retiring.is_some() {
            self.give_back();
        } else if let Some(slot) = self.hold.as_ref().map(|hold| hold.slot) {
            self.keep(now, slot);
        } else if !self.settle_claim(now) {
            self.seek(now);
        }
    }

    /// What became of a claim. True: something was done about it.
    pub(super) fn settle_claim(&mut self, now: Instant) -> bool {
        let Some(pending) = &self.pending else {
            return false;
        };
        let (slot, condition, rejoined) = (pending.slot, pending.condition, pending.rejoined);
        let sent = self.sending_that_shows(slot);
        if sent.is_some_and(|sent| now < sent + self.config.life()) {
            self.own(sent);
            return true;
        }
        if self.holds(slot, condition) && self.pending.as_ref().is_some_and(|p| p.unsure) {
            // It may yet happen. Set it once more: whichever of them comes first makes the
            // others fail.
            self.put(now, slot, condition, rejoined);
            return true;
        }
        if !self.is_own(slot) {
            // The request is harmless, or becomes a stray entry when the slot is deleted later.
            mark!("slots/race-lost");
            self.races = (self.races + 1).min(RACES_MAX);
        }
        self.pending = None;
        false
    }

    /// When the compare-and-set was sent that made the entry as it is, if one of ours did.
    pub(super) fn sending_that_shows(&self, slot: Slot) -> Option<Instant> {
        let seen = self.table.get(slot)?;
        let beat = seen.beat_of(&self.config.instance, &self.run)?;
        let mut attempts = self.pending.as_ref()?.attempts.iter();
        attempts.find(|a| a.beat == beat).map(|a| a.sent)
    }

    /// Whether a compare-and-set under this condition could succeed, as far as we know.
    pub(super) fn holds(&self, slot: Slot, condition: Condition) -> bool {
        let index = self.table.get(slot).map(|seen| seen.index);
        match condition {
            Condition::Any => true,
            Condition::Absent => index.is_none(),
            Condition::Unchanged(expected) => index == Some(expected),
        }
    }

    pub(super) fn is_own(&self, slot: Slot) -> bool {
        let seen = self.table.get(slot);
        seen.is_some_and(|seen| seen.is_of(&self.config.instance))
    }

    /// Claim one's own slot, or a free one, or wait for one.
    pub(super) fn seek(&mut self, now: Instant) {
        if let Some((slot, seen)) = self.own_entry() {
            let condition = Condition::Unchanged(seen.index);
            let before = seen.beat_of(&self.config.instance, &self.run).is_none();
            return self.put(now, slot, condition, before);
        }
        let free = self.free(now);
        if !free.is_empty() {
            // Who lost r races takes a random one of the lowest 2^r.
            let choice = free.len().min(1 << self.races);
            let nth = match choice {
                1 => 0,
                _ => usize::try_from(self.draw(choice as u64)).unwrap_or(0),
            };
            let (slot, condition) = free[nth];
            return self.put(now, slot, condition, false);
        }
        self.hindered(Obstacle::AllTaken(self.config.slots.len()));
        let over = self.table.iter().map(|(_, seen)| seen);
        let over = over.filter_map(|seen| seen.over_at(self.config.drift_per_mille));
        self.watch(now, over.min());
    }

    /// The entry of our own instance; of several that of the latest beat, since the others are
    /// late compare-and-sets.
    pub(super) fn own_entry(&self) -> Option<(Slot, &Seen)> {
        let own = self.table.iter();
        let own = own.filter(|(_, seen)| seen.is_of(&self.config.instance));
        own.max_by_key(|(_, seen)| (seen.beat(), seen.index))
    }

    /// Slots without an owner, ascending, and what they may be set under.
    pub(super) fn free(&self, now: Instant) -> Vec<(Slot, Condition)> {
        let slots = self.config.slots.iter();
        let free = slots.filter_map(|slot| match self.table.get(*slot) {
            None => Some((*slot, Condition::Absent)),
            Some(seen) => {
                let over = seen.over_at(self.config.drift_per_mille)?;
                (now >= over).then_some((*slot, Condition::Unchanged(seen.index)))
            }
        });
        free.collect()
    }

    /// Read again when something changes, or at that time.
    pub(super) fn watch(&mut self, now: Instant, over: Option<Instant>) {
        if self.table.index == 0 {
            self.wake = Some((now + UNINDEXED_GAP, Why::Again));
            return;
        }
        let next = self.watched_at.map_or(now, |at| at + WATCH_GAP);
        if now < next {
            self.wake = Some((next, Why::Watch));
            return;
        }
        self.watched_at = Some(now);
        self.denials = 0;
        let left = over.map_or(WATCH_MAX, |over| over.saturating_duration_since(now));
        let wait = Wait {
            after: self.table.index,
            at_most: left.clamp(WATCH_GAP, WATCH_MAX),
        };
        self.look(Some(wait));
        self.wake = over.map(|over| (over, Why::Expiry));
    }
}
