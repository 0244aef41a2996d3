//! Endpoints: fixed local addresses that lead to whoever leads, or to those that follow. The
//! driver of [`holdfast_core::route::Router`] and the bytes that it moves.
//!
//! [`run_endpoints`] asks every server by a [`Probe`], accepts, asks the machine, connects, and
//! pumps. Nothing is decided here, and nothing of what is behind an address is known here.

mod driver;
mod listener;
mod pump;
mod session;
mod shared;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use holdfast_core::entropy::Seed;
use tokio::sync::watch;

pub use holdfast_core::route::{
    BackendView, Config, ConfigError, Name, Observation, Pool, PoolView, View,
};

use crate::clock::Clock;
use crate::http::Stop;
use crate::net::Net;
use crate::spawn::Spawn;

/// Longest time for a connect to a server, unless configured.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A server that sessions may be led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its name.
    pub name: Name,
    /// Where it takes connections.
    pub addr: SocketAddr,
}

/// An address that clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where.
    pub addr: SocketAddr,
    /// What it leads to.
    pub pool: Pool,
}

/// An answer on its way.
pub type Probing<'a> = Pin<Box<dyn Future<Output = Option<Observation>> + 'a>>;

/// Asks a server what it is.
pub trait Probe: 'static {
    /// Ask this server; `None`: no answer, or none that makes sense. Called once per interval and
    /// server, for several servers at a time; dropped after [`Config::timeout`].
    fn probe<'a>(&'a self, backend: &'a Backend) -> Probing<'a>;
}

/// Everything that endpoints are told.
pub struct EndpointsOptions {
    /// Where clients come in.
    pub listen: Vec<Listen>,
    /// The servers, now and whenever they change. A dropped sender changes nothing. A list that
    /// cannot be is logged, and the one before stays.
    pub backends: watch::Receiver<Vec<Backend>>,
    /// The machine's configuration. Its `backends` are set to those above.
    pub config: Config,
    /// What everything random derives from.
    pub seed: Seed,
    /// Longest time for one connect to a server.
    pub connect_timeout: Duration,
    /// How long sessions may go on after the stop; then they are reset.
    pub drain: Duration,
    /// Told of every change, for people and whoever follows the one that leads.
    pub view: watch::Sender<EndpointsView>,
}

/// Endpoints, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct EndpointsView {
    /// The addresses, in the order of the options.
    pub listeners: Vec<ListenerView>,
    /// Pools and servers.
    pub route: View,
}

/// An address that clients connect to, for people.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ListenerView {
    /// Where; with the port that the system chose, once it listens.
    pub address: SocketAddr,
    /// What it leads to.
    pub pool: Pool,
    /// Whether it listens.
    pub listens: bool,
    /// Why nobody can connect to it.
    pub problem: Option<String>,
}

/// Serve endpoints until `stop`; then listen no more, let sessions end within
/// [`EndpointsOptions::drain`], reset the others, and return.
///
/// An address that cannot be listened on stops nothing else: it is tried again, and named in the
/// view.
///
/// # Errors
///
/// A [`ConfigError`] that names what is wrong.
pub async fn run_endpoints<N: Net, C: Clock, S: Spawn>(
    options: EndpointsOptions,
    probe: Rc<dyn Probe>,
    net: N,
    clock: C,
    spawn: S,
    stop: Stop,
) -> Result<(), ConfigError> {
    driver::Driver::new(options, probe, net, clock, spawn)?
        .run(stop)
        .await;
    Ok(())
}
