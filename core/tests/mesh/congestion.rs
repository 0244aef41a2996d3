//! What congestion control makes of a line: two QUIC ends, and a bottleneck between them.
//!
//! A bulk stream sends all it can from the first to the second, and a second stream 100 bytes
//! every 100 ms beside it: what a base backup does to the replication of the same link.
//! `cargo test -p holdfast-core --test mesh congestion -- --ignored --nocapture` prints a table.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroU64;
use std::time::Duration;

use bytes::BytesMut;
use holdfast_core::config::{Congestion, Limits};
use holdfast_core::entropy::{Entropy, Seed};
use holdfast_core::identity::Identity;
use holdfast_core::quic::{Dir, Quic, QuicConfig, Role, StreamId};
use holdfast_core::types::LinkId;
use holdfast_net_model::pipeline::{Fate, LinkConfig, Loss, Pipeline};
use holdfast_net_model::{Draw, Ratio};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::world::origin;

const PING_EVERY: Duration = Duration::from_millis(100);
const PING_LEN: usize = 100;

/// Both directions alike.
#[derive(Clone, Copy, Debug)]
struct Line {
    mbit: u64,
    /// One way.
    delay_ms: u64,
    queue_bytes: u64,
    loss_percent: u32,
    /// The sender and the receiver wake up so often, as on a busy machine.
    wake_us: [u64; 2],
}

impl Line {
    fn config(&self) -> LinkConfig {
        LinkConfig {
            rate_bits_per_s: NonZeroU64::new(self.mbit * 1_000_000),
            queue_bytes: self.queue_bytes,
            loss: Loss::Bernoulli(Ratio::of(self.loss_percent, 100)),
            ..LinkConfig::with_delay(Duration::from_millis(self.delay_ms))
        }
    }

    /// What it can deliver, in bytes per second with all headers.
    fn capacity(&self) -> f64 {
        self.mbit as f64 * 125_000.0 * f64::from(100 - self.loss_percent) / 100.0
    }
}

struct Dice(Entropy);

impl Draw for Dice {
    fn next_u64(&mut self) -> u64 {
        self.0.u64()
    }
}

/// What was seen after the start-up.
#[derive(Debug)]
struct Seen {
    /// Bulk bytes that arrived, by what the line can deliver.
    share: f64,
    /// Delays of the small writes beyond the line's own.
    late: Vec<Duration>,
    /// Packets that the queue had no place for, by those offered.
    overflow: f64,
}

impl Seen {
    fn late(&self, percent: usize) -> Duration {
        self.late[(self.late.len() - 1) * percent / 100]
    }
}

/// When it arrives, its place among those of one moment, what it is, and its ECN bits.
type Packet = Reverse<(Duration, u64, Vec<u8>, u8)>;

struct World {
    ends: [Quic; 2],
    lines: [Pipeline; 2],
    dice: Dice,
    now: Duration,
    /// To each end.
    on_the_way: [BinaryHeap<Packet>; 2],
    sequence: u64,
    wake: [Duration; 2],
}

impl World {
    fn new(line: &Line, congestion: Congestion, seed: u8) -> World {
        let key = |n: u8| Identity::from_seed([n; 32]);
        let end = |role, own: u8, peer: u8| {
            let config = QuicConfig {
                role,
                us: &key(own),
                peer: key(peer).public(),
                link: LinkId(7),
                first_id: [7; 16],
                congestion,
                limits: Limits::default(),
            };
            Quic::new(&config, &Seed::new([own ^ seed; 32]))
        };
        World {
            ends: [end(Role::Client, 1, 2), end(Role::Server, 2, 1)],
            lines: [Pipeline::new(line.config()), Pipeline::new(line.config())],
            dice: Dice(Seed::new([seed; 32]).rng()),
            now: Duration::ZERO,
            on_the_way: [BinaryHeap::new(), BinaryHeap::new()],
            sequence: 0,
            wake: line.wake_us.map(Duration::from_micros),
        }
    }

