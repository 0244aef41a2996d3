//! Nodes, NATs and servers.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use holdfast_net_model::NatConfig;
use holdfast_plan::{NatIndex, Place, SERVERS, Topology, WorldKind};

use super::{Checker, NATS_MAX, NODES_MAX};
use crate::scenario::values::Start;

/// The networks that strangers of the worlds come from (TEST-NET-2, RFC 5737).
const STRANGERS: [u8; 3] = [198, 51, 100];
/// Names that servers have.
const SERVER_NAMES: [&str; 2] = ["server-1", "server-2"];

impl Checker<'_> {
    pub(super) fn topology(&mut self) {
        let file = self.file;
        for (list, len, max) in [
            ("node", file.node.len(), NODES_MAX),
            ("nat", file.nat.len(), NATS_MAX),
        ] {
            if len > max {
                self.wrong(list, format!("found {len}, expected at most {max}"));
            }
        }
        if file.node.is_empty() {
            self.wrong("node", "found none, expected at least one");
        }
        self.unique("nat", file.nat.iter().map(|nat| nat.name.as_str()));
        self.unique("node", file.node.iter().map(|node| node.name.as_str()));
        self.nats();
        self.nodes();
        let before = self.findings.len();
        self.addresses();
        if self.findings.len() == before && !file.node.is_empty() {
            if let Err(error) = self.topology.build::<()>() {
                self.wrong("node", error.to_string());
            }
            self.worlds();
        }
    }

    fn nats(&mut self) {
        let file = self.file;
        for (n, nat) in file.nat.iter().enumerate() {
            self.device_name(&format!("nat[{n}].name"), &nat.name);
            let Some(behind) = &nat.behind else { continue };
            let key = format!("nat[{n}].behind");
            let known = file.nat.iter().position(|other| other.name == *behind);
            match known {
                Some(at) if at >= n => {
                    let message = format!("{behind:?} is declared below, expected a NAT above");
                    self.wrong(key, message);
                }
                Some(_) => {}
                None => drop(self.nat_exists(&key, behind)),
            }
        }
    }

    fn device_name(&mut self, key: &str, name: &str) {
        self.name(key, name);
        if SERVER_NAMES.contains(&name) {
            self.wrong(key, format!("{name:?} is a server, expected another name"));
        }
    }

    fn nodes(&mut self) {
        let file = self.file;
        for (n, node) in file.node.iter().enumerate() {
            let key = |name: &str| format!("node[{n}].{name}");
            self.device_name(&key("name"), &node.name);
            if file.nat.iter().any(|nat| nat.name == node.name) {
                let message = format!("a NAT is called {:?} too, expected another name", node.name);
                self.wrong(key("name"), message);
            }
            if let Some(behind) = &node.behind {
                self.nat_exists(&key("behind"), behind);
            }
            if let Some(Start::When(start)) = node.start {
                self.when(&key("start"), start);
            }
            if let Some(turn) = &node.turn
                && (1..turn.len()).any(|at| turn[..at].contains(&turn[at]))
            {
                self.wrong(key("turn"), "a transport is there twice");
            }
            if let Some(cluster) = &node.cluster {
                self.title(&key("cluster"), cluster);
            }
            if let Some(poses_as) = &node.poses_as {
                if self.node_exists(&key("poses_as"), poses_as) && node.cluster.is_none() {
                    let message = "expected `cluster` too: only an intruder poses as somebody";
                    self.wrong(key("poses_as"), message);
                }
                if *poses_as == node.name {
                    self.wrong(key("poses_as"), "expected another node");
                }
            }
        }
    }

    /// Nothing has an address that something else on its segment has.
    fn addresses(&mut self) {
        let mut taken: BTreeMap<(Option<NatIndex>, Ipv4Addr), String> = BTreeMap::new();
        for (server, name) in SERVERS.into_iter().zip(SERVER_NAMES) {
            taken.insert((None, server), name.to_owned());
        }
        let Topology { nats, nodes, .. } = self.topology;
        let nats = nats.iter().enumerate().map(|(n, nat)| {
            let key = format!("nat[{n}].address");
            (key, &nat.name, nat.place, nat.config.public_ip)
        });
        let nodes = nodes.iter().enumerate().map(|(n, node)| {
            let key = format!("node[{n}].address");
            (key, &node.name, node.place, node.address)
        });
        for (key, name, place, address) in nats.chain(nodes) {
            let segment = match place {
                Place::Public => None,
                Place::Behind(nat) => Some(nat),
            };
            if let Some(other) = taken.insert((segment, address), name.clone()) {
                let message = format!("{address} is the address of {other} already");
                self.wrong(key, message);
            } else {
                self.usable_address(&key, address);
            }
        }
    }

    pub(super) fn usable_address(&mut self, key: &str, address: Ipv4Addr) {
        let special = address.is_loopback()
            || address.is_unspecified()
            || address.is_multicast()
            || address.is_broadcast()
            || address.is_link_local();
        if special || address.octets()[..3] == STRANGERS {
            let message = format!("{address} is not for nodes, expected a private or public one");
            self.wrong(key, message);
        }
    }

    /// What a world that is declared cannot build.
    fn worlds(&mut self) {
        for world in self.file.worlds.clone() {
            let Some(obstacle) = self.topology.obstacle(world) else {
                continue;
            };
            let own = |public: Ipv4Addr, config: &NatConfig| config.public_ip == public;
            let nats = &self.topology.nats;
            let nested = nats.iter().position(|nat| nat.place != Place::Public);
            let addressed = (0..).zip(nats).position(|(n, nat)| {
                !own(
                    holdfast_plan::topology::nat_address(NatIndex(n), nat.place),
                    &nat.config,
                )
            });
            let clocks = self
                .file
                .node
                .iter()
                .position(|node| node.clock != Default::default());
            let given = self
                .file
                .node
                .iter()
                .position(|node| node.address.is_some());
            let key = match (nested, addressed, given, clocks) {
                (Some(n), ..) => format!("nat[{n}].behind"),
                (_, Some(n), ..) => format!("nat[{n}].address"),
                (_, _, Some(n), _) => format!("node[{n}].address"),
                (_, _, _, Some(n)) => format!("node[{n}].clock"),
                _ => "worlds".to_owned(),
            };
            let message =
                format!("{obstacle}: the {world} world, among `worlds`, has no such thing");
            self.wrong(key, message);
        }
        let servers = self.topology.servers.links;
        let usual = holdfast_plan::topology::default_links();
        if self.file.worlds.contains(&WorldKind::Kernel) && servers != usual {
            let message = "a server's link: the kernel world, among `worlds`, has no such thing";
            self.wrong("servers.link", message);
        }
    }
}
