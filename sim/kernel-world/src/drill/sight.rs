//! What is seen from outside: the KV's keys of the cluster, and what every member says of itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::ground::{Ground, SCOPE};
use crate::agent::Clock;
use crate::http;
use crate::members::Watch;
use crate::stage::StageError;

/// How often a member is asked.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// A member that takes longer does not answer.
const ASK_LIMIT: Duration = Duration::from_millis(1_000);
/// How long a read of the KV waits there for a change.
const WAIT: &str = "1s";
/// How long a read of the KV may take: the wait, Consul's jitter of a sixteenth of it.
const READ_LIMIT: Duration = Duration::from_millis(1_500);
/// How long to rest after a failure.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// How many changes and samples of a round are kept: five minutes of a tenth of a second each.
const KEPT_MAX: usize = 20_000;

/// A change in the KV.
#[derive(Clone, Debug)]
pub struct Change {
    /// When it was read.
    pub at: Duration,
    /// The key, without the path of the cluster.
    pub key: String,
    /// What is there then.
    pub value: Option<String>,
}

/// What a member's Patroni said.
#[derive(Clone, Debug)]
pub struct Sample {
    /// It was asked then,
    pub asked: Duration,
    /// and answered then.
    pub told: Duration,
    /// `None` when it did not answer.
    pub said: Option<Said>,
}

/// What of `GET /patroni` matters here.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Said {
    /// `running`, `starting`, …
    pub state: String,
    /// `primary` or `replica`.
    #[serde(default)]
    pub role: String,
    /// Its timeline.
    #[serde(default)]
    pub timeline: u64,
    /// `streaming`, of a replica.
    #[serde(default)]
    pub replication_state: Option<String>,
    /// Nobody takes over.
    #[serde(default)]
    pub pause: bool,
}

impl Said {
    /// It takes writes, or would.
    pub fn is_primary(&self) -> bool {
        self.state == "running" && ["primary", "master"].contains(&self.role.as_str())
    }

    /// It follows.
    pub fn is_streaming(&self) -> bool {
        self.replication_state.as_deref() == Some("streaming")
            && ["replica", "sync_standby", "quorum_standby"].contains(&self.role.as_str())
    }
}

#[derive(Debug, Default)]
struct Keys {
    index: u64,
    entries: BTreeMap<String, (u64, String)>,
    changes: Vec<Change>,
}

/// What was seen, shared by those who look and those who want to know.
#[derive(Debug)]
pub struct Board {
    keys: Mutex<Keys>,
    members: Vec<Mutex<Vec<Sample>>>,
}

impl Board {
    /// What a key holds now.
    pub fn key(&self, key: &str) -> Option<String> {
        lock(&self.keys)
            .entries
            .get(key)
            .map(|(_, value)| value.clone())
    }

    /// All keys that are there.
    pub fn keys(&self) -> Vec<String> {
        lock(&self.keys).entries.keys().cloned().collect()
    }

    /// All changes of the KV since that time.
    pub fn changes(&self, since: Duration) -> Vec<Change> {
        let keys = lock(&self.keys);
        let found = keys.changes.iter().filter(|change| change.at >= since);
        found.cloned().collect()
    }

    /// When that key changed last.
    pub fn changed_at(&self, key: &str) -> Option<Duration> {
        let keys = lock(&self.keys);
        let found = keys.changes.iter().rev().find(|change| change.key == key);
        found.map(|change| change.at)
    }

    /// What a member said last, if it answered when it was asked last.
    pub fn now(&self, member: usize) -> Option<Said> {
        lock(&self.members[member]).last()?.said.clone()
    }

    /// All that a member said since that time.
    pub fn samples(&self, member: usize, since: Duration) -> Vec<Sample> {
        let samples = lock(&self.members[member]);
        let found = samples.iter().filter(|sample| sample.asked >= since);
        found.cloned().collect()
    }

