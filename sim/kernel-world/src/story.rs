//! What was seen, put in order at the end: it is told by many, and not in the order of time.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use holdfast_core::recorder::Record;
use holdfast_plan::{Figures, Journal, NodeIndex, Plan, SlotSeen, TraceMode, What};
use serde::Deserialize;

/// How many different reasons of deadlines are kept: far more than a machine has.
const REASONS_MAX: usize = 256;

/// A journal in the making.
pub struct Story<'a> {
    plan: &'a Plan,
    mode: TraceMode,
    told: Vec<(Duration, Told)>,
}

enum Told {
    Seen(Option<NodeIndex>, What),
    Record(NodeIndex, Record),
    Slot(Option<NodeIndex>, SlotSeen),
}

impl<'a> Story<'a> {
    pub fn new(plan: &'a Plan, mode: TraceMode) -> Story<'a> {
        Story {
            plan,
            mode,
            told: Vec::new(),
        }
    }

    pub fn is_traced(&self) -> bool {
        self.mode != TraceMode::Off
    }

    pub fn note(&mut self, at: Duration, node: Option<NodeIndex>, what: What) {
        self.told.push((at, Told::Seen(node, what)));
    }

    /// Something of the claims of slots was observed.
    pub fn note_slot(&mut self, at: Duration, node: Option<NodeIndex>, what: SlotSeen) {
        self.told.push((at, Told::Slot(node, what)));
    }

    /// A node said something that only a trace shows.
    pub fn say(&mut self, at: Duration, node: NodeIndex, what: String) {
        if self.is_traced() {
            let record = Record::Output { what };
            self.told.push((at, Told::Record(node, record)));
        }
    }

    /// What a node's flight recorder holds; it began at that time.
    pub fn record(&mut self, node: NodeIndex, started_at: Duration, lines: Vec<String>) {
        for line in lines {
            let Ok(line) = serde_json::from_str::<Line>(&line) else {
                continue;
            };
            let at = started_at + Duration::from_nanos(line.t_ns);
            self.told.push((at, Told::Record(node, line.record.into())));
        }
    }

    pub fn into_journal(mut self, ended_at: Duration, events: u64) -> Journal {
        // Stable: what happened at one time stays in the order in which it was told.
        self.told.sort_by_key(|(at, _)| *at);
        let mut journal = Journal::new(self.mode);
        let name = |node: NodeIndex| self.plan.topology.node(node).name.as_str();
        for (at, told) in self.told {
            match told {
                Told::Seen(node, what) => {
                    journal.note(at, node.map(|node| (node, name(node))), what);
                }
                Told::Slot(node, what) => {
                    journal.note_slot(at, node.map(|node| (node, name(node))), what);
                }
                Told::Record(node, record) => journal.trace.record(at, name(node), &record),
            }
        }
        journal.ended_at = ended_at;
        journal.figures = Figures {
            // Nobody counts them here.
            datagrams: 0,
            events,
        };
        journal
    }
}

#[derive(Deserialize)]
struct Line {
    t_ns: u64,
    #[serde(flatten)]
    record: Read,
}

/// [`Record`], as it is read.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Read {
    Rx {
        from: SocketAddr,
        len: usize,
        hash: u64,
    },
    Tx {
        to: SocketAddr,
        len: usize,
        segment: usize,
        hash: u64,
    },
    Input {
        what: String,
    },
    Deadline {
        why: String,
    },
    Output {
        what: String,
    },
}

impl From<Read> for Record {
    fn from(read: Read) -> Record {
        match read {
            Read::Rx { from, len, hash } => Record::Rx { from, len, hash },
            Read::Tx {
                to,
                len,
                segment,
                hash,
            } => Record::Tx {
                to,
                len,
                segment,
                hash,
            },
            Read::Input { what } => Record::Input { what },
            Read::Deadline { why } => Record::Deadline { why: reason(why) },
            Read::Output { what } => Record::Output { what },
        }
    }
}

/// A reason for a deadline, for ever: the machine names them by constants.
fn reason(why: String) -> &'static str {
    static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known.get(why.as_str()) {
        return found;
    }
    if known.len() >= REASONS_MAX {
        return "another";
    }
    let kept: &'static str = why.leak();
    known.insert(kept);
    kept
}
