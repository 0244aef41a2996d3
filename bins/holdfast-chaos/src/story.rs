//! What happened in a run, in order of time, for people.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_chaos::Run;
use holdfast_plan::{
    Action, DatagramReport, Entry, NodeIndex, OpId, Plan, Side, StreamReport, What,
};

use crate::output::{Table, at, count, length};
use crate::spans;

/// Lines of a story: a longer one is read in the trace.
const LINES_MAX: usize = 400;

/// Steps, link transitions, results of workloads, and what was violated, as a table.
pub fn of(run: &Run) -> String {
    let spans = spans::of(&run.plan, Duration::ZERO);
    let teller = Teller {
        plan: &run.plan,
        ends: spans.iter().filter_map(|span| span.ends).collect(),
    };
    let mut lines: Vec<(Duration, String, String)> = Vec::new();
    for entry in &run.journal.entries {
        if let Some(what) = teller.what(entry) {
            let node = entry
                .node
                .map_or_else(|| "-".to_owned(), |node| teller.name(node));
            lines.push((entry.at, node, what));
        }
    }
    for violation in &run.verdict.violations {
        let node = violation
            .node
            .map_or_else(|| "-".to_owned(), |n| teller.name(n));
        let (class, oracle) = (violation.class, violation.oracle);
        let what = format!("VIOLATED ({class}) {oracle}: {}", violation.detail);
        lines.push((violation.at, node, what));
    }
    lines.sort_by_key(|(at, _, _)| *at);
    // A cut of both ways is two steps.
    lines.dedup();
    let mut table = Table::with_headings(&[">TIME", "AT", "WHAT"]);
    let left = lines.len().saturating_sub(LINES_MAX);
    for (when, node, what) in lines.into_iter().take(LINES_MAX) {
        table.row([at(when), node, what]);
    }
    let mut text = table.render();
    if left > 0 {
        text.push_str(&format!(
            "… and {left} lines more: --trace or --html have all\n"
        ));
    }
    text
}

/// A silence that is worth a word: below it is what any network has.
const SILENCE_MIN: Duration = Duration::from_millis(50);

struct Teller<'a> {
    plan: &'a Plan,
    /// The steps that only undo an earlier one.
    ends: BTreeSet<usize>,
}

impl Teller<'_> {
    fn name(&self, node: NodeIndex) -> String {
        match self.plan.topology.nodes.get(node.index()) {
            Some(spec) => spec.name.clone(),
            None => format!("#{}", node.0),
        }
    }

    fn op(&self, id: Option<OpId>) -> String {
        match id.and_then(|id| self.plan.op(id)) {
            Some(op) => {
                format!(
                    "{} ({} → {})",
                    op.name,
                    self.name(op.from),
                    self.name(op.to)
                )
            }
            None => "a stream of nobody".to_owned(),
        }
    }

    /// In words; `None` is not worth a line.
    fn what(&self, entry: &Entry) -> Option<String> {
        Some(match &entry.what {
            What::Step { step } => self.step(*step)?,
            What::Started => "started".to_owned(),
            What::Ended { clean: true } => "ended".to_owned(),
            What::Ended { clean: false } => "ended without a goodbye".to_owned(),
            What::Link { peer, state, why } => {
                format!("link {} {}: {why}", self.name(*peer), state.as_str())
            }
            What::Path {
                peer,
                class,
                detail,
            } => {
                format!("path {} {}: {detail}", self.name(*peer), class.as_str())
            }
            What::PeerRestarted { peer } => format!("{} has started again", self.name(*peer)),
            What::Refused { counter } => format!("refused: {counter}"),
            What::Error { line } => format!("ERROR {line}"),
            What::Stream(report) if report.side == Side::Client => self.stream(report),
            What::Datagrams(report) => self.datagrams(report),
            What::StrangeDatagram { from, len } => {
                let from = from.map_or_else(|| "nobody".to_owned(), |n| self.name(n));
                format!("STRANGE datagram of {len} bytes from {from}")
            }
            What::Stream(_) | What::Queue(_) | What::Final(_) => return None,
        })
    }

    fn step(&self, step: usize) -> Option<String> {
        let is_end = self.ends.contains(&step);
        let step = self.plan.steps.get(step)?;
        Some(match &step.action {
            Action::Traffic(op) => format!("asked for: {}", self.op(Some(op.id))),
            action if action.is_fault() && !is_end => format!("FAULT {}", step.label),
            _ => step.label.clone(),
        })
    }

    fn stream(&self, report: &StreamReport) -> String {
        let how = if report.complete {
            "complete"
        } else {
            "incomplete"
        };
        let (sent, received) = (count(report.sent), count(report.received));
        let mut text = format!(
            "stream {}: {how}, {sent} bytes sent, {received} received",
            self.op(report.op)
        );
        if report.attempts > 1 {
            text.push_str(&format!(", {} tries", report.attempts));
        }
        if let (Some(from), Some(to)) = (report.opened_at, report.finished_at) {
            text.push_str(&format!(", in {}", length(to.saturating_sub(from))));
        }
        text.push_str(&silence(report.gap_max));
        if let Some(reset) = &report.reset {
            text.push_str(&format!(", broken: {reset}"));
        }
        if let Some(at) = report.altered_at {
            text.push_str(&format!(", ALTERED at byte {at}"));
        }
        text
    }

    fn datagrams(&self, report: &DatagramReport) -> String {
        let (sent, received) = (count(report.sent), count(report.received));
        format!(
            "datagrams {}: {sent} sent, {received} received, {} repeated{}",
            self.op(Some(report.op)),
            count(report.repeated),
            silence(report.gap_max)
        )
    }
}

fn silence(gap: Option<(Duration, Duration)>) -> String {
    match gap {
        Some((time, from)) if time >= SILENCE_MIN => {
            format!(", silent for {} from {}", length(time), at(from))
        }
        _ => String::new(),
    }
}
