//! A node: its process, which comes and goes, and what of its machine stays.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use holdfast_core::config::{
    AllowRule, Config, ConfigError, Congestion, Limits, PathPolicy, PeerConfig, TurnCredentials,
    TurnServer, TurnTransport,
};
use holdfast_core::identity::ClusterSecret;
use holdfast_core::mesh::{Event, Input, Mesh, Output, Received, TcpAction, TcpEvent};
use holdfast_core::status::LinkState;
use holdfast_core::time::Now;
use holdfast_core::types::{LinkId, PeerId, StreamId, Vip};
use holdfast_net_model::HostId;
use holdfast_plan::{
    BROKER_PORT, Built, NodeIndex, NodeSpec, PathClass, SERVERS, Service, TURN_PORT, Topology,
    Transport, UDP_PORT, What,
};

use crate::apps::App;
use crate::clock::Clock;
use crate::engine::{POSTED_MAX, Posted, World};
use crate::servers::TURN_SECRET;
use crate::signal::{Moment, SignalClient};
use crate::tcp::{ConnId, SocketEvent};

/// Datagrams of one size that the machine may make at once.
const SEGMENTS_MAX: usize = 10;
/// Bytes of datagrams that wait for a node that stands still: a socket buffer of holdfast-io.
const INBOX_BYTES_MAX: usize = 4 << 20;
/// How long streams may go on after a goodbye.
const GOODBYE_TIME: Duration = Duration::from_secs(5);
/// How long a node that was told to stop may say so; then it ends whether or not it was heard.
const STOP_TIME: Duration = Duration::from_secs(2);
/// Datagrams that a test may look at.
const SEEN_MAX: usize = 4096;

/// What of a node's configuration no plan says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tuning {
    /// Congestion control.
    pub congestion: Congestion,
    /// Sizes.
    pub limits: Limits,
}

/// A machine with a node on it.
pub struct Node {
    /// Who and where it is when the world begins.
    pub spec: NodeSpec,
    /// Its host.
    pub host: HostId,
    /// Its address now.
    pub ip: Ipv4Addr,
    /// What its next start is configured with.
    pub tuning: Tuning,
    /// Datagrams that its applications got, when [`World::keeps_streams`]: the peer's port,
    /// where it went, what it carries.
    pub datagrams: Vec<(u16, SocketAddr, Bytes)>,
    /// Datagrams that it sent.
    pub sent_datagrams: u64,
    pub(crate) clock: Clock,
    pub(crate) run: Option<Run>,
    pub(crate) paused: bool,
    identity: Member,
    peers: Vec<(NodeIndex, Member)>,
    brokers: Vec<SocketAddr>,
    runs: u64,
    inbox: VecDeque<Waiting>,
    inbox_bytes: usize,
    // What has to outlive the process (a disk) would be kept here.
}

/// What a node claims to be, or takes another one for.
#[derive(Clone)]
struct Member {
    id: PeerId,
    vip: u16,
    cluster: u8,
}

/// Something that a node could not look at while it stood still.
enum Waiting {
    Datagram(Received, BytesMut),
    Socket(ConnId, SocketEvent),
}

/// One run of a node's process.
pub(crate) struct Run {
    pub mesh: Mesh,
    pub apps: BTreeMap<StreamId, App>,
    /// By link.
    pub peers: Vec<NodeIndex>,
    /// By node.
    pub links: Vec<Option<LinkId>>,
    /// By link.
    pub views: Vec<View>,
    signal: SignalClient,
    turn_conns: BTreeMap<u32, TurnConn>,
    stop_at: Option<Duration>,
    end_at: Option<Duration>,
}

/// What events have told of a link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub state: LinkState,
    pub class: Option<PathClass>,
}

struct TurnConn {
    conn: ConnId,
    unsent: VecDeque<Bytes>,
}

fn secret(cluster: u8) -> ClusterSecret {
    ClusterSecret::new(vec![cluster.wrapping_add(5); 32]).expect("long enough")
}

