//! Whole nodes, a broker and a TURN server in virtual time over the network model.
//!
//! Everything real is in it: TLS, ICE, QUIC, TURN, sealed signaling. Only the sockets, the
//! clocks and the applications are the test's. One seed, one history.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use holdfast_core::config::{
    AllowRule, Config, Congestion, Limits, PathPolicy, PeerConfig, TurnCredentials, TurnServer,
    TurnTransport,
};
use holdfast_core::entropy::{Entropy, Seed};
use holdfast_core::identity::ClusterSecret;
use holdfast_core::mesh::{
    Event, Input, Mesh, Output, Read, Received, ResetReason, TcpAction, TcpEvent,
};
use holdfast_core::rendezvous::{self, Cursor, Mailboxes};
use holdfast_core::status::{LinkState, LinkStatus};
use holdfast_core::time::Now;
use holdfast_core::types::{LinkId, PeerId, StreamId, Vip};
use holdfast_net_model::{Delivery, Draw, HostId, Links, Network, Packet, Protocol, Uplink};
use holdfast_servers::turn::{self, SharedSecret, TcpId, TurnMachine};

/// Where the STUN and TURN server is.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const TURN_PORT: u16 = 3478;
const UDP_PORT: u16 = 5000;
const SECRET: &str = "the relay's secret";
/// One way to the broker, and one way over TCP to the TURN server.
const SERVER_DELAY: Duration = Duration::from_millis(10);
/// Echoes every stream.
pub const ECHO: u16 = 7;
/// Reads every stream and counts.
pub const SINK: u16 = 9;
/// Never reads.
pub const STOPPED: u16 = 19;
/// Not on the allowlist.
pub const FORBIDDEN: u16 = 22;
/// Allowed, and nothing listens.
pub const CLOSED: u16 = 81;

/// The model's randomness, from a seed.
pub struct Drawn(pub Entropy);

impl Draw for Drawn {
    fn next_u64(&mut self) -> u64 {
        self.0.u64()
    }
}

/// What a node is made of.
#[derive(Clone)]
pub struct Spec {
    pub name: &'static str,
    pub uplink: Uplink,
    pub ip: Ipv4Addr,
    pub turn: Vec<TurnTransport>,
    pub stun: bool,
    pub congestion: Congestion,
    pub limits: Limits,
    /// Which cluster's secret it holds.
    pub secret: u8,
    /// How far its wall clock is off.
    pub clock_behind: Duration,
}

impl Spec {
    pub fn new(name: &'static str, uplink: Uplink, ip: [u8; 4]) -> Spec {
        Spec {
            name,
            uplink,
            ip: ip.into(),
            turn: vec![TurnTransport::Udp],
            stun: true,
            congestion: Congestion::Bbr,
            limits: Limits::default(),
            secret: 5,
            clock_behind: Duration::ZERO,
        }
    }
}

/// An application's end of one stream.
#[derive(Default, Debug)]
pub struct App {
    port: u16,
    incoming: bool,
    /// Bytes of the pattern still to send.
    unsent: u64,
    pub sent: u64,
    pub received: u64,
    echo: VecDeque<Bytes>,
    finish: bool,
    finished: bool,
    pub read_finished: bool,
    pub reset: Option<ResetReason>,
}

pub struct Node {
    pub spec: Spec,
    pub host: HostId,
    pub mesh: Option<Mesh>,
    pub ip: Ipv4Addr,
    runs: u64,
    cursor: Option<Cursor>,
    pub apps: BTreeMap<StreamId, App>,
    pub datagrams: Vec<(u16, SocketAddr, Bytes)>,
    tcp: BTreeMap<u32, TcpId>,
    pub events: Vec<(Duration, Event)>,
}

enum Happening {
    Post {
        node: usize,
        envelope: Vec<u8>,
    },
    Answer {
        node: usize,
        run: u64,
        cursor: Cursor,
        envelopes: Vec<Vec<u8>>,
    },
    Poll {
        node: usize,
        run: u64,
    },
    ToServer {
        node: usize,
        conn: u32,
        event: Option<TcpEvent>,
    },
    ToNode {
        node: usize,
        run: u64,
        conn: u32,
        event: TcpEvent,
    },
}

