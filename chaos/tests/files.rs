//! The scenarios of this repository load, and their plans are what they promise.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests read files"
)]

use std::path::PathBuf;

use holdfast_chaos::{Disaster, DrillScenario, Scenario};
use holdfast_plan::WorldKind;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scenarios")
}

/// Everything that there is.
fn disasters() -> Vec<Disaster> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
        .filter(|path| path.file_name().is_some_and(|name| name != "Cargo.toml"))
        .collect();
    files.sort();
    let load = |path: &PathBuf| Disaster::load(path).unwrap_or_else(|error| panic!("\n{error}"));
    files.iter().map(load).collect()
}

fn scenarios() -> Vec<Scenario> {
    let all = disasters().into_iter().filter_map(|one| match one {
        Disaster::Scenario(scenario) => Some(*scenario),
        Disaster::Drill(_) => None,
    });
    all.collect()
}

fn drills() -> Vec<DrillScenario> {
    let all = disasters().into_iter().filter_map(|one| match one {
        Disaster::Drill(drill) => Some(*drill),
        Disaster::Scenario(_) => None,
    });
    all.collect()
}

#[test]
fn every_scenario_loads() {
    assert!(scenarios().len() >= 10);
    assert!(drills().len() >= 20);
}

#[test]
fn a_drill_is_written_and_read_back_as_the_same_drill() {
    for drill in drills() {
        let text = toml::to_string(drill.file()).unwrap();
        let read = DrillScenario::parse("", &text).unwrap_or_else(|p| panic!("\n{p}\n{text}"));
        assert_eq!(
            (read.drill(), read.digest()),
            (drill.drill(), drill.digest())
        );
    }
}

#[test]
fn a_drill_is_of_one_kind_and_no_scenario() {
    for drill in drills() {
        let text = toml::to_string(drill.file()).unwrap();
        assert!(Scenario::parse("", &text).is_err());
        assert!(matches!(Disaster::parse("", &text), Ok(Disaster::Drill(_))));
    }
}

#[test]
fn a_seed_gives_the_same_plan_each_time_and_every_world_the_same_fixed_faults() {
    for scenario in scenarios() {
        for seed in 0..5 {
            let plan = scenario.plan(seed, WorldKind::Core);
            assert_eq!(plan, scenario.plan(seed, WorldKind::Core));
            for world in scenario.worlds() {
                let plan = scenario.plan(seed, *world);
                assert_eq!(plan.obstacles(*world).len(), 0, "{}", scenario.name());
                assert!(plan.steps.is_sorted_by_key(|step| step.at));
                assert!(plan.healed_at <= plan.ends_at);
            }
        }
    }
}

#[test]
fn what_is_drawn_is_written_and_read_back_as_the_same_plan() {
    for scenario in scenarios() {
        for seed in 0..20 {
            let drawn = scenario.fixed(seed, WorldKind::Core);
            let text = drawn.to_toml();
            let read = Scenario::parse("", &text).unwrap_or_else(|p| panic!("\n{p}\n{text}"));
            assert_eq!(read.file(), drawn.file());
            let plan = scenario.plan(seed, WorldKind::Core);
            assert_eq!(read.plan(seed, WorldKind::Core), plan, "{text}");
            assert_eq!(read.seeds(scenario.worlds()[0]), seed..seed + 1);
        }
    }
}

#[test]
fn the_committed_schema_is_up_to_date() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schema/scenario.json");
    let schema = holdfast_chaos::json_schema();
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &schema).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == schema,
        "run UPDATE_SCHEMA=1 cargo test -p holdfast-chaos --test files"
    );
}
