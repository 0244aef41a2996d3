//! `calibrate`: the model beside the real thing.

use std::process::ExitCode;

use holdfast_chaos::drill::measured::{self, Compared, Measurement, ROUNDS_MIN, RoundNumbers};
use holdfast_chaos::drill::play;
use holdfast_chaos::{Disaster, DrillScenario, FailureClass};
use holdfast_plan::WorldKind;
use holdfast_plan::drill::Transport;
use serde::Serialize;

use super::result::{interval, seconds};
use super::store;
use crate::cli::CalibrateArgs;
use crate::output::{Table, Tone, print, print_json, toned};
use crate::{BadInput, find, progress};

#[derive(Serialize)]
struct Calibrated {
    scenario: String,
    /// The scenario has changed since it was measured.
    is_stale: bool,
    spans: Vec<Compared>,
}

/// Compare, print, and end with the code of a wrong answer when they are apart.
pub fn run(args: &CalibrateArgs) -> anyhow::Result<ExitCode> {
    let mut all = Vec::new();
    let mut missing: Vec<String> = Vec::new();
    for drill in drills(&args.scenarios)? {
        let in_both = [WorldKind::Core, WorldKind::Kernel];
        if !in_both.iter().all(|world| drill.worlds().contains(world)) {
            continue;
        }
        let measured = match args.kernel {
            true => Some(play_kernel(&drill)?),
            false => store::read(drill.name(), Transport::Mesh)?,
        };
        let Some(measured) = measured else {
            if !args.scenarios.is_empty() {
                let name = drill.name();
                let what = format!(
                    "{name} was not measured yet: `holdfast-chaos run {name} --world kernel \
                     --record`, or --kernel"
                );
                return Err(BadInput(what).into());
            }
            missing.push(drill.name().to_owned());
            continue;
        };
        all.push(Calibrated {
            scenario: drill.name().to_owned(),
            is_stale: measured.digest != drill.played(),
            spans: measured::calibrate(&drill, &measured)?,
        });
    }
    if all.is_empty() {
        let what =
            "nothing was measured yet: `holdfast-chaos run SCENARIO --world kernel --record`";
        return Err(BadInput(what.to_owned()).into());
    }
    if args.json {
        print_json(&all)?;
    } else {
        print(&table(&all))?;
        print(&unmeasured(&missing))?;
    }
    let settled = |span: &Compared| span.agrees() || span.known_apart;
    let agrees = |one: &Calibrated| !one.is_stale && one.spans.iter().all(settled);
    let apart = !all.iter().all(agrees);
    Ok(match apart {
        true => ExitCode::from(FailureClass::Correctness.exit_code()),
        false => ExitCode::SUCCESS,
    })
}

/// Which drills nobody has measured; nothing when there are none.
pub fn unmeasured(missing: &[String]) -> String {
    match missing {
        [] => String::new(),
        names => format!("no measurement of: {}\n", names.join(", ")),
    }
}

/// The drills of those names, or all.
pub fn drills(names: &[String]) -> Result<Vec<DrillScenario>, BadInput> {
    let files = match names {
        [] => find::all()?,
        names => names
            .iter()
            .map(|name| find::one(name))
            .collect::<Result<_, _>>()?,
    };
    let mut drills = Vec::new();
    for file in files {
        match Disaster::load(&file).map_err(|error| BadInput(error.to_string()))? {
            Disaster::Drill(drill) => drills.push(*drill),
            Disaster::Scenario(scenario) if !names.is_empty() => {
                return Err(BadInput(format!("{} is no drill", scenario.name())));
            }
            Disaster::Scenario(_) => {}
        }
    }
    Ok(drills)
}

fn play_kernel(drill: &DrillScenario) -> anyhow::Result<Measurement> {
    let mut measured = Measurement::new(drill, drill.file().drill.transport);
    let seeds: Vec<u64> = drill.seeds(WorldKind::Kernel).collect();
    let bar = progress::seeds(seeds.len() as u64, drill.name());
    play::play(
        drill,
        &drill.drill(),
        WorldKind::Kernel,
        &seeds,
        &mut |played| {
            bar.inc(1);
            measured.add(RoundNumbers::of(&played.round, &played.verdict));
        },
    )?;
    bar.finish_and_clear();
    Ok(measured)
}

fn table(all: &[Calibrated]) -> String {
    let mut table = Table::with_headings(&[
        "SCENARIO",
        "FROM – TO",
        ">KERNEL",
        ">P50",
        ">95 % OF IT",
        ">WORST",
        ">MODEL",
        ">P50",
        ">95 % OF IT",
        ">WORST",
        ">RATIO",
        "",
    ]);
    for one in all {
        let stale = if one.is_stale { " (CHANGED SINCE)" } else { "" };
        for span in &one.spans {
            let (kernel, model) = (span.kernel.as_ref(), span.model.as_ref());
            let of = |text: fn(f64) -> String, ms: Option<f64>| ms.map_or("-".to_owned(), text);
            let word = match (span.calibrated, span.agrees(), span.ratio) {
                (false, ..) => "",
                (true, false, _) if span.known_apart => "apart, as known",
                (true, true, Some(_)) => "agrees",
                (true, true, None) => "rare",
                (true, false, Some(_)) if kernel.is_some_and(|k| k.rounds < ROUNDS_MIN) => {
                    "TOO FEW ROUNDS"
                }
                (true, false, Some(_)) => "APART",
                (true, false, None) => "APART (missing)",
            };
            table.row([
                format!("{}{stale}", one.scenario),
                span.span.to_owned(),
                kernel.map_or("-".to_owned(), |k| k.rounds.to_string()),
                of(seconds, kernel.map(|k| k.p50_ms)),
                kernel.map(interval).unwrap_or_default(),
                of(seconds, kernel.map(|k| k.worst_ms)),
                model.map_or("-".to_owned(), |m| m.rounds.to_string()),
                of(seconds, model.map(|m| m.p50_ms)),
                model.map(interval).unwrap_or_default(),
                of(seconds, model.map(|m| m.worst_ms)),
                of(|r| format!("{r:.2}"), span.ratio),
                word.to_owned(),
            ]);
        }
    }
    let text = table.render();
    let apart = toned("APART", Tone::Bad);
    text.replace("APART", &apart)
}
