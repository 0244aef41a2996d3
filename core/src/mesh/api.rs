//! The values that go in and out of a [`Mesh`](super::Mesh).

use std::net::{IpAddr, SocketAddr};

use bytes::{Bytes, BytesMut};

use crate::config::TurnServer;
use crate::identity::PublicKey;
use crate::status::LinkState;
use crate::types::{LinkId, PeerId, StreamId};

/// Something happened, outside the hot path.
#[derive(Debug)]
pub enum Input {
    /// The unicast addresses of this machine's interfaces, without loopback. The first such
    /// input starts gathering; a later one that differs is a change of network.
    LocalAddresses(Vec<IpAddr>),
    /// STUN and TURN servers whose names were resolved after the start.
    Servers {
        /// STUN servers.
        stun: Vec<SocketAddr>,
        /// TURN servers.
        turn: Vec<TurnServer>,
    },
    /// A broker handed over an envelope. Repeats and strangers are expected.
    Signal(Vec<u8>),
    /// The TCP connection to a TURN server did something.
    TurnTcp {
        /// Which connection, as named in [`Output::TurnTcp`].
        conn: u32,
        /// What it did.
        event: TcpEvent,
    },
    /// The local connection for an [`Output::Incoming`] stream could not be made.
    IncomingRefused {
        /// The stream.
        stream: StreamId,
    },
    /// A datagram that [`Output::Udp`] asked to deliver met a closed port.
    UdpRefused {
        /// The link it came from.
        link: LinkId,
        /// The peer's port.
        peer_port: u16,
        /// Where it should have gone.
        to: SocketAddr,
    },
    /// This node is about to stop: tell all peers at once. Streams that are open may end by
    /// themselves; the connection to a peer closes when its last one has.
    Goodbye,
    /// Streams have had their time: close every connection.
    Stop,
}

/// What a TCP connection to a TURN server did.
#[derive(Debug)]
pub enum TcpEvent {
    /// It is established, from this local address.
    Connected {
        /// The local end.
        local: SocketAddr,
    },
    /// Bytes arrived.
    Bytes(BytesMut),
    /// This many bytes of earlier writes have gone to the operating system.
    Sent(usize),
    /// It ended or could not be made.
    Closed,
}

/// Something to do.
#[derive(Debug)]
pub enum Output {
    /// Hand an envelope to the brokers, for this peer.
    Signal {
        /// The receiver's key, which names its mailbox.
        to: PublicKey,
        /// Sealed and signed.
        envelope: Vec<u8>,
    },
    /// Do something with a TCP connection to a TURN server.
    TurnTcp {
        /// Which connection. A number is never used again.
        conn: u32,
        /// What to do.
        action: TcpAction,
    },
    /// A peer opened a stream to an allowed port: connect to the first of `to` that accepts,
    /// from the address `from`, or answer [`Input::IncomingRefused`].
    Incoming {
        /// The stream.
        stream: StreamId,
        /// The peer's virtual address, to connect from.
        from: IpAddr,
        /// Where to connect, in order.
        to: [SocketAddr; 2],
    },
    /// [`Mesh::stream_read`](super::Mesh::stream_read) has something new: data, the end, or a reset.
    Readable(StreamId),
    /// [`Mesh::stream_write`](super::Mesh::stream_write) takes bytes again, or reports that the peer stopped reading.
    Writable(StreamId),
    /// The stream ended without a clean close; every later call on it fails.
    Reset {
        /// The stream.
        stream: StreamId,
        /// Why.
        reason: ResetReason,
    },
    /// Deliver a datagram from the socket that stands for the peer's `peer_port`
    /// (bound to the peer's VIP and that port).
    Udp {
        /// The link it came from.
        link: LinkId,
        /// The peer's port.
        peer_port: u16,
        /// Where it goes.
        to: SocketAddr,
        /// What it carries.
        payload: Bytes,
    },
    /// A NAT on the way gave this node another public address: connections to the brokers may
    /// be dead without knowing. Make them anew.
    NetworkChanged,
    /// Something worth a log line.
    Event(Event),
}

/// What to do with a TCP connection to a TURN server.
#[derive(Debug)]
pub enum TcpAction {
    /// Connect to the server.
    Connect(SocketAddr),
    /// Send bytes, all of them and in order; answer each part with [`TcpEvent::Sent`].
    Write(Bytes),
    /// Close; nothing more is said about it.
    Close,
}

/// Transitions of the node and its links: what an operator reads in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link changed its state.
    LinkState {
        /// The peer.
        peer: PeerId,
        /// The state it left.
        from: LinkState,
        /// The state it entered.
        to: LinkState,
        /// Why.
        why: &'static str,
    },
    /// A link's traffic moved to another candidate pair.
    PathSelected {
        /// The peer.
        peer: PeerId,
        /// `host` or `relay`, with the local base.
        local: String,
        /// The remote candidate's kind and address.
        remote: String,
        /// `direct` or `relay`.
        class: &'static str,
        /// Why.
        why: &'static str,
    },
    /// The peer was recognised as restarted.
    PeerRestarted {
        /// The peer.
        peer: PeerId,
        /// The first 32 bits of its new incarnation.
        incarnation: String,
    },
    /// Something from outside was refused, the first time and then at growing intervals.
    Refused {
        /// The counter that it went to.
        counter: &'static str,
        /// What was wrong.
        detail: String,
    },
    /// A TURN server or a STUN server answered, failed, or went silent.
    Server {
        /// Its address.
        server: SocketAddr,
        /// What it did.
        what: &'static str,
    },
}

/// Where and how to send what [`Mesh::poll_transmit`](super::Mesh::poll_transmit) wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The destination.
    pub to: SocketAddr,
    /// The local address to send from, when it matters which.
    pub src: Option<IpAddr>,
    /// Bytes written to the buffer.
    pub len: usize,
    /// Size of each datagram but the last, when `len` holds more than one.
    pub segment_size: Option<usize>,
    /// Explicit congestion notification bits (RFC 3168), 0 to 3.
    pub ecn: u8,
}

/// How a datagram arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its source.
    pub from: SocketAddr,
    /// The local address it was sent to, where the system tells.
    pub to: Option<IpAddr>,
    /// Explicit congestion notification bits, 0 to 3.
    pub ecn: u8,
}

/// What [`Mesh::stream_read`](super::Mesh::stream_read) found.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// The next bytes.
    Data(Bytes),
    /// Nothing now; [`Output::Readable`] follows.
    Blocked,
    /// The peer closed its sending half, all bytes were read.
    Finished,
}

/// Why a stream ended without a clean close. Travels as the QUIC application error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetReason {
    /// The application at the other end reset its connection.
    Reset,
    /// Nothing listens on the port.
    Refused,
    /// The port is not on the receiver's allowlist.
    NotAllowed,
    /// A limit was reached.
    Limit,
    /// The stream header could not be read.
    BadHeader,
    /// The link went down, or its peer restarted.
    LinkDown,
}

/// Why a stream could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The link is not up.
    #[error("the link is not up")]
    LinkNotUp,
    /// The peer allows no more streams at the moment.
    #[error("the peer allows no more streams at the moment")]
    TooManyStreams,
}

/// A stream that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream is closed ({reason:?})")]
pub struct StreamClosed {
    /// Why.
    pub reason: ResetReason,
}
