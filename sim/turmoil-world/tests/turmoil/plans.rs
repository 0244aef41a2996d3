//! Plans by hand: two nodes and what happens to them.

use std::time::Duration;

use holdfast_net_model::{LinkConfig, Links, NatConfig};
use holdfast_plan::topology::{default_links, nat_address, node_address};
use holdfast_plan::{
    Action, CLUSTER, ClockSpec, NatIndex, NatSpec, NodeIndex, NodeSpec, Op, OpId, OpKind,
    PathClass, Place, Plan, Servers, Service, Step, Topology, Transport, Wanted,
};

pub const A: NodeIndex = NodeIndex(0);
pub const B: NodeIndex = NodeIndex(1);

pub const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub const fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// A NAT as homes have it.
fn home_nat(n: u16) -> NatSpec {
    let index = NatIndex(n);
    NatSpec {
        name: format!("home-{n}"),
        config: NatConfig::home(nat_address(index, Place::Public)),
        place: Place::Public,
        links: Links::symmetric(LinkConfig::with_delay(ms(1))),
    }
}

pub fn node(n: u16, name: &str, place: Place) -> NodeSpec {
    NodeSpec {
        name: name.to_owned(),
        place,
        address: node_address(NodeIndex(n), place),
        links: default_links(),
        cluster: CLUSTER,
        poses_as: None,
        clock: ClockSpec::default(),
        turn: vec![Transport::Udp],
        stun: true,
    }
}

/// Two nodes behind NATs of their own, and one server.
pub fn two_homes() -> Topology {
    Topology {
        nats: vec![home_nat(0), home_nat(1)],
        nodes: vec![
            node(0, "a", Place::Behind(NatIndex(0))),
            node(1, "b", Place::Behind(NatIndex(1))),
        ],
        servers: Servers {
            brokers: 1,
            links: default_links(),
        },
    }
}

/// A plan that starts both nodes at once, and ends when it is settled.
pub fn plan(name: &str, seed: u64, topology: Topology) -> Plan {
    let steps = topology
        .node_indices()
        .map(|node| step(Duration::ZERO, Action::Start(node)));
    Plan {
        name: name.to_owned(),
        seed,
        steps: steps.collect(),
        topology,
        healed_at: Duration::ZERO,
        ends_at: secs(120),
        ends_when_settled: true,
        wanted: vec![wanted(None)],
        membership: None,
    }
}

pub fn wanted(class: Option<PathClass>) -> Wanted {
    Wanted { a: A, b: B, class }
}

pub fn step(at: Duration, action: Action) -> Step {
    Step {
        at,
        label: format!("{action:?}"),
        action,
    }
}

/// A stream from A to B.
pub fn stream(id: u32, service: Service, bytes: u64, patience: Duration) -> Action {
    Action::Traffic(Op {
        id: OpId(id),
        name: "test".to_owned(),
        from: A,
        to: B,
        service,
        kind: OpKind::Stream { bytes, patience },
    })
}
