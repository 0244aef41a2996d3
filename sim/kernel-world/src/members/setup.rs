//! What a plan with slots needs before its time begins.

use std::env;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use holdfast_bootstrap::tee::AgentEndpoint;
use holdfast_bootstrap::testing::{Agent as GuestAgent, Script};
use holdfast_lab::Builder;
use holdfast_plan::Place;

use super::config::{self, KEY_FILE, Surroundings};
use super::{Cast, KV_PORT};
use crate::map::node_name;
use crate::stage::{CLUSTER_SECRET, Stage, StageError};

/// What instances without a TEE derive their keys from.
const KEY: [u8; 32] = [0x33; 32];
/// The key of Consul's gossip: 32 bytes in base64.
const GOSSIP_KEY: &str = "S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s=";
/// Variables that would configure an instance besides its file, apart from the program's own.
const FOREIGN: [&str; 5] = [
    "PEERS_JSON",
    "MESH_CONN_ALLOWLIST",
    "SERVICES_JSON",
    "WORKER_ORDINAL",
    "COORDINATOR_ORDINAL",
];

/// The coordinators' KV, where their routers have to let it in.
pub fn publish(cast: Cast<'_>, mut lab: Builder) -> Builder {
    for (node, _) in cast.coordinators() {
        if let Place::Behind(_) = cast.plan.topology.node(node).place {
            lab = lab.publish(&node_name(node), KV_PORT, KV_PORT);
        }
    }
    lab
}

/// Nothing of our own environment configures an instance; the cluster's secrets do.
pub fn only_these_secrets(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let configures = text.starts_with("HOLDFAST_") && text != "HOLDFAST_LOG";
        if configures || FOREIGN.contains(&text.as_ref()) {
            command.env_remove(&name);
        }
    }
    command.env("HOLDFAST_SECRET_CLUSTER_SECRET", digits(CLUSTER_SECRET));
    command.env("HOLDFAST_SECRET_GOSSIP_KEY", GOSSIP_KEY);
}

fn digits(secret: [u8; 32]) -> String {
    secret.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The configurations, the guest agents, and the servers.
pub fn prepare(
    cast: Cast<'_>,
    stage: &mut Stage,
    consul: &Path,
    gateways: &[Ipv4Addr],
) -> Result<Vec<GuestAgent>, StageError> {
    let (topology, folder) = (&cast.plan.topology, stage.lab.folder());
    stage.write_cluster_secret(KEY_FILE, KEY)?;
    let mut tees = Vec::new();
    for node in topology.node_indices() {
        let name = node_name(node);
        let place = Surroundings {
            folder: &folder,
            holdfast: stage.holdfast(),
            consul,
            address: stage.lab.address(&name)?,
            gateways,
        };
        let path = folder.join(format!("{name}.toml"));
        let written = fs::write(&path, config::toml(&cast, node, &place));
        written.map_err(|source| StageError::File { path, source })?;
        if cast.is_tee(node) {
            let endpoint = AgentEndpoint::Unix(config::tee_socket(&folder, node));
            let script = Script::new(1, node.vip().to_le_bytes()[0]);
            tees.push(GuestAgent::start(&endpoint, script).map_err(failed(&name))?);
        }
    }
    for broker in 0..topology.servers.brokers.clamp(1, 2) {
        stage.start_broker(usize::from(broker))?;
    }
    stage.start_turn()?;
    Ok(tees)
}

/// An error of what belongs to that namespace.
pub fn failed(name: &str) -> impl FnOnce(io::Error) -> StageError + use<> {
    let name = name.to_owned();
    move |source| StageError::Agent { name, source }
}