impl Member {
    fn of(topology: &Topology, node: NodeIndex) -> Option<Member> {
        let spec = topology.nodes.get(node.index())?;
        let claimed = spec.poses_as.unwrap_or(node);
        Some(Member {
            id: topology.nodes.get(claimed.index())?.name.parse().ok()?,
            vip: claimed.vip(),
            cluster: spec.cluster,
        })
    }
}

impl Node {
    /// The nodes of a topology, which must be one that can be configured.
    pub(crate) fn all(topology: &Topology, built: &Built) -> Vec<Node> {
        let brokers: Vec<SocketAddr> = SERVERS[..built.servers.len()]
            .iter()
            .map(|ip| SocketAddr::new((*ip).into(), BROKER_PORT))
            .collect();
        let node = |index: NodeIndex| {
            let spec = topology.node(index);
            let member = |n| Member::of(topology, n).expect("checked before");
            let identity = member(index);
            // An intruder knows everything that is public: the members' keys, too.
            let others = topology.members().map(|n| (n, member(n)));
            let peers = others.filter(|(n, m)| *n != index && m.id != identity.id);
            Node {
                host: built.host(index),
                ip: spec.address,
                tuning: Tuning::default(),
                datagrams: Vec::new(),
                sent_datagrams: 0,
                clock: Clock::new(spec.clock),
                run: None,
                paused: false,
                peers: peers.collect(),
                identity,
                brokers: brokers.clone(),
                runs: 0,
                inbox: VecDeque::new(),
                inbox_bytes: 0,
                spec: spec.clone(),
            }
        };
        topology.node_indices().map(node).collect()
    }

    /// Why the nodes of that topology cannot be configured.
    pub(crate) fn problem(topology: &Topology) -> Option<String> {
        let bad = topology
            .node_indices()
            .find(|n| Member::of(topology, *n).is_none());
        if let Some(node) = bad {
            return Some(format!(
                "{:?} is no name of a node",
                topology.node(node).name
            ));
        }
        let last = topology.nodes.len() as u16;
        Vip::new(last.max(1)).err().map(|error| error.to_string())
    }

    /// The machine, while its process runs.
    #[must_use]
    pub fn mesh(&self) -> Option<&Mesh> {
        self.run.as_ref().map(|run| &run.mesh)
    }

    /// Whether its process runs.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.run.is_some()
    }

    /// The key that names its mailbox.
    #[must_use]
    pub fn mailbox(&self) -> holdfast_core::identity::PublicKey {
        secret(self.identity.cluster)
            .identity(&self.identity.id)
            .public()
    }

    /// What it is told before it starts.
    fn config(&self) -> Config {
        let own = secret(self.identity.cluster);
        let server = SocketAddr::new(SERVERS[0].into(), TURN_PORT);
        let vip = |member: &Member| Vip::new(member.vip).expect("checked before");
        let turn = |transport: &Transport| TurnServer {
            addr: server,
            transport: match transport {
                Transport::Udp => TurnTransport::Udp,
                Transport::Tcp => TurnTransport::Tcp,
            },
            credentials: TurnCredentials::Shared {
                secret: TURN_SECRET.to_owned().into(),
            },
        };
        let allowed = Service::ALL
            .into_iter()
            .filter(|service| service.is_allowed());
        Config {
            vip: vip(&self.identity),
            identity: own.identity(&self.identity.id),
            id: self.identity.id.clone(),
            peers: self
                .peers
                .iter()
                .map(|(_, peer)| PeerConfig {
                    key: secret(peer.cluster).identity(&peer.id).public(),
                    id: peer.id.clone(),
                    vip: vip(peer),
                })
                .collect(),
            allow: allowed
                .map(|service| AllowRule {
                    port: service.port(),
                    udp: true,
                })
                .collect(),
            udp_port: UDP_PORT,
            stun: if self.spec.stun {
                vec![server]
            } else {
                Vec::new()
            },
            turn: self.spec.turn.iter().map(turn).collect(),
            paths: PathPolicy::All,
            congestion: self.tuning.congestion,
            limits: self.tuning.limits,
        }
    }
}

