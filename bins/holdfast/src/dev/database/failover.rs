//! A failover as it happens: a client writes while the leader is struck.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use holdfast_workload::Durability;
use holdfast_workload::check::{first_acknowledged, write_gap};
use serde_json::json;

use super::strike::{How, strike};
use super::watch::{Event, Watch};
use super::writer::{Load, Writing, verdict, verdict_json, wait_until_steady};
use super::{is_worker, reaches_primary, told};
use crate::dev::state::Mesh;
use crate::dev::view::NodeReport;
use crate::output;

/// One client: the gap that it sees is the failover's, to within a write.
const LOAD: Load = Load {
    writers: 1,
    every: Duration::from_millis(20),
};
/// So many rows before the strike, so that what is lost would show.
const ROWS_BEFORE: u64 = 50;
/// How long those may take.
const STEADY_BOUND: Duration = Duration::from_secs(30);
/// How long a failover may take: four times what the cluster's `ttl` promises.
const FAILOVER_BOUND: Duration = Duration::from_secs(90);
/// How long to go on afterwards: the rows of the new leader count as well, and who looks may be
/// some milliseconds behind who writes.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// How often it is looked whether a write was acknowledged.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Strike the leader and show what happens. Exit code 1 if nobody takes over in time, or a row is
/// lost.
pub fn watch(
    mesh: &Mesh,
    reports: &[NodeReport],
    node: &str,
    how: How,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let others = || reports.iter().filter(|report| report.node() != node);
    let old = reports.iter().find(|report| report.node() == node);
    let old = old.with_context(|| format!("there is no node {node:?}"))?;
    let client = others().find(|report| is_worker(report.node()) && reaches_primary(report));
    let Some(client) = client else {
        bail!(
            "no other worker reaches the primary, so that nobody can take over: `holdfast dev heal`"
        );
    };
    let timeline = told(reports).and_then(|status| status.timeline);
    let mut show = Show::new(json, timeline);
    let origin = Instant::now();
    let writing = Writing::start(mesh, client.node(), LOAD, origin)?;
    wait_until_steady(&writing, ROWS_BEFORE, STEADY_BOUND)?;
    let watch = Watch::start(mesh, reports, client.node(), old)?;
    let fault = Instant::now();
    strike(mesh, node, how)?;
    show.line(
        Duration::ZERO,
        "fault",
        &format!("{node} is {}", how.word()),
    );
    let struck = fault - origin;
    // A row that was asked for while the blow fell may be the old leader's.
    let after = writing.recorder.now();
    let first = follow(&writing, &watch, &mut show, fault, struck, after);
    drop(watch);
    let (history, durability) = writing.finish()?;
    let gap = write_gap(&history, struck);
    let seen = Outcome {
        node,
        how,
        client: client.node(),
        timeline,
        took: first.map(|first| first.saturating_sub(struck)),
        gap: gap.length(),
        durability: &durability,
    };
    show.end(&seen)?;
    Ok(match seen.is_well() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Show events as they come, until a write that was asked for after the blow is acknowledged, and
/// a little longer. When that was, since the history began.
fn follow(
    writing: &Writing,
    watch: &Watch,
    show: &mut Show,
    fault: Instant,
    struck: Duration,
    after: Duration,
) -> Option<Duration> {
    let mut first = None;
    loop {
        let wait = watch.events.recv_timeout(LOOK_EVERY);
        if let Ok((event, at)) = wait {
            show.event(at.saturating_duration_since(fault), &event);
        }
        if first.is_none() && has_acknowledged(writing, after) {
            first = first_acknowledged(&writing.recorder.history(None), after);
            if let Some(first) = first {
                let client = "a row that was asked for after the fault is acknowledged";
                show.line(first.saturating_sub(struck), "first write", client);
            }
        }
        let enough = match first {
            Some(first) => fault.elapsed() > first.saturating_sub(struck) + AFTERWARDS,
            None => fault.elapsed() > FAILOVER_BOUND || writing.has_ended(),
        };
        if enough {
            return first;
        }
    }
}

/// Whether the whole history is worth a look.
fn has_acknowledged(writing: &Writing, after: Duration) -> bool {
    let last = writing.recorder.progress().last_acknowledged;
    last.is_some_and(|last| last > after)
}

/// What came of it.
struct Outcome<'a> {
    node: &'a str,
    how: How,
    client: &'a str,
    /// Before it.
    timeline: Option<u64>,
    /// From the fault to the first acknowledged write.
    took: Option<Duration>,
    /// The longest time without one.
    gap: Duration,
    durability: &'a Durability,
}

impl Outcome<'_> {
    fn is_well(&self) -> bool {
        self.took.is_some() && self.durability.holds()
    }
}

/// Shows events as they come, or all of them at the end.
struct Show {
    json: bool,
    /// Before the fault: a new leader may still say it of itself for a moment.
    timeline: Option<u64>,
    events: Vec<serde_json::Value>,
}

impl Show {
    fn new(json: bool, timeline: Option<u64>) -> Show {
        Show {
            json,
            timeline,
            events: Vec::new(),
        }
    }

    fn event(&mut self, since: Duration, event: &Event) {
        match event {
            Event::Detected => {
                self.line(since, "detected", "the endpoint leads to it no more");
            }
            Event::KeyFree => self.line(since, "key free", "it is no longer the leader's"),
            Event::Promoted(peer, timeline) => {
                let timeline = timeline.filter(|timeline| Some(*timeline) > self.timeline);
                let timeline = timeline.map_or(String::new(), |t| format!(", timeline {t}"));
                self.line(since, "promoted", &format!("{peer} leads{timeline}"));
            }
        }
    }

    fn line(&mut self, since: Duration, event: &str, what: &str) {
        let seconds = since.as_secs_f64();
        match self.json {
            true => self
                .events
                .push(json!({ "event": event, "seconds": seconds, "what": what })),
            // Whoever went away sees no more.
            false => drop(output::print(&format!(
                "  {seconds:6.2} s  {event:11}  {what}\n"
            ))),
        }
    }

    fn end(self, seen: &Outcome<'_>) -> anyhow::Result<()> {
        let text = match self.json {
            true => format!(
                "{:#}\n",
                json!({
                    "node": seen.node,
                    "is": seen.how.word(),
                    "client": seen.client,
                    "timeline_before": seen.timeline,
                    "took_seconds": seen.took.map(|took| took.as_secs_f64()),
                    "gap_seconds": seen.gap.as_secs_f64(),
                    "events": self.events,
                    "rows": verdict_json(seen.durability),
                })
            ),
            false => format!(
                "{}: {}\nits client on {} had no acknowledged write for {:.2} s; `holdfast dev heal` \
                 brings {} back\n",
                match seen.took {
                    Some(took) => format!("failover took {:.2} s", took.as_secs_f64()),
                    None => format!("nobody took over within {} s", FAILOVER_BOUND.as_secs()),
                },
                verdict(seen.durability),
                seen.client,
                seen.gap.as_secs_f64(),
                seen.node,
            ),
        };
        output::print(&text)?;
        Ok(())
    }
}
