//! The machine that claims a slot, renews it, and knows when it is over.

use std::collections::VecDeque;
use std::mem::discriminant;
use std::time::{Duration, Instant};

use super::entry::{self, Holder};
use super::table::{Seen, Table};
use super::{
    CallId, Config, ConfigError, Event, Input, Loss, Obstacle, Output, Slot, SlotView, State,
};
use crate::entropy::Seed;
use crate::kv::{
    Condition, Consistency, Determinacy, Entry, Failure, FailureKind, Request, Response, Wait,
};
use crate::time::Now;

/// A renewal is due after this part of the lease: two may fail.
const RENEWALS_PER_LEASE: u32 = 3;
/// First wait after a failed call; it doubles with every further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
/// Longest wait after a failed call: a KV that comes back is used within it.
const BACKOFF_LAST: Duration = Duration::from_secs(10);
/// Wait after a refusal: a token is mended by people.
const BACKOFF_REFUSED: Duration = Duration::from_secs(30);
/// An owner tries more often than that, so that a short lease has many tries.
const TRIES_PER_LEASE: u32 = 12;
/// Longest read that waits: below the idle timeouts of the gateways on its way.
const WATCH_MAX: Duration = Duration::from_secs(60);
/// Reads that wait are no closer than this, if they return at once, for whatever reason.
const WATCH_GAP: Duration = Duration::from_millis(100);
/// Reads are no closer than this when the KV gives no index to wait with.
const UNINDEXED_GAP: Duration = Duration::from_secs(1);
/// How long to try to give a slot back: who stops should not be kept by a KV that is away.
const RETIRE_PATIENCE: Duration = Duration::from_secs(5);
/// Compare-and-sets of unknown outcome whose sending is remembered. An older one that shows
/// nevertheless proves nothing, and the slot is set once more.
const ATTEMPTS_MAX: usize = 64;
/// Lost races after which it is as random as it gets: 2⁸ are more than all slots.
const RACES_MAX: u32 = 8;
/// Longest text of a failure that is passed on.
const MESSAGE_LEN_MAX: usize = 300;

/// Claims one slot and keeps it.
///
/// At most one request is on its way, besides the removal of a stray entry. Whatever a
/// compare-and-set may have done is decided by reading: by our run and beat, which no two
/// requests share.
#[derive(Clone, Debug)]
pub struct Slots {
    config: Config,
    run: String,
    beat: u64,
    seed: Seed,
    draws: u64,
    table: Table,
    hold: Option<Hold>,
    pending: Option<Pending>,
    /// Set by [`Input::Retire`]: until when it is tried, and for which slot.
    retiring: Option<(Instant, Slot)>,
    ended: Option<State>,
    call: Option<(CallId, Asked)>,
    cleaning: Option<CallId>,
    calls: u64,
    wake: Option<(Instant, Why)>,
    watched_at: Option<Instant>,
    failures: u32,
    races: u32,
    told: Option<Obstacle>,
    outputs: VecDeque<Output>,
}

/// What is to be done at the next wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Read: a call has failed.
    Again,
    /// Read, and renew.
    Renew,
    /// Watch on: the last read that waited came back at once.
    Watch,
    /// Take the slot whose lease is over.
    Expiry,
}

impl Why {
    const fn as_str(self) -> &'static str {
        match self {
            Why::Again => "ask the KV again",
            Why::Renew => "renew the slot",
            Why::Watch => "watch the slots",
            Why::Expiry => "another's lease is over",
        }
    }
}

/// What the call on its way is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Look { waits: bool },
    Put,
    Delete(Slot),
}

/// The slot that we own.
#[derive(Clone, Debug)]
struct Hold {
    slot: Slot,
    /// When the last compare-and-set that succeeded was sent. `None`: pinned, and none has yet.
    sent: Option<Instant>,
}

/// A compare-and-set whose outcome is not known: several, when it was repeated.
#[derive(Clone, Debug)]
struct Pending {
    slot: Slot,
    condition: Condition,
    rejoined: bool,
    attempts: VecDeque<Attempt>,
    /// One of them may still happen.
    unsure: bool,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    beat: u64,
    sent: Instant,
}

