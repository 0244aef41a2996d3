//! What a page says besides its lines.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::collect::Collector;
use crate::embed;
use crate::line::{self, Line, PageError};

/// What a page says besides its lines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Page {
    /// What was played.
    pub title: String,
    /// Which world, which seed, and the like.
    pub subtitle: String,
    /// The command that plays it again.
    pub replay: Option<String>,
    /// The nodes' names, in the order of their numbers.
    pub nodes: Vec<String>,
    /// The plan: when, what, and whether it is a fault.
    pub steps: Vec<(Duration, String, bool)>,
    /// How long faults lasted: from, to, and which.
    pub spans: Vec<(Duration, Duration, String)>,
    /// The workload's operations, by their numbers.
    pub ops: BTreeMap<u32, Operation>,
    /// The longest silences of operations. Lines tell their length only.
    pub gaps: Vec<Gap>,
    /// Which oracles were violated, when, and how.
    pub violations: Vec<(Duration, String)>,
    /// Whether somebody judged at all: a recorded dump has no verdict.
    pub judged: bool,
    /// How often each coverage mark was passed.
    pub marks: BTreeMap<String, u64>,
}

/// A conversation of two applications.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// What it is called.
    pub label: String,
    /// When it was asked for.
    pub at: Duration,
}

/// The longest silence of one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The operation's number.
    pub op: u32,
    /// When it began.
    pub at: Duration,
    /// How long it was.
    pub length: Duration,
}

impl Page {
    /// The page as one HTML document, from the lines of a trace in order. Empty lines are
    /// skipped; lines beyond [`crate::LINES_MAX`] are counted and left out.
    ///
    /// # Errors
    /// The first line that is not a line of a trace, by its number from 1.
    pub fn render<I>(&self, lines: I) -> Result<String, PageError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut collector = Collector::new(self);
        for (number, text) in (1..).zip(lines) {
            match line::parse(number, text.as_ref())? {
                None | Some(Line::Page(_)) => {}
                Some(Line::Record(record)) => collector.add(record),
            }
        }
        Ok(embed::document(self, collector.finish()))
    }

    /// This, as the first line of a recorded trace: [`from_recorded`] then shows all of it.
    #[must_use]
    pub fn header_line(&self) -> String {
        let line = serde_json::json!({ "t_ns": 0, "kind": "page", "page": self });
        line.to_string()
    }
}

/// The page of a recorded trace: of a node's flight recorder, or of a replay.
///
/// # Errors
/// The first line that is not a line of a trace, by its number from 1.
pub fn from_recorded<I>(lines: I) -> Result<String, PageError>
where
    I: IntoIterator,
    I::Item: AsRef<str>,
{
    let mut lines = lines.into_iter().peekable();
    let first = match lines.peek() {
        Some(first) => line::parse(1, first.as_ref())?,
        None => None,
    };
    let page = match first {
        Some(Line::Page(page)) => *page,
        _ => Page {
            title: "Recorded trace".to_owned(),
            ..Page::default()
        },
    };
    page.render(lines)
}
