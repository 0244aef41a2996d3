//! The scenario files, and which seeds of them are played.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use holdfast_chaos::Scenario;
use holdfast_kernel_world::members;
use holdfast_plan::WorldKind;

/// The scenarios that the kernel world plays in every run of the tests: a path through two NATs,
/// none, one through TCP only, a peer that dies, and whole members with Consul.
pub const KERNEL_DEFAULT: [&str; 5] = [
    "lossy-nat",
    "relay-restart",
    "udp-blocked",
    "peer-restart",
    "three-and-three",
];
/// Of a budget of seeds, so many in a hundred are new with every commit, and at least one.
const FRESH_PER_HUNDRED: u64 = 5;
/// Fresh seeds are above all fixed ones, and those of different commits far from each other.
const FRESH_STRIDE: u64 = 1_000_000;

/// Every scenario and regression, in order of name. A file that cannot be read fails the run.
pub fn scenarios() -> Vec<Arc<Scenario>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> = [root.to_path_buf(), root.join("regressions")]
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .filter(|path| path.file_name().is_some_and(|name| name != "Cargo.toml"))
        .collect();
    files.sort();
    let load = |path: &PathBuf| match Scenario::load(path) {
        Ok(scenario) => Arc::new(scenario),
        Err(problems) => panic!("{problems}"),
    };
    files.iter().map(load).collect()
}

/// The seeds to play: mostly the same every time, some derived from the commit.
pub fn seeds(scenario: &Scenario, world: WorldKind) -> Vec<u64> {
    let budget = scenario.seeds(world);
    let count = budget.end - budget.start;
    if count < 2 {
        return budget.collect();
    }
    let fresh = (count * FRESH_PER_HUNDRED / 100).max(1);
    let first = (commit() + 1) * FRESH_STRIDE;
    let fixed = budget.start..budget.end - fresh;
    fixed.chain(first..first + fresh).collect()
}

/// The commit that is tested, in short; empty outside of a repository.
pub fn commit_name() -> String {
    let asked = Command::new("git")
        .args(["rev-parse", "--short=8", "HEAD"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let text = asked.map(|said| String::from_utf8_lossy(&said.stdout).into_owned());
    text.unwrap_or_default().trim().to_owned()
}

fn commit() -> u64 {
    u64::from_str_radix(&commit_name(), 16).unwrap_or(0)
}

/// Why a scenario cannot be played in a world in here at all. In CI nothing may be missing.
pub fn cannot_play(scenario: &Scenario, world: WorldKind) -> Option<String> {
    if world != WorldKind::Kernel {
        return None;
    }
    let found = holdfast_lab::preconditions().map_err(|error| error.to_string());
    let why = match scenario.plan(0, world).membership {
        Some(_) => found.and_then(|()| members::consul().map(drop)),
        None => found,
    };
    let why = why.err()?;
    let must_run = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(!must_run, "CI must run this test: {why}");
    Some(why)
}
