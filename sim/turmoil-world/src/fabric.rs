//! The network model as all hosts of a world share it: datagrams go in, and come out at the
//! socket of another host when their time has come.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::entropy::{Entropy, Seed};
use holdfast_net_model::{Delivery, Draw, HostId, Network, Packet, Protocol, Stream, Streams};
use holdfast_plan::{Built, NetworkFault, Topology};

/// Bytes of IPv4 and UDP headers.
const HEADERS_LEN: u32 = 28;
/// Bytes that wait in one socket, with their bookkeeping: what the real node asks for.
const INBOX_LEN_MAX: usize = 4 << 20;
/// Bookkeeping that Linux counts for each datagram beside its bytes.
const DATAGRAM_OVERHEAD: usize = 256;
/// Bytes that a host hands to its interface in one tick; a sender that wants more has to
/// wait for the next. 2 Gbit/s, so that senders meet a full buffer now and then.
pub const SEND_LEN_PER_TICK: usize = 256 << 10;

/// The model, and its randomness.
pub struct Fabric {
    network: Network<Bytes>,
    built: Built,
    draws: Draws,
}

struct Draws {
    seed: Seed,
    streams: BTreeMap<Stream, Drawn>,
}

struct Drawn(Entropy);

impl Draw for Drawn {
    fn next_u64(&mut self) -> u64 {
        self.0.u64()
    }
}

impl Streams for Draws {
    fn of(&mut self, stream: Stream) -> &mut dyn Draw {
        let seed = &self.seed;
        let fork = || Drawn(seed.fork(&stream.to_string()).rng());
        self.streams.entry(stream).or_insert_with(fork)
    }
}

impl Fabric {
    /// The network of a topology.
    ///
    /// # Errors
    /// When the topology contradicts itself.
    pub fn new(topology: &Topology, seed: Seed) -> Result<Fabric, String> {
        let (network, built) = topology.build().map_err(|error| error.to_string())?;
        Ok(Fabric {
            network,
            built,
            draws: Draws {
                seed,
                streams: BTreeMap::new(),
            },
        })
    }

    /// What of the model stands for what.
    pub fn built(&self) -> &Built {
        &self.built
    }

    /// A host sends.
    pub fn send(&mut self, now: Duration, from: HostId, pair: [SocketAddr; 2], payload: Bytes) {
        let [src, dst] = pair;
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let packet = Packet {
            protocol: Protocol::Udp,
            src,
            dst,
            len_bytes: len.saturating_add(HEADERS_LEN),
            payload,
        };
        self.network.send(now, from, packet, &mut self.draws);
    }

    /// What has arrived until `now`.
    pub fn poll(&mut self, now: Duration) -> Vec<Delivery<Bytes>> {
        let mut deliveries = Vec::new();
        self.network.poll(now, &mut self.draws, &mut deliveries);
        deliveries
    }

    /// Do what the fault says.
    ///
    /// # Errors
    /// When the plan gives an address twice.
    pub fn apply(&mut self, now: Duration, fault: &NetworkFault) -> Result<(), String> {
        let applied = self.built.apply(fault, now, &mut self.network);
        applied.map_err(|error| error.to_string())
    }
}

/// The UDP ports of one host.
#[derive(Default)]
pub struct Ports {
    bound: RefCell<BTreeMap<u16, Rc<Inbox>>>,
    sent_in_tick: Cell<usize>,
    writers: RefCell<Vec<Waker>>,
}

impl Ports {
    /// Bind a port; 0 is any.
    pub fn bind(&self, port: u16) -> Option<(u16, Rc<Inbox>)> {
        let mut bound = self.bound.borrow_mut();
        let port = match port {
            0 => (32_768..=u16::MAX).find(|port| !bound.contains_key(port))?,
            port => port,
        };
        if bound.contains_key(&port) {
            return None;
        }
        let inbox = Rc::<Inbox>::default();
        bound.insert(port, inbox.clone());
        Some((port, inbox))
    }

    /// Give a port back.
    pub fn release(&self, port: u16) {
        self.bound.borrow_mut().remove(&port);
    }

    /// A datagram is here.
    pub fn deliver(&self, from: SocketAddr, to: SocketAddr, payload: Bytes) {
        if let Some(inbox) = self.bound.borrow().get(&to.port()) {
            inbox.push((from, to.ip(), payload));
        }
    }

    /// Whether so many bytes may leave in this tick; they count.
    pub fn may_send(&self, len: usize) -> bool {
        let sent = self.sent_in_tick.get();
        let fits = sent == 0 || sent + len <= SEND_LEN_PER_TICK;
        if fits {
            self.sent_in_tick.set(sent + len);
        }
        fits
    }

    /// Ready while there is any room in this tick.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.sent_in_tick.get() == 0 {
            return Poll::Ready(());
        }
        self.writers.borrow_mut().push(cx.waker().clone());
        Poll::Pending
    }

    /// Another tick begins.
    pub fn tick(&self) {
        self.sent_in_tick.set(0);
        for waker in self.writers.take() {
            waker.wake();
        }
    }
}

/// Source, local address and content of a datagram.
pub type Datagram = (SocketAddr, IpAddr, Bytes);

/// What waits in one UDP socket.
#[derive(Default)]
pub struct Inbox {
    datagrams: RefCell<VecDeque<Datagram>>,
    len: Cell<usize>,
    waker: RefCell<Option<Waker>>,
}

impl Inbox {
    fn push(&self, datagram: Datagram) {
        let len = self.len.get() + DATAGRAM_OVERHEAD + datagram.2.len();
        if len > INBOX_LEN_MAX {
            return;
        }
        self.len.set(len);
        self.datagrams.borrow_mut().push_back(datagram);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The next datagram.
    pub fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Datagram> {
        let Some(datagram) = self.datagrams.borrow_mut().pop_front() else {
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let len = self.len.get() - DATAGRAM_OVERHEAD - datagram.2.len();
        self.len.set(len);
        Poll::Ready(datagram)
    }
}
