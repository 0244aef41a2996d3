//! What an instance says of itself: its admin page and its log. One thread per namespace.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use holdfast_core::status::LinkStatus;
use holdfast_lab::Door;
use holdfast_plan::NodeIndex;
use serde::Deserialize;

use super::kv::Change;
use crate::agent::Clock;
use crate::http;
use crate::map::node_name;

/// How often an instance is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Where its admin page is, in its own namespace.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);
/// A page that takes longer comes from an instance that stands still.
const PAGE_LIMIT: Duration = Duration::from_millis(500);
/// How much of a log is read at one look, bytes.
const READ_LEN_MAX: u64 = 4 << 20;
/// The longest line that is kept of an instance that writes nonsense, bytes.
const LINE_LEN_MAX: usize = 64 << 10;

/// What watchers tell.
#[derive(Debug)]
pub enum Seen {
    /// An instance's page.
    Page(NodeIndex, u32, Sight),
    /// A line of an instance's log, and when it was read at the latest.
    Said(NodeIndex, u32, Duration, Said),
    /// An entry of the KV changed.
    Change(Change),
}

/// An instance's page.
#[derive(Clone, Debug)]
pub struct Sight {
    /// It was written after this,
    pub asked_at: Duration,
    /// and before this.
    pub told_at: Duration,
    /// What it says.
    pub page: Box<Page>,
}

/// What of `/status` matters here.
#[derive(Clone, Debug, Deserialize)]
pub struct Page {
    /// Links of the mesh, once it runs.
    #[serde(default)]
    pub links: Vec<LinkStatus>,
    /// What the sidecar says.
    pub sidecar: Sidecar,
}

/// What of the sidecar's section matters here.
#[derive(Clone, Debug, Deserialize)]
pub struct Sidecar {
    /// Who it is, once it knows.
    pub instance: Option<String>,
    /// Its slot.
    pub slot: Slot,
    /// The mesh, the Consul agent and the rest.
    pub children: Vec<Child>,
    /// What keeps it from being ready.
    pub not_ready: Vec<String>,
}

/// An instance's slot.
#[derive(Clone, Debug, Deserialize)]
pub struct Slot {
    /// Which, as long as it is owned.
    pub slot: Option<u16>,
    /// For how long without another renewal, milliseconds; `None` without an end.
    pub lease_left_ms: Option<u64>,
}

/// A child of the sidecar.
#[derive(Clone, Debug, Deserialize)]
pub struct Child {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: Option<u32>,
}

/// What of a log matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A slot is owned.
    Owned {
        /// Which.
        slot: u16,
        /// It was its own before.
        rejoined: bool,
    },
    /// A slot is owned no longer.
    Lost {
        /// Which.
        slot: u16,
        /// Why.
        why: String,
    },
    /// Nothing can be had, or renewed, yet.
    Waiting(String),
    /// A line at ERROR, or a panic.
    Error(String),
}

#[derive(Deserialize)]
struct Line {
    timestamp: String,
    level: String,
    #[serde(default)]
    message: String,
    slot: Option<u16>,
    rejoined: Option<bool>,
    why: Option<String>,
    obstacle: Option<String>,
}

/// What is watched.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Which instance.
    pub node: NodeIndex,
    /// The world's time.
    pub clock: Clock,
    /// How often each instance was started.
    pub lives: Arc<Vec<AtomicU32>>,
    /// The lab's folder.
    pub folder: PathBuf,
    /// Who is told.
    pub seen: Sender<Seen>,
}

/// The log of one life of an instance.
pub fn log_path(folder: &Path, node: NodeIndex, life: u32) -> PathBuf {
    folder.join(format!("{}-{life}.log", node_name(node)))
}

/// A thread that looks until it is ended.
#[derive(Debug)]
pub struct Watch {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Watch {
    /// Runs `work` in a namespace until the flag that it gets is set.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(
        name: String,
        door: Door,
        work: impl FnOnce(&AtomicBool) + Send + 'static,
    ) -> io::Result<Watch> {
        let over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&over);
        let thread = thread::Builder::new().name(name).spawn(move || {
            door.enter()?;
            work(&flag);
            Ok(())
        })?;
        Ok(Watch {
            over,
            thread: Some(thread),
        })
    }

    /// Tells it to end.
    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    /// Whether its work is done.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Why it could not do its work.
    pub fn join(&mut self) -> io::Result<()> {
        self.end();
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(ended)) => ended,
            Some(Err(_)) => Err(io::Error::other("it panicked")),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

