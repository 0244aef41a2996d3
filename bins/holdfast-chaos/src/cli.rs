//! The command line.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};
use holdfast_chaos::Mutant;
use holdfast_plan::WorldKind;

/// Plays disasters from a seed, in up to three worlds, and judges what came of them.
///
/// Exit codes: 0 every run held; 2 the scenario or the command line is wrong; 10 crash;
/// 11 liveness; 12 correctness; 13 the harness itself.
#[derive(Debug, Parser)]
#[command(name = "holdfast-chaos", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the scenarios, their worlds and their budgets
    List(ListArgs),
    /// Check scenario files: every problem, with line and key; exit code 2 if there is one
    Check(CheckArgs),
    /// Play scenarios and judge them
    Run(RunArgs),
    /// Play one seed and tell its story; or show a recorded trace
    Replay(ReplayArgs),
    /// Play new seeds until one fails, then make its schedule as small as possible
    Search(SearchArgs),
    /// Make the schedule of a seed that fails as small as possible
    Shrink(ShrinkArgs),
    /// Compare the model of Patroni and PostgreSQL with what the real ones did; exit code 12 if
    /// their medians are apart
    Calibrate(CalibrateArgs),
    /// Show speed, seeds, coverage marks and mutants
    Report(ReportArgs),
}

/// `holdfast-chaos list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `holdfast-chaos check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Scenarios, by name or file [default: all]
    #[arg(value_name = "SCENARIO")]
    pub scenarios: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Print the JSON schema of scenario files instead
    #[arg(long, conflicts_with_all = ["scenarios", "json"])]
    pub schema: bool,
}

/// `holdfast-chaos run`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true))]
#[command(group = ArgGroup::new("seeding"))]
pub struct RunArgs {
    /// The scenario, by name or file; or what the names of several begin with: `no-false-failover`
    #[arg(group = "which")]
    pub scenario: Option<String>,
    /// All scenarios
    #[arg(long, group = "which")]
    pub all: bool,
    /// Only in these worlds: core, turmoil, kernel [default: all of the scenario's]
    #[arg(long, value_name = "WORLD,…", value_delimiter = ',')]
    pub world: Vec<WorldKind>,
    /// This seed
    #[arg(long, value_name = "N", group = "seeding")]
    pub seed: Option<u64>,
    /// These seeds, the last one excluded [default: as many as the scenario says]
    #[arg(long, value_name = "A..B", value_parser = seeds, group = "seeding")]
    pub seeds: Option<Range<u64>>,
    /// So many seeds that this commit has not seen: they derive from it
    #[arg(long, value_name = "N", group = "seeding", value_parser = clap::value_parser!(u64).range(1..=SEEDS_MAX))]
    pub fresh: Option<u64>,
    /// Plant this mistake first, to see which oracle notices it
    #[arg(long, value_name = "NAME")]
    pub mutant: Option<Mutant>,
    /// How many seeds at once [default: one for each core]
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Of a drill: write a page that shows its rounds
    #[arg(long, value_name = "FILE", conflicts_with = "all")]
    pub html: Option<PathBuf>,
    /// Of drills in the kernel world: keep how long what took, in scenarios/measured
    #[arg(long)]
    pub record: bool,
    /// Of drills: members reach each other by loopback, the baseline of the mesh
    #[arg(long)]
    pub loopback: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `holdfast-chaos calibrate`.
#[derive(Debug, Args)]
pub struct CalibrateArgs {
    /// Drills, by name or file [default: all that were measured]
    #[arg(value_name = "SCENARIO")]
    pub scenarios: Vec<String>,
    /// Play them in the kernel world now, instead of taking what was measured
    #[arg(long)]
    pub kernel: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `holdfast-chaos replay`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").required(true))]
pub struct ReplayArgs {
    /// The scenario, by name or file
    #[arg(group = "source", requires = "seed")]
    pub scenario: Option<String>,
    /// A recorded trace, of a replay or of a node's flight recorder, instead of a scenario
    #[arg(long, value_name = "FILE", group = "source", conflicts_with_all = ["seed", "world", "trace", "canary", "scenario_digest", "commit", "mutant"])]
    pub recorded: Option<PathBuf>,
    /// The seed
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// The world: core, turmoil or kernel [default: the scenario's first]
    #[arg(long)]
    pub world: Option<WorldKind>,
    /// The digest of the scenario when the seed failed: a warning when it is another now
    #[arg(long, value_name = "HEX")]
    pub scenario_digest: Option<String>,
    /// The commit on which the seed failed: a warning when it is another now
    #[arg(long, value_name = "HASH")]
    pub commit: Option<String>,
    /// Plant this mistake first
    #[arg(long, value_name = "NAME")]
    pub mutant: Option<Mutant>,
    /// Write every input and output of every machine, as lines of JSON
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Write a page that shows it over time
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Play it twice here and once in another process: all must be the same, byte for byte
    #[arg(long)]
    pub canary: bool,
    /// Print the digest of its trace and nothing else
    #[arg(long, hide = true)]
    pub trace_digest: bool,
}

/// `holdfast-chaos search`.
#[derive(Debug, Args)]
pub struct SearchArgs {
    /// The scenario, by name or file
    pub scenario: String,
    /// How long
    #[arg(long, value_name = "M", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10_080))]
    pub minutes: u64,
    /// The world: core, turmoil or kernel [default: the scenario's first]
    #[arg(long)]
    pub world: Option<WorldKind>,
    /// The first seed [default: derived from the commit]
    #[arg(long, value_name = "N")]
    pub from: Option<u64>,
    /// How many seeds at once [default: one for each core]
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
}

/// `holdfast-chaos shrink`.
#[derive(Debug, Args)]
pub struct ShrinkArgs {
    /// The scenario, by name or file
    pub scenario: String,
    /// The seed that fails
    #[arg(long, value_name = "N")]
    pub seed: u64,
    /// The world: core, turmoil or kernel [default: the scenario's first]
    #[arg(long)]
    pub world: Option<WorldKind>,
    /// How long
    #[arg(long, value_name = "M", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10_080))]
    pub minutes: u64,
    /// Where to write it [default: a new file in scenarios/regressions]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `holdfast-chaos report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// What `run --json` printed, instead of running everything again
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Only in these worlds: core, turmoil, kernel [default: all of each scenario's]
    #[arg(
        long,
        value_name = "WORLD,…",
        value_delimiter = ',',
        conflicts_with = "from"
    )]
    pub world: Vec<WorldKind>,
    /// Also plant every mutant, and look which of them are caught
    #[arg(long)]
    pub mutants: bool,
    /// What was measured of drills, by the mesh and by loopback, instead of all this
    #[arg(long, conflicts_with_all = ["from", "world", "mutants"])]
    pub drills: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Most seeds of one command: weeks of runs.
const SEEDS_MAX: u64 = 100_000_000;

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let expected = || "expected A..B with A below B, like 0..100".to_owned();
    let (first, last) = text.split_once("..").ok_or_else(expected)?;
    let parse = |text: &str| text.parse::<u64>().map_err(|_| expected());
    let (first, last) = (parse(first)?, parse(last)?);
    match last.checked_sub(first) {
        Some(1..=SEEDS_MAX) => Ok(first..last),
        Some(0) | None => Err(expected()),
        Some(count) => Err(format!("{count} seeds, expected at most {SEEDS_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn seeds_are_a_range_that_is_not_empty() {
        assert_eq!(seeds("3..10"), Ok(3..10));
        for bad in ["3", "..", "3..3", "4..3", "a..b", "-1..3", "1..=3"] {
            assert!(seeds(bad).is_err(), "{bad}");
        }
    }
}
