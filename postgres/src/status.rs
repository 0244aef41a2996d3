//! What the cluster says of itself: the `postgres` section of the sidecar's status.

use serde::{Deserialize, Serialize};

/// What a member is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It follows.
    Replica,
    /// It does not say.
    #[default]
    Unknown,
}

/// The `postgres` section of the sidecar's status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PostgresStatus {
    /// The name of the cluster of databases.
    pub scope: String,
    /// Patroni's name of this member.
    pub name: String,
    /// What this member is.
    pub role: Role,
    /// The peer id of who leads.
    pub leader: Option<String>,
    /// The highest timeline that was seen.
    pub timeline: Option<u64>,
    /// `quorum`, `on` or `off`, as it is now.
    pub synchronous: String,
    /// Whether Patroni is paused.
    pub paused: bool,
    /// Every member, this one too, by name.
    pub members: Vec<MemberStatus>,
    /// Where clients come in.
    pub endpoints: Vec<EndpointStatus>,
    /// What is wrong while it lasts, each in a sentence.
    pub problems: Vec<String>,
}

/// A member of the cluster of databases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberStatus {
    /// The peer id.
    pub peer: String,
    /// Patroni's name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Patroni's word: `running`, `streaming`, `starting`, `stopped`, …
    pub state: String,
    /// Its timeline.
    pub timeline: Option<u64>,
    /// How far it is behind the leader, bytes.
    pub lag: Option<u64>,
    /// Whether commits wait for it: `sync`, `quorum`, or nothing.
    pub sync: Option<String>,
}

/// Where clients come in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointStatus {
    /// `primary` or `replicas`.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// The peer ids that it leads to at this moment.
    pub leads_to: Vec<String>,
    /// Sessions at this moment.
    pub sessions: usize,
    /// What is wrong with it.
    pub problem: Option<String>,
}
