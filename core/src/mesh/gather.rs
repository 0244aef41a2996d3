//! Our own candidates (RFC 8445 section 5.1.1): interfaces, STUN servers, TURN servers.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::config::{PathPolicy, SERVERS_MAX, TurnServer, TurnTransport};
use crate::entropy::Seed;
use crate::ice::LocalCandidate;
use crate::mesh::{Event, Output, TcpAction, TcpEvent};
use crate::signal::snapshot::CANDIDATES_MAX;
use crate::status::{Queue, RelayStatus};
use crate::stun::Stun;
use crate::time::Now;
use crate::turn::{Turn, TurnOutput, TurnState};

/// Most addresses of this machine that are offered, in the order in which they were told.
const HOSTS_MAX: usize = 6;
/// How long UDP may fail to reach a TURN server before TCP is tried. A round trip to any
/// server is below it, and a node behind a UDP-blocking firewall waits for nothing else.
const TCP_AFTER: Duration = Duration::from_millis(350);

/// A NAT that gives out another address with each answer does not make us leave the brokers
/// each time.
const CHANGE_EVERY: Duration = Duration::from_secs(3);
/// Paths of several links die together, for one reason: the servers are asked once, and once more
/// after this time, for the answer may be older than what killed the last of them.
const DOUBT_EVERY: Duration = Duration::from_secs(1);
/// Datagrams for servers that wait to be sent at a time: they leave with the next poll, and a
/// TURN server is asked once per peer's address.
const UNSENT_MAX: usize = 4096;

/// Finds our candidates and keeps them.
pub struct Gather {
    policy: PathPolicy,
    udp_port: u16,
    hosts: Vec<IpAddr>,
    stun: Vec<Stun>,
    turn: Vec<Turn>,
    connections: Vec<Option<u32>>,
    next_connection: u32,
    tcp_at: Option<Instant>,
    /// Whether a path died since UDP was last known to work, and a server has answered since.
    udp_doubted: bool,
    udp_heard: bool,
    /// When the servers were last asked because a path died.
    doubted_at: Option<Instant>,
    /// When they are to be asked again, because another path died soon after.
    doubt_again_at: Option<Instant>,
    /// When a change of our public address was last told.
    changed_at: Option<Instant>,
    /// Whether our candidates have to be worked out again.
    dirty: bool,
    candidates: Vec<LocalCandidate>,
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    outputs: VecDeque<Output>,
}

impl Gather {
    /// Nothing is gathered until addresses are known.
    pub fn new(
        policy: PathPolicy,
        udp_port: u16,
        stun: &[SocketAddr],
        turn: Vec<TurnServer>,
        seed: &Seed,
        now: Now,
    ) -> Gather {
        let client = |(n, server): (usize, &SocketAddr)| {
            Stun::new(*server, &seed.fork(&format!("stun/{n}")), now.mono)
        };
        Gather {
            policy,
            udp_port,
            hosts: Vec::new(),
            stun: stun.iter().enumerate().map(client).collect(),
            connections: vec![None; turn.len()],
            turn: turn
                .into_iter()
                .map(|server| Turn::new(server, now))
                .collect(),
            next_connection: 0,
            tcp_at: None,
            udp_doubted: false,
            udp_heard: false,
            doubted_at: None,
            doubt_again_at: None,
            changed_at: None,
            dirty: false,
            candidates: Vec::new(),
            datagrams: VecDeque::new(),
            outputs: VecDeque::new(),
        }
    }

    /// More servers than were known at the start; those that are known stay as they are.
    pub fn add_servers(
        &mut self,
        now: Now,
        stun: &[SocketAddr],
        turn: Vec<TurnServer>,
        seed: &Seed,
    ) {
        for server in stun {
            let known = self.stun.iter().any(|client| client.server() == *server);
            if !known && self.stun.len() < SERVERS_MAX {
                let seed = seed.fork(&format!("stun/{server}"));
                self.stun.push(Stun::new(*server, &seed, now.mono));
            }
        }
        for server in turn {
            let same = |client: &Turn| {
                client.server() == server.addr && client.transport() == server.transport
            };
            if !self.turn.iter().any(same) && self.turn.len() < SERVERS_MAX {
                let mut client = Turn::new(server, now);
                if !self.hosts.is_empty() && client.transport() == TurnTransport::Udp {
                    client.start(now);
                }
                self.turn.push(client);
                self.connections.push(None);
            }
        }
        if !self.hosts.is_empty() {
            self.udp_doubted = false;
            self.tcp_at = Some(now.mono + TCP_AFTER);
        }
        self.run(now);
    }

