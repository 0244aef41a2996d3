//! The smallest schedule of faults that still fails.

use std::time::Duration;

use holdfast_plan::WorldKind;

use crate::{Scenario, Violation};

/// A failure with nothing left that it does not need.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// Everything drawn is fixed in it, its seed too.
    pub scenario: Scenario,
    /// The name of the scenario that it comes from.
    pub origin: String,
    /// Where it fails.
    pub world: WorldKind,
    /// With which seed.
    pub seed: u64,
    /// How it fails.
    pub violation: Violation,
    /// Faults before.
    pub faults_before: usize,
    /// Faults now.
    pub faults: usize,
    /// Runs that it took.
    pub runs: u64,
}

/// Makes a failing seed's scenario as small as it gets in that time (of the wall). `None` when
/// the seed does not fail.
#[must_use]
pub fn shrink(
    scenario: &Scenario,
    world: WorldKind,
    seed: u64,
    limit: Duration,
    on_progress: &mut dyn FnMut(&str),
) -> Option<Shrunk> {
    let _ = (scenario, world, seed, limit, on_progress);
    unimplemented!()
}

/// The file to keep it in, below `scenarios/regressions`: name and text.
#[must_use]
pub fn regression_file(shrunk: &Shrunk, commit: &str) -> (String, String) {
    let _ = (shrunk, commit);
    unimplemented!()
}
