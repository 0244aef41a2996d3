//! Replays disasters from a seed.
//!
//! Exit codes: 0 every run held; 2 the scenario or the command line is wrong; 10 crash;
//! 11 liveness; 12 correctness; 13 the harness itself. Of several failures the highest counts.

mod check;
mod cli;
mod commit;
mod drill;
mod find;
mod list;
mod output;
mod page;
mod progress;
mod recorded;
mod replay;
mod report;
mod rows;
mod run;
mod search;
mod spans;
mod story;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use holdfast_chaos::{Disaster, FailureClass, Scenario};
use holdfast_plan::WorldKind;

use cli::{Cli, Command};

/// The scenario or the command line is wrong.
const EXIT_BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::List(args) => list::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Replay(args) if args.recorded.is_some() => recorded::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Search(args) => search::search(&args),
        Command::Shrink(args) => search::shrink(&args),
        Command::Calibrate(args) => drill::calibrate(&args),
        Command::Report(args) if args.drills => drill::report(args.json),
        Command::Report(args) => report::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        match error.is::<BadInput>() {
            true => ExitCode::from(EXIT_BAD_INPUT),
            false => ExitCode::from(FailureClass::Harness.exit_code()),
        }
    })
}

/// An error of the one who asked, not of the harness.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BadInput(String);

/// What a file holds, with everything that is wrong with it as the error.
fn load_any(file: &Path) -> Result<Disaster, BadInput> {
    Disaster::load(file).map_err(|error| BadInput(error.to_string()))
}

/// The scenario of a file; a drill is another thing.
fn load(file: &Path) -> Result<Scenario, BadInput> {
    match load_any(file)? {
        Disaster::Scenario(scenario) => Ok(*scenario),
        Disaster::Drill(drill) => {
            let name = drill.name();
            let what = format!("{name} is a drill: `holdfast-chaos run {name} --seed N` plays it");
            Err(BadInput(what))
        }
    }
}

/// The scenario of that name or path.
fn load_named(name: &str) -> Result<Scenario, BadInput> {
    load(&find::one(name)?)
}

/// The world that was asked for, if the scenario has it; else the scenario's first.
fn world_of(scenario: &Scenario, wanted: Option<WorldKind>) -> Result<WorldKind, BadInput> {
    let worlds = scenario.worlds();
    let world = wanted.or_else(|| worlds.first().copied());
    world.filter(|world| worlds.contains(world)).ok_or_else(|| {
        let names: Vec<_> = worlds.iter().map(|world| world.as_str()).collect();
        BadInput(format!(
            "{} is not played in the {} world: expected {}",
            scenario.name(),
            wanted.map_or("first", WorldKind::as_str),
            names.join(" or ")
        ))
    })
}
