//! A STUN and TURN server as a machine without io (RFC 8489, RFC 8656).
//!
//! Clients come over UDP and over TCP; what is relayed is UDP. STUN Binding requests are
//! answered without credentials on both. Besides the five verbs of every machine
//! ([`TurnMachine::new`], [`handle`](TurnMachine::handle),
//! [`handle_deadline`](TurnMachine::handle_deadline),
//! [`poll_output`](TurnMachine::poll_output), [`deadline`](TurnMachine::deadline)) there are
//! three for the hot path, which relay without copying a payload:
//! [`client_datagram`](TurnMachine::client_datagram),
//! [`client_stream`](TurnMachine::client_stream) and
//! [`peer_datagram`](TurnMachine::peer_datagram). Whoever uses those still polls for output
//! afterwards.
//!
//! A relay socket is named by its port. `OpenRelay` and `CloseRelay` are to be carried out
//! in the order in which they are given.
//!
//! Left out: relaying to TCP peers (RFC 6062), reservation of a second port, mobility. A
//! relay address has the family of the configured relay address, so one machine serves
//! either IPv4 or IPv6 peers.

mod allocation;
mod auth;
mod frame;
mod reply;
mod request;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use holdfast_core::entropy::{Entropy, Seed};
use holdfast_core::time::Now;
use stun_types::message::{Message, MessageClass, MessageHeader};
use turn_types::message::SEND;

use allocation::Allocation;
pub use allocation::{CHANNEL_LIFETIME, PERMISSION_LIFETIME};
use auth::Authenticator;
pub use auth::{
    Credentials, NONCE_LIFETIME, SECRET_LEN_MAX, SharedSecret, SharedSecretError, USERNAME_LEN_MAX,
};
pub use frame::FRAME_LEN_MAX;
use frame::{CHANNEL_HEADER_LEN, Frame};
pub use reply::{HEADROOM, TAILROOM};

/// How long a TCP client may stay without an allocation: enough for a slow handshake and
/// a few Binding requests.
pub const TCP_IDLE_MAX: Duration = Duration::from_secs(30);
/// Longest realm, in bytes: it goes to strangers with every challenge.
pub const REALM_LEN_MAX: usize = 127;
/// Largest payload that can be relayed, in bytes: what a Data indication can hold.
pub const PAYLOAD_LEN_MAX: usize = 65_507;

/// How much the server holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Allocations in total. Default 1024.
    pub allocations_max: usize,
    /// Allocations of one client IP address. Default 64: a node needs one, and many nodes
    /// may share the address of one NAT.
    pub allocations_per_source_max: usize,
    /// Permissions of one allocation. Default 256: a mesh has one for each peer's address.
    pub permissions_max: usize,
    /// Channels of one allocation. Default 256.
    pub channels_max: usize,
    /// TCP clients in total. Default 1024.
    pub tcp_clients_max: usize,
    /// TCP clients of one IP address. Default 64.
    pub tcp_clients_per_source_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            allocations_max: 1024,
            allocations_per_source_max: 64,
            permissions_max: 256,
            channels_max: 256,
            tcp_clients_max: 1024,
            tcp_clients_per_source_max: 64,
        }
    }
}

/// How the server is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address of relayed transport addresses as peers see it. May differ from the
    /// address that relay sockets are bound to.
    pub relay_ip: IpAddr,
    /// Ports of relay sockets.
    pub relay_ports: RangeInclusive<u16>,
    /// The realm of the credentials, of 1 to [`REALM_LEN_MAX`] bytes.
    pub realm: String,
    /// What credentials are derived from.
    pub secret: SharedSecret,
    /// Whether clients may relay to loopback addresses. Only for tests on one machine:
    /// otherwise a client reaches services of this host that listen on loopback only.
    pub loopback_peers: bool,
    /// Limits.
    pub limits: Limits,
}

