//! `report`: what the scenarios prove, and at which price.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use holdfast_chaos::FailureClass;
use holdfast_chaos::mutants::{self, Planted};
use serde::Serialize;

use crate::cli::ReportArgs;
use crate::output::{Table, Tone, count, print, print_json, toned};
use crate::rows::{self, Results};
use crate::run::{self, How};
use crate::{BadInput, load_named, progress};

/// The longest file of results that is read, bytes: one of all scenarios has a thousandth.
const RESULTS_LEN_MAX: u64 = 256 << 20;

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    results: Results,
    marks: BTreeMap<String, u64>,
    mutants: Option<Vec<Hunted>>,
}

#[derive(Serialize)]
struct Hunted {
    mutant: String,
    scenario: &'static str,
    world: &'static str,
    /// The oracle that has to see it.
    oracle: &'static str,
    /// The oracle that saw it first; none: it survived.
    caught_by: Option<&'static str>,
    seed: Option<u64>,
    /// Seeds that it took, or that it survived.
    seeds_tried: u64,
}

impl Hunted {
    fn is_as_expected(&self) -> bool {
        self.caught_by == Some(self.oracle)
    }
}

/// Run everything, or read what a run has written, and print it.
pub fn run(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let results = match &args.from {
        Some(file) => read(file)?,
        None => play(args)?,
    };
    let mutants = args.mutants.then(hunt).transpose()?;
    let mut marks: BTreeMap<String, u64> = BTreeMap::new();
    for (mark, n) in results.rows.iter().flat_map(|row| &row.marks) {
        *marks.entry(mark.clone()).or_default() += n;
    }
    let survived = mutants.iter().flatten().any(|h| h.caught_by.is_none());
    let code = match survived {
        true => ExitCode::from(FailureClass::Harness.exit_code()),
        false => ExitCode::from(run::exit_code(&results.rows)),
    };
    let report = Report {
        results,
        marks,
        mutants,
    };
    if args.json {
        print_json(&report)?;
    } else {
        print(&text(&report))?;
    }
    Ok(code)
}

fn play(args: &ReportArgs) -> anyhow::Result<Results> {
    let how = How {
        worlds: args.world.clone(),
        seeds: None,
        mutant: None,
        threads: run::threads(None),
        commit: run::commit_or_none(),
    };
    let rows = run::play_all(&run::all()?, &how)?;
    let commit = how.commit;
    let drills = Vec::new();
    Ok(Results {
        commit,
        rows,
        drills,
    })
}

fn read(file: &Path) -> anyhow::Result<Results> {
    let name = file.display();
    let bad = |what: String| BadInput(format!("{name}: {what}"));
    let about = std::fs::metadata(file).map_err(|error| bad(error.to_string()))?;
    if about.len() > RESULTS_LEN_MAX {
        return Err(bad(format!("more than {RESULTS_LEN_MAX} bytes")).into());
    }
    let text = std::fs::read_to_string(file).map_err(|error| bad(error.to_string()))?;
    let results = serde_json::from_str(&text);
    Ok(results.map_err(|error| bad(format!("not what `run --json` prints: {error}")))?)
}

fn hunt() -> anyhow::Result<Vec<Hunted>> {
    let bar = progress::seeds(mutants::TABLE.len() as u64, "mutants");
    let hunted = mutants::TABLE.iter().map(|planted| {
        bar.inc(1);
        hunt_one(planted)
    });
    let hunted = hunted.collect::<anyhow::Result<Vec<_>>>()?;
    bar.finish_and_clear();
    Ok(hunted)
}

fn hunt_one(planted: &Planted) -> anyhow::Result<Hunted> {
    let scenario = load_named(planted.scenario)
        .with_context(|| format!("the scenario that shows {}", planted.mutant))?;
    let caught = mutants::hunt(planted, &scenario);
    Ok(Hunted {
        mutant: planted.mutant.to_string(),
        scenario: planted.scenario,
        world: planted.world.as_str(),
        oracle: planted.oracle,
        caught_by: caught.as_ref().map(|caught| caught.oracle),
        seed: caught.as_ref().map(|caught| caught.seed),
        seeds_tried: caught.map_or(planted.seeds, |caught| caught.seeds_tried),
    })
}

fn text(report: &Report) -> String {
    let mut text = format!("commit {}\n\n", report.results.commit);
    text.push_str(&rows::table(&report.results.rows));
    for row in &report.results.rows {
        text.push_str(&row.failures_text());
    }
    text.push_str(&marks_text(&report.marks));
    if let Some(mutants) = &report.mutants {
        text.push_str(&mutants_text(mutants));
    }
    text
}

fn marks_text(marks: &BTreeMap<String, u64>) -> String {
    let hit = marks.values().filter(|n| **n > 0).count();
    let mut text = format!("\nCoverage marks: {hit} of {} passed\n", marks.len());
    for (mark, _) in marks.iter().filter(|(_, n)| **n == 0) {
        text.push_str(&format!("  {} {mark}\n", toned("never", Tone::Bad)));
    }
    let mut table = Table::with_headings(&["MARK", ">PASSED"]);
    for (mark, n) in marks.iter().filter(|(_, n)| **n > 0) {
        table.row([mark.clone(), count(*n)]);
    }
    text.push('\n');
    text.push_str(&table.render());
    text
}

fn mutants_text(mutants: &[Hunted]) -> String {
    let caught = mutants.iter().filter(|h| h.caught_by.is_some()).count();
    let mut table = Table::with_headings(&[
        "MUTANT",
        "SCENARIO",
        "WORLD",
        "HAS TO BE SEEN BY",
        "SEEN BY",
        ">SEED",
        ">SEEDS TRIED",
    ]);
    for hunted in mutants {
        let by = match hunted.caught_by {
            Some(oracle) if hunted.is_as_expected() => oracle.to_owned(),
            Some(oracle) => format!("{oracle} (another)"),
            None => "nobody".to_owned(),
        };
        table.row([
            hunted.mutant.clone(),
            hunted.scenario.to_owned(),
            hunted.world.to_owned(),
            hunted.oracle.to_owned(),
            by,
            hunted
                .seed
                .map_or_else(|| "-".to_owned(), |seed| seed.to_string()),
            count(hunted.seeds_tried),
        ]);
    }
    let of = mutants.len();
    format!("\nMutants: {caught} of {of} caught\n\n{}", table.render())
}
