//! The mutants are caught, and what they are caught by holds without them.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests fail by panicking, and tell what they found"
)]

use std::path::PathBuf;

use holdfast_chaos::mutants::{TABLE, hunt};
use holdfast_chaos::{Scenario, verify_replay};
use holdfast_plan::WorldKind;

fn load(name: &str) -> Scenario {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let path = folder.join(format!("{name}.toml"));
    Scenario::load(&path).unwrap_or_else(|error| panic!("\n{error}"))
}

#[test]
fn a_seed_plays_twice_alike() {
    for seed in 0..2 {
        let digest = verify_replay(&load("peer-restart"), WorldKind::Core, seed);
        assert!(digest.unwrap().1 > 100);
    }
}

#[test]
fn every_mutant_is_caught_by_its_oracle() {
    let mut missed = Vec::new();
    for row in TABLE {
        match hunt(row, &load(row.scenario)) {
            Some(caught) => println!("{}: {caught:?}", row.mutant),
            None => missed.push(format!(
                "{} by {} in {}",
                row.mutant, row.oracle, row.scenario
            )),
        }
    }
    assert!(missed.is_empty(), "nobody saw\n{}", missed.join("\n"));
}
