//! A router, what its servers say, and its sessions: the driver's part, with the invariants
//! checked at every output.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::entropy::Seed;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Connecting(Name),
    Open(Name),
}

#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) pool: Pool,
    pub(super) asked: Instant,
    pub(super) state: State,
}

impl Session {
    fn server(&self) -> Option<&Name> {
        match &self.state {
            State::Waiting => None,
            State::Connecting(name) | State::Open(name) => Some(name),
        }
    }
}

pub(super) struct World {
    pub(super) router: Router,
    pub(super) now: Now,
    pub(super) config: Config,
    /// What servers answer.
    pub(super) answers: BTreeMap<Name, Option<Observation>>,
    /// Checks that wait for their answer.
    pub(super) asked: BTreeMap<CheckId, Name>,
    /// The last answers, and how many are missing since.
    last: BTreeMap<Name, (Observation, u32)>,
    pub(super) term: Option<u64>,
    pub(super) sessions: BTreeMap<SessionId, Session>,
    ids: u64,
    pub(super) refused: BTreeMap<SessionId, Refusal>,
    pub(super) reset: Vec<SessionId>,
    pub(super) events: Vec<Event>,
    /// Everything that the machine said.
    pub(super) trace: Vec<String>,
}

impl World {
    pub(super) fn new(config: Config) -> World {
        World::seeded(config, 7)
    }

    pub(super) fn seeded(config: Config, seed: u8) -> World {
        let now = start();
        let router = Router::new(config.clone(), &Seed::new([seed; 32]), now).unwrap();
        let mut world = World {
            router,
            now,
            config,
            answers: BTreeMap::new(),
            asked: BTreeMap::new(),
            last: BTreeMap::new(),
            term: None,
            sessions: BTreeMap::new(),
            ids: 0,
            refused: BTreeMap::new(),
            reset: Vec::new(),
            events: Vec::new(),
            trace: Vec::new(),
        };
        world.work();
        world
    }

    // ---- What happens ----

    pub(super) fn say(&mut self, server: &str, answer: Option<Observation>) {
        self.answers.insert(name(server), answer);
    }

    /// All checks on their way are answered.
    pub(super) fn answer_all(&mut self) {
        while let Some(check) = self.asked.keys().next().copied() {
            self.answer(check);
        }
    }

    pub(super) fn answer(&mut self, check: CheckId) {
        let name = self.asked.remove(&check).unwrap();
        let observation = self.answers.get(&name).copied().flatten();
        self.heard(&name, observation);
        let input = Input::Checked { check, observation };
        self.router.handle(self.now, input);
        self.work();
    }

    fn heard(&mut self, name: &Name, observation: Option<Observation>) {
        match observation {
            Some(said) => {
                self.term = self.term.max(said.leads);
                self.last.insert(name.clone(), (said, 0));
            }
            None => {
                if let Some((_, missing)) = self.last.get_mut(name) {
                    *missing += 1;
                }
            }
        }
    }