    /// The servers are these now; those that stay as they are keep their allocations. Returns
    /// whether our candidates changed.
    pub fn set_servers(
        &mut self,
        now: Now,
        stun: &[SocketAddr],
        turn: Vec<TurnServer>,
        seed: &Seed,
    ) -> bool {
        self.stun.retain(|client| stun.contains(&client.server()));
        for at in (0..self.turn.len()).rev() {
            if !turn.contains(self.turn[at].config()) {
                self.leave_turn(now, at);
            }
        }
        self.dirty = true;
        if self.stun.len() < stun.len() || self.turn.len() < turn.len() {
            self.add_servers(now, stun, turn, seed);
        }
        self.refresh()
    }

    /// Give an allocation back, and forget its server.
    fn leave_turn(&mut self, now: Now, at: usize) {
        self.turn[at].stop(now);
        self.run(now);
        self.tcp(at, TcpAction::Close);
        self.turn.remove(at);
        self.connections.remove(at);
    }

    /// The port of the node's one socket.
    pub fn udp_port(&self) -> u16 {
        self.udp_port
    }

    /// Which candidates may be used.
    pub fn policy(&self) -> PathPolicy {
        self.policy
    }

    /// Our candidates.
    pub fn candidates(&self) -> &[LocalCandidate] {
        &self.candidates
    }

    /// The host candidate that a datagram to `ip` arrived at.
    pub fn host(&self, ip: Option<IpAddr>) -> Option<SocketAddr> {
        let known = ip.filter(|ip| self.hosts.contains(ip));
        let host = known.or_else(|| self.hosts.first().copied())?;
        Some(SocketAddr::new(host, self.udp_port))
    }

    /// The machine's addresses are these now. Returns whether our candidates changed.
    pub fn set_addresses(&mut self, now: Now, addresses: &[IpAddr]) -> bool {
        let mut hosts = Vec::new();
        for ip in addresses {
            if hosts.len() < HOSTS_MAX && !hosts.contains(ip) {
                hosts.push(*ip);
            }
        }
        if hosts == self.hosts {
            return false;
        }
        if !self.hosts.is_empty() {
            mark!("gather/address-changed");
            if planted!(IgnoreAddressChange) {
                return false;
            }
        }
        let before = std::mem::replace(&mut self.hosts, hosts);
        let gone = before.iter().any(|ip| !self.hosts.contains(ip));
        for stun in &mut self.stun {
            match gone {
                true => stun.restart(now.mono),
                false => stun.ask_now(now.mono),
            }
        }
        let has_udp = self
            .turn
            .iter()
            .any(|t| t.transport() == TurnTransport::Udp);
        for turn in &mut self.turn {
            if gone {
                turn.restart(now);
            } else if turn.transport() == TurnTransport::Udp {
                turn.start(now);
            }
        }
        let wait = if has_udp { TCP_AFTER } else { Duration::ZERO };
        self.tcp_at = Some(now.mono + wait);
        self.udp_doubted = !before.is_empty();
        self.udp_heard = false;
        self.dirty = true;
        self.run(now);
        self.refresh()
    }

    /// Whether the datagram is from a STUN server and answers us; then whether our
    /// candidates changed.
    pub fn handle_stun(&mut self, now: Now, from: SocketAddr, data: &[u8]) -> Option<bool> {
        let stun = self.stun.iter_mut().find(|stun| stun.server() == from)?;
        let known = stun.mapped().is_some();
        let news = stun.handle(now.mono, data)?;
        self.udp_heard = true;
        if news {
            mark!("gather/mapping-changed");
            let event = Event::Server {
                server: from,
                what: "STUN server answered with a new mapped address",
            };
            self.outputs.push_back(Output::Event(event));
            // Several servers tell of one change.
            let told = |at: Instant| now.mono < at + CHANGE_EVERY;
            if known && !self.changed_at.is_some_and(told) {
                self.changed_at = Some(now.mono);
                self.outputs.push_back(Output::NetworkChanged);
                // What the NAT forgot for this server it may have forgotten for the relays.
                for turn in &mut self.turn {
                    turn.verify(now);
                }
                self.run(now);
            }
        }
        self.dirty |= news;
        Some(self.refresh())
    }

