//! The states of links over time, from what an observer saw or, in a flight recorder's dump, from
//! what the machine put out.

use std::collections::BTreeMap;

use super::Words;
use crate::limit::{self, LINKS_MAX};
use crate::line::Seen;

/// One end of a link.
#[derive(Debug, PartialEq, Eq)]
pub struct LinkRow {
    /// Whose end.
    pub lane: usize,
    /// With whom.
    pub peer: String,
    /// Its states, in order of time.
    pub spans: Vec<Span>,
}

/// One state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub from_ns: u64,
    pub to_ns: u64,
    /// `idle`, `signaling`, `connecting`, `up` or `down`.
    pub state: String,
    /// `direct`, `relay`, or nothing when no path was chosen yet.
    pub class: String,
    /// Why it began.
    pub why: String,
}

/// What changes at one end.
#[derive(Clone, Debug)]
enum Change {
    State(String),
    Class(String),
    Gone,
}

#[derive(Debug)]
struct Turn {
    t_ns: u64,
    change: Change,
    why: String,
}

/// Changes, by lane and peer; what observers saw apart from what machines said, since a
/// simulation has both.
#[derive(Debug, Default)]
pub struct Links {
    seen: BTreeMap<(usize, String), Vec<Turn>>,
    said: BTreeMap<(usize, String), Vec<Turn>>,
    left_out: usize,
}

impl Links {
    /// An observation.
    pub fn seen(&mut self, t_ns: u64, lane: usize, seen: &Seen, words: Words<'_>) {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (change, why) = match seen.kind.as_str() {
            "link" => (Change::State(text(&seen.state)), text(&seen.why)),
            "path" => (Change::Class(text(&seen.class)), text(&seen.detail)),
            "ended" => {
                let ours = self.seen.iter_mut().filter(|(key, _)| key.0 == lane);
                for (_, turns) in ours {
                    turns.push(Turn {
                        t_ns,
                        change: Change::Gone,
                        why: "the process ended".to_owned(),
                    });
                }
                return;
            }
            _ => return,
        };
        let Some(peer) = seen.peer else { return };
        let turn = Turn { t_ns, change, why };
        add(
            &mut self.seen,
            &mut self.left_out,
            (lane, words.node(peer)),
            turn,
        );
    }

    /// An output of a machine, when it is the event of a link.
    pub fn output(&mut self, t_ns: u64, lane: usize, text: &str) {
        let field = |name: &str| {
            let (_, rest) = text.split_once(&format!("{name}: "))?;
            let end = rest.find([',', '}']).unwrap_or(rest.len());
            Some(rest[..end].trim_matches([' ', '"']).to_owned())
        };
        let quoted = |name: &str| {
            let (_, rest) = text.split_once(&format!("{name}: \""))?;
            rest.split_once('"').map(|(value, _)| value.to_owned())
        };
        let peer = text
            .split_once("PeerId(\"")
            .and_then(|(_, rest)| rest.split_once('"'));
        let Some((peer, _)) = peer else { return };
        let key = (lane, peer.to_owned());
        let why = quoted("why").unwrap_or_default();
        let change = if text.starts_with("LinkState ") {
            let lower = |name| field(name).unwrap_or_default().to_lowercase();
            if !self.said.contains_key(&key) {
                let turn = Turn {
                    t_ns: 0,
                    change: Change::State(lower("from")),
                    why: String::new(),
                };
                add(&mut self.said, &mut self.left_out, key.clone(), turn);
            }
            Change::State(lower("to"))
        } else if text.starts_with("PathSelected ") {
            Change::Class(quoted("class").unwrap_or_default())
        } else {
            return;
        };
        let turn = Turn { t_ns, change, why };
        add(&mut self.said, &mut self.left_out, key, turn);
    }

    /// The rows, by lane and peer.
    pub fn finish(mut self, end_ns: u64, notes: &mut Vec<String>) -> Vec<LinkRow> {
        limit::note(notes, self.left_out, "changes of links", limit::LATEST);
        let observed = |key: &(usize, String)| self.seen.keys().any(|(lane, _)| *lane == key.0);
        self.said.retain(|key, _| !observed(key));
        self.said.append(&mut self.seen);
        let rows = self.said.into_iter().map(|((lane, peer), turns)| LinkRow {
            lane,
            peer,
            spans: spans(turns, end_ns),
        });
        rows.collect()
    }
}

type Turns = BTreeMap<(usize, String), Vec<Turn>>;

/// Changes of one link that are kept: one that flaps more often is as good as a solid bar.
const TURNS_MAX: usize = 4_000;

fn add(turns: &mut Turns, left_out: &mut usize, key: (usize, String), mut turn: Turn) {
    let key = (key.0, limit::cut(&key.1));
    if turns.len() >= LINKS_MAX && !turns.contains_key(&key) {
        *left_out += 1;
        return;
    }
    let ours = turns.entry(key).or_default();
    if ours.len() >= TURNS_MAX {
        *left_out += 1;
        return;
    }
    turn.why = limit::cut(&turn.why);
    ours.push(turn);
}

fn spans(mut turns: Vec<Turn>, end_ns: u64) -> Vec<Span> {
    turns.sort_by_key(|turn| turn.t_ns);
    let mut spans: Vec<Span> = Vec::new();
    let (mut state, mut class) = (String::new(), String::new());
    for turn in turns {
        if let Some(last) = spans.last_mut() {
            last.to_ns = last.to_ns.min(turn.t_ns);
        }
        match turn.change {
            Change::State(new) => state = limit::cut(&new),
            Change::Class(new) => class = limit::cut(&new),
            Change::Gone => (state, class) = (String::new(), String::new()),
        }
        // A path is chosen a moment before or after the link is up.
        if !state.is_empty() {
            spans.push(Span {
                from_ns: turn.t_ns,
                to_ns: end_ns,
                state: state.clone(),
                class: class.clone(),
                why: turn.why,
            });
        }
    }
    spans.retain(|span| span.from_ns < span.to_ns);
    spans
}
