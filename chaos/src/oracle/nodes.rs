//! What a node says of itself.

use std::collections::BTreeSet;

use holdfast_plan::{Action, NodeIndex, What};

use super::{Case, FailureClass, Violation};

const QUEUES: (FailureClass, &str) = (FailureClass::Correctness, "queues");
const ERRORS: (FailureClass, &str) = (FailureClass::Correctness, "errors");
const CRASH: (FailureClass, &str) = (FailureClass::Crash, "crash");

/// No queue was longer than its bound.
pub(super) fn queues(case: &Case<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for entry in &case.journal.entries {
        if let What::Queue(queue) = &entry.what
            && queue.len > queue.max
        {
            let detail = format!(
                "{}: {} where {} is the most",
                queue.name, queue.len, queue.max
            );
            violations.push(Violation::new(QUEUES, entry.at, entry.node, detail));
        }
    }
    violations
}

/// No line at ERROR that the scenario does not expect.
pub(super) fn errors(case: &Case<'_>) -> Vec<Violation> {
    let expected = |line: &str| case.expect.errors.iter().any(|text| line.contains(text));
    let mut violations = Vec::new();
    for entry in &case.journal.entries {
        if let What::Error { line } = &entry.what
            && !expected(line)
        {
            let detail = format!("logged an error: {line}");
            violations.push(Violation::new(ERRORS, entry.at, entry.node, detail));
        }
    }
    violations
}

/// No process ended without a goodbye that nobody killed.
pub(super) fn ends(case: &Case<'_>) -> Vec<Violation> {
    let mut killed: BTreeSet<NodeIndex> = BTreeSet::new();
    let mut told: BTreeSet<NodeIndex> = BTreeSet::new();
    let mut violations = Vec::new();
    for entry in &case.journal.entries {
        match (&entry.what, entry.node) {
            (What::Step { step }, _) => {
                let action = case.plan.steps.get(*step).map(|s| &s.action);
                // Who is started again before the goodbye is said does not get to say it.
                if let Some(Action::Crash(node) | Action::Start(node) | Action::Wipe(node)) = action
                {
                    killed.insert(*node);
                }
                if let Some(Action::Stop(node) | Action::Retire(node)) = action {
                    told.insert(*node);
                }
            }
            (What::Started, Some(node)) => {
                killed.remove(&node);
                told.remove(&node);
            }
            (What::Ended { clean: true }, Some(node))
                if !told.contains(&node) && !killed.contains(&node) =>
            {
                let detail = format!("{} ended, and nobody told it to", case.name(node));
                violations.push(Violation::new(CRASH, entry.at, entry.node, detail));
            }
            (What::Ended { clean: false }, Some(node)) if !killed.contains(&node) => {
                let detail = format!("{} ended by itself", case.name(node));
                violations.push(Violation::new(CRASH, entry.at, entry.node, detail));
            }
            _ => {}
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::super::testing::Stage;
    use super::*;
    use holdfast_plan::QueueReport;

    #[test]
    fn a_queue_beyond_its_bound_is_seen() {
        let mut stage = Stage::new();
        let queue = |len| {
            let name = "mailbox".to_owned();
            What::Queue(QueueReport { name, len, max: 8 })
        };
        stage.note(0, queue(8));
        assert_eq!(stage.judged(queues), [""; 0]);
        stage.note(0, queue(9));
        assert_eq!(stage.judged(queues), ["mailbox: 9 where 8 is the most"]);
    }

    #[test]
    fn an_error_is_seen_unless_it_is_expected() {
        let mut stage = Stage::new();
        let line = "socket failed: out of luck".to_owned();
        stage.note(0, What::Error { line });
        assert_eq!(stage.judged(errors).len(), 1);
        stage.expect.errors.push("socket failed".to_owned());
        assert_eq!(stage.judged(errors), [""; 0]);
    }

    #[test]
    fn a_process_that_ends_by_itself_is_seen_and_one_that_was_killed_is_not() {
        let mut stage = Stage::new();
        let ended = What::Ended { clean: false };
        stage.step(Action::Crash(NodeIndex(1)));
        stage.happened(0);
        stage.note(1, ended.clone());
        stage.note(1, What::Started);
        assert_eq!(stage.judged(ends), [""; 0]);
        stage.note(1, ended);
        assert_eq!(stage.judged(ends), ["b ended by itself"]);
    }
}
