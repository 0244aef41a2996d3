//! What the kernel tests share: a prefix of one's own, and a probe that measures a NAT.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    env,
    io::{self, ErrorKind, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use holdfast_lab::{Lab, PUB, SERVERS, preconditions};

/// The two ports of the probe's server.
pub const PORTS: [u16; 2] = [3478, 3479];

/// Far more than a packet takes between two namespaces.
const ANSWER_BOUND: Duration = Duration::from_secs(2);

/// How long a blocked answer is waited for, where nothing else can show that it is blocked.
const SILENCE: Duration = Duration::from_millis(200);

/// How often is asked before a server counts as out of reach.
pub const TRIES_MAX: u32 = 4;

/// A prefix that no other test, nor another run at the same time, has; `None` where there is no
/// privilege to make a lab, which on a build machine is a failure.
pub fn prefix(letter: char) -> Option<String> {
    match preconditions() {
        Ok(()) => Some(format!("{letter}{:x}", process::id())),
        Err(why) if env::var_os("CI").is_some_and(|ci| ci == "true") => {
            panic!("CI must run this test: {why}")
        }
        Err(why) => {
            // Not by `eprintln!`, which the test harness swallows where a test passes.
            let _ = writeln!(io::stderr(), "SKIPPED, not tested: {why}");
            None
        }
    }
}

/// What one side knows of another through its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The server's socket that sent it: 0 the one asked, 1 same address and other port, 2 other
    /// address and other port.
    pub from: u8,
    /// The asker's endpoint as the server saw it.
    pub observed: SocketAddrV4,
}

/// A server with two addresses and two ports, after RFC 5780, but with a format of its own.
pub struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub fn start(lab: &Lab) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let bind = |address: Ipv4Addr, port| {
            let socket = lab.run_in(PUB, || UdpSocket::bind((address, port)));
            let socket = socket.unwrap().unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(20)))
                .unwrap();
            socket
        };
        let sockets: Vec<Vec<Arc<UdpSocket>>> = SERVERS
            .iter()
            .map(|address| PORTS.map(|port| Arc::new(bind(*address, port))).to_vec())
            .collect();
        let mut threads = Vec::new();
        for (a, p) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let [asked, port, both] =
                [(a, p), (a, 1 - p), (1 - a, 1 - p)].map(|(a, p)| Arc::clone(&sockets[a][p]));
            let stop = Arc::clone(&stop);
            threads.push(thread::spawn(move || serve(&[asked, port, both], &stop)));
        }
        Self { stop, threads }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// A request is eight bytes of id and one flag: whether all three sockets shall answer. The one
/// that was asked answers last: what the asker did not hear before was filtered.
fn serve(sockets: &[Arc<UdpSocket>; 3], stop: &AtomicBool) {
    let mut request = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        let Ok((9, SocketAddr::V4(asker))) = sockets[0].recv_from(&mut request) else {
            continue;
        };
        let everyone = request[8] == 1;
        for from in [2u8, 1, 0] {
            if everyone || from == 0 {
                let mut answer = request[..8].to_vec();
                answer.push(from);
                answer.extend(asker.ip().octets());
                answer.extend(asker.port().to_be_bytes());
                sockets[usize::from(from)].send_to(&answer, asker).unwrap();
            }
        }
    }
}

/// A socket in a node's namespace, and what came in on it.
pub struct Probe {
    pub socket: UdpSocket,
    /// From whom packets came that are no answer of the server.
    pub heard: Vec<SocketAddrV4>,
}

impl Probe {
    pub fn new(lab: &Lab, node: &str) -> Self {
        let socket = lab.run_in(node, || UdpSocket::bind("0.0.0.0:0"));
        Self {
            socket: socket.unwrap().unwrap(),
            heard: Vec::new(),
        }
    }

    pub fn port(&self) -> u16 {
        self.socket.local_addr().unwrap().port()
    }

    /// Its endpoint as seen by a server, `None` if nothing comes back.
    pub fn observed(&mut self, server: Ipv4Addr, port: u16) -> Option<SocketAddrV4> {
        // On a busy machine an answer may come after the silence that says that none comes.
        (0..TRIES_MAX)
            .find_map(|_| self.ask(server, port, false).pop())
            .map(|answer| answer.observed)
    }

    /// Asks a server; returns the answers that were let in, that of the asked socket last.
    pub fn ask(&mut self, server: Ipv4Addr, port: u16, everyone: bool) -> Vec<Answer> {
        static ID: AtomicU64 = AtomicU64::new(1);
        let id = ID.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut request = id.to_vec();
        request.push(u8::from(everyone));
        let mut answers = Vec::new();
        if self.socket.send_to(&request, (server, port)).is_err() {
            return answers;
        }
        self.socket.set_read_timeout(Some(SILENCE)).unwrap();
        let mut buffer = [0; 64];
        loop {
            let (length, source) = match self.socket.recv_from(&mut buffer) {
                Ok((length, SocketAddr::V4(source))) => (length, source),
                Ok(_) => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return answers,
                Err(error) => panic!("{error}"),
            };
            if length != 15 {
                self.heard.push(source);
                continue;
            }
            if buffer[..8] != id {
                continue;
            }
            let ip: [u8; 4] = buffer[9..13].try_into().unwrap();
            let port = u16::from_be_bytes(buffer[13..15].try_into().unwrap());
            let observed = SocketAddrV4::new(Ipv4Addr::from(ip), port);
            let from = buffer[8];
            answers.push(Answer { from, observed });
            if from == 0 {
                return answers;
            }
        }
    }

    pub fn send(&self, to: SocketAddrV4) {
        // A refusal by the network is a lost packet.
        let _ = self.socket.send_to(b"x", to);
    }
}

/// Whether two nodes reach each other by hole punching, as ICE would do it: both send to what
/// the server saw of the other, and answer whoever they hear.
pub fn punch(lab: &Lab, a: &str, b: &str) -> bool {
    let (mut a, mut b) = (Probe::new(lab, a), Probe::new(lab, b));
    let see = |probe: &mut Probe| probe.observed(SERVERS[0], PORTS[0]);
    let (Some(at_a), Some(at_b)) = (see(&mut a), see(&mut b)) else {
        return false;
    };
    for _ in 0..4 {
        for (from, known) in [(&a, at_b), (&b, at_a)] {
            from.send(known);
            from.heard.iter().for_each(|heard| from.send(*heard));
        }
        // The server's answer comes after everything that was sent before.
        see(&mut a);
        see(&mut b);
        if !a.heard.is_empty() && !b.heard.is_empty() {
            return true;
        }
    }
    false
}

/// The names in the machine's list of network namespaces that begin like this.
pub fn namespaces(prefix: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten();
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&format!("{prefix}-")))
        .collect()
}

pub fn ip(endpoint: SocketAddrV4) -> IpAddr {
    IpAddr::V4(*endpoint.ip())
}