pub struct World {
    pub net: Network<Vec<u8>>,
    pub now: Duration,
    origin: Instant,
    seed: Seed,
    draw: Drawn,
    pub nodes: Vec<Node>,
    server: HostId,
    turn: TurnMachine,
    broker: Mailboxes,
    /// Of 100 posts, how many get lost or come twice.
    pub broker_loses: u64,
    pub broker_repeats: u64,
    broker_draw: Entropy,
    /// Everything that was ever posted, to replay.
    pub posted: Vec<(usize, Vec<u8>)>,
    next_tcp: u64,
    happenings: BTreeMap<(Duration, u64), Happening>,
    sequence: u64,
    /// Every datagram and signal that was sent, hashed, in order.
    pub trace: Vec<String>,
}

#[allow(clippy::disallowed_methods, reason = "the one origin of virtual time")]
pub fn origin() -> Instant {
    // Not a clock: the platform's zero, so that simulation threads read none.
    static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *ORIGIN.get_or_init(|| std::thread::spawn(Instant::now).join().expect("a clock"))
}

const PATTERN_LEN: u64 = 65_521;

fn pattern() -> Bytes {
    static PATTERN: std::sync::OnceLock<Bytes> = std::sync::OnceLock::new();
    let make = || (0..2 * PATTERN_LEN).map(pattern_at).collect();
    PATTERN.get_or_init(make).clone()
}

fn pattern_at(offset: u64) -> u8 {
    let i = offset % PATTERN_LEN;
    (i ^ (i >> 8)) as u8
}

impl World {
    /// A world whose topology `build` lays out; nodes are started by the test.
    pub fn new(seed: u8, build: impl FnOnce(&mut Network<Vec<u8>>) -> Vec<Spec>) -> World {
        let seed = Seed::new([seed; 32]);
        let mut net = Network::new();
        let server = net
            .add_host(Uplink::Core, &[SERVER.into()], Links::ideal())
            .expect("the first host");
        let specs = build(&mut net);
        let origin = origin();
        let mut world = World {
            nodes: Vec::new(),
            now: Duration::ZERO,
            origin,
            draw: Drawn(seed.fork("network").rng()),
            server,
            turn: turn_server(&seed, origin),
            broker: Mailboxes::new(seed.fork("broker"), now_at(origin, Duration::ZERO)),
            broker_loses: 0,
            broker_repeats: 0,
            broker_draw: seed.fork("broker faults").rng(),
            posted: Vec::new(),
            next_tcp: 0,
            happenings: BTreeMap::new(),
            sequence: 0,
            trace: Vec::new(),
            net,
            seed,
        };
        for spec in specs {
            let links = Links::symmetric(world_link(&spec));
            let host = world.net.add_host(spec.uplink, &[spec.ip.into()], links);
            world.nodes.push(Node {
                ip: spec.ip,
                host: host.expect("a free address"),
                spec,
                mesh: None,
                runs: 0,
                cursor: None,
                apps: BTreeMap::new(),
                datagrams: Vec::new(),
                tcp: BTreeMap::new(),
                events: Vec::new(),
            });
        }
        world
    }

    fn at(&self, node: usize) -> Now {
        let mut now = now_at(self.origin, self.now);
        now.unix -= self.nodes[node].spec.clock_behind;
        now
    }

