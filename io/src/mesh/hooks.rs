//! What a larger process, the sidecar, has of a node that runs inside it.

use std::rc::Rc;

use holdfast_core::config::{AllowRule, Config};
use holdfast_core::mesh::{ReloadError, Reloaded};
use tokio::sync::{mpsc, oneshot, watch};

use super::Context;
use super::admin::Admin;
use super::forwards::Forwards;
use crate::clock::Clock;
use crate::http::{Endpoint, Request, Response};
use crate::net::Net;
use crate::spawn::{Spawn, Task};

/// Answers requests to the node's admin page.
pub type Page = Rc<dyn Fn(&Request) -> Response>;

/// A say in a node while it runs.
#[derive(Default)]
pub struct MeshHooks {
    /// Told the admin page when the node runs, and `None` when it has ended: for a process that
    /// serves more than the node on one address, before it has a node.
    pub page: Option<watch::Sender<Option<Page>>>,
    /// Other configurations, as they come.
    pub reloads: Option<mpsc::Receiver<MeshReload>>,
}

/// Another configuration for a node that runs: peers, keys, allowlist, forwards, STUN and TURN
/// servers. What did not change is not touched.
pub struct MeshReload {
    /// The machine's. Its `udp_port` is set to the one that is bound.
    pub config: Config,
    /// The brokers; other ones need a restart.
    pub brokers: Vec<Endpoint>,
    /// Ports of all peers that local applications can reach.
    pub forward: Vec<AllowRule>,
    /// Told whether it was taken; an error says why nothing has changed.
    pub done: oneshot::Sender<Result<(), ReloadError>>,
}

/// An admin page that was handed out: taken back when dropped.
pub(super) struct Shown(watch::Sender<Option<Page>>);

impl Shown {
    pub(super) fn new<N: Net, C: Clock>(
        page: watch::Sender<Option<Page>>,
        admin: Rc<Admin<N, C>>,
    ) -> Shown {
        page.send_replace(Some(Rc::new(move |request| admin.answer(request))));
        Shown(page)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

/// Go on with other configurations as they come. One that is refused changes nothing.
pub(super) fn spawn_reloads<N: Net, C: Clock, S: Spawn>(
    cx: &Context<N, C, S>,
    forwards: Rc<Forwards<N, C, S>>,
    (brokers, udp_port): (Vec<Endpoint>, u16),
    mut reloads: mpsc::Receiver<MeshReload>,
) -> Task {
    let own = cx.clone();
    cx.spawn.spawn("mesh reload", async move {
        while let Some(mut reload) = reloads.recv().await {
            if reload.brokers != brokers {
                tracing::warn!("the brokers are others: restart the process to change them");
            }
            reload.config.udp_port = udp_port;
            let result = own.node.with(|now, mesh| mesh.reload(now, reload.config));
            let result = result.map(|reloaded| take(&own, &forwards, reload.forward, &reloaded));
            if let Err(error) = &result {
                tracing::error!("the mesh goes on as it was: {error}");
            }
            // Who asked may not wait for it.
            let _ = reload.done.send(result);
        }
    })
}

fn take<N: Net, C: Clock, S: Spawn>(
    cx: &Context<N, C, S>,
    forwards: &Forwards<N, C, S>,
    rules: Vec<AllowRule>,
    reloaded: &Reloaded,
) {
    for (link, peer, vip) in &reloaded.removed {
        tracing::info!(%peer, %vip, "no longer a peer");
        cx.links.borrow_mut().remove(link);
        forwards.close(*link, *vip);
    }
    forwards.set_rules(rules);
    for (link, peer, vip) in &reloaded.added {
        tracing::info!(%peer, %vip, "a new peer");
        cx.links.borrow_mut().insert(*link, *vip);
        forwards.open(*link, *vip);
    }
    tracing::info!(kept = reloaded.kept, "the mesh was reloaded");
}
