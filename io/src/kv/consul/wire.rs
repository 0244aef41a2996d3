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
    Behavior, Condition, Consistency, Entry, Failure, FailureKind, NewSession, Request, Response,
    SessionId, Wait,
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
        Request::Get {
            key,
            consistency,
            wait,
        } => {
            let index = index(&answer.headers, *consistency, *wait)?;
            let mut entries = entries(answer)?;
            let entry = entries.pop();
            let fits = entries.is_empty() && entry.as_ref().is_none_or(|e| e.key == *key);
            match fits {
                true => Ok(Response::Entry { index, entry }),
                false => Err(garbled("not the one entry that was asked for")),
            }
        }
        Request::List {
            prefix,
            consistency,
            wait,
        } => {
            let index = index(&answer.headers, *consistency, *wait)?;
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
fn index(
    headers: &HeaderMap,
    consistency: Consistency,
    wait: Option<Wait>,
) -> Result<u64, Failure> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if consistency != Consistency::Stale && text("x-consul-knownleader") == Some("false") {
        let message = "the server knows no leader";
        return Err(Failure::indeterminate(FailureKind::Unavailable, message));
    }
    let index: u64 = text("x-consul-index")
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
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn path(request: &Request) -> String {
        encode(request).unwrap().path_and_query
    }

    fn answer(index: Option<&str>, body: &str) -> Incoming {
        let mut headers = HeaderMap::new();
        if let Some(index) = index {
            headers.insert("x-consul-index", index.parse().unwrap());
        }
        Incoming {
            status: StatusCode::OK,
            headers,
            body: body.to_owned().into(),
        }
    }

    fn entry_json(key: &str, value: &str) -> String {
        format!(
            r#"{{"Key":"{key}","Value":{value},"Flags":0,"CreateIndex":1,"ModifyIndex":2,"LockIndex":0}}"#
        )
    }

    #[test]
    fn a_key_stays_what_it_is_in_a_path() {
        for (key, expected) in [
            ("cluster/a/slots/1", "cluster/a/slots/1"),
            ("tail/", "tail/"),
            ("a b", "a%20b"),
            ("100%?#", "100%25%3F%23"),
            ("ü", "%C3%BC"),
            ("a//b", "a%2F%2Fb"),
            ("/a", "%2Fa"),
            ("..", "%2E%2E"),
            ("a/../b", "a%2F%2E%2E%2Fb"),
            ("a/.", "a%2F%2E"),
            ("a..b/.c", "a..b/.c"),
        ] {
            assert_eq!(
                path(&Request::get(key)),
                format!("/v1/kv/{expected}?consistent")
            );
        }
    }

    #[test]
    fn a_wait_is_asked_for_only_if_it_can_be_kept() {
        let get = |after, at_most| {
            path(&Request::Get {
                key: "k".to_owned(),
                consistency: Consistency::Default,
                wait: Some(Wait { after, at_most }),
            })
        };
        let second = Duration::from_secs(1);
        assert_eq!(get(7, second), "/v1/kv/k?index=7&wait=1000ms");
        assert_eq!(get(7, Duration::from_nanos(1)), "/v1/kv/k?index=7&wait=1ms");
        assert_eq!(get(7, second * 3600), "/v1/kv/k?index=7&wait=600000ms");
        assert_eq!(get(7, Duration::ZERO), "/v1/kv/k");
        assert_eq!(get(0, second), "/v1/kv/k");
    }

    #[test]
    fn what_no_server_would_take_is_not_sent() {
        let session = |id: &str| Request::SessionRenew(SessionId(id.into()));
        for request in [
            Request::get(""),
            Request::get("a\nb"),
            Request::get("k".repeat(KEY_LEN_MAX + 1)),
            Request::put("k", vec![0; VALUE_LEN_MAX + 1], Condition::Any),
            Request::put("k", "v", Condition::Unchanged(0)),
            Request::Delete {
                key: "k".to_owned(),
                condition: Condition::Absent,
            },
            session(""),
            session("a b"),
        ] {
            let failure = encode(&request).unwrap_err();
            assert_eq!(
                (failure.is_determinate(), failure.kind),
                (true, FailureKind::Invalid)
            );
        }
    }

    #[test]
    fn an_index_that_went_backwards_begins_anew_and_is_never_0_otherwise() {
        let read = |after: Option<u64>, index: &str| {
            let wait = after.map(|after| Wait {
                after,
                at_most: Duration::from_secs(1),
            });
            let request = Request::Get {
                key: "k".to_owned(),
                consistency: Consistency::Default,
                wait,
            };
            match decode(&request, &answer(Some(index), "[]")) {
                Ok(Response::Entry { index, .. }) => Some(index),
                _ => None,
            }
        };
        assert_eq!(read(None, "9"), Some(9));
        assert_eq!(read(None, "0"), Some(1));
        assert_eq!(read(Some(9), "9"), Some(9));
        assert_eq!(read(Some(9), "8"), Some(0));
        assert_eq!(read(Some(9), "+10"), None);
        assert_eq!(read(Some(9), "99999999999999999999"), None);
    }

    #[test]
    fn hostile_answers_are_garbled() {
        let list = Request::list("a/");
        let get = Request::get("a/1");
        let (one, two) = (entry_json("a/1", "\"aGk=\""), entry_json("a/2", "null"));
        assert!(decode(&list, &answer(Some("5"), &format!("[{one},{two}]"))).is_ok());
        let deep = "[".repeat(100_000);
        for (request, index, body) in [
            (&list, None, "[]".to_owned()),
            (&list, Some("5"), format!("[{two},{one}]")),
            (&list, Some("5"), format!("[{one},{one}]")),
            (&list, Some("5"), format!("[{}]", entry_json("b/1", "null"))),
            (&get, Some("5"), format!("[{two}]")),
            (&get, Some("5"), format!("[{one},{one}]")),
            (&get, Some("5"), format!("[{}]", entry_json("a/1", "\"!\""))),
            (&get, Some("5"), "null".to_owned()),
            (&get, Some("5"), deep),
            (
                &Request::put("k", "v", Condition::Any),
                None,
                "maybe".to_owned(),
            ),
            (&Request::put("k", "v", Condition::Any), None, String::new()),
        ] {
            let failure = decode(request, &answer(index, &body)).unwrap_err();
            assert_eq!(
                (failure.is_determinate(), failure.kind),
                (false, FailureKind::Garbled)
            );
        }
    }
}
