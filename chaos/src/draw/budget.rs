//! What the faults of a swarm may do at one time.

use std::time::Duration;

use holdfast_plan::{Device, NodeIndex, Topology};

use crate::plan::schedule::{self, Hold};
use crate::scenario::File;
use crate::scenario::device_named;
use crate::scenario::format::{Fault, FaultKind, Swarm};

type Span = (Duration, Duration);

/// What is taken.
pub(super) struct Budget<'a> {
    topology: &'a Topology,
    down_max: usize,
    down: Vec<(NodeIndex, Span)>,
    holds: Vec<(Hold, Span)>,
}

impl<'a> Budget<'a> {
    /// The faults of the file have theirs already.
    pub fn new(swarm: &Swarm, file: &File, topology: &'a Topology) -> Budget<'a> {
        let mut budget = Budget {
            topology,
            down_max: swarm.down_max.unwrap_or(1) as usize,
            down: Vec::new(),
            holds: Vec::new(),
        };
        for fault in &file.fault {
            budget.note(fault);
        }
        budget
    }

    /// Takes what a fault needs, if it is there.
    pub fn take(&mut self, fault: &Fault) -> bool {
        let span = schedule::span(fault);
        let held = schedule::holds(fault, self.topology);
        let is_held = |hold: &Hold| {
            self.holds
                .iter()
                .any(|(h, s)| h == hold && overlap(*s, span))
        };
        if held.iter().any(is_held) {
            return false;
        }
        if let Some(node) = is_down(fault, self.topology) {
            let meanwhile = self.down.iter().filter(|(_, other)| overlap(*other, span));
            let mut others: Vec<NodeIndex> = meanwhile.map(|(node, _)| *node).collect();
            others.sort();
            others.dedup();
            if others.contains(&node) || others.len() >= self.down_max {
                return false;
            }
        }
        self.note(fault);
        true
    }

    fn note(&mut self, fault: &Fault) {
        let span = schedule::span(fault);
        let held = schedule::holds(fault, self.topology);
        self.holds.extend(held.into_iter().map(|hold| (hold, span)));
        let down = is_down(fault, self.topology);
        self.down.extend(down.map(|node| (node, span)));
    }
}

fn overlap(a: Span, b: Span) -> bool {
    a.0 <= b.1 && b.0 <= a.1
}

/// The node that is down, paused, cut off or away while a fault is there.
pub(crate) fn is_down(fault: &Fault, topology: &Topology) -> Option<NodeIndex> {
    let node = || fault.node.as_deref().and_then(|name| topology.find(name));
    match fault.kind {
        kind if schedule::is_process(kind) => node(),
        // Without an end it is a change for good, not an absence.
        FaultKind::Move if fault.lasts.is_some() => node(),
        FaultKind::Link => {
            let device = device_named(topology, fault.device.as_deref()?)?;
            let Device::Node(node) = device else {
                return None;
            };
            let links = fault.link?.links(topology.node(node).links);
            (links.up.blackhole || links.down.blackhole).then_some(node)
        }
        _ => None,
    }
}
