//! The boundary between the harness and the worlds: a [`Plan`] goes in, a [`Journal`] comes out.
//!
//! A plan is a scenario with everything drawn: who is where, who does what, and when what goes
//! wrong. A world (core, turmoil or kernel) plays it and writes down what an observer outside of
//! the system can see. Whether that was right is for the harness to say; no world judges.
//!
//! * [`topology`]: nodes, NATs, servers, and the network model that they make.
//! * [`action`]: what happens, at which time.
//! * [`traffic`]: the bytes that applications send, and how a receiver checks them.
//! * [`journal`]: what was observed, and the trace of every machine.
//! * [`drill`]: a cluster with a database, a blow, and what came of it.
//! * [`membership`]: who claims a slot, and what was observed of it.

pub mod action;
pub mod drill;
pub mod journal;
pub mod membership;
pub mod topology;
pub mod traffic;

pub use action::{Action, Attack, Device, KvFault, NetworkFault, Op, OpId, OpKind, Service, Step};
pub use journal::{
    DatagramReport, Entry, Figures, Journal, LinkFinal, QueueReport, Side, StreamReport, Trace,
    TraceMode, What,
};
pub use membership::{Identity, Instance, Membership, SlotEntry, SlotOwner, SlotSeen};
pub use topology::{
    BROKER_PORT, Built, CLUSTER, ClockSpec, NatIndex, NatSpec, NodeIndex, NodeSpec, Place, SERVERS,
    Servers, TURN_PORT, Topology, Transport, UDP_PORT,
};

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Where a plan can be played.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum WorldKind {
    /// Core machines in a discrete-event simulation.
    Core,
    /// The real drivers and servers on simulated hosts.
    Turmoil,
    /// The real program in network namespaces of this machine.
    Kernel,
}

impl WorldKind {
    /// All of them, fastest first.
    pub const ALL: [WorldKind; 3] = [WorldKind::Core, WorldKind::Turmoil, WorldKind::Kernel];

    /// In lower case, as in scenario files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            WorldKind::Core => "core",
            WorldKind::Turmoil => "turmoil",
            WorldKind::Kernel => "kernel",
        }
    }
}

impl fmt::Display for WorldKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for WorldKind {
    type Err = UnknownWorld;

    fn from_str(text: &str) -> Result<Self, UnknownWorld> {
        let found = WorldKind::ALL.into_iter().find(|w| w.as_str() == text);
        found.ok_or_else(|| UnknownWorld(text.to_owned()))
    }
}

/// No world has that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no world {0:?}: expected core, turmoil or kernel")]
pub struct UnknownWorld(pub String);

/// Everything that a world has to know, with nothing left to chance but what the seed decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The scenario's name.
    pub name: String,
    /// What everything random in the world derives from.
    pub seed: u64,
    /// Who is where.
    pub topology: Topology,
    /// What happens, in order of time. Ties happen in the order given.
    pub steps: Vec<Step>,
    /// When the last fault is over and the network is whole again; convergence is measured
    /// from here. The start, when there are no faults.
    pub healed_at: Duration,
    /// The run ends then at the latest.
    pub ends_at: Duration,
    /// End as soon as every step has happened, every operation has ended, and every wanted
    /// link is up with its wanted class and has been for [`SETTLE`].
    pub ends_when_settled: bool,
    /// The links that must be up at the end, and how.
    pub wanted: Vec<Wanted>,
    /// The nodes are instances that claim slots.
    pub membership: Option<Membership>,
}

/// How long a settled world is watched before its run ends.
pub const SETTLE: Duration = Duration::from_secs(2);

/// A link that must be up at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// One end.
    pub a: NodeIndex,
    /// The other.
    pub b: NodeIndex,
    /// The class of its path; `None` is any.
    pub class: Option<PathClass>,
}

/// Which kind of path a link's traffic takes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum PathClass {
    /// From host to host, through NATs.
    Direct,
    /// Through a TURN server.
    Relay,
}

impl PathClass {
    /// In lower case, as in a node's status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            PathClass::Direct => "direct",
            PathClass::Relay => "relay",
        }
    }
}

impl FromStr for PathClass {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "direct" => Ok(PathClass::Direct),
            "relay" => Ok(PathClass::Relay),
            _ => Err(()),
        }
    }
}

impl Plan {
    /// The operations of all steps.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        self.steps.iter().filter_map(|step| match &step.action {
            Action::Traffic(op) => Some(op),
            _ => None,
        })
    }

    /// The operation of that number.
    #[must_use]
    pub fn op(&self, id: OpId) -> Option<&Op> {
        self.ops().find(|op| op.id == id)
    }

    /// Why that world cannot play this plan: each reason once.
    #[must_use]
    pub fn obstacles(&self, world: WorldKind) -> BTreeSet<&'static str> {
        let mut found: BTreeSet<_> = self.topology.obstacle(world).into_iter().collect();
        found.extend(self.steps.iter().filter_map(|s| s.action.obstacle(world)));
        if world == WorldKind::Turmoil && self.membership.as_ref().is_some_and(|m| m.mesh) {
            found.insert("a mesh of instances");
        }
        found
    }
}

/// Why a world could not play a plan at all. What goes wrong inside of it is in the journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlayError {
    /// The world lacks something that the plan needs.
    #[error("the {world} world cannot play this: {what}")]
    Unsupported {
        /// Which world.
        world: WorldKind,
        /// What it lacks.
        what: String,
    },
    /// The world could not be built or kept running.
    #[error("the {world} world failed: {what}")]
    World {
        /// Which world.
        world: WorldKind,
        /// What went wrong.
        what: String,
    },
}
