//! Making, using and removing a lab.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    net::Ipv4Addr,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde::Serialize;

use crate::{
    Builder, Direction, Error, LinkSpec, Nat, PUB, SERVERS,
    link::{self, Ends, Wire},
    netns,
    process::{PidFd, ProcessId, end_all, wait_for},
    state::{self, State},
    tools,
    topology::{Emulated, Node, Router, Topology, Uplink, check_prefix, link_command},
};

/// How long the processes in a lab may take to end after SIGTERM.
const TEARDOWN_GRACE: Duration = Duration::from_secs(1);

/// How often teardown looks for processes again: one that forks while it is being ended may
/// leave a child, a lab that still has some after this many looks is being refilled from outside.
const TEARDOWN_ROUNDS_MAX: u32 = 10;

/// How long the kernel may take to activate links: it is a matter of milliseconds, or of a second
/// where it limits the rate of such events.
const RUNNING_BOUND: Duration = Duration::from_secs(10);

/// A TAP device's default of 500 packets drops bursts that the emulator is to judge.
const EMULATED_QUEUE_PACKETS: u32 = 5_000;

/// A small internet on this machine; see the crate's page.
///
/// Dropping it changes nothing; [`up_guarded`](Self::up_guarded) gives a value whose drop
/// takes the lab down.
#[derive(Debug)]
pub struct Lab {
    topology: Topology,
    wires: Vec<Wire>,
}

/// One interface pair between a member and what is above it.
struct Joint {
    name: String,
    lower: (String, &'static str),
    upper: (String, String),
    uplink: Uplink,
}

impl Lab {
    /// Starts the description of a lab. The prefix begins the names of all its namespaces;
    /// it is checked by [`Builder::build`].
    pub fn builder(prefix: &str) -> Builder {
        Builder::new(prefix)
    }

    pub(crate) fn new(topology: Topology) -> Self {
        Self {
            topology,
            wires: Vec::new(),
        }
    }

    /// A lab that is up, made by this or another process.
    ///
    /// # Errors
    /// [`Error::NotUp`], or [`Error::State`] if its state file is damaged.
    pub fn attach(prefix: &str) -> Result<Self, Error> {
        check_prefix(prefix)?;
        let state = State::load(prefix)?.ok_or_else(|| Error::NotUp {
            prefix: prefix.to_owned(),
        })?;
        Ok(Self::new(state.topology))
    }

    /// Makes everything. What an ended process left of a lab of the same prefix is removed
    /// first; on failure, what has been made is removed again.
    ///
    /// # Errors
    /// [`Error::AlreadyUp`], [`Error::NamespaceTaken`], a missing
    /// [precondition](tools::preconditions), or what `ip`, `nft` or the kernel refused.
    pub fn up(&mut self) -> Result<(), Error> {
        tools::preconditions()?;
        let prefix = &self.topology.prefix;
        match State::load(prefix)? {
            Some(state) if state.is_abandoned() => drop(Self::clean(prefix)?),
            Some(_) => {
                return Err(Error::AlreadyUp {
                    prefix: prefix.clone(),
                });
            }
            None => {}
        }
        // Before the state names them as ours: whatever it names may be removed.
        self.check_namespaces_free()?;
        let mut state = State::create(&self.topology)?;
        self.make(&mut state).inspect_err(|_| {
            // The first error is the one that says what is wrong.
            drop(self.down());
        })
    }

    /// [`up`](Self::up), with a guard that takes the lab down when it is dropped.
    ///
    /// # Errors
    /// Those of [`up`](Self::up).
    pub fn up_guarded(mut self) -> Result<Guard, Error> {
        self.up()?;
        Ok(Guard { lab: Some(self) })
    }

    /// Ends every process in the lab and removes its namespaces. Does nothing if it is not up.
    ///
    /// # Errors
    /// Those of [`clean`](Self::clean).
    pub fn down(&mut self) -> Result<(), Error> {
        let outcome = Self::clean(&self.topology.prefix);
        for wire in &mut self.wires {
            wire.reap();
        }
        self.wires.clear();
        outcome.map(drop)
    }

