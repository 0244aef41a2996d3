//! Which links must be up at the end, and on which class of path, told from what is left of the
//! topology then.

use holdfast_net_model::{Links, Network};
use holdfast_plan::{
    Action, Built, Device, NetworkFault, NodeIndex, PathClass, Place, Step, Topology, Transport,
    Wanted,
};

use crate::scenario::format::{self, Expect};

/// How everything is when all steps have happened.
struct End<'a> {
    topology: &'a Topology,
    network: Network<()>,
    built: Built,
    runs: Vec<bool>,
    places: Vec<Place>,
    turn: bool,
    blocked: Vec<bool>,
    dark: Vec<Device>,
}

/// The links that a scenario wants after these steps.
pub(crate) fn wanted(topology: &Topology, expect: &Expect, steps: &[Step]) -> Vec<Wanted> {
    let listed = expect.link.iter().filter_map(|link| {
        let [a, b] = &link.between;
        let (a, b) = topology.find(a).zip(topology.find(b))?;
        let class = link.class.wanted();
        Some(Wanted { a, b, class })
    });
    let listed: Vec<Wanted> = listed.collect();
    if !listed.is_empty() && expect.links != Some(format::Links::Oracle) {
        return listed;
    }
    let possible = possible(topology, steps);
    let is_listed = |link: &Wanted| listed.iter().any(|l| ends(l) == ends(link));
    let mut wanted: Vec<Wanted> = possible.into_iter().filter(|w| !is_listed(w)).collect();
    wanted.extend(listed.iter().copied());
    wanted.sort_by_key(|link| (link.a, link.b));
    wanted
}

/// Both ends of a link, in order.
pub(crate) fn ends(link: &Wanted) -> (NodeIndex, NodeIndex) {
    (link.a.min(link.b), link.a.max(link.b))
}

/// The links between members that can be there after these steps, with their classes.
pub(crate) fn possible(topology: &Topology, steps: &[Step]) -> Vec<Wanted> {
    let Some(end) = End::of(topology, steps) else {
        return Vec::new();
    };
    let members: Vec<NodeIndex> = topology.members().collect();
    let mut links = Vec::new();
    for (n, a) in members.iter().enumerate() {
        for b in &members[n + 1..] {
            if let Some(class) = end.class(*a, *b) {
                links.push(Wanted {
                    a: *a,
                    b: *b,
                    class: Some(class),
                });
            }
        }
    }
    links
}

impl<'a> End<'a> {
    fn of(topology: &'a Topology, steps: &[Step]) -> Option<End<'a>> {
        let (network, built) = topology.build().ok()?;
        let mut end = End {
            topology,
            network,
            built,
            runs: vec![false; topology.nodes.len()],
            places: topology.nodes.iter().map(|node| node.place).collect(),
            turn: true,
            blocked: topology
                .nats
                .iter()
                .map(|nat| nat.config.udp_blocked)
                .collect(),
            dark: Vec::new(),
        };
        let nats = (0..).map(holdfast_plan::NatIndex).zip(&topology.nats);
        let devices = nats.map(|(n, nat)| (Device::Nat(n), nat.links));
        let nodes = topology
            .node_indices()
            .map(|n| (Device::Node(n), topology.node(n).links));
        for (device, links) in devices.chain(nodes) {
            end.set_dark(device, &links);
        }
        for step in steps {
            end.happen(step)?;
        }
        Some(end)
    }

    fn set_dark(&mut self, device: Device, links: &Links) {
        self.dark.retain(|other| *other != device);
        if links.up.blackhole || links.down.blackhole {
            self.dark.push(device);
        }
    }

    fn happen(&mut self, step: &Step) -> Option<()> {
        match &step.action {
            Action::Start(node) | Action::Thaw(node) => self.runs[node.index()] = true,
            Action::Stop(node) | Action::Crash(node) | Action::Pause(node) => {
                self.runs[node.index()] = false;
            }
            Action::Turn { up } => self.turn = *up,
            Action::Network(fault) => {
                match fault {
                    NetworkFault::Move { node, place, .. } => self.places[node.index()] = *place,
                    NetworkFault::UdpBlocked { nat, on } => self.blocked[nat.index()] = *on,
                    NetworkFault::Link { device, links } => self.set_dark(*device, links),
                    _ => {}
                }
                self.built.apply(fault, step.at, &mut self.network).ok()?;
            }
            _ => {}
        }
        Some(())
    }

    fn class(&self, a: NodeIndex, b: NodeIndex) -> Option<PathClass> {
        let runs = |node: NodeIndex| self.runs[node.index()] && !self.is_dark(node);
        if !runs(a) || !runs(b) {
            return None;
        }
        let (host_a, host_b) = (self.built.host(a), self.built.host(b));
        if self.network.direct_path_possible(host_a, host_b) {
            return Some(PathClass::Direct);
        }
        // The other end of a relayed path is reached by plain UDP, or through a relay of its own.
        let reaches = |node| self.relays(node) || self.passes_udp(node);
        let relayed = (self.relays(a) && reaches(b)) || (self.relays(b) && reaches(a));
        relayed.then_some(PathClass::Relay)
    }

    fn relays(&self, node: NodeIndex) -> bool {
        let turn = &self.topology.node(node).turn;
        let by_udp = turn.contains(&Transport::Udp) && self.passes_udp(node);
        self.turn && (by_udp || turn.contains(&Transport::Tcp))
    }

    fn passes_udp(&self, node: NodeIndex) -> bool {
        self.nats_above(node).all(|nat| !self.blocked[nat])
    }

    fn is_dark(&self, node: NodeIndex) -> bool {
        let is_nat =
            |device: &Device, nat: usize| matches!(device, Device::Nat(n) if n.index() == nat);
        self.dark.contains(&Device::Node(node))
            || self
                .nats_above(node)
                .any(|nat| self.dark.iter().any(|device| is_nat(device, nat)))
    }

    fn nats_above(&self, node: NodeIndex) -> impl Iterator<Item = usize> + '_ {
        let inside = |place: Place| match place {
            Place::Behind(nat) => Some(nat.index()),
            Place::Public => None,
        };
        let first = inside(self.places[node.index()]);
        std::iter::successors(first, move |nat| inside(self.topology.nats[*nat].place))
    }
}
