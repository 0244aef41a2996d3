//! A key-value store that fails as Consul does, in virtual time.
//!
//! [`KvModel`] has the verbs of every machine, except that each call names the client that
//! makes it:
//!
//! 1. [`KvModel::call`]: a client asks; [`KvModel::cancel`]: it gave up.
//! 2. [`KvModel::poll_output`] until nothing is left: who is answered what.
//! 3. [`KvModel::deadline`]: when to call [`KvModel::handle_deadline`].
//!
//! Faults are set on it at any time. [`KvModel::history`] is what an oracle reads.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use holdfast_core::entropy::Seed;
use holdfast_core::kv::{Entry, Failure, FailureKind, Request, Response};
use holdfast_core::time::Now;
use holdfast_net_model::Ratio;

/// What a world is told to expect of its key-value store.
#[derive(Clone, Debug)]
pub struct Config {
    /// From the caller to the store, and the same back. Default 1 ms to 20 ms.
    pub delay: RangeInclusive<Duration>,
    /// How long a caller waits for an answer, besides the wait of a read. Default 10 s.
    pub patience: Duration,
    /// When a session ends, in percent of its TTL since the last renewal, drawn each time.
    /// Default 100 to 200, which is what Consul promises.
    pub life_percent: RangeInclusive<u32>,
    /// What goes wrong by chance.
    pub faults: Faults,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            delay: Duration::from_millis(1)..=Duration::from_millis(20),
            patience: Duration::from_secs(10),
            life_percent: 100..=200,
            faults: Faults::default(),
        }
    }
}

/// What goes wrong by chance, drawn for each call. Default: nothing.
#[derive(Clone, Debug)]
pub struct Faults {
    /// The request is lost: it never happens, and the caller's time runs out.
    pub lost_request: Ratio,
    /// The answer is lost: it happened, and the caller's time runs out.
    pub lost_answer: Ratio,
    /// The request is late: it happens after the caller's time ran out.
    pub late_request: Ratio,
    /// How much later than the end of the caller's patience. Default 1 ms to 30 s.
    pub late_by: RangeInclusive<Duration>,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            lost_request: Ratio::NEVER,
            lost_answer: Ratio::NEVER,
            late_request: Ratio::NEVER,
            late_by: Duration::from_millis(1)..=Duration::from_secs(30),
        }
    }
}

/// An answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Who asked.
    pub client: u32,
    /// The caller's name for the call.
    pub ticket: u64,
    /// The answer.
    pub result: Result<Response, Failure>,
}

/// A change that was applied to an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its index.
    pub index: u64,
    /// When.
    pub at: Now,
    /// Whose call it was; nobody's when a session ended by itself.
    pub by: Option<(u32, u64)>,
    /// The key.
    pub key: String,
    /// The entry before.
    pub before: Option<Entry>,
    /// The entry from then on.
    pub after: Option<Entry>,
}

/// The store with its faults.
///
/// Invariant: every call that is not cancelled is answered once, at the latest when the caller's
/// patience (and the wait of the read) is over.
pub struct KvModel {
    cut: BTreeSet<u32>,
    outputs: VecDeque<Answered>,
    history: Vec<Applied>,
}

impl KvModel {
    /// An empty store.
    pub fn new(config: Config, seed: Seed, now: Now) -> KvModel {
        let _ = (config, seed, now);
        KvModel {
            cut: BTreeSet::new(),
            outputs: VecDeque::new(),
            history: Vec::new(),
        }
    }

    /// A client asks. `ticket` names the call among those of this client.
    pub fn call(&mut self, now: Now, client: u32, ticket: u64, request: Request) {
        let _ = (now, request);
        self.outputs.push_back(Answered {
            client,
            ticket,
            result: Err(Failure::determinate(FailureKind::Unavailable, "no leader")),
        });
    }

    /// The client does not want the answer any more. The request may happen all the same.
    pub fn cancel(&mut self, now: Now, client: u32, ticket: u64) {
        let _ = (now, client, ticket);
    }

    /// Everything that is due by `now`.
    pub fn handle_deadline(&mut self, now: Now) {
        let _ = now;
    }

    /// The next answer.
    pub fn poll_output(&mut self) -> Option<Answered> {
        self.outputs.pop_front()
    }

    /// When to call [`KvModel::handle_deadline`], and why.
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        None
    }

    /// From now on, other things go wrong by chance.
    pub fn set_faults(&mut self, faults: Faults) {
        let _ = faults;
    }

    /// Cut this client off, or no longer: nothing that it sends arrives, nor any answer to it.
    pub fn set_cut(&mut self, now: Now, client: u32, cut: bool) {
        let _ = now;
        match cut {
            true => self.cut.insert(client),
            false => self.cut.remove(&client),
        };
    }

    /// Nobody serves until `until`: connections are refused, calls on their way are lost.
    pub fn set_unavailable(&mut self, now: Now, until: Instant) {
        let _ = (now, until);
    }

    /// The leader is gone, and the next one serves from `until` on: some calls are refused, some
    /// lost, some done late; then every session begins its TTL anew and lock delays are forgotten.
    pub fn change_leader(&mut self, now: Now, until: Instant) {
        let _ = (now, until);
    }

    /// Every entry as it is now, in the order of the keys.
    pub fn entries(&self) -> Vec<Entry> {
        Vec::new()
    }

    /// One entry as it is now.
    pub fn entry(&self, key: &str) -> Option<Entry> {
        let _ = key;
        None
    }

    /// Every change of an entry so far, in the order in which they happened.
    pub fn history(&self) -> &[Applied] {
        &self.history
    }
}
