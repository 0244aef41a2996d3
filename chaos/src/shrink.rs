//! The smallest schedule of faults that still fails.
//!
//! First everything that the seed drew is fixed in the file. Then parts are left out as long as
//! the same oracle is the first to complain: faults (delta debugging: Zeller and Hildebrandt,
//! *Simplifying and isolating failure-inducing input*, 2002), workloads, nodes, and what is left
//! of the faults is made shorter.

use std::time::{Duration, Instant};

use holdfast_plan::{TraceMode, WorldKind};

use crate::scenario::File;
use crate::scenario::format::Fault;
use crate::scenario::values::{Time, When};
use crate::{Scenario, Violation, run_seed};

mod regression;

pub use regression::regression_file;

/// Faults are not made shorter than this.
const SHORTEST: Duration = Duration::from_millis(10);

/// A failure with nothing left that it does not need.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// Everything drawn is fixed in it, its seed too.
    pub scenario: Scenario,
    /// The name of the scenario that it comes from.
    pub origin: String,
    /// Where it fails.
    pub world: WorldKind,
    /// With which seed.
    pub seed: u64,
    /// How it fails.
    pub violation: Violation,
    /// Faults before.
    pub faults_before: usize,
    /// Faults now.
    pub faults: usize,
    /// Runs that it took.
    pub runs: u64,
}

/// Makes a failing seed's scenario as small as it gets in that time (of the wall). `None` when
/// the seed does not fail.
#[must_use]
pub fn shrink(
    scenario: &Scenario,
    world: WorldKind,
    seed: u64,
    limit: Duration,
    on_progress: &mut dyn FnMut(&str),
) -> Option<Shrunk> {
    let fail = |file: &File| {
        let run = run_seed(
            &Scenario::of(file.clone()),
            world,
            seed,
            TraceMode::Off,
            None,
        );
        run.verdict.first().cloned()
    };
    let ends_at = clock() + limit;
    shrink_with(
        scenario,
        world,
        seed,
        &fail,
        &|| clock() < ends_at,
        on_progress,
    )
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long somebody waits for a smaller schedule is a matter of the wall"
)]
fn clock() -> Instant {
    Instant::now()
}

/// The same with another judge of whether a file fails, and how.
fn shrink_with(
    scenario: &Scenario,
    world: WorldKind,
    seed: u64,
    fail: &dyn Fn(&File) -> Option<Violation>,
    has_time: &dyn Fn() -> bool,
    on_progress: &mut dyn FnMut(&str),
) -> Option<Shrunk> {
    let mut file = scenario.drawn(seed, world);
    file.worlds = vec![world];
    let violation = fail(&file)?;
    let faults_before = file.fault.len();
    let mut search = Smaller {
        file,
        violation,
        runs: 1,
        fail,
        has_time,
        on_progress,
    };
    search.faults();
    search.lasting();
    search.workloads();
    search.nodes();
    let Smaller {
        file,
        violation,
        runs,
        ..
    } = search;
    Some(Shrunk {
        origin: scenario.name().to_owned(),
        world,
        seed,
        violation,
        faults_before,
        faults: file.fault.len(),
        runs,
        scenario: Scenario::of(file),
    })
}

struct Smaller<'a> {
    file: File,
    violation: Violation,
    runs: u64,
    fail: &'a dyn Fn(&File) -> Option<Violation>,
    has_time: &'a dyn Fn() -> bool,
    on_progress: &'a mut dyn FnMut(&str),
}

impl Smaller<'_> {
    /// Takes a smaller file if it is one and fails in the same way.
    fn take(&mut self, file: File) -> bool {
        if !(self.has_time)() || Scenario::parse("", &Scenario::of(file.clone()).to_toml()).is_err()
        {
            return false;
        }
        self.runs += 1;
        let found = (self.fail)(&file).filter(|v| v.oracle == self.violation.oracle);
        let Some(violation) = found else {
            return false;
        };
        (self.file, self.violation) = (file, violation);
        let (faults, workloads) = (self.file.fault.len(), self.file.workload.len());
        let (nodes, runs) = (self.file.node.len(), self.runs);
        (self.on_progress)(&format!(
            "{faults} faults, {workloads} workloads, {nodes} nodes after {runs} runs"
        ));
        true
    }

    /// Leaves out faults: halves first, then smaller parts, at last each.
    fn faults(&mut self) {
        let mut parts = 1;
        while !self.file.fault.is_empty() && (self.has_time)() {
            let len = self.file.fault.len();
            let size = len.div_ceil(parts);
            let smaller = (0..len).step_by(size).find(|from| {
                let mut file = self.file.clone();
                file.fault.drain(*from..len.min(from + size));
                self.take(file)
            });
            match smaller {
                Some(_) => parts = parts.saturating_sub(1).max(1),
                None if size == 1 => return,
                None => parts = (parts * 2).min(len),
            }
        }
    }

    /// Halves how long faults last.
    fn lasting(&mut self) {
        let halve = |when: When| When::At(Time(whole_ms(when.from() / 2)));
        for n in 0..self.file.fault.len() {
            loop {
                let mut file = self.file.clone();
                let Some(lasts) = file.fault[n].lasts.filter(|l| l.from() > SHORTEST * 2) else {
                    break;
                };
                file.fault[n].lasts = Some(halve(lasts));
                if !self.take(file) {
                    break;
                }
            }
        }
    }

    fn workloads(&mut self) {
        for n in (0..self.file.workload.len()).rev() {
            let mut file = self.file.clone();
            let name = file.workload.remove(n).name;
            file.expect
                .workload
                .retain(|expected| expected.name != name);
            self.take(file);
        }
    }

    /// Leaves out nodes that nothing that is left speaks of, then NATs without anybody.
    fn nodes(&mut self) {
        for n in (0..self.file.node.len()).rev() {
            let mut file = self.file.clone();
            let name = file.node.remove(n).name;
            if is_spoken_of(&file, &name) {
                continue;
            }
            file.expect
                .link
                .retain(|link| !link.between.contains(&name));
            self.take(keep_addresses(&self.file, file));
        }
        for n in (0..self.file.nat.len()).rev() {
            let mut file = self.file.clone();
            let name = Some(file.nat.remove(n).name);
            let used = file.node.iter().any(|node| node.behind == name)
                || file.nat.iter().any(|nat| nat.behind == name)
                || file
                    .fault
                    .iter()
                    .any(|fault| [&fault.nat, &fault.behind, &fault.device].contains(&&name));
            if !used {
                self.take(keep_addresses(&self.file, file));
            }
        }
    }
}

