//! What an observer outside of the system saw, and the trace of every machine.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use holdfast_core::recorder::Record;
use holdfast_core::status::LinkState;
use serde::Serialize;

use crate::{NodeIndex, OpId, PathClass, SlotEntry, SlotSeen};

/// What a world reports of one run.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// What was observed, in order of time.
    pub entries: Vec<Entry>,
    /// What was observed of the claims of slots, in order of time.
    pub slots: Vec<SlotEntry>,
    /// When the run ended.
    pub ended_at: Duration,
    /// Every input and output of every machine.
    pub trace: Trace,
    /// What it cost.
    pub figures: Figures,
    /// How often each coverage mark of the core was passed.
    pub marks: BTreeMap<&'static str, u64>,
}

/// What a run cost. Nothing of it goes into a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Datagrams that nodes and servers sent.
    pub datagrams: u64,
    /// Events that the world worked off.
    pub events: u64,
}

/// Something that was observed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// When, from the start of the world.
    #[serde(rename = "t_ns", serialize_with = "nanos")]
    pub at: Duration,
    /// At which node, if at one.
    pub node: Option<NodeIndex>,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

pub(crate) fn nanos<S: serde::Serializer>(at: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(at.as_nanos()).unwrap_or(u64::MAX))
}

/// What was observed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "seen", rename_all = "snake_case")]
pub enum What {
    /// A step of the plan, by its position, happened.
    Step {
        /// Position in [`crate::Plan::steps`].
        step: usize,
    },
    /// The node's process runs.
    Started,
    /// The node's process ended.
    Ended {
        /// It ended by itself, after a goodbye.
        clean: bool,
    },
    /// A link changed its state.
    Link {
        /// With whom.
        peer: NodeIndex,
        /// The state it entered.
        state: LinkState,
        /// Why.
        why: String,
    },
    /// A link's traffic moved to another path.
    Path {
        /// With whom.
        peer: NodeIndex,
        /// Its class.
        class: PathClass,
        /// Both ends of it and why, for people.
        detail: String,
    },
    /// A peer was recognised as restarted.
    PeerRestarted {
        /// Who.
        peer: NodeIndex,
    },
    /// Something from outside was refused.
    Refused {
        /// The counter that it went to.
        counter: String,
    },
    /// A line at level ERROR in the node's log.
    Error {
        /// The line.
        line: String,
    },
    /// One end of a stream is done, or the run is.
    Stream(StreamReport),
    /// A datagram conversation is done, or the run is.
    Datagrams(DatagramReport),
    /// A datagram reached an application that nobody sent, or not like that.
    StrangeDatagram {
        /// Who it claims to come from, when the address is a node's.
        from: Option<NodeIndex>,
        /// Its length, bytes.
        len: usize,
    },
    /// The fullest that a queue of the node has been in this run.
    Queue(QueueReport),
    /// How a link was when the run ended, one for each end.
    Final(LinkFinal),
}

/// Which end of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The one that began.
    Client,
    /// The one that serves.
    Server,
}

/// One end of one stream. A client that tries again reports the last try only, a server every
/// stream that reached it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StreamReport {
    /// Which end.
    pub side: Side,
    /// The operation; `None` at a server that got no valid header.
    pub op: Option<OpId>,
    /// The node at the other end: at a server, by the address that it saw.
    pub peer: Option<NodeIndex>,
    /// Client: how often it began.
    pub attempts: u32,
    /// When this end opened or accepted it.
    #[serde(serialize_with = "optional_nanos")]
    pub opened_at: Option<Duration>,
    /// When the first byte arrived here.
    #[serde(serialize_with = "optional_nanos")]
    pub first_byte_at: Option<Duration>,
    /// Bytes handed to the system.
    pub sent: u64,
    /// Bytes that arrived here.
    pub received: u64,
    /// Where the first byte is that was not sent like that.
    pub altered_at: Option<u64>,
    /// When the end of the stream was read, cleanly.
    #[serde(serialize_with = "optional_nanos")]
    pub finished_at: Option<Duration>,
    /// Everything that should arrive here did.
    pub complete: bool,
    /// How it broke, when it did.
    pub reset: Option<String>,
    /// The longest time without a byte between the first and the last, and when it began.
    #[serde(serialize_with = "optional_gap")]
    pub gap_max: Option<(Duration, Duration)>,
}

fn optional_nanos<S: serde::Serializer>(at: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => nanos(at, s),
        None => s.serialize_none(),
    }
}

fn optional_gap<S: serde::Serializer>(
    gap: &Option<(Duration, Duration)>,
    s: S,
) -> Result<S::Ok, S::Error> {
    optional_nanos(&gap.map(|(length, _)| length), s)
}

/// One conversation by datagrams, as the client saw it; for a sink, as the server did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DatagramReport {
    /// The operation.
    pub op: OpId,
    /// Datagrams that the client sent.
    pub sent: u64,
    /// Different ones that arrived: back at the client of an echo, at the server of a sink.
    pub received: u64,
    /// Copies that arrived beyond the first.
    pub repeated: u64,
    /// The longest time without one, between the first and the last, and when it began.
    #[serde(serialize_with = "optional_gap")]
    pub gap_max: Option<(Duration, Duration)>,
}

