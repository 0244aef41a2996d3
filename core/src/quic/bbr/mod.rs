//! Congestion control by a model of the path, in the manner of BBR (draft-ietf-ccwg-bbr): the
//! most that was delivered per second, and the least that a round trip took.
//!
//! `quinn-proto` spaces packets by window and round trip, so the window is all that there is to
//! set. It holds what the path holds, and some milliseconds of queue so that late acknowledgements
//! do not leave the path idle:
//!
//! ```text
//! window = gain × rate × min_rtt ÷ (1 − loss) + headroom
//! ```
//!
//! `Startup` doubles the window until it stops to help or a queue builds. Then `Cruise` (gain 1),
//! now and then `Probe` (gain 1.25, whether there is more), and after each of them `Drain` (gain
//! 0.75, no headroom), which empties the queue: a round trip seen there is the path's own, and
//! **what is lost there is lost to noise and not to a full queue**. Only that loss is made up for.
//!
//! The controller of `quinn-proto` takes its rate from single gaps between acknowledgements and
//! keeps the highest for ever; on a slow line with a deep queue it fills the queue, and everybody
//! behind it waits (`docs/decisions.md`).

mod delivery;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};

use delivery::{Best, Delivery, Sample};

/// Packets in flight before anything was learned of the path.
const INITIAL_PACKETS: u64 = 32;
/// Packets that may always be in flight.
const MIN_PACKETS: u64 = 4;
/// Window by bytes on the path: while it doubles, at most,
const STARTUP_GAIN: f64 = 2.89;
/// while nothing but the path is wanted,
const CRUISE_GAIN: f64 = 1.0;
/// while more is tried,
const PROBE_GAIN: f64 = 1.25;
/// and while the queue is emptied.
const DRAIN_GAIN: f64 = 0.75;
/// A queue of this long is kept, so that late acknowledgements leave nothing idle,
const HEADROOM: Duration = Duration::from_millis(10);
/// as long as it is no more bytes than this.
const HEADROOM_MAX: f64 = 256.0 * 1024.0;
/// How long the rate is taken for granted, in round trips,
const CRUISE_ROUNDS: u32 = 6;
/// and at least: a path of microseconds would be drained a thousand times in a second.
const CRUISE_MIN: Duration = Duration::from_millis(250);
/// In `Startup`, round trips without [`GROWTH`] that tell that the path is full.
const FULL_ROUNDS: u32 = 3;
/// Growth of the rate that tells of more to come.
const GROWTH: f64 = 1.25;
/// A window of which less is filled tells nothing of the path.
const FILLED: f64 = 0.7;
/// Growth in a `Probe` that tells that the path has changed for the better.
const PROBE_GROWTH: f64 = 1.15;
/// A probe's packets are acknowledged one round trip after they were sent.
const PROBE_ROUNDS: u32 = 2;
/// So many times of `Drain` in a row with a longer round trip tell that the path has become longer:
/// on one that has become slower, the rate is forgotten before.
const SLOW_DRAINS: u32 = 4;
/// With fewer packets in flight, a late acknowledgement tells of no queue.
const QUEUE_PACKETS: u64 = 8;
/// More loss than this is not noise, and is not made up for.
const LOSS_MAX: f64 = 0.4;
/// The loss is that of so many times of `Drain`, the newest counting most.
const LOSS_MEMORY: f64 = 8.0;
/// Loss beyond that of noise that tells of a queue too short for the headroom.
const OVERFLOW: f64 = 0.05;
/// How much further apart than asked for the packets of a machine may be that wakes up late.
const HASTE_MAX: f64 = 16.0;

/// Makes controllers.
#[derive(Debug, Default)]
pub struct BbrFactory;

