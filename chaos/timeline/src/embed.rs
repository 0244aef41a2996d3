//! The page around the data: one document that loads nothing.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::collect::{Collected, Kind};
use crate::limit;
use crate::page::Page;

const TEMPLATE: &str = include_str!("../assets/page.html");
const STYLE: &str = include_str!("../assets/page.css");
/// The script, in parts that share one scope.
const SCRIPT: [&str; 6] = [
    include_str!("../assets/data.js"),
    include_str!("../assets/view.js"),
    include_str!("../assets/draw.js"),
    include_str!("../assets/table.js"),
    include_str!("../assets/pointer.js"),
    include_str!("../assets/start.js"),
];
/// Bytes of text in a page, as JSON. Texts repeat, and each is there once.
const TEXT_BYTES_MAX: usize = 6 << 20;
const TEXT_LEFT_OUT: &str = "(text left out: there is too much)";

/// The whole document.
pub fn document(page: &Page, collected: Collected) -> String {
    let script = format!("(() => {{\n\"use strict\";\n{}\n}})();", SCRIPT.concat());
    let hash = STANDARD.encode(Sha256::digest(script.as_bytes()));
    let data = data(page, collected);
    // One pass, so that nothing that is put in is searched for places again.
    let mut html = String::with_capacity(TEMPLATE.len() + script.len() + data.len() + 65_536);
    let mut rest = TEMPLATE;
    while let Some((before, from_name)) = rest.split_once("{{") {
        let (name, after) = from_name
            .split_once("}}")
            .expect("the template is well-formed");
        html.push_str(before);
        match name {
            "title" => html.push_str(&markup(&page.title)),
            "hash" => html.push_str(&hash),
            "style" => html.push_str(STYLE),
            "script" => html.push_str(&script),
            "data" => html.push_str(&data),
            other => unreachable!("the template has no {other}"),
        }
        rest = after;
    }
    html.push_str(rest);
    html
}

/// As text between tags.
fn markup(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    out
}

/// JSON that no parser of HTML or of scripts can take for anything else: inside of JSON these
/// characters occur in strings only, where each has an escape.
fn safe(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out
}

/// Texts, each once.
#[derive(Default)]
struct Texts {
    by_text: BTreeMap<String, usize>,
    list: Vec<String>,
    bytes: usize,
}

impl Texts {
    fn add(&mut self, text: &str) -> usize {
        if let Some(n) = self.by_text.get(text) {
            return *n;
        }
        // Escaped, a character has at most 12 bytes.
        let bytes: usize = text
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { 1 } else { 12 })
            .sum();
        if self.bytes + bytes > TEXT_BYTES_MAX && text != TEXT_LEFT_OUT {
            return self.add(TEXT_LEFT_OUT);
        }
        self.bytes += bytes;
        let n = self.list.len();
        self.by_text.insert(text.to_owned(), n);
        self.list.push(text.to_owned());
        n
    }
}

/// Numbers that grow, each as its distance to the one before: shorter, and the script adds.
fn deltas(numbers: impl Iterator<Item = u64>) -> Vec<i64> {
    let mut before = 0_i64;
    numbers
        .map(|number| {
            let number = i64::try_from(number).unwrap_or(i64::MAX);
            number - std::mem::replace(&mut before, number)
        })
        .collect()
}

#[derive(Serialize)]
struct Packets {
    t: Vec<i64>,
    line: Vec<i64>,
    lane: Vec<usize>,
    tx: Vec<u8>,
    address: Vec<usize>,
    len: Vec<u64>,
    /// How many datagrams of one length it is.
    count: Vec<u64>,
    /// How many places behind it the one that arrived is; 0 when that is not known.
    arrived: Vec<usize>,
    /// Which of those are guesses.
    guesses: Vec<usize>,
}

#[derive(Serialize)]
struct Events {
    t: Vec<i64>,
    line: Vec<i64>,
    /// -1 is no lane: all.
    lane: Vec<i64>,
    kind: Vec<usize>,
    text: Vec<usize>,
}