/// Addresses follow from positions: what loses its position keeps its address, unless the world
/// gives no choice.
fn keep_addresses(before: &File, mut after: File) -> File {
    if after.worlds.contains(&WorldKind::Kernel) {
        return after;
    }
    let topology = Scenario::of(before.clone());
    let topology = topology.topology();
    for nat in &mut after.nat {
        let known = topology.nats.iter().find(|other| other.name == nat.name);
        nat.address = known.map(|known| known.config.public_ip);
    }
    for node in &mut after.node {
        let known = topology.nodes.iter().find(|other| other.name == node.name);
        node.address = known.map(|known| known.address);
    }
    after
}

fn whole_ms(time: Duration) -> Duration {
    Duration::from_millis(time.as_millis() as u64).max(SHORTEST)
}

fn is_spoken_of(file: &File, name: &str) -> bool {
    let by_fault = |fault: &Fault| {
        let single = [&fault.from, &fault.to, &fault.node, &fault.device];
        let mut single = single.into_iter().flatten();
        let mut pair = fault.between.iter().flatten();
        single.any(|other| other == name) || pair.any(|other| other == name)
    };
    file.fault.iter().any(by_fault)
        || file.workload.iter().any(|w| w.from == name || w.to == name)
        || file
            .node
            .iter()
            .any(|node| node.poses_as.as_deref() == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FailureClass;

    const SCENARIO: &str = r#"
name = "crowd"
description = "Four nodes, and much goes wrong."
worlds = ["core"]
duration = "100s"

[[nat]]
name = "home"
kind = "home"

[[node]]
name = "a"
behind = "home"
[[node]]
name = "b"
[[node]]
name = "c"
[[node]]
name = "d"

[[workload]]
name = "w"
from = "c"
to = "d"
service = "echo"
bytes = "1kB"

[swarm]
kinds = ["cut", "crash", "loss", "strangers", "broker"]
window = ["3s", "60s"]
faults_max = 40
down_max = 2
"#;

    fn violation() -> Violation {
        Violation {
            class: FailureClass::Liveness,
            oracle: "convergence",
            at: Duration::from_secs(9),
            node: None,
            detail: "by hand\nand more".to_owned(),
        }
    }

    /// Fails when b crashes for longer than a second while anything else happens to a.
    fn fails(file: &File) -> Option<Violation> {
        let long = Duration::from_secs(1);
        let is_b = |fault: &Fault| {
            fault.node.as_deref() == Some("b") && fault.lasts.is_some_and(|l| l.from() > long)
        };
        let is_a = |fault: &Fault| fault.device.as_deref() == Some("a");
        let both = file.fault.iter().any(is_b) && file.fault.iter().any(is_a);
        both.then(violation)
    }

    fn shrunk() -> Shrunk {
        let scenario = Scenario::parse("", SCENARIO).unwrap_or_else(|p| panic!("{p}"));
        (0..500)
            .filter(|seed| scenario.drawn(*seed, WorldKind::Core).fault.len() > 8)
            .find_map(|seed| {
                let (world, time) = (WorldKind::Core, || true);
                shrink_with(&scenario, world, seed, &fails, &time, &mut |_| {})
            })
            .expect("one seed in 500 has both")
    }

    #[test]
    fn what_a_failure_does_not_need_is_left_out() {
        let shrunk = shrunk();
        let file = shrunk.scenario.file();
        assert!(shrunk.faults_before > 8);
        assert_eq!((shrunk.faults, file.fault.len()), (2, 2));
        let names: Vec<&str> = file.node.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(file.workload.is_empty());
        let crash = file
            .fault
            .iter()
            .find(|f| f.node.is_some())
            .and_then(|f| f.lasts);
        assert!(crash.is_some_and(|lasts| lasts.to() <= Duration::from_secs(2)));
    }

    #[test]
    fn a_regression_file_reads_as_what_was_shrunk_and_says_what_failed() {
        let shrunk = shrunk();
        let (name, text) = regression_file(&shrunk, "0123abc");
        assert_eq!(name, format!("crowd-{}.toml", shrunk.seed));
        let read = Scenario::parse(&name, &text).unwrap_or_else(|p| panic!("{p}\n{text}"));
        let plan = |scenario: &Scenario| {
            let mut plan = scenario.plan(shrunk.seed, WorldKind::Core);
            plan.name.clear();
            plan
        };
        assert_eq!(plan(&read), plan(&shrunk.scenario));
        assert_eq!(read.seeds(WorldKind::Core), shrunk.seed..shrunk.seed + 1);
        assert!(text.starts_with("# Found as seed "));
        assert!(text.contains("convergence"));
        assert!(text.contains("holdfast-chaos replay crowd-"));
    }
}
