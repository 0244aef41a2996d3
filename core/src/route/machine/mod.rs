//! The machine that asks servers what they are, and leads sessions to them.

mod backend;
mod choice;
mod sessions;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::{
    CheckId, Config, ConfigError, Event, Input, Loss, Name, Output, Pool, PoolView, View,
    check_backends,
};
use crate::entropy::{Entropy, Seed};
use crate::time::Now;
use backend::{Backend, Check};
use sessions::Sessions;

/// A check comes earlier than its interval by up to this part of it.
const JITTER_PART: u32 = 10;

/// Decides which server an endpoint leads to.
///
/// Outputs are to be worked off in their order: a session to an old leader is reset before another
/// is connected to the new one.
#[derive(Debug)]
pub struct Router {
    config: Config,
    entropy: Entropy,
    backends: BTreeMap<Name, Backend>,
    /// Checks that are not answered yet.
    asked: BTreeMap<CheckId, Name>,
    checks: u64,
    /// Whom the exclusive pool leads to.
    leader: Option<Name>,
    /// The highest term that was seen.
    term: Option<u64>,
    /// Since when somebody leads by a lower term and nobody by that one.
    regressed: Option<Instant>,
    /// Two that lead by one term, as it was told.
    ambiguous: Option<(Name, Name)>,
    /// Whose turn it was last.
    turn: Option<Name>,
    sessions: Sessions,
    outputs: VecDeque<Output>,
}

impl Router {
    /// A machine that knows nothing of the servers, and asks all of them at once.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] that names what is wrong.
    pub fn new(config: Config, seed: &Seed, now: Now) -> Result<Router, ConfigError> {
        config.check()?;
        let backends = config.backends.iter();
        let backends = backends.map(|name| (name.clone(), Backend::new(now.mono)));
        let mut router = Router {
            entropy: seed.fork("route").rng(),
            backends: backends.collect(),
            asked: BTreeMap::new(),
            checks: 0,
            leader: None,
            term: None,
            regressed: None,
            ambiguous: None,
            turn: None,
            sessions: Sessions::default(),
            outputs: VecDeque::new(),
            config,
        };
        router.ask_due(now.mono);
        Ok(router)
    }

    /// Pools and servers, for people.
    #[must_use]
    pub fn view(&self) -> View {
        let views = self.backends.iter();
        View {
            exclusive: self.pool_view(Pool::Exclusive),
            shared: self.pool_view(Pool::Shared),
            term: self.term,
            backends: views.map(|(name, backend)| backend.view(name)).collect(),
        }
    }

    fn pool_view(&self, pool: Pool) -> PoolView {
        let counts = self.sessions.counts(pool);
        let to_leader = pool == Pool::Exclusive || (self.config.fall_back && !self.has_followers());
        let led_to: Vec<&Name> = match to_leader {
            true => self.leader.iter().collect(),
            false => {
                let up = self.backends.iter().filter(|(_, b)| b.follows.up);
                up.map(|(name, _)| name).collect()
            }
        };
        let is_led = !led_to.is_empty();
        PoolView {
            leads_to: led_to.into_iter().map(|n| n.as_str().to_owned()).collect(),
            sessions: counts.open,
            waiting: counts.sessions - counts.open,
            refused: counts.refused,
            resets: counts.resets,
            problem: (!is_led).then(|| self.problem(to_leader)),
        }
    }

    fn problem(&self, to_leader: bool) -> String {
        match (to_leader, self.pretender(), self.term) {
            (false, _, _) => "no server follows".to_owned(),
            (true, Some((name, term)), Some(seen)) => format!(
                "{name} leads by term {term}, and {seen} was seen: not before {} s without that",
                super::TERM_MEMORY.as_secs()
            ),
            (true, _, _) => "no server leads".to_owned(),
        }
    }

