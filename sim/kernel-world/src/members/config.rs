//! The configuration of an instance.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_bootstrap::identity::{COORDINATOR, WORKER};
use holdfast_plan::{NodeIndex, SERVERS, Transport};

use super::{CLUSTER_NAME, Cast, KV_PORT};
use crate::map::{broker_urls, node_name};
use crate::stage::{TURN_PORT, TURN_SECRET_FILE};

/// The file in the lab's folder that instances without a TEE derive their keys from.
pub const KEY_FILE: &str = "instance.key";
/// Raft's patience: the least, as in production (Consul's `performance.raft_multiplier`).
const RAFT_MULTIPLIER: u8 = 1;
/// Raft, and gossip in a data centre and between them; whether UDP too.
const CONSUL_PORTS: [(u16, bool); 3] = [(8300, false), (8301, true), (8302, true)];

/// What is known of an instance's surroundings once the lab is there.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The lab's folder.
    pub folder: &'a Path,
    /// The program that is tested.
    pub holdfast: &'a Path,
    /// Consul.
    pub consul: &'a Path,
    /// The instance's own address.
    pub address: Ipv4Addr,
    /// Where the coordinators' KV is reached from outside.
    pub gateways: &'a [Ipv4Addr],
}

/// An instance's disk.
pub fn disk(folder: &Path, node: NodeIndex) -> PathBuf {
    folder.join(format!("{}-disk", node_name(node)))
}

/// The socket of an instance's guest agent.
pub fn tee_socket(folder: &Path, node: NodeIndex) -> PathBuf {
    folder.join(format!("{}-tee.sock", node_name(node)))
}

/// The configuration, as TOML.
pub fn toml(cast: &Cast<'_>, node: NodeIndex, place: &Surroundings<'_>) -> String {
    let pinned = cast.instance(node).pinned;
    let role = match pinned {
        Some(_) => COORDINATOR,
        None => WORKER,
    };
    // Names and paths here are plain ASCII, whose Rust and TOML forms are one.
    let mut out = format!("cluster = {CLUSTER_NAME:?}\nrole = {role:?}\n");
    if let Some(ordinal) = pinned {
        let _ = writeln!(out, "ordinal = {ordinal}");
    }
    let disk = disk(place.folder, node);
    for (key, name) in [
        ("state_dir", "state"),
        ("run_dir", "run"),
        ("secrets_dir", "secrets"),
        ("hosts_file", "hosts"),
    ] {
        let _ = writeln!(out, "{key} = {:?}", disk.join(name));
    }
    let topology = &cast.plan.topology;
    let brokers = broker_urls(topology.servers.brokers);
    let _ = writeln!(out, "brokers = {brokers:?}");
    let spec = topology.node(node);
    if spec.stun {
        let _ = writeln!(out, "stun = [\"{}:{TURN_PORT}\"]", SERVERS[0]);
    }
    let dumps = place.folder.join(format!("{}-dumps", node_name(node)));
    let _ = writeln!(out, "dump_dir = {dumps:?}\nlog_format = \"json\"");
    out.push_str(&tee(cast, node, place));
    let _ = write!(
        out,
        "\n[slots]\nlease = {:?}\n",
        millis(cast.membership.lease)
    );
    out.push_str(&kv(pinned, place));
    for (port, udp) in CONSUL_PORTS {
        let _ = write!(out, "\n[[allow]]\nport = {port}\nudp = {udp}\n");
    }
    for transport in &spec.turn {
        let transport = match transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        let _ = write!(
            out,
            "\n[[turn]]\nurl = \"turn:{}:{TURN_PORT}?transport={transport}\"\n\
             secret_file = {TURN_SECRET_FILE:?}\n",
            SERVERS[0]
        );
    }
    for slot in &cast.membership.slots {
        let id = cast.peer_id(*slot);
        let _ = write!(out, "\n[[peers]]\nid = {id:?}\nvip = {slot}\n");
    }
    out
}

fn millis(span: Duration) -> String {
    format!("{}ms", span.as_millis())
}

fn tee(cast: &Cast<'_>, node: NodeIndex, place: &Surroundings<'_>) -> String {
    match cast.is_tee(node) {
        true => {
            let socket = tee_socket(place.folder, node);
            format!(
                "\n[tee]\nkind = \"dstack\"\nendpoint = \"unix:{}\"\n",
                socket.display()
            )
        }
        false => format!("\n[tee]\nkind = \"plain\"\nkey_file = {KEY_FILE:?}\n"),
    }
}

fn kv(pinned: Option<u16>, place: &Surroundings<'_>) -> String {
    let agent = format!(
        "\n[consul]\nprogram = {:?}\nraft_multiplier = {RAFT_MULTIPLIER}\n",
        place.consul
    );
    if pinned.is_some() {
        // Its own agent, which listens on loopback alone, is the KV: what the router publishes
        // arrives at the machine's address, and is taken on from there.
        return format!(
            "{agent}\n[[children]]\nname = \"gateway\"\ncommand = [{:?}, \"dev\", \
             \"serve-gateway\", \"--listen\", \"{}:{KV_PORT}\", \"--to\", \
             \"127.0.0.1:{KV_PORT}\"]\n",
            place.holdfast, place.address
        );
    }
    let urls = place.gateways.iter();
    let urls: Vec<String> = urls.map(|ip| format!("http://{ip}:{KV_PORT}")).collect();
    format!("\n[kv]\naddresses = {urls:?}\n{agent}")
}
