//! Every drill in its worlds, and the model beside what was measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use holdfast_chaos::DrillScenario;
use holdfast_chaos::drill::measured::{Measurement, RATIO_MAX, calibrate};
use holdfast_chaos::drill::play::{PlayedRound, play};
use holdfast_chaos::drill::stats::of_rounds;
use holdfast_plan::WorldKind;
use libtest_mimic::{Failed, Trial};

use crate::library::{self, KERNEL_DRILLS_DEFAULT};

/// Rounds of one drill that failed and are told in full.
const TOLD_MAX: usize = 3;

static TABLE: LazyLock<Mutex<BTreeMap<String, String>>> = LazyLock::new(Mutex::default);

/// A trial for each drill in each of its worlds, and for each measurement.
pub fn trials(drills: &[Arc<DrillScenario>]) -> Vec<Trial> {
    let mut trials = Vec::new();
    for drill in drills {
        for world in drill.worlds().iter().copied() {
            let is_default = KERNEL_DRILLS_DEFAULT.contains(&drill.name());
            let later = world == WorldKind::Kernel && !is_default;
            let name = format!("{world}/{}", drill.name());
            let drill = drill.clone();
            let trial = Trial::test(name, move || whole(&drill, world, is_default));
            trials.push(trial.with_ignored_flag(later));
        }
    }
    for (name, drill, measured) in library::measured(drills) {
        let name = format!("calibration/{name}");
        trials.push(Trial::test(name, move || agree(&drill, &measured)));
    }
    trials
}

/// All rounds in the core world; of those of the kernel world, which cost a minute each, one of
/// those that every run of the tests plays.
fn whole(drill: &DrillScenario, world: WorldKind, is_default: bool) -> Result<(), Failed> {
    if let Some(why) = library::cannot_play_drill(drill, world) {
        let _ = writeln!(std::io::stderr(), "SKIPPED, not tested: {why}");
        return Ok(());
    }
    let mut seeds: Vec<u64> = drill.seeds(world).collect();
    if world == WorldKind::Kernel && is_default {
        seeds.truncate(1);
    }
    let mut rounds: Vec<PlayedRound> = Vec::new();
    let played = play(drill, &drill.drill(), world, &seeds, &mut |round| {
        rounds.push(round);
    });
    note(drill, world, &rounds);
    let failed: Vec<&PlayedRound> = rounds.iter().filter(|r| !r.verdict.held()).collect();
    let mut text = match played {
        Ok(()) if failed.is_empty() => return Ok(()),
        Ok(()) => format!("{} of {} rounds failed:", failed.len(), rounds.len()),
        Err(error) => error.to_string(),
    };
    for round in failed.iter().take(TOLD_MAX) {
        let (name, seed) = (drill.name(), round.round.seed);
        let _ = write!(
            text,
            "\n\nholdfast-chaos run {name} --world {world} --seed {seed} --html round.html"
        );
        for violation in &round.verdict.violations {
            let (class, oracle) = (violation.class, violation.oracle);
            let _ = write!(text, "\n  {class} by {oracle}: {}", violation.detail);
        }
    }
    Err(text.into())
}

fn note(drill: &DrillScenario, world: WorldKind, rounds: &[PlayedRound]) {
    let stats = of_rounds(rounds.iter().map(|played| &played.round));
    let main = stats.iter().find(|stats| stats.span == drill.headline());
    let lost: usize = rounds.iter().map(|r| r.verdict.durability.lost.len()).sum();
    let figures = main.map_or_else(String::new, |main| {
        format!(
            "{:<24} p50 {:>6.2} s, worst {:>6.2} s",
            main.span,
            main.p50_ms / 1e3,
            main.worst_ms / 1e3
        )
    });
    let name = format!("  {world:<8} {:<28}", drill.name());
    let line = format!("{:>6} {figures}, {lost} lost", rounds.len());
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    table.insert(name, line);
}

/// The model and what was measured, within [`RATIO_MAX`] in the median.
fn agree(drill: &DrillScenario, measured: &Measurement) -> Result<(), Failed> {
    let compared = calibrate(drill, measured).map_err(|error| error.to_string())?;
    let mut text = String::new();
    for span in compared.iter().filter(|span| !span.agrees()) {
        let model = span.model.as_ref().map(|model| model.p50_ms / 1e3);
        let model = model.map_or_else(|| "never".to_owned(), |s| format!("{s:.2} s"));
        let _ = write!(
            text,
            "\n  {}: {:.2} s in the kernel, {model} in the model",
            span.kernel.span,
            span.kernel.p50_ms / 1e3
        );
    }
    match text.is_empty() {
        true => Ok(()),
        false => {
            let name = drill.name();
            let head = format!("medians are apart by more than {RATIO_MAX} (calibrate {name}):");
            Err((head + &text).into())
        }
    }
}

/// What drills took, on standard error.
pub fn print_table() {
    let table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    let lines: String = table
        .iter()
        .map(|(name, line)| format!("{name} {line}\n"))
        .collect();
    if !lines.is_empty() {
        let _ = writeln!(std::io::stderr(), "\n{lines}");
    }
}
