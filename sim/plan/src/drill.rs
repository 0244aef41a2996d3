//! A drill: a whole cluster of Patroni and PostgreSQL, a blow, and what came of it.
//!
//! Unlike a [`Plan`](crate::Plan), whose steps have times, a drill waits for conditions: the
//! cluster is whole, the moment in Patroni's loop that the seed draws has come, it is whole again.
//! A seed is one *round*; a world that keeps its cluster plays many rounds on it. What was right
//! is for the harness to say. What must hold is in `docs/postgres.md`.

use std::time::Duration;

use holdfast_workload::History;
use serde::{Deserialize, Serialize};

/// What is played.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drill {
    /// The scenario's name.
    pub name: String,
    /// Patroni's and PostgreSQL's settings.
    pub database: Database,
    /// How members reach each other.
    pub transport: Transport,
    /// Every worker's line to the others, in the language of `holdfast-wire`, both ways; plain
    /// without it.
    pub link: Option<String>,
    /// How many workers, each with a database.
    pub workers: u8,
    /// How many servers the KV has; they are on the coordinators.
    pub coordinators: u8,
    /// What the workload is.
    pub work: Work,
    /// What is done to the cluster.
    pub blow: Blow,
    /// How long after the blow what it broke is mended: nodes start again, links are whole.
    pub heal_after: Heal,
    /// How long a round may wait for the first acknowledged write after its blow.
    pub write_bound: Duration,
    /// How long it may wait, once healed, until the cluster is whole.
    pub whole_bound: Duration,
}

/// Patroni's and PostgreSQL's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// Patroni's `ttl`.
    pub ttl: Duration,
    /// Patroni's `loop_wait`.
    pub loop_wait: Duration,
    /// Patroni's `retry_timeout`.
    pub retry_timeout: Duration,
    /// Which commits wait for whom.
    pub synchronous: Synchronous,
    /// Bytes of rows that are there before the first round.
    pub fill: u64,
    /// PostgreSQL's parameters beside those that are generated.
    pub parameters: Vec<(String, String)>,
}

/// Patroni's `synchronous_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// Any one of the replicas has it.
    Quorum,
    /// The one synchronous standby has it.
    On,
    /// Nobody but the leader.
    Off,
}

/// How members reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Behind NATs, by the mesh.
    Mesh,
    /// All in one namespace, by loopback: the baseline that the mesh is compared with.
    Loopback,
}

/// What clients do all the while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// How many writers at each worker, through its endpoint.
    pub writers: u8,
    /// How often each writes.
    pub every: Duration,
    /// A write that takes longer is unknown, and its connection closed.
    pub deadline: Duration,
}

/// Who is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Who leads the database.
    Leader,
    /// A replica that commits wait for.
    Standby,
    /// Each worker in turn, by round.
    Turn,
}

/// What dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Processes {
    /// PostgreSQL's postmaster alone.
    Postmaster,
    /// Patroni, and PostgreSQL with all of its processes.
    Database,
    /// Everything on the machine, and its line is cut.
    Machine,
    /// The Consul agent.
    Agent,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Blow {
    /// SIGKILL.
    Kill {
        /// Whose.
        target: Target,
        /// What.
        what: Processes,
        /// Consul's leader dies in the same moment.
        with_kv_leader: bool,
    },
    /// Everything stands still.
    Freeze {
        /// Whose.
        target: Target,
        /// Its line carries nothing meanwhile. Without it the kernel still answers for it.
        with_line: bool,
    },
    /// The line carries nothing.
    Partition {
        /// Whose.
        target: Target,
    },
    /// Patroni's planned switchover.
    Switchover,
    /// Killed, and its data directory is gone.
    Wipe {
        /// Whose.
        target: Target,
    },
    /// Patroni is paused; PostgreSQL of the leader is restarted by hand, and nobody takes over.
    Pause,
    /// Every worker's sidecar is stopped and started, one after the other, the leader last.
    RollingRestart,
    /// A replica is copied anew over a narrow, lossy line. Nobody takes over.
    Copy {
        /// The line, in the language of `holdfast-wire`.
        link: String,
    },
    /// The disk takes no write for so long. Nobody takes over.
    DiskStall {
        /// Whose.
        target: Target,
        /// For how long, milliseconds.
        for_ms: u64,
    },
    /// All replicas stand still, and the waits of commits for them are cancelled one by one
    /// (`pg_cancel_backend`) until what is broken is mended. Nobody takes over.
    CancelWait,
    /// The line of a replica carries nothing until commits no longer wait for it; then a failover
    /// to it is forced (Patroni's `POST /failover` with a candidate).
    ForceFailover,
}

