//! One peer: who it is, the paths to it, and what flows over them.
//!
//! ```text
//!            peer accepted           connection confirmed
//! Signaling ----------------> Connecting ---------------> Up <----> Down
//!     ^                          ^  ^                     |  paths    |
//!     |     connection lost      |  '---------------------'-----------'
//!     |     (next epoch)         |            new incarnation
//!   Idle <-- goodbye -- any state
//! ```
//!
//! A session is (our incarnation, the peer's, epoch). It owns its ICE agent, its QUIC
//! connection and its streams, and dies as a whole: nothing of one session can reach into
//! the next. A path that is lost ends nothing; a peer that restarted ends its session at once.

mod session;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn_proto::Connection;

use crate::config::{AllowRule, Congestion, Limits, PeerConfig};
use crate::entropy::Seed;
use crate::ice::{Base, LocalCandidate, Pair, StunVerdict, TransactionId};
use crate::identity::Identity;
use crate::mesh::{Event, OpenError, Output, Read, ResetReason, StreamClosed};
use crate::mux::wire::Frame;
use crate::mux::{FLOWS_MAX, Flows, Mux, MuxEvent};
use crate::quic::{self, ConnectionError, HANDSHAKE_TIMEOUT, Role};
use crate::signal::envelope::Envelope;
use crate::signal::snapshot::IceCredentials;
use crate::signal::{News, Rejected, Signaling};
use crate::status::{LinkState, LinkStatus, Queue};
use crate::time::Now;
use crate::types::{Incarnation, LinkId, PeerId, StreamId, Vip};
use session::Session;

/// Why we close a connection, as QUIC application error codes.
const CLOSE_GOODBYE: u32 = 1;
const CLOSE_WRONG_SESSION: u32 = 2;

/// What all links of a node share.
#[derive(Debug)]
pub struct Shared {
    /// This node's name.
    pub id: PeerId,
    /// Its key.
    pub identity: Arc<Identity>,
    /// Its virtual address.
    pub vip: Vip,
    /// Its run.
    pub incarnation: Incarnation,
    /// Which of its ports peers may reach.
    pub allow: Arc<[AllowRule]>,
    /// Congestion control.
    pub congestion: Congestion,
    /// Sizes that bound memory.
    pub limits: Limits,
}

impl Shared {
    /// Whether we start the handshake: the lexicographically smaller name does.
    fn role_towards(&self, peer: &PeerConfig) -> Role {
        match self.id < peer.id {
            true => Role::Client,
            false => Role::Server,
        }
    }
}

/// Datagrams to send on a candidate pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkTransmit {
    /// The pair.
    pub pair: Pair,
    /// Bytes appended to the buffer.
    pub len: usize,
    /// Size of each datagram but the last, when there are several.
    pub segment_size: Option<usize>,
    /// ECN bits.
    pub ecn: u8,
    /// A transaction whose answer is this link's, unless it says so itself.
    pub asks: Option<TransactionId>,
}

/// What a link tells its node.
#[derive(Debug)]
pub enum LinkOutput {
    /// For the world.
    World(Output),
    /// Let our TURN servers pass on what comes from this address.
    Permit(IpAddr),
    /// The path in use died.
    PathDied,
    /// The peer was refused something.
    Refused(&'static str, String),
}

/// The link to one peer.
pub struct Link {
    id: LinkId,
    peer: PeerConfig,
    shared: Arc<Shared>,
    /// The run that the peer knows us by: the node's, or one of this link's own when the peer
    /// may remember an earlier link.
    incarnation: Incarnation,
    seed: Seed,
    signaling: Signaling,
    session: Option<Session>,
    sessions: u32,
    candidates: Vec<LocalCandidate>,
    candidate_lines: Vec<String>,
    flows: Flows,
    /// The peer said goodbye.
    goodbye: bool,
    /// We did.
    leaving: bool,
    /// The peer was taken out of the configuration.
    retired: bool,
    /// And was told so, or had its time to be.
    buried: bool,
    state: LinkState,
    since: Instant,
    tx_bytes: u64,
    rx_bytes: u64,
    outputs: VecDeque<LinkOutput>,
}

impl Link {
    /// A link that starts to look for its peer.
    pub fn new(id: LinkId, peer: PeerConfig, shared: Arc<Shared>, seed: Seed, now: Now) -> Link {
        let incarnation = shared.incarnation;
        Link::again(id, peer, shared, (incarnation, 0), seed, now)
    }

