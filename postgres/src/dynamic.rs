//! What lives in the KV's `/config`, reconciled with the file: a change of the file is written, a
//! live edit is left alone and reported.
//!
//! Beside it, in `service/<scope>/holdfast`, is what was written last and the mark of the cluster,
//! so that a change of the file can be told from a live edit and two clusters on one path from
//! each other.

use holdfast_io::kv::{Condition, Entry, Failure, Kv, Request, Response};
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::generate::mask;
use crate::place::Credentials;

/// Attempts before it is left to the next start: each means that somebody else wrote meanwhile.
const ATTEMPTS_MAX: usize = 8;
/// More differences are not listed.
const DIFFERENCES_MAX: usize = 8;
/// A longer value is cut when it is shown.
const SHOWN_LEN_MAX: usize = 60;

/// The keys of a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Of a scope in Patroni's default namespace.
    #[must_use]
    pub fn of(scope: &str) -> Keys {
        Keys {
            prefix: format!("service/{scope}/"),
        }
    }

    /// What all of them begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// One of them: `config`, `initialize`, `leader`, …
    #[must_use]
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// What Holdfast keeps beside Patroni's keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The cluster's name, for people.
    pub cluster: String,
    /// What tells clusters apart: two with one name have other secrets.
    pub mark: String,
    /// PostgreSQL's major version, once it is known: a copy of one by another never starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub major: Option<u32>,
    /// What was written to `/config` last, if anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<Value>,
}

/// The mark of a cluster: says nothing of the secrets that it is made from.
#[must_use]
pub fn mark(cluster: &str, credentials: &Credentials) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, credentials.ca.as_ref());
    let made = hmac::sign(
        &key,
        format!("holdfast postgres mark\0{cluster}").as_bytes(),
    );
    let bytes = made.as_ref().iter().take(16);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// A reconciliation that did not come about.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The path belongs to others.
    #[error(
        "{key} in the KV has the mark {found} of the cluster {cluster:?}: expected {expected}; two clusters share one path, set postgres.scope"
    )]
    Other {
        /// The key.
        key: String,
        /// Whose it is.
        cluster: String,
        /// Its mark.
        found: String,
        /// Ours.
        expected: String,
    },
    /// Somebody wrote it who is not us.
    #[error("{key} in the KV is not what Holdfast writes ({problem}): expected a JSON object")]
    Garbled {
        /// The key.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// It does not answer, or refuses.
    #[error("the KV does not take {key}: {source}")]
    Kv {
        /// The key.
        key: String,
        /// Why.
        source: Failure,
    },
    /// Others write all the while.
    #[error("{key} in the KV changed {ATTEMPTS_MAX} times while it was written")]
    Contended {
        /// The key.
        key: String,
    },
}

/// Whose path it is.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The cluster's name.
    pub cluster: &'a str,
    /// Its [`mark`].
    pub mark: &'a str,
    /// PostgreSQL's major version; without it what is known stays.
    pub major: Option<u32>,
}

/// Claim the path for the cluster, and bring `/config` to what the file says where the file
/// changed since it was written last.
///
/// # Errors
/// The path is another cluster's, or the KV does not answer. Nothing is half done that the next
/// call would not finish.
pub async fn reconcile(
    kv: &dyn Kv,
    keys: &Keys,
    ours: Claim<'_>,
    wanted: &Value,
) -> Result<(), ReconcileError> {
    let (note_key, config_key) = (keys.key("holdfast"), keys.key("config"));
    for _ in 0..ATTEMPTS_MAX {
        let note = get(kv, &note_key).await?;
        let known = note
            .as_ref()
            .map(|entry| parse_note(&note_key, entry))
            .transpose()?;
        if let Some(known) = &known {
            check_mark(&note_key, known, ours.mark)?;
        }
        let known_major = known.as_ref().and_then(|known| known.major);
        let major = ours.major.or(known_major);
        let written = known.and_then(|known| known.written);
        // A path without our mark is claimed before anything else of ours is in it.
        let fresh = |written| note_of(Claim { major, ..ours }, written);
        if note.is_none() {
            claim(kv, keys, Claim { major, ..ours }).await?;
            continue;
        }
        if written.as_ref() == Some(wanted) {
            if major == known_major || put(kv, &note_key, fresh(written), note.as_ref()).await? {
                return Ok(());
            }
            continue;
        }
        let config = get(kv, &config_key).await?;
        let mut changed = match &config {
            Some(entry) => parse(&config_key, entry)?,
            None => Value::Object(Map::new()),
        };
        let base = written.unwrap_or(Value::Null);
        // Without a config nothing was edited, and all of the file is to be written.
        let base = if config.is_some() {
            &base
        } else {
            &Value::Null
        };
        apply(&mut changed, base, wanted);
        if put(kv, &config_key, changed, config.as_ref()).await?
            && put(kv, &note_key, fresh(Some(wanted.clone())), note.as_ref()).await?
        {
            return Ok(());
        }
    }
    Err(ReconcileError::Contended { key: config_key })
}

/// Claim a path that has no note. One that has any stays as it is.
///
/// # Errors
/// The KV does not answer.
pub(crate) async fn claim(kv: &dyn Kv, keys: &Keys, ours: Claim<'_>) -> Result<(), ReconcileError> {
    put(kv, &keys.key("holdfast"), note_of(ours, None), None).await?;
    Ok(())
}

