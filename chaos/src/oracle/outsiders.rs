//! Who has no business here gets nowhere.

use std::collections::BTreeMap;

use holdfast_core::status::LinkState;
use holdfast_plan::{NodeIndex, Service, Side, What};

use super::{Case, FailureClass, Violation};

const STRANGERS: (FailureClass, &str) = (FailureClass::Correctness, "strangers");
const ALLOWLIST: (FailureClass, &str) = (FailureClass::Correctness, "allowlist");

/// Nobody without the cluster's secret got a byte through or a link up, and no recording passed
/// as a new run of a member.
pub(super) fn strangers(case: &Case<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut starts: BTreeMap<NodeIndex, u32> = BTreeMap::new();
    let mut restarts_seen: BTreeMap<(NodeIndex, NodeIndex), u32> = BTreeMap::new();
    for entry in &case.journal.entries {
        let mut wrong = |detail: String| {
            violations.push(Violation::new(STRANGERS, entry.at, entry.node, detail));
        };
        let Some(node) = entry.node else { continue };
        match &entry.what {
            What::Started => *starts.entry(node).or_default() += 1,
            What::Link { peer, state, .. }
                if *state == LinkState::Up && !case.same_cluster(node, *peer) =>
            {
                let (a, b) = (case.name(node), case.name(*peer));
                wrong(format!(
                    "a link is up between {a} and {b}, of another cluster"
                ));
            }
            What::PeerRestarted { peer } => {
                let seen = restarts_seen.entry((node, *peer)).or_default();
                *seen += 1;
                let possible = starts.get(peer).copied().unwrap_or(0).saturating_sub(1);
                if *seen > possible {
                    let peer = case.name(*peer);
                    wrong(format!(
                        "{peer} was seen to restart {seen} times and had restarted {possible}"
                    ));
                }
            }
            What::Stream(report) => {
                let Some(op) = report.op.and_then(|id| case.plan.op(id)) else {
                    continue;
                };
                let reached = report.side == Side::Server || report.received > 0;
                if reached && !case.same_cluster(op.from, op.to) {
                    let received = report.received;
                    wrong(format!("{:?} got {received} bytes through", op.name));
                }
            }
            What::Datagrams(report) => {
                let Some(op) = case.plan.op(report.op) else {
                    continue;
                };
                if report.received > 0 && !case.same_cluster(op.from, op.to) {
                    let received = report.received;
                    wrong(format!("{:?} got {received} datagrams through", op.name));
                }
            }
            _ => {}
        }
    }
    violations
}

/// A service that is not allowed was never reached.
pub(super) fn allowlist(case: &Case<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for entry in &case.journal.entries {
        let (op, reached) = match &entry.what {
            What::Stream(report) => {
                let reached = report.side == Side::Server || report.received > 0;
                (report.op, reached)
            }
            What::Datagrams(report) => (Some(report.op), report.received > 0),
            _ => continue,
        };
        let op = op.and_then(|id| case.plan.op(id));
        if let Some(op) = op.filter(|op| op.service == Service::Forbidden && reached) {
            let detail = format!("{:?} reached a service that is not allowed", op.name);
            violations.push(Violation::new(ALLOWLIST, entry.at, entry.node, detail));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Stage, client, link, server};
    use super::*;

    #[test]
    fn an_intruder_with_a_link_or_a_byte_is_seen() {
        let mut stage = Stage::new();
        stage.plan.topology.nodes[1].cluster = 1;
        let op = stage.op("knock", 1, 0, Service::Echo, 1_000);
        stage.note(0, link(1, LinkState::Connecting));
        stage.client(client(op, 0, false));
        assert_eq!(stage.judged(strangers), [""; 0]);
        stage.note(0, link(1, LinkState::Up));
        stage.note(0, What::Stream(server(op, 0)));
        assert_eq!(
            stage.judged(strangers),
            [
                "a link is up between a and b, of another cluster",
                "\"knock\" got 0 bytes through"
            ]
        );
    }

    #[test]
    fn a_restart_that_did_not_happen_is_seen() {
        let mut stage = Stage::new();
        let restarted = What::PeerRestarted { peer: NodeIndex(1) };
        stage.note(1, What::Started);
        stage.note(1, What::Ended { clean: true });
        stage.note(1, What::Started);
        stage.note(0, restarted.clone());
        assert_eq!(stage.judged(strangers), [""; 0]);
        stage.note(0, restarted);
        let seen = stage.judged(strangers);
        assert_eq!(seen, ["b was seen to restart 2 times and had restarted 1"]);
    }

    #[test]
    fn a_service_that_is_not_allowed_is_not_reached() {
        let mut stage = Stage::new();
        let op = stage.op("not allowed", 0, 1, Service::Forbidden, 1_000);
        stage.client(client(op, 0, false));
        assert_eq!(stage.judged(allowlist), [""; 0]);
        stage.note(1, What::Stream(server(op, 0)));
        assert_eq!(stage.judged(allowlist).len(), 1);
    }
}
