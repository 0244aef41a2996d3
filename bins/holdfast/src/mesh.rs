//! `holdfast mesh`: a plain node.

use std::convert::Infallible;
use std::path::Path;
use std::process::ExitCode;

use holdfast_io::dump::DumpTrigger;
use holdfast_io::mesh::{MeshHooks, MeshReload, run_mesh_within};
use holdfast_io::real::{RealClock, RealNet, RealSpawn, block_on};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::ConfigFile;
use crate::config_command::{chosen_file, load};
use crate::node::{Servers, dump_on_signal, prepare_system};
use crate::{logging, node, signals};

/// Run it until a signal.
pub fn run(args: ConfigFile) -> anyhow::Result<ExitCode> {
    let file = chosen_file(args.config);
    let settings = match load(file.as_deref()) {
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
        // From here on: until somebody listens it would end the process.
        let hangup = signal(SignalKind::hangup())?;
        let servers = tokio::select! {
            servers = Servers::find(&settings) => servers,
            () = stop.wait() => return Ok(ExitCode::SUCCESS),
        };
        let options = node::options(&settings, &servers, trigger)?;
        let (sender, reloads) = mpsc::channel(1);
        let hooks = MeshHooks {
            reloads: Some(reloads),
            ..MeshHooks::default()
        };
        let running = run_mesh_within(options, hooks, RealNet, RealClock, RealSpawn, stop);
        tokio::select! {
            ended = running => ended?,
            never = reload_on_hangup(hangup, file.as_deref(), &servers, sender) => match never {},
        }
        tracing::info!("ended");
        Ok(ExitCode::SUCCESS)
    })?
}

/// SIGHUP reads the configuration again.
async fn reload_on_hangup(
    mut hangup: Signal,
    file: Option<&Path>,
    servers: &Servers,
    reloads: mpsc::Sender<MeshReload>,
) -> Infallible {
    loop {
        hangup.recv().await;
        // What is wrong with it is told on standard error, with lines of the file.
        let reload = load(file).map(|settings| node::reload(&settings, servers));
        match reload {
            // Without a receiver the node is ending.
            Ok(Ok((reload, _))) => drop(reloads.send(reload).await),
            Ok(Err(error)) => tracing::error!("nothing was reloaded: {error:#}"),
            Err(_) => tracing::error!("nothing was reloaded: the configuration has problems"),
        }
    }
}
