//! From the tree of values to [`Member`], collecting every problem on the way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_bootstrap::identity::{COORDINATOR, Role};
use holdfast_bootstrap::real::{TeeConfig, read_key_file};
use holdfast_bootstrap::tee::AgentEndpoint;
use holdfast_core::slots::Slot;
use holdfast_core::types::PeerId;
use holdfast_io::http::Tls;
use holdfast_io::kv::consul as kv;
use holdfast_postgres as postgres;
use holdfast_sidecar::{Child, Consul, Service};
use zeroize::Zeroizing;

use super::check;
use super::postgres::{Surroundings, runs_database};
use super::{Member, Strict};
use crate::config::address::UrlError;
use crate::config::files::read_secret_text;
use crate::config::keys::SERVICE_FIELDS;
use crate::config::problem::{Problem, any_error};
use crate::config::reader::{Reader, integer, parsed, path_text, text, truth};
use crate::config::source::{Origin, Value};
use crate::config::tree::{Environment, Tree};

/// Longest name of a cluster or datacenter (Consul takes no longer one).
const WORD_LEN_MAX: usize = 64;

/// Everything that could be read, with the origins, for the checks that compare keys.
pub struct Draft {
    /// The cluster's name.
    pub cluster: Option<String>,
    /// What this machine is.
    pub role: Option<Role>,
    /// Its pinned slot.
    pub pinned: Option<Slot>,
    /// The names in the peer list, each with its place and where that is.
    pub peers: Vec<(String, Origin, PeerId)>,
    /// Where the KV is.
    pub kv: kv::Config,
    /// The Consul agent.
    pub consul: Option<Consul>,
    /// The database, or where it is reached.
    pub postgres: Option<postgres::Settings>,
    /// Whether it is run here, too.
    pub runs_database: bool,
    /// Services.
    pub services: Vec<(String, Service)>,
    /// Children, each with its place.
    pub children: Vec<(String, Child)>,
    /// Ports that are open to peers, with or without UDP.
    pub allow: Vec<(u16, bool)>,
    /// The lease of a slot.
    pub lease: Option<Duration>,
    /// Where each value came from.
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

/// Read what the tree says of membership. What is wrong with the keys of the mesh itself is told
/// by whoever reads those.
pub fn read(
    tree: &Tree,
    environment: &Environment,
    base: &Path,
    strict: Strict,
    problems: &mut Vec<Problem>,
) -> Option<Member> {
    let mut reader = Reader {
        tree,
        base,
        not_yet: None,
        origins: BTreeMap::new(),
        problems,
    };
    let places = reader.places();
    let patience = reader.duration("slots.patience");
    let cluster = reader.word("cluster");
    let postgres = reader.postgres(&Surroundings {
        cluster: cluster.as_deref(),
        state_dir: places.state.as_deref(),
    });
    let tee = reader.tee(cluster.as_deref());
    let role = reader.role();
    let kv = reader.kv();
    let patroni_kv = reader.kv_place(&kv);
    let draft = Draft {
        cluster,
        role: role.clone(),
        pinned: reader.key("ordinal", "an integer, 0 to 65535", |value| {
            Slot::try_from(integer(value, 0, i128::from(Slot::MAX))?).ok()
        }),
        peers: peer_names(tree),
        kv,
        consul: reader.consul(),
        runs_database: runs_database(tree, role.as_ref()),
        postgres,
        services: reader.services(),
        children: reader.children(),
        allow: allowed(tree, "allow"),
        lease: reader.duration("slots.lease"),
        origins: BTreeMap::new(),
        whole: tree.whole.clone(),
    };
    let mut origins = reader.origins;
    // Read by others, and compared here.
    for name in ["allow", "forward", "peers"] {
        let given = tree.nodes.get(name);
        origins.extend(given.map(|node| (name.to_owned(), node.origin.clone())));
    }
    let draft = Draft { origins, ..draft };
    let slots = check::check(&draft, tree, environment, strict, problems);
    if any_error(problems) {
        return None;
    }
    Some(Member {
        cluster: draft.cluster?,
        role: draft.role?,
        pinned: draft.pinned,
        slots,
        peers: Vec::new(),
        state_dir: places.state?,
        run_dir: places.run?,
        secrets_dir: places.secrets?,
        hosts_file: places.hosts,
        tee: tee?,
        kv: own_agent(draft.kv, draft.consul.is_some()),
        lease: draft.lease?,
        patience: patience?,
        consul: draft.consul,
        postgres: draft.postgres,
        runs_database: draft.runs_database,
        patroni_kv,
        services: draft.services.into_iter().map(|(_, s)| s).collect(),
        children: draft.children.into_iter().map(|(_, c)| c).collect(),
        origins: draft.origins,
    })
}

/// Where no KV is named, Consul's own agent on this machine is one.
fn own_agent(mut kv: kv::Config, has_agent: bool) -> Option<kv::Config> {
    if kv.addresses.is_empty() && has_agent {
        let endpoint = holdfast_sidecar::consul_agent::endpoint();
        kv.addresses = vec![kv::Address {
            tls: false,
            endpoint,
        }];
    }
    (!kv.addresses.is_empty()).then_some(kv)
}

/// Files and folders.
struct Places {
    state: Option<PathBuf>,
    run: Option<PathBuf>,
    secrets: Option<PathBuf>,
    hosts: Option<PathBuf>,
}

impl Reader<'_> {
    fn places(&mut self) -> Places {
        let hosts = self.key("hosts_file", "a path, or \"\" for none", |value| {
            path_text(value).or_else(|| text(value).filter(String::is_empty))
        });
        Places {
            state: self.path("state_dir"),
            run: self.path("run_dir"),
            secrets: self.path("secrets_dir"),
            hosts: hosts
                .filter(|path| !path.is_empty())
                .map(|path| self.base.join(path)),
        }
    }

