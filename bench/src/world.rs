//! Two nodes with their servers in a lab, running the real program.

use std::{
    fmt,
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use holdfast_lab::{
    Builder, Guard, Lab, LinkSpec, Nat, PUB, Place, SERVERS, coturn,
    process::{Process, wait_for},
};
use serde_json::Value;

/// The node that sends, connects and asks, unless a figure says otherwise.
pub const NODE_1: &str = "node-1";
/// The other one.
pub const NODE_2: &str = "node-2";

/// Ports that the nodes open to each other: bulk data, and an echo.
pub const BULK_PORT: u16 = 9000;
/// See [`BULK_PORT`].
pub const ECHO_PORT: u16 = 9001;
/// Where the raw baseline listens, on both the second node and, forwarded, its router.
pub const RAW_PORT: u16 = 9100;
/// As [`RAW_PORT`], for the echo.
pub const RAW_ECHO_PORT: u16 = 9101;
/// Where PostgreSQL listens on the second node: open to the peer, and forwarded.
pub const POSTGRES_PORT: u16 = 5432;

const BROKER_PORT: u16 = 7000;
const TURN_PORT: u16 = 3478;
/// The default admin address of a node; each has a loopback of its own.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);
/// One lab at a time: the figures of two would be worthless.
const PREFIX: &str = "hfbench";
/// The namespaces come up in a fraction of this on a busy machine.
const SERVERS_BOUND: Duration = Duration::from_secs(10);
/// A lossy handshake on a busy machine; far beyond it, something is wrong.
const LINK_BOUND: Duration = Duration::from_secs(60);
/// The longest answer of the admin endpoint that is read, bytes.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// The programs under test.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `holdfast`.
    pub holdfast: PathBuf,
    /// `holdfast-wire`, the link emulator.
    pub wire: PathBuf,
}

/// Who relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relay {
    /// `holdfast rendezvous --turn`.
    Own,
    /// coturn, next to `holdfast rendezvous`.
    Coturn,
}

/// What lies between the two nodes.
#[derive(Debug, Clone)]
pub enum Topology {
    /// Each behind a plain Linux masquerade.
    TwoNats,
    /// Both behind one router that hairpins and isolates them.
    Hairpin,
    /// Two NATs, and so many milliseconds each way.
    Delayed(u32),
    /// Each behind a symmetric NAT: only a relay is left.
    Symmetric(Relay),
    /// UDP blocked at the first node: its way to the relay is TCP.
    UdpBlocked(Relay),
    /// Two NATs, 20 ms of round trip, 100 Mbit/s, and this loss in per cent, each way and before
    /// the rate limiter.
    Lossy(u32),
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let relay = |relay: &Relay| match relay {
            Relay::Own => "own relay",
            Relay::Coturn => "coturn",
        };
        match self {
            Self::TwoNats => f.write_str("two NATs"),
            Self::Hairpin => f.write_str("one hairpinning NAT"),
            Self::Delayed(ms) => write!(f, "two NATs, {ms} ms each way"),
            Self::Symmetric(by) => write!(f, "symmetric both, {}", relay(by)),
            Self::UdpBlocked(by) => write!(f, "UDP blocked, {}", relay(by)),
            Self::Lossy(percent) => write!(f, "20 ms, 100 Mbit/s, {percent} % loss"),
        }
    }
}

impl Topology {
    fn relay(&self) -> Relay {
        match self {
            Self::Symmetric(relay) | Self::UdpBlocked(relay) => *relay,
            Self::TwoNats | Self::Hairpin | Self::Delayed(_) | Self::Lossy(_) => Relay::Own,
        }
    }

