//! A fault as a world is told it: what begins, what undoes it, and what it holds meanwhile.

use std::net::Ipv4Addr;
use std::time::Duration;

use holdfast_net_model::Ratio;
use holdfast_plan::topology::node_address;
use holdfast_plan::{Action, Device, KvFault, NatIndex, NetworkFault, NodeIndex, Place, Topology};

use crate::scenario::format::{Fault, FaultKind};
use crate::scenario::{base_links, device_named, nat_named};

/// Datagrams from strangers unless said.
const STRANGERS_DEFAULT: u32 = 100;

/// What a fault does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Effect {
    /// At its beginning.
    pub begin: Vec<Action>,
    /// At its end; empty when there is nothing to undo.
    pub undo: Vec<Action>,
    /// In words.
    pub label: String,
}

/// What only one fault at a time may have, since its end would undo the other's too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hold {
    /// Whether a node runs.
    Process(NodeIndex),
    /// Where a node is.
    Place(NodeIndex),
    /// A link's properties.
    Link(Device),
    /// What passes from one node to another.
    Pair(NodeIndex, NodeIndex),
    /// Whether a NAT lets UDP pass.
    Udp(NatIndex),
    /// A NAT's address.
    Address(NatIndex),
    /// An address, for a while.
    Taken(Ipv4Addr),
    /// Whether a broker serves.
    Broker(u8),
    /// What brokers lose.
    BrokerLoss,
    /// Whether the TURN server serves.
    Turn,
    /// Whether the KV serves.
    Kv,
    /// Whether a node reaches the KV.
    KvPath(NodeIndex),
    /// What the KV loses.
    KvLoss,
}

/// From when to when a fault is there, at the earliest and the latest.
pub(crate) fn span(fault: &Fault) -> (Duration, Duration) {
    let end = match fault.lasts {
        Some(lasts) => fault.at.to() + lasts.to(),
        None if is_instant(fault.kind) => fault.at.to(),
        None => Duration::MAX,
    };
    (fault.at.from(), end)
}

/// When it is over, once drawn; one that is never undone is over when it has happened.
pub(crate) fn over_at(fault: &Fault) -> Duration {
    fault.at.from() + fault.lasts.map_or(Duration::ZERO, |lasts| lasts.from())
}

/// Whether it is over as soon as it has happened.
pub(crate) const fn is_instant(kind: FaultKind) -> bool {
    use FaultKind as K;
    matches!(kind, K::Flush | K::ClockStep | K::Attack | K::Strangers)
}

/// Whether it decides if a node's process runs.
pub(crate) const fn is_process(kind: FaultKind) -> bool {
    use FaultKind as K;
    matches!(kind, K::Crash | K::Stop | K::Pause | K::Wipe | K::Retire)
}

/// What a fault holds while it is there.
pub(crate) fn holds(fault: &Fault, topology: &Topology) -> Vec<Hold> {
    let node = || fault.node.as_deref().and_then(|name| topology.find(name));
    let nat = || {
        fault
            .nat
            .as_deref()
            .and_then(|name| nat_named(topology, name))
    };
    let hold = match fault.kind {
        FaultKind::Cut => {
            return cuts(fault, topology)
                .into_iter()
                .map(|(from, to)| Hold::Pair(from, to))
                .collect();
        }
        FaultKind::Link => {
            let device = fault.device.as_deref();
            device
                .and_then(|name| device_named(topology, name))
                .map(Hold::Link)
        }
        kind if is_process(kind) => node().map(Hold::Process),
        FaultKind::Move if fault.lasts.is_some() => node().map(Hold::Place),
        FaultKind::UdpBlocked => nat().map(Hold::Udp),
        FaultKind::Renumber if fault.lasts.is_some() => nat().map(Hold::Address),
        FaultKind::Broker => Some(Hold::Broker(fault.broker.unwrap_or(1))),
        FaultKind::BrokerLoss => Some(Hold::BrokerLoss),
        FaultKind::Turn => Some(Hold::Turn),
        FaultKind::KvLeader => Some(Hold::Kv),
        FaultKind::KvCut => match &fault.node {
            Some(_) => node().map(Hold::KvPath),
            None => Some(Hold::Kv),
        },
        FaultKind::KvLoss => Some(Hold::KvLoss),
        FaultKind::Crash
        | FaultKind::Stop
        | FaultKind::Pause
        | FaultKind::Wipe
        | FaultKind::Retire
        | FaultKind::Flush
        | FaultKind::Move
        | FaultKind::Renumber
        | FaultKind::ClockStep
        | FaultKind::Attack
        | FaultKind::Strangers => None,
    };
    // For good, without a time: nothing gives the address back.
    let taken = fault.address.map(Hold::Taken);
    hold.into_iter().chain(taken).collect()
}