    /// Removes the lab of that prefix, whoever made it, also after a crash: the processes in its
    /// namespaces (SIGTERM, a second later SIGKILL), its link emulators, its namespaces and its
    /// state. Returns whether there was one.
    ///
    /// # Errors
    /// [`Error::State`] if its state file is damaged, [`Error::Timeout`] if a process cannot be
    /// ended, or what `ip` refused.
    pub fn clean(prefix: &str) -> Result<bool, Error> {
        check_prefix(prefix)?;
        let Some(state) = State::load(prefix)? else {
            state::remove(prefix)?;
            return Ok(false);
        };
        let namespaces = state.topology.namespaces();
        end_inhabitants(&namespaces)?;
        // After the inhabitants, whose last words may still want the links.
        let outside = state.processes.iter().filter_map(ProcessId::handle);
        end_all(outside.collect(), TEARDOWN_GRACE);
        let mut batch = String::new();
        for namespace in namespaces.iter().filter(|name| netns::path(name).exists()) {
            line(&mut batch, format_args!("netns del {namespace}"));
        }
        ip(&batch, None)?;
        state::remove(prefix)?;
        Ok(true)
    }

    /// The prefix of its namespaces.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.topology.prefix
    }

    /// The names of its nodes, in the order of declaration.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.topology.nodes.iter().map(|node| node.name.as_str())
    }

    /// The names of its routers, in the order of declaration.
    pub fn routers(&self) -> impl Iterator<Item = &str> {
        self.topology
            .routers
            .iter()
            .map(|router| router.name.as_str())
    }

    /// The folder of its state, mode 0700, removed with the lab: a place for logs and keys.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        state::folder(&self.topology.prefix)
    }

    /// The namespace of a node, a router or [`PUB`], as `ip netns` names it.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn namespace(&self, name: &str) -> Result<String, Error> {
        if !self.topology.names().any(|known| known == name) {
            return Err(self.topology.unknown("node or router", name));
        }
        Ok(self.topology.namespace(name))
    }

    /// The address of a node's own interface, or of a router on the public network, or the
    /// first address of [`PUB`].
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn address(&self, name: &str) -> Result<Ipv4Addr, Error> {
        if name == PUB {
            return Ok(SERVERS[0]);
        }
        if let Ok(router) = self.topology.router(name) {
            return Ok(router.address());
        }
        self.topology.node(name).map(Node::address)
    }

    /// The address under which a node appears on the public network.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn public_address(&self, node: &str) -> Result<Ipv4Addr, Error> {
        let node = self.topology.node(node)?;
        Ok(self
            .topology
            .router_of(node)
            .map_or_else(|| node.address(), Router::address))
    }

    /// The router that a node is behind, `None` for a public node.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn router_of(&self, node: &str) -> Result<Option<&str>, Error> {
        let node = self.topology.node(node)?;
        let router = self.topology.router_of(node);
        Ok(router.map(|router| router.name.as_str()))
    }

    /// The NAT of a router.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn nat(&self, router: &str) -> Result<&Nat, Error> {
        self.topology.router(router).map(|router| &router.nat)
    }

    /// A command that will run inside the namespace of a node, a router or [`PUB`]; in all
    /// other respects it shares this process's world, cgroups and mounts included.
    ///
    /// # Errors
    /// [`Error::Unknown`], or [`Error::Io`] if the lab is not up.
    pub fn command(&self, name: &str, program: impl AsRef<Path>) -> Result<Command, Error> {
        let namespace = netns::open(&self.namespace(name)?)?;
        let mut command = Command::new(program.as_ref());
        netns::enter_in_child(&mut command, namespace);
        Ok(command)
    }

    /// Runs `work` on a thread inside the namespace of a node, a router or [`PUB`], and waits
    /// for it. Sockets opened there stay there, whichever thread uses them afterwards.
    ///
    /// # Errors
    /// [`Error::Unknown`], or [`Error::Io`] if the lab is not up.
    pub fn run_in<T: Send>(&self, name: &str, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        netns::run_in(&self.namespace(name)?, work)
    }

    /// Makes a router forget every mapping, as a restart would. Flows from inside get a new
    /// mapping with their next packet; whether the public port changes is up to its
    /// [`Mapping`](crate::Mapping) (random with `EimRand` and `Apdm`).
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::MissingTool`] without `conntrack`, or what a tool refused.
    pub fn flush_nat(&self, router: &str) -> Result<(), Error> {
        let router = self.topology.router(router)?;
        let namespace = netns::open(&self.topology.namespace(&router.name))?;
        if let Some(script) = router.nat.flush_rules() {
            tools::run("nft", &["-f", "-"], script, Some(&namespace))?;
        }
        tools::run("conntrack", &["-F"], "", Some(&namespace))
    }

    /// Gives a running router another behaviour, all at once. What it remembers of flows through
    /// conntrack stays, as with a router that is reconfigured;
    /// [`flush_nat`](Self::flush_nat) makes it forget.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Invalid`], [`Error::NotUp`], or what a tool refused.
    pub fn set_nat(&mut self, router: &str, nat: Nat) -> Result<(), Error> {
        nat.validate()?;
        let mut router = self.topology.router(router)?.clone();
        router.nat = nat;
        self.apply_nat(&router)?;
        let slot = self
            .topology
            .routers
            .iter_mut()
            .find(|known| known.index == router.index);
        *slot.expect("it was found above") = router;
        let mut state = State::load(self.prefix())?.ok_or_else(|| Error::NotUp {
            prefix: self.prefix().to_owned(),
        })?;
        state.topology = self.topology.clone();
        state.save()
    }

    /// Changes one direction of an emulated link while it runs, named by the node or router
    /// below it.
    ///
    /// # Errors
    /// [`Error::Unknown`], or [`Error::Link`] if it is not emulated or the emulator refuses.
    pub fn set_link(&self, name: &str, direction: Direction, spec: &LinkSpec) -> Result<(), Error> {
        self.ask_link(name, &link_command(direction, spec))
            .map(drop)
    }

    /// The counters of an emulated link, as the emulator prints them.
    ///
    /// # Errors
    /// [`Error::Unknown`], or [`Error::Link`] if it is not emulated.
    pub fn link_stats(&self, name: &str) -> Result<String, Error> {
        self.ask_link(name, "stats")
    }

    /// What exists now.
    ///
    /// # Errors
    /// [`Error::Io`] if processes cannot be listed.
    pub fn status(&self) -> Result<Status, Error> {
        let mut namespaces = Vec::new();
        for name in self.topology.names() {
            let namespace = self.topology.namespace(name);
            namespaces.push(NamespaceStatus {
                name: name.to_owned(),
                role: self.role(name),
                address: self.address(name)?,
                public_address: self.public_address(name).or_else(|_| self.address(name))?,
                up: netns::path(&namespace).exists(),
                pids: netns::pids(std::slice::from_ref(&namespace))?,
                namespace,
            });
        }
        let links = self
            .joints()
            .into_iter()
            .filter(|joint| joint.uplink.emulated.is_some());
        let links = links.map(|joint| {
            let stats = self.link_stats(&joint.name);
            LinkStatus {
                stats: stats.unwrap_or_else(|error| error.to_string()),
                name: joint.name,
            }
        });
        Ok(Status {
            prefix: self.topology.prefix.clone(),
            namespaces,
            links: links.collect(),
        })
    }

    fn role(&self, name: &str) -> Role {
        if name == PUB {
            return Role::Public;
        }
        match self.topology.router(name) {
            Ok(_) => Role::Router,
            Err(_) => Role::Node,
        }
    }

    fn ask_link(&self, name: &str, question: &str) -> Result<String, Error> {
        self.namespace(name)?;
        link::ask(&self.folder(), name, question)
    }

    fn check_namespaces_free(&self) -> Result<(), Error> {
        let mut namespaces = self.topology.namespaces().into_iter();
        match namespaces.find(|name| netns::path(name).exists()) {
            Some(namespace) => Err(Error::NamespaceTaken { namespace }),
            None => Ok(()),
        }
    }

    fn make(&mut self, state: &mut State) -> Result<(), Error> {
        let mut batch = String::new();
        for namespace in self.topology.namespaces() {
            line(&mut batch, format_args!("netns add {namespace}"));
        }
        ip(&batch, None)?;
        let joints = self.joints();
        self.make_links(&joints, state)?;
        self.configure_public(&joints)?;
        for router in &self.topology.routers {
            self.configure_router(router, &joints)?;
        }
        for node in &self.topology.nodes {
            self.configure_node(node)?;
        }
        if !self.topology.offload {
            self.switch_offload_off(&joints)?;
        }
        self.wait_running(&joints)
    }

    fn wait_running(&self, joints: &[Joint]) -> Result<(), Error> {
        let mut interfaces: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for joint in joints {
            let ends = [
                (joint.lower.0.as_str(), joint.lower.1),
                (&joint.upper.0, &joint.upper.1),
            ];
            for (namespace, interface) in ends {
                interfaces.entry(namespace).or_default().push(interface);
            }
        }
        for (namespace, interfaces) in interfaces {
            netns::run_in(namespace, || {
                wait_for(
                    &format!("links of {namespace} running"),
                    RUNNING_BOUND,
                    || {
                        interfaces
                            .iter()
                            .all(|name| netns::is_running(name).unwrap_or(false))
                    },
                )
            })??;
        }
        // The bridge hears of its ports under the lock that this change takes, and right after
        // they are seen to run.
        ip("link set br0 up\n", Some(&self.topology.namespace(PUB)))
    }

    /// Every link, named by the member below it.
    fn joints(&self) -> Vec<Joint> {
        let topology = &self.topology;
        let routers = topology.routers.iter().map(|router| Joint {
            name: router.name.clone(),
            lower: (topology.namespace(&router.name), "wan0"),
            upper: (topology.namespace(PUB), format!("w{}", router.index)),
            uplink: router.uplink.clone(),
        });
        let nodes = topology.nodes.iter().map(|node| Joint {
            name: node.name.clone(),
            lower: (topology.namespace(&node.name), "eth0"),
            upper: (
                topology.namespace(topology.router_of(node).map_or(PUB, |router| &router.name)),
                format!("l{}", node.index),
            ),
            uplink: node.uplink.clone(),
        });
        routers.chain(nodes).collect()
    }

    fn make_links(&mut self, joints: &[Joint], state: &mut State) -> Result<(), Error> {
        let mut batch = String::new();
        for joint in joints {
            let (lower, upper) = (&joint.lower, &joint.upper);
            match &joint.uplink.emulated {
                None => line(
                    &mut batch,
                    format_args!(
                        "link add {} netns {} type veth peer name {} netns {}",
                        lower.1, lower.0, upper.1, upper.0
                    ),
                ),
                Some(emulated) => self.start_wire(joint, emulated, state)?,
            }
        }
        ip(&batch, None)
    }

    fn start_wire(
        &mut self,
        joint: &Joint,
        emulated: &Emulated,
        state: &mut State,
    ) -> Result<(), Error> {
        let program = self.topology.wire.clone();
        let program = program.expect("build refuses an emulated link without an emulator");
        let ends = Ends {
            name: &joint.name,
            a: (&joint.lower.0, joint.lower.1),
            b: (&joint.upper.0, &joint.upper.1),
        };
        // Links must not lose the same packets at the same time.
        let stream = u64::try_from(self.wires.len()).expect("at most as many links as members");
        let wire = link::start(
            &self.folder(),
            &program,
            &ends,
            (emulated.up.as_str(), emulated.down.as_str()),
            self.topology.seed.map(|seed| seed.wrapping_add(stream)),
            self.topology.persistent,
        )?;
        state.processes.push(ProcessId::of(wire.pid()));
        self.wires.push(wire);
        state.save()
    }

    fn configure_public(&self, joints: &[Joint]) -> Result<(), Error> {
        let mut batch = String::from("link set lo up\nlink add br0 type bridge mcast_snooping 0\n");
        for server in SERVERS {
            line(&mut batch, format_args!("addr add {server}/24 dev br0"));
        }
        // A default route into a void: without one, coturn's send to a peer's private candidate
        // fails with ENETUNREACH, and coturn then closes the whole allocation.
        batch.push_str(
            "link set br0 up\nlink add bh0 type veth peer name bh1\n\
             link set bh0 arp off up\nlink set bh1 arp off up\nroute add default dev bh0\n",
        );
        let public = self.topology.namespace(PUB);
        for joint in joints.iter().filter(|joint| joint.upper.0 == public) {
            set_up(&mut batch, &joint.upper.1, &joint.uplink, " master br0");
        }
        set_forwarding(&public, false)?;
        ip(&batch, Some(&public))
    }

    fn configure_router(&self, router: &Router, joints: &[Joint]) -> Result<(), Error> {
        let namespace = self.topology.namespace(&router.name);
        let mut batch = String::from("link set lo up\n");
        set_up(&mut batch, "wan0", &router.uplink, "");
        line(
            &mut batch,
            format_args!("addr add {}/24 dev wan0", router.address()),
        );
        // What has no route on the public network vanishes there, as on the internet, rather
        // than being answered by the router at once.
        line(
            &mut batch,
            format_args!("route add default via {}", SERVERS[0]),
        );
        for joint in joints.iter().filter(|joint| joint.upper.0 == namespace) {
            set_up(&mut batch, &joint.upper.1, &joint.uplink, "");
        }
        for node in &self.topology.nodes {
            if node.router == Some(router.index) {
                let [a, b, c, _] = node.address().octets();
                line(
                    &mut batch,
                    format_args!("addr add {a}.{b}.{c}.1/24 dev l{}", node.index),
                );
            }
        }
        ip(&batch, Some(&namespace))?;
        self.apply_nat(router)?;
        // Last, so that nothing passes before the firewall stands.
        set_forwarding(&namespace, true)
    }

    fn apply_nat(&self, router: &Router) -> Result<(), Error> {
        let namespace = self.topology.namespace(&router.name);
        let (new, stream) = (router.nat.udp_timeout_s, router.nat.udp_stream_timeout_s);
        set_sysctls(
            &namespace,
            &[
                ("net/netfilter/nf_conntrack_udp_timeout", new),
                ("net/netfilter/nf_conntrack_udp_timeout_stream", stream),
            ],
        )?;
        let handle = netns::open(&namespace)?;
        tools::run(
            "nft",
            &["-f", "-"],
            &router.nat.rules(router.address()),
            Some(&handle),
        )
    }

    fn configure_node(&self, node: &Node) -> Result<(), Error> {
        let namespace = self.topology.namespace(&node.name);
        let mut batch = String::new();
        if self.topology.lo_up {
            batch.push_str("link set lo up\n");
        }
        let address = node.address();
        let gateway = match node.router {
            Some(router) => Ipv4Addr::new(10, router, node.index, 1),
            None => SERVERS[0],
        };
        set_up(&mut batch, "eth0", &node.uplink, "");
        line(&mut batch, format_args!("addr add {address}/24 dev eth0"));
        line(&mut batch, format_args!("route add default via {gateway}"));
        set_forwarding(&namespace, false)?;
        ip(&batch, Some(&namespace))
    }

    fn switch_offload_off(&self, joints: &[Joint]) -> Result<(), Error> {
        for joint in joints
            .iter()
            .filter(|joint| joint.uplink.emulated.is_none())
        {
            let ends = [
                (&joint.lower.0, joint.lower.1),
                (&joint.upper.0, &joint.upper.1),
            ];
            for (namespace, interface) in ends {
                let handle = netns::open(namespace)?;
                let off = ["-K", interface, "tso", "off", "gso", "off", "gro", "off"];
                tools::run("ethtool", &off, "", Some(&handle))?;
                let udp = ["-K", interface, "tx-udp-segmentation", "off"];
                tools::run("ethtool", &udp, "", Some(&handle))?;
            }
        }
        Ok(())
    }
}

