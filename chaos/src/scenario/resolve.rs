//! The topology that a file describes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use holdfast_core::slots::LEASE;
use holdfast_net_model::{Filtering, Links, Mapping, NatConfig};
use holdfast_plan::topology::{default_links, nat_address, node_address};
use holdfast_plan::{
    CLUSTER, ClockSpec, Device, Identity, Instance, Membership, NatIndex, NatSpec, NodeIndex,
    NodeSpec, Place, Servers, Topology, Transport,
};

use super::format::{self, File, Nat, NatKind, Node};
use super::values::LinkText;

/// By how many parts in a thousand nodes take clocks to differ in rate, unless said: quartz is a
/// hundred times better, and what slows a virtual machine's down is not.
const DRIFT_PER_MILLE: u32 = 10;

impl LinkText {
    /// All of it; `base` where this says nothing.
    #[must_use]
    pub fn links(self, base: Links) -> Links {
        match self {
            LinkText::Both(wire) => Links::symmetric(wire.0),
            LinkText::Each(each) => Links {
                up: each.up.map_or(base.up, |wire| wire.0),
                down: each.down.map_or(base.down, |wire| wire.0),
            },
        }
    }
}

/// The NAT of that name.
pub(crate) fn nat_named(topology: &Topology, name: &str) -> Option<NatIndex> {
    let found = topology.nats.iter().position(|nat| nat.name == name)?;
    Some(NatIndex(found as u16))
}

/// The device of that name.
pub(crate) fn device_named(topology: &Topology, name: &str) -> Option<Device> {
    match name {
        "server-1" => return Some(Device::Server(0)),
        "server-2" if topology.servers.brokers > 1 => return Some(Device::Server(1)),
        _ => {}
    }
    let node = topology.find(name).map(Device::Node);
    node.or_else(|| nat_named(topology, name).map(Device::Nat))
}

/// The links of a device as they are without faults.
pub(crate) fn base_links(topology: &Topology, device: Device) -> Links {
    match device {
        Device::Node(node) => topology.node(node).links,
        Device::Nat(nat) => topology.nats[nat.index()].links,
        Device::Server(_) => topology.servers.links,
    }
}

/// The file with as many nodes as it says, each of them by itself.
pub(super) fn counted(mut file: File) -> File {
    let each = |node: Node| {
        let names: Vec<String> = match node.count {
            None => vec![node.name.clone()],
            Some(count) => (1..=count).map(|n| format!("{}-{n}", node.name)).collect(),
        };
        let one = move |name| Node {
            name,
            count: None,
            ..node.clone()
        };
        names.into_iter().map(one)
    };
    file.node = file.node.into_iter().flat_map(each).collect();
    file
}

/// The claim of slots that a file describes.
pub(crate) fn membership(file: &File) -> Option<Membership> {
    let given = file.membership.as_ref()?;
    let instance = |node: &Node| Instance {
        identity: match node.identity {
            None | Some(format::Identity::Disk) => Identity::Disk,
            Some(format::Identity::Tee) => Identity::Tee,
        },
        pinned: node.ordinal,
    };
    Some(Membership {
        slots: (1..=given.slots).collect(),
        lease: given.lease.map_or(LEASE, |lease| lease.0),
        drift_per_mille: given.drift_per_mille.unwrap_or(DRIFT_PER_MILLE),
        instances: file.node.iter().map(instance).collect(),
        mesh: given.mesh.unwrap_or(true),
    })
}

/// The clocks of a file's nodes.
pub(crate) fn clock(node: &Node) -> ClockSpec {
    ClockSpec {
        offset_ms: node.clock.offset.unwrap_or_default().0,
        drift_ppm: node.clock.drift_ppm.unwrap_or(0),
    }
}

/// The topology of a file. What is unknown is taken as public: such a file is refused elsewhere.
pub(super) fn topology(file: &File) -> Topology {
    let mut topology = Topology {
        nats: Vec::new(),
        nodes: Vec::new(),
        servers: Servers {
            brokers: file.servers.brokers.unwrap_or(1),
            links: links(file.servers.link, default_links()),
        },
    };
    for (n, nat) in (0..).zip(&file.nat) {
        let place = place(&topology, nat.behind.as_deref());
        let address = nat
            .address
            .unwrap_or_else(|| nat_address(NatIndex(n), place));
        topology.nats.push(NatSpec {
            name: nat.name.clone(),
            config: nat_config(nat, address),
            place,
            links: links(nat.link, Links::ideal()),
        });
    }
    let named = |name: &str| file.node.iter().position(|node| node.name == name);
    let mut clusters = BTreeMap::new();
    for (n, node) in (0..).zip(&file.node) {
        let place = place(&topology, node.behind.as_deref());
        let next = clusters.len() as u8 + CLUSTER + 1;
        let cluster = match &node.cluster {
            Some(name) => *clusters.entry(name.as_str()).or_insert(next),
            None => CLUSTER,
        };
        let transports = match &node.turn {
            Some(given) => given.iter().map(|one| Transport::from(*one)).collect(),
            None => vec![Transport::Udp, Transport::Tcp],
        };
        let poses_as = node.poses_as.as_deref().and_then(named);
        topology.nodes.push(NodeSpec {
            name: node.name.clone(),
            place,
            address: node
                .address
                .unwrap_or_else(|| node_address(NodeIndex(n), place)),
            links: links(node.link, default_links()),
            cluster,
            poses_as: poses_as.map(|at| NodeIndex(at as u16)),
            clock: clock(node),
            turn: transports,
            stun: node.stun.unwrap_or(true),
        });
    }
    topology
}

fn links(given: Option<LinkText>, default: Links) -> Links {
    given.map_or(default, |link| link.links(default))
}

fn place(topology: &Topology, behind: Option<&str>) -> Place {
    let nat = behind.and_then(|name| nat_named(topology, name));
    nat.map_or(Place::Public, Place::Behind)
}

fn nat_config(nat: &Nat, address: Ipv4Addr) -> NatConfig {
    let open = NatConfig::new(
        address,
        Mapping::EndpointIndependent,
        Filtering::EndpointIndependent,
    );
    let mut config = match nat.kind {
        NatKind::Home => NatConfig::home(address),
        NatKind::Symmetric => NatConfig::symmetric(address),
        NatKind::FullCone => open,
        NatKind::Hairpin => NatConfig {
            hairpinning: true,
            ..NatConfig::home(address)
        },
    };
    let set = |to: &mut bool, given: Option<bool>| *to = given.unwrap_or(*to);
    set(&mut config.port_preservation, nat.port_preservation);
    set(&mut config.hairpinning, nat.hairpinning);
    set(&mut config.isolated, nat.isolated);
    set(&mut config.udp_blocked, nat.udp_blocked);
    set(&mut config.inbound_refresh, nat.inbound_refresh);
    config.mapping = nat.mapping.map_or(config.mapping, Into::into);
    config.filtering = nat.filtering.map_or(config.filtering, Into::into);
    config.mapping_expiry = nat.mapping_expiry.map_or(config.mapping_expiry, |t| t.0);
    let tcp = nat.mapping_expiry_tcp;
    config.mapping_expiry_tcp = tcp.map_or(config.mapping_expiry_tcp, |t| t.0);
    let most = nat.mapping_count_max;
    config.mapping_count_max = most.unwrap_or(config.mapping_count_max);
    config
}
