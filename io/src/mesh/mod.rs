//! A running mesh node: the driver of [`holdfast_core::mesh::Mesh`] and all that it moves.
//!
//! One future owns the UDP socket and the loop ([`run_mesh`]); each forwarded connection is
//! a local task that pumps bytes between its socket and its stream. Nothing is decided here.

mod admin;
mod driver;
mod forwards;
mod hooks;
mod node;
mod pump;
mod status;
mod tcp;
mod turn;
mod udp;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use holdfast_core::config::{AllowRule, Config, ConfigError};
use holdfast_core::entropy::Seed;
use holdfast_core::mesh::{Input, Mesh};
use holdfast_core::types::{LinkId, Vip};

pub use hooks::{MeshHooks, MeshReload, Page};
pub use status::{Clash, NodeStatus, Protocol};

use self::admin::Admin;
use self::driver::Driver;
use self::forwards::Forwards;
use self::node::Node;
use crate::clock::{Clock, Sleep, timeout};
use crate::dump::{DumpSink, DumpTrigger, serve_dumps};
use crate::http::{Endpoint, ServerLimits, Stop, serve};
use crate::net::{BatchSocket, Net};
use crate::signal::{BROKERS_MAX, Signaling};
use crate::spawn::{Spawn, Task};

/// How long streams may take to end after the stop, unless the options say otherwise.
pub const DRAIN_DEFAULT: Duration = Duration::from_secs(5);
/// How often the end is looked for: an envelope that a broker takes wakes nobody.
const DRAIN_TICK: Duration = Duration::from_millis(10);
/// Longest time for the last packets to leave once every connection is closed.
const FLUSH_MAX: Duration = Duration::from_millis(500);
/// How often the machine's addresses are looked at.
const ADDRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Everything that a node is told.
pub struct MeshOptions {
    /// The machine's configuration. Its `udp_port` is set to the one that is bound.
    pub config: Config,
    /// What everything random derives from.
    pub seed: Seed,
    /// Where the node's UDP socket is bound. With an address other than 0.0.0.0 or `::`,
    /// that address is the only one offered to peers.
    pub listen: SocketAddr,
    /// The brokers, at most [`BROKERS_MAX`].
    pub brokers: Vec<Endpoint>,
    /// Ports of all peers that local applications can reach, on the peers' virtual addresses.
    pub forward: Vec<AllowRule>,
    /// Where the admin page is served, if anywhere.
    pub admin: Option<SocketAddr>,
    /// When and where to dump the flight recorder, if at all.
    pub dumps: Option<(DumpTrigger, Box<dyn DumpSink>)>,
    /// Longest time from the stop to the end.
    pub drain: Duration,
    /// What becomes known only after the start, if anything: servers whose names had no
    /// address yet. Its result is handed to the machine; it is dropped with the node.
    pub late_servers: Option<Pin<Box<dyn Future<Output = Input>>>>,
    /// The program's version, for the status.
    pub version: String,
}

/// Why a node could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// The node's UDP socket cannot be bound.
    #[error("cannot bind the UDP socket to {addr}: {source}; choose another listen address")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The admin page cannot be served.
    #[error("cannot serve the admin page on {addr}: {source}; choose another admin address")]
    Admin {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The configuration contradicts itself.
    #[error("the configuration contradicts itself: {}", list(.0))]
    Config(Vec<ConfigError>),
    /// Too many brokers.
    #[error("{found} brokers: expected at most {BROKERS_MAX}")]
    TooManyBrokers {
        /// How many there are.
        found: usize,
    },
    /// The node's UDP socket is gone.
    #[error("the UDP socket failed for good: {0}")]
    Socket(io::Error),
}

fn list(problems: &[ConfigError]) -> String {
    let texts: Vec<String> = problems.iter().map(ConfigError::to_string).collect();
    texts.join("; ")
}

/// What every task of a node has.
struct Context<N, C, S> {
    node: Rc<Node<C>>,
    net: N,
    clock: C,
    spawn: S,
    /// The links that there are, by a reload others.
    links: Rc<RefCell<BTreeMap<LinkId, Vip>>>,
}

impl<N: Clone, C: Clone, S: Clone> Clone for Context<N, C, S> {
    fn clone(&self) -> Self {
        Context {
            node: self.node.clone(),
            net: self.net.clone(),
            clock: self.clock.clone(),
            spawn: self.spawn.clone(),
            links: self.links.clone(),
        }
    }
}

impl<N, C, S> Context<N, C, S> {
    fn vip_of(&self, link: LinkId) -> Option<IpAddr> {
        self.links.borrow().get(&link).map(|vip| vip.addr())
    }
}

