//! A node's log, read as it grows.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::{Duration, SystemTime};

use holdfast_core::status::LinkState;
use holdfast_plan::What;
use serde::Deserialize;
use serde_json::Value;

use super::{Context, Seen};

/// The longest line that is kept of a node that writes nonsense, bytes.
const LINE_LEN_MAX: usize = 64 << 10;
/// How much is read at one look, bytes.
const READ_LEN_MAX: u64 = 4 << 20;

/// The end of a log.
pub struct Tail<'a> {
    cx: &'a Context,
    offset: u64,
    rest: Vec<u8>,
    looked_at: Duration,
}

#[derive(Deserialize)]
struct Line {
    timestamp: String,
    level: String,
    #[serde(default)]
    message: String,
    #[serde(flatten)]
    fields: serde_json::Map<String, Value>,
}

impl<'a> Tail<'a> {
    pub fn new(cx: &'a Context) -> Tail<'a> {
        Tail {
            cx,
            offset: 0,
            rest: Vec::new(),
            looked_at: cx.now(),
        }
    }

    /// Tell what was written since the last look.
    pub fn look(&mut self) {
        self.read();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.line(String::from_utf8_lossy(&line).trim_end());
        }
        if self.rest.len() > LINE_LEN_MAX {
            self.rest.clear();
        }
        self.looked_at = self.cx.now();
    }

    fn read(&mut self) {
        // There is no log before the node has started.
        let Ok(mut file) = File::open(&self.cx.log) else {
            return;
        };
        if file.seek(SeekFrom::Start(self.offset)).is_ok() {
            let read = file.take(READ_LEN_MAX).read_to_end(&mut self.rest);
            self.offset += read.unwrap_or(0) as u64;
        }
    }

    fn line(&self, text: &str) {
        let Ok(line) = serde_json::from_str::<Line>(text) else {
            // What a panic prints is no JSON, nor what is wrong with a configuration.
            if text.contains("panicked at") || text.starts_with("error") {
                self.cx.saw(What::Error {
                    line: text.to_owned(),
                });
            }
            return;
        };
        let at = self.time_of(&line.timestamp);
        if line.level == "ERROR" {
            let line = text.to_owned();
            self.cx.tell(Seen::What(at, What::Error { line }));
        }
        if let Some(what) = self.event(&line) {
            self.cx.tell(Seen::What(at, what));
        }
    }

    /// A wall clock says when; that it was since the last look is known for sure.
    fn time_of(&self, timestamp: &str) -> Duration {
        let now = self.cx.now();
        let written = humantime::parse_rfc3339_weak(timestamp).ok();
        let age = written.and_then(|at| SystemTime::now().duration_since(at).ok());
        let at = now.saturating_sub(age.unwrap_or_default());
        at.clamp(self.looked_at.min(now), now)
    }

    fn event(&self, line: &Line) -> Option<What> {
        let text = |name: &str| line.fields.get(name)?.as_str().map(str::to_owned);
        let peer = || self.cx.node_named(&text("peer")?);
        match line.message.as_str() {
            "path selected" => Some(What::Path {
                peer: peer()?,
                class: text("class")?.parse().ok()?,
                detail: format!(
                    "{} to {}: {}",
                    text("local")?,
                    text("remote")?,
                    text("why").unwrap_or_default()
                ),
            }),
            "the peer has restarted" => Some(What::PeerRestarted { peer: peer()? }),
            "something from outside was refused" => Some(What::Refused {
                counter: text("counter")?,
            }),
            message if message.starts_with("link ") => Some(What::Link {
                peer: peer()?,
                state: state(&text("to")?)?,
                why: text("why").unwrap_or_default(),
            }),
            _ => None,
        }
    }
}

fn state(text: &str) -> Option<LinkState> {
    serde_json::from_value(Value::String(text.to_owned())).ok()
}
