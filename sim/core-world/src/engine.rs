//! The engine: virtual time, the network, and who is called when.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use holdfast_core::entropy::{Entropy, Seed};
use holdfast_core::identity::PublicKey;
use holdfast_core::time::Now;
use holdfast_net_model::{
    Delivery, Draw, HostId, Network, Packet, Protocol, Stream, Streams, TopologyError,
};
use holdfast_plan::{
    Built, ClockSpec, Figures, Journal, Membership, SERVERS, Topology, TraceMode, UDP_PORT, Wanted,
};

use crate::claims::{Claims, Scene};
use crate::clock::Clock;
use crate::node::Node;
use crate::ops::Ops;
use crate::servers::{Broker, BrokerLoss, Turn};
use crate::tcp::{self, Segment, Stack};
use crate::timers::{Due, Timers};

/// Bytes of IPv4 and UDP headers.
const UDP_HEADERS: u32 = 28;
/// Envelopes that are remembered for replays.
pub(crate) const POSTED_MAX: usize = 65_536;

/// What travels through the network.
#[derive(Clone, Debug)]
pub enum Payload {
    /// A datagram's content.
    Udp(BytesMut),
    /// A segment.
    Tcp(Box<Segment>),
}

/// Something that happens once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Once {
    /// A step of the plan, by its position.
    Step(u32),
    /// An operation has something to do, by its position.
    Op(u32),
    /// Look at queues, and whether everything has settled.
    Look,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Node(usize),
    Server(usize),
}

/// An envelope that a node posted.
#[derive(Clone, Debug)]
pub struct Posted {
    /// Who posted it.
    pub from: usize,
    /// The receiver.
    pub to: PublicKey,
    /// It.
    pub envelope: Bytes,
}

/// Machines in virtual time over a network model. One seed, one history.
///
/// A test steers it by hand: [`World::start`], [`World::run`], [`World::call`] and the public
/// fields. [`crate::play`] steers it by a plan.
pub struct World {
    /// The network, to disturb.
    pub net: Network<Payload>,
    /// Which of its hosts is what.
    pub built: Built,
    /// The nodes, in the order of the topology.
    pub nodes: Vec<Node>,
    /// What brokers do wrong.
    pub broker_loss: BrokerLoss,
    /// What nodes posted, the latest 65,536 envelopes of it.
    pub posted: VecDeque<Posted>,
    /// What was observed.
    pub journal: Journal,
    /// Streams that are over can still be looked at, and are not reported.
    pub keeps_streams: bool,
    pub(crate) now: Duration,
    pub(crate) seed: Seed,
    pub(crate) clock: Clock,
    pub(crate) timers: Timers<Once>,
    pub(crate) turn: Option<Turn>,
    pub(crate) turn_runs: u64,
    pub(crate) brokers: Vec<Option<Broker>>,
    pub(crate) broker_runs: u64,
    pub(crate) stacks: Vec<Stack>,
    pub(crate) ops: Ops,
    /// Something happened on which it depends whether the world has settled.
    pub(crate) stirred: bool,
    roles: Vec<Role>,
    dirty: Vec<usize>,
    draws: Draws,
    deliveries: Vec<Delivery<Payload>>,
    pub(crate) buf: Vec<u8>,
    pub(crate) figures: Figures,
    pub(crate) wanted: Vec<Wanted>,
    /// Instances, in place of the processes of nodes.
    pub(crate) claims: Option<Box<Claims>>,
}

impl World {
    /// A topology whose nodes do not run yet.
    ///
    /// # Errors
    /// When two things have one address, or there are too many.
    pub fn new(topology: &Topology, seed: Seed, mode: TraceMode) -> Result<World, TopologyError> {
        let (net, built) = topology.build()?;
        let mut roles = vec![Role::Server(0); built.servers.len() + built.nodes.len()];
        let mut stacks = vec![None; roles.len()];
        for (n, host) in built.servers.iter().enumerate() {
            roles[host.index()] = Role::Server(n);
            stacks[host.index()] = Some(SERVERS[n]);
        }
        for (n, host) in built.nodes.iter().enumerate() {
            roles[host.index()] = Role::Node(n);
            stacks[host.index()] = Some(topology.nodes[n].address);
        }
        let stack = |ip: Option<std::net::Ipv4Addr>| Stack::new(ip.expect("every host").into());
        let nodes = Node::all(topology, &built);
        // The KV and the instances come last: nobody else's number depends on them.
        let processes = nodes.len() + 1 + SERVERS.len() + roles.len() + 1 + nodes.len();
        let mut world = World {
            net,
            nodes,
            broker_loss: BrokerLoss::default(),
            posted: VecDeque::new(),
            journal: Journal::new(mode),
            keeps_streams: false,
            now: Duration::ZERO,
            clock: Clock::new(ClockSpec::default()),
            timers: Timers::new(processes),
            turn: None,
            turn_runs: 0,
            brokers: built.servers.iter().map(|_| None).collect(),
            broker_runs: 0,
            stacks: stacks.into_iter().map(stack).collect(),
            ops: Ops::default(),
            stirred: false,
            roles,
            dirty: Vec::new(),
            draws: Draws::new(seed.fork("network")),
            deliveries: Vec::new(),
            buf: Vec::new(),
            figures: Figures::default(),
            wanted: Vec::new(),
            claims: None,
            built,
            seed,
        };
        world.set_turn(true);
        for broker in 0..world.brokers.len() {
            world.set_broker(broker, true);
        }
        Ok(world)
    }

