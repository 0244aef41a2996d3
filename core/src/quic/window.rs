//! A congestion window that never holds back an acknowledgement for long.
//!
//! Acknowledgements are not limited by congestion (RFC 9002 section 7), but `quinn-proto` puts
//! them into the next packet of data, and that one waits for the window. Two ends that send to
//! each other with full windows then wait for each other's acknowledgements, until a loss timer
//! runs out that may have backed off for seconds. It happens when a path dies with a window full
//! of packets, which QUIC goes on counting until they are declared lost, and when losses shrink
//! the window below what is in flight. So the window has room
//!
//! * for what was in flight on a path that died, until an acknowledgement on the new one,
//! * for one more packet when one arrived, at most once in the time that an acknowledgement may
//!   take (RFC 9000 section 13.2.1): enough for both ends to tell each other what is lost, and
//!   next to nothing for a bottleneck.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};

/// What the window has room for beyond its size. Shared by a connection and its controller.
#[derive(Clone, Debug, Default)]
pub struct Room(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    lost: AtomicU64,
    in_flight: AtomicU64,
    ack_due: AtomicBool,
}

impl Room {
    /// What is in flight is on a path that is used no more; `max` bounds what that may be.
    pub fn path_left(&self, max: u64) {
        let in_flight = self.0.in_flight.swap(0, Ordering::Relaxed);
        self.set_lost(self.lost().saturating_add(in_flight).min(max));
    }

    fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    fn set_lost(&self, bytes: u64) {
        self.0.lost.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that were sent on the path in use, and are neither acknowledged nor lost: with those of
    /// a path that is used no more, what `quinn-proto` counts, or more. Were it less by a packet,
    /// there would be no room for an acknowledgement.
    pub fn in_flight(&self) -> u64 {
        self.0.in_flight.load(Ordering::Relaxed)
    }

    /// So many bytes were sent, and with them what was due.
    pub fn sent(&self, bytes: u64) {
        self.set_in_flight(self.in_flight().saturating_add(bytes));
        self.0.ack_due.store(false, Ordering::Relaxed);
    }

    fn set_in_flight(&self, bytes: u64) {
        self.0.in_flight.store(bytes, Ordering::Relaxed);
    }

    /// A packet arrived some time ago, and may want an acknowledgement.
    pub fn ack_is_due(&self) {
        self.0.ack_due.store(true, Ordering::Relaxed);
    }
}

/// Makes controllers of another kind, with a window that has [`Room`].
pub struct Roomy {
    /// The other kind.
    pub inner: Arc<dyn ControllerFactory + Send + Sync>,
    /// The room.
    pub room: Room,
}

impl ControllerFactory for Roomy {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Widened {
            inner: self.inner.clone().build(now, current_mtu),
            room: self.room.clone(),
            first: None,
            mtu: current_mtu,
        })
    }
}

struct Widened {
    inner: Box<dyn Controller>,
    room: Room,
    /// The first packet on this path.
    first: Option<u64>,
    mtu: u16,
}

impl Controller for Widened {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.first.get_or_insert(last_packet_number);
        self.room.sent(bytes);
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        // What is left of the path that died is none of the controller's.
        let ours = if largest_packet_num_acked >= self.first && self.first.is_some() {
            // It was sent before a packet that arrived: it is lost as soon as this is over.
            let ours = in_flight.saturating_sub(self.room.lost());
            self.room.set_lost(0);
            self.room.set_in_flight(in_flight);
            ours
        } else {
            // Some of it arrived after all, which tells nothing of what is behind it.
            let ours = self.room.in_flight();
            self.room.set_lost(in_flight.saturating_sub(ours));
            ours
        };
        self.inner
            .on_end_acks(now, ours, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        // The older ones first.
        let lost = self.room.lost();
        self.room.set_lost(lost.saturating_sub(lost_bytes));
        let ours = lost_bytes.saturating_sub(lost);
        let in_flight = self.room.in_flight().saturating_sub(ours);
        self.room.set_in_flight(in_flight);
        self.inner
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        let lost = self.room.lost();
        let window = self.inner.window().saturating_add(lost);
        if !self.room.0.ack_due.load(Ordering::Relaxed) {
            return window;
        }
        // Both bounds of what `quinn-proto` compares are exclusive.
        let packets = 2 * u64::from(self.mtu);
        let one_more = self.room.in_flight().saturating_add(lost + packets);
        window.max(one_more)
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Widened {
            inner: self.inner.clone_box(),
            room: self.room.clone(),
            first: self.first,
            mtu: self.mtu,
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
