//! How the store does what it was asked: reads now or later, changes through the journal.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use holdfast_core::kv::{
    Entry, Failure, FailureKind, Request, Response, SessionId, WAIT_MAX, Wait,
};
use holdfast_core::time::Now;

use super::journal::{Journal, JournalError};
use super::plan::{Planner, busy, end_session};
use super::state::{Batch, Change, State};
use super::watch::{Subject, Waiter};
use super::{Ask, LOCK_DELAY_MAX, LOCK_DELAYS_MAX, Store};

impl<J: Journal> Store<J> {
    /// Answer a read, now or when it is over.
    pub(super) fn read(&mut self, now: Instant, ticket: u64, subject: Subject, wait: Option<Wait>) {
        let wait = wait.filter(|wait| wait.after > 0 && wait.after >= self.index_of(&subject));
        let Some(wait) = wait else {
            let response = self.look(&subject);
            return self.answer(ticket, Ok(response));
        };
        if self.waiters.len() >= self.config.limits.waiting_max {
            return self.answer(ticket, Err(busy("too many reads wait")));
        }
        let waiter = Waiter {
            subject,
            after: wait.after,
            until: now + wait.at_most.min(WAIT_MAX),
        };
        self.waiters.insert(ticket, waiter);
        if wait.at_most.is_zero() {
            self.answer_waiter(ticket);
        }
    }

    pub(super) fn answer_waiter(&mut self, ticket: u64) {
        if let Some(waiter) = self.waiters.remove(ticket) {
            let response = self.look(&waiter.subject);
            self.answer(ticket, Ok(response));
        }
    }

    fn index_of(&self, subject: &Subject) -> u64 {
        match subject {
            Subject::Key(key) => self.state.entry_index(key),
            Subject::Prefix(prefix) => self.state.list_index(prefix),
            Subject::Table(table) => self.state.table_index(*table),
        }
    }

    fn look(&self, subject: &Subject) -> Response {
        let index = self.index_of(subject);
        match subject {
            Subject::Key(key) => Response::Entry {
                index,
                entry: self.state.entry(key).map(|stored| stored.entry.clone()),
            },
            Subject::Prefix(prefix) => {
                let below = self.state.below(prefix);
                let entries: Vec<Entry> = below.map(|stored| stored.entry.clone()).collect();
                Response::Entries { index, entries }
            }
            Subject::Table(_) => Response::Entries {
                index,
                entries: Vec::new(),
            },
        }
    }

    /// Do a change and answer it.
    pub(super) fn change(&mut self, now: Now, ticket: u64, ask: Ask) {
        let renewed = match &ask {
            Ask::Write {
                request: Request::SessionRenew(id),
                ..
            } => Some(id.clone()),
            _ => None,
        };
        let result = self.try_change(now, ask);
        if let (Some(id), Ok(Response::Done(true))) = (renewed, &result) {
            self.renew(now.mono, &id);
        }
        self.answer(ticket, result);
    }

    fn try_change(&mut self, now: Now, ask: Ask) -> Result<Response, Failure> {
        self.make_sure(now)?;
        let index = self.state.index() + 1;
        let delays = &self.lock_delays;
        let planner = Planner {
            state: &self.state,
            limits: &self.config.limits,
            index,
            session: self.session_id(index),
            delayed: &|key| delays.get(key).is_some_and(|until| now.mono < *until),
            delays_full: delays.len() >= LOCK_DELAYS_MAX,
        };
        let plan = planner.plan(ask)?;
        if !plan.changes.is_empty() {
            let batch = Batch {
                index,
                changes: plan.changes,
            };
            self.commit(now, batch)?;
        }
        Ok(plan.answer)
    }

    /// End a session whose time is over.
    pub(super) fn expire(&mut self, now: Now, id: &SessionId) -> Result<(), Failure> {
        self.make_sure(now)?;
        let Some(session) = self.state.session(id) else {
            return Ok(());
        };
        let index = self.state.index() + 1;
        let changes = end_session(&self.state, session, index);
        self.commit(now, Batch { index, changes })
    }

