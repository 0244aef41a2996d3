//! What a line of a trace may be.

use serde::Deserialize;
use serde_json::Value;

use crate::page::Page;

/// The longest line: the longest that a recorder writes is a fraction of it, but the first one
/// of a replay holds the plan.
pub const LINE_LEN_MAX: usize = 1 << 20;
/// Times are kept as integers that a script's numbers can hold exactly: 104 days.
const T_NS_MAX: u64 = (1 << 53) - 1;

/// Why there is no page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// A line is not of a trace.
    #[error("line {line}: {what}")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
}

/// A line that says something.
#[derive(Debug)]
pub enum Line {
    /// The first line of a replay's trace.
    Page(Box<Page>),
    /// Something that happened.
    Record(Record),
}

/// Something that happened.
#[derive(Debug)]
pub struct Record {
    /// Its line, from 1.
    pub line: u64,
    /// When, in nanoseconds.
    pub t_ns: u64,
    /// Where; a flight recorder does not say.
    pub node: Option<String>,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug)]
pub enum What {
    /// Datagrams left, or one arrived.
    Message(Message),
    /// Something went into a machine.
    Input(String),
    /// Something came out of a machine.
    Output(String),
    /// A deadline was due.
    Deadline(String),
    /// An observer saw something.
    Seen(Box<Seen>),
}

/// A datagram, or several of one length.
#[derive(Clone, Debug)]
pub struct Message {
    /// Sent, rather than received.
    pub is_tx: bool,
    /// The other end's address.
    pub address: String,
    /// Bytes in all.
    pub len: u64,
    /// Bytes of each but the last.
    pub segment: u64,
    /// The content's hash, or 0.
    pub hash: u64,
}

/// What an observer saw: the fields of all observations, of which each has its own.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// Which observation.
    #[serde(skip)]
    pub kind: String,
    /// Of a step.
    pub step: Option<usize>,
    /// A peer, by number.
    pub peer: Option<usize>,
    /// A link's state.
    pub state: Option<String>,
    /// A path's class.
    pub class: Option<String>,
    /// Why.
    pub why: Option<String>,
    /// Of a path, in words.
    pub detail: Option<String>,
    /// Of an end: after a goodbye.
    pub clean: Option<bool>,
    /// Of a refusal.
    pub counter: Option<String>,
    /// Of a log.
    #[serde(rename = "line")]
    pub log_line: Option<String>,
    /// Of a stream.
    pub side: Option<String>,
    /// An operation's number.
    pub op: Option<u32>,
    /// How often it began.
    pub attempts: Option<u64>,
    /// When it began, nanoseconds.
    pub opened_at: Option<u64>,
    /// When the first byte came, nanoseconds.
    pub first_byte_at: Option<u64>,
    /// When it ended cleanly, nanoseconds.
    pub finished_at: Option<u64>,
    /// Bytes or datagrams.
    pub sent: Option<u64>,
    /// Bytes or datagrams.
    pub received: Option<u64>,
    /// The first wrong byte.
    pub altered_at: Option<u64>,
    /// Whether everything arrived.
    pub complete: Option<bool>,
    /// How it broke.
    pub reset: Option<String>,
    /// The longest silence, nanoseconds.
    pub gap_max: Option<u64>,
    /// Of a queue.
    pub name: Option<String>,
    /// Of a queue or a datagram.
    pub len: Option<u64>,
    /// Of a queue.
    pub max: Option<u64>,
    /// Who a strange datagram claims to come from, by number.
    pub from: Option<usize>,
    /// Copies of datagrams.
    pub repeated: Option<u64>,
}

#[derive(Deserialize)]
struct Raw {
    t_ns: u64,
    #[serde(default)]
    node: Option<String>,
    kind: String,
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    to: Option<String>,
    #[serde(default)]
    len: u64,
    #[serde(default)]
    segment: u64,
    #[serde(default)]
    hash: u64,
    #[serde(default)]
    what: Value,
    #[serde(default)]
    why: Option<String>,
    #[serde(default)]
    page: Option<Box<Page>>,
}

