//! What a configuration says, in types: the result of reading it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_core::config::{
    AllowRule, Config, Congestion, Limits, PathPolicy, PeerConfig, TurnCredentials, TurnServer,
};
use holdfast_core::identity::{ClusterSecret, Identity};
use holdfast_core::types::{PeerId, Vip};
use holdfast_sidecar::Peer;
use ring::digest;
use zeroize::Zeroizing;

use super::address::{BrokerUrl, HostPort, TurnUrl};
use super::files::hex;
use super::source::Origin;

/// A configuration without errors.
#[derive(Debug)]
pub struct Settings {
    /// This node's name.
    pub id: PeerId,
    /// This node's virtual address.
    pub vip: Vip,
    /// Where this node's key comes from.
    pub key: KeySource,
    /// The other nodes, each with its key.
    pub peers: Vec<PeerConfig>,
    /// Ports of this node that peers may reach.
    pub allow: Vec<AllowRule>,
    /// Ports of all peers that are reached from here.
    pub forward: Vec<AllowRule>,
    /// The address of the UDP socket.
    pub listen: SocketAddr,
    /// Signaling brokers.
    pub brokers: Vec<BrokerUrl>,
    /// STUN servers.
    pub stun: Vec<HostPort>,
    /// TURN servers.
    pub turn: Vec<TurnSetting>,
    /// Which candidates may be used.
    pub paths: PathPolicy,
    /// Congestion control.
    pub congestion: Congestion,
    /// Sizes that bound memory.
    pub limits: Limits,
    /// Where `/status` and its like are served.
    pub admin: SocketAddr,
    /// Where the flight recorder is written.
    pub dump_dir: PathBuf,
    /// How long streams may end by themselves after SIGTERM.
    pub shutdown_grace: Duration,
    /// What is logged.
    pub log: String,
    /// How it is logged.
    pub log_format: LogFormat,
    /// Where each value came from, by its key and by `peers[2].vip`.
    pub origins: BTreeMap<String, Origin>,
}

/// Where a node's key comes from.
#[derive(Clone)]
pub enum KeySource {
    /// Derived from the secret that all nodes share.
    Cluster {
        /// Its file.
        file: PathBuf,
        /// The secret.
        secret: ClusterSecret,
    },
    /// A key of its own.
    Own {
        /// Its file.
        file: PathBuf,
        /// The seed of the key (RFC 8032).
        seed: Zeroizing<[u8; 32]>,
    },
}

impl std::fmt::Debug for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe())
    }
}

impl KeySource {
    /// The key of the node `id`.
    pub fn identity(&self, id: &PeerId) -> Identity {
        match self {
            KeySource::Cluster { secret, .. } => secret.identity(id),
            KeySource::Own { seed, .. } => Identity::from_seed(**seed),
        }
    }

    /// Where the key comes from, in words.
    pub fn describe(&self) -> String {
        match self {
            KeySource::Cluster { file, .. } => {
                format!("derived from the cluster secret in {}", file.display())
            }
            KeySource::Own { file, .. } => format!("own key in {}", file.display()),
        }
    }
}

/// A TURN server, its host not yet resolved.
#[derive(Clone, Debug)]
pub struct TurnSetting {
    /// Where and how.
    pub url: TurnUrl,
    /// How to log in.
    pub credentials: TurnCredentials,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

impl Settings {
    /// What core is told. Names become addresses through `resolve`, which gives none for a
    /// server that cannot be found now; such a server is left out.
    pub fn to_core(&self, mut resolve: impl FnMut(&HostPort) -> Option<SocketAddr>) -> Config {
        Config {
            id: self.id.clone(),
            vip: self.vip,
            identity: self.key.identity(&self.id),
            peers: self.peers.clone(),
            allow: self.allow.clone(),
            udp_port: self.listen.port(),
            stun: self.stun.iter().filter_map(&mut resolve).collect(),
            turn: turn_servers(&self.turn, resolve),
            paths: self.paths,
            congestion: self.congestion,
            limits: self.limits,
        }
    }

    /// All nodes, this one first.
    pub fn all_nodes(&self) -> Vec<Peer> {
        let own = Peer {
            id: self.id.clone(),
            vip: self.vip,
        };
        let others = self.peers.iter().map(|peer| Peer {
            id: peer.id.clone(),
            vip: peer.vip,
        });
        [own].into_iter().chain(others).collect()
    }

