//! From the tree of values to [`Member`], collecting every problem on the way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_bootstrap::identity::{COORDINATOR, Role};
use holdfast_bootstrap::real::{TeeConfig, read_key_file};
use holdfast_bootstrap::tee::AgentEndpoint;
use holdfast_core::slots::Slot;
use holdfast_core::supervise::{Name, Signal};
use holdfast_core::types::PeerId;
use holdfast_io::http::Tls;
use holdfast_io::kv::consul as kv;
use holdfast_sidecar::{Child, Consul, Ready, Service};
use zeroize::Zeroizing;

use super::check;
use super::{Member, Strict};
use crate::config::address::UrlError;
use crate::config::files::read_secret_text;
use crate::config::keys::{CHILD_FIELDS, SERVICE_FIELDS};
use crate::config::problem::{Problem, any_error};
use crate::config::reader::{Entry, Reader, duration, integer, parsed, path_text, text};
use crate::config::source::{Origin, Value};
use crate::config::tree::{Environment, Tree};

/// Longest name of a cluster or datacenter (Consul takes no longer one).
const WORD_LEN_MAX: usize = 64;
/// Most restarts that a child may have within its window: more is no limit.
const RESTARTS_MAX: i128 = 1_000;
/// Most arguments, or variables, of one child.
const ITEMS_MAX: usize = 256;
/// What may end a child, by name (signal(7)).
const SIGNALS: [(&str, i32); 9] = [
    ("TERM", libc::SIGTERM),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("HUP", libc::SIGHUP),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("WINCH", libc::SIGWINCH),
    ("ABRT", libc::SIGABRT),
    ("KILL", libc::SIGKILL),
];
const DURATION_EXPECTED: &str = "a duration up to a day, such as \"500ms\", \"5s\" or \"2m\"";

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
    let tee = reader.tee(cluster.as_deref());
    let draft = Draft {
        cluster,
        role: reader.role(),
        pinned: reader.key("ordinal", "an integer, 0 to 65535", |value| {
            Slot::try_from(integer(value, 0, i128::from(Slot::MAX))?).ok()
        }),
        peers: peer_names(tree),
        kv: reader.kv(),
        consul: reader.consul(),
        services: reader.services(),
        children: reader.children(),
        allow: allowed(tree),
        lease: reader.duration("slots.lease"),
        origins: BTreeMap::new(),
        whole: tree.whole.clone(),
    };
    let mut origins = reader.origins;
    // Read by others, and compared here.
    for name in ["allow", "peers"] {
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
        services: draft.services.into_iter().map(|(_, s)| s).collect(),
        children: draft.children.into_iter().map(|(_, c)| c).collect(),
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
    fn word(&mut self, name: &'static str) -> Option<String> {
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
        let file = self.path("kv.token_file")?;
        read_secret_text(&file).ok()
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

    fn children(&mut self) -> Vec<(String, Child)> {
        let mut children = Vec::new();
        for entry in self.tables("children", CHILD_FIELDS) {
            let (name, command) = (self.child_name(&entry), self.child_command(&entry));
            // A stand-in, so that what else is wrong with the entry is told at once.
            let known = name.clone().zip(command.clone());
            let stand_in = || Some(("child".parse().ok()?, Vec::new()));
            let Some((name, command)) = known.clone().or_else(stand_in) else {
                continue;
            };
            let child = self.child(&entry, Child::new(name, command));
            if known.is_some() {
                children.push((entry.path, child));
            }
        }
        children
    }

    fn child_name(&mut self, entry: &Entry) -> Option<Name> {
        let expected = "1 to 63 letters, digits, '-', '_' or '.', starting with a letter or digit";
        self.required(entry, "name", expected, parsed)
    }

    fn child_command(&mut self, entry: &Entry) -> Option<Vec<String>> {
        let expected = "a list of 1 to 256 strings: the program and its arguments";
        self.required(entry, "command", expected, |value| {
            strings(value).filter(|words| words.first().is_some_and(|word| !word.is_empty()))
        })
    }

    fn child(&mut self, entry: &Entry, mut child: Child) -> Child {
        let user = "the name of a user";
        child.user = self.optional(entry, "user", user, text);
        child.group = self.optional(entry, "group", "the name of a group", text);
        let names = "a list of names";
        if let Some(after) = self.optional(entry, "after", names, names_of) {
            child.after = after;
        }
        let ready = "http://host:port/path, or tcp:host:port";
        if let Some(ready) = self.optional(entry, "ready", ready, parsed::<Ready>) {
            child.ready = ready;
        }
        let env = "a list of strings such as \"KEY=value\"";
        if let Some(env) = self.optional(entry, "env", env, variables) {
            child.env = env;
        }
        let dir = self.optional(entry, "dir", "a path", path_text);
        child.dir = dir.map(|dir| self.base.join(dir));
        if let Some(signal) = self.stop_signal(entry) {
            child.stop_signal = signal;
        }
        let span = |value: &Value| duration(&text(value)?);
        if let Some(limit) = self.optional(entry, "stop_deadline", DURATION_EXPECTED, span) {
            child.stop_deadline = limit;
        }
        if let Some(window) = self.optional(entry, "window", DURATION_EXPECTED, span) {
            child.window = window;
        }
        if let Some(most) = self.optional(entry, "max_restarts", "0 to 1000", |value| {
            u32::try_from(integer(value, 0, RESTARTS_MAX)?).ok()
        }) {
            child.max_restarts = most;
        }
        if let Some(truth) = self.optional(entry, "one_shot", "true or false", truth) {
            child.one_shot = truth;
        }
        child
    }

    fn stop_signal(&mut self, entry: &Entry) -> Option<Signal> {
        let names: Vec<&str> = SIGNALS.iter().map(|(name, _)| *name).collect();
        let expected = format!("one of {}", names.join(", "));
        self.optional(entry, "stop_signal", &expected, |value| {
            let text = text(value)?;
            let bare = text.strip_prefix("SIG").unwrap_or(&text);
            let found = SIGNALS.iter().find(|(name, _)| *name == bare);
            found.map(|(_, number)| Signal(*number))
        })
    }
}

fn is_word(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=WORD_LEN_MAX).contains(&text.len()) && text.bytes().all(inner)
}

fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        _ => None,
    }
}

fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::List(items) if items.len() <= ITEMS_MAX => {
            let words = items.iter().map(|item| text(&item.value));
            // The kernel takes no argument or variable with a zero byte.
            words
                .map(|word| word.filter(|word| !word.contains('\0')))
                .collect()
        }
        _ => None,
    }
}

fn names_of(value: &Value) -> Option<Vec<Name>> {
    strings(value)?
        .iter()
        .map(|name| name.parse().ok())
        .collect()
}

fn variables(value: &Value) -> Option<Vec<(String, String)>> {
    let split = |text: &String| {
        let (name, value) = text.split_once('=')?;
        (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
    };
    strings(value)?.iter().map(split).collect()
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

/// The ports of the allowlist, as far as they are ports.
fn allowed(tree: &Tree) -> Vec<(u16, bool)> {
    let entries = tables(tree, "allow");
    let ports = entries.filter_map(|(_, fields)| {
        let field = |name| fields.iter().find(|(field, _)| field == name);
        let port = integer(&field("port")?.1.value, 1, 65_535)?;
        let udp = field("udp").and_then(|(_, node)| truth(&node.value));
        Some((u16::try_from(port).ok()?, udp.unwrap_or(false)))
    });
    ports.collect()
}

type Fields = Vec<(String, crate::config::source::Node)>;

fn tables<'a>(tree: &'a Tree, name: &'a str) -> impl Iterator<Item = (String, &'a Fields)> {
    let items = match tree.nodes.get(name).map(|node| &node.value) {
        Some(Value::List(items)) => items.as_slice(),
        _ => &[],
    };
    let tables = items.iter().enumerate();
    tables.filter_map(move |(index, item)| match &item.value {
        Value::Table(fields) => Some((format!("{name}[{index}]"), fields)),
        _ => None,
    })
}
