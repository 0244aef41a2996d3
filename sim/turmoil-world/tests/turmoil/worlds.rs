//! What the real drivers and servers do on simulated hosts.

use std::time::Duration;

use holdfast_core::status::LinkState;
use holdfast_net_model::{LinkConfig, Links, Mapping, Ratio};
use holdfast_plan::{
    Action, Attack, ClockSpec, Device, Journal, NatIndex, NetworkFault, NodeIndex, Op, OpId,
    OpKind, PathClass, Place, Plan, PlayError, Service, Side, TraceMode, Transport, What,
};
use holdfast_turmoil_world::play;

use crate::plans::{A, B, ms, node, plan, secs, step, stream, two_homes, wanted};

const PATIENT: Duration = secs(60);

fn played(plan: &Plan) -> Journal {
    let journal = play(plan, TraceMode::Digest).unwrap();
    for entry in &journal.entries {
        assert!(!matches!(entry.what, What::Error { .. }), "{entry:?}");
    }
    journal
}

/// The plan settled: its end was not the last possible one.
fn settled(plan: &Plan) -> Journal {
    let journal = played(plan);
    assert!(journal.ended_at < plan.ends_at, "it never settled");
    journal
}

fn assert_complete(journal: &Journal, op: u32) {
    let client = journal.client(OpId(op)).unwrap();
    assert!(client.complete, "{client:?}");
    assert_eq!(client.altered_at, None);
}

fn seen(journal: &Journal, what: impl Fn(&What) -> bool) -> usize {
    journal
        .entries
        .iter()
        .filter(|entry| what(&entry.what))
        .count()
}

#[test]
fn two_nodes_behind_home_nats_meet_directly_and_a_megabyte_is_echoed() {
    let mut plan = plan("echo", 1, two_homes());
    plan.steps
        .push(step(secs(1), stream(1, Service::Echo, 1_000_000, PATIENT)));
    plan.wanted = vec![wanted(Some(PathClass::Direct))];
    let journal = settled(&plan);
    assert_complete(&journal, 1);
    let (entry, server) = journal
        .streams()
        .find(|(_, r)| r.side == Side::Server)
        .unwrap();
    assert_eq!(
        (entry.node, server.peer, server.op),
        (Some(B), Some(A), Some(OpId(1)))
    );
    assert!(server.complete && server.sent == 1_000_000, "{server:?}");
    assert!(journal.ended_at < secs(10), "{:?}", journal.ended_at);
    let finals = seen(
        &journal,
        |what| matches!(what, What::Final(l) if l.state == LinkState::Up),
    );
    assert_eq!(finals, 2);
    assert!(
        seen(
            &journal,
            |what| matches!(what, What::Queue(q) if q.len <= q.max)
        ) > 10
    );
}

#[test]
fn a_peer_that_crashes_and_starts_again_is_recognised_and_served() {
    let mut plan = plan("crash", 2, two_homes());
    plan.steps.extend([
        step(secs(2), stream(1, Service::Echo, 5_000_000, PATIENT)),
        step(ms(2_100), Action::Crash(B)),
        step(secs(4), Action::Start(B)),
    ]);
    let journal = settled(&plan);
    assert_complete(&journal, 1);
    assert!(journal.client(OpId(1)).unwrap().attempts > 1);
    let restarted = |what: &What| matches!(what, What::PeerRestarted { peer } if *peer == B);
    assert_eq!(seen(&journal, restarted), 1);
    assert_eq!(
        seen(&journal, |what| matches!(
            what,
            What::Ended { clean: false }
        )),
        1
    );
    assert_eq!(seen(&journal, |what| matches!(what, What::Started)), 3);
}

