//! What a lab is made of, checked before anything is made.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{Direction, Error, Lab, LinkSpec, Nat, nat::Published};

/// How many nodes a lab may have: one third octet each, and enough for one machine.
pub const NODES_MAX: usize = 64;

/// How many routers a lab may have: one address from 203.0.113.101 each.
pub const ROUTERS_MAX: usize = 64;

/// How many ports a router may publish: more is a typing error.
pub const PUBLISHED_MAX: usize = 64;

/// How long a prefix may be, bytes.
pub const PREFIX_LENGTH_MAX: usize = 8;

/// How long the name of a node or router may be, bytes.
pub const NAME_LENGTH_MAX: usize = 16;

/// The name of the namespace with the public network in it.
pub const PUB: &str = "pub";

/// The addresses that servers in the namespace [`PUB`] may use.
pub const SERVERS: [Ipv4Addr; 2] = [
    Ipv4Addr::new(203, 0, 113, 10),
    Ipv4Addr::new(203, 0, 113, 11),
];

/// The smallest MTU that IPv4 allows (RFC 791).
const MTU_MIN: u16 = 68;

/// Where a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// Behind the router of that name.
    Behind(&'a str),
    /// On the public network, with an address of its own.
    Public,
}

/// How a node or router is joined to what is above it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Uplink {
    /// `None`: a plain veth pair.
    pub(crate) emulated: Option<Emulated>,
    /// `None`: the kernel's default of 1500.
    pub(crate) mtu: Option<u16>,
}

/// The impairment with which an emulated link starts.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Emulated {
    pub(crate) up: LinkSpec,
    pub(crate) down: LinkSpec,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Router {
    pub(crate) name: String,
    /// From 1, the order of declaration.
    pub(crate) index: u8,
    pub(crate) nat: Nat,
    /// Whatever the NAT is, also after [`Lab::set_nat`].
    #[serde(default)]
    pub(crate) published: Vec<Published>,
    pub(crate) uplink: Uplink,
}

impl Router {
    /// The address on the public network.
    pub(crate) fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(203, 0, 113, 100 + self.index)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// From 1, the order of declaration.
    pub(crate) index: u8,
    /// The index of its router, `None` if it is public.
    pub(crate) router: Option<u8>,
    pub(crate) uplink: Uplink,
}

impl Node {
    /// The address of its own interface.
    pub(crate) fn address(&self) -> Ipv4Addr {
        match self.router {
            Some(router) => Ipv4Addr::new(10, router, self.index, 2),
            None => Ipv4Addr::new(203, 0, 113, 20 + self.index),
        }
    }
}

/// A checked description, as it is written to the state file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Topology {
    pub(crate) prefix: String,
    pub(crate) routers: Vec<Router>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) wire: Option<PathBuf>,
    pub(crate) seed: Option<u64>,
    pub(crate) lo_up: bool,
    pub(crate) offload: bool,
    pub(crate) persistent: bool,
}

impl Topology {
    /// The namespace of a member.
    pub(crate) fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// Every namespace, the public one first.
    pub(crate) fn namespaces(&self) -> Vec<String> {
        self.names().map(|name| self.namespace(name)).collect()
    }

    /// Every member's name, the public network first.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let routers = self.routers.iter().map(|router| router.name.as_str());
        let nodes = self.nodes.iter().map(|node| node.name.as_str());
        [PUB].into_iter().chain(routers).chain(nodes)
    }

    pub(crate) fn router(&self, name: &str) -> Result<&Router, Error> {
        self.routers
            .iter()
            .find(|router| router.name == name)
            .ok_or_else(|| self.unknown("router", name))
    }

    pub(crate) fn node(&self, name: &str) -> Result<&Node, Error> {
        self.nodes
            .iter()
            .find(|node| node.name == name)
            .ok_or_else(|| self.unknown("node", name))
    }

    /// The router that a node is behind.
    pub(crate) fn router_of(&self, node: &Node) -> Option<&Router> {
        self.routers
            .iter()
            .find(|router| Some(router.index) == node.router)
    }

    pub(crate) fn unknown(&self, what: &'static str, name: &str) -> Error {
        let known: Vec<&str> = self.names().collect();
        Error::Unknown {
            prefix: self.prefix.clone(),
            what,
            name: name.to_owned(),
            known: known.join(", "),
        }
    }
}