    fn send(&mut self, from: usize) {
        let mut buf = Vec::new();
        let now = origin() + self.now;
        while let Some((len, segment, ecn)) = self.ends[from].poll_transmit(now, 10, &mut buf) {
            for packet in buf[..len].chunks(segment.unwrap_or(len)) {
                let wire = u32::try_from(packet.len() + 28).unwrap();
                if let Fate::Once(at) = self.lines[from].offer(self.now, wire, &mut self.dice) {
                    self.sequence += 1;
                    let item = (at, self.sequence, packet.to_vec(), ecn);
                    self.on_the_way[1 - from].push(Reverse(item));
                }
            }
            buf.clear();
        }
    }

    /// When an end has something to do next, as it wakes up.
    fn next(&mut self, end: usize) -> Option<Duration> {
        let deadline = self.ends[end].deadline();
        let deadline = deadline.map(|at| at.saturating_duration_since(origin()));
        let arrival = self.on_the_way[end].peek().map(|Reverse((at, ..))| *at);
        let next = deadline.into_iter().chain(arrival).min()?.as_nanos();
        let wake = self.wake[end].as_nanos();
        Some(Duration::from_nanos(
            u64::try_from(next.div_ceil(wake) * wake).unwrap(),
        ))
    }

    /// To the next moment at which an end does something, or to `until`.
    fn step(&mut self, until: Duration) {
        let next = [self.next(0), self.next(1)];
        let first = next.into_iter().flatten().min().unwrap_or(until);
        self.now = self.now.max(first.min(until));
        for (end, at) in next.into_iter().enumerate() {
            if at.is_some_and(|at| at <= self.now) {
                self.turn(end);
            }
        }
    }

    /// An end takes in what arrived, and answers.
    fn turn(&mut self, end: usize) {
        let now = origin() + self.now;
        while let Some(Reverse((at, ..))) = self.on_the_way[end].peek()
            && *at <= self.now
        {
            let Reverse((_, _, packet, ecn)) = self.on_the_way[end].pop().unwrap();
            self.ends[end].handle_packet(now, BytesMut::from(&packet[..]), ecn);
        }
        self.ends[end].handle_deadline(now);
        while self.ends[end].poll_event().is_some() {}
        self.send(end);
    }

    fn write(&mut self, stream: StreamId, data: &[u8]) -> usize {
        let client = self.ends[0].connection().unwrap();
        client.send_stream(stream).write(data).unwrap_or(0)
    }

    /// Bytes that came in order since last time.
    fn read(&mut self, stream: StreamId) -> usize {
        let Some(server) = self.ends[1].connection() else {
            return 0;
        };
        while server.streams().accept(Dir::Uni).is_some() {}
        let mut stream = server.recv_stream(stream);
        let Ok(mut chunks) = stream.read(true) else {
            return 0;
        };
        let mut len = 0;
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            len += chunk.bytes.len();
        }
        let _ = chunks.finalize();
        len
    }
}

/// What happens to a bulk transfer.
#[derive(Clone, Copy, Debug)]
struct Case {
    line: Line,
    /// Until some seconds before the figures are taken, the line is another one.
    before: Option<Line>,
    /// Only small writes until then.
    idle_before: bool,
    /// The path is left for another one then, as far as QUIC is told.
    new_path: bool,
}

impl From<Line> for Case {
    fn from(line: Line) -> Case {
        Case {
            line,
            before: None,
            idle_before: false,
            new_path: false,
        }
    }
}

/// How long the line is as before, and how long the transfer has then to find its rate.
const BEFORE: Duration = Duration::from_secs(12);
const SETTLED: Duration = Duration::from_secs(5);