#[test]
fn a_node_that_is_told_to_stop_says_goodbye_and_its_peer_is_idle() {
    let mut plan = plan("stop", 3, two_homes());
    plan.steps.push(step(secs(3), Action::Stop(B)));
    plan.ends_when_settled = false;
    plan.ends_at = secs(8);
    let journal = played(&plan);
    assert_eq!(
        seen(&journal, |what| matches!(what, What::Ended { clean: true })),
        1
    );
    let idle =
        |what: &What| matches!(what, What::Final(l) if l.peer == B && l.state == LinkState::Idle);
    assert_eq!(seen(&journal, idle), 1);
}

#[test]
fn nodes_that_start_while_the_broker_is_away_meet_when_it_comes_back() {
    let mut plan = plan("broker", 4, two_homes());
    plan.steps.insert(
        0,
        step(
            Duration::ZERO,
            Action::Broker {
                broker: 0,
                up: false,
            },
        ),
    );
    plan.steps.extend([
        step(
            secs(5),
            Action::Broker {
                broker: 0,
                up: true,
            },
        ),
        // And once more, when it no longer matters.
        step(
            secs(15),
            Action::Broker {
                broker: 0,
                up: false,
            },
        ),
        step(secs(16), stream(1, Service::Echo, 100_000, PATIENT)),
    ]);
    let journal = settled(&plan);
    assert_complete(&journal, 1);
    let up = |e: &&holdfast_plan::Entry| {
        matches!(
            e.what,
            What::Link {
                state: LinkState::Up,
                ..
            }
        )
    };
    assert!(journal.entries.iter().find(up).unwrap().at > secs(5));
}

#[test]
fn where_udp_is_blocked_the_relay_is_reached_over_tcp() {
    let mut topology = two_homes();
    topology.nats[0].config.udp_blocked = true;
    topology.nodes[0].turn = vec![Transport::Udp, Transport::Tcp];
    let mut plan = plan("tcp", 5, topology);
    plan.steps
        .push(step(secs(1), stream(1, Service::Echo, 300_000, PATIENT)));
    plan.wanted = vec![wanted(Some(PathClass::Relay))];
    let journal = settled(&plan);
    assert_complete(&journal, 1);
}

#[test]
fn a_link_without_light_holds_tcp_too_until_it_is_back() {
    let mut topology = two_homes();
    topology.nats[0].config.udp_blocked = true;
    topology.nodes[0].turn = vec![Transport::Tcp];
    let links = topology.nodes[0].links;
    let dark = LinkConfig {
        blackhole: true,
        ..LinkConfig::IDEAL
    };
    let fault = |links| {
        let links = Box::new(links);
        Action::Network(NetworkFault::Link {
            device: Device::Node(A),
            links,
        })
    };
    let mut plan = plan("dark", 6, topology);
    plan.steps.extend([
        step(secs(5), fault(Links::symmetric(dark))),
        step(secs(6), stream(1, Service::Echo, 100_000, PATIENT)),
        step(secs(25), fault(links)),
    ]);
    let journal = settled(&plan);
    assert_complete(&journal, 1);
    assert!(journal.client(OpId(1)).unwrap().first_byte_at > Some(secs(25)));
}

#[test]
fn a_node_that_moves_to_another_address_keeps_its_streams() {
    let mut topology = two_homes();
    topology.nodes[0] = node(0, "a", Place::Public);
    let mut plan = plan("move", 7, topology);
    let to = NetworkFault::Move {
        node: A,
        place: Place::Behind(NatIndex(0)),
        address: [10, 1, 77, 2].into(),
    };
    plan.steps.extend([
        step(
            secs(2),
            stream(1, Service::Echo, 20_000_000, Duration::ZERO),
        ),
        step(ms(2_200), Action::Network(to)),
    ]);
    let journal = settled(&plan);
    assert_complete(&journal, 1);
    assert!(seen(&journal, |what| matches!(what, What::Path { .. })) > 2);
}

