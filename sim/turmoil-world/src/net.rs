//! The network as a driver on a simulated host sees it: datagrams through the model, TCP
//! through turmoil, and loopback addresses in memory.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use holdfast_io::net::{
    BatchSocket, DatagramEvent, DatagramSocket, Listener, Net, Received, Stream, Transmit,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::fabric::Inbox;
use crate::host::Host;
use crate::loopback::{LoopDatagram, LoopListener, LoopStream};
use crate::shared::Shared;
use crate::wire::{WireListener, WireStream};

/// Segments of one batch, as on Linux (UDP_MAX_SEGMENTS).
const SEGMENTS_MAX: usize = 64;
/// Datagrams that one receive hands over.
const BATCH_LEN_MAX: usize = 64;

/// The network of one host.
#[derive(Clone)]
pub struct SimNet {
    shared: Rc<Shared>,
    host: Rc<Host>,
}

impl SimNet {
    /// The network as that host sees it.
    pub fn new(shared: Rc<Shared>, host: Rc<Host>) -> SimNet {
        SimNet { shared, host }
    }

    fn bind(&self, addr: SocketAddr) -> io::Result<Udp> {
        let own = self.host.address();
        if !addr.ip().is_unspecified() && addr.ip() != own {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let (port, inbox) = self
            .host
            .ports
            .bind(addr.port())
            .ok_or(io::ErrorKind::AddrInUse)?;
        Ok(Udp {
            addr: SocketAddr::new(addr.ip(), port),
            inbox,
            net: self.clone(),
        })
    }
}

impl Net for SimNet {
    type Batch = Udp;
    type Datagram = SimDatagram;
    type Listener = SimListener;
    type Stream = SimStream;

    async fn bind_batch(&self, addr: SocketAddr) -> io::Result<Udp> {
        self.bind(addr)
    }

    async fn bind_datagram(&self, addr: SocketAddr) -> io::Result<SimDatagram> {
        match addr.ip().is_loopback() {
            true => self.host.loopback.bind(addr).map(SimDatagram::Loop),
            false => self.bind(addr).map(SimDatagram::Udp),
        }
    }

    async fn listen(&self, addr: SocketAddr) -> io::Result<SimListener> {
        match addr.ip().is_loopback() {
            true => self.host.loopback.listen(addr).map(SimListener::Loop),
            false => WireListener::bind(&self.shared, &self.host, addr)
                .await
                .map(SimListener::Wire),
        }
    }

    async fn connect(&self, source: Option<IpAddr>, to: SocketAddr) -> io::Result<SimStream> {
        match to.ip().is_loopback() {
            true => self.host.loopback.connect(source, to).map(SimStream::Loop),
            false => WireStream::connect(&self.shared, &self.host, to)
                .await
                .map(SimStream::Wire),
        }
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        // Plans name servers by address.
        let ip: IpAddr = host.parse().map_err(|_| io::ErrorKind::NotFound)?;
        Ok(vec![SocketAddr::new(ip, port)])
    }

    fn local_addresses(&self) -> io::Result<Vec<IpAddr>> {
        Ok(vec![self.host.address()])
    }
}

/// A UDP socket on the model.
pub struct Udp {
    addr: SocketAddr,
    inbox: Rc<Inbox>,
    net: SimNet,
}

impl Udp {
    fn send(&self, src: Option<IpAddr>, to: SocketAddr, bytes: &[u8], segment: usize) {
        let src = src.unwrap_or_else(|| self.net.host.address());
        let src = SocketAddr::new(src, self.addr.port());
        for datagram in bytes.chunks(segment.max(1)) {
            let datagram = Bytes::copy_from_slice(datagram);
            self.net.shared.send(&self.net.host, [src, to], datagram);
        }
    }
}

impl Drop for Udp {
    fn drop(&mut self) {
        self.net.host.ports.release(self.addr.port());
    }
}

impl BatchSocket for Udp {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }

    fn max_gso_segments(&self) -> usize {
        SEGMENTS_MAX
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<(Received, BytesMut)>,
    ) -> Poll<io::Result<()>> {
        for n in 0..BATCH_LEN_MAX {
            let Poll::Ready((from, to, payload)) = self.inbox.poll_pop(cx) else {
                return match n {
                    0 => Poll::Pending,
                    _ => Poll::Ready(Ok(())),
                };
            };
            let received = Received {
                from,
                to: Some(to),
                ecn: 0,
            };
            out.push((received, payload.into()));
        }
        Poll::Ready(Ok(()))
    }

