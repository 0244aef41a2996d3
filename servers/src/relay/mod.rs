//! Drives [`TurnMachine`] over sockets.
//!
//! One machine, and a local task for each socket that can receive: the UDP listening socket,
//! each relay socket, the TCP listener and each TCP client. A task hands what it received to
//! the machine and sends what comes back at once, from the buffer it was received in. What a
//! socket cannot take is dropped: everything relayed is datagrams.

mod outbox;
mod stream;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::{Duration, Instant};

use holdfast_core::entropy::Seed;
use holdfast_io::clock::Clock;
use holdfast_io::http::Stop;
use holdfast_io::net::{DatagramEvent, DatagramSocket, Listener, Net, UDP_PAYLOAD_MAX};
use holdfast_io::spawn::{Spawn, Task};
use tokio::sync::Notify;

use crate::turn::{
    Config, ConfigError, Counters, Event, Forward, HEADROOM, Input, Limits, Output, Path,
    SharedSecret, TAILROOM, TcpId, TurnMachine,
};
use outbox::Outbox;

/// How long to rest after a socket failed, so that a failure that lasts does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(50);
/// The default relay ports: those that the system hands out by itself are below.
pub const RELAY_PORTS_DEFAULT: RangeInclusive<u16> = 61_000..=65_535;

/// How to serve STUN and TURN.
#[derive(Clone, Debug)]
pub struct TurnOptions {
    /// Where UDP clients are heard.
    pub udp: Option<SocketAddr>,
    /// Where TCP clients are heard.
    pub tcp: Option<SocketAddr>,
    /// The address that relay sockets are bound to.
    pub relay_bind: IpAddr,
    /// The address of this host as peers see it, when that is another one. Needed when
    /// `relay_bind` is unspecified and the host has several addresses.
    pub public_ip: Option<IpAddr>,
    /// Ports of relay sockets. Default [`RELAY_PORTS_DEFAULT`].
    pub relay_ports: RangeInclusive<u16>,
    /// The realm of the credentials.
    pub realm: String,
    /// What credentials are derived from.
    pub secret: SharedSecret,
    /// Whether clients may relay to loopback addresses, for tests on one machine.
    pub loopback_peers: bool,
    /// Limits.
    pub limits: Limits,
}

impl TurnOptions {
    /// UDP and TCP on `listen`, relay sockets on the same address.
    pub fn on(listen: SocketAddr, secret: SharedSecret) -> TurnOptions {
        TurnOptions {
            udp: Some(listen),
            tcp: Some(listen),
            relay_bind: listen.ip(),
            public_ip: None,
            relay_ports: RELAY_PORTS_DEFAULT,
            realm: "holdfast".to_owned(),
            secret,
            loopback_peers: false,
            limits: Limits::default(),
        }
    }
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A socket could not be opened.
    #[error("TURN cannot listen on {addr} ({transport}): {source}")]
    Bind {
        /// Where.
        addr: SocketAddr,
        /// UDP or TCP.
        transport: &'static str,
        /// Why.
        source: io::Error,
    },
    /// No address to advertise.
    #[error("TURN relays on {0} but this host's own address is not clear: name its public IP")]
    PublicIp(IpAddr),
}

/// A server whose sockets are open.
pub struct TurnServer<N: Net, C: Clock, S: Spawn> {
    shared: Rc<Shared<N, C, S>>,
    listener: Option<N::Listener>,
}

/// Looks at a running server.
pub struct TurnMonitor(Rc<RefCell<TurnMachine>>);

impl TurnMonitor {
    /// Allocations that exist.
    pub fn allocations(&self) -> usize {
        self.0.borrow().allocations()
    }

    /// TCP clients that are connected.
    pub fn tcp_clients(&self) -> usize {
        self.0.borrow().tcp_clients()
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        self.0.borrow().counters()
    }
}

impl<N: Net, C: Clock, S: Spawn> TurnServer<N, C, S> {
    /// Open the listening sockets.
    pub async fn bind(
        options: TurnOptions,
        net: N,
        clock: C,
        spawn: S,
        seed: Seed,
    ) -> Result<TurnServer<N, C, S>, TurnError> {
        let relay_ip = relay_ip(&options, &net)?;
        if is_private(relay_ip) {
            tracing::warn!(
                %relay_ip,
                "TURN advertises a private address: nodes elsewhere need this host's public IP"
            );
        }
        let config = Config {
            relay_ip,
            relay_ports: options.relay_ports,
            realm: options.realm,
            secret: options.secret,
            loopback_peers: options.loopback_peers,
            limits: options.limits,
        };
        let machine = TurnMachine::new(config, seed, clock.now())?;
        let udp = match options.udp {
            Some(addr) => Some(net.bind_datagram(addr).await.map_err(failed(addr, "UDP"))?),
            None => None,
        };
        let listener = match options.tcp {
            Some(addr) => Some(net.listen(addr).await.map_err(failed(addr, "TCP"))?),
            None => None,
        };
        let shared = Shared {
            machine: Rc::new(RefCell::new(machine)),
            udp,
            relay_bind: options.relay_bind,
            relays: RefCell::default(),
            to_do: RefCell::default(),
            outboxes: RefCell::default(),
            wake: Notify::new(),
            armed: Cell::new(None),
            net,
            clock,
            spawn,
        };
        Ok(TurnServer {
            shared: Rc::new(shared),
            listener,
        })
    }

