//! What everything in a world can reach: the plan, the network, the time and the journal.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::entropy::Seed;
use holdfast_core::recorder::Record;
use holdfast_core::status::LinkState;
use holdfast_io::mesh::NodeStatus;
use holdfast_net_model::Ratio;
use holdfast_plan::{
    Attack, ClockSpec, Journal, NodeIndex, Op, PathClass, Plan, SERVERS, SlotSeen, TraceMode, What,
};
use tokio::sync::{Notify, watch};

use crate::claims::Member;
use crate::clock::SimClock;
use crate::fabric::Fabric;
use crate::host::Host;
use crate::kv::Kept;
use crate::log::Line;
use crate::net::SimNet;

/// Where turmoil's addresses of nodes begin (RFC 2544's network, which no plan uses).
const NODES_FROM: u32 = u32::from_be_bytes([198, 18, 0, 1]);
/// The turmoil address of the host whose tasks are the applications of all nodes.
const APPS: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 1);
/// The turmoil address of the host of somebody who is not in the cluster.
const OUTSIDER: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 2);

/// What is known of a node beside its host.
#[derive(Default)]
pub struct NodeState {
    /// Whether its process should run.
    pub wanted: Cell<bool>,
    /// Whether it does.
    pub running: Cell<bool>,
    /// Whether it has been told to stop.
    pub stopping: Cell<bool>,
    /// Whether it has to start again once it has ended.
    pub again: Cell<bool>,
    /// How often it has been started.
    pub runs: Cell<u32>,
    /// Tells it to stop.
    pub stop: RefCell<Option<watch::Sender<bool>>>,
    /// What it said of itself last.
    pub status: RefCell<Option<NodeStatus>>,
    /// The most that each queue held, and its bound.
    pub queues: RefCell<BTreeMap<String, (u64, u64)>>,
    /// What it is as an instance, in plans with a membership.
    pub member: Member,
}

/// What is known of a server beside its host.
pub struct ServerState {
    /// Whether its broker should serve.
    pub broker: Cell<bool>,
    /// Whether its TURN server should.
    pub turn: Cell<bool>,
    /// Whether its KV should.
    pub kv: Cell<bool>,
    /// Something of that has changed.
    pub changed: Notify,
}

/// Work for tasks that wait for it.
pub struct Inbox<T> {
    waiting: RefCell<VecDeque<T>>,
    arrived: Notify,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Inbox {
            waiting: RefCell::default(),
            arrived: Notify::new(),
        }
    }
}

impl<T> Inbox<T> {
    /// One more.
    pub fn push(&self, work: T) {
        self.waiting.borrow_mut().push_back(work);
        self.arrived.notify_one();
    }

    /// The next. For one task.
    pub async fn next(&self) -> T {
        loop {
            let next = self.waiting.borrow_mut().pop_front();
            match next {
                Some(work) => return work,
                None => self.arrived.notified().await,
            }
        }
    }
}

/// A world.
pub struct Shared {
    /// What is played.
    pub plan: Plan,
    /// What everything random derives from.
    pub seed: Seed,
    /// The start of the current tick, since the start of the world.
    pub now: Cell<Duration>,
    /// The network model.
    pub fabric: RefCell<Fabric>,
    /// What was observed.
    pub journal: RefCell<Journal>,
    /// All hosts: the nodes, the servers, the applications, the outsider.
    pub hosts: Vec<Rc<Host>>,
    /// By node.
    pub nodes: Vec<NodeState>,
    /// By server.
    pub servers: Vec<ServerState>,
    /// What the brokers lose and repeat.
    pub broker_loss: Cell<(Ratio, Ratio)>,
    /// Conversations to begin.
    pub ops: Inbox<Op>,
    /// Conversations that have not ended.
    pub ops_open: Cell<usize>,
    /// Attacks to carry out.
    pub attacks: Inbox<(NodeIndex, Attack)>,
    /// What the KV keeps when its process ends.
    pub kept: RefCell<Kept>,
}

