//! The Consul agent: its configuration, and the child that runs it.
//!
//! What Consul does with names and ids, and what follows (1.20):
//!
//! * The catalogue refuses a node whose name another id has ("Node name X is reserved by node Y"),
//!   until that one's health is critical, which it never is while the new one answers for its
//!   name. A client's id therefore derives from its name alone: who owns the slot is the node,
//!   whatever became of its disk.
//! * A server's id is its voter's in Raft. One that lost its disk must not come back as the voter
//!   that it was: it would vote and acknowledge without what it had acknowledged before. So a
//!   server's id also derives from a file that is lost with its data, and the node of that name
//!   that the catalogue still has is removed ([`crate::registration`]): who owns the slot may.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_core::supervise::Name;
use holdfast_io::http::Endpoint;
use holdfast_io::real::os_seed;
use serde_json::{Value, json};

use crate::children::digest;
use crate::error::Error;
use crate::options::{Child, Consul, Member, Peer, Ready};
use crate::processes::account_ids;

/// The name of the agent's child.
pub const NAME: &str = "consul";
/// Raft, gossip and gossip between data centres: the first and the last for servers alone.
const SERVER_PORT: u16 = 8300;
const SERF_LAN_PORT: u16 = 8301;
const SERF_WAN_PORT: u16 = 8302;
/// How long an agent may take to end: a server hands nothing over, but closes its store.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
/// However often it ended: Patroni gives its key up when it has no agent for `retry_timeout`.
const BACKOFF_LAST: Duration = Duration::from_secs(2);
/// Where the agent serves its API: to this machine alone.
pub const HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8500);
/// Beside Consul's data, lost with it.
const INCARNATION_FILE: &str = "incarnation";
/// How often an agent that knows nobody asks the coordinators: the mesh's links come up one by
/// one within seconds. Consul's own 30 s would cost that.
const RETRY_INTERVAL: &str = "1s";

/// The agent's API.
#[must_use]
pub fn endpoint() -> Endpoint {
    let text = format!("http://{HTTP}");
    text.parse().expect("an address with a port is a server's")
}

/// Whether this machine's agent is a server.
#[must_use]
pub fn is_server(consul: &Consul, role: &str) -> bool {
    role == consul.server_role
}

/// The agent's configuration, without the gossip key.
#[must_use]
pub fn config(
    consul: &Consul,
    member: &Member,
    peers: &[Peer],
    server: bool,
    node_id: &str,
    data_dir: &Path,
) -> Value {
    let is_coordinator = |peer: &&Peer| {
        let role = peer.id.as_str().rsplit_once('-').map(|(role, _)| role);
        role == Some(consul.server_role.as_str())
    };
    let coordinators: Vec<&Peer> = peers.iter().filter(is_coordinator).collect();
    let others = coordinators.iter().filter(|peer| peer.id != member.id);
    let join: Vec<String> = others.map(|peer| peer.vip.to_string()).collect();
    let mut config = json!({
        "node_name": member.id.as_str(),
        "node_id": node_id,
        "datacenter": consul.datacenter,
        "server": server,
        "bind_addr": member.vip.to_string(),
        "advertise_addr": member.vip.to_string(),
        "client_addr": HTTP.ip().to_string(),
        "ports": {
            "http": HTTP.port(),
            "https": -1,
            "dns": -1,
            "grpc": -1,
            "grpc_tls": -1,
            "server": SERVER_PORT,
            "serf_lan": SERF_LAN_PORT,
            "serf_wan": match server { true => i32::from(SERF_WAN_PORT), false => -1 },
        },
        "retry_join": join,
        "retry_interval": RETRY_INTERVAL,
        "rejoin_after_leave": true,
        "leave_on_terminate": false,
        "skip_leave_on_interrupt": true,
        "performance": { "raft_multiplier": consul.raft_multiplier },
        "data_dir": data_dir,
        "disable_update_check": true,
        "disable_host_node_id": true,
        "disable_remote_exec": true,
        "log_level": "INFO",
    });
    if server {
        config["bootstrap_expect"] = coordinators.len().into();
        // The coordinators are a fixed list. One that is killed stays a voter, and is one at once
        // when it comes back; removed and added again it would vote after 10 s at the earliest, and
        // the loss of another one meanwhile would be the loss of the quorum.
        config["autopilot"] = json!({ "cleanup_dead_servers": false });
    }
    config
}

/// A UUID that derives from the words, always the same one.
#[must_use]
pub fn node_id(words: &[&str]) -> String {
    let hash = digest(words.join("\0").as_bytes());
    let hex: String = hash[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let (a, rest) = hex.split_at(8);
    let (b, rest) = rest.split_at(4);
    let (c, rest) = rest.split_at(4);
    let (d, e) = rest.split_at(4);
    format!("{a}-{b}-{c}-{d}-{e}")
}

/// What the agent needs on this machine.
pub(crate) struct Place<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) state_dir: &'a Path,
    pub(crate) run_dir: &'a Path,
}

