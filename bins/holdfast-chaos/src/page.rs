//! A run as a page, and as the first line of its trace.

use holdfast_chaos::{Run, Scenario};
use holdfast_plan::{Side, What};
use holdfast_timeline::{Gap, Operation, Page};

use crate::spans;

/// What the page of a run says besides its trace.
pub fn of(scenario: &Scenario, run: &Run, commit: &str) -> Page {
    let plan = &run.plan;
    let name = |node: holdfast_plan::NodeIndex| plan.topology.node(node).name.clone();
    let ended_at = run.journal.ended_at;
    let spans = spans::of(plan, ended_at);
    let ends = |n: usize| spans.iter().any(|span| span.ends == Some(n));
    let steps = plan.steps.iter().enumerate();
    let ops = plan.steps.iter().filter_map(|step| match &step.action {
        holdfast_plan::Action::Traffic(op) => {
            let label = format!("{} ({} → {})", op.name, name(op.from), name(op.to));
            Some((op.id.0, Operation { label, at: step.at }))
        }
        _ => None,
    });
    let violations = run.verdict.violations.iter().map(|violation| {
        let node = violation.node.map(|node| format!(" at {}", name(node)));
        let (class, oracle) = (violation.class, violation.oracle);
        let node = node.unwrap_or_default();
        (
            violation.at,
            format!("{class}: {oracle}{node}: {}", violation.detail),
        )
    });
    Page {
        title: scenario.name().to_owned(),
        subtitle: format!(
            "{} world · seed {} · {} simulated · scenario {} · commit {commit} · {}",
            run.world,
            run.seed,
            crate::output::length(run.simulated),
            scenario.digest(),
            scenario.description(),
        ),
        replay: Some(run.replay_line(scenario, commit)),
        nodes: plan
            .topology
            .nodes
            .iter()
            .map(|node| node.name.clone())
            .collect(),
        // Where a span ends is seen by its end.
        steps: steps
            .map(|(n, step)| {
                (
                    step.at,
                    step.label.clone(),
                    step.action.is_fault() && !ends(n),
                )
            })
            .collect(),
        spans: spans
            .iter()
            .map(|s| (s.from, s.to, s.label.clone()))
            .collect(),
        ops: ops.collect(),
        gaps: gaps(run),
        violations: violations.collect(),
        judged: true,
        marks: run
            .journal
            .marks
            .iter()
            .map(|(mark, n)| ((*mark).to_owned(), *n))
            .collect(),
    }
}

fn gaps(run: &Run) -> Vec<Gap> {
    let gaps = run.journal.entries.iter().filter_map(|entry| {
        let (op, (length, at)) = match &entry.what {
            What::Stream(report) if report.side == Side::Client => (report.op?, report.gap_max?),
            What::Datagrams(report) => (report.op, report.gap_max?),
            _ => return None,
        };
        Some(Gap {
            op: op.0,
            at,
            length,
        })
    });
    gaps.collect()
}
