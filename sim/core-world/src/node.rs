//! A node: its process, which comes and goes, and what of its machine stays.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use holdfast_core::config::{
    AllowRule, Config, Congestion, Limits, PathPolicy, PeerConfig, TurnCredentials, TurnServer,
    TurnTransport,
};
use holdfast_core::identity::ClusterSecret;
use holdfast_core::mesh::{Mesh, Received};
use holdfast_core::status::LinkState;
use holdfast_core::types::{LinkId, PeerId, StreamId, Vip};
use holdfast_net_model::HostId;
use holdfast_plan::{
    BROKER_PORT, Built, CLUSTER, NodeIndex, NodeSpec, PathClass, SERVERS, Service, TURN_PORT,
    Topology, Transport, UDP_PORT, membership::worker,
};

use crate::apps::App;
use crate::clock::Clock;
use crate::servers::TURN_SECRET;
use crate::signal::SignalClient;
use crate::tcp::{ConnId, SocketEvent};

/// Bytes of datagrams that wait for a node that stands still: a socket buffer of holdfast-io.
const INBOX_BYTES_MAX: usize = 4 << 20;

/// What of a node's configuration no plan says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tuning {
    /// Congestion control.
    pub congestion: Congestion,
    /// Sizes.
    pub limits: Limits,
}

/// A machine with a node on it.
pub struct Node {
    /// Who and where it is when the world begins.
    pub spec: NodeSpec,
    /// Its host.
    pub host: HostId,
    /// Its address now.
    pub ip: Ipv4Addr,
    /// What its next start is configured with.
    pub tuning: Tuning,
    /// Datagrams that its applications got, when [`crate::World::keeps_streams`]: the peer's port,
    /// where it went, what it carries.
    pub datagrams: Vec<(u16, SocketAddr, Bytes)>,
    /// Datagrams that it sent.
    pub sent_datagrams: u64,
    pub(crate) clock: Clock,
    pub(crate) run: Option<Run>,
    pub(crate) paused: bool,
    pub(crate) identity: Member,
    pub(crate) peers: Vec<(NodeIndex, Member)>,
    pub(crate) brokers: Vec<SocketAddr>,
    pub(crate) runs: u64,
    pub(crate) inbox: VecDeque<Waiting>,
    pub(crate) inbox_bytes: usize,
    // What has to outlive the process (a disk) would be kept here.
}

/// What a node claims to be, or takes another one for.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) id: PeerId,
    vip: u16,
    cluster: u8,
}

/// Something that a node could not look at while it stood still.
pub(crate) enum Waiting {
    Datagram(Received, BytesMut),
    Socket(ConnId, SocketEvent),
    /// From a local application: the link, the peer's port, where it comes from.
    App((LinkId, u16, SocketAddr), Bytes),
}

/// One run of a node's process.
pub(crate) struct Run {
    pub mesh: Mesh,
    pub apps: BTreeMap<StreamId, App>,
    /// By link.
    pub peers: Vec<NodeIndex>,
    /// By node.
    pub links: Vec<Option<LinkId>>,
    /// By link.
    pub views: Vec<View>,
    pub(crate) signal: SignalClient,
    pub(crate) turn_conns: BTreeMap<u32, TurnConn>,
    pub(crate) stop_at: Option<Duration>,
    pub(crate) end_at: Option<Duration>,
}

/// What events have told of a link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub state: LinkState,
    pub class: Option<PathClass>,
}

pub(crate) struct TurnConn {
    pub(crate) conn: ConnId,
    pub(crate) unsent: VecDeque<Bytes>,
}

fn secret(cluster: u8) -> ClusterSecret {
    ClusterSecret::new(vec![cluster.wrapping_add(5); 32]).expect("long enough")
}

impl Member {
    fn of(topology: &Topology, node: NodeIndex) -> Option<Member> {
        let spec = topology.nodes.get(node.index())?;
        let claimed = spec.poses_as.unwrap_or(node);
        Some(Member {
            id: topology.nodes.get(claimed.index())?.name.parse().ok()?,
            vip: claimed.vip(),
            cluster: spec.cluster,
        })
    }
}

