//! A network in memory: hosts with an address each, one wire, and loopback interfaces.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use holdfast_io::clock::Clock;
use holdfast_io::net::{
    BatchSocket, DatagramEvent, DatagramSocket, Listener, Net, Received, Stream, Transmit,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::loopback::{LoopDatagram, LoopListener, LoopStream, Loopback};
use crate::runtime::LaneClock;

/// How long a datagram travels.
const DELAY: Duration = Duration::from_millis(2);
/// Datagrams that wait in one socket.
const INBOX_LEN_MAX: usize = 4096;

/// All hosts.
#[derive(Default)]
pub struct Hub {
    /// TCP between hosts.
    tcp: Rc<Loopback>,
    bound: RefCell<BTreeMap<SocketAddr, Rc<Inbox>>>,
    wire: RefCell<VecDeque<Flight>>,
    sent: Notify,
}

struct Flight {
    due: Instant,
    from: SocketAddr,
    to: SocketAddr,
    bytes: BytesMut,
}

#[derive(Default)]
struct Inbox {
    datagrams: RefCell<VecDeque<(SocketAddr, BytesMut)>>,
    waker: RefCell<Option<Waker>>,
}

impl Hub {
    /// Carry datagrams for ever.
    pub async fn carry(self: Rc<Self>) {
        loop {
            let due = self.wire.borrow().front().map(|flight| flight.due);
            let Some(due) = due else {
                self.sent.notified().await;
                continue;
            };
            LaneClock.sleep_until(due).await;
            let flight = self.wire.borrow_mut().pop_front();
            let Some(flight) = flight else { continue };
            let inbox = self.bound.borrow().get(&flight.to).cloned();
            if let Some(inbox) = inbox {
                let mut datagrams = inbox.datagrams.borrow_mut();
                if datagrams.len() < INBOX_LEN_MAX {
                    datagrams.push_back((flight.from, flight.bytes));
                }
                drop(datagrams);
                if let Some(waker) = inbox.waker.take() {
                    waker.wake();
                }
            }
        }
    }

    /// UDP ports that are bound.
    pub fn ports(&self) -> usize {
        self.bound.borrow().len()
    }
}

/// The network as one host sees it.
#[derive(Clone)]
pub struct LaneNet {
    hub: Rc<Hub>,
    ip: IpAddr,
    loopback: Rc<Loopback>,
}

impl LaneNet {
    /// A host with that address.
    pub fn new(hub: &Rc<Hub>, ip: IpAddr) -> LaneNet {
        LaneNet {
            hub: hub.clone(),
            ip,
            loopback: Rc::default(),
        }
    }

    /// Values that refer to this host: 1 when only the caller's is left.
    pub fn users(&self) -> usize {
        Rc::strong_count(&self.loopback)
    }

    fn interface(&self, addr: SocketAddr) -> &Rc<Loopback> {
        match addr.ip().is_loopback() {
            true => &self.loopback,
            false => &self.hub.tcp,
        }
    }
}

impl Net for LaneNet {
    type Batch = LaneUdp;
    type Datagram = LaneDatagram;
    type Listener = LaneListener;
    type Stream = LaneStream;

    async fn bind_batch(&self, addr: SocketAddr) -> io::Result<LaneUdp> {
        let addr = SocketAddr::new(self.ip, addr.port());
        let inbox = Rc::<Inbox>::default();
        self.hub.bound.borrow_mut().insert(addr, inbox.clone());
        Ok(LaneUdp {
            addr,
            inbox,
            hub: self.hub.clone(),
        })
    }

    async fn bind_datagram(&self, addr: SocketAddr) -> io::Result<LaneDatagram> {
        self.loopback.bind(addr).map(LaneDatagram)
    }

    async fn listen(&self, addr: SocketAddr) -> io::Result<LaneListener> {
        self.interface(addr).listen(addr).map(LaneListener)
    }

    async fn connect(&self, source: Option<IpAddr>, to: SocketAddr) -> io::Result<LaneStream> {
        // A connection is never there at once.
        LaneClock.sleep(DELAY).await;
        let connected = self.interface(to).connect(source, to);
        connected.map(LaneStream)
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let ip: IpAddr = host.parse().map_err(|_| io::ErrorKind::NotFound)?;
        Ok(vec![SocketAddr::new(ip, port)])
    }

    fn local_addresses(&self) -> io::Result<Vec<IpAddr>> {
        Ok(vec![self.ip])
    }
}

/// A node's UDP socket.
pub struct LaneUdp {
    addr: SocketAddr,
    inbox: Rc<Inbox>,
    hub: Rc<Hub>,
}

impl Drop for LaneUdp {
    fn drop(&mut self) {
        self.hub.bound.borrow_mut().remove(&self.addr);
    }
}

impl BatchSocket for LaneUdp {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::new([0, 0, 0, 0].into(), self.addr.port()))
    }

    fn max_gso_segments(&self) -> usize {
        16
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<(Received, BytesMut)>,
    ) -> Poll<io::Result<()>> {
        let mut datagrams = self.inbox.datagrams.borrow_mut();
        if datagrams.is_empty() {
            *self.inbox.waker.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let to = Some(self.addr.ip());
        let received = |from| Received { from, to, ecn: 0 };
        out.extend(
            datagrams
                .drain(..)
                .map(|(from, bytes)| (received(from), bytes)),
        );
        Poll::Ready(Ok(()))
    }

    fn try_send(&mut self, transmit: &Transmit, bytes: &[u8]) -> io::Result<()> {
        let due = LaneClock.now().mono + DELAY;
        let mut wire = self.hub.wire.borrow_mut();
        for segment in bytes.chunks(transmit.segment_size.unwrap_or(bytes.len()).max(1)) {
            wire.push_back(Flight {
                due,
                from: self.addr,
                to: transmit.to,
                bytes: segment.into(),
            });
        }
        self.hub.sent.notify_one();
        Ok(())
    }

    fn poll_writable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A UDP socket on a loopback interface.
pub struct LaneDatagram(LoopDatagram);

impl DatagramSocket for LaneDatagram {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.local_addr())
    }

    async fn recv(&self, buf: &mut [u8]) -> io::Result<DatagramEvent> {
        Ok(self.0.recv(buf).await)
    }

    fn try_send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.0.send(bytes, to);
        Ok(())
    }

    async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        poll_fn(|_| Poll::Ready(self.try_send_to(bytes, to))).await
    }
}

/// A listening TCP socket.
pub struct LaneListener(LoopListener);

impl Listener for LaneListener {
    type Stream = LaneStream;

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.local_addr())
    }

    async fn accept(&self) -> io::Result<(LaneStream, SocketAddr)> {
        let (stream, from) = self.0.accept().await;
        Ok((LaneStream(stream), from))
    }
}

/// A TCP connection.
pub struct LaneStream(LoopStream);

impl Stream for LaneStream {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.local_addr())
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.peer_addr())
    }

    fn set_nodelay(&self, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn reset_on_drop(&self) -> io::Result<()> {
        self.0.reset_on_drop();
        Ok(())
    }
}

impl AsyncRead for LaneStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for LaneStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
