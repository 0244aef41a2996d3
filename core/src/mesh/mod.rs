//! All links of a node over one UDP socket.

mod api;

use std::net::SocketAddr;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

pub use api::{
    Event, Input, OpenError, Output, Read, Received, ResetReason, StreamClosed, TcpAction,
    TcpEvent, Transmit,
};

use crate::config::{Config, ConfigError};
use crate::entropy::Seed;
use crate::status::Status;
use crate::time::Now;
use crate::types::{LinkId, PeerId, StreamId, Vip};

/// A node: its links, its addresses, its policy.
pub struct Mesh {}

#[allow(unused_variables, reason = "the bodies follow")]
impl Mesh {
    /// A node that has yet to be told its addresses.
    pub fn new(config: Config, seed: Seed, now: Now) -> Result<Mesh, Vec<ConfigError>> {
        Ok(Mesh {})
    }

    /// Something happened.
    pub fn handle(&mut self, now: Now, input: Input) {}

    /// Time passed.
    pub fn handle_deadline(&mut self, now: Now) {}

    /// When to call [`Mesh::handle_deadline`], and why.
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        None
    }

    /// What to do. Poll until `None` after every other call.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// A datagram arrived on the node's UDP socket.
    pub fn handle_datagram(&mut self, now: Now, meta: Received, data: BytesMut) {}

    /// The next datagrams to send: appended to `buf`, at most `segments_max` of equal size
    /// (the last may be shorter). Poll only when the socket can take them.
    pub fn poll_transmit(
        &mut self,
        now: Now,
        buf: &mut Vec<u8>,
        segments_max: usize,
    ) -> Option<Transmit> {
        None
    }

    /// Open a stream to a port of a peer.
    pub fn stream_open(&mut self, now: Now, link: LinkId, port: u16) -> Result<StreamId, OpenError> {
        Err(OpenError::LinkNotUp)
    }

    /// Take bytes from the front of `chunks` (whole chunks are taken out, the last may be
    /// split); returns how many. Fewer than offered means blocked: [`Output::Writable`] follows.
    pub fn stream_write(
        &mut self,
        now: Now,
        stream: StreamId,
        chunks: &mut [Bytes],
    ) -> Result<usize, StreamClosed> {
        Ok(0)
    }

    /// The next bytes of a stream, at most `max`.
    pub fn stream_read(
        &mut self,
        now: Now,
        stream: StreamId,
        max: usize,
    ) -> Result<Read, StreamClosed> {
        Ok(Read::Blocked)
    }

    /// Close the sending half: everything written before arrives first.
    pub fn stream_finish(&mut self, now: Now, stream: StreamId) {}

    /// Give the stream up in both directions; the peer sees `reason`.
    pub fn stream_reset(&mut self, now: Now, stream: StreamId, reason: ResetReason) {}

    /// A local application at `from` sent a datagram to a peer's port. Never blocks: what
    /// cannot be sent is dropped and counted, the oldest first.
    pub fn udp_send(&mut self, now: Now, link: LinkId, port: u16, from: SocketAddr, payload: Bytes) {
    }

    /// The links with their peers, in order.
    pub fn links(&self) -> impl Iterator<Item = (LinkId, &PeerId, Vip)> {
        std::iter::empty()
    }

    /// Whether every stream has ended and everything that says goodbye was handed out.
    pub fn is_drained(&self) -> bool {
        true
    }

    /// What the node says of itself.
    pub fn status(&self, now: Now) -> Status {
        unreachable!("the bodies follow")
    }

    /// The flight recorder's content, oldest first: one JSON object per line.
    pub fn dump(&self, out: &mut Vec<String>) {}
}
