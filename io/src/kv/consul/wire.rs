//! Requests and answers as Consul's HTTP API writes them.
//!
//! Everything that is read here comes from outside: what is not as it must be is garbled.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use holdfast_core::kv::{KEY_LEN_MAX, SESSION_TTL, VALUE_LEN_MAX, WAIT_MAX};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::json;

use super::classify::{excerpt, garbled, invalid};
use crate::http::{HeaderMap, Incoming, Method, StatusCode};
use crate::kv::{
    Behavior, Condition, Consistency, Entry, Failure, NewSession, Request, Response, SessionId,
    Wait,
};

/// Largest answer about one entry, bytes: the largest value in base64, its key, and JSON.
const ENTRY_LEN_MAX: usize = 1 << 20;
/// Largest list, bytes: the slots and members of a large cluster many times over, and bounded
/// memory.
pub(super) const LIST_LEN_MAX: usize = 16 << 20;
/// Largest answer without an entry, bytes.
const SHORT_LEN_MAX: usize = 64 << 10;
/// Longest id of a session, bytes; Consul's own are 36.
const SESSION_LEN_MAX: usize = 128;

/// What a segment of a path shows as it is (RFC 3986, 2.3), and the slash between segments.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');
/// What is safe in one segment, whatever it is.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// A request on its way.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub method: Method,
    pub path_and_query: String,
    pub body: Bytes,
    /// Whether it may be repeated.
    pub is_read: bool,
    /// Whether 404 is an answer.
    pub may_be_absent: bool,
    /// Whether an answer counts only from a server that knows a leader.
    pub needs_leader: bool,
    /// For how long the server may keep it.
    pub wait: Duration,
    pub answer_len_max: usize,
}

impl Call {
    pub(super) fn read(path_and_query: String, answer_len_max: usize) -> Call {
        Call {
            method: Method::GET,
            path_and_query,
            body: Bytes::new(),
            is_read: true,
            may_be_absent: false,
            needs_leader: false,
            wait: Duration::ZERO,
            answer_len_max,
        }
    }

    pub(super) fn write(method: Method, path_and_query: String, body: impl Into<Bytes>) -> Call {
        Call {
            method,
            path_and_query,
            body: body.into(),
            is_read: false,
            may_be_absent: false,
            needs_leader: false,
            wait: Duration::ZERO,
            answer_len_max: SHORT_LEN_MAX,
        }
    }
}

/// How a request is asked, or why no server would take it.
pub(super) fn encode(request: &Request) -> Result<Call, Failure> {
    match request {
        Request::Get {
            key,
            consistency,
            wait,
        } => {
            check_key(key)?;
            Ok(reading(key, ENTRY_LEN_MAX, "", *consistency, *wait))
        }
        Request::List {
            prefix,
            consistency,
            wait,
        } => {
            check_text(prefix)?;
            Ok(reading(
                prefix,
                LIST_LEN_MAX,
                "recurse",
                *consistency,
                *wait,
            ))
        }
        Request::Put {
            key,
            value,
            condition,
        } => putting(key, value, &cas(*condition)?),
        Request::Acquire {
            key,
            value,
            session,
        } => putting(
            key,
            value,
            &format!("?acquire={}", session_segment(session)?),
        ),
        Request::Release {
            key,
            value,
            session,
        } => putting(
            key,
            value,
            &format!("?release={}", session_segment(session)?),
        ),
        Request::Delete { key, condition } => {
            check_key(key)?;
            if *condition == Condition::Absent {
                return Err(invalid("an entry that must be absent cannot be deleted"));
            }
            let path = format!("/v1/kv/{}{}", key_path(key), cas(*condition)?);
            Ok(Call::write(Method::DELETE, path, Bytes::new()))
        }
        Request::SessionCreate(session) => {
            let body = session_body(session)?;
            Ok(Call::write(
                Method::PUT,
                "/v1/session/create".to_owned(),
                body,
            ))
        }
        Request::SessionRenew(session) => {
            let path = format!("/v1/session/renew/{}", session_segment(session)?);
            Ok(Call {
                may_be_absent: true,
                ..Call::write(Method::PUT, path, Bytes::new())
            })
        }
        Request::SessionDestroy(session) => {
            let path = format!("/v1/session/destroy/{}", session_segment(session)?);
            Ok(Call::write(Method::PUT, path, Bytes::new()))
        }
    }
}