    /// Whether the datagram is from one of our TURN servers.
    pub fn is_turn_server(&self, from: SocketAddr) -> bool {
        self.turn
            .iter()
            .any(|turn| turn.transport() == TurnTransport::Udp && turn.server() == from)
    }

    /// A datagram from a TURN server. What it relays goes to `relayed`: the relayed address
    /// it came to, the peer's address, the content. Returns whether our candidates changed.
    pub fn handle_turn(
        &mut self,
        now: Now,
        from: SocketAddr,
        data: BytesMut,
        relayed: &mut Vec<(SocketAddr, SocketAddr, BytesMut)>,
    ) -> bool {
        let found = self
            .turn
            .iter_mut()
            .find(|turn| turn.transport() == TurnTransport::Udp && turn.server() == from);
        let Some(turn) = found else {
            return false;
        };
        unwrap(now, turn, data, relayed);
        self.udp_heard = true;
        self.run(now);
        self.refresh()
    }

    /// Something happened on a TCP connection to a TURN server.
    pub fn handle_tcp(
        &mut self,
        now: Now,
        conn: u32,
        event: TcpEvent,
        relayed: &mut Vec<(SocketAddr, SocketAddr, BytesMut)>,
    ) -> bool {
        let Some(at) = self.connections.iter().position(|c| *c == Some(conn)) else {
            return false;
        };
        let turn = &mut self.turn[at];
        match event {
            TcpEvent::Connected { local } => turn.connected(now, local),
            TcpEvent::Bytes(data) => unwrap(now, turn, data, relayed),
            TcpEvent::Sent(bytes) => {
                turn.sent(bytes);
                return false;
            }
            TcpEvent::Closed => {
                self.connections[at] = None;
                turn.closed(now);
            }
        }
        self.run(now);
        self.refresh()
    }

    /// Let the TURN servers pass on what comes from this address.
    pub fn permit(&mut self, now: Now, ip: IpAddr) {
        for turn in &mut self.turn {
            if reaches(turn, ip) {
                turn.permit(now, ip);
            }
        }
        self.run(now);
    }

    /// Send datagrams from a relayed address of ours: wrapped into `out`, unless they go over
    /// TCP. Returns the server and the size of the wrapped segments when something was
    /// appended; otherwise they went over TCP, or were dropped.
    pub fn relay(
        &mut self,
        now: Now,
        relayed: SocketAddr,
        peer: SocketAddr,
        data: &[u8],
        segment_size: Option<usize>,
        out: &mut Vec<u8>,
    ) -> Option<(SocketAddr, Option<usize>)> {
        let turn = self
            .turn
            .iter_mut()
            .find(|turn| turn.relayed() == Some(relayed))?;
        if !reaches(turn, peer.ip()) {
            return None;
        }
        let start = out.len();
        let mut first = None;
        for segment in data.chunks(segment_size.unwrap_or(data.len()).max(1)) {
            match turn.transport() {
                TurnTransport::Udp => {
                    let before = out.len();
                    if turn.wrap(now, peer, segment, out) {
                        first.get_or_insert(out.len() - before);
                    }
                }
                TurnTransport::Tcp => {
                    let mut wrapped = Vec::with_capacity(segment.len() + 64);
                    if turn.wrap(now, peer, segment, &mut wrapped) {
                        turn.write(wrapped);
                    }
                }
            }
        }
        let server = turn.server();
        self.run(now);
        let appended = out.len() - start;
        (appended > 0).then(|| (server, first.filter(|first| *first < appended)))
    }