impl Shared {
    /// A world before its first tick.
    ///
    /// # Errors
    /// When the plan's topology contradicts itself.
    pub fn new(plan: &Plan, mode: TraceMode) -> Result<Rc<Shared>, String> {
        let seed = world_seed(plan.seed);
        let fabric = Fabric::new(&plan.topology, seed.fork("network"))?;
        let mut hosts: Vec<Rc<Host>> = Vec::new();
        let built = fabric.built();
        for (n, node) in plan.topology.nodes.iter().enumerate() {
            let turmoil_ip = Ipv4Addr::from_bits(NODES_FROM + n as u32);
            let addresses = [turmoil_ip, node.address];
            let model = Some(built.nodes[n]);
            hosts.push(Host::new(
                hosts.len(),
                &node.name,
                model,
                addresses,
                node.clock,
            ));
        }
        for (n, model) in built.servers.iter().enumerate() {
            let name = format!("server-{}", n + 1);
            let addresses = [SERVERS[n]; 2];
            let clock = ClockSpec::default();
            hosts.push(Host::new(
                hosts.len(),
                &name,
                Some(*model),
                addresses,
                clock,
            ));
        }
        for (name, ip) in [("applications", APPS), ("outsider", OUTSIDER)] {
            let clock = ClockSpec::default();
            hosts.push(Host::new(hosts.len(), name, None, [ip; 2], clock));
        }
        let server = |_| ServerState {
            broker: Cell::new(true),
            turn: Cell::new(true),
            kv: Cell::new(true),
            changed: Notify::new(),
        };
        Ok(Rc::new(Shared {
            nodes: plan
                .topology
                .nodes
                .iter()
                .map(|_| NodeState::default())
                .collect(),
            servers: built.servers.iter().map(server).collect(),
            fabric: RefCell::new(fabric),
            journal: RefCell::new(Journal::new(mode)),
            hosts,
            plan: plan.clone(),
            seed,
            now: Cell::new(Duration::ZERO),
            broker_loss: Cell::new((Ratio::NEVER, Ratio::NEVER)),
            ops: Inbox::default(),
            ops_open: Cell::new(0),
            attacks: Inbox::default(),
            kept: RefCell::default(),
        }))
    }

    /// The host of a node.
    pub fn node_host(&self, node: NodeIndex) -> &Rc<Host> {
        &self.hosts[node.index()]
    }

    /// The host of a server.
    pub fn server_host(&self, server: usize) -> &Rc<Host> {
        &self.hosts[self.nodes.len() + server]
    }

    /// The host of the applications.
    pub fn apps_host(&self) -> &Rc<Host> {
        &self.hosts[self.hosts.len() - 2]
    }

    /// The host of somebody who is not in the cluster.
    pub fn outsider_host(&self) -> &Rc<Host> {
        &self.hosts[self.hosts.len() - 1]
    }

    /// The network of a host.
    pub fn net(self: &Rc<Self>, host: &Rc<Host>) -> SimNet {
        SimNet::new(self.clone(), host.clone())
    }

    /// The clock of the applications, which is the world's.
    pub fn apps_clock(&self) -> SimClock {
        SimClock(self.apps_host().clock.clone())
    }

    /// A node's virtual address, the claimed one for an intruder.
    pub fn vip_of(&self, node: NodeIndex) -> u16 {
        let spec = self.plan.topology.node(node);
        spec.poses_as.unwrap_or(node).vip()
    }

    /// A host sends a datagram.
    pub fn send(&self, host: &Host, pair: [SocketAddr; 2], payload: Bytes) {
        let Some(model) = host.model else { return };
        let now = self.now.get();
        let mut journal = self.journal.borrow_mut();
        journal.figures.datagrams += 1;
        if journal.trace.is_on() {
            let record = Record::Tx {
                to: pair[1],
                len: payload.len(),
                segment: payload.len(),
                hash: hash(&payload),
            };
            journal.trace.record(now, &host.name, &record);
        }
        self.fabric.borrow_mut().send(now, model, pair, payload);
    }

