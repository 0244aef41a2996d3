//! Plays seeds in a world and judges what came of them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use holdfast_core::simulation::{Mutant, plant};
use holdfast_interposer::{ALLOWED_BY_DEFAULT, Interposer};
use holdfast_plan::{Journal, Plan, PlayError, TraceMode, WorldKind};

mod panics;

use crate::oracle::verdict;
use crate::{FailureClass, Scenario, Verdict, Violation};

/// What of core's dependencies draws entropy that it cannot be given, beyond
/// [`ALLOWED_BY_DEFAULT`]: BBR a phase when it is built.
const ENTROPY_OF_CORE: &[&str] = &["quinn-proto-0.11.19/src/congestion/bbr/"];
/// What reads a clock to no effect: `fastrand` is seeded again before each use.
const CLOCKS_OF_CORE: &[&str] = &["fastrand"];

/// Most threads of [`run_many`]: a run holds a whole world in memory.
const THREADS_MAX: usize = 64;

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
    let plan = scenario.plan(seed, world);
    let began = clock();
    let played = play(&plan, world, mode, mutant);
    let wall = clock().saturating_duration_since(began);
    let (journal, verdict) = match played {
        Ok(journal) => {
            let verdict = verdict(scenario, &plan, &journal);
            (journal, verdict)
        }
        Err(violation) => (Journal::default(), only(violation)),
    };
    Run {
        seed,
        world,
        verdict,
        simulated: journal.ended_at,
        plan,
        journal,
        wall,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "what a run costs is told, and decides nothing"
)]
fn clock() -> Instant {
    Instant::now()
}

fn only(violation: Violation) -> Verdict {
    Verdict {
        violations: vec![violation],
        recovery: None,
    }
}

/// On a thread of its own, where ambient time and entropy abort; not so in the kernel world,
/// which is made of them.
fn play(
    plan: &Plan,
    world: WorldKind,
    mode: TraceMode,
    mutant: Option<Mutant>,
) -> Result<Journal, Violation> {
    // The one reading of the clock that virtual time starts from must not fall into a run.
    let _ = holdfast_core_world::origin();
    panics::watch();
    let body = || {
        plant(mutant);
        panics::take();
        let played = catch_unwind(AssertUnwindSafe(|| match world {
            WorldKind::Core => holdfast_core_world::play(plan, mode),
            WorldKind::Turmoil => holdfast_turmoil_world::play(plan, mode),
            WorldKind::Kernel => holdfast_kernel_world::play(plan, mode),
        }));
        plant(None);
        // A world may have caught the panic of a task itself: it is one all the same.
        match (panics::take(), played) {
            (Some(panic), _) => Err(failure(FailureClass::Crash, "crash", panic)),
            (None, Ok(played)) => played.map_err(|error| not_played(&error)),
            (None, Err(_)) => {
                let detail = "a panic that was not told".to_owned();
                Err(failure(FailureClass::Crash, "crash", detail))
            }
        }
    };
    match world {
        WorldKind::Kernel => body(),
        WorldKind::Core => {
            let interposer = interposer(plan.seed).allow_entropy(ALLOWED_BY_DEFAULT);
            let interposer = interposer.allow_entropy(ENTROPY_OF_CORE);
            interposer.allow_clocks(CLOCKS_OF_CORE).run(body).value
        }
        // tokio reads its clock so often that to ask each time by whom takes longer than the
        // run; that world's own tests do.
        WorldKind::Turmoil => interposer(plan.seed).count_only().run(body).value,
    }
}

fn interposer(seed: u64) -> Interposer {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    Interposer::new(bytes)
}

fn failure(class: FailureClass, oracle: &'static str, detail: String) -> Violation {
    Violation {
        class,
        oracle,
        at: Duration::ZERO,
        node: None,
        detail,
    }
}

fn not_played(error: &PlayError) -> Violation {
    failure(FailureClass::Harness, "world", error.to_string())
}

/// Plays many seeds on so many threads (the kernel world: on one) without a trace. `on_done` gets
/// the runs in the order of `seeds`, and ends it all with [`ControlFlow::Break`].
pub fn run_many(
    scenario: &Scenario,
    world: WorldKind,
    seeds: impl IntoIterator<Item = u64, IntoIter: Send>,
    threads: usize,
    mutant: Option<Mutant>,
    mut on_done: impl FnMut(Run) -> ControlFlow<()>,
) {
    // The kernel world is one at a time.
    let threads = match world {
        WorldKind::Kernel => 1,
        _ => threads.clamp(1, THREADS_MAX),
    };
    let queue = Mutex::new(seeds.into_iter().enumerate());
    // Runs that wait for an earlier one are bounded by the channel.
    let (done, ready) = mpsc::sync_channel(threads);
    #[expect(clippy::disallowed_methods, reason = "each run is a thread's own")]
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (queue, done) = (&queue, done.clone());
            scope.spawn(move || {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((n, seed)) = next else { return };
                    let run = run_seed(scenario, world, seed, TraceMode::Off, mutant);
                    if done.send((n, run)).is_err() {
                        return; // Enough was seen.
                    }
                }
            });
        }
        drop(done);
        in_order(ready, &mut on_done);
    });
}

/// Gives runs away in the order of their numbers, until told to stop.
fn in_order(ready: mpsc::Receiver<(usize, Run)>, on_done: &mut dyn FnMut(Run) -> ControlFlow<()>) {
    let (mut next, mut waiting) = (0, BTreeMap::new());
    for (n, run) in ready {
        waiting.insert(n, run);
        while let Some(run) = waiting.remove(&next) {
            next += 1;
            if on_done(run).is_break() {
                return; // The receiver goes with it, and the threads end.
            }
        }
    }
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
    /// From 1; 0 when there was nothing to compare.
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
    let run = |mode| run_seed(scenario, world, seed, mode, None);
    let (first, second) = (run(TraceMode::Digest), run(TraceMode::Digest));
    let digest = first.journal.trace.digest();
    // Two runs that never were are the same, and prove nothing.
    if digest.1 == 0 {
        let why = first
            .verdict
            .first()
            .map(|violation| violation.detail.clone());
        return Err(Difference {
            line: 0,
            first: why.unwrap_or_else(|| "nothing was traced".to_owned()),
            second: String::new(),
        });
    }
    if digest == second.journal.trace.digest() && first.verdict == second.verdict {
        return Ok(digest);
    }
    let [first, second] = [(); 2].map(|()| run(TraceMode::Full).journal.trace);
    Err(difference(first.lines(), second.lines()))
}

fn difference(first: &[String], second: &[String]) -> Difference {
    let same = first.iter().zip(second).take_while(|(a, b)| a == b).count();
    let line = |lines: &[String]| lines.get(same).cloned().unwrap_or_default();
    Difference {
        line: same + 1,
        first: line(first),
        second: line(second),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_differs_is_found() {
        let lines = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        let found = difference(&lines("abc"), &lines("abd"));
        assert_eq!((found.line, found.first.as_str()), (3, "c"));
        let found = difference(&lines("ab"), &lines("abd"));
        assert_eq!((found.line, found.second.as_str()), (3, "d"));
    }
}
