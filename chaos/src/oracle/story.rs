//! How links and nodes were at a time, told from a journal.

use std::time::Duration;

use holdfast_core::status::LinkState;
use holdfast_plan::{Action, Journal, LinkFinal, NodeIndex, PathClass, Plan, What};

/// How one end of a link was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LinkEnd {
    /// `None` before its node told anything.
    pub state: Option<LinkState>,
    /// The class of the path in use.
    pub class: Option<PathClass>,
}

/// How a node's end of a link was at a time.
pub(super) fn link_at(
    journal: &Journal,
    node: NodeIndex,
    peer: NodeIndex,
    at: Duration,
) -> LinkEnd {
    let mut end = LinkEnd::default();
    let ours = journal
        .entries
        .iter()
        .filter(|entry| entry.node == Some(node));
    for entry in ours.take_while(|entry| entry.at <= at) {
        match &entry.what {
            What::Started | What::Ended { .. } => end = LinkEnd::default(),
            What::Link {
                peer: with, state, ..
            } if *with == peer => end.state = Some(*state),
            What::Path {
                peer: with, class, ..
            } if *with == peer => end.class = Some(*class),
            _ => {}
        }
    }
    end
}

/// How a node's end of a link was when the run ended.
pub(super) fn link_final(
    journal: &Journal,
    node: NodeIndex,
    peer: NodeIndex,
) -> Option<&LinkFinal> {
    let ours = journal
        .entries
        .iter()
        .filter(|entry| entry.node == Some(node));
    let mut finals = ours.filter_map(|entry| match &entry.what {
        What::Final(found) if found.peer == peer => Some(found),
        _ => None,
    });
    finals.next_back()
}

/// The spans in which a node stood still.
pub(super) fn pauses(plan: &Plan, node: NodeIndex) -> Vec<(Duration, Duration)> {
    let mut spans = Vec::new();
    for step in &plan.steps {
        match step.action {
            Action::Pause(paused) if paused == node => spans.push((step.at, plan.ends_at)),
            Action::Thaw(thawed) if thawed == node => {
                if let Some(last) = spans.last_mut() {
                    last.1 = step.at;
                }
            }
            _ => {}
        }
    }
    spans
}
