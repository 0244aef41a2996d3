//! Processes that come, go and stand still, and clocks that differ.

use holdfast_core::entropy::Seed;
use holdfast_core::status::LinkState;
use holdfast_core_world::World;
use holdfast_plan::{Action, ClockSpec, OpId, Place, Service, TraceMode, What};

use crate::plans::{A, B, Grow, end, first, homes, ms, plan, s};

fn down(what: &What) -> bool {
    matches!(
        what,
        What::Link {
            state: LinkState::Down,
            ..
        }
    )
}

fn up(what: &What) -> bool {
    matches!(
        what,
        What::Link {
            state: LinkState::Up,
            ..
        }
    )
}

#[test]
fn a_crash_ends_streams_and_a_new_run_is_known_as_another() {
    let journal = plan(homes(2), s(20))
        .stream(s(2), A, B, Service::Stopped, 50_000_000, s(0))
        .at(s(4), Action::Crash(B))
        .at(s(6), Action::Start(B))
        .play();
    let ended = |what: &What| matches!(what, What::Ended { clean: false });
    assert_eq!(first(&journal, B, s(0), ended), Some(s(4)));
    let restarted = |what: &What| matches!(what, What::PeerRestarted { .. });
    let seen = first(&journal, A, s(6), restarted).unwrap();
    assert!(seen < s(7), "{seen:?}");
    assert!(journal.client(OpId(0)).unwrap().reset.is_some());
    let server = journal
        .streams()
        .find(|(entry, _)| entry.node == Some(B))
        .unwrap()
        .1;
    assert_eq!(server.reset.as_deref(), Some("the node's process ended"));
    assert_eq!(end(&journal, A, B).unwrap().state, LinkState::Up);
}

#[test]
fn a_stopped_node_says_goodbye_and_ends_by_itself() {
    let journal = plan(homes(2), s(20)).at(s(4), Action::Stop(B)).play();
    let idle = |what: &What| {
        matches!(
            what,
            What::Link {
                state: LinkState::Idle,
                ..
            }
        )
    };
    let heard = first(&journal, A, s(4), idle).unwrap();
    assert!(heard < s(4) + ms(60), "{heard:?}");
    let ended = |what: &What| matches!(what, What::Ended { clean: true });
    let ended = first(&journal, B, s(4), ended).unwrap();
    assert!(ended < s(6), "{ended:?}");
    assert_eq!(end(&journal, B, A), None);
}

#[test]
fn a_stopped_node_gives_its_streams_five_seconds() {
    let journal = plan(homes(2), s(20))
        .stream(s(2), A, B, Service::Stopped, 50_000_000, s(0))
        .at(s(4), Action::Stop(B))
        .play();
    let ended = |what: &What| matches!(what, What::Ended { clean: true });
    let ended = first(&journal, B, s(4), ended).unwrap();
    assert!(ended >= s(9) && ended < s(12), "{ended:?}");
    let client = journal.client(OpId(0)).unwrap();
    assert!(client.reset.is_some(), "{client:?}");
}

#[test]
fn a_node_that_stands_still_for_long_is_down_to_its_peer_and_comes_back() {
    let journal = plan(homes(2), s(30))
        .datagrams(s(2), A, B, Service::Echo, 1000)
        .at(s(5), Action::Pause(B))
        .at(s(15), Action::Thaw(B))
        .play();
    let went = first(&journal, A, s(5), down).unwrap();
    assert!(went > s(6) && went < s(9), "{went:?}");
    assert!(
        first(&journal, B, s(5), |_| true).unwrap() >= s(15),
        "it does nothing meanwhile"
    );
    let back = first(&journal, A, s(15), up).unwrap();
    assert!(back < s(18), "{back:?}");
    let report = journal.datagrams(OpId(0)).unwrap();
    let (gap, since) = report.gap_max.unwrap();
    assert!(
        since < s(5) + ms(100) && gap > s(9) && gap < s(13),
        "{report:?}"
    );
}