/// A lab that is taken down when this is dropped.
#[derive(Debug)]
pub struct Guard {
    // None once kept.
    lab: Option<Lab>,
}

impl Guard {
    /// Gives up guarding.
    #[must_use]
    pub fn keep(mut self) -> Lab {
        self.lab
            .take()
            .expect("only keep takes the lab, and it takes self as well")
    }
}

impl Deref for Guard {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        self.lab
            .as_ref()
            .expect("only keep takes the lab, and it takes self as well")
    }
}

impl DerefMut for Guard {
    fn deref_mut(&mut self) -> &mut Lab {
        self.lab
            .as_mut()
            .expect("only keep takes the lab, and it takes self as well")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(lab) = &mut self.lab
            && let Err(error) = lab.down()
        {
            // There is no caller to tell; silence would leave namespaces unexplained.
            eprintln!("lab {}: {error}", lab.prefix());
        }
    }
}

/// What exists of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The lab.
    pub prefix: String,
    /// Its namespaces, the public one first.
    pub namespaces: Vec<NamespaceStatus>,
    /// Its emulated links.
    pub links: Vec<LinkStatus>,
}

/// One namespace of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamespaceStatus {
    /// The name within the lab.
    pub name: String,
    /// The name as `ip netns` has it.
    pub namespace: String,
    /// What it is.
    pub role: Role,
    /// Its own address.
    pub address: Ipv4Addr,
    /// Its address as seen on the public network.
    pub public_address: Ipv4Addr,
    /// Whether it exists.
    pub up: bool,
    /// The processes in it.
    pub pids: Vec<u32>,
}

