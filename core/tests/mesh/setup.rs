//! Finding a path.

use std::time::Duration;

use holdfast_core::mesh::Input;
use holdfast_core::status::LinkState;
use holdfast_net_model::{Links, NatConfig};
use holdfast_plan::topology::default_links;
use holdfast_plan::{
    CLUSTER, ClockSpec, NatIndex, NatSpec, NodeSpec, Place, Servers, Topology, Transport,
};

use crate::world::{ECHO, Steer, World, steered};

pub const SECOND: Duration = Duration::from_secs(1);

/// Two nodes, each behind a NAT of its own.
pub fn two_nats(seed: u8, nat: impl Fn([u8; 4]) -> NatConfig) -> World {
    two_nodes(seed, nat, |_, _| {})
}

/// Two nodes, each behind a NAT of its own, with something special about them.
pub fn two_nodes(
    seed: u8,
    nat: impl Fn([u8; 4]) -> NatConfig,
    special: impl Fn(usize, &mut NodeSpec),
) -> World {
    homes(seed, nat, 2, special)
}

/// Nodes `a`, `b`, …, each behind a NAT of its own, with something special about them.
pub fn homes(
    seed: u8,
    nat: impl Fn([u8; 4]) -> NatConfig,
    count: u8,
    special: impl Fn(usize, &mut NodeSpec),
) -> World {
    steered(seed, &topology(nat, count, special))
}

/// As [`homes`], before it is a world.
pub fn topology(
    nat: impl Fn([u8; 4]) -> NatConfig,
    count: u8,
    special: impl Fn(usize, &mut NodeSpec),
) -> Topology {
    let nats = (0..count).map(|n| nat_spec(nat([203, 0, 113, 101 + n])));
    let nodes = (0..count).map(|n| {
        let mut spec = node_spec(n, Place::Behind(NatIndex(n.into())), [10, n + 1, 1, 2]);
        special(n.into(), &mut spec);
        spec
    });
    Topology {
        nats: nats.collect(),
        nodes: nodes.collect(),
        servers: Servers {
            // The second is reached when the first server, with STUN and TURN, is cut off.
            brokers: 2,
            links: Links::ideal(),
        },
    }
}

fn nat_spec(config: NatConfig) -> NatSpec {
    NatSpec {
        name: config.public_ip.to_string(),
        config,
        place: Place::Public,
        links: Links::ideal(),
    }
}

fn node_spec(n: u8, place: Place, address: [u8; 4]) -> NodeSpec {
    NodeSpec {
        name: char::from(b'a' + n).to_string(),
        place,
        address: address.into(),
        // Half of a one-way delay of 10 ms: a packet between two nodes passes two links.
        links: default_links(),
        cluster: CLUSTER,
        poses_as: None,
        clock: ClockSpec::default(),
        turn: vec![Transport::Udp],
        stun: true,
    }
}

pub fn home(ip: [u8; 4]) -> NatConfig {
    NatConfig::home(ip.into())
}

pub fn symmetric(ip: [u8; 4]) -> NatConfig {
    NatConfig::symmetric(ip.into())
}

/// Two started nodes whose link is up and settled on its best path.
pub fn settled(seed: u8, nat: impl Fn([u8; 4]) -> NatConfig) -> World {
    let mut world = two_nats(seed, nat);
    start_both(&mut world);
    world
}

pub fn start_both(world: &mut World) {
    world.start(0).unwrap();
    world.start(1).unwrap();
    world.until(SECOND * 5, |world| world.both_up(0, 1));
    world.run(SECOND * 2);
}

/// Bytes cross the link in both directions.
pub fn assert_flows(world: &mut World, a: usize, b: usize) {
    let stream = world.open(a, b, ECHO, 100_000, true);
    world.until(SECOND * 5, |world| world.app(a, stream).read_finished);
    assert_eq!(world.app(a, stream).received, 100_000);
}

#[test]
fn two_nodes_behind_different_nats_find_a_direct_path_within_a_second() {
    let mut world = two_nats(1, home);
    world.start(0).unwrap();
    world.start(1).unwrap();
    let took = world.until(SECOND, |world| world.both_up(0, 1));
    println!("up after {took:?}");
    world.run(SECOND);
    assert_eq!(world.class(0, 1).as_deref(), Some("direct"));
    assert_flows(&mut world, 0, 1);
    assert_flows(&mut world, 1, 0);
}

#[test]
fn two_symmetric_nats_meet_at_a_relay() {
    let mut world = settled(2, symmetric);
    assert_eq!(world.class(0, 1).as_deref(), Some("relay"));
    assert_eq!(world.class(1, 0).as_deref(), Some("relay"));
    assert_flows(&mut world, 0, 1);
}

