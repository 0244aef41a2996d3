//! What makes a machine a member of a cluster, in types: the result of reading it.

mod check;
mod children;
mod node;
pub mod patroni;
pub mod postgres;
mod postgres_check;
mod read;
mod system;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_bootstrap::identity::Role;
use holdfast_bootstrap::real::TeeConfig;
use holdfast_core::slots::Slot;
use holdfast_io::kv::consul as kv;
use holdfast_postgres::{KvPlace, Settings as Postgres};
use holdfast_sidecar::{Child, Consul, Peer, Service};

use super::keys::of_member;
use super::source::Origin;
use super::tree::Tree;

pub use node::as_node;
pub use read::read;
pub use system::{Strict, find_program, has_user};

/// The file of the cluster secret, in the folder of secrets.
pub const CLUSTER_SECRET: &str = "cluster.secret";
/// The file of the secret that TURN servers share, in the folder of secrets.
pub const TURN_SECRET: &str = "turn.secret";

/// A member's configuration without errors.
#[derive(Clone, Debug)]
pub struct Member {
    /// The cluster's name.
    pub cluster: String,
    /// What this machine is there for.
    pub role: Role,
    /// The slot that it owns, rather than claim one.
    pub pinned: Option<Slot>,
    /// The slots of its role, ascending: those that the peer list has.
    pub slots: Vec<Slot>,
    /// All nodes of the cluster, with this one.
    pub peers: Vec<Peer>,
    /// What survives a restart.
    pub state_dir: PathBuf,
    /// Where `info.json` is written.
    pub run_dir: PathBuf,
    /// Where secrets are written.
    pub secrets_dir: PathBuf,
    /// Where the peers' names are written, if anywhere.
    pub hosts_file: Option<PathBuf>,
    /// What vouches for the machine.
    pub tee: TeeConfig,
    /// Where the KV is, if it is known.
    pub kv: Option<kv::Config>,
    /// How long a slot stays with an owner who cannot renew.
    pub lease: Duration,
    /// How long to wait for a free slot; zero: for ever.
    pub patience: Duration,
    /// The Consul agent, if one is run.
    pub consul: Option<Consul>,
    /// The database, or where it is reached.
    pub postgres: Option<Postgres>,
    /// Whether it is run here, too.
    pub runs_database: bool,
    /// The KV as Patroni is told of it, where no Consul agent is run.
    pub patroni_kv: Option<KvPlace>,
    /// Services to register.
    pub services: Vec<Service>,
    /// What this machine is there for.
    pub children: Vec<Child>,
    /// Where each value came from.
    pub origins: BTreeMap<String, Origin>,
}

/// Whether anything of membership was given.
pub fn is_in(tree: &Tree) -> bool {
    let given = |name: &str| tree.nodes.contains_key(name);
    of_member().any(|key| {
        let (section, _) = key.split();
        given(key.name) || section.is_some_and(|section| tree.has_section(section))
    })
}

impl Member {
    /// What `config check` prints when there is nothing to complain about.
    pub fn summary(&self) -> Vec<(&'static str, String)> {
        let ids = |slots: &[Slot]| -> Vec<String> {
            let ids = slots
                .iter()
                .map(|slot| self.role.peer_id(*slot).to_string());
            ids.collect()
        };
        let node = match self.pinned {
            Some(slot) => format!("{}, pinned", self.role.peer_id(slot)),
            None => format!("one of {}", ids(&self.slots).join(", ")),
        };
        let tee = match &self.tee {
            TeeConfig::Dstack { endpoint, .. } => format!("dstack at {endpoint}"),
            TeeConfig::Plain { key_file, .. } => {
                format!("none: everything is derived from {}", key_file.display())
            }
        };
        let consul = match (&self.consul, self.role.is_coordinator()) {
            (None, _) => "none".to_owned(),
            (Some(consul), true) => format!("{}, a server", consul.program.display()),
            (Some(consul), false) => format!("{}, a client", consul.program.display()),
        };
        let list = |items: Vec<String>| match items.is_empty() {
            true => "none".to_owned(),
            false => items.join(", "),
        };
        let kv = self.kv.iter().flat_map(|kv| &kv.addresses);
        let children = self.children.iter().map(|child| child.name.to_string());
        let services = self.services.iter().map(|service| service.name.clone());
        let mut fields = vec![
            ("cluster", self.cluster.clone()),
            ("node", node),
            ("tee", tee),
            ("kv", list(kv.map(ToString::to_string).collect())),
            ("lease", format!("{} s", self.lease.as_secs())),
            ("consul", consul),
            ("services", list(services.collect())),
            ("children", list(children.collect())),
            ("state", self.state_dir.display().to_string()),
            ("secrets", self.secrets_dir.display().to_string()),
        ];
        if let Some(postgres) = &self.postgres {
            fields.extend(postgres::summary(postgres, self.runs_database));
        }
        fields
    }
}
