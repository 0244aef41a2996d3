//! The measurements.

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use crate::{
    proc,
    report::{Figure, Progress, Samples},
    traffic::{self, Echo, Limit, Route, bulk, first_byte},
    world::{
        BULK_PORT, ECHO_PORT, NODE_1, NODE_2, Programs, RAW_ECHO_PORT, RAW_PORT, Relay, Topology,
        World, vip,
    },
};

/// One goodput run.
const GOODPUT: Limit = Limit {
    time: Duration::from_secs(5),
    bytes: 1_000_000_000,
};
/// One run under loss: long enough that the start of either congestion control does not matter.
const LOSS: Limit = Limit {
    time: Duration::from_secs(10),
    bytes: 1_000_000_000,
};
/// What is transferred before memory and processor time are read.
const ONE_GB: Limit = Limit {
    time: Duration::from_secs(300),
    bytes: 1_000_000_000,
};
/// Loss rates, per cent, each way.
const LOSSES: [u32; 4] = [0, 1, 5, 20];
/// Congestion controls that both Holdfast and the kernel have.
const CONGESTIONS: [&str; 2] = ["cubic", "bbr"];
/// Round trips per run.
const ROUND_TRIPS: usize = 3_000;
/// Their size, bytes.
const ROUND_TRIP_BYTES: usize = 100;
/// How long a link may take until it is counted as not coming up.
const FIRST_BYTE_BOUND: Duration = Duration::from_secs(120);
/// How long the first node runs alone before the second starts, in that figure.
const HEAD_START: Duration = Duration::from_secs(5);
/// How long a link is left alone before its peer is killed: longer than any start-up activity.
const REST: Duration = Duration::from_millis(1_500);
/// Added per run, so that no run meets a periodic timer at the same phase.
const REST_STEP: Duration = Duration::from_millis(137);

/// What every measurement needs.
pub struct Bench {
    /// The programs under test.
    pub programs: Programs,
    /// PostgreSQL's programs, if they are named.
    pub postgres_bin: Option<PathBuf>,
    /// Runs of each figure; without, each measurement has a default of its own.
    pub runs: Option<usize>,
    /// Tells the terminal.
    pub progress: Progress,
}

impl Bench {
    pub(crate) fn runs(&self, default: usize) -> usize {
        self.runs.unwrap_or(default)
    }

    /// Goodput of one TCP connection, and round trips over another, on every topology.
    ///
    /// # Errors
    /// If a world cannot be made or a transfer fails.
    pub fn goodput(&self, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
        let topologies = [
            Topology::TwoNats,
            Topology::Hairpin,
            Topology::Symmetric(Relay::Own),
            Topology::Symmetric(Relay::Coturn),
            Topology::UdpBlocked(Relay::Own),
            Topology::UdpBlocked(Relay::Coturn),
        ];
        for topology in topologies {
            let what = topology.to_string();
            self.progress.show(&format!("goodput, {what}"));
            let world = World::linked(topology, &self.programs)?;
            let (ours, raw) = self.pairs(&world, &what, self.runs(3), GOODPUT, None)?;
            figures.push(Figure {
                group: "goodput",
                what: format!("goodput, {what}"),
                unit: "MB/s",
                holdfast: ours,
                baseline: raw,
                note: format!("raw TCP through the same NATs; {}", world.path()),
            });
            self.progress.show(&format!("round trips, {what}"));
            figures.extend(self.round_trips(&world, &what)?);
        }
        Ok(())
    }

    /// Alternating runs: baseline, Holdfast, baseline, …
    fn pairs(
        &self,
        world: &World,
        what: &str,
        runs: usize,
        limit: Limit,
        congestion: Option<&str>,
    ) -> anyhow::Result<(Samples, Samples)> {
        let (mut ours, mut raw) = (Samples::default(), Samples::default());
        let far = world.listen(NODE_2, BULK_PORT)?;
        let raw_far = world.listen_raw(RAW_PORT)?;
        let raw_route = Route {
            from: NODE_1,
            to: world.raw_address(RAW_PORT)?,
            congestion,
        };
        let route = Route {
            from: NODE_1,
            to: vip(NODE_2, BULK_PORT),
            congestion: None,
        };
        for run in 1..=runs {
            self.progress.show(&format!("{what}: {run} of {runs}"));
            raw.0
                .push(bulk(&world.lab, raw_route, &raw_far, limit)?.mb_per_s());
            ours.0
                .push(bulk(&world.lab, route, &far, limit)?.mb_per_s());
            world.settle();
        }
        Ok((ours, raw))
    }