impl Run {
    /// When the process has something to do, in local time.
    fn deadline(&self, clock: &Clock) -> Option<Duration> {
        let mesh = self.mesh.deadline().map(|(at, _)| clock.local_of(at));
        [mesh, self.signal.deadline(), self.stop_at, self.end_at]
            .into_iter()
            .flatten()
            .min()
    }
}

impl World {
    /// A node's time.
    #[must_use]
    pub fn at(&self, node: usize) -> Now {
        self.nodes[node].clock.now(self.now)
    }

    fn moment(&self, node: usize) -> Moment {
        Moment {
            world: self.now,
            local: self.nodes[node].clock.local(self.now),
        }
    }

    pub(crate) fn note(&mut self, node: usize, what: What) {
        let name = self.nodes[node].spec.name.as_str();
        let node = Some((NodeIndex(node as u16), name));
        self.journal.note(self.now, node, what);
    }

    // ---- processes ----

    /// A node starts, for the first time or again.
    ///
    /// # Errors
    /// When it cannot be configured like that.
    pub fn start(&mut self, node: usize) -> Result<(), Vec<ConfigError>> {
        self.end(node, false);
        let now = self.at(node);
        let me = &mut self.nodes[node];
        me.runs += 1;
        me.paused = false;
        let seed = self
            .seed
            .fork(&format!("node/{}/{}", me.spec.name, me.runs));
        let mut mesh = Mesh::new(me.config(), seed.clone(), now)?;
        if self.journal.trace.is_on() {
            mesh.recorder().hash_content();
        }
        let known = mesh.links().map(|(_, id, _)| {
            let peer = me.peers.iter().find(|(_, peer)| peer.id == *id);
            peer.expect("links are made of peers").0
        });
        let peers: Vec<NodeIndex> = known.collect();
        let nodes = self.built.nodes.len();
        let link_to = |n| peers.iter().position(|peer| peer.index() == n);
        let local = me.clock.local(self.now);
        let signal = SignalClient::new(&me.brokers, me.mailbox(), &seed, local);
        let ip = me.ip;
        let view = View {
            state: LinkState::Signaling,
            class: None,
        };
        me.run = Some(Run {
            mesh,
            apps: BTreeMap::new(),
            links: (0..nodes)
                .map(|n| Some(LinkId(link_to(n)? as u16)))
                .collect(),
            views: vec![view; peers.len()],
            peers,
            signal,
            turn_conns: BTreeMap::new(),
            stop_at: None,
            end_at: None,
        });
        self.stirred = true;
        self.note(node, What::Started);
        self.call(node, |mesh, now| {
            mesh.handle(now, Input::LocalAddresses(vec![ip.into()]));
        });
        self.wake_node(node);
        self.flush();
        Ok(())
    }

    /// The process is gone, without a word.
    pub fn kill(&mut self, node: usize) {
        self.end(node, false);
        self.flush();
    }

    /// The process says goodbye, and ends when all was said.
    pub fn stop(&mut self, node: usize) {
        let local = self.moment(node).local;
        if let Some(run) = &mut self.nodes[node].run
            && run.stop_at.is_none()
            && run.end_at.is_none()
        {
            run.stop_at = Some(local + GOODBYE_TIME);
            // One that stands still hears of it when it goes on.
            if !self.nodes[node].paused {
                self.call(node, |mesh, now| mesh.handle(now, Input::Goodbye));
            }
        }
    }

    fn end(&mut self, node: usize, clean: bool) {
        let Some(run) = self.nodes[node].run.take() else {
            return;
        };
        let me = &mut self.nodes[node];
        me.paused = false;
        me.inbox.clear();
        me.inbox_bytes = 0;
        let stack = &mut self.stacks[me.host.index()];
        stack.abort_all(None);
        let host = me.host;
        self.touch(host);
        self.stirred = true;
        for (stream, app) in run.apps {
            self.stream_broke(node, stream, app, "the node's process ended");
        }
        self.note(node, What::Ended { clean });
    }

    /// The node stands still: its clocks go on, nothing else does.
    pub fn pause(&mut self, node: usize) {
        self.nodes[node].paused = self.nodes[node].run.is_some();
    }