    /// The first 64 bits of SHA-256 over everything but secrets: equal where two nodes were
    /// told the same.
    pub fn digest(&self) -> String {
        let digest = digest::digest(&digest::SHA256, self.canonical().as_bytes());
        hex(&digest.as_ref()[..8])
    }

    /// Everything but secrets as text, in a fixed order.
    fn canonical(&self) -> String {
        let mut out = String::new();
        let limits = &self.limits;
        let _ = writeln!(
            out,
            "{} {} {} {} {:?} {:?} {:?} {} {} {} {:?}",
            self.id,
            self.vip,
            self.key.identity(&self.id).public(),
            self.listen,
            self.paths,
            self.congestion,
            limits,
            self.admin,
            self.dump_dir.display(),
            self.log,
            self.shutdown_grace,
        );
        for peer in &self.peers {
            let _ = writeln!(out, "peer {} {} {}", peer.id, peer.vip, peer.key);
        }
        for rule in &self.allow {
            let _ = writeln!(out, "allow {} {}", rule.port, rule.udp);
        }
        for rule in &self.forward {
            let _ = writeln!(out, "forward {} {}", rule.port, rule.udp);
        }
        for broker in &self.brokers {
            let _ = writeln!(out, "broker {broker}");
        }
        for stun in &self.stun {
            let _ = writeln!(out, "stun {stun}");
        }
        for turn in &self.turn {
            let user = match &turn.credentials {
                TurnCredentials::Static { username, .. } => username.as_str(),
                TurnCredentials::Shared { .. } => "",
            };
            let _ = writeln!(out, "turn {} {user:?}", turn.url);
        }
        out
    }

    /// The same of the node of a member, which has no name and no key yet.
    pub fn summary_of_member(&self) -> Vec<(&'static str, String)> {
        const LEARNT: [&str; 4] = ["node", "key", "public key", "digest"];
        let peer = |peer: Peer| format!("{} ({})", peer.id, peer.vip);
        let mut nodes = self.all_nodes();
        nodes.sort_by_key(|node| node.vip);
        let nodes: Vec<String> = nodes.into_iter().map(peer).collect();
        let mut fields = self.summary();
        fields.retain(|(label, _)| !LEARNT.contains(label));
        for (_, value) in fields.iter_mut().filter(|(label, _)| *label == "peers") {
            *value = nodes.join(", ");
        }
        fields
    }

    /// What `config check` prints when there is nothing to complain about.
    pub fn summary(&self) -> Vec<(&'static str, String)> {
        let list = |items: Vec<String>| match items.is_empty() {
            true => "none".to_owned(),
            false => items.join(", "),
        };
        let port = |rule: &AllowRule| match rule.udp {
            true => format!("{} tcp+udp", rule.port),
            false => format!("{} tcp", rule.port),
        };
        let peer = |peer: &PeerConfig| format!("{} ({})", peer.id, peer.vip);
        vec![
            ("node", format!("{} ({})", self.id, self.vip)),
            ("key", self.key.describe()),
            (
                "public key",
                self.key.identity(&self.id).public().to_string(),
            ),
            ("peers", list(self.peers.iter().map(peer).collect())),
            ("allowed", list(self.allow.iter().map(port).collect())),
            ("forwarded", list(self.forward.iter().map(port).collect())),
            ("brokers", list(strings(&self.brokers))),
            ("stun", list(strings(&self.stun))),
            (
                "turn",
                list(self.turn.iter().map(|turn| turn.url.to_string()).collect()),
            ),
            ("listen", format!("{} udp", self.listen)),
            ("admin", format!("http://{}", self.admin)),
            ("digest", self.digest()),
        ]
    }
}

/// The TURN servers whose names `resolve` knows.
pub fn turn_servers(
    turn: &[TurnSetting],
    mut resolve: impl FnMut(&HostPort) -> Option<SocketAddr>,
) -> Vec<TurnServer> {
    turn.iter()
        .filter_map(|turn| {
            Some(TurnServer {
                addr: resolve(&turn.url.server)?,
                transport: turn.url.transport,
                credentials: turn.credentials.clone(),
            })
        })
        .collect()
}

fn strings<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(T::to_string).collect()
}
