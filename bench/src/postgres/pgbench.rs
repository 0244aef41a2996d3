//! Transactions per second.

use std::time::Duration;

use anyhow::Context;

use super::{
    cluster::{Binaries, Cluster, Route},
    loopback, mesh, plain,
};
use crate::{
    measure::Bench,
    report::{Figure, Samples},
    world::World,
};

/// 100,000 accounts and a branch for each: more branches than clients, or they would wait for each
/// other's rows instead of the network.
const SCALE: u32 = 10;
/// One run of pgbench.
const RUN_S: u32 = 5;
/// Beyond it, a standby is gone and commits wait for ever.
const RUN_BOUND: Duration = Duration::from_secs(60);
const CLIENTS: [u32; 2] = [1, 8];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Script {
    SelectOnly,
    TpcB,
}

impl Script {
    const ALL: [Self; 2] = [Self::SelectOnly, Self::TpcB];

    fn name(self) -> &'static str {
        match self {
            Self::SelectOnly => "select-only",
            Self::TpcB => "TPC-B-like, synchronous standby",
        }
    }
}

/// What one run said.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Outcome {
    tps: f64,
    latency_ms: f64,
}

/// All runs by one route: of each script, of each number of clients.
#[derive(Default)]
struct Outcomes([[Vec<Outcome>; CLIENTS.len()]; Script::ALL.len()]);

impl Bench {
    /// By all routes in turn, again and again.
    pub(super) fn transactions(
        &self,
        world: &World,
        binaries: &Binaries,
        delay_ms: u32,
        figures: &mut Vec<Figure>,
    ) -> anyhow::Result<()> {
        self.progress.show("pgbench: making the cluster");
        let cluster = Cluster::start(world, binaries, 0)?;
        cluster.run_local("pgbench", |command| {
            command.env("PGHOST", cluster.path(""));
            // There is no standby yet that a commit could wait for.
            command.env("PGOPTIONS", "-c synchronous_commit=local");
            command.args(["-i", "-q", "-s", &SCALE.to_string()]);
        })?;
        cluster.prepare_standby()?;
        let mut routes = vec![mesh(), plain(world)?];
        if delay_ms == 0 {
            routes.push(loopback());
        }
        let mut outcomes: Vec<Outcomes> = routes.iter().map(|_| Outcomes::default()).collect();
        let runs = self.runs(3);
        for run in 1..=runs {
            for (route, outcomes) in routes.iter().zip(&mut outcomes) {
                let name = route.name;
                self.progress
                    .show(&format!("pgbench, {delay_ms} ms, {name}: {run} of {runs}"));
                measure(&cluster, *route, outcomes)?;
            }
        }
        let (ours, others) = outcomes.split_first().context("there is no route")?;
        let path = world.path();
        for (other, route) in others.iter().zip(&routes[1..]) {
            figures.extend(compare(ours, other, delay_ms, route.name, &path));
        }
        Ok(())
    }
}

fn measure(cluster: &Cluster<'_>, route: Route, outcomes: &mut Outcomes) -> anyhow::Result<()> {
    let _standby = cluster.standby(route)?;
    for (script, of_script) in Script::ALL.into_iter().zip(&mut outcomes.0) {
        for (clients, of_clients) in CLIENTS.into_iter().zip(of_script) {
            let said = cluster.run(route, "pgbench", RUN_BOUND, |command| {
                command.args(["-n", "-M", "prepared", "-T", &RUN_S.to_string()]);
                command.args([
                    "-c",
                    &clients.to_string(),
                    "-j",
                    &clients.min(2).to_string(),
                ]);
                if script == Script::SelectOnly {
                    command.arg("-S");
                }
            })?;
            of_clients.push(parse(&said).with_context(|| format!("pgbench said {said:?}"))?);
        }
    }
    Ok(())
}

fn compare<'a>(
    ours: &'a Outcomes,
    other: &'a Outcomes,
    delay_ms: u32,
    name: &'a str,
    path: &'a str,
) -> impl Iterator<Item = Figure> + 'a {
    let scripts = Script::ALL.into_iter().zip(ours.0.iter().zip(&other.0));
    let cells = scripts.flat_map(|(script, (ours, other))| {
        let clients = CLIENTS.into_iter().zip(ours.iter().zip(other));
        clients.map(move |(clients, pair)| (script, clients, pair))
    });
    cells.flat_map(move |(script, clients, (ours, other))| {
        let figure = |what: &str, unit, value: fn(&Outcome) -> f64| Figure {
            group: "postgres",
            what: format!(
                "{}, {clients} {}, {delay_ms} ms, {what}",
                script.name(),
                if clients == 1 { "client" } else { "clients" }
            ),
            unit,
            holdfast: Samples(ours.iter().map(value).collect()),
            baseline: Samples(other.iter().map(value).collect()),
            note: format!("{name}; {path}"),
        };
        [
            figure("rate", "1/s", |outcome| outcome.tps),
            figure("latency", "ms", |outcome| outcome.latency_ms),
        ]
    })
}

fn parse(said: &str) -> Option<Outcome> {
    let number = |key: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_ascii_whitespace().next()?.parse::<f64>().ok()
    };
    Some(Outcome {
        tps: number("tps = ")?,
        latency_ms: number("latency average = ")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_latency_are_read_from_what_pgbench_says() {
        let said = "pgbench (15.20)\nnumber of failed transactions: 0 (0.000%)\n\
                    latency average = 0.089 ms\ninitial connection time = 1.9 ms\n\
                    tps = 11211.520334 (without initial connection time)\n";
        let outcome = Outcome {
            tps: 11_211.520_334,
            latency_ms: 0.089,
        };
        assert_eq!(parse(said), Some(outcome));
        assert_eq!(parse("tps = none"), None);
    }
}
