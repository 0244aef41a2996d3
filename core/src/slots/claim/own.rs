//! A slot that is ours: renewals, and what another's entry in it means.

use std::time::Instant;

use super::super::entry::Holder;
use super::super::table::Seen;
use super::super::{Event, Loss, Slot};
use super::{Hold, RENEWALS_PER_LEASE, Slots, Verdict, Why};
use crate::kv::{Condition, Request};

impl Slots {
    pub(super) fn put_done(&mut self, now: Instant) {
        self.failures = 0;
        let last = self.pending.as_ref().and_then(|p| p.attempts.back());
        let sent = last.map(|attempt| attempt.sent);
        if self.retiring.is_none() && sent.is_some_and(|sent| now < sent + self.config.life()) {
            self.own(sent);
        } else {
            // Not wanted any more; or it took so long that it is over already.
            self.pending = None;
            self.look(None);
        }
    }

    /// The pending compare-and-set, sent at that time, is known to have succeeded.
    pub(super) fn own(&mut self, sent: Option<Instant>) {
        let Some(pending) = self.pending.take() else {
            return;
        };
        let sent = sent.max(self.hold.as_ref().and_then(|hold| hold.sent));
        let was_owner = self.hold.replace(Hold {
            slot: pending.slot,
            sent,
        });
        (self.races, self.denials) = (0, 0);
        self.told = None;
        match (&was_owner, pending.condition) {
            (Some(_), _) => mark!("slots/renewed"),
            (None, _) if pending.rejoined => mark!("slots/rejoined"),
            (None, Condition::Unchanged(_)) => mark!("slots/taken-over"),
            (None, _) => mark!("slots/claimed"),
        }
        if was_owner.is_none() {
            let (slot, rejoined) = (pending.slot, pending.rejoined);
            self.tell(Event::Owned { slot, rejoined });
        }
        let due = self.renewal_due();
        self.wake = due.map(|due| (due, Why::Renew));
    }

    pub(super) fn renewal_due(&self) -> Option<Instant> {
        let sent = self.hold.as_ref()?.sent?;
        Some(sent + self.config.lease / RENEWALS_PER_LEASE)
    }

    /// An owner has read who owns what.
    pub(super) fn keep(&mut self, now: Instant, slot: Slot) {
        match self.verdict(now, slot) {
            Verdict::Lost(why) => self.lose(why),
            Verdict::Claim(condition) => {
                let unsure = self
                    .pending
                    .take_if(|p| p.condition != condition || !p.unsure);
                drop(unsure);
                let rejoined = self.is_own(slot);
                self.put(now, slot, condition, rejoined);
            }
            Verdict::Watch(over) => {
                self.pending = None;
                self.watch(now, over);
            }
            Verdict::Ours => self.renew(now, slot),
        }
        if self.ended.is_none() {
            self.clean(now, slot);
        }
    }

    pub(super) fn verdict(&self, now: Instant, slot: Slot) -> Verdict {
        let pinned = self.config.pinned.is_some();
        let confirmed = self.hold.as_ref().is_some_and(|hold| hold.sent.is_some());
        let Some(seen) = self.table.get(slot) else {
            // Whoever deleted the entry has given the slot to anybody: another may have claimed
            // it, and our own claim would not show. Only a pin stands above that.
            return match pinned {
                true => Verdict::Claim(Condition::Absent),
                false => Verdict::Lost(Loss::Overwritten),
            };
        };
        if seen.beat_of(&self.config.instance, &self.run).is_some() {
            return Verdict::Ours;
        }
        match &seen.holder {
            _ if self.is_own(slot) && confirmed => Verdict::Lost(Loss::Duplicate),
            _ if self.is_own(slot) => Verdict::Claim(Condition::Unchanged(seen.index)),
            Holder::Leased { instance, .. } if !pinned || seen.changed => {
                Verdict::Lost(Loss::Taken(instance.clone()))
            }
            Holder::Plain { instance } if !pinned => Verdict::Lost(Loss::Taken(instance.clone())),
            Holder::Strange { .. } if !pinned => Verdict::Lost(Loss::Overwritten),
            _ => self.pinned_verdict(now, seen),
        }
    }

    /// What a pinned owner does about another's entry that it has not seen change: it lives, or
    /// is left from the machine that was pinned before. The lease tells.
    pub(super) fn pinned_verdict(&self, now: Instant, seen: &Seen) -> Verdict {
        match seen.over_at(self.config.drift_per_mille) {
            Some(over) if now >= over => Verdict::Claim(Condition::Unchanged(seen.index)),
            over => Verdict::Watch(over),
        }
    }

    /// The entry is of this run: believe it, and set it again when it is time.
    pub(super) fn renew(&mut self, now: Instant, slot: Slot) {
        let Some(index) = self.table.get(slot).map(|seen| seen.index) else {
            return;
        };
        let condition = Condition::Unchanged(index);
        if let Some(sent) = self.sending_that_shows(slot) {
            self.own(Some(sent));
        }
        // Requests under another condition have failed, or will.
        self.pending.take_if(|p| p.condition != condition);
        match self.renewal_due() {
            Some(due) if now < due => self.wake = Some((due, Why::Renew)),
            _ => self.put(now, slot, condition, false),
        }
    }

    /// Remove a second entry of ours: a late compare-and-set, or what an earlier run has left of
    /// one. The latter only after its lease, in case that run lives on another machine.
    pub(super) fn clean(&mut self, now: Instant, slot: Slot) {
        if self.cleaning.is_some() {
            return;
        }
        let drift = self.config.drift_per_mille;
        let stray = self.table.iter().find(|(other, seen)| {
            let late = seen.beat_of(&self.config.instance, &self.run).is_some();
            let over = seen.over_at(drift).is_some_and(|over| now >= over);
            *other != slot && seen.is_of(&self.config.instance) && (late || over)
        });
        if let Some((stray, index)) = stray.map(|(stray, seen)| (stray, seen.index)) {
            let request = Request::Delete {
                key: self.config.key(stray),
                condition: Condition::Unchanged(index),
            };
            self.cleaning = Some(self.ask(request));
        }
    }
}