    /// A paused node goes on, with everything that waits for it.
    pub fn thaw(&mut self, node: usize) {
        if !std::mem::take(&mut self.nodes[node].paused) {
            return;
        }
        self.nodes[node].inbox_bytes = 0;
        for waiting in std::mem::take(&mut self.nodes[node].inbox) {
            match waiting {
                Waiting::Datagram(meta, data) => {
                    self.call_quietly(node, |mesh, now| mesh.handle_datagram(now, meta, data));
                }
                Waiting::Socket(conn, event) => self.node_socket(node, conn, event),
            }
        }
        if self.nodes[node]
            .run
            .as_ref()
            .is_some_and(|run| run.stop_at.is_some())
        {
            self.call_quietly(node, |mesh, now| mesh.handle(now, Input::Goodbye));
        }
        self.wake_node(node);
        self.wake_ops(node);
        self.flush();
    }

    /// The node's wall clock jumps.
    pub fn step_clock(&mut self, node: usize, by_ms: i64) {
        self.nodes[node].clock.step(by_ms);
    }

    /// The node's machine has another address now: the network was told before.
    pub fn moved(&mut self, node: usize, ip: Ipv4Addr) {
        let host = self.nodes[node].host;
        self.nodes[node].ip = ip;
        self.stacks[host.index()].set_ip(ip.into());
        let at = self.moment(node);
        if let Some(run) = &mut self.nodes[node].run {
            let stack = &mut self.stacks[host.index()];
            run.signal.network_changed(at, stack);
            self.touch(host);
        }
        self.call(node, |mesh, now| {
            mesh.handle(now, Input::LocalAddresses(vec![ip.into()]));
        });
    }

    // ---- calls ----

    /// Call a node's machine and carry out what it wants. `None` when it does not run.
    pub fn call<R>(&mut self, node: usize, f: impl FnOnce(&mut Mesh, Now) -> R) -> Option<R> {
        let result = self.call_quietly(node, f);
        self.flush();
        result
    }

    /// As [`World::call`], and what connections want is left for later.
    fn call_quietly<R>(&mut self, node: usize, f: impl FnOnce(&mut Mesh, Now) -> R) -> Option<R> {
        let now = self.at(node);
        let result = f(&mut self.nodes[node].run.as_mut()?.mesh, now);
        self.drain_node(node);
        Some(result)
    }

    pub(crate) fn node_datagram(
        &mut self,
        node: usize,
        from: SocketAddr,
        to: IpAddr,
        data: BytesMut,
    ) {
        let meta = Received {
            from,
            to: Some(to),
            ecn: 0,
        };
        let me = &mut self.nodes[node];
        if me.paused {
            if me.inbox_bytes + data.len() <= INBOX_BYTES_MAX {
                me.inbox_bytes += data.len();
                me.inbox.push_back(Waiting::Datagram(meta, data));
            }
            return;
        }
        self.call_quietly(node, |mesh, now| mesh.handle_datagram(now, meta, data));
    }

    pub(crate) fn wake_node(&mut self, node: usize) {
        let at = self.moment(node);
        let me = &mut self.nodes[node];
        let now = me.clock.now(self.now);
        let Some(run) = me.run.as_mut().filter(|_| !me.paused) else {
            return;
        };
        let host = me.host;
        let posts = run
            .signal
            .handle_deadline(at, &mut self.stacks[host.index()]);
        let mesh_is_due = run.mesh.deadline().is_some_and(|(due, _)| due <= now.mono);
        if mesh_is_due {
            run.mesh.handle_deadline(now);
        }
        if run.stop_at.is_some_and(|due| due <= at.local) {
            run.stop_at = None;
            run.end_at = Some(at.local + STOP_TIME);
            run.mesh.handle(now, Input::Stop);
        }
        if run.end_at.is_some_and(|due| due <= at.local) {
            return self.end(node, true);
        }
        if posts {
            self.touch(host);
        }
        self.drain_node(node);
    }

