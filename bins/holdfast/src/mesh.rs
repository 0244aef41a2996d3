//! `holdfast mesh`: a node.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use holdfast_io::dump::{DumpReason, DumpSink, DumpTrigger};
use holdfast_io::http::Endpoint;
use holdfast_io::mesh::{MeshOptions, run_mesh};
use holdfast_io::real::{
    DumpDir, RealClock, RealNet, RealSpawn, block_on, loopback_up, os_seed, raise_file_limit,
};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::ConfigFile;
use crate::config::{self, HostPort, Settings};
use crate::config_command::{chosen_file, load};
use crate::{logging, signals};

/// How long names of servers may have no address: a machine that boots has no resolver for a
/// moment.
const RESOLVE_BOUND: Duration = Duration::from_secs(5);
/// How often they are asked for.
const RESOLVE_EVERY: Duration = Duration::from_millis(500);

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
    let options = options(&settings, trigger.clone())?;
    block_on(async {
        let stop = signals::stop_on_signal()?;
        dump_on_signal(trigger)?;
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

fn options(settings: &Settings, trigger: DumpTrigger) -> anyhow::Result<MeshOptions> {
    let addresses = resolve_servers(settings);
    let brokers = settings
        .brokers
        .iter()
        .map(|url| url.to_string().parse::<Endpoint>())
        .collect::<Result<Vec<_>, _>>()?;
    Ok(MeshOptions {
        config: settings.to_core(|server| addresses.get(&server.to_string()).copied()),
        seed: os_seed().context("the operating system gives no entropy")?,
        listen: settings.listen,
        brokers,
        forward: settings.forward.clone(),
        admin: Some(settings.admin),
        dumps: dump_sink(&settings.dump_dir).map(|sink| (trigger, sink)),
        drain: settings.shutdown_grace,
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

/// The addresses of STUN and TURN servers. One that has none in time is left out.
fn resolve_servers(settings: &Settings) -> BTreeMap<String, SocketAddr> {
    let turn = settings.turn.iter().map(|turn| &turn.url.server);
    let mut wanted: Vec<&HostPort> = settings.stun.iter().chain(turn).collect();
    let mut found = BTreeMap::new();
    let started = Instant::now();
    loop {
        wanted.retain(|server| match config::resolve(server, settings.listen) {
            Ok(address) => {
                found.insert(server.to_string(), address);
                false
            }
            Err(error) => {
                tracing::warn!(%server, %error, "a server's name has no address");
                true
            }
        });
        if wanted.is_empty() || started.elapsed() > RESOLVE_BOUND {
            break;
        }
        std::thread::sleep(RESOLVE_EVERY);
    }
    for server in wanted {
        tracing::warn!(%server, "going on without this server");
    }
    found
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