    fn builder(&self, programs: &Programs) -> anyhow::Result<Builder> {
        let lab = Lab::builder(PREFIX).wire_binary(&programs.wire).seed(1);
        let two = |first: Nat, second: Nat| {
            Lab::builder(PREFIX)
                .wire_binary(&programs.wire)
                .seed(1)
                .router("r1", first)
                .router("r2", second)
                .node(NODE_1, Place::Behind("r1"))
                .node(NODE_2, Place::Behind("r2"))
        };
        Ok(match self {
            Self::TwoNats => two(Nat::default(), Nat::default()),
            Self::Hairpin => lab
                .router("r1", Nat::hairpinning())
                .node(NODE_1, Place::Behind("r1"))
                .node(NODE_2, Place::Behind("r1")),
            Self::Delayed(ms) => {
                let delay = LinkSpec::new(&format!("delay={ms}ms"))?;
                two(Nat::default(), Nat::default()).link(NODE_1, delay.clone(), delay)
            }
            Self::Symmetric(_) => two(Nat::symmetric(), Nat::symmetric()),
            Self::UdpBlocked(_) => two(
                // The raw baseline must pass as well.
                Nat::udp_blocked(&[BROKER_PORT, TURN_PORT, RAW_PORT, RAW_ECHO_PORT]),
                Nat::default(),
            ),
            Self::Lossy(percent) => {
                // An emulated link limits its rate before it loses; loss in front of the bottleneck
                // takes two in a row. The queue holds one bandwidth-delay product.
                let loss = LinkSpec::new(&format!("delay=10ms,loss={percent}/100"))?;
                let rate = LinkSpec::new("rate=100mbit,queue=256kb")?;
                two(Nat::default(), Nat::default())
                    .link(NODE_1, loss.clone(), loss)
                    .link("r1", rate.clone(), rate)
            }
        })
    }

    /// The router in front of the second node.
    fn far_router(&self) -> &'static str {
        match self {
            Self::Hairpin => "r1",
            _ => "r2",
        }
    }
}

/// A lab with its servers up and its nodes configured.
pub struct World {
    // Before the lab: dropped first, so that teardown has nobody to wait for.
    nodes: [Option<Process>; 2],
    _servers: (Process, Option<coturn::Coturn>),
    environment: Vec<(&'static str, String)>,
    programs: Programs,
    topology: Topology,
    /// The lab.
    pub lab: Guard,
}

impl World {
    /// Makes the lab, starts broker and relay, writes keys and configurations, and forwards the
    /// baseline's ports. No node runs yet.
    ///
    /// # Errors
    /// Whatever the lab, a server or the program's key command failed with.
    pub fn new(topology: Topology, programs: &Programs) -> anyhow::Result<Self> {
        let lab = topology.builder(programs)?.build()?.up_guarded()?;
        write_configurations(&lab, programs)?;
        let servers = start_servers(&lab, programs, topology.relay())?;
        forward_raw(&lab, topology.far_router())?;
        Ok(Self {
            nodes: [None, None],
            _servers: servers,
            environment: Vec::new(),
            programs: programs.clone(),
            topology,
            lab,
        })
    }

    /// A lab with both nodes up and linked.
    ///
    /// # Errors
    /// Those of [`new`](Self::new), and of nodes that do not find each other.
    pub fn linked(topology: Topology, programs: &Programs) -> anyhow::Result<Self> {
        let mut world = Self::new(topology, programs)?;
        world.start_both()?;
        Ok(world)
    }

    /// Sets a variable for the nodes that are started from now on.
    pub fn set(&mut self, name: &'static str, value: &str) {
        self.environment.retain(|(known, _)| *known != name);
        self.environment.push((name, value.to_owned()));
    }

