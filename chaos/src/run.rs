//! Plays seeds in a world and judges what came of them.

use std::ops::ControlFlow;
use std::time::Duration;

use holdfast_core::simulation::Mutant;
use holdfast_plan::{Journal, Plan, TraceMode, WorldKind};

use crate::{Scenario, Verdict};

/// One seed, played and judged.
#[derive(Clone, Debug)]
pub struct Run {
    /// Which.
    pub seed: u64,
    /// Where.
    pub world: WorldKind,
    /// What came of it.
    pub verdict: Verdict,
    /// What was played.
    pub plan: Plan,
    /// What was seen; empty after a crash.
    pub journal: Journal,
    /// How long it was in the world.
    pub simulated: Duration,
    /// How long it took.
    pub wall: Duration,
}

/// Plays one seed.
#[must_use]
pub fn run_seed(
    scenario: &Scenario,
    world: WorldKind,
    seed: u64,
    mode: TraceMode,
    mutant: Option<Mutant>,
) -> Run {
    let _ = (scenario, world, seed, mode, mutant);
    unimplemented!()
}

/// Plays many seeds on so many threads (the kernel world: on one) without a trace. `on_done` gets
/// the runs in the order of `seeds`, and ends it all with [`ControlFlow::Break`].
pub fn run_many(
    scenario: &Scenario,
    world: WorldKind,
    seeds: impl IntoIterator<Item = u64>,
    threads: usize,
    mutant: Option<Mutant>,
    on_done: impl FnMut(Run) -> ControlFlow<()>,
) {
    let _ = (scenario, world, threads, mutant, on_done);
    let _ = seeds.into_iter();
    unimplemented!()
}

/// The line that plays a seed again.
#[must_use]
pub fn replay_line(scenario: &Scenario, world: WorldKind, seed: u64, commit: &str) -> String {
    let (name, digest) = (scenario.name(), scenario.digest());
    format!(
        "holdfast-chaos replay {name} --world {world} --seed {seed} --scenario-digest {digest} --commit {commit}"
    )
}

/// Where two runs of one seed part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the trace differs:\n  {first}\n  {second}")]
pub struct Difference {
    /// From 1.
    pub line: usize,
    /// The line of the first run; empty when it had ended.
    pub first: String,
    /// The line of the second run; empty when it had ended.
    pub second: String,
}

/// Plays a seed twice. The digest of its trace.
///
/// # Errors
/// Where the two part.
pub fn verify_replay(
    scenario: &Scenario,
    world: WorldKind,
    seed: u64,
) -> Result<(u64, u64), Difference> {
    let _ = (scenario, world, seed);
    unimplemented!()
}
