//! From the tree of values to [`Settings`], collecting every problem on the way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use holdfast_core::config::{
    AllowRule, Congestion, Limits, PathPolicy, PeerConfig, TurnCredentials,
};
use holdfast_core::identity::{ClusterSecret, PublicKey};
use holdfast_core::types::{PeerId, Vip};
use holdfast_io::signal::BROKERS_MAX;
use zeroize::Zeroizing;

use super::address::{BrokerUrl, HostPort, STUN_PORT, TurnUrl, UrlError};
use super::cross;
use super::files::{read_node_key, read_secret, read_secret_text};
use super::keys::{ALLOW_FIELDS, PEER_FIELDS, TURN_FIELDS};
use super::problem::{Problem, any_error};
use super::reader::{Entry, Reader, integer, parsed, path_text, text};
use super::settings::{KeySource, LogFormat, Settings, TurnSetting};
use super::source::{Origin, Value};
use super::tree::Tree;

/// Most records of the flight recorder: about 100 MB.
const RECORDER_LEN_MAX: i128 = 1 << 20;
const PEER_ID_EXPECTED: &str =
    "1 to 63 letters, digits, '-', '_' or '.', starting with a letter or digit";
const VIP_EXPECTED: &str = "1 to 254, the last octet in 127.50.0.0/24";

/// A peer as far as it could be read.
pub struct PeerDraft {
    /// Its place in the list.
    pub path: String,
    /// Where the entry begins.
    pub origin: Origin,
    /// Its name.
    pub id: Option<PeerId>,
    /// Its virtual address.
    pub vip: Option<Vip>,
    /// Its key, if the entry has one.
    pub key: Option<PublicKey>,
}

/// Everything that could be read, with the origins, for the checks that compare keys.
pub struct Draft {
    /// This node's name.
    pub id: Option<PeerId>,
    /// This node's virtual address, from its own key.
    pub vip: Option<Vip>,
    /// The shared secret.
    pub cluster: Option<(PathBuf, ClusterSecret)>,
    /// This node's own key.
    pub own: Option<KeySource>,
    /// All entries of the peer list.
    pub peers: Vec<PeerDraft>,
    /// The allowlist, each rule with its place in the list.
    pub allow: Vec<(String, AllowRule)>,
    /// The peers' ports that are reached from here, if they are not those of `allow`.
    pub forward: Vec<(String, AllowRule)>,
    /// STUN servers.
    pub stun: Vec<HostPort>,
    /// TURN servers.
    pub turn: Vec<TurnSetting>,
    /// Which candidates may be used.
    pub paths: PathPolicy,
    /// Sizes.
    pub limits: Limits,
    /// Where each value came from, by its key and by `peers[2].vip`.
    pub origins: BTreeMap<String, Origin>,
    /// Where a missing key is missing.
    pub whole: Origin,
}

impl Draft {
    /// Where the value of a key came from.
    pub fn origin(&self, path: &str) -> &Origin {
        self.origins.get(path).unwrap_or(&self.whole)
    }

    /// Whether the key was given, rightly or wrongly.
    pub fn is_given(&self, path: &str) -> bool {
        self.origins.contains_key(path)
    }
}

/// Read a tree. Relative paths start at `base`, the folder of the configuration file. Secrets in
/// the folder `not_yet` are not opened: they are written after the check.
pub fn read(
    tree: &Tree,
    base: &Path,
    not_yet: Option<&Path>,
    problems: &mut Vec<Problem>,
) -> Option<Settings> {
    let mut reader = Reader {
        tree,
        base,
        not_yet,
        origins: BTreeMap::new(),
        problems,
    };
    let limits = reader.limits();
    let draft = Draft {
        id: reader.key("id", PEER_ID_EXPECTED, parsed),
        vip: reader.key("vip", VIP_EXPECTED, vip),
        cluster: reader.cluster_secret(),
        own: reader.own_key(),
        peers: reader.peers(),
        allow: reader.rules("allow"),
        forward: reader.rules("forward"),
        stun: reader.texts("stun", |text| {
            HostPort::parse(text, Some(STUN_PORT)).ok_or(UrlError {
                expected: "host:port, such as 203.0.113.10:3478",
                help: text
                    .starts_with("stun:")
                    .then_some("leave the scheme `stun:` out"),
            })
        }),
        turn: reader.turn(),
        paths: reader.choice(
            "paths",
            &[
                ("all", PathPolicy::All),
                ("relay-only", PathPolicy::RelayOnly),
            ],
        ),
        limits,
        origins: BTreeMap::new(),
        whole: reader.tree.whole.clone(),
    };
    let rest = reader.rest();
    let draft = Draft {
        origins: reader.origins,
        ..draft
    };
    let (vip, own_key, peers) = cross::check(&draft, rest.brokers.len(), problems);
    if any_error(problems) {
        return None;
    }
    Some(Settings {
        id: draft.id?,
        vip: vip?,
        key: own_key?,
        peers,
        forward: bare(match draft.origins.contains_key("forward") {
            true => &draft.forward,
            false => &draft.allow,
        }),
        allow: bare(&draft.allow),
        listen: rest.listen?,
        brokers: rest.brokers,
        stun: draft.stun,
        turn: draft.turn,
        paths: draft.paths,
        congestion: rest.congestion,
        limits: draft.limits,
        admin: rest.admin?,
        dump_dir: rest.dump_dir?,
        shutdown_grace: rest.shutdown_grace?,
        log: rest.log?,
        log_format: rest.log_format,
        origins: draft.origins,
    })
}