impl Blow {
    /// Whether nobody should take over because of it, late ones included.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        match self {
            Blow::Kill { what, .. } => *what == Processes::Agent,
            // The last restart moves the leader; then it stays.
            Blow::Copy { .. } | Blow::DiskStall { .. } | Blow::Pause | Blow::RollingRestart => true,
            _ => false,
        }
    }
}

/// When what was broken is mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heal {
    /// So long after the blow.
    After(Duration),
    /// As soon as there is a new leader that takes writes, and this long after it.
    AfterWrite(Duration),
}

/// A moment of a round, in the order in which they usually come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Point {
    /// The last write that the old leader acknowledged was asked for.
    LastAcknowledged,
    /// The blow.
    Fault,
    /// Somebody noticed: the first line of a log, or health check, that says so.
    Detected,
    /// The leader's key is free.
    KeyFree,
    /// Another member has the leader's key.
    KeyTaken,
    /// PostgreSQL has left recovery.
    Promoted,
    /// An endpoint leads to the new leader.
    Switched,
    /// The first write after the blow was acknowledged.
    FirstAcknowledged,
    /// What was broken is mended.
    Healed,
    /// The old leader streams from the new one.
    OldBack,
    /// Every member is there, as leader or streaming replica.
    Whole,
}

impl Point {
    /// As in tables and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Point::LastAcknowledged => "last-acknowledged",
            Point::Fault => "fault",
            Point::Detected => "detected",
            Point::KeyFree => "key-free",
            Point::KeyTaken => "key-taken",
            Point::Promoted => "promoted",
            Point::Switched => "switched",
            Point::FirstAcknowledged => "first-acknowledged",
            Point::Healed => "healed",
            Point::OldBack => "old-back",
            Point::Whole => "whole",
        }
    }
}

/// When a [`Point`] came, and who says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Since the round began.
    pub at: Duration,
    /// What.
    pub point: Point,
    /// Of which member, if of one.
    pub member: Option<String>,
    /// Who says so: a log and its line, the KV, a client.
    pub source: String,
}

/// How a member that was struck came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rejoin {
    /// By replaying WAL.
    Replay,
    /// By `pg_rewind`.
    Rewind,
    /// By a copy of everything.
    Copy,
}

/// What a round's observer saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// Its seed.
    pub seed: u64,
    /// When within Patroni's loop the blow came: parts in a thousand of `loop_wait` after the
    /// leader's last renewal of its key.
    pub phase: u32,
    /// Who led before.
    pub leader: String,
    /// Who was struck.
    pub struck: Vec<String>,
    /// Who led when it was over.
    pub leader_after: Option<String>,
    /// The timeline at the beginning and at the end.
    pub timelines: (u64, u64),
    /// When what happened; ascending by time.
    pub marks: Vec<Mark>,
    /// What the writers did, and what was found afterwards.
    pub history: History,
    /// How those who were struck came back.
    pub rejoins: Vec<(String, Rejoin)>,
    /// Seconds in which more than one member took writes, as its clients saw it; milliseconds.
    pub two_primaries_ms: u64,
    /// The longest time for which two members said that they lead, milliseconds: the least that is
    /// proven.
    #[serde(default)]
    pub two_led_ms: u64,
    /// Why the round could not be played to its end, or what else is worth a word.
    pub notes: Vec<String>,
    /// What must not happen whatever the blow: a sidecar that ended though nothing ended it, a
    /// panic, a leader or a timeline that changed where none may. One of them, and the round fails.
    #[serde(default)]
    pub crashes: Vec<String>,
    /// It ended before its cluster was whole.
    pub cut_short: bool,
}

impl Round {
    /// When a point first came.
    #[must_use]
    pub fn at(&self, point: Point) -> Option<Duration> {
        let found = self.marks.iter().find(|mark| mark.point == point);
        found.map(|mark| mark.at)
    }
}