    /// Start a node, or start it again.
    pub fn start(&mut self, node: usize) {
        let secret = self.nodes[node].spec.secret;
        let secret = ClusterSecret::new(vec![secret; 32]).expect("long enough");
        let names: Vec<&'static str> = self.nodes.iter().map(|node| node.spec.name).collect();
        let me = &mut self.nodes[node];
        me.runs += 1;
        let run = me.runs;
        let id = |name: &str| name.parse::<PeerId>().expect("a name");
        let vip = |n: usize| Vip::new(n as u16 + 1).expect("few nodes");
        let peers = names.iter().enumerate().filter(|(n, _)| *n != node);
        let server = SocketAddr::new(SERVER.into(), TURN_PORT);
        let turn = me.spec.turn.iter().map(|transport| TurnServer {
            addr: server,
            transport: *transport,
            credentials: TurnCredentials::Shared {
                secret: SECRET.to_string().into(),
            },
        });
        let port = |port| AllowRule { port, udp: true };
        let config = Config {
            id: id(me.spec.name),
            vip: vip(node),
            identity: secret.identity(&id(me.spec.name)),
            peers: peers
                .map(|(n, name)| PeerConfig {
                    id: id(name),
                    vip: vip(n),
                    key: secret.identity(&id(name)).public(),
                })
                .collect(),
            allow: [ECHO, SINK, STOPPED, CLOSED].map(port).to_vec(),
            udp_port: UDP_PORT,
            stun: if me.spec.stun { vec![server] } else { vec![] },
            turn: turn.collect(),
            paths: PathPolicy::All,
            congestion: me.spec.congestion,
            limits: me.spec.limits,
        };
        let seed = self.seed.fork(&format!("node/{}/{run}", me.spec.name));
        let now = self.at(node);
        let mut mesh = Mesh::new(config, seed, now).expect("a valid configuration");
        mesh.recorder().hash_content();
        let me = &mut self.nodes[node];
        me.mesh = Some(mesh);
        me.cursor = None;
        me.apps.clear();
        let ip = me.ip;
        self.call(node, |mesh, now| {
            mesh.handle(now, Input::LocalAddresses(vec![ip.into()]))
        });
        self.later(Duration::ZERO, Happening::Poll { node, run });
    }

