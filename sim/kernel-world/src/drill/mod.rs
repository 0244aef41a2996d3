//! Drills: real Patroni and PostgreSQL on real Consul, struck.
//!
//! What a drill is, what it is asked for and what comes of it is in [`holdfast_plan::drill`].

use holdfast_plan::drill::{Drill, Round};

use crate::stage::StageError;

/// Why this world cannot play a drill.
#[must_use]
pub fn obstacle(_drill: &Drill) -> Option<String> {
    Some("drills".to_owned())
}

/// Play a drill's rounds, one per seed, on one cluster as long as it becomes whole again; each is
/// told as it is over.
///
/// # Errors
/// When the cluster cannot be built: without privilege or tools, or as it does not become whole.
pub fn play(
    _drill: &Drill,
    _seeds: &[u64],
    _told: &mut dyn FnMut(Round),
) -> Result<(), StageError> {
    Ok(())
}
