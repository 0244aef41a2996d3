//! What is asked of the KV, and what became of it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::entry::{self, BEAT_MAX};
use super::super::table::Seen;
use super::super::{CallId, Obstacle, Output, Slot};
use super::{
    ATTEMPTS_MAX, Asked, Attempt, BACKOFF_FIRST, BACKOFF_LAST, BACKOFF_REFUSED, DENIALS_MAX,
    MESSAGE_LEN_MAX, Pending, Slots, TRIES_PER_LEASE, Why,
};
use crate::kv::{
    Condition, Consistency, Determinacy, Failure, FailureKind, Request, Response, Wait,
};

impl Slots {
    pub(super) fn ask(&mut self, request: Request) -> CallId {
        let call = CallId(self.calls);
        self.calls += 1;
        self.outputs.push_back(Output::Call { call, request });
        call
    }

    pub(super) fn look(&mut self, wait: Option<Wait>) {
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
    pub(super) fn put(&mut self, now: Instant, slot: Slot, condition: Condition, rejoined: bool) {
        // One more than whatever is there: of two entries of ours the later one shows.
        let shown = self
            .table
            .get(slot)
            .filter(|seen| seen.is_of(&self.config.instance));
        // One that nobody has counted up to is not carried on: the run tells them apart as well.
        let shown = shown.map(Seen::beat).filter(|beat| *beat < BEAT_MAX / 2);
        let shown = shown.unwrap_or(0);
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

    pub(super) fn answered(
        &mut self,
        now: Instant,
        asked: Asked,
        result: Result<Response, Failure>,
    ) {
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
                self.denied(now);
            }
            (Asked::Delete(slot), Ok(Response::Done(done))) => {
                self.failures = 0;
                if done {
                    self.table.forget(slot);
                    self.decide(now);
                } else {
                    self.denied(now);
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

    /// The entry was another than the one read before: read again, at once unless that goes on and
    /// on.
    fn denied(&mut self, now: Instant) {
        self.denials = self.denials.saturating_add(1);
        if self.denials <= DENIALS_MAX {
            return self.look(None);
        }
        let wait = self.backoff(self.denials - DENIALS_MAX, false);
        self.wake = Some((now + wait, Why::Again));
    }

    pub(super) fn failed(&mut self, now: Instant, asked: Asked, failure: &Failure) {
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
        let wait = self.backoff(self.failures, refused);
        self.failures = self.failures.saturating_add(1);
        self.wake = Some((now + wait, Why::Again));
    }

    /// How long to wait after a failed call: half of it is random, so that those who failed
    /// together do not come back together.
    pub(super) fn backoff(&mut self, failures: u32, refused: bool) -> Duration {
        let doubled = BACKOFF_FIRST * (1 << failures.min(16));
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
    pub(super) fn jittered(&mut self, wait: Duration) -> Duration {
        let half_us = u64::try_from(wait.as_micros() / 2).unwrap_or(u64::MAX);
        wait / 2 + Duration::from_micros(self.draw(half_us.max(1)))
    }

    /// A number below `bound`. Each draw is a function of the seed and a count, so that the
    /// machine can be cloned and compared.
    pub(super) fn draw(&mut self, bound: u64) -> u64 {
        self.draws += 1;
        self.seed
            .fork(&format!("slots/{}", self.draws))
            .rng()
            .below(bound)
    }
}
