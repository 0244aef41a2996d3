//! Keeping a path: what happens to streams when the one in use goes dark.

use std::net::IpAddr;
use std::time::Duration;

use holdfast_core::mesh::Input;
use holdfast_core::status::LinkState;
use holdfast_core::types::StreamId;
use holdfast_net_model::{Loss, NatConfig, Ratio, Uplink};

use crate::setup::{SECOND, assert_flows, home, homes, settled, start_both, two_nats};
use crate::world::{ECHO, SINK, Steer, World};

/// Streams flow again within this time when the pair in use goes black.
const RECOVERY_MAX: Duration = Duration::from_millis(2500);

pub fn set_loss(world: &mut World, node: usize, percent: u32) {
    let host = world.nodes[node].host;
    let now = world.now();
    let loss = Loss::Bernoulli(Ratio::of(percent, 100));
    let (up, down) = world.net.host_links_mut(host);
    for pipeline in [up, down] {
        pipeline.update(now, |config| config.loss = loss);
    }
}

/// An endless stream from `a` to a sink at `b`, and how fast it flows.
fn endless(world: &mut World, a: usize, b: usize) -> StreamId {
    let stream = world.open(a, b, SINK, u64::MAX, false);
    world.run(SECOND);
    stream
}

/// How long until the sink at `b` receives again, from now.
fn stall(world: &mut World, b: usize) -> Duration {
    // What is in flight still arrives.
    world.run(Duration::from_millis(100));
    let before = world.received_at(b, SINK);
    Duration::from_millis(100)
        + world.until(SECOND * 20, |world| world.received_at(b, SINK) > before)
}

fn limit_rate(world: &mut World) {
    for node in 0..world.nodes.len() {
        let (host, now) = (world.nodes[node].host, world.now());
        let (up, _) = world.net.host_links_mut(host);
        up.update(now, |config| {
            config.rate_bits_per_s = std::num::NonZeroU64::new(20_000_000);
            config.queue_bytes = 100_000;
        });
    }
}

#[test]
fn a_stream_survives_when_the_direct_path_goes_black_both_ways() {
    for seed in 10..15 {
        let mut world = settled(seed, home);
        limit_rate(&mut world);
        let stream = endless(&mut world, 0, 1);
        let (a, b) = (world.nodes[0].host, world.nodes[1].host);
        world.net.cut_both(a, b);
        let took = stall(&mut world, 1);
        println!("seed {seed}: flows again after {took:?}");
        assert!(took <= RECOVERY_MAX, "{took:?}");
        assert_eq!(world.class(0, 1).as_deref(), Some("relay"));
        assert_eq!(world.app(0, stream).reset, None);
        assert_eq!(world.status(0, 1).sessions, 1);
    }
}

#[test]
fn a_stream_survives_when_the_direct_path_goes_black_one_way() {
    for (seed, forward) in [(20, true), (21, false), (22, true), (23, false)] {
        let mut world = settled(seed, home);
        limit_rate(&mut world);
        let stream = endless(&mut world, 0, 1);
        let (a, b) = (world.nodes[0].host, world.nodes[1].host);
        match forward {
            true => world.net.cut(a, b),
            false => world.net.cut(b, a),
        }
        let took = stall(&mut world, 1);
        println!("seed {seed}: flows again after {took:?}");
        assert!(took <= RECOVERY_MAX, "{took:?}");
        world.run(SECOND * 3);
        assert_eq!(world.class(0, 1).as_deref(), Some("relay"));
        assert_eq!(world.class(1, 0).as_deref(), Some("relay"));
        assert_eq!(world.app(0, stream).reset, None);
    }
}

#[test]
fn traffic_returns_to_the_direct_path_when_it_heals_and_no_stream_breaks() {
    let mut world = settled(30, home);
    limit_rate(&mut world);
    let stream = endless(&mut world, 0, 1);
    let (a, b) = (world.nodes[0].host, world.nodes[1].host);
    world.net.cut_both(a, b);
    world.run(SECOND * 5);
    assert_eq!(world.class(0, 1).as_deref(), Some("relay"));
    world.net.heal_all();
    let took = world.until(SECOND * 10, |world| {
        world.class(0, 1).as_deref() == Some("direct")
            && world.class(1, 0).as_deref() == Some("direct")
    });
    println!("direct again after {took:?}");
    let before = world.received_at(1, SINK);
    world.run(SECOND);
    assert!(world.received_at(1, SINK) > before + 1_000_000);
    assert_eq!(world.app(0, stream).reset, None);
    assert_eq!(world.status(0, 1).sessions, 1);
}