/// Looks at an instance until the flag is set.
pub fn look_on(subject: &Subject, over: &AtomicBool) {
    let mut tail = Tail::new(0);
    loop {
        let is_last = over.load(Ordering::SeqCst);
        let life = subject.lives[subject.node.index()].load(Ordering::SeqCst);
        if life != tail.life {
            // What the run before had to say.
            tail.look(subject);
            tail = Tail::new(life);
        }
        if life > 0 {
            look(subject, life);
            tail.look(subject);
        }
        if is_last {
            return;
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn look(subject: &Subject, life: u32) {
    let asked_at = subject.clock.now();
    let Ok(answer) = http::get(ADMIN, "/status", PAGE_LIMIT) else {
        return;
    };
    if let Ok(page) = serde_json::from_str(&answer.body) {
        let sight = Sight {
            asked_at,
            told_at: subject.clock.now(),
            page,
        };
        // The world that nobody listens to any more is ending.
        let _ = subject.seen.send(Seen::Page(subject.node, life, sight));
    }
}

/// The end of a log.
struct Tail {
    life: u32,
    offset: u64,
    rest: Vec<u8>,
}

impl Tail {
    fn new(life: u32) -> Tail {
        Tail {
            life,
            offset: 0,
            rest: Vec::new(),
        }
    }

    fn look(&mut self, subject: &Subject) {
        self.read(&log_path(&subject.folder, subject.node, self.life));
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            if let Some((written, said)) = parse(line.trim_end()) {
                let at = happened_at(subject.clock, written);
                let seen = Seen::Said(subject.node, self.life, at, said);
                let _ = subject.seen.send(seen);
            }
        }
        if self.rest.len() > LINE_LEN_MAX {
            self.rest.clear();
        }
    }

    fn read(&mut self, path: &Path) {
        // There is no log before the instance has started.
        let Ok(mut file) = File::open(path) else {
            return;
        };
        if file.seek(SeekFrom::Start(self.offset)).is_ok() {
            let read = file.take(READ_LEN_MAX).read_to_end(&mut self.rest);
            self.offset += read.unwrap_or(0) as u64;
        }
    }
}

/// The world's time of a moment, rather later than earlier: the world's clock is read last.
fn happened_at(clock: Clock, written: Option<SystemTime>) -> Duration {
    let wall = SystemTime::now();
    let age = written.and_then(|at| wall.duration_since(at).ok());
    clock.now().saturating_sub(age.unwrap_or_default())
}

fn parse(text: &str) -> Option<(Option<SystemTime>, Said)> {
    // What a sidecar says when it ends, as it has lost its slot: the loss itself is told, and judged
    // by those who expect one or not.
    if text.contains("the slot ") && text.contains(" was lost: ") {
        return None;
    }
    let Ok(line) = serde_json::from_str::<Line>(text) else {
        // What a panic prints is no JSON, nor what is wrong with a configuration.
        let is_error = text.contains("panicked at") || text.starts_with("error");
        return is_error.then(|| (None, Said::Error(text.to_owned())));
    };
    let written = humantime::parse_rfc3339_weak(&line.timestamp).ok();
    let said = match (line.message.as_str(), line.slot) {
        ("slot owned", Some(slot)) => Said::Owned {
            slot,
            rejoined: line.rejoined.unwrap_or(false),
        },
        ("slot lost", Some(slot)) => Said::Lost {
            slot,
            why: line.why.unwrap_or_default(),
        },
        ("no slot yet, or none renewed", _) => Said::Waiting(line.obstacle.unwrap_or_default()),
        _ if line.level == "ERROR" => Said::Error(text.to_owned()),
        _ => return None,
    };
    Some((written, said))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn said(text: &str) -> Option<Said> {
        parse(text).map(|(_, said)| said)
    }

    fn line(level: &str, rest: &str) -> String {
        format!(r#"{{"timestamp":"2026-01-02T03:04:05.000006Z","level":"{level}",{rest}}}"#)
    }

    #[test]
    fn what_a_log_says_of_slots_is_understood() {
        let owned = line("INFO", r#""message":"slot owned","slot":4,"rejoined":true"#);
        let lost = line("ERROR", r#""message":"slot lost","slot":4,"why":"w""#);
        let waits = r#""message":"no slot yet, or none renewed","obstacle":"o""#;
        let waits = line("WARN", waits);
        let (slot, rejoined) = (4, true);
        assert_eq!(said(&owned), Some(Said::Owned { slot, rejoined }));
        let why = "w".to_owned();
        assert_eq!(said(&lost), Some(Said::Lost { slot, why }));
        assert_eq!(said(&waits), Some(Said::Waiting("o".to_owned())));
    }

    #[test]
    fn errors_and_panics_are_told_and_what_follows_from_a_loss_is_not() {
        let error = line("ERROR", r#""message":"the mesh ended""#);
        let panic = "thread 'main' panicked at src/main.rs:1:1:";
        let end = "error: the slot 4 was lost: the lease is over";
        assert_eq!(said(&error), Some(Said::Error(error.clone())));
        assert_eq!(said(panic), Some(Said::Error(panic.to_owned())));
        assert_eq!(said(end), None);
        assert_eq!(said(&line("INFO", r#""message":"links up""#)), None);
    }
}