    /// When to wake, and why.
    #[must_use]
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        let due = self.backends.values().filter_map(|b| match b.check {
            Check::Due(at) => Some((at, "a server is to be asked")),
            Check::Asked { .. } => None,
        });
        let session = self.sessions.first_timer();
        let session = session.map(|at| (at, "a session has waited"));
        let forget = self.forget_at().map(|at| (at, "a term is to be forgotten"));
        due.chain(session).chain(forget).min_by_key(|(at, _)| *at)
    }

    /// What to do, or to know.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Time passed.
    pub fn handle_deadline(&mut self, now: Now) {
        let now = now.mono;
        self.ask_due(now);
        self.forget_term(now);
        self.wake_sessions(now);
    }

    /// Something happened.
    pub fn handle(&mut self, now: Now, input: Input) {
        let now = now.mono;
        match input {
            Input::Checked { check, observation } => {
                let Some(name) = self.asked.remove(&check) else {
                    return;
                };
                let next = self.interval();
                let Some(backend) = self.backends.get_mut(&name) else {
                    return;
                };
                let Check::Asked { at, .. } = backend.check else {
                    return;
                };
                backend.check = Check::Due(now.max(at + next));
                // Somebody may have slept meanwhile: what was true then says nothing of now.
                let in_time = now.saturating_duration_since(at) <= self.config.timeout;
                let observation = observation.filter(|_| in_time);
                let changes = backend.observe(observation, self.config.rise, self.config.fall);
                for (pool, loss) in changes {
                    self.changed(&name, pool, loss);
                }
                self.elect(now);
                self.place_all();
            }
            Input::Ask { pool, session } => self.asked(now, pool, session),
            Input::Connected(session) => self.connected(session),
            Input::Failed(session) => self.failed(now, session),
            Input::Ended(session) => self.ended(session),
        }
    }

    /// These are the servers from now on. The sessions of those that stay go on; those of others
    /// are reset.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] that names what is wrong; then nothing has changed.
    pub fn set_backends(&mut self, now: Now, backends: Vec<Name>) -> Result<(), ConfigError> {
        check_backends(&backends)?;
        let now = now.mono;
        let gone: Vec<Name> = self.backends.keys().cloned().collect();
        for name in gone.into_iter().filter(|name| !backends.contains(name)) {
            let Some(backend) = self.backends.remove(&name) else {
                continue;
            };
            if let Check::Asked { check, .. } = backend.check {
                self.asked.remove(&check);
            }
            for pool in [Pool::Exclusive, Pool::Shared] {
                if backend.health(pool).up {
                    self.changed(&name, pool, Some(Loss::Removed));
                }
            }
        }
        for name in &backends {
            let known = self.backends.entry(name.clone());
            known.or_insert_with(|| Backend::new(now));
        }
        self.config.backends = backends;
        self.elect(now);
        self.place_all();
        self.ask_due(now);
        Ok(())
    }

    fn changed(&mut self, name: &Name, pool: Pool, loss: Option<Loss>) {
        let backend = name.clone();
        match loss {
            None => self.tell(Event::Up { backend, pool }),
            Some(why) => {
                self.tell(Event::Down { backend, pool, why });
                // Who led is left by the election.
                if pool == Pool::Shared {
                    self.abandon(pool, name);
                }
            }
        }
    }

    /// Ask everybody who is due.
    fn ask_due(&mut self, now: Instant) {
        for (name, backend) in &mut self.backends {
            let Check::Due(at) = backend.check else {
                continue;
            };
            if at > now {
                continue;
            }
            self.checks += 1;
            let check = CheckId(self.checks);
            backend.check = Check::Asked { check, at: now };
            self.asked.insert(check, name.clone());
            self.outputs.push_back(Output::Check {
                check,
                backend: name.clone(),
            });
        }
    }

    fn interval(&mut self) -> std::time::Duration {
        let spread = self.config.interval / JITTER_PART;
        let bound = u64::try_from(spread.as_nanos()).unwrap_or(u64::MAX);
        let earlier = self.entropy.below(bound.saturating_add(1).max(1));
        self.config.interval - std::time::Duration::from_nanos(earlier)
    }

    fn tell(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }
}
