//! A node: all its links over one UDP socket.
//!
//! The mesh holds policy, addresses and a demultiplexer; a link's bytes pass through it
//! untouched. A datagram finds its link in this order:
//!
//! 1. The source is one of our TURN servers: unwrap it and start again with the peer's
//!    address. (ChannelData begins with 0x40 to 0x4F, which lies inside QUIC's short headers.)
//! 2. STUN by its magic cookie: a request by its user fragment, an answer by its transaction.
//! 3. QUIC by connection id.
//!
//! What fits nowhere is counted and dropped: strangers get no answer.

mod api;
mod counters;
mod gather;
mod reload;
mod trace;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

pub use api::{
    Event, Input, OpenError, Output, Read, Received, ResetReason, StreamClosed, TcpAction,
    TcpEvent, Transmit,
};

use crate::bucket::{Bucket, Rate};
use crate::config::{Config, ConfigError};
use crate::entropy::Seed;
use crate::ice::{Base, LocalCandidate, StunVerdict, TransactionId};
use crate::link::{Link, LinkOutput, LinkTransmit, Shared};
use crate::mux::DATAGRAM_LEN_MAX;
use crate::quic::link_of_packet;
use crate::recorder::{Record, Recorder};
use crate::signal::envelope::{Envelope, EnvelopeError};
use crate::signal::{Rejected, link_of_ufrag};
use crate::status::{Counter, LinkState, Queue, Status};
use crate::stun::{is_stun, transaction_id};
use crate::time::Now;
use crate::types::{Incarnation, LinkId, PeerId, StreamId, Vip};
use counters::Counters;
use gather::Gather;
pub use reload::{ReloadError, Reloaded};

/// Most STUN transactions whose link is remembered.
const TRANSACTIONS_MAX: usize = 8192;
/// Outputs that one call can leave for each link, besides those of its streams.
const OUTPUTS_PER_LINK: usize = 1024;
/// Envelopes whose signatures are checked at once. Brokers hand over at most one per peer
/// and change; a hostile one must not keep us busy.
const SIGNALS: Rate = Rate {
    burst: 1024,
    every: Duration::from_millis(5),
};