    /// Keep the changes, then make them happen, then tell who waits for them.
    fn commit(&mut self, now: Now, batch: Batch) -> Result<(), Failure> {
        if let Err(error) = self.journal.record(now, &self.state, &batch) {
            let unavailable = FailureKind::Unavailable;
            let message = format!("the change could not be kept: {error}");
            self.unsure = matches!(error, JournalError::Unsure(_));
            return Err(match self.unsure {
                true => Failure::indeterminate(unavailable, message),
                false => Failure::determinate(unavailable, message),
            });
        }
        let mut concerned = BTreeSet::new();
        for change in &batch.changes {
            self.waiters.concerned(change, &mut concerned);
            match change {
                Change::Session(session) => {
                    let (id, ttl) = (session.id.clone(), session.asked.ttl);
                    self.begin_life(now.mono, id, ttl);
                }
                Change::SessionGone(id) => self.end_life(now.mono, id),
                _ => {}
            }
        }
        self.state.apply(batch);
        for ticket in concerned {
            self.wake(ticket);
        }
        Ok(())
    }

    fn wake(&mut self, ticket: u64) {
        let waiter = self.waiters.get(ticket);
        if waiter.is_some_and(|waiter| self.index_of(&waiter.subject) > waiter.after) {
            self.answer_waiter(ticket);
        }
    }

    /// After a change that may or may not be kept: go on from what is.
    fn make_sure(&mut self, now: Now) -> Result<(), Failure> {
        if !self.unsure {
            return Ok(());
        }
        let state = self.journal.recover().map_err(|error| {
            let message = format!("what is kept cannot be read: {error}");
            Failure::determinate(FailureKind::Unavailable, message)
        })?;
        self.replace(now, state);
        Ok(())
    }

    fn replace(&mut self, now: Now, state: State) {
        self.unsure = false;
        self.state = state;
        self.restart_sessions(now.mono);
        for ticket in self.waiters.tickets() {
            self.wake(ticket);
        }
    }

    /// Every session begins its TTL anew, lock delays are forgotten.
    pub(super) fn restart_sessions(&mut self, now: Instant) {
        self.lock_delays.clear();
        self.ends.clear();
        self.by_end.clear();
        let sessions = self.state.sessions();
        let sessions: Vec<_> = sessions.map(|s| (s.id.clone(), s.asked.ttl)).collect();
        for (id, ttl) in sessions {
            self.begin_life(now, id, ttl);
        }
    }

    fn renew(&mut self, now: Instant, id: &SessionId) {
        if let Some(session) = self.state.session(id) {
            self.begin_life(now, id.clone(), session.asked.ttl);
        }
    }

    /// A TTL of 0 is none: such a session ends when somebody ends it.
    fn begin_life(&mut self, now: Instant, id: SessionId, ttl: Duration) {
        if !ttl.is_zero() {
            let (from, to) = self.config.life_percent.clone().into_inner();
            let percent = from + self.draws.below(u64::from(to - from) + 1) as u32;
            self.set_end(id, now + ttl * percent / 100);
        }
    }

    pub(super) fn set_end(&mut self, id: SessionId, end: Instant) {
        if let Some(before) = self.ends.insert(id.clone(), end) {
            self.by_end.remove(&(before, id.clone()));
        }
        self.by_end.insert((end, id));
    }

    /// Called before the session is gone from the state.
    fn end_life(&mut self, now: Instant, id: &SessionId) {
        if let Some(end) = self.ends.remove(id) {
            self.by_end.remove(&(end, id.clone()));
        }
        self.lock_delays.retain(|_, until| now < *until);
        let Some(session) = self.state.session(id) else {
            return;
        };
        let delay = session.asked.lock_delay.min(LOCK_DELAY_MAX);
        if !delay.is_zero() {
            for key in self.state.held_by(id) {
                self.lock_delays.insert(key.clone(), now + delay);
            }
        }
    }

    /// The same for the same index, which is used once: a store that was started again with the
    /// same seed gives no identity twice.
    fn session_id(&self, index: u64) -> SessionId {
        let bytes = self.seed.derive(&index.to_be_bytes());
        let hex = |range: std::ops::Range<usize>| -> String {
            bytes[range].iter().map(|b| format!("{b:02x}")).collect()
        };
        let parts = [hex(0..4), hex(4..6), hex(6..8), hex(8..10), hex(10..16)];
        SessionId(parts.join("-").into())
    }
}