/// A configuration that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The realm is empty or too long.
    #[error("TURN realm is {0} bytes long: expected 1 to {REALM_LEN_MAX}")]
    Realm(usize),
    /// There is no port to relay through.
    #[error("TURN relay ports: expected a range that is not empty and starts above 0")]
    Ports,
    /// The relay address is not one that peers could send to.
    #[error("TURN relay address {0} is no address that peers can send to: name one of this host")]
    RelayIp(IpAddr),
}

/// Names a TCP client; chosen by whoever drives the machine, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TcpId(pub u64);

/// Names a client of either transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientId {
    /// A client that sends datagrams from this address.
    Udp(SocketAddr),
    /// A client with a TCP connection.
    Tcp(TcpId),
}

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The UDP listening socket received a datagram.
    Datagram {
        /// The sender.
        from: SocketAddr,
        /// Its bytes.
        data: Vec<u8>,
    },
    /// A relay socket received a datagram.
    PeerDatagram {
        /// The relay socket.
        port: u16,
        /// The sender.
        from: SocketAddr,
        /// Its bytes.
        data: Vec<u8>,
    },
    /// A TCP client connected.
    TcpConnected {
        /// A new name for it.
        client: TcpId,
        /// Its address.
        from: SocketAddr,
    },
    /// A TCP client sent bytes. Not to be mixed with [`TurnMachine::client_stream`].
    TcpBytes {
        /// The client.
        client: TcpId,
        /// The bytes.
        data: Vec<u8>,
    },
    /// A TCP client's connection ended.
    TcpClosed {
        /// The client.
        client: TcpId,
    },
    /// A relay socket is open.
    RelayOpened {
        /// Its port.
        port: u16,
    },
    /// A relay socket could not be opened.
    RelayFailed {
        /// Its port.
        port: u16,
    },
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a datagram from the UDP listening socket.
    Datagram {
        /// The receiver.
        to: SocketAddr,
        /// Its bytes.
        data: Vec<u8>,
    },
    /// Send a datagram from a relay socket.
    PeerDatagram {
        /// The relay socket.
        port: u16,
        /// The receiver.
        to: SocketAddr,
        /// Its bytes.
        data: Vec<u8>,
    },
    /// Write to a TCP client: all of it or nothing.
    TcpWrite {
        /// The client.
        client: TcpId,
        /// The bytes.
        data: Vec<u8>,
    },
    /// Close a TCP client's connection after what was written. The machine has already
    /// forgotten it.
    TcpClose {
        /// The client.
        client: TcpId,
    },
    /// Open a relay socket, and say with [`Input::RelayOpened`] or [`Input::RelayFailed`]
    /// what came of it.
    OpenRelay {
        /// Its port.
        port: u16,
    },
    /// Close a relay socket.
    CloseRelay {
        /// Its port.
        port: u16,
    },
    /// For logs.
    Event(Event),
}

/// What is worth a line in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client has a relayed transport address.
    Allocated {
        /// The client's transport address.
        client: SocketAddr,
        /// Its user name.
        user: String,
        /// The relay port.
        port: u16,
    },
    /// A client no longer has it.
    Released {
        /// The client's transport address.
        client: SocketAddr,
        /// The relay port.
        port: u16,
        /// Why.
        reason: &'static str,
    },
    /// A request was refused although its sender knows how to ask.
    Refused {
        /// The client's transport address.
        client: SocketAddr,
        /// Why.
        reason: &'static str,
    },
}

/// Where a relayed datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// From the UDP listening socket to a client.
    Client(SocketAddr),
    /// To a TCP client. May be dropped as a whole when too much is unsent, as on any path
    /// that is too slow.
    Stream(TcpId),
    /// From a relay socket to a peer.
    Peer {
        /// The relay socket.
        port: u16,
        /// The receiver.
        to: SocketAddr,
    },
}

/// A relayed datagram, in the buffer that it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward<'a> {
    /// Where it goes.
    pub path: Path,
    /// Its bytes.
    pub data: &'a [u8],
}