    /// A name that becomes part of keys and options.
    pub fn word(&mut self, name: &'static str) -> Option<String> {
        let expected = "1 to 64 letters, digits, '-', '_' or '.'";
        self.key(name, expected, |value| {
            text(value).filter(|text| is_word(text))
        })
    }

    fn role(&mut self) -> Option<Role> {
        let expected =
            "1 to 32 lower-case letters and digits, such as \"coordinator\" or \"worker\"";
        self.key("role", expected, parsed)
    }

    fn tee(&mut self, cluster: Option<&str>) -> Option<TeeConfig> {
        let is_plain = self.choice("tee.kind", &[("dstack", false), ("plain", true)]);
        let expected = "unix:/path/to/socket, or http://host:port";
        let endpoint = self.key("tee.endpoint", expected, parsed::<AgentEndpoint>);
        let patience = self.duration("tee.patience");
        let key_file = self.path("tee.key_file");
        if !is_plain {
            return Some(TeeConfig::Dstack {
                endpoint: endpoint?,
                patience: patience?,
            });
        }
        const KEY: &str = "tee.key_file";
        let given = self.origins.get(KEY).cloned();
        let (origin, found, expected) = match (&key_file, given) {
            (Some(file), Some(origin)) => match read_key_file(file) {
                Ok(_) => {
                    return Some(TeeConfig::Plain {
                        key_file: file.clone(),
                        app_id: cluster?.to_owned(),
                    });
                }
                Err(error) => (origin, error.to_string(), "a key that can be read"),
            },
            // What was given is no path: that is told already.
            (None, Some(_)) => return None,
            (_, None) => {
                let origin = self.origins.get("tee.kind").cloned();
                let expected = "the file that everything is derived from, as `kind` is \"plain\"";
                (origin?, "nothing".to_owned(), expected)
            }
        };
        let problem = Problem::new(&origin, KEY, found, expected);
        let help = "`holdfast keys secret --out FILE` makes one, the same for all machines";
        self.problems.push(problem.help(help));
        None
    }

    fn kv(&mut self) -> kv::Config {
        let addresses = self.texts("kv.addresses", |text| {
            text.parse::<kv::Address>().map_err(|_| UrlError {
                expected: "http://host:port or https://host:port",
                help: None,
            })
        });
        let mut config = kv::Config::new(addresses);
        config.token = self.kv_file("kv.token_file", "the ACL token", kv::token_from_file);
        config.tls = self.kv_file("kv.ca_file", "certificates, PEM", kv::tls_from_file);
        self.check_tls(&config.addresses, config.tls.as_ref());
        config
    }

