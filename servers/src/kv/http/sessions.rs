//! `/v1/session`.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use holdfast_core::kv::{Behavior, NewSession, Request as Asked, Response, SessionId};
use holdfast_io::clock::Clock;
use holdfast_io::http::{Request, StatusCode};
use serde_json::{Value, json as value};

use super::super::store::{Session, Table};
use super::query::{BadRequest, Query, decode, duration, go};
use super::{Ask, Journal, Refusal, Served, Server, get_only, indexed, json, put_only};

/// As in Consul.
const LOCK_DELAY_DEFAULT: Duration = Duration::from_secs(15);
/// A lock delay below this, in ns, was meant in seconds, as Consul has it.
const LOCK_DELAY_NS_MIN: u64 = 1_000;

impl<C: Clock, J: Journal> Server<C, J> {
    pub(super) async fn sessions(
        self: &Rc<Self>,
        rest: &str,
        query: &Query,
        request: Request,
    ) -> Served {
        let (verb, name) = rest.split_once('/').unwrap_or((rest, ""));
        let name = decode(name, false)?;
        match verb {
            "create" => {
                put_only(&request)?;
                self.create(&request.body).await
            }
            "renew" => {
                put_only(&request)?;
                self.renew(named(name, "session")?).await
            }
            "destroy" => {
                put_only(&request)?;
                let id = SessionId(named(name, "session")?.into());
                Ok(json(&self.ask_done(Asked::SessionDestroy(id)).await?))
            }
            "info" => {
                get_only(&request)?;
                let name = named(name, "session")?;
                self.list(query, |session| *session.id.0 == *name).await
            }
            "node" => {
                get_only(&request)?;
                let own = named(name, "node name")? == self.options.node;
                self.list(query, |_| own).await
            }
            "list" => {
                get_only(&request)?;
                self.list(query, |_| true).await
            }
            _ => Err(Refusal::not_found("")),
        }
    }

    async fn create(self: &Rc<Self>, body: &[u8]) -> Served {
        let asked = new_session(body)?;
        // One without a TTL is Consul's, not ours.
        let (request, flags) = (Asked::SessionCreate(asked), 0);
        match self.ask(Ask::Write { request, flags }).await?.result {
            Ok(Response::Session(id)) => Ok(json(&value!({ "ID": &*id.0 }))),
            other => {
                let message = format!("the store answered {other:?}");
                Err(Refusal::Status(StatusCode::INTERNAL_SERVER_ERROR, message))
            }
        }
    }

    async fn renew(self: &Rc<Self>, name: String) -> Served {
        let id = SessionId(name.as_str().into());
        let renewed = self.ask_done(Asked::SessionRenew(id.clone())).await?;
        let session = self.store.borrow().state().session(&id).cloned();
        match session.filter(|_| renewed) {
            Some(session) => Ok(json(&[self.shown(&session)])),
            None => Err(Refusal::not_found(format!("Session id '{name}' not found"))),
        }
    }

    async fn list(self: &Rc<Self>, query: &Query, which: impl Fn(&Session) -> bool) -> Served {
        query.consistency()?;
        let wait = query.wait()?;
        let table = Table::Sessions;
        self.ask(Ask::Wait { table, wait }).await?;
        let store = self.store.borrow();
        let sessions = store.state().sessions().filter(|session| which(session));
        let shown: Vec<Value> = sessions.map(|session| self.shown(session)).collect();
        Ok(indexed(json(&shown), store.state().table_index(table)))
    }

    fn shown(&self, session: &Session) -> Value {
        let asked = &session.asked;
        value!({
            "ID": &*session.id.0,
            "Name": asked.name,
            "Node": self.options.node,
            "LockDelay": u64::try_from(asked.lock_delay.as_nanos()).unwrap_or(u64::MAX),
            "Behavior": match asked.behavior {
                Behavior::Release => "release",
                Behavior::Delete => "delete",
            },
            "TTL": match asked.ttl.is_zero() {
                true => String::new(),
                false => go(asked.ttl),
            },
            "NodeChecks": [],
            "ServiceChecks": null,
            "CreateIndex": session.create_index,
            "ModifyIndex": session.create_index,
        })
    }
}

fn named(name: String, what: &str) -> Result<String, BadRequest> {
    match name.is_empty() {
        true => Err(BadRequest(format!("Missing {what}"))),
        false => Ok(name),
    }
}

