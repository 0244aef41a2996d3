//! `run`, `calibrate` and `report --drills`: rounds of drills, and what they say.

mod calibrate;
mod page;
mod report;
mod result;
mod store;

use std::path::Path;

use anyhow::Context;
use holdfast_chaos::DrillScenario;
use holdfast_chaos::drill::measured::{Measurement, RoundNumbers};
use holdfast_chaos::drill::play::{self, PlayedRound};
use holdfast_plan::WorldKind;
use holdfast_plan::drill::Transport;

use crate::progress;

pub use calibrate::run as calibrate;
pub use report::run as report;
pub use result::DrillResult;

/// How to play.
pub struct How<'a> {
    /// Only these worlds; none are all.
    pub worlds: &'a [WorldKind],
    /// These seeds rather than those of the drill's budget.
    pub seeds: Option<Vec<u64>>,
    /// By loopback, whatever the file says.
    pub loopback: bool,
    /// Keep the numbers of kernel rounds.
    pub record: bool,
    /// The page to write.
    pub html: Option<&'a Path>,
}

/// A result for each of a drill's worlds that were asked for.
pub fn play_all(drill: &DrillScenario, how: &How<'_>) -> anyhow::Result<Vec<DrillResult>> {
    let wanted = |world: &&WorldKind| how.worlds.is_empty() || how.worlds.contains(world);
    let mut results = Vec::new();
    for world in drill.worlds().iter().filter(wanted) {
        results.push(play_in(drill, *world, how)?);
    }
    Ok(results)
}

fn play_in(drill: &DrillScenario, world: WorldKind, how: &How<'_>) -> anyhow::Result<DrillResult> {
    let budget = || drill.seeds(world).collect();
    let seeds: Vec<u64> = how.seeds.clone().unwrap_or_else(budget);
    let transport = match how.loopback {
        true => Transport::Loopback,
        false => drill.file().drill.transport,
    };
    let label = format!("{} in {world}", drill.name());
    let bar = progress::seeds(seeds.len() as u64, &label);
    let mut rounds: Vec<PlayedRound> = Vec::new();
    let mut failed = 0;
    let mut record = (how.record && world == WorldKind::Kernel)
        .then(|| store::read_or_new(drill, transport))
        .transpose()?;
    let mut broken = None;
    let outcome = play::play(
        drill,
        &drill.drill_over(transport),
        world,
        &seeds,
        &mut |round| {
            failed += usize::from(!round.verdict.held());
            if failed > 0 {
                bar.set_message(format!("{label}, {failed} failed"));
            }
            if let Some(measured) = &mut record {
                broken = broken.take().or(keep(measured, &round).err());
            }
            rounds.push(round);
            bar.inc(1);
        },
    );
    bar.finish_and_clear();
    if let Some(error) = broken {
        return Err(error);
    }
    let error = outcome.err().map(|error| error.to_string());
    let result = DrillResult::of(drill, world, transport, rounds, error);
    if let Some(file) = how.html {
        let html = page::of(drill, &result).render();
        std::fs::write(file, html).with_context(|| file.display().to_string())?;
    }
    Ok(result)
}

/// Keeps a round's numbers, at once: hours of rounds are not lost with the last one. One that
/// failed is kept too, in the place of an older one that did not.
fn keep(measured: &mut Measurement, played: &PlayedRound) -> anyhow::Result<()> {
    measured.add(RoundNumbers::of(&played.round, &played.verdict));
    store::write(measured)
}
