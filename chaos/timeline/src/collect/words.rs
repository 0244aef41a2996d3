//! What an observation is in words.

use std::time::Duration;

use super::{Flow, Kind};
use crate::limit;
use crate::line::Seen;
use crate::page::Page;

/// Puts observations into words: the page knows the names.
#[derive(Clone, Copy)]
pub struct Words<'a>(pub &'a Page);

impl Words<'_> {
    /// The name of a node.
    pub fn node(self, index: usize) -> String {
        match self.0.nodes.get(index) {
            Some(name) => name.clone(),
            None => format!("#{index}"),
        }
    }

    fn op(self, op: Option<u32>) -> String {
        let Some(op) = op else {
            return "unknown".to_owned();
        };
        match self.0.ops.get(&op) {
            Some(operation) => operation.label.clone(),
            None => format!("op {op}"),
        }
    }

    /// The kind and text of an observation.
    pub fn event(self, seen: &Seen) -> (Kind, String) {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let peer = || seen.peer.map_or_else(|| "?".to_owned(), |n| self.node(n));
        match seen.kind.as_str() {
            "step" => (Kind::Step, self.step(seen.step)),
            "started" => (Kind::Process, "started".to_owned()),
            "ended" if seen.clean == Some(true) => (Kind::Process, "ended".to_owned()),
            "ended" => (Kind::Process, "ended without a goodbye".to_owned()),
            "link" => {
                let (state, why) = (text(&seen.state), text(&seen.why));
                (Kind::Link, format!("link {} {state}: {why}", peer()))
            }
            "path" => {
                let (class, detail) = (text(&seen.class), text(&seen.detail));
                (Kind::Link, format!("path {} {class}: {detail}", peer()))
            }
            "peer_restarted" => (Kind::Link, format!("{} is a new incarnation", peer())),
            "refused" => (Kind::Refused, format!("refused: {}", text(&seen.counter))),
            "error" => (Kind::Error, format!("ERROR {}", text(&seen.log_line))),
            "stream" => (Kind::Seen, self.stream(seen)),
            "datagrams" => (Kind::Seen, self.datagrams(seen)),
            "strange_datagram" => {
                let from = seen.from.map_or_else(|| "nobody".into(), |n| self.node(n));
                let len = seen.len.unwrap_or(0);
                (
                    Kind::Error,
                    format!("strange datagram, {len} bytes, from {from}"),
                )
            }
            "queue" => {
                let (len, max) = (seen.len.unwrap_or(0), seen.max.unwrap_or(0));
                let text = format!("queue {} at most {len} of {max}", text(&seen.name));
                (Kind::Seen, text)
            }
            "final" => {
                let (state, class) = (text(&seen.state), text(&seen.class));
                (
                    Kind::Seen,
                    format!("at the end, {}: {state} {class}", peer()),
                )
            }
            other => (Kind::Seen, other.to_owned()),
        }
    }

    fn step(self, step: Option<usize>) -> String {
        let Some(step) = step else {
            return "step".to_owned();
        };
        match self.0.steps.get(step) {
            Some((_, label, true)) => format!("fault: {label}"),
            Some((_, label, false)) => label.clone(),
            None => format!("step {step}"),
        }
    }

    fn stream(self, seen: &Seen) -> String {
        let mut text = self.op(seen.op);
        text.push_str(match seen.side.as_deref() {
            Some("server") => ", server:",
            _ => ", client:",
        });
        text.push_str(if seen.complete == Some(true) {
            " complete"
        } else {
            " incomplete"
        });
        let (sent, received) = (seen.sent.unwrap_or(0), seen.received.unwrap_or(0));
        text.push_str(&format!(", {sent} bytes sent, {received} received"));
        if let Some(attempts) = seen.attempts.filter(|n| *n > 1) {
            text.push_str(&format!(", {attempts} tries"));
        }
        if let Some(gap) = seen.gap_max {
            text.push_str(&format!(", silent for {:?} at most", round(gap)));
        }
        if let Some(reset) = &seen.reset {
            text.push_str(&format!(", broken: {reset}"));
        }
        if let Some(at) = seen.altered_at {
            text.push_str(&format!(", ALTERED at byte {at}"));
        }
        text
    }

    fn datagrams(self, seen: &Seen) -> String {
        let (sent, received) = (seen.sent.unwrap_or(0), seen.received.unwrap_or(0));
        let repeated = seen.repeated.unwrap_or(0);
        let op = self.op(seen.op);
        let mut text = format!("{op}: {sent} datagrams sent, {received} received");
        if repeated > 0 {
            text.push_str(&format!(", {repeated} repeated"));
        }
        if let Some(gap) = seen.gap_max {
            text.push_str(&format!(", silent for {:?} at most", round(gap)));
        }
        text
    }

    /// The bar of a conversation's end. One of datagrams begins with its step.
    pub fn flow(self, t_ns: u64, lane: usize, seen: &Seen) -> Option<Flow> {
        let (from_ns, is_ok, detail) = match seen.kind.as_str() {
            "stream" => (
                seen.opened_at?,
                seen.complete? && seen.altered_at.is_none(),
                self.stream(seen),
            ),
            "datagrams" => {
                let operation = self.0.ops.get(&seen.op?)?;
                (
                    limit::nanos(operation.at),
                    seen.received? > 0,
                    self.datagrams(seen),
                )
            }
            _ => return None,
        };
        let to_ns = seen.finished_at.unwrap_or(t_ns).max(from_ns);
        let gap = self.0.gaps.iter().find(|gap| Some(gap.op) == seen.op);
        let is_client = seen.side.as_deref() != Some("server");
        Some(Flow {
            lane,
            label: limit::cut(&self.op(seen.op)),
            from_ns,
            to_ns,
            is_ok,
            gap: gap
                .filter(|_| is_client)
                .map(|gap| (limit::nanos(gap.at), limit::nanos(gap.length))),
            detail: limit::cut(&detail),
        })
    }
}

/// To the millisecond.
fn round(ns: u64) -> Duration {
    Duration::from_millis(ns / 1_000_000)
}
