//! `holdfast dev bench`: writers whose rows are checked, and pgbench.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use holdfast_workload::check::longest_gap;
use holdfast_workload::run::Progress;
use serde_json::json;

use super::writer::{Load, Writing, verdict, verdict_json, wait_until_steady};
use super::{client_node, libpq, of, primary, replicas};
use crate::cli::BenchArgs;
use crate::dev::state::Mesh;
use crate::output::{self, Table};

/// How long the first row may take.
const STEADY_BOUND: Duration = Duration::from_secs(30);
/// How often the line is written anew.
const SHOW_EVERY: Duration = Duration::from_millis(250);
/// pgbench's scale: 500,000 rows in accounts, 75 MB; more than its clients meet each other on.
const SCALE: &str = "5";
/// pgbench's clients, and the threads that they share.
const CLIENTS: &str = "4";
/// See [`CLIENTS`].
const THREADS: &str = "2";

/// Write, read, and compare; then pgbench, if it is asked for. Exit code 1 if a row is not there.
pub fn bench(mesh: &Mesh, args: &BenchArgs) -> anyhow::Result<ExitCode> {
    let database = of(mesh)?;
    let node = client_node(mesh, args.node.as_deref())?;
    let load = Load {
        writers: args.writers,
        every: Duration::ZERO,
    };
    let origin = Instant::now();
    let writing = Writing::start(mesh, &node, load, origin)?;
    wait_until_steady(&writing, 1, STEADY_BOUND)?;
    let (begun, before) = (Instant::now(), writing.recorder.progress().acknowledged);
    let wanted = Duration::from_secs(args.seconds.into());
    let mut longest = Duration::ZERO;
    while begun.elapsed() < wanted && !writing.has_ended() {
        thread::sleep(SHOW_EVERY.min(wanted.saturating_sub(begun.elapsed())));
        let progress = writing.recorder.progress();
        longest = longest.max(progress.gap);
        draw(&progress, before, begun.elapsed(), longest);
    }
    let (took, after) = (begun.elapsed(), writing.recorder.progress().acknowledged);
    clear();
    let (history, durability) = writing.finish()?;
    let rate = rate(after - before, took);
    let gap = longest_gap(&history).length();
    if !args.json {
        output::print(&format!(
            "{} writers on {node}, {:.0} s: {rate:.0} rows/s, longest gap {:.0} ms\n{}\n",
            args.writers,
            took.as_secs_f64(),
            gap.as_secs_f64() * 1000.0,
            verdict(&durability),
        ))?;
    }
    let runs = match args.pgbench {
        true => Pgbench::new(mesh, &database.bin_dir, &node, args.seconds).run(args.json)?,
        false => Vec::new(),
    };
    if args.json {
        let report = json!({
            "node": node,
            "writers": args.writers,
            "seconds": took.as_secs_f64(),
            "rows_per_second": rate,
            "longest_gap_seconds": gap.as_secs_f64(),
            "rows": verdict_json(&durability),
            "pgbench": runs.iter().map(Run::json).collect::<Vec<_>>(),
        });
        output::print(&format!("{report:#}\n"))?;
    }
    Ok(match durability.holds() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn rate(rows: u64, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rows = rows as f64;
    rows / took.as_secs_f64().max(f64::EPSILON)
}

/// The line that is written anew, on a terminal.
fn draw(progress: &Progress, before: u64, took: Duration, longest: Duration) {
    let mut err = std::io::stderr();
    if err.is_terminal() {
        let rate = rate(progress.acknowledged.saturating_sub(before), took);
        // A terminal that cannot be written to shows no progress.
        let _ = write!(
            err,
            "\r\x1b[K  {:5.1} s  {} acknowledged  {rate:.0}/s  longest gap {:.0} ms",
            took.as_secs_f64(),
            progress.acknowledged,
            longest.as_secs_f64() * 1000.0,
        );
        let _ = err.flush();
    }
}

fn clear() {
    let mut err = std::io::stderr();
    if err.is_terminal() {
        // As above.
        let _ = write!(err, "\r\x1b[K");
    }
}

/// Runs pgbench on a node.
struct Pgbench<'a> {
    mesh: &'a Mesh,
    program: std::path::PathBuf,
    node: &'a str,
    seconds: String,
}

/// What pgbench said of one run.
struct Run {
    workload: &'static str,
    endpoint: &'static str,
    tps: f64,
    latency_ms: f64,
}

impl Run {
    fn json(&self) -> serde_json::Value {
        json!({
            "workload": self.workload,
            "endpoint": self.endpoint,
            "clients": CLIENTS.parse::<u32>().ok(),
            "tps": self.tps,
            "latency_ms": self.latency_ms,
        })
    }
}

impl Pgbench<'_> {
    fn new<'a>(
        mesh: &'a Mesh,
        bin_dir: &std::path::Path,
        node: &'a str,
        seconds: u32,
    ) -> Pgbench<'a> {
        Pgbench {
            mesh,
            program: bin_dir.join("pgbench"),
            node,
            seconds: seconds.to_string(),
        }
    }

    fn run(&self, json: bool) -> anyhow::Result<Vec<Run>> {
        if !json {
            output::print(&format!("pgbench, scale {SCALE}, {CLIENTS} clients:\n"))?;
        }
        self.call(primary(), &["-i", "-q", "-s", SCALE])?;
        let timed = ["-c", CLIENTS, "-j", THREADS, "-T", &self.seconds];
        let runs: [(&str, &str, SocketAddr, &[&str]); 3] = [
            ("TPC-B-like", "primary", primary(), &[]),
            ("select-only", "primary", primary(), &["-S"]),
            ("select-only", "replicas", replicas(), &["-S", "-n"]),
        ];
        let mut done = Vec::new();
        for (workload, endpoint, at, more) in runs {
            let said = self.call(at, &[&timed, more].concat())?;
            let read = |label| number_after(&said, label);
            let found = read("tps = ").zip(read("latency average = "));
            let (tps, latency_ms) =
                found.with_context(|| format!("pgbench says no rate:\n{said}"))?;
            done.push(Run {
                workload,
                endpoint,
                tps,
                latency_ms,
            });
        }
        if !json {
            output::print(&table(&done))?;
        }
        Ok(done)
    }

    fn call(&self, at: SocketAddr, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self
            .mesh
            .lab
            .command(self.node, &self.program)?
            .args(arguments)
            .envs(libpq(self.mesh, self.node, at)?)
            .output()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("pgbench {}: {}", arguments.join(" "), why.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn table(runs: &[Run]) -> String {
    let mut table = Table::with_headings(&["WORKLOAD", "ENDPOINT", "TPS", "LATENCY"]);
    for run in runs {
        table.row([
            run.workload.to_owned(),
            run.endpoint.to_owned(),
            format!("{:.0}", run.tps),
            format!("{:.2} ms", run.latency_ms),
        ]);
    }
    table.render()
}

/// The number that follows a label.
fn number_after(text: &str, label: &str) -> Option<f64> {
    let (_, rest) = text.split_once(label)?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
    rest[..end.unwrap_or(rest.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pgbench_says_is_read() {
        let said = "number of transactions actually processed: 1234\n\
                    latency average = 8.123 ms\ninitial connection time = 9.1 ms\n\
                    tps = 492.450000 (without initial connection time)\n";
        assert_eq!(number_after(said, "tps = "), Some(492.45));
        assert_eq!(number_after(said, "latency average = "), Some(8.123));
        assert_eq!(number_after(said, "rate = "), None);
        assert_eq!(number_after("tps = ", "tps = "), None);
    }
}
