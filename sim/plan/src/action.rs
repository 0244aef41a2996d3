//! What happens in a world, and when.

use std::net::Ipv4Addr;
use std::time::Duration;

use holdfast_net_model::{Links, Ratio};

use crate::WorldKind;
use crate::topology::{NatIndex, NodeIndex, Place};

/// Something that happens at its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// When, from the start of the world.
    pub at: Duration,
    /// What.
    pub action: Action,
    /// The same in words, for people.
    pub label: String,
}

/// What happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A node starts, for the first time or again.
    Start(NodeIndex),
    /// A node is told to stop, and says goodbye (SIGTERM).
    Stop(NodeIndex),
    /// A node's process is gone without a word (SIGKILL).
    Crash(NodeIndex),
    /// A node stands still: its clocks go on, nothing else does (SIGSTOP).
    Pause(NodeIndex),
    /// A paused node goes on (SIGCONT).
    Thaw(NodeIndex),
    /// A node's wall clock jumps by so many milliseconds.
    ClockStep {
        /// Whose.
        node: NodeIndex,
        /// By how much; negative is back.
        by_ms: i64,
    },
    /// The network changes.
    Network(NetworkFault),
    /// A broker goes or comes; what it kept is lost.
    Broker {
        /// Which, from 0.
        broker: u8,
        /// Whether it serves.
        up: bool,
    },
    /// From now on all brokers lose and repeat what is posted.
    BrokerLoss {
        /// How much is lost.
        lose: Ratio,
        /// How much arrives twice.
        repeat: Ratio,
    },
    /// The TURN server goes or comes; its allocations are lost.
    Turn {
        /// Whether it serves.
        up: bool,
    },
    /// Somebody who is not in the cluster writes into a node's mailbox.
    Attack {
        /// Whose mailbox.
        node: NodeIndex,
        /// What is written.
        attack: Attack,
    },
    /// Datagrams from strangers arrive at a node's socket: garbage, STUN and QUIC look-alikes.
    Strangers {
        /// Whose socket.
        node: NodeIndex,
        /// How many.
        count: u32,
    },
    /// Applications talk.
    Traffic(Op),
    /// The KV store fails.
    Kv(KvFault),
    /// A node's process is killed, and everything on its disk is gone.
    Wipe(NodeIndex),
    /// A node gives its slot back and ends.
    Retire(NodeIndex),
    /// A note: the fault with this number of the schedule begins or ends here.
    Mark,
}

/// What goes wrong with the KV store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvFault {
    /// Its leader is gone.
    Leader {
        /// The next one serves after so long; in the kernel world, when there is one.
        after: Duration,
    },
    /// Nobody serves.
    Away {
        /// For so long.
        lasts: Duration,
    },
    /// A node does not reach it, or does again.
    Cut {
        /// Which.
        node: NodeIndex,
        /// Whether it is cut off.
        on: bool,
    },
    /// From now on, calls fail by chance.
    Loss {
        /// How many requests are lost, and as many answers.
        lose: Ratio,
        /// How many requests happen after their caller gave up.
        late: Ratio,
    },
}

/// What an outsider writes into a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attack {
    /// Everything that was ever posted there, again.
    Replay,
    /// Everything that was ever posted there, each with one bit flipped.
    Corrupt,
    /// Envelopes that are well-formed and signed by a key that is not a member's.
    Foreign,
    /// Random bytes.
    Garbage,
}

/// Something with a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Device {
    /// A node's interface.
    Node(NodeIndex),
    /// A NAT's uplink.
    Nat(NatIndex),
    /// A server's link, from 0.
    Server(u8),
}

/// What changes in the network model.
#[derive(Clone, Debug, PartialEq)]
pub enum NetworkFault {
    /// A link has other properties from now on.
    Link {
        /// Whose.
        device: Device,
        /// All of them, in both directions.
        links: Box<Links>,
    },
    /// Packets from one node to another vanish, one way.
    Cut {
        /// The sender.
        from: NodeIndex,
        /// The receiver.
        to: NodeIndex,
    },
    /// They no longer do.
    Mend {
        /// The sender.
        from: NodeIndex,
        /// The receiver.
        to: NodeIndex,
    },
    /// A NAT forgets its mappings; new ones get other ports.
    Flush(NatIndex),
    /// A NAT has another public address, and no mappings.
    Renumber {
        /// Which.
        nat: NatIndex,
        /// The new address.
        public_ip: Ipv4Addr,
    },
    /// A NAT drops all UDP, or stops to.
    UdpBlocked {
        /// Which.
        nat: NatIndex,
        /// Whether it does.
        on: bool,
    },
    /// A node is somewhere else, with another address.
    Move {
        /// Which.
        node: NodeIndex,
        /// Its new place.
        place: Place,
        /// Its new address.
        address: Ipv4Addr,
    },
}

