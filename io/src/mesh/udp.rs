//! UDP forwards: one socket stands for each port of a peer that this node talks to.
//!
//! The forwarded ports have a socket for ever. Any other port gets one when its first
//! datagram arrives (it is a client's port at the peer) and loses it after some silence.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_core::mesh::Input;
use holdfast_core::types::LinkId;
use tokio::sync::Notify;

use super::Context;
use super::node::count;
use super::status::Protocol;
use super::tcp::BIND_PAUSE;
use crate::clock::Clock;
use crate::net::{DatagramEvent, DatagramSocket, Net, UDP_PAYLOAD_MAX};
use crate::spawn::{Spawn, Task};

/// Sockets of one link for ports that are not forwarded, at one time. One more costs the one
/// that was silent longest: a peer that uses many ports holds up only itself.
const ON_DEMAND_MAX: usize = 128;
/// Silence after which such a socket is closed: what RFC 4787 asks of a NAT mapping.
const IDLE_MAX: Duration = Duration::from_secs(120);
/// Bytes that wait for a socket of a peer's port; the oldest are dropped beyond it.
const QUEUE_LEN_MAX: usize = 256 << 10;
/// Pause after a socket error that is not of one datagram.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// By link and the peer's port.
type Sockets<N> = BTreeMap<(LinkId, u16), Rc<Forward<N>>>;

/// All sockets that stand for ports of peers.
pub(super) struct UdpForwards<N: Net> {
    sockets: RefCell<Sockets<N>>,
    on_demand: Cell<usize>,
}

struct Forward<N: Net> {
    addr: SocketAddr,
    fixed: bool,
    socket: RefCell<Option<Rc<N::Datagram>>>,
    queue: RefCell<Queue>,
    queued: Notify,
    used: Cell<Instant>,
    task: RefCell<Option<Task>>,
}

#[derive(Default)]
struct Queue {
    datagrams: VecDeque<(SocketAddr, Bytes)>,
    len: usize,
}

impl Queue {
    /// Append, dropping the oldest beyond the limit; returns how many were dropped.
    fn push(&mut self, to: SocketAddr, payload: Bytes) -> u64 {
        self.len += payload.len();
        self.datagrams.push_back((to, payload));
        let mut dropped = 0;
        while self.len > QUEUE_LEN_MAX && self.pop().is_some() {
            dropped += 1;
        }
        dropped
    }

    fn pop(&mut self) -> Option<(SocketAddr, Bytes)> {
        let (to, payload) = self.datagrams.pop_front()?;
        self.len -= payload.len();
        Some((to, payload))
    }
}

impl<N: Net> UdpForwards<N> {
    pub(super) fn new() -> Rc<UdpForwards<N>> {
        Rc::new(UdpForwards {
            sockets: RefCell::default(),
            on_demand: Cell::new(0),
        })
    }

    /// Sockets for ports that are not forwarded.
    pub(super) fn on_demand(&self) -> usize {
        self.on_demand.get()
    }

    /// Close all sockets.
    pub(super) fn clear(&self) {
        for forward in std::mem::take(&mut *self.sockets.borrow_mut()).into_values() {
            drop(forward.task.take());
        }
    }

    /// Close all sockets of a link that is gone.
    pub(super) fn close_link(&self, link: LinkId) {
        let sockets = self.sockets.borrow();
        let of_link = sockets.range((link, 0)..=(link, u16::MAX));
        let ports: Vec<u16> = of_link.map(|((_, port), _)| *port).collect();
        drop(sockets);
        ports.into_iter().for_each(|port| self.close(link, port));
    }

    /// Close the socket of a port that is no longer forwarded.
    pub(super) fn close_fixed(&self, link: LinkId, port: u16) {
        let is_fixed = |forward: &Rc<Forward<N>>| forward.fixed;
        if self
            .sockets
            .borrow()
            .get(&(link, port))
            .is_some_and(is_fixed)
        {
            self.close(link, port);
        }
    }

