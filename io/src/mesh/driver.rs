//! The hot loop: one future that owns the node's UDP socket and does what the machine says.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use holdfast_core::mesh::{Event, Output, Received, Transmit};

use super::Context;
use super::node::count;
use super::tcp::spawn_incoming;
use super::turn::TurnConns;
use super::udp::UdpForwards;
use crate::clock::{Clock, Sleep};
use crate::net::{BatchSocket, Net, UDP_PAYLOAD_MAX};
use crate::signal::Signaling;
use crate::spawn::Spawn;

/// Rounds before the pumps get their turn: what one round moves fits the caches.
const ROUNDS_MAX: usize = 4;
/// Batches sent per round, at most 64 KiB each.
const TRANSMITS_PER_ROUND: usize = 16;
/// Time of nothing but errors after which the socket is given up. One comes of an interface
/// that goes away; only a socket that is gone keeps failing.
const SOCKET_ERRORS_MAX: Duration = Duration::from_secs(5);
/// Pause after an error of the socket: it must not become a busy loop.
const SOCKET_ERROR_PAUSE: Duration = Duration::from_millis(20);
/// A ChannelData header (RFC 8656 section 12.4), which a relayed segment carries beside its
/// payload.
const CHANNEL_HEADER_LEN: usize = 4;

/// The node's UDP socket and everything that outputs go to.
pub(super) struct Driver<N: Net, C: Clock, S> {
    pub(super) cx: Context<N, C, S>,
    pub(super) signaling: Rc<Signaling>,
    pub(super) udp: Rc<UdpForwards<N>>,
    pub(super) turn: Rc<TurnConns>,
    socket: N::Batch,
    sleep: C::Sleep,
    received: Vec<(Received, BytesMut)>,
    outgoing: Vec<u8>,
    /// What the socket had no room for: nothing more is polled until it has gone.
    held: Option<Transmit>,
    /// Segments of the largest size that one batch may carry.
    segments_max: usize,
    /// Since when there has been nothing but errors.
    failing_since: Option<Instant>,
    /// Runs after an error of the socket.
    pause: Option<C::Sleep>,
}

impl<N: Net, C: Clock, S: Spawn> Driver<N, C, S> {
    pub(super) fn new(
        cx: Context<N, C, S>,
        signaling: Rc<Signaling>,
        socket: N::Batch,
        mtu_max: u16,
    ) -> Driver<N, C, S> {
        let segment_len_max = usize::from(mtu_max) + CHANNEL_HEADER_LEN;
        let now = cx.clock.now().mono;
        Driver {
            sleep: cx.clock.sleep_until(now),
            cx,
            signaling,
            udp: UdpForwards::new(),
            turn: Rc::default(),
            socket,
            received: Vec::new(),
            outgoing: Vec::with_capacity(UDP_PAYLOAD_MAX),
            held: None,
            segments_max: (UDP_PAYLOAD_MAX / segment_len_max).max(1),
            failing_since: None,
            pause: None,
        }
    }

    /// Whether the machine has nothing more to say to its peers, and all of it has left.
    pub(super) fn is_drained(&self) -> bool {
        self.held.is_none()
            && self.cx.node.view(|_, mesh| mesh.is_drained())
            && self.signaling.is_flushed()
    }

