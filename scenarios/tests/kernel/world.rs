//! A lab with coturn, brokers and nodes in it, and questions to ask the nodes.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use holdfast_kernel_world::config::NodeConfig;
pub use holdfast_kernel_world::stage::{BROKER_PORT, TURN_PORT};
use holdfast_kernel_world::stage::{CLUSTER_SECRET_FILE, Stage, TURN_SECRET_FILE, can_run};
use holdfast_lab::process::{Process, wait_for, wait_for_value};
use holdfast_lab::{Builder, SERVERS};
use serde_json::Value;

/// Where a node's admin page is, in its own namespace.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);

/// Ports that all nodes allow and forward, TCP and UDP.
pub const PORTS: [u16; 3] = [5432, 8080, 9000];
/// A port that all nodes forward and none allows.
pub const FORBIDDEN_PORT: u16 = 7777;

/// A link that is not up after this time never will be.
pub const LINK_BOUND: Duration = Duration::from_secs(15);
/// For anything that should take milliseconds, on a very busy machine.
pub const BOUND: Duration = Duration::from_secs(10);
/// A page that takes longer comes from a node that hangs.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of a node's log a failed test prints, bytes.
const LOG_TAIL_BYTES: usize = 6_000;

/// The virtual address of the node of that number.
pub fn vip(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 50, 0, node)
}

/// Print a measurement; not by `println!`, which the test harness swallows.
pub fn figure(line: &str) {
    let _ = writeln!(io::stderr(), "figure: {line}");
}

/// What one node is told beyond the defaults.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// Brokers instead of the one that runs.
    pub brokers: Option<Vec<String>>,
    /// Use a key of its own, which the others do not expect.
    pub wrong_key: bool,
}

/// A lab in which a mesh can live. Dropping it ends everything; after a panic it prints the
/// logs first.
pub struct World {
    stage: Stage,
    count: u8,
}

impl Deref for World {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.stage
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Stage {
        &mut self.stage
    }
}

impl World {
    /// A lab with coturn and a broker. The nodes are `node-1` to `node-COUNT`. `None` where
    /// there is no privilege to make it.
    pub fn new(count: u8, describe: impl FnOnce(Builder) -> Builder) -> Option<World> {
        if !can_run() {
            return None;
        }
        let mut stage = Stage::new(describe).unwrap();
        stage.start_turn().unwrap();
        stage.start_broker(0).unwrap();
        Some(World { stage, count })
    }

    /// Write a node's configuration and start it.
    pub fn start(&mut self, node: u8) {
        self.start_with(node, &NodeOptions::default());
    }

    pub fn start_with(&mut self, node: u8, options: &NodeOptions) {
        let config = self.config(node, options);
        self.configure(&name(node), &config).unwrap();
        self.start_again(node);
    }

    /// Write a node's configuration with these peers only, itself among them.
    pub fn configure_peers(&self, node: u8, peers: &[u8]) {
        let mut config = self.config(node, &NodeOptions::default());
        config.peers = peers.iter().map(|n| (name(*n), (*n).into())).collect();
        self.configure(&name(node), &config).unwrap();
    }

    /// Start a node with the configuration that it has.
    pub fn start_again(&mut self, node: u8) {
        self.stage.start(&name(node)).unwrap();
    }

    /// Start all nodes.
    pub fn start_all(&mut self) {
        for node in 1..=self.count {
            self.start(node);
        }
    }

    fn config(&self, node: u8, options: &NodeOptions) -> NodeConfig {
        let server = SERVERS[0];
        let broker = || vec![format!("http://{server}:{BROKER_PORT}")];
        let turn = ["udp", "tcp"];
        let turn = turn.map(|by| format!("turn:{server}:{TURN_PORT}?transport={by}"));
        let key_file = options.wrong_key.then(|| {
            let key = self.lab.folder().join(format!("node-{node}.key"));
            self.make_key(&key);
            key.display().to_string()
        });
        NodeConfig {
            id: name(node),
            cluster_secret_file: CLUSTER_SECRET_FILE.to_owned(),
            key_file,
            brokers: options.brokers.clone().unwrap_or_else(broker),
            stun: vec![format!("{server}:{TURN_PORT}")],
            turn: turn.to_vec(),
            turn_secret_file: TURN_SECRET_FILE.to_owned(),
            dump_dir: format!("dumps-{node}"),
            log_format: "human",
            allow: PORTS.to_vec(),
            forward: [&PORTS[..], &[FORBIDDEN_PORT]].concat(),
            peers: (1..=self.count).map(|n| (name(n), n.into())).collect(),
            ..NodeConfig::default()
        }
    }

    fn make_key(&self, path: &Path) {
        let mut command = Command::new(self.holdfast());
        command.args(["keys", "node", "--out"]).arg(path);
        let made = command.output().unwrap();
        assert!(made.status.success(), "{made:?}");
    }

    /// The process of a node.
    pub fn process(&mut self, node: u8) -> &mut Process {
        let process = self.stage.process(&name(node));
        process.expect("the node was started")
    }

    /// Kill a node without a warning.
    pub fn kill(&mut self, node: u8) {
        let process = self.stage.remove(&name(node));
        let mut process = process.expect("the node was started");
        process.signal(libc::SIGKILL).unwrap();
        process.wait_end(BOUND).unwrap();
    }