    fn close(&self, link: LinkId, port: u16) {
        let Some(closed) = self.sockets.borrow_mut().remove(&(link, port)) else {
            return;
        };
        drop(closed.task.take());
        if !closed.fixed {
            self.on_demand.set(self.on_demand.get().saturating_sub(1));
        }
    }

    /// Hold a socket for a forwarded port until it is closed.
    pub(super) fn open_fixed<C: Clock, S: Spawn>(
        self: &Rc<Self>,
        cx: &Context<N, C, S>,
        link: LinkId,
        addr: SocketAddr,
    ) {
        // One that a datagram has opened would keep the address.
        self.close(link, addr.port());
        self.open(cx, link, addr, true);
    }

    /// Deliver a datagram that came from a peer's port.
    pub(super) fn deliver<C: Clock, S: Spawn>(
        self: &Rc<Self>,
        cx: &Context<N, C, S>,
        link: LinkId,
        from: SocketAddr,
        to: SocketAddr,
        payload: Bytes,
    ) {
        let key = (link, from.port());
        let known = self.sockets.borrow().get(&key).cloned();
        let counters = &cx.node.counters;
        let forward = known.unwrap_or_else(|| self.open_on_demand(cx, link, from));
        forward.used.set(cx.clock.now().mono);
        count(&counters.udp_to_local, 1);
        let idle = forward.queue.borrow().datagrams.is_empty();
        if let Some(socket) = forward.socket.borrow().as_ref().filter(|_| idle) {
            match socket.try_send_to(&payload, to) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return count(&counters.udp_dropped, 1),
                Ok(()) => return,
            }
        }
        let dropped = forward.queue.borrow_mut().push(to, payload);
        count(&counters.udp_dropped, dropped);
        forward.queued.notify_one();
    }

    fn open_on_demand<C: Clock, S: Spawn>(
        self: &Rc<Self>,
        cx: &Context<N, C, S>,
        link: LinkId,
        addr: SocketAddr,
    ) -> Rc<Forward<N>> {
        self.evict(link);
        self.on_demand.set(self.on_demand.get() + 1);
        self.open(cx, link, addr, false)
    }

    /// Make room for one more socket of a link.
    fn evict(&self, link: LinkId) {
        let mut sockets = self.sockets.borrow_mut();
        let of_link = sockets.range((link, 0)..=(link, u16::MAX));
        let on_demand: Vec<_> = of_link
            .filter(|(_, forward)| !forward.fixed)
            .map(|(key, forward)| (forward.used.get(), *key))
            .collect();
        if on_demand.len() < ON_DEMAND_MAX {
            return;
        }
        if let Some((_, key)) = on_demand.into_iter().min()
            && let Some(evicted) = sockets.remove(&key)
        {
            drop(evicted.task.take());
            self.on_demand.set(self.on_demand.get().saturating_sub(1));
        }
    }

    fn open<C: Clock, S: Spawn>(
        self: &Rc<Self>,
        cx: &Context<N, C, S>,
        link: LinkId,
        addr: SocketAddr,
        fixed: bool,
    ) -> Rc<Forward<N>> {
        let forward = Rc::new(Forward {
            addr,
            fixed,
            socket: RefCell::default(),
            queue: RefCell::default(),
            queued: Notify::new(),
            used: Cell::new(cx.clock.now().mono),
            task: RefCell::default(),
        });
        let key = (link, addr.port());
        self.sockets.borrow_mut().insert(key, forward.clone());
        let (own, forwards, cx_own) = (forward.clone(), self.clone(), cx.clone());
        let task = cx.spawn.spawn("udp forward", async move {
            own.run(&cx_own, link).await;
            forwards.forget(key, &own);
        });
        *forward.task.borrow_mut() = Some(task);
        forward
    }

    fn forget(&self, key: (LinkId, u16), forward: &Rc<Forward<N>>) {
        let mut sockets = self.sockets.borrow_mut();
        if !sockets
            .get(&key)
            .is_some_and(|known| Rc::ptr_eq(known, forward))
        {
            return;
        }
        sockets.remove(&key);
        if !forward.fixed {
            self.on_demand.set(self.on_demand.get().saturating_sub(1));
        }
        if let Some(task) = forward.task.take() {
            // The task itself says that it is over.
            task.detach();
        }
    }
}