    fn kv_file<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(&Path) -> Result<T, kv::FileError>,
    ) -> Option<T> {
        let file = self.path(name)?;
        let origin = self.origins.get(name)?.clone();
        let told = |error: kv::FileError| {
            self.problems
                .push(Problem::new(&origin, name, error.to_string(), expected));
        };
        read(&file).map_err(told).ok()
    }

    /// The agent is asked with the token that the KV has: what is wrong with it is told there.
    fn agent_token(&mut self) -> Option<Zeroizing<String>> {
        self.again("kv.token_file")
            .and_then(|file| read_secret_text(&file).ok())
    }

    /// A path that was read before: what is wrong with it is told.
    fn again(&mut self, name: &'static str) -> Option<PathBuf> {
        let told = self.problems.len();
        let path = self.path(name);
        self.problems.truncate(told);
        path
    }

    /// The KV as others are told of it.
    fn kv_place(&mut self, kv: &kv::Config) -> Option<postgres::KvPlace> {
        Some(postgres::KvPlace {
            address: kv.addresses.first()?.to_string(),
            token: self.agent_token(),
            ca_file: self.again("kv.ca_file"),
        })
    }

    fn check_tls(&mut self, addresses: &[kv::Address], tls: Option<&Tls>) {
        let secured = addresses.iter().find(|address| address.tls);
        if let (Some(address), None) = (secured, tls)
            && !self.origins.contains_key("kv.ca_file")
        {
            let origin = self.origins["kv.addresses"].clone();
            let expected = format!("the certificates to trust, since {address} uses TLS");
            self.problems
                .push(Problem::new(&origin, "kv.ca_file", "nothing", expected));
        }
    }

    fn consul(&mut self) -> Option<Consul> {
        if !self.tree.has_section("consul") {
            return None;
        }
        let program = self.key(
            "consul.program",
            "a program: its name, or its path",
            path_text,
        );
        let datacenter = self.word("consul.datacenter");
        let raft = self.key("consul.raft_multiplier", "1 to 10", |value| {
            u8::try_from(integer(value, 1, 10)?).ok()
        });
        let user = self.key("consul.user", "the name of a user", text);
        // What could not be read is told, and what else is wrong with the section too.
        Some(Consul {
            program: match program.unwrap_or_default() {
                name if name.contains('/') => self.base.join(name),
                // A bare name is looked for in `PATH`, as a shell does.
                name => name.into(),
            },
            datacenter: datacenter.unwrap_or_default(),
            raft_multiplier: raft.unwrap_or_default(),
            user,
            server_role: COORDINATOR.to_owned(),
            token: self.agent_token(),
        })
    }

    fn services(&mut self) -> Vec<(String, Service)> {
        let mut services = Vec::new();
        for entry in self.tables("services", SERVICE_FIELDS) {
            let fields = entry.fields.iter();
            let fields = fields.map(|(name, node)| ((*name).to_owned(), node.value.to_json()));
            match serde_json::from_value(fields.collect()) {
                Ok(service) => services.push((entry.path, service)),
                Err(error) => {
                    let expected = "a service: `name`, `port`, and perhaps `subset`, `vip`, \
                                    `sidecar_port`, `parent`, `registers_parent`, `check`";
                    self.problems.push(Problem::new(
                        &entry.origin,
                        &entry.path,
                        error.to_string(),
                        expected,
                    ));
                }
            }
        }
        services
    }
}

fn is_word(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=WORD_LEN_MAX).contains(&text.len()) && text.bytes().all(inner)
}

/// The names of the peers, as far as they are names.
fn peer_names(tree: &Tree) -> Vec<(String, Origin, PeerId)> {
    let entries = tables(tree, "peers");
    let named = entries.filter_map(|(path, fields)| {
        let (_, node) = fields.iter().find(|(name, _)| name == "id")?;
        Some((path, node.origin.clone(), parsed(&node.value)?))
    });
    named.collect()
}

/// The ports of a list of rules, as far as they are ports.
pub fn allowed(tree: &Tree, list: &str) -> Vec<(u16, bool)> {
    let entries = tables(tree, list);
    let ports = entries.filter_map(|(_, fields)| {
        let field = |name| fields.iter().find(|(field, _)| field == name);
        let port = integer(&field("port")?.1.value, 1, 65_535)?;
        let udp = field("udp").and_then(|(_, node)| truth(&node.value));
        Some((u16::try_from(port).ok()?, udp.unwrap_or(false)))
    });
    ports.collect()
}

type Fields = Vec<(String, crate::config::source::Node)>;

fn tables<'a>(tree: &'a Tree, name: &str) -> impl Iterator<Item = (String, &'a Fields)> {
    let items = match tree.nodes.get(name).map(|node| &node.value) {
        Some(Value::List(items)) => items.as_slice(),
        _ => &[],
    };
    let tables = items.iter().enumerate();
    let name = name.to_owned();
    tables.filter_map(move |(index, item)| match &item.value {
        Value::Table(fields) => Some((format!("{name}[{index}]"), fields)),
        _ => None,
    })
}