#[test]
fn a_node_whose_udp_is_blocked_relays_over_tcp() {
    let both = vec![Transport::Udp, Transport::Tcp];
    let mut world = two_nodes(
        3,
        |ip| NatConfig {
            udp_blocked: ip[3] == 101,
            ..home(ip)
        },
        |_, spec| spec.turn = both.clone(),
    );
    world.start(0).unwrap();
    world.start(1).unwrap();
    let took = world.until(SECOND * 2, |world| world.both_up(0, 1));
    println!("up after {took:?}");
    assert_eq!(world.class(0, 1).as_deref(), Some("relay"));
    assert_flows(&mut world, 0, 1);
    assert_flows(&mut world, 1, 0);
}

#[test]
fn a_link_comes_up_in_spite_of_a_fifth_of_all_packets_lost() {
    for seed in 0..10 {
        let mut world = two_nats(seed, home);
        for node in 0..2 {
            crate::paths::set_loss(&mut world, node, 10);
        }
        world.start(0).unwrap();
        world.start(1).unwrap();
        let took = world.until(SECOND * 6, |world| world.both_up(0, 1));
        println!("seed {seed}: up after {took:?}");
    }
}

#[test]
fn peers_that_start_minutes_apart_meet() {
    let mut world = two_nats(4, home);
    world.start(0).unwrap();
    world.run(SECOND * 300);
    world.start(1).unwrap();
    let took = world.until(SECOND * 2, |world| world.both_up(0, 1));
    println!("up after {took:?}");
}

#[test]
fn nodes_behind_one_hairpinning_nat_find_each_other() {
    let nat = NatConfig {
        hairpinning: true,
        isolated: true,
        ..home([203, 0, 113, 101])
    };
    let inside = |n| node_spec(n, Place::Behind(NatIndex(0)), [10, 1, n, 2]);
    let mut world = steered(
        5,
        &Topology {
            nats: vec![nat_spec(nat)],
            nodes: (0..3).map(inside).collect(),
            ..topology(home, 0, |_, _| {})
        },
    );
    for node in 0..3 {
        world.start(node).unwrap();
    }
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        world.until(SECOND * 3, |world| world.both_up(a, b));
        assert_flows(&mut world, a, b);
    }
    world.run(SECOND);
    assert_eq!(world.class(0, 1).as_deref(), Some("direct"));
}

#[test]
fn a_goodbye_is_known_at_once() {
    let mut world = settled(6, home);
    world.call(0, |mesh, now| mesh.handle(now, Input::Goodbye));
    let idle = |world: &World| world.state(1, 0) == LinkState::Idle;
    let took = world.until(SECOND, idle);
    assert!(took < Duration::from_millis(60), "{took:?}");
    world.run(Duration::from_millis(100));
    assert!(world.nodes[0].mesh().unwrap().is_drained());
}

#[test]
fn streams_may_end_after_a_goodbye_and_no_new_ones_begin() {
    let mut world = settled(7, home);
    let stream = world.open(1, 0, ECHO, 3_000_000, true);
    world.run(Duration::from_millis(30));
    world.call(0, |mesh, now| mesh.handle(now, Input::Goodbye));
    let idle = |world: &World| world.state(1, 0) == LinkState::Idle;
    let took = world.until(SECOND, idle);
    assert!(took < Duration::from_millis(60), "{took:?}");
    assert!(!world.app(1, stream).read_finished, "still flows");
    let link = world.link(1, 0);
    let opened = world
        .call(1, |mesh, now| mesh.stream_open(now, link, ECHO.port()))
        .unwrap();
    assert!(opened.is_err(), "the peer is leaving");
    let drained = |world: &World| world.nodes[0].mesh().unwrap().is_drained();
    world.until(SECOND * 5, drained);
    assert_eq!(world.app(1, stream).received, 3_000_000);
}

#[test]
fn a_stop_closes_what_did_not_end() {
    let mut world = settled(8, home);
    let stream = world.open(1, 0, ECHO, u64::MAX, false);
    world.run(Duration::from_millis(100));
    world.call(0, |mesh, now| mesh.handle(now, Input::Goodbye));
    world.run(SECOND * 2);
    assert_eq!(world.app(1, stream).reset, None);
    world.call(0, |mesh, now| mesh.handle(now, Input::Stop));
    world.run(Duration::from_millis(100));
    assert!(world.app(1, stream).reset.is_some());
    assert!(world.nodes[0].mesh().unwrap().is_drained());
}