#[test]
fn a_short_pause_costs_nothing_but_its_time() {
    let journal = plan(homes(2), s(20))
        .stream(s(2), A, B, Service::Echo, 20_000_000, s(0))
        .datagrams(s(2), A, B, Service::Echo, 500)
        .at(s(4), Action::Pause(B))
        .at(s(4) + ms(800), Action::Thaw(B))
        .play();
    assert_eq!(first(&journal, A, s(3), down), None);
    let client = journal.client(OpId(0)).unwrap();
    assert!(client.complete, "{client:?}");
    let report = journal.datagrams(OpId(1)).unwrap();
    assert_eq!(
        report.received, 500,
        "what waited in the socket is not lost"
    );
    let (gap, _) = report.gap_max.unwrap();
    assert!(gap >= ms(800) && gap < ms(900), "{gap:?}");
}

#[test]
fn what_applications_send_while_their_node_stands_still_leaves_when_it_goes_on() {
    let journal = plan(homes(2), s(20))
        .datagrams(s(2), A, B, Service::Sink, 500)
        .at(s(4), Action::Pause(A))
        .at(s(4) + ms(800), Action::Thaw(A))
        .play();
    let report = journal.datagrams(OpId(0)).unwrap();
    assert_eq!((report.sent, report.received), (500, 500), "{report:?}");
}

#[test]
fn the_socket_of_a_node_that_stands_still_holds_four_mebibytes() {
    let mut topology = homes(1);
    topology.nodes[0].place = Place::Public;
    topology.nodes[0].address = [203, 0, 113, 50].into();
    let mut world = World::new(&topology, Seed::new([1; 32]), TraceMode::Off).unwrap();
    world.start(0).unwrap();
    world.pause(0);
    let (from, to) = (
        "203.0.113.11:9".parse().unwrap(),
        "203.0.113.50:5000".parse().unwrap(),
    );
    for _ in 0..5000 {
        world.send_udp(world.built.servers[1], from, to, &[0x41; 1000]);
    }
    world.run(s(1));
    world.thaw(0);
    let status = world.nodes[0].mesh().unwrap().status(world.at(0));
    let strangers = status.counters.iter().find(|c| c.name == "packet_stranger");
    assert_eq!(strangers.unwrap().value, (4 << 20) / 1000);
}

#[test]
fn an_application_waits_for_a_node_that_stands_still() {
    let journal = plan(homes(2), s(20))
        .at(s(3), Action::Pause(A))
        .stream(s(4), A, B, Service::Echo, 1000, s(0))
        .at(s(5), Action::Thaw(A))
        .play();
    let client = journal.client(OpId(0)).unwrap();
    assert!(
        client.complete && client.opened_at.unwrap() >= s(5),
        "{client:?}"
    );
}

#[test]
fn clocks_that_run_and_stand_differently_do_not_keep_nodes_apart() {
    let mut topology = homes(2);
    topology.nodes[0].clock = ClockSpec {
        offset_ms: -3_600_000,
        drift_ppm: 200_000,
    };
    topology.nodes[1].clock = ClockSpec {
        offset_ms: 5_400_000,
        drift_ppm: -200_000,
    };
    let journal = plan(topology, s(120))
        .stream(s(60), A, B, Service::Echo, 100_000, s(5))
        .at(
            s(50),
            Action::ClockStep {
                node: A,
                by_ms: 7_200_000,
            },
        )
        .play();
    assert!(journal.client(OpId(0)).unwrap().complete);
    assert_eq!(first(&journal, A, s(10), down), None);
    assert_eq!(first(&journal, B, s(10), down), None);
}

#[test]
fn a_client_outlives_its_node_and_tries_again() {
    let journal = plan(homes(2), s(20))
        .stream(s(2), A, B, Service::Echo, 40_000_000, s(15))
        .at(s(2) + ms(200), Action::Crash(A))
        .at(s(4), Action::Start(A))
        .play();
    let client = journal.client(OpId(0)).unwrap();
    assert!(client.complete && client.attempts > 10, "{client:?}");
    assert!(client.opened_at.unwrap() > s(4), "{client:?}");
}