/// One emulated link of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkStatus {
    /// The node or router below it.
    pub name: String,
    /// The emulator's counters, or why there are none.
    pub stats: String,
}

/// What a namespace is in its lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The public network and its servers.
    Public,
    /// A NAT.
    Router,
    /// A machine.
    Node,
}

/// Ends every process in the namespaces, again until there is none.
fn end_inhabitants(namespaces: &[String]) -> Result<(), Error> {
    for _ in 0..TEARDOWN_ROUNDS_MAX {
        let before = netns::pids(namespaces)?;
        let handles: Vec<(u32, PidFd)> = before
            .iter()
            .filter_map(|pid| Some((*pid, PidFd::open(*pid).ok()?)))
            .collect();
        // Looked up again now that the handles are fixed: an id that went to another process
        // in between is in no namespace of ours.
        let confirmed = netns::pids(namespaces)?;
        if before.is_empty() && confirmed.is_empty() {
            return Ok(());
        }
        let ours = handles
            .into_iter()
            .filter(|(pid, _)| confirmed.contains(pid));
        end_all(ours.map(|(_, handle)| handle).collect(), TEARDOWN_GRACE);
    }
    Err(Error::Timeout {
        what: "processes in the lab ended".to_owned(),
        bound: TEARDOWN_GRACE * TEARDOWN_ROUNDS_MAX,
        detail: format!("still there: {:?}", netns::pids(namespaces)?),
    })
}

