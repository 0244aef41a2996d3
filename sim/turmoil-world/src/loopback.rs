//! The loopback interface of one host, in memory: turmoil knows one address for each host,
//! and Holdfast serves local programs on many.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use holdfast_io::net::DatagramEvent;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that one direction of a connection holds: in the order of Linux's default buffers.
const PIPE_LEN_MAX: usize = 256 << 10;
/// Connections that wait to be accepted.
const BACKLOG_LEN_MAX: usize = 1024;
/// Bytes of datagrams that wait in a socket: Linux's default.
const DATAGRAMS_LEN_MAX: usize = 208 << 10;
/// Bookkeeping that Linux counts for each datagram beside its bytes.
const DATAGRAM_OVERHEAD: usize = 256;
/// Where the ports of clients begin.
const EPHEMERAL_FIRST: u16 = 32_768;

/// Who listens where.
#[derive(Default)]
pub struct Loopback {
    listeners: RefCell<BTreeMap<SocketAddr, Rc<Backlog>>>,
    datagrams: RefCell<BTreeMap<SocketAddr, Rc<Inbox>>>,
    ports_used: Cell<u16>,
    /// Whether sockets that are dropped now are those of a killed process.
    killing: Rc<Cell<bool>>,
}

fn in_use(addr: SocketAddr) -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, format!("{addr} is taken"))
}

impl Loopback {
    /// While `kill` runs, every stream that it drops resets the other end. A kernel does so
    /// when something was unread, and else closes as if the process had meant it: that a
    /// program cannot tell the two apart is not what the worlds are about.
    pub fn killed<T>(&self, kill: impl FnOnce() -> T) -> T {
        self.killing.set(true);
        let result = kill();
        self.killing.set(false);
        result
    }

    fn client_port(&self) -> u16 {
        let n = self.ports_used.get();
        self.ports_used.set((n + 1) % (u16::MAX - EPHEMERAL_FIRST));
        EPHEMERAL_FIRST + n
    }

    /// Listen for connections.
    pub fn listen(self: &Rc<Self>, addr: SocketAddr) -> io::Result<LoopListener> {
        let mut listeners = self.listeners.borrow_mut();
        if listeners.contains_key(&addr) {
            return Err(in_use(addr));
        }
        let backlog = Rc::<Backlog>::default();
        listeners.insert(addr, backlog.clone());
        Ok(LoopListener {
            addr,
            backlog,
            loopback: self.clone(),
        })
    }

    /// Connect to a listener of this host.
    pub fn connect(&self, source: Option<IpAddr>, to: SocketAddr) -> io::Result<LoopStream> {
        let backlog = self.listeners.borrow().get(&to).cloned();
        let backlog = backlog.ok_or(io::ErrorKind::ConnectionRefused)?;
        if backlog.waiting.borrow().len() >= BACKLOG_LEN_MAX {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let source = source.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let from = SocketAddr::new(source, self.client_port());
        let (up, down) = (Rc::<Pipe>::default(), Rc::<Pipe>::default());
        let end = |local, peer, rx: &Rc<Pipe>, tx: &Rc<Pipe>| LoopStream {
            local,
            peer,
            rx: rx.clone(),
            tx: tx.clone(),
            reset: Cell::new(false),
            killing: self.killing.clone(),
        };
        let server = end(to, from, &up, &down);
        backlog.waiting.borrow_mut().push_back(server);
        wake(&backlog.waker);
        Ok(end(from, to, &down, &up))
    }

    /// Bind a UDP socket; port 0 is any.
    pub fn bind(self: &Rc<Self>, mut addr: SocketAddr) -> io::Result<LoopDatagram> {
        if addr.port() == 0 {
            addr.set_port(self.client_port());
        }
        let mut datagrams = self.datagrams.borrow_mut();
        if datagrams.contains_key(&addr) {
            return Err(in_use(addr));
        }
        let inbox = Rc::<Inbox>::default();
        datagrams.insert(addr, inbox.clone());
        Ok(LoopDatagram {
            addr,
            inbox,
            loopback: self.clone(),
        })
    }
}

type Waiter = RefCell<Option<Waker>>;

fn wake(waiter: &Waiter) {
    if let Some(waker) = waiter.take() {
        waker.wake();
    }
}

fn wait(waiter: &Waiter, cx: &Context<'_>) {
    *waiter.borrow_mut() = Some(cx.waker().clone());
}

#[derive(Default)]
struct Backlog {
    waiting: RefCell<VecDeque<LoopStream>>,
    waker: Waiter,
}

/// A listening socket. One task accepts.
pub struct LoopListener {
    addr: SocketAddr,
    backlog: Rc<Backlog>,
    loopback: Rc<Loopback>,
}

impl LoopListener {
    /// Where it is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next connection and where it came from.
    pub async fn accept(&self) -> (LoopStream, SocketAddr) {
        poll_fn(|cx| match self.backlog.waiting.borrow_mut().pop_front() {
            Some(stream) => {
                let from = stream.peer;
                Poll::Ready((stream, from))
            }
            None => {
                wait(&self.backlog.waker, cx);
                Poll::Pending
            }
        })
        .await
    }
}

impl Drop for LoopListener {
    fn drop(&mut self) {
        self.loopback.listeners.borrow_mut().remove(&self.addr);
        for stream in self.backlog.waiting.take() {
            stream.reset_on_drop();
        }
    }
}

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    bytes: RefCell<VecDeque<u8>>,
    /// Nothing more will be written.
    finished: Cell<bool>,
    /// Nobody will read.
    deaf: Cell<bool>,
    reset: Cell<bool>,
    reader: Waiter,
    writer: Waiter,
}

