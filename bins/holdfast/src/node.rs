//! The node of a mesh, plain or a member's: what it is told besides its settings.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;

use anyhow::Context;
use holdfast_core::config::PathPolicy;
use holdfast_core::mesh::{Input, ReloadError};
use holdfast_io::dump::{DumpReason, DumpSink, DumpTrigger};
use holdfast_io::http::Endpoint;
use holdfast_io::mesh::{MeshOptions, MeshReload};
use holdfast_io::real::{DumpDir, loopback_up, os_seed, raise_file_limit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::config::settings::{TurnSetting, turn_servers};
use crate::config::{HostPort, Settings};
use crate::resolve::{Addresses, Names};

/// What the system should allow. A node goes on without, and says so.
pub fn prepare_system() {
    if let Err(error) = loopback_up() {
        tracing::warn!(%error, "virtual addresses may not work");
    }
    if let Err(error) = raise_file_limit() {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

/// What arrives while the node runs.
type Late = Pin<Box<dyn Future<Output = Input>>>;

/// What the node is told.
pub fn options(
    settings: &Settings,
    servers: &Servers,
    trigger: DumpTrigger,
) -> anyhow::Result<MeshOptions> {
    Ok(MeshOptions {
        config: settings.to_core(|server| servers.get(server)),
        seed: os_seed().context("the operating system gives no entropy")?,
        listen: settings.listen,
        brokers: brokers(settings)?,
        forward: settings.forward.clone(),
        admin: Some(settings.admin),
        dumps: dump_sink(&settings.dump_dir).map(|sink| (trigger, sink)),
        drain: settings.shutdown_grace,
        late_servers: servers.late(settings),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// What a node that runs is told when its configuration was read again. Names of servers that it
/// has not met yet are looked up at its next start; an address is one at once.
pub fn reload(
    settings: &Settings,
    servers: &Servers,
) -> anyhow::Result<(MeshReload, oneshot::Receiver<Result<(), ReloadError>>)> {
    let known = |server: &HostPort| {
        let literal = server.host.parse().ok();
        let literal = literal.map(|ip| SocketAddr::new(ip, server.port));
        let known = servers.get(server).or(literal);
        if known.is_none() {
            tracing::warn!(%server, "a new name: it is looked up at the next start");
        }
        known
    };
    let (done, taken) = oneshot::channel();
    let reload = MeshReload {
        config: settings.to_core(known),
        brokers: brokers(settings)?,
        forward: settings.forward.clone(),
        done,
    };
    Ok((reload, taken))
}

fn brokers(settings: &Settings) -> anyhow::Result<Vec<Endpoint>> {
    let brokers = settings.brokers.iter();
    let parsed = brokers.map(|url| url.to_string().parse::<Endpoint>());
    Ok(parsed.collect::<Result<_, _>>()?)
}

fn dump_sink(folder: &Path) -> Option<Box<dyn DumpSink>> {
    match DumpDir::new(folder) {
        Ok(dir) => Some(Box::new(dir)),
        Err(error) => {
            let folder = folder.display();
            tracing::warn!(%error, %folder, "the flight recorder will not be dumped");
            None
        }
    }
}

/// The addresses of STUN and TURN servers, as far as they are known.
pub struct Servers(Rc<RefCell<Addresses>>);

impl Servers {
    /// Look them up. What is not found soon is looked up while the node runs; but a node that may
    /// only use relays can do nothing before it knows one, so it waits for that here.
    pub async fn find(settings: &Settings) -> Servers {
        let (mut names, mut found) = names(settings);
        found.extend(names.first_look().await);
        let has_relay = |found: &Addresses| {
            let mut turn = settings.turn.iter();
            turn.any(|turn| found.contains_key(&turn.url.server.to_string()))
        };
        if settings.paths == PathPolicy::RelayOnly && !has_relay(&found) && !names.is_done() {
            tracing::warn!(
                "waiting for the address of a TURN server, as `paths` is \"relay-only\""
            );
            found.extend(names.look_until(|found, _| has_relay(found)).await);
        }
        Servers(Rc::new(RefCell::new(found)))
    }

    fn get(&self, server: &HostPort) -> Option<SocketAddr> {
        self.0.borrow().get(&server.to_string()).copied()
    }

    /// The servers whose names have no address yet, if there are any.
    fn late(&self, settings: &Settings) -> Option<Late> {
        let (mut names, _) = names(settings);
        names.forget(&self.0.borrow());
        if names.is_done() {
            return None;
        }
        let stun = settings.stun.clone();
        let turn: Vec<TurnSetting> = settings.turn.clone();
        let known = self.0.clone();
        Some(Box::pin(async move {
            let found = names.rest().await;
            // Reloads keep them.
            known.borrow_mut().extend(found.clone());
            tracing::info!(servers = found.len(), "found servers after the start");
            let address = |server: &_| found.get(&ToString::to_string(server)).copied();
            Input::Servers {
                stun: stun.iter().filter_map(address).collect(),
                turn: turn_servers(&turn, address),
            }
        }))
    }
}

fn names(settings: &Settings) -> (Names, Addresses) {
    let turn = settings.turn.iter().map(|turn| &turn.url.server);
    Names::new(settings.stun.iter().chain(turn), settings.listen)
}

/// SIGUSR1 asks for a dump of the flight recorder.
pub fn dump_on_signal(trigger: DumpTrigger) -> std::io::Result<()> {
    let mut asked = signal(SignalKind::user_defined1())?;
    tokio::task::spawn_local(async move {
        while asked.recv().await.is_some() {
            trigger.request(DumpReason::Signal);
        }
    });
    Ok(())
}
