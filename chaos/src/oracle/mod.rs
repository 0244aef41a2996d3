//! What must hold: judges a journal by its plan.

mod liveness;
mod node;
mod traffic;

use std::fmt;
use std::time::Duration;

use holdfast_plan::{Journal, NodeIndex, Plan};

use crate::Scenario;

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
    /// From the last fault to the end of the last probe; `None` when one did not end, or there
    /// was none.
    pub recovery: Option<Duration>,
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
    let expect = &scenario.file().expect;
    let mut found = traffic::bytes(plan, journal);
    found.extend(traffic::datagrams(plan, journal));
    found.extend(traffic::strangers(plan, journal));
    found.extend(traffic::allowlist(plan, journal));
    found.extend(node::queues(journal));
    found.extend(node::errors(&expect.errors, journal));
    found.extend(
        expect
            .flaps_max
            .map(|max| node::flaps(max, journal))
            .unwrap_or_default(),
    );
    found.extend(liveness::convergence(
        plan,
        journal,
        scenario.converge_within(),
    ));
    found.extend(liveness::path(plan, journal));
    let workload = |expected| liveness::workload(plan, journal, expected);
    found.extend(expect.workload.iter().flat_map(workload));
    found.sort_by_key(|violation| violation.at);
    found
}

/// The same, with the time that the system took to recover.
#[must_use]
pub fn verdict(scenario: &Scenario, plan: &Plan, journal: &Journal) -> Verdict {
    Verdict {
        violations: judge(scenario, plan, journal),
        recovery: liveness::recovery(plan, journal),
    }
}