/// Runs a batch of `ip` commands, inside `namespace` if given.
fn ip(batch: &str, namespace: Option<&str>) -> Result<(), Error> {
    if batch.is_empty() {
        return Ok(());
    }
    let handle = namespace.map(netns::open).transpose()?;
    tools::run("ip", &["-batch", "-"], batch, handle.as_ref())
}

fn line(batch: &mut String, command: std::fmt::Arguments<'_>) {
    let _ = writeln!(batch, "{command}");
}

fn set_up(batch: &mut String, interface: &str, uplink: &Uplink, more: &str) {
    let mtu = uplink
        .mtu
        .map_or_else(String::new, |mtu| format!(" mtu {mtu}"));
    let queue = match uplink.emulated {
        Some(_) => format!(" txqueuelen {EMULATED_QUEUE_PACKETS}"),
        None => String::new(),
    };
    line(
        batch,
        format_args!("link set {interface}{mtu}{queue}{more} up"),
    );
}

/// A new namespace inherits this from the machine, where it may be on or off.
fn set_forwarding(namespace: &str, on: bool) -> Result<(), Error> {
    set_sysctls(namespace, &[("net/ipv4/ip_forward", u32::from(on))])
}

fn set_sysctls(namespace: &str, values: &[(&str, u32)]) -> Result<(), Error> {
    netns::run_in(namespace, || {
        for (key, value) in values {
            fs::write(format!("/proc/sys/{key}"), value.to_string())
                .map_err(Error::io(format!("set {key} in {namespace}")))?;
        }
        Ok(())
    })?
}
