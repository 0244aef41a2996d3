//! One test per transport and signaling bug that systems of this kind are known for, under the
//! bug's name. Those that other modules prove at length are here in a line or two.

use std::time::Duration;

use holdfast_core::mesh::Input;
use holdfast_core::status::LinkState;
use holdfast_net_model::{Direction, NatConfig, Uplink};

use crate::paths::set_loss;
use crate::setup::{SECOND, assert_flows, home, settled, start_both, two_nats};
use crate::world::{ECHO, SERVER, SINK, Steer};

// ---- transport ----

#[test]
fn a_reliable_mux_on_a_lossy_datagram_path_dies() {
    let mut world = settled(100, home);
    set_loss(&mut world, 0, 15);
    set_loss(&mut world, 1, 15);
    let stream = world.open(0, 1, ECHO, 5_000_000, true);
    world.until(SECOND * 120, |world| world.app(0, stream).read_finished);
    assert_eq!(world.app(0, stream).received, 5_000_000);
    assert_eq!(world.status(0, 1).sessions, 1);
}

#[test]
fn a_dial_hangs_for_ever_when_ice_fails_in_the_middle_of_the_handshake() {
    for after_ms in (40..140).step_by(5) {
        let mut world = two_nats(101, home);
        world.start(0).unwrap();
        world.start(1).unwrap();
        world.run(Duration::from_millis(after_ms));
        let (a, b) = (world.nodes[0].host, world.nodes[1].host);
        world.net.cut_both(a, b);
        for direction in [Direction::Inbound, Direction::Outbound] {
            world.net.cut_remote(a, SERVER.into(), direction);
        }
        world.run(SECOND * 30);
        world.net.heal_all();
        let took = world.until(SECOND * 6, |world| world.both_up(0, 1));
        println!("cut after {after_ms} ms: up {took:?} after healing");
        assert_flows(&mut world, 0, 1);
    }
}

#[test]
fn a_dial_blocks_for_ever_after_ice_has_failed() {
    // Nothing works for minutes, not even a relay.
    let mut world = two_nats(102, home);
    let (a, b) = (world.nodes[0].host, world.nodes[1].host);
    world.net.cut_both(a, b);
    for direction in [Direction::Inbound, Direction::Outbound] {
        world.net.cut_remote(a, SERVER.into(), direction);
    }
    world.start(0).unwrap();
    world.start(1).unwrap();
    world.run(SECOND * 300);
    assert_eq!(world.state(0, 1), LinkState::Connecting);
    world.net.heal_all();
    let took = world.until(SECOND * 10, |world| world.both_up(0, 1));
    println!("up {took:?} after healing");
}

#[test]
fn a_restarted_peer_is_noticed_only_when_the_idle_timeout_runs_out() {
    let mut world = settled(103, home);
    world.open(1, 0, SINK, 1000, false);
    world.kill(0);
    world.start(0).unwrap();
    let restarted = |world: &crate::world::World| world.status(1, 0).sessions == 2;
    let took = world.until(SECOND, restarted);
    assert!(took < Duration::from_millis(200), "{took:?}");
}

#[test]
fn a_relay_is_taken_where_a_direct_path_is_better() {
    for seed in 104..109 {
        let world = settled(seed, home);
        assert_eq!(world.class(0, 1).as_deref(), Some("direct"));
        assert_eq!(world.class(1, 0).as_deref(), Some("direct"));
    }
}

#[test]
fn a_connection_per_port_and_pair_presses_on_the_nats_table() {
    // A symmetric NAT makes a mapping for each destination: streams must not add any.
    let mut world = settled(109, home);
    let Uplink::Behind(nat) = world.net.uplink(world.nodes[0].host) else {
        panic!("behind a NAT");
    };
    let before = world.net.nat(nat).mapping_count();
    for _ in 0..24 {
        world.open(0, 1, ECHO, 1000, false);
    }
    world.run(SECOND);
    // One socket, and what posts and polls at two brokers.
    assert!(before <= 1 + 2 * 5, "{before} mappings");
    assert_eq!(world.net.nat(nat).mapping_count(), before);
}

#[test]
fn a_turn_stream_over_tcp_stops_at_the_first_odd_sized_datagram() {
    use holdfast_plan::Transport;
    let nat = |ip: [u8; 4]| NatConfig {
        udp_blocked: ip[3] == 101,
        ..home(ip)
    };
    let mut world = crate::setup::two_nodes(110, nat, |_, spec| {
        spec.turn = vec![Transport::Udp, Transport::Tcp];
    });
    start_both(&mut world);
    for size in [1, 2, 3, 5, 7, 1001, 1199] {
        let link = world.link(1, 0);
        let from = "127.0.0.1:41000".parse().unwrap();
        let payload = vec![7; size].into();
        world.call(1, |mesh, now| {
            mesh.udp_send(now, link, SINK.port(), from, payload)
        });
        world.run(Duration::from_millis(300));
        assert_eq!(world.nodes[0].datagrams.pop().unwrap().2.len(), size);
    }
    assert_flows(&mut world, 0, 1);
}

// ---- signaling ----

#[test]
fn the_first_credentials_win_over_fresh_ones() {
    let mut world = two_nats(111, home);
    // The first run's messages wait in the mailbox of a peer that is not there yet.
    world.start(0).unwrap();
    world.run(SECOND);
    world.kill(0);
    world.start(0).unwrap();
    world.start(1).unwrap();
    world.until(SECOND, |world| world.both_up(0, 1));
    assert_flows(&mut world, 0, 1);
}

#[test]
fn a_mailbox_hands_stale_candidates_to_a_new_agent() {
    let mut world = settled(112, home);
    let stale = world.recorded();
    world.kill(0);
    let Uplink::Behind(nat) = world.net.uplink(world.nodes[0].host) else {
        panic!("behind a NAT");
    };
    world.net.nat_mut(nat).flush();
    world.start(0).unwrap();
    for (_, envelope) in &stale {
        world.replay(envelope);
    }
    world.until(SECOND * 2, |world| {
        world.both_up(0, 1) && world.status(1, 0).sessions == 2
    });
    assert_flows(&mut world, 0, 1);
}

#[test]
fn fresh_credentials_forged_during_a_handshake_make_both_sides_abort_for_ever() {
    let mut world = two_nats(113, home);
    world.start(0).unwrap();
    world.start(1).unwrap();
    for _ in 0..60 {
        world.run(Duration::from_millis(5));
        // Whatever was said is said again, altered, in the name of the peer.
        for (node, mut envelope) in world.recorded() {
            let last = envelope.len() - 1;
            envelope[last] ^= 1;
            let forge = |mesh: &mut holdfast_core::mesh::Mesh, now| {
                mesh.handle(now, Input::Signal(envelope))
            };
            world.call(1 - node, forge);
        }
    }
    world.until(SECOND, |world| world.both_up(0, 1));
    assert_eq!(world.status(0, 1).sessions, 1, "no attempt was aborted");
}