    pub(crate) fn node_socket(&mut self, node: usize, conn: ConnId, event: SocketEvent) {
        let at = self.moment(node);
        let me = &mut self.nodes[node];
        if me.paused {
            me.inbox.push_back(Waiting::Socket(conn, event));
            return;
        }
        let stack = &mut self.stacks[me.host.index()];
        let Some(run) = &mut me.run else {
            return stack.abort(conn);
        };
        let mut envelopes = Vec::new();
        if run
            .signal
            .handle_socket(at, stack, conn, event, &mut envelopes)
        {
            let now = me.clock.now(self.now);
            for envelope in envelopes {
                run.mesh.handle(now, Input::Signal(envelope.to_vec()));
            }
        } else {
            self.turn_socket(node, conn, event);
        }
        self.drain_node(node);
    }

    fn turn_socket(&mut self, node: usize, conn: ConnId, event: SocketEvent) {
        let me = &mut self.nodes[node];
        let now = me.clock.now(self.now);
        let stack = &mut self.stacks[me.host.index()];
        let Some(run) = &mut me.run else {
            return;
        };
        let found = run
            .turn_conns
            .iter_mut()
            .find(|(_, known)| known.conn == conn);
        let Some((&number, known)) = found else {
            return stack.abort(conn);
        };
        let mut tell = |event| {
            run.mesh.handle(
                now,
                Input::TurnTcp {
                    conn: number,
                    event,
                },
            )
        };
        match event {
            SocketEvent::Connected => {
                if let Some(local) = stack.local(conn) {
                    tell(TcpEvent::Connected { local });
                }
            }
            SocketEvent::Readable => {
                while let Some(bytes) = stack.read(conn) {
                    tell(TcpEvent::Bytes(BytesMut::from(bytes)));
                }
            }
            SocketEvent::Writable => {
                while let Some(front) = known.unsent.front_mut() {
                    let taken = stack.write(self.now, conn, front);
                    drop(front.split_to(taken));
                    if taken > 0 {
                        tell(TcpEvent::Sent(taken));
                    }
                    if !front.is_empty() {
                        break;
                    }
                    known.unsent.pop_front();
                }
            }
            SocketEvent::Closed => {
                stack.close(self.now, conn);
                run.turn_conns.remove(&number);
                run.mesh.handle(
                    now,
                    Input::TurnTcp {
                        conn: number,
                        event: TcpEvent::Closed,
                    },
                );
            }
            SocketEvent::Accepted { .. } => {}
        }
    }

    // ---- what the machine wants ----

    pub(crate) fn drain_node(&mut self, node: usize) {
        let now = self.at(node);
        let mut buf = std::mem::take(&mut self.buf);
        while let Some(run) = &mut self.nodes[node].run {
            if let Some(output) = run.mesh.poll_output() {
                self.act(node, now, output);
                continue;
            }
            buf.clear();
            let Some(transmit) = run.mesh.poll_transmit(now, &mut buf, SEGMENTS_MAX) else {
                break;
            };
            let me = &mut self.nodes[node];
            let src = SocketAddr::new(me.ip.into(), UDP_PORT);
            let (host, size) = (me.host, transmit.segment_size.unwrap_or(buf.len()));
            for segment in buf.chunks(size.max(1)) {
                self.nodes[node].sent_datagrams += 1;
                self.send_udp(host, src, transmit.to, segment);
            }
        }
        self.buf = buf;
        self.after_drain(node);
    }

    fn after_drain(&mut self, node: usize) {
        let me = &mut self.nodes[node];
        let Some(run) = &mut me.run else {
            return;
        };
        if self.journal.trace.is_on() {
            for (_, record) in run.mesh.recorder().drain() {
                self.journal.trace.record(self.now, &me.spec.name, &record);
            }
        }
        let leaves = run.stop_at.is_some() || run.end_at.is_some();
        if leaves && run.mesh.is_drained() && run.signal.is_flushed() {
            return self.end(node, true);
        }
        let due = run.deadline(&me.clock).map(|local| me.clock.world(local));
        self.timers.arm(node, due.map(|due| due.max(self.now)));
    }

