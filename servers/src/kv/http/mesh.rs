//! `/v1/config` and `/v1/connect/intentions`: kept and given back, for nobody's proxies.

use std::rc::Rc;

use bytes::Bytes;
use holdfast_io::clock::Clock;
use holdfast_io::http::{Method, Request, StatusCode};
use serde_json::{Value, json as value};

use super::query::{BadRequest, Query, decode};
use super::services::text as field;
use super::sessions::object;
use super::{Answer, Ask, Journal, Refusal, Served, Server, json};

/// What the identity of a config entry's record begins with.
const CONFIG: &str = "config/";
/// What the identity of an intention's record begins with.
const INTENTION: &str = "intention/";

impl<C: Clock, J: Journal> Server<C, J> {
    pub(super) async fn config(self: &Rc<Self>, rest: &str, request: Request) -> Served {
        let rest = decode(rest, false)?;
        if rest.is_empty() && request.method == Method::PUT {
            let fields = object(&request.body)?;
            let (kind, name) = (field(&fields, "kind")?, field(&fields, "name")?);
            if kind.is_empty() || name.is_empty() || kind.contains('/') {
                return Err(BadRequest("a config entry has a Kind and a Name".into()).into());
            }
            return self
                .put_record(format!("{CONFIG}{kind}/{name}"), request.body)
                .await;
        }
        let Some((kind, name)) = rest.split_once('/') else {
            let prefix = format!("{CONFIG}{rest}/");
            let listed: Vec<Value> = self
                .records_below(&prefix)
                .map(|(_, entry)| entry)
                .collect();
            return match request.method == Method::GET && !rest.is_empty() {
                true => Ok(json(&listed)),
                false => Err(Refusal::method()),
            };
        };
        let id = format!("{CONFIG}{kind}/{name}");
        if request.method == Method::GET {
            let found = self.records_below(&id).find(|(other, _)| *other == id);
            let missing = || format!("Config entry not found for {kind:?} / {name:?}");
            let (_, entry) = found.ok_or_else(|| Refusal::not_found(missing()))?;
            return Ok(json(&entry));
        }
        if request.method == Method::DELETE {
            return Ok(json(&self.ask_done(Ask::DeleteRecord { id }).await?));
        }
        Err(Refusal::method())
    }

    pub(super) async fn intentions(
        self: &Rc<Self>,
        rest: &str,
        query: &Query,
        request: Request,
    ) -> Served {
        let part = |name: &str| match query.get(name) {
            Some(part) if !part.is_empty() && !part.contains('/') => Ok(part.to_owned()),
            _ => Err(BadRequest(format!("bad {name}"))),
        };
        let (source, destination) = (part("source")?, part("destination")?);
        let id = format!("{INTENTION}{destination}/{source}");
        match (rest, request.method.as_str()) {
            ("intentions/exact", "PUT") => {
                let action = field(&object(&request.body)?, "action")?;
                if action != "allow" && action != "deny" {
                    return Err(BadRequest("Action must be allow or deny".into()).into());
                }
                let intention = value!({
                    "SourceName": source, "DestinationName": destination, "Action": action,
                });
                self.put_record(id, intention.to_string().into()).await
            }
            ("intentions/exact", "GET") => match self.intention(&destination, &source) {
                Some(intention) => Ok(json(&intention)),
                None => Err(Refusal::not_found("Intention not found")),
            },
            ("intentions/exact", "DELETE") => {
                self.ask(Ask::DeleteRecord { id }).await?;
                Ok(Answer::text(StatusCode::OK, ""))
            }
            ("intentions/check", "GET") => {
                // The most exact one decides, the destination before the source.
                let pairs = [
                    (&*destination, &*source),
                    (&*destination, "*"),
                    ("*", &*source),
                    ("*", "*"),
                ];
                let found = pairs.iter().find_map(|(to, from)| self.intention(to, from));
                let allowed = found.is_none_or(|found| found["Action"] == "allow");
                Ok(json(&value!({ "Allowed": allowed })))
            }
            _ => Err(Refusal::method()),
        }
    }

    fn intention(&self, destination: &str, source: &str) -> Option<Value> {
        let id = format!("{INTENTION}{destination}/{source}");
        let store = self.store.borrow();
        serde_json::from_slice(&store.state().record(&id)?.body).ok()
    }

    fn records_below(&self, prefix: &str) -> impl Iterator<Item = (String, Value)> + use<C, J> {
        let store = self.store.borrow();
        let records = store.state().records();
        let below = records.filter(|record| record.id.starts_with(prefix));
        let read = below.filter_map(|record| {
            let mut entry: Value = serde_json::from_slice(&record.body).ok()?;
            entry["CreateIndex"] = record.create_index.into();
            entry["ModifyIndex"] = record.modify_index.into();
            Some((record.id.clone(), entry))
        });
        read.collect::<Vec<_>>().into_iter()
    }

    async fn put_record(self: &Rc<Self>, id: String, body: Bytes) -> Served {
        Ok(json(&self.ask_done(Ask::PutRecord { id, body }).await?))
    }
}
