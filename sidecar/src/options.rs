//! Everything that the sidecar is told, as plain values.

#![allow(
    async_fn_in_trait,
    reason = "everything here is local: no future is ever sent to another thread"
)]

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use holdfast_core::mesh::ReloadError;
use holdfast_core::slots::{LEASE, Slot};
use holdfast_core::supervise::{Name, Signal};
use holdfast_core::types::{PeerId, Vip};
use holdfast_io::http::Endpoint;
use holdfast_io::kv::Kv;
use holdfast_io::mesh::{MeshOptions, MeshReload};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::postgres::Postgres;
use crate::services::Service;

/// Longest path of a readiness URL, bytes.
const PATH_LEN_MAX: usize = 512;

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name, `<role>-<ordinal>`.
    pub id: PeerId,
    /// Its virtual address.
    pub vip: Vip,
}

/// Who this machine is, once it has a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The same at every start of this machine.
    pub instance: String,
    /// Its ordinal.
    pub slot: Slot,
    /// Its name.
    pub id: PeerId,
    /// Its virtual address.
    pub vip: Vip,
}

/// What is known before there is a slot.
pub struct Prepared {
    /// The same at every start of this machine.
    pub instance: String,
    /// Consul's gossip key, base64 of 32 bytes; without it gossip is not encrypted.
    pub gossip_key: Option<Zeroizing<String>>,
}

/// Identity, secrets and `info.json`: what comes before a slot, and what comes after it.
pub trait Bootstrap {
    /// Find out who this machine is, and write the secrets.
    ///
    /// # Errors
    /// [`Error::Tee`] when the TEE does not answer in time, [`Error::Config`] for folders with the
    /// wrong mode, [`Error::Failure`] for the rest.
    async fn prepare(&mut self) -> Result<Prepared, Error>;

    /// Write what depends on the slot: `info.json`.
    ///
    /// # Errors
    /// As [`Bootstrap::prepare`].
    async fn finish(&mut self, member: &Member) -> Result<(), Error>;

    /// The database of this machine and where its clients come in, if it has any. Asked for once
    /// the secrets are written and there is a slot, after [`Bootstrap::finish`]; none unless
    /// implemented. What it says stays until a restart.
    ///
    /// # Errors
    /// As [`Bootstrap::prepare`].
    async fn postgres(&mut self) -> Result<Option<Postgres>, Error> {
        Ok(None)
    }
}

/// How a slot is claimed.
#[derive(Clone, Debug)]
pub struct SlotOptions {
    /// Own this one.
    pub pinned: Option<Slot>,
    /// How long an owner lives who cannot renew.
    pub lease: Duration,
    /// How long to wait for a free slot; zero: for ever.
    pub patience: Duration,
    /// By how many parts in a thousand clocks may differ in rate.
    pub drift_per_mille: u32,
}

impl Default for SlotOptions {
    fn default() -> SlotOptions {
        SlotOptions {
            pinned: None,
            lease: LEASE,
            patience: Duration::ZERO,
            // Crystals are off by 0.1 at most, and NTP slews by 0.5: ten times that.
            drift_per_mille: 5,
        }
    }
}

/// How patient Consul's elections are, unless configured. A follower calls one after 2 to 4 s
/// without its leader: a path of the mesh that dies is replaced within 2 s and elects nobody
/// (`docs/decisions.md`).
pub const RAFT_MULTIPLIER: u8 = 2;

/// The Consul agent of this machine.
#[derive(Clone, Debug)]
pub struct Consul {
    /// The program.
    pub program: PathBuf,
    /// The name of the data centre.
    pub datacenter: String,
    /// Consul's `performance.raft_multiplier`, 1 to 10: how patient its elections are.
    pub raft_multiplier: u8,
    /// The user it runs as; the sidecar's own without one.
    pub user: Option<String>,
    /// The role whose peers are servers: `coordinator`.
    pub server_role: String,
    /// The token of the agent's API, where it asks for one.
    pub token: Option<Zeroizing<String>>,
}

impl Default for Consul {
    fn default() -> Consul {
        Consul {
            program: PathBuf::from("consul"),
            datacenter: "dc1".to_owned(),
            raft_multiplier: RAFT_MULTIPLIER,
            user: None,
            server_role: "coordinator".to_owned(),
            token: None,
        }
    }
}

