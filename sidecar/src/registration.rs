//! Keeps what the Consul agent knows of this machine's services as it should be.
//!
//! What is ours carries a mark, so that what others have registered with the agent stays. What an
//! entry of `SERVICES_JSON` means:
//!
//! | entry | registered here | config entries |
//! |---|---|---|
//! | without `parent` | `name`, tagged with its `subset` | `service-defaults`; with a subset a `service-resolver` that has it |
//! | with `parent` | the parent, if `registers_parent`, tagged with its role at this moment | a `service-resolver` that leads to the subset of the parent |
//! | with `sidecar_port` | as above | an intention besides that lets everybody in: the allowlist of the mesh says who may |

mod definitions;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use holdfast_io::clock::Clock;
use holdfast_io::http::{Client, Endpoint, Method};
use holdfast_io::kv::consul::{Address, Config, Consul, Token};
use holdfast_io::kv::{Failure, FailureKind};
use holdfast_io::net::Net;
use holdfast_io::spawn::Spawn;
use serde_json::{Value, json};
use tokio::sync::watch;
use zeroize::Zeroizing;

pub use definitions::{Desired, Wanted, config_entries, desired};

use crate::consul_agent;
use crate::options::Member;
use crate::services::TAGS_MAX;
use crate::status::{ServiceStatus, Shared, SidecarStatus};

/// How often everything is compared, whether or not something is known to have changed: somebody
/// else may have removed it.
const TICK: Duration = Duration::from_secs(15);
/// How soon the name is looked at again while the catalogue has another node for it.
const NAME_AGAIN: Duration = Duration::from_secs(1);
/// First and longest pause after a failure.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(10);

/// Largest answer and longest time for what is asked beside services: an agent tells its whole
/// configuration.
const ANSWER_LEN_MAX: usize = 1 << 20;
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// What was done with the agent, as far as it is known to have it.
#[derive(Default)]
struct Done {
    /// Config entries and intentions, by what they are for.
    written: BTreeMap<String, String>,
    /// Whether a service is in maintenance, by its id.
    maintenance: BTreeMap<String, bool>,
    /// Config entries cannot be written here: told once.
    unsupported: bool,
    /// Whether the catalogue has this node under its name, as far as that can be known.
    named: Option<bool>,
}

/// What this machine has with an agent.
pub struct Registrar<N, C, S> {
    consul: Consul<N, C, S>,
    /// For what only an agent is asked here.
    plain: Client<N, C, S>,
    member: Member,
    done: Done,
}

impl<N: Net, C: Clock, S: Spawn> Registrar<N, C, S> {
    /// With the agent there.
    ///
    /// # Errors
    /// For people: an address or a token that cannot be one.
    pub fn new(
        (net, clock, spawn): (N, C, S),
        at: &Endpoint,
        token: Option<&Zeroizing<String>>,
        member: Member,
    ) -> Result<Self, String> {
        let address: Address = at.to_string().parse().map_err(|error| format!("{error}"))?;
        let mut config = Config::new(vec![address]);
        if let Some(token) = token {
            config.token = Some(Token::new(token).map_err(|error| error.to_string())?);
        }
        let plain = Client::new(net.clone(), clock.clone(), spawn.clone(), at.clone());
        let consul = Consul::new(net, clock, spawn, config).map_err(|error| error.to_string())?;
        Ok(Registrar {
            consul,
            plain,
            member,
            done: Done::default(),
        })
    }

    /// The agent has started again: nothing is known of what it has.
    pub fn forget(&mut self) {
        self.done = Done::default();
    }

    /// Who leads the servers.
    ///
    /// # Errors
    /// The agent's.
    pub async fn leader(&self) -> Result<Option<String>, Failure> {
        self.consul.agent().leader().await
    }