/// What became of the start of a TCP client's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// Bytes that are dealt with; 0 when there is no whole message yet.
    pub consumed: usize,
    /// A datagram to relay.
    pub forward: Option<Forward<'a>>,
}

/// What the server counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Binding requests answered.
    pub bindings: u64,
    /// Allocations made.
    pub allocations: u64,
    /// Requests without credentials, which start every allocation.
    pub challenges: u64,
    /// Requests with wrong credentials.
    pub credentials_wrong: u64,
    /// Requests with expired credentials.
    pub credentials_expired: u64,
    /// Requests with an old nonce.
    pub nonces_stale: u64,
    /// Requests refused because of a limit.
    pub limit_refusals: u64,
    /// Messages that could not be parsed.
    pub malformed: u64,
    /// Datagrams dropped because they belong to no allocation, permission or channel.
    pub strangers: u64,
    /// Datagrams relayed from clients to peers.
    pub to_peers: u64,
    /// Their payload, in bytes.
    pub to_peers_bytes: u64,
    /// Datagrams relayed from peers to clients.
    pub to_clients: u64,
    /// Their payload, in bytes.
    pub to_clients_bytes: u64,
}

impl Counters {
    /// Names and values, for `/metrics`.
    pub fn list(&self) -> [(&'static str, u64); 13] {
        [
            ("bindings", self.bindings),
            ("allocations", self.allocations),
            ("challenges", self.challenges),
            ("credentials_wrong", self.credentials_wrong),
            ("credentials_expired", self.credentials_expired),
            ("nonces_stale", self.nonces_stale),
            ("limit_refusals", self.limit_refusals),
            ("malformed", self.malformed),
            ("strangers", self.strangers),
            ("to_peers", self.to_peers),
            ("to_peers_bytes", self.to_peers_bytes),
            ("to_clients", self.to_clients),
            ("to_clients_bytes", self.to_clients_bytes),
        ]
    }
}

struct TcpClient {
    from: SocketAddr,
    /// When it is closed for want of an allocation.
    idle_until: Option<Instant>,
    /// Bytes of a message that is not complete; used by [`TurnMachine::handle`] only.
    buffered: Vec<u8>,
}

#[derive(Clone, Copy, Default)]
struct Usage {
    allocations: usize,
    tcp_clients: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Expiry {
    Allocation(u16),
    TcpIdle(TcpId),
}

/// The server.
pub struct TurnMachine {
    config: Config,
    auth: Authenticator,
    entropy: Entropy,
    /// By relay port.
    allocations: BTreeMap<u16, Allocation>,
    ports: BTreeMap<ClientId, u16>,
    tcp: BTreeMap<TcpId, TcpClient>,
    sources: BTreeMap<IpAddr, Usage>,
    expiries: BTreeSet<(Instant, Expiry)>,
    outputs: VecDeque<Output>,
    counters: Counters,
}

impl TurnMachine {
    /// A server without clients.
    pub fn new(config: Config, seed: Seed, now: Now) -> Result<TurnMachine, ConfigError> {
        if !(1..=REALM_LEN_MAX).contains(&config.realm.len()) {
            return Err(ConfigError::Realm(config.realm.len()));
        }
        if config.relay_ports.is_empty() || *config.relay_ports.start() == 0 {
            return Err(ConfigError::Ports);
        }
        if config.relay_ip.is_unspecified() || config.relay_ip.is_multicast() {
            return Err(ConfigError::RelayIp(config.relay_ip));
        }
        Ok(TurnMachine {
            auth: Authenticator::new(config.realm.clone(), &config.secret, &seed, now),
            entropy: seed.fork("turn").rng(),
            config,
            allocations: BTreeMap::new(),
            ports: BTreeMap::new(),
            tcp: BTreeMap::new(),
            sources: BTreeMap::new(),
            expiries: BTreeSet::new(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
        })
    }

    /// Allocations that exist.
    pub fn allocations(&self) -> usize {
        self.allocations.len()
    }

    /// TCP clients that are connected.
    pub fn tcp_clients(&self) -> usize {
        self.tcp.len()
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Something happened.
    pub fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::Datagram { from, data } => {
                let forward = self.client_datagram(now, from, &data);
                let output = forward.map(Output::from);
                self.outputs.extend(output);
            }
            Input::PeerDatagram { port, from, data } => {
                let mut buf = vec![0; HEADROOM + data.len() + TAILROOM];
                buf[HEADROOM..HEADROOM + data.len()].copy_from_slice(&data);
                let forward = self.peer_datagram(now, port, from, &mut buf, data.len());
                let output = forward.map(Output::from);
                self.outputs.extend(output);
            }
            Input::TcpConnected { client, from } => self.tcp_connected(now, client, from),
            Input::TcpBytes { client, data } => self.tcp_bytes(now, client, data),
            Input::TcpClosed { client } => self.forget_tcp(client, "its connection ended"),
            Input::RelayOpened { port } => self.relay_opened(now, port),
            Input::RelayFailed { port } => self.relay_failed(now, port),
        }
    }

