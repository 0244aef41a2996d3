//! A node: the real driver, configured as the plan says.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use holdfast_core::config::{
    AllowRule, Config, Congestion, Limits, PathPolicy, PeerConfig, TurnCredentials, TurnServer,
    TurnTransport,
};
use holdfast_core::identity::ClusterSecret;
use holdfast_core::types::{PeerId, Vip};
use holdfast_io::http::{Endpoint, Stop};
use holdfast_io::mesh::{DRAIN_DEFAULT, MeshOptions, run_mesh};
use holdfast_plan::{
    BROKER_PORT, NodeIndex, SERVERS, Service, TURN_PORT, Topology, Transport, UDP_PORT, What,
};

use crate::claims::run_instance;
use crate::clock::SimClock;
use crate::shared::Shared;
use crate::spawn::SimSpawn;

/// Where a node serves its admin page, on its host's loopback interface.
pub const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);
/// What TURN credentials are derived from.
pub const TURN_SECRET: &str = "the relay's secret";

/// The secret of a cluster, by its number.
pub fn cluster_secret(cluster: u8) -> ClusterSecret {
    ClusterSecret::new(vec![cluster.wrapping_add(5); 32]).expect("32 bytes are long enough")
}

/// The name that a node goes by: the claimed one for an intruder.
pub fn peer_id(topology: &Topology, node: NodeIndex) -> Result<PeerId, String> {
    let spec = topology.node(node);
    let name = &topology.node(spec.poses_as.unwrap_or(node)).name;
    name.parse()
        .map_err(|error| format!("{name:?} is no name: {error}"))
}

/// The process of a node, from its start to its end.
pub async fn run_node(shared: Rc<Shared>, node: NodeIndex) -> turmoil::Result {
    let state = &shared.nodes[node.index()];
    // turmoil starts every host by itself once.
    if !state.wanted.get() {
        return Ok(());
    }
    let host = shared.node_host(node).clone();
    host.clock.begin(shared.now.get());
    state.runs.set(state.runs.get() + 1);
    let (sender, stop) = Stop::new();
    *state.stop.borrow_mut() = Some(sender);
    state.running.set(true);
    shared.note(Some(node), What::Started);
    if let Some(membership) = &shared.plan.membership {
        run_instance(&shared, membership, node, stop).await?;
        state.gone(&shared, node, true);
        return Ok(());
    }
    let options = options(&shared, node)?;
    let net = shared.net(&host);
    let clock = SimClock(host.clock.clone());
    let ended = run_mesh(options, net, clock, SimSpawn::new(host.number), stop).await;
    if let Err(error) = &ended {
        let line = format!("the node ended: {error}");
        shared.note(Some(node), What::Error { line });
    }
    state.gone(&shared, node, ended.is_ok());
    Ok(())
}

impl crate::shared::NodeState {
    /// The process is no more.
    pub fn gone(&self, shared: &Shared, node: NodeIndex, clean: bool) {
        self.wanted.set(false);
        self.running.set(false);
        self.stopping.set(false);
        self.stop.take();
        self.status.take();
        self.member.gone(shared, node);
        shared.note(Some(node), What::Ended { clean });
    }
}

fn options(shared: &Shared, node: NodeIndex) -> Result<MeshOptions, String> {
    let topology = &shared.plan.topology;
    let run = shared.nodes[node.index()].runs.get();
    let name = &topology.node(node).name;
    let brokers = &SERVERS[..shared.servers.len()];
    let brokers = brokers.iter().map(|ip| {
        let url = format!("http://{ip}:{BROKER_PORT}");
        url.parse::<Endpoint>().map_err(|error| error.to_string())
    });
    Ok(MeshOptions {
        config: config(topology, node)?,
        seed: shared.seed.fork(&format!("node/{name}/{run}")),
        listen: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), UDP_PORT),
        brokers: brokers.collect::<Result<_, _>>()?,
        forward: Service::ALL.map(rule).to_vec(),
        admin: Some(ADMIN),
        dumps: None,
        drain: DRAIN_DEFAULT,
        late_servers: None,
        version: "simulated".to_owned(),
    })
}

fn rule(service: Service) -> AllowRule {
    AllowRule {
        port: service.port(),
        udp: true,
    }
}

fn config(topology: &Topology, node: NodeIndex) -> Result<Config, String> {
    let spec = topology.node(node);
    let secret = cluster_secret(spec.cluster);
    let me = spec.poses_as.unwrap_or(node);
    let id = peer_id(topology, node)?;
    let vip =
        |node: NodeIndex| Vip::new(node.vip()).map_err(|error| format!("node {}: {error}", node.0));
    let peers = topology.members().filter(|peer| *peer != me).map(|peer| {
        let id = peer_id(topology, peer)?;
        Ok::<_, String>(PeerConfig {
            vip: vip(peer)?,
            key: secret.identity(&id).public(),
            id,
        })
    });
    let server = SocketAddr::new(SERVERS[0].into(), TURN_PORT);
    let turn = spec.turn.iter().map(|transport| TurnServer {
        addr: server,
        transport: match transport {
            Transport::Udp => TurnTransport::Udp,
            Transport::Tcp => TurnTransport::Tcp,
        },
        credentials: TurnCredentials::Shared {
            secret: TURN_SECRET.to_owned().into(),
        },
    });
    Ok(Config {
        vip: vip(me)?,
        identity: secret.identity(&id),
        peers: peers.collect::<Result<_, _>>()?,
        id,
        allow: Service::ALL
            .into_iter()
            .filter(|s| s.is_allowed())
            .map(rule)
            .collect(),
        udp_port: UDP_PORT,
        stun: if spec.stun { vec![server] } else { Vec::new() },
        turn: turn.collect(),
        paths: PathPolicy::All,
        congestion: Congestion::default(),
        limits: Limits::default(),
    })
}