    /// Time passes; what falls due happens on its way, and nobody answers.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        while let Some((at, _why)) = self.router.deadline().filter(|(at, _)| *at <= end) {
            self.sleep_until(at);
            self.router.handle_deadline(self.now);
            self.work();
        }
        self.sleep_until(end);
    }

    fn sleep_until(&mut self, at: Instant) {
        self.now = self.now.plus(at.saturating_duration_since(self.now.mono));
    }

    /// Time passes, and every check is answered at once.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now.mono + time;
        self.answer_all();
        while let Some((at, _why)) = self.router.deadline().filter(|(at, _)| *at <= end) {
            self.pass(at.saturating_duration_since(self.now.mono));
            self.answer_all();
        }
        self.sleep_until(end);
    }

    /// A round of checks, all answered.
    pub(super) fn round(&mut self) {
        self.answer_all();
        self.pass(self.config.interval);
        self.answer_all();
    }

    pub(super) fn ask(&mut self, pool: Pool) -> SessionId {
        self.ids += 1;
        let (id, asked) = (SessionId(self.ids), self.now.mono);
        let state = State::Waiting;
        self.sessions.insert(id, Session { pool, asked, state });
        let input = Input::Ask { pool, session: id };
        self.router.handle(self.now, input);
        self.work();
        id
    }

    /// A session that has a server, and which.
    pub(super) fn open(&mut self, pool: Pool) -> (SessionId, String) {
        let id = self.ask(pool);
        self.connected(id);
        (id, self.server(id).expect("it is led somewhere"))
    }

    pub(super) fn connected(&mut self, id: SessionId) {
        let session = self.sessions.get_mut(&id).unwrap();
        if let State::Connecting(server) = session.state.clone() {
            session.state = State::Open(server);
            self.router.handle(self.now, Input::Connected(id));
            self.work();
        }
    }

    pub(super) fn failed(&mut self, id: SessionId) {
        self.sessions.get_mut(&id).unwrap().state = State::Waiting;
        self.router.handle(self.now, Input::Failed(id));
        self.work();
    }

    pub(super) fn ended(&mut self, id: SessionId) {
        self.sessions.remove(&id);
        self.router.handle(self.now, Input::Ended(id));
        self.work();
    }

    pub(super) fn set_backends(&mut self, backends: &[Name]) {
        self.config.backends = backends.to_vec();
        self.asked.retain(|_, name| backends.contains(name));
        self.last.retain(|name, _| backends.contains(name));
        self.router
            .set_backends(self.now, backends.to_vec())
            .unwrap();
        self.work();
    }

    pub(super) fn server(&self, id: SessionId) -> Option<String> {
        let server = self.sessions.get(&id)?.server()?;
        Some(server.as_str().to_owned())
    }

    // ---- What the machine says ----

    fn work(&mut self) {
        while let Some(output) = self.router.poll_output() {
            self.trace.push(format!("{output:?}"));
            self.obey(output);
            self.check_exclusive();
        }
        self.check();
    }

    fn obey(&mut self, output: Output) {
        match output {
            Output::Check { check, backend } => {
                assert!(!self.asked.values().any(|name| *name == backend));
                self.asked.insert(check, backend);
            }
            Output::Connect { session, backend } => {
                assert!(self.config.backends.contains(&backend));
                let session = self.sessions.get_mut(&session).expect("it lives");
                assert_eq!(session.state, State::Waiting);
                session.state = State::Connecting(backend);
            }
            Output::Wait { session } => {
                let session = self.sessions.get_mut(&session).expect("it lives");
                assert!(matches!(session.state, State::Connecting(_)));
                session.state = State::Waiting;
            }
            Output::Refuse { session, why } => {
                let gone = self.sessions.remove(&session).expect("it lives");
                assert!(!matches!(gone.state, State::Open(_)));
                let waited = self.now.mono - gone.asked;
                match why {
                    Refusal::Full => assert_eq!(waited, Duration::ZERO),
                    Refusal::NoServer => assert!(waited >= self.config.hold),
                }
                self.refused.insert(session, why);
            }
            Output::Reset { session } => {
                let gone = self.sessions.remove(&session).expect("it lives");
                assert!(matches!(gone.state, State::Open(_)));
                self.reset.push(session);
            }
            Output::Event(event) => {
                if let Event::TermForgotten { now, .. } = event {
                    self.term = Some(now);
                }
                self.events.push(event);
            }
        }
    }

    /// Invariant 1, at every instant.
    fn check_exclusive(&self) {
        let exclusive = self.sessions.values();
        let exclusive = exclusive.filter(|session| session.pool == Pool::Exclusive);
        let servers: BTreeSet<&Name> = exclusive.filter_map(Session::server).collect();
        assert!(
            servers.len() <= 1,
            "the exclusive pool leads to {servers:?}"
        );
    }

    /// The invariants of `docs/postgres.md`.
    fn check(&self) {
        let view = self.router.view();
        assert!(view.exclusive.leads_to.len() <= 1);
        assert_eq!(view.term, self.term, "the highest term that was seen");
        for leader in &view.exclusive.leads_to {
            let (said, _) = self.last[&name(leader)];
            assert_eq!(said.leads, self.term, "a lower term is never led to");
        }
        let followers = view.backends.iter().filter(|b| b.follows).count();
        for (id, session) in &self.sessions {
            let waited = self.now.mono - session.asked;
            let is_open = matches!(session.state, State::Open(_));
            assert!(is_open || waited <= self.config.hold, "{id:?} waits");
            let Some(server) = session.server() else {
                continue;
            };
            let (said, missing) = self.last.get(server).expect("it has said something");
            assert!(*missing < self.config.fall, "{server} is silent");
            let is_leader = view.exclusive.leads_to == [server.as_str()];
            let is_follower = said.leads.is_none()
                && view
                    .backends
                    .iter()
                    .any(|b| b.name == server.as_str() && b.follows);
            match (session.pool, &session.state) {
                (Pool::Exclusive, _) => assert!(is_leader),
                (Pool::Shared, State::Connecting(_)) if is_leader => assert!(self.config.fall_back),
                (Pool::Shared, _) => assert!(is_follower || is_leader),
            }
        }
        for (pool, view) in [
            (Pool::Exclusive, &view.exclusive),
            (Pool::Shared, &view.shared),
        ] {
            let ours = self
                .sessions
                .values()
                .filter(|session| session.pool == pool);
            let (open, pending): (Vec<_>, Vec<_>) =
                ours.partition(|session| matches!(session.state, State::Open(_)));
            assert_eq!((view.sessions, view.waiting), (open.len(), pending.len()));
            assert!(open.len() + pending.len() <= self.config.sessions_max);
            assert_eq!(view.leads_to.is_empty(), view.problem.is_some());
        }
        assert!(followers <= self.config.backends.len());
    }
}
