//! Replays disasters from a seed.
//!
//! Exit codes: 0 every run held; 2 the scenario or the command line is wrong; 10 crash;
//! 11 liveness; 12 correctness; 13 the harness itself.

mod cli;
mod recorded;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

/// The scenario or the command line is wrong.
const EXIT_BAD_INPUT: u8 = 2;
/// The harness itself failed.
const EXIT_HARNESS: u8 = 13;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Replay(args) if args.recorded.is_some() => recorded::run(&args),
        _ => Err(anyhow::anyhow!("not there yet")),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        match error.is::<BadInput>() {
            true => ExitCode::from(EXIT_BAD_INPUT),
            false => ExitCode::from(EXIT_HARNESS),
        }
    })
}

/// An error of the one who asked, not of the harness.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BadInput(String);
