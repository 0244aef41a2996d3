//! Consul's key-value store and sessions as a machine: no io, no clock, no entropy of its own.
//!
//! 1. [`Store::handle`]: somebody asks, or gives up.
//! 2. [`Store::poll_output`] until nothing is left: what is answered.
//! 3. [`Store::deadline`]: when to call [`Store::handle_deadline`].
//!
//! A change is given to the [`Journal`] before it happens and before anybody is told of it.
//! Where the documentation of Consul leaves room, its source decides (`agent/consul/state`):
//! a write that changes nothing leaves the index alone; a plain write keeps the holder and sets
//! the lock index to 0; a lock delay follows every end of a session, its destruction included.

mod journal;
mod plan;
mod serve;
mod state;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_core::entropy::{Entropy, Seed};
use holdfast_core::kv::{Failure, Request, Response, SessionId, Wait};
use holdfast_core::time::Now;

pub use journal::{Journal, JournalError, Memory};
pub use state::{Batch, Change, Record, RestoreError, Session, State, Stored, Table};

use plan::{check_key, check_prefix, no_ttl};
use watch::{Subject, Waiters};

/// Longest lock delay, as in Consul; a longer one is taken for this.
pub const LOCK_DELAY_MAX: Duration = Duration::from_secs(60);
/// Keys that may wait for the end of a lock delay at one time: sessions made and ended in a loop
/// must not fill the memory.
const LOCK_DELAYS_MAX: usize = 65_536;
/// When the end of a session could not be kept, it is tried again after this.
const END_RETRY: Duration = Duration::from_secs(1);

/// What the store takes at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries. Default 65,536: a cluster has some hundred.
    pub entries_max: usize,
    /// Sessions. Default 4,096.
    pub sessions_max: usize,
    /// Records. Default 4,096.
    pub records_max: usize,
    /// Reads that wait. Default 4,096.
    pub waiting_max: usize,
    /// Bytes of everything together. Default 64 MiB: all of it is in memory.
    pub bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            entries_max: 65_536,
            sessions_max: 4_096,
            records_max: 4_096,
            waiting_max: 4_096,
            bytes_max: 64 << 20,
        }
    }
}

/// How a store behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What it takes at most.
    pub limits: Limits,
    /// When a session ends, in percent of its TTL since its last renewal; drawn anew each time.
    /// Within 100 to 200, which is what Consul promises. Default 200, which is what Consul does,
    /// and what Patroni counts on: it asks for half the TTL that it means.
    pub life_percent: RangeInclusive<u32>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            limits: Limits::default(),
            life_percent: 200..=200,
        }
    }
}

/// A configuration that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Sessions end too early or too late.
    #[error("life_percent is {from} to {to}: expected a range within 100 to 200")]
    Life {
        /// Its start.
        from: u32,
        /// Its end.
        to: u32,
    },
}

/// Something happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Somebody asks.
    Call {
        /// Names the call in [`Output`]; one name at a time.
        ticket: u64,
        /// What.
        request: Request,
    },
    /// Somebody asks what only Consul's HTTP API knows.
    Ask {
        /// Names the call in [`Output`]; one name at a time.
        ticket: u64,
        /// What.
        ask: Ask,
    },
    /// Who asked does not want the answer any more. What was done stays.
    Cancel {
        /// The call.
        ticket: u64,
    },
    /// Another server leads, as it were: every session begins its TTL anew, lock delays are
    /// forgotten.
    LeaderChanged,
}

/// A request that only Consul's HTTP API knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Like the request, which is no read; a write sets the flags of its entry as well, and a
    /// session may have a TTL of 0: it ends when somebody ends it.
    Write {
        /// The request.
        request: Request,
        /// The flags.
        flags: u64,
    },
    /// Delete every entry whose key begins like that. Answer: [`Response::Done`].
    DeleteTree {
        /// How the keys begin.
        prefix: String,
    },
    /// Keep a record. Answer: [`Response::Done`].
    PutRecord {
        /// Its identity.
        id: String,
        /// What it is.
        body: Bytes,
    },
    /// Delete a record; deleting none succeeds. Answer: [`Response::Done`].
    DeleteRecord {
        /// Its identity.
        id: String,
    },
    /// Wait for a change of a table. Answer: [`Response::Entries`] without entries: the index.
    Wait {
        /// The table.
        table: Table,
        /// For how long.
        wait: Option<Wait>,
    },
}

/// Something to tell. Each call that was not cancelled is answered once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// An answer.
    Answer {
        /// The call.
        ticket: u64,
        /// The answer.
        result: Result<Response, Failure>,
    },
}

