//! Patroni and PostgreSQL in virtual time: what a drill does to them, without either.

use holdfast_plan::drill::{Drill, Round};

/// Why the model cannot play a drill, or `None` if it can.
#[must_use]
pub fn obstacle(drill: &Drill) -> Option<String> {
    (drill.workers < 2).then(|| "the model wants two workers at least".to_owned())
}

/// One round of a drill. The same drill and seed make the same round, byte for byte.
#[must_use]
pub fn play(drill: &Drill, seed: u64) -> Round {
    Round {
        seed,
        cut_short: true,
        notes: vec![format!("the model cannot play {} yet", drill.name)],
        ..Round::default()
    }
}
