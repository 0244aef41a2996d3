//! Links: up, on the right path, in time, and for good.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_core::status::LinkState;
use holdfast_plan::{NodeIndex, PathClass, Wanted, What};

use super::story::{link_at, link_final, pauses};
use super::{Case, FailureClass, Violation};
use crate::plan::PROBE;

const CONVERGENCE: (FailureClass, &str) = (FailureClass::Liveness, "convergence");
const PATH: (FailureClass, &str) = (FailureClass::Liveness, "path");
const FLAPS: (FailureClass, &str) = (FailureClass::Liveness, "flaps");
const GRACE: (FailureClass, &str) = (FailureClass::Liveness, "grace");

/// How long a session without a path may be held: the grace period of `docs/architecture.md`,
/// and as long again as a node may take to notice (a suspended timer, a slow clock).
const DOWN_MAX: Duration = Duration::from_secs(25);

/// Both ends of every wanted link.
fn ends<'a>(case: &'a Case<'_>) -> impl Iterator<Item = (NodeIndex, NodeIndex, &'a Wanted)> {
    let wanted = case.plan.wanted.iter();
    wanted.flat_map(|w| [(w.a, w.b, w), (w.b, w.a, w)])
}

/// Every wanted link is up and used within the bound after the last fault, and still at the end.
pub(super) fn convergence(case: &Case<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut wrong = |at, node, detail| {
        violations.push(Violation::new(CONVERGENCE, at, Some(node), detail));
    };
    let (journal, within) = (case.journal, case.converge_within);
    let mut begun = BTreeMap::new();
    for (at, op) in case.ops().filter(|(_, op)| op.name.starts_with(PROBE)) {
        begun.insert((op.from, op.to), at);
        let report = journal.client(op.id);
        let finished = report.and_then(|r| r.finished_at.filter(|_| r.complete));
        let took = finished.map(|finished| finished.saturating_sub(at));
        let detail = match (took, report) {
            (Some(took), _) if took <= within => continue,
            (Some(took), _) => format!("{:?} took {took:?} of {within:?}", op.name),
            (None, None) => format!("{:?} was never tried", op.name),
            (None, Some(report)) => {
                let why = report.reset.as_deref().unwrap_or("it stands still");
                let (received, attempts) = (report.received, report.attempts);
                format!(
                    "{:?} did not get through within {within:?}: {received} bytes, {attempts} tries, {why}",
                    op.name
                )
            }
        };
        wrong((at + within).min(journal.ended_at.max(at)), op.from, detail);
    }
    for (node, peer, wanted) in ends(case) {
        let last = link_final(journal, node, peer);
        let names = (case.name(node), case.name(peer));
        if last.is_none_or(|last| last.state != LinkState::Up) {
            let state = last.map_or("not there", |last| last.state.as_str());
            let detail = format!("{} > {} is {state} at the end", names.0, names.1);
            wrong(journal.ended_at, node, detail);
            continue;
        }
        // One that the run ends before had less time, and made it.
        let due = begun.get(&(node, peer)).map(|at| *at + within);
        let Some(due) = due.filter(|due| *due < journal.ended_at) else {
            continue;
        };
        let then = link_at(journal, node, peer, due);
        let on_path = wanted.class.is_none() || then.class.is_none() || then.class == wanted.class;
        if then.state != Some(LinkState::Up) || !on_path {
            let state = then.state.map_or("not there", LinkState::as_str);
            let class = then.class.map_or("no path", PathClass::as_str);
            let detail = format!(
                "{} > {} was {state} on {class} when {within:?} were over",
                names.0, names.1
            );
            wrong(due, node, detail);
        }
    }
    violations
}

/// Each link ended on the class of path that the topology makes possible.
pub(super) fn path(case: &Case<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (node, peer, wanted) in ends(case) {
        let Some(last) = link_final(case.journal, node, peer) else {
            continue;
        };
        let Some(class) = wanted.class.filter(|_| last.state == LinkState::Up) else {
            continue;
        };
        if last.class != Some(class) {
            let found = last.class.map_or("no path", PathClass::as_str);
            let detail = format!(
                "{} > {} ended on {found}, expected {}",
                case.name(node),
                case.name(peer),
                class.as_str()
            );
            let at = case.journal.ended_at;
            violations.push(Violation::new(PATH, at, Some(node), detail));
        }
    }
    violations
}

/// No link left the state up more often than the scenario allows.
pub(super) fn flaps(case: &Case<'_>) -> Vec<Violation> {
    let Some(max) = case.expect.flaps_max else {
        return Vec::new();
    };
    let mut was_up: BTreeMap<(NodeIndex, NodeIndex), bool> = BTreeMap::new();
    let mut flaps: BTreeMap<(NodeIndex, NodeIndex), u32> = BTreeMap::new();
    let mut violations = Vec::new();
    for entry in &case.journal.entries {
        let (What::Link { peer, state, why }, Some(node)) = (&entry.what, entry.node) else {
            continue;
        };
        let is_up = *state == LinkState::Up;
        let was = was_up.insert((node, *peer), is_up).unwrap_or(false);
        if was && !is_up {
            let count = flaps.entry((node, *peer)).or_default();
            *count += 1;
            if *count > max {
                let (a, b) = (case.name(node), case.name(*peer));
                let state = state.as_str();
                let detail = format!("{a} > {b} left up for {state} the {count}. time: {why}");
                violations.push(Violation::new(FLAPS, entry.at, Some(node), detail));
            }
        }
    }
    violations
}