impl ControllerFactory for BbrFactory {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(Bbr::new(now, mtu.into()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Startup,
    Drain,
    Cruise,
    /// With the rate at its beginning.
    Probe(f64),
}

/// What became of the packets that were sent in a span of time.
#[derive(Clone, Copy, Debug)]
struct Losses {
    from: Instant,
    until: Option<Instant>,
    sent: u64,
    lost: u64,
}

impl Losses {
    fn since(from: Instant) -> Losses {
        Losses {
            from,
            until: None,
            sent: 0,
            lost: 0,
        }
    }

    fn on_sent(&mut self, bytes: u64) {
        if self.until.is_none() {
            self.sent += bytes;
        }
    }

    /// Of packets that are lost together only the newest is told, and how many bytes they were: more
    /// than were sent are not of this span.
    fn on_lost(&mut self, sent: Instant, bytes: u64) {
        let within = sent >= self.from && self.until.is_none_or(|until| sent < until);
        if within && self.lost + bytes <= self.sent {
            self.lost += bytes;
        }
    }

    fn share(&self) -> f64 {
        self.lost as f64 / self.sent.max(1) as f64
    }
}

#[derive(Clone, Debug)]
struct Bbr {
    /// What was sent before is of another path.
    born: Instant,
    mtu: u64,
    mode: Mode,
    /// Since when, and for how many round trips.
    since: Instant,
    rounds: u32,
    window: u64,
    delivery: Delivery,
    /// Bytes per second.
    rate: Best,
    /// Whether the rate was the path's in this cycle, and not the application's.
    rate_is_fresh: bool,
    /// The least that a round trip took, seconds, and in how many times of `Drain` it took longer.
    min_rtt: Option<f64>,
    slow_drains: u32,
    /// The least of this round.
    round_rtt: Option<f64>,
    acked: u64,
    /// For `Startup`: the rate that counts as growth, and round trips without.
    full_rate: f64,
    full_rounds: u32,
    /// Share of bytes lost to noise, over so many times of `Drain`.
    loss: f64,
    drains: f64,
    /// While the queue was empty, and while it was not.
    quiet: Losses,
    busy: Losses,
    /// Share of the headroom that the queue has room for, and whether the queue marked a packet
    /// (RFC 9000 section 13.4): it has not.
    room: f64,
    marked: bool,
    /// A queue stood through all of the last round.
    queued: bool,
    in_flight: u64,
    /// The most in flight in this round.
    peak: u64,
    /// `quinn-proto` loses time when it is woken late; the window makes up for it.
    haste: f64,
}

impl Bbr {
    fn new(now: Instant, mtu: u64) -> Bbr {
        Bbr {
            born: now,
            mtu,
            mode: Mode::Startup,
            since: now,
            rounds: 0,
            window: INITIAL_PACKETS * mtu,
            delivery: Delivery::new(now),
            rate: Best::default(),
            rate_is_fresh: false,
            min_rtt: None,
            slow_drains: 0,
            round_rtt: None,
            acked: 0,
            full_rate: 0.0,
            full_rounds: 0,
            loss: 0.0,
            drains: 0.0,
            quiet: Losses::since(now),
            busy: Losses::since(now),
            room: 1.0,
            marked: false,
            queued: false,
            in_flight: 0,
            peak: 0,
            haste: 1.0,
        }
    }

    fn learn(&mut self, sample: &Sample) {
        let rtt = sample.round_trip.as_secs_f64();
        for least in [&mut self.round_rtt, &mut self.min_rtt] {
            *least = Some(least.map_or(rtt, |least| least.min(rtt)));
        }
        if sample.interval.is_zero() {
            return;
        }
        let rate = sample.rate();
        // Who keeps a queue filled measures the path, whatever else holds it back.
        let of_path = !sample.app_limited || self.queued;
        self.rate_is_fresh |= of_path;
        if of_path || self.rate.get().is_some_and(|best| rate > best) {
            self.rate.add(rate);
        }
    }

    fn enter(&mut self, now: Instant, mode: Mode) {
        match (self.mode, mode) {
            (_, Mode::Drain) => {
                self.busy.until = Some(now);
                self.quiet = Losses::since(now);
            }
            (Mode::Drain, _) => {
                self.quiet.until = Some(now);
                self.busy = Losses::since(now);
            }
            _ => {}
        }
        self.mode = mode;
        self.since = now;
        self.rounds = 0;
    }

    /// A round trip is over.
    fn round(&mut self, now: Instant, app_limited: bool) {
        self.rounds += 1;
        let seen = self.round_rtt.take().zip(self.min_rtt);
        let slow = seen.filter(|(rtt, least)| *rtt > least * PROBE_GAIN + HEADROOM.as_secs_f64());
        // Few packets are no queue: an acknowledgement may be late.
        let many = self.peak >= QUEUE_PACKETS * self.mtu;
        self.queued = slow.is_some() && many && self.rate.get().is_some();
        // Flow control may hold the sender back as well, which counts as the application.
        let app_limited = app_limited && !self.queued;
        let filled = self.hurry(app_limited);
        match self.mode {
            Mode::Startup => {
                let tried = !app_limited && filled > FILLED;
                if self.queued || (tried && !self.grows()) {
                    self.enter(now, Mode::Drain);
                }
            }
            Mode::Drain => {
                self.slow_drains = slow.map_or(0, |_| self.slow_drains + 1);
                if self.slow_drains == SLOW_DRAINS {
                    self.slow_drains = 0;
                    self.min_rtt = slow.map(|(rtt, _)| rtt);
                }
                self.enter(now, Mode::Cruise);
            }
            Mode::Cruise if !app_limited => {
                let long = now.saturating_duration_since(self.since) >= CRUISE_MIN;
                if long && self.rounds >= CRUISE_ROUNDS {
                    self.begin_cycle(now);
                }
            }
            Mode::Probe(before) if self.rounds >= PROBE_ROUNDS => {
                let rate = self.rate.get();
                if rate.is_some_and(|rate| rate > before * PROBE_GROWTH) {
                    self.full_rate = before;
                    self.full_rounds = 0;
                    self.enter(now, Mode::Startup);
                } else {
                    self.enter(now, Mode::Drain);
                }
            }
            Mode::Cruise | Mode::Probe(_) => {}
        }
    }

    /// Whether the path still gives more.
    fn grows(&mut self) -> bool {
        let rate = self.rate.get().unwrap_or(0.0);
        if rate >= self.full_rate * GROWTH {
            self.full_rate = rate;
            self.full_rounds = 0;
        } else {
            self.full_rounds += 1;
        }
        self.full_rounds < FULL_ROUNDS
    }

    /// The window is there to be filled: when it is not, packets leave too late. How much of it was.
    fn hurry(&mut self, app_limited: bool) -> f64 {
        let filled = self.peak as f64 * self.haste / self.window as f64;
        self.peak = self.in_flight;
        if matches!(self.mode, Mode::Startup | Mode::Cruise) {
            let wanted = if app_limited { 0.8 } else { 1.0 / filled };
            let step = wanted.clamp(0.25, 1.25);
            self.haste = (self.haste * step).clamp(1.0, HASTE_MAX);
        }
        filled
    }

    fn begin_cycle(&mut self, now: Instant) {
        let noise = self.quiet.share();
        if self.quiet.sent >= MIN_PACKETS * self.mtu && noise <= LOSS_MAX {
            self.drains = (self.drains + 1.0).min(LOSS_MEMORY);
            self.loss += (noise - self.loss) / self.drains;
        }
        let overflow = self.busy.share() - self.loss;
        self.room = if std::mem::take(&mut self.marked) || overflow > OVERFLOW {
            self.room / 2.0
        } else {
            (self.room + 0.1).min(1.0)
        };
        if std::mem::take(&mut self.rate_is_fresh) {
            self.rate.turn();
        }
        let rate = self.rate.get().unwrap_or(0.0);
        self.enter(now, Mode::Probe(rate));
    }

    fn set_window(&mut self, app_limited: bool) {
        let acked = std::mem::take(&mut self.acked);
        let Some((rate, rtt)) = self.rate.get().zip(self.min_rtt) else {
            self.window += if app_limited { 0 } else { acked };
            return;
        };
        let (gain, headroom) = match self.mode {
            Mode::Startup => (STARTUP_GAIN, HEADROOM),
            Mode::Drain => (DRAIN_GAIN, Duration::ZERO),
            Mode::Cruise => (CRUISE_GAIN, HEADROOM),
            Mode::Probe(_) => (PROBE_GAIN, HEADROOM),
        };
        let path = gain * rate * rtt / (1.0 - self.loss);
        let queue = (rate * headroom.as_secs_f64() * self.room).min(HEADROOM_MAX);
        let window = ((path + queue) * self.haste) as u64;
        self.window = match self.mode {
            Mode::Startup if app_limited => self.window,
            Mode::Startup => (self.window + acked).min(window.max(self.window)),
            _ => window.max(MIN_PACKETS * self.mtu),
        };
    }
}

impl Controller for Bbr {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        self.delivery.on_sent(now);
        self.quiet.on_sent(bytes);
        self.busy.on_sent(bytes);
        self.in_flight += bytes;
        self.peak = self.peak.max(self.in_flight);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        _app_limited: bool,
        _rtt: &RttEstimator,
    ) {
        if sent >= self.born {
            self.acked += bytes;
            self.delivery.on_ack(now, sent, bytes);
        }
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        self.in_flight = in_flight;
        if let Some(sample) = self.delivery.on_end_acks(in_flight, app_limited) {
            self.learn(&sample);
            if sample.is_round {
                self.round(now, app_limited);
            }
        }
        self.set_window(app_limited);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        if sent < self.born {
            return;
        }
        self.marked |= lost_bytes == 0;
        self.quiet.on_lost(sent, lost_bytes);
        self.busy.on_lost(sent, lost_bytes);
        if is_persistent_congestion {
            // RFC 9002 section 7.6.2: what was known of the path is void.
            *self = Bbr::new(now, self.mtu);
            self.window = MIN_PACKETS * self.mtu;
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = u64::from(new_mtu);
        self.window = self.window.max(MIN_PACKETS * self.mtu);
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window;
        metrics.pacing_rate = self.rate.get().map(|rate| (rate * 8.0) as u64);
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL_PACKETS * self.mtu
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