fn cuts(fault: &Fault, topology: &Topology) -> Vec<(NodeIndex, NodeIndex)> {
    let pair = |from: &str, to: &str| topology.find(from).zip(topology.find(to));
    if let Some([a, b]) = &fault.between {
        return [pair(a, b), pair(b, a)].into_iter().flatten().collect();
    }
    let ends = fault.from.as_deref().zip(fault.to.as_deref());
    ends.and_then(|(from, to)| pair(from, to))
        .into_iter()
        .collect()
}

/// What a fault does to that topology. `None` when it names what is not there.
pub(crate) fn effect(fault: &Fault, topology: &Topology) -> Option<Effect> {
    let network = |fault| vec![Action::Network(fault)];
    let node_name = || fault.node.as_deref().unwrap_or_default();
    let node = || topology.find(node_name());
    let nat_name = || fault.nat.as_deref().unwrap_or_default();
    let nat = || nat_named(topology, nat_name());
    let (begin, undo, words) = match fault.kind {
        FaultKind::Cut => cut(fault, topology)?,
        FaultKind::Link => link(fault, topology)?,
        FaultKind::Flush => {
            let begin = network(NetworkFault::Flush(nat()?));
            (
                begin,
                Vec::new(),
                format!("{} forgets its mappings", nat_name()),
            )
        }
        FaultKind::Renumber => {
            let (nat, public_ip) = (nat()?, fault.address?);
            let before = topology.nats[nat.index()].config.public_ip;
            let to = |public_ip| network(NetworkFault::Renumber { nat, public_ip });
            let words = format!("{} has the address {public_ip}", nat_name());
            (to(public_ip), to(before), words)
        }
        FaultKind::UdpBlocked => {
            let nat = nat()?;
            let before = topology.nats[nat.index()].config.udp_blocked;
            let set = |on| network(NetworkFault::UdpBlocked { nat, on });
            (set(true), set(before), format!("{} blocks UDP", nat_name()))
        }
        FaultKind::Move => relocation(fault, topology)?,
        FaultKind::Crash => {
            let node = node()?;
            let undo = vec![Action::Start(node)];
            (
                vec![Action::Crash(node)],
                undo,
                format!("{} crashes", node_name()),
            )
        }
        FaultKind::Stop => {
            let node = node()?;
            let undo = vec![Action::Start(node)];
            (
                vec![Action::Stop(node)],
                undo,
                format!("{} stops", node_name()),
            )
        }
        FaultKind::Pause => {
            let node = node()?;
            let undo = vec![Action::Thaw(node)];
            (
                vec![Action::Pause(node)],
                undo,
                format!("{} stands still", node_name()),
            )
        }
        FaultKind::ClockStep => {
            let (node, by) = (node()?, fault.by?);
            let begin = vec![Action::ClockStep { node, by_ms: by.0 }];
            (
                begin,
                Vec::new(),
                format!("{}'s clock jumps by {by}", node_name()),
            )
        }
        FaultKind::Broker => {
            let broker = fault.broker.unwrap_or(1).checked_sub(1)?;
            let set = |up| vec![Action::Broker { broker, up }];
            (
                set(false),
                set(true),
                format!("broker {} is gone", broker + 1),
            )
        }
        FaultKind::BrokerLoss => {
            let share = |given: Option<crate::scenario::values::Share>| {
                given.map_or(Ratio::NEVER, |share| share.0)
            };
            let (lose, repeat) = (share(fault.lose), share(fault.repeat));
            let none = Action::BrokerLoss {
                lose: Ratio::NEVER,
                repeat: Ratio::NEVER,
            };
            let begin = vec![Action::BrokerLoss { lose, repeat }];
            (begin, vec![none], "brokers lose and repeat".to_owned())
        }
        FaultKind::Turn => {
            let set = |up| vec![Action::Turn { up }];
            (set(false), set(true), "TURN is gone".to_owned())
        }
        FaultKind::Attack => {
            let (node, attack) = (node()?, fault.attack?);
            let begin = vec![Action::Attack { node, attack }];
            (
                begin,
                Vec::new(),
                format!("{} gets {attack:?} from an outsider", node_name()),
            )
        }
        FaultKind::Wipe => {
            let node = node()?;
            let words = format!("{} loses its disk", node_name());
            (vec![Action::Wipe(node)], vec![Action::Start(node)], words)
        }
        FaultKind::Retire => {
            let node = node()?;
            let words = format!("{} gives its slot back", node_name());
            (vec![Action::Retire(node)], vec![Action::Start(node)], words)
        }
        FaultKind::KvLeader | FaultKind::KvCut | FaultKind::KvLoss => kv(fault, topology)?,
        FaultKind::Strangers => {
            let (node, count) = (node()?, fault.count.unwrap_or(STRANGERS_DEFAULT));
            let begin = vec![Action::Strangers { node, count }];
            (
                begin,
                Vec::new(),
                format!("{count} datagrams from strangers to {}", node_name()),
            )
        }
    };
    let label = match &fault.name {
        Some(name) => format!("{name} ({words})"),
        None => words,
    };
    Some(Effect { begin, undo, label })
}

