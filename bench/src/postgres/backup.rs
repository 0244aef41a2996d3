//! Base backups, next to what the mesh moves without PostgreSQL.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;

use super::{
    cluster::{Binaries, Cluster, Route},
    loopback, mesh, plain,
};
use crate::{
    measure::Bench,
    proc,
    report::{Figure, Samples},
    traffic::{self, Limit, bulk},
    world::{BULK_PORT, NODE_1, NODE_2, Topology, World, vip},
};

/// What is copied beside an empty cluster, bytes.
const BALLAST_BYTES: u64 = 1_000_000_000;
/// The same on a shaped line: half a minute at the rate that is wanted.
const SHAPED_BALLAST_BYTES: u64 = 200_000_000;
/// The mesh by itself, in the direction of a backup.
const GOODPUT: Limit = Limit {
    time: Duration::from_secs(5),
    bytes: 1_000_000_000,
};
/// A backup over a line that lost its way.
const BACKUP_BOUND: Duration = Duration::from_secs(300);
/// What the shaped line carries with all headers: 100 Mbit/s in MB/s.
const LINE_MB_PER_S: f64 = 12.5;

impl Bench {
    /// Throughput of `pg_basebackup` through the mesh, next to the mesh's own, to plain TCP and to
    /// loopback; on a shaped line to the mesh's own and to the line's rate.
    pub(super) fn base_backup(
        &self,
        binaries: &Binaries,
        topology: Topology,
        figures: &mut Vec<Figure>,
    ) -> anyhow::Result<()> {
        let shaped = matches!(topology, Topology::Lossy(_));
        let what = format!("base backup, {topology}");
        self.progress.show(&format!("{what}: making the cluster"));
        let world = World::linked(topology, &self.programs)?;
        let ballast = if shaped {
            SHAPED_BALLAST_BYTES
        } else {
            BALLAST_BYTES
        };
        let cluster = Cluster::start(&world, binaries, ballast)?;
        let mut all = Runs::default();
        let runs = self.runs(3);
        for run in 1..=runs {
            self.progress.show(&format!("{what}: {run} of {runs}"));
            let charged = |work: &dyn Fn() -> anyhow::Result<Moved>| charged(&world, work);
            all.goodput.push(charged(&|| mesh_goodput(&world))?);
            world.settle();
            all.mesh.push(charged(&|| backup(&cluster, mesh()))?);
            // Plain TCP may take many minutes at 5 % loss, and has no requirement to meet.
            if !shaped {
                let plain = plain(&world)?;
                all.plain.push(charged(&|| backup(&cluster, plain))?);
                all.loopback
                    .push(charged(&|| backup(&cluster, loopback()))?);
            }
        }
        figures.extend(all.figures(&what, shaped, &world.path()));
        Ok(())
    }
}

/// So many bytes in so much time.
#[derive(Debug, Clone, Copy)]
struct Moved {
    bytes: u64,
    elapsed: Duration,
    /// Processor time of both nodes of the mesh.
    charged: Duration,
    /// Processors in use on the average, of everybody on the machine: with what the kernel does for
    /// their sockets, and with PostgreSQL's.
    processors: f64,
}

impl Moved {
    /// 10⁶ bytes per second.
    fn rate(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.elapsed.as_secs_f64()
    }

    /// Seconds of processor time per 10⁹ bytes: whether the mesh works harder for PostgreSQL than
    /// for anybody, whatever else the machine does.
    fn cost(&self) -> f64 {
        self.charged.as_secs_f64() / (self.bytes as f64 / 1e9)
    }
}

/// All runs on one line.
#[derive(Default)]
struct Runs {
    mesh: Vec<Moved>,
    goodput: Vec<Moved>,
    plain: Vec<Moved>,
    loopback: Vec<Moved>,
}

impl Runs {
    fn figures(self, what: &str, shaped: bool, path: &str) -> Vec<Figure> {
        let samples = |moved: &[Moved], value: fn(&Moved) -> f64| {
            Samples(moved.iter().map(value).collect::<Vec<_>>())
        };
        let mut figures = Vec::new();
        let mut compare = |unit, value: fn(&Moved) -> f64, baseline: Samples, note: &str| {
            figures.push(Figure {
                group: "postgres",
                what: what.to_owned(),
                unit,
                holdfast: samples(&self.mesh, value),
                baseline,
                note: format!("{note}; {path}"),
            });
        };
        let mut baselines = vec![("the mesh's own goodput", &self.goodput)];
        if !shaped {
            baselines.extend([("plain", &self.plain), ("loopback", &self.loopback)]);
        }
        for (note, moved) in baselines {
            compare("MB/s", Moved::rate, samples(moved, Moved::rate), note);
            let busy = samples(moved, |moved| moved.processors);
            compare("processors", |moved| moved.processors, busy, note);
        }
        if shaped {
            let line = Samples(vec![LINE_MB_PER_S; self.mesh.len()]);
            compare("MB/s", Moved::rate, line, "the line's rate");
        }
        figures.push(Figure {
            group: "postgres",
            what: format!("processor time of both nodes, {what}"),
            unit: "s/GB",
            holdfast: samples(&self.mesh, Moved::cost),
            baseline: samples(&self.goodput, Moved::cost),
            note: "the mesh's own goodput".to_owned(),
        });
        figures
    }
}

/// What was spent while `work` was done.
fn charged(world: &World, work: impl FnOnce() -> anyhow::Result<Moved>) -> anyhow::Result<Moved> {
    let spent = || -> anyhow::Result<Duration> {
        Ok(proc::cpu(world.pid(NODE_1)?)? + proc::cpu(world.pid(NODE_2)?)?)
    };
    let (before, all_before, started) = (spent()?, proc::cpu_of_all()?, Instant::now());
    let moved = work()?;
    let everybody = proc::cpu_of_all()?.saturating_sub(all_before);
    Ok(Moved {
        charged: spent()?.saturating_sub(before),
        processors: everybody.as_secs_f64() / started.elapsed().as_secs_f64(),
        ..moved
    })
}

/// From the second node to the first, as a backup goes.
fn mesh_goodput(world: &World) -> anyhow::Result<Moved> {
    let listener = world.listen(NODE_1, BULK_PORT)?;
    let route = traffic::Route {
        from: NODE_2,
        to: vip(NODE_1, BULK_PORT),
        congestion: None,
    };
    let transfer = bulk(&world.lab, route, &listener, GOODPUT)?;
    Ok(Moved {
        bytes: transfer.bytes,
        elapsed: transfer.elapsed,
        charged: Duration::ZERO,
        processors: 0.0,
    })
}

/// The whole program, connection and checkpoint included.
fn backup(cluster: &Cluster<'_>, route: Route) -> anyhow::Result<Moved> {
    let folder = cluster.path("backup");
    let started = Instant::now();
    cluster.run(route, "pg_basebackup", BACKUP_BOUND, |command| {
        command.arg("-D").arg(&folder);
        // The disk is none of the network's business.
        command.args(["--checkpoint=fast", "--wal-method=stream", "--no-sync"]);
    })?;
    let elapsed = started.elapsed();
    let bytes = size(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    Ok(Moved {
        bytes,
        elapsed,
        charged: Duration::ZERO,
        processors: 0.0,
    })
}

/// Of all files, but for the WAL: a segment has its full size whatever came of it.
fn size(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true if entry.file_name() == "pg_wal" => 0,
            true => size(&entry.path())?,
            false => entry.metadata()?.len(),
        };
    }
    Ok(bytes)
}