    /// Make the agent have exactly these services of ours, and the cluster their config entries.
    /// `is_ready` says so of a child, by name.
    ///
    /// # Errors
    /// The agent's: some of it may be done, and doing it again does no harm.
    pub async fn reconcile(
        &mut self,
        wanted: &Wanted,
        is_ready: impl Fn(&str) -> bool,
    ) -> Result<Vec<ServiceStatus>, Failure> {
        let desired = desired(wanted, &self.member);
        let agent = self.consul.agent();
        let listed = agent.services().await?;
        for one in &desired {
            let is_there = listed
                .get(&one.service.id)
                .is_some_and(|found| one.is(found));
            if !is_there {
                agent.register_service(&one.service).await?;
                self.done.maintenance.remove(&one.service.id);
                tracing::info!(id = one.service.id, tags = ?one.service.tags, "service registered");
            }
        }
        for (id, found) in &listed {
            let is_stale =
                definitions::is_ours(found) && !desired.iter().any(|one| one.service.id == *id);
            if is_stale {
                agent.deregister_service(id).await?;
                self.done.maintenance.remove(id);
                tracing::info!(id, "stale service removed");
            }
        }
        for one in &desired {
            if let Some(child) = &one.child {
                self.follow(&one.service.id, child, is_ready(child)).await?;
            }
        }
        self.write_entries(wanted).await?;
        if self.done.named != Some(true) {
            self.done.named = self.claim_name().await;
        }
        let status = |one: &Desired| ServiceStatus {
            id: one.service.id.clone(),
            name: one.service.name.clone(),
            tags: one.service.tags.clone(),
            registered: true,
            problem: None,
        };
        Ok(desired.iter().map(status).collect())
    }

    /// Remove the node that has our name in the catalogue and is not us: a server that lost its
    /// disk (see [`crate::consul_agent`]). Who owns the slot has the name. Whether it is ours now;
    /// `None` when that cannot be known, as with the embedded KV.
    async fn claim_name(&mut self) -> Option<bool> {
        let name = self.member.id.as_str().to_owned();
        let own = self
            .ask(Method::GET, "/v1/agent/self", Bytes::new())
            .await?;
        let own = own["Config"]["NodeID"].as_str()?.to_owned();
        let path = format!("/v1/catalog/node/{name}");
        let found = self.ask(Method::GET, &path, Bytes::new()).await?;
        match found["Node"]["ID"].as_str() {
            None | Some("") => Some(false),
            Some(id) if id == own => Some(true),
            Some(id) => {
                tracing::warn!(
                    name,
                    id,
                    "a node of the same name is removed: its disk is lost"
                );
                let body = json!({ "Node": name }).to_string();
                self.ask(Method::PUT, "/v1/catalog/deregister", body.into())
                    .await?;
                Some(false)
            }
        }
    }

    async fn ask(&mut self, method: Method, path: &str, body: Bytes) -> Option<Value> {
        let asked = self
            .plain
            .request(method, path, body, ANSWER_LEN_MAX, ASK_LIMIT);
        let (status, body) = asked.await.ok()?;
        let value = status
            .is_success()
            .then(|| serde_json::from_slice(&body).ok());
        value.flatten()
    }

    /// Let a service be found while its child is ready.
    async fn follow(&mut self, id: &str, child: &str, ready: bool) -> Result<(), Failure> {
        if self.done.maintenance.get(id) == Some(&!ready) {
            return Ok(());
        }
        let reason = format!("{child} is not ready");
        let agent = self.consul.agent();
        agent.service_maintenance(id, !ready, &reason).await?;
        self.done.maintenance.insert(id.to_owned(), !ready);
        Ok(())
    }

    /// Config entries and intentions, each written once and when it has changed.
    async fn write_entries(&mut self, wanted: &Wanted) -> Result<(), Failure> {
        if self.done.unsupported {
            return Ok(());
        }
        for (what, entry) in config_entries(wanted) {
            let text = entry.to_string();
            if self.done.written.get(&what) == Some(&text) {
                continue;
            }
            let result = self.consul.agent().put_config_entry(&entry).await;
            if self.is_written(result)? {
                self.done.written.insert(what, text);
            }
        }
        for name in definitions::intentions(wanted) {
            let what = format!("intention/{name}");
            if self.done.written.contains_key(&what) {
                continue;
            }
            let result = self.consul.agent().put_intention("*", &name, true).await;
            if self.is_written(result)? {
                self.done.written.insert(what, String::new());
            }
        }
        Ok(())
    }