#[test]
fn traffic_moves_from_relay_to_direct_when_a_better_path_appears() {
    // While the direct way is shut from the start, the link comes up relayed.
    let mut world = two_nats(31, home);
    let (a, b) = (world.nodes[0].host, world.nodes[1].host);
    world.net.cut_both(a, b);
    start_both(&mut world);
    assert_eq!(world.class(0, 1).as_deref(), Some("relay"));
    let stream = world.open(0, 1, ECHO, u64::MAX, false);
    world.net.heal_all();
    let direct = |world: &World| world.class(0, 1).as_deref() == Some("direct");
    let took = world.until(SECOND * 20, direct);
    println!("direct after {took:?}");
    let before = world.app(0, stream).received;
    world.run(SECOND);
    assert!(world.app(0, stream).received > before);
    assert_eq!(world.app(0, stream).reset, None);
}

#[test]
fn streams_go_on_when_a_nodes_address_changes() {
    let mut world = homes(32, home, 3, |_, _| {});
    start_both(&mut world);
    limit_rate(&mut world);
    let stream = endless(&mut world, 0, 1);
    let elsewhere = world.net.uplink(world.nodes[2].host);
    world.roam(0, elsewhere, [10, 9, 9, 9]);
    let took = stall(&mut world, 1);
    println!("flows again after {took:?}");
    assert!(took <= RECOVERY_MAX, "{took:?}");
    assert_eq!(world.app(0, stream).reset, None);
    world.run(SECOND * 3);
    assert_eq!(world.class(0, 1).as_deref(), Some("direct"));
    assert_eq!(world.status(0, 1).sessions, 1);
}

#[test]
fn streams_go_on_when_a_nat_forgets_its_mappings() {
    let rebinding = |ip: [u8; 4]| NatConfig {
        port_preservation: false,
        ..home(ip)
    };
    let mut world = settled(33, rebinding);
    limit_rate(&mut world);
    let stream = endless(&mut world, 0, 1);
    let nat = world.net.uplink(world.nodes[0].host);
    if let Uplink::Behind(nat) = nat {
        world.net.nat_mut(nat).flush();
    }
    let took = stall(&mut world, 1);
    println!("flows again after {took:?}");
    assert!(took <= RECOVERY_MAX, "{took:?}");
    assert_eq!(world.app(0, stream).reset, None);
}

#[test]
fn a_stream_moves_to_a_relay_over_tcp_when_udp_is_blocked_under_it() {
    use holdfast_plan::Transport;
    let mut world = crate::setup::two_nodes(38, home, |_, spec| {
        spec.turn = vec![Transport::Udp, Transport::Tcp];
    });
    start_both(&mut world);
    limit_rate(&mut world);
    let stream = endless(&mut world, 0, 1);
    if let Uplink::Behind(nat) = world.net.uplink(world.nodes[0].host) {
        world.net.nat_mut(nat).set_udp_blocked(true);
    }
    let took = stall(&mut world, 1);
    println!("flows again after {took:?}");
    assert!(took <= SECOND * 4, "{took:?}");
    assert_eq!(world.app(0, stream).reset, None);
    assert_eq!(world.class(0, 1).as_deref(), Some("relay"));
}

#[test]
fn a_link_without_any_path_is_down_then_up_again_with_its_streams() {
    let mut world = settled(34, home);
    let stream = world.open(0, 1, ECHO, u64::MAX, false);
    let server = IpAddr::V4(crate::world::SERVER);
    let (a, b) = (world.nodes[0].host, world.nodes[1].host);
    world.net.cut_both(a, b);
    for direction in [
        holdfast_net_model::Direction::Inbound,
        holdfast_net_model::Direction::Outbound,
    ] {
        world.net.cut_remote(a, server, direction);
    }
    let took = world.until(SECOND * 6, |world| world.state(0, 1) == LinkState::Down);
    println!("down after {took:?}");
    assert!(took <= RECOVERY_MAX, "{took:?}");
    world.run(SECOND * 5);
    world.net.heal_all();
    let took = world.until(SECOND * 6, |world| world.both_up(0, 1));
    println!("up after {took:?}");
    let before = world.app(0, stream).received;
    world.run(SECOND * 2);
    assert!(world.app(0, stream).received > before);
    assert_eq!(world.app(0, stream).reset, None);
}