/// The keys that no other key has to agree with.
struct Rest {
    listen: Option<SocketAddr>,
    brokers: Vec<BrokerUrl>,
    congestion: Congestion,
    admin: Option<SocketAddr>,
    dump_dir: Option<PathBuf>,
    shutdown_grace: Option<Duration>,
    log: Option<String>,
    log_format: LogFormat,
}

impl Reader<'_> {
    fn peers(&mut self) -> Vec<PeerDraft> {
        let mut peers = Vec::new();
        for entry in self.tables("peers", PEER_FIELDS) {
            peers.push(PeerDraft {
                id: self.required(&entry, "id", PEER_ID_EXPECTED, parsed),
                vip: self.required(&entry, "vip", VIP_EXPECTED, vip),
                key: self.optional(
                    &entry,
                    "key",
                    "an Ed25519 public key, 64 hexadecimal digits (`holdfast keys show` prints it)",
                    parsed,
                ),
                path: entry.path,
                origin: entry.origin,
            });
        }
        peers
    }

    fn rules(&mut self, name: &'static str) -> Vec<(String, AllowRule)> {
        let mut rules = Vec::new();
        for entry in self.tables(name, ALLOW_FIELDS) {
            let port = self.required(&entry, "port", "a port, 1 to 65535", |value| {
                integer(value, 1, 65_535).and_then(|port| u16::try_from(port).ok())
            });
            let udp = self.optional(&entry, "udp", "true or false", |value| match value {
                Value::Bool(truth) => Some(*truth),
                _ => None,
            });
            if let Some(port) = port {
                let udp = udp.unwrap_or(false);
                rules.push((entry.path, AllowRule { port, udp }));
            }
        }
        rules
    }

    fn turn(&mut self) -> Vec<TurnSetting> {
        let mut servers = Vec::new();
        for entry in self.tables("turn", TURN_FIELDS) {
            let url = self.required(&entry, "url", "a string", text);
            let url = url.and_then(|url| match url.parse::<TurnUrl>() {
                Ok(url) => Some(url),
                Err(error) => {
                    let node = &entry.fields["url"];
                    self.push_url(&entry.path_of("url"), node, error);
                    None
                }
            });
            let credentials = self.turn_credentials(&entry);
            if let (Some(url), Some(credentials)) = (url, credentials) {
                servers.push(TurnSetting { url, credentials });
            }
        }
        servers
    }

    fn turn_credentials(&mut self, entry: &Entry) -> Option<TurnCredentials> {
        let has = |field| entry.fields.contains_key(field);
        let (shared, fixed) = (has("secret_file"), has("username") || has("password_file"));
        if shared == fixed {
            let found = match shared {
                true => "both `secret_file` and `username` or `password_file`",
                false => "no credentials",
            };
            let expected = "either `secret_file`, or `username` and `password_file`";
            self.problems
                .push(Problem::new(&entry.origin, &entry.path, found, expected));
            return None;
        }
        if shared {
            let secret = self.secret_text(entry, "secret_file")?;
            return Some(TurnCredentials::Shared { secret });
        }
        let username = self.required(entry, "username", "1 to 256 characters", |value| {
            text(value).filter(|user| (1..=256).contains(&user.len()))
        });
        let password = self.secret_text(entry, "password_file");
        Some(TurnCredentials::Static {
            username: username?,
            password: password?,
        })
    }

    fn secret_text(&mut self, entry: &Entry, field: &'static str) -> Option<Zeroizing<String>> {
        let file = self.required(entry, field, "a path", path_text)?;
        let stand_in = |text: &str| Zeroizing::new(text.to_owned());
        let read = self.read(&self.base.join(file), read_secret_text, stand_in);
        let node = entry.fields.get(field)?;
        self.secret(&entry.path_of(field), &node.origin, read)
    }

    fn cluster_secret(&mut self) -> Option<(PathBuf, ClusterSecret)> {
        const KEY: &str = "cluster_secret_file";
        let file = self.path(KEY)?;
        let origin = self.origins.get(KEY)?.clone();
        let stand_in = |text: &str| Zeroizing::new(text.as_bytes().to_vec());
        let read = self.read(&file, read_secret, stand_in);
        let content = self.secret(KEY, &origin, read)?;
        match ClusterSecret::new(content.to_vec()) {
            Ok(secret) => Some((file, secret)),
            Err(_) => {
                let found = format!("{} holds {} bytes", file.display(), content.len());
                let problem = Problem::new(&origin, KEY, found, "a secret of 16 to 1024 bytes");
                let help = "`holdfast keys secret --out FILE` makes one";
                self.problems.push(problem.help(help));
                None
            }
        }
    }

    fn own_key(&mut self) -> Option<KeySource> {
        let file = self.path("key_file")?;
        let origin = self.origins.get("key_file")?.clone();
        let seed = self.secret("key_file", &origin, read_node_key(&file))?;
        Some(KeySource::Own { file, seed })
    }

    fn limits(&mut self) -> Limits {
        let mut limits = Limits::default();
        // Ranges are core's; here a number only has to fit its type.
        if let Some(n) = self.number("limits.streams_per_link") {
            limits.streams_per_link = n;
        }
        if let Some(n) = self.number("limits.stream_window") {
            limits.stream_window = n;
        }
        if let Some(n) = self.number("limits.send_window") {
            limits.send_window = n;
        }
        if let Some(n) = self.number::<u32>("limits.datagram_buffer") {
            limits.datagram_buffer = n as usize;
        }
        if let Some(n) = self.number("limits.mtu_max") {
            limits.mtu_max = n;
        }
        if let Some(grace) = self.duration("limits.path_loss_grace") {
            limits.path_loss_grace = grace;
        }
        let expected = "1 to 1048576";
        if let Some(n) = self.key("limits.recorder_len", expected, |value| {
            integer(value, 1, RECORDER_LEN_MAX).and_then(|n| usize::try_from(n).ok())
        }) {
            limits.recorder_len = n;
        }
        limits
    }

    fn rest(&mut self) -> Rest {
        let brokers = self.texts("brokers", BrokerUrl::from_str);
        if brokers.len() > BROKERS_MAX {
            let origin = self.origins["brokers"].clone();
            let found = format!("{} brokers", brokers.len());
            let expected = format!("at most {BROKERS_MAX}");
            self.problems
                .push(Problem::new(&origin, "brokers", found, expected));
        }
        Rest {
            listen: self.address("listen", "an address and a port, such as 0.0.0.0:0", true),
            brokers,
            congestion: self.choice(
                "congestion",
                &[("bbr", Congestion::Bbr), ("cubic", Congestion::Cubic)],
            ),
            admin: self.address(
                "admin",
                "an address and a port, such as 127.0.0.1:7070",
                false,
            ),
            dump_dir: self.path("dump_dir"),
            shutdown_grace: self.duration("shutdown_grace"),
            log: self.key(
                "log",
                "a level (error, warn, info, debug, trace), or levels by target",
                |value| text(value).filter(|filter| crate::logging::is_filter(filter)),
            ),
            log_format: self.choice(
                "log_format",
                &[
                    ("auto", LogFormat::Auto),
                    ("human", LogFormat::Human),
                    ("json", LogFormat::Json),
                ],
            ),
        }
    }
}

/// Rules without their places.
pub fn bare(rules: &[(String, AllowRule)]) -> Vec<AllowRule> {
    rules.iter().map(|(_, rule)| *rule).collect()
}

fn vip(value: &Value) -> Option<Vip> {
    let octet = integer(value, 0, i128::from(u16::MAX))?;
    Vip::new(u16::try_from(octet).ok()?).ok()
}

/// The peers with their keys, once it is known where keys come from.
pub fn peer_config(peer: &PeerDraft, cluster: Option<&ClusterSecret>) -> Option<PeerConfig> {
    let id = peer.id.clone()?;
    let key = peer.key.or_else(|| Some(cluster?.identity(&id).public()))?;
    let vip = peer.vip?;
    Some(PeerConfig { id, vip, key })
}
