//! Measures the real `holdfast` between network namespaces, each figure next to a baseline that
//! is measured in turn with it, since a busy machine moves both.
//!
//! ```text
//! cargo build --release -p holdfast -p holdfast-wire
//! cargo run --release -p holdfast-bench -- all
//! ```
//!
//! Needs root. `docs/performance.md` explains the figures.

mod measure;
mod postgres;
mod proc;
mod report;
mod traffic;
mod world;

use std::{
    env,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};

use measure::Bench;
use report::{Machine, Progress, Report};
use world::Programs;

/// Figures of holdfast, each next to a baseline.
#[derive(Debug, Parser)]
#[command(name = "holdfast-bench", version, max_term_width = 100)]
struct Cli {
    /// What to measure
    #[arg(value_enum, default_values = ["all"])]
    what: Vec<What>,
    /// Runs of each figure, 1 to 1000 [default: 10 for setup and recovery, else 3]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: Option<u16>,
    /// Print JSON, with every sample
    #[arg(long)]
    json: bool,
    /// The program under test [default: `holdfast` next to this one]
    #[arg(long, value_name = "FILE")]
    holdfast: Option<PathBuf>,
    /// The link emulator [default: `holdfast-wire` next to this one]
    #[arg(long, value_name = "FILE")]
    wire: Option<PathBuf>,
    /// PostgreSQL's programs [default: the newest below /usr/lib/postgresql]
    #[arg(long, value_name = "FOLDER")]
    postgres_bin: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Everything
    All,
    /// One TCP connection, and round trips, over every kind of path
    Goodput,
    /// From process start to the first byte
    Setup,
    /// From kill -9 of a peer to the first byte
    Recovery,
    /// Goodput at 20 ms and 100 Mbit/s under loss, for each congestion control
    Loss,
    /// Memory and processor time of a node
    Rss,
    /// pgbench with a synchronous standby, and base backups
    Postgres,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let bench = Bench {
        programs: Programs {
            holdfast: program(cli.holdfast, "holdfast")?,
            wire: program(cli.wire, "holdfast-wire")?,
        },
        postgres_bin: cli.postgres_bin,
        runs: cli.runs.map(usize::from),
        progress: Progress::new(),
    };
    let mut report = Report {
        machine: Machine::look(),
        figures: Vec::new(),
    };
    // What was measured before a failure is shown all the same.
    let outcome = measure_all(&bench, &cli.what, &mut report);
    drop(bench);
    report.machine.finish();
    let text = match cli.json {
        true => serde_json::to_string_pretty(&report)? + "\n",
        false => report.table(),
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write the report")?;
    outcome
}

fn measure_all(bench: &Bench, what: &[What], report: &mut Report) -> anyhow::Result<()> {
    let wanted = |one| what.contains(&What::All) || what.contains(&one);
    let figures = &mut report.figures;
    if wanted(What::Goodput) {
        bench.goodput(figures)?;
    }
    if wanted(What::Setup) {
        bench.setup(figures)?;
    }
    if wanted(What::Recovery) {
        bench.recovery(figures)?;
    }
    if wanted(What::Loss) {
        bench.loss(figures)?;
    }
    if wanted(What::Rss) {
        bench.rss(figures)?;
    }
    if wanted(What::Postgres) {
        bench.postgres(figures)?;
    }
    Ok(())
}

fn program(given: Option<PathBuf>, name: &str) -> anyhow::Result<PathBuf> {
    let path = match given {
        Some(path) => path,
        None => env::current_exe()
            .context("cannot find this program's own folder")?
            .with_file_name(name),
    };
    if !Path::is_file(&path) {
        bail!(
            "{} does not exist: `cargo build --release -p holdfast -p holdfast-wire` builds it, \
             or name it with --{}",
            path.display(),
            name.strip_prefix("holdfast-").unwrap_or(name)
        );
    }
    Ok(path)
}