    /// A link that comes after others: to the peer, it is another run, whose messages begin to
    /// count anew; to us, its sessions are numbered after theirs.
    pub fn again(
        id: LinkId,
        peer: PeerConfig,
        shared: Arc<Shared>,
        (incarnation, sessions): (Incarnation, u32),
        seed: Seed,
        now: Now,
    ) -> Link {
        let us = shared.identity.clone();
        let mut signaling = Signaling::new(us, id, peer.key, incarnation, &seed);
        signaling.announce(now);
        Link {
            id,
            peer,
            shared,
            incarnation,
            seed,
            signaling,
            session: None,
            sessions,
            candidates: Vec::new(),
            candidate_lines: Vec::new(),
            flows: Flows::default(),
            goodbye: false,
            leaving: false,
            retired: false,
            buried: false,
            state: LinkState::Signaling,
            since: now.mono,
            tx_bytes: 0,
            rx_bytes: 0,
            outputs: VecDeque::new(),
        }
    }

    // ---- getters ----

    /// The peer.
    pub fn peer(&self) -> &PeerConfig {
        &self.peer
    }

    /// Where the link stands.
    pub fn state(&self) -> LinkState {
        self.state
    }

    /// Whether its peer was taken out of the configuration.
    pub fn is_retired(&self) -> bool {
        self.retired
    }

    /// Sessions so far.
    pub fn sessions(&self) -> u32 {
        self.sessions
    }

    /// Streams open now.
    pub fn streams(&self) -> usize {
        self.session.as_ref().map_or(0, |session| session.mux.len())
    }

    /// Datagrams of local applications that could not be sent.
    pub fn datagrams_dropped(&self) -> u64 {
        let session = self.session.as_ref();
        session.map_or(0, |session| session.mux.datagrams_dropped)
    }

    /// What the checks of the path in use measure, which unlike QUIC's own estimate holds no
    /// acknowledgement delay; QUIC's when there is none.
    fn rtt(&self) -> Option<Duration> {
        let session = self.session.as_ref()?;
        let path = session.ice.selected_path().and_then(|path| path.rtt);
        path.or_else(|| session.quic.peek().map(Connection::rtt))
    }

    /// What the link says of itself.
    pub fn status(&self, now: Instant) -> LinkStatus {
        let session = self.session.as_ref();
        let connection = session.and_then(|session| session.quic.peek());
        let incarnation = self.signaling.peer_incarnation();
        LinkStatus {
            peer: self.peer.id.clone(),
            vip: self.peer.vip,
            state: self.state,
            since_ms: now.saturating_duration_since(self.since).as_millis() as u64,
            sessions: self.sessions,
            epoch: self.signaling.epoch(),
            peer_incarnation: incarnation.map(|incarnation| incarnation.to_string()),
            paths: session.map_or_else(Vec::new, |session| session.ice.status(now)),
            rtt_us: self.rtt().map(|rtt| rtt.as_micros() as u64),
            streams: self.streams() as u32,
            tx_bytes: self.tx_bytes,
            rx_bytes: self.rx_bytes,
            lost_packets: connection.map_or(0, |c| c.stats().path.lost_packets),
            path_changes: session.map_or(0, |session| session.path_changes),
            mtu: connection.map_or(0, Connection::current_mtu),
        }
    }

