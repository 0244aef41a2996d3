//! What the crate `holdfast_postgres` does for one machine, as the sidecar needs it.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use holdfast_core::types::{PeerId, Vip};
use holdfast_io::http::Stop;
use holdfast_io::kv::Kv;
use holdfast_io::kv::consul::{self, Consul, Token, tls_from_file};
use holdfast_io::real::{RealClock, RealNet, RealSpawn};
use holdfast_io::route::Probe;
use holdfast_postgres::guard::Guard;
use holdfast_postgres::{Credentials, KvPlace, Place, PostgresStatus, RestProbe, Role, Settings};
use tokio::sync::watch;

use crate::children::Look;

type RealGuard = Guard<RealNet, RealClock, RealSpawn>;

/// The guard of this machine, made anew when its members change.
pub(super) struct Guarded {
    settings: Rc<Settings>,
    credentials: Credentials,
    kv: Rc<dyn Kv>,
    place: Place,
    members: RefCell<Vec<(PeerId, Vip)>>,
    guard: watch::Sender<Rc<RealGuard>>,
}

impl Guarded {
    /// # Errors
    /// What no start could mend, for people.
    pub(super) fn new(
        settings: Rc<Settings>,
        place: Place,
        credentials: Credentials,
    ) -> Result<Guarded, String> {
        let kv = connect(&place.kv)?;
        let guard = make(&settings, place.clone(), &credentials, kv.clone())?;
        Ok(Guarded {
            settings,
            credentials,
            kv,
            members: RefCell::new(place.members.clone()),
            place,
            guard: watch::Sender::new(Rc::new(guard)),
        })
    }

    /// What is looked at before every start of Patroni.
    pub(super) fn look(&self) -> Look {
        let guard = self.guard.subscribe();
        Rc::new(move || {
            let guard = guard.borrow().clone();
            Box::pin(async move {
                let result = guard.before_start().await;
                result.map_err(|refusal| refusal.to_string())
            })
        })
    }

    /// Tell the role of this member and what the cluster says of itself, until the future is
    /// dropped.
    pub(super) fn watch<R, F>(
        &self,
        on_role: R,
        on_status: F,
    ) -> impl Future<Output = ()> + use<R, F>
    where
        R: Fn(Role) + 'static,
        F: Fn(PostgresStatus) + 'static,
    {
        let mut guards = self.guard.subscribe();
        async move {
            loop {
                let guard = guards.borrow_and_update().clone();
                let (_switch, stop) = Stop::new();
                tokio::select! {
                    () = guard.watch(&on_role, &on_status, stop) => return,
                    changed = guards.changed() => if changed.is_err() {
                        return;
                    },
                }
            }
        }
    }

    /// These may run a database from now on.
    pub(super) fn set_members(&self, members: Vec<(PeerId, Vip)>) {
        if self.members.replace(members.clone()) == members {
            return;
        }
        let place = Place {
            members,
            ..self.place.clone()
        };
        match make(&self.settings, place, &self.credentials, self.kv.clone()) {
            Ok(guard) => drop(self.guard.send_replace(Rc::new(guard))),
            Err(error) => tracing::error!("the database's members stay what they were: {error}"),
        }
    }
}

fn make(
    settings: &Settings,
    place: Place,
    credentials: &Credentials,
    kv: Rc<dyn Kv>,
) -> Result<RealGuard, String> {
    let world = (RealNet, RealClock, RealSpawn);
    let guard = Guard::new((settings.clone(), place, credentials.clone()), kv, world);
    guard.map_err(|error| error.to_string())
}

/// The KV that Patroni uses: what is checked there is what it would find.
fn connect(place: &KvPlace) -> Result<Rc<dyn Kv>, String> {
    let address = place.address.parse();
    let address: consul::Address = address.map_err(|error| format!("{error}"))?;
    let mut config = consul::Config::new(vec![address]);
    if let Some(token) = &place.token {
        config.token = Some(Token::new(token).map_err(|error| error.to_string())?);
    }
    if let Some(path) = &place.ca_file {
        config.tls = Some(tls_from_file(path).map_err(|error| error.to_string())?);
    }
    let client = Consul::new(RealNet, RealClock, RealSpawn, config);
    let client = client.map_err(|error| error.to_string())?;
    Ok(Rc::new(client))
}

/// How the endpoints ask a server.
pub(super) fn probe(settings: &Settings) -> Rc<dyn Probe> {
    let world = (RealNet, RealClock, RealSpawn);
    Rc::new(RestProbe::new(
        world,
        &settings.scope,
        settings.rest_port,
        settings.endpoints.lag_max,
    ))
}