/// One line. `None` is an empty one.
pub fn parse(line: u64, text: &str) -> Result<Option<Line>, PageError> {
    let bad = |what: String| PageError::Line { line, what };
    if text.trim().is_empty() {
        return Ok(None);
    }
    if text.len() > LINE_LEN_MAX {
        let len = text.len();
        return Err(bad(format!("{len} bytes; the longest is {LINE_LEN_MAX}")));
    }
    // What serde says of the place is relative to this line alone: only the column helps.
    let raw: Raw = serde_json::from_str(text).map_err(|error| {
        let what = error.to_string();
        let what = what.replace(" at line 1 column ", ", at column ");
        bad(format!("not a line of a trace: {what}"))
    })?;
    if raw.kind == "page" {
        let page = raw
            .page
            .ok_or_else(|| bad("a page without `page`".into()))?;
        return Ok(Some(Line::Page(page)));
    }
    Ok(Some(Line::Record(Record {
        line,
        t_ns: raw.t_ns.min(T_NS_MAX),
        node: raw.node.clone(),
        what: what_of(raw).map_err(bad)?,
    })))
}

fn what_of(raw: Raw) -> Result<What, String> {
    let Raw { kind, what, .. } = raw;
    let address = match kind.as_str() {
        "rx" => raw.from,
        "tx" => raw.to,
        _ => None,
    };
    let message = |is_tx| match address {
        Some(address) => Ok(What::Message(Message {
            is_tx,
            address,
            len: raw.len,
            segment: raw.segment,
            hash: raw.hash,
        })),
        None => Err("a datagram without an address".to_owned()),
    };
    match kind.as_str() {
        "rx" => message(false),
        "tx" => message(true),
        "input" => text(what).map(What::Input),
        "output" => text(what).map(What::Output),
        "deadline" => Ok(What::Deadline(raw.why.unwrap_or_default())),
        "seen" => seen(what).map(|seen| What::Seen(Box::new(seen))),
        _ => Err(format!(
            "`kind` is {kind:?}: expected rx, tx, input, output, deadline or seen"
        )),
    }
}

fn text(what: Value) -> Result<String, String> {
    match what {
        Value::String(text) => Ok(text),
        _ => Err("`what` has to be text".to_owned()),
    }
}

fn seen(what: Value) -> Result<Seen, String> {
    let kind = what.get("seen").and_then(Value::as_str);
    let kind = kind.ok_or("`what` has no `seen`")?.to_owned();
    let seen: Seen = serde_json::from_value(what).map_err(|e| format!("`what`: {e}"))?;
    Ok(Seen { kind, ..seen })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn problem(text: &str) -> String {
        parse(7, text).unwrap_err().to_string()
    }

    #[test]
    fn a_line_that_is_none_of_a_trace_is_told_by_its_number() {
        assert!(problem("{").starts_with("line 7: not a line of a trace: EOF"));
        assert!(problem("[]").starts_with("line 7: not a line of a trace"));
        assert!(problem(r#"{"kind":"rx"}"#).contains("missing field `t_ns`"));
        assert!(problem(r#"{"t_ns":1,"kind":"tx","len":3}"#).contains("without an address"));
        assert!(problem(r#"{"t_ns":1,"kind":"dance"}"#).contains("\"dance\": expected rx"));
        assert!(problem(r#"{"t_ns":1,"kind":"seen","what":{}}"#).contains("no `seen`"));
        assert!(problem(r#"{"t_ns":-1,"kind":"rx"}"#).contains("column"));
    }

    #[test]
    fn an_endless_line_is_refused_unread() {
        assert!(problem(&"[".repeat(LINE_LEN_MAX + 1)).contains("the longest is"));
        assert!(problem(&"[".repeat(LINE_LEN_MAX)).contains("column"));
    }

    #[test]
    fn an_empty_line_is_none() {
        assert!(parse(1, "  ").unwrap().is_none());
    }
}