    /// Starts a node. Returns the instant before that.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn start(&mut self, node: &str) -> anyhow::Result<Instant> {
        let folder = self.lab.folder();
        let mut command = self.lab.command(node, &self.programs.holdfast)?;
        command
            .args(["mesh", "--config"])
            .arg(folder.join("nodes").join(format!("{node}.toml")))
            .env("HOLDFAST_LOG_FORMAT", "human")
            .env("HOLDFAST_DUMP_DIR", folder.join("dumps"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        let started = Instant::now();
        let process = Process::spawn(node, command, &folder.join(format!("{node}.log")))?;
        self.nodes[index(node)] = Some(process);
        Ok(started)
    }

    /// Starts both nodes anew and waits until both say that the link is up.
    ///
    /// # Errors
    /// If a node cannot be started or the link does not come up.
    pub fn start_both(&mut self) -> anyhow::Result<()> {
        self.kill(NODE_1);
        self.kill(NODE_2);
        self.start(NODE_1)?;
        self.start(NODE_2)?;
        self.wait_linked()
    }

    /// Ends a node with SIGKILL.
    pub fn kill(&mut self, node: &str) {
        self.nodes[index(node)] = None;
    }

    /// The process id of a running node.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid(&self, node: &str) -> anyhow::Result<u32> {
        let process = self.nodes[index(node)].as_ref();
        Ok(process.with_context(|| format!("{node} is not up"))?.pid())
    }

    /// Waits until both nodes say that their link is up.
    ///
    /// # Errors
    /// If they do not, with the end of the first node's log.
    pub fn wait_linked(&self) -> anyhow::Result<()> {
        let up = |node| {
            let status = self.status(node).unwrap_or_default();
            status["links"][0]["state"] == "up"
        };
        wait_for("the link", LINK_BOUND, || up(NODE_1) && up(NODE_2)).with_context(|| {
            let log = self.nodes[0].as_ref().map(Process::log).unwrap_or_default();
            let skip = log.lines().count().saturating_sub(10);
            let tail: Vec<_> = log.lines().skip(skip).collect();
            format!("{}: {}", self.topology, tail.join("\n"))
        })
    }

    /// Waits, for a bounded time, until no stream is left of an earlier run.
    pub fn settle(&self) {
        const BOUND: Duration = Duration::from_secs(5);
        let quiet = |node| {
            let status = self.status(node).unwrap_or_default();
            status["links"][0]["streams"] == 0
        };
        // A stream that lingers only costs the next run a little.
        let _ = wait_for("streams gone", BOUND, || quiet(NODE_1) && quiet(NODE_2));
    }

    /// How the traffic of the first node travels: `direct` or `relay`, and its MTU.
    #[must_use]
    pub fn path(&self) -> String {
        let status = self.status(NODE_1).unwrap_or_default();
        let link = &status["links"][0];
        let paths = link["paths"].as_array().cloned().unwrap_or_default();
        let selected = paths.iter().find(|path| path["selected"] == true);
        let class = selected.and_then(|path| path["class"].as_str());
        format!("{}, MTU {}", class.unwrap_or("no path"), link["mtu"])
    }

    /// A node's `/status`.
    ///
    /// # Errors
    /// If it does not answer with JSON.
    pub fn status(&self, node: &str) -> anyhow::Result<Value> {
        const TIMEOUT: Duration = Duration::from_secs(2);
        let answer = self.lab.run_in(node, || -> anyhow::Result<String> {
            let mut stream = TcpStream::connect_timeout(&ADMIN, TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.write_all(b"GET /status HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
            Ok(answer)
        })??;
        let (_, body) = answer
            .split_once("\r\n\r\n")
            .context("the answer has no body")?;
        Ok(serde_json::from_str(body)?)
    }

    /// A listener of the application on a node, which the mesh delivers to.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn listen(&self, node: &str, port: u16) -> anyhow::Result<TcpListener> {
        self.bind(node, Ipv4Addr::LOCALHOST, port)
    }

    /// A listener of the raw baseline on the second node.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn listen_raw(&self, port: u16) -> anyhow::Result<TcpListener> {
        self.bind(NODE_2, self.lab.address(NODE_2)?, port)
    }

    /// Where the raw baseline of the second node is reached: its router's public address.
    ///
    /// # Errors
    /// None: every topology has it.
    pub fn raw_address(&self, port: u16) -> anyhow::Result<SocketAddr> {
        Ok((self.lab.public_address(NODE_2)?, port).into())
    }

