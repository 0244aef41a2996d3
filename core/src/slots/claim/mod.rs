//! The machine that claims a slot, renews it, and knows when it is over.

mod ask;
mod end;
mod own;
mod seek;
mod view;

use std::collections::VecDeque;
use std::mem::discriminant;
use std::time::{Duration, Instant};

use super::table::Table;
use super::{
    CallId, Config, ConfigError, Event, Input, Loss, Obstacle, Output, Slot, SlotView, State,
};
use crate::entropy::Seed;
use crate::kv::Condition;
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
/// Compare-and-sets in a row that may fail because the entry was another: a crowd needs fewer. From
/// then on there is a wait after each, as after a failed call.
const DENIALS_MAX: u32 = 16;
/// Longest text of a failure that is passed on.
const MESSAGE_LEN_MAX: usize = 300;

/// Claims one slot and keeps it.
///
/// At most one request is on its way, besides the removal of a stray entry. Whatever a
/// compare-and-set may have done is decided by reading: by our run and beat, which no two
/// requests share.
///
/// [`Now::mono`] should go on while the machine sleeps (CLOCK_BOOTTIME): an owner that wakes after
/// its lease by a clock that stood still takes itself for live until its next renewal.
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
    denials: u32,
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
            denials: 0,
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
        Some(self.hold.as_ref()?.sent? + self.config.life())
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
}
