//! One seed, one history: in one process and in two, with no ambient time or entropy.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the second process is started from here"
)]

use std::process::Command;

use holdfast_interposer::Interposer;
use holdfast_plan::TraceMode;

use crate::paths::set_loss;
use crate::setup::{SECOND, home, topology};
use crate::world::{ECHO, Steer, World, seeded};

/// Set in the child process of the two-process test.
const CHILD: &str = "HOLDFAST_REPLAY_CHILD";

/// A history with everything in it: loss, a restart, a dead path, streams.
fn history(seed: u8) -> Vec<String> {
    let topology = topology(home, 2, |_, _| {});
    let mut world = World::new(&topology, seeded(seed), TraceMode::Full).unwrap();
    for node in 0..2 {
        set_loss(&mut world, node, 5);
    }
    world.start(0).unwrap();
    world.start(1).unwrap();
    world.until(SECOND * 20, |world: &World| world.both_up(0, 1));
    world.open(0, 1, ECHO, 500_000, true);
    world.run(SECOND * 3);
    let (a, b) = (world.nodes[0].host, world.nodes[1].host);
    world.net.cut(a, b);
    world.run(SECOND * 4);
    world.kill(1);
    world.start(1).unwrap();
    world.run(SECOND * 4);
    world.journal.trace.lines().to_vec()
}

/// On a fresh thread that aborts when time or entropy is read that was not injected.
///
/// Two are known. `stun-types` draws transaction ids of TURN requests from `rand`, served from the
/// seed. `fastrand` reads a clock when a thread first uses it; we seed it before each use, so that
/// what it read has no effect.
fn simulated(seed: u8) -> Vec<String> {
    let _ = crate::world::origin();
    Interposer::new([seed; 32])
        .allow_entropy(holdfast_interposer::ALLOWED_BY_DEFAULT)
        .allow_clocks(&["fastrand"])
        .run(|| history(seed))
        .value
}

fn assert_same(first: &[String], second: &[String]) {
    for (n, (a, b)) in first.iter().zip(second).enumerate() {
        assert_eq!(a, b, "line {n} differs");
    }
    assert_eq!(first.len(), second.len());
    assert!(first.len() > 1000, "a history that says something");
}

#[test]
fn two_runs_of_a_seed_are_byte_identical_in_one_process() {
    assert_same(&simulated(90), &simulated(90));
}

#[test]
fn two_runs_of_a_seed_are_byte_identical_in_two_processes() {
    if std::env::var_os(CHILD).is_some() {
        println!("{}", simulated(91).join("\n"));
        return;
    }
    let name = "replay::two_runs_of_a_seed_are_byte_identical_in_two_processes";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert!(
        child.status.success(),
        "{}",
        String::from_utf8_lossy(&child.stderr)
    );
    let output = String::from_utf8(child.stdout).unwrap();
    let lines: Vec<String> = output
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(String::from)
        .collect();
    assert_same(&simulated(91), &lines);
}

#[test]
fn different_seeds_give_different_histories() {
    assert_ne!(simulated(92), simulated(93));
}
