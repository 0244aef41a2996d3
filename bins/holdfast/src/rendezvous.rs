//! `holdfast rendezvous`: the signaling broker, and STUN and TURN beside it.

use std::ops::RangeInclusive;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use holdfast_io::real::{RealClock, RealNet, RealSpawn, block_on, os_seed, raise_file_limit};
use holdfast_servers::broker::BrokerLimits;
use holdfast_servers::relay::{TurnError, TurnOptions};
use holdfast_servers::rendezvous::{RendezvousError, RendezvousOptions, run_rendezvous};
use holdfast_servers::turn::SharedSecret;

use crate::BadConfig;
use crate::cli::RendezvousArgs;
use crate::config::files::read_secret;
use crate::{logging, signals};

/// Run it until a signal.
pub fn run(args: RendezvousArgs) -> anyhow::Result<ExitCode> {
    logging::start_from_environment();
    let options = options(&args)?;
    if let Err(error) = raise_file_limit() {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    let seed = os_seed().context("the operating system gives no entropy")?;
    block_on(async {
        let stop = signals::stop_on_signal()?;
        run_rendezvous(options, RealNet, RealClock, RealSpawn, seed, stop)
            .await
            .map_err(explain)?;
        Ok(ExitCode::SUCCESS)
    })?
}

/// Which option helps, where one does.
fn explain(error: RendezvousError) -> anyhow::Error {
    match error {
        RendezvousError::Turn(TurnError::PublicIp(ip)) => BadConfig(format!(
            "--turn-public-ip is needed: TURN relays on {ip}, and which of this host's addresses \
             nodes see is not clear"
        ))
        .into(),
        error => error.into(),
    }
}

fn options(args: &RendezvousArgs) -> anyhow::Result<RendezvousOptions> {
    let turn = match (args.turn, &args.turn_secret_file) {
        (true, Some(file)) => Some(turn_options(args, file)?),
        _ => None,
    };
    Ok(RendezvousOptions {
        listen: args.listen,
        limits: BrokerLimits::default(),
        turn,
    })
}

fn turn_options(args: &RendezvousArgs, file: &Path) -> anyhow::Result<TurnOptions> {
    let bad = |why: String| BadConfig(format!("--turn-secret-file: {why}"));
    let content = read_secret(file).map_err(|error| bad(error.to_string()))?;
    let secret = SharedSecret::new(content.to_vec()).map_err(|error| bad(error.to_string()))?;
    let mut options = TurnOptions::on(args.turn_listen, secret);
    options.public_ip = args.turn_public_ip;
    if let Some(text) = &args.turn_relay_ports {
        options.relay_ports = port_range(text).ok_or_else(|| {
            BadConfig(format!(
                "--turn-relay-ports {text:?}: expected FIRST-LAST, such as 61000-65535"
            ))
        })?;
    }
    Ok(options)
}

fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first != 0 && first <= last).then_some(first..=last)
}