    /// What can fill, and how full it is.
    pub fn queues(&self, queues: &mut Vec<Queue>) {
        let peer = &self.peer.id;
        let mut push = |what: &str, len: usize, max: usize| {
            queues.push(Queue::new(format!("link/{peer}/{what}"), len, max));
        };
        push("udp_flows", self.flows.len(), FLOWS_MAX);
        self.signaling.queues(&mut push);
        if let Some(session) = &self.session {
            session.mux.queues(&self.shared.limits, &mut push);
            session.ice.queues(&mut push);
        }
    }

    // ---- what happened ----

    /// Our candidates are these now.
    pub fn set_candidates(&mut self, now: Now, candidates: &[LocalCandidate], lines: &[String]) {
        self.candidates = candidates.to_vec();
        self.candidate_lines = lines.to_vec();
        if let Some(session) = &mut self.session {
            session.ice.set_local(now.mono, candidates);
        }
        self.signaling.announce(now);
        self.settle(now);
    }

    /// A broker handed over a message of the peer's.
    pub fn handle_envelope(&mut self, now: Now, envelope: &Envelope<'_>) -> Result<(), Rejected> {
        let other_run = self.signaling.peer_incarnation() != Some(envelope.incarnation);
        if planted!(IgnoreRestart) && self.session.is_some() && other_run {
            return Err(Rejected::Unproven);
        }
        let outcome = self.signaling.handle(now, envelope);
        if let Ok(news) = &outcome {
            self.on_news(now, news);
        }
        self.settle(now);
        outcome.map(|_| ())
    }

    fn on_news(&mut self, now: Now, news: &News) {
        if news.restarted {
            if self.session.is_some() || self.sessions > 0 {
                mark!("link/peer-restarted");
                self.say(Event::PeerRestarted {
                    peer: self.peer.id.clone(),
                    incarnation: self
                        .signaling
                        .peer_incarnation()
                        .map_or_else(String::new, |incarnation| incarnation.to_string()),
                });
            }
            self.goodbye = false;
            self.end_session();
        }
        if news.goodbye {
            self.peer_leaves(now);
            return;
        }
        if self.leaving {
            return;
        }
        let epoch = self.signaling.epoch();
        if self
            .session
            .as_ref()
            .is_some_and(|session| session.epoch < epoch)
        {
            mark!("link/peer-epoch-higher");
            self.end_session();
        }
        if let Some(remote) = &news.credentials {
            self.goodbye = false;
            if self.session.is_none() {
                self.start_session(now, remote.clone(), epoch);
            }
            if let Some(session) = &mut self.session {
                session.ice.set_remote(now.mono, &news.candidates);
                for ip in session.ice.remote_addresses() {
                    self.outputs.push_back(LinkOutput::Permit(ip));
                }
            }
        }
    }

    /// A STUN message for this link.
    pub fn handle_stun(
        &mut self,
        now: Now,
        base: Base,
        from: SocketAddr,
        data: &[u8],
    ) -> StunVerdict {
        let Some(session) = &mut self.session else {
            return StunVerdict::Rejected;
        };
        self.rx_bytes += data.len() as u64;
        let ice = &mut session.ice;
        let before = (ice.selected(), ice.is_connected());
        let verdict = ice.handle_stun(now.mono, base, from, data);
        if before != (ice.selected(), ice.is_connected()) {
            self.settle(now);
        }
        verdict
    }

    /// Whether this answers a check of our own watch over paths.
    pub fn has_asked(&self, id: TransactionId) -> bool {
        let session = self.session.as_ref();
        session.is_some_and(|session| session.ice.has_asked(id))
    }

    /// A QUIC packet for this link. Returns whether it was one.
    pub fn handle_packet(&mut self, now: Now, data: BytesMut, ecn: u8) -> bool {
        let Some(session) = &mut self.session else {
            return false;
        };
        let len = data.len() as u64;
        let taken = session.quic.handle_packet(now.mono, data, ecn);
        if taken {
            self.rx_bytes += len;
            self.settle(now);
        }
        taken
    }

    /// Nothing listens where a datagram was delivered.
    pub fn udp_refused(&mut self, now: Now, source: u16, to: SocketAddr) {
        self.flows.refused(now.mono, source, to, self.shared.vip);
    }

