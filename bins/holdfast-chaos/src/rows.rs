//! What came of many seeds of one scenario in one world: a row of `run` and `report`.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_chaos::coverage::Coverage;
use holdfast_chaos::{FailureClass, Run, Scenario};
use holdfast_plan::WorldKind;
use serde::{Deserialize, Serialize};

use crate::output::{Table, Tone, at, count, length, number, toned};

/// Failures of a row that are kept with their details: the rest is alike.
const FAILURES_KEPT_MAX: usize = 20;
/// Failures of a row that are told: one is looked at first anyway.
const FAILURES_TOLD_MAX: usize = 3;

/// A result of `run`, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub struct Results {
    /// The commit that was checked out; `-` when that is not known.
    pub commit: String,
    /// The rows.
    pub rows: Vec<Row>,
    /// Of drills, a result for each world.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drills: Vec<serde_json::Value>,
}

/// One scenario in one world.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    pub scenario: String,
    pub scenario_digest: String,
    pub world: String,
    /// Seeds that were played.
    pub seeds: u64,
    pub failed: u64,
    /// The exit code of the gravest failure.
    pub exit_code: u8,
    /// The first failures.
    pub failures: Vec<Failure>,
    /// Time in the world, of all seeds together.
    pub simulated_s: f64,
    /// Time that all of it took.
    pub wall_s: f64,
    /// Time that each seed took, together: more than `wall_s` when several were played at once.
    pub core_s: f64,
    pub recovery_p50_ms: Option<u64>,
    pub recovery_max_ms: Option<u64>,
    /// How often each mark was passed, 0 too.
    pub marks: BTreeMap<String, u64>,
}

/// A seed that failed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    pub seed: u64,
    pub class: String,
    pub oracle: String,
    pub at_s: f64,
    pub node: Option<String>,
    pub detail: String,
    /// Violations in all.
    pub violations: usize,
    /// The command that plays it again.
    pub replay: String,
}

/// Puts runs together.
pub struct Tally {
    row: Row,
    coverage: Coverage,
    recoveries: Vec<Duration>,
    commit: String,
}

impl Tally {
    /// Of no runs yet.
    pub fn new(scenario: &Scenario, world: WorldKind, commit: &str) -> Tally {
        Tally {
            row: Row {
                scenario: scenario.name().to_owned(),
                scenario_digest: scenario.digest(),
                world: world.as_str().to_owned(),
                seeds: 0,
                failed: 0,
                exit_code: 0,
                failures: Vec::new(),
                simulated_s: 0.0,
                wall_s: 0.0,
                core_s: 0.0,
                recovery_p50_ms: None,
                recovery_max_ms: None,
                marks: BTreeMap::new(),
            },
            coverage: Coverage::default(),
            recoveries: Vec::new(),
            commit: commit.to_owned(),
        }
    }

    /// One run more.
    pub fn add(&mut self, scenario: &Scenario, run: &Run) {
        self.row.seeds += 1;
        self.row.simulated_s += run.simulated.as_secs_f64();
        self.row.core_s += run.wall.as_secs_f64();
        self.recoveries.extend(run.verdict.recovery);
        self.coverage.add(run);
        if let Some(failure) = failure(scenario, run, &self.commit) {
            self.row.failed += 1;
            let code = gravest(run).map_or(0, FailureClass::exit_code);
            self.row.exit_code = self.row.exit_code.max(code);
            if self.row.failures.len() < FAILURES_KEPT_MAX {
                self.row.failures.push(failure);
            }
        }
    }

    /// Failures so far.
    pub fn failed(&self) -> u64 {
        self.row.failed
    }

    /// No more runs.
    pub fn finish(mut self, wall: Duration) -> Row {
        self.row.wall_s = wall.as_secs_f64();
        self.recoveries.sort_unstable();
        let ms = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.row.recovery_p50_ms = self.recoveries.get(self.recoveries.len() / 2).map(ms);
        self.row.recovery_max_ms = self.recoveries.last().map(ms);
        let counts = self.coverage.counts();
        self.row.marks = counts.map(|(mark, n)| (mark.to_owned(), n)).collect();
        self.row
    }
}

/// The class that decides the exit code.
pub fn gravest(run: &Run) -> Option<FailureClass> {
    run.verdict.violations.iter().map(|v| v.class).max()
}

/// What a run that failed says; `None` when it held.
pub fn failure(scenario: &Scenario, run: &Run, commit: &str) -> Option<Failure> {
    let first = run.verdict.first()?;
    let name = |node: holdfast_plan::NodeIndex| {
        let spec = run.plan.topology.nodes.get(node.index());
        spec.map_or_else(|| format!("#{}", node.0), |spec| spec.name.clone())
    };
    Some(Failure {
        seed: run.seed,
        class: first.class.as_str().to_owned(),
        oracle: first.oracle.to_owned(),
        at_s: first.at.as_secs_f64(),
        node: first.node.map(name),
        detail: first.detail.clone(),
        violations: run.verdict.violations.len(),
        replay: run.replay_line(scenario, commit),
    })
}

impl Failure {
    /// In words: what, and on a line of its own how to see it again.
    pub fn text(&self) -> String {
        let time = at(Duration::try_from_secs_f64(self.at_s).unwrap_or_default());
        let node = self.node.as_ref().map(|node| format!(" at {node}"));
        let more = match self.violations {
            0 | 1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        let head = format!("{}: {}", self.class, self.oracle);
        format!(
            "{}{} at {time}: {}{more}\n  {}\n",
            toned(&head, Tone::Bad),
            node.unwrap_or_default(),
            self.detail,
            self.replay
        )
    }
}

impl Row {
    /// The first failures in words.
    pub fn failures_text(&self) -> String {
        let mut text = String::new();
        for failure in self.failures.iter().take(FAILURES_TOLD_MAX) {
            let what = format!("{} in {}, seed {}", self.scenario, self.world, failure.seed);
            text.push_str(&format!("\n{what}\n  {}", failure.text()));
        }
        let told = self.failures.len().min(FAILURES_TOLD_MAX) as u64;
        if self.failed > told {
            text.push_str(&format!("  and {} more seeds\n", self.failed - told));
        }
        text
    }
}

/// The table of rows.
pub fn table(rows: &[Row]) -> String {
    let mut table = Table::with_headings(&[
        "SCENARIO",
        "WORLD",
        ">SEEDS",
        ">FAILED",
        ">SIMULATED",
        ">SIM S/S",
        ">SEEDS/CORE-MIN",
        ">RECOVERY P50",
        ">MAX",
        "",
    ]);
    let ms =
        |ms: Option<u64>| ms.map_or_else(|| "-".into(), |ms| length(Duration::from_millis(ms)));
    for row in rows {
        let simulated = Duration::try_from_secs_f64(row.simulated_s).unwrap_or(Duration::MAX);
        table.row([
            row.scenario.clone(),
            row.world.clone(),
            count(row.seeds),
            count(row.failed),
            length(simulated),
            number(row.simulated_s / row.wall_s),
            number(row.seeds as f64 * 60.0 / row.core_s),
            ms(row.recovery_p50_ms),
            ms(row.recovery_max_ms),
            if row.failed == 0 { "held" } else { "FAILED" }.to_owned(),
        ]);
    }
    let text = table.render();
    let lines = text.lines().map(|line| match line.rsplit_once("  ") {
        Some((rest, "held")) => format!("{rest}  {}\n", toned("held", Tone::Good)),
        Some((rest, "FAILED")) => format!("{rest}  {}\n", toned("FAILED", Tone::Bad)),
        _ => format!("{line}\n"),
    });
    lines.collect()
}
