//! Plans, played with the real program between kernel NATs.
//!
//! Needs root, `ip`, `nft`, coturn, and `holdfast` and `holdfast-wire` built. Without root the
//! tests say that they were skipped; where `CI=true` they fail.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod drills;
mod members;
mod plans;

use std::time::Duration;

use holdfast_core::status::LinkState;
use holdfast_kernel_world::{play, stage::can_run};
use holdfast_net_model::{Filtering, LinkConfig, Links, Mapping, NatConfig};
use holdfast_plan::topology::default_links;
use holdfast_plan::{
    Action, Device, NatIndex, NetworkFault, NodeIndex, OpKind, PathClass, Place, PlayError,
    Service, Side, TraceMode, Wanted, What,
};

use plans::{
    A, B, MEGABYTE, assert_no_errors, assert_settled, figure, intruder, node, pair, played, step,
    stream, talk,
};

#[test]
fn two_nodes_behind_home_nats_echo_a_megabyte_and_settle() {
    if !can_run() {
        return;
    }
    let mut plan = pair("echo", NatConfig::home, PathClass::Direct);
    let echo = talk(&mut plan, 500, Service::Echo, stream(MEGABYTE));
    let sink = talk(&mut plan, 500, Service::Sink, stream(MEGABYTE));
    let datagrams = OpKind::Datagrams {
        count: 50,
        interval: Duration::from_millis(10),
        len_bytes: 200,
    };
    let pace = talk(&mut plan, 3_000, Service::Echo, datagrams);
    let pour = talk(&mut plan, 3_000, Service::Sink, datagrams);
    let forbidden = talk(
        &mut plan,
        3_000,
        Service::Forbidden,
        OpKind::Stream {
            bytes: 100,
            patience: Duration::ZERO,
        },
    );
    let journal = played(&plan, TraceMode::Full);
    assert_settled(&plan, &journal, PathClass::Direct);
    assert_no_errors(&journal);
    for op in [echo, sink] {
        let client = journal.client(op).unwrap();
        assert!(client.complete, "{client:?}");
        let mut servers = journal.streams().map(|(_, report)| report);
        let server = servers.find(|r| r.side == Side::Server && r.op == Some(op) && r.complete);
        let server = server.unwrap();
        assert_eq!(server.received, MEGABYTE);
        assert_eq!(server.peer, Some(A));
    }
    for op in [pace, pour] {
        let report = journal.datagrams(op).unwrap();
        assert_eq!((report.sent, report.received), (50, 50), "{report:?}");
    }
    let refused = journal.client(forbidden).unwrap();
    assert!(
        refused.reset.is_some() && refused.received == 0,
        "{refused:?}"
    );
    assert!(
        !journal
            .streams()
            .any(|(_, r)| r.side == Side::Server && r.op == Some(forbidden))
    );
    let queues = journal
        .entries
        .iter()
        .filter_map(|entry| match &entry.what {
            What::Queue(queue) => Some(queue),
            _ => None,
        });
    let queues: Vec<_> = queues.collect();
    assert!(!queues.is_empty(), "no queue was seen");
    for queue in queues {
        assert!(queue.len <= queue.max, "{queue:?}");
    }
    let lines = journal.trace.lines();
    assert!(
        lines.iter().any(|line| line.contains("\"kind\":\"rx\"")),
        "no record in the trace"
    );
    figure(&format!(
        "played in {:?}, {} lines of trace",
        journal.ended_at,
        lines.len()
    ));
}

