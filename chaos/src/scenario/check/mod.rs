//! What no schema can say: whether the parts of a file fit each other, and what a world can do.

mod expect;
mod faults;
mod membership;
mod topology;
mod work;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use holdfast_core::types::PEER_ID_LEN_MAX;
use holdfast_plan::Topology;

use super::format::File;
use super::problem::{Finding, did_you_mean};
use super::values::{Time, When};
use super::{Scenario, device_named};

/// What a scenario may take unless it says `long`.
const USUAL: Duration = Duration::from_secs(120);
/// Bytes that workloads may move unless it says `long`.
const USUAL_BYTES: u64 = 20_000_000;
/// Most nodes: a larger mesh says nothing that this one does not.
const NODES_MAX: usize = 64;
/// Most NATs.
const NATS_MAX: usize = 64;
/// Most workloads.
const WORKLOADS_MAX: usize = 500;
/// Most operations of all workloads together.
const OPS_MAX: u64 = 20_000;
/// Most faults.
const FAULTS_MAX: usize = 1_000;
/// Seeds are whole numbers of TOML.
const SEED_MAX: u64 = i64::MAX as u64 - 1;

pub(super) use membership::counts;

/// Everything that is wrong with a file of the right shape.
pub(super) fn check(scenario: &Scenario, file_name: &str) -> Vec<Finding> {
    let mut checker = Checker {
        file: scenario.file(),
        topology: scenario.topology(),
        scenario,
        findings: Vec::new(),
    };
    checker.whole(file_name);
    checker.topology();
    checker.membership();
    checker.work();
    checker.faults();
    checker.swarm();
    checker.expect();
    if checker.findings.is_empty() {
        checker.contradictions();
    }
    checker.findings
}

struct Checker<'a> {
    file: &'a File,
    topology: &'a Topology,
    scenario: &'a Scenario,
    findings: Vec<Finding>,
}

impl Checker<'_> {
    fn wrong(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.findings.push(Finding::new(key, message));
    }

    fn whole(&mut self, file_name: &str) {
        let file = self.file;
        let path = Path::new(file_name);
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if path.extension().is_some_and(|ending| ending == "toml") && stem != Some(&file.name) {
            let stem = stem.unwrap_or_default();
            let message = format!("found {:?}, expected the file's name, {stem:?}", file.name);
            self.wrong("name", message);
        }
        self.name("name", &file.name);
        if file.description.trim().is_empty() {
            self.wrong("description", "found nothing, expected a sentence");
        }
        if file.worlds.is_empty() {
            self.wrong("worlds", "found none, expected core, turmoil or kernel");
        }
        for (n, world) in file.worlds.iter().enumerate() {
            if file.worlds[..n].contains(world) {
                self.wrong(format!("worlds[{n}]"), format!("{world} is there twice"));
            }
        }
        let duration = file.duration.0;
        if duration.is_zero() {
            self.wrong("duration", "found 0s, expected more");
        } else if duration > USUAL && !file.long {
            let message = format!(
                "found {}, expected at most {}, or long = true",
                file.duration,
                Time(USUAL)
            );
            self.wrong("duration", message);
        }
        if file.seed.is_some_and(|seed| seed > SEED_MAX) {
            self.wrong("seed", format!("expected at most {SEED_MAX}"));
        }
        let budgets = [file.seeds.core, file.seeds.turmoil, file.seeds.kernel];
        for (world, budget) in holdfast_plan::WorldKind::ALL.into_iter().zip(budgets) {
            if budget.is_some() && !file.worlds.contains(&world) {
                let message = format!("a budget for {world}, which is not among `worlds`");
                self.wrong(format!("seeds.{world}"), message);
            }
        }
        if file.seed.is_some() && budgets.iter().any(Option::is_some) {
            self.wrong("seeds", "a budget beside `seed`, expected one of them");
        }
    }

    /// A name that can be a peer id and a part of a file's name.
    fn name(&mut self, key: &str, name: &str) {
        let usable = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > PEER_ID_LEN_MAX || !name.chars().all(usable) {
            let message = format!(
                "found {}, expected 1 to {PEER_ID_LEN_MAX} of a-z, 0-9 and -",
                super::problem::shown(name)
            );
            self.wrong(key, message);
        }
    }

    /// A name for people.
    fn title(&mut self, key: &str, name: &str) {
        if name.is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
            self.wrong(key, "expected 1 to 100 characters of one line");
        }
    }

    fn unique<'n>(&mut self, list: &str, names: impl Iterator<Item = &'n str>) {
        let mut first = BTreeMap::new();
        for (n, name) in names.enumerate() {
            if let Some(other) = first.insert(name, n) {
                let shown = super::problem::shown(name);
                let message = format!("{shown} is the name of {list}[{other}] already");
                self.wrong(format!("{list}[{n}].name"), message);
            }
        }
    }

    fn node_exists(&mut self, key: &str, name: &str) -> bool {
        let found = self.topology.find(name).is_some();
        if !found {
            let names = self.file.node.iter().map(|node| node.name.as_str());
            self.unknown(key, "node", name, names);
        }
        found
    }

    fn nat_exists(&mut self, key: &str, name: &str) -> bool {
        let found = self.file.nat.iter().any(|nat| nat.name == name);
        if !found {
            let names = self.file.nat.iter().map(|nat| nat.name.as_str());
            self.unknown(key, "NAT", name, names);
        }
        found
    }

    fn device_exists(&mut self, key: &str, name: &str) {
        if device_named(self.topology, name).is_none() {
            let nodes = self.file.node.iter().map(|node| node.name.as_str());
            let nats = self.file.nat.iter().map(|nat| nat.name.as_str());
            let all = nodes.chain(nats).chain(["server-1", "server-2"]);
            self.unknown(key, "node, NAT or server", name, all);
        }
    }

    fn unknown<'n>(
        &mut self,
        key: &str,
        what: &str,
        name: &str,
        known: impl Iterator<Item = &'n str> + Clone,
    ) {
        let mut near = did_you_mean(name, known.clone());
        if near.is_empty() {
            let known: Vec<&str> = known.take(20).collect();
            near = match known.is_empty() {
                true => ": there is none".to_owned(),
                false => format!(", expected one of {}", known.join(", ")),
            };
        }
        let shown = super::problem::shown(name);
        self.wrong(key, format!("there is no {what} {shown}{near}"));
    }

    /// A range the right way round, and within the run.
    fn when(&mut self, key: &str, when: When) {
        let (from, to, end) = (when.from(), when.to(), self.file.duration);
        if from > to {
            let message = format!(
                "the range ends before it begins, expected [\"{}\", \"{}\"]",
                Time(to),
                Time(from)
            );
            self.wrong(key, message);
        } else if to > end.0 {
            self.wrong(key, format!("{} is after the end at {end}", Time(to)));
        }
    }
}
