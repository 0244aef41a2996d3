//! Faults in any order, several at once.

use std::ops::Range;

use holdfast_patroni_model::{Knobs, storm};
use holdfast_plan::drill::{Drill, Synchronous};
use holdfast_workload::Durability;
use holdfast_workload::check::durability;

use crate::drills::{soft, with};

const SEEDS: u64 = 300;
/// Storms among which are some that have it.
const RARE: Range<u64> = 600..1_100;

/// Rounds that lost something, or have something that nobody wrote.
fn broken(drill: &Drill, knobs: &Knobs) -> Vec<(u64, Durability)> {
    broken_of(drill, knobs, 0..SEEDS)
}

fn broken_of(drill: &Drill, knobs: &Knobs, seeds: Range<u64>) -> Vec<(u64, Durability)> {
    let rounds = seeds.map(|seed| {
        let round = storm(drill, seed, knobs);
        assert!(!round.cut_short, "seed {seed}: {:?}", round.notes);
        (seed, durability(&round.history))
    });
    rounds.filter(|(_, rows)| !rows.holds()).collect()
}

#[test]
fn with_a_named_standby_no_storm_loses_what_was_acknowledged() {
    let found = broken(&with(Synchronous::On, soft()), &Knobs::default());
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn a_quorum_that_shrinks_with_care_loses_nothing_in_any_storm() {
    let careful = Knobs {
        careful_quorum: true,
        ..Knobs::default()
    };
    let found = broken(&with(Synchronous::Quorum, soft()), &careful);
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn a_quorum_as_patroni_shrinks_it_may_promote_a_standby_that_had_stalled() {
    // A standby stalls, the other acknowledges and dies, the leader's turn leaves the one that
    // stalled as the only voter, and the leader dies: three faults within a minute. It is rare, in
    // one storm of some hundreds.
    let storms = with(Synchronous::Quorum, soft());
    let found = broken_of(&storms, &Knobs::default(), RARE);
    assert!(
        !found.is_empty() && found.len() as u64 * 20 < RARE.end - RARE.start,
        "{found:?}"
    );
    let careful = Knobs {
        careful_quorum: true,
        ..Knobs::default()
    };
    assert!(broken_of(&storms, &careful, RARE).is_empty());
}

#[test]
fn candidates_that_ignore_the_sync_key_are_caught_by_a_lost_write() {
    let defect = Knobs {
        ignore_sync: true,
        careful_quorum: true,
        ..Knobs::default()
    };
    for synchronous in [Synchronous::On, Synchronous::Quorum] {
        let found = broken(&with(synchronous, soft()), &defect);
        let lost: usize = found.iter().map(|(_, rows)| rows.lost.len()).sum();
        assert!(lost > 0, "{synchronous:?}");
    }
}

#[test]
fn without_standbys_that_are_waited_for_storms_lose_writes() {
    let found = broken(&with(Synchronous::Off, soft()), &Knobs::default());
    assert!(!found.is_empty());
}