#[test]
fn a_crashed_node_comes_back_and_its_link_settles_again() {
    if !can_run() {
        return;
    }
    let mut plan = pair("crash", NatConfig::symmetric, PathClass::Relay);
    let across = talk(&mut plan, 2_950, Service::Echo, stream(4 * MEGABYTE));
    step(&mut plan, 3_000, Action::Crash(B));
    step(&mut plan, 3_500, Action::Start(B));
    let echo = talk(&mut plan, 3_600, Service::Echo, stream(10_000));
    plan.healed_at = Duration::from_millis(3_500);
    let journal = played(&plan, TraceMode::Off);
    assert_settled(&plan, &journal, PathClass::Relay);
    assert_no_errors(&journal);
    assert!(journal.client(echo).unwrap().complete);
    let client = journal.client(across).unwrap();
    assert!(client.complete && client.attempts > 1, "{client:?}");
    // Whom the kill cut off does not take that for the end.
    let cut = journal.streams().find(|(_, report)| {
        report.side == Side::Server && report.op == Some(across) && !report.complete
    });
    let (_, cut) = cut.unwrap();
    assert!(cut.reset.is_some() && cut.finished_at.is_none(), "{cut:?}");
    let saw = |wanted: fn(&What) -> bool| {
        let found = journal.entries.iter().filter(|entry| wanted(&entry.what));
        found.count()
    };
    assert_eq!(saw(|what| matches!(what, What::Started)), 3);
    assert_eq!(saw(|what| matches!(what, What::Ended { clean: false })), 1);
    assert_eq!(
        saw(|what| matches!(what, What::PeerRestarted { peer } if *peer == B)),
        1
    );
    assert_eq!(journal.trace.digest(), (0, 0));
}

#[test]
fn three_nodes_of_one_provider_move_bulk_data_through_its_hairpin() {
    if !can_run() {
        return;
    }
    let provider = |ip| NatConfig {
        hairpinning: true,
        isolated: true,
        ..NatConfig::new(
            ip,
            Mapping::EndpointIndependent,
            Filtering::EndpointIndependent,
        )
    };
    let mut plan = pair("hairpin", provider, PathClass::Direct);
    let (behind, c) = (Place::Behind(NatIndex(0)), NodeIndex(2));
    plan.topology.nats.truncate(1);
    plan.topology.nodes = (0..3).map(|n| node(n, behind)).collect();
    step(&mut plan, 0, Action::Start(c));
    let direct = |a, b| Wanted {
        a,
        b,
        class: Some(PathClass::Direct),
    };
    plan.wanted = vec![direct(A, B), direct(A, c), direct(B, c)];
    let bulk = talk(&mut plan, 1_000, Service::Sink, stream(6 * MEGABYTE));
    let closed = OpKind::Stream {
        bytes: 1_000,
        patience: Duration::ZERO,
    };
    let closed = talk(&mut plan, 1_000, Service::Closed, closed);
    let journal = played(&plan, TraceMode::Off);
    assert!(journal.ended_at < plan.ends_at, "it never settled");
    assert_no_errors(&journal);
    assert!(journal.client(bulk).unwrap().complete);
    assert!(journal.client(closed).unwrap().reset.is_some());
    let direct = journal
        .entries
        .iter()
        .filter_map(|entry| match &entry.what {
            What::Final(link) => Some((link.state, link.class)),
            _ => None,
        });
    let direct: Vec<_> = direct.collect();
    assert_eq!(direct, vec![(LinkState::Up, Some(PathClass::Direct)); 6]);
}

