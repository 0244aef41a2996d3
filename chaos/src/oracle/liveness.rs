//! What has to happen in time, once the network is whole again.

use std::time::Duration;

use holdfast_core::status::LinkState;
use holdfast_net_model::Ratio;
use holdfast_plan::{
    DatagramReport, Journal, LinkFinal, NodeIndex, Op, OpKind, PathClass, Plan, Service,
    StreamReport, Wanted, What,
};

use super::traffic::begins;
use super::{FailureClass, Violation};
use crate::plan::PROBE;
use crate::scenario::format::{ExpectWorkload, Outcome};

/// Probes are the operations that a plan adds to measure convergence.
fn is_probe(op: &Op) -> bool {
    op.name.starts_with(PROBE)
}

fn late(oracle: &'static str, at: Duration, node: Option<NodeIndex>, detail: String) -> Violation {
    Violation {
        class: FailureClass::Liveness,
        oracle,
        at,
        node,
        detail,
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}

/// Every wanted link is up and used within the bound after the last fault.
pub(super) fn convergence(plan: &Plan, journal: &Journal, within: Duration) -> Vec<Violation> {
    let mut found = Vec::new();
    for op in plan.ops().filter(|op| is_probe(op)) {
        let (began, _) = begins(plan, op);
        let done = journal.client(op.id).filter(|report| report.complete);
        let took = done
            .and_then(|report| report.finished_at)
            .map(|at| at.saturating_sub(began));
        let bound = began + within;
        match took {
            Some(took) if took <= within => {}
            Some(took) => found.push(late(
                "convergence",
                bound,
                Some(op.from),
                format!(
                    "{} took {}, at most {}",
                    op.name,
                    seconds(took),
                    seconds(within)
                ),
            )),
            None => found.push(late(
                "convergence",
                bound.min(journal.ended_at),
                Some(op.from),
                format!("{} has not ended within {}", op.name, seconds(within)),
            )),
        }
    }
    found.extend(
        plan.wanted
            .iter()
            .flat_map(|wanted| not_up(plan, journal, wanted)),
    );
    found
}

/// The time from the last fault to the end of the last probe.
pub(super) fn recovery(plan: &Plan, journal: &Journal) -> Option<Duration> {
    let done = |op: &Op| {
        let report = journal.client(op.id).filter(|report| report.complete)?;
        let at = report.finished_at?;
        Some(at.saturating_sub(plan.healed_at))
    };
    let probes: Option<Vec<_>> = plan.ops().filter(|op| is_probe(op)).map(done).collect();
    probes?.into_iter().max()
}

fn finals<'a>(
    journal: &'a Journal,
    wanted: &Wanted,
) -> impl Iterator<Item = (NodeIndex, NodeIndex, Option<&'a LinkFinal>)> {
    let end = |node: NodeIndex, peer: NodeIndex| {
        journal.entries.iter().find_map(|entry| match &entry.what {
            What::Final(link) if entry.node == Some(node) && link.peer == peer => Some(link),
            _ => None,
        })
    };
    let (a, b) = (wanted.a, wanted.b);
    [(a, b, end(a, b)), (b, a, end(b, a))].into_iter()
}

fn not_up(plan: &Plan, journal: &Journal, wanted: &Wanted) -> Vec<Violation> {
    let check = |(node, peer, link): (NodeIndex, NodeIndex, Option<&LinkFinal>)| {
        let state = link.map(|link| link.state);
        if state == Some(LinkState::Up) {
            return None;
        }
        let peer = &plan.topology.node(peer).name;
        let state = state.map_or("not there".to_owned(), |state| format!("{state:?}"));
        let detail = format!("the link with {peer} is {state} at the end");
        Some(late("convergence", journal.ended_at, Some(node), detail))
    };
    finals(journal, wanted).filter_map(check).collect()
}

/// Each link ended on the class of path that the topology makes possible.
pub(super) fn path(plan: &Plan, journal: &Journal) -> Vec<Violation> {
    let mut found = Vec::new();
    for wanted in &plan.wanted {
        let Some(class) = wanted.class else { continue };
        for (node, peer, link) in finals(journal, wanted) {
            let Some(link) = link.filter(|link| link.state == LinkState::Up) else {
                continue; // Said by `convergence`.
            };
            if link.class == Some(class) {
                continue;
            }
            let taken = link.class.map_or("none", PathClass::as_str);
            let (peer, class) = (&plan.topology.node(peer).name, class.as_str());
            let detail = format!("the path to {peer} is {taken} at the end, expected {class}");
            found.push(late("path", journal.ended_at, Some(node), detail));
        }
    }
    found
}

