//! From lines to lanes, links, flows, messages and events.

mod links;
mod words;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::arrows;
use crate::limit::{self, EVENTS_MAX, FLOWS_MAX, LANES_MAX, LINES_MAX, LINKS_MAX, MESSAGES_MAX};
use crate::line::{Message, Record, Seen, What};
use crate::page::Page;

pub use links::LinkRow;
pub use words::Words;

/// In how many parts of the run messages are counted, for the overview.
const DENSITY_BUCKETS: usize = 600;
/// The lane of a flight recorder, which does not say whose it is.
const OWN_LANE: &str = "this node";
/// Where lines of more than [`LANES_MAX`] nodes go.
const OTHER_LANE: &str = "(others)";

/// A node or a server.
#[derive(Debug)]
pub struct Lane {
    /// Its name.
    pub name: String,
    /// Whether the plan does not name it.
    pub is_server: bool,
}

/// One or more datagrams.
#[derive(Clone, Debug)]
pub struct Packet {
    pub t_ns: u64,
    pub line: u64,
    pub lane: usize,
    pub message: Message,
    /// Of one that was sent: the position of the one that arrived.
    pub arrived: Option<usize>,
    /// Whether that is not certain.
    pub is_guess: bool,
}

/// Something else that happened.
#[derive(Clone, Debug)]
pub struct Event {
    pub t_ns: u64,
    pub line: u64,
    pub lane: Option<usize>,
    pub kind: Kind,
    pub text: String,
}

/// Which kind of event: what is left out first comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Error,
    Process,
    Link,
    Step,
    Refused,
    Seen,
    Output,
    Input,
    Deadline,
}

impl Kind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Kind; 9] = [
        Kind::Error,
        Kind::Process,
        Kind::Link,
        Kind::Step,
        Kind::Refused,
        Kind::Seen,
        Kind::Output,
        Kind::Input,
        Kind::Deadline,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Error => "error",
            Kind::Process => "process",
            Kind::Link => "link",
            Kind::Step => "step",
            Kind::Refused => "refused",
            Kind::Seen => "seen",
            Kind::Output => "output",
            Kind::Input => "input",
            Kind::Deadline => "deadline",
        }
    }
}

/// One end of a conversation of applications.
#[derive(Debug)]
pub struct Flow {
    pub lane: usize,
    pub label: String,
    pub from_ns: u64,
    pub to_ns: u64,
    pub is_ok: bool,
    pub gap: Option<(u64, u64)>,
    pub detail: String,
}

/// Everything that the page shows.
#[derive(Debug)]
pub struct Collected {
    pub end_ns: u64,
    pub lanes: Vec<Lane>,
    pub links: Vec<LinkRow>,
    pub flows: Vec<Flow>,
    pub packets: Vec<Packet>,
    pub events: Vec<Event>,
    /// Of each lane: how many datagrams left and arrived in each part of the run.
    pub density: Vec<[Vec<u32>; 2]>,
    /// Whether some messages are in the counts only.
    pub is_thinned: bool,
    /// What is left out, in words.
    pub notes: Vec<String>,
}

/// Takes lines, one by one.
pub struct Collector<'a> {
    page: &'a Page,
    lanes: Vec<Lane>,
    by_name: BTreeMap<String, usize>,
    links: links::Links,
    book: arrows::Book,
    flows: Vec<Flow>,
    packets: Vec<Packet>,
    events: Vec<Event>,
    lines: u64,
    end_ns: u64,
}

