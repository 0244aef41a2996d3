//! What a node is told before it starts. Reading files and environment is the caller's.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::identity::{Identity, PublicKey};
use crate::types::{PeerId, Vip};

/// Most peers of one node. 16 bits of each connection id name the link, and the VIP
/// network has 254 addresses.
pub const PEERS_MAX: usize = 253;
/// Most allowlist rules.
pub const ALLOW_RULES_MAX: usize = 256;
/// Most STUN servers, and most TURN servers.
pub const SERVERS_MAX: usize = 4;

/// Everything that [`crate::mesh::Mesh::new`] needs.
#[derive(Debug)]
pub struct Config {
    /// This node's name.
    pub id: PeerId,
    /// This node's virtual address.
    pub vip: Vip,
    /// This node's key.
    pub identity: Identity,
    /// The other nodes.
    pub peers: Vec<PeerConfig>,
    /// Ports of this node that peers may reach.
    pub allow: Vec<AllowRule>,
    /// The UDP port that the node's one socket is bound to.
    pub udp_port: u16,
    /// STUN servers, for server-reflexive candidates.
    pub stun: Vec<SocketAddr>,
    /// TURN servers, for relayed candidates, in order of preference.
    pub turn: Vec<TurnServer>,
    /// Which candidates may be used.
    pub paths: PathPolicy,
    /// Congestion control of every link.
    pub congestion: Congestion,
    /// Sizes that bound memory.
    pub limits: Limits,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its name.
    pub id: PeerId,
    /// Its virtual address.
    pub vip: Vip,
    /// Its key: nobody else is accepted under its name.
    pub key: PublicKey,
}

/// A port of this node that peers may reach: TCP always, UDP when `udp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowRule {
    /// The port.
    pub port: u16,
    /// Whether UDP is forwarded too.
    #[serde(default)]
    pub udp: bool,
}

/// A TURN server (RFC 8656).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnServer {
    /// Its address.
    pub addr: SocketAddr,
    /// How to reach it.
    pub transport: TurnTransport,
    /// How to log in.
    pub credentials: TurnCredentials,
}

/// How a node talks to a TURN server. The relayed side is UDP in both cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TurnTransport {
    /// Over the node's one UDP socket.
    Udp,
    /// Over TCP, for networks that block UDP.
    Tcp,
}

/// How to log in to a TURN server.
#[derive(Clone, PartialEq, Eq)]
pub enum TurnCredentials {
    /// A fixed user and password.
    Static {
        /// The user.
        username: String,
        /// The password.
        password: Zeroizing<String>,
    },
    /// Time-limited credentials derived from a secret that the server shares:
    /// username `<unix expiry>:<name>`, password base64(HMAC-SHA1(secret, username)).
    Shared {
        /// The secret.
        secret: Zeroizing<String>,
    },
}

impl std::fmt::Debug for TurnCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            TurnCredentials::Static { .. } => "Static(..)",
            TurnCredentials::Shared { .. } => "Shared(..)",
        })
    }
}

/// Which candidates may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathPolicy {
    /// All of them.
    #[default]
    All,
    /// Relayed candidates only.
    RelayOnly,
}

/// Congestion control of a link. What was measured is in `docs/performance.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// RFC 9438.
    Cubic,
    /// Bottleneck bandwidth and round-trip time: holds its rate under random loss.
    #[default]
    Bbr,
}

/// Sizes that bound a node's memory. The formula is in `docs/architecture.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Concurrent TCP streams that one peer may open on this node.
    pub streams_per_link: u32,
    /// Bytes of one stream that the peer may send ahead of its reader.
    pub stream_window: u32,
    /// Bytes that one link may have sent and not yet seen acknowledged.
    pub send_window: u64,
    /// Bytes of datagrams queued to send on one link; the oldest are dropped beyond it.
    pub datagram_buffer: usize,
    /// Largest UDP payload of one packet that path MTU discovery may try.
    pub mtu_max: u16,
    /// How long streams are held while a link has no path at all.
    pub path_loss_grace: Duration,
    /// Records that the flight recorder keeps.
    pub recorder_len: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            streams_per_link: 1024,
            stream_window: 2 << 20,
            send_window: 16 << 20,
            datagram_buffer: 1 << 20,
            // Ethernet's 1500 less IPv4 (20), UDP (8) and a ChannelData header (4), less
            // room for one tunnel on the way.
            mtu_max: 1452,
            path_loss_grace: Duration::from_secs(20),
            recorder_len: 4096,
        }
    }
}

