//! `run`: plays many seeds and judges them.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use holdfast_chaos::{Disaster, DrillScenario, Mutant, Scenario, run_many};
use holdfast_plan::WorldKind;

use crate::cli::RunArgs;
use crate::drill::{self, DrillResult};
use crate::output::{print, print_json};
use crate::rows::{self, Results, Row, Tally};
use crate::{BadInput, commit, find, load_any, progress};

/// In place of a commit that is not known.
const NO_COMMIT: &str = "-";

/// How to play.
pub struct How {
    /// Only these worlds; none are all.
    pub worlds: Vec<WorldKind>,
    /// These seeds rather than those of the scenario's budget.
    pub seeds: Option<Vec<u64>>,
    /// With this mistake.
    pub mutant: Option<Mutant>,
    /// So many at once.
    pub threads: usize,
    /// The commit, for the lines that play a seed again.
    pub commit: String,
}

/// Play, print, and end with the code of the gravest failure.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let (scenarios, drills) = match &args.scenario {
        Some(name) => sorted(&find::family(name)?)?,
        None => sorted(&find::all()?)?,
    };
    only_of_drills(args, &drills)?;
    let commit = commit_or_none();
    let how = How {
        worlds: args.world.clone(),
        seeds: seeds(args, &commit),
        mutant: args.mutant,
        threads: threads(args.threads),
        commit,
    };
    let drills = play_drills(&drills, args, &how)?;
    let rows = match scenarios.is_empty() && !drills.is_empty() {
        true => Vec::new(),
        false => play_all(&scenarios, &how)?,
    };
    let code = exit_code(&rows).max(
        drills
            .iter()
            .map(|drill| drill.exit_code)
            .max()
            .unwrap_or(0),
    );
    if args.json {
        let drills = drills.iter().map(serde_json::to_value);
        print_json(&Results {
            commit: how.commit,
            rows,
            drills: drills.collect::<Result<_, _>>()?,
        })?;
        return Ok(ExitCode::from(code));
    }
    if !rows.is_empty() {
        print(&rows::table(&rows))?;
    }
    for row in &rows {
        print(&row.failures_text())?;
    }
    for drill in &drills {
        drill.print()?;
    }
    Ok(ExitCode::from(code))
}

/// Options of the one kind are nothing to the other.
fn only_of_drills(args: &RunArgs, drills: &[DrillScenario]) -> Result<(), BadInput> {
    let Some(name) = &args.scenario else {
        return Ok(());
    };
    let wrong = match drills {
        [] => [
            (
                args.html.is_some(),
                "--html (of a scenario: `replay --html`)",
            ),
            (args.record, "--record"),
            (args.loopback, "--loopback"),
        ]
        .into_iter()
        .find(|(given, _)| *given)
        .map(|(_, option)| format!("{name} is no drill, and has no {option}")),
        [drill, others @ ..] => {
            let lacks = drills.iter().find_map(|drill| {
                let world = args.world.iter().find(|w| !drill.worlds().contains(w))?;
                Some(format!(
                    "{} is not played in the {world} world",
                    drill.name()
                ))
            });
            let mutant = args
                .mutant
                .map(|_| format!("{name} is a drill, and has no mutants"));
            let worlds = if args.world.is_empty() {
                drill.worlds()
            } else {
                &args.world
            };
            let pages = args.html.as_ref().and_then(|_| match (others, worlds) {
                ([], [_]) => None,
                ([], _) => Some("--html shows one world: say which, --world kernel".to_owned()),
                _ => Some("--html shows one drill: say which".to_owned()),
            });
            lacks.or(mutant).or(pages)
        }
    };
    wrong.map_or(Ok(()), |what| Err(BadInput(what)))
}

fn play_drills(
    drills: &[DrillScenario],
    args: &RunArgs,
    how: &How,
) -> anyhow::Result<Vec<DrillResult>> {
    // The mistakes are core's.
    if how.mutant.is_some() {
        return Ok(Vec::new());
    }
    let of_drills = drill::How {
        worlds: &how.worlds,
        seeds: how.seeds.clone(),
        loopback: args.loopback,
        record: args.record,
        html: args.html.as_deref(),
    };
    let mut results = Vec::new();
    for drill in drills {
        results.extend(drill::play_all(drill, &of_drills)?);
    }
    Ok(results)
}

