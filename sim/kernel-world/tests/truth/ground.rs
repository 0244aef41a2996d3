//! Two grounds for the same packets: the model, and a lab.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use holdfast_kernel_world::map::{kernel_nat, nat_name, node_name};
use holdfast_kernel_world::stage::prefix;
use holdfast_lab::{Guard, Lab, PUB};
use holdfast_net_model::{Draw, Filtering, Links, Mapping, NatConfig, Network, Packet, Protocol};
use holdfast_plan::topology::{nat_address, node_address};
use holdfast_plan::{
    Built, CLUSTER, ClockSpec, NatIndex, NatSpec, NodeIndex, NodeSpec, Place, SERVERS, Servers,
    Topology,
};

/// Where the reflector is.
pub const REFLECTOR: End = End {
    host: Host::Server(0),
    port: 3478,
};
/// The port of sockets that only tell when everything has arrived.
const FENCE_PORT: u16 = 9;
/// Far more than a packet takes between two namespaces.
const FENCE_BOUND: Duration = Duration::from_secs(2);
/// The processors pass packets on side by side: the first answer may overtake, the last not.
const FENCES: u32 = 2;

/// Something with sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// A public server.
    Server(usize),
    /// A node.
    Node(u16),
}

/// A socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    pub host: Host,
    pub port: u16,
}

/// A packet that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    pub at: End,
    /// Where it seemed to come from.
    pub from: SocketAddrV4,
    /// What the sender wrote on it.
    pub tag: u32,
}

/// Where packets are sent.
pub trait Ground {
    /// Send a packet, which arrives or not.
    fn send(&mut self, from: End, to: SocketAddrV4, tag: u32);
    /// Wait until nothing is on its way; what arrived.
    fn settle(&mut self) -> Vec<Heard>;
    /// Its time.
    fn now(&self) -> Duration;
    /// Wait until that time.
    fn pass(&mut self, until: Duration);
}

/// Every pair of behaviours.
pub fn behaviours() -> Vec<(Mapping, Filtering)> {
    use Filtering as F;
    use Mapping as M;
    let mappings = [
        M::EndpointIndependent,
        M::AddressDependent,
        M::AddressAndPortDependent,
    ];
    let filterings = [
        F::EndpointIndependent,
        F::AddressDependent,
        F::AddressAndPortDependent,
    ];
    let each = |mapping| filterings.map(|filtering| (mapping, filtering));
    mappings.into_iter().flat_map(each).collect()
}

/// A NAT of those behaviours; endpoint-independent ones preserve ports.
pub fn config((mapping, filtering): (Mapping, Filtering)) -> NatConfig {
    NatConfig {
        port_preservation: mapping == Mapping::EndpointIndependent,
        ..NatConfig::new(Ipv4Addr::UNSPECIFIED, mapping, filtering)
    }
}

/// In words of two letters or so.
pub fn label(config: &NatConfig) -> String {
    let mapping = match config.mapping {
        Mapping::EndpointIndependent => "EIM",
        Mapping::AddressDependent => "ADM",
        Mapping::AddressAndPortDependent => "APDM",
    };
    let filtering = match config.filtering {
        Filtering::EndpointIndependent => "EIF",
        Filtering::AddressDependent => "ADF",
        Filtering::AddressAndPortDependent => "APDF",
    };
    format!("{mapping}/{filtering}")
}

/// So many nodes behind each of these NATs, and no link does anything.
pub fn topology(nats: &[NatConfig], nodes_each: u16) -> Topology {
    let links = Links::ideal();
    let nat = |(index, config): (u16, &NatConfig)| NatSpec {
        name: format!("nat-{index}"),
        config: NatConfig {
            public_ip: nat_address(NatIndex(index), Place::Public),
            ..*config
        },
        place: Place::Public,
        links,
    };
    let node = |index: u16| {
        let place = Place::Behind(NatIndex(index / nodes_each));
        NodeSpec {
            name: format!("node-{index}"),
            place,
            address: node_address(NodeIndex(index), place),
            links,
            cluster: CLUSTER,
            poses_as: None,
            clock: ClockSpec::default(),
            turn: Vec::new(),
            stun: true,
        }
    };
    Topology {
        nats: (0..).zip(nats).map(nat).collect(),
        nodes: (0..nats.len() as u16 * nodes_each).map(node).collect(),
        servers: Servers { brokers: 2, links },
    }
}

fn address(topology: &Topology, host: Host) -> Ipv4Addr {
    match host {
        Host::Server(server) => SERVERS[server],
        Host::Node(node) => topology.node(NodeIndex(node)).address,
    }
}

/// SplitMix64.
struct Random(u64);

impl Draw for Random {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The model.
pub struct Model {
    pub network: Network<u32>,
    pub built: Built,
    topology: Topology,
    now: Duration,
    random: Random,
}

impl Model {
    pub fn new(topology: &Topology) -> Model {
        let (network, built) = topology.build().unwrap();
        Model {
            network,
            built,
            topology: topology.clone(),
            now: Duration::ZERO,
            random: Random(1),
        }
    }

    fn host_of(&self, id: holdfast_net_model::HostId) -> Host {
        match self.built.node_of(id) {
            Some(node) => Host::Node(node.0),
            None => Host::Server(self.built.servers.iter().position(|s| *s == id).unwrap()),
        }
    }
}

impl Ground for Model {
    fn send(&mut self, from: End, to: SocketAddrV4, tag: u32) {
        let host = match from.host {
            Host::Server(server) => self.built.servers[server],
            Host::Node(node) => self.built.host(NodeIndex(node)),
        };
        let src = (address(&self.topology, from.host), from.port);
        let packet = Packet {
            protocol: Protocol::Udp,
            src: SocketAddr::from(src),
            dst: SocketAddr::V4(to),
            len_bytes: 32,
            payload: tag,
        };
        self.network.send(self.now, host, packet, &mut self.random);
    }

