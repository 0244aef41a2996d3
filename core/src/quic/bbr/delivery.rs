//! How fast the path delivers (draft-ietf-ccwg-bbr, section 4.1): each packet remembers what had
//! been delivered when it was sent, and its acknowledgement tells what was delivered since.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Packets remembered. An end that only acknowledges sends packets which nobody acknowledges.
const SENT_MAX: usize = 8192;

/// What was delivered when a packet was sent. Packets of one instant share it.
#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Instant,
    delivered: u64,
    delivered_at: Instant,
    /// When the packet was sent whose acknowledgement was the last before.
    first_at: Instant,
    app_limited: bool,
}

/// What one acknowledgement tells.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    bytes: u64,
    /// Over how long: of sending or of acknowledging, whichever is longer, so that neither
    /// bunched packets nor bunched acknowledgements make it too fast.
    pub interval: Duration,
    /// From the newest acknowledged packet to its acknowledgement.
    pub round_trip: Duration,
    /// Whether the application had nothing more to send.
    pub app_limited: bool,
    /// Whether it is the first of a new round trip.
    pub is_round: bool,
}

impl Sample {
    /// Bytes per second, over an interval that is not zero.
    pub fn rate(&self) -> f64 {
        self.bytes as f64 / self.interval.as_secs_f64()
    }
}

/// Counts what arrives.
#[derive(Clone, Debug)]
pub struct Delivery {
    sent: VecDeque<Sent>,
    delivered: u64,
    delivered_at: Instant,
    first_at: Instant,
    /// The newest packet of the acknowledgement that is being handled, and when that arrived.
    newest: Option<(Sent, Instant)>,
    /// Nothing is in flight: what comes next starts anew.
    idle: bool,
    /// Until so much was delivered, samples measure the application.
    app_limited_until: u64,
    round_until: u64,
}

impl Delivery {
    pub fn new(now: Instant) -> Delivery {
        Delivery {
            sent: VecDeque::new(),
            delivered: 0,
            delivered_at: now,
            first_at: now,
            newest: None,
            idle: true,
            app_limited_until: 0,
            round_until: 0,
        }
    }

    pub fn on_sent(&mut self, now: Instant) {
        if std::mem::take(&mut self.idle) {
            self.delivered_at = now;
            self.first_at = now;
        }
        if self.sent.back().is_some_and(|last| last.at == now) {
            return;
        }
        if self.sent.len() == SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent {
            at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_at: self.first_at,
            app_limited: self.delivered < self.app_limited_until,
        });
    }

    pub fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        self.delivered_at = now;
        while self.sent.front().is_some_and(|packet| packet.at < sent) {
            self.sent.pop_front();
        }
        // It stays: the rest of its burst may be acknowledged apart.
        if let Some(packet) = self.sent.front().filter(|packet| packet.at == sent) {
            self.newest = Some((*packet, now));
        }
    }

    /// The whole acknowledgement is in. Nothing, if all it told was of older packets.
    pub fn on_end_acks(&mut self, in_flight: u64, app_limited: bool) -> Option<Sample> {
        self.idle = in_flight == 0;
        if app_limited {
            self.app_limited_until = self.delivered + in_flight.max(1);
        }
        let (packet, now) = self.newest.take()?;
        self.first_at = packet.at;
        let sending = packet.at.saturating_duration_since(packet.first_at);
        let acking = now.saturating_duration_since(packet.delivered_at);
        let is_round = packet.delivered >= self.round_until;
        if is_round {
            self.round_until = self.delivered;
        }
        Some(Sample {
            bytes: self.delivered - packet.delivered,
            interval: sending.max(acking),
            round_trip: now.saturating_duration_since(packet.at),
            app_limited: packet.app_limited,
            is_round,
        })
    }
}

/// The highest value of this period and the one before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Best {
    now: Option<f64>,
    before: Option<f64>,
}

impl Best {
    pub fn add(&mut self, value: f64) {
        self.now = Some(self.now.map_or(value, |best| best.max(value)));
    }

    /// A new period begins.
    pub fn turn(&mut self) {
        self.before = self.now.take().or(self.before);
    }

    pub fn get(&self) -> Option<f64> {
        match (self.now, self.before) {
            (Some(now), Some(before)) => Some(now.max(before)),
            (now, before) => now.or(before),
        }
    }
}