impl<'a> Collector<'a> {
    /// One that knows the plan.
    pub fn new(page: &'a Page) -> Collector<'a> {
        let mut collector = Collector {
            page,
            lanes: Vec::new(),
            by_name: BTreeMap::new(),
            links: links::Links::default(),
            book: arrows::Book::new(),
            flows: Vec::new(),
            packets: Vec::new(),
            events: Vec::new(),
            lines: 0,
            end_ns: 0,
        };
        for name in &page.nodes {
            collector.lane(name);
        }
        collector
    }

    fn lane(&mut self, name: &str) -> usize {
        if let Some(lane) = self.by_name.get(name) {
            return *lane;
        }
        if self.lanes.len() > LANES_MAX {
            return LANES_MAX;
        }
        let lane = self.lanes.len();
        let name = if lane == LANES_MAX { OTHER_LANE } else { name };
        let name = limit::cut(name);
        let of_plan = &self.page.nodes;
        self.lanes.push(Lane {
            is_server: !of_plan.is_empty() && !of_plan.contains(&name),
            name: name.clone(),
        });
        self.by_name.insert(name, lane);
        lane
    }

    /// The next line.
    pub fn add(&mut self, record: Record) {
        self.lines += 1;
        if self.lines > LINES_MAX {
            return;
        }
        let Record {
            line, t_ns, node, ..
        } = record;
        self.end_ns = self.end_ns.max(t_ns);
        // What no node saw is the world's: a step. Without `node`, a flight recorder speaks.
        let lane = match (&node, &record.what) {
            (Some(name), _) => Some(self.lane(name)),
            (None, What::Seen(_)) => None,
            (None, _) => Some(self.lane(OWN_LANE)),
        };
        let (kind, text) = match record.what {
            What::Message(message) => {
                let lane = lane.unwrap_or_default();
                return self.packets.push(Packet {
                    t_ns,
                    line,
                    lane,
                    message,
                    arrived: None,
                    is_guess: false,
                });
            }
            What::Input(text) => (Kind::Input, text),
            What::Deadline(text) => (Kind::Deadline, text),
            What::Output(text) => {
                if let Some(lane) = lane {
                    self.links.output(t_ns, lane, &text);
                }
                (Kind::Output, text)
            }
            What::Seen(seen) => self.seen(t_ns, lane, &seen),
        };
        self.events.push(Event {
            t_ns,
            line,
            lane,
            kind,
            text: limit::cut(&text),
        });
    }

    fn seen(&mut self, t_ns: u64, lane: Option<usize>, seen: &Seen) -> (Kind, String) {
        let words = Words(self.page);
        if let Some(lane) = lane {
            self.learn_address(lane, seen, words);
            self.links.seen(t_ns, lane, seen, words);
            if let Some(flow) = words.flow(t_ns, lane, seen) {
                self.flows.push(flow);
            }
        }
        words.event(seen)
    }

    /// A path says whose an address is: `host 10.0.0.1:5000 to srflx 203.0.113.9:5000: why`.
    fn learn_address(&mut self, lane: usize, seen: &Seen, words: Words<'_>) {
        let (Some(peer), Some(detail)) = (seen.peer, &seen.detail) else {
            return;
        };
        let Some(peer) = self.by_name.get(&words.node(peer)) else {
            return;
        };
        let remote = detail.split_once(" to ").map_or("", |(_, remote)| remote);
        let address = remote.split_whitespace().nth(1).unwrap_or_default();
        let address = address.trim_end_matches(':');
        if self.book.len() < LINKS_MAX && address.parse::<SocketAddr>().is_ok() {
            self.book.insert((lane, address.to_owned()), *peer);
        }
    }

    /// No more lines.
    pub fn finish(mut self) -> Collected {
        let violations = self.page.violations.iter().map(|(at, _)| limit::nanos(*at));
        let end_ns = violations.chain([self.end_ns, 1]).max().unwrap_or(1);
        let mut notes = Vec::new();
        if self.lines > LINES_MAX {
            let left = self.lines - LINES_MAX;
            notes.push(format!("The last {left} lines are left out."));
        }
        if self.lanes.len() > LANES_MAX {
            notes.push(format!(
                "More than {LANES_MAX} nodes: the rest share a lane."
            ));
        }
        self.packets.sort_by_key(|packet| packet.t_ns);
        self.events.sort_by_key(|event| event.t_ns);
        let density = density(&self.packets, self.lanes.len(), end_ns);
        arrows::find(&mut self.packets, std::mem::take(&mut self.book));
        let interest = self.interest();
        let packets = std::mem::take(&mut self.packets);
        let (packets, left) = limit::nearest(packets, MESSAGES_MAX, &interest, |p| (0, p.t_ns));
        limit::note(&mut notes, left, "messages", limit::FARTHEST);
        let is_thinned = left > 0;
        let rank = |e: &Event| (e.kind as u64, e.t_ns);
        let (events, left) = limit::nearest(self.events, EVENTS_MAX, &interest, rank);
        limit::note(&mut notes, left, "events", limit::FARTHEST);
        let left = self.flows.len().saturating_sub(FLOWS_MAX);
        self.flows.truncate(FLOWS_MAX);
        limit::note(&mut notes, left, "streams", limit::LATEST);
        let links = self.links.finish(end_ns, &mut notes);
        Collected {
            end_ns,
            packets: limit::renumber(packets),
            events: events.into_iter().map(|(_, event)| event).collect(),
            lanes: self.lanes,
            flows: self.flows,
            links,
            density,
            is_thinned,
            notes,
        }
    }

    /// When something happened that one wants to see the surroundings of.
    fn interest(&self) -> Vec<u64> {
        let events = self.events.iter().filter(|event| event.kind <= Kind::Step);
        let violations = self.page.violations.iter().map(|(at, _)| limit::nanos(*at));
        let mut times: Vec<u64> = events.map(|e| e.t_ns).chain(violations).collect();
        times.sort_unstable();
        times.dedup();
        times
    }
}

fn density(packets: &[Packet], lanes: usize, end_ns: u64) -> Vec<[Vec<u32>; 2]> {
    let empty = || vec![0_u32; DENSITY_BUCKETS];
    let mut density: Vec<_> = (0..lanes).map(|_| [empty(), empty()]).collect();
    for packet in packets {
        let part = u128::from(packet.t_ns) * DENSITY_BUCKETS as u128 / u128::from(end_ns);
        let part = (part as usize).min(DENSITY_BUCKETS - 1);
        density[packet.lane][usize::from(!packet.message.is_tx)][part] += 1;
    }
    density
}
