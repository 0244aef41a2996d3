//! Every scenario in every world it names, and what all runs together have reached.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use holdfast_chaos::coverage::Coverage;
use holdfast_chaos::{Run, Scenario, run_many};
use holdfast_plan::WorldKind;
use libtest_mimic::{Failed, Trial};

use crate::library::{self, KERNEL_DEFAULT};

/// The processors of the machines that this runs on.
const THREADS: usize = 2;
/// Failures of one scenario that are told in full.
const TOLD_MAX: usize = 3;

/// What one scenario cost in one world.
#[derive(Default)]
struct Cost {
    seeds: u64,
    simulated: Duration,
    wall: Duration,
    recovery_max: Duration,
}

#[derive(Default)]
struct Sum {
    coverage: Coverage,
    costs: BTreeMap<(WorldKind, String), Cost>,
}

static SUM: LazyLock<Mutex<Sum>> = LazyLock::new(Mutex::default);

fn with_sum<T>(work: impl FnOnce(&mut Sum) -> T) -> T {
    work(&mut SUM.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A trial for each scenario in each of its worlds.
pub fn trials(scenarios: &[Arc<Scenario>]) -> Vec<Trial> {
    let mut trials = Vec::new();
    for scenario in scenarios {
        for world in scenario.worlds().iter().copied() {
            let later = world == WorldKind::Kernel && !KERNEL_DEFAULT.contains(&scenario.name());
            let name = format!("{world}/{}", scenario.name());
            let scenario = scenario.clone();
            let trial = Trial::test(name, move || play(&scenario, world));
            trials.push(trial.with_ignored_flag(later));
        }
    }
    trials
}

fn play(scenario: &Scenario, world: WorldKind) -> Result<(), Failed> {
    if let Some(why) = library::cannot_play(scenario, world) {
        let _ = writeln!(std::io::stderr(), "SKIPPED, not tested: {why}");
        return Ok(());
    }
    let seeds = library::seeds(scenario, world);
    let mut failures = Vec::new();
    run_many(scenario, world, seeds, THREADS, None, |run| {
        note(scenario, &run);
        if !run.verdict.held() {
            failures.push(run);
        }
        ControlFlow::Continue(())
    });
    if failures.is_empty() {
        return Ok(());
    }
    Err(tell(scenario, &failures).into())
}

fn note(scenario: &Scenario, run: &Run) {
    with_sum(|sum| {
        if run.world == WorldKind::Core {
            sum.coverage.add(run);
        }
        let key = (run.world, scenario.name().to_owned());
        let cost = sum.costs.entry(key).or_default();
        cost.seeds += 1;
        cost.simulated += run.simulated;
        cost.wall += run.wall;
        cost.recovery_max = cost
            .recovery_max
            .max(run.verdict.recovery.unwrap_or_default());
    });
}

fn tell(scenario: &Scenario, failures: &[Run]) -> String {
    let mut text = format!("{} seeds failed:", failures.len());
    for run in failures.iter().take(TOLD_MAX) {
        let line = run.replay_line(scenario, &library::commit_name());
        let _ = write!(text, "\n\n{line}");
        if let Some(first) = run.verdict.first() {
            let at = first.at.as_secs_f64();
            let _ = write!(
                text,
                "\n  {} by {} at {at:.3} s: {}",
                first.class, first.oracle, first.detail
            );
        }
    }
    text
}

/// Whether the runs so far are all those of the core world.
pub fn all_of_core_ran(scenarios: &[Arc<Scenario>]) -> bool {
    let of_core = |s: &&Arc<Scenario>| s.worlds().contains(&WorldKind::Core);
    with_sum(|sum| {
        let ran = |s: &Arc<Scenario>| {
            sum.costs
                .contains_key(&(WorldKind::Core, s.name().to_owned()))
        };
        scenarios.iter().filter(of_core).all(ran)
    })
}

/// A disaster that no seed meets is not tested, whatever the suite says.
pub fn marks_trial() -> Trial {
    Trial::test("core/every-mark-is-hit", || {
        let unhit = with_sum(|sum| sum.coverage.unhit());
        if unhit.is_empty() {
            return Ok(());
        }
        Err(format!("no seed of any scenario has reached: {}", unhit.join(", ")).into())
    })
}

/// What it cost, on standard error: the harness keeps the rest to itself.
pub fn print_table() {
    with_sum(|sum| {
        if sum.costs.is_empty() {
            return;
        }
        let mut text = format!(
            "\n  {:<8} {:<20} {:>6} {:>14} {:>18} {:>14}\n",
            "world", "scenario", "seeds", "sim. s / s", "seeds / core-min", "recovery max"
        );
        for ((world, name), cost) in &sum.costs {
            let wall = cost.wall.as_secs_f64().max(f64::MIN_POSITIVE);
            let _ = writeln!(
                text,
                "  {world:<8} {name:<20} {:>6} {:>14.1} {:>18.1} {:>12.2} s",
                cost.seeds,
                cost.simulated.as_secs_f64() / wall,
                cost.seeds as f64 * 60.0 / wall,
                cost.recovery_max.as_secs_f64(),
            );
        }
        let _ = writeln!(std::io::stderr(), "{text}");
    });
}
