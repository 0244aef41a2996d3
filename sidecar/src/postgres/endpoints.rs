//! Where clients of the database come in: a part of the sidecar that is run like a child.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use holdfast_core::supervise::{self, Name, Signal};
use holdfast_io::http::Stop;
use holdfast_io::real::{RealClock, RealNet, RealSpawn, os_seed};
use holdfast_io::route::{
    Backend, Config, EndpointsOptions, EndpointsView, Listen, Pool, PoolView, Probe, run_endpoints,
};
use holdfast_io::spawn::Spawn;
use holdfast_postgres::{EndpointStatus, Settings};
use tokio::sync::watch;

use super::ENDPOINTS;
use crate::children::{Job, ReadyNow, Supervised};
use crate::options::Peer;
use crate::status::Shared;

/// How long sessions may go on at the end: they are as long as their clients like, and what uses
/// them here has ended before.
const DRAIN: Duration = Duration::from_secs(1);
/// They end within their drain and a little; then they are dropped.
const STOP_DEADLINE: Duration = Duration::from_secs(3);

/// The endpoints of this process, across their restarts.
#[derive(Clone)]
pub(super) struct Endpoints {
    pub(super) settings: Rc<Settings>,
    pub(super) backends: watch::Sender<Vec<Backend>>,
    pub(super) probe: Rc<dyn Probe>,
    pub(super) shared: Shared,
}

/// The servers: all that may run a database, with this machine. By role only is one led to: the
/// nearest one is not preferred.
pub(super) fn backends<'a>(
    members: impl IntoIterator<Item = &'a Peer>,
    settings: &Settings,
) -> Vec<Backend> {
    let backend = |peer: &Peer| Backend {
        name: peer.id.clone(),
        addr: SocketAddr::new(peer.vip.addr(), settings.port),
    };
    members.into_iter().map(backend).collect()
}

impl Endpoints {
    /// As a child.
    pub(super) fn supervised(&self, after: Vec<Name>) -> Supervised {
        let own = self.clone();
        Supervised {
            child: supervise::Child {
                name: ENDPOINTS.parse().expect("letters are a name"),
                after,
                ready_at_once: false,
                one_shot: false,
                // The same for ever: a reload tells it which servers there are.
                digest: [0; 32],
                stop_signal: Signal(libc::SIGTERM),
                stop_deadline: STOP_DEADLINE,
                backoff_first: Duration::from_millis(200),
                backoff_last: Duration::from_secs(10),
                max_restarts: 10,
                window: Duration::from_secs(60),
            },
            job: Job::Inside(Rc::new(move |stop, ready| {
                let own = own.clone();
                Box::pin(async move { own.run(stop, ready).await })
            })),
        }
    }

    async fn run(self, stop: Stop, ready: ReadyNow) -> i32 {
        let seed = match os_seed() {
            Ok(seed) => seed,
            Err(error) => {
                tracing::error!(%error, "the system gives no entropy");
                return 1;
            }
        };
        let (view, shown) = watch::channel(EndpointsView::default());
        let options = EndpointsOptions {
            listen: listen(&self.settings),
            backends: self.backends.subscribe(),
            config: config(&self.settings),
            seed: seed.fork("postgres/endpoints"),
            connect_timeout: self.settings.endpoints.connect_timeout,
            drain: DRAIN,
            view,
        };
        let showing = show(self.shared.clone(), shown, RefCell::new(Some(ready)));
        let _showing = RealSpawn.spawn("endpoints' view", showing);
        let probe = self.probe.clone();
        match run_endpoints(options, probe, RealNet, RealClock, RealSpawn, stop).await {
            Ok(()) => 0,
            Err(error) => {
                tracing::error!(%error, "the endpoints cannot be served");
                2
            }
        }
    }
}

fn listen(settings: &Settings) -> Vec<Listen> {
    let endpoints = &settings.endpoints;
    vec![
        Listen {
            addr: endpoints.primary,
            pool: Pool::Exclusive,
        },
        Listen {
            addr: endpoints.replicas,
            pool: Pool::Shared,
        },
    ]
}

fn config(settings: &Settings) -> Config {
    let endpoints = &settings.endpoints;
    Config {
        backends: Vec::new(),
        fall_back: endpoints.replicas_fall_back,
        interval: endpoints.check_interval,
        timeout: endpoints.check_timeout,
        rise: endpoints.rise,
        fall: endpoints.fall,
        hold: endpoints.hold,
        sessions_max: endpoints.sessions_max,
    }
}

/// Put what is seen into the status. Ready is who listens everywhere.
async fn show(
    shared: Shared,
    mut shown: watch::Receiver<EndpointsView>,
    ready: RefCell<Option<ReadyNow>>,
) {
    loop {
        let view = shown.borrow_and_update().clone();
        let endpoints = statuses(&view);
        let listens = listens(&view);
        shared.update(|status| {
            let postgres = status.postgres.get_or_insert_default();
            postgres.endpoints = endpoints;
        });
        let first = ready.borrow_mut().take_if(|_| listens);
        if let Some(ready) = first {
            ready.tell().await;
        }
        if shown.changed().await.is_err() {
            return;
        }
    }
}

/// Everywhere. Before the first try there is no problem either.
fn listens(view: &EndpointsView) -> bool {
    !view.listeners.is_empty() && view.listeners.iter().all(|one| one.listens)
}

fn statuses(view: &EndpointsView) -> Vec<EndpointStatus> {
    let one = |listener: &holdfast_io::route::ListenerView| {
        let (name, pool): (_, &PoolView) = match listener.pool {
            Pool::Exclusive => ("primary", &view.route.exclusive),
            Pool::Shared => ("replicas", &view.route.shared),
        };
        EndpointStatus {
            name: name.to_owned(),
            address: listener.address.to_string(),
            leads_to: pool.leads_to.clone(),
            sessions: pool.sessions,
            problem: listener.problem.clone().or_else(|| pool.problem.clone()),
        }
    };
    view.listeners.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_io::route::ListenerView;

    #[test]
    fn who_has_not_tried_to_listen_yet_is_not_ready() {
        let listener = |port, listens| ListenerView {
            address: SocketAddr::from(([127, 10, 0, 1], port)),
            pool: Pool::Shared,
            listens,
            problem: None,
        };
        let mut view = EndpointsView::default();
        assert!(!listens(&view));
        view.listeners = vec![listener(1, true), listener(2, false)];
        assert!(!listens(&view));
        view.listeners = vec![listener(1, true), listener(2, true)];
        assert!(listens(&view));
    }
}
