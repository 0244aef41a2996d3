//! What is done to the network, to servers and by attackers.

use holdfast_core::status::LinkState;
use holdfast_net_model::{LinkConfig, Links, Ratio};
use holdfast_plan::topology::default_links;
use holdfast_plan::{
    Action, Attack, Device, NatIndex, NetworkFault, OpId, PathClass, Place, PlayError, Service,
    TraceMode, What,
};

use crate::plans::{A, B, C, Grow, end, first, homes, ms, plan, s};

fn link(what: &What) -> bool {
    matches!(what, What::Link { .. })
}

fn dark() -> Box<Links> {
    Box::new(Links::symmetric(LinkConfig {
        blackhole: true,
        ..default_links().up
    }))
}

#[test]
fn a_cut_between_two_nodes_moves_their_traffic_to_the_relay_and_back() {
    let cut = |from, to| Action::Network(NetworkFault::Cut { from, to });
    let mend = |from, to| Action::Network(NetworkFault::Mend { from, to });
    let moved =
        |class| move |what: &What| matches!(what, What::Path { class: c, .. } if *c == class);
    let journal = plan(homes(2), s(40))
        .datagrams(s(2), A, B, Service::Echo, 1800)
        .at(s(10), cut(A, B))
        .at(s(10), cut(B, A))
        .at(s(20), mend(A, B))
        .at(s(20), mend(B, A))
        .play();
    let away = first(&journal, A, s(10), moved(PathClass::Relay)).unwrap();
    assert!(away < s(13), "{away:?}");
    let back = first(&journal, A, s(20), moved(PathClass::Direct)).unwrap();
    assert!(back < s(35), "{back:?}");
    let report = journal.datagrams(OpId(0)).unwrap();
    let (gap, since) = report.gap_max.unwrap();
    assert!(since > s(9) && gap < s(3), "{report:?}");
}

#[test]
fn a_node_that_moved_goes_on_from_its_new_address() {
    let place = Place::Behind(NatIndex(1));
    let to = NetworkFault::Move {
        node: A,
        place,
        address: [10, 9, 9, 9].into(),
    };
    let journal = plan(homes(3), s(30))
        .stream(s(2), A, C, Service::Echo, 30_000_000, s(0))
        .at(s(3), Action::Network(to))
        .play();
    let client = journal.client(OpId(0)).unwrap();
    assert!(client.complete, "{client:?}");
    assert_eq!(end(&journal, A, C).unwrap().state, LinkState::Up);
}

#[test]
fn a_dark_link_cuts_a_node_from_its_brokers_too() {
    let action = |links| {
        Action::Network(NetworkFault::Link {
            device: Device::Node(B),
            links,
        })
    };
    let journal = plan(homes(2), s(60))
        .at(s(0), action(dark()))
        .at(s(30), action(Box::new(default_links())))
        .play();
    let met = first(&journal, A, s(0), link).unwrap();
    assert!(met > s(30) && met < s(37), "{met:?}");
    assert_eq!(end(&journal, A, B).unwrap().state, LinkState::Up);
}

#[test]
fn one_broker_of_two_is_enough_and_none_is_not() {
    let broker = |broker, up| Action::Broker { broker, up };
    let journal = plan(homes(2), s(10)).at(s(0), broker(0, false)).play();
    assert_eq!(end(&journal, A, B).unwrap().state, LinkState::Up);

    let journal = plan(homes(2), s(60))
        .at(s(0), broker(0, false))
        .at(s(0), broker(1, false))
        .at(s(30), broker(1, true))
        .play();
    let met = first(&journal, A, s(0), link).unwrap();
    assert!(met > s(30) && met < s(37), "{met:?}");
}

#[test]
fn brokers_that_lose_and_repeat_half_only_cost_time() {
    let loss = Action::BrokerLoss {
        lose: Ratio::of(1, 2),
        repeat: Ratio::of(1, 2),
    };
    let journal = plan(homes(3), s(60)).at(s(0), loss).play();
    for (node, peer) in [(A, B), (B, C), (C, A)] {
        assert_eq!(end(&journal, node, peer).unwrap().state, LinkState::Up);
    }
}

#[test]
fn a_relayed_link_is_down_without_its_server_and_comes_back_with_it() {
    // The server has forgotten the allocations and says nothing of it until it is asked.
    let relayed = crate::plans::behind(2, holdfast_net_model::NatConfig::symmetric);
    let journal = plan(relayed, s(40))
        .at(s(5), Action::Turn { up: false })
        .at(s(15), Action::Turn { up: true })
        .play();
    let down = |what: &What| {
        matches!(
            what,
            What::Link {
                state: LinkState::Down,
                ..
            }
        )
    };
    let went = first(&journal, A, s(5), down).unwrap();
    assert!(went < s(9), "{went:?}");
    let link = end(&journal, A, B).unwrap();
    assert_eq!(
        (link.state, link.class),
        (LinkState::Up, Some(PathClass::Relay))
    );
}

#[test]
fn attackers_and_strangers_change_nothing() {
    let mut attacked = plan(homes(2), s(30))
        .datagrams(s(2), A, B, Service::Echo, 1000)
        .at(
            s(10),
            Action::Strangers {
                node: A,
                count: 300,
            },
        );
    for (n, attack) in [
        Attack::Replay,
        Attack::Corrupt,
        Attack::Foreign,
        Attack::Garbage,
    ]
    .into_iter()
    .enumerate()
    {
        attacked = attacked.at(s(5 + n as u64), Action::Attack { node: A, attack });
    }
    let journal = attacked.play();
    let report = journal.datagrams(OpId(0)).unwrap();
    assert_eq!(
        (report.sent, report.received, report.repeated),
        (1000, 1000, 0)
    );
    assert_eq!(first(&journal, A, s(4), link), None);
    for counter in [
        "signal_malformed",
        "signal_stranger",
        "stun_stranger",
        "packet_stranger",
    ] {
        let refused = |what: &What| matches!(what, What::Refused { counter: c } if c == counter);
        assert!(
            first(&journal, A, s(4), refused).is_some(),
            "{counter} was not counted"
        );
    }
    let over = |what: &What| matches!(what, What::Queue(queue) if queue.len > queue.max);
    assert!(!journal.entries.iter().any(|entry| over(&entry.what)));
}

#[test]
fn a_plan_that_refers_to_nothing_is_an_error() {
    let wrong = plan(homes(2), s(5)).at(s(1), Action::Crash(holdfast_plan::NodeIndex(9)));
    let error = holdfast_core_world::play(&wrong, TraceMode::Off).unwrap_err();
    assert!(matches!(error, PlayError::World { .. }), "{error}");
    let mut odd = homes(2);
    odd.nodes[1].name = "no name".to_owned();
    let error = holdfast_core_world::play(&plan(odd, s(5)), TraceMode::Off).unwrap_err();
    assert!(error.to_string().contains("no name"), "{error}");
}

#[test]
fn every_step_is_noted_in_its_order() {
    let journal = plan(homes(2), s(5))
        .at(ms(1500), Action::Mark)
        .at(ms(2500), Action::Mark)
        .play();
    let steps: Vec<_> = journal
        .entries
        .iter()
        .filter_map(|entry| match entry.what {
            What::Step { step } => Some((entry.at, step)),
            _ => None,
        })
        .collect();
    assert_eq!(steps, [(s(0), 0), (s(0), 1), (ms(1500), 2), (ms(2500), 3)]);
}