/// A program that the sidecar runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its name.
    pub name: Name,
    /// The program, found on `PATH` when it has no slash, and its arguments.
    pub command: Vec<String>,
    /// Who runs it, by name; the sidecar's own user without one.
    pub user: Option<String>,
    /// The group, by name; the user's own without one.
    pub group: Option<String>,
    /// Which others have to be ready first; `mesh` and `consul` are names too.
    pub after: Vec<Name>,
    /// When it is ready.
    pub ready: Ready,
    /// Variables beside those that the sidecar has itself.
    pub env: Vec<(String, String)>,
    /// Where it runs.
    pub dir: Option<PathBuf>,
    /// What asks it to end.
    pub stop_signal: Signal,
    /// How long it may take to end before it gets SIGKILL.
    pub stop_deadline: Duration,
    /// First wait before it is started again; it doubles with every failure in a row.
    pub backoff_first: Duration,
    /// Longest wait.
    pub backoff_last: Duration,
    /// So many restarts within `window` are too many.
    pub max_restarts: u32,
    /// See `max_restarts`; as long it then rests.
    pub window: Duration,
    /// A task that is ready once it has ended well, not a service.
    pub one_shot: bool,
}

impl Child {
    /// A child with the defaults of `docs/membership.md`.
    #[must_use]
    pub fn new(name: Name, command: Vec<String>) -> Child {
        Child {
            name,
            command,
            user: None,
            group: None,
            after: Vec::new(),
            ready: Ready::AtOnce,
            env: Vec::new(),
            dir: None,
            stop_signal: Signal(libc::SIGTERM),
            stop_deadline: Duration::from_secs(10),
            backoff_first: Duration::from_millis(200),
            backoff_last: Duration::from_secs(30),
            max_restarts: 5,
            window: Duration::from_secs(60),
            one_shot: false,
        }
    }
}

/// When a child is ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ready {
    /// As soon as it runs.
    #[default]
    AtOnce,
    /// When a connection to `host:port` is accepted.
    Tcp(Endpoint),
    /// When a GET is answered with 2xx.
    Http {
        /// The server.
        endpoint: Endpoint,
        /// Path and query, with the leading slash.
        path: String,
    },
    /// When the Consul agent there answers and knows a leader.
    ConsulAgent(Endpoint),
}

/// A text that is no [`Ready`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no readiness check: expected tcp:host:port or http://host:port/path")]
pub struct ReadyError {
    found: String,
}

impl FromStr for Ready {
    type Err = ReadyError;

    fn from_str(text: &str) -> Result<Ready, ReadyError> {
        parse_ready(text).ok_or_else(|| ReadyError {
            found: text.chars().take(80).collect(),
        })
    }
}

fn parse_ready(text: &str) -> Option<Ready> {
    if let Some(rest) = text.strip_prefix("tcp:") {
        let (_, port) = rest.rsplit_once(':')?;
        port.parse::<u16>().ok()?;
        return Some(Ready::Tcp(format!("http://{rest}").parse().ok()?));
    }
    let rest = text.strip_prefix("http://")?;
    let at = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let plain = |b: u8| b.is_ascii_graphic() && b != b'#';
    if path.len() > PATH_LEN_MAX || !path.bytes().all(plain) {
        return None;
    }
    Some(Ready::Http {
        endpoint: format!("http://{authority}").parse().ok()?,
        path: match path {
            "" => "/".to_owned(),
            path => path.to_owned(),
        },
    })
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ready::AtOnce => f.write_str("as soon as it runs"),
            Ready::Tcp(at) => write!(f, "tcp:{}", &at.to_string()["http://".len()..]),
            Ready::Http { endpoint, path } => write!(f, "{endpoint}{path}"),
            Ready::ConsulAgent(at) => write!(f, "the Consul agent at {at}"),
        }
    }
}

/// Another configuration for the mesh, and where it says whether it has taken it.
pub type MeshReloading = (MeshReload, oneshot::Receiver<Result<(), ReloadError>>);

/// What may change while the sidecar runs.
#[derive(Default)]
pub struct Reload {
    /// All peers, with this machine.
    pub peers: Vec<Peer>,
    /// All services of this machine.
    pub services: Vec<Service>,
    /// All children.
    pub children: Vec<Child>,
    /// The mesh's: peers, keys and rules.
    pub mesh: Option<MeshReloading>,
}

/// Makes a node's options, once it is known who the machine is.
pub type MakeMesh = Box<dyn FnMut(&Member) -> Result<MeshOptions, Error>>;
/// Reads the configuration again; the error says what is wrong with it.
pub type ReadAgain = Box<dyn FnMut(&Member) -> Result<Reload, String>>;

