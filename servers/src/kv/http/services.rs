//! Services that were registered: how they are kept, and `/v1/catalog` and `/v1/health`.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_io::clock::Clock;
use holdfast_io::http::Request;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json as value};

use super::super::store::{Record, Table};
use super::query::{BadRequest, Query, decode, duration};
use super::{Ask, Journal, Refusal, Served, Server, get_only, indexed, json};

/// Most tags, checks, or pairs of metadata of one service.
const PARTS_MAX: usize = 64;

/// What the identity of a service's record begins with.
const SERVICE: &str = "service/";

/// A service as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Service {
    pub id: String,
    pub name: String,
    pub tags: Vec<String>,
    pub meta: BTreeMap<String, String>,
    pub address: String,
    pub port: u16,
    pub enable_tag_override: bool,
    /// What a service mesh knows of it (`Kind`, `Proxy`, `Connect`, …), as it came.
    pub mesh: Map<String, Value>,
    pub checks: Vec<Check>,
}

/// A check as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Check {
    pub id: String,
    pub name: String,
    pub notes: String,
    pub status: String,
    pub output: String,
    /// Somebody has to say within this time that all is well; 0: nobody has to.
    pub ttl_ms: u64,
    /// When somebody last did, ms since the Unix epoch.
    pub said_ms: u64,
}

impl Service {
    pub fn body(&self) -> Bytes {
        let body = serde_json::to_vec(self);
        body.expect("the types here have no unusual keys").into()
    }

    /// The identity of a service's record.
    pub fn record_id(id: &str) -> String {
        format!("{SERVICE}{id}")
    }

    pub fn read(record: &Record) -> Option<Service> {
        if !record.id.starts_with(SERVICE) {
            return None;
        }
        // What is kept was written by this version or an older one.
        serde_json::from_slice(&record.body).ok()
    }

    /// A service as `PUT /v1/agent/service/register` names it.
    pub fn parse(fields: &BTreeMap<String, Value>, now: Duration) -> Result<Service, BadRequest> {
        let name = text(fields, "name")?;
        if name.is_empty() {
            return Err(BadRequest("Missing service name".into()));
        }
        let id = text(fields, "id")?;
        let id = if id.is_empty() { name.clone() } else { id };
        let port = match fields.get("port") {
            None | Some(Value::Null) => 0,
            Some(port) => port
                .as_u64()
                .and_then(|port| u16::try_from(port).ok())
                .ok_or_else(|| bad("port"))?,
        };
        let mesh = ["kind", "proxy", "connect", "weights", "taggedaddresses"];
        let mesh = mesh
            .into_iter()
            .zip(["Kind", "Proxy", "Connect", "Weights", "TaggedAddresses"]);
        let mesh =
            mesh.filter_map(|(lower, name)| Some((name.to_owned(), fields.get(lower)?.clone())));
        let mut checks = Vec::new();
        let many = fields.get("checks").and_then(Value::as_array);
        let one = fields.get("check").filter(|check| !check.is_null());
        for (number, check) in many.into_iter().flatten().chain(one).enumerate() {
            let fallback = match number {
                0 => format!("service:{id}"),
                _ => format!("service:{id}:{}", number + 1),
            };
            checks.push(Check::parse(check, &fallback, &name, now)?);
        }
        let service = Service {
            tags: texts(fields, "tags")?,
            meta: pairs(fields, "meta")?,
            address: text(fields, "address")?,
            enable_tag_override: fields.get("enabletagoverride") == Some(&Value::Bool(true)),
            mesh: mesh.collect(),
            id,
            name,
            port,
            checks,
        };
        let most = service.tags.len().max(service.meta.len());
        match most.max(service.checks.len()) <= PARTS_MAX {
            true => Ok(service),
            false => Err(bad("tags, checks or meta: too many")),
        }
    }

    /// As the agent shows it.
    pub fn shown(&self, record: &Record) -> Value {
        let mut shown = value!({
            "ID": self.id,
            "Service": self.name,
            "Tags": self.tags,
            "Meta": self.meta,
            "Port": self.port,
            "Address": self.address,
            "Weights": { "Passing": 1, "Warning": 1 },
            "EnableTagOverride": self.enable_tag_override,
            "CreateIndex": record.create_index,
            "ModifyIndex": record.modify_index,
        });
        for (name, part) in &self.mesh {
            shown[name] = part.clone();
        }
        shown
    }
}

impl Check {
    pub fn parse(
        check: &Value,
        fallback: &str,
        service: &str,
        now: Duration,
    ) -> Result<Check, BadRequest> {
        let Value::Object(map) = check else {
            return Err(bad("check"));
        };
        let lower = map.iter().map(|(k, v)| (k.to_ascii_lowercase(), v.clone()));
        let fields: BTreeMap<String, Value> = lower.collect();
        let or = |given: String, other: &str| match given.is_empty() {
            true => other.to_owned(),
            false => given,
        };
        let ttl = text(&fields, "ttl")?;
        let ttl = match ttl.is_empty() {
            true => Duration::ZERO,
            false => duration(&ttl).ok_or_else(|| bad("ttl"))?,
        };
        let id = or(text(&fields, "checkid")?, &text(&fields, "id")?);
        // Nobody carries out the other checks here: such a service is there until it is removed.
        let initial = if ttl.is_zero() { "passing" } else { "critical" };
        let status = or(text(&fields, "status")?, initial);
        if !["passing", "warning", "critical"].contains(&status.as_str()) {
            return Err(bad("status"));
        }
        Ok(Check {
            id: or(id, fallback),
            name: or(
                text(&fields, "name")?,
                &format!("Service '{service}' check"),
            ),
            notes: text(&fields, "notes")?,
            status,
            output: String::new(),
            ttl_ms: ms(ttl),
            said_ms: ms(now),
        })
    }

