//! Nodes, NATs and servers, and the network model that they make.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use holdfast_net_model::{
    HostId, LinkConfig, Links, NatConfig, NatId, Network, TopologyError, Uplink,
};

use crate::{NetworkFault, WorldKind, action::Device};

/// The servers' public addresses: the first has STUN, TURN and a broker, the second a broker.
pub const SERVERS: [Ipv4Addr; 2] = [
    Ipv4Addr::new(203, 0, 113, 10),
    Ipv4Addr::new(203, 0, 113, 11),
];
/// Where STUN and TURN are served (RFC 8489 section 18.6).
pub const TURN_PORT: u16 = 3478;
/// Where a broker is served.
pub const BROKER_PORT: u16 = 7000;
/// The UDP port of a node.
pub const UDP_PORT: u16 = 5000;
/// The cluster that nodes belong to unless they are intruders.
pub const CLUSTER: u8 = 0;

/// A node, by its position in [`Topology::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct NodeIndex(pub u16);

/// A NAT, by its position in [`Topology::nats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct NatIndex(pub u16);

impl NodeIndex {
    /// Position, from 0.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The last octet of its virtual address 127.50.0.x.
    #[must_use]
    pub const fn vip(self) -> u16 {
        self.0 + 1
    }
}

impl NatIndex {
    /// Position, from 0.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where something is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the public network.
    Public,
    /// Inside of a NAT.
    Behind(NatIndex),
}

/// A NAT and its uplink.
#[derive(Clone, Debug, PartialEq)]
pub struct NatSpec {
    /// Its name in the scenario.
    pub name: String,
    /// How it behaves, with its outside address.
    pub config: NatConfig,
    /// Where its outside is; only a NAT that comes earlier.
    pub place: Place,
    /// Its uplink.
    pub links: Links,
}

/// What of a TURN server a node uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TURN over UDP.
    Udp,
    /// TURN over TCP.
    Tcp,
}

/// How a node's clocks differ from the world's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockSpec {
    /// Its wall clock is ahead by this, in milliseconds; negative is behind.
    pub offset_ms: i64,
    /// Both its clocks run faster by this, in parts per million.
    pub drift_ppm: i32,
}

/// A node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSpec {
    /// Its name in the scenario and its peer id.
    pub name: String,
    /// Where it is.
    pub place: Place,
    /// Its address there.
    pub address: Ipv4Addr,
    /// Its interface.
    pub links: Links,
    /// Whose secret it holds: [`CLUSTER`], or another number for an intruder.
    pub cluster: u8,
    /// The node whose name and virtual address this intruder claims instead of its own.
    pub poses_as: Option<NodeIndex>,
    /// Its clocks.
    pub clock: ClockSpec,
    /// How it may reach the TURN server; empty is not at all.
    pub turn: Vec<Transport>,
    /// Whether it knows the STUN server.
    pub stun: bool,
}

/// What is served on [`SERVERS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Servers {
    /// How many brokers, 1 or 2.
    pub brokers: u8,
    /// The servers' links.
    pub links: Links,
}

/// Who is where.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    /// NATs, each after the one that it is behind.
    pub nats: Vec<NatSpec>,
    /// Nodes.
    pub nodes: Vec<NodeSpec>,
    /// Servers.
    pub servers: Servers,
}

/// The default of half a path: a packet between two hosts passes two links.
#[must_use]
pub const fn default_links() -> Links {
    Links::symmetric(LinkConfig::with_delay(Duration::from_millis(5)))
}

/// The address of the NAT of that position unless the scenario says otherwise.
#[must_use]
pub fn nat_address(nat: NatIndex, place: Place) -> Ipv4Addr {
    let octet = (nat.0 % 99) as u8 + 101;
    match place {
        Place::Public => Ipv4Addr::new(203, 0, 113, octet),
        Place::Behind(_) => Ipv4Addr::new(100, 64, 0, octet),
    }
}

/// The address of the node of that position unless the scenario says otherwise.
#[must_use]
pub fn node_address(node: NodeIndex, place: Place) -> Ipv4Addr {
    let number = (node.0 % 79) as u8 + 1;
    match place {
        Place::Public => Ipv4Addr::new(203, 0, 113, 20 + number),
        Place::Behind(nat) => Ipv4Addr::new(10, (nat.0 % 255) as u8 + 1, number, 2),
    }
}

impl Topology {
    /// A node.
    ///
    /// # Panics
    /// When the index is of another topology.
    #[must_use]
    pub fn node(&self, node: NodeIndex) -> &NodeSpec {
        &self.nodes[node.index()]
    }

    /// The indices of all nodes.
    pub fn node_indices(&self) -> impl Iterator<Item = NodeIndex> + use<> {
        (0..self.nodes.len() as u16).map(NodeIndex)
    }

