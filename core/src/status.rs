//! What a node says of itself: the data behind `/status`, `/metrics` and `holdfast status`.

use serde::{Deserialize, Serialize};

use crate::types::{PeerId, Vip};

/// A node and all its links.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The node's name.
    pub id: PeerId,
    /// Its virtual address.
    pub vip: Vip,
    /// The first 32 bits of its incarnation.
    pub incarnation: String,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Addresses it offers its peers, as `kind address`.
    pub candidates: Vec<String>,
    /// Its TURN allocations.
    pub relays: Vec<RelayStatus>,
    /// Its links, in the order of the peers' names.
    pub links: Vec<LinkStatus>,
    /// What was refused or dropped, by reason.
    pub counters: Vec<Counter>,
    /// What can fill, and how full it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queues: Vec<Queue>,
}

/// Something with a bound: a queue, a table or a buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// What it is, with its owner in front: `link/worker-1/streams`.
    pub name: String,
    /// How much it holds: entries, or bytes where the name says so.
    pub len: u64,
    /// How much it may hold.
    pub max: u64,
}

impl Queue {
    /// So much of so much.
    pub fn new(name: impl Into<String>, len: usize, max: usize) -> Queue {
        Queue {
            name: name.into(),
            len: len as u64,
            max: max as u64,
        }
    }
}

/// A count with a stable name, for metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Its name in snake case, for example `stun_bad_integrity`.
    pub name: String,
    /// Its value since the start.
    pub value: u64,
}

/// One TURN allocation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RelayStatus {
    /// The server's address.
    pub server: String,
    /// `udp` or `tcp`.
    pub transport: String,
    /// `allocating`, `ready` or `failed`.
    pub state: String,
    /// The relayed address, when there is one.
    pub relayed: Option<String>,
}

/// The states of a link (`docs/architecture.md` has the diagram).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// The peer said goodbye and has not come back.
    Idle,
    /// Waiting for the peer's first authentic message.
    Signaling,
    /// Checking candidate pairs, or in the QUIC handshake.
    Connecting,
    /// Streams flow.
    Up,
    /// Was up; no path works at the moment. Streams are held for a while.
    Down,
}

impl LinkState {
    /// The state in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            LinkState::Idle => "idle",
            LinkState::Signaling => "signaling",
            LinkState::Connecting => "connecting",
            LinkState::Up => "up",
            LinkState::Down => "down",
        }
    }
}

/// One link.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The peer.
    pub peer: PeerId,
    /// Its virtual address.
    pub vip: Vip,
    /// Where the link stands.
    pub state: LinkState,
    /// Milliseconds in that state.
    pub since_ms: u64,
    /// Sessions since this node started: one more for every restart of the peer.
    pub sessions: u32,
    /// The signaling epoch of the session.
    pub epoch: u32,
    /// The peer's incarnation, once accepted.
    pub peer_incarnation: Option<String>,
    /// Every candidate pair that is known, the one in use first.
    pub paths: Vec<PathStatus>,
    /// Round-trip time of the path in use, in microseconds.
    pub rtt_us: Option<u64>,
    /// TCP streams open now.
    pub streams: u32,
    /// UDP payload bytes sent and received.
    pub tx_bytes: u64,
    /// UDP payload bytes received.
    pub rx_bytes: u64,
    /// Packets that QUIC declared lost.
    pub lost_packets: u64,
    /// Path changes since the session began.
    pub path_changes: u32,
    /// Path MTU in use, in bytes of UDP payload.
    pub mtu: u16,
}

impl LinkStatus {
    /// The path in use.
    pub fn selected(&self) -> Option<&PathStatus> {
        self.paths.iter().find(|path| path.selected)
    }
}

/// One candidate pair of a link.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PathStatus {
    /// The local base: where packets leave.
    pub local: String,
    /// `host` or `relay`.
    pub local_kind: String,
    /// The peer's address: where packets go.
    pub remote: String,
    /// `host`, `srflx`, `prflx` or `relay`.
    pub remote_kind: String,
    /// `direct` or `relay`.
    pub class: String,
    /// `checking`, `valid`, `suspect` or `dead`.
    pub state: String,
    /// Whether traffic takes it.
    pub selected: bool,
    /// Why it is or is not used.
    pub why: String,
    /// Round-trip time of its latest answered check, in microseconds.
    pub rtt_us: Option<u64>,
    /// Milliseconds since its latest answered check.
    pub answered_ms: Option<u64>,
}