/// Each workload ended as expected, in time, without a longer silence.
pub(super) fn workload(
    plan: &Plan,
    journal: &Journal,
    expected: &ExpectWorkload,
) -> Vec<Violation> {
    let ops = plan.ops().filter(|op| op.name == expected.name);
    ops.flat_map(|op| {
        let problem = match op.kind {
            OpKind::Stream { .. } => stream(plan, journal, expected, op),
            OpKind::Datagrams { .. } => flow(journal, expected, op),
        };
        let (began, takes) = begins(plan, op);
        let bound = expected.within.map_or(takes, |within| within.0);
        let at = (began + bound).min(journal.ended_at);
        let detail = |problem| format!("{:?}: {problem}", op.name);
        problem.map(|problem| late("workload", at, Some(op.from), detail(problem)))
    })
    .collect()
}

fn stream(plan: &Plan, journal: &Journal, expected: &ExpectWorkload, op: &Op) -> Option<String> {
    let Some(report) = journal.client(op.id) else {
        return Some("it was never begun".to_owned());
    };
    match expected.outcome {
        Outcome::Any => None,
        Outcome::Complete => stream_complete(plan, expected, op, report),
        Outcome::Refused | Outcome::NeverOpen if report.received > 0 || report.complete => {
            Some(format!("{} bytes arrived, expected none", report.received))
        }
        Outcome::Refused if report.reset.is_none() => Some("it was not refused".to_owned()),
        Outcome::Refused | Outcome::NeverOpen => None,
    }
}

fn stream_complete(
    plan: &Plan,
    expected: &ExpectWorkload,
    op: &Op,
    report: &StreamReport,
) -> Option<String> {
    let (began, _) = begins(plan, op);
    if !report.complete {
        let why = report.reset.as_deref().unwrap_or("the run ended");
        let (sent, received) = (report.sent, report.received);
        return Some(format!("{sent} bytes sent, {received} received: {why}"));
    }
    let took = report.finished_at.unwrap_or_default().saturating_sub(began);
    if let Some(within) = expected
        .within
        .map(|time| time.0)
        .filter(|within| took > *within)
    {
        return Some(format!(
            "took {}, at most {}",
            seconds(took),
            seconds(within)
        ));
    }
    if expected.unbroken && report.attempts > 1 {
        return Some(format!("broke: {} attempts, expected one", report.attempts));
    }
    // A sink says nothing until the end.
    if op.service == Service::Sink {
        return None;
    }
    silence(expected, report.gap_max)
}

fn silence(expected: &ExpectWorkload, gap: Option<(Duration, Duration)>) -> Option<String> {
    let max = expected.outage_max?.0;
    let (length, at) = gap.filter(|(length, _)| *length > max)?;
    let (length, at, max) = (seconds(length), seconds(at), seconds(max));
    Some(format!("silent for {length} from {at} on, at most {max}"))
}

fn flow(journal: &Journal, expected: &ExpectWorkload, op: &Op) -> Option<String> {
    let Some(report) = journal.datagrams(op.id) else {
        return Some("it was never begun".to_owned());
    };
    match expected.outcome {
        Outcome::Any => None,
        Outcome::Refused | Outcome::NeverOpen => {
            let arrived = format!("{} datagrams arrived, expected none", report.received);
            (report.received > 0).then_some(arrived)
        }
        Outcome::Complete => flow_complete(expected, report),
    }
}

fn flow_complete(expected: &ExpectWorkload, report: &DatagramReport) -> Option<String> {
    let (sent, received) = (report.sent, report.received);
    if received == 0 {
        return Some(format!("nothing arrived of {sent} datagrams"));
    }
    let enough = |share: Ratio| {
        u128::from(received) * u128::from(share.den()) >= u128::from(sent) * u128::from(share.num())
    };
    if let Some(share) = expected
        .received_min
        .map(|share| share.0)
        .filter(|s| !enough(*s))
    {
        let (num, den) = (share.num(), share.den());
        return Some(format!(
            "{received} of {sent} arrived, at least {num}/{den}"
        ));
    }
    silence(expected, report.gap_max)
}