/// What an owner is to do about what it read.
enum Verdict {
    Ours,
    Claim(Condition),
    Watch(Option<Instant>),
    Lost(Loss),
}

impl Slots {
    /// A machine that has not asked anything yet. `seed` must be another at every start: it
    /// names the run.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] that names what is wrong.
    pub fn new(config: Config, seed: Seed, _now: Now) -> Result<Slots, ConfigError> {
        config.check()?;
        let run: [u8; 16] = seed.fork("slots/run").rng().bytes();
        let mut slots = Slots {
            run: run.iter().map(|byte| format!("{byte:02x}")).collect(),
            beat: 0,
            seed,
            draws: 0,
            table: Table::default(),
            hold: config.pinned.map(|slot| Hold { slot, sent: None }),
            pending: None,
            retiring: None,
            ended: None,
            call: None,
            cleaning: None,
            calls: 0,
            wake: None,
            watched_at: None,
            failures: 0,
            races: 0,
            told: None,
            outputs: VecDeque::new(),
            config,
        };
        if let Some(slot) = slots.config.pinned {
            let rejoined = false;
            slots.tell(Event::Owned { slot, rejoined });
        }
        slots.look(None);
        Ok(slots)
    }

    /// Names this run in the entry: 32 hexadecimal digits.
    #[must_use]
    pub fn run_id(&self) -> &str {
        &self.run
    }

    /// Where the claim stands. While a slot is given back it is what it was, and then
    /// [`State::Retired`].
    #[must_use]
    pub fn state(&self) -> State {
        match (self.ended, &self.hold, &self.pending) {
            (Some(ended), _, _) => ended,
            (None, Some(_), _) => State::Owning,
            (None, None, Some(_)) => State::Claiming,
            (None, None, None) => State::Looking,
        }
    }

    /// The slot that we own at this moment: `None` from the instant on at which the lease is
    /// over, whether or not anybody has called [`Slots::handle_deadline`].
    #[must_use]
    pub fn owned(&self, now: Now) -> Option<Slot> {
        if self.ended.is_some() || self.retiring.is_some() {
            return None;
        }
        let hold = self.hold.as_ref()?;
        let over = self.lease_over_at().is_some_and(|end| now.mono >= end);
        (!over).then_some(hold.slot)
    }

    /// Every slot, as last seen.
    #[must_use]
    pub fn views(&self, now: Now) -> Vec<SlotView> {
        let slots = self.config.slots.iter();
        slots.map(|slot| self.view(*slot, now.mono)).collect()
    }

    /// When to wake, and why.
    #[must_use]
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        if self.ended.is_some() {
            return None;
        }
        let lease = self.lease_over_at().map(|at| (at, "the lease is over"));
        let retire = self
            .retiring
            .map(|(at, _)| (at, "patience with a KV at the end"));
        let wake = self.wake.map(|(at, why)| (at, why.as_str()));
        let all = [wake, lease, retire];
        all.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// What to do, or to know.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Time passed.
    pub fn handle_deadline(&mut self, now: Now) {
        let now = now.mono;
        if !self.goes_on(now) {
            return;
        }
        let Some((_, why)) = self.wake.take_if(|(at, _)| now >= *at) else {
            return;
        };
        match (why, self.call) {
            // What we know is enough: the answer to the read that waits is not needed.
            (Why::Expiry, Some((_, Asked::Look { waits: true }))) => {
                self.call = None;
                self.decide(now);
            }
            (Why::Watch, None) => self.decide(now),
            (_, None) => self.look(None),
            (_, Some(_)) => {}
        }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Now, input: Input) {
        let now = now.mono;
        if !self.goes_on(now) {
            return;
        }
        match input {
            Input::Retire => self.retire(now),
            Input::Answer { call, result } => {
                if self.cleaning == Some(call) {
                    self.cleaning = None;
                }
                let Some((_, asked)) = self.call.filter(|(expected, _)| *expected == call) else {
                    return;
                };
                self.call = None;
                self.answered(now, asked, result);
            }
        }
    }