    fn round_trips(&self, world: &World, what: &str) -> anyhow::Result<[Figure; 2]> {
        let _echo = Echo::serve(world.listen(NODE_2, ECHO_PORT)?)?;
        let _raw_echo = Echo::serve(world.listen_raw(RAW_ECHO_PORT)?)?;
        let ask = |to| -> anyhow::Result<Samples> {
            let times =
                traffic::round_trips(&world.lab, NODE_1, to, ROUND_TRIP_BYTES, ROUND_TRIPS)?;
            Ok(Samples(
                times.iter().map(|time| time.as_secs_f64() * 1e6).collect(),
            ))
        };
        let mut figures = [("p50", 500), ("p99", 990)].map(|(name, _)| Figure {
            group: "goodput",
            what: format!("100 bytes and back {name}, {what}"),
            unit: "µs",
            holdfast: Samples::default(),
            baseline: Samples::default(),
            note: format!("of {ROUND_TRIPS} in each run; raw TCP"),
        });
        for _ in 0..self.runs(3) {
            let raw = ask(world.raw_address(RAW_ECHO_PORT)?)?;
            let ours = ask(vip(NODE_2, ECHO_PORT))?;
            for (figure, per_mille) in figures.iter_mut().zip([500, 990]) {
                figure.holdfast.0.push(ours.quantile(per_mille));
                figure.baseline.0.push(raw.quantile(per_mille));
            }
        }
        Ok(figures)
    }

    /// From the start of the processes to the first byte that came back through the VIP.
    ///
    /// # Errors
    /// If a world cannot be made or a link does not come up.
    pub fn setup(&self, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
        let runs = self.runs(10);
        for topology in [Topology::TwoNats, Topology::Symmetric(Relay::Own)] {
            let mut world = World::new(topology.clone(), &self.programs)?;
            let _echo = Echo::serve(world.listen(NODE_2, ECHO_PORT)?)?;
            for (order, head_start) in [
                ("both started together", Duration::ZERO),
                ("peer started 5 s later", HEAD_START),
            ] {
                let mut times = Samples::default();
                for run in 1..=runs {
                    self.progress
                        .show(&format!("set-up, {topology}, {order}: {run} of {runs}"));
                    times.0.push(set_up_once(&mut world, head_start)?);
                }
                figures.push(time_figure(
                    "setup",
                    format!("set-up to first byte, {topology}, {order}"),
                    times,
                    world.path(),
                ));
            }
        }
        Ok(())
    }

    /// From `kill -9` of a node, which is started again at once, to the first byte over a new
    /// connection from the node that lived.
    ///
    /// # Errors
    /// If a world cannot be made or a link does not come back.
    pub fn recovery(&self, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
        let runs = self.runs(10);
        for topology in [Topology::TwoNats, Topology::Symmetric(Relay::Own)] {
            let mut world = World::linked(topology.clone(), &self.programs)?;
            for (killed, survivor) in [(NODE_2, NODE_1), (NODE_1, NODE_2)] {
                let _echo = Echo::serve(world.listen(killed, ECHO_PORT)?)?;
                let mut times = Samples::default();
                for run in 1..=runs {
                    self.progress
                        .show(&format!("recovery, {topology}, {killed}: {run} of {runs}"));
                    times
                        .0
                        .push(recover_once(&mut world, killed, survivor, run)?);
                }
                figures.push(time_figure(
                    "recovery",
                    format!("kill -9 of {killed} to first byte, {topology}"),
                    times,
                    world.path(),
                ));
            }
        }
        Ok(())
    }