/// A node: its links, its addresses, its policy.
pub struct Mesh {
    id: PeerId,
    shared: Arc<Shared>,
    links: Vec<Link>,
    gather: Gather,
    /// What the gathering waits for: asked for far more often than it changes.
    gather_deadline: Option<(Instant, &'static str)>,
    started: Instant,
    /// Which link each key belongs to.
    keys: BTreeMap<[u8; 32], LinkId>,
    /// Deadlines of the links, earliest first, and each link's entry.
    deadlines: BTreeSet<(Instant, LinkId)>,
    deadline_of: Vec<Option<(Instant, &'static str)>>,
    /// Links that may have something to transmit, each at most once.
    ready: VecDeque<LinkId>,
    is_ready: Vec<bool>,
    /// Whose STUN transactions these are, and the order in which they were made.
    transactions: BTreeMap<[u8; 12], LinkId>,
    transaction_order: VecDeque<[u8; 12]>,
    /// What servers that come late draw from.
    seed: Seed,
    /// Signatures that may be checked now.
    signals: Bucket,
    counters: Counters,
    recorder: Recorder,
    scratch: Vec<u8>,
    outputs: VecDeque<Output>,
    stopping: bool,
    stopped: bool,
    /// How often [`Mesh::reload`] changed something.
    reloads: u64,
    /// Links whose peer was taken out: when they have had their time to say so.
    retiring: VecDeque<(Instant, LinkId)>,
    /// Numbers of links that are gone, and from when on they may be used again.
    vacant: VecDeque<(Instant, LinkId)>,
}

impl Mesh {
    /// A node that has yet to be told its addresses.
    pub fn new(config: Config, seed: Seed, now: Now) -> Result<Mesh, Vec<ConfigError>> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut peers = config.peers;
        peers.sort_by(|a, b| a.id.cmp(&b.id));
        let shared = Arc::new(Shared {
            id: config.id.clone(),
            identity: Arc::new(config.identity),
            vip: config.vip,
            incarnation: Incarnation(seed.fork("incarnation").rng().bytes()),
            allow: config.allow.into(),
            congestion: config.congestion,
            limits: config.limits,
        });
        let mut keys = BTreeMap::new();
        let mut links = Vec::with_capacity(peers.len());
        for (n, peer) in peers.into_iter().enumerate() {
            let id = LinkId(u16::try_from(n).expect("peers are limited"));
            keys.insert(*peer.key.as_bytes(), id);
            let seed = seed.fork(&format!("link/{}", peer.id));
            links.push(Link::new(id, peer, shared.clone(), seed, now));
        }
        let mut mesh = Mesh {
            id: config.id,
            gather: Gather::new(
                config.paths,
                config.udp_port,
                &config.stun,
                config.turn,
                &seed,
                now,
            ),
            gather_deadline: None,
            started: now.mono,
            keys,
            deadlines: BTreeSet::new(),
            deadline_of: vec![None; links.len()],
            ready: VecDeque::new(),
            is_ready: vec![false; links.len()],
            links,
            transactions: BTreeMap::new(),
            transaction_order: VecDeque::new(),
            seed: seed.fork("late servers"),
            signals: Bucket::new(SIGNALS, now.mono),
            counters: Counters::default(),
            recorder: Recorder::new(now.mono, shared.limits.recorder_len),
            scratch: Vec::new(),
            outputs: VecDeque::new(),
            stopping: false,
            stopped: false,
            reloads: 0,
            retiring: VecDeque::new(),
            vacant: VecDeque::new(),
            shared,
        };
        for n in 0..mesh.links.len() {
            mesh.touch(now, LinkId(n as u16));
        }
        Ok(mesh)
    }

    // ---- getters ----

    /// The links with their peers, in order.
    pub fn links(&self) -> impl Iterator<Item = (LinkId, &PeerId, Vip)> {
        let links = self.links.iter().enumerate();
        let live = links.filter(|(_, link)| !link.is_retired());
        live.map(|(n, link)| {
            let peer = link.peer();
            (LinkId(n as u16), &peer.id, peer.vip)
        })
    }

    /// Whether every stream has ended and everything that says goodbye was handed out.
    pub fn is_drained(&self) -> bool {
        self.stopped
            && self.gather.is_flushed()
            && self.ready.is_empty()
            && self.outputs.is_empty()
            && self.links.iter().all(Link::has_said_goodbye)
    }

    /// What the node says of itself.
    pub fn status(&self, now: Now) -> Status {
        let counter = |(name, value): (&'static str, u64)| Counter {
            name: name.into(),
            value,
        };
        let dropped = self.links.iter().map(Link::datagrams_dropped).sum();
        let dropped = ("udp_datagrams_dropped", dropped);
        Status {
            id: self.id.clone(),
            vip: self.shared.vip,
            incarnation: self.shared.incarnation.to_string(),
            uptime_ms: now.mono.saturating_duration_since(self.started).as_millis() as u64,
            candidates: self
                .gather
                .candidates()
                .iter()
                .map(|candidate| candidate.describe())
                .collect(),
            relays: self.gather.relays(),
            links: self.live().map(|link| link.status(now.mono)).collect(),
            counters: self.counters.iter().chain([dropped]).map(counter).collect(),
            queues: self.queues(),
        }
    }

    /// Everything of the node that can fill, and how full it is; without the flight recorder.
    pub fn queues(&self) -> Vec<Queue> {
        let transactions = self.transaction_order.len();
        let mut queues = vec![
            Queue::new("node/transactions", transactions, TRANSACTIONS_MAX),
            Queue::new("node/outputs", self.outputs.len(), self.outputs_max()),
        ];
        self.gather.queues(&mut queues);
        self.live().for_each(|link| link.queues(&mut queues));
        queues
    }

    fn live(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(|link| !link.is_retired())
    }

    /// What one call can leave to poll: a word per stream when all links restart, and a full
    /// buffer of the smallest datagrams.
    fn outputs_max(&self) -> usize {
        let limits = &self.shared.limits;
        let streams = limits.streams_per_link as usize * 4;
        (streams + OUTPUTS_PER_LINK) * self.links.len().max(1)
    }

    /// The state of one link, without the cost of a whole status. `None`: there is none.
    pub fn link_state(&self, link: LinkId) -> Option<LinkState> {
        let link = self.links.get(link.index())?;
        (!link.is_retired()).then(|| link.state())
    }

    /// The flight recorder.
    pub fn recorder(&mut self) -> &mut Recorder {
        &mut self.recorder
    }

    /// The flight recorder's content, oldest first: one JSON object per line.
    pub fn dump(&self, out: &mut Vec<String>) {
        out.extend(self.recorder.lines());
    }

    // ---- what happened ----

    /// Something happened.
    pub fn handle(&mut self, now: Now, input: Input) {
        trace::input(&mut self.recorder, now, &input);
        match input {
            Input::LocalAddresses(addresses) => {
                let changed = self.gather.set_addresses(now, &addresses);
                self.candidates_changed(now, changed);
            }
            Input::Servers { stun, turn } => {
                self.gather.add_servers(now, &stun, turn, &self.seed);
            }
            Input::Signal(envelope) => self.handle_signal(now, &envelope),
            Input::TurnTcp { conn, event } => {
                let mut relayed = Vec::new();
                let changed = self.gather.handle_tcp(now, conn, event, &mut relayed);
                self.candidates_changed(now, changed);
                self.handle_relayed(now, relayed);
            }
            Input::IncomingRefused { stream } => {
                self.stream_reset(now, stream, ResetReason::Refused);
            }
            Input::UdpRefused {
                link,
                peer_port,
                to,
            } => {
                if let Some(link) = self.links.get_mut(link.index()) {
                    link.udp_refused(now, peer_port, to);
                }
            }
            Input::Goodbye => {
                self.stopping = true;
                self.each_link(now, Link::say_goodbye);
            }
            Input::Stop => self.each_link(now, Link::close),
        }
        self.drain_gather();
    }

    /// Time passed.
    pub fn handle_deadline(&mut self, now: Now) {
        if let Some((at, why)) = self.gather_deadline
            && at <= now.mono
        {
            self.recorder.record(now.mono, Record::Deadline { why });
            let changed = self.gather.handle_deadline(now);
            self.candidates_changed(now, changed);
            self.drain_gather();
        }
        self.bury(now);
        while let Some(&(at, link)) = self.deadlines.first()
            && at <= now.mono
        {
            if let Some((_, why)) = self.deadline_of[link.index()] {
                self.recorder.record(now.mono, Record::Deadline { why });
            }
            self.links[link.index()].handle_deadline(now);
            self.touch(now, link);
            if self.deadlines.first() == Some(&(at, link)) {
                // Due again at the very same moment: once per call is enough.
                break;
            }
        }
    }

    /// A datagram arrived on the node's UDP socket.
    pub fn handle_datagram(&mut self, now: Now, meta: Received, data: BytesMut) {
        let hash = self.recorder.hash(&data);
        let (from, len) = (meta.from, data.len());
        self.recorder
            .record(now.mono, Record::Rx { from, len, hash });

        if is_stun(&data)
            && let Some(changed) = self.gather.handle_stun(now, meta.from, &data)
        {
            self.candidates_changed(now, changed);
        } else if self.gather.is_turn_server(meta.from) {
            let mut relayed = Vec::new();
            let changed = self.gather.handle_turn(now, meta.from, data, &mut relayed);
            self.candidates_changed(now, changed);
            self.handle_relayed(now, relayed);
        } else if let Some(host) = self.gather.host(meta.to) {
            self.route(now, Base::Host(host), meta.from, meta.ecn, data);
            return;
        }
        self.drain_gather();
    }

    fn handle_relayed(&mut self, now: Now, relayed: Vec<(SocketAddr, SocketAddr, BytesMut)>) {
        for (own, peer, data) in relayed {
            self.route(now, Base::Relay(own), peer, 0, data);
        }
    }

    // ---- what to do ----

    /// When to call [`Mesh::handle_deadline`], and why.
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        let link = self
            .deadlines
            .first()
            .and_then(|(_, link)| self.deadline_of[link.index()]);
        let retiring = self.retiring.front();
        let retiring = retiring.map(|(at, _)| (*at, "a peer that is none any more was told"));
        [link, self.gather_deadline, retiring]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    /// What to do. Poll until `None` after every other call.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The next datagrams to send: appended to `buf`, at most `segments_max` of equal size
    /// (the last may be shorter). Poll only when the socket can take them.
    pub fn poll_transmit(
        &mut self,
        now: Now,
        buf: &mut Vec<u8>,
        segments_max: usize,
    ) -> Option<Transmit> {
        let start = buf.len();
        let transmit = self.next_transmit(now, buf, segments_max)?;
        let record = Record::Tx {
            to: transmit.to,
            len: transmit.len,
            segment: transmit.segment_size.unwrap_or(transmit.len),
            hash: self.recorder.hash(&buf[start..]),
        };
        self.recorder.record(now.mono, record);
        Some(transmit)
    }

    fn next_transmit(
        &mut self,
        now: Now,
        buf: &mut Vec<u8>,
        segments_max: usize,
    ) -> Option<Transmit> {
        if let Some((to, bytes)) = self.gather.poll_datagram() {
            buf.extend_from_slice(&bytes);
            return Some(plain(to, bytes.len()));
        }
        while let Some(&id) = self.ready.front() {
            let start = buf.len();
            let link = &mut self.links[id.index()];
            let Some(out) = link.poll_transmit(now, segments_max.max(1), buf) else {
                self.ready.pop_front();
                self.is_ready[id.index()] = false;
                self.refresh_deadline(id);
                continue;
            };
            // The next link's turn comes first.
            self.ready.rotate_left(1);
            if let Some(asks) = out.asks {
                self.note_asked(id, asks);
            }
            let transmit = match out.pair.base {
                Base::Host(local) => Some(Transmit {
                    to: out.pair.remote,
                    src: Some(local.ip()),
                    len: out.len,
                    segment_size: out.segment_size.filter(|size| *size < out.len),
                    ecn: out.ecn,
                }),
                Base::Relay(relayed) => {
                    self.scratch.clear();
                    self.scratch.extend_from_slice(&buf[start..]);
                    buf.truncate(start);
                    self.transmit_relayed(now, relayed, &out, buf)
                }
            };
            if transmit.is_some() {
                return transmit;
            }
        }
        if self.stopping && !self.stopped && self.links.iter().all(Link::is_closed) {
            // Goodbyes may go through the relays, so these are given back last.
            self.stopped = true;
            self.gather.stop(now);
            self.drain_gather();
            return self.next_transmit(now, buf, segments_max);
        }
        None
    }

    fn transmit_relayed(
        &mut self,
        now: Now,
        relayed: SocketAddr,
        out: &LinkTransmit,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let start = buf.len();
        let sent = self.gather.relay(
            now,
            relayed,
            out.pair.remote,
            &self.scratch,
            out.segment_size,
            buf,
        );
        self.drain_gather();
        let (to, segment_size) = sent?;
        Some(Transmit {
            segment_size,
            ..plain(to, buf.len() - start)
        })
    }

    /// Remember where the answer to a check belongs.
    fn note_asked(&mut self, link: LinkId, id: TransactionId) {
        if self.transactions.insert(id, link).is_some() {
            return;
        }
        self.transaction_order.push_back(id);
        if self.transaction_order.len() > TRANSACTIONS_MAX
            && let Some(oldest) = self.transaction_order.pop_front()
        {
            self.transactions.remove(&oldest);
        }
    }

    /// The link that made the check with this id: its own checks name it.
    fn asker(&self, id: TransactionId) -> Option<LinkId> {
        let named = LinkId(u16::from_be_bytes([id[0], id[1]]));
        match self.links.get(named.index()) {
            Some(link) if link.has_asked(id) => Some(named),
            _ => self.transactions.get(&id).copied(),
        }
    }

    // ---- streams and datagrams ----

    /// Open a stream to a port of a peer.
    pub fn stream_open(
        &mut self,
        now: Now,
        link: LinkId,
        port: u16,
    ) -> Result<StreamId, OpenError> {
        let stream = self
            .links
            .get_mut(link.index())
            .ok_or(OpenError::LinkNotUp)?
            .stream_open(now, port);
        self.touch(now, link);
        stream
    }

    /// Take bytes from the front of `chunks` (whole chunks are taken out, the last may be
    /// split); returns how many. Fewer than offered means blocked: [`Output::Writable`] follows.
    pub fn stream_write(
        &mut self,
        now: Now,
        stream: StreamId,
        chunks: &mut [Bytes],
    ) -> Result<usize, StreamClosed> {
        let written = self.link_of(stream)?.stream_write(stream, chunks);
        self.touch(now, stream.link);
        written
    }

    /// The next bytes of a stream, at most `max`.
    pub fn stream_read(
        &mut self,
        now: Now,
        stream: StreamId,
        max: usize,
    ) -> Result<Read, StreamClosed> {
        let read = self.link_of(stream)?.stream_read(stream, max);
        self.touch(now, stream.link);
        read
    }

    /// Close the sending half: everything written before arrives first.
    pub fn stream_finish(&mut self, now: Now, stream: StreamId) {
        if let Ok(link) = self.link_of(stream) {
            link.stream_finish(stream);
            self.touch(now, stream.link);
        }
    }

    /// Give the stream up in both directions; the peer sees `reason`.
    pub fn stream_reset(&mut self, now: Now, stream: StreamId, reason: ResetReason) {
        if let Ok(link) = self.link_of(stream) {
            link.stream_reset(stream, reason);
            self.touch(now, stream.link);
        }
    }

    fn link_of(&mut self, stream: StreamId) -> Result<&mut Link, StreamClosed> {
        self.links.get_mut(stream.link.index()).ok_or(StreamClosed {
            reason: ResetReason::LinkDown,
        })
    }

    /// A local application at `from` sent a datagram to a peer's port. Never blocks: what
    /// cannot be sent is dropped and counted, the oldest first.
    pub fn udp_send(
        &mut self,
        now: Now,
        link: LinkId,
        port: u16,
        from: SocketAddr,
        payload: Bytes,
    ) {
        if payload.len() > DATAGRAM_LEN_MAX {
            let detail = format!("{} bytes from {from}", payload.len());
            self.refuse("udp_oversize", detail);
            return;
        }
        if let Some(peer) = self.links.get_mut(link.index()) {
            peer.udp_send(now, port, from, &payload);
            self.touch(now, link);
        }
    }

    // ---- inside ----

    fn handle_signal(&mut self, now: Now, bytes: &[u8]) {
        // Strangers cost nothing: who it claims to be from is looked at before the signature.
        let claimed = Envelope::claimed_sender(bytes);
        let link = claimed.and_then(|key| self.keys.get(key).copied());
        if claimed.is_some() && link.is_none() {
            mark!("signal/stranger");
            return self.refuse("signal_stranger", "a key that is no peer's".into());
        }
        if !self.signals.take(now.mono) {
            return self.refuse(
                "signal_flood",
                "more envelopes than peers could send".into(),
            );
        }
        let envelope = match Envelope::parse(bytes) {
            Ok(envelope) => envelope,
            Err(error) => {
                if error == EnvelopeError::Forged {
                    mark!("signal/forged");
                }
                mark!("signal/malformed");
                return self.refuse("signal_malformed", error.to_string());
            }
        };
        let link = link.expect("an envelope that can be read names its sender");
        let outcome = self.links[link.index()].handle_envelope(now, &envelope);
        if let Err(error) = outcome {
            let counter = match error {
                Rejected::Envelope(_) | Rejected::Snapshot(_) | Rejected::WrongKey => {
                    "signal_rejected"
                }
                Rejected::Unproven => "signal_unproven",
                Rejected::Stale => "signal_stale",
            };
            let peer = &self.links[link.index()].peer().id;
            let detail = format!("from {peer}: {error}");
            match error {
                // Routine: every start of a peer begins with one, and brokers repeat.
                Rejected::Unproven | Rejected::Stale => drop(self.counters.count(counter)),
                _ => self.refuse(counter, detail),
            }
        }
        self.touch(now, link);
    }

    fn route(&mut self, now: Now, base: Base, from: SocketAddr, ecn: u8, data: BytesMut) {
        if is_stun(&data) {
            self.route_stun(now, base, from, &data);
            return;
        }
        let link = link_of_packet(&data).filter(|link| link.index() < self.links.len());
        let Some(link) = link else {
            mark!("stranger/packet");
            self.refuse(
                "packet_stranger",
                format!("{} bytes from {from}", data.len()),
            );
            return;
        };
        if !self.links[link.index()].handle_packet(now, data, ecn) {
            self.refuse("packet_rejected", format!("from {from}"));
        }
        self.touch(now, link);
    }

    fn route_stun(&mut self, now: Now, base: Base, from: SocketAddr, data: &[u8]) {
        let link = match ufrag_of_request(data) {
            Some(ufrag) => link_of_ufrag(ufrag),
            None => transaction_id(data).and_then(|id| self.asker(id)),
        };
        let Some(link) = link.filter(|link| link.index() < self.links.len()) else {
            mark!("stranger/stun");
            self.refuse("stun_stranger", format!("from {from}"));
            return;
        };
        match self.links[link.index()].handle_stun(now, base, from, data) {
            StunVerdict::Accepted => {}
            StunVerdict::Malformed => self.refuse("stun_malformed", format!("from {from}")),
            // Routine while one end is ahead of the other in signaling.
            StunVerdict::Rejected => drop(self.counters.count("stun_rejected")),
        }
        self.touch(now, link);
    }

    fn each_link(&mut self, now: Now, call: fn(&mut Link, Now)) {
        for n in 0..self.links.len() {
            if self.links[n].is_retired() {
                continue;
            }
            call(&mut self.links[n], now);
            self.touch(now, LinkId(n as u16));
        }
    }

    fn candidates_changed(&mut self, now: Now, changed: bool) {
        if !changed {
            return;
        }
        let candidates = self.gather.candidates().to_vec();
        let lines: Vec<String> = candidates
            .iter()
            .copied()
            .filter_map(LocalCandidate::to_line)
            .collect();
        for n in 0..self.links.len() {
            if self.links[n].is_retired() {
                continue;
            }
            self.links[n].set_candidates(now, &candidates, &lines);
            self.touch(now, LinkId(n as u16));
        }
    }

    /// A link's path died: without UDP, relays are reached over TCP.
    fn path_died(&mut self, now: Now) {
        self.gather.path_died(now);
        self.drain_gather();
    }

    /// A link was called: collect what it has to say, and note what it waits for.
    fn touch(&mut self, now: Now, id: LinkId) {
        let Some(link) = self.links.get_mut(id.index()) else {
            return;
        };
        let mut permits: BTreeSet<IpAddr> = BTreeSet::new();
        let mut refused = Vec::new();
        let mut path_died = false;
        while let Some(output) = link.poll_output(now) {
            match output {
                LinkOutput::World(output) => {
                    trace::output(&mut self.recorder, now, &output);
                    self.outputs.push_back(output);
                }
                LinkOutput::Permit(ip) => drop(permits.insert(ip)),
                LinkOutput::PathDied => path_died = true,
                LinkOutput::Refused(counter, detail) => refused.push((counter, detail)),
            }
        }
        for (counter, detail) in refused {
            self.refuse(counter, detail);
        }
        for ip in &permits {
            self.gather.permit(now, *ip);
        }
        if !permits.is_empty() {
            self.drain_gather();
        }
        if path_died {
            self.path_died(now);
        }
        if !self.is_ready[id.index()] {
            self.is_ready[id.index()] = true;
            self.ready.push_back(id);
        }
        self.refresh_deadline(id);
    }

    fn refresh_deadline(&mut self, id: LinkId) {
        let next = self.links[id.index()].deadline();
        let known = &mut self.deadline_of[id.index()];
        if known.map(|(at, _)| at) != next.map(|(at, _)| at) {
            if let Some((at, _)) = known {
                self.deadlines.remove(&(*at, id));
            }
            if let Some((at, _)) = next {
                self.deadlines.insert((at, id));
            }
        }
        *known = next;
    }

    fn drain_gather(&mut self) {
        while let Some(output) = self.gather.poll_output() {
            self.outputs.push_back(output);
        }
        self.gather_deadline = self.gather.deadline();
    }

    fn refuse(&mut self, counter: &'static str, detail: String) {
        if self.counters.count(counter) {
            let event = Event::Refused { counter, detail };
            self.outputs.push_back(Output::Event(event));
        }
    }
}

fn plain(to: SocketAddr, len: usize) -> Transmit {
    Transmit {
        to,
        src: None,
        len,
        segment_size: None,
        ecn: 0,
    }
}

/// The receiver's user fragment in a Binding request: the first half of its USERNAME
/// (RFC 8445 section 7.2.2), found without verifying anything.
fn ufrag_of_request(data: &[u8]) -> Option<&str> {
    const USERNAME: u16 = 0x0006;
    if data[..2] != [0, 1] {
        return None;
    }
    let mut rest = &data[20..];
    while let Some((header, body)) = rest.split_first_chunk::<4>() {
        let kind = u16::from_be_bytes([header[0], header[1]]);
        let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let value = body.get(..len)?;
        if kind == USERNAME {
            let username = std::str::from_utf8(value).ok()?;
            return Some(username.split_once(':')?.0);
        }
        rest = body.get(len.next_multiple_of(4)..)?;
    }
    None
}
