//! `holdfast mesh`: a node.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;

use anyhow::Context;
use holdfast_core::config::PathPolicy;
use holdfast_core::mesh::Input;
use holdfast_io::dump::{DumpReason, DumpSink, DumpTrigger};
use holdfast_io::http::{Endpoint, Stop};
use holdfast_io::mesh::{MeshOptions, run_mesh};
use holdfast_io::real::{
    DumpDir, RealClock, RealNet, RealSpawn, block_on, loopback_up, os_seed, raise_file_limit,
};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::ConfigFile;
use crate::config::Settings;
use crate::config::settings::{TurnSetting, turn_servers};
use crate::config_command::{chosen_file, load};
use crate::resolve::{Addresses, Names};
use crate::{logging, signals};

/// Run it until a signal.
pub fn run(args: ConfigFile) -> anyhow::Result<ExitCode> {
    let settings = match load(chosen_file(args.config).as_deref()) {
        Ok(settings) => settings,
        Err(code) => return Ok(code),
    };
    let trigger = DumpTrigger::default();
    logging::start(&settings.log, settings.log_format, Some(trigger.clone()));
    tracing::info!(
        id = %settings.id,
        vip = %settings.vip,
        peers = settings.peers.len(),
        key = settings.key.describe(),
        digest = settings.digest(),
        version = env!("CARGO_PKG_VERSION"),
        "starting"
    );
    prepare_system();
    block_on(async {
        let mut stop = signals::stop_on_signal()?;
        dump_on_signal(trigger.clone())?;
        let (names, found) = find_servers(&settings, &mut stop).await;
        if stop.is_set() {
            return Ok(ExitCode::SUCCESS);
        }
        let late = late_servers(&settings, names);
        let options = options(&settings, &found, late, trigger)?;
        run_mesh(options, RealNet, RealClock, RealSpawn, stop).await?;
        tracing::info!("ended");
        Ok(ExitCode::SUCCESS)
    })?
}

/// What the system should allow. A node goes on without, and says so.
fn prepare_system() {
    if let Err(error) = loopback_up() {
        tracing::warn!(%error, "virtual addresses may not work");
    }
    if let Err(error) = raise_file_limit() {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

/// What arrives while the node runs.
type Late = Pin<Box<dyn Future<Output = Input>>>;

fn options(
    settings: &Settings,
    found: &Addresses,
    late: Option<Late>,
    trigger: DumpTrigger,
) -> anyhow::Result<MeshOptions> {
    let brokers = settings
        .brokers
        .iter()
        .map(|url| url.to_string().parse::<Endpoint>())
        .collect::<Result<Vec<_>, _>>()?;
    Ok(MeshOptions {
        config: settings.to_core(|server| found.get(&server.to_string()).copied()),
        seed: os_seed().context("the operating system gives no entropy")?,
        listen: settings.listen,
        brokers,
        forward: settings.forward.clone(),
        admin: Some(settings.admin),
        dumps: dump_sink(&settings.dump_dir).map(|sink| (trigger, sink)),
        drain: settings.shutdown_grace,
        late_servers: late,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
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

/// The addresses of STUN and TURN servers, as far as they are known now, and the names that are
/// still to be looked up. A node that may only use relays can do nothing before it knows one, so
/// it waits for that here.
async fn find_servers(settings: &Settings, stop: &mut Stop) -> (Names, Addresses) {
    let turn = settings.turn.iter().map(|turn| &turn.url.server);
    let (mut names, mut found) = Names::new(settings.stun.iter().chain(turn), settings.listen);
    found.extend(names.first_look().await);
    let has_relay = |found: &Addresses| {
        let mut turn = settings.turn.iter();
        turn.any(|turn| found.contains_key(&turn.url.server.to_string()))
    };
    if settings.paths == PathPolicy::RelayOnly && !has_relay(&found) && !names.is_done() {
        tracing::warn!("waiting for the address of a TURN server, as `paths` is \"relay-only\"");
        tokio::select! {
            more = names.look_until(|found, _| has_relay(found)) => found.extend(more),
            () = stop.wait() => {}
        }
    }
    (names, found)
}

/// The servers whose names have no address yet, if there are any.
fn late_servers(settings: &Settings, names: Names) -> Option<Late> {
    if names.is_done() {
        return None;
    }
    let stun = settings.stun.clone();
    let turn: Vec<TurnSetting> = settings.turn.clone();
    Some(Box::pin(async move {
        let found = names.rest().await;
        tracing::info!(servers = found.len(), "found servers after the start");
        let address = |server: &_| found.get(&ToString::to_string(server)).copied();
        Input::Servers {
            stun: stun.iter().filter_map(address).collect(),
            turn: turn_servers(&turn, address),
        }
    }))
}

/// SIGUSR1 asks for a dump of the flight recorder.
fn dump_on_signal(trigger: DumpTrigger) -> std::io::Result<()> {
    let mut asked = signal(SignalKind::user_defined1())?;
    tokio::task::spawn_local(async move {
        while asked.recv().await.is_some() {
            trigger.request(DumpReason::Signal);
        }
    });
    Ok(())
}
