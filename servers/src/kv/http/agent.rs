//! `/v1/agent`.

use std::collections::BTreeMap;
use std::rc::Rc;

use holdfast_io::clock::Clock;
use holdfast_io::http::{Request, StatusCode};
use serde_json::{Value, json as value};

use super::query::{Query, decode};
use super::services::{Check, Service, ms, text as field};
use super::sessions::object;
use super::{Answer, Ask, Journal, Refusal, Served, Server, get_only, json, put_only};
use holdfast_core::kv::SESSION_TTL;

/// Longest words of a check about itself, bytes; what is longer is cut.
const OUTPUT_LEN_MAX: usize = 4096;

impl<C: Clock, J: Journal> Server<C, J> {
    pub(super) async fn agent(
        self: &Rc<Self>,
        rest: &str,
        query: &Query,
        request: Request,
    ) -> Served {
        if let Some(id) = rest.strip_prefix("service/deregister/") {
            put_only(&request)?;
            return self.deregister(&decode(id, false)?).await;
        }
        if let Some(check) = rest.strip_prefix("check/") {
            put_only(&request)?;
            return self.check(check, query, &request).await;
        }
        match rest {
            "service/register" => {
                put_only(&request)?;
                let now = self.clock.now().unix;
                let service = Service::parse(&object(&request.body)?, now)?;
                self.keep(service).await
            }
            "services" => {
                get_only(&request)?;
                let services = self.registered().into_iter();
                let shown = services.map(|(record, s)| (s.id.clone(), s.shown(&record)));
                Ok(json(&shown.collect::<BTreeMap<_, _>>()))
            }
            "checks" => {
                get_only(&request)?;
                Ok(json(&self.checks()))
            }
            "self" => {
                get_only(&request)?;
                Ok(json(&self.about()))
            }
            "members" => {
                get_only(&request)?;
                Ok(json(&[self.member()]))
            }
            _ => match rest.strip_prefix("service/") {
                Some(id) => {
                    get_only(&request)?;
                    let (record, service) = self.find(&decode(id, false)?)?;
                    Ok(json(&service.shown(&record)))
                }
                None => Err(Refusal::not_found("")),
            },
        }
    }

    fn find(&self, id: &str) -> Result<(super::super::store::Record, Service), Refusal> {
        let kept = Service::record_id(id);
        let record = self.store.borrow().state().record(&kept).cloned();
        let found = record.and_then(|record| {
            let service = Service::read(&record)?;
            Some((record, service))
        });
        found.ok_or_else(|| Refusal::not_found(format!("Unknown service ID {id:?}.")))
    }

    async fn keep(self: &Rc<Self>, service: Service) -> Served {
        let (id, body) = (Service::record_id(&service.id), service.body());
        self.ask(Ask::PutRecord { id, body }).await?;
        Ok(Answer::text(StatusCode::OK, ""))
    }

    async fn deregister(self: &Rc<Self>, id: &str) -> Served {
        self.find(id)?;
        let id = Service::record_id(id);
        self.ask(Ask::DeleteRecord { id }).await?;
        Ok(Answer::text(StatusCode::OK, ""))
    }

    async fn check(self: &Rc<Self>, rest: &str, query: &Query, request: &Request) -> Served {
        let (verb, id) = rest.split_once('/').unwrap_or((rest, ""));
        let id = decode(id, false)?;
        match verb {
            "register" => self.register_check(request).await,
            "deregister" => {
                let mut service = self.with_check(&id)?;
                service.checks.retain(|check| check.id != id);
                self.keep(service).await
            }
            "pass" | "warn" | "fail" => {
                let status = match verb {
                    "pass" => "passing",
                    "warn" => "warning",
                    _ => "critical",
                };
                let note = query.get("note").unwrap_or_default();
                self.say(&id, status, note).await
            }
            "update" => {
                let fields = object(&request.body)?;
                let status = field(&fields, "status")?;
                if !["passing", "warning", "critical"].contains(&status.as_str()) {
                    let message = format!("Invalid check status: '{status}'");
                    return Err(Refusal::Status(StatusCode::BAD_REQUEST, message));
                }
                self.say(&id, &status, &field(&fields, "output")?).await
            }
            _ => Err(Refusal::not_found("")),
        }
    }

    async fn register_check(self: &Rc<Self>, request: &Request) -> Served {
        let fields = object(&request.body)?;
        let (_, mut service) = self.find(&field(&fields, "serviceid")?)?;
        let given: Value = Value::Object(fields.into_iter().collect());
        let fallback = format!("service:{}", service.id);
        let now = self.clock.now().unix;
        let check = Check::parse(&given, &fallback, &service.name, now)?;
        service.checks.retain(|other| other.id != check.id);
        service.checks.push(check);
        self.keep(service).await
    }

    /// The service that has this check.
    fn with_check(&self, id: &str) -> Result<Service, Refusal> {
        let has = |service: &Service| service.checks.iter().any(|check| check.id == id);
        let mut services = self.registered().into_iter().map(|(_, service)| service);
        let found = services.find(has);
        found.ok_or_else(|| Refusal::not_found(format!("Unknown check ID {id:?}.")))
    }

    async fn say(self: &Rc<Self>, id: &str, status: &str, note: &str) -> Served {
        let mut service = self.with_check(id)?;
        let now = self.clock.now().unix;
        for check in &mut service.checks {
            if check.id == id {
                check.status = status.to_owned();
                let cut = note.char_indices().map(|(at, _)| at);
                let cut = cut.take_while(|at| *at <= OUTPUT_LEN_MAX).last();
                check.output = match note.len() <= OUTPUT_LEN_MAX {
                    true => note.to_owned(),
                    false => note[..cut.unwrap_or(0)].to_owned(),
                };
                check.said_ms = ms(now);
            }
        }
        self.keep(service).await
    }

    fn checks(&self) -> BTreeMap<String, Value> {
        let now = self.clock.now().unix;
        let mut shown = BTreeMap::new();
        for (_, service) in self.registered() {
            let checks = self.checks_of(&service, now);
            let ids = service.checks.iter().map(|check| check.id.clone());
            shown.extend(ids.zip(checks));
        }
        shown
    }

    fn about(&self) -> Value {
        let ttl_min_ns = u64::try_from(SESSION_TTL.start().as_nanos()).unwrap_or(u64::MAX);
        value!({
            "Config": {
                "Datacenter": self.options.datacenter,
                "NodeName": self.options.node,
                "NodeID": "",
                "Revision": "",
                "Server": true,
                "Version": concat!(env!("CARGO_PKG_VERSION"), "-holdfast"),
                // Patroni asks for it when its TTL was refused.
                "SessionTTLMin": ttl_min_ns,
            },
            "Member": self.member(),
        })
    }

    fn member(&self) -> Value {
        let (host, port) = self
            .address
            .rsplit_once(':')
            .unwrap_or((&self.address, "0"));
        value!({
            "Name": self.options.node,
            "Addr": host.trim_matches(['[', ']']),
            "Port": port.parse::<u16>().unwrap_or(0),
            "Tags": { "role": "consul", "dc": self.options.datacenter },
            "Status": 1,
        })
    }
}
