//! The database of a member: Patroni as a child, what the cluster says of itself, and the
//! endpoints. What must hold is in `docs/postgres.md`.
//!
//! * `child`: Patroni, before whose start a guard looks; `postmaster`: what it may leave behind;
//!   `fence`: ends that when nobody manages it.
//! * `endpoints`: where clients come in, on every machine that has the table.
//! * `follow`: the status, and the role tags of the registered service.
//! * `parts`: what the crate `holdfast_postgres` does for all of them.

mod child;
mod endpoints;
mod fence;
mod follow;
mod parts;
mod postmaster;
mod secrets;

use std::rc::Rc;
use std::time::Instant;

use holdfast_core::supervise::Name;
use holdfast_core::types::{PeerId, Vip};
use holdfast_io::http::Stop;
use holdfast_io::real::RealSpawn;
use holdfast_io::route::Backend;
use holdfast_io::spawn::{Spawn, Task};
use holdfast_postgres::{Place, PostgresStatus};
use tokio::sync::watch;

pub use holdfast_postgres::{Credentials, KvPlace, Settings};
pub use secrets::credentials;

pub(crate) use child::STOP_DEADLINE;
pub(crate) use fence::{Fence, Fenced, hurried};

use crate::children::Supervised;
use crate::consul_agent;
use crate::error::Error;
use crate::options::{Consul, Member, Options, Peer};
use crate::registration::Wanted;
use crate::services::{Check, Service};
use crate::status::Shared;
use endpoints::Endpoints;
use parts::Guarded;

/// The name of Patroni's child.
pub const NAME: &str = "patroni";
/// The name of the endpoints among the children.
pub const ENDPOINTS: &str = "endpoints";
/// The name that the database is registered under.
pub const SERVICE: &str = "postgres";

/// The database of a cluster, as one of its machines needs it.
#[derive(Clone)]
pub struct Postgres {
    /// What the user chose.
    pub settings: Settings,
    /// The role whose machines run the database: `worker`. Machines of another role have the
    /// endpoints alone.
    pub role: String,
    /// The KV that Patroni uses where the sidecar runs no Consul agent: the first of
    /// `kv.addresses`. The agent has precedence.
    pub kv: Option<KvPlace>,
    /// What was derived at bootstrap: [`credentials`] reads it.
    pub credentials: Credentials,
}

/// The server of this machine.
struct Own {
    place: Place,
    guarded: Guarded,
}

/// The database of this machine, for as long as the machine is a member.
pub(crate) struct Database {
    settings: Rc<Settings>,
    role: String,
    has_agent: bool,
    /// Where it runs here, and is not only reached.
    own: Option<Own>,
    backends: watch::Sender<Vec<Backend>>,
}

impl Database {
    /// # Errors
    /// [`Error::Config`] for what cannot be run here.
    pub(crate) fn new<B>(
        postgres: Postgres,
        options: &Options<B>,
        member: &Member,
    ) -> Result<Database, Error> {
        let settings = Rc::new(postgres.settings);
        let members = members(&postgres.role, &options.peers);
        let own = match members.iter().any(|peer| peer.id == member.id) {
            true => {
                let kv = patroni_kv(options.consul.as_ref(), postgres.kv)?;
                let place = place(options, member, &members, kv);
                let credentials = postgres.credentials;
                let guarded = Guarded::new(settings.clone(), place.clone(), credentials);
                let guarded = guarded.map_err(Error::Config)?;
                Some(Own { place, guarded })
            }
            false => None,
        };
        Ok(Database {
            backends: watch::Sender::new(endpoints::backends(members, &settings)),
            settings,
            role: postgres.role,
            has_agent: options.consul.is_some(),
            own,
        })
    }

    /// Patroni, where the database runs here, and the endpoints.
    pub(crate) fn children(&self, shared: &Shared) -> Vec<Supervised> {
        let mut all = Vec::new();
        let name = |name: &str| -> Name { name.parse().expect("letters are a name") };
        if let Some(own) = &self.own {
            let mut after = vec![name(crate::run::MESH)];
            after.extend(self.has_agent.then(|| name(consul_agent::NAME)));
            let look = own.guarded.look();
            all.push(child::supervised(&self.settings, &own.place, after, look));
        }
        let endpoints = Endpoints {
            settings: self.settings.clone(),
            backends: self.backends.clone(),
            probe: parts::probe(&self.settings),
            shared: shared.clone(),
        };
        all.push(endpoints.supervised(vec![name(crate::run::MESH)]));
        all
    }

