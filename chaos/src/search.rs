//! New seeds until one fails.

use std::time::Duration;

use holdfast_plan::WorldKind;

use crate::{Run, Scenario, Shrunk};

/// What a search found.
#[derive(Clone, Debug)]
pub struct Search {
    /// Seeds that were played.
    pub seeds: u64,
    /// The first that failed, as small as it got.
    pub found: Option<Shrunk>,
}

/// Plays seeds from `from` on until that time (of the wall) is up or one fails, and shrinks that.
#[must_use]
pub fn search(
    scenario: &Scenario,
    world: WorldKind,
    from: u64,
    limit: Duration,
    threads: usize,
    on_done: &mut dyn FnMut(&Run),
    on_shrink: &mut dyn FnMut(&str),
) -> Search {
    let _ = (scenario, world, from, limit, threads, on_done, on_shrink);
    unimplemented!()
}