impl Node {
    /// The nodes of a topology, which must be one that can be configured.
    pub(crate) fn all(topology: &Topology, built: &Built) -> Vec<Node> {
        let brokers: Vec<SocketAddr> = SERVERS[..built.servers.len()]
            .iter()
            .map(|ip| SocketAddr::new((*ip).into(), BROKER_PORT))
            .collect();
        let node = |index: NodeIndex| {
            let spec = topology.node(index);
            let member = |n| Member::of(topology, n).expect("checked before");
            let identity = member(index);
            // An intruder knows everything that is public: the members' keys, too.
            let others = topology.members().map(|n| (n, member(n)));
            let peers = others.filter(|(n, m)| *n != index && m.id != identity.id);
            Node {
                host: built.host(index),
                ip: spec.address,
                tuning: Tuning::default(),
                datagrams: Vec::new(),
                sent_datagrams: 0,
                clock: Clock::new(spec.clock),
                run: None,
                paused: false,
                peers: peers.collect(),
                identity,
                brokers: brokers.clone(),
                runs: 0,
                inbox: VecDeque::new(),
                inbox_bytes: 0,
                spec: spec.clone(),
            }
        };
        topology.node_indices().map(node).collect()
    }

    /// From its next start on it is who owns that slot; its peers are the owners of the others.
    pub(crate) fn own(&mut self, slot: u16, slots: &[u16]) {
        let member = |slot: u16| Member {
            id: worker(slot).parse().expect("a word and a number"),
            vip: slot,
            cluster: CLUSTER,
        };
        self.identity = member(slot);
        let others = slots.iter().filter(|other| **other != slot);
        // A peer's position stands for its slot, whoever owns it.
        let peers = others.map(|other| (NodeIndex(other.saturating_sub(1)), member(*other)));
        self.peers = peers.collect();
    }

    /// The slot that it owns, as long as its process runs a mesh for that.
    pub(crate) const fn slot(&self) -> u16 {
        self.identity.vip
    }

    /// Why the nodes of that topology cannot be configured.
    pub(crate) fn problem(topology: &Topology) -> Option<String> {
        let bad = topology
            .node_indices()
            .find(|n| Member::of(topology, *n).is_none());
        if let Some(node) = bad {
            return Some(format!(
                "{:?} is no name of a node",
                topology.node(node).name
            ));
        }
        let last = topology.nodes.len() as u16;
        Vip::new(last.max(1)).err().map(|error| error.to_string())
    }

    /// The machine, while its process runs.
    #[must_use]
    pub fn mesh(&self) -> Option<&Mesh> {
        self.run.as_ref().map(|run| &run.mesh)
    }

    /// Whether its process runs.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.run.is_some()
    }

    /// The key that names its mailbox.
    #[must_use]
    pub fn mailbox(&self) -> holdfast_core::identity::PublicKey {
        secret(self.identity.cluster)
            .identity(&self.identity.id)
            .public()
    }

    /// Keep a datagram for a node that stands still, or drop it when the buffer is full.
    pub(crate) fn keep(&mut self, len_bytes: usize, waiting: Waiting) {
        if self.inbox_bytes + len_bytes <= INBOX_BYTES_MAX {
            self.inbox_bytes += len_bytes;
            self.inbox.push_back(waiting);
        }
    }

    /// What it is told before it starts.
    pub(crate) fn config(&self) -> Config {
        let own = secret(self.identity.cluster);
        let server = SocketAddr::new(SERVERS[0].into(), TURN_PORT);
        let vip = |member: &Member| Vip::new(member.vip).expect("checked before");
        let turn = |transport: &Transport| TurnServer {
            addr: server,
            transport: match transport {
                Transport::Udp => TurnTransport::Udp,
                Transport::Tcp => TurnTransport::Tcp,
            },
            credentials: TurnCredentials::Shared {
                secret: TURN_SECRET.to_owned().into(),
            },
        };
        let allowed = Service::ALL
            .into_iter()
            .filter(|service| service.is_allowed());
        Config {
            vip: vip(&self.identity),
            identity: own.identity(&self.identity.id),
            id: self.identity.id.clone(),
            peers: self
                .peers
                .iter()
                .map(|(_, peer)| PeerConfig {
                    key: secret(peer.cluster).identity(&peer.id).public(),
                    id: peer.id.clone(),
                    vip: vip(peer),
                })
                .collect(),
            allow: allowed
                .map(|service| AllowRule {
                    port: service.port(),
                    udp: true,
                })
                .collect(),
            udp_port: UDP_PORT,
            stun: if self.spec.stun {
                vec![server]
            } else {
                Vec::new()
            },
            turn: self.spec.turn.iter().map(turn).collect(),
            paths: PathPolicy::All,
            congestion: self.tuning.congestion,
            limits: self.tuning.limits,
        }
    }
}

impl Run {
    /// When the process has something to do, in local time.
    pub(crate) fn deadline(&self, clock: &Clock) -> Option<Duration> {
        let mesh = self.mesh.deadline().map(|(at, _)| clock.local_of(at));
        [mesh, self.signal.deadline(), self.stop_at, self.end_at]
            .into_iter()
            .flatten()
            .min()
    }
}