/// Whether the note is of our cluster.
///
/// # Errors
/// [`ReconcileError::Other`].
pub fn check_mark(key: &str, note: &Note, mark: &str) -> Result<(), ReconcileError> {
    match note.mark == mark {
        true => Ok(()),
        false => Err(ReconcileError::Other {
            key: key.to_owned(),
            cluster: shorten(&note.cluster),
            found: shorten(&note.mark),
            expected: mark.to_owned(),
        }),
    }
}

fn note_of(ours: Claim<'_>, written: Option<Value>) -> Value {
    let note = Note {
        cluster: ours.cluster.to_owned(),
        mark: ours.mark.to_owned(),
        major: ours.major,
        written,
    };
    serde_json::to_value(note).expect("texts and a JSON value are JSON")
}

/// What Holdfast keeps, as it is in the KV.
///
/// # Errors
/// [`ReconcileError::Garbled`].
pub fn parse_note(key: &str, entry: &Entry) -> Result<Note, ReconcileError> {
    serde_json::from_slice(&entry.value).map_err(|error| ReconcileError::Garbled {
        key: key.to_owned(),
        problem: error.to_string(),
    })
}

fn parse(key: &str, entry: &Entry) -> Result<Value, ReconcileError> {
    let garbled = |problem: String| ReconcileError::Garbled {
        key: key.to_owned(),
        problem,
    };
    match serde_json::from_slice(&entry.value) {
        Ok(Value::Object(map)) => Ok(Value::Object(map)),
        Ok(_) => Err(garbled("no object".to_owned())),
        Err(error) => Err(garbled(error.to_string())),
    }
}

pub(crate) async fn get(kv: &dyn Kv, key: &str) -> Result<Option<Entry>, ReconcileError> {
    match kv.call(Request::get(key)).await {
        Ok(Response::Entry { entry, .. }) => Ok(entry),
        Ok(_) => Err(mismatched(key)),
        Err(source) => Err(failed(key, source)),
    }
}

/// Write over `before` alone. False: somebody else was faster.
async fn put(
    kv: &dyn Kv,
    key: &str,
    value: Value,
    before: Option<&Entry>,
) -> Result<bool, ReconcileError> {
    let condition = before.map_or(Condition::Absent, |entry| {
        Condition::Unchanged(entry.modify_index)
    });
    let text = value.to_string();
    match kv
        .call(Request::put(key, text.into_bytes(), condition))
        .await
    {
        Ok(Response::Done(done)) => Ok(done),
        Ok(_) => Err(mismatched(key)),
        Err(source) => Err(failed(key, source)),
    }
}

fn failed(key: &str, source: Failure) -> ReconcileError {
    ReconcileError::Kv {
        key: key.to_owned(),
        source,
    }
}

fn mismatched(key: &str) -> ReconcileError {
    let message = "an answer to another question";
    failed(
        key,
        Failure::indeterminate(holdfast_io::kv::FailureKind::Garbled, message),
    )
}

/// Bring into `current` what changed from `base` to `wanted`, key by key; everything else stays.
fn apply(current: &mut Value, base: &Value, wanted: &Value) {
    let empty = Map::new();
    let Value::Object(wanted) = wanted else {
        return;
    };
    let base = base.as_object().unwrap_or(&empty);
    if !current.is_object() {
        *current = Value::Object(Map::new());
    }
    let Value::Object(current) = current else {
        return;
    };
    for (key, value) in wanted {
        match (base.get(key), value) {
            (Some(before), value) if before == value => {}
            (before, Value::Object(_)) => {
                let slot = current.entry(key.clone()).or_insert(Value::Null);
                apply(slot, before.unwrap_or(&Value::Null), value);
            }
            (_, value) => drop(current.insert(key.clone(), value.clone())),
        }
    }
    for key in base.keys().filter(|key| !wanted.contains_key(*key)) {
        current.remove(key);
    }
}

/// What is another in the KV than in the file, each for people: what the file does not have, too.
/// `pause` is no difference but a state.
#[must_use]
pub fn differences(current: &Value, wanted: &Value) -> Vec<String> {
    let (mut current, mut wanted) = (current.clone(), wanted.clone());
    if let Value::Object(map) = &mut current {
        map.remove("pause");
    }
    mask(&mut current);
    mask(&mut wanted);
    let mut found = Vec::new();
    compare("", &current, &wanted, &mut found);
    let more = found.len().saturating_sub(DIFFERENCES_MAX);
    found.truncate(DIFFERENCES_MAX);
    if more > 0 {
        found.push(format!("and {more} more"));
    }
    found
}

fn compare(at: &str, current: &Value, wanted: &Value, found: &mut Vec<String>) {
    if current == wanted {
        return;
    }
    if let (Value::Object(current), Value::Object(wanted)) = (current, wanted) {
        let both: std::collections::BTreeSet<_> = current.keys().chain(wanted.keys()).collect();
        for key in both {
            let path = match at {
                "" => key.clone(),
                at => format!("{at}.{key}"),
            };
            let of = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or(Value::Null);
            compare(&path, &of(current), &of(wanted), found);
        }
        return;
    }
    let shown = |value: &Value| match value {
        Value::Null => "not set".to_owned(),
        value => shorten(&value.to_string()),
    };
    found.push(format!(
        "{} is {} (the file: {})",
        shorten(at),
        shown(current),
        shown(wanted)
    ));
}

/// Cut, and without characters that would disturb a terminal.
pub(crate) fn shorten(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(SHOWN_LEN_MAX).map(plain).collect()
}

#[cfg(test)]
mod tests;
