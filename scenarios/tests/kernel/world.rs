//! A lab with coturn, brokers and nodes in it, and questions to ask the nodes.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use holdfast_lab::coturn::{Config as CoturnConfig, Coturn};
use holdfast_lab::process::{Process, wait_for, wait_for_value};
use holdfast_lab::{Builder, Guard, Lab, PUB, SERVERS, preconditions};
use serde_json::Value;

/// Where coturn is.
pub const TURN_PORT: u16 = 3478;
/// Where the broker is.
pub const BROKER_PORT: u16 = 7000;
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

/// Two processors are too few to measure two meshes at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

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
    // In the order in which they end.
    nodes: BTreeMap<u8, Process>,
    brokers: Vec<Process>,
    coturn: Option<Coturn>,
    pub lab: Guard,
    count: u8,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    /// A lab with coturn and a broker. The nodes are `node-1` to `node-COUNT`. `None` where
    /// there is no privilege to make it.
    pub fn new(count: u8, describe: impl FnOnce(Builder) -> Builder) -> Option<World> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let lab = describe(Lab::builder(&prefix()?)).build().unwrap();
        let lab = lab.up_guarded().unwrap();
        let mut world = World {
            nodes: BTreeMap::new(),
            brokers: Vec::new(),
            coturn: None,
            lab,
            count,
            _turn: turn,
        };
        let folder = world.lab.folder();
        write_secret(&folder.join("cluster.secret"), &"5a".repeat(32));
        world.coturn = Some(world.start_coturn());
        world.start_broker(0);
        Some(world)
    }

    fn start_coturn(&self) -> Coturn {
        let secret = "coturn-and-nodes-share-this";
        write_secret(&self.lab.folder().join("turn.secret"), secret);
        Coturn::start(&self.lab, &CoturnConfig::new(secret)).unwrap()
    }

    /// Start a broker on one of the addresses of [`SERVERS`].
    pub fn start_broker(&mut self, server: usize) {
        let address = SocketAddr::from((SERVERS[server], BROKER_PORT));
        let mut command = self.lab.command(PUB, binary()).unwrap();
        command.args(["rendezvous", "--listen", &address.to_string()]);
        let log = self.lab.folder().join(format!("broker-{server}.log"));
        let mut broker = Process::spawn("broker", command, &log).unwrap();
        let lab = &self.lab;
        let answers = || lab.run_in(PUB, || TcpStream::connect(address).is_ok());
        broker
            .wait_ready(BOUND, |_| answers().unwrap_or(false))
            .unwrap();
        self.brokers.push(broker);
    }

    /// Kill all brokers.
    pub fn end_brokers(&mut self) {
        // Dropping a process kills it and waits for its end.
        self.brokers.clear();
    }

    /// Write a node's configuration and start it.
    pub fn start(&mut self, node: u8) {
        self.start_with(node, &NodeOptions::default());
    }

    pub fn start_with(&mut self, node: u8, options: &NodeOptions) {
        let path = self.lab.folder().join(format!("node-{node}.toml"));
        fs::write(&path, self.config(node, options)).unwrap();
        self.start_again(node);
    }

    /// Start a node with the configuration that it has.
    pub fn start_again(&mut self, node: u8) {
        let folder = self.lab.folder();
        let name = format!("node-{node}");
        let mut command = self.lab.command(&name, binary()).unwrap();
        command
            .args(["mesh", "--config"])
            .arg(folder.join(format!("{name}.toml")));
        let log = folder.join(format!("{name}.log"));
        let process = Process::spawn(&name, command, &log).unwrap();
        self.nodes.insert(node, process);
    }

    /// Start all nodes.
    pub fn start_all(&mut self) {
        for node in 1..=self.count {
            self.start(node);
        }
    }

    fn config(&self, node: u8, options: &NodeOptions) -> String {
        let server = SERVERS[0];
        let default = vec![format!("http://{server}:{BROKER_PORT}")];
        let brokers = options.brokers.clone().unwrap_or(default);
        let mut text = format!(
            "id = \"node-{node}\"\ncluster_secret_file = \"cluster.secret\"\n\
             brokers = {brokers:?}\nstun = [\"{server}:{TURN_PORT}\"]\ndump_dir = \"dumps-{node}\"\n\
             log_format = \"human\"\n"
        );
        if options.wrong_key {
            let key = self.lab.folder().join(format!("node-{node}.key"));
            self.make_key(&key);
            text.push_str(&format!("key_file = {key:?}\n"));
        }
        for transport in ["udp", "tcp"] {
            let _ = write!(
                text,
                "[[turn]]\nurl = \"turn:{server}:{TURN_PORT}?transport={transport}\"\n\
                 secret_file = \"turn.secret\"\n"
            );
        }
        for port in PORTS {
            let _ = write!(text, "[[allow]]\nport = {port}\nudp = true\n");
        }
        for port in PORTS.into_iter().chain([FORBIDDEN_PORT]) {
            let _ = write!(text, "[[forward]]\nport = {port}\nudp = true\n");
        }
        for peer in 1..=self.count {
            let _ = write!(text, "[[peers]]\nid = \"node-{peer}\"\nvip = {peer}\n");
        }
        text
    }

    fn make_key(&self, path: &Path) {
        let mut command = Command::new(binary());
        command.args(["keys", "node", "--out"]).arg(path);
        let made = command.output().unwrap();
        assert!(made.status.success(), "{made:?}");
    }

    /// The process of a node.
    pub fn process(&mut self, node: u8) -> &mut Process {
        self.nodes.get_mut(&node).expect("the node was started")
    }

    /// Kill a node without a warning.
    pub fn kill(&mut self, node: u8) {
        let mut process = self.nodes.remove(&node).expect("the node was started");
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
    pub fn rss_kib(&self, node: u8) -> u64 {
        let pid = self.nodes[&node].pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let digits = line.unwrap().trim().trim_end_matches(" kB");
        digits.parse().unwrap()
    }

    /// Run `holdfast` with these arguments in a node's namespace; its standard output.
    pub fn run(&self, node: u8, args: &[&str]) -> String {
        let mut command = self.lab.command(&name(node), binary()).unwrap();
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
        for (node, process) in &self.nodes {
            let log = process.log();
            let skipped = log.len().saturating_sub(LOG_TAIL_BYTES);
            let tail = String::from_utf8_lossy(&log.as_bytes()[skipped..]);
            let status = self.status(*node);
            let _ = write!(told, "\n== node-{node}\n{tail}\n{status:#}\n");
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

/// A prefix that no other lab has, of this run or another; `None` where there is no privilege
/// to make a lab, which on a build machine is a failure.
fn prefix() -> Option<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    if let Err(why) = preconditions() {
        let must_run = env::var_os("CI").is_some_and(|ci| ci == "true");
        assert!(!must_run, "CI must run this test: {why}");
        // Not by `eprintln!`, which the test harness swallows where a test passes.
        let _ = writeln!(io::stderr(), "SKIPPED, not tested: {why}");
        return None;
    }
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let letter = char::from_digit(next % 36, 36).expect("it is less than 36");
    // A process id has at most 22 bits.
    Some(format!("k{letter}{:x}", process::id()))
}

/// The program that is tested.
fn binary() -> PathBuf {
    if let Some(path) = env::var_os("HOLDFAST_BIN") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "HOLDFAST_BIN: there is no {path:?}");
        return path;
    }
    // This test is target/PROFILE/deps/NAME.
    let own = env::current_exe().unwrap();
    let path = own.ancestors().nth(2).unwrap().join("holdfast");
    assert!(
        path.is_file(),
        "there is no {path:?}: `cargo build -p holdfast` makes it, or HOLDFAST_BIN names another"
    );
    path
}

fn write_secret(path: &Path, text: &str) {
    // What is there may have mode 0400.
    let _ = fs::remove_file(path);
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o400);
    let mut file = options.open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// How long something took, and what came of it.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let started = Instant::now();
    let value = work();
    (started.elapsed(), value)
}