    /// An agent that has no config entries, such as the embedded KV, does without.
    fn is_written(&mut self, result: Result<(), Failure>) -> Result<bool, Failure> {
        match result {
            Ok(()) => Ok(true),
            Err(failure)
                if matches!(failure.kind, FailureKind::Invalid | FailureKind::Forbidden) =>
            {
                if !self.done.unsupported {
                    tracing::warn!("config entries are not written: {failure}");
                }
                self.done.unsupported = true;
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }
}

/// What the instance of a service is from now on.
pub(crate) fn set_role(wanted: &watch::Sender<Wanted>, service: &str, mut tags: Vec<String>) {
    tags.truncate(TAGS_MAX);
    wanted.send_if_modified(|wanted| {
        let before = wanted.roles.insert(service.to_owned(), tags.clone());
        before.unwrap_or_default() != tags
    });
}

/// Keep it so, as long as the agent's child runs.
pub(crate) async fn keep<N: Net, C: Clock, S: Spawn>(
    world: (N, C, S),
    token: Option<Zeroizing<String>>,
    member: Member,
    mut wanted: watch::Receiver<Wanted>,
    shared: Shared,
) {
    let clock = world.1.clone();
    let at = consul_agent::endpoint();
    let mut registrar = match Registrar::new(world, &at, token.as_ref(), member) {
        Ok(registrar) => registrar,
        Err(error) => {
            tracing::error!("services cannot be registered: {error}");
            return;
        }
    };
    let mut retry = RETRY_FIRST;
    let mut pid = None;
    loop {
        shared.wait_for(|status| agent_pid(status).is_some()).await;
        let now = shared.view(agent_pid);
        if now != pid {
            pid = now;
            registrar.forget();
        }
        let mut changes = shared.changes();
        let seen = shared.view(readiness);
        let want = wanted.borrow_and_update().clone();
        let is_ready = |name: &str| seen.iter().any(|(child, ready)| child == name && *ready);
        let leader = registrar.leader().await;
        let result = registrar.reconcile(&want, is_ready).await;
        let pause = match &result {
            Ok(_) if registrar.done.named == Some(false) => NAME_AGAIN,
            Ok(_) => TICK,
            Err(failure) => {
                tracing::warn!("services are not registered: {failure}");
                retry
            }
        };
        retry = match &result {
            Ok(_) => RETRY_FIRST,
            Err(_) => (retry * 2).min(RETRY_LAST),
        };
        show(&shared, leader, result);
        let other = async {
            while shared.view(readiness) == seen {
                // The sender is ours.
                let _ = changes.changed().await;
            }
        };
        tokio::select! {
            () = clock.sleep(pause) => {}
            Ok(()) = wanted.changed() => {}
            () = other => {}
        }
    }
}

/// The process of the agent, while that is ready.
fn agent_pid(status: &SidecarStatus) -> Option<u32> {
    let mut children = status.children.iter();
    let agent = children.find(|child| child.name == consul_agent::NAME && child.state == "ready");
    agent.and_then(|agent| agent.pid)
}

/// Which children are ready: changes of anything else are none to act on.
fn readiness(status: &SidecarStatus) -> Vec<(String, bool)> {
    let children = status.children.iter();
    children
        .map(|child| (child.name.clone(), child.state == "ready"))
        .collect()
}

fn show(
    shared: &Shared,
    leader: Result<Option<String>, Failure>,
    result: Result<Vec<ServiceStatus>, Failure>,
) {
    shared.update(|status| {
        if let Some(consul) = &mut status.consul {
            consul.leader = leader.ok().flatten();
        }
        match result {
            Ok(services) => status.services = services,
            Err(failure) => {
                for service in &mut status.services {
                    service.registered = false;
                    service.problem = Some(failure.to_string());
                }
            }
        }
    });
}