    /// Forgets what is older.
    pub fn forget(&self, before: Duration) {
        let mut keys = lock(&self.keys);
        // The last change of a key says when its owner was last there.
        let last = keys
            .changes
            .iter()
            .rposition(|change| change.key == "status");
        let last = last.and_then(|at| keys.changes.get(at).cloned());
        keys.changes.retain(|change| change.at >= before);
        if keys.changes.is_empty() {
            keys.changes.extend(last);
        }
        for member in &self.members {
            lock(member).retain(|sample| sample.asked >= before);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Those who look, until this is dropped.
pub struct Sight {
    /// What they see.
    pub board: Arc<Board>,
    _watches: Vec<Watch>,
}

impl Sight {
    /// Looks at a cluster.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(ground: &dyn Ground, clock: Clock) -> Result<Sight, StageError> {
        let members = ground.members();
        let board = Arc::new(Board {
            keys: Mutex::new(Keys::default()),
            members: members.iter().map(|_| Mutex::new(Vec::new())).collect(),
        });
        let mut watches = Vec::new();
        let lab = &ground.stage().lab;
        for (index, member) in members.iter().enumerate() {
            let (board, rest) = (Arc::clone(&board), member.rest);
            let door = lab.door(&member.space)?;
            let watch = Watch::start(format!("rest-{}", member.name), door, move |over| {
                ask(&board, index, rest, clock, over);
            });
            watches.push(watch.map_err(super::thread(&member.name))?);
        }
        let (space, servers) = ground.kv();
        let of = Arc::clone(&board);
        let watch = Watch::start("keys".to_owned(), lab.door(&space)?, move |over| {
            read(&of, &servers, clock, over);
        });
        watches.push(watch.map_err(super::thread("keys"))?);
        Ok(Sight {
            board,
            _watches: watches,
        })
    }
}

fn ask(board: &Board, member: usize, rest: SocketAddr, clock: Clock, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        let asked = clock.now();
        let answer = http::get(rest, "/patroni", ASK_LIMIT);
        let said = answer
            .ok()
            .and_then(|answer| serde_json::from_str(&answer.body).ok());
        let told = clock.now();
        let mut samples = lock(&board.members[member]);
        if samples.len() < KEPT_MAX {
            samples.push(Sample { asked, told, said });
        }
        drop(samples);
        thread::sleep(ASK_EVERY.saturating_sub(told - asked));
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pair {
    key: String,
    modify_index: u64,
    value: Option<String>,
}

/// Tells every change until the flag is set.
fn read(board: &Board, servers: &[SocketAddr], clock: Clock, over: &AtomicBool) {
    let (mut turn, mut waits) = (0, false);
    let prefix = format!("service/{SCOPE}/");
    while !over.load(Ordering::SeqCst) {
        let at = servers[turn % servers.len()];
        let index = if waits { lock(&board.keys).index } else { 0 };
        let path = format!("/v1/kv/{prefix}?recurse&index={index}&wait={WAIT}");
        let read = http::get(at, &path, READ_LIMIT).ok();
        let found = read.and_then(|read| {
            let index = read.number("X-Consul-Index")?;
            let pairs: Vec<Pair> = match read.status {
                404 => Vec::new(),
                200 => serde_json::from_str(&read.body).ok()?,
                _ => return None,
            };
            Some((index, pairs))
        });
        waits = found.is_some();
        match found {
            Some((index, pairs)) => lock(&board.keys).take(clock.now(), &prefix, index, pairs),
            None => {
                turn += 1;
                thread::sleep(RETRY_AFTER);
            }
        }
    }
}

impl Keys {
    fn take(&mut self, at: Duration, prefix: &str, index: u64, pairs: Vec<Pair>) {
        // A server that lags behind tells what is known.
        if index < self.index {
            return;
        }
        self.index = index;
        let mut there = BTreeMap::new();
        for pair in pairs {
            let text = pair.value.and_then(|value| STANDARD.decode(value).ok());
            let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
            let key = pair
                .key
                .strip_prefix(prefix)
                .unwrap_or(&pair.key)
                .to_owned();
            let before = self.entries.remove(&key);
            if before
                .as_ref()
                .is_none_or(|(known, _)| *known != pair.modify_index)
            {
                self.note(at, key.clone(), Some(text.clone()));
            }
            there.insert(key, (pair.modify_index, text));
        }
        for (key, _) in std::mem::replace(&mut self.entries, there) {
            self.note(at, key, None);
        }
    }

    fn note(&mut self, at: Duration, key: String, value: Option<String>) {
        if self.changes.len() < KEPT_MAX {
            self.changes.push(Change { at, key, value });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn pair(key: &str, index: u64, value: &str) -> Pair {
        Pair {
            key: format!("service/{SCOPE}/{key}"),
            modify_index: index,
            value: Some(STANDARD.encode(value)),
        }
    }

    #[test]
    fn a_key_that_changes_or_goes_is_told_and_one_that_stays_is_not() {
        let mut keys = Keys::default();
        let prefix = format!("service/{SCOPE}/");
        let second = Duration::from_secs(1);
        keys.take(
            second,
            &prefix,
            5,
            vec![pair("leader", 5, "a"), pair("status", 4, "1")],
        );
        keys.take(
            second * 2,
            &prefix,
            6,
            vec![pair("leader", 5, "a"), pair("status", 6, "2")],
        );
        keys.take(second * 3, &prefix, 7, vec![pair("status", 6, "2")]);
        keys.take(second * 4, &prefix, 6, vec![pair("leader", 5, "a")]);
        let later = keys.changes.iter().skip(2);
        let told: Vec<_> = later
            .map(|c| (c.at, c.key.as_str(), c.value.as_deref()))
            .collect();
        assert_eq!(
            told,
            [
                (second * 2, "status", Some("2")),
                (second * 3, "leader", None)
            ]
        );
    }
}