    /// A datagram came from a client, or from a stranger.
    pub fn client_datagram<'a>(
        &mut self,
        now: Now,
        from: SocketAddr,
        data: &'a [u8],
    ) -> Option<Forward<'a>> {
        let client = ClientId::Udp(from);
        match data.first().map(|byte| byte >> 6) {
            Some(0b00) => self.stun(now, client, from, data),
            Some(0b01) => self.channel_data(now, client, data),
            _ => {
                self.counters.malformed += 1;
                None
            }
        }
    }

    /// A TCP client sent bytes: deal with the message that `stream` starts with. Call again
    /// with what follows it until nothing is consumed.
    pub fn client_stream<'a>(&mut self, now: Now, client: TcpId, stream: &'a [u8]) -> Step<'a> {
        let everything = Step {
            consumed: stream.len(),
            forward: None,
        };
        let Some(from) = self.tcp.get(&client).map(|tcp| tcp.from) else {
            return everything;
        };
        let client_id = ClientId::Tcp(client);
        match frame::first_frame(stream) {
            Frame::Incomplete => Step {
                consumed: 0,
                forward: None,
            },
            Frame::Stun(len) => Step {
                consumed: len,
                forward: self.stun(now, client_id, from, &stream[..len]),
            },
            Frame::Channel { len, padded } => Step {
                consumed: padded,
                forward: self.channel_data(now, client_id, &stream[..len]),
            },
            Frame::Malformed => {
                self.counters.malformed += 1;
                self.close_tcp(client, "it sent something that is not TURN");
                everything
            }
        }
    }

    /// A datagram of `len` bytes came to a relay socket and lies in `buf` from [`HEADROOM`]
    /// on, with [`TAILROOM`] bytes behind it.
    ///
    /// # Panics
    ///
    /// When `buf` is shorter than that.
    pub fn peer_datagram<'a>(
        &mut self,
        now: Now,
        port: u16,
        from: SocketAddr,
        buf: &'a mut [u8],
        len: usize,
    ) -> Option<Forward<'a>> {
        assert!(
            buf.len() >= HEADROOM + len + TAILROOM,
            "no room for a header"
        );
        let now = now.mono;
        let allocation = self
            .allocations
            .get(&port)
            .filter(|allocation| allocation.is_live(now) && allocation.permits(now, from.ip()));
        let Some(allocation) = allocation.filter(|_| len <= PAYLOAD_LEN_MAX) else {
            self.counters.strangers += 1;
            return None;
        };
        self.counters.to_clients += 1;
        self.counters.to_clients_bytes += len as u64;
        let (path, streamed) = match allocation.client {
            ClientId::Udp(to) => (Path::Client(to), false),
            ClientId::Tcp(client) => (Path::Stream(client), true),
        };
        let data = match allocation.number_of(now, from) {
            Some(number) => reply::channel_data(buf, len, number, streamed),
            None => {
                let transaction = u128::from(self.entropy.u64());
                reply::data_indication(buf, len, transaction, from)
            }
        };
        Some(Forward { path, data })
    }

    /// Time passed.
    pub fn handle_deadline(&mut self, now: Now) {
        while let Some((_, expiry)) = self.expiries.first().filter(|(at, _)| *at <= now.mono) {
            match *expiry {
                Expiry::Allocation(port) => self.release(now, port, "it was not refreshed"),
                Expiry::TcpIdle(client) => self.close_tcp(client, "it made no allocation"),
            }
        }
    }

    /// When to call [`TurnMachine::handle_deadline`], and why.
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        let (at, expiry) = self.expiries.first()?;
        let why = match expiry {
            Expiry::Allocation(_) => "turn allocation expires",
            Expiry::TcpIdle(_) => "turn tcp client idle",
        };
        Some((*at, why))
    }

    /// What to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn stun<'a>(
        &mut self,
        now: Now,
        client: ClientId,
        from: SocketAddr,
        data: &'a [u8],
    ) -> Option<Forward<'a>> {
        let whole = MessageHeader::from_bytes(data)
            .is_ok_and(|h| MessageHeader::LENGTH + usize::from(h.data_length()) == data.len());
        let Some(msg) = whole.then(|| Message::from_bytes(data).ok()).flatten() else {
            self.counters.malformed += 1;
            return None;
        };
        match msg.class() {
            MessageClass::Request => {
                self.request(now, client, from, &msg);
                None
            }
            MessageClass::Indication if msg.has_method(SEND) => {
                let (port, to, range) = self.send_indication(now, client, &msg)?;
                self.counters.to_peers += 1;
                self.counters.to_peers_bytes += range.len() as u64;
                Some(Forward {
                    path: Path::Peer { port, to },
                    data: &data[range],
                })
            }
            // A Binding indication keeps a NAT binding alive; we ask nothing, so no response
            // is ours.
            MessageClass::Indication | MessageClass::Success | MessageClass::Error => None,
        }
    }

    fn channel_data<'a>(
        &mut self,
        now: Now,
        client: ClientId,
        data: &'a [u8],
    ) -> Option<Forward<'a>> {
        let Some((number, payload)) = split_channel_data(data) else {
            self.counters.malformed += 1;
            return None;
        };
        let Some((port, to)) = self.channel_peer(now.mono, client, number) else {
            self.counters.strangers += 1;
            return None;
        };
        self.counters.to_peers += 1;
        self.counters.to_peers_bytes += payload.len() as u64;
        Some(Forward {
            path: Path::Peer { port, to },
            data: payload,
        })
    }

    fn channel_peer(
        &self,
        now: Instant,
        client: ClientId,
        number: u16,
    ) -> Option<(u16, SocketAddr)> {
        let port = *self.ports.get(&client)?;
        let allocation = self.allocations.get(&port)?;
        let peer = allocation.peer_of(now, number)?;
        (allocation.is_live(now) && allocation.permits(now, peer.ip())).then_some((port, peer))
    }

    fn tcp_connected(&mut self, now: Now, client: TcpId, from: SocketAddr) {
        let limits = self.config.limits;
        let usage = self.sources.get(&from.ip()).copied().unwrap_or_default();
        if self.tcp.len() >= limits.tcp_clients_max
            || usage.tcp_clients >= limits.tcp_clients_per_source_max
            || self.tcp.contains_key(&client)
        {
            self.counters.limit_refusals += 1;
            self.outputs.push_back(Output::TcpClose { client });
            return;
        }
        self.sources.entry(from.ip()).or_default().tcp_clients += 1;
        let tcp = TcpClient {
            from,
            idle_until: None,
            buffered: Vec::new(),
        };
        self.tcp.insert(client, tcp);
        self.set_idle(client, Some(now.mono + TCP_IDLE_MAX));
    }

    fn tcp_bytes(&mut self, now: Now, client: TcpId, data: Vec<u8>) {
        let Some(tcp) = self.tcp.get_mut(&client) else {
            return;
        };
        let mut stream = std::mem::take(&mut tcp.buffered);
        stream.extend_from_slice(&data);
        let mut start = 0;
        while start < stream.len() {
            let step = self.client_stream(now, client, &stream[start..]);
            let output = step.forward.map(Output::from);
            self.outputs.extend(output);
            if step.consumed == 0 {
                break;
            }
            start += step.consumed;
        }
        stream.drain(..start);
        if let Some(tcp) = self.tcp.get_mut(&client) {
            tcp.buffered = stream;
        }
    }

    fn set_idle(&mut self, client: TcpId, until: Option<Instant>) {
        let Some(tcp) = self.tcp.get_mut(&client) else {
            return;
        };
        if let Some(old) = std::mem::replace(&mut tcp.idle_until, until) {
            self.expiries.remove(&(old, Expiry::TcpIdle(client)));
        }
        if let Some(at) = until {
            self.expiries.insert((at, Expiry::TcpIdle(client)));
        }
    }

    fn close_tcp(&mut self, client: TcpId, reason: &'static str) {
        if self.tcp.contains_key(&client) {
            self.forget_tcp(client, reason);
            self.outputs.push_back(Output::TcpClose { client });
        }
    }

    fn forget_tcp(&mut self, client: TcpId, reason: &'static str) {
        self.set_idle(client, None);
        let Some(tcp) = self.tcp.remove(&client) else {
            return;
        };
        self.spend(tcp.from.ip(), |usage| usage.tcp_clients -= 1);
        if let Some(port) = self.ports.get(&ClientId::Tcp(client)).copied() {
            self.remove(port, reason);
        }
    }

    /// End an allocation whose client may stay connected.
    fn release(&mut self, now: Now, port: u16, reason: &'static str) {
        if let Some(ClientId::Tcp(client)) = self.remove(port, reason) {
            self.set_idle(client, Some(now.mono + TCP_IDLE_MAX));
        }
    }

    fn remove(&mut self, port: u16, reason: &'static str) -> Option<ClientId> {
        let allocation = self.allocations.remove(&port)?;
        self.ports.remove(&allocation.client);
        self.expiries
            .remove(&(allocation.expires, Expiry::Allocation(port)));
        self.spend(allocation.from.ip(), |usage| usage.allocations -= 1);
        self.outputs.push_back(Output::CloseRelay { port });
        let client = allocation.from;
        let released = Event::Released {
            client,
            port,
            reason,
        };
        self.outputs.push_back(Output::Event(released));
        Some(allocation.client)
    }

    fn spend(&mut self, source: IpAddr, change: impl FnOnce(&mut Usage)) {
        let Some(usage) = self.sources.get_mut(&source) else {
            return;
        };
        change(usage);
        if usage.allocations == 0 && usage.tcp_clients == 0 {
            self.sources.remove(&source);
        }
    }

    fn answer(&mut self, client: ClientId, data: Vec<u8>) {
        self.outputs.push_back(match client {
            ClientId::Udp(to) => Output::Datagram { to, data },
            ClientId::Tcp(client) => Output::TcpWrite { client, data },
        });
    }
}

impl From<Forward<'_>> for Output {
    fn from(forward: Forward<'_>) -> Output {
        let data = forward.data.to_vec();
        match forward.path {
            Path::Client(to) => Output::Datagram { to, data },
            Path::Stream(client) => Output::TcpWrite { client, data },
            Path::Peer { port, to } => Output::PeerDatagram { port, to, data },
        }
    }
}

/// The channel number and the payload. Over UDP padding may follow (RFC 8656 section 12.5).
fn split_channel_data(data: &[u8]) -> Option<(u16, &[u8])> {
    let header = data.first_chunk::<CHANNEL_HEADER_LEN>()?;
    let number = u16::from_be_bytes([header[0], header[1]]);
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let payload = data.get(CHANNEL_HEADER_LEN..CHANNEL_HEADER_LEN + len)?;
    Some((number, payload))
}