/// What an answer of status 200, or 404 where that is one, says.
pub(super) fn decode(request: &Request, answer: &Incoming) -> Result<Response, Failure> {
    match request {
        Request::Get { key, wait, .. } => {
            let index = index(&answer.headers, *wait)?;
            let mut entries = entries(answer)?;
            let entry = entries.pop();
            let fits = entries.is_empty() && entry.as_ref().is_none_or(|e| e.key == *key);
            match fits {
                true => Ok(Response::Entry { index, entry }),
                false => Err(garbled("not the one entry that was asked for")),
            }
        }
        Request::List { prefix, wait, .. } => {
            let index = index(&answer.headers, *wait)?;
            let entries = entries(answer)?;
            let inside = entries.iter().all(|e| e.key.starts_with(prefix.as_str()));
            let sorted = entries.is_sorted_by(|a, b| a.key < b.key);
            match inside && sorted {
                true => Ok(Response::Entries { index, entries }),
                false => Err(garbled("a list with other keys, or in another order")),
            }
        }
        Request::SessionCreate(_) => {
            #[derive(Deserialize)]
            #[serde(rename_all = "PascalCase")]
            struct Created {
                #[serde(rename = "ID")]
                id: String,
            }
            let created: Created = json(&answer.body)?;
            let session = SessionId(created.id.into());
            session_segment(&session).map_err(|failure| garbled(failure.message))?;
            Ok(Response::Session(session))
        }
        Request::SessionRenew(_) => Ok(Response::Done(answer.status == StatusCode::OK)),
        Request::Put { .. }
        | Request::Acquire { .. }
        | Request::Release { .. }
        | Request::Delete { .. }
        | Request::SessionDestroy(_) => done(&answer.body).map(Response::Done),
    }
}

/// `true` or `false`.
pub(super) fn done(body: &[u8]) -> Result<bool, Failure> {
    match body.trim_ascii() {
        b"true" => Ok(true),
        b"false" => Ok(false),
        other => Err(garbled(format!(
            "expected true or false, found {:?}",
            excerpt(other)
        ))),
    }
}

/// JSON, whose errors say where and not what.
pub(super) fn json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        let (kind, line, column) = (error.classify(), error.line(), error.column());
        garbled(format!(
            "not the JSON that is expected: {kind:?} error in line {line}, column {column}"
        ))
    })
}

/// `text` as one segment of a path, or as the value of a query.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

fn reading(
    key: &str,
    answer_len_max: usize,
    how: &str,
    consistency: Consistency,
    wait: Option<Wait>,
) -> Call {
    let mut query = match consistency {
        Consistency::Default => how.to_owned(),
        Consistency::Consistent => format!("{how}&consistent"),
        Consistency::Stale => format!("{how}&stale"),
    };
    // Index 0 does not wait, and neither do we for no time, which the server takes for five
    // minutes.
    let wait = wait.filter(|w| w.after > 0 && w.at_most > Duration::ZERO);
    let at_most = wait.map_or(Duration::ZERO, |w| {
        w.at_most.clamp(Duration::from_millis(1), WAIT_MAX)
    });
    if let Some(wait) = wait {
        query += &format!("&index={}&wait={}ms", wait.after, at_most.as_millis());
    }
    let query = query.strip_prefix('&').unwrap_or(&query);
    let mark = if query.is_empty() { "" } else { "?" };
    Call {
        may_be_absent: true,
        needs_leader: consistency != Consistency::Stale,
        wait: at_most,
        ..Call::read(
            format!("/v1/kv/{}{mark}{query}", key_path(key)),
            answer_len_max,
        )
    }
}

fn putting(key: &str, value: &Bytes, query: &str) -> Result<Call, Failure> {
    check_key(key)?;
    if value.len() > VALUE_LEN_MAX {
        let found = value.len();
        return Err(invalid(format!(
            "a value of {found} bytes: at most {VALUE_LEN_MAX} fit"
        )));
    }
    let path = format!("/v1/kv/{}{query}", key_path(key));
    Ok(Call::write(Method::PUT, path, value.clone()))
}

