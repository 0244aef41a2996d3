//! Planted mistakes, and which oracle has to see each of them.

use holdfast_core::simulation::Mutant;
use holdfast_plan::WorldKind;

use crate::Scenario;

/// What has to catch a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planted {
    /// The mistake.
    pub mutant: Mutant,
    /// The scenario that shows it.
    pub scenario: &'static str,
    /// Where.
    pub world: WorldKind,
    /// The oracle that sees it first.
    pub oracle: &'static str,
    /// Within so many seeds, from 0.
    pub seeds: u64,
}

/// Every mutant.
pub const TABLE: &[Planted] = &[];

/// A mutant that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caught {
    /// By whom.
    pub oracle: &'static str,
    /// With which seed.
    pub seed: u64,
    /// Seeds that it took.
    pub seeds_tried: u64,
}

/// Plays the row's scenario (loaded by the caller) with the mistake planted until some oracle
/// sees something. `None`: nobody did within the row's seeds.
#[must_use]
pub fn hunt(planted: &Planted, scenario: &Scenario) -> Option<Caught> {
    let _ = (planted, scenario);
    unimplemented!()
}