fn packets(collected: &Collected, texts: &mut Texts) -> Packets {
    let all = &collected.packets;
    let count = |len: u64, segment: u64| {
        if segment == 0 {
            1
        } else {
            len.div_ceil(segment).max(1)
        }
    };
    let address = |text: &str| texts.add(&limit::cut(text));
    Packets {
        t: deltas(all.iter().map(|p| p.t_ns)),
        line: deltas(all.iter().map(|p| p.line)),
        lane: all.iter().map(|p| p.lane).collect(),
        tx: all.iter().map(|p| u8::from(p.message.is_tx)).collect(),
        address: all
            .iter()
            .map(|p| p.message.address.as_str())
            .map(address)
            .collect(),
        len: all.iter().map(|p| p.message.len).collect(),
        count: all
            .iter()
            .map(|p| count(p.message.len, p.message.segment))
            .collect(),
        arrived: (all.iter().enumerate())
            .map(|(n, p)| p.arrived.map_or(0, |other| other - n))
            .collect(),
        guesses: (all.iter().enumerate())
            .filter(|(_, p)| p.arrived.is_some() && p.is_guess)
            .map(|(n, _)| n)
            .collect(),
    }
}

fn events(collected: &Collected, texts: &mut Texts) -> Events {
    let all = &collected.events;
    Events {
        t: deltas(all.iter().map(|e| e.t_ns)),
        line: deltas(all.iter().map(|e| e.line)),
        lane: all
            .iter()
            .map(|e| e.lane.map_or(-1, |lane| lane as i64))
            .collect(),
        kind: all.iter().map(|e| e.kind as usize).collect(),
        text: all.iter().map(|e| texts.add(&e.text)).collect(),
    }
}

/// Everything that the script shows, as JSON.
fn data(page: &Page, collected: Collected) -> String {
    let mut texts = Texts::default();
    let packets = packets(&collected, &mut texts);
    let events = events(&collected, &mut texts);
    let links: Vec<_> = (collected.links.iter())
        .map(|link| {
            let spans = link.spans.iter().map(|s| {
                let [state, class, why] = [&s.state, &s.class, &s.why].map(|t| texts.add(t));
                (s.from_ns, s.to_ns, state, class, why)
            });
            let spans: Vec<_> = spans.collect();
            serde_json::json!({ "lane": link.lane, "peer": link.peer, "spans": spans })
        })
        .collect();
    let flows: Vec<_> = (collected.flows.iter())
        .map(|f| {
            let [label, detail] = [&f.label, &f.detail].map(|t| texts.add(t));
            (f.lane, label, f.from_ns, f.to_ns, f.is_ok, f.gap, detail)
        })
        .collect();
    let lanes: Vec<_> = (collected.lanes.iter())
        .map(|lane| serde_json::json!({ "name": lane.name, "server": lane.is_server }))
        .collect();
    let steps: Vec<_> = (page.steps.iter())
        .map(|(at, label, is_fault)| (limit::nanos(*at), limit::cut(label), is_fault))
        .take(limit::FLOWS_MAX)
        .collect();
    let spans: Vec<_> = (page.spans.iter())
        .map(|(from, to, label)| (limit::nanos(*from), limit::nanos(*to), limit::cut(label)))
        .take(limit::FLOWS_MAX)
        .collect();
    let violations: Vec<_> = (page.violations.iter())
        .map(|(at, label)| (limit::nanos(*at), limit::cut(label)))
        .take(limit::FLOWS_MAX)
        .collect();
    let json = serde_json::json!({
        "title": page.title,
        "subtitle": page.subtitle,
        "replay": page.replay,
        "judged": page.judged,
        "end": collected.end_ns,
        "notes": collected.notes,
        "thinned": collected.is_thinned,
        "kinds": Kind::ALL.map(Kind::as_str),
        "lanes": lanes,
        "links": links,
        "flows": flows,
        "steps": steps,
        "spans": spans,
        "violations": violations,
        "marks": page.marks,
        "density": collected.density,
        "packets": packets,
        "events": events,
        "texts": texts.list,
    });
    safe(&json.to_string())
}