    /// The node of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<NodeIndex> {
        self.node_indices().find(|n| self.node(*n).name == name)
    }

    /// The members of the cluster: all nodes but intruders.
    pub fn members(&self) -> impl Iterator<Item = NodeIndex> + '_ {
        let of_cluster = |n: &NodeIndex| self.node(*n).cluster == CLUSTER;
        self.node_indices().filter(of_cluster)
    }

    /// Why that world cannot build it.
    #[must_use]
    pub fn obstacle(&self, world: WorldKind) -> Option<&'static str> {
        if world != WorldKind::Kernel {
            return None;
        }
        let nested = self.nats.iter().any(|nat| nat.place != Place::Public);
        let own_nat = |(n, nat): (usize, &NatSpec)| {
            nat.config.public_ip != nat_address(NatIndex(n as u16), nat.place)
        };
        let own_node = |n: NodeIndex| {
            let node = self.node(n);
            node.address != node_address(n, node.place)
        };
        let addressed =
            self.nats.iter().enumerate().any(own_nat) || self.node_indices().any(own_node);
        let clocks = self.nodes.iter().any(|n| n.clock != ClockSpec::default());
        if nested {
            Some("NATs behind NATs")
        } else if addressed {
            Some("addresses of your choice")
        } else if clocks {
            Some("clocks that differ")
        } else {
            None
        }
    }

    /// The network model of it.
    ///
    /// # Errors
    /// When two things have one address, or there are too many.
    pub fn build<P: Clone>(&self) -> Result<(Network<P>, Built), TopologyError> {
        let mut network = Network::new();
        let mut built = Built::default();
        for ip in &SERVERS[..usize::from(self.servers.brokers.clamp(1, 2))] {
            let links = self.servers.links;
            let host = network.add_host(Uplink::Core, &[IpAddr::V4(*ip)], links)?;
            built.servers.push(host);
        }
        for nat in &self.nats {
            let uplink = built.uplink(nat.place);
            let id = network.add_nat(uplink, nat.config, nat.links)?;
            built.nats.push(id);
        }
        for node in &self.nodes {
            let uplink = built.uplink(node.place);
            let host = network.add_host(uplink, &[node.address.into()], node.links)?;
            built.nodes.push(host);
        }
        Ok((network, built))
    }
}

/// What of a [`Network`] stands for what of a [`Topology`].
#[derive(Clone, Debug, Default)]
pub struct Built {
    /// The hosts of the servers.
    pub servers: Vec<HostId>,
    /// The NATs.
    pub nats: Vec<NatId>,
    /// The hosts of the nodes.
    pub nodes: Vec<HostId>,
}

impl Built {
    /// The segment of a place.
    ///
    /// # Panics
    /// When the place is behind a NAT of another topology, or one not built yet.
    #[must_use]
    pub fn uplink(&self, place: Place) -> Uplink {
        match place {
            Place::Public => Uplink::Core,
            Place::Behind(nat) => Uplink::Behind(self.nats[nat.index()]),
        }
    }

    /// The host of a node.
    ///
    /// # Panics
    /// When the node is of another topology.
    #[must_use]
    pub fn host(&self, node: NodeIndex) -> HostId {
        self.nodes[node.index()]
    }

    /// The node of a host.
    #[must_use]
    pub fn node_of(&self, host: HostId) -> Option<NodeIndex> {
        let found = self.nodes.iter().position(|h| *h == host)?;
        Some(NodeIndex(found as u16))
    }

    /// Do to the network what the fault says.
    ///
    /// # Errors
    /// When an address is taken; plans are checked before, so that this is a mistake in one.
    pub fn apply<P: Clone>(
        &self,
        fault: &NetworkFault,
        now: Duration,
        network: &mut Network<P>,
    ) -> Result<(), TopologyError> {
        match fault {
            NetworkFault::Link { device, links } => {
                let (up, down) = match device {
                    Device::Node(node) => network.host_links_mut(self.host(*node)),
                    Device::Nat(nat) => network.nat_links_mut(self.nats[nat.index()]),
                    Device::Server(n) => network.host_links_mut(self.servers[usize::from(*n)]),
                };
                up.set_config(now, links.up);
                down.set_config(now, links.down);
            }
            NetworkFault::Cut { from, to } => network.cut(self.host(*from), self.host(*to)),
            NetworkFault::Mend { from, to } => network.heal(self.host(*from), self.host(*to)),
            NetworkFault::Flush(nat) => network.nat_mut(self.nats[nat.index()]).flush(),
            NetworkFault::Renumber { nat, public_ip } => {
                network.renumber_nat(self.nats[nat.index()], *public_ip)?;
            }
            NetworkFault::UdpBlocked { nat, on } => {
                network.nat_mut(self.nats[nat.index()]).set_udp_blocked(*on);
            }
            NetworkFault::Move {
                node,
                place,
                address,
            } => {
                let uplink = self.uplink(*place);
                network.move_host(self.host(*node), uplink, &[(*address).into()])?;
            }
        }
        Ok(())
    }
}