impl Pipe {
    fn break_off(&self) {
        self.reset.set(true);
        self.bytes.take();
        self.wake_both();
    }

    fn wake_both(&self) {
        wake(&self.reader);
        wake(&self.writer);
    }
}

/// One end of a connection.
pub struct LoopStream {
    local: SocketAddr,
    peer: SocketAddr,
    rx: Rc<Pipe>,
    tx: Rc<Pipe>,
    reset: Cell<bool>,
    killing: Rc<Cell<bool>>,
}

impl LoopStream {
    /// This end.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The other end.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// The coming drop is a reset.
    pub fn reset_on_drop(&self) {
        self.reset.set(true);
    }
}

impl Drop for LoopStream {
    fn drop(&mut self) {
        // Linux resets when something was left unread.
        let unread = !self.rx.bytes.borrow().is_empty();
        if self.reset.get() || self.killing.get() || unread {
            self.rx.break_off();
            self.tx.break_off();
            return;
        }
        self.tx.finished.set(true);
        self.rx.deaf.set(true);
        self.rx.wake_both();
        self.tx.wake_both();
    }
}

impl AsyncRead for LoopStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let pipe = &self.rx;
        if pipe.reset.get() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut bytes = pipe.bytes.borrow_mut();
        if bytes.is_empty() && !pipe.finished.get() {
            wait(&pipe.reader, cx);
            return Poll::Pending;
        }
        let (first, second) = bytes.as_slices();
        let mut taken = 0;
        for part in [first, second] {
            let len = part.len().min(buf.remaining());
            buf.put_slice(&part[..len]);
            taken += len;
        }
        bytes.drain(..taken);
        wake(&pipe.writer);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LoopStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let pipe = &self.tx;
        if pipe.reset.get() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if pipe.finished.get() || pipe.deaf.get() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut bytes = pipe.bytes.borrow_mut();
        let len = buf.len().min(PIPE_LEN_MAX - bytes.len());
        if len == 0 && !buf.is_empty() {
            wait(&pipe.writer, cx);
            return Poll::Pending;
        }
        bytes.extend(&buf[..len]);
        wake(&pipe.reader);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.tx.reset.get() {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        self.tx.finished.set(true);
        wake(&self.tx.reader);
        Poll::Ready(Ok(()))
    }
}

#[derive(Default)]
struct Inbox {
    events: RefCell<VecDeque<InboxEvent>>,
    len: Cell<usize>,
    waker: Waiter,
}

enum InboxEvent {
    Data(SocketAddr, Bytes),
    Refused(SocketAddr),
}

impl InboxEvent {
    fn len(&self) -> usize {
        match self {
            InboxEvent::Data(_, bytes) => DATAGRAM_OVERHEAD + bytes.len(),
            InboxEvent::Refused(_) => DATAGRAM_OVERHEAD,
        }
    }
}

impl Inbox {
    /// As long as there is room.
    fn push(&self, event: InboxEvent) {
        let len = self.len.get() + event.len();
        if len <= DATAGRAMS_LEN_MAX {
            self.len.set(len);
            self.events.borrow_mut().push_back(event);
            wake(&self.waker);
        }
    }
}

/// A UDP socket. One task receives.
pub struct LoopDatagram {
    addr: SocketAddr,
    inbox: Rc<Inbox>,
    loopback: Rc<Loopback>,
}

impl LoopDatagram {
    /// Where it is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next datagram, or word that an earlier one met a closed port.
    pub async fn recv(&self, buf: &mut [u8]) -> DatagramEvent {
        let event = poll_fn(|cx| match self.inbox.events.borrow_mut().pop_front() {
            Some(event) => Poll::Ready(event),
            None => {
                wait(&self.inbox.waker, cx);
                Poll::Pending
            }
        });
        let event = event.await;
        self.inbox.len.set(self.inbox.len.get() - event.len());
        match event {
            InboxEvent::Refused(to) => DatagramEvent::Refused { to },
            InboxEvent::Data(from, bytes) => {
                let len = bytes.len().min(buf.len());
                buf[..len].copy_from_slice(&bytes[..len]);
                DatagramEvent::Data { len, from }
            }
        }
    }

    /// Send one datagram to another socket of this host.
    pub fn send(&self, bytes: &[u8], to: SocketAddr) {
        let inbox = self.loopback.datagrams.borrow().get(&to).cloned();
        match inbox {
            Some(inbox) => inbox.push(InboxEvent::Data(self.addr, Bytes::copy_from_slice(bytes))),
            None => self.inbox.push(InboxEvent::Refused(to)),
        }
    }
}

impl Drop for LoopDatagram {
    fn drop(&mut self) {
        self.loopback.datagrams.borrow_mut().remove(&self.addr);
    }
}