    /// The process is gone, without a word.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].mesh = None;
        self.nodes[node].apps.clear();
        let connections = std::mem::take(&mut self.nodes[node].tcp);
        for client in connections.into_values() {
            self.turn.handle(
                now_at(self.origin, self.now),
                turn::Input::TcpClosed { client },
            );
        }
        self.drain_turn();
    }

    /// Give the node another address.
    pub fn roam(&mut self, node: usize, uplink: Uplink, ip: [u8; 4]) {
        let ip = Ipv4Addr::from(ip);
        self.net
            .move_host(self.nodes[node].host, uplink, &[ip.into()])
            .expect("a free address");
        self.nodes[node].ip = ip;
        self.call(node, |mesh, now| {
            mesh.handle(now, Input::LocalAddresses(vec![ip.into()]))
        });
    }

    /// Call a node's machine and carry out what it wants.
    pub fn call<R>(&mut self, node: usize, f: impl FnOnce(&mut Mesh, Now) -> R) -> Option<R> {
        let now = self.at(node);
        let result = f(self.nodes[node].mesh.as_mut()?, now);
        self.drain(node);
        Some(result)
    }

    fn later(&mut self, delay: Duration, happening: Happening) {
        self.sequence += 1;
        self.happenings
            .insert((self.now + delay, self.sequence), happening);
    }

    fn note(&mut self, what: String) {
        self.trace.push(format!("{} {what}", self.now.as_nanos()));
    }

    fn drain(&mut self, node: usize) {
        loop {
            let now = self.at(node);
            let Some(mesh) = &mut self.nodes[node].mesh else {
                return;
            };
            if let Some(output) = mesh.poll_output() {
                self.act(node, output);
                continue;
            }
            let mut buf = Vec::new();
            let Some(transmit) = mesh.poll_transmit(now, &mut buf, 10) else {
                return;
            };
            let src = SocketAddr::new(self.nodes[node].ip.into(), UDP_PORT);
            for segment in buf.chunks(transmit.segment_size.unwrap_or(buf.len())) {
                self.send(self.nodes[node].host, src, transmit.to, segment.to_vec());
            }
        }
    }

    fn send(&mut self, from: HostId, src: SocketAddr, dst: SocketAddr, payload: Vec<u8>) {
        let mut hash = 0u64;
        for byte in &payload {
            hash = (hash.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        self.note(format!("{src} > {dst} {} {hash:016x}", payload.len()));
        let packet = Packet {
            protocol: Protocol::Udp,
            src,
            dst,
            len_bytes: payload.len() as u32 + 28,
            payload,
        };
        self.net.send(self.now, from, packet, &mut self.draw);
    }

    fn act(&mut self, node: usize, output: Output) {
        match output {
            Output::Signal { envelope, .. } => {
                self.note(format!("signal from {node} {} bytes", envelope.len()));
                self.posted.push((node, envelope.clone()));
                let lost = self.broker_draw.below(100) < self.broker_loses;
                let twice = self.broker_draw.below(100) < self.broker_repeats;
                for _ in 0..if lost { 0 } else { 1 + u8::from(twice) } {
                    let envelope = envelope.clone();
                    self.later(SERVER_DELAY, Happening::Post { node, envelope });
                }
            }
            Output::TurnTcp { conn, action } => {
                let event = match action {
                    TcpAction::Connect(_) => {
                        let ip = self.nodes[node].ip.into();
                        Some(TcpEvent::Connected {
                            local: SocketAddr::new(ip, 40_000),
                        })
                    }
                    TcpAction::Write(bytes) => {
                        let sent = TcpEvent::Sent(bytes.len());
                        self.tell_node(node, conn, sent);
                        Some(TcpEvent::Bytes(bytes.as_ref().into()))
                    }
                    TcpAction::Close => None,
                };
                self.later(SERVER_DELAY, Happening::ToServer { node, conn, event });
            }
            Output::Incoming { stream, to, .. } => {
                let port = to[0].port();
                if port == CLOSED {
                    self.call(node, |m, now| {
                        m.handle(now, Input::IncomingRefused { stream })
                    });
                } else {
                    let app = App {
                        port,
                        incoming: true,
                        ..App::default()
                    };
                    self.nodes[node].apps.insert(stream, app);
                    self.pump(node, stream);
                }
            }
            Output::Readable(stream) | Output::Writable(stream) => self.pump(node, stream),
            Output::Reset { stream, reason } => {
                if let Some(app) = self.nodes[node].apps.get_mut(&stream) {
                    app.reset.get_or_insert(reason);
                }
            }
            Output::Udp {
                peer_port,
                to,
                payload,
                ..
            } => {
                self.nodes[node].datagrams.push((peer_port, to, payload));
            }
            Output::Event(event) => {
                let at = self.now;
                self.note(format!("{node} {event:?}"));
                self.nodes[node].events.push((at, event));
            }
        }
    }

    // ---- applications ----

    /// Open a stream and send `bytes` of the pattern, then close that half if `finish`.
    pub fn open(
        &mut self,
        node: usize,
        peer: usize,
        port: u16,
        bytes: u64,
        finish: bool,
    ) -> StreamId {
        let link = self.link(node, peer);
        let stream = self
            .call(node, |mesh, now| mesh.stream_open(now, link, port))
            .expect("the node runs")
            .expect("the link is up");
        let app = App {
            port,
            unsent: bytes,
            finish,
            ..App::default()
        };
        self.nodes[node].apps.insert(stream, app);
        self.pump(node, stream);
        stream
    }

    pub fn app(&self, node: usize, stream: StreamId) -> &App {
        &self.nodes[node].apps[&stream]
    }

    /// Everything that incoming streams at `port` of `node` have received.
    pub fn received_at(&self, node: usize, port: u16) -> u64 {
        let apps = self.nodes[node].apps.values();
        apps.filter(|app| app.incoming && app.port == port)
            .map(|app| app.received)
            .sum()
    }

    fn pump(&mut self, node: usize, stream: StreamId) {
        let now = self.at(node);
        let me = &mut self.nodes[node];
        let (Some(mesh), Some(app)) = (&mut me.mesh, me.apps.get_mut(&stream)) else {
            return;
        };
        if app.reset.is_some() {
            return;
        }
        if !(app.incoming && app.port == STOPPED) {
            app.read(mesh, now, stream);
        }
        app.write(mesh, now, stream);
        self.drain(node);
    }

    // ---- looking ----

    pub fn link(&self, node: usize, peer: usize) -> LinkId {
        let mesh = self.nodes[node].mesh.as_ref().expect("the node runs");
        let name = self.nodes[peer].spec.name;
        let found = mesh.links().find(|(_, id, _)| id.as_str() == name);
        found.expect("a peer").0
    }

    pub fn state(&self, node: usize, peer: usize) -> LinkState {
        let link = self.link(node, peer);
        self.nodes[node]
            .mesh
            .as_ref()
            .and_then(|m| m.link_state(link))
            .expect("a link")
    }

    pub fn status(&self, node: usize, peer: usize) -> LinkStatus {
        let mesh = self.nodes[node].mesh.as_ref().expect("the node runs");
        let status = mesh.status(self.at(node));
        status.links[self.link(node, peer).index()].clone()
    }

    /// `direct` or `relay`, or nothing when no path is in use.
    pub fn class(&self, node: usize, peer: usize) -> Option<String> {
        self.status(node, peer)
            .selected()
            .map(|path| path.class.clone())
    }

    pub fn counter(&self, node: usize, name: &str) -> u64 {
        let mesh = self.nodes[node].mesh.as_ref().expect("the node runs");
        let counters = mesh.status(self.at(node)).counters;
        counters
            .iter()
            .find(|c| c.name == name)
            .map_or(0, |c| c.value)
    }

    pub fn both_up(&self, a: usize, b: usize) -> bool {
        let up = |a: usize, b| self.nodes[a].mesh.is_some() && self.state(a, b) == LinkState::Up;
        up(a, b) && up(b, a)
    }

    // ---- time ----

    /// Run for a while.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Run until `done`; returns how long it took. Fails after `limit`.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&World) -> bool) -> Duration {
        let start = self.now;
        let end = start + limit;
        while !done(self) {
            if !self.step(end) {
                let mut text = String::new();
                for node in &self.nodes {
                    for (at, event) in &node.events {
                        text +=
                            &format!("{:>10.4} {} {event:?}\n", at.as_secs_f64(), node.spec.name);
                    }
                    if let Some(mesh) = &node.mesh {
                        text += &format!("{:#?}\n", mesh.status(now_at(self.origin, self.now)));
                    }
                }
                panic!("not reached within {limit:?}:\n{text}");
            }
        }
        self.now - start
    }

    /// Process the next moment at or before `end`. Returns whether there was one.
    fn step(&mut self, end: Duration) -> bool {
        let node = self.next_node_deadline();
        let turn = self.turn.deadline().map(|(at, _)| at - self.origin);
        let broker = self.broker.deadline().map(|(at, _)| at - self.origin);
        let happening = self.happenings.first_key_value().map(|((at, _), _)| *at);
        let next = [
            node.map(|(at, _)| at),
            turn,
            broker,
            happening,
            self.net.deadline(),
        ];
        let Some(next) = next.into_iter().flatten().min().filter(|at| *at <= end) else {
            return false;
        };
        self.now = self.now.max(next);
        let mut deliveries = Vec::new();
        self.net.poll(self.now, &mut self.draw, &mut deliveries);
        for delivery in deliveries {
            self.deliver(delivery);
        }
        while let Some((key, _)) = self
            .happenings
            .first_key_value()
            .filter(|((at, _), _)| *at <= self.now)
        {
            let key = *key;
            let happening = self.happenings.remove(&key).expect("just seen");
            self.happen(happening);
        }
        if let Some((at, node)) = node
            && at <= self.now
        {
            self.call(node, |mesh, now| mesh.handle_deadline(now));
        }
        let now = now_at(self.origin, self.now);
        if turn.is_some_and(|at| at <= self.now) {
            self.turn.handle_deadline(now);
        }
        self.drain_turn();
        if broker.is_some_and(|at| at <= self.now) {
            self.broker.handle_deadline(now);
        }
        self.drain_broker();
        true
    }

    fn next_node_deadline(&self) -> Option<(Duration, usize)> {
        let nodes = self.nodes.iter().enumerate();
        nodes
            .filter_map(|(n, node)| Some((node.mesh.as_ref()?.deadline()?.0, n)))
            .map(|(at, n)| (at.saturating_duration_since(self.origin), n))
            .min()
    }

    fn deliver(&mut self, delivery: Delivery<Vec<u8>>) {
        let packet = delivery.packet;
        if delivery.to == self.server {
            let now = now_at(self.origin, self.now);
            let (from, data) = (packet.src, packet.payload);
            self.turn.handle(
                now,
                match packet.dst.port() {
                    TURN_PORT => turn::Input::Datagram { from, data },
                    port => turn::Input::PeerDatagram { port, from, data },
                },
            );
            self.drain_turn();
            return;
        }
        let to = self.nodes.iter().position(|node| node.host == delivery.to);
        let meta = Received {
            from: packet.src,
            to: Some(packet.dst.ip()),
            ecn: 0,
        };
        let data = BytesMut::from(&packet.payload[..]);
        if packet.dst.port() == UDP_PORT {
            self.call(to.expect("a node"), |mesh, now| {
                mesh.handle_datagram(now, meta, data)
            });
        }
    }

    fn happen(&mut self, happening: Happening) {
        let now = now_at(self.origin, self.now);
        match happening {
            Happening::Post { node, envelope } => {
                let source = self.nodes[node].ip.into();
                let input = rendezvous::Input::Post {
                    ticket: 0,
                    source,
                    envelope,
                };
                self.broker.handle(now, input);
            }
            Happening::Poll { node, run } if self.nodes[node].runs == run => {
                let secret = self.nodes[node].spec.secret;
                let secret = ClusterSecret::new(vec![secret; 32]).expect("long enough");
                let id = self.nodes[node].spec.name.parse().expect("a name");
                self.broker.handle(
                    now,
                    rendezvous::Input::Poll {
                        ticket: node as u64 + (run << 32) + 1,
                        source: self.nodes[node].ip.into(),
                        mailbox: secret.identity(&id).public(),
                        after: self.nodes[node].cursor,
                        wait: Duration::from_secs(25),
                    },
                );
            }
            Happening::Poll { .. } => {}
            Happening::Answer {
                node,
                run,
                cursor,
                envelopes,
            } => {
                if self.nodes[node].runs != run {
                    return;
                }
                self.nodes[node].cursor = Some(cursor);
                for envelope in envelopes {
                    self.call(node, |mesh, now| mesh.handle(now, Input::Signal(envelope)));
                }
                self.later(Duration::ZERO, Happening::Poll { node, run });
            }
            Happening::ToServer { node, conn, event } => self.tcp_to_server(node, conn, event),
            Happening::ToNode {
                node,
                run,
                conn,
                event,
            } => {
                if self.nodes[node].runs == run {
                    self.call(node, |mesh, now| {
                        mesh.handle(now, Input::TurnTcp { conn, event })
                    });
                }
            }
        }
    }

    fn tcp_to_server(&mut self, node: usize, conn: u32, event: Option<TcpEvent>) {
        let now = now_at(self.origin, self.now);
        let client = self.nodes[node].tcp.get(&conn).copied();
        match (event, client) {
            (Some(TcpEvent::Connected { local }), _) => {
                self.next_tcp += 1;
                let client = TcpId(self.next_tcp);
                self.nodes[node].tcp.insert(conn, client);
                let from = SocketAddr::new(
                    Ipv4Addr::new(198, 51, 100, node as u8).into(),
                    40_000 + client.0 as u16,
                );
                self.turn
                    .handle(now, turn::Input::TcpConnected { client, from });
                self.tell_node(node, conn, TcpEvent::Connected { local });
            }
            (Some(TcpEvent::Bytes(bytes)), Some(client)) => {
                let data = bytes.to_vec();
                self.turn
                    .handle(now, turn::Input::TcpBytes { client, data });
            }
            (None, Some(client)) => {
                self.nodes[node].tcp.remove(&conn);
                self.turn.handle(now, turn::Input::TcpClosed { client });
            }
            _ => {}
        }
        self.drain_turn();
    }

    /// The TURN server does something over TCP, which the node's present run hears of later.
    fn tell_node(&mut self, node: usize, conn: u32, event: TcpEvent) {
        let run = self.nodes[node].runs;
        let happening = Happening::ToNode {
            node,
            run,
            conn,
            event,
        };
        self.later(SERVER_DELAY, happening);
    }

    fn drain_turn(&mut self) {
        let now = now_at(self.origin, self.now);
        while let Some(output) = self.turn.poll_output() {
            match output {
                turn::Output::Datagram { to, data } => {
                    self.send(
                        self.server,
                        SocketAddr::new(SERVER.into(), TURN_PORT),
                        to,
                        data,
                    );
                }
                turn::Output::PeerDatagram { port, to, data } => {
                    self.send(self.server, SocketAddr::new(SERVER.into(), port), to, data);
                }
                turn::Output::OpenRelay { port } => {
                    self.turn.handle(now, turn::Input::RelayOpened { port });
                }
                turn::Output::TcpWrite { client, data } => {
                    if let Some((node, conn)) = self.tcp_owner(client) {
                        self.tell_node(node, conn, TcpEvent::Bytes(BytesMut::from(&data[..])));
                    }
                }
                turn::Output::TcpClose { client } => {
                    if let Some((node, conn)) = self.tcp_owner(client) {
                        self.tell_node(node, conn, TcpEvent::Closed);
                    }
                }
                turn::Output::CloseRelay { .. } | turn::Output::Event(_) => {}
            }
        }
    }

    fn tcp_owner(&self, client: TcpId) -> Option<(usize, u32)> {
        self.nodes.iter().enumerate().find_map(|(n, node)| {
            let conn = node.tcp.iter().find(|(_, id)| **id == client)?;
            Some((n, *conn.0))
        })
    }

    fn drain_broker(&mut self) {
        while let Some(output) = self.broker.poll_output() {
            if let rendezvous::Output::Messages {
                ticket,
                cursor,
                envelopes,
            } = output
            {
                let node = (ticket & 0xffff_ffff) as usize - 1;
                let run = ticket >> 32;
                let envelopes = envelopes.iter().map(|envelope| envelope.to_vec()).collect();
                self.later(
                    SERVER_DELAY,
                    Happening::Answer {
                        node,
                        run,
                        cursor,
                        envelopes,
                    },
                );
            }
        }
    }

    /// Put an envelope into its mailbox, as a hostile broker might at any time.
    pub fn replay(&mut self, envelope: Vec<u8>) {
        self.later(Duration::ZERO, Happening::Post { node: 0, envelope });
    }
}

