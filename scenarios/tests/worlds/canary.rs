//! A seed is a history: the same twice in one process, and once more in another.

use std::env;
use std::process::Command;
use std::sync::Arc;

use holdfast_chaos::{Scenario, verify_replay};
use holdfast_plan::WorldKind;
use libtest_mimic::{Failed, Trial};

use crate::library;

/// Asks the program for a digest instead of tests: `SCENARIO WORLD SEED`.
const ASKED: &str = "HOLDFAST_CANARY";
/// What is sampled: everything that draws something in passing.
const SAMPLE: [(&str, WorldKind, u64); 10] = [
    ("peer-restart", WorldKind::Core, 3),
    ("symmetric-both", WorldKind::Core, 4),
    ("udp-blocked", WorldKind::Core, 5),
    ("forged-signaling", WorldKind::Core, 6),
    ("broker-loss", WorldKind::Core, 7),
    ("slot-lease-expiry", WorldKind::Core, 8),
    ("peer-restart", WorldKind::Turmoil, 3),
    ("udp-blocked", WorldKind::Turmoil, 5),
    ("broker-loss", WorldKind::Turmoil, 7),
    ("slot-outage", WorldKind::Turmoil, 3),
];

/// A trial for each of the sample.
pub fn trials(scenarios: &[Arc<Scenario>]) -> Vec<Trial> {
    let trial = |(name, world, seed): (&'static str, WorldKind, u64)| {
        let scenario = find(scenarios, name);
        Trial::test(format!("{world}/replays {name} {seed}"), move || {
            replays(&scenario, world, seed)
        })
    };
    SAMPLE.into_iter().map(trial).collect()
}

fn find(scenarios: &[Arc<Scenario>], name: &str) -> Arc<Scenario> {
    let found = scenarios.iter().find(|s| s.name() == name);
    found.expect("the sample names scenarios").clone()
}

fn replays(scenario: &Scenario, world: WorldKind, seed: u64) -> Result<(), Failed> {
    let here = digest(scenario, world, seed).map_err(|difference| difference.to_string())?;
    let there = Command::new(env::current_exe().map_err(|e| e.to_string())?)
        .env(ASKED, format!("{} {world} {seed}", scenario.name()))
        .output()
        .map_err(|e| e.to_string())?;
    let there = String::from_utf8_lossy(&there.stdout);
    if there.trim() == here {
        return Ok(());
    }
    Err(format!("here the digest is {here}, in another process {there}").into())
}

fn digest(
    scenario: &Scenario,
    world: WorldKind,
    seed: u64,
) -> Result<String, holdfast_chaos::Difference> {
    let (hash, lines) = verify_replay(scenario, world, seed)?;
    Ok(format!("{hash:016x} of {lines} lines"))
}

/// Answers another process, if that is what this one was started for.
pub fn answered() -> bool {
    let Ok(asked) = env::var(ASKED) else {
        return false;
    };
    let parts: Vec<&str> = asked.rsplitn(3, ' ').collect();
    let [seed, world, name] = parts[..] else {
        panic!("{ASKED} is SCENARIO WORLD SEED, found {asked:?}");
    };
    let scenario = find(&library::disasters().0, name);
    let (world, seed) = (
        world.parse().expect("a world"),
        seed.parse().expect("a seed"),
    );
    match digest(&scenario, world, seed) {
        Ok(digest) => println!("{digest}"),
        Err(difference) => println!("{difference}"),
    }
    true
}
