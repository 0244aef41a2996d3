//! `/v1/kv`.

use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_core::kv::{Condition, Entry, Request as Asked, Response, SessionId};
use holdfast_io::clock::Clock;
use holdfast_io::http::{HeaderValue, Method, Request, StatusCode};
use serde::Serialize;

use super::query::{BadRequest, Query, decode};
use super::{Answer, Ask, Journal, Refusal, Served, Server, Told, indexed, json};

/// An entry as Consul writes it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Wire<'a> {
    lock_index: u64,
    key: &'a str,
    flags: u64,
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    create_index: u64,
    modify_index: u64,
}

impl<'a> Wire<'a> {
    fn of(entry: &'a Entry, flags: u64) -> Wire<'a> {
        Wire {
            lock_index: entry.lock_index,
            key: &entry.key,
            flags,
            // Go writes no bytes as `null`.
            value: (!entry.value.is_empty()).then(|| STANDARD.encode(&entry.value)),
            session: entry.session.as_ref().map(|session| &*session.0),
            create_index: entry.create_index,
            modify_index: entry.modify_index,
        }
    }
}

impl<C: Clock, J: Journal> Server<C, J> {
    pub(super) async fn entries(
        self: &Rc<Self>,
        key: &str,
        query: &Query,
        request: Request,
    ) -> Served {
        let key = decode(key, false)?;
        if request.method == Method::GET {
            return self.get(key, query).await;
        }
        if request.method == Method::PUT {
            let put = put(key, query, request)?;
            return Ok(json(&self.ask_done(put).await?));
        }
        if request.method == Method::DELETE {
            let delete = delete(key, query)?;
            return Ok(json(&self.ask_done(delete).await?));
        }
        Err(Refusal::method())
    }

    async fn get(self: &Rc<Self>, key: String, query: &Query) -> Served {
        let (wait, consistency) = (query.wait()?, query.consistency()?);
        if query.has("recurse") || query.has("keys") {
            let list = Asked::List {
                prefix: key.clone(),
                consistency,
                wait,
            };
            let told = self.ask(list).await?;
            return match query.has("keys") {
                true => Ok(keys(&key, query, &told)),
                false => Ok(list_of(&told)),
            };
        }
        let get = Asked::Get {
            key,
            consistency,
            wait,
        };
        let told = self.ask(get).await?;
        let raw = query.has("raw");
        match &told.result {
            Ok(Response::Entry {
                entry: Some(entry), ..
            }) if raw => {
                let mut answer = Answer::text(StatusCode::OK, entry.value.clone());
                // What somebody wrote must not run in a browser.
                answer.content_type = "text/plain";
                let headers = &mut answer.headers;
                let nosniff = HeaderValue::from_static("nosniff");
                headers.insert("x-content-type-options", nosniff);
                let sandbox = HeaderValue::from_static("sandbox");
                headers.insert("content-security-policy", sandbox);
                Ok(indexed(answer, index_of(&told)))
            }
            _ => Ok(list_of(&told)),
        }
    }
}

fn index_of(told: &Told) -> u64 {
    match &told.result {
        Ok(Response::Entry { index, .. } | Response::Entries { index, .. }) => *index,
        _ => 0,
    }
}

fn entries_of(told: &Told) -> &[Entry] {
    match &told.result {
        Ok(Response::Entry { entry, .. }) => entry.as_slice(),
        Ok(Response::Entries { entries, .. }) => entries,
        _ => &[],
    }
}

/// The entries, or 404 when there are none.
fn list_of(told: &Told) -> Answer {
    let entries = entries_of(told).iter().zip(&told.flags);
    let entries: Vec<Wire<'_>> = entries.map(|(e, flags)| Wire::of(e, *flags)).collect();
    let answer = match entries.is_empty() {
        true => Answer::text(StatusCode::NOT_FOUND, ""),
        false => json(&entries),
    };
    indexed(answer, index_of(told))
}

/// The keys alone, up to a separator when there is one.
fn keys(prefix: &str, query: &Query, told: &Told) -> Answer {
    let separator = query.get("separator").filter(|text| !text.is_empty());
    let mut keys: Vec<&str> = Vec::new();
    for entry in entries_of(told) {
        let below = entry.key.get(prefix.len()..).unwrap_or_default();
        let cut = separator.and_then(|text| Some(below.find(text)? + text.len()));
        let end = cut.map_or(entry.key.len(), |cut| prefix.len() + cut);
        let key = entry.key.get(..end).unwrap_or(&entry.key);
        if keys.last() != Some(&key) {
            keys.push(key);
        }
    }
    let answer = match keys.is_empty() && !prefix.is_empty() {
        true => Answer::text(StatusCode::NOT_FOUND, ""),
        false => json(&keys),
    };
    indexed(answer, index_of(told))
}

fn put(key: String, query: &Query, request: Request) -> Result<Ask, BadRequest> {
    query.conflict(&["cas", "acquire", "release"])?;
    let flags = query.number("flags")?.unwrap_or(0);
    let value = request.body;
    let session = |name: &str| query.get(name).map(|id| SessionId(id.into()));
    let request = if let Some(session) = session("acquire") {
        Asked::Acquire {
            key,
            value,
            session,
        }
    } else if let Some(session) = session("release") {
        Asked::Release {
            key,
            value,
            session,
        }
    } else {
        let condition = match query.number("cas")? {
            None => Condition::Any,
            Some(0) => Condition::Absent,
            Some(index) => Condition::Unchanged(index),
        };
        Asked::Put {
            key,
            value,
            condition,
        }
    };
    Ok(Ask::Write { request, flags })
}

fn delete(key: String, query: &Query) -> Result<Ask, BadRequest> {
    query.conflict(&["recurse", "cas"])?;
    if query.has("recurse") {
        return Ok(Ask::DeleteTree { prefix: key });
    }
    let condition = match query.number("cas")? {
        None => Condition::Any,
        // What is there stays, and what is not is gone, as in Consul: no entry has this index.
        Some(0) => Condition::Unchanged(u64::MAX),
        Some(index) => Condition::Unchanged(index),
    };
    let request = Asked::Delete { key, condition };
    Ok(Ask::Write { request, flags: 0 })
}
