//! Meeting again: restarts, and brokers that lose, repeat, replay or forge.

use std::time::Duration;

use holdfast_core::mesh::Input;
use holdfast_core::status::LinkState;
use holdfast_net_model::Ratio;
use holdfast_plan::{Entry, What};

use crate::setup::{SECOND, assert_flows, home, settled, two_nats, two_nodes};
use crate::world::{ECHO, Steer, World};

#[test]
fn a_restarted_peer_is_back_within_a_second_and_its_old_streams_end_at_once() {
    let mut world = settled(50, home);
    let stream = world.open(1, 0, ECHO, u64::MAX, false);
    world.kill(0);
    world.run(Duration::from_millis(200));
    world.start(0).unwrap();
    let took = world.until(SECOND, |world| {
        world.both_up(0, 1) && world.status(1, 0).sessions == 2
    });
    println!("up again after {took:?}");
    assert!(world.app(1, stream).reset.is_some());
    let restarted = |entry: &Entry| matches!(entry.what, What::PeerRestarted { .. });
    assert!(world.journal.entries.iter().any(restarted));
    assert_flows(&mut world, 0, 1);
}

#[test]
fn a_peer_that_was_gone_for_minutes_is_back_within_a_second() {
    let mut world = settled(51, home);
    world.kill(1);
    world.run(SECOND * 200);
    world.start(1).unwrap();
    let took = world.until(SECOND, |world| world.both_up(0, 1));
    println!("up again after {took:?}");
    assert_flows(&mut world, 0, 1);
}

#[test]
fn near_simultaneous_restarts_converge() {
    // "Auth race: both sides abort each other's in-flight attempt and never converge."
    for gap_ms in [0, 1, 5, 10, 20, 30, 45, 60, 80, 120, 250, 400] {
        let mut world = settled(52, home);
        world.kill(0);
        world.kill(1);
        world.start(0).unwrap();
        world.run(Duration::from_millis(gap_ms));
        world.start(1).unwrap();
        let took = world.until(SECOND * 2, |world| world.both_up(0, 1));
        println!("gap {gap_ms} ms: up after {took:?}");
        assert_flows(&mut world, 0, 1);
    }
}

#[test]
fn a_restart_in_the_middle_of_a_handshake_converges() {
    // "A regression test forges fresh credentials during a handshake": a second start's are.
    for after_ms in (0..300).step_by(20) {
        let mut world = two_nats(53, home);
        world.start(0).unwrap();
        world.start(1).unwrap();
        world.run(Duration::from_millis(after_ms));
        world.kill(1);
        world.start(1).unwrap();
        world.until(SECOND * 2, |world| world.both_up(0, 1));
        assert_flows(&mut world, 0, 1);
    }
}

#[test]
fn stale_credentials_are_dropped_and_fresh_ones_win() {
    // "First-auth-wins mailbox: stale credentials were consumed and fresh ones dropped."
    let mut world = settled(54, home);
    let recorded = world.recorded();
    world.kill(0);
    world.start(0).unwrap();
    // The broker hands out all that it ever saw, in between and afterwards.
    for (_, envelope) in recorded.iter().rev() {
        world.replay(envelope);
    }
    world.until(SECOND * 2, |world| {
        world.both_up(0, 1) && world.status(1, 0).sessions == 2
    });
    for (_, envelope) in &recorded {
        world.replay(envelope);
    }
    world.run(SECOND * 5);
    assert!(world.both_up(0, 1));
    assert_eq!(
        world.status(1, 0).sessions,
        2,
        "a replay must not end a session"
    );
    assert_flows(&mut world, 0, 1);
}

#[test]
fn unexpired_messages_replayed_to_a_restarted_node_do_no_harm() {
    let mut world = settled(55, home);
    let recorded = world.recorded();
    world.kill(0);
    world.kill(1);
    world.start(1).unwrap();
    for (_, envelope) in &recorded {
        world.call(1, |mesh, now| {
            mesh.handle(now, Input::Signal(envelope.clone()))
        });
    }
    world.run(SECOND * 3);
    assert_eq!(world.state(1, 0), LinkState::Signaling, "nobody is there");
    world.start(0).unwrap();
    world.until(SECOND, |world| world.both_up(0, 1));
    assert_flows(&mut world, 0, 1);
}

#[test]
fn forged_and_foreign_envelopes_change_nothing_and_are_counted() {
    let mut world = settled(56, home);
    let recorded = world.recorded();
    for (n, (_, envelope)) in recorded.iter().enumerate() {
        let mut forged = envelope.clone();
        let at = n * 37 % forged.len();
        forged[at] ^= 0x40;
        world.call(1, |mesh, now| mesh.handle(now, Input::Signal(forged)));
    }
    world.call(1, |mesh, now| mesh.handle(now, Input::Signal(vec![0; 300])));
    assert!(world.counter(1, "signal_malformed") >= recorded.len() as u64 / 2);
    world.run(SECOND);
    assert_eq!(world.status(1, 0).sessions, 1);
    assert_flows(&mut world, 0, 1);
}

#[test]
fn a_broker_that_loses_half_and_repeats_half_only_costs_time() {
    for seed in 60..70 {
        let mut world = two_nats(seed, home);
        world.broker_loss.lose = Ratio::of(1, 2);
        world.broker_loss.repeat = Ratio::of(1, 2);
        world.start(0).unwrap();
        world.start(1).unwrap();
        let took = world.until(SECOND * 20, |world| world.both_up(0, 1));
        println!("seed {seed}: up after {took:?}");
    }
}

#[test]
fn a_clock_set_back_an_hour_does_not_keep_peers_apart() {
    let behind = |n: usize, spec: &mut holdfast_plan::NodeSpec| {
        spec.clock.offset_ms = -3_600_000 * n as i64;
    };
    let mut world = two_nodes(57, home, behind);
    world.start(0).unwrap();
    world.start(1).unwrap();
    world.until(SECOND * 2, |world: &World| world.both_up(0, 1));
    assert_flows(&mut world, 0, 1);
}

#[test]
fn candidates_that_arrive_early_are_not_lost() {
    // "A candidate that arrives while the receiver has no agent yet is lost." Here: everything
    // that the peer said comes before the receiver has addresses or an agent.
    let mut world = two_nats(58, home);
    world.start(0).unwrap();
    world.run(SECOND * 3);
    world.start(1).unwrap();
    let took = world.until(SECOND, |world| world.both_up(0, 1));
    println!("up after {took:?}");
}

#[test]
fn a_broker_that_replays_without_end_keeps_no_restarted_peer_away() {
    let mut world = settled(59, home);
    let recorded = world.recorded();
    world.kill(0);
    world.start(0).unwrap();
    for n in 0..200 {
        for (node, envelope) in &recorded {
            let to = 1 - *node;
            world.call(to, |mesh, now| {
                mesh.handle(now, Input::Signal(envelope.clone()))
            });
        }
        world.run(Duration::from_millis(10));
        if n == 100 {
            assert!(world.both_up(0, 1), "up in spite of it");
        }
    }
    assert_eq!(world.status(1, 0).sessions, 2);
    assert_flows(&mut world, 0, 1);
}