    /// A page of a node's admin address.
    pub fn page(&self, node: u8, path: &str) -> io::Result<String> {
        self.in_node(node, || {
            let mut stream = TcpStream::connect_timeout(&ADMIN, ADMIN_TIMEOUT)?;
            stream.set_read_timeout(Some(ADMIN_TIMEOUT))?;
            write!(stream, "GET {path} HTTP/1.0\r\nHost: node\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            match answer.split_once("\r\n\r\n") {
                Some((_, body)) => Ok(body.to_owned()),
                None => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        })
    }

    /// `/status` of a node, `Null` while it does not answer.
    pub fn status(&self, node: u8) -> Value {
        let page = self.page(node, "/status").unwrap_or_default();
        serde_json::from_str(&page).unwrap_or(Value::Null)
    }

    /// What a node says of its link with a peer, `Null` while it does not answer.
    pub fn link(&self, node: u8, peer: u8) -> Value {
        let status = self.status(node);
        let links = status["links"].as_array();
        let name = format!("node-{peer}");
        let link = links.and_then(|links| links.iter().find(|link| link["peer"] == name.as_str()));
        link.cloned().unwrap_or(Value::Null)
    }

    /// The path that a link's traffic takes.
    pub fn selected(&self, node: u8, peer: u8) -> Value {
        let link = self.link(node, peer);
        let paths = link["paths"].as_array();
        let path = paths.and_then(|paths| paths.iter().find(|path| path["selected"] == true));
        path.cloned().unwrap_or(Value::Null)
    }

    /// Wait until a node says that of its link with a peer.
    pub fn wait_state(&self, node: u8, peer: u8, state: &str, bound: Duration) {
        let what = format!("node-{node}'s link with node-{peer} is {state}");
        wait_for(&what, bound, || self.link(node, peer)["state"] == state).unwrap();
    }

    /// Wait until both sides say that their link is up.
    pub fn wait_up(&self, a: u8, b: u8) {
        self.wait_state(a, b, "up", LINK_BOUND);
        self.wait_state(b, a, "up", LINK_BOUND);
    }

    /// A count of refusals by its reason, from `/metrics`.
    pub fn refused(&self, node: u8, reason: &str) -> u64 {
        let page = self.page(node, "/metrics").unwrap();
        let start = format!("holdfast_refused_total{{reason=\"{reason}\"}} ");
        let value = page.lines().find_map(|line| line.strip_prefix(&start));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// Wait until a node has refused something for that reason at least `count` times.
    pub fn wait_refused(&self, node: u8, reason: &str, count: u64) {
        let what = format!("node-{node} has counted {count} {reason}");
        wait_for(&what, BOUND, || self.refused(node, reason) >= count).unwrap();
    }

    /// Resident memory of a node, KiB.
    pub fn rss_kib(&mut self, node: u8) -> u64 {
        let pid = self.process(node).pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let digits = line.unwrap().trim().trim_end_matches(" kB");
        digits.parse().unwrap()
    }

    /// Run `holdfast` with these arguments in a node's namespace; its standard output.
    pub fn run(&self, node: u8, args: &[&str]) -> String {
        let mut command = self.lab.command(&name(node), self.holdfast()).unwrap();
        let ran = command.args(args).output().unwrap();
        assert!(ran.status.success(), "{args:?}: {ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    }

    /// Do something in a node's namespace. Sockets opened there stay there.
    pub fn in_node<T: Send>(&self, node: u8, work: impl FnOnce() -> T + Send) -> T {
        self.lab.run_in(&name(node), work).unwrap()
    }

    /// A listener in a node's namespace.
    pub fn listen(&self, node: u8, address: Ipv4Addr, port: u16) -> TcpListener {
        let listen = || TcpListener::bind((address, port));
        self.in_node(node, listen).unwrap()
    }

    /// A connection from a node to the virtual address of another.
    pub fn connect(&self, node: u8, peer: u8, port: u16) -> io::Result<TcpStream> {
        let address = SocketAddr::from((vip(peer), port));
        let stream = self.in_node(node, || TcpStream::connect_timeout(&address, BOUND))?;
        limit(&stream, BOUND)?;
        Ok(stream)
    }

    /// A UDP socket in a node's namespace.
    pub fn udp(&self, node: u8, address: Ipv4Addr, port: u16) -> UdpSocket {
        let socket = self.in_node(node, || UdpSocket::bind((address, port)));
        let socket = socket.unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        socket
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let mut told = String::new();
        for node in 1..=self.count {
            let name = name(node);
            let log = fs::read(self.log_path(&name)).unwrap_or_default();
            let skipped = log.len().saturating_sub(LOG_TAIL_BYTES);
            let tail = String::from_utf8_lossy(&log[skipped..]);
            let status = self.status(node);
            let _ = write!(told, "\n== {name}\n{tail}\n{status:#}\n");
        }
        let _ = io::stderr().write_all(told.as_bytes());
    }
}

fn name(node: u8) -> String {
    format!("node-{node}")
}

/// Nothing that a test does on a connection may take for ever.
pub fn limit(stream: &TcpStream, bound: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(bound))?;
    stream.set_write_timeout(Some(bound))
}

/// The next connection of a listener.
pub fn accept(listener: &TcpListener, bound: Duration) -> (TcpStream, SocketAddr) {
    listener.set_nonblocking(true).unwrap();
    let next = wait_for_value("a connection comes", bound, || listener.accept().ok());
    let (stream, from) = next.unwrap();
    stream.set_nonblocking(false).unwrap();
    limit(&stream, bound).unwrap();
    (stream, from)
}

/// How long something took, and what came of it.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let started = Instant::now();
    let value = work();
    (started.elapsed(), value)
}