    /// Datagrams whose time has come arrive.
    pub fn deliver(&self) {
        let now = self.now.get();
        let arrived = self.fabric.borrow_mut().poll(now);
        for delivery in arrived {
            let host = self.hosts.iter().find(|h| h.model == Some(delivery.to));
            let Some(host) = host else { continue };
            let packet = delivery.packet;
            self.arrive(host, packet.src, packet.dst, packet.payload);
        }
    }

    /// A datagram arrives at a host.
    pub fn arrive(&self, host: &Host, from: SocketAddr, to: SocketAddr, payload: Bytes) {
        let mut journal = self.journal.borrow_mut();
        journal.figures.events += 1;
        if journal.trace.is_on() {
            let record = Record::Rx {
                from,
                len: payload.len(),
                hash: hash(&payload),
            };
            journal.trace.record(self.now.get(), &host.name, &record);
        }
        host.ports.deliver(from, to, payload);
    }

    /// Something was observed, at a node or nowhere.
    pub fn note(&self, node: Option<NodeIndex>, what: What) {
        let named = node.map(|node| (node, self.node_host(node).name.as_str()));
        self.journal.borrow_mut().note(self.now.get(), named, what);
    }

    /// Something of the claims of slots was observed.
    pub fn note_slot(&self, node: Option<NodeIndex>, what: SlotSeen) {
        let named = node.map(|node| (node, self.node_host(node).name.as_str()));
        let mut journal = self.journal.borrow_mut();
        journal.note_slot(self.now.get(), named, what);
    }

    /// A program said something.
    pub fn hear(&self, line: &Line) {
        let host = line.host.map(|number| &self.hosts[number]);
        let name = host.map_or("world", |host| host.name.as_str());
        let what = format!("{} {line}", line.level);
        let record = Record::Output { what };
        let mut journal = self.journal.borrow_mut();
        journal.trace.record(self.now.get(), name, &record);
        drop(journal);
        let node = line.host.filter(|number| *number < self.nodes.len());
        let node = node.map(|number| NodeIndex(number as u16));
        if line.level == tracing::Level::ERROR {
            self.note(
                node,
                What::Error {
                    line: line.to_string(),
                },
            );
        } else if let Some(what) = node.and_then(|_| self.meaning(line)) {
            self.note(node, what);
        }
    }

    /// What an observation a line of a node is, if any.
    fn meaning(&self, line: &Line) -> Option<What> {
        let peer = || self.plan.topology.find(line.get("peer"));
        match line.message.as_str() {
            "path selected" => Some(What::Path {
                peer: peer()?,
                class: line.get("class").parse::<PathClass>().ok()?,
                detail: ["local", "remote", "why"]
                    .map(|field| line.get(field))
                    .join(" "),
            }),
            "the peer has restarted" => Some(What::PeerRestarted { peer: peer()? }),
            "something from outside was refused" => Some(What::Refused {
                counter: line.get("counter").to_owned(),
            }),
            message if message.starts_with("link ") => Some(What::Link {
                peer: peer()?,
                state: link_state(line.get("to"))?,
                why: line.get("why").to_owned(),
            }),
            _ => None,
        }
    }
}

fn link_state(text: &str) -> Option<LinkState> {
    const ALL: [LinkState; 5] = [
        LinkState::Idle,
        LinkState::Signaling,
        LinkState::Connecting,
        LinkState::Up,
        LinkState::Down,
    ];
    ALL.into_iter().find(|state| state.as_str() == text)
}

fn world_seed(seed: u64) -> Seed {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    Seed::new(bytes).fork("turmoil world")
}

/// A 64-bit hash for comparing traces: not for keys, and not against malice.
fn hash(content: &[u8]) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325 ^ content.len() as u64;
    for chunk in content.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        state =
            (state.rotate_left(7) ^ u64::from_le_bytes(word)).wrapping_mul(0x2545_f491_4f6c_dd1d);
    }
    state ^ (state >> 29)
}
