//! The scenario files, and which seeds of them are played.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use holdfast_chaos::drill::measured::Measurement;
use holdfast_chaos::{Disaster, DrillScenario, Scenario};
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
/// The drills that the kernel world plays in every run of the tests, with one round each: the
/// shortest two that have a failover of everything in them.
pub const KERNEL_DRILLS_DEFAULT: [&str; 2] = ["failover-postmaster", "switchover"];
/// Drills whose rounds in the kernel world are still to be recorded: this list may only become
/// shorter, and a drill that is not in it has to have a measurement.
pub const UNMEASURED: [&str; 0] = [];
/// Of a budget of seeds, so many in a hundred are new with every commit, and at least one.
const FRESH_PER_HUNDRED: u64 = 5;
/// Fresh seeds are above all fixed ones, and those of different commits far from each other.
const FRESH_STRIDE: u64 = 1_000_000;

/// Every scenario and regression, and every drill, in order of name. A file that cannot be read
/// fails the run.
pub fn disasters() -> (Vec<Arc<Scenario>>, Vec<Arc<DrillScenario>>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> = [root.to_path_buf(), root.join("regressions")]
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .filter(|path| path.file_name().is_some_and(|name| name != "Cargo.toml"))
        .collect();
    files.sort();
    let (mut scenarios, mut drills) = (Vec::new(), Vec::new());
    for file in files {
        match Disaster::load(&file) {
            Ok(Disaster::Scenario(scenario)) => scenarios.push(Arc::new(*scenario)),
            Ok(Disaster::Drill(drill)) => drills.push(Arc::new(*drill)),
            Err(problems) => panic!("{problems}"),
        }
    }
    (scenarios, drills)
}

/// What was measured of drills in the kernel world: each file below `measured`, with its drill.
pub fn measured(drills: &[Arc<DrillScenario>]) -> Vec<(String, Arc<DrillScenario>, Measurement)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("measured");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "json"));
    files.sort();
    let load = |file: PathBuf| {
        let name = file.display().to_string();
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        let read = Measurement::from_json(&text).unwrap_or_else(|why| panic!("{name}: {why}"));
        let drill = drills.iter().find(|drill| drill.name() == read.scenario);
        let drill = drill.unwrap_or_else(|| panic!("{name}: there is no such drill"));
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        (stem.into_owned(), drill.clone(), read)
    };
    files.into_iter().map(load).collect()
}

/// Drills of both worlds whose rounds over the mesh nobody has recorded.
pub fn unmeasured(drills: &[Arc<DrillScenario>]) -> Vec<String> {
    let measured: Vec<String> = measured(drills)
        .into_iter()
        .map(|(stem, ..)| stem)
        .collect();
    let in_both = |drill: &&Arc<DrillScenario>| {
        let both = [WorldKind::Core, WorldKind::Kernel];
        both.iter().all(|world| drill.worlds().contains(world))
    };
    drills
        .iter()
        .filter(in_both)
        .map(|drill| drill.name().to_owned())
        .filter(|name| !measured.contains(name))
        .collect()
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
    must_run(why.err()?)
}

/// Why a drill cannot be played in a world in here at all. In CI nothing may be missing.
pub fn cannot_play_drill(drill: &DrillScenario, world: WorldKind) -> Option<String> {
    must_run(holdfast_chaos::drill::play::obstacle(
        &drill.drill(),
        world,
    )?)
}

fn must_run(why: String) -> Option<String> {
    let must_run = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(!must_run, "CI must run this test: {why}");
    Some(why)
}