    /// The world's time.
    #[must_use]
    pub const fn now(&self) -> Duration {
        self.now
    }

    /// The world's time as a machine with true clocks is told it.
    #[must_use]
    pub fn true_now(&self) -> Now {
        self.clock.now(self.now)
    }

    /// Datagrams and events so far.
    #[must_use]
    pub const fn figures(&self) -> Figures {
        self.figures
    }

    // ---- time ----

    /// Run for a while.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end).is_some() {}
        self.now = end;
    }

    /// Run until `done`, or for `limit`; returns how long it took if it was reached.
    pub fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&World) -> bool,
    ) -> Option<Duration> {
        let start = self.now;
        let end = start + limit;
        while !done(self) {
            if self.step(end).is_none() {
                self.now = end;
                return done(self).then_some(limit);
            }
        }
        Some(self.now - start)
    }

    /// Work off the next moment at or before `end`: `None` when there is none, else what of
    /// the plan is due.
    #[inline]
    pub(crate) fn step(&mut self, end: Duration) -> Option<Option<Once>> {
        let net = self.net.deadline().unwrap_or(Duration::MAX);
        let timer = self.timers.next().unwrap_or(Duration::MAX);
        let next = net.min(timer);
        if next > end {
            return None;
        }
        self.now = self.now.max(next);
        self.figures.events += 1;
        if net <= timer {
            let mut deliveries = std::mem::take(&mut self.deliveries);
            self.net.poll(self.now, &mut self.draws, &mut deliveries);
            for delivery in deliveries.drain(..) {
                self.deliver(delivery);
            }
            self.deliveries = deliveries;
            self.flush();
            return Some(None);
        }
        match self.timers.pop() {
            None => Some(None),
            Some(Due::Once(what)) => Some(Some(what)),
            Some(Due::Process(process)) => {
                self.wake(process);
                self.flush();
                Some(None)
            }
        }
    }

    /// From now on the nodes are instances that claim slots.
    pub(crate) fn set_membership(&mut self, membership: &Membership) {
        let process = self.nodes.len() + 1 + SERVERS.len() + self.roles.len();
        let names = self.nodes.iter().map(|node| node.spec.name.clone());
        let now = self.true_now();
        let seed = self.seed.fork("membership");
        let claims = Claims::new(membership, names.collect(), &seed, now, process);
        self.claims = Some(Box::new(claims));
    }

    /// Does something with the instances. `None` when nodes are none.
    pub(crate) fn with_claims<R>(
        &mut self,
        work: impl FnOnce(&mut Claims, &mut Scene<'_, Once>) -> R,
    ) -> Option<R> {
        let claims = self.claims.as_mut()?;
        let mut scene = Scene {
            now: self.now,
            clock: self.clock,
            clocks: self.nodes.iter().map(|node| node.clock).collect(),
            journal: &mut self.journal,
            timers: &mut self.timers,
        };
        self.stirred = true;
        let result = work(claims, &mut scene);
        self.follow_claims();
        Some(result)
    }

    fn wake(&mut self, process: usize) {
        if self.claims.as_ref().is_some_and(|c| process >= c.process) {
            self.with_claims(|claims, scene| claims.handle_deadline(scene, process));
            return;
        }
        let nodes = self.nodes.len();
        if process < nodes {
            return self.wake_node(process);
        }
        let process = process - nodes;
        if process == 0 {
            if let Some(turn) = &mut self.turn {
                turn.machine.handle_deadline(self.clock.now(self.now));
                self.drain_turn();
            }
        } else if process <= SERVERS.len() {
            let now = self.clock.now(self.now);
            if let Some(Some(broker)) = self.brokers.get_mut(process - 1) {
                broker.handle_deadline(now);
                self.touch(self.built.servers[process - 1]);
            }
        } else {
            let host = process - 1 - SERVERS.len();
            self.stacks[host].handle_deadline(self.now);
            self.touch_host(host);
        }
    }

    // ---- packets ----

    fn deliver(&mut self, delivery: Delivery<Payload>) {
        let Delivery { to, packet, .. } = delivery;
        let Some(&role) = self.roles.get(to.index()) else {
            return; // a host without processes: a stranger's
        };
        let data = match packet.payload {
            Payload::Tcp(segment) => {
                let stack = &mut self.stacks[to.index()];
                stack.handle(self.now, packet.src, packet.dst, *segment);
                return self.touch(to);
            }
            Payload::Udp(data) => data,
        };
        match role {
            Role::Node(node) if packet.dst.port() == UDP_PORT => {
                self.node_datagram(node, packet.src, packet.dst.ip(), data);
            }
            Role::Server(0) => self.turn_datagram(packet.src, packet.dst.port(), &data),
            Role::Node(_) | Role::Server(_) => {}
        }
    }

    /// A host sends a datagram.
    pub fn send_udp(&mut self, from: HostId, src: SocketAddr, dst: SocketAddr, payload: &[u8]) {
        self.figures.datagrams += 1;
        let packet = Packet {
            protocol: Protocol::Udp,
            src,
            dst,
            len_bytes: payload.len() as u32 + UDP_HEADERS,
            payload: Payload::Udp(BytesMut::from(payload)),
        };
        self.net.send(self.now, from, packet, &mut self.draws);
    }

    pub(crate) fn touch(&mut self, host: HostId) {
        self.touch_host(host.index());
    }

    fn touch_host(&mut self, host: usize) {
        if !self.dirty.contains(&host) {
            self.dirty.push(host);
        }
    }

    /// Carry out what stacks that were called want, until none wants anything.
    pub(crate) fn flush(&mut self) {
        while let Some(host) = self.dirty.pop() {
            self.drain_stack(host);
        }
    }

    fn drain_stack(&mut self, host: usize) {
        loop {
            if let Role::Server(server) = self.roles[host]
                && let Some(broker) = &mut self.brokers[server]
            {
                broker.drain(self.now, &mut self.stacks[host]);
                let deadline = broker.deadline().map(|at| self.clock.local_of(at));
                self.timers.arm(self.nodes.len() + 1 + server, deadline);
            }
            match self.stacks[host].poll_output() {
                None => break,
                Some(tcp::Output::Send { src, dst, segment }) => {
                    let packet = Packet {
                        protocol: Protocol::Tcp,
                        src,
                        dst,
                        len_bytes: segment.len_bytes(),
                        payload: Payload::Tcp(segment),
                    };
                    let from = self.host_of(host);
                    self.net.send(self.now, from, packet, &mut self.draws);
                }
                Some(tcp::Output::Event { conn, port, event }) => match self.roles[host] {
                    Role::Node(node) => self.node_socket(node, conn, event),
                    Role::Server(server) => self.server_socket(server, conn, port, event),
                },
            }
        }
        let process = self.nodes.len() + 1 + SERVERS.len() + host;
        self.timers.arm(process, self.stacks[host].deadline());
    }

    fn host_of(&self, host: usize) -> HostId {
        match self.roles[host] {
            Role::Node(node) => self.built.nodes[node],
            Role::Server(server) => self.built.servers[server],
        }
    }
}

