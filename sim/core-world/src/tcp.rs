//! A minimal TCP over the network model: ordered, windowed, retransmitting, resettable.
//!
//! One [`Stack`] is what the kernel of one host does: it goes on while the host's processes
//! stand still. It follows RFC 9293 where a peer could tell the difference, RFC 6298 for its
//! timer and RFC 6582 for recovery, and leaves out what a simulation does not need: urgent
//! data, simultaneous opens, half-closed connections, keep-alives, selective acknowledgement.
//! Sequence numbers have 64 bits and no number is used by two connections of a host.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;

mod conn;

use conn::{Conn, State};

/// Largest payload of a segment, bytes: Ethernet's less headers and room for a tunnel.
pub const MSS: usize = 1400;
/// Bytes of IPv4 and TCP headers.
pub const HEADER_LEN: u32 = 40;
/// Bytes that one connection takes from its user and has not seen acknowledged.
pub const SEND_BUFFER: usize = 256 * 1024;
/// Bytes that arrived and were not read.
pub const RECEIVE_BUFFER: usize = 256 * 1024;
/// A peer that leaves us without any answer for so long is given up.
pub const GIVE_UP: Duration = Duration::from_secs(10);
/// So that a path that heals is soon found again, within [`GIVE_UP`].
const RTO_MAX: Duration = Duration::from_secs(4);
/// Ports of connections that a host begins.
const EPHEMERAL: std::ops::Range<u16> = 32_768..61_000;
/// Connections of one stack, above what servers of a large mesh have.
const CONNECTIONS_MAX: usize = 65_536;

/// What travels between two stacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Of the first byte; a SYN and a FIN count as one.
    pub seq: u64,
    /// The next expected byte of the other direction, when `is_ack`.
    pub ack: u64,
    /// Bytes that the sender has room for.
    pub window: u32,
    /// Opens a connection.
    pub is_syn: bool,
    /// Whether `ack` means something.
    pub is_ack: bool,
    /// Nothing follows the data.
    pub is_fin: bool,
    /// There is no such connection (any more).
    pub is_reset: bool,
    /// The bytes.
    pub data: Bytes,
}

/// A connection of one stack. A number is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnId(u64);

/// What a connection did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketEvent {
    /// Our connection was accepted.
    Connected,
    /// Somebody's connection was accepted.
    Accepted {
        /// The other end, as seen here.
        remote: SocketAddr,
    },
    /// There are bytes to read.
    Readable,
    /// A full send buffer has room again.
    Writable,
    /// Nothing more will come: the other end closed, refused, reset, or was given up.
    Closed,
}

/// What a stack wants done.
#[derive(Debug)]
pub enum Output {
    /// Send a segment.
    Send {
        /// From there.
        src: SocketAddr,
        /// To there.
        dst: SocketAddr,
        /// It.
        segment: Box<Segment>,
    },
    /// Tell the owner of a connection.
    Event {
        /// The connection.
        conn: ConnId,
        /// Its local port, which says whose it is.
        port: u16,
        /// What it did.
        event: SocketEvent,
    },
}

/// All connections of a host.
#[derive(Debug)]
pub struct Stack {
    ip: IpAddr,
    listening: BTreeSet<u16>,
    conns: BTreeMap<ConnId, Conn>,
    by_ends: BTreeMap<(SocketAddr, SocketAddr), ConnId>,
    next_id: u64,
    next_port: u16,
    outputs: VecDeque<Output>,
}

impl Stack {
    /// A host at that address without connections.
    #[must_use]
    pub const fn new(ip: IpAddr) -> Stack {
        Stack {
            ip,
            listening: BTreeSet::new(),
            conns: BTreeMap::new(),
            by_ends: BTreeMap::new(),
            next_id: 0,
            next_port: EPHEMERAL.start,
            outputs: VecDeque::new(),
        }
    }

    /// New connections begin at another address.
    pub const fn set_ip(&mut self, ip: IpAddr) {
        self.ip = ip;
    }

    /// Whether connections to a port are accepted; those that exist stay.
    pub fn listen(&mut self, port: u16, on: bool) {
        if on {
            self.listening.insert(port);
        } else {
            self.listening.remove(&port);
        }
    }

    /// Connections at present.
    #[must_use]
    pub fn len(&self) -> usize {
        self.conns.len()
    }

    /// Whether there is no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    /// The local end of a connection.
    #[must_use]
    pub fn local(&self, conn: ConnId) -> Option<SocketAddr> {
        self.conns.get(&conn).map(|conn| conn.local)
    }

    // ---- what users do ----