    /// Where UDP clients are heard.
    pub fn udp_addr(&self) -> Option<SocketAddr> {
        self.shared.udp.as_ref()?.local_addr().ok()
    }

    /// Where TCP clients are heard.
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        self.listener.as_ref()?.local_addr().ok()
    }

    /// To look at it while it runs.
    pub fn monitor(&self) -> TurnMonitor {
        TurnMonitor(self.shared.machine.clone())
    }

    /// Serve until `stop`. Relayed traffic ends then: clients allocate elsewhere.
    pub async fn run(self, mut stop: Stop) {
        let TurnServer { shared, listener } = self;
        let _running = Running(shared.clone());
        let mut tasks: Vec<Task> = Vec::new();
        if shared.udp.is_some() {
            let clients = shared.clone().hear_clients();
            tasks.push(shared.spawn.spawn("turn udp clients", clients));
        }
        if let Some(listener) = listener {
            let accepting = shared.clone().accept(listener);
            tasks.push(shared.spawn.spawn("turn tcp clients", accepting));
        }
        tokio::select! {
            () = stop.wait() => {}
            () = shared.clone().tend() => {}
        }
    }
}

/// Ends what was started when it is dropped: the tasks of relays and clients hold `Shared`,
/// which holds their handles.
struct Running<N: Net, C, S>(Rc<Shared<N, C, S>>);

impl<N: Net, C, S> Drop for Running<N, C, S> {
    fn drop(&mut self) {
        self.0.relays.take();
        self.0
            .outboxes
            .borrow()
            .values()
            .for_each(|outbox| outbox.close());
    }
}

fn failed(addr: SocketAddr, transport: &'static str) -> impl Fn(io::Error) -> TurnError {
    move |source| TurnError::Bind {
        addr,
        transport,
        source,
    }
}

fn relay_ip<N: Net>(options: &TurnOptions, net: &N) -> Result<IpAddr, TurnError> {
    let bind = options.relay_bind;
    if let Some(ip) = options.public_ip {
        return Ok(ip);
    }
    if !bind.is_unspecified() {
        return Ok(bind);
    }
    let local = net.local_addresses().unwrap_or_default();
    let mut same_family = local
        .into_iter()
        .filter(|ip| ip.is_ipv4() == bind.is_ipv4());
    match (same_family.next(), same_family.next()) {
        (Some(ip), None) => Ok(ip),
        _ => Err(TurnError::PublicIp(bind)),
    }
}

/// Whether only machines of the same network reach it (RFC 1918, RFC 6598, RFC 4193).
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            ip.is_private() || ip.is_link_local() || (a == 100 && b & 0b1100_0000 == 64)
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// An open relay socket and the task that hears it.
struct Relay<D> {
    socket: Rc<D>,
    _task: Task,
}

/// What has to be done in order, some of it by waiting.
enum ToDo {
    Open(u16),
    Close(u16),
}

struct Shared<N: Net, C, S> {
    machine: Rc<RefCell<TurnMachine>>,
    udp: Option<N::Datagram>,
    relay_bind: IpAddr,
    relays: RefCell<BTreeMap<u16, Relay<N::Datagram>>>,
    to_do: RefCell<VecDeque<ToDo>>,
    outboxes: RefCell<BTreeMap<TcpId, Rc<Outbox>>>,
    /// The deadline has moved, or there is something to do.
    wake: Notify,
    /// The deadline that is waited for.
    armed: Cell<Option<Instant>>,
    net: N,
    clock: C,
    spawn: S,
}

impl<N: Net, C: Clock, S: Spawn> Shared<N, C, S> {
    /// Open and close relay sockets, and keep the machine's deadlines.
    async fn tend(self: Rc<Self>) {
        loop {
            while let Some(to_do) = self.next_to_do() {
                match to_do {
                    ToDo::Open(port) => self.open_relay(port).await,
                    ToDo::Close(port) => {
                        self.relays.borrow_mut().remove(&port);
                    }
                }
            }
            self.armed.set(self.deadline());
            match self.armed.get() {
                None => self.wake.notified().await,
                Some(at) => tokio::select! {
                    () = self.wake.notified() => {}
                    () = self.clock.sleep_until(at) => {
                        self.machine.borrow_mut().handle_deadline(self.clock.now());
                        self.carry_out();
                    }
                },
            }
        }
    }

    fn next_to_do(&self) -> Option<ToDo> {
        self.to_do.borrow_mut().pop_front()
    }