/// Write the configuration, and say how the agent is run.
///
/// # Errors
/// [`Error::Config`] for a user that is not there, [`Error::Failure`] when something cannot be
/// written.
pub(crate) fn child(
    consul: &Consul,
    member: &Member,
    peers: &[Peer],
    role: &str,
    gossip_key: Option<&str>,
    place: &Place<'_>,
) -> Result<Child, Error> {
    let server = is_server(consul, role);
    let data_dir = place.state_dir.join("consul");
    let owner = account_ids(consul.user.as_deref())
        .map_err(|error| Error::Config(format!("consul: {error}")))?;
    let failed = |path: &Path, error: io::Error| {
        Error::Failure(format!("consul: {}: {error}", path.display()))
    };
    make_folder(&data_dir, owner).map_err(|error| failed(&data_dir, error))?;
    let id = match server {
        true => {
            let incarnation = incarnation(&data_dir).map_err(|error| failed(&data_dir, error))?;
            node_id(&[place.cluster, member.id.as_str(), &incarnation])
        }
        false => node_id(&[place.cluster, member.id.as_str()]),
    };
    let mut config = config(consul, member, peers, server, &id, &data_dir);
    if let Some(key) = gossip_key {
        config["encrypt"] = key.trim().into();
    }
    let path = place.run_dir.join("consul.json");
    let text = zeroize::Zeroizing::new(config.to_string());
    write_secret(&path, text.as_bytes(), owner).map_err(|error| failed(&path, error))?;
    let command = [
        &consul.program,
        Path::new("agent"),
        Path::new("-config-file"),
        &path,
    ];
    let command = command.iter().map(|word| word.display().to_string());
    let name: Name = NAME.parse().expect("letters are a name");
    Ok(Child {
        user: consul.user.clone(),
        after: vec![crate::run::MESH.parse().expect("letters are a name")],
        ready: Ready::ConsulAgent(endpoint()),
        stop_deadline: STOP_DEADLINE,
        backoff_last: BACKOFF_LAST,
        ..Child::new(name, command.collect())
    })
}

fn make_folder(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    if !path.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    }
    match owner {
        Some((uid, gid)) => chown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

/// What is as old as the data: drawn when there is none.
fn incarnation(data_dir: &Path) -> io::Result<String> {
    let path = data_dir.join(INCARNATION_FILE);
    match fs::read_to_string(&path) {
        Ok(text) if text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(text),
        // One that is torn was never used: it is whole before the agent is started.
        Ok(_) => draw(&path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => draw(&path),
        Err(error) => Err(error),
    }
}

fn draw(path: &Path) -> io::Result<String> {
    let random: [u8; 16] = os_seed()?.fork("consul/incarnation").rng().bytes();
    let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    write_secret(path, text.as_bytes(), None)?;
    Ok(text)
}

/// Beside its place, mode 0400, synced and renamed.
fn write_secret(path: &Path, bytes: &[u8], owner: Option<(u32, u32)>) -> io::Result<()> {
    let mut beside = path.to_owned().into_os_string();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    // What a crash has left.
    let _ = fs::remove_file(&beside);
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(&beside)?;
    file.write_all(bytes)?;
    if let Some((uid, gid)) = owner {
        chown(&beside, Some(uid), Some(gid))?;
    }
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use holdfast_core::types::Vip;

    fn peers() -> Vec<Peer> {
        let peer = |(id, vip): (&str, u16)| Peer {
            id: id.parse().unwrap(),
            vip: Vip::new(vip).unwrap(),
        };
        let ids = [
            ("coordinator-0", 1),
            ("coordinator-1", 2),
            ("coordinator-2", 3),
        ];
        ids.into_iter().chain([("worker-3", 4)]).map(peer).collect()
    }

    fn member(at: usize) -> Member {
        let peer = &peers()[at];
        Member {
            instance: "i".to_owned(),
            slot: u16::try_from(at).unwrap(),
            id: peer.id.clone(),
            vip: peer.vip,
        }
    }

    #[test]
    fn a_coordinator_is_a_server_that_expects_the_others() {
        let config = config(
            &Consul::default(),
            &member(1),
            &peers(),
            true,
            "id",
            Path::new("/d"),
        );
        assert_eq!(config["bootstrap_expect"], 3);
        assert_eq!(config["retry_join"], json!(["127.50.0.1", "127.50.0.3"]));
        assert_eq!(config["bind_addr"], "127.50.0.2");
        assert_eq!(config["node_name"], "coordinator-1");
        assert_eq!(config["ports"]["serf_wan"], 8302);
        assert_eq!(config["leave_on_terminate"], false);
    }

    #[test]
    fn a_worker_is_a_client_that_joins_all_coordinators() {
        let config = config(
            &Consul::default(),
            &member(3),
            &peers(),
            false,
            "id",
            Path::new("/d"),
        );
        assert_eq!(config["server"], false);
        assert_eq!(config.get("bootstrap_expect"), None);
        assert_eq!(config["retry_join"].as_array().unwrap().len(), 3);
        assert_eq!(config["ports"]["serf_wan"], -1);
    }

    #[test]
    fn a_client_is_the_same_node_without_its_disk_and_a_server_is_not() {
        let folder = std::env::temp_dir().join(format!("holdfast-agent-{}", std::process::id()));
        let id_of = |role: &str, at: usize| {
            let place = Place {
                cluster: "c",
                state_dir: &folder,
                run_dir: &folder,
            };
            child(
                &Consul::default(),
                &member(at),
                &peers(),
                role,
                Some("a2V5\n"),
                &place,
            )
            .unwrap();
            let text = fs::read_to_string(folder.join("consul.json")).unwrap();
            let config: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(config["encrypt"], "a2V5");
            config["node_id"].as_str().unwrap().to_owned()
        };
        let before = (id_of("worker", 3), id_of("coordinator", 0));
        assert_eq!((id_of("worker", 3), id_of("coordinator", 0)), before);
        let mode = fs::metadata(folder.join("consul.json")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&mode) & 0o777, 0o400);
        fs::remove_dir_all(&folder).unwrap();
        let after = (id_of("worker", 3), id_of("coordinator", 0));
        assert_eq!(after.0, before.0);
        assert_ne!(after.1, before.1);
        fs::remove_dir_all(&folder).unwrap();
    }
}