impl<N: Net> Forward<N> {
    async fn run<C: Clock, S: Spawn>(&self, cx: &Context<N, C, S>, link: LinkId) {
        let Some(socket) = self.bind(cx).await else {
            return;
        };
        *self.socket.borrow_mut() = Some(socket.clone());
        let mut buf = vec![0; UDP_PAYLOAD_MAX];
        let mut idle = cx.clock.sleep(IDLE_MAX);
        loop {
            tokio::select! {
                // In this order: what waits to be sent is bounded, what arrives is not.
                biased;
                () = self.drain_queue(&socket) => {}
                event = socket.recv(&mut buf) => self.received(cx, link, event, &buf).await,
                () = &mut idle, if !self.fixed => {
                    let until = self.used.get() + IDLE_MAX;
                    if cx.clock.now().mono >= until {
                        return;
                    }
                    idle = cx.clock.sleep_until(until);
                }
            }
        }
    }

    /// A socket for a forwarded port is worth waiting for, any other is not.
    async fn bind<C: Clock, S: Spawn>(&self, cx: &Context<N, C, S>) -> Option<Rc<N::Datagram>> {
        loop {
            match cx.net.bind_datagram(self.addr).await {
                Ok(socket) => {
                    cx.node.remove_clash(self.addr, Protocol::Udp);
                    return Some(Rc::new(socket));
                }
                Err(error) if self.fixed => cx.node.add_clash(self.addr, Protocol::Udp, &error),
                Err(error) => {
                    count(&cx.node.counters.udp_socket_failed, 1);
                    tracing::debug!(addr = %self.addr, %error, "no socket for a peer's port");
                    return None;
                }
            }
            cx.clock.sleep(BIND_PAUSE).await;
        }
    }

    async fn received<C: Clock, S: Spawn>(
        &self,
        cx: &Context<N, C, S>,
        link: LinkId,
        event: io::Result<DatagramEvent>,
        buf: &[u8],
    ) {
        let peer_port = self.addr.port();
        match event {
            Ok(DatagramEvent::Data { len, from }) => {
                self.used.set(cx.clock.now().mono);
                count(&cx.node.counters.udp_from_local, 1);
                let payload = Bytes::copy_from_slice(&buf[..len]);
                cx.node
                    .with(|now, mesh| mesh.udp_send(now, link, peer_port, from, payload));
            }
            Ok(DatagramEvent::Refused { to }) => cx.node.handle(Input::UdpRefused {
                link,
                peer_port,
                to,
            }),
            Err(error) => {
                tracing::debug!(addr = %self.addr, %error, "receiving from local applications");
                cx.clock.sleep(ERROR_PAUSE).await;
            }
        }
    }

    async fn drain_queue(&self, socket: &N::Datagram) {
        loop {
            let Some((to, payload)) = self.next_queued() else {
                self.queued.notified().await;
                continue;
            };
            // What the system refuses for good is lost, as a datagram may be.
            let _ = socket.send_to(&payload, to).await;
            self.queue.borrow_mut().pop();
        }
    }

    /// A look at the oldest: it leaves the queue when it is sent, so that a send that is
    /// interrupted loses nothing and later datagrams cannot overtake it.
    fn next_queued(&self) -> Option<(SocketAddr, Bytes)> {
        self.queue.borrow().datagrams.front().cloned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn a_full_queue_drops_the_oldest_and_keeps_its_count() {
        let to = "127.50.0.1:1".parse().unwrap();
        let mut queue = Queue::default();
        let payload = |n: u8| Bytes::from(vec![n; 60_000]);
        let dropped: u64 = (0..10).map(|n| queue.push(to, payload(n))).sum();
        assert_eq!(dropped, 6);
        let left: Vec<u8> = std::iter::from_fn(|| queue.pop())
            .map(|(_, p)| p[0])
            .collect();
        assert_eq!(left, [6, 7, 8, 9]);
        assert_eq!(queue.len, 0);
    }
}
