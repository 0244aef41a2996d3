//! What happens inside of a node's namespace: its applications, and the observer who reads its
//! log and its status page. One thread per node, with a runtime of its own.

mod datagrams;
mod log;
mod page;
mod strangers;
mod streams;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, net::IpAddr};

use holdfast_lab::Door;
use holdfast_plan::{NodeIndex, Op, OpId, OpKind, Service, What};
use tokio::runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

use datagrams::Tally;
pub use page::Page;

/// How often a node's log and status are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(75);

/// The time of the world.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// When the world began.
    pub origin: Instant,
}

impl Clock {
    /// Since the world began.
    pub fn now(self) -> Duration {
        self.origin.elapsed()
    }
}

/// What an agent tells the world.
#[derive(Debug)]
pub enum Seen {
    /// Something was observed.
    What(Duration, What),
    /// An operation has ended.
    Done(OpId),
    /// The node's status page.
    Page(Duration, Box<Page>),
    /// The content of its flight recorder, and how old the node is.
    Recorder(Duration, Vec<String>),
}

/// What the world asks of an agent.
#[derive(Debug)]
pub enum Command {
    /// Begin this operation.
    Talk(Op),
    /// Let strangers send that many datagrams to the node, drawn from that seed.
    Strangers {
        /// How many.
        count: u32,
        /// What they are drawn from.
        seed: u64,
    },
    /// End everything.
    End {
        /// Read the node's flight recorder before.
        recorder: bool,
    },
}

/// What agents know of their world.
#[derive(Clone, Debug)]
pub struct World {
    /// Its time.
    pub clock: Clock,
    /// All operations.
    pub ops: Arc<BTreeMap<OpId, Op>>,
    /// The virtual addresses of all nodes, which intruders share with whom they pose as.
    pub vips: Arc<Vec<Ipv4Addr>>,
    /// The names of all nodes.
    pub names: Arc<Vec<String>>,
    /// How often each node's process was killed.
    pub kills: Arc<Vec<AtomicU32>>,
    /// What servers received of each conversation by datagrams.
    pub tallies: Arc<Mutex<BTreeMap<OpId, Tally>>>,
    /// Where to say what is seen, and by whom.
    pub seen: Sender<(NodeIndex, Seen)>,
}

/// A node, as its agent sees it.
#[derive(Clone, Debug)]
pub struct Context {
    node: NodeIndex,
    address: Ipv4Addr,
    /// The port of its UDP socket, while it is known.
    port: Rc<Cell<Option<u16>>>,
    log: PathBuf,
    world: World,
    /// Streams that services serve now.
    serving: Rc<Cell<usize>>,
}

impl Context {
    fn now(&self) -> Duration {
        self.world.clock.now()
    }

    fn vip(&self, node: NodeIndex) -> Ipv4Addr {
        self.world.vips[node.index()]
    }

    /// The node of a virtual address; of several, the first, whom the others pose as.
    fn node_at(&self, ip: IpAddr) -> Option<NodeIndex> {
        let found = self.world.vips.iter().position(|vip| *vip == ip)?;
        Some(NodeIndex(found as u16))
    }

    fn node_named(&self, name: &str) -> Option<NodeIndex> {
        let found = self.world.names.iter().position(|known| known == name)?;
        Some(NodeIndex(found as u16))
    }

    /// How often the node's process was killed.
    fn kills(&self) -> u32 {
        self.world.kills[self.node.index()].load(Ordering::SeqCst)
    }

    fn tell(&self, seen: Seen) {
        // The world that nobody listens to any more is ending.
        let _ = self.world.seen.send((self.node, seen));
    }

    fn saw(&self, what: What) {
        self.tell(Seen::What(self.now(), what));
    }
}

/// The thread in a node's namespace.
#[derive(Debug)]
pub struct Agent {
    commands: UnboundedSender<Command>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Agent {
    /// Starts it, with the services of the node.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(
        door: Door,
        node: NodeIndex,
        address: Ipv4Addr,
        log: PathBuf,
        world: World,
    ) -> io::Result<Agent> {
        let (commands, receiver) = unbounded_channel();
        let thread = thread::Builder::new().name(format!("agent-{}", node.vip()));
        let thread = thread.spawn(move || {
            door.enter()?;
            let context = Context {
                node,
                address,
                port: Rc::default(),
                log,
                world,
                serving: Rc::default(),
            };
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            // What still runs at the end is dropped with these, and reports how far it came.
            let local = LocalSet::new();
            local.block_on(&runtime, live(context, receiver))
        })?;
        Ok(Agent {
            commands,
            thread: Some(thread),
        })
    }

    /// Asks it for something.
    pub fn ask(&self, command: Command) {
        // An agent that could not start says why when it is joined.
        let _ = self.commands.send(command);
    }

    /// Waits for its end, after [`Command::End`].
    ///
    /// # Errors
    /// Why it could not do its work.
    pub fn join(&mut self) -> io::Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(ended)) => ended,
            Some(Err(_)) => Err(io::Error::other("it panicked")),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.ask(Command::End { recorder: false });
        let _ = self.join();
    }
}

async fn live(cx: Context, mut commands: UnboundedReceiver<Command>) -> io::Result<()> {
    for service in [
        Service::Echo,
        Service::Sink,
        Service::Stopped,
        Service::Forbidden,
    ] {
        let addr = SocketAddr::from((cx.vip(cx.node), service.port()));
        streams::serve(&cx, service, addr).await?;
        datagrams::serve(&cx, service, addr).await?;
    }
    let mut log = log::Tail::new(&cx);
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {
                log.look();
                page::look(&cx).await;
            }
            command = commands.recv() => match command {
                Some(Command::Talk(op)) => {
                    spawn_local(talk(cx.clone(), op));
                }
                Some(Command::Strangers { count, seed }) => {
                    spawn_local(strangers::knock(cx.clone(), count, seed));
                }
                Some(Command::End { recorder }) => {
                    if recorder {
                        page::recorder(&cx).await;
                    }
                    log.look();
                    return Ok(());
                }
                None => return Ok(()),
            },
        }
    }
}

async fn talk(cx: Context, op: Op) {
    let id = op.id;
    match op.kind {
        OpKind::Stream { bytes, patience } => streams::talk(&cx, &op, bytes, patience).await,
        OpKind::Datagrams {
            count,
            interval,
            len_bytes,
        } => datagrams::talk(&cx, &op, count, interval, len_bytes).await,
    }
    cx.tell(Seen::Done(id));
}

/// The longest silence between bytes or datagrams.
#[derive(Clone, Copy, Debug, Default)]
struct Gaps {
    first: Option<Duration>,
    last: Option<Duration>,
    max: Option<(Duration, Duration)>,
}

impl Gaps {
    fn arrived(&mut self, at: Duration) {
        self.first.get_or_insert(at);
        if let Some(last) = self.last {
            let gap = at.saturating_sub(last);
            if self.max.is_none_or(|(longest, _)| gap > longest) {
                self.max = Some((gap, last));
            }
        }
        self.last = Some(at);
    }
}
