//! New seeds until one fails.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use holdfast_plan::WorldKind;

use crate::{Run, Scenario, Shrunk, run_many, shrink};

/// The last seed that a scenario file can have: whole numbers of TOML have 63 bits.
pub const SEED_MAX: u64 = i64::MAX as u64 - 1;
/// Most seeds of one search.
const SEEDS_MAX: usize = 1_000_000_000;

/// What a search found.
#[derive(Clone, Debug)]
pub struct Search {
    /// Seeds that were played.
    pub seeds: u64,
    /// The first that failed.
    pub failed: Option<u64>,
    /// That one as small as it got; `None` when it did not fail again.
    pub found: Option<Shrunk>,
}

/// Plays seeds from `from` on until that time (of the wall) is up or one fails, and shrinks that:
/// for as long again at most.
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
    let ends_at = clock() + limit;
    // A seed has to fit into a file of its own.
    let seeds = (0..).map(|n| from.wrapping_add(n) % (SEED_MAX + 1));
    let (mut played, mut failed) = (0, None);
    run_many(
        scenario,
        world,
        seeds.take(SEEDS_MAX),
        threads,
        None,
        |run| {
            played += 1;
            on_done(&run);
            if !run.verdict.held() {
                failed = Some(run.seed);
            }
            match failed.is_some() || clock() >= ends_at {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        },
    );
    let found = failed.and_then(|seed| shrink(scenario, world, seed, limit, on_shrink));
    Search {
        seeds: played,
        failed,
        found,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long somebody searches is a matter of the wall"
)]
fn clock() -> Instant {
    Instant::now()
}
