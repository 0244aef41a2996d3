//! `holdfast mesh`: a plain node.

use std::process::ExitCode;

use holdfast_io::dump::DumpTrigger;
use holdfast_io::mesh::run_mesh;
use holdfast_io::real::{RealClock, RealNet, RealSpawn, block_on};

use crate::cli::ConfigFile;
use crate::config_command::{chosen_file, load};
use crate::node::{Servers, dump_on_signal, prepare_system};
use crate::{logging, node, signals};

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
        let servers = tokio::select! {
            servers = Servers::find(&settings) => servers,
            () = stop.wait() => return Ok(ExitCode::SUCCESS),
        };
        let options = node::options(&settings, &servers, trigger)?;
        run_mesh(options, RealNet, RealClock, RealSpawn, stop).await?;
        tracing::info!("ended");
        Ok(ExitCode::SUCCESS)
    })?
}