/// Scenarios and drills of some files; a bad one is an error.
fn sorted(files: &[PathBuf]) -> Result<(Vec<Scenario>, Vec<DrillScenario>), BadInput> {
    let (mut scenarios, mut drills) = (Vec::new(), Vec::new());
    for file in files {
        match load_any(file)? {
            Disaster::Scenario(scenario) => scenarios.push(*scenario),
            Disaster::Drill(drill) => drills.push(*drill),
        }
    }
    Ok((scenarios, drills))
}

/// The commit, or what stands for it.
pub fn commit_or_none() -> String {
    commit::short().unwrap_or_else(|| NO_COMMIT.to_owned())
}

/// As many threads as there are cores, unless told otherwise.
pub fn threads(wanted: Option<NonZeroUsize>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    wanted.map_or_else(cores, NonZeroUsize::get)
}

/// Every scenario, without drills; a bad one is an error.
pub fn all() -> Result<Vec<Scenario>, BadInput> {
    Ok(sorted(&find::all()?)?.0)
}

/// The seeds that were asked for. Fresh ones are told, so that somebody else can play them too.
fn seeds(args: &RunArgs, commit: &str) -> Option<Vec<u64>> {
    if let Some(fresh) = args.fresh {
        let first = commit::first_fresh_seed(commit);
        let end = first.saturating_add(fresh);
        eprintln!("fresh seeds of commit {commit}: --seeds {first}..{end}");
        return Some((first..end).collect());
    }
    match (args.seed, &args.seeds) {
        (Some(seed), _) => Some(vec![seed]),
        (None, Some(range)) => Some(range.clone().collect()),
        (None, None) => None,
    }
}

/// A row for each scenario and world.
pub fn play_all(scenarios: &[Scenario], how: &How) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    if let [only] = scenarios
        && let Some(lacks) = how.worlds.iter().find(|w| !only.worlds().contains(w))
    {
        let name = only.name();
        return Err(BadInput(format!("{name} is not played in the {lacks} world")).into());
    }
    if how.mutant.is_some() && how.worlds.contains(&WorldKind::Kernel) {
        let what = "the kernel world plays the program as it ships, which has no mutants";
        return Err(BadInput(what.to_owned()).into());
    }
    for scenario in scenarios {
        for world in scenario.worlds() {
            if how.mutant.is_some() && *world == WorldKind::Kernel {
                continue;
            }
            if how.worlds.is_empty() || how.worlds.contains(world) {
                rows.push(play(scenario, *world, how));
            }
        }
    }
    if rows.is_empty() {
        let worlds: Vec<_> = how.worlds.iter().map(|world| world.as_str()).collect();
        let worlds = worlds.join(" or ");
        return Err(BadInput(format!(
            "nothing to play: no scenario has the world {worlds}"
        ))
        .into());
    }
    Ok(rows)
}

fn play(scenario: &Scenario, world: WorldKind, how: &How) -> Row {
    let budget = || scenario.seeds(world).collect();
    let seeds: Vec<u64> = how.seeds.clone().unwrap_or_else(budget);
    let label = format!("{} in {world}", scenario.name());
    let bar = progress::seeds(seeds.len() as u64, &label);
    let mut tally = Tally::new(scenario, world, &how.commit);
    let begun = Instant::now();
    run_many(scenario, world, seeds, how.threads, how.mutant, |run| {
        tally.add(scenario, &run);
        bar.inc(1);
        if tally.failed() > 0 {
            bar.set_message(format!("{label}, {} failed", tally.failed()));
        }
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    tally.finish(begun.elapsed())
}

/// Of the gravest failure.
pub fn exit_code(rows: &[Row]) -> u8 {
    let codes = rows.iter().map(|row| row.exit_code);
    codes.max().unwrap_or(0)
}