fn cas(condition: Condition) -> Result<String, Failure> {
    match condition {
        Condition::Any => Ok(String::new()),
        Condition::Absent => Ok("?cas=0".to_owned()),
        Condition::Unchanged(0) => Err(invalid("no entry has the index 0")),
        Condition::Unchanged(index) => Ok(format!("?cas={index}")),
    }
}

fn check_key(key: &str) -> Result<(), Failure> {
    match key.is_empty() {
        true => Err(invalid("a key is empty")),
        false => check_text(key),
    }
}

/// Consul refuses what cannot be printed, and we what is too long.
fn check_text(key: &str) -> Result<(), Failure> {
    if key.len() > KEY_LEN_MAX {
        let found = key.len();
        return Err(invalid(format!(
            "a key of {found} bytes: at most {KEY_LEN_MAX} fit"
        )));
    }
    match key.chars().any(char::is_control) {
        true => Err(invalid("a key has control characters")),
        false => Ok(()),
    }
}

/// Servers clean paths: what they would change goes as one segment, so that it stays what it is.
fn key_path(key: &str) -> String {
    let odd = |s: &str| matches!(s, "" | "." | "..");
    let (folders, last) = key.rsplit_once('/').unwrap_or(("a", key));
    let cleaned = folders.split('/').any(odd) || matches!(last, "." | "..");
    utf8_percent_encode(key, if cleaned { SEGMENT } else { PATH }).to_string()
}

fn session_segment(session: &SessionId) -> Result<String, Failure> {
    let id = &session.0;
    let fits = !id.is_empty() && id.len() <= SESSION_LEN_MAX;
    match fits && id.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(segment(id)),
        false => Err(invalid(
            "the id of a session is 1 to 128 visible ASCII characters",
        )),
    }
}

fn session_body(session: &NewSession) -> Result<Vec<u8>, Failure> {
    if !SESSION_TTL.contains(&session.ttl) {
        let found = session.ttl;
        return Err(invalid(format!(
            "a session of {found:?}: expected 10 s to 24 h"
        )));
    }
    let body = json!({
        "Name": session.name,
        "TTL": go_duration(session.ttl),
        "Behavior": match session.behavior {
            Behavior::Release => "release",
            Behavior::Delete => "delete",
        },
        "LockDelay": go_duration(session.lock_delay),
        // Not tied to the health of the agent that happens to be asked.
        "NodeChecks": [],
        "Checks": [],
    });
    Ok(body.to_string().into_bytes())
}

/// A duration as Go reads it.
fn go_duration(duration: Duration) -> String {
    match duration.subsec_nanos() {
        0 => format!("{}s", duration.as_secs()),
        _ => format!("{}ms", duration.as_millis()),
    }
}

/// The index to wait with: never 0, which would not wait; and when it went backwards (the
/// servers were restored from a snapshot, or are others) 0, to begin anew.
fn index(headers: &HeaderMap, wait: Option<Wait>) -> Result<u64, Failure> {
    let text = headers.get("x-consul-index").and_then(|v| v.to_str().ok());
    let index: u64 = text
        .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| garbled("no answer of Consul: X-Consul-Index is missing or no number"))?;
    match wait {
        Some(wait) if index < wait.after => Ok(0),
        _ => Ok(index.max(1)),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireEntry {
    key: String,
    /// `null` when empty.
    value: Option<String>,
    create_index: u64,
    modify_index: u64,
    lock_index: u64,
    session: Option<String>,
}

fn entries(answer: &Incoming) -> Result<Vec<Entry>, Failure> {
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(Vec::new());
    }
    let entries: Vec<WireEntry> = json(&answer.body)?;
    entries.into_iter().map(entry).collect()
}

fn entry(wire: WireEntry) -> Result<Entry, Failure> {
    let value = STANDARD
        .decode(wire.value.unwrap_or_default())
        .map_err(|_| garbled("a value is no base64"))?;
    if value.len() > VALUE_LEN_MAX || wire.modify_index == 0 {
        return Err(garbled(
            "a value that is too large, or an entry with the index 0",
        ));
    }
    let session = wire.session.filter(|id| !id.is_empty());
    Ok(Entry {
        key: wire.key,
        value: value.into(),
        create_index: wire.create_index,
        modify_index: wire.modify_index,
        lock_index: wire.lock_index,
        session: session.map(|id| SessionId(id.into())),
    })
}

#[cfg(test)]
mod tests;