impl App {
    fn read(&mut self, mesh: &mut Mesh, now: Now, stream: StreamId) {
        while !self.read_finished {
            match mesh.stream_read(now, stream, 64 * 1024) {
                Ok(Read::Data(bytes)) => {
                    for (n, byte) in bytes.iter().enumerate() {
                        assert_eq!(
                            *byte,
                            pattern_at(self.received + n as u64),
                            "bytes were altered"
                        );
                    }
                    self.received += bytes.len() as u64;
                    if self.incoming && self.port == ECHO {
                        self.echo.push_back(bytes);
                    }
                }
                Ok(Read::Blocked) => return,
                Ok(Read::Finished) => {
                    self.read_finished = true;
                    self.finish |= self.incoming;
                }
                Err(closed) => {
                    self.reset.get_or_insert(closed.reason);
                    return;
                }
            }
        }
    }

    fn write(&mut self, mesh: &mut Mesh, now: Now, stream: StreamId) {
        loop {
            let chunk = match self.echo.front() {
                Some(bytes) => bytes.clone(),
                None if self.unsent > 0 => {
                    let start = (self.sent % PATTERN_LEN) as usize;
                    let len = self.unsent.min(PATTERN_LEN) as usize;
                    pattern().slice(start..start + len)
                }
                None => break,
            };
            let echoing = !self.echo.is_empty();
            let len = chunk.len();
            match mesh.stream_write(now, stream, &mut [chunk]) {
                Ok(0) => return,
                Ok(written) => {
                    self.sent += written as u64;
                    if !echoing {
                        self.unsent -= written as u64;
                    } else if written == len {
                        self.echo.pop_front();
                    } else if let Some(front) = self.echo.front_mut() {
                        let _taken = front.split_to(written);
                    }
                }
                Err(closed) => {
                    self.reset.get_or_insert(closed.reason);
                    return;
                }
            }
        }
        if self.finish && !self.finished {
            self.finished = true;
            mesh.stream_finish(now, stream);
        }
    }
}

fn turn_server(seed: &Seed, origin: Instant) -> TurnMachine {
    let config = turn::Config {
        relay_ip: IpAddr::V4(SERVER),
        relay_ports: 49_152..=65_535,
        realm: "test".into(),
        secret: SharedSecret::new(SECRET.as_bytes().to_vec()).expect("a secret"),
        loopback_peers: false,
        limits: turn::Limits::default(),
    };
    TurnMachine::new(config, seed.fork("turn"), now_at(origin, Duration::ZERO))
        .expect("a valid configuration")
}

fn now_at(origin: Instant, at: Duration) -> Now {
    Now {
        mono: origin + at,
        unix: Duration::from_secs(1_700_000_000) + at,
    }
}

fn world_link(_spec: &Spec) -> holdfast_net_model::LinkConfig {
    // Half of a one-way delay of 10 ms: a packet passes two links.
    holdfast_net_model::LinkConfig::with_delay(Duration::from_millis(5))
}