/// The fullest that a queue has been.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueReport {
    /// Which, in the machine's words.
    pub name: String,
    /// The most that was in it.
    pub len: u64,
    /// Its bound.
    pub max: u64,
}

/// How a link was at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkFinal {
    /// With whom.
    pub peer: NodeIndex,
    /// Its state.
    pub state: LinkState,
    /// The class of the path in use, if any.
    pub class: Option<PathClass>,
}

/// How much of a trace is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TraceMode {
    /// Nothing is even looked at.
    #[default]
    Off,
    /// A digest, to compare runs.
    Digest,
    /// Every line, to read and to show.
    Full,
}

/// Every input and output of every machine, as one digest or as lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    mode: TraceMode,
    digest: u64,
    count: u64,
    lines: Vec<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    t_ns: u64,
    node: Option<&'a str>,
    #[serde(flatten)]
    record: &'a Record,
}

impl Trace {
    /// An empty trace.
    #[must_use]
    pub const fn new(mode: TraceMode) -> Trace {
        Trace {
            mode,
            digest: 0,
            count: 0,
            lines: Vec::new(),
        }
    }

    /// Whether there is any use in calling [`Trace::record`].
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.mode != TraceMode::Off
    }

    /// A machine took or gave something. `node` names a node or a server.
    pub fn record(&mut self, at: Duration, node: &str, record: &Record) {
        if !self.is_on() {
            return;
        }
        let t_ns = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        self.add(t_ns, Some(node), record);
    }

    /// An observation, so that traces show it in its place.
    pub fn entry(&mut self, entry: &Entry, node: Option<&str>) {
        if !self.is_on() {
            return;
        }
        self.seen(entry.at, node, &entry.what);
    }

    fn seen(&mut self, at: Duration, node: Option<&str>, what: &impl Serialize) {
        let what = serde_json::to_value(what);
        let t_ns = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        let line = serde_json::json!({
            "t_ns": t_ns,
            "node": node,
            "kind": "seen",
            "what": what.expect("numbers and text are always JSON"),
        });
        self.push(line.to_string());
    }

    fn add(&mut self, t_ns: u64, node: Option<&str>, record: &Record) {
        if self.mode == TraceMode::Full {
            let line = Line { t_ns, node, record };
            let line = serde_json::to_string(&line);
            return self.push(line.expect("numbers, addresses and text are always JSON"));
        }
        // The same content without the cost of making text of it.
        let mut hasher = Hasher(self.digest ^ t_ns);
        let written = write!(hasher, "{node:?}{record:?}");
        written.expect("hashing cannot fail");
        self.digest = hasher.0;
        self.count += 1;
    }

    fn push(&mut self, line: String) {
        let mut hasher = Hasher(self.digest);
        hasher.write_str(&line).expect("hashing cannot fail");
        self.digest = hasher.0;
        self.count += 1;
        if self.mode == TraceMode::Full {
            self.lines.push(line);
        }
    }

    /// What two runs of one seed and one mode must agree on.
    #[must_use]
    pub const fn digest(&self) -> (u64, u64) {
        (self.digest, self.count)
    }

    /// Every line, in [`TraceMode::Full`].
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

/// FNV-1a over text: for comparing runs, not against malice.
struct Hasher(u64);

impl std::fmt::Write for Hasher {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}

impl Journal {
    /// A journal with a trace of that kind.
    #[must_use]
    pub fn new(mode: TraceMode) -> Journal {
        Journal {
            trace: Trace::new(mode),
            ..Journal::default()
        }
    }

    /// Something was observed. `name` is the node's, for the trace.
    pub fn note(&mut self, at: Duration, node: Option<(NodeIndex, &str)>, what: What) {
        let entry = Entry {
            at,
            node: node.map(|(index, _)| index),
            what,
        };
        self.trace.entry(&entry, node.map(|(_, name)| name));
        self.entries.push(entry);
    }

    /// Something of the claims of slots was observed. `name` is the node's, for the trace.
    pub fn note_slot(&mut self, at: Duration, node: Option<(NodeIndex, &str)>, what: SlotSeen) {
        if self.trace.is_on() {
            self.trace.seen(at, node.map(|(_, name)| name), &what);
        }
        let node = node.map(|(index, _)| index);
        self.slots.push(SlotEntry { at, node, what });
    }

    /// The stream reports.
    pub fn streams(&self) -> impl Iterator<Item = (&Entry, &StreamReport)> {
        self.entries.iter().filter_map(|entry| match &entry.what {
            What::Stream(report) => Some((entry, report)),
            _ => None,
        })
    }

    /// The report of an operation's client, of the last try.
    #[must_use]
    pub fn client(&self, op: OpId) -> Option<&StreamReport> {
        let ours = |r: &&StreamReport| r.side == Side::Client && r.op == Some(op);
        self.streams().map(|(_, report)| report).filter(ours).last()
    }

    /// The report of a datagram conversation.
    #[must_use]
    pub fn datagrams(&self, op: OpId) -> Option<&DatagramReport> {
        self.entries.iter().find_map(|entry| match &entry.what {
            What::Datagrams(report) if report.op == op => Some(report),
            _ => None,
        })
    }
}
