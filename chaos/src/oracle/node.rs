//! What nodes may never show: queues above their bounds, errors in their logs, links that flap.

use std::collections::BTreeMap;

use holdfast_core::status::LinkState;
use holdfast_plan::{Entry, Journal, NodeIndex, What};

use super::{FailureClass, Violation};

/// No queue was longer than its bound.
pub(super) fn queues(journal: &Journal) -> Vec<Violation> {
    let check = |entry: &Entry| match &entry.what {
        What::Queue(queue) if queue.len > queue.max => Some(Violation {
            class: FailureClass::Correctness,
            oracle: "queues",
            at: entry.at,
            node: entry.node,
            detail: format!("{}: {} in it, at most {}", queue.name, queue.len, queue.max),
        }),
        _ => None,
    };
    journal.entries.iter().filter_map(check).collect()
}

/// No log line at ERROR that is not expected.
pub(super) fn errors(expected: &[String], journal: &Journal) -> Vec<Violation> {
    let check = |entry: &Entry| match &entry.what {
        What::Error { line } if !expected.iter().any(|text| line.contains(text)) => {
            Some(Violation {
                class: FailureClass::Correctness,
                oracle: "errors",
                at: entry.at,
                node: entry.node,
                detail: line.clone(),
            })
        }
        _ => None,
    };
    journal.entries.iter().filter_map(check).collect()
}

/// No link left the state up more often than allowed.
pub(super) fn flaps(allowed: u32, journal: &Journal) -> Vec<Violation> {
    let mut states: BTreeMap<(Option<NodeIndex>, NodeIndex), (LinkState, u32)> = BTreeMap::new();
    let mut found = Vec::new();
    for entry in &journal.entries {
        let What::Link { peer, state, why } = &entry.what else {
            continue;
        };
        let known = states.entry((entry.node, *peer)).or_insert((*state, 0));
        if known.0 == LinkState::Up && *state != LinkState::Up {
            known.1 += 1;
            if known.1 == allowed + 1 {
                found.push(Violation {
                    class: FailureClass::Liveness,
                    oracle: "convergence",
                    at: entry.at,
                    node: entry.node,
                    detail: format!(
                        "the link left the state up: {why}; allowed is {allowed} times"
                    ),
                });
            }
        }
        known.0 = *state;
    }
    found
}
