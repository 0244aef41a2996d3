//! What only a Consul agent can be asked: its members, services, config entries, intentions.
//!
//! Everything is idempotent, so that a failed request may simply be made again.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::wire::{self, Call, LIST_LEN_MAX, segment};
use super::{Consul, classify};
use crate::clock::Clock;
use crate::http::{Incoming, Method, StatusCode};
use crate::kv::Failure;
use crate::net::Net;
use crate::spawn::Spawn;

/// The agent behind a [`Consul`]: give that the agent's address alone.
pub struct Agent<'a, N, C, S> {
    consul: &'a Consul<N, C, S>,
}

/// A service to register.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Service {
    /// Unique on this agent. A slash in it breaks tools.
    #[serde(rename = "ID")]
    pub id: String,
    /// What others look for.
    pub name: String,
    /// Where it is, if not at the agent's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Its port.
    pub port: u16,
    /// For example its role.
    pub tags: Vec<String>,
    /// Whatever else is to be known.
    pub meta: BTreeMap<String, String>,
    /// How it is checked; without a check it is always passing.
    pub checks: Vec<Check>,
    /// Such as `connect-proxy`; left out for a plain service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The definition of the proxy (`Proxy`), as Consul documents it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Value>,
    /// The definition of service mesh (`Connect`), as Consul documents it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<Value>,
}

/// How Consul finds out whether a service works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Check {
    /// It accepts TCP connections.
    Tcp {
        /// `host:port`.
        #[serde(rename = "TCP")]
        address: String,
        /// How often, such as `10s`.
        #[serde(rename = "Interval")]
        interval: String,
        /// Longest time to connect, such as `2s`.
        #[serde(rename = "Timeout")]
        timeout: String,
    },
    /// It answers 2xx.
    Http {
        /// The URL.
        #[serde(rename = "HTTP")]
        url: String,
        /// How often, such as `10s`.
        #[serde(rename = "Interval")]
        interval: String,
        /// Longest time for the answer, such as `2s`.
        #[serde(rename = "Timeout")]
        timeout: String,
    },
    /// Somebody says so within this time.
    Ttl {
        /// Such as `30s`.
        #[serde(rename = "TTL")]
        ttl: String,
    },
}

/// A service that the agent has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ListedService {
    /// Unique on this agent.
    #[serde(rename = "ID")]
    pub id: String,
    /// What others look for.
    #[serde(rename = "Service")]
    pub name: String,
    /// Where it is; empty for the agent's address.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Its tags.
    #[serde(deserialize_with = "nullable")]
    pub tags: Vec<String>,
    /// Whatever else is known.
    #[serde(deserialize_with = "nullable")]
    pub meta: BTreeMap<String, String>,
}

/// A member of the gossip.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Member {
    /// The name of its node.
    pub name: String,
    /// Its address.
    pub addr: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its state in Serf: 1 alive, 2 leaving, 3 left, 4 failed; 0 nobody knows.
    pub status: u8,
    /// What it says of itself; `role` is `consul` for a server and `node` for a client.
    #[serde(default, deserialize_with = "nullable")]
    pub tags: BTreeMap<String, String>,
}

impl Member {
    /// Whether it is alive, as far as the agent knows.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.status == 1
    }

    /// Whether it is a server.
    #[must_use]
    pub fn is_server(&self) -> bool {
        self.tags.get("role").is_some_and(|role| role == "consul")
    }
}

/// What the agent says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSelf {
    /// The name of its node.
    pub node_name: String,
    /// Its datacenter.
    pub datacenter: String,
    /// Whether it is a server.
    pub server: bool,
    /// Its version.
    pub version: String,
}