    async fn open_relay(self: &Rc<Self>, port: u16) {
        let addr = SocketAddr::new(self.relay_bind, port);
        let input = match self.net.bind_datagram(addr).await {
            Ok(socket) => {
                let socket = Rc::new(socket);
                let hearing = self.clone().hear_peers(port, socket.clone());
                let task = self.spawn.spawn("turn relay", hearing);
                let relay = Relay {
                    socket,
                    _task: task,
                };
                self.relays.borrow_mut().insert(port, relay);
                Input::RelayOpened { port }
            }
            Err(error) => {
                tracing::debug!(%addr, %error, "a relay port could not be opened");
                Input::RelayFailed { port }
            }
        };
        self.input(input);
    }

    async fn hear_clients(self: Rc<Self>) {
        let Some(socket) = &self.udp else {
            return;
        };
        let mut buf = vec![0; UDP_PAYLOAD_MAX];
        loop {
            match socket.recv(&mut buf).await {
                Ok(DatagramEvent::Data { len, from }) => {
                    let now = self.clock.now();
                    let mut machine = self.machine.borrow_mut();
                    let forward = machine.client_datagram(now, from, &buf[..len]);
                    drop(machine);
                    self.forward(forward);
                    self.carry_out();
                }
                Ok(DatagramEvent::Refused { .. }) => {}
                Err(error) => self.rest(&error).await,
            }
        }
    }

    async fn hear_peers(self: Rc<Self>, port: u16, socket: Rc<N::Datagram>) {
        let mut buf = vec![0; HEADROOM + UDP_PAYLOAD_MAX + TAILROOM];
        loop {
            let payload = &mut buf[HEADROOM..HEADROOM + UDP_PAYLOAD_MAX];
            match socket.recv(payload).await {
                Ok(DatagramEvent::Data { len, from }) => {
                    let now = self.clock.now();
                    let mut machine = self.machine.borrow_mut();
                    let forward = machine.peer_datagram(now, port, from, &mut buf, len);
                    drop(machine);
                    self.forward(forward);
                }
                Ok(DatagramEvent::Refused { .. }) => {}
                Err(error) => self.rest(&error).await,
            }
        }
    }

    async fn accept(self: Rc<Self>, listener: N::Listener) {
        let mut named = 0;
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    named += 1;
                    let client = TcpId(named);
                    let serving = stream::serve(self.clone(), client, stream);
                    let outbox = Rc::new(Outbox::default());
                    self.outboxes.borrow_mut().insert(client, outbox);
                    self.input(Input::TcpConnected { client, from });
                    self.spawn.spawn("turn tcp client", serving).detach();
                }
                Err(error) => self.rest(&error).await,
            }
        }
    }

    async fn rest(&self, error: &io::Error) {
        tracing::debug!(%error, "a TURN socket failed");
        self.clock.sleep(ERROR_PAUSE).await;
    }

    fn input(&self, input: Input) {
        let now = self.clock.now();
        self.machine.borrow_mut().handle(now, input);
        self.carry_out();
    }

    /// Send what is relayed. What a socket does not take now is lost, as on any path.
    fn forward(&self, forward: Option<Forward<'_>>) {
        let Some(Forward { path, data }) = forward else {
            return;
        };
        match path {
            Path::Client(to) => self.send(to, data),
            Path::Stream(client) => {
                if let Some(outbox) = self.outboxes.borrow().get(&client) {
                    outbox.push_datagram(data);
                }
            }
            Path::Peer { port, to } => {
                if let Some(relay) = self.relays.borrow().get(&port) {
                    let _ = relay.socket.try_send_to(data, to);
                }
            }
        }
    }

    fn send(&self, to: SocketAddr, data: &[u8]) {
        if let Some(udp) = &self.udp {
            let _ = udp.try_send_to(data, to);
        }
    }

    fn carry_out(&self) {
        loop {
            let Some(output) = self.machine.borrow_mut().poll_output() else {
                break;
            };
            match output {
                Output::Datagram { to, data } => self.send(to, &data),
                Output::PeerDatagram { port, to, data } => {
                    let path = Path::Peer { port, to };
                    self.forward(Some(Forward { path, data: &data }));
                }
                Output::TcpWrite { client, data } => {
                    if let Some(outbox) = self.outboxes.borrow().get(&client) {
                        outbox.push_answer(&data);
                    }
                }
                Output::TcpClose { client } => {
                    if let Some(outbox) = self.outboxes.borrow().get(&client) {
                        outbox.close();
                    }
                }
                Output::OpenRelay { port } => self.later(ToDo::Open(port)),
                Output::CloseRelay { port } => self.later(ToDo::Close(port)),
                Output::Event(event) => log(&event),
            }
        }
        if self.deadline() != self.armed.get() {
            self.wake.notify_one();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.machine.borrow().deadline().map(|(at, _why)| at)
    }

    fn later(&self, to_do: ToDo) {
        self.to_do.borrow_mut().push_back(to_do);
        self.wake.notify_one();
    }
}

fn log(event: &Event) {
    match event {
        Event::Allocated { client, user, port } => {
            tracing::info!(%client, user, port, "TURN allocation made");
        }
        Event::Released {
            client,
            port,
            reason,
        } => tracing::info!(%client, port, reason, "TURN allocation ended"),
        Event::Refused { client, reason } => {
            tracing::debug!(%client, reason, "TURN request refused");
        }
    }
}