    /// This node is stopping: the peer knows at once, streams may end by themselves.
    pub fn say_goodbye(&mut self, now: Now) {
        mark!("signal/goodbye-said");
        self.leaving = true;
        self.signaling.goodbye(now);
        if let Some(session) = &mut self.session
            && session.confirmed
            && let Some(connection) = session.quic.connection()
        {
            session.mux.send_frame(connection, &Frame::Goodbye);
        }
        self.settle(now);
    }

    /// Policy is this now. Streams that are open go on; datagrams and new streams meet it.
    pub fn set_shared(&mut self, shared: Arc<Shared>) {
        if let Some(session) = &mut self.session {
            session.mux.set_allow(shared.allow.clone());
        }
        self.shared = shared;
    }

    /// The peer is none any more: it is told, and everything ends.
    pub fn retire(&mut self, now: Now) {
        mark!("signal/goodbye-said");
        self.signaling.goodbye(now);
        let confirmed = self.session.as_ref().is_some_and(|s| s.confirmed);
        let session = self.session.as_ref();
        let open: Vec<u64> = session.map_or_else(Vec::new, |s| s.mux.open_streams().collect());
        for quic in open {
            let stream = self.stream_id(quic);
            let reason = ResetReason::LinkDown;
            self.world(Output::Reset { stream, reason });
        }
        // The ids of its streams mean nothing any more.
        self.sessions += 1;
        (self.leaving, self.goodbye, self.retired) = (true, true, true);
        match confirmed {
            true => self.close(now),
            false => self.session = None,
        }
        self.enter(now, LinkState::Idle, "taken out of the configuration");
    }

    /// After [`Link::retire`]: nothing is left but its number.
    pub fn bury(&mut self) {
        self.buried = true;
        self.session = None;
        self.flows = Flows::default();
        self.candidates.clear();
        self.candidate_lines.clear();
    }

    /// Close the connection, whatever flows.
    pub fn close(&mut self, now: Now) {
        if let Some(session) = &mut self.session
            && !session.closed
        {
            session.closed = true;
            session.quic.close(now.mono, CLOSE_GOODBYE, b"goodbye");
        }
    }

    /// Whether nothing flows any more, and nothing will.
    pub fn is_closed(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.closed)
    }

    /// Whether the goodbye has been handed out.
    pub fn has_said_goodbye(&self) -> bool {
        self.buried || self.signaling.has_said_goodbye()
    }

    /// Time passed.
    pub fn handle_deadline(&mut self, now: Now) {
        if let Some(session) = &mut self.session {
            if session.ice.deadline().is_some_and(|(at, _)| at <= now.mono) {
                session.ice.handle_deadline(now.mono);
            }
            if session.connected {
                session.quic.handle_deadline(now.mono);
            }
            let past = |since: Option<Instant>, time| since.is_some_and(|at| now.mono >= at + time);
            let grace = self.shared.limits.path_loss_grace;
            if past(session.handshake_since, HANDSHAKE_TIMEOUT) {
                self.connection_lost(now, "the QUIC handshake took too long");
            } else if past(session.pathless_since, grace) && !planted!(NeverExpireSession) {
                mark!("link/grace-ran-out");
                self.connection_lost(now, "no path for too long");
            }
        }
        self.settle(now);
    }