/// An object whose keys are compared without regard to case, as Go does.
pub(super) fn object(body: &[u8]) -> Result<BTreeMap<String, Value>, BadRequest> {
    let failed = |why: String| BadRequest(format!("Request decode failed: {why}"));
    let parsed: Value = serde_json::from_slice(body).map_err(|error| failed(error.to_string()))?;
    match parsed {
        Value::Object(map) => {
            let lower = map.into_iter().map(|(k, v)| (k.to_ascii_lowercase(), v));
            Ok(lower.collect())
        }
        _ => Err(failed("an object is expected".into())),
    }
}

fn new_session(body: &[u8]) -> Result<NewSession, BadRequest> {
    let fields = match body.is_empty() {
        true => BTreeMap::new(),
        false => object(body)?,
    };
    let failed = |what: &str| BadRequest(format!("Request decode failed: bad {what}"));
    let text = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(failed(name)),
    };
    let ttl = match text("ttl")? {
        "" => Duration::ZERO,
        given => duration(given).ok_or_else(|| failed("ttl"))?,
    };
    let behavior = match text("behavior")? {
        "" | "release" => Behavior::Release,
        "delete" => Behavior::Delete,
        _ => return Err(failed("behavior")),
    };
    let lock_delay = match fields.get("lockdelay") {
        None | Some(Value::Null) => LOCK_DELAY_DEFAULT,
        Some(Value::String(given)) => duration(given).ok_or_else(|| failed("lockdelay"))?,
        Some(given) => {
            let ns = given.as_f64().filter(|ns| (0.0..1e18).contains(ns));
            Duration::from_nanos(ns.ok_or_else(|| failed("lockdelay"))? as u64)
        }
    };
    Ok(NewSession {
        name: text("name")?.to_owned(),
        ttl,
        behavior,
        lock_delay: match u64::try_from(lock_delay.as_nanos()) {
            Ok(ns) if ns < LOCK_DELAY_NS_MIN => Duration::from_secs(ns),
            _ => lock_delay,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::services::{Check, Service};
    use super::*;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    #[test]
    fn a_lock_delay_is_a_duration_or_a_number_and_small_numbers_are_seconds() {
        let delay = |given: &str| {
            let body = format!(r#"{{"LockDelay":{given}}}"#);
            new_session(body.as_bytes()).map(|session| session.lock_delay)
        };
        for (given, expected_ns) in [
            ("null", 15_000_000_000),
            ("0", 0),
            ("\"0s\"", 0),
            ("5", 5_000_000_000),
            ("5000", 5_000),
            ("\"0.001s\"", 1_000_000),
            ("\"15s\"", 15_000_000_000),
            ("15e9", 15_000_000_000),
        ] {
            assert_eq!(
                delay(given),
                Ok(Duration::from_nanos(expected_ns)),
                "{given}"
            );
        }
        for bad in ["-1", "true", "\"soon\"", "1e300", "{}"] {
            assert!(delay(bad).is_err(), "{bad}");
        }
    }

    /// Any JSON, with the names that mean something often enough.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
            Just(Value::from("15s")),
        ];
        let name = prop_oneof![
            Just("TTL".to_owned()),
            Just("lockdelay".to_owned()),
            Just("Behavior".to_owned()),
            Just("Name".to_owned()),
            Just("ID".to_owned()),
            Just("Port".to_owned()),
            Just("Tags".to_owned()),
            Just("Meta".to_owned()),
            Just("Check".to_owned()),
            Just("Checks".to_owned()),
            "\\PC{0,4}",
        ];
        leaf.prop_recursive(3, 32, 6, move |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::from),
                btree_map(name.clone(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_body_makes_a_parser_panic(body in any_json(), bytes in vec(any::<u8>(), 0..40)) {
            let now = Duration::from_secs(1);
            for body in [body.to_string().into_bytes(), bytes] {
                let _ = new_session(&body);
                if let Ok(fields) = object(&body) {
                    if let Ok(service) = Service::parse(&fields, now) {
                        prop_assert!(!service.name.is_empty() && !service.id.is_empty());
                    }
                    let check = Value::Object(fields.into_iter().collect());
                    let _ = Check::parse(&check, "fallback", "service", now);
                }
            }
        }
    }
}