/// Run a node until `stop`, then say goodbye, let streams end within
/// [`MeshOptions::drain`], and return.
pub async fn run_mesh<N: Net, C: Clock, S: Spawn>(
    options: MeshOptions,
    net: N,
    clock: C,
    spawn: S,
    stop: Stop,
) -> Result<(), MeshError> {
    run_mesh_within(options, MeshHooks::default(), net, clock, spawn, stop).await
}

/// As [`run_mesh`], inside a larger process that has a say while the node runs.
pub async fn run_mesh_within<N: Net, C: Clock, S: Spawn>(
    mut options: MeshOptions,
    hooks: MeshHooks,
    net: N,
    clock: C,
    spawn: S,
    stop: Stop,
) -> Result<(), MeshError> {
    let found = options.brokers.len();
    if found > BROKERS_MAX {
        return Err(MeshError::TooManyBrokers { found });
    }
    let bind = |source| MeshError::Bind {
        addr: options.listen,
        source,
    };
    let socket = net.bind_batch(options.listen).await.map_err(bind)?;
    let udp_addr = socket.local_addr().map_err(bind)?;
    options.config.udp_port = udp_addr.port();
    let running = Running::start(options, hooks, (net, clock, spawn), socket, udp_addr).await?;
    tracing::info!(%udp_addr, "the node is running");
    running.run(stop).await
}

/// A node with all its tasks: dropped, they end.
struct Running<N: Net, C: Clock, S: Spawn> {
    driver: Driver<N, C, S>,
    drain: Duration,
    /// End with the stop: nothing new is accepted.
    forwards: Rc<Forwards<N, C, S>>,
    /// Go on until the end.
    _services: Vec<Task>,
    /// Until when the larger process has the admin page.
    _shown: Option<hooks::Shown>,
}

impl<N: Net, C: Clock, S: Spawn> Running<N, C, S> {
    async fn start(
        options: MeshOptions,
        hooks: MeshHooks,
        (net, clock, spawn): (N, C, S),
        socket: N::Batch,
        udp_addr: SocketAddr,
    ) -> Result<Self, MeshError> {
        let mailbox = options.config.identity.public();
        let mtu_max = options.config.limits.mtu_max;
        let mesh = Mesh::new(options.config, options.seed.fork("mesh"), clock.now());
        let node = Node::new(mesh.map_err(MeshError::Config)?, clock.clone());
        let links = node.view(|_, mesh| mesh.links().map(|(id, _, vip)| (id, vip)).collect());
        let links = Rc::new(RefCell::new(links));
        let cx = Context {
            node: node.clone(),
            net,
            clock,
            spawn,
            links,
        };
        let (heard, seed) = (node.clone(), options.seed.fork("io"));
        let deliver = Rc::new(move |envelope| heard.handle(Input::Signal(envelope)));
        let signaling = Rc::new(Signaling::start(
            (cx.net.clone(), cx.clock.clone(), cx.spawn.clone()),
            &options.brokers,
            mailbox,
            &seed,
            deliver,
        ));
        let driver = Driver::new(cx.clone(), signaling.clone(), socket, mtu_max);
        let admin = Rc::new(Admin {
            node,
            udp: driver.udp.clone(),
            signaling: signaling.clone(),
            version: options.version,
            udp_addr,
        });
        let mut services = vec![spawn_address_watch(&cx, udp_addr.ip(), signaling.clone())];
        services.extend(
            options
                .late_servers
                .map(|late| spawn_late_servers(&cx, late)),
        );
        if let Some(addr) = options.admin {
            services.push(spawn_admin(&cx, addr, admin.clone()).await?);
        }
        let forwards = Forwards::new(cx.clone(), driver.udp.clone(), options.forward);
        if let Some(reloads) = hooks.reloads {
            let known = (options.brokers, udp_addr.port());
            services.push(hooks::spawn_reloads(&cx, forwards.clone(), known, reloads));
        }
        let shown = hooks.page.map(|page| hooks::Shown::new(page, admin));
        services.extend(options.dumps.map(|dumps| spawn_dumps(&cx, dumps)));
        Ok(Running {
            forwards,
            driver,
            drain: options.drain,
            _services: services,
            _shown: shown,
        })
    }

