//! What the sidecar says of itself: the `sidecar` section of `/status`, and `/readyz`.

use std::cell::RefCell;
use std::rc::Rc;

use holdfast_postgres::PostgresStatus;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::postgres;

/// The `sidecar` section of `/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SidecarStatus {
    /// How far it is: `preparing`, `claiming`, `running`, `stopping`.
    pub phase: String,
    /// The cluster's name.
    pub cluster: String,
    /// The same at every start of this machine.
    pub instance: Option<String>,
    /// What this machine is.
    pub role: String,
    /// The peer id, once there is a slot.
    pub id: Option<String>,
    /// The own slot.
    pub slot: SlotStatus,
    /// All slots of the role, as last seen.
    pub slots: Vec<SlotEntry>,
    /// The mesh, the Consul agent and the children.
    pub children: Vec<ChildStatus>,
    /// The Consul agent, if one is run.
    pub consul: Option<ConsulStatus>,
    /// What is registered.
    pub services: Vec<ServiceStatus>,
    /// The database, where one is run or reached.
    pub postgres: Option<PostgresStatus>,
    /// What became of the hosts file: `off`, `written`, `written in place`, or an error.
    pub hosts: String,
    /// What keeps it from being ready; empty when it is.
    pub not_ready: Vec<String>,
}

/// The own slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlotStatus {
    /// `looking`, `claiming`, `owning`, `lost`, `retired`; `pinned` where no KV is asked.
    pub state: String,
    /// The ordinal, once it is owned.
    pub slot: Option<u16>,
    /// Whether the ordinal was given by the configuration.
    pub pinned: bool,
    /// For how long it is owned without another renewal, milliseconds.
    pub lease_left_ms: Option<u64>,
    /// What stands in the way; gone when it no longer does.
    pub waiting_for: Option<String>,
    /// The KV refuses our token.
    pub refused: bool,
}

/// A slot of the role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlotEntry {
    /// Which.
    pub slot: u16,
    /// The instance that owns it.
    pub owner: Option<String>,
    /// For how long its lease still counts here, milliseconds.
    pub lease_ms: Option<u64>,
    /// What is strange about its entry.
    pub problem: Option<String>,
}

/// A child.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChildStatus {
    /// Its name.
    pub name: String,
    /// `waiting`, `starting`, `ready`, `stopping`, `backoff`, `failed`, `done`.
    pub state: String,
    /// How often it was started again.
    pub restarts: u32,
    /// How it ended last.
    pub last_end: Option<String>,
    /// The process, while it runs; the mesh has none of its own.
    pub pid: Option<u32>,
    /// What keeps it from being started, or from being ready; gone when it is.
    pub problem: Option<String>,
}

/// The Consul agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsulStatus {
    /// Whether it is a server.
    pub server: bool,
    /// Whether it answers and knows a leader.
    pub ready: bool,
    /// What it answered last to the question who leads.
    pub leader: Option<String>,
}

/// A registered service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceStatus {
    /// Its id with the agent.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Whether the agent has it as it should be.
    pub registered: bool,
    /// Why not.
    pub problem: Option<String>,
}

/// The one status that all parts write to, and are told of changes by.
#[derive(Clone)]
pub struct Shared {
    status: Rc<RefCell<SidecarStatus>>,
    changed: watch::Sender<()>,
}

impl Default for Shared {
    fn default() -> Shared {
        Shared {
            status: Rc::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl Shared {
    /// Look at it.
    pub fn view<T>(&self, look: impl FnOnce(&SidecarStatus) -> T) -> T {
        look(&self.status.borrow())
    }

    /// Change it; others are told when it is another then.
    pub fn update(&self, change: impl FnOnce(&mut SidecarStatus)) {
        let old = self.status.borrow().clone();
        change(&mut self.status.borrow_mut());
        if *self.status.borrow() != old {
            self.changed.send_replace(());
        }
    }

    /// Wait until it is so.
    pub async fn wait_for(&self, is_so: impl Fn(&SidecarStatus) -> bool) {
        let mut changes = self.changed.subscribe();
        while !self.view(&is_so) {
            // The sender is ours.
            let _ = changes.changed().await;
        }
    }

    /// Hear of changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

/// A state of core by the name that its JSON has.
pub(crate) fn name_of<T: Serialize>(state: &T) -> String {
    match serde_json::to_value(state) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

impl SidecarStatus {
    /// What keeps the machine from being a member that does its work.
    pub(crate) fn obstacles(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.phase != "running" {
            let waiting = self.slot.waiting_for.as_ref();
            let why = waiting.map_or(String::new(), |why| format!(": {why}"));
            found.push(format!("{}{why}", self.phase));
        }
        if !matches!(self.slot.state.as_str(), "owning" | "pinned") && self.slot.slot.is_none() {
            found.push("no slot is owned".to_owned());
        }
        if let Some(why) = self.slot.waiting_for.as_ref().filter(|_| self.slot.refused)
            && self.phase == "running"
        {
            found.push(why.clone());
        }
        for child in &self.children {
            if !matches!(child.state.as_str(), "ready" | "done") {
                let mut why: Vec<&str> = child.problem.as_deref().into_iter().collect();
                // What is wrong with the database may be why Patroni cannot do its work.
                let of_database = child.name == postgres::NAME;
                let database = self.postgres.as_ref().filter(|_| of_database);
                why.extend(
                    database
                        .iter()
                        .flat_map(|one| &one.problems)
                        .map(String::as_str),
                );
                let why = match why.is_empty() {
                    true => String::new(),
                    false => format!(": {}", why.join("; ")),
                };
                found.push(format!("{} is {}{why}", child.name, child.state));
            }
        }
        found
    }
}