    /// Notice what time alone decides. False: the machine does nothing more.
    fn goes_on(&mut self, now: Instant) -> bool {
        if self.ended.is_none() && self.lease_over_at().is_some_and(|end| now >= end) {
            mark!("slots/lease-over");
            self.lose(Loss::LeaseOver);
        }
        if self.ended.is_none() && self.retiring.is_some_and(|(until, _)| now >= until) {
            self.retired();
        }
        self.ended.is_none()
    }

    /// When the lease of our slot is over.
    ///
    /// A pinned owner has no such end: the KV may run on the very machines that are pinned, and
    /// must not be what they need to come back.
    fn lease_over_at(&self) -> Option<Instant> {
        if self.config.pinned.is_some() || self.retiring.is_some() || planted!(OutliveLease) {
            return None;
        }
        Some(self.hold.as_ref()?.sent? + self.config.lease)
    }

    // ---- Asking ----

    fn ask(&mut self, request: Request) -> CallId {
        let call = CallId(self.calls);
        self.calls += 1;
        self.outputs.push_back(Output::Call { call, request });
        call
    }

    fn look(&mut self, wait: Option<Wait>) {
        let request = Request::List {
            prefix: self.config.prefix(),
            consistency: Consistency::Consistent,
            wait,
        };
        let waits = wait.is_some();
        self.wake = None;
        self.call = Some((self.ask(request), Asked::Look { waits }));
    }

    /// Set the slot's entry to ours. An earlier compare-and-set of unknown outcome must be for
    /// the same slot under the same condition.
    fn put(&mut self, now: Instant, slot: Slot, condition: Condition, rejoined: bool) {
        // One more than whatever is there: of two entries of ours the later one shows.
        let shown = self
            .table
            .get(slot)
            .filter(|seen| seen.is_of(&self.config.instance));
        let shown = shown.map_or(0, Seen::beat);
        self.beat = self.beat.max(shown) + 1;
        let (instance, lease) = (&self.config.instance, self.config.lease);
        let value = entry::encode(instance, &self.run, self.beat, lease);
        let attempt = Attempt {
            beat: self.beat,
            sent: now,
        };
        let pending = self.pending.get_or_insert_with(|| Pending {
            slot,
            condition,
            rejoined,
            attempts: VecDeque::new(),
            unsure: false,
        });
        debug_assert!(pending.slot == slot && pending.condition == condition);
        if pending.attempts.len() == ATTEMPTS_MAX {
            pending.attempts.pop_front();
        }
        pending.attempts.push_back(attempt);
        let request = Request::put(self.config.key(slot), value, condition);
        self.wake = None;
        self.call = Some((self.ask(request), Asked::Put));
    }

    fn answered(&mut self, now: Instant, asked: Asked, result: Result<Response, Failure>) {
        match (asked, result) {
            (Asked::Look { .. }, Ok(Response::Entries { index, entries })) => {
                self.listed(now, index, &entries);
            }
            (Asked::Put, Ok(Response::Done(true))) => self.put_done(now),
            (Asked::Put, Ok(Response::Done(false))) => {
                // Not this one; an earlier one may have been what made it fail.
                self.failures = 0;
                if let Some(pending) = &mut self.pending {
                    pending.attempts.pop_back();
                }
                self.look(None);
            }
            (Asked::Delete(slot), Ok(Response::Done(done))) => {
                self.failures = 0;
                if done {
                    self.table.forget(slot);
                    self.decide(now);
                } else {
                    self.look(None);
                }
            }
            (_, Ok(_)) => {
                let message = "an answer to another question";
                let failure = Failure::indeterminate(FailureKind::Garbled, message);
                self.failed(now, asked, &failure);
            }
            (_, Err(failure)) => self.failed(now, asked, &failure),
        }
    }

    fn failed(&mut self, now: Instant, asked: Asked, failure: &Failure) {
        if let (Asked::Put, Some(pending)) = (asked, &mut self.pending) {
            match failure.determinacy {
                Determinacy::Determinate => {
                    pending.attempts.pop_back();
                }
                Determinacy::Indeterminate => {
                    mark!("slots/indeterminate");
                    pending.unsure = true;
                }
            }
            if !pending.unsure {
                self.pending = None;
            }
        }
        let message: String = failure.message.chars().take(MESSAGE_LEN_MAX).collect();
        let refused = failure.kind == FailureKind::Forbidden;
        self.hindered(match refused {
            true => Obstacle::Forbidden(message),
            false => Obstacle::Unreachable(message),
        });
        let wait = self.backoff(refused);
        self.failures = self.failures.saturating_add(1);
        self.wake = Some((now + wait, Why::Again));
    }