#[test]
fn a_jittery_path_with_a_fifth_lost_is_not_taken_for_dead() {
    // "ICE consent timeouts flapped on jittery paths."
    let mut world = settled(35, home);
    for node in 0..2 {
        set_loss(&mut world, node, 10);
        let (host, now) = (world.nodes[node].host, world.now());
        let (up, _) = world.net.host_links_mut(host);
        up.update(now, |config| config.jitter = Duration::from_millis(40));
    }
    let before = world.status(0, 1).path_changes;
    world.run(SECOND * 120);
    let changes = world.status(0, 1).path_changes - before;
    println!("{changes} path changes in two minutes");
    assert!(changes <= 2, "{changes} path changes");
    assert_flows(&mut world, 0, 1);
}

#[test]
fn a_bulk_transfer_over_a_long_queue_does_not_kill_its_own_link() {
    // "Keepalive of 5 s killed the link under a bulk transfer."
    let mut world = settled(36, home);
    for node in 0..2 {
        let (host, now) = (world.nodes[node].host, world.now());
        let (up, _) = world.net.host_links_mut(host);
        up.update(now, |config| {
            config.rate_bits_per_s = std::num::NonZeroU64::new(10_000_000);
            // Two seconds of it.
            config.queue_bytes = 2_500_000;
        });
    }
    let changes = world.status(0, 1).path_changes;
    let stream = world.open(0, 1, SINK, u64::MAX, false);
    world.run(SECOND * 60);
    assert_eq!(world.status(0, 1).path_changes, changes);
    assert_eq!(world.app(0, stream).reset, None);
    let rate = world.received_at(1, SINK) / 60;
    println!("{rate} bytes per second of 1,250,000");
    assert!(rate > 900_000, "{rate}");
}

#[test]
fn an_idle_link_stays_up_for_an_hour_and_says_little() {
    let mut world = settled(37, home);
    let sent = |world: &World| -> u64 { world.nodes.iter().map(|node| node.sent_datagrams).sum() };
    let (changes, before) = (world.status(0, 1).path_changes, sent(&world));
    world.run(SECOND * 3600);
    assert!(world.both_up(0, 1));
    assert_eq!(world.status(0, 1).path_changes, changes);
    let rate = (sent(&world) - before) / 3600;
    println!("{rate} datagrams per second");
    assert!(rate <= 16, "{rate} datagrams per second on an idle link");
}

#[test]
fn a_relayed_link_outlives_permissions_channels_and_allocations() {
    let mut world = settled(39, crate::setup::symmetric);
    let stream = world.open(0, 1, ECHO, 1000, false);
    let changes = world.status(0, 1).path_changes;
    for _ in 0..8 {
        world.run(SECOND * 300);
        assert!(world.both_up(0, 1));
        assert_flows(&mut world, 0, 1);
    }
    assert_eq!(world.status(0, 1).path_changes, changes);
    assert_eq!(world.app(0, stream).reset, None);
}

#[test]
fn one_more_address_does_not_disturb_a_relayed_link() {
    let mut world = settled(40, crate::setup::symmetric);
    let stream = world.open(0, 1, ECHO, u64::MAX, false);
    let addresses = vec!["10.1.1.2".parse().unwrap(), "172.17.0.1".parse().unwrap()];
    world.call(0, |mesh, now| {
        mesh.handle(now, Input::LocalAddresses(addresses))
    });
    let changes = world.status(0, 1).path_changes;
    for _ in 0..10 {
        let before = world.app(0, stream).received;
        world.run(SECOND);
        assert!(world.app(0, stream).received > before);
    }
    assert_eq!(world.status(0, 1).path_changes, changes);
}