    async fn run(mut self, mut stop: Stop) -> Result<(), MeshError> {
        let clock = self.driver.cx.clock.clone();
        let mut stopped = pin!(stop.wait());
        let ended = poll_fn(|task| {
            if stopped.as_mut().poll(task).is_ready() {
                return Poll::Ready(None);
            }
            self.driver.poll_turn(task).map(Some)
        });
        if let Some(error) = ended.await {
            return Err(MeshError::Socket(error));
        }
        tracing::info!("stopping: saying goodbye to all peers");
        self.forwards.stop_listening();
        self.driver.cx.node.handle(Input::Goodbye);
        match timeout(&clock, self.drain, self.drained()).await {
            Ok(Some(error)) => Err(MeshError::Socket(error)),
            Ok(None) => Ok(()),
            Err(_) => {
                tracing::warn!("stopping before every stream has ended");
                self.driver.cx.node.handle(Input::Stop);
                // Best effort: peers notice a silent end within seconds too.
                let _ = timeout(&clock, FLUSH_MAX, self.drained()).await;
                Ok(())
            }
        }
    }

    /// Go on until nothing is left to say, or the socket is gone.
    async fn drained(&mut self) -> Option<io::Error> {
        let mut tick = self.driver.cx.clock.sleep(DRAIN_TICK);
        poll_fn(|task| {
            let turn = self.driver.poll_turn(task).map(Some);
            if turn.is_ready() {
                return turn;
            }
            if self.driver.is_drained() {
                return Poll::Ready(None);
            }
            while Pin::new(&mut tick).poll(task).is_ready() {
                tick.reset(self.driver.cx.clock.now().mono + DRAIN_TICK);
            }
            Poll::Pending
        })
        .await
    }
}

impl<N: Net, C: Clock, S: Spawn> Drop for Running<N, C, S> {
    fn drop(&mut self) {
        // Their tasks hold what holds them.
        self.driver.cx.node.clear_streams();
        self.driver.udp.clear();
        self.driver.turn.clear();
    }
}

/// Tell the machine of servers once they are known.
fn spawn_late_servers<N: Net, C: Clock, S: Spawn>(
    cx: &Context<N, C, S>,
    late: Pin<Box<dyn Future<Output = Input>>>,
) -> Task {
    let node = cx.node.clone();
    cx.spawn.spawn("late servers", async move {
        let input = late.await;
        node.handle(input);
    })
}

/// Tell the machine its addresses, now and whenever they change. A change also leaves the
/// connections to the brokers behind: they are bound to an address that may be gone.
fn spawn_address_watch<N: Net, C: Clock, S: Spawn>(
    cx: &Context<N, C, S>,
    bound: IpAddr,
    signaling: Rc<Signaling>,
) -> Task {
    let own = cx.clone();
    cx.spawn.spawn("address watch", async move {
        let mut known = None;
        loop {
            match usable_addresses(&own.net, bound) {
                Ok(found) if known.as_ref() != Some(&found) => {
                    tracing::info!(addresses = ?found, "local addresses");
                    own.node.handle(Input::LocalAddresses(found.clone()));
                    if known.replace(found).is_some() {
                        signaling.network_changed();
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the local addresses cannot be listed"),
            }
            own.clock.sleep(ADDRESS_INTERVAL).await;
        }
    })
}

/// The addresses that the socket can send from.
fn usable_addresses<N: Net>(net: &N, bound: IpAddr) -> io::Result<Vec<IpAddr>> {
    if !bound.is_unspecified() {
        return Ok(vec![bound]);
    }
    let mut found = net.local_addresses()?;
    found.retain(|ip| ip.is_ipv4() || bound.is_ipv6());
    Ok(found)
}

async fn spawn_admin<N: Net, C: Clock, S: Spawn>(
    cx: &Context<N, C, S>,
    addr: SocketAddr,
    admin: Rc<Admin<N, C>>,
) -> Result<Task, MeshError> {
    let listening = cx.net.listen(addr).await;
    let listener = listening.map_err(|source| MeshError::Admin { addr, source })?;
    let (clock, spawn) = (cx.clock.clone(), cx.spawn.clone());
    Ok(cx.spawn.spawn("admin page", async move {
        let (_never, stop) = Stop::new();
        let limits = ServerLimits {
            connections_max: 64,
            body_len_max: 1024,
            ..ServerLimits::default()
        };
        let handler = move |request| {
            let admin = admin.clone();
            async move { admin.answer(&request) }
        };
        serve(listener, clock, spawn, limits, stop, handler).await;
    }))
}

fn spawn_dumps<N: Net, C: Clock, S: Spawn>(
    cx: &Context<N, C, S>,
    (trigger, sink): (DumpTrigger, Box<dyn DumpSink>),
) -> Task {
    let (node, clock) = (cx.node.clone(), cx.clock.clone());
    cx.spawn.spawn("flight recorder", async move {
        let content = move |lines: &mut Vec<String>| node.view(|_, mesh| mesh.dump(lines));
        serve_dumps(clock, trigger, sink, content).await;
    })
}