fn run(case: impl Into<Case>, congestion: Congestion, seed: u8, time: Duration) -> Seen {
    let case = case.into();
    let line = case.line;
    let mut world = World::new(&case.before.unwrap_or(line), congestion, seed);
    world.ends[0].connect(origin());
    world.send(0);
    while world.now < SETTLED && world.ends[0].peek().is_none_or(|it| it.is_handshaking()) {
        world.step(SETTLED);
    }
    let client = world.ends[0].connection().unwrap();
    let bulk = client.streams().open(Dir::Uni).unwrap();
    let ping = client.streams().open(Dir::Uni).unwrap();
    let data = vec![0; 64 * 1024];
    let (mut pings, mut heard, mut bytes) = (Vec::new(), 0, 0);
    let mut late = Vec::new();
    let changes = case.before.is_some() || case.idle_before || case.new_path;
    let mut change = changes.then(|| world.now + BEFORE);
    let start = change.unwrap_or(world.now) + SETTLED;
    let end = start + time;
    let mut offered = (0, 0);
    while world.now < end {
        if change.is_some_and(|at| at <= world.now) {
            change = None;
            for pipeline in &mut world.lines {
                pipeline.set_config(world.now, line.config());
            }
            if case.new_path {
                world.ends[0].path_changed(origin() + world.now);
                world.ends[1].path_changed(origin() + world.now);
            }
        }
        while !(case.idle_before && change.is_some()) && world.write(bulk, &data) > 0 {}
        let due = pings.last().map_or(world.now, |at| *at + PING_EVERY);
        if due <= world.now && world.write(ping, &[1; PING_LEN]) == PING_LEN {
            pings.push(world.now);
        }
        world.send(0);
        world.step((world.now + PING_EVERY / 10).min(end));
        let came = world.read(bulk);
        heard += world.read(ping);
        if world.now < start {
            let counters = world.lines[0].counters();
            offered = (counters.offered, counters.dropped_queue);
            late = vec![Duration::ZERO; heard / PING_LEN];
            continue;
        }
        bytes += came;
        for sent in &pings[late.len()..heard / PING_LEN] {
            late.push(
                world
                    .now
                    .saturating_sub(*sent + Duration::from_millis(line.delay_ms)),
            );
        }
    }
    // Those that never came are as late as can be.
    for sent in &pings[late.len()..] {
        late.push(end - *sent);
    }
    let mut late: Vec<Duration> = late.into_iter().filter(|late| !late.is_zero()).collect();
    assert!(!late.is_empty(), "{case:?}: no small write came");
    late.sort_unstable();
    let counters = world.lines[0].counters();
    let dropped = counters.dropped_queue - offered.1;
    Seen {
        share: bytes as f64 / time.as_secs_f64() / line.capacity(),
        late,
        overflow: dropped as f64 / (counters.offered - offered.0) as f64,
    }
}

/// Whatever the line: it is used, its queue stays short, and small writes do not wait behind bulk.
fn check(case: impl Into<Case>, seed: u8) -> Result<(), TestCaseError> {
    let case = case.into();
    let seen = run(case, Congestion::Bbr, seed, Duration::from_secs(10));
    prop_assert!(seen.share > 0.5, "{case:?}: {:.2} of the line", seen.share);
    prop_assert!(seen.overflow < 0.2, "{case:?}: {:.2}", seen.overflow);
    let (half, most) = (seen.late(50), seen.late(90));
    prop_assert!(half < Duration::from_millis(80), "{case:?}: {half:?}");
    prop_assert!(most < Duration::from_millis(250), "{case:?}: {most:?}");
    Ok(())
}

fn lines() -> impl Strategy<Value = Line> {
    let wake = || prop_oneof![Just(1_u64), Just(1_000), Just(4_000)];
    let shape = (2_u64..80, 1_u64..40, 30_u64..2_000, 0_u32..8);
    (shape, wake(), wake()).prop_map(|((mbit, delay_ms, queue_ms, loss_percent), one, other)| {
        Line {
            mbit,
            delay_ms,
            queue_bytes: (mbit * 125 * queue_ms).max(20_000),
            loss_percent,
            wake_us: [one, other],
        }
    })
}