    fn settle(&mut self) -> Vec<Heard> {
        let mut deliveries = Vec::new();
        // Links that do nothing take no time.
        self.network
            .poll(self.now, &mut self.random, &mut deliveries);
        assert_eq!(self.network.in_flight_count(), 0);
        let heard = deliveries.into_iter().map(|delivery| Heard {
            at: End {
                host: self.host_of(delivery.to),
                port: delivery.packet.dst.port(),
            },
            from: v4(delivery.packet.src),
            tag: delivery.packet.payload,
        });
        heard.collect()
    }

    fn now(&self) -> Duration {
        self.now
    }

    fn pass(&mut self, until: Duration) {
        self.now = self.now.max(until);
    }
}

/// The kernel.
pub struct Kernel {
    sockets: BTreeMap<End, UdpSocket>,
    topology: Topology,
    origin: Instant,
    fences: u32,
    lab: Guard,
    _turn: MutexGuard<'static, ()>,
}

/// Labs that are made at a time disturb each other's times.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

impl Kernel {
    pub fn new(topology: &Topology) -> Kernel {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let started = Instant::now();
        let mut builder = Lab::builder(&prefix());
        for (index, nat) in (0..).map(NatIndex).zip(&topology.nats) {
            builder = builder.router(&nat_name(index), kernel_nat(&nat.config));
        }
        for node in topology.node_indices() {
            let Place::Behind(nat) = topology.node(node).place else {
                panic!("all nodes are behind NATs");
            };
            let router = nat_name(nat);
            builder = builder.node(&node_name(node), holdfast_lab::Place::Behind(&router));
        }
        let lab = builder.build().unwrap().up_guarded().unwrap();
        for node in topology.node_indices() {
            let found = lab.address(&node_name(node)).unwrap();
            assert_eq!(found, topology.node(node).address, "plan and lab agree");
        }
        figure(&format!(
            "a lab of {} NATs and {} nodes is made in {:?}",
            topology.nats.len(),
            topology.nodes.len(),
            started.elapsed()
        ));
        Kernel {
            sockets: BTreeMap::new(),
            topology: topology.clone(),
            origin: Instant::now(),
            fences: 0,
            lab,
            _turn: turn,
        }
    }

    fn open(&mut self, end: End) -> &UdpSocket {
        let (lab, topology) = (&self.lab, &self.topology);
        self.sockets.entry(end).or_insert_with(|| {
            let name = match end.host {
                Host::Server(_) => PUB.to_owned(),
                Host::Node(node) => node_name(NodeIndex(node)),
            };
            let address = address(topology, end.host);
            let socket = lab.run_in(&name, || UdpSocket::bind((address, end.port)));
            let socket = socket.unwrap().unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
    }

    /// A packet to a server and back: it comes after all that was sent before.
    fn fence(&mut self, node: u16) {
        let at = |host| End {
            host,
            port: FENCE_PORT,
        };
        let (near, far) = (at(Host::Node(node)), at(Host::Server(1)));
        let to = SocketAddrV4::new(SERVERS[1], FENCE_PORT);
        self.fences += 1;
        let tag = self.fences;
        let asked = Instant::now();
        while asked.elapsed() < FENCE_BOUND {
            self.open(far);
            self.send(near, to, tag);
            let Some(request) = self.wait(far, tag) else {
                continue;
            };
            self.send(far, request.from, tag);
            if self.wait(near, tag).is_some() {
                return;
            }
        }
        panic!("node-{node} does not reach the server in {FENCE_BOUND:?}");
    }

    fn wait(&mut self, at: End, tag: u32) -> Option<Heard> {
        let socket = self.open(at);
        socket.set_nonblocking(false).unwrap();
        let limit = Duration::from_millis(200);
        socket.set_read_timeout(Some(limit)).unwrap();
        let mut found = None;
        while let Some(heard) = receive(at, socket) {
            if heard.tag == tag {
                found = Some(heard);
                break;
            }
        }
        socket.set_nonblocking(true).unwrap();
        found
    }
}

impl Ground for Kernel {
    fn send(&mut self, from: End, to: SocketAddrV4, tag: u32) {
        let socket = self.open(from);
        // Whatever the network thinks of it: as lost.
        let _ = socket.send_to(&tag.to_be_bytes(), to);
    }

    fn settle(&mut self) -> Vec<Heard> {
        for _ in 0..FENCES {
            for node in 0..self.topology.nodes.len() as u16 {
                self.fence(node);
            }
        }
        let mut heard = Vec::new();
        for (end, socket) in &self.sockets {
            heard.extend(std::iter::from_fn(|| receive(*end, socket)));
        }
        heard
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn pass(&mut self, until: Duration) {
        // Silence is what is tested: there is nothing else to wait for.
        thread::sleep(until.saturating_sub(self.now()));
    }
}

fn receive(at: End, socket: &UdpSocket) -> Option<Heard> {
    let mut buffer = [0; 64];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((4, from)) => {
                return Some(Heard {
                    at,
                    from: v4(from),
                    tag: u32::from_be_bytes(buffer[..4].try_into().unwrap()),
                });
            }
            Ok((len, from)) => panic!("{len} bytes from {from} that nobody sent"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            // Somebody told that an earlier packet was not wanted.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => panic!("{at:?}: {error}"),
        }
    }
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(_) => panic!("there is no IPv6 here"),
    }
}

/// Print a measurement; not by `println!`, which the test harness swallows.
pub fn figure(line: &str) {
    let _ = writeln!(io::stderr(), "figure: {line}");
}
