//! Journals by hand.

use std::time::Duration;

use holdfast_core::status::LinkState;
use holdfast_plan::{
    Action, DatagramReport, Entry, Journal, NodeIndex, Op, OpId, OpKind, Plan, Service, Side,
    SlotEntry, SlotSeen, Step, StreamReport, What, WorldKind,
};

use super::{Case, Violation};
use crate::Scenario;
use crate::scenario::format::Expect;

/// Two nodes, a and b, and what is said to have happened, one second each.
pub(super) struct Stage {
    pub plan: Plan,
    pub journal: Journal,
    pub expect: Expect,
    pub converge_within: Duration,
}

const SCENARIO: &str = r#"
name = "by-hand"
description = "Two nodes."
worlds = ["core"]
duration = "60s"
node = [{ name = "a" }, { name = "b" }]
"#;

impl Stage {
    pub fn new() -> Stage {
        let scenario = Scenario::parse("", SCENARIO).unwrap_or_else(|p| panic!("{p}"));
        let mut plan = scenario.plan(0, WorldKind::Core);
        plan.steps.clear();
        Stage {
            plan,
            journal: Journal::default(),
            expect: Expect::default(),
            converge_within: Duration::from_secs(10),
        }
    }

    pub fn now(&self) -> Duration {
        Duration::from_secs(self.journal.entries.len() as u64)
    }

    pub fn note(&mut self, node: u16, what: What) {
        let at = self.now();
        let node = Some(NodeIndex(node));
        self.journal.entries.push(Entry { at, node, what });
        self.journal.ended_at = at;
    }

    pub fn slot(&mut self, at_s: u64, node: Option<u16>, what: SlotSeen) {
        self.slot_at(Duration::from_secs(at_s), node, what);
    }

    pub fn slot_at(&mut self, at: Duration, node: Option<u16>, what: SlotSeen) {
        let node = node.map(NodeIndex);
        self.journal.slots.push(SlotEntry { at, node, what });
    }

    pub fn client(&mut self, report: StreamReport) {
        self.note(0, What::Stream(report));
    }

    pub fn step(&mut self, action: Action) {
        let (at, label) = (Duration::ZERO, String::new());
        self.plan.steps.push(Step { at, action, label });
    }

    pub fn happened(&mut self, step: usize) {
        self.note(0, What::Step { step });
    }

    /// A stream of so many bytes, or ten datagrams when there are none.
    pub fn op(&mut self, name: &str, from: u16, to: u16, service: Service, bytes: u64) -> OpId {
        let kind = match bytes {
            0 => OpKind::Datagrams {
                count: 10,
                interval: Duration::from_millis(10),
                len_bytes: 100,
            },
            bytes => OpKind::Stream {
                bytes,
                patience: Duration::ZERO,
            },
        };
        let id = OpId(self.plan.steps.len() as u32 + 100);
        self.step(Action::Traffic(Op {
            id,
            name: name.to_owned(),
            from: NodeIndex(from),
            to: NodeIndex(to),
            service,
            kind,
        }));
        id
    }

    pub fn judged(&self, oracle: impl Fn(&Case<'_>) -> Vec<Violation>) -> Vec<String> {
        let case = Case {
            expect: &self.expect,
            converge_within: self.converge_within,
            plan: &self.plan,
            journal: &self.journal,
        };
        oracle(&case).into_iter().map(|v| v.detail).collect()
    }
}

pub(super) fn client(op: OpId, received: u64, complete: bool) -> StreamReport {
    StreamReport {
        side: Side::Client,
        op: Some(op),
        peer: None,
        attempts: 1,
        opened_at: Some(Duration::ZERO),
        first_byte_at: None,
        sent: received,
        received,
        altered_at: None,
        finished_at: complete.then_some(Duration::from_secs(1)),
        complete,
        reset: None,
        gap_max: None,
    }
}

pub(super) fn server(op: OpId, received: u64) -> StreamReport {
    StreamReport {
        side: Side::Server,
        ..client(op, received, false)
    }
}

pub(super) fn flow(op: OpId, sent: u64, received: u64) -> DatagramReport {
    DatagramReport {
        op,
        sent,
        received,
        repeated: 0,
        gap_max: None,
    }
}

pub(super) fn link(peer: u16, state: LinkState) -> What {
    What::Link {
        peer: NodeIndex(peer),
        state,
        why: "by hand".to_owned(),
    }
}
