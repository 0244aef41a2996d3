//! Which server an endpoint leads to: by what the servers say of themselves when they are asked.
//!
//! There are two pools. [`Pool::Exclusive`] leads to at most one server: the one that leads, by
//! the highest term. [`Pool::Shared`] takes turns among those that follow. Invariants:
//! `docs/postgres.md`, "Endpoints". What a term is, and how a server is asked, is the driver's; of
//! PostgreSQL nothing is known here.
//!
//! A *session* is a client's connection: it asks for a server, waits for at most
//! [`Config::hold`], is connected, and ends, or is reset when its server is no longer one.

mod check;
mod machine;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use check::{ConfigError, check_backends};
pub use machine::Router;

/// Most servers: the peers of a node, and the node itself.
pub const BACKENDS_MAX: usize = crate::config::PEERS_MAX + 1;
/// Most sessions that a pool may be configured to have: each is two file descriptors, of which a
/// process has about a million.
pub const SESSIONS_MAX: usize = 100_000;
/// Most answers in a row that a change may be configured to take: more is never.
pub const STREAK_MAX: u32 = 1000;
/// Shortest time between two checks of a server: below it the checks are most of its work.
pub const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Longest time that can be configured: an hour. Whoever means longer means for ever.
pub const TIME_MAX: Duration = Duration::from_secs(3600);
/// Wait after a connect that failed before the same server is tried again.
pub const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// A term that was seen is forgotten when nobody has led by it for so long while somebody led by
/// a lower one without a break: the servers were restored from a backup, or made anew. Ten times
/// the `ttl` of Patroni's leader key: an old leader that woke up has long learnt what it is.
pub const TERM_MEMORY: Duration = Duration::from_secs(300);

/// The name of a server: 1 to 63 letters, digits, '-', '_', '.'.
pub type Name = crate::types::PeerId;

/// What is led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// The one server that leads.
    Exclusive,
    /// The servers that follow, in turns.
    Shared,
}

/// How servers are asked and sessions are led.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The servers.
    pub backends: Vec<Name>,
    /// While nobody follows, [`Pool::Shared`] leads to the one that leads.
    pub fall_back: bool,
    /// How often every server is asked; up to a tenth earlier, so that nodes that started
    /// together do not ask together.
    pub interval: Duration,
    /// How long it may take to answer: what comes later is no answer, however good it is.
    pub timeout: Duration,
    /// So many good answers in a row make a server up. The first answer of a server that never
    /// answered counts at once.
    pub rise: u32,
    /// So many bad ones, or missing ones, make it down. An answer that says that it no longer
    /// leads, or leads instead of following, does at once.
    pub fall: u32,
    /// How long a session waits for a server until it is connected.
    pub hold: Duration,
    /// So many sessions at once, of each pool; those that wait are among them.
    pub sessions_max: usize,
}

/// What a server said of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Observation {
    /// By which term it leads, if it does. Of two that lead the higher term is right.
    pub leads: Option<u64>,
    /// Whether it follows closely enough to be read from. Does not count when it leads.
    pub follows: bool,
}

/// Names a question to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckId(pub u64);

/// Names a session. The driver gives every one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A server answered, or did not in time. Each [`Output::Check`] is answered once.
    Checked {
        /// Which check.
        check: CheckId,
        /// What it said; `None`: nothing, or nothing that makes sense.
        observation: Option<Observation>,
    },
    /// A client came and wants a server.
    Ask {
        /// Of this pool.
        pool: Pool,
        /// A name that no session has.
        session: SessionId,
    },
    /// The server that [`Output::Connect`] named took the connection.
    Connected(SessionId),
    /// It did not, or not in time.
    Failed(SessionId),
    /// The session is over, or its client gave up.
    Ended(SessionId),
}

/// What to do, or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask this server.
    Check {
        /// To answer with.
        check: CheckId,
        /// Whom.
        backend: Name,
    },
    /// Connect the session to this server; answer with [`Input::Connected`] or [`Input::Failed`].
    Connect {
        /// Which.
        session: SessionId,
        /// To whom.
        backend: Name,
    },
    /// Leave the attempt to connect this session, without an answer: its server is none any more.
    /// The session waits for another.
    Wait {
        /// Which.
        session: SessionId,
    },
    /// Close the client's connection: the session is over, with no answer to this. An attempt to
    /// connect it is left.
    Refuse {
        /// Which.
        session: SessionId,
        /// Why.
        why: Refusal,
    },
    /// Reset both ends: the session is over, with no answer to this.
    Reset {
        /// Which.
        session: SessionId,
    },
    /// Something that others act on, or log.
    Event(Event),
}

/// Why a session was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// As many as may be are there.
    #[error("there are as many sessions as there may be")]
    Full,
    /// It has waited for as long as it may.
    #[error("no server took it in time")]
    NoServer,
}

/// Something that others act on, or log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A server is up for a pool.
    Up {
        /// Which server.
        backend: Name,
        /// For which pool.
        pool: Pool,
    },
    /// A server is down for a pool. Its sessions are reset.
    Down {
        /// Which server.
        backend: Name,
        /// For which pool.
        pool: Pool,
        /// Why.
        why: Loss,
    },
    /// The exclusive pool leads to another server.
    Switched {
        /// To whom it led.
        from: Option<Name>,
        /// To whom it leads.
        to: Option<Name>,
        /// The highest term that was seen.
        term: Option<u64>,
    },
    /// Two servers lead by the same term: the pool leads to one of them, to one that answers
    /// rather than to one that is silent, and to the one that it led to if it can.
    Ambiguous {
        /// Whom it leads to.
        kept: Name,
        /// Who also says so.
        other: Name,
        /// The term.
        term: u64,
    },
    /// The term that was the highest was forgotten, see [`TERM_MEMORY`].
    TermForgotten {
        /// The highest until now.
        was: u64,
        /// The highest from now on.
        now: u64,
    },
}

/// Why a server went down for a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// It does not answer.
    #[error("it does not answer")]
    Silent,
    /// It answers, and is none for this pool.
    #[error("it says that it is none")]
    RoleLost,
    /// It is not among the servers any more.
    #[error("it is not among the servers any more")]
    Removed,
}

/// Pools and servers, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct View {
    /// The pool of the one that leads.
    pub exclusive: PoolView,
    /// The pool of those that follow.
    pub shared: PoolView,
    /// The highest term that was seen.
    pub term: Option<u64>,
    /// Every server, by name.
    pub backends: Vec<BackendView>,
}

/// A pool, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PoolView {
    /// The servers that a session would be led to at this moment.
    pub leads_to: Vec<String>,
    /// Sessions that have a server.
    pub sessions: usize,
    /// Sessions that wait for one, or are being connected.
    pub waiting: usize,
    /// Sessions that were refused, ever.
    pub refused: u64,
    /// Sessions that were reset, ever.
    pub resets: u64,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// A server, for people.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct BackendView {
    /// Its name.
    pub name: String,
    /// Whether it is up as the one that leads.
    pub leads: bool,
    /// Whether it is up as one that follows.
    pub follows: bool,
    /// The term that it leads by, by its last answer.
    pub term: Option<u64>,
    /// Why it is what it is.
    pub why: String,
}