    /// Its status now.
    pub fn status(&self, now: Duration) -> &str {
        match self.ttl_ms > 0 && ms(now) > self.said_ms.saturating_add(self.ttl_ms) {
            true => "critical",
            false => &self.status,
        }
    }

    pub fn shown(&self, node: &str, service: &Service, now: Duration) -> Value {
        value!({
            "Node": node,
            "CheckID": self.id,
            "Name": self.name,
            "Status": self.status(now),
            "Notes": self.notes,
            "Output": self.output,
            "ServiceID": service.id,
            "ServiceName": service.name,
            "ServiceTags": service.tags,
        })
    }
}

impl<C: Clock, J: Journal> Server<C, J> {
    /// Every service, with its record.
    pub(super) fn registered(&self) -> Vec<(Record, Service)> {
        let store = self.store.borrow();
        let records = store.state().records();
        records
            .filter_map(|record| Some((record.clone(), Service::read(record)?)))
            .collect()
    }

    pub(super) async fn services(
        self: &Rc<Self>,
        area: &str,
        rest: &str,
        query: &Query,
        request: &Request,
    ) -> Served {
        get_only(request)?;
        query.consistency()?;
        let wait = query.wait()?;
        let table = Table::Records;
        let (what, name) = rest.split_once('/').unwrap_or((rest, ""));
        let name = decode(name, false)?;
        let known = matches!(
            (area, what),
            ("catalog", "nodes" | "services" | "service") | ("health", "service" | "checks")
        );
        if !known || (name.is_empty() && !matches!(what, "nodes" | "services")) {
            return Err(Refusal::not_found(""));
        }
        self.ask(Ask::Wait { table, wait }).await?;
        let index = self.store.borrow().state().table_index(table);
        let now = self.clock.now().unix;
        let tag = query.get("tag");
        let passing = query.has("passing");
        let mut found = self.registered();
        found.retain(|(_, service)| {
            let tagged = tag.is_none_or(|tag| service.tags.iter().any(|other| other == tag));
            service.name == name && tagged
        });
        let answer = match (area, what) {
            ("catalog", "nodes") => json(&[self.node()]),
            ("catalog", "services") => json(&self.by_name()),
            ("catalog", _) => {
                let shown = found
                    .iter()
                    .map(|(record, service)| self.located(record, service));
                json(&shown.collect::<Vec<_>>())
            }
            (_, "checks") => {
                let shown = found
                    .iter()
                    .flat_map(|(_, service)| self.checks_of(service, now));
                json(&shown.collect::<Vec<_>>())
            }
            _ => {
                let good = |service: &Service| {
                    let status = |check: &Check| check.status(now) == "passing";
                    !passing || service.checks.iter().all(status)
                };
                let shown = found.iter().filter(|(_, service)| good(service));
                let shown = shown.map(|(record, service)| {
                    value!({
                        "Node": self.node(),
                        "Service": service.shown(record),
                        "Checks": self.checks_of(service, now),
                    })
                });
                json(&shown.collect::<Vec<_>>())
            }
        };
        Ok(indexed(answer, index))
    }

    pub(super) fn checks_of(&self, service: &Service, now: Duration) -> Vec<Value> {
        let checks = service.checks.iter();
        checks
            .map(|check| check.shown(&self.options.node, service, now))
            .collect()
    }

    fn by_name(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (_, service) in self.registered() {
            names.entry(service.name).or_default().extend(service.tags);
        }
        names
    }

    fn host(&self) -> &str {
        let host = self.address.rsplit_once(':');
        host.map_or(self.address.as_str(), |(host, _)| host)
    }

    fn node(&self) -> Value {
        value!({
            "ID": "",
            "Node": self.options.node,
            "Address": self.host(),
            "Datacenter": self.options.datacenter,
            "TaggedAddresses": null,
            "Meta": {},
        })
    }

    fn located(&self, record: &Record, service: &Service) -> Value {
        value!({
            "ID": "",
            "Node": self.options.node,
            "Address": self.host(),
            "Datacenter": self.options.datacenter,
            "ServiceID": service.id,
            "ServiceName": service.name,
            "ServiceTags": service.tags,
            "ServiceAddress": service.address,
            "ServicePort": service.port,
            "ServiceMeta": service.meta,
            "ServiceEnableTagOverride": service.enable_tag_override,
            "CreateIndex": record.create_index,
            "ModifyIndex": record.modify_index,
        })
    }
}

fn bad(what: &str) -> BadRequest {
    BadRequest(format!("Request decode failed: bad {what}"))
}

pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn text(fields: &BTreeMap<String, Value>, name: &str) -> Result<String, BadRequest> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(bad(name)),
    }
}

fn texts(fields: &BTreeMap<String, Value>, name: &str) -> Result<Vec<String>, BadRequest> {
    let field = fields.get(name).cloned().unwrap_or(Value::Null);
    let texts: Option<Vec<String>> = serde_json::from_value(field).map_err(|_| bad(name))?;
    Ok(texts.unwrap_or_default())
}

fn pairs(
    fields: &BTreeMap<String, Value>,
    name: &str,
) -> Result<BTreeMap<String, String>, BadRequest> {
    let field = fields.get(name).cloned().unwrap_or(Value::Null);
    let pairs: Option<BTreeMap<String, String>> =
        serde_json::from_value(field).map_err(|_| bad(name))?;
    Ok(pairs.unwrap_or_default())
}