#[test]
fn what_is_refused_what_is_closed_and_what_never_reads_is_told_apart() {
    let mut plan = plan("services", 8, two_homes());
    plan.steps.extend([
        step(secs(1), stream(1, Service::Sink, 50_000, PATIENT)),
        step(secs(1), stream(2, Service::Closed, 1_000, Duration::ZERO)),
        step(
            secs(1),
            stream(3, Service::Forbidden, 1_000, Duration::ZERO),
        ),
        step(
            secs(1),
            stream(4, Service::Stopped, 20_000_000, Duration::ZERO),
        ),
    ]);
    plan.ends_when_settled = false;
    plan.ends_at = secs(10);
    let journal = played(&plan);
    assert_complete(&journal, 1);
    for op in [2, 3] {
        let client = journal.client(OpId(op)).unwrap();
        assert!(client.reset.is_some() && !client.complete, "{client:?}");
    }
    let stopped = journal.client(OpId(4)).unwrap();
    assert!(
        stopped.sent < 20_000_000 && stopped.reset.is_none(),
        "{stopped:?}"
    );
    let forbidden = journal
        .streams()
        .filter(|(_, r)| r.side == Side::Server && r.op == Some(OpId(3)));
    assert_eq!(forbidden.count(), 0);
}

#[test]
fn datagrams_come_back_whole() {
    let mut plan = plan("datagrams", 9, two_homes());
    let datagrams = |id, service| {
        Action::Traffic(Op {
            id: OpId(id),
            name: "datagrams".to_owned(),
            from: A,
            to: B,
            service,
            kind: OpKind::Datagrams {
                count: 100,
                interval: ms(10),
                len_bytes: 400,
            },
        })
    };
    plan.steps.extend([
        step(secs(1), datagrams(1, Service::Echo)),
        step(secs(1), datagrams(2, Service::Sink)),
        step(secs(1), datagrams(3, Service::Forbidden)),
    ]);
    let journal = settled(&plan);
    for (op, received) in [(1, 100), (2, 100), (3, 0)] {
        let report = journal.datagrams(OpId(op)).unwrap();
        assert_eq!(
            (report.sent, report.received, report.repeated),
            (100, received, 0),
            "{op}"
        );
    }
    assert_eq!(
        seen(&journal, |what| matches!(
            what,
            What::StrangeDatagram { .. }
        )),
        0
    );
}

#[test]
fn a_broker_that_loses_half_and_repeats_half_delays_a_meeting_and_no_more() {
    let mut plan = plan("lossy", 10, two_homes());
    let loss = Action::BrokerLoss {
        lose: Ratio::of(1, 2),
        repeat: Ratio::of(1, 2),
    };
    plan.steps.insert(0, step(Duration::ZERO, loss));
    plan.steps
        .push(step(secs(1), stream(1, Service::Echo, 100_000, PATIENT)));
    assert_complete(&settled(&plan), 1);
}

#[test]
fn outsiders_neither_get_in_nor_throw_anybody_out() {
    let mut topology = two_homes();
    let mut intruder = node(2, "mallory", Place::Public);
    (intruder.cluster, intruder.poses_as) = (1, Some(B));
    topology.nodes.push(intruder);
    let mut plan = plan("attacks", 11, topology);
    for (n, attack) in [
        Attack::Replay,
        Attack::Corrupt,
        Attack::Foreign,
        Attack::Garbage,
    ]
    .into_iter()
    .enumerate()
    {
        let at = secs(3 + 2 * n as u64);
        plan.steps
            .push(step(at, Action::Attack { node: A, attack }));
    }
    plan.steps.extend([
        step(
            secs(4),
            Action::Strangers {
                node: A,
                count: 300,
            },
        ),
        step(secs(2), stream(1, Service::Echo, 100_000, PATIENT)),
        step(secs(14), stream(2, Service::Echo, 100_000, PATIENT)),
    ]);
    plan.steps.sort_by_key(|step| step.at);
    let journal = settled(&plan);
    assert_complete(&journal, 1);
    assert_complete(&journal, 2);
    assert_eq!(
        seen(&journal, |what| matches!(what, What::PeerRestarted { .. })),
        0
    );
    let down = |what: &What| {
        matches!(
            what,
            What::Link {
                state: LinkState::Down,
                ..
            }
        )
    };
    assert_eq!(seen(&journal, down), 0);
    assert!(seen(&journal, |what| matches!(what, What::Refused { .. })) > 0);
    let intruder_up = journal.entries.iter().any(|e| {
        e.node == Some(NodeIndex(2))
            && matches!(
                e.what,
                What::Link {
                    state: LinkState::Up,
                    ..
                }
            )
    });
    assert!(!intruder_up);
}