/// Go writes an empty list as `null`.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl<'a, N: Net, C: Clock, S: Spawn> Agent<'a, N, C, S> {
    pub(super) fn new(consul: &'a Consul<N, C, S>) -> Self {
        Agent { consul }
    }

    /// Register a service, or change it: what is there under the same id is replaced, with its
    /// checks.
    pub async fn register_service(&self, service: &Service) -> Result<(), Failure> {
        let path = "/v1/agent/service/register?replace-existing-checks=true";
        self.put(path.to_owned(), &json!(service)).await.map(drop)
    }

    /// Remove a service. Returns false when there is none.
    pub async fn deregister_service(&self, id: &str) -> Result<bool, Failure> {
        let path = format!("/v1/agent/service/deregister/{}", segment(id));
        self.put_if_there(path).await
    }

    /// The services of this agent, by id.
    pub async fn services(&self) -> Result<BTreeMap<String, ListedService>, Failure> {
        self.get("/v1/agent/services".to_owned()).await
    }

    /// Put a service into maintenance, or back. Returns false when there is none.
    pub async fn service_maintenance(
        &self,
        id: &str,
        enable: bool,
        reason: &str,
    ) -> Result<bool, Failure> {
        let (id, reason) = (segment(id), segment(reason));
        let path = format!("/v1/agent/service/maintenance/{id}?enable={enable}&reason={reason}");
        self.put_if_there(path).await
    }

    /// Put the whole node into maintenance, or back.
    pub async fn maintenance(&self, enable: bool, reason: &str) -> Result<(), Failure> {
        let reason = segment(reason);
        let path = format!("/v1/agent/maintenance?enable={enable}&reason={reason}");
        self.put(path, &Value::Null).await.map(drop)
    }

    /// The members that this agent knows, itself among them.
    pub async fn members(&self) -> Result<Vec<Member>, Failure> {
        self.get("/v1/agent/members".to_owned()).await
    }

    /// What the agent says of itself. Answers as soon as the agent runs, with or without a leader.
    pub async fn about(&self) -> Result<AgentSelf, Failure> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct About {
            config: Config,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Config {
            datacenter: String,
            node_name: String,
            server: bool,
            version: String,
        }
        let About { config } = self.get("/v1/agent/self".to_owned()).await?;
        Ok(AgentSelf {
            node_name: config.node_name,
            datacenter: config.datacenter,
            server: config.server,
            version: config.version,
        })
    }

    /// Join the gossip of whoever is there.
    pub async fn join(&self, address: &str) -> Result<(), Failure> {
        let path = format!("/v1/agent/join/{}", segment(address));
        self.put(path, &Value::Null).await.map(drop)
    }

    /// Leave the cluster for good; the agent ends.
    pub async fn leave(&self) -> Result<(), Failure> {
        let path = "/v1/agent/leave".to_owned();
        self.put(path, &Value::Null).await.map(drop)
    }

    /// The address of the leader, as `host:port`, if there is one.
    pub async fn leader(&self) -> Result<Option<String>, Failure> {
        let leader: String = self.get("/v1/status/leader".to_owned()).await?;
        Ok(Some(leader).filter(|leader| !leader.is_empty()))
    }

    /// The addresses of the servers that vote, as `host:port`.
    pub async fn peers(&self) -> Result<Vec<String>, Failure> {
        self.get("/v1/status/peers".to_owned()).await
    }

    /// Write a config entry, as Consul documents it (`Kind`, `Name`, …).
    pub async fn put_config_entry(&self, entry: &Value) -> Result<(), Failure> {
        let path = "/v1/config".to_owned();
        self.put_true(path, entry).await
    }

    /// A config entry, if there is one.
    pub async fn config_entry(&self, kind: &str, name: &str) -> Result<Option<Value>, Failure> {
        let path = format!("/v1/config/{}/{}", segment(kind), segment(name));
        let call = Call {
            may_be_absent: true,
            ..Call::read(path, LIST_LEN_MAX)
        };
        let answer = self.perform(&call).await?;
        match answer.status == StatusCode::OK {
            true => self.read(&call, &answer).map(Some),
            false => Ok(None),
        }
    }

    /// Permit or forbid `source` to connect to `destination`. What other sources may do stays.
    pub async fn put_intention(
        &self,
        source: &str,
        destination: &str,
        allow: bool,
    ) -> Result<(), Failure> {
        let (source, destination) = (segment(source), segment(destination));
        let path =
            format!("/v1/connect/intentions/exact?source={source}&destination={destination}");
        let action = if allow { "allow" } else { "deny" };
        self.put_true(path, &json!({ "Action": action })).await
    }

    /// Whether `source` may connect to `destination`.
    pub async fn check_intention(&self, source: &str, destination: &str) -> Result<bool, Failure> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Checked {
            allowed: bool,
        }
        let (source, destination) = (segment(source), segment(destination));
        let path =
            format!("/v1/connect/intentions/check?source={source}&destination={destination}");
        let checked: Checked = self.get(path).await?;
        Ok(checked.allowed)
    }

    async fn get<T: for<'de> Deserialize<'de>>(&self, path: String) -> Result<T, Failure> {
        let call = Call::read(path, LIST_LEN_MAX);
        let answer = self.perform(&call).await?;
        self.read(&call, &answer)
    }

    async fn put(&self, path: String, body: &Value) -> Result<Incoming, Failure> {
        self.perform(&put(path, body)).await
    }

    async fn put_true(&self, path: String, body: &Value) -> Result<(), Failure> {
        let call = put(path, body);
        let answer = self.perform(&call).await?;
        let refused = || classify::garbled("Consul did not take it, and does not say why");
        let done = wire::done(&answer.body).and_then(|done| done.then_some(()).ok_or_else(refused));
        done.map_err(|failure| self.consul.name(failure, &call, self.consul.current.get()))
    }

    async fn put_if_there(&self, path: String) -> Result<bool, Failure> {
        let call = Call {
            may_be_absent: true,
            ..put(path, &Value::Null)
        };
        Ok(self.perform(&call).await?.status == StatusCode::OK)
    }

    async fn perform(&self, call: &Call) -> Result<Incoming, Failure> {
        let (answer, _) = self.consul.perform(call).await?;
        Ok(answer)
    }

    fn read<T: for<'de> Deserialize<'de>>(
        &self,
        call: &Call,
        answer: &Incoming,
    ) -> Result<T, Failure> {
        wire::json(&answer.body)
            .map_err(|failure| self.consul.name(failure, call, self.consul.current.get()))
    }
}

fn put(path: String, body: &Value) -> Call {
    let body = match body {
        Value::Null => Vec::new(),
        body => body.to_string().into_bytes(),
    };
    Call::write(Method::PUT, path, body)
}