/// No link is down, with its streams held, for longer than it may be.
pub(super) fn grace(case: &Case<'_>) -> Vec<Violation> {
    let mut down: BTreeMap<(NodeIndex, NodeIndex), Duration> = BTreeMap::new();
    let mut spans = Vec::new();
    for entry in &case.journal.entries {
        let Some(node) = entry.node else { continue };
        match &entry.what {
            What::Link { peer, state, .. } => {
                let key = (node, *peer);
                if *state == LinkState::Down {
                    down.entry(key).or_insert(entry.at);
                } else if let Some(since) = down.remove(&key) {
                    spans.push((key, since, entry.at));
                }
            }
            What::Started | What::Ended { .. } => {
                down.retain(|(other, _), _| *other != node);
            }
            _ => {}
        }
    }
    let ended_at = case.journal.ended_at;
    spans.extend(down.into_iter().map(|(key, since)| (key, since, ended_at)));
    let mut violations = Vec::new();
    for ((node, peer), since, until) in spans {
        // A node that stands still decides nothing.
        let stood = pauses(case.plan, node);
        let still = stood
            .iter()
            .any(|(from, to)| *from <= until && since <= *to);
        if until - since > DOWN_MAX && !still {
            let (a, b, held) = (case.name(node), case.name(peer), until - since);
            let detail = format!("{a} > {b} was down for {held:?}, and nothing gave it up");
            violations.push(Violation::new(GRACE, since + DOWN_MAX, Some(node), detail));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Stage, client, link};
    use super::*;
    use holdfast_plan::{LinkFinal, Service};

    fn fin(peer: u16, state: LinkState, class: PathClass) -> What {
        What::Final(LinkFinal {
            peer: NodeIndex(peer),
            state,
            class: Some(class),
        })
    }

    fn well(stage: &mut Stage) {
        stage.note(0, fin(1, LinkState::Up, PathClass::Direct));
        stage.note(1, fin(0, LinkState::Up, PathClass::Direct));
    }

    #[test]
    fn a_link_that_is_not_up_at_the_end_is_seen() {
        let mut stage = Stage::new();
        well(&mut stage);
        assert_eq!(stage.judged(convergence), [""; 0]);
        stage.note(1, fin(0, LinkState::Connecting, PathClass::Direct));
        assert_eq!(
            stage.judged(convergence),
            ["b > a is connecting at the end"]
        );
    }

    #[test]
    fn a_probe_that_is_late_or_does_not_end_is_seen() {
        let mut stage = Stage::new();
        let op = stage.op("probe a>b", 0, 1, Service::Echo, 2_000);
        well(&mut stage);
        assert_eq!(stage.judged(convergence), ["\"probe a>b\" was never tried"]);
        let mut report = client(op, 2_000, true);
        stage.client(report.clone());
        assert_eq!(stage.judged(convergence), [""; 0]);
        report.finished_at = Some(Duration::from_secs(11));
        stage.client(report);
        assert_eq!(stage.judged(convergence), ["\"probe a>b\" took 11s of 10s"]);
        stage.client(client(op, 16, false));
        assert_eq!(stage.judged(convergence).len(), 1);
    }

    #[test]
    fn a_link_that_comes_up_after_its_time_is_seen() {
        let mut stage = Stage::new();
        let op = stage.op("probe a>b", 0, 1, Service::Echo, 2_000);
        stage.client(client(op, 2_000, true));
        for _ in 0..14 {
            stage.note(1, What::Started);
        }
        stage.note(0, link(1, LinkState::Up));
        well(&mut stage);
        let seen = stage.judged(convergence);
        assert_eq!(seen, ["a > b was not there on no path when 10s were over"]);
    }

    #[test]
    fn a_link_on_the_wrong_class_of_path_is_seen() {
        let mut stage = Stage::new();
        well(&mut stage);
        assert_eq!(stage.judged(path), [""; 0]);
        stage.note(0, fin(1, LinkState::Up, PathClass::Relay));
        assert_eq!(
            stage.judged(path),
            ["a > b ended on relay, expected direct"]
        );
    }

    #[test]
    fn a_link_that_flaps_is_seen_where_it_must_not() {
        let mut stage = Stage::new();
        stage.note(0, link(1, LinkState::Up));
        stage.note(0, link(1, LinkState::Down));
        assert_eq!(stage.judged(flaps), [""; 0]);
        stage.expect.flaps_max = Some(0);
        assert_eq!(stage.judged(flaps).len(), 1);
        stage.expect.flaps_max = Some(1);
        assert_eq!(stage.judged(flaps), [""; 0]);
    }

    #[test]
    fn a_link_that_is_held_down_for_ever_is_seen() {
        let mut stage = Stage::new();
        stage.note(0, link(1, LinkState::Down));
        for _ in 0..25 {
            stage.note(1, What::Started);
        }
        assert_eq!(stage.judged(grace), [""; 0]);
        stage.note(1, What::Started);
        assert_eq!(stage.judged(grace).len(), 1);
        let mut stage = Stage::new();
        stage.note(0, link(1, LinkState::Down));
        stage.note(0, What::Ended { clean: true });
        for _ in 0..30 {
            stage.note(1, What::Started);
        }
        assert_eq!(stage.judged(grace), [""; 0]);
    }
}