    fn bind(&self, node: &str, address: Ipv4Addr, port: u16) -> anyhow::Result<TcpListener> {
        let bound = self
            .lab
            .run_in(node, || TcpListener::bind((address, port)))?;
        bound.with_context(|| format!("cannot listen on {address}:{port} of {node}"))
    }
}

/// The virtual address of a node, as its peer reaches it.
#[must_use]
pub fn vip(node: &str, port: u16) -> SocketAddr {
    let last = if node == NODE_1 { 1 } else { 2 };
    (Ipv4Addr::new(127, 50, 0, last), port).into()
}

fn index(node: &str) -> usize {
    usize::from(node != NODE_1)
}

fn write_configurations(lab: &Lab, programs: &Programs) -> anyhow::Result<()> {
    let server = SERVERS[0];
    let turn = |transport| format!("turn:{server}:{TURN_PORT}?transport={transport}");
    let output = std::process::Command::new(&programs.holdfast)
        .args(["keys", "deployment", "--nodes", "node-1,node-2"])
        .arg("--out")
        .arg(lab.folder().join("nodes"))
        .args(["--brokers", &format!("http://{server}:{BROKER_PORT}")])
        .args(["--stun", &format!("{server}:{TURN_PORT}")])
        .args(["--turn", &format!("{},{}", turn("udp"), turn("tcp"))])
        .args([
            "--allow",
            &format!("{BULK_PORT},{ECHO_PORT},{POSTGRES_PORT}"),
        ])
        .output()
        .with_context(|| format!("cannot run {}", programs.holdfast.display()))?;
    if !output.status.success() {
        bail!(
            "`holdfast keys deployment` failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

fn start_servers(
    lab: &Lab,
    programs: &Programs,
    relay: Relay,
) -> anyhow::Result<(Process, Option<coturn::Coturn>)> {
    let server = SERVERS[0];
    let secret = lab.folder().join("nodes").join("turn.secret");
    let mut command = lab.command(PUB, &programs.holdfast)?;
    command
        .arg("rendezvous")
        .args(["--listen", &format!("{server}:{BROKER_PORT}")]);
    if relay == Relay::Own {
        command
            .args(["--turn", "--turn-listen", &format!("{server}:{TURN_PORT}")])
            .arg("--turn-secret-file")
            .arg(&secret);
    }
    let log = lab.folder().join("rendezvous.log");
    let mut rendezvous = Process::spawn("rendezvous", command, &log)?;
    let coturn = match relay {
        Relay::Own => None,
        Relay::Coturn => {
            let secret = fs::read_to_string(&secret).context("cannot read the TURN secret")?;
            let config = coturn::Config::new(secret.trim());
            Some(coturn::Coturn::start(lab, &config)?)
        }
    };
    let listens = |port: u16| {
        lab.run_in(PUB, || TcpStream::connect((server, port)).is_ok())
            .unwrap_or(false)
    };
    rendezvous.wait_ready(SERVERS_BOUND, |_| {
        listens(BROKER_PORT) && listens(TURN_PORT)
    })?;
    Ok((rendezvous, coturn))
}

/// Lets the raw baseline in through the second node's router, as a user who can configure it
/// would: the baseline then crosses the same NATs as the link does.
fn forward_raw(lab: &Lab, router: &str) -> anyhow::Result<()> {
    let (public, private) = (lab.public_address(NODE_2)?, lab.address(NODE_2)?);
    let script = format!(
        "table ip bench {{\n chain forward_in {{\n  type nat hook prerouting priority -101;\n  \
         ip daddr {public} tcp dport {{ {RAW_PORT}, {RAW_ECHO_PORT}, {POSTGRES_PORT} }} \
         dnat to {private}\n }}\n}}\n"
    );
    let path = lab.folder().join("forward.nft");
    fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
    run_nft(lab, router, &path)
}

fn run_nft(lab: &Lab, router: &str, script: &Path) -> anyhow::Result<()> {
    let input = File::open(script).with_context(|| format!("cannot open {}", script.display()))?;
    let output = lab
        .command(router, "nft")?
        .args(["-f", "-"])
        .stdin(Stdio::from(input))
        .output()
        .context("cannot run nft")?;
    if !output.status.success() {
        bail!(
            "nft on {router}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
