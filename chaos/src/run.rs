//! Plays seeds in a world and judges what came of them.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use holdfast_core::simulation::{Mutant, plant};
use holdfast_interposer::{ALLOWED_BY_DEFAULT, Interposer};
use holdfast_plan::{Journal, Plan, PlayError, TraceMode, WorldKind};

mod order;
mod panics;

use crate::oracle::verdict;
use crate::{FailureClass, Scenario, Verdict, Violation};

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
    /// With this mistake.
    pub mutant: Option<Mutant>,
    /// What came of it.
    pub verdict: Verdict,
    /// What was played; nothing when not even a plan came of the seed.
    pub plan: Plan,
    /// What was seen; empty after a crash.
    pub journal: Journal,
    /// How long it was in the world.
    pub simulated: Duration,
    /// How long it took.
    pub wall: Duration,
}

impl Run {
    /// The line that plays it again, with its mistake.
    #[must_use]
    pub fn replay_line(&self, scenario: &Scenario, commit: &str) -> String {
        let line = replay_line(scenario, self.world, self.seed, commit);
        match self.mutant {
            Some(mutant) => format!("{line} --mutant {mutant}"),
            None => line,
        }
    }

    fn crashed(scenario: &Scenario, world: WorldKind, seed: u64, violation: Violation) -> Run {
        let plan = Plan {
            name: scenario.name().to_owned(),
            seed,
            topology: scenario.topology().clone(),
            steps: Vec::new(),
            healed_at: Duration::ZERO,
            ends_at: scenario.duration(),
            ends_when_settled: false,
            wanted: Vec::new(),
            membership: None,
        };
        Run {
            seed,
            world,
            mutant: None,
            verdict: only(violation),
            plan,
            journal: Journal::default(),
            simulated: Duration::ZERO,
            wall: Duration::ZERO,
        }
    }
}

/// Plays one seed. A panic, of whatever part of it, is the run's verdict.
#[must_use]
pub fn run_seed(
    scenario: &Scenario,
    world: WorldKind,
    seed: u64,
    mode: TraceMode,
    mutant: Option<Mutant>,
) -> Run {
    let whole = || {
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
            mutant,
            verdict,
            simulated: journal.ended_at,
            plan,
            journal,
            wall,
        }
    };
    caught(whole).unwrap_or_else(|violation| Run {
        mutant,
        ..Run::crashed(scenario, world, seed, violation)
    })
}

/// What came of something that may panic, on this thread.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Violation> {
    panics::watch();
    panics::take();
    let done = catch_unwind(AssertUnwindSafe(work));
    // A world may have caught the panic of a task itself: it is one all the same.
    match (panics::take(), done) {
        (None, Ok(done)) => Ok(done),
        (Some(panic), _) => Err(failure(FailureClass::Crash, "crash", panic)),
        (None, Err(_)) => {
            let detail = "a panic that was not told".to_owned();
            Err(failure(FailureClass::Crash, "crash", detail))
        }
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
    let body = || {
        plant(mutant);
        let played = caught(|| match world {
            WorldKind::Core => holdfast_core_world::play(plan, mode),
            WorldKind::Turmoil => holdfast_turmoil_world::play(plan, mode),
            WorldKind::Kernel => holdfast_kernel_world::play(plan, mode),
        });
        plant(None);
        played?.map_err(|error| not_played(&error))
    };
    match world {
        WorldKind::Kernel => body(),
        WorldKind::Core => {
            let interposer = interposer(plan.seed).allow_entropy(ALLOWED_BY_DEFAULT);
            interposer.allow_clocks(CLOCKS_OF_CORE).run(body).value
        }
        // tokio reads its clock so often that to ask each time by whom takes longer than the
        // run; that world's own tests do.
        WorldKind::Turmoil => interposer(plan.seed).count_only().run(body).value,
    }
}

/// Work in virtual time that knows no world: on a thread of its own, where ambient time and entropy
/// abort. A panic is what came of it.
pub(crate) fn apart<T: Send>(seed: u64, work: impl FnOnce() -> T + Send) -> Result<T, Violation> {
    let interposer = interposer(seed).allow_entropy(ALLOWED_BY_DEFAULT);
    interposer.run(|| caught(work)).value
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
    let play = |seed| run_seed(scenario, world, seed, TraceMode::Off, mutant);
    order::in_order(seeds.into_iter(), threads, &play, &mut on_done);
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
    fn a_panic_of_any_part_of_a_run_is_what_came_of_it() {
        let violation = caught(|| -> u8 { panic!("an oracle divides by zero") });
        let violation = violation.expect_err("it panicked");
        assert_eq!(violation.class, FailureClass::Crash);
        assert!(
            violation
                .detail
                .starts_with("an oracle divides by zero at ")
        );
        assert_eq!(caught(|| 7), Ok(7));
    }

    #[test]
    fn the_line_that_plays_a_run_again_names_its_mistake() {
        let text = "name = \"two\"\ndescription = \"Two.\"\nworlds = [\"core\"]\n\
                    duration = \"60s\"\nnode = [{ name = \"a\" }, { name = \"b\" }]\n";
        let scenario = Scenario::parse("", text).expect("a scenario");
        let crash = failure(FailureClass::Crash, "crash", "by hand".to_owned());
        let mut run = Run::crashed(&scenario, WorldKind::Core, 7, crash);
        let plain = run.replay_line(&scenario, "abc");
        assert!(plain.starts_with("holdfast-chaos replay two --world core --seed 7 "));
        assert!(plain.ends_with(" --commit abc"));
        run.mutant = Some(Mutant::EarlyFinish);
        let line = run.replay_line(&scenario, "abc");
        assert_eq!(line, format!("{plain} --mutant early-finish"));
    }

    #[test]
    fn the_first_line_that_differs_is_found() {
        let lines = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        let found = difference(&lines("abc"), &lines("abd"));
        assert_eq!((found.line, found.first.as_str()), (3, "c"));
        let found = difference(&lines("ab"), &lines("abd"));
        assert_eq!((found.line, found.second.as_str()), (3, "d"));
    }
}
