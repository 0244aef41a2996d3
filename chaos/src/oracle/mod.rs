//! What must hold: judges a journal by its plan.
//!
//! * `content`: bytes and datagrams; `outsiders`: strangers and the allowlist.
//! * `nodes`: queues, errors in logs, processes that end by themselves.
//! * `links`: paths, convergence, links that flap or are down for too long.
//! * `slots`: who owns which slot, and since when.
//! * `workload`: what the scenario expects of each.
//! * `story`: how links and nodes were at a time, told from the journal.

mod content;
mod links;
mod nodes;
mod outsiders;
mod slots;
mod story;
#[cfg(test)]
mod testing;
mod workload;

use std::fmt;
use std::time::Duration;

use holdfast_plan::{Action, Journal, NodeIndex, Op, Plan};

use crate::Scenario;
use crate::plan::PROBE;
use crate::scenario::format::Expect;

/// How bad a failure is, and of whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureClass {
    /// Something panicked.
    Crash,
    /// What should have happened did not in time.
    Liveness,
    /// What must never happen did.
    Correctness,
    /// The harness itself: a world could not be built, a run did not replay.
    Harness,
}

impl FailureClass {
    /// The exit code of a program that ends because of it.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            FailureClass::Crash => 10,
            FailureClass::Liveness => 11,
            FailureClass::Correctness => 12,
            FailureClass::Harness => 13,
        }
    }

    /// In lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            FailureClass::Crash => "crash",
            FailureClass::Liveness => "liveness",
            FailureClass::Correctness => "correctness",
            FailureClass::Harness => "harness",
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Something that should not have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its class.
    pub class: FailureClass,
    /// Who saw it, a name of the table in `docs/testing.md`.
    pub oracle: &'static str,
    /// When it became visible, from the start of the world.
    pub at: Duration,
    /// At which node, if at one.
    pub node: Option<NodeIndex>,
    /// What was seen and what was expected.
    pub detail: String,
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Everything that should not have been, in order of time: the first is the one to look at.
    pub violations: Vec<Violation>,
    /// From the last fault, or the last start after it, to the end of the slowest probe; `None`
    /// when one did not end, or there was none.
    pub recovery: Option<Duration>,
}

impl Violation {
    fn new(
        (class, oracle): (FailureClass, &'static str),
        at: Duration,
        node: Option<NodeIndex>,
        detail: String,
    ) -> Violation {
        Violation {
            class,
            oracle,
            at,
            node,
            detail,
        }
    }
}

impl Verdict {
    /// Whether everything held.
    #[must_use]
    pub fn held(&self) -> bool {
        self.violations.is_empty()
    }

    /// The violation to look at.
    #[must_use]
    pub fn first(&self) -> Option<&Violation> {
        self.violations.first()
    }
}

/// Everything in a journal that should not have been, in order of time.
#[must_use]
pub fn judge(scenario: &Scenario, plan: &Plan, journal: &Journal) -> Vec<Violation> {
    let case = Case {
        expect: &scenario.file().expect,
        converge_within: scenario.converge_within(),
        plan,
        journal,
    };
    let mut violations: Vec<Violation> = ORACLES.iter().flat_map(|oracle| oracle(&case)).collect();
    violations.sort_by_key(|violation| violation.at);
    violations
}

/// Who judges.
const ORACLES: &[fn(&Case<'_>) -> Vec<Violation>] = &[
    content::bytes,
    content::datagrams,
    outsiders::strangers,
    outsiders::allowlist,
    nodes::queues,
    nodes::errors,
    nodes::ends,
    links::convergence,
    links::path,
    links::flaps,
    links::grace,
    workload::workload,
    slots::owners,
    slots::leases,
    slots::entries,
    slots::rejoin,
    slots::claims,
    slots::mesh,
    slots::losses,
];

/// What there is to judge.
struct Case<'a> {
    expect: &'a Expect,
    converge_within: Duration,
    plan: &'a Plan,
    journal: &'a Journal,
}

impl Case<'_> {
    /// A node's name.
    fn name(&self, node: NodeIndex) -> &str {
        let known = self.plan.topology.nodes.get(node.index());
        known.map_or("a node that is not in the plan", |node| &node.name)
    }

    /// Whether they hold the same secret.
    fn same_cluster(&self, a: NodeIndex, b: NodeIndex) -> bool {
        let cluster = |node: NodeIndex| {
            let known = self.plan.topology.nodes.get(node.index());
            known.map(|node| node.cluster)
        };
        cluster(a) == cluster(b)
    }

    /// The operations with when they begin.
    fn ops(&self) -> impl Iterator<Item = (Duration, &Op)> {
        self.plan
            .steps
            .iter()
            .filter_map(|step| match &step.action {
                Action::Traffic(op) => Some((step.at, op)),
                _ => None,
            })
    }
}

/// The same, with the time that the system took to recover.
#[must_use]
pub fn verdict(scenario: &Scenario, plan: &Plan, journal: &Journal) -> Verdict {
    Verdict {
        violations: judge(scenario, plan, journal),
        recovery: recovery(plan, journal),
    }
}

/// How long the slowest probe took, from the last fault, or the last start after it.
fn recovery(plan: &Plan, journal: &Journal) -> Option<Duration> {
    let mut slowest = None;
    for step in &plan.steps {
        let Action::Traffic(op) = &step.action else {
            continue;
        };
        if op.name.starts_with(PROBE) {
            let report = journal.client(op.id)?;
            let finished = report.finished_at.filter(|_| report.complete)?;
            slowest = slowest.max(Some(finished.saturating_sub(step.at)));
        }
    }
    slowest
}