/// Describes a lab; nothing is checked before [`build`](Self::build), and nothing made before
/// [`Lab::up`].
#[derive(Debug, Clone)]
#[must_use = "a description alone makes no lab: call `build`"]
pub struct Builder {
    prefix: String,
    routers: Vec<(String, Nat)>,
    nodes: Vec<(String, Option<String>)>,
    published: Vec<(String, u16, u16)>,
    links: Vec<(String, Emulated)>,
    mtus: Vec<(String, u16)>,
    wire: Option<PathBuf>,
    seed: Option<u64>,
    lo_up: bool,
    offload: bool,
    persistent: bool,
}

impl Builder {
    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            routers: Vec::new(),
            nodes: Vec::new(),
            published: Vec::new(),
            links: Vec::new(),
            mtus: Vec::new(),
            wire: None,
            seed: None,
            lo_up: true,
            offload: true,
            persistent: false,
        }
    }

    /// Adds a router on the public network; the first gets 203.0.113.101.
    pub fn router(mut self, name: &str, nat: Nat) -> Self {
        self.routers.push((name.to_owned(), nat));
        self
    }

    /// Adds a node; node `i` behind router `k` gets `10.k.i.2`, a public one `203.0.113.(20+i)`.
    pub fn node(mut self, name: &str, place: Place<'_>) -> Self {
        let router = match place {
            Place::Behind(router) => Some(router.to_owned()),
            Place::Public => None,
        };
        self.nodes.push((name.to_owned(), router));
        self
    }

    /// Publishes a TCP port of a node behind a router: whoever connects to `port` of the
    /// [public address](Lab::public_address) arrives at the node's `to_port`, as through the TCP
    /// gateway that a provider of virtual machines has. The node sees the client's address, and
    /// that of the router where the client is behind it too.
    pub fn publish(mut self, node: &str, port: u16, to_port: u16) -> Self {
        self.published.push((node.to_owned(), port, to_port));
        self
    }

    /// Emulates the link from a node to its router, or from a router or public node to the
    /// public network. Needs [`wire_binary`](Self::wire_binary).
    pub fn link(mut self, name: &str, up: LinkSpec, down: LinkSpec) -> Self {
        self.links.push((name.to_owned(), Emulated { up, down }));
        self
    }

    /// Sets the MTU of both ends of the link above a node or router, bytes. Default: 1500.
    pub fn mtu(mut self, name: &str, bytes: u16) -> Self {
        self.mtus.push((name.to_owned(), bytes));
        self
    }

    /// Where the link emulator `holdfast-wire` is.
    pub fn wire_binary(mut self, path: &Path) -> Self {
        self.wire = Some(path.to_owned());
        self
    }

    /// What the emulated links draw their losses from; each link gets a stream of its own.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Whether `lo` is up in the nodes. Default: yes. (It always is elsewhere.)
    pub fn lo_up(mut self, up: bool) -> Self {
        self.lo_up = up;
        self
    }

    /// Whether veth pairs pass on packets of up to 64 kB instead of cutting them to the MTU.
    /// Default: yes. Switching it off needs `ethtool`.
    pub fn offload(mut self, on: bool) -> Self {
        self.offload = on;
        self
    }

    /// Whether the lab outlives the process that made it. Default: no, its link emulators end
    /// with that process and its leftovers are removed by the next lab of the same prefix.
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.persistent = persistent;
        self
    }

    /// Checks the description.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::TooMany`], [`Error::Unknown`] or [`Error::Link`].
    pub fn build(self) -> Result<Lab, Error> {
        check_prefix(&self.prefix)?;
        check_count("routers", self.routers.len(), ROUTERS_MAX)?;
        check_count("nodes", self.nodes.len(), NODES_MAX)?;
        let mut topology = Topology {
            prefix: self.prefix,
            routers: Vec::new(),
            nodes: Vec::new(),
            wire: self.wire,
            seed: self.seed,
            lo_up: self.lo_up,
            offload: self.offload,
            persistent: self.persistent,
        };
        for (index, (name, nat)) in (1..).zip(self.routers) {
            check_name(&topology, &name)?;
            nat.validate()?;
            topology.routers.push(Router {
                name,
                index,
                nat,
                published: Vec::new(),
                uplink: Uplink::default(),
            });
        }
        for (index, (name, router)) in (1..).zip(self.nodes) {
            check_name(&topology, &name)?;
            let router = match router {
                Some(router) => Some(topology.router(&router)?.index),
                None => None,
            };
            topology.nodes.push(Node {
                name,
                index,
                router,
                uplink: Uplink::default(),
            });
        }
        for (node, port, to_port) in self.published {
            publish(&mut topology, &node, port, to_port)?;
        }
        for (name, emulated) in self.links {
            uplink_mut(&mut topology, &name)?.emulated = Some(emulated);
            if topology.wire.is_none() {
                return Err(Error::Link {
                    name,
                    reason: "it is to be emulated, but no link emulator was given".to_owned(),
                });
            }
        }
        for (name, mtu) in self.mtus {
            check_mtu(mtu)?;
            uplink_mut(&mut topology, &name)?.mtu = Some(mtu);
        }
        Ok(Lab::new(topology))
    }
}