/// A configuration that contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// More than [`PEERS_MAX`] peers.
    #[error("{found} peers: expected at most {PEERS_MAX}")]
    TooManyPeers {
        /// How many there are.
        found: usize,
    },
    /// A peer has this node's own name.
    #[error("peer {id} is this node itself: leave it out of the peers")]
    SelfAsPeer {
        /// The name.
        id: PeerId,
    },
    /// Two nodes have one name.
    #[error("peer {id} is listed twice")]
    DuplicatePeer {
        /// The name.
        id: PeerId,
    },
    /// Two nodes have one virtual address.
    #[error("vip {vip} belongs to both {first} and {second}")]
    DuplicateVip {
        /// The address.
        vip: Vip,
        /// One owner.
        first: PeerId,
        /// The other.
        second: PeerId,
    },
    /// Two nodes have one key.
    #[error("{first} and {second} have the same key")]
    DuplicateKey {
        /// One owner.
        first: PeerId,
        /// The other.
        second: PeerId,
    },
    /// More than [`ALLOW_RULES_MAX`] rules.
    #[error("{found} allowlist rules: expected at most {ALLOW_RULES_MAX}")]
    TooManyRules {
        /// How many there are.
        found: usize,
    },
    /// A rule for port 0.
    #[error("allowlist port 0: expected 1 to 65535")]
    PortZero,
    /// A port with two rules.
    #[error("allowlist port {port} is listed twice")]
    DuplicatePort {
        /// The port.
        port: u16,
    },
    /// More than [`SERVERS_MAX`] STUN or TURN servers.
    #[error("{found} {what} servers: expected at most {SERVERS_MAX}")]
    TooManyServers {
        /// `STUN` or `TURN`.
        what: &'static str,
        /// How many there are.
        found: usize,
    },
    /// A size that no link could work with.
    #[error("{key} is {found}: expected {expected}")]
    Limit {
        /// Which one.
        key: &'static str,
        /// Its value.
        found: u64,
        /// What it may be.
        expected: &'static str,
    },
    /// Relayed candidates are asked for and nothing can give one.
    #[error("only relayed paths are allowed and there is no TURN server")]
    RelayOnlyWithoutTurn,
}

impl Config {
    /// Every contradiction at once, in the order of the keys; empty when there is none.
    pub fn problems(&self) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        self.check_peers(&mut problems);
        self.check_rules(&mut problems);
        self.check_servers(&mut problems);
        self.check_limits(&mut problems);
        problems
    }

    fn check_peers(&self, problems: &mut Vec<ConfigError>) {
        if self.peers.len() > PEERS_MAX {
            let found = self.peers.len();
            problems.push(ConfigError::TooManyPeers { found });
        }
        let own = (&self.id, self.vip, self.identity.public());
        let mut seen = vec![own];
        for peer in self.peers.iter().take(PEERS_MAX) {
            if peer.id == self.id {
                let id = peer.id.clone();
                problems.push(ConfigError::SelfAsPeer { id });
                continue;
            }
            if seen.iter().any(|(id, ..)| **id == peer.id) {
                let id = peer.id.clone();
                problems.push(ConfigError::DuplicatePeer { id });
                continue;
            }
            if let Some((first, ..)) = seen.iter().find(|(_, vip, _)| *vip == peer.vip) {
                problems.push(ConfigError::DuplicateVip {
                    vip: peer.vip,
                    first: (*first).clone(),
                    second: peer.id.clone(),
                });
            }
            if let Some((first, ..)) = seen.iter().find(|(.., key)| *key == peer.key) {
                problems.push(ConfigError::DuplicateKey {
                    first: (*first).clone(),
                    second: peer.id.clone(),
                });
            }
            seen.push((&peer.id, peer.vip, peer.key));
        }
    }

    fn check_rules(&self, problems: &mut Vec<ConfigError>) {
        if self.allow.len() > ALLOW_RULES_MAX {
            let found = self.allow.len();
            problems.push(ConfigError::TooManyRules { found });
        }
        let mut ports: Vec<u16> = self.allow.iter().map(|rule| rule.port).collect();
        ports.sort_unstable();
        if ports.first() == Some(&0) {
            problems.push(ConfigError::PortZero);
        }
        let mut twice: Vec<u16> = ports
            .windows(2)
            .filter(|pair| pair[0] == pair[1])
            .map(|pair| pair[0])
            .collect();
        twice.dedup();
        problems.extend(
            twice
                .into_iter()
                .map(|port| ConfigError::DuplicatePort { port }),
        );
    }

    fn check_servers(&self, problems: &mut Vec<ConfigError>) {
        for (what, found) in [("STUN", self.stun.len()), ("TURN", self.turn.len())] {
            if found > SERVERS_MAX {
                problems.push(ConfigError::TooManyServers { what, found });
            }
        }
        if self.paths == PathPolicy::RelayOnly && self.turn.is_empty() {
            problems.push(ConfigError::RelayOnlyWithoutTurn);
        }
    }

    fn check_limits(&self, problems: &mut Vec<ConfigError>) {
        let l = &self.limits;
        let mut check = |key, found: u64, ok: bool, expected| {
            if !ok {
                problems.push(ConfigError::Limit {
                    key,
                    found,
                    expected,
                });
            }
        };
        let streams = l.streams_per_link;
        check(
            "streams_per_link",
            streams.into(),
            (1..=65_536).contains(&streams),
            "1 to 65536",
        );
        let window = l.stream_window;
        check(
            "stream_window",
            window.into(),
            (131_072..=67_108_864).contains(&window),
            "131072 to 67108864 bytes, so that any UDP datagram fits",
        );
        check(
            "send_window",
            l.send_window,
            (65_536..=1 << 30).contains(&l.send_window),
            "65536 to 1073741824 bytes",
        );
        check(
            "mtu_max",
            l.mtu_max.into(),
            (1200..=9_000).contains(&l.mtu_max),
            "1200 to 9000 bytes",
        );
    }
}
