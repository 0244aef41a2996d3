//! A plan's topology as a lab.

use std::collections::BTreeSet;
use std::path::Path;

use holdfast_lab::{self as lab, Builder, LinkSpec, Nat};
use holdfast_net_model::{Filtering, LinkConfig, Links, Mapping, NatConfig};
use holdfast_plan::topology::default_links;
use holdfast_plan::{
    Action, CLUSTER, Device, NatIndex, NetworkFault, NodeIndex, Place, Plan, SERVERS, Service,
    Topology, Transport,
};

use crate::config::NodeConfig;
use crate::stage::{BROKER_PORT, CLUSTER_SECRET_FILE, TURN_PORT, TURN_SECRET_FILE};

/// How many records a node's flight recorder keeps when the trace is wanted.
const TRACED_RECORDS: usize = 200_000;
/// The longest expiry that a lab's router can have.
const EXPIRY_S_MAX: u64 = 3_600;

/// The namespace of a node.
pub fn node_name(node: NodeIndex) -> String {
    format!("node-{}", node.vip())
}

/// The namespace of a NAT.
pub fn nat_name(nat: NatIndex) -> String {
    format!("nat-{}", nat.index() + 1)
}

/// Why this world cannot build it, beyond what plans know.
pub fn obstacle(plan: &Plan) -> Option<String> {
    let topology = &plan.topology;
    let links = topology.servers.links;
    if links != default_links() && links != Links::ideal() {
        return Some("a server's link".to_owned());
    }
    if topology.nodes.len() > lab::NODES_MAX || topology.nats.len() > lab::ROUTERS_MAX {
        let (nodes, nats) = (lab::NODES_MAX, lab::ROUTERS_MAX);
        return Some(format!("more than {nodes} nodes or {nats} NATs"));
    }
    None
}

/// The lab of a plan.
///
/// Every link is emulated but those that do nothing for the whole run. Servers have no link: a
/// path to one is shorter by theirs than in the model.
pub fn describe(plan: &Plan, wire: &Path, mut builder: Builder) -> Result<Builder, lab::Error> {
    let topology = &plan.topology;
    let changed: BTreeSet<Device> = plan
        .steps
        .iter()
        .filter_map(|s| link_of(&s.action))
        .collect();
    builder = builder.wire_binary(wire).seed(plan.seed);
    let mut links = Vec::new();
    for (index, spec) in (0..).map(NatIndex).zip(&topology.nats) {
        let name = nat_name(index);
        builder = builder.router(&name, nat(plan, index));
        links.push((Device::Nat(index), name, spec.links));
    }
    for index in topology.node_indices() {
        let (name, spec) = (node_name(index), topology.node(index));
        builder = match spec.place {
            Place::Public => builder.node(&name, lab::Place::Public),
            Place::Behind(nat) => builder.node(&name, lab::Place::Behind(&nat_name(nat))),
        };
        links.push((Device::Node(index), name, spec.links));
    }
    for (device, name, spec) in links {
        if spec != Links::ideal() || changed.contains(&device) {
            builder = builder.link(&name, link_spec(&spec.up)?, link_spec(&spec.down)?);
        }
    }
    Ok(builder)
}

fn link_of(action: &Action) -> Option<Device> {
    match action {
        Action::Network(NetworkFault::Link { device, .. }) => Some(*device),
        _ => None,
    }
}

/// A link in the emulator's words, which are the model's.
pub fn link_spec(config: &LinkConfig) -> Result<LinkSpec, lab::Error> {
    LinkSpec::new(&config.to_string())
}

/// The NAT of that position.
fn nat(plan: &Plan, index: NatIndex) -> Nat {
    let config = &plan.topology.nats[index.index()].config;
    let flush = Action::Network(NetworkFault::Flush(index));
    // The model's NATs come back from a reboot with other ports, the kernel's with the same
    // unless they are random.
    let rebooted = plan.steps.iter().any(|step| step.action == flush);
    let mut nat = kernel_nat(config);
    if rebooted && nat.mapping == lab::Mapping::Eim {
        nat.mapping = lab::Mapping::EimRand;
    }
    nat
}

