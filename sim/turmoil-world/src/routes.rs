//! How TCP fares between nodes and servers: delays and black holes of the network model,
//! which turmoil has to be told of. Losses and rates concern datagrams only.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_net_model::Links;
use holdfast_plan::{Device, NetworkFault, NodeIndex, Place, Topology};

/// The ways between nodes and servers.
pub struct Routes {
    topology: Topology,
    servers: Vec<Links>,
    known: BTreeMap<(NodeIndex, usize), Known>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Known {
    delay: Duration,
    silent_since: Option<Duration>,
}

/// What is new about a way.
pub struct Change {
    /// The delay in one direction: turmoil has one for both.
    pub delay: Duration,
    /// Whether nothing passes, if that has changed.
    pub silent: Option<bool>,
}

impl Routes {
    /// The ways of a topology.
    pub fn new(topology: &Topology) -> Routes {
        let servers = usize::from(topology.servers.brokers.clamp(1, 2));
        Routes {
            topology: topology.clone(),
            servers: vec![topology.servers.links; servers],
            known: BTreeMap::new(),
        }
    }

    /// The network has changed.
    pub fn apply(&mut self, fault: &NetworkFault) {
        match fault {
            NetworkFault::Link { device, links } => match device {
                Device::Node(node) => self.topology.nodes[node.index()].links = **links,
                Device::Nat(nat) => self.topology.nats[nat.index()].links = **links,
                Device::Server(server) => {
                    if let Some(of_server) = self.servers.get_mut(usize::from(*server)) {
                        *of_server = **links;
                    }
                }
            },
            NetworkFault::Move { node, place, .. } => {
                self.topology.nodes[node.index()].place = *place;
            }
            // These concern nodes among themselves, or datagrams.
            NetworkFault::Cut { .. }
            | NetworkFault::Mend { .. }
            | NetworkFault::Flush(_)
            | NetworkFault::Renumber { .. }
            | NetworkFault::UdpBlocked { .. } => {}
        }
    }

    /// What is new since the last call.
    pub fn changes(&mut self, now: Duration) -> Vec<(NodeIndex, usize, Change)> {
        let mut changes = Vec::new();
        for node in self.topology.node_indices() {
            for server in 0..self.servers.len() {
                let links = self.links(node, server);
                let up: Duration = links.iter().map(|links| links.up.delay).sum();
                let down: Duration = links.iter().map(|links| links.down.delay).sum();
                let hole = |links: &Links| links.up.blackhole || links.down.blackhole;
                let silent = links.iter().any(hole);
                let old = self.known.get(&(node, server)).copied();
                let was = old.and_then(|old| old.silent_since);
                let new = Known {
                    delay: (up + down) / 2,
                    silent_since: silent.then(|| was.unwrap_or(now)),
                };
                if old == Some(new) {
                    continue;
                }
                self.known.insert((node, server), new);
                let change = Change {
                    delay: new.delay,
                    silent: (was.is_some() != silent).then_some(silent),
                };
                changes.push((node, server, change));
            }
        }
        changes
    }

    /// Since when nothing has passed, if so.
    pub fn silent_since(&self, node: NodeIndex, server: usize) -> Option<Duration> {
        self.known.get(&(node, server))?.silent_since
    }

    /// All links on the way.
    fn links(&self, node: NodeIndex, server: usize) -> Vec<Links> {
        let spec = self.topology.node(node);
        let mut links = vec![spec.links, self.servers[server]];
        let mut place = spec.place;
        while let Place::Behind(nat) = place {
            let nat = &self.topology.nats[nat.index()];
            links.push(nat.links);
            place = nat.place;
        }
        links
    }
}
