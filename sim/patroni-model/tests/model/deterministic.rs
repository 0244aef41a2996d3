//! A seed is its round.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the same round is played in another process"
)]

use std::fmt::Write as _;
use std::process::Command;

use holdfast_patroni_model::{Knobs, play, storm};
use holdfast_plan::drill::Round;

use crate::drills::{freeze, soft};

/// What is printed before and after the digests: the test harness prints too.
const FENCE: &str = "=====";

/// FNV-1a of everything that a round says.
fn digest(round: &Round) -> u64 {
    let text = format!("{round:?}");
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn digests() -> String {
    let mut all = String::new();
    for seed in 0..10 {
        let knobs = Knobs::default();
        let rounds = [
            play(&soft(), seed),
            play(&freeze(true), seed),
            storm(&soft(), seed, &knobs),
        ];
        for round in rounds {
            write!(all, "{:016x} ", digest(&round)).expect("a string takes everything");
        }
    }
    all
}

#[test]
fn another_seed_is_another_round() {
    assert_ne!(play(&soft(), 1), play(&soft(), 2));
}

#[test]
fn a_seed_is_the_same_round_again() {
    assert_eq!(play(&soft(), 7), play(&soft(), 7));
}

#[test]
#[ignore = "it is the other process"]
fn print_digests() {
    println!("{FENCE}{}{FENCE}", digests());
}

#[test]
fn a_seed_is_the_same_round_in_another_process() {
    let program = std::env::current_exe().expect("this test has a program");
    let output = Command::new(program)
        .args([
            "--exact",
            "deterministic::print_digests",
            "--ignored",
            "--nocapture",
        ])
        .output()
        .expect("this test's program runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.split(FENCE).nth(1).expect("it prints the digests");
    assert_eq!(found, digests());
}