#[test]
fn clocks_that_differ_and_jump_keep_nobody_from_meeting() {
    let mut topology = two_homes();
    topology.nodes[0].clock = ClockSpec {
        offset_ms: -3_600_000,
        drift_ppm: 200,
    };
    topology.nodes[1].clock = ClockSpec {
        offset_ms: 60_000,
        drift_ppm: -200,
    };
    let mut plan = plan("clocks", 12, topology);
    plan.steps.extend([
        step(
            secs(2),
            Action::ClockStep {
                node: A,
                by_ms: 1_800_000,
            },
        ),
        step(secs(3), Action::Crash(B)),
        step(secs(4), Action::Start(B)),
        step(secs(5), stream(1, Service::Echo, 100_000, PATIENT)),
    ]);
    assert_complete(&settled(&plan), 1);
}

/// When the link is up again after the relay, the only way, was away from 4 s to 8 s.
fn relayed_again_at(seed: u64, transport: Transport) -> Duration {
    let mut topology = two_homes();
    for nat in &mut topology.nats {
        nat.config.mapping = Mapping::AddressAndPortDependent;
        nat.config.port_preservation = false;
    }
    for node in &mut topology.nodes {
        node.turn = vec![transport];
    }
    let mut plan = plan("relay", seed, topology);
    plan.steps.extend([
        step(secs(4), Action::Turn { up: false }),
        step(secs(8), Action::Turn { up: true }),
    ]);
    plan.wanted = vec![wanted(Some(PathClass::Relay))];
    plan.ends_at = secs(300);
    let journal = settled(&plan);
    let up = |what: &What| {
        matches!(
            what,
            What::Link {
                state: LinkState::Up,
                ..
            }
        )
    };
    let mut entries = journal.entries.iter().rev();
    entries.find(|entry| up(&entry.what)).unwrap().at
}

#[test]
fn a_relay_over_tcp_that_restarts_is_used_again_within_seconds() {
    assert!(relayed_again_at(13, Transport::Tcp) < secs(20));
}

#[test]
fn a_relay_over_udp_that_restarts_is_used_again_within_seconds() {
    assert!(relayed_again_at(13, Transport::Udp) < secs(20));
}

#[test]
fn a_node_that_starts_while_it_says_goodbye_starts_when_it_has() {
    let mut plan = plan("hasty", 15, two_homes());
    // A stream that holds the goodbye up.
    plan.steps.extend([
        step(
            secs(1),
            stream(1, Service::Stopped, 20_000_000, Duration::ZERO),
        ),
        step(secs(2), Action::Stop(B)),
        step(ms(2_001), Action::Start(B)),
        step(ms(2_002), stream(2, Service::Echo, 100_000, PATIENT)),
    ]);
    plan.ends_when_settled = false;
    plan.ends_at = secs(20);
    let journal = played(&plan);
    assert_complete(&journal, 2);
    assert_eq!(seen(&journal, |what| matches!(what, What::Started)), 3);
}

#[test]
fn what_this_world_cannot_do_is_said_before_it_begins() {
    let mut plan = plan("pause", 14, two_homes());
    plan.steps.push(step(secs(1), Action::Pause(A)));
    let refused = play(&plan, TraceMode::Off).unwrap_err();
    assert!(matches!(refused, PlayError::Unsupported { what, .. } if what == "pause"));
}
