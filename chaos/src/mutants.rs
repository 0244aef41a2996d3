//! Planted mistakes, and which oracle has to see each of them.

use std::ops::ControlFlow;

use holdfast_core::simulation::Mutant;
use holdfast_plan::WorldKind;

use crate::{Scenario, run_many};

/// Seeds that are played at once.
const THREADS: usize = 2;

/// What has to catch a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planted {
    /// The mistake.
    pub mutant: Mutant,
    /// The scenario that shows it.
    pub scenario: &'static str,
    /// Where.
    pub world: WorldKind,
    /// The oracle that has to see it.
    pub oracle: &'static str,
    /// Within so many seeds, from 0.
    pub seeds: u64,
}

/// The mutants that no scenario shows yet: each needs one of its own.
pub const UNSEEN: &[Mutant] = &[Mutant::IgnoreAddressChange, Mutant::OneWayBlind];

/// Every other mutant, and who has to see it.
pub const TABLE: &[Planted] = &[
    row(
        Mutant::AcceptStaleIncarnation,
        "forged-signaling",
        "strangers",
        20,
    ),
    row(Mutant::TrustUnsigned, "forged-signaling", "convergence", 20),
    row(Mutant::SkipAllowlist, "forged-signaling", "allowlist", 2),
    row(Mutant::ForgetDeadPair, "path-flap", "workload", 5),
    row(
        Mutant::DropEarlyCandidates,
        "staggered-start",
        "convergence",
        10,
    ),
    row(Mutant::ReorderStreamBytes, "hairpin-bulk", "bytes", 5),
    row(Mutant::UnboundedMailbox, "forged-signaling", "queues", 5),
    row(Mutant::DuplicateDatagram, "hairpin-bulk", "datagrams", 5),
    row(Mutant::AlteredDatagram, "hairpin-bulk", "datagrams", 5),
    row(Mutant::IgnoreRestart, "peer-restart", "convergence", 10),
    row(Mutant::EarlyFinish, "hairpin-bulk", "bytes", 5),
    row(Mutant::NeverExpireSession, "dark-site", "grace", 2),
    row(Mutant::EpochRace, "dark-site", "convergence", 20),
    row(Mutant::NoPathSwitch, "path-flap", "convergence", 2),
    row(Mutant::StealEarly, "slot-lease-expiry", "owners", 10),
    row(Mutant::OutliveLease, "slot-lease-expiry", "owners", 10),
];

const fn row(mutant: Mutant, scenario: &'static str, oracle: &'static str, seeds: u64) -> Planted {
    Planted {
        mutant,
        scenario,
        world: WorldKind::Core,
        oracle,
        seeds,
    }
}

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

/// Plays the row's scenario (loaded by the caller) with the mistake planted until the row's
/// oracle sees something. `None`: it did not within the row's seeds.
#[must_use]
pub fn hunt(planted: &Planted, scenario: &Scenario) -> Option<Caught> {
    let (mut tried, mut caught) = (0, None);
    let (seeds, mutant) = (0..planted.seeds, Some(planted.mutant));
    run_many(scenario, planted.world, seeds, THREADS, mutant, |run| {
        tried += 1;
        let seen = run
            .verdict
            .violations
            .iter()
            .any(|v| v.oracle == planted.oracle);
        caught = seen.then_some(run.seed);
        match seen {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    caught.map(|seed| Caught {
        oracle: planted.oracle,
        seed,
        seeds_tried: tried,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_has_somebody_who_has_to_see_it_or_is_known_to_lack_one() {
        for mutant in Mutant::ALL {
            let has_row = TABLE.iter().any(|row| row.mutant == *mutant);
            assert!(has_row != UNSEEN.contains(mutant), "{mutant}");
        }
    }
}
