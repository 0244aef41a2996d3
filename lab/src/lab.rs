//! Using and removing a lab; how it is made is in `make.rs`.

use std::{
    net::Ipv4Addr,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde::Serialize;

use crate::{
    Builder, Direction, Door, Error, Freezer, LinkSpec, Nat, PUB, SERVERS, freezer,
    link::{self, Wire},
    make::ip,
    netns,
    process::{PidFd, ProcessId, end_all},
    state::{self, State},
    tools,
    topology::{Node, Router, Topology, check_prefix, link_command},
};

/// How long the processes in a lab may take to end after SIGTERM.
const TEARDOWN_GRACE: Duration = Duration::from_secs(1);

/// How often teardown looks for processes again: one that forks while it is being ended may
/// leave a child, a lab that still has some after this many looks is being refilled from outside.
const TEARDOWN_ROUNDS_MAX: u32 = 10;

/// A small internet on this machine; see the crate's page.
///
/// Dropping it changes nothing; [`up_guarded`](Self::up_guarded) gives a value whose drop
/// takes the lab down.
#[derive(Debug)]
pub struct Lab {
    pub(crate) topology: Topology,
    pub(crate) wires: Vec<Wire>,
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
            Some(state) if !state.is_abandoned() => {
                return Err(Error::AlreadyUp {
                    prefix: prefix.clone(),
                });
            }
            _ => drop(Self::clean(prefix)?),
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
    /// A lab whose state file is missing or damaged is known by its folder alone: then its
    /// namespaces are those whose names begin with its prefix.
    ///
    /// # Errors
    /// [`Error::Timeout`] if a process cannot be ended, or what `ip` refused.
    pub fn clean(prefix: &str) -> Result<bool, Error> {
        check_prefix(prefix)?;
        if !state::folder(prefix).exists() {
            return Ok(false);
        }
        let (namespaces, processes) = match State::load(prefix) {
            Ok(Some(state)) => (state.topology.namespaces(), state.processes),
            Ok(None) | Err(Error::State { .. }) => (namespaces_by_name(prefix)?, Vec::new()),
            Err(error) => return Err(error),
        };
        // What is frozen dies of no signal.
        freezer::remove_all(prefix);
        end_inhabitants(&namespaces)?;
        // After the inhabitants, whose last words may still want the links.
        let outside = processes.iter().filter_map(ProcessId::handle);
        end_all(outside.collect(), TEARDOWN_GRACE);
        let existing = namespaces.iter().filter(|name| netns::path(name).exists());
        let batch: Vec<String> = existing.map(|name| format!("netns del {name}\n")).collect();
        ip(&batch.concat(), None)?;
        state::remove(prefix)?;
        Ok(true)
    }

    /// Removes every lab whose maker has ended and that was not meant to outlive it, as killed
    /// test runs leave them. Returns their prefixes.
    ///
    /// A lab with a damaged state file is nobody's to judge, and stays for
    /// [`clean`](Self::clean).
    ///
    /// # Errors
    /// Those of [`clean`](Self::clean), for the first lab that cannot be removed; the others are
    /// removed all the same.
    pub fn sweep() -> Result<Vec<String>, Error> {
        let mut swept = Vec::new();
        let mut failed = Ok(());
        for prefix in Self::prefixes()? {
            let abandoned = match State::load(&prefix) {
                Ok(state) => state.is_none_or(|state| state.is_abandoned()),
                Err(_) => false,
            };
            if abandoned {
                match Self::clean(&prefix) {
                    Ok(true) => swept.push(prefix),
                    Ok(false) => {}
                    Err(error) => failed = failed.and(Err(error)),
                }
            }
        }
        failed.map(|()| swept)
    }

    /// The prefixes of the labs that exist, sorted, abandoned ones included.
    ///
    /// # Errors
    /// [`Error::Io`] if they cannot be listed.
    pub fn prefixes() -> Result<Vec<String>, Error> {
        let mut prefixes = state::prefixes()?;
        prefixes.sort();
        Ok(prefixes)
    }

    /// Whether the process that made the lab of that prefix still runs. False without a lab.
    ///
    /// # Errors
    /// [`Error::State`] if its state file is damaged.
    pub fn maker_is_alive(prefix: &str) -> Result<bool, Error> {
        let state = State::load(prefix)?;
        Ok(state.is_some_and(|state| state.owner.is_alive()))
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

    /// A way into the namespace of a node, a router or [`PUB`], for a thread that stays there.
    ///
    /// # Errors
    /// [`Error::Unknown`], or [`Error::Io`] if the lab is not up.
    pub fn door(&self, name: &str) -> Result<Door, Error> {
        netns::open(&self.namespace(name)?).map(Door)
    }

    /// Makes a router forget every mapping, as a restart would. Flows from inside get a new
    /// mapping with their next packet; whether the public port changes is up to its
    /// [`Mapping`](crate::Mapping) (random with `EimRand` and `Apdm`). UDP through a router that
    /// does more than plain conntrack is lost for the milliseconds that this takes.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::MissingTool`] without `conntrack`, or what a tool refused.
    pub fn flush_nat(&self, router: &str) -> Result<(), Error> {
        let router = self.topology.router(router)?;
        let namespace = netns::open(&self.topology.namespace(&router.name))?;
        let nft = |script: &str| tools::run("nft", &["-f", "-"], script, Some(&namespace));
        let flush = || tools::run("conntrack", &["-F"], "", Some(&namespace));
        let Some([hold, lift]) = router.nat.flush_rules() else {
            return flush();
        };
        // Found missing before anything is held.
        tools::find("conntrack")?;
        nft(&hold)?;
        let flushed = flush();
        // Also after a failure: the router must not stay closed.
        nft(&lift)?;
        flushed
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

    /// The processes in the namespace of a node, a router or [`PUB`], this one excepted.
    ///
    /// # Errors
    /// [`Error::Unknown`], or [`Error::Io`] if processes cannot be listed.
    pub fn pids(&self, name: &str) -> Result<Vec<u32>, Error> {
        netns::pids(&[self.namespace(name)?])
    }

    /// A group of this lab's in which processes can be made to stand still, the one of that name
    /// if it is there; it is removed with the lab at the latest.
    ///
    /// # Errors
    /// [`Error::Io`] where there are no such groups.
    pub fn freezer(&self, name: &str) -> Result<Freezer, Error> {
        Freezer::open(&self.topology.prefix, name)
    }

    /// The same, and there must be none of that name: what an earlier one left frozen is not
    /// taken for what this one froze.
    ///
    /// # Errors
    /// [`Error::Io`] where there are no such groups, or one of that name.
    pub fn new_freezer(&self, name: &str) -> Result<Freezer, Error> {
        Freezer::create(&self.topology.prefix, name)
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

/// The namespaces whose names begin with the prefix, those of longer prefixes excepted.
fn namespaces_by_name(prefix: &str) -> Result<Vec<String>, Error> {
    let own = format!("{prefix}-");
    let others: Vec<String> = Lab::prefixes()?
        .into_iter()
        .filter(|other| other.starts_with(&own))
        .map(|other| format!("{other}-"))
        .collect();
    let names = netns::names()?.into_iter().filter(|name| {
        name.starts_with(&own) && !others.iter().any(|other| name.starts_with(other))
    });
    Ok(names.collect())
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