/// The network's randomness: one generator per device and purpose, forked on first use.
struct Draws {
    seed: Seed,
    hosts: Vec<[Option<Box<Drawn>>; 2]>,
    nats: Vec<[Option<Box<Drawn>>; 3]>,
}

struct Drawn(Entropy);

impl Draw for Drawn {
    fn next_u64(&mut self) -> u64 {
        self.0.u64()
    }
}

impl Draws {
    const fn new(seed: Seed) -> Draws {
        Draws {
            seed,
            hosts: Vec::new(),
            nats: Vec::new(),
        }
    }
}

impl Streams for Draws {
    #[inline]
    fn of(&mut self, stream: Stream) -> &mut dyn Draw {
        fn slot<T: Default>(all: &mut Vec<T>, index: usize) -> &mut T {
            if all.len() <= index {
                all.resize_with(index + 1, T::default);
            }
            &mut all[index]
        }
        let known = match stream {
            Stream::HostUp(host) => &mut slot(&mut self.hosts, host.index())[0],
            Stream::HostDown(host) => &mut slot(&mut self.hosts, host.index())[1],
            Stream::NatUp(nat) => &mut slot(&mut self.nats, nat.index())[0],
            Stream::NatDown(nat) => &mut slot(&mut self.nats, nat.index())[1],
            Stream::NatPorts(nat) => &mut slot(&mut self.nats, nat.index())[2],
        };
        let seed = &self.seed;
        let fork = || Box::new(Drawn(seed.fork(&stream.to_string()).rng()));
        known.get_or_insert_with(fork).as_mut()
    }
}