    fn act(&mut self, node: usize, now: Now, output: Output) {
        match output {
            Output::Signal { to, envelope } => self.post(node, to, envelope.into()),
            Output::TurnTcp { conn, action } => self.turn_action(node, now, conn, action),
            Output::Incoming { stream, to, .. } => self.accept(node, now, stream, to[0].port()),
            Output::Readable(stream) | Output::Writable(stream) => self.pump(node, stream),
            Output::Reset { stream, reason } => self.reset(node, stream, reason),
            Output::Udp {
                link,
                peer_port,
                to,
                payload,
            } => {
                if self.keeps_streams && self.nodes[node].datagrams.len() < SEEN_MAX {
                    let seen = (peer_port, to, payload.clone());
                    self.nodes[node].datagrams.push(seen);
                }
                self.app_datagram(node, now, (link, peer_port, to), payload);
            }
            Output::Event(event) => self.event(node, event),
        }
    }

    fn post(&mut self, node: usize, to: holdfast_core::identity::PublicKey, envelope: Bytes) {
        if self.posted.len() == POSTED_MAX {
            self.posted.pop_front();
        }
        self.posted.push_back(Posted {
            from: node,
            to,
            envelope: envelope.clone(),
        });
        let at = self.moment(node);
        let me = &mut self.nodes[node];
        let stack = &mut self.stacks[me.host.index()];
        if let Some(run) = &mut me.run {
            run.signal.post(at, stack, to, &envelope);
        }
        let host = me.host;
        self.touch(host);
    }

    fn turn_action(&mut self, node: usize, now: Now, number: u32, action: TcpAction) {
        let me = &mut self.nodes[node];
        let host = me.host;
        let stack = &mut self.stacks[host.index()];
        let Some(run) = &mut me.run else {
            return;
        };
        match action {
            TcpAction::Connect(server) => {
                let conn = stack.connect(self.now, server);
                let unsent = VecDeque::new();
                run.turn_conns.insert(number, TurnConn { conn, unsent });
            }
            TcpAction::Write(mut bytes) => {
                if let Some(known) = run.turn_conns.get_mut(&number) {
                    if known.unsent.is_empty() {
                        let taken = stack.write(self.now, known.conn, &bytes);
                        drop(bytes.split_to(taken));
                        let event = TcpEvent::Sent(taken);
                        run.mesh.handle(
                            now,
                            Input::TurnTcp {
                                conn: number,
                                event,
                            },
                        );
                    }
                    if !bytes.is_empty() {
                        known.unsent.push_back(bytes);
                    }
                }
            }
            TcpAction::Close => {
                if let Some(known) = run.turn_conns.remove(&number) {
                    stack.close(self.now, known.conn);
                }
            }
        }
        self.touch(host);
    }

    fn event(&mut self, node: usize, event: Event) {
        let Some(run) = &mut self.nodes[node].run else {
            return;
        };
        let named = |run: &Run, id: &PeerId| {
            let mut links = run.mesh.links();
            links
                .find(|(_, peer, _)| *peer == id)
                .map(|(link, ..)| link.index())
        };
        let what = match event {
            Event::LinkState { peer, to, why, .. } => {
                let Some(link) = named(run, &peer) else {
                    return;
                };
                self.stirred = true;
                run.views[link].state = to;
                What::Link {
                    peer: run.peers[link],
                    state: to,
                    why: why.to_owned(),
                }
            }
            Event::PathSelected {
                peer,
                local,
                remote,
                class,
                why,
            } => {
                let link = named(run, &peer);
                let Some((link, class)) = link.zip(class.parse::<PathClass>().ok()) else {
                    return;
                };
                self.stirred = true;
                run.views[link].class = Some(class);
                What::Path {
                    peer: run.peers[link],
                    class,
                    detail: format!("{local} to {remote}: {why}"),
                }
            }
            Event::PeerRestarted { peer, .. } => {
                let Some(link) = named(run, &peer) else {
                    return;
                };
                What::PeerRestarted {
                    peer: run.peers[link],
                }
            }
            Event::Refused { counter, .. } => What::Refused {
                counter: counter.to_owned(),
            },
            Event::Server { .. } => return,
        };
        self.note(node, what);
    }
}