type Parts = (Vec<Action>, Vec<Action>, String);

fn kv(fault: &Fault, topology: &Topology) -> Option<Parts> {
    let one = |fault| vec![Action::Kv(fault)];
    let lasts = fault.lasts.map(|lasts| lasts.from());
    Some(match (fault.kind, &fault.node) {
        (FaultKind::KvLeader, _) => {
            let after = lasts?;
            let begin = one(KvFault::Leader { after });
            (begin, Vec::new(), "the KV has another leader".to_owned())
        }
        (FaultKind::KvCut, Some(name)) => {
            let node = topology.find(name)?;
            let cut = |on| one(KvFault::Cut { node, on });
            let words = format!("{name} does not reach the KV");
            (cut(true), cut(false), words)
        }
        (FaultKind::KvCut, None) => {
            let begin = one(KvFault::Away { lasts: lasts? });
            (begin, Vec::new(), "nobody reaches the KV".to_owned())
        }
        _ => {
            let share = |given: Option<crate::scenario::values::Share>| {
                given.map_or(Ratio::NEVER, |share| share.0)
            };
            let loss = |lose, late| one(KvFault::Loss { lose, late });
            let begin = loss(share(fault.lose), share(fault.late));
            let words = "the KV loses, or is late".to_owned();
            (begin, loss(Ratio::NEVER, Ratio::NEVER), words)
        }
    })
}

fn cut(fault: &Fault, topology: &Topology) -> Option<Parts> {
    let pairs = cuts(fault, topology);
    let name = |node: NodeIndex| &topology.node(node).name;
    let (from, to) = pairs.first()?;
    let arrow = if pairs.len() == 2 { "<>" } else { ">" };
    let words = format!("cut {} {arrow} {}", name(*from), name(*to));
    let cut = |(from, to): &(NodeIndex, NodeIndex)| {
        Action::Network(NetworkFault::Cut {
            from: *from,
            to: *to,
        })
    };
    let mend = |(from, to): &(NodeIndex, NodeIndex)| {
        Action::Network(NetworkFault::Mend {
            from: *from,
            to: *to,
        })
    };
    let begin = pairs.iter().map(cut).collect();
    Some((begin, pairs.iter().map(mend).collect(), words))
}

fn link(fault: &Fault, topology: &Topology) -> Option<Parts> {
    let name = fault.device.as_deref()?;
    let device = device_named(topology, name)?;
    let base = base_links(topology, device);
    let other = fault.link?.links(base);
    let set = |links| {
        let links = Box::new(links);
        vec![Action::Network(NetworkFault::Link { device, links })]
    };
    let words = match other.up == other.down {
        true => format!("link of {name}: {}", other.up),
        false => format!("link of {name}: up {}, down {}", other.up, other.down),
    };
    Some((set(other), set(base), words))
}

fn relocation(fault: &Fault, topology: &Topology) -> Option<Parts> {
    let name = fault.node.as_deref()?;
    let node = topology.find(name)?;
    let place = match fault.behind.as_deref() {
        Some(nat) => Place::Behind(nat_named(topology, nat)?),
        None => Place::Public,
    };
    let address = fault.address.unwrap_or_else(|| node_address(node, place));
    let go = |place, address| {
        vec![Action::Network(NetworkFault::Move {
            node,
            place,
            address,
        })]
    };
    let home = topology.node(node);
    let to = fault.behind.as_deref().unwrap_or("the public network");
    let words = format!("{name} moves to {to}, {address}");
    Some((go(place, address), go(home.place, home.address), words))
}