    /// A bounded amount of work. Ready only when the socket is gone.
    pub(super) fn poll_turn(&mut self, task: &mut TaskContext<'_>) -> Poll<io::Error> {
        self.cx.node.set_driver(task.waker());
        count(&self.cx.node.counters.turns, 1);
        for _ in 0..ROUNDS_MAX {
            let received = match self.poll_receive(task) {
                Ok(received) => received,
                Err(error) => return Poll::Ready(error),
            };
            let fired = self.poll_deadline(task);
            self.act();
            if !(self.transmit(task) | received | fired) {
                // What the transmits caused.
                self.act();
                // The deadline may be another one now.
                if !self.poll_deadline(task) {
                    return Poll::Pending;
                }
            }
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether anything arrived.
    fn poll_receive(&mut self, task: &mut TaskContext<'_>) -> io::Result<bool> {
        if let Some(pause) = &mut self.pause {
            if Pin::new(pause).poll(task).is_pending() {
                return Ok(false);
            }
            self.pause = None;
        }
        let polled = self.socket.poll_recv(task, &mut self.received);
        if let Poll::Ready(Err(error)) = polled {
            let now = self.cx.clock.now().mono;
            let since = *self.failing_since.get_or_insert(now);
            if now >= since + SOCKET_ERRORS_MAX {
                return Err(error);
            }
            tracing::debug!(%error, "receiving on the node's socket failed");
            self.pause = Some(self.cx.clock.sleep(SOCKET_ERROR_PAUSE));
            // Another round: the pause has to be polled to wake this task.
            return Ok(true);
        }
        self.failing_since = None;
        if polled.is_pending() {
            return Ok(false);
        }
        let counters = &self.cx.node.counters;
        count(&counters.rx_datagrams, self.received.len() as u64);
        let bytes: usize = self.received.iter().map(|(_, data)| data.len()).sum();
        count(&counters.rx_bytes, bytes as u64);
        let received = &mut self.received;
        self.cx.node.drive(|now, mesh| {
            for (meta, data) in received.drain(..) {
                mesh.handle_datagram(now, meta, data);
            }
        });
        Ok(true)
    }

    /// Whether a deadline had passed. Else the task is woken at the next one.
    fn poll_deadline(&mut self, task: &mut TaskContext<'_>) -> bool {
        let Some((at, _why)) = self.cx.node.view(|_, mesh| mesh.deadline()) else {
            return false;
        };
        if at > self.cx.clock.now().mono {
            self.sleep.reset(at);
            if Pin::new(&mut self.sleep).poll(task).is_pending() {
                return false;
            }
        }
        self.cx.node.drive(|now, mesh| {
            // A timer may fire a moment early: the machine has to see its deadline reached.
            let late = at.saturating_duration_since(now.mono);
            mesh.handle_deadline(now.plus(late));
        });
        true
    }

    /// Do what the machine says.
    fn act(&mut self) {
        while let Some(output) = self.cx.node.drive(|_, mesh| mesh.poll_output()) {
            self.act_on(output);
        }
    }

    fn act_on(&mut self, output: Output) {
        let node = &self.cx.node;
        match output {
            Output::Signal { to, envelope } => self.signaling.post(to, envelope),
            Output::TurnTcp { conn, action } => self.turn.act(&self.cx, conn, action),
            Output::Incoming { stream, from, to } => spawn_incoming(&self.cx, stream, from, to),
            Output::Readable(id) => {
                if let Some(slot) = node.stream(id) {
                    slot.unreadable.set(false);
                    slot.wake();
                }
            }
            Output::Writable(id) => {
                if let Some(slot) = node.stream(id) {
                    slot.unwritable.set(false);
                    slot.wake();
                }
            }
            Output::Reset { stream, reason } => {
                if let Some(slot) = node.stream(stream) {
                    slot.reset.set(Some(reason));
                    slot.wake();
                }
            }
            Output::Udp {
                link,
                peer_port,
                to,
                payload,
            } => {
                if let Some(vip) = self.cx.vip_of(link) {
                    let from = (vip, peer_port).into();
                    self.udp.deliver(&self.cx, link, from, to, payload);
                }
            }
            Output::NetworkChanged => self.signaling.network_changed(),
            Output::Event(event) => log(&event),
        }
    }

    /// Whether anything left.
    fn transmit(&mut self, task: &mut TaskContext<'_>) -> bool {
        for sent in 0..TRANSMITS_PER_ROUND {
            if self.held.is_none() {
                self.held = self.next_transmit();
            }
            let Some(transmit) = self.held else {
                return sent > 0;
            };
            if !self.send(task, &transmit) {
                return sent > 0;
            }
            self.held = None;
        }
        true
    }

    fn next_transmit(&mut self) -> Option<Transmit> {
        let segments_max = self.socket.max_gso_segments().min(self.segments_max);
        let outgoing = &mut self.outgoing;
        outgoing.clear();
        self.cx
            .node
            .drive(|now, mesh| mesh.poll_transmit(now, outgoing, segments_max))
    }

    /// Whether the transmit is done with: gone, or refused for good.
    fn send(&mut self, task: &mut TaskContext<'_>, transmit: &Transmit) -> bool {
        let counters = &self.cx.node.counters;
        let bytes = &self.outgoing[..transmit.len.min(self.outgoing.len())];
        loop {
            match self.socket.try_send(transmit, bytes) {
                Ok(()) => {
                    count(&counters.tx_batches, 1);
                    count(&counters.tx_bytes, bytes.len() as u64);
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.socket.poll_writable(task).is_pending() {
                        count(&counters.tx_blocked, 1);
                        return false;
                    }
                }
                Err(error) => {
                    // Routes come and go, and probes may be too large: as lost on the way.
                    count(&counters.tx_errors, 1);
                    tracing::trace!(to = %transmit.to, %error, "a batch was refused");
                    return true;
                }
            }
        }
    }
}

fn log(event: &Event) {
    match event {
        Event::LinkState {
            peer,
            from,
            to,
            why,
        } => {
            let (from, to) = (from.as_str(), to.as_str());
            tracing::info!(%peer, from, to, why, "link {to}");
        }
        Event::PathSelected {
            peer,
            local,
            remote,
            class,
            why,
        } => tracing::info!(%peer, local, remote, class, why, "path selected"),
        Event::PeerRestarted { peer, incarnation } => {
            tracing::info!(%peer, incarnation, "the peer has restarted");
        }
        Event::Refused { counter, detail } => {
            tracing::warn!(counter, detail, "something from outside was refused");
        }
        Event::Server { server, what } => tracing::info!(%server, what, "server"),
    }
}
