//! A drill's file, key by key. `docs/testing.md` has an example of every key.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_plan::WorldKind;
use holdfast_plan::drill::{Processes, Rejoin, Synchronous, Target, Transport};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::scenario::values::{Size, Time, Wire};

/// A drill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DrillFile {
    /// The file's name without its ending.
    pub name: String,
    /// What it is about, in a sentence.
    pub description: String,
    /// Where it is played.
    #[schemars(with = "Vec<WorldName>")]
    pub worlds: Vec<WorldKind>,
    /// How many rounds are played in each world.
    #[serde(default)]
    pub seeds: Rounds,
    /// Patroni's and PostgreSQL's settings.
    #[serde(default)]
    pub database: DatabaseTable,
    /// Who is there, what they do, and what is done to them.
    pub drill: DrillTable,
    /// What must hold.
    #[serde(default)]
    pub expect: ExpectDrill,
}

/// A world, for the schema.
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(dead_code, reason = "only its schema is used")]
enum WorldName {
    Core,
    Kernel,
}

/// How many rounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rounds {
    /// In the core world; 200 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub core: Option<u64>,
    /// In the kernel world; 10 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub kernel: Option<u64>,
}

/// Patroni's and PostgreSQL's settings; Patroni's own defaults unless said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DatabaseTable {
    /// Patroni's `ttl`.
    pub ttl: Time,
    /// Patroni's `loop_wait`.
    pub loop_wait: Time,
    /// Patroni's `retry_timeout`.
    pub retry_timeout: Time,
    /// Which commits wait for whom.
    #[schemars(with = "SynchronousName")]
    pub synchronous: Synchronous,
    /// So much data is there before the first round.
    pub fill: Size,
    /// PostgreSQL's parameters beside those that are generated.
    pub parameters: BTreeMap<String, String>,
}

impl Default for DatabaseTable {
    fn default() -> DatabaseTable {
        DatabaseTable {
            ttl: Time(Duration::from_secs(30)),
            loop_wait: Time(Duration::from_secs(10)),
            retry_timeout: Time(Duration::from_secs(10)),
            synchronous: Synchronous::Quorum,
            fill: Size(1_000_000),
            parameters: BTreeMap::new(),
        }
    }
}

/// Which commits wait for whom, for the schema.
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(dead_code, reason = "only its schema is used")]
enum SynchronousName {
    Quorum,
    On,
    Off,
}

/// Who is there, what they do, and what is done to them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DrillTable {
    /// How many workers, each with a database; 3 unless said.
    #[serde(default = "three")]
    #[schemars(range(min = 2, max = 7))]
    pub workers: u8,
    /// How many servers the KV has; 3 unless said.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 5))]
    pub coordinators: u8,
    /// How members reach each other; by the mesh unless said.
    #[serde(default = "mesh")]
    #[schemars(with = "TransportName")]
    pub transport: Transport,
    /// Every worker's line; plain unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Wire>,
    /// How many writers at each worker; one unless said.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 16))]
    pub writers: u8,
    /// How often each writes; every 50 ms unless said.
    #[serde(default = "every")]
    pub every: Time,
    /// How long a client waits for a write; 1 s unless said.
    #[serde(default = "deadline")]
    pub deadline: Time,
    /// What is done.
    pub blow: BlowTable,
    /// So long after the blow what it broke is mended,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heal_after: Option<Time>,
    /// or so long after the first write that the new leader acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heal_after_write: Option<Time>,
    /// How long a round waits for a write after its blow; 90 s unless said.
    #[serde(default = "write_bound")]
    pub write_bound: Time,
    /// How long it waits, once healed, until the cluster is whole; 2 min unless said.
    #[serde(default = "whole_bound")]
    pub whole_bound: Time,
}

const fn one() -> u8 {
    1
}

const fn three() -> u8 {
    3
}

const fn mesh() -> Transport {
    Transport::Mesh
}

const fn every() -> Time {
    Time(Duration::from_millis(50))
}