    /// How long to wait after a failed call: half of it is random, so that those who failed
    /// together do not come back together.
    fn backoff(&mut self, refused: bool) -> Duration {
        let doubled = BACKOFF_FIRST * (1 << self.failures.min(16));
        let wait = match refused {
            true => BACKOFF_REFUSED,
            false => doubled.min(BACKOFF_LAST),
        };
        let most = match self.hold {
            Some(_) => self.config.lease / TRIES_PER_LEASE,
            None => wait,
        };
        self.jittered(wait.min(most))
    }

    /// Between half and all of it.
    fn jittered(&mut self, wait: Duration) -> Duration {
        let half_us = u64::try_from(wait.as_micros() / 2).unwrap_or(u64::MAX);
        wait / 2 + Duration::from_micros(self.draw(half_us.max(1)))
    }

    /// A number below `bound`. Each draw is a function of the seed and a count, so that the
    /// machine can be cloned and compared.
    fn draw(&mut self, bound: u64) -> u64 {
        self.draws += 1;
        self.seed
            .fork(&format!("slots/{}", self.draws))
            .rng()
            .below(bound)
    }

    // ---- Deciding ----

    fn listed(&mut self, now: Instant, index: u64, entries: &[Entry]) {
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
    fn decide(&mut self, now: Instant) {
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
    fn settle_claim(&mut self, now: Instant) -> bool {
        let Some(pending) = &self.pending else {
            return false;
        };
        let (slot, condition, rejoined) = (pending.slot, pending.condition, pending.rejoined);
        let sent = self.sending_that_shows(slot);
        if sent.is_some_and(|sent| now < sent + self.config.lease) {
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
    fn sending_that_shows(&self, slot: Slot) -> Option<Instant> {
        let seen = self.table.get(slot)?;
        let beat = seen.beat_of(&self.config.instance, &self.run)?;
        let mut attempts = self.pending.as_ref()?.attempts.iter();
        attempts.find(|a| a.beat == beat).map(|a| a.sent)
    }

    /// Whether a compare-and-set under this condition could succeed, as far as we know.
    fn holds(&self, slot: Slot, condition: Condition) -> bool {
        let index = self.table.get(slot).map(|seen| seen.index);
        match condition {
            Condition::Any => true,
            Condition::Absent => index.is_none(),
            Condition::Unchanged(expected) => index == Some(expected),
        }
    }

    fn is_own(&self, slot: Slot) -> bool {
        let seen = self.table.get(slot);
        seen.is_some_and(|seen| seen.is_of(&self.config.instance))
    }

    /// Claim one's own slot, or a free one, or wait for one.
    fn seek(&mut self, now: Instant) {
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
    fn own_entry(&self) -> Option<(Slot, &Seen)> {
        let own = self.table.iter();
        let own = own.filter(|(_, seen)| seen.is_of(&self.config.instance));
        own.max_by_key(|(_, seen)| (seen.beat(), seen.index))
    }

    /// Slots without an owner, ascending, and what they may be set under.
    fn free(&self, now: Instant) -> Vec<(Slot, Condition)> {
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
    fn watch(&mut self, now: Instant, over: Option<Instant>) {
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
        let left = over.map_or(WATCH_MAX, |over| over.saturating_duration_since(now));
        let wait = Wait {
            after: self.table.index,
            at_most: left.clamp(WATCH_GAP, WATCH_MAX),
        };
        self.look(Some(wait));
        self.wake = over.map(|over| (over, Why::Expiry));
    }

    // ---- Owning ----

    fn put_done(&mut self, now: Instant) {
        self.failures = 0;
        let last = self.pending.as_ref().and_then(|p| p.attempts.back());
        let sent = last.map(|attempt| attempt.sent);
        if self.retiring.is_none() && sent.is_some_and(|sent| now < sent + self.config.lease) {
            self.own(sent);
        } else {
            // Not wanted any more; or it took so long that it is over already.
            self.pending = None;
            self.look(None);
        }
    }

    /// The pending compare-and-set, sent at that time, is known to have succeeded.
    fn own(&mut self, sent: Option<Instant>) {
        let Some(pending) = self.pending.take() else {
            return;
        };
        let sent = sent.max(self.hold.as_ref().and_then(|hold| hold.sent));
        let was_owner = self.hold.replace(Hold {
            slot: pending.slot,
            sent,
        });
        self.races = 0;
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

    fn renewal_due(&self) -> Option<Instant> {
        let sent = self.hold.as_ref()?.sent?;
        Some(sent + self.config.lease / RENEWALS_PER_LEASE)
    }

    /// An owner has read who owns what.
    fn keep(&mut self, now: Instant, slot: Slot) {
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

    fn verdict(&self, now: Instant, slot: Slot) -> Verdict {
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
    fn pinned_verdict(&self, now: Instant, seen: &Seen) -> Verdict {
        match seen.over_at(self.config.drift_per_mille) {
            Some(over) if now >= over => Verdict::Claim(Condition::Unchanged(seen.index)),
            over => Verdict::Watch(over),
        }
    }

    /// The entry is of this run: believe it, and set it again when it is time.
    fn renew(&mut self, now: Instant, slot: Slot) {
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
    fn clean(&mut self, now: Instant, slot: Slot) {
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

    // ---- Ending ----

    fn lose(&mut self, why: Loss) {
        let Some(hold) = self.hold.take() else {
            return;
        };
        self.end(State::Lost);
        let slot = hold.slot;
        self.tell(Event::Lost { slot, why });
    }

    fn retire(&mut self, now: Instant) {
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
    fn give_back(&mut self) {
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

    fn retired(&mut self) {
        let hold = self.hold.take().map(|hold| hold.slot);
        let slot = hold.or(self.retiring.map(|(_, slot)| slot));
        self.end(State::Retired);
        if let Some(slot) = slot {
            self.tell(Event::Retired { slot });
        }
    }

    fn end(&mut self, state: State) {
        self.ended = Some(state);
        (self.call, self.pending, self.wake) = (None, None, None);
        // What was not asked yet is not asked any more.
        self.outputs
            .retain(|output| matches!(output, Output::Event(_)));
    }

    // ---- Telling ----

    fn tell(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn hindered(&mut self, obstacle: Obstacle) {
        let same = self.told.as_ref().map(discriminant) == Some(discriminant(&obstacle));
        if !same {
            self.tell(Event::Waiting(obstacle.clone()));
        }
        self.told = Some(obstacle);
    }

    fn view(&self, slot: Slot, now: Instant) -> SlotView {
        let seen = self.table.get(slot);
        let owner = seen.and_then(|seen| seen.holder.instance());
        let over = seen.and_then(|seen| seen.over_at(self.config.drift_per_mille));
        let mut view = SlotView {
            slot,
            owner: owner.map(str::to_owned),
            lease_ms: over.map(|over| millis(over, now)),
            problem: None,
        };
        if let Some(Seen {
            holder: Holder::Strange { problem },
            ..
        }) = seen
        {
            view.problem = Some(problem.clone());
        }
        match &self.hold {
            Some(hold) if hold.slot == slot => self.own_view(&mut view, now),
            Some(_) if self.is_own(slot) => {
                view.problem = Some("a second entry of this instance".into());
            }
            _ => {}
        }
        view
    }

    fn own_view(&self, view: &mut SlotView, now: Instant) {
        let own = &self.config.instance;
        if let Some(other) = view.owner.take_if(|owner| owner != own) {
            view.problem = Some(format!("pinned here, and instance {other} has claimed it"));
        }
        view.owner = Some(own.clone());
        view.lease_ms = self.lease_over_at().map(|over| millis(over, now));
    }
}

fn millis(until: Instant, now: Instant) -> u64 {
    let left = until.saturating_duration_since(now).as_millis();
    u64::try_from(left).unwrap_or(u64::MAX)
}