proptest! {
    // The same lines each time: a rare corner is no reason to refuse somebody's other change.
    #![proptest_config(ProptestConfig {
        cases: 16,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(20),
        ..ProptestConfig::default()
    })]

    #[test]
    fn bulk_uses_a_line_and_leaves_its_queue_short(line in lines(), seed: u8) {
        check(line, seed)?;
    }
}

/// 20 Mbit/s, 10 ms each way, a queue of 2 s.
const NARROW: Line = Line {
    mbit: 20,
    delay_ms: 10,
    queue_bytes: 5_000_000,
    loss_percent: 0,
    wake_us: [1, 1],
};

#[test]
fn bulk_follows_a_line_that_becomes_slower_faster_or_longer() {
    let wide = Line {
        mbit: 200,
        ..NARROW
    };
    let long = Line {
        delay_ms: 60,
        ..NARROW
    };
    for (before, line) in [
        (wide, NARROW),
        (NARROW, wide),
        (NARROW, long),
        (long, NARROW),
    ] {
        let before = Some(before);
        check(
            Case {
                before,
                ..line.into()
            },
            1,
        )
        .unwrap();
    }
}

#[test]
fn bulk_finds_its_rate_after_small_writes_and_on_another_path() {
    let line = Line { mbit: 50, ..NARROW };
    let case = Case {
        idle_before: true,
        ..line.into()
    };
    check(case, 1).unwrap();
    let case = Case {
        new_path: true,
        before: Some(Line {
            delay_ms: 50,
            ..line
        }),
        ..line.into()
    };
    check(case, 1).unwrap();
}

#[test]
fn a_sender_that_wakes_up_late_is_no_slower_for_a_receiver_that_does_not() {
    for delay_ms in [1, 10] {
        for late_us in [4_000, 8_000] {
            let wake_us = [late_us, 1];
            check(
                Line {
                    delay_ms,
                    wake_us,
                    ..NARROW
                },
                1,
            )
            .unwrap();
        }
    }
}

#[test]
#[ignore = "prints a table"]
fn table() {
    println!(" wake    Mbit  delay   queue  loss  control  share  late p50   p99    max  overflow");
    for wake_us in [
        [1, 1],
        [1_000, 1_000],
        [5_000, 5_000],
        [20_000, 20_000],
        [5_000, 1],
    ] {
        for (mbit, delay_ms, queue_bytes, loss_percent) in [
            (20, 10, 5_000_000, 5),
            (20, 10, 5_000_000, 0),
            (20, 10, 100_000, 0),
            (100, 10, 256_000, 0),
            (100, 10, 256_000, 5),
            (100, 10, 256_000, 20),
            (100, 10, 30_000, 0),
            (100, 1, 256_000, 0),
            (50, 75, 500_000, 0),
            (50, 75, 500_000, 5),
            (5, 25, 200_000, 2),
            (1, 25, 200_000, 0),
        ] {
            let line = Line {
                mbit,
                delay_ms,
                queue_bytes,
                loss_percent,
                wake_us,
            };
            for congestion in [Congestion::Cubic, Congestion::Bbr] {
                print_row(&line, congestion);
            }
        }
    }
}

fn print_row(line: &Line, congestion: Congestion) {
    let seen = run(*line, congestion, 1, Duration::from_secs(20));
    let late = |percent| seen.late(percent).as_millis();
    println!(
        "{:12} us {:4} {:4} ms {:8} {:3} %  {:7}  {:5.2}  {:5} {:5} {:5} ms  {:5.1} %",
        format!("{:?}", line.wake_us),
        line.mbit,
        line.delay_ms,
        line.queue_bytes,
        line.loss_percent,
        format!("{congestion:?}"),
        seen.share,
        late(50),
        late(99),
        late(100),
        seen.overflow * 100.0,
    );
}