fn publish(topology: &mut Topology, node: &str, port: u16, to_port: u16) -> Result<(), Error> {
    let node = topology.node(node)?;
    let to = SocketAddrV4::new(node.address(), to_port);
    let refused = |found: String, expected: &str| {
        Err(Error::Invalid {
            what: "published port",
            found,
            expected: expected.to_owned(),
        })
    };
    if port == 0 || to_port == 0 {
        return refused("port 0".to_owned(), "1 to 65535");
    }
    let Some(index) = node.router else {
        let found = format!("port {port} of {}", node.name);
        return refused(
            found,
            "a node behind a router: a public one is reached anyway",
        );
    };
    let router = topology.routers.iter_mut().find(|r| r.index == index);
    let router = router.expect("a node's router is one of the lab's");
    if router.published.iter().any(|other| other.port == port) {
        let found = format!("port {port} of {} again", router.name);
        return refused(found, "every port of a router once");
    }
    router.published.push(Published { port, to });
    check_count("published ports", router.published.len(), PUBLISHED_MAX)
}

fn uplink_mut<'a>(topology: &'a mut Topology, name: &str) -> Result<&'a mut Uplink, Error> {
    let unknown = topology.unknown("node or router", name);
    let routers = topology
        .routers
        .iter_mut()
        .map(|r| (&r.name, &mut r.uplink));
    let nodes = topology.nodes.iter_mut().map(|n| (&n.name, &mut n.uplink));
    routers
        .chain(nodes)
        .find(|(member, _)| *member == name)
        .map(|(_, uplink)| uplink)
        .ok_or(unknown)
}

/// A prefix becomes part of file and namespace names, so it may be nothing but a short word.
pub(crate) fn check_prefix(prefix: &str) -> Result<(), Error> {
    check_word("lab prefix", prefix, PREFIX_LENGTH_MAX)
}

fn check_name(topology: &Topology, name: &str) -> Result<(), Error> {
    check_word("name", name, NAME_LENGTH_MAX)?;
    if topology.names().any(|taken| taken == name) {
        return Err(Error::Invalid {
            what: "name",
            found: name.to_owned(),
            expected: format!("a name of its own for each node and router, and not {PUB:?}"),
        });
    }
    Ok(())
}

fn check_word(what: &'static str, word: &str, length_max: usize) -> Result<(), Error> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let starts_well = word.bytes().next().is_some_and(|first| first != b'-');
    if starts_well && word.len() <= length_max && word.bytes().all(allowed) {
        return Ok(());
    }
    Err(Error::Invalid {
        what,
        found: word.to_owned(),
        expected: format!("1 to {length_max} of a-z, 0-9 and '-', not '-' first"),
    })
}

fn check_count(what: &'static str, found: usize, max: usize) -> Result<(), Error> {
    if found > max {
        return Err(Error::TooMany { what, found, max });
    }
    Ok(())
}

fn check_mtu(mtu: u16) -> Result<(), Error> {
    if mtu < MTU_MIN {
        return Err(Error::Invalid {
            what: "MTU",
            found: mtu.to_string(),
            expected: format!("at least {MTU_MIN} bytes"),
        });
    }
    Ok(())
}

/// The command for the link emulator that changes one direction.
pub(crate) fn link_command(direction: Direction, spec: &LinkSpec) -> String {
    // The emulator's `ab` leads away from its first namespace, which is the node's or router's.
    let word = match direction {
        Direction::Up => "ab",
        Direction::Down => "ba",
    };
    format!("{word} {}", spec.as_str())
}