const fn deadline() -> Time {
    Time(Duration::from_secs(1))
}

const fn write_bound() -> Time {
    Time(Duration::from_secs(90))
}

const fn whole_bound() -> Time {
    Time(Duration::from_secs(120))
}

/// How members reach each other, for the schema.
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(dead_code, reason = "only its schema is used")]
enum TransportName {
    Mesh,
    Loopback,
}

/// What is done; which of the other keys it has depends on its kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlowTable {
    /// What it is.
    pub kind: BlowKind,
    /// To whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<TargetName>")]
    pub target: Option<Target>,
    /// What dies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<ProcessesName>")]
    pub what: Option<Processes>,
    /// The KV's leader dies in the same moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_kv_leader: Option<bool>,
    /// The line carries nothing meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_line: Option<bool>,
    /// What the line is like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Wire>,
    /// How long it lasts.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasts: Option<Time>,
}

/// Kinds of blows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BlowKind {
    /// Processes are killed.
    Kill,
    /// Everything of a worker stands still.
    Freeze,
    /// A worker's line carries nothing.
    Partition,
    /// Patroni's planned switchover.
    Switchover,
    /// A worker is killed, and its data directory is gone.
    Wipe,
    /// Patroni is paused, and PostgreSQL restarted by hand.
    Pause,
    /// Every worker's sidecar is restarted, the leader's last.
    RollingRestart,
    /// A replica is copied anew over another line.
    Copy,
    /// A worker's disk takes no write.
    DiskStall,
    /// All replicas stand still, and waits for them are cancelled.
    CancelWait,
    /// A failover is forced to a replica that has not everything.
    ForceFailover,
}

/// Who is struck, for the schema.
#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(dead_code, reason = "only its schema is used")]
enum TargetName {
    Leader,
    Standby,
    Turn,
}

/// What dies, for the schema.
#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(dead_code, reason = "only its schema is used")]
enum ProcessesName {
    Postmaster,
    Database,
    Machine,
    Agent,
}

/// What must hold, beside what always must: no row is invented, double, or there although its
/// client was told that it is not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpectDrill {
    /// How often another member becomes the leader; exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub failovers: Option<u64>,
    /// The longest time around the blow without an acknowledged write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_gap: Option<Time>,
    /// From the healing until every member is leader or streaming replica; `whole_bound` unless
    /// said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole_within: Option<Time>,
    /// How who was struck comes back: one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<RejoinName>")]
    pub rejoin: Vec<Rejoin>,
    /// How many acknowledged writes may be lost in a round; none unless it is outside of the claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub lost_max: Option<u64>,
    /// How long more than one member may take writes; never unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub two_primaries_max: Option<Time>,
    /// Whether the register must be linearizable; it must unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linearizable: Option<bool>,
    /// What puts it outside of the claim that nothing acknowledged is lost. The verdict has to name
    /// each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outside: Vec<Outside>,
    /// How long the headline may take over the mesh by loopback, in the median of recorded pairs of
    /// rounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1.0, max = 10.0))]
    pub by_loopback_max: Option<f64>,
    /// Spans over the mesh on which the model is known to be apart from what was recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apart: Vec<String>,
}

/// How a member comes back, for the schema.
#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(dead_code, reason = "only its schema is used")]
enum RejoinName {
    Replay,
    Rewind,
    Copy,
}

/// What puts a round outside of the claim that no acknowledged write is lost.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Outside {
    /// `synchronous_commit` below `on`, or no synchronous mode at all: a commit waits for no
    /// replica.
    WeakCommit,
    /// A wait for a synchronous standby was cancelled.
    CancelledWait,
    /// A failover was forced to a candidate that may not have everything.
    ForcedFailover,
}

impl Outside {
    /// As in files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Outside::WeakCommit => "weak-commit",
            Outside::CancelledWait => "cancelled-wait",
            Outside::ForcedFailover => "forced-failover",
        }
    }
}
