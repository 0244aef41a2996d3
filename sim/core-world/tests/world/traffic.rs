//! Applications, and what is reported of them.

use holdfast_core::status::LinkState;
use holdfast_net_model::NatConfig;
use holdfast_plan::{
    Action, Journal, OpId, PathClass, Service, Side, StreamReport, Transport, What,
};

use crate::plans::{A, B, C, Grow, behind, end, first, homes, ms, plan, s};

const OP: OpId = OpId(0);

fn served(journal: &Journal) -> Vec<&StreamReport> {
    let reports = journal.streams().map(|(_, report)| report);
    reports
        .filter(|report| report.side == Side::Server)
        .collect()
}

#[test]
fn an_echo_returns_every_byte_and_both_ends_say_so() {
    let journal = plan(homes(2), s(10))
        .stream(s(1), A, B, Service::Echo, 200_000, s(1))
        .play();
    let client = journal.client(OP).unwrap();
    assert!(client.complete, "{client:?}");
    assert_eq!((client.sent, client.received), (200_000, 200_000));
    assert_eq!(
        (client.attempts, client.altered_at, &client.reset),
        (1, None, &None)
    );
    assert!(client.finished_at.unwrap() > client.first_byte_at.unwrap());
    let [server] = served(&journal)[..] else {
        panic!("one stream was accepted");
    };
    assert!(server.complete, "{server:?}");
    assert_eq!((server.op, server.peer), (Some(OP), Some(A)));
}

#[test]
fn a_sink_receives_everything_and_ends_cleanly() {
    let journal = plan(homes(2), s(10))
        .stream(s(1), B, A, Service::Sink, 1_000_000, s(1))
        .play();
    let client = journal.client(OP).unwrap();
    assert!(client.complete && client.received == 0, "{client:?}");
    let server = served(&journal)[0];
    assert!(
        server.complete && server.received == 1_000_000,
        "{server:?}"
    );
}

#[test]
fn what_nobody_serves_or_allows_is_reported_with_its_reason_after_one_try() {
    for (service, reason) in [
        (Service::Closed, "Refused"),
        (Service::Forbidden, "NotAllowed"),
    ] {
        let journal = plan(homes(2), s(10))
            .stream(s(1), A, B, service, 1000, s(0))
            .play();
        let client = journal.client(OP).unwrap();
        assert_eq!(client.reset.as_deref(), Some(reason));
        assert_eq!((client.attempts, client.complete), (1, false));
        assert_eq!(served(&journal), Vec::<&StreamReport>::new());
    }
}

#[test]
fn a_service_that_never_reads_holds_its_client_to_the_end() {
    let journal = plan(homes(2), s(10))
        .stream(s(1), A, B, Service::Stopped, 50_000_000, s(0))
        .play();
    let client = journal.client(OP).unwrap();
    assert!(!client.complete && client.reset.is_none(), "{client:?}");
    assert!((1..50_000_000).contains(&client.sent), "{client:?}");
    assert_eq!(served(&journal)[0].received, 0);
}

#[test]
fn a_patient_client_tries_until_the_link_is_up() {
    let patient = plan(homes(2), s(10)).stream(ms(1), A, B, Service::Echo, 5_000, s(5));
    let journal = patient.play();
    let client = journal.client(OP).unwrap();
    assert!(client.complete && client.attempts > 1, "{client:?}");

    let hasty = plan(homes(2), s(10)).stream(ms(1), A, B, Service::Echo, 5_000, s(0));
    let journal = hasty.play();
    let client = journal.client(OP).unwrap();
    assert_eq!(
        (client.attempts, client.opened_at, client.complete),
        (1, None, false)
    );
    assert_eq!(client.reset.as_deref(), Some("the link is not up"));
}

#[test]
fn datagrams_are_counted_where_they_end() {
    let journal = plan(homes(2), s(20))
        .datagrams(s(1), A, B, Service::Echo, 100)
        .datagrams(s(1), B, A, Service::Sink, 100)
        .datagrams(s(1), B, A, Service::Forbidden, 100)
        .datagrams(s(1), B, A, Service::Closed, 100)
        .play();
    for (op, received) in [(0, 100), (1, 100), (2, 0), (3, 0)] {
        let report = journal.datagrams(OpId(op)).unwrap();
        assert_eq!(
            (report.sent, report.received, report.repeated),
            (100, received, 0),
            "{report:?}"
        );
    }
    let (longest, _) = journal.datagrams(OP).unwrap().gap_max.unwrap();
    assert!(longest >= ms(20) && longest < ms(40), "{longest:?}");
    let strange = |what: &What| matches!(what, What::StrangeDatagram { .. });
    assert_eq!(first(&journal, A, s(0), strange), None);
    assert_eq!(first(&journal, B, s(0), strange), None);
}

#[test]
fn two_homes_meet_directly_and_two_symmetric_nats_at_the_relay() {
    for (nat, class) in [
        (NatConfig::home as fn(_) -> _, PathClass::Direct),
        (NatConfig::symmetric, PathClass::Relay),
    ] {
        let journal = plan(behind(2, nat), s(5)).play();
        for (node, peer) in [(A, B), (B, A)] {
            let link = end(&journal, node, peer).unwrap();
            assert_eq!((link.state, link.class), (LinkState::Up, Some(class)));
        }
    }
}

#[test]
fn a_relay_over_tcp_carries_a_node_whose_udp_is_blocked() {
    let mut topology = homes(2);
    topology.nats[0].config.udp_blocked = true;
    topology.nodes[0].turn = vec![Transport::Udp, Transport::Tcp];
    let journal = plan(topology, s(20))
        .stream(s(3), A, B, Service::Echo, 500_000, s(1))
        .datagrams(s(3), B, A, Service::Echo, 100)
        .play();
    let client = journal.client(OP).unwrap();
    assert!(client.complete, "{client:?}");
    assert_eq!(journal.datagrams(OpId(1)).unwrap().received, 100);
    assert_eq!(end(&journal, A, B).unwrap().class, Some(PathClass::Relay));
}

#[test]
fn an_intruder_that_poses_as_a_member_gets_nothing_through() {
    let mut topology = homes(3);
    topology.nodes[2].cluster = 9;
    topology.nodes[2].poses_as = Some(A);
    let journal = plan(topology, s(20))
        .stream(s(5), C, B, Service::Echo, 1000, s(5))
        .stream(s(5), A, B, Service::Echo, 1000, s(5))
        .play();
    assert!(!journal.client(OP).unwrap().complete);
    assert!(journal.client(OpId(1)).unwrap().complete);
    assert!(end(&journal, C, B).unwrap().state != LinkState::Up);
    assert_eq!(end(&journal, C, A), None, "it is itself, so it says");
    assert_eq!(end(&journal, B, C), None, "members do not know it");
}

#[test]
fn a_world_that_has_settled_ends_two_seconds_later() {
    let mut plan = plan(homes(3), s(300))
        .wants(A, B, Some(PathClass::Direct))
        .wants(B, C, None)
        .stream(s(10), A, C, Service::Echo, 1000, s(5));
    plan.ends_when_settled = true;
    let journal = plan.play();
    assert!(journal.client(OP).unwrap().complete);
    assert!(
        journal.ended_at > s(12) && journal.ended_at < s(13),
        "{:?}",
        journal.ended_at
    );

    let journal = plan.at(s(11), Action::Crash(B)).play();
    assert_eq!(journal.ended_at, s(300), "what is wanted is not there");
}