    /// When to call [`Link::handle_deadline`], and why.
    pub fn deadline(&mut self) -> Option<(Instant, &'static str)> {
        if self.buried {
            return None;
        }
        let signal = self.signaling.deadline().map(|at| (at, "signaling"));
        let grace = self.shared.limits.path_loss_grace;
        let session = self.session.as_mut().and_then(|s| s.deadline(grace));
        [signal, session]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    // ---- what to do ----

    /// What to tell the node. Poll until `None` after every other call.
    pub fn poll_output(&mut self, now: Now) -> Option<LinkOutput> {
        if !self.buried
            && let Some(envelope) = self.signaling.poll(now, &self.candidate_lines)
        {
            let to = self.peer.key;
            self.outputs
                .push_back(LinkOutput::World(Output::Signal { to, envelope }));
        }
        self.outputs.pop_front()
    }

    /// The next datagrams, appended to `buf`. Checks first; QUIC only once a path is chosen.
    pub fn poll_transmit(
        &mut self,
        now: Now,
        segments_max: usize,
        buf: &mut Vec<u8>,
    ) -> Option<LinkTransmit> {
        let session = self.session.as_mut()?;
        if let Some(check) = session.ice.poll_transmit() {
            buf.extend_from_slice(&check.contents);
            self.tx_bytes += check.contents.len() as u64;
            return Some(LinkTransmit {
                pair: check.pair,
                len: check.contents.len(),
                segment_size: None,
                ecn: 0,
                asks: check.asks,
            });
        }
        let pair = session.path?;
        let (len, segment_size, ecn) = session.quic.poll_transmit(now.mono, segments_max, buf)?;
        if let Some(connection) = session.quic.connection() {
            session.mux.packets_left(connection);
        }
        self.tx_bytes += len as u64;
        Some(LinkTransmit {
            pair,
            len,
            segment_size,
            ecn,
            asks: None,
        })
    }

    // ---- streams and datagrams ----

    fn open_session(&mut self, session: u32) -> Result<(&mut Mux, &mut Connection), StreamClosed> {
        let closed = StreamClosed {
            reason: ResetReason::LinkDown,
        };
        if session != self.sessions {
            return Err(closed);
        }
        let session = self.session.as_mut().ok_or(closed)?;
        let connection = session.quic.connection().ok_or(closed)?;
        Ok((&mut session.mux, connection))
    }

    /// Open a stream to the peer's port.
    pub fn stream_open(&mut self, now: Now, port: u16) -> Result<StreamId, OpenError> {
        if !matches!(self.state, LinkState::Up | LinkState::Down) {
            mark!("stream/link-not-up");
            return Err(OpenError::LinkNotUp);
        }
        let current = self.sessions;
        let (mux, connection) = self
            .open_session(current)
            .map_err(|_| OpenError::LinkNotUp)?;
        let quic = mux.open(connection, port)?;
        self.settle(now);
        Ok(StreamId {
            link: self.id,
            session: current,
            quic,
        })
    }

    /// Take bytes from the front of `chunks`; returns how many.
    pub fn stream_write(
        &mut self,
        stream: StreamId,
        chunks: &mut [Bytes],
    ) -> Result<usize, StreamClosed> {
        let (mux, connection) = self.open_session(stream.session)?;
        mux.write(connection, stream.quic, chunks)
    }

    /// The next bytes of a stream, at most `max`.
    pub fn stream_read(&mut self, stream: StreamId, max: usize) -> Result<Read, StreamClosed> {
        let (mux, connection) = self.open_session(stream.session)?;
        mux.read(connection, stream.quic, max)
    }

    /// Close the sending half.
    pub fn stream_finish(&mut self, stream: StreamId) {
        if let Ok((mux, connection)) = self.open_session(stream.session) {
            mux.finish(connection, stream.quic);
        }
    }

    /// Give a stream up in both directions.
    pub fn stream_reset(&mut self, stream: StreamId, reason: ResetReason) {
        if let Ok((mux, connection)) = self.open_session(stream.session) {
            mux.reset(connection, stream.quic, reason);
        }
    }

    /// A local application at `from` sent a datagram to the peer's port.
    pub fn udp_send(&mut self, now: Now, port: u16, from: SocketAddr, payload: &[u8]) {
        if self.state != LinkState::Up {
            mark!("datagram/link-not-up");
            let what = LinkOutput::Refused("udp_link_not_up", format!("port {port}"));
            self.outputs.push_back(what);
            return;
        }
        self.flows.sent(now.mono, port, from);
        let current = self.sessions;
        if let Ok((mux, connection)) = self.open_session(current) {
            mux.send_datagram(connection, from.port(), port, payload);
        }
    }

    // ---- the session ----

    fn start_session(&mut self, now: Now, remote: IceCredentials, epoch: u32) {
        let own = self
            .signaling
            .own_credentials()
            .expect("a session begins with an accepted peer");
        self.sessions += 1;
        let seed = self.seed.fork(&format!("session/{}", self.sessions));
        let mut session = Session::new(
            self.id,
            &self.peer,
            &self.shared,
            (own, remote),
            epoch,
            &seed,
            now,
        );
        session.ice.set_local(now.mono, &self.candidates);
        self.session = Some(session);
        self.signaling.set_quiet(now, false);
    }

    /// Everything of the session is gone; its streams are told.
    fn end_session(&mut self) {
        let Some(session) = self.session.take() else {
            return;
        };
        if self.retired {
            // They were told when it was.
            return;
        }
        for quic in session.mux.open_streams() {
            mark!("link/streams-cut");
            let stream = self.stream_id(quic);
            let reason = ResetReason::LinkDown;
            self.world(Output::Reset { stream, reason });
        }
    }

    fn connection_lost(&mut self, now: Now, why: &'static str) {
        self.end_session();
        if self.goodbye || self.leaving {
            return;
        }
        mark!("link/epoch-restarted");
        self.signaling.bump_epoch(now);
        self.enter(now, LinkState::Signaling, why);
        self.signaling.set_quiet(now, false);
    }

    /// The peer stops. What flows may go on until it closes the connection.
    fn peer_leaves(&mut self, now: Now) {
        if self
            .session
            .as_ref()
            .is_some_and(|session| !session.confirmed)
        {
            self.end_session();
        }
        mark!("link/peer-goodbye");
        self.goodbye = true;
        self.signaling.set_quiet(now, true);
        self.enter(now, LinkState::Idle, "the peer said goodbye");
    }

    fn peer_left(&mut self, now: Now) {
        self.end_session();
        self.peer_leaves(now);
    }

    /// Follow up on whatever the last call changed, until nothing changes any more.
    fn settle(&mut self, now: Now) {
        self.follow_path(now);
        self.start_handshake(now);
        self.drain_quic(now);
        self.drain_mux(now);
        if self.leaving && self.streams() == 0 {
            self.close(now);
        }
        self.update_state(now);
    }

    /// Tell QUIC when the chosen pair is another one.
    fn follow_path(&mut self, now: Now) {
        let Some(session) = &mut self.session else {
            return;
        };
        if session.update_connected(now.mono) {
            self.outputs.push_back(LinkOutput::PathDied);
        }
        let Some(path) = session.ice.selected_path() else {
            return;
        };
        let (selected, kind) = (Some(path.pair), Some(path.remote_kind));
        let is_relay = path.class() == "relay";
        let is_other_kind = std::mem::replace(&mut session.remote_kind, kind) != kind;
        if selected == session.path {
            if is_other_kind {
                // What was peer-reflexive may be told later (RFC 8445 section 7.3.1.3).
                self.tell_path("the peer told what it is");
            }
            return;
        }
        let previous = std::mem::replace(&mut session.path, selected);
        let mut why = "the first path that works";
        if is_relay {
            mark!("path/relayed");
        }
        if previous.is_none() {
            mark!("path/first");
        }
        if let Some(previous) = previous {
            session.path_changes += 1;
            session.quic.path_changed(now.mono);
            let died = !session.ice.works(previous);
            if died {
                self.outputs.push_back(LinkOutput::PathDied);
            }
            why = if died {
                mark!("path/switched-dead");
                "the previous path died"
            } else {
                mark!("path/switched-better");
                "a better path works"
            };
            if died
                && session.confirmed
                && let Some(connection) = session.quic.connection()
            {
                session.mux.send_frame(connection, &Frame::PathDead);
            }
        }
        self.tell_path(why);
    }

    /// Say which path is in use.
    fn tell_path(&mut self, why: &'static str) {
        let session = self.session.as_ref();
        let Some(path) = session.and_then(|session| session.ice.selected_path()) else {
            return;
        };
        let (pair, class) = (path.pair, path.class());
        let kind = match pair.base {
            Base::Host(_) => "host",
            Base::Relay(_) => "relay",
        };
        self.say(Event::PathSelected {
            peer: self.peer.id.clone(),
            local: format!("{kind} {}", pair.base.addr()),
            remote: format!("{} {}", path.remote_kind.as_str(), pair.remote),
            class,
            why,
        });
    }

    fn start_handshake(&mut self, now: Now) {
        if let Some(session) = &mut self.session
            && session.path.is_some()
            && session.handshake_since.is_none()
            && !session.confirmed
        {
            session.handshake_since = Some(now.mono);
            if session.quic.role() == Role::Client {
                session.quic.connect(now.mono);
            }
        }
    }

    fn drain_quic(&mut self, now: Now) {
        while let Some(session) = &mut self.session
            && let Some(event) = session.quic.poll_event()
        {
            match event {
                quic::Event::Connected => self.say_hello(),
                quic::Event::ConnectionLost { reason } => self.on_connection_lost(now, &reason),
                quic::Event::Stream(event) => {
                    if let Some(connection) = session.quic.connection() {
                        session.mux.handle_event(connection, event);
                    }
                }
                quic::Event::DatagramReceived => {
                    if let Some(connection) = session.quic.connection() {
                        session.mux.read_datagrams(connection);
                    }
                }
                quic::Event::HandshakeDataReady | quic::Event::DatagramsUnblocked => {}
            }
        }
    }

    fn on_connection_lost(&mut self, now: Now, reason: &ConnectionError) {
        let goodbye = matches!(
            reason,
            ConnectionError::ApplicationClosed(close)
                if close.error_code.into_inner() == u64::from(CLOSE_GOODBYE)
        );
        match reason {
            _ if goodbye => self.peer_left(now),
            // We closed it ourselves; the peer has yet to be told with the next packets.
            ConnectionError::LocallyClosed => {}
            ConnectionError::TimedOut => self.connection_lost(now, "no path for too long"),
            ConnectionError::TransportError(error) => {
                let detail = error.to_string();
                let refused = LinkOutput::Refused("quic_handshake_failed", detail);
                self.outputs.push_back(refused);
                self.connection_lost(now, "QUIC failed");
            }
            _ => self.connection_lost(now, "the connection was closed"),
        }
    }

    fn say_hello(&mut self) {
        let own = self.incarnation.0;
        let peer = self.signaling.peer_incarnation();
        let Some(session) = &mut self.session else {
            return;
        };
        let hello = Frame::Hello {
            own,
            peer: peer.map_or([0; 16], |incarnation| incarnation.0),
            epoch: session.epoch,
        };
        if let Some(connection) = session.quic.connection()
            && !session.said_hello
        {
            session.said_hello = true;
            session.mux.send_frame(connection, &hello);
        }
    }

    fn drain_mux(&mut self, now: Now) {
        while let Some(session) = &mut self.session
            && let Some(event) = session.mux.poll_event()
        {
            match event {
                _ if self.retired => {}
                MuxEvent::Incoming { id, port } => {
                    let loopback = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
                    let to = [self.shared.vip.addr(), loopback];
                    let output = Output::Incoming {
                        stream: self.stream_id(id),
                        from: self.peer.vip.addr(),
                        to: to.map(|ip| SocketAddr::new(ip, port)),
                    };
                    self.world(output);
                }
                MuxEvent::Readable(id) => self.world(Output::Readable(self.stream_id(id))),
                MuxEvent::Writable(id) => self.world(Output::Writable(self.stream_id(id))),
                MuxEvent::Broken(id, reason) => {
                    let stream = self.stream_id(id);
                    self.world(Output::Reset { stream, reason });
                }
                MuxEvent::Datagram {
                    source,
                    port,
                    payload,
                } => self.deliver(now, source, port, payload),
                MuxEvent::Frame(frame) => self.on_frame(now, &frame),
                MuxEvent::Refused(counter, detail) => {
                    let refused = LinkOutput::Refused(counter, detail);
                    self.outputs.push_back(refused);
                }
            }
        }
    }

    fn on_frame(&mut self, now: Now, frame: &Frame) {
        let expected_peer = self.signaling.peer_incarnation().map(|inc| inc.0);
        let Some(session) = &mut self.session else {
            return;
        };
        match frame {
            Frame::Hello { own, peer, epoch } => {
                let right = Some(*own) == expected_peer
                    && *peer == self.incarnation.0
                    && *epoch == session.epoch;
                if right {
                    session.confirmed = true;
                    session.handshake_since = None;
                    session.pathless_since = (!session.connected).then_some(now.mono);
                } else {
                    let code = CLOSE_WRONG_SESSION;
                    session.quic.close(now.mono, code, b"another session");
                    self.connection_lost(now, "the peer is in another session");
                }
            }
            Frame::PathDead => {
                mark!("path/doubted-by-peer");
                session.ice.doubt_selected(now.mono);
            }
            Frame::Goodbye => self.peer_leaves(now),
            Frame::Unknown(_) => {}
        }
    }

    fn deliver(&mut self, now: Now, source: u16, port: u16, payload: Bytes) {
        let shared = &self.shared;
        let target = self
            .flows
            .target(now.mono, source, port, shared.vip, &shared.allow);
        let output = match target {
            Some(to) => {
                if planted!(DuplicateDatagram, 16) {
                    self.world(Output::Udp {
                        link: self.id,
                        peer_port: source,
                        to,
                        payload: payload.clone(),
                    });
                }
                LinkOutput::World(Output::Udp {
                    link: self.id,
                    peer_port: source,
                    to,
                    payload: altered(payload),
                })
            }
            None => LinkOutput::Refused(
                "port_not_allowed",
                format!("UDP port {port} is not on the allowlist"),
            ),
        };
        self.outputs.push_back(output);
    }

    fn update_state(&mut self, now: Now) {
        if self.goodbye {
            return;
        }
        let Some(session) = &self.session else {
            if self.state != LinkState::Signaling {
                self.enter(now, LinkState::Signaling, "no session");
            }
            return;
        };
        let (state, why) = match (session.confirmed, session.ice.is_connected()) {
            (false, _) => (LinkState::Connecting, "the peer is known"),
            (true, true) => (LinkState::Up, "a path works"),
            (true, false) => (LinkState::Down, "no path works"),
        };
        if state != self.state {
            match state {
                LinkState::Up => mark!("link/up"),
                LinkState::Down => mark!("link/down"),
                _ => {}
            }
            self.enter(now, state, why);
            self.signaling.set_quiet(now, state == LinkState::Up);
        }
    }

    fn enter(&mut self, now: Now, to: LinkState, why: &'static str) {
        let from = std::mem::replace(&mut self.state, to);
        if from != to {
            self.since = now.mono;
            let peer = self.peer.id.clone();
            self.say(Event::LinkState {
                peer,
                from,
                to,
                why,
            });
        }
    }

    fn stream_id(&self, quic: u64) -> StreamId {
        StreamId {
            link: self.id,
            session: self.sessions,
            quic,
        }
    }

    fn say(&mut self, event: Event) {
        self.world(Output::Event(event));
    }

    fn world(&mut self, output: Output) {
        self.outputs.push_back(LinkOutput::World(output));
    }
}

/// The payload as it is. In a simulation it may have one bit changed, to see that noticed.
fn altered(payload: Bytes) -> Bytes {
    if !planted!(AlteredDatagram, 16) || payload.is_empty() {
        return payload;
    }
    let mut altered = payload.to_vec();
    let last = altered.len() - 1;
    altered[last] ^= 1;
    altered.into()
}
