//! Instances that claim slots: three coordinators with Consul servers, and workers.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::Duration;

use holdfast_kernel_world::members;
use holdfast_kernel_world::stage::can_run;
use holdfast_net_model::NatConfig;
use holdfast_plan::{
    Action, Identity, Instance, Journal, KvFault, Membership, NatIndex, NodeIndex, Place, Plan,
    Servers, SlotSeen, Topology, TraceMode, What,
};

use crate::plans::{nat, node, played, step};

/// The first of them run Consul.
const COORDINATORS: u16 = 3;

/// Three coordinators and as many workers as given, each behind a NAT of its own; the last one
/// is known to a TEE.
fn cluster(name: &str, workers: u16) -> Plan {
    let nodes = COORDINATORS + workers;
    let instance = |n: u16| Instance {
        identity: match n + 1 == nodes {
            true => Identity::Tee,
            false => Identity::Disk,
        },
        pinned: (n < COORDINATORS).then_some(n + 1),
    };
    let mut plan = Plan {
        name: name.to_owned(),
        seed: 1,
        topology: Topology {
            nats: (0..nodes).map(|n| nat(n, NatConfig::home)).collect(),
            nodes: (0..nodes)
                .map(|n| node(n, Place::Behind(NatIndex(n))))
                .collect(),
            servers: Servers {
                brokers: 1,
                links: holdfast_plan::topology::default_links(),
            },
        },
        steps: Vec::new(),
        healed_at: Duration::ZERO,
        ends_at: Duration::from_secs(60),
        ends_when_settled: true,
        wanted: Vec::new(),
        membership: Some(Membership {
            slots: (1..=nodes).collect(),
            lease: Duration::from_secs(15),
            drift_per_mille: 5,
            instances: (0..nodes).map(instance).collect(),
            mesh: true,
        }),
    };
    for n in 0..nodes {
        let at_ms = if n < COORDINATORS { 0 } else { 2_000 };
        step(&mut plan, at_ms, Action::Start(NodeIndex(n)));
    }
    plan
}

fn owned(journal: &Journal, node: NodeIndex) -> Vec<(u16, bool)> {
    let of_node = journal
        .slots
        .iter()
        .filter(|entry| entry.node == Some(node));
    let owned = of_node.filter_map(|entry| match entry.what {
        SlotSeen::SlotOwned { slot, rejoined, .. } => Some((slot, rejoined)),
        _ => None,
    });
    owned.collect()
}

#[test]
fn a_cluster_with_consul_takes_everybody_back() {
    if !can_run() {
        return;
    }
    if let Err(why) = members::consul() {
        let must_run = std::env::var_os("CI").is_some_and(|ci| ci == "true");
        assert!(!must_run, "CI must run this test: {why}");
        let _ = writeln!(io::stderr(), "SKIPPED, not tested: {why}");
        return;
    }
    let mut plan = cluster("cluster", 3);
    let (first, last) = (NodeIndex(0), NodeIndex(5));
    step(&mut plan, 15_000, Action::Crash(first));
    step(&mut plan, 17_000, Action::Start(first));
    step(&mut plan, 22_000, Action::Wipe(last));
    step(&mut plan, 23_000, Action::Start(last));
    let after = Duration::from_secs(2);
    step(&mut plan, 27_000, Action::Kv(KvFault::Leader { after }));
    plan.healed_at = Duration::from_secs(29);
    let journal = played(&plan, TraceMode::Off);
    let errors = journal
        .entries
        .iter()
        .filter_map(|entry| match &entry.what {
            What::Error { line } => Some(line.as_str()),
            _ => None,
        });
    assert_eq!(errors.collect::<Vec<_>>(), Vec::<&str>::new());
    assert_eq!(owned(&journal, first), [(1, false), (1, false)]);
    let of_last = owned(&journal, last);
    assert_eq!(of_last.len(), 2);
    assert_eq!(of_last[1], (of_last[0].0, true), "its own slot again");
    let slots = journal.slots.iter().filter_map(|entry| match entry.what {
        SlotSeen::SlotLive { slot, until, .. } if until == journal.ended_at => Some(slot),
        _ => None,
    });
    assert_eq!(slots.collect::<BTreeSet<u16>>(), (1..=6).collect());
}