    /// Keep the status and the role tags as they should be, until the task is dropped.
    pub(crate) fn follow(&self, shared: &Shared, wanted: &watch::Sender<Wanted>) -> Option<Task> {
        let (shared, wanted) = (shared.clone(), wanted.clone());
        let first = PostgresStatus {
            scope: self.settings.scope.clone(),
            ..PostgresStatus::default()
        };
        follow::status(&shared, first);
        let watching = self.own.as_ref()?.guarded.watch(
            move |role| follow::role(&wanted, role),
            move |status| follow::status(&shared, status),
        );
        Some(RealSpawn.spawn("database watcher", watching))
    }

    /// The services with the database's own, unless it is there already.
    pub(crate) fn with_service(&self, services: &[Service]) -> Vec<Service> {
        let mut all = services.to_vec();
        let is_there = |service: &Service| {
            service.name == SERVICE || service.registered_name() == Some(SERVICE)
        };
        if self.own.is_some() && !all.iter().any(is_there) {
            all.push(Service {
                name: SERVICE.to_owned(),
                port: self.settings.port,
                subset: None,
                vip: None,
                sidecar_port: None,
                parent: None,
                registers_parent: false,
                check: Some(Check::Child(NAME.to_owned())),
            });
        }
        all
    }

    /// These are the peers from now on.
    pub(crate) fn set_peers(&self, peers: &[Peer]) {
        let members = members(&self.role, peers);
        let list = pairs(&members);
        if let Some(own) = &self.own {
            own.guarded.set_members(list);
        }
        let backends = endpoints::backends(members, &self.settings);
        self.backends.send_if_modified(|known| {
            let is_new = *known != backends;
            *known = backends;
            is_new
        });
    }

    /// What must not run on without Patroni, where the database runs here.
    pub(crate) fn fence(&self) -> Option<Fence> {
        let own = self.own.as_ref()?;
        Some(Fence::new(&self.settings, own.place.vip))
    }

    /// End a server that runs without Patroni, at the end of everything: cleanly until that
    /// moment, or a hurry.
    pub(crate) fn end_leftovers(
        &self,
        hurry: Stop,
        by: Instant,
    ) -> impl Future<Output = ()> + use<> {
        let own = self.own.as_ref();
        let data_dir = own.map(|_| self.settings.data_dir.clone());
        async move {
            if let Some(data_dir) = data_dir {
                fence::end_by(&data_dir, hurry, by).await;
            }
        }
    }
}

/// The agent's, where one runs.
fn patroni_kv(agent: Option<&Consul>, configured: Option<KvPlace>) -> Result<KvPlace, Error> {
    let of_agent = |consul: &Consul| KvPlace {
        address: consul_agent::endpoint().to_string(),
        token: consul.token.clone(),
        ca_file: None,
    };
    let without = "a database needs a KV for Patroni: run a Consul agent, or set kv.addresses";
    let found = agent.map(of_agent).or(configured);
    found.ok_or_else(|| Error::Config(without.to_owned()))
}

fn place<B>(options: &Options<B>, member: &Member, members: &[&Peer], kv: KvPlace) -> Place {
    Place {
        cluster: options.cluster.clone(),
        id: member.id.clone(),
        instance: member.instance.clone(),
        vip: member.vip,
        members: pairs(members),
        kv,
        run_dir: options.run_dir.clone(),
    }
}

fn pairs(members: &[&Peer]) -> Vec<(PeerId, Vip)> {
    members
        .iter()
        .map(|peer| (peer.id.clone(), peer.vip))
        .collect()
}

/// The peers of a role, in the order of the list.
fn members<'a>(role: &str, peers: &'a [Peer]) -> Vec<&'a Peer> {
    let of = |peer: &&Peer| {
        let found = peer.id.as_str().rsplit_once('-');
        found.is_some_and(|(found, _)| found == role)
    };
    peers.iter().filter(of).collect()
}
