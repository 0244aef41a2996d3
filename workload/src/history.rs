//! What writers did, and what was found afterwards.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a client knows of an operation of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It happened.
    Acknowledged,
    /// It did not happen: a determinate error.
    Failed,
    /// It may have: the deadline passed, the connection broke, or a wait for a synchronous
    /// standby was cancelled.
    Unknown,
}

/// A row that was to be inserted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Its key: the writer's number and the row's, so that no two writes have one.
    pub id: u64,
    /// Through which member's endpoint.
    pub member: String,
    /// When it was asked for, since the history began.
    pub asked: Duration,
    /// When the client knew, or gave up.
    pub ended: Duration,
    /// What it knew.
    pub outcome: Outcome,
    /// Which server took it, if it said so: its address and timeline.
    pub server: Option<String>,
    /// What it was told, if not that all is well; without secrets.
    pub error: Option<String>,
}

/// An operation on the register that all writers share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterOp {
    /// Who.
    pub client: u16,
    /// When it was asked for.
    pub asked: Duration,
    /// When it was over.
    pub ended: Duration,
    /// The value written, or `None` for a read.
    pub wrote: Option<u64>,
    /// What a read returned.
    pub read: Option<u64>,
    /// What the client knew.
    pub outcome: Outcome,
}

/// A row that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Its key.
    pub id: u64,
    /// How often.
    pub times: u32,
}

/// What writers did, and what was found afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// All writes, ascending by when they were asked for.
    pub writes: Vec<Write>,
    /// All operations on the register.
    pub register: Vec<RegisterOp>,
    /// All rows that were there at the end; `None` if they could not be read.
    pub found: Option<Vec<Found>>,
}