#[test]
fn every_fault_that_this_world_knows_is_survived_and_intruders_stay_outside() {
    if !can_run() {
        return;
    }
    let mut plan = pair("faults", NatConfig::home, PathClass::Direct);
    plan.ends_at = Duration::from_secs(60);
    let (mallory, mask) = (NodeIndex(2), NodeIndex(3));
    plan.topology.nodes.push(intruder(2, None));
    plan.topology.nodes.push(intruder(3, Some(B)));
    step(&mut plan, 0, Action::Start(mallory));
    step(&mut plan, 0, Action::Start(mask));
    let steady = OpKind::Datagrams {
        count: 560,
        interval: Duration::from_millis(25),
        len_bytes: 100,
    };
    let steady = talk(&mut plan, 1_000, Service::Echo, steady);
    let once = OpKind::Stream {
        bytes: 1_000,
        patience: Duration::from_secs(1),
    };
    let knocks = [(mallory, A), (mask, A)].map(|(from, to)| {
        let id = talk(&mut plan, 1_000, Service::Echo, once);
        let last = plan.steps.last_mut().unwrap();
        if let Action::Traffic(op) = &mut last.action {
            (op.from, op.to) = (from, to);
        }
        id
    });
    let link = |links| NetworkFault::Link {
        device: Device::Nat(NatIndex(0)),
        links: Box::new(links),
    };
    let dark = Links::symmetric(LinkConfig {
        blackhole: true,
        ..default_links().up
    });
    let blocked = |on| NetworkFault::UdpBlocked {
        nat: NatIndex(1),
        on,
    };
    for (at_ms, action) in [
        (2_000, Action::Network(link(dark))),
        (2_700, Action::Network(link(default_links()))),
        (3_500, Action::Network(NetworkFault::Flush(NatIndex(0)))),
        (5_000, Action::Pause(B)),
        (5_500, Action::Thaw(B)),
        (6_000, Action::Turn { up: false }),
        (
            6_000,
            Action::Broker {
                broker: 0,
                up: false,
            },
        ),
        (
            6_200,
            Action::Strangers {
                node: A,
                count: 500,
            },
        ),
        (
            7_000,
            Action::Broker {
                broker: 0,
                up: true,
            },
        ),
        (7_000, Action::Turn { up: true }),
        (8_000, Action::Stop(B)),
        (8_600, Action::Start(B)),
        (10_000, Action::Network(blocked(true))),
        (12_500, Action::Network(blocked(false))),
        (13_000, Action::Mark),
    ] {
        step(&mut plan, at_ms, action);
    }
    let journal = played(&plan, TraceMode::Off);
    assert!(journal.ended_at < plan.ends_at, "it never settled");
    assert_no_errors(&journal);
    let told = journal
        .entries
        .iter()
        .map(|entry| (entry.node, &entry.what));
    let told: Vec<_> = told.collect();
    let steps = told
        .iter()
        .filter(|(_, what)| matches!(what, What::Step { .. }));
    assert_eq!(steps.count(), plan.steps.len());
    for (node, what) in &told {
        let is_intruder = *node == Some(mallory) || *node == Some(mask);
        if let What::Link { peer, state, .. } = what {
            let is_up = *state == LinkState::Up;
            let with_intruder = is_intruder || *peer == mallory;
            assert!(!(is_up && with_intruder), "{node:?} {what:?}");
        }
    }
    for knock in knocks {
        let client = journal.client(knock).unwrap();
        assert!(client.received == 0 && !client.complete, "{client:?}");
    }
    assert!(
        !journal
            .streams()
            .any(|(_, report)| report.side == Side::Server)
    );
    let saw = |node, wanted: fn(&What) -> bool| {
        let mut told = told.iter();
        told.any(|(at, what)| *at == Some(node) && wanted(what))
    };
    assert!(
        saw(A, |what| matches!(what, What::Refused { .. })),
        "strangers are counted"
    );
    assert!(
        saw(B, |what| matches!(what, What::Ended { clean: true })),
        "a goodbye"
    );
    let relayed = |what: &What| {
        let class = PathClass::Relay;
        matches!(what, What::Path { class: c, .. } if *c == class)
    };
    assert!(saw(A, relayed), "around the NAT that blocks UDP");
    let report = journal.datagrams(steady).unwrap();
    assert_eq!(report.sent, 560);
    assert!(report.received > 200, "{report:?}");
    let (longest, _) = report.gap_max.unwrap();
    assert!(
        longest > Duration::from_millis(400),
        "{report:?}: nothing was dark"
    );
    figure(&format!("{report:?}"));
}

#[test]
fn what_this_world_lacks_is_refused_before_anything_is_made() {
    let mut plan = pair("cut", NatConfig::home, PathClass::Direct);
    let cut = NetworkFault::Cut { from: A, to: B };
    step(&mut plan, 0, Action::Network(cut));
    let refused = play(&plan, TraceMode::Off).unwrap_err();
    assert!(matches!(refused, PlayError::Unsupported { what, .. } if what == "cut"));
}
