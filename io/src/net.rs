//! The network as a value that a driver is given: the node's one UDP socket, plain UDP
//! sockets, TCP, and names.

#![allow(
    async_fn_in_trait,
    reason = "drivers are local: no future here is ever sent to another thread"
)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};

pub use holdfast_core::mesh::{Received, Transmit};

/// Largest UDP payload over IPv4, and the largest batch of equal segments that one call may
/// send: 65,535 less the headers of IPv4 (20) and UDP (8). Beyond it the kernel refuses the
/// batch with EMSGSIZE.
pub const UDP_PAYLOAD_MAX: usize = 65_507;

/// Opens sockets and answers names.
pub trait Net: Clone + 'static {
    /// The socket that all links share.
    type Batch: BatchSocket;
    /// A plain UDP socket.
    type Datagram: DatagramSocket;
    /// A listening TCP socket.
    type Listener: Listener<Stream = Self::Stream>;
    /// A TCP connection.
    type Stream: Stream;

    /// Bind the socket that all links share.
    async fn bind_batch(&self, addr: SocketAddr) -> io::Result<Self::Batch>;

    /// Bind a plain UDP socket.
    async fn bind_datagram(&self, addr: SocketAddr) -> io::Result<Self::Datagram>;

    /// Listen for TCP connections.
    async fn listen(&self, addr: SocketAddr) -> io::Result<Self::Listener>;

    /// Connect to `to`, from the address `source` when given (its port is the system's choice).
    async fn connect(&self, source: Option<IpAddr>, to: SocketAddr) -> io::Result<Self::Stream>;

    /// The addresses of a host, which may be a name or an address, in order of preference.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;

    /// The unicast addresses of interfaces that are up, without loopback and without
    /// link-local IPv6, in a stable order.
    fn local_addresses(&self) -> io::Result<Vec<IpAddr>>;
}

/// The UDP socket of the hot path: batches in, segmented batches out, never blocking.
pub trait BatchSocket: 'static {
    /// Where it is bound.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// Most segments that one [`BatchSocket::try_send`] may carry, at least 1. It may shrink
    /// when the system turns out not to segment.
    fn max_gso_segments(&self) -> usize;

    /// Append what has arrived to `out`, one entry per datagram; ready with at least one.
    /// An error concerns the socket, never one datagram.
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<(Received, BytesMut)>,
    ) -> Poll<io::Result<()>>;

    /// Send `bytes` as `transmit` says, as a whole.
    ///
    /// `WouldBlock`: nothing was sent, keep it and wait with [`BatchSocket::poll_writable`].
    /// Any other error concerns this transmit alone, which is lost.
    fn try_send(&mut self, transmit: &Transmit, bytes: &[u8]) -> io::Result<()>;

    /// Ready when another [`BatchSocket::try_send`] is worth trying.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// What a [`DatagramSocket`] received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramEvent {
    /// A datagram, in the first `len` bytes of the buffer.
    Data {
        /// Its length.
        len: usize,
        /// Its source.
        from: SocketAddr,
    },
    /// An earlier datagram met a closed port there. Not every system tells.
    Refused {
        /// Where it had been sent.
        to: SocketAddr,
    },
}

/// A plain, unconnected UDP socket.
pub trait DatagramSocket: 'static {
    /// Where it is bound.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// The next datagram; give it [`UDP_PAYLOAD_MAX`] bytes, or it may be cut short.
    /// Nothing is lost when the future is dropped. Call it from one task only.
    async fn recv(&self, buf: &mut [u8]) -> io::Result<DatagramEvent>;

    /// Send one datagram as a whole, or not at all: `WouldBlock` when the buffer is full.
    fn try_send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()>;

    /// Send one datagram as a whole, waiting for room in the buffer.
    async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()>;
}

/// A listening TCP socket.
pub trait Listener: 'static {
    /// What it accepts.
    type Stream: Stream;

    /// Where it is bound.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// The next connection and the address it came from.
    async fn accept(&self) -> io::Result<(Self::Stream, SocketAddr)>;
}

/// A TCP connection.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + 'static {
    /// The local end.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// The other end.
    fn peer_addr(&self) -> io::Result<SocketAddr>;

    /// Send small writes at once (TCP_NODELAY).
    fn set_nodelay(&self, on: bool) -> io::Result<()>;

    /// Break the connection when the other end's system has acknowledged nothing for some ten
    /// seconds: an address or a server vanished without a word. Not for connections whose
    /// reader may stop reading for long. Nothing, unless the system can.
    fn give_up_on_silence(&self) -> io::Result<()> {
        Ok(())
    }

    /// Make the coming drop a reset instead of a clean close (SO_LINGER 0), as far as the
    /// system can.
    fn reset_on_drop(&self) -> io::Result<()>;
}
