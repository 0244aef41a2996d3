//! Every drill in its worlds, and the model beside what was measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use holdfast_chaos::DrillScenario;
use holdfast_chaos::drill::measured::{Measurement, RATIO_MAX, by_loopback, calibrate};
use holdfast_chaos::drill::play::{PlayedRound, play};
use holdfast_chaos::drill::stats::{Stats, of_rounds};
use holdfast_plan::WorldKind;
use holdfast_plan::drill::Transport;
use libtest_mimic::{Failed, Trial};

use crate::library::{self, KERNEL_DRILLS_DEFAULT};

/// Rounds of one drill that failed and are told in full.
const TOLD_MAX: usize = 3;
/// Of fewer good rounds a measurement is not kept.
const MEASURED_MIN: usize = 10;

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
    let missing = library::unmeasured(drills);
    let named = move || {
        if !missing.is_empty() {
            let names = missing.join(", ");
            let _ = writeln!(std::io::stderr(), "no measurement of: {names}");
        }
        all_measured(&missing, &library::UNMEASURED)
    };
    trials.push(Trial::test(
        "core/calibration/every-drill-is-measured",
        named,
    ));
    trials.push(Trial::test(
        "core/calibration/a-drill-without-a-measurement-is-seen",
        || match all_measured(&["new".to_owned()], &["old"]) {
            Ok(()) => Err("nobody missed it".into()),
            Err(_) => all_measured(&["old".to_owned()], &["old"]),
        },
    ));
    for (name, drill, measured) in library::measured(drills) {
        let name = format!("core/calibration/{name}");
        trials.push(Trial::test(name, move || agree(&drill, &measured)));
    }
    for drill in drills {
        if drill.file().expect.by_loopback_max.is_some() {
            let name = format!("core/calibration/{}-by-loopback", drill.name());
            let (drills, drill) = (drills.to_vec(), drill.clone());
            trials.push(Trial::test(name, move || costs(&drills, &drill)));
        }
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

/// Every drill has a measurement, but for those that are still to be recorded.
fn all_measured(missing: &[String], exempt: &[&str]) -> Result<(), Failed> {
    let wrong: Vec<&str> = missing
        .iter()
        .map(String::as_str)
        .filter(|name| !exempt.contains(name))
        .collect();
    let found = exempt
        .iter()
        .filter(|name| !missing.iter().any(|missing| missing == *name));
    let found: Vec<&str> = found.copied().collect();
    match (wrong.as_slice(), found.as_slice()) {
        ([], []) => Ok(()),
        ([], names) => Err(format!("{} are measured, and exempt", names.join(", ")).into()),
        (names, _) => Err(format!("no measurement of {}, and not exempt", names.join(", ")).into()),
    }
}

/// What the mesh costs a drill, in pairs of recorded rounds of the same phases.
fn costs(drills: &[Arc<DrillScenario>], drill: &DrillScenario) -> Result<(), Failed> {
    let measured = library::measured(drills);
    let of = |transport| {
        let mut measured = measured.iter().map(|(.., measured)| measured);
        let found = measured.find(|m| m.scenario == drill.name() && m.transport == transport);
        found.ok_or_else(|| Failed::from(format!("{transport:?} was not measured")))
    };
    match by_loopback(drill, of(Transport::Mesh)?, of(Transport::Loopback)?) {
        Some((Some(ratio), max)) if ratio <= max => Ok(()),
        found => Err(format!("ratio and the most that it may be: {found:?}").into()),
    }
}

/// The model and what was measured of the drill as it is, within [`RATIO_MAX`] in the median.
fn agree(drill: &DrillScenario, measured: &Measurement) -> Result<(), Failed> {
    if measured.digest != drill.played() {
        return Err("the scenario has changed since it was measured: record it again".into());
    }
    if measured.good().count() < MEASURED_MIN {
        return Err(format!("fewer than {MEASURED_MIN} good rounds were measured").into());
    }
    if measured.failed() > 0 {
        return Err(format!(
            "{} measured rounds failed: play them again",
            measured.failed()
        )
        .into());
    }
    if measured.lost() > 0 && drill.file().expect.outside.is_empty() {
        return Err(format!("{} acknowledged writes were lost", measured.lost()).into());
    }
    let compared = calibrate(drill, measured).map_err(|error| error.to_string())?;
    let mut text = String::new();
    let stale = compared
        .iter()
        .find(|span| span.known_apart && span.agrees());
    if let Some(span) = stale {
        return Err(format!("{} agrees, and is known to be apart", span.span).into());
    }
    let apart = compared.iter().filter(|span| !span.agrees());
    for span in apart.filter(|span| !span.known_apart) {
        let words = |stats: &Option<Stats>| match stats {
            None => "never".to_owned(),
            Some(stats) => format!("{:.2} s ({} rounds)", stats.p50_ms / 1e3, stats.rounds),
        };
        let (kernel, model) = (words(&span.kernel), words(&span.model));
        let _ = write!(
            text,
            "\n  {}: {kernel} in the kernel, {model} in the model",
            span.span
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
