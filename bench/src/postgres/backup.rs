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
    report::{Figure, Samples},
    traffic::{self, Limit, bulk},
    world::{BULK_PORT, NODE_1, NODE_2, Topology, World, vip},
};

/// What is copied beside an empty cluster, bytes.
const BALLAST_BYTES: u64 = 300_000_000;
/// The same on a shaped line: a backup of ten seconds.
const SHAPED_BALLAST_BYTES: u64 = 100_000_000;
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
        let (mut ours, mut goodput) = (Samples::default(), Samples::default());
        let (mut raw, mut local) = (Samples::default(), Samples::default());
        let runs = self.runs(3);
        for run in 1..=runs {
            self.progress.show(&format!("{what}: {run} of {runs}"));
            goodput.0.push(mesh_goodput(&world)?);
            world.settle();
            ours.0.push(backup(&cluster, mesh())?);
            // Plain TCP takes minutes at 5 % loss, and has no requirement to meet.
            if !shaped {
                raw.0.push(backup(&cluster, plain(&world)?)?);
                local.0.push(backup(&cluster, loopback())?);
            }
        }
        let figure = |baseline, note: &str| Figure {
            group: "postgres",
            what: what.clone(),
            unit: "MB/s",
            holdfast: ours.clone(),
            baseline,
            note: format!("{note}; {}", world.path()),
        };
        figures.push(figure(goodput, "the mesh's own goodput"));
        if shaped {
            let rate = Samples(ours.0.iter().map(|_| LINE_MB_PER_S).collect());
            figures.push(figure(rate, "the line's rate"));
        } else {
            figures.push(figure(raw, "plain"));
            figures.push(figure(local, "loopback"));
        }
        Ok(())
    }
}

/// From the second node to the first, as a backup goes.
fn mesh_goodput(world: &World) -> anyhow::Result<f64> {
    let listener = world.listen(NODE_1, BULK_PORT)?;
    let route = traffic::Route {
        from: NODE_2,
        to: vip(NODE_1, BULK_PORT),
        congestion: None,
    };
    Ok(bulk(&world.lab, route, &listener, GOODPUT)?.mb_per_s())
}

/// 10⁶ bytes per second of the whole program, connection and checkpoint included.
fn backup(cluster: &Cluster<'_>, route: Route) -> anyhow::Result<f64> {
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
    Ok(bytes as f64 / 1e6 / elapsed.as_secs_f64())
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
