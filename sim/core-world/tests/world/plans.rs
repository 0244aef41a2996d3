//! Plans, from a few words.

use std::time::Duration;

use holdfast_net_model::NatConfig;
use holdfast_plan::topology::{default_links, nat_address, node_address};
use holdfast_plan::{
    Action, CLUSTER, ClockSpec, Journal, NatIndex, NatSpec, NodeIndex, NodeSpec, Op, OpId, OpKind,
    PathClass, Place, Plan, Servers, Service, Step, Topology, TraceMode, Transport, Wanted, What,
};

pub const A: NodeIndex = NodeIndex(0);
pub const B: NodeIndex = NodeIndex(1);
pub const C: NodeIndex = NodeIndex(2);

pub const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Nodes `a`, `b`, …, each behind a home NAT of its own.
pub fn homes(count: u16) -> Topology {
    behind(count, NatConfig::home)
}

pub fn behind(count: u16, nat: impl Fn(std::net::Ipv4Addr) -> NatConfig) -> Topology {
    let nats = (0..count).map(NatIndex).map(|index| NatSpec {
        name: format!("nat-{}", index.0),
        config: nat(nat_address(index, Place::Public)),
        place: Place::Public,
        links: default_links(),
    });
    let nodes = (0..count).map(NodeIndex).map(|node| {
        let place = Place::Behind(NatIndex(node.0));
        NodeSpec {
            name: char::from(b'a' + node.0 as u8).to_string(),
            place,
            address: node_address(node, place),
            links: default_links(),
            cluster: CLUSTER,
            poses_as: None,
            clock: ClockSpec::default(),
            turn: vec![Transport::Udp],
            stun: true,
        }
    });
    Topology {
        nats: nats.collect(),
        nodes: nodes.collect(),
        servers: Servers {
            brokers: 2,
            links: default_links(),
        },
    }
}

/// A plan in which all nodes start at once.
pub fn plan(topology: Topology, ends_at: Duration) -> Plan {
    let starts = topology.node_indices().map(|node| Step {
        at: Duration::ZERO,
        action: Action::Start(node),
        label: "start".to_owned(),
    });
    Plan {
        name: "test".to_owned(),
        seed: 7,
        steps: starts.collect(),
        topology,
        healed_at: Duration::ZERO,
        ends_at,
        ends_when_settled: false,
        wanted: Vec::new(),
        membership: None,
    }
}

/// Plans grow from left to right.
pub trait Grow {
    fn at(self, at: Duration, action: Action) -> Plan;
    fn stream(
        self,
        at: Duration,
        from: NodeIndex,
        to: NodeIndex,
        service: Service,
        bytes: u64,
        patience: Duration,
    ) -> Plan;
    fn datagrams(
        self,
        at: Duration,
        from: NodeIndex,
        to: NodeIndex,
        service: Service,
        count: u32,
    ) -> Plan;
    fn wants(self, a: NodeIndex, b: NodeIndex, class: Option<PathClass>) -> Plan;
    fn play(&self) -> Journal;
}

impl Grow for Plan {
    fn at(mut self, at: Duration, action: Action) -> Plan {
        let label = format!("{action:?}");
        self.steps.push(Step { at, action, label });
        self.steps.sort_by_key(|step| step.at);
        self
    }

    fn stream(
        self,
        at: Duration,
        from: NodeIndex,
        to: NodeIndex,
        service: Service,
        bytes: u64,
        patience: Duration,
    ) -> Plan {
        let id = OpId(self.ops().count() as u32);
        let op = Op {
            id,
            name: "stream".to_owned(),
            from,
            to,
            service,
            kind: OpKind::Stream { bytes, patience },
        };
        self.at(at, Action::Traffic(op))
    }

    fn datagrams(
        self,
        at: Duration,
        from: NodeIndex,
        to: NodeIndex,
        service: Service,
        count: u32,
    ) -> Plan {
        let id = OpId(self.ops().count() as u32);
        let op = Op {
            id,
            name: "datagrams".to_owned(),
            from,
            to,
            service,
            kind: OpKind::Datagrams {
                count,
                interval: ms(20),
                len_bytes: 300,
            },
        };
        self.at(at, Action::Traffic(op))
    }

    fn wants(mut self, a: NodeIndex, b: NodeIndex, class: Option<PathClass>) -> Plan {
        self.wanted.push(Wanted { a, b, class });
        self
    }

    fn play(&self) -> Journal {
        holdfast_core_world::play(self, TraceMode::Off).unwrap()
    }
}

/// When the node first saw that, at or after a time.
pub fn first(
    journal: &Journal,
    node: NodeIndex,
    from: Duration,
    is_it: impl Fn(&What) -> bool,
) -> Option<Duration> {
    let entries = journal.entries.iter();
    let mut found = entries.filter(|e| e.node == Some(node) && e.at >= from && is_it(&e.what));
    found.next().map(|entry| entry.at)
}

/// How the link of a node was at the end.
pub fn end(journal: &Journal, node: NodeIndex, to: NodeIndex) -> Option<holdfast_plan::LinkFinal> {
    journal.entries.iter().find_map(|entry| match &entry.what {
        What::Final(link) if entry.node == Some(node) && link.peer == to => Some(link.clone()),
        _ => None,
    })
}
