//! What applications may never see: bytes that nobody sent, in another order, or from strangers.

use std::time::Duration;

use holdfast_core::status::LinkState;
use holdfast_plan::{
    CLUSTER, Entry, Journal, NodeIndex, Op, OpKind, Plan, Service, Side, StreamReport, What,
};

use super::{FailureClass, Violation};

fn wrong(oracle: &'static str, entry: &Entry, detail: String) -> Violation {
    Violation {
        class: FailureClass::Correctness,
        oracle,
        at: entry.at,
        node: entry.node,
        detail,
    }
}

/// What arrived is a prefix of what was sent, and a clean end is at the end.
pub(super) fn bytes(plan: &Plan, journal: &Journal) -> Vec<Violation> {
    let check = |(entry, report): (&Entry, &StreamReport)| {
        let name = stream_name(plan, report);
        if let Some(offset) = report.altered_at {
            let received = report.received;
            let detail = format!("{name}: byte {offset} of {received} received was not sent there");
            return Some(wrong("bytes", entry, detail));
        }
        if report.side == Side::Server && report.op.is_none() && report.received > 0 {
            let detail = format!("{name}: {} bytes that no client sent", report.received);
            return Some(wrong("bytes", entry, detail));
        }
        let early = report.finished_at.is_some() && !report.complete && report.reset.is_none();
        if early && expects_all(plan, report) {
            let detail = format!("{name}: a clean end after {} bytes", report.received);
            return Some(wrong("bytes", entry, detail));
        }
        None
    };
    journal.streams().filter_map(check).collect()
}

/// Whether a clean end before the last byte is a lie: a server that got some of an operation, or
/// the client of an echo that answered with something.
fn expects_all(plan: &Plan, report: &StreamReport) -> bool {
    let op = report.op.and_then(|op| plan.op(op));
    match (report.side, op) {
        (Side::Server, Some(_)) => true,
        (Side::Client, Some(op)) => op.service == Service::Echo && report.received > 0,
        (_, None) => false,
    }
}

fn stream_name(plan: &Plan, report: &StreamReport) -> String {
    let side = match report.side {
        Side::Client => "the client",
        Side::Server => "the server",
    };
    match report.op.and_then(|op| plan.op(op)) {
        Some(op) => format!("{side} of {:?}", op.name),
        None => format!("{side} of a stream of nobody"),
    }
}

/// No datagram was altered, invented, repeated, or delivered where it does not belong.
pub(super) fn datagrams(plan: &Plan, journal: &Journal) -> Vec<Violation> {
    let check = |entry: &Entry| match &entry.what {
        What::StrangeDatagram { len, .. } => {
            let detail = format!("a datagram of {len} bytes that nobody sent like that");
            Some(wrong("datagrams", entry, detail))
        }
        What::Datagrams(report) if report.repeated > 0 => {
            let name = plan.op(report.op).map_or("?", |op| &op.name);
            let detail = format!("{name:?}: {} datagrams arrived again", report.repeated);
            Some(wrong("datagrams", entry, detail))
        }
        What::Datagrams(report) if report.received > report.sent => {
            let name = plan.op(report.op).map_or("?", |op| &op.name);
            let (received, sent) = (report.received, report.sent);
            let detail = format!("{name:?}: {received} datagrams arrived of {sent} sent");
            Some(wrong("datagrams", entry, detail))
        }
        _ => None,
    };
    journal.entries.iter().filter_map(check).collect()
}

/// Nobody without the cluster's secret got a byte through, or a link up.
pub(super) fn strangers(plan: &Plan, journal: &Journal) -> Vec<Violation> {
    let cluster = |node: NodeIndex| plan.topology.nodes.get(node.index()).map(|n| n.cluster);
    let foreign = |a: NodeIndex, b: NodeIndex| cluster(a) != cluster(b);
    let between = |op: &Op| foreign(op.from, op.to);
    let name = |node: NodeIndex| plan.topology.node(node).name.clone();
    let check = |entry: &Entry| match (&entry.what, entry.node) {
        (What::Stream(report), _) if report.received > 0 => {
            let op = report
                .op
                .and_then(|op| plan.op(op))
                .filter(|op| between(op))?;
            let detail = format!("{:?} got {} bytes through", op.name, report.received);
            Some(wrong("strangers", entry, detail))
        }
        (What::Datagrams(report), _) if report.received > 0 => {
            let op = plan.op(report.op).filter(|op| between(op))?;
            let detail = format!("{:?} got {} datagrams through", op.name, report.received);
            Some(wrong("strangers", entry, detail))
        }
        (
            What::Link {
                peer,
                state: LinkState::Up,
                ..
            },
            Some(node),
        ) => {
            let intruder = cluster(node) != Some(CLUSTER) && foreign(node, *peer);
            let detail = || format!("{} has a link up with {}", name(node), name(*peer));
            intruder.then(|| wrong("strangers", entry, detail()))
        }
        _ => None,
    };
    journal.entries.iter().filter_map(check).collect()
}

/// A service that is not allowed was never reached.
pub(super) fn allowlist(plan: &Plan, journal: &Journal) -> Vec<Violation> {
    let forbidden = |op: &&Op| !op.service.is_allowed();
    let check = |entry: &Entry| {
        let (op, count) = match &entry.what {
            What::Stream(report) if report.side == Side::Server => (report.op?, 1),
            What::Stream(report) if report.received > 0 => (report.op?, report.received),
            What::Datagrams(report) if report.received > 0 => (report.op, report.received),
            _ => return None,
        };
        let op = plan.op(op).filter(forbidden)?;
        let detail = format!(
            "{:?} reached a service that is not allowed ({count})",
            op.name
        );
        Some(wrong("allowlist", entry, detail))
    };
    journal.entries.iter().filter_map(check).collect()
}

/// When an operation begins, and how long a flow of datagrams takes at least.
pub(super) fn begins(plan: &Plan, op: &Op) -> (Duration, Duration) {
    let at = plan.steps.iter().find_map(|step| match &step.action {
        holdfast_plan::Action::Traffic(other) if other.id == op.id => Some(step.at),
        _ => None,
    });
    let takes = match op.kind {
        OpKind::Stream { .. } => Duration::ZERO,
        OpKind::Datagrams {
            count, interval, ..
        } => interval * count,
    };
    (at.unwrap_or_default(), takes)
}
