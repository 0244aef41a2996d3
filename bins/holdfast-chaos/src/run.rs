//! `run`: plays many seeds and judges them.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Instant;

use holdfast_chaos::{Mutant, Scenario, run_many};
use holdfast_plan::WorldKind;

use crate::cli::RunArgs;
use crate::output::{print, print_json};
use crate::rows::{self, Results, Row, Tally};
use crate::{BadInput, commit, find, load, load_named, progress};

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

/// The commit, or what stands for it.
pub fn commit_or_none() -> String {
    commit::short().unwrap_or_else(|| NO_COMMIT.to_owned())
}

/// As many threads as there are cores, unless told otherwise.
pub fn threads(wanted: Option<NonZeroUsize>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    wanted.map_or_else(cores, NonZeroUsize::get)
}

/// Play, print, and end with the code of the gravest failure.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let scenarios = match &args.scenario {
        Some(name) => vec![load_named(name)?],
        None => all()?,
    };
    let commit = commit_or_none();
    let how = How {
        worlds: args.world.clone(),
        seeds: seeds(args, &commit),
        mutant: args.mutant,
        threads: threads(args.threads),
        commit,
    };
    let rows = play_all(&scenarios, &how)?;
    let code = exit_code(&rows);
    if args.json {
        let commit = how.commit;
        print_json(&Results { commit, rows })?;
        return Ok(code);
    }
    print(&rows::table(&rows))?;
    for row in &rows {
        print(&row.failures_text())?;
    }
    Ok(code)
}

/// Every scenario; a bad one is an error.
pub fn all() -> Result<Vec<Scenario>, BadInput> {
    find::all()?.iter().map(|file| load(file)).collect()
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
pub fn exit_code(rows: &[Row]) -> ExitCode {
    let codes = rows.iter().map(|row| row.exit_code);
    ExitCode::from(codes.max().unwrap_or(0))
}
