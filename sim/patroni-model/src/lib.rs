//! Patroni and PostgreSQL in virtual time: what a drill does to them, without either.
//!
//! [`play`] plays one round of a [`Drill`] in milliseconds, the same for a seed to the last byte.
//! What is modelled, what is not, and where the figures are from: `docs/patroni-model.md`.

mod calibration;
mod clients;
mod conduct;
mod draw;
mod endpoints;
mod kv;
mod patroni;
mod pg;
mod records;
mod settings;
mod sim;
mod wal;
mod world;

use holdfast_plan::drill::{Drill, Round};

use settings::Settings;

/// What can be another way than in the real thing: for tests of those who judge, and for what the
/// figures were measured on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knobs {
    /// A defect: candidates ignore the `sync` key, so that one may be promoted that lacks what was
    /// acknowledged.
    pub ignore_sync: bool,
    /// What Patroni does not do: a quorum shrinks only to standbys of which one has all that was
    /// acknowledged before. Without it a standby that stalled may be promoted although it lacks
    /// what another acknowledged that died meanwhile: two faults, and the leader's death.
    pub careful_quorum: bool,
    /// Members talk to the KV's servers on their own machines, without agents in between: the
    /// sessions of a member end when its server is removed.
    pub sessions_on_servers: bool,
    /// When the KV ends a session, in percent of its TTL since the last renewal, least and most.
    pub session_life_percent: (u32, u32),
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            ignore_sync: false,
            careful_quorum: false,
            sessions_on_servers: false,
            session_life_percent: calibration::SESSION_LIFE_PERCENT,
        }
    }
}

/// Why the model cannot play a drill, or `None` if it can.
#[must_use]
pub fn obstacle(drill: &Drill) -> Option<String> {
    Settings::new(drill, &Knobs::default()).err()
}

/// One round of a drill. The same drill and seed make the same round, byte for byte.
///
/// A drill with an [`obstacle`] makes a round that was cut short, with the reason in its notes.
#[must_use]
pub fn play(drill: &Drill, seed: u64) -> Round {
    play_with(drill, seed, &Knobs::default())
}

/// As [`play`], with something that is another way.
#[must_use]
pub fn play_with(drill: &Drill, seed: u64, knobs: &Knobs) -> Round {
    played(drill, seed, knobs, conduct::play)
}

/// A round of several faults at once that the seed draws, instead of the drill's blow: members that
/// die, freeze, are cut off, lose their agent or their disk's patience, and a KV that loses its
/// leader. All of it is mended at the end.
#[must_use]
pub fn storm(drill: &Drill, seed: u64, knobs: &Knobs) -> Round {
    played(drill, seed, knobs, conduct::play_storm)
}

fn played(drill: &Drill, seed: u64, knobs: &Knobs, play: impl Fn(Settings, u64) -> Round) -> Round {
    match Settings::new(drill, knobs) {
        Ok(settings) => play(settings, seed),
        Err(obstacle) => Round {
            seed,
            cut_short: true,
            notes: vec![obstacle],
            ..Round::default()
        },
    }
}