/// The store.
///
/// Invariants, besides those of [`State`]: nothing is answered that the journal did not keep;
/// a session ends within its life after its last renewal, never before its TTL; a waiting read
/// is answered as soon as its index is greater than the one it named, and when its time is over.
pub struct Store<J = Memory> {
    config: Config,
    seed: Seed,
    draws: Entropy,
    state: State,
    journal: J,
    /// The journal may have kept a change that did not happen here.
    unsure: bool,
    ends: BTreeMap<SessionId, Instant>,
    by_end: BTreeSet<(Instant, SessionId)>,
    lock_delays: BTreeMap<String, Instant>,
    waiters: Waiters,
    outputs: VecDeque<Output>,
}

impl Store<Memory> {
    /// An empty store that ends with its process.
    pub fn new(config: Config, seed: Seed, now: Now) -> Result<Store, ConfigError> {
        Store::with_journal(config, seed, now, State::default(), Memory)
    }
}

impl<J: Journal> Store<J> {
    /// A store that goes on from `state`, which `journal` keeps. Every session begins its TTL
    /// anew, and lock delays are forgotten, as after a change of Consul's leader.
    pub fn with_journal(
        config: Config,
        seed: Seed,
        now: Now,
        state: State,
        journal: J,
    ) -> Result<Store<J>, ConfigError> {
        let (from, to) = (*config.life_percent.start(), *config.life_percent.end());
        if from < 100 || to > 200 || from > to {
            return Err(ConfigError::Life { from, to });
        }
        let mut store = Store {
            config,
            draws: seed.fork("kv/draws").rng(),
            seed: seed.fork("kv/sessions"),
            state,
            journal,
            unsure: false,
            ends: BTreeMap::new(),
            by_end: BTreeSet::new(),
            lock_delays: BTreeMap::new(),
            waiters: Waiters::default(),
            outputs: VecDeque::new(),
        };
        store.restart_sessions(now.mono);
        Ok(store)
    }

    /// Something happened.
    pub fn handle(&mut self, now: Now, input: Input) {
        // A leader that was not there ends no session.
        if !matches!(input, Input::LeaderChanged) {
            self.handle_deadline(now);
        }
        match input {
            Input::Call { ticket, request } => match request {
                Request::Get { key, wait, .. } => match check_key(&key) {
                    Ok(()) => self.read(now.mono, ticket, Subject::Key(key), wait),
                    Err(failure) => self.answer(ticket, Err(failure)),
                },
                Request::List { prefix, wait, .. } => match check_prefix(&prefix) {
                    Ok(()) => self.read(now.mono, ticket, Subject::Prefix(prefix), wait),
                    Err(failure) => self.answer(ticket, Err(failure)),
                },
                Request::SessionCreate(asked) if asked.ttl.is_zero() => {
                    self.answer(ticket, Err(no_ttl()));
                }
                request => self.change(now, ticket, Ask::Write { request, flags: 0 }),
            },
            Input::Ask { ticket, ask } => match ask {
                Ask::Wait { table, wait } => {
                    self.read(now.mono, ticket, Subject::Table(table), wait);
                }
                ask => self.change(now, ticket, ask),
            },
            Input::Cancel { ticket } => {
                self.waiters.remove(ticket);
                let wanted = |output: &Output| match output {
                    Output::Answer { ticket: other, .. } => *other != ticket,
                };
                self.outputs.retain(wanted);
            }
            Input::LeaderChanged => self.restart_sessions(now.mono),
        }
    }

    /// Everything that is due by `now`: sessions end, waiting reads are answered.
    pub fn handle_deadline(&mut self, now: Now) {
        while let Some((end, _)) = self.by_end.first()
            && *end <= now.mono
        {
            let (_, id) = self.by_end.pop_first().expect("it was just seen");
            if self.expire(now, &id).is_err() {
                self.set_end(id, now.mono + END_RETRY);
            }
        }
        while let Some(ticket) = self.waiters.over(now.mono) {
            self.answer_waiter(ticket);
        }
    }

    /// The next thing to tell.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Store::handle_deadline`], and why.
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        let session = self.by_end.first().map(|(end, _)| (*end, "session"));
        let read = self.waiters.deadline().map(|until| (until, "waiting read"));
        session.into_iter().chain(read).min()
    }

    /// What the store holds.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// When a session ends unless it is renewed.
    pub fn session_end(&self, id: &SessionId) -> Option<Instant> {
        self.ends.get(id).copied()
    }

    /// How many reads wait.
    pub fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Whether this call is a read that waits.
    pub fn waits(&self, ticket: u64) -> bool {
        self.waiters.get(ticket).is_some()
    }

    /// The journal.
    pub fn journal(&self) -> &J {
        &self.journal
    }

    /// The journal, for tests and models that keep more in it.
    pub fn journal_mut(&mut self) -> &mut J {
        &mut self.journal
    }

    fn answer(&mut self, ticket: u64, result: Result<Response, Failure>) {
        self.outputs.push_back(Output::Answer { ticket, result });
    }
}
