//! Making a lab: namespaces, links, addresses, NATs.

use std::{collections::BTreeMap, fmt::Write, fs, net::Ipv4Addr, path::Path, time::Duration};

use crate::{
    Error, Lab, PUB, SERVERS,
    link::{self, Ends},
    netns,
    process::{ProcessId, wait_for},
    state::State,
    tools,
    topology::{Emulated, Node, Router, Uplink},
};

/// How long the kernel may take to activate links: it is a matter of milliseconds, or of a second
/// where it limits the rate of such events.
const RUNNING_BOUND: Duration = Duration::from_secs(10);

/// A TAP device's default of 500 packets drops bursts that the emulator is to judge.
const EMULATED_QUEUE_PACKETS: u32 = 5_000;

/// How long an unanswered UDP flow is remembered, seconds.
const UDP_TIMEOUT: &str = "net/netfilter/nf_conntrack_udp_timeout";

/// How long an answered UDP flow is remembered, seconds.
const UDP_STREAM_TIMEOUT: &str = "net/netfilter/nf_conntrack_udp_timeout_stream";

/// One interface pair between a member and what is above it.
pub(crate) struct Joint {
    pub(crate) name: String,
    lower: (String, &'static str),
    upper: (String, String),
    pub(crate) uplink: Uplink,
}

impl Lab {
    pub(crate) fn make(&mut self, state: &mut State) -> Result<(), Error> {
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
    pub(crate) fn joints(&self) -> Vec<Joint> {
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

    pub(crate) fn apply_nat(&self, router: &Router) -> Result<(), Error> {
        let namespace = self.topology.namespace(&router.name);
        let handle = netns::open(&namespace)?;
        // Before the timeouts: where connection tracking is a module, these rules load it, and
        // its settings exist from then on.
        tools::run(
            "nft",
            &["-f", "-"],
            &router.nat.rules(router.address(), &router.published),
            Some(&handle),
        )?;
        let (new, stream) = (router.nat.udp_timeout_s, router.nat.udp_stream_timeout_s);
        let timeouts = [(UDP_TIMEOUT, new), (UDP_STREAM_TIMEOUT, stream)];
        require_conntrack(&namespace)?;
        set_sysctls(&namespace, &timeouts)
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

/// Runs a batch of `ip` commands, inside `namespace` if given.
pub(crate) fn ip(batch: &str, namespace: Option<&str>) -> Result<(), Error> {
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

/// Connection tracking with its settings, or an error that says what the kernel lacks.
fn require_conntrack(namespace: &str) -> Result<(), Error> {
    let exists = || {
        netns::run_in(namespace, || {
            Path::new("/proc/sys").join(UDP_TIMEOUT).exists()
        })
    };
    if exists()? {
        return Ok(());
    }
    // A container may not load modules; the second look tells whether it mattered.
    let loaded = tools::run("modprobe", &["nf_conntrack"], "", None);
    if exists()? {
        return Ok(());
    }
    let why = loaded.map_or_else(
        |error| error.to_string(),
        |()| format!("{UDP_TIMEOUT} is not there, though `modprobe nf_conntrack` succeeded"),
    );
    Err(Error::NoConntrack { why })
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