    fn try_send(&mut self, transmit: &Transmit, bytes: &[u8]) -> io::Result<()> {
        if transmit.to.ip().is_loopback() {
            return Err(io::ErrorKind::NetworkUnreachable.into());
        }
        if !self.net.host.ports.may_send(bytes.len()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let segment = transmit.segment_size.unwrap_or(bytes.len());
        self.send(transmit.src, transmit.to, bytes, segment);
        Ok(())
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.net.host.ports.poll_writable(cx).map(Ok)
    }
}

/// A plain UDP socket.
pub enum SimDatagram {
    /// On the model.
    Udp(Udp),
    /// On the host's loopback interface.
    Loop(LoopDatagram),
}

impl DatagramSocket for SimDatagram {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(match self {
            SimDatagram::Udp(socket) => socket.addr,
            SimDatagram::Loop(socket) => socket.local_addr(),
        })
    }

    async fn recv(&self, buf: &mut [u8]) -> io::Result<DatagramEvent> {
        match self {
            SimDatagram::Loop(socket) => Ok(socket.recv(buf).await),
            SimDatagram::Udp(socket) => {
                let (from, _, bytes) = poll_fn(|cx| socket.inbox.poll_pop(cx)).await;
                let len = bytes.len().min(buf.len());
                buf[..len].copy_from_slice(&bytes[..len]);
                Ok(DatagramEvent::Data { len, from })
            }
        }
    }

    fn try_send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        match self {
            SimDatagram::Loop(socket) => socket.send(bytes, to),
            SimDatagram::Udp(_) if to.ip().is_loopback() => {
                return Err(io::ErrorKind::NetworkUnreachable.into());
            }
            SimDatagram::Udp(socket) => {
                if !socket.net.host.ports.may_send(bytes.len()) {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                socket.send(None, to, bytes, bytes.len());
            }
        }
        Ok(())
    }

    async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        loop {
            match self.try_send_to(bytes, to) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return sent,
            }
            if let SimDatagram::Udp(socket) = self {
                poll_fn(|cx| socket.net.host.ports.poll_writable(cx)).await;
            }
        }
    }
}

/// A listening TCP socket.
pub enum SimListener {
    /// For other hosts.
    Wire(WireListener),
    /// On the host's loopback interface.
    Loop(LoopListener),
}

impl Listener for SimListener {
    type Stream = SimStream;

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(match self {
            SimListener::Wire(listener) => listener.local_addr(),
            SimListener::Loop(listener) => listener.local_addr(),
        })
    }

    async fn accept(&self) -> io::Result<(SimStream, SocketAddr)> {
        match self {
            SimListener::Wire(listener) => {
                let (stream, from) = listener.accept().await?;
                Ok((SimStream::Wire(stream), from))
            }
            SimListener::Loop(listener) => {
                let (stream, from) = listener.accept().await;
                Ok((SimStream::Loop(stream), from))
            }
        }
    }
}

/// A TCP connection.
pub enum SimStream {
    /// With another host.
    Wire(WireStream),
    /// On the host's loopback interface.
    Loop(LoopStream),
}

macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            SimStream::Wire($stream) => $call,
            SimStream::Loop($stream) => $call,
        }
    };
}

impl Stream for SimStream {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(match self {
            SimStream::Wire(stream) => stream.local_addr(),
            SimStream::Loop(stream) => stream.local_addr(),
        })
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(match self {
            SimStream::Wire(stream) => stream.peer_addr(),
            SimStream::Loop(stream) => stream.peer_addr(),
        })
    }

    fn set_nodelay(&self, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn give_up_on_silence(&self) -> io::Result<()> {
        if let SimStream::Wire(stream) = self {
            stream.give_up_on_silence();
        }
        Ok(())
    }

    fn reset_on_drop(&self) -> io::Result<()> {
        match self {
            SimStream::Loop(stream) => stream.reset_on_drop(),
            // turmoil resets when something is unread, and offers no other way.
            SimStream::Wire(_) => {}
        }
        Ok(())
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