    /// Time passed. Returns whether our candidates changed.
    pub fn handle_deadline(&mut self, now: Now) -> bool {
        if self.tcp_at.is_some_and(|at| at <= now.mono) {
            self.tcp_at = None;
            if !self.udp_works() {
                mark!("gather/tcp-tried");
                for turn in &mut self.turn {
                    turn.start(now);
                }
            }
        }
        if self.doubt_again_at.is_some_and(|at| at <= now.mono) {
            self.doubt_servers(now);
        }
        for turn in &mut self.turn {
            if turn.deadline().is_some_and(|at| at <= now.mono) {
                turn.handle_deadline(now);
            }
        }
        self.run(now);
        self.refresh()
    }

    /// Whether relays need no TCP: at first when there is an allocation over UDP, later when a
    /// server still answers over it.
    fn udp_works(&self) -> bool {
        match self.udp_doubted {
            true => self.udp_heard,
            false => self.turn.iter().any(|turn| turn.relayed().is_some()),
        }
    }

    /// When to call [`Gather::handle_deadline`], and why.
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        if self.hosts.is_empty() {
            return None;
        }
        let stun = self.stun.iter().map(Stun::deadline).min();
        let turn = self.turn.iter().filter_map(Turn::deadline).min();
        [
            (stun, "ask a STUN server"),
            (turn, "TURN allocation"),
            (self.tcp_at, "try TURN over TCP"),
            (self.doubt_again_at, "ask the servers again"),
        ]
        .into_iter()
        .filter_map(|(at, why)| Some((at?, why)))
        .min_by_key(|(at, _)| *at)
    }

    /// A path died: perhaps a NAT gave us another address, a relay forgot us, or UDP no longer
    /// passes. All servers are asked at once; unless something answers over UDP, TURN is tried
    /// over TCP.
    pub fn path_died(&mut self, now: Now) {
        match self.doubted_at.map(|at| at + DOUBT_EVERY) {
            Some(soonest) if now.mono < soonest => {
                mark!("gather/doubt-again");
                self.doubt_again_at = Some(soonest);
            }
            _ => self.doubt_servers(now),
        }
    }

    fn doubt_servers(&mut self, now: Now) {
        self.doubted_at = Some(now.mono);
        self.doubt_again_at = None;
        for stun in &mut self.stun {
            stun.ask_now(now.mono);
        }
        for turn in &mut self.turn {
            turn.verify(now);
        }
        let idle_tcp =
            |turn: &Turn| turn.transport() == TurnTransport::Tcp && turn.state() == TurnState::Idle;
        if self.turn.iter().any(idle_tcp) && self.tcp_at.is_none() {
            self.udp_doubted = true;
            self.udp_heard = false;
            self.tcp_at = Some(now.mono + TCP_AFTER);
        }
        self.run(now);
    }

    /// Whether everything for the servers has left.
    pub fn is_flushed(&self) -> bool {
        self.datagrams.is_empty() && self.turn.iter().all(|turn| turn.tcp_unsent() == 0)
    }

    /// This node is stopping: give the allocations back.
    pub fn stop(&mut self, now: Now) {
        for turn in &mut self.turn {
            turn.stop(now);
        }
        self.run(now);
    }

    /// The next datagram to a server.
    pub fn poll_datagram(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.datagrams.pop_front()
    }

    /// What to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What to say of the allocations.
    pub fn relays(&self) -> Vec<RelayStatus> {
        let status = |turn: &Turn| RelayStatus {
            server: turn.server().to_string(),
            transport: match turn.transport() {
                TurnTransport::Udp => "udp".into(),
                TurnTransport::Tcp => "tcp".into(),
            },
            state: match turn.state() {
                TurnState::Idle => "idle".into(),
                TurnState::Connecting | TurnState::Allocating => "allocating".into(),
                TurnState::Ready => "ready".into(),
                TurnState::Waiting => "failed".into(),
            },
            relayed: turn.relayed().map(|relayed| relayed.to_string()),
        };
        self.turn.iter().map(status).collect()
    }

    /// What can fill, and how full it is.
    pub fn queues(&self, queues: &mut Vec<Queue>) {
        let own = self.candidates.len();
        queues.push(Queue::new("node/candidates", own, CANDIDATES_MAX));
        let waiting = self.datagrams.len();
        let max = UNSENT_MAX;
        queues.push(Queue::new("node/server_datagrams", waiting, max));
        for turn in &self.turn {
            turn.queues(queues);
        }
    }

    /// Collect what the clients want to send.
    fn run(&mut self, now: Now) {
        if !self.hosts.is_empty() {
            for stun in &mut self.stun {
                if let Some(request) = stun.poll(now.mono) {
                    self.datagrams.push_back((stun.server(), request));
                }
            }
        }
        for at in 0..self.turn.len() {
            while let Some(output) = self.turn[at].poll_output() {
                self.on_turn(at, output);
            }
        }
    }

    fn on_turn(&mut self, at: usize, output: TurnOutput) {
        let server = self.turn[at].server();
        let event = |what| Output::Event(Event::Server { server, what });
        match output {
            TurnOutput::Datagram(bytes) => self.datagrams.push_back((server, bytes)),
            TurnOutput::Connect => {
                let conn = self.next_connection;
                self.next_connection += 1;
                self.connections[at] = Some(conn);
                let action = TcpAction::Connect(server);
                self.outputs.push_back(Output::TurnTcp { conn, action });
            }
            TurnOutput::Write(bytes) => self.tcp(at, TcpAction::Write(bytes)),
            TurnOutput::Close => {
                self.tcp(at, TcpAction::Close);
                self.connections[at] = None;
            }
            TurnOutput::Allocated(_) => {
                self.dirty = true;
                self.outputs.push_back(event("TURN server relays for us"));
            }
            TurnOutput::Lost(_) => {
                self.dirty = true;
                self.outputs.push_back(event("TURN allocation lost"));
            }
            TurnOutput::Failed(why) => self.outputs.push_back(event(why)),
        }
    }

    fn tcp(&mut self, at: usize, action: TcpAction) {
        if let Some(conn) = self.connections[at] {
            self.outputs.push_back(Output::TurnTcp { conn, action });
        }
    }

    /// Work out our candidates if something changed; returns whether they did.
    fn refresh(&mut self) -> bool {
        if !std::mem::take(&mut self.dirty) {
            return false;
        }
        let host = |ip: &IpAddr| SocketAddr::new(*ip, self.udp_port);
        let relayed = self.turn.iter().filter_map(Turn::relayed);
        // A server that names one of our own addresses would have our checks sent to itself.
        let honest = |addr: &SocketAddr| !self.hosts.contains(&addr.ip()) && is_sendable(addr);
        let mut candidates: Vec<_> = relayed
            .filter(honest)
            .map(LocalCandidate::Relayed)
            .collect();
        if self.policy == PathPolicy::All {
            for addr in self
                .stun
                .iter()
                .filter_map(Stun::mapped)
                .filter(is_sendable)
            {
                let family = |ip: &&IpAddr| ip.is_ipv4() == addr.is_ipv4();
                let Some(base) = self.hosts.iter().find(family).map(host) else {
                    continue;
                };
                candidates.push(LocalCandidate::ServerReflexive { addr, base });
            }
            candidates.extend(self.hosts.iter().map(host).map(LocalCandidate::Host));
        }
        candidates.truncate(CANDIDATES_MAX);
        candidates.sort_unstable();
        candidates.dedup();
        let changed = candidates != self.candidates;
        self.candidates = candidates;
        changed
    }
}

fn unwrap(
    now: Now,
    turn: &mut Turn,
    data: BytesMut,
    relayed: &mut Vec<(SocketAddr, SocketAddr, BytesMut)>,
) {
    let Some(own) = turn.relayed() else {
        turn.handle(now, data, &mut |_, _| {});
        return;
    };
    turn.handle(now, data, &mut |peer, data| relayed.push((own, peer, data)));
}

/// Whether to ask a relay to reach this address. A public relay has no business in a private
/// network of a peer's, and some drop the allocation for it.
fn reaches(turn: &Turn, ip: IpAddr) -> bool {
    is_public(ip) || !is_public(turn.server().ip())
}

fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            // RFC 6598: between customers and their carrier's NAT.
            let carrier = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || carrier)
        }
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()),
    }
}

/// Whether a packet can be sent there at all.
fn is_sendable(addr: &SocketAddr) -> bool {
    let ip = addr.ip();
    addr.port() != 0 && !ip.is_unspecified() && !ip.is_multicast()
}
