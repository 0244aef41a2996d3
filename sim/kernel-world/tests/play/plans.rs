//! Plans, and what every journal of one must have.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::time::Duration;

use holdfast_core::status::LinkState;
use holdfast_kernel_world::play;
use holdfast_net_model::NatConfig;
use holdfast_plan::topology::{default_links, nat_address, node_address};
use holdfast_plan::{
    Action, ClockSpec, Journal, NatIndex, NatSpec, NodeIndex, NodeSpec, Op, OpId, OpKind,
    PathClass, Place, Plan, Servers, Service, Step, Topology, TraceMode, Transport, Wanted, What,
};

pub const MEGABYTE: u64 = 1 << 20;
pub const A: NodeIndex = NodeIndex(0);
pub const B: NodeIndex = NodeIndex(1);

pub fn nat(index: u16, config: fn(Ipv4Addr) -> NatConfig) -> NatSpec {
    NatSpec {
        name: format!("home-{index}"),
        config: config(nat_address(NatIndex(index), Place::Public)),
        place: Place::Public,
        links: default_links(),
    }
}

pub fn node(index: u16, place: Place) -> NodeSpec {
    NodeSpec {
        name: char::from(b'a' + index as u8).to_string(),
        place,
        address: node_address(NodeIndex(index), place),
        links: default_links(),
        cluster: holdfast_plan::CLUSTER,
        poses_as: None,
        clock: ClockSpec::default(),
        turn: vec![Transport::Udp, Transport::Tcp],
        stun: true,
    }
}

/// Two nodes, each behind such a NAT, that start at once.
pub fn pair(name: &str, config: fn(Ipv4Addr) -> NatConfig, class: PathClass) -> Plan {
    let mut plan = Plan {
        name: name.to_owned(),
        seed: 1,
        topology: Topology {
            nats: vec![nat(0, config), nat(1, config)],
            nodes: (0..2)
                .map(|n| node(n, Place::Behind(NatIndex(n))))
                .collect(),
            servers: Servers {
                brokers: 1,
                links: default_links(),
            },
        },
        steps: Vec::new(),
        healed_at: Duration::ZERO,
        ends_at: Duration::from_secs(30),
        ends_when_settled: true,
        wanted: vec![Wanted {
            a: A,
            b: B,
            class: Some(class),
        }],
        membership: None,
    };
    step(&mut plan, 0, Action::Start(A));
    step(&mut plan, 0, Action::Start(B));
    plan
}

pub fn step(plan: &mut Plan, at_ms: u64, action: Action) {
    plan.steps.push(Step {
        at: Duration::from_millis(at_ms),
        label: format!("{action:?}"),
        action,
    });
}

pub fn talk(plan: &mut Plan, at_ms: u64, service: Service, kind: OpKind) -> OpId {
    let id = OpId(plan.steps.len() as u32);
    let op = Op {
        id,
        name: format!("{service:?}"),
        from: A,
        to: B,
        service,
        kind,
    };
    step(plan, at_ms, Action::Traffic(op));
    id
}

pub fn stream(bytes: u64) -> OpKind {
    OpKind::Stream {
        bytes,
        patience: Duration::from_secs(10),
    }
}

/// The journal, printed when the test fails later.
pub fn played(plan: &Plan, mode: TraceMode) -> Journal {
    let journal = play(plan, mode).unwrap();
    for entry in &journal.entries {
        println!(
            "{:>9.3} {:?} {:?}",
            entry.at.as_secs_f64(),
            entry.node,
            entry.what
        );
    }
    journal
}

pub fn figure(line: &str) {
    // Not by `println!`, which the test harness swallows.
    let _ = writeln!(io::stderr(), "figure: {line}");
}

pub fn assert_settled(plan: &Plan, journal: &Journal, class: PathClass) {
    assert!(journal.ended_at < plan.ends_at, "it never settled");
    let finals = journal
        .entries
        .iter()
        .filter_map(|entry| match &entry.what {
            What::Final(link) => Some(link),
            _ => None,
        });
    let finals: Vec<_> = finals.collect();
    assert_eq!(finals.len(), 2, "one for each end: {finals:?}");
    for link in finals {
        assert_eq!(link.state, LinkState::Up);
        assert_eq!(link.class, Some(class));
    }
    let in_order = journal.entries.is_sorted_by_key(|entry| entry.at);
    assert!(in_order, "entries are in order of time");
}

pub fn assert_no_errors(journal: &Journal) {
    let is_error = |what: &What| matches!(what, What::Error { .. } | What::StrangeDatagram { .. });
    let found = journal.entries.iter().find(|entry| is_error(&entry.what));
    assert_eq!(found, None);
}

/// An intruder with a secret of its own, on the public network.
pub fn intruder(index: u16, poses_as: Option<NodeIndex>) -> NodeSpec {
    NodeSpec {
        cluster: index as u8,
        poses_as,
        ..node(index, Place::Public)
    }
}