/// Everything that the sidecar is told.
pub struct Options<B> {
    /// The cluster's name.
    pub cluster: String,
    /// What this machine is: its peer id is `<role>-<ordinal>`.
    pub role: String,
    /// All nodes of the cluster, with this one.
    pub peers: Vec<Peer>,
    /// How its ordinal is claimed.
    pub slots: SlotOptions,
    /// The store that slots are claimed in. A machine without a pin needs one.
    pub kv: Option<Rc<dyn Kv>>,
    /// Survives a restart: Consul's data.
    pub state_dir: PathBuf,
    /// Does not: the Consul agent's configuration.
    pub run_dir: PathBuf,
    /// Where names of peers and services are written, if anywhere: `/etc/hosts`.
    pub hosts_file: Option<PathBuf>,
    /// The Consul agent, if one is run.
    pub consul: Option<Consul>,
    /// What is registered with it.
    pub services: Vec<Service>,
    /// What else is run.
    pub children: Vec<Child>,
    /// Where the admin page is served, if anywhere. From the start, before there is a mesh.
    pub admin: Option<SocketAddr>,
    /// The program's version, for the status.
    pub version: String,
    /// Identity and secrets.
    pub bootstrap: B,
    /// The node's options, asked for at every start of the mesh. Its own `admin` is ignored.
    /// An error ends the sidecar.
    pub mesh: MakeMesh,
    /// Asked at SIGHUP. An error is logged, and nothing changes.
    pub reload: ReadAgain,
}

/// The peer id of an ordinal.
///
/// # Errors
/// [`Error::Config`] for a role that cannot begin a peer id.
pub fn peer_id(role: &str, slot: Slot) -> Result<PeerId, Error> {
    let id = format!("{role}-{slot}");
    id.parse()
        .map_err(|error| Error::Config(format!("role {role:?} is not valid: {error}")))
}

/// The ordinals that the peer list has for a role, ascending.
///
/// # Errors
/// [`Error::Config`] for an ordinal that two peers have, of whatever roles: slots are named by the
/// ordinal alone.
pub fn slots_of(role: &str, peers: &[Peer]) -> Result<Vec<Slot>, Error> {
    let mut all: Vec<(Slot, &str, &PeerId)> = Vec::new();
    for peer in peers {
        if let Some((of, ordinal)) = peer.id.as_str().rsplit_once('-')
            && let Ok(slot) = ordinal.parse::<Slot>()
            && slot.to_string() == ordinal
        {
            if let Some((_, _, other)) = all.iter().find(|(taken, _, _)| *taken == slot) {
                return Err(Error::Config(format!(
                    "{other} and {} have the ordinal {slot}: ordinals of workers start after the \
                     coordinators'",
                    peer.id
                )));
            }
            all.push((slot, of, &peer.id));
        }
    }
    let mut own: Vec<Slot> = all
        .iter()
        .filter(|(_, of, _)| *of == role)
        .map(|(slot, _, _)| *slot)
        .collect();
    own.sort_unstable();
    Ok(own)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn peers(ids: &[&str]) -> Vec<Peer> {
        let peer = |(n, id): (usize, &&str)| Peer {
            id: id.parse().unwrap(),
            vip: Vip::new(u16::try_from(n).unwrap() + 1).unwrap(),
        };
        ids.iter().enumerate().map(peer).collect()
    }

    #[test]
    fn the_slots_of_a_role_are_the_ordinals_of_its_peers() {
        let peers = peers(&["coordinator-0", "worker-4", "worker-3", "db", "worker-07"]);
        assert_eq!(slots_of("worker", &peers).unwrap(), [3, 4]);
        assert_eq!(slots_of("coordinator", &peers).unwrap(), [0]);
        assert_eq!(slots_of("keeper", &peers).unwrap(), [] as [Slot; 0]);
    }

    #[test]
    fn two_peers_with_one_ordinal_are_named() {
        let error = slots_of("worker", &peers(&["coordinator-1", "worker-1"])).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(text.contains("coordinator-1 and worker-1"), "{text}");
    }

    #[test]
    fn a_readiness_check_is_tcp_or_http_and_prints_as_it_was_read() {
        for good in ["tcp:127.0.0.1:80", "tcp:db:5432", "http://[::1]:8080/x?y=1"] {
            assert_eq!(good.parse::<Ready>().unwrap().to_string(), good);
        }
        assert_eq!(
            "http://a:1".parse::<Ready>().unwrap().to_string(),
            "http://a:1/"
        );
        for bad in [
            "",
            "tcp:",
            "tcp:a",
            "tcp:a:x",
            "udp:a:1",
            "https://a/",
            "http://a:1/ b",
        ] {
            assert!(bad.parse::<Ready>().is_err(), "{bad:?} must be refused");
        }
    }
}