    /// Connect to `remote`: [`SocketEvent::Connected`] or [`SocketEvent::Closed`] follows.
    pub fn connect(&mut self, now: Duration, remote: SocketAddr) -> ConnId {
        let local = loop {
            let local = SocketAddr::new(self.ip, self.next_port);
            self.next_port += 1;
            if self.next_port == EPHEMERAL.end {
                self.next_port = EPHEMERAL.start;
            }
            if !self.by_ends.contains_key(&(local, remote)) {
                break local;
            }
        };
        let id = self.insert(now, local, remote, State::SynSent, 0);
        self.emit_syn(now, id);
        id
    }

    /// How much [`Stack::write`] would take.
    #[must_use]
    pub fn room(&self, conn: ConnId) -> usize {
        let open = self.conns.get(&conn).filter(|conn| conn.takes_bytes());
        open.map_or(0, |conn| SEND_BUFFER - conn.unacked.len())
    }

    /// Send from the front of `bytes`; returns how many were taken. When not all were,
    /// [`SocketEvent::Writable`] follows.
    pub fn write(&mut self, now: Duration, id: ConnId, bytes: &[u8]) -> usize {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.takes_bytes()) else {
            return 0;
        };
        let taken = bytes.len().min(SEND_BUFFER - conn.unacked.len());
        conn.was_full |= taken < bytes.len();
        conn.unacked.extend_from_slice(&bytes[..taken]);
        conn.transmit(now, &mut self.outputs);
        taken
    }

    /// The next bytes, when there are any.
    pub fn read(&mut self, id: ConnId) -> Option<Bytes> {
        let conn = self.conns.get_mut(&id)?;
        let bytes = conn.readable.pop_front()?;
        let was_shut = conn.window() < MSS as u32;
        conn.readable_len -= bytes.len();
        if was_shut && conn.state == State::Open && conn.window() >= MSS as u32 {
            conn.acknowledge(&mut self.outputs);
        }
        Some(bytes)
    }

    /// Close: what was written still arrives. Nothing is told of the connection any more.
    pub fn close(&mut self, now: Duration, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        match conn.state {
            State::Over => drop(self.forget(id)),
            State::SynSent => self.abort(id),
            State::SynReceived | State::Open => {
                conn.orphan = true;
                conn.fin = true;
                conn.transmit(now, &mut self.outputs);
            }
        }
    }

    /// Reset: the other end hears of it at once.
    pub fn abort(&mut self, id: ConnId) {
        if let Some(conn) = self.forget(id)
            && conn.state != State::Over
        {
            conn.emit(conn.nxt, false, true, Bytes::new(), &mut self.outputs);
        }
    }

    /// Reset every connection with that local port, or all of them: their process is gone.
    pub fn abort_all(&mut self, port: Option<u16>) {
        let ours = |conn: &Conn| port.is_none_or(|port| conn.local.port() == port);
        let found = self.conns.iter().filter(|(_, conn)| ours(conn));
        let found: Vec<ConnId> = found.map(|(id, _)| *id).collect();
        for id in found {
            self.abort(id);
        }
    }

    // ---- what happens ----

    /// A segment arrived.
    pub fn handle(&mut self, now: Duration, src: SocketAddr, dst: SocketAddr, segment: Segment) {
        let Some(&id) = self.by_ends.get(&(dst, src)) else {
            return self.handle_unknown(now, src, dst, &segment);
        };
        let conn = self
            .conns
            .get_mut(&id)
            .expect("every index has its connection");
        conn.heard_at = now;
        if segment.is_reset {
            return self.end(id);
        }
        match conn.state {
            State::SynSent if segment.is_syn && segment.is_ack => {
                conn.state = State::Open;
                conn.rcv_nxt = segment.seq + 1;
                conn.peer_window = segment.window.into();
                conn.acknowledged(now, segment.ack);
                conn.acknowledge(&mut self.outputs);
                self.tell(id, SocketEvent::Connected);
            }
            State::SynSent => {}
            State::SynReceived if segment.is_syn => self.emit_syn(now, id),
            State::SynReceived | State::Open | State::Over if segment.is_syn => {
                conn.acknowledge(&mut self.outputs);
            }
            State::SynReceived | State::Open | State::Over => self.handle_open(now, id, segment),
        }
        self.progress(now, id);
    }

    /// A timer may have run out.
    pub fn handle_deadline(&mut self, now: Duration) {
        let due = |conn: &Conn| conn.timer.is_some_and(|at| at <= now);
        let due: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| due(conn))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.timed_out(now, id);
        }
    }

    /// When to call [`Stack::handle_deadline`].
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.conns.values().filter_map(|conn| conn.timer).min()
    }

    /// What to do. Poll until `None` after every other call.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    // ---- inside ----

    fn insert(
        &mut self,
        now: Duration,
        local: SocketAddr,
        remote: SocketAddr,
        state: State,
        rcv_nxt: u64,
    ) -> ConnId {
        self.next_id += 1;
        let id = ConnId(self.next_id);
        self.by_ends.insert((local, remote), id);
        self.conns.insert(
            id,
            Conn::new(now, (local, remote), state, self.next_id << 40, rcv_nxt),
        );
        id
    }

    fn forget(&mut self, id: ConnId) -> Option<Conn> {
        let conn = self.conns.remove(&id)?;
        self.by_ends.remove(&(conn.local, conn.remote));
        Some(conn)
    }

    fn tell(&mut self, conn: ConnId, event: SocketEvent) {
        let Some(known) = self.conns.get(&conn).filter(|conn| !conn.orphan) else {
            return;
        };
        let port = known.local.port();
        self.outputs.push_back(Output::Event { conn, port, event });
    }

    /// Nothing more will come.
    fn end(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if conn.orphan {
            self.forget(id);
        } else if conn.state != State::Over {
            conn.state = State::Over;
            conn.timer = None;
            self.tell(id, SocketEvent::Closed);
        }
    }

    fn handle_unknown(
        &mut self,
        now: Duration,
        src: SocketAddr,
        dst: SocketAddr,
        segment: &Segment,
    ) {
        if segment.is_reset {
            return;
        }
        let opens = segment.is_syn && !segment.is_ack;
        if opens && self.listening.contains(&dst.port()) && self.conns.len() < CONNECTIONS_MAX {
            let id = self.insert(now, dst, src, State::SynReceived, segment.seq + 1);
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.peer_window = segment.window.into();
            }
            return self.emit_syn(now, id);
        }
        let reset = Segment {
            seq: segment.ack,
            ack: segment.seq + segment.len(),
            window: 0,
            is_syn: false,
            is_ack: true,
            is_fin: false,
            is_reset: true,
            data: Bytes::new(),
        };
        self.outputs.push_back(Output::Send {
            src: dst,
            dst: src,
            segment: Box::new(reset),
        });
    }

    fn emit_syn(&mut self, now: Duration, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.nxt = conn.una + 1;
            conn.sent_max = conn.nxt;
            conn.emit(conn.una, true, false, Bytes::new(), &mut self.outputs);
            conn.arm(now);
        }
    }

    fn handle_open(&mut self, now: Duration, id: ConnId, segment: Segment) {
        let conn = self.conns.get_mut(&id).expect("just found");
        if segment.is_ack {
            if conn.state == State::SynReceived && segment.ack > conn.una {
                conn.state = State::Open;
                let remote = conn.remote;
                self.tell(id, SocketEvent::Accepted { remote });
            }
            let conn = self.conns.get_mut(&id).expect("just found");
            conn.handle_ack(now, &segment, &mut self.outputs);
        }
        let conn = self.conns.get_mut(&id).expect("just found");
        if conn.state != State::Open {
            if conn.state == State::Over && segment.len() > 0 {
                conn.acknowledge(&mut self.outputs);
            }
            return;
        }
        let before = conn.readable_len;
        let wants_answer = segment.len() > 0;
        conn.receive(segment);
        let (news, over) = (conn.readable_len > before, conn.is_at_end());
        if wants_answer {
            conn.acknowledge(&mut self.outputs);
        }
        if conn.orphan {
            conn.readable.clear();
            conn.readable_len = 0;
        }
        if news {
            self.tell(id, SocketEvent::Readable);
        }
        if over {
            // Also for an orphan: the other end is done, and will not read what we send.
            self.end(id);
        }
    }

    /// Send what may be sent, and tell the user what has become possible.
    fn progress(&mut self, now: Duration, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.transmit(now, &mut self.outputs);
        if conn.orphan && conn.fin && conn.una > conn.unacked_at + conn.unacked.len() as u64 {
            self.forget(id);
            return;
        }
        if conn.was_full && conn.unacked.len() <= SEND_BUFFER / 2 {
            conn.was_full = false;
            self.tell(id, SocketEvent::Writable);
        }
    }

    fn timed_out(&mut self, now: Duration, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if now >= conn.heard_at + GIVE_UP {
            return self.end(id);
        }
        conn.rto = (conn.rto * 2).min(RTO_MAX);
        conn.timed = None;
        match conn.state {
            State::SynSent | State::SynReceived => self.emit_syn(now, id),
            State::Open => {
                conn.start_again();
                if conn.peer_window == 0 {
                    conn.probe(&mut self.outputs);
                }
                conn.transmit(now, &mut self.outputs);
                conn.arm(now);
            }
            State::Over => conn.timer = None,
        }
    }
}

impl Segment {
    /// Sequence numbers that it takes.
    fn len(&self) -> u64 {
        self.data.len() as u64 + u64::from(self.is_syn) + u64::from(self.is_fin)
    }

    /// Bytes on the wire.
    #[must_use]
    pub fn len_bytes(&self) -> u32 {
        HEADER_LEN + self.data.len() as u32
    }
}

#[cfg(test)]
mod tests;
