//! The production binary: one subcommand per role, and what an operator needs around them.
//!
//! Exit codes: 0 for success, 1 for a failure, 2 for bad configuration or usage; those of a member
//! that cannot be one are in `docs/membership.md`.

mod bootstrap;
mod cli;
mod config;
mod config_command;
mod dev;
mod keys_command;
mod kv;
mod logging;
mod member;
mod mesh;
mod node;
mod output;
mod rendezvous;
mod resolve;
mod sidecar;
mod signals;
mod slots;
mod status;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

/// The configuration, or the command line, is wrong.
const EXIT_BAD_CONFIG: u8 = 2;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Config(command) => config_command::run(command),
        Command::Keys(command) => keys_command::run(command),
        Command::Mesh(args) => mesh::run(args),
        Command::Sidecar(args) => sidecar::run(args),
        Command::Bootstrap(args) => bootstrap::run(args),
        Command::Rendezvous(args) => rendezvous::run(args),
        Command::Dev(args) => dev::run(args),
        Command::Kv(args) => kv::run(args),
        Command::Slots(args) => slots::run(args),
        Command::Status(args) => status::run(args),
    };
    let code = outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        // Whoever collects logs sees nothing else. Says nothing where no log was started.
        tracing::error!("ended by an error: {error:#}");
        ExitCode::from(exit_code(&error))
    });
    logging::flush();
    code
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<holdfast_sidecar::Error>() {
        Some(error) => error.exit_code(),
        None if error.is::<BadConfig>() => EXIT_BAD_CONFIG,
        None => 1,
    }
}

/// An error of the one who configured, not of the world.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BadConfig(String);