/// A router that behaves like that NAT of the model.
///
/// What the kernel does otherwise: address-dependent mappings never preserve ports; expiry counts
/// in whole seconds, up to an hour, and is refreshed by packets in both directions; the number
/// of mappings is not limited; there is no IPv6.
#[must_use]
pub fn kernel_nat(config: &NatConfig) -> Nat {
    let mapping = match (config.mapping, config.port_preservation) {
        (Mapping::EndpointIndependent, true) => lab::Mapping::Eim,
        (Mapping::EndpointIndependent, false) => lab::Mapping::EimRand,
        (Mapping::AddressDependent, _) => lab::Mapping::Adm,
        (Mapping::AddressAndPortDependent, _) => lab::Mapping::Apdm,
    };
    let filtering = match config.filtering {
        Filtering::EndpointIndependent => lab::Filtering::Eif,
        Filtering::AddressDependent => lab::Filtering::Adf,
        Filtering::AddressAndPortDependent => lab::Filtering::Apdf,
    };
    let expiry_ms = config.mapping_expiry.as_millis();
    let expiry_s = u64::try_from(expiry_ms.div_ceil(1_000)).unwrap_or(EXPIRY_S_MAX);
    let expiry_s = expiry_s.clamp(1, EXPIRY_S_MAX) as u32;
    Nat {
        hairpin: config.hairpinning,
        isolate: config.isolated,
        udp_blocked: config.udp_blocked,
        udp_timeout_s: expiry_s,
        udp_stream_timeout_s: expiry_s,
        ..Nat::new(mapping, filtering)
    }
}

/// The file with the secret of a cluster, in the lab's folder.
pub fn secret_file(cluster: u8) -> String {
    match cluster {
        CLUSTER => CLUSTER_SECRET_FILE.to_owned(),
        other => format!("cluster-{other}.secret"),
    }
}

/// The last octet of the virtual address that a node claims.
pub fn claimed_vip(topology: &Topology, node: NodeIndex) -> u16 {
    topology.node(node).poses_as.unwrap_or(node).vip()
}

/// What a node is told.
pub fn node_config(topology: &Topology, node: NodeIndex, traced: bool) -> NodeConfig {
    let spec = topology.node(node);
    let name = |n: NodeIndex| topology.node(n).name.clone();
    let server = SERVERS[0];
    let transport = |t: &Transport| match t {
        Transport::Udp => format!("turn:{server}:{TURN_PORT}?transport=udp"),
        Transport::Tcp => format!("turn:{server}:{TURN_PORT}?transport=tcp"),
    };
    let ports = |wanted: fn(&Service) -> bool| {
        let services = Service::ALL.into_iter().filter(wanted);
        services.map(Service::port).collect::<Vec<_>>()
    };
    NodeConfig {
        id: name(spec.poses_as.unwrap_or(node)),
        vip: Some(claimed_vip(topology, node)),
        cluster_secret_file: secret_file(spec.cluster),
        brokers: broker_urls(topology.servers.brokers),
        stun: match spec.stun {
            true => vec![format!("{server}:{TURN_PORT}")],
            false => Vec::new(),
        },
        turn: spec.turn.iter().map(transport).collect(),
        turn_secret_file: TURN_SECRET_FILE.to_owned(),
        dump_dir: format!("dumps-{}", node.vip()),
        recorder_len: traced.then_some(TRACED_RECORDS),
        log_format: "json",
        allow: ports(|service| service.is_allowed()),
        forward: ports(|_| true),
        // Members do not know intruders, who know them.
        peers: topology.members().map(|n| (name(n), n.vip())).collect(),
        ..NodeConfig::default()
    }
}

/// Where brokers are.
pub fn broker_urls(count: u8) -> Vec<String> {
    let servers = SERVERS.iter().take(usize::from(count.clamp(1, 2)));
    servers
        .map(|server| format!("http://{server}:{BROKER_PORT}"))
        .collect()
}