    /// Goodput at 20 ms and 100 Mbit/s under loss, with each congestion control.
    ///
    /// # Errors
    /// If a world cannot be made or a transfer fails.
    pub fn loss(&self, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
        for percent in LOSSES {
            let topology = Topology::Lossy(percent);
            let mut world = World::new(topology.clone(), &self.programs)?;
            for congestion in CONGESTIONS {
                let what = format!("{topology}, {congestion}");
                self.progress.show(&what);
                world.set("HOLDFAST_CONGESTION", congestion);
                world.start_both()?;
                let (holdfast, baseline) =
                    self.pairs(&world, &what, self.runs(3), LOSS, Some(congestion))?;
                figures.push(Figure {
                    group: "loss",
                    what,
                    unit: "MB/s",
                    holdfast,
                    baseline,
                    note: format!("raw TCP, kernel {congestion}; {}", world.path()),
                });
            }
        }
        Ok(())
    }

    /// Memory and processor time of nodes with one peer.
    ///
    /// # Errors
    /// If a world cannot be made, or a node ends.
    pub fn rss(&self, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
        let names = [
            ("RSS idle", "MB"),
            ("RSS after 1 GB, sender", "MB"),
            ("RSS after 1 GB, receiver", "MB"),
            ("RSS peak during 1 GB, sender", "MB"),
            ("RSS peak during 1 GB, receiver", "MB"),
            ("processor time per GB, sender", "s/GB"),
            ("processor time per GB, receiver", "s/GB"),
        ];
        let mut values: [Samples; 7] = Default::default();
        for run in 1..=self.runs(3) {
            self.progress.show(&format!("memory: {run}"));
            let world = World::linked(Topology::TwoNats, &self.programs)?;
            for (samples, value) in values.iter_mut().zip(resources_once(&world)?) {
                samples.0.push(value);
            }
        }
        for ((what, unit), holdfast) in names.into_iter().zip(values) {
            figures.push(Figure {
                group: "rss",
                what: format!("{what}, two NATs"),
                unit,
                holdfast,
                baseline: Samples::default(),
                note: String::new(),
            });
        }
        Ok(())
    }
}

fn time_figure(group: &'static str, what: String, holdfast: Samples, note: String) -> Figure {
    Figure {
        group,
        what,
        unit: "s",
        holdfast,
        baseline: Samples::default(),
        note,
    }
}

fn set_up_once(world: &mut World, head_start: Duration) -> anyhow::Result<f64> {
    world.kill(NODE_1);
    world.kill(NODE_2);
    let first = world.start(NODE_1)?;
    thread::sleep(head_start);
    let second = world.start(NODE_2)?;
    let since = if head_start.is_zero() { first } else { second };
    let to = vip(NODE_2, ECHO_PORT);
    Ok(first_byte(&world.lab, NODE_1, to, since, FIRST_BYTE_BOUND)?.as_secs_f64())
}

fn recover_once(
    world: &mut World,
    killed: &str,
    survivor: &str,
    run: usize,
) -> anyhow::Result<f64> {
    world.wait_linked()?;
    thread::sleep(REST + REST_STEP * u32::try_from(run)?);
    let since = Instant::now();
    world.kill(killed);
    world.start(killed)?;
    let to = vip(killed, ECHO_PORT);
    Ok(first_byte(&world.lab, survivor, to, since, FIRST_BYTE_BOUND)?.as_secs_f64())
}

fn resources_once(world: &World) -> anyhow::Result<[f64; 7]> {
    let (sender, receiver) = (world.pid(NODE_1)?, world.pid(NODE_2)?);
    thread::sleep(REST);
    let idle = proc::memory(sender)?;
    let before = [proc::cpu(sender)?, proc::cpu(receiver)?];
    let listener = world.listen(NODE_2, BULK_PORT)?;
    let route = Route {
        from: NODE_1,
        to: vip(NODE_2, BULK_PORT),
        congestion: None,
    };
    let transfer = bulk(&world.lab, route, &listener, ONE_GB)?;
    let after = [proc::cpu(sender)?, proc::cpu(receiver)?];
    world.settle();
    let memory = [proc::memory(sender)?, proc::memory(receiver)?];
    let mb = |kb: u64| kb as f64 * 1_024.0 / 1e6;
    let gb = transfer.bytes as f64 / 1e9;
    let per_gb = |end: usize| (after[end] - before[end]).as_secs_f64() / gb;
    Ok([
        mb(idle.now_kb),
        mb(memory[0].now_kb),
        mb(memory[1].now_kb),
        mb(memory[0].peak_kb),
        mb(memory[1].peak_kb),
        per_gb(0),
        per_gb(1),
    ])
}
