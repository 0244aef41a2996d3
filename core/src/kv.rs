//! What a key-value store can be asked, as values: the semantics are Consul's.
//!
//! Machines ask with a [`Request`] and are told a [`Response`] or a [`Failure`]; `io` has the
//! trait and the implementations. See `docs/membership.md`.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

/// Longest key, bytes.
pub const KEY_LEN_MAX: usize = 512;
/// Largest value, bytes: Consul's own limit.
pub const VALUE_LEN_MAX: usize = 512 * 1024;
/// Longest time that a read may wait: Consul's own limit.
pub const WAIT_MAX: Duration = Duration::from_secs(600);
/// Shortest and longest life of a session: Consul's own limits.
pub const SESSION_TTL: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(10)..=Duration::from_secs(86_400);

/// The identity of a session, as the store gave it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(pub Box<str>);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How fresh a read has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// The leader answers, without asking the others whether it still is: Consul's default.
    #[default]
    Default,
    /// The leader makes sure that it still is.
    Consistent,
    /// Any server answers with what it has.
    Stale,
}

/// Wait for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Answer as soon as the index is greater than this one: that of the previous answer.
    pub after: u64,
    /// Answer then at the latest, at most [`WAIT_MAX`].
    pub at_most: Duration,
}

/// What must be true for a change to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Any,
    /// There is no such entry.
    Absent,
    /// The entry's `modify_index` is this one, which is not 0.
    Unchanged(u64),
}

/// What happens to the entries that a session holds when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behavior {
    /// They stay, held by nobody.
    #[default]
    Release,
    /// They are deleted.
    Delete,
}

/// A session to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSession {
    /// For people.
    pub name: String,
    /// It ends when it was not renewed for this long; it may live up to twice as long.
    pub ttl: Duration,
    /// What becomes of its entries.
    pub behavior: Behavior,
    /// For how long nobody gets an entry that was taken from it by its end (not by a release).
    pub lock_delay: Duration,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read one entry. Answer: [`Response::Entry`].
    Get {
        /// Its key.
        key: String,
        /// How fresh.
        consistency: Consistency,
        /// Whether to wait for a change.
        wait: Option<Wait>,
    },
    /// Read every entry whose key begins like that, in the order of the keys.
    /// Answer: [`Response::Entries`].
    List {
        /// How the keys begin.
        prefix: String,
        /// How fresh.
        consistency: Consistency,
        /// Whether to wait for a change.
        wait: Option<Wait>,
    },
    /// Write an entry. Answer: [`Response::Done`].
    Put {
        /// Its key.
        key: String,
        /// Its value.
        value: Bytes,
        /// Only if.
        condition: Condition,
    },
    /// Write an entry and hold it, if nobody else does. Answer: [`Response::Done`].
    Acquire {
        /// Its key.
        key: String,
        /// Its value.
        value: Bytes,
        /// For whom.
        session: SessionId,
    },
    /// Write an entry and hold it no longer, if this session does. Answer: [`Response::Done`].
    Release {
        /// Its key.
        key: String,
        /// Its value.
        value: Bytes,
        /// Whose.
        session: SessionId,
    },
    /// Delete an entry. Deleting none succeeds, whatever the condition.
    /// Answer: [`Response::Done`].
    Delete {
        /// Its key.
        key: String,
        /// Only if; never [`Condition::Absent`].
        condition: Condition,
    },
    /// Make a session. Answer: [`Response::Session`].
    SessionCreate(NewSession),
    /// Put a session's end off. Answer: [`Response::Done`], false when there is none.
    SessionRenew(SessionId),
    /// End a session. Ending none succeeds. Answer: [`Response::Done`].
    SessionDestroy(SessionId),
}

impl Request {
    /// A fresh read of one entry.
    #[must_use]
    pub fn get(key: impl Into<String>) -> Request {
        Request::Get {
            key: key.into(),
            consistency: Consistency::Consistent,
            wait: None,
        }
    }

    /// A fresh read of all entries below a prefix.
    #[must_use]
    pub fn list(prefix: impl Into<String>) -> Request {
        Request::List {
            prefix: prefix.into(),
            consistency: Consistency::Consistent,
            wait: None,
        }
    }

    /// A write under a condition.
    #[must_use]
    pub fn put(key: impl Into<String>, value: impl Into<Bytes>, condition: Condition) -> Request {
        Request::Put {
            key: key.into(),
            value: value.into(),
            condition,
        }
    }

    /// Whether it changes nothing, so that it may be repeated whatever became of it.
    #[must_use]
    pub const fn is_read(&self) -> bool {
        matches!(self, Request::Get { .. } | Request::List { .. })
    }
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// The index of the change that made it.
    pub create_index: u64,
    /// The index of its last change.
    pub modify_index: u64,
    /// How often it was acquired.
    pub lock_index: u64,
    /// Who holds it.
    pub session: Option<SessionId>,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// The entry, if there is one.
    Entry {
        /// To wait with.
        index: u64,
        /// The entry.
        entry: Option<Entry>,
    },
    /// The entries, in the order of their keys.
    Entries {
        /// To wait with.
        index: u64,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// Whether it was done: false when the condition does not hold, or there is nobody.
    Done(bool),
    /// The new session.
    Session(SessionId),
}

/// Whether a request that failed may have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Determinacy {
    /// It did not, and will not.
    Determinate,
    /// It may have, or may yet.
    Indeterminate,
}

/// What kind of failure, as far as somebody would act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// No server was reached, or none in time, or they have no leader.
    Unavailable,
    /// The token is refused: trying again does not help.
    Forbidden,
    /// The request is wrong: trying again does not help.
    Invalid,
    /// The session that the request names does not exist.
    NoSession,
    /// The server asks for patience.
    Busy,
    /// The answer makes no sense.
    Garbled,
}

/// A request that got no [`Response`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Whether it may have happened.
    pub determinacy: Determinacy,
    /// What kind.
    pub kind: FailureKind,
    /// For people, with the whole chain of causes and without secrets.
    pub message: String,
}

impl Failure {
    /// It did not happen.
    #[must_use]
    pub fn determinate(kind: FailureKind, message: impl Into<String>) -> Failure {
        Failure {
            determinacy: Determinacy::Determinate,
            kind,
            message: message.into(),
        }
    }

    /// It may have happened.
    #[must_use]
    pub fn indeterminate(kind: FailureKind, message: impl Into<String>) -> Failure {
        Failure {
            determinacy: Determinacy::Indeterminate,
            kind,
            message: message.into(),
        }
    }

    /// Whether it certainly did not happen.
    #[must_use]
    pub fn is_determinate(&self) -> bool {
        self.determinacy == Determinacy::Determinate
    }
}
