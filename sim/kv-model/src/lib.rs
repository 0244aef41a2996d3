//! A key-value store that fails as Consul does, in virtual time.
//!
//! [`KvModel`] is the embedded store ([`holdfast_servers::kv::store`]) behind a bad network. It has
//! the verbs of every machine, except that each call names the client that makes it:
//!
//! 1. [`KvModel::call`]: a client asks; [`KvModel::cancel`]: it gave up.
//! 2. [`KvModel::poll_output`] until nothing is left: who is answered what.
//! 3. [`KvModel::deadline`]: when to call [`KvModel::handle_deadline`].
//!
//! Faults are set on it at any time. [`KvModel::history`] is what an oracle reads. With the feature
//! `io`, `asked` is the model as a `holdfast_io::kv::Kv`.

#[cfg(feature = "io")]
pub mod asked;
mod history;
mod model;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::time::Duration;

use holdfast_core::kv::{Failure, Response};
pub use holdfast_net_model::Ratio;
use holdfast_servers::kv::store::Limits;

pub use history::Applied;
pub use model::KvModel;

/// What a world is told to expect of its key-value store.
#[derive(Clone, Debug)]
pub struct Config {
    /// From the caller to the store, and the same back. Default 1 ms to 20 ms.
    pub delay: RangeInclusive<Duration>,
    /// How long a caller waits for an answer, besides the wait of a read. Default 10 s.
    pub patience: Duration,
    /// When a session ends, in percent of its TTL since the last renewal, drawn each time.
    /// Default 100 to 200, which is what Consul promises; what is outside is taken for its bound.
    pub life_percent: RangeInclusive<u32>,
    /// What the store takes at most.
    pub limits: Limits,
    /// What goes wrong by chance.
    pub faults: Faults,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            delay: Duration::from_millis(1)..=Duration::from_millis(20),
            patience: Duration::from_secs(10),
            life_percent: 100..=200,
            limits: Limits::default(),
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
