//! Sessions: who waits, who is being connected, who is led where.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::super::{Name, Output, Pool, RETRY_PAUSE, Refusal, SessionId};
use super::Router;

/// A session.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) pool: Pool,
    stage: Stage,
    /// Until when it waits for a server.
    until: Instant,
    /// Servers that did not take it, until it tries them again.
    tried: BTreeSet<Name>,
    /// When to try them again.
    again: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    Connecting(Target),
    Open(Target),
}

/// Where a session is led.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// As what the server was chosen: a shared session may be led to who leads.
    pub(super) role: Pool,
    pub(super) backend: Name,
}

impl Session {
    fn wake_at(&self) -> Option<Instant> {
        match (&self.stage, self.again) {
            (Stage::Open(_), _) => None,
            (Stage::Waiting, Some(again)) => Some(again.min(self.until)),
            (Stage::Waiting | Stage::Connecting(_), _) => Some(self.until),
        }
    }

    fn target(&self) -> Option<&Target> {
        match &self.stage {
            Stage::Waiting => None,
            Stage::Connecting(target) | Stage::Open(target) => Some(target),
        }
    }
}

/// All sessions.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions {
    all: BTreeMap<SessionId, Session>,
    /// Those that have no server yet, by when something is due.
    timers: BTreeSet<(Instant, SessionId)>,
    /// Those of them that wait.
    waiting: BTreeSet<SessionId>,
    counts: [Counts; 2],
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) sessions: usize,
    pub(super) open: usize,
    pub(super) refused: u64,
    pub(super) resets: u64,
}

impl Sessions {
    pub(super) fn counts(&self, pool: Pool) -> Counts {
        self.counts[pool as usize]
    }

    fn counts_mut(&mut self, pool: Pool) -> &mut Counts {
        &mut self.counts[pool as usize]
    }

    pub(super) fn first_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Change a session, and what is known of it elsewhere. Nothing, if there is none.
    fn update<T>(&mut self, id: SessionId, change: impl FnOnce(&mut Session) -> T) -> Option<T> {
        let session = self.all.get_mut(&id)?;
        let (before, was_open) = (session.wake_at(), matches!(session.stage, Stage::Open(_)));
        let result = change(session);
        let (after, is_open) = (session.wake_at(), matches!(session.stage, Stage::Open(_)));
        let (pool, waits) = (session.pool, session.stage == Stage::Waiting);
        if before != after {
            self.timers.extend(after.map(|at| (at, id)));
            before.map(|at| self.timers.remove(&(at, id)));
        }
        match waits {
            true => self.waiting.insert(id),
            false => self.waiting.remove(&id),
        };
        let counts = self.counts_mut(pool);
        counts.open = counts.open + usize::from(is_open) - usize::from(was_open);
        Some(result)
    }

    fn insert(&mut self, id: SessionId, session: Session) {
        self.counts_mut(session.pool).sessions += 1;
        self.timers.extend(session.wake_at().map(|at| (at, id)));
        self.waiting.insert(id);
        self.all.insert(id, session);
    }

    fn remove(&mut self, id: SessionId) -> Option<Session> {
        let session = self.all.remove(&id)?;
        session.wake_at().map(|at| self.timers.remove(&(at, id)));
        self.waiting.remove(&id);
        let counts = self.counts_mut(session.pool);
        counts.sessions -= 1;
        counts.open -= usize::from(matches!(session.stage, Stage::Open(_)));
        Some(session)
    }
}

impl Router {
    pub(super) fn asked(&mut self, now: Instant, pool: Pool, id: SessionId) {
        if self.sessions.all.contains_key(&id) {
            return;
        }
        if self.sessions.counts(pool).sessions >= self.config.sessions_max {
            self.refuse(pool, id, Refusal::Full);
            return;
        }
        let session = Session {
            pool,
            stage: Stage::Waiting,
            until: now + self.config.hold,
            tried: BTreeSet::new(),
            again: None,
        };
        self.sessions.insert(id, session);
        self.place(id);
    }

    pub(super) fn connected(&mut self, id: SessionId) {
        self.sessions.update(id, |session| {
            if let Stage::Connecting(target) = &session.stage {
                session.stage = Stage::Open(target.clone());
            }
        });
    }

    pub(super) fn failed(&mut self, now: Instant, id: SessionId) {
        let is_known = self.sessions.update(id, |session| {
            let Stage::Connecting(target) = &session.stage else {
                return false;
            };
            session.tried.insert(target.backend.clone());
            session.again = Some(now + RETRY_PAUSE);
            session.stage = Stage::Waiting;
            true
        });
        if is_known == Some(true) {
            self.place(id);
        }
    }

    pub(super) fn ended(&mut self, id: SessionId) {
        self.sessions.remove(id);
    }

    /// Whoever waits and can be led somewhere is.
    pub(super) fn place_all(&mut self) {
        let waiting: Vec<SessionId> = self.sessions.waiting.iter().copied().collect();
        for id in waiting {
            self.place(id);
        }
    }

    fn place(&mut self, id: SessionId) {
        let Some(session) = self.sessions.all.get(&id) else {
            return;
        };
        let (pool, tried) = (session.pool, session.tried.clone());
        let Some(target) = self.pick(pool, &tried) else {
            return;
        };
        let backend = target.backend.clone();
        self.sessions
            .update(id, |session| session.stage = Stage::Connecting(target));
        self.outputs.push_back(Output::Connect {
            session: id,
            backend,
        });
    }

    /// Time passed: who has waited long enough is refused, who rested after a failure tries again.
    pub(super) fn wake_sessions(&mut self, now: Instant) {
        while let Some((at, id)) = self.sessions.timers.first().copied() {
            if at > now {
                return;
            }
            let session = &self.sessions.all[&id];
            if session.until <= now {
                let pool = session.pool;
                self.sessions.remove(id);
                self.refuse(pool, id, Refusal::NoServer);
                continue;
            }
            self.sessions.update(id, |session| {
                session.tried.clear();
                session.again = None;
            });
            self.place(id);
        }
    }

    fn refuse(&mut self, pool: Pool, session: SessionId, why: Refusal) {
        self.sessions.counts_mut(pool).refused += 1;
        self.outputs.push_back(Output::Refuse { session, why });
    }

    /// This server is none any more for those that were led to it as `role`: those that it has are
    /// reset, the others wait.
    pub(super) fn abandon(&mut self, role: Pool, backend: &Name) {
        let led = |session: &Session| {
            session
                .target()
                .is_some_and(|target| target.role == role && target.backend == *backend)
        };
        let lost: Vec<SessionId> = self
            .sessions
            .all
            .iter()
            .filter(|(_, session)| led(session))
            .map(|(id, _)| *id)
            .collect();
        for id in lost {
            let is_open = matches!(self.sessions.all[&id].stage, Stage::Open(_));
            if is_open && let Some(session) = self.sessions.remove(id) {
                self.sessions.counts_mut(session.pool).resets += 1;
                self.outputs.push_back(Output::Reset { session: id });
            } else {
                self.sessions
                    .update(id, |session| session.stage = Stage::Waiting);
                self.outputs.push_back(Output::Wait { session: id });
            }
        }
    }
}