/// The number of an [`Op`].
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct OpId(pub u32);

/// One conversation of two applications.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    /// Unique in its plan.
    pub id: OpId,
    /// The workload's name in the scenario, for people and expectations.
    pub name: String,
    /// Who begins.
    pub from: NodeIndex,
    /// Who serves.
    pub to: NodeIndex,
    /// What is served.
    pub service: Service,
    /// How.
    pub kind: OpKind,
}

/// How applications talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// Over a stream: the client sends, then closes its half, then reads to the end.
    Stream {
        /// How much is sent, with the header, at least [`crate::traffic::HEADER_LEN`].
        bytes: u64,
        /// How long to go on trying while the stream cannot be opened or ends in a reset
        /// before all was received. Zero: one try.
        patience: Duration,
    },
    /// By datagrams.
    Datagrams {
        /// How many.
        count: u32,
        /// One in this time.
        interval: Duration,
        /// How long each is, at least [`crate::traffic::DATAGRAM_HEADER_LEN`].
        len_bytes: u32,
    },
}

/// What every node serves, on fixed ports of its virtual address, TCP and UDP alike.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// Sends back what it gets.
    Echo,
    /// Reads to the end and says nothing.
    Sink,
    /// Accepts and never reads.
    Stopped,
    /// Allowed, and nothing listens.
    Closed,
    /// Listens, and is not on the allowlist.
    Forbidden,
}

impl Service {
    /// All of them.
    pub const ALL: [Service; 5] = [
        Service::Echo,
        Service::Sink,
        Service::Stopped,
        Service::Closed,
        Service::Forbidden,
    ];

    /// Its port.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Service::Echo => 9007,
            Service::Sink => 9009,
            Service::Stopped => 9019,
            Service::Closed => 9081,
            Service::Forbidden => 9022,
        }
    }

    /// Whether receivers allow it.
    #[must_use]
    pub const fn is_allowed(self) -> bool {
        !matches!(self, Service::Forbidden)
    }

    /// The service of a port.
    #[must_use]
    pub fn of_port(port: u16) -> Option<Service> {
        Service::ALL.into_iter().find(|s| s.port() == port)
    }
}

impl Action {
    /// Whether it is done to the system, rather than asked of it.
    #[must_use]
    pub const fn is_fault(&self) -> bool {
        !matches!(self, Action::Start(_) | Action::Traffic(_) | Action::Mark)
    }

    /// Why that world cannot do it.
    #[must_use]
    pub const fn obstacle(&self, world: WorldKind) -> Option<&'static str> {
        use NetworkFault as N;
        match (world, self) {
            (WorldKind::Core, _) => None,
            // Its leader is a process, which can be killed.
            (WorldKind::Kernel, Action::Kv(KvFault::Leader { .. }) | Action::Wipe(_)) => None,
            // What is lost on TCP is sent again.
            (WorldKind::Turmoil, Action::Kv(KvFault::Loss { .. })) => {
                Some("a KV that loses by chance")
            }
            (WorldKind::Turmoil, Action::Kv(_) | Action::Wipe(_) | Action::Retire(_)) => None,
            (_, Action::Kv(_)) => Some("a KV that fails"),
            (_, Action::Retire(_)) => Some("retire"),
            // A host of turmoil has no way to stand still, and one address.
            (WorldKind::Turmoil, Action::Pause(_) | Action::Thaw(_)) => Some("pause"),
            (WorldKind::Turmoil, _) => None,
            (WorldKind::Kernel, Action::ClockStep { .. }) => Some("clock-step"),
            (WorldKind::Kernel, Action::BrokerLoss { .. }) => Some("broker-loss"),
            (WorldKind::Kernel, Action::Attack { .. }) => Some("attack"),
            (WorldKind::Kernel, Action::Network(fault)) => match fault {
                N::Cut { .. } | N::Mend { .. } => Some("cut"),
                N::Renumber { .. } => Some("renumber"),
                N::Move { .. } => Some("move"),
                N::Link {
                    device: Device::Server(_),
                    ..
                } => Some("a server's link"),
                N::Link { .. } | N::Flush(_) | N::UdpBlocked { .. } => None,
            },
            (WorldKind::Kernel, _) => None,
        }
    }
}
