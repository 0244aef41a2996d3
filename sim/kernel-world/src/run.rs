//! One run: steps at their times, and everything that is seen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_core::status::LinkState;
use holdfast_lab::Direction;
use holdfast_plan::{
    Action, CLUSTER, Device, Journal, LinkFinal, NetworkFault, NodeIndex, OpId, PathClass, Plan,
    QueueReport, SETTLE, TraceMode, Wanted, What,
};

use crate::agent::{Agent, Clock, Command, Page, Seen, World};
use crate::map::{self, link_spec, nat_name, node_name};
use crate::stage::{Program, Stage, StageError};
use crate::story::Story;

/// The longest time without a look at the processes.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A page that is older says nothing of now.
const PAGE_AGE_MAX: Duration = Duration::from_secs(1);
/// How long a killed process may take to end.
const KILL_BOUND: Duration = Duration::from_secs(5);

/// A node's process, as far as the plan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// It does not run.
    Down,
    /// It runs.
    Up,
    /// It was told to stop; what follows is whether it shall start once it has.
    Stopping(bool),
}

/// A plan in progress.
pub struct Run<'a> {
    plan: &'a Plan,
    clock: Clock,
    seen: Receiver<(NodeIndex, Seen)>,
    story: Story<'a>,
    lives: Vec<Life>,
    pages: Vec<Option<(Duration, Box<Page>)>>,
    queues: BTreeMap<(NodeIndex, String), (u64, u64)>,
    open_ops: BTreeSet<OpId>,
    events: u64,
    settled_at: Option<Duration>,
    // In the order in which they end.
    agents: Vec<Agent>,
    kills: Arc<Vec<AtomicU32>>,
    stage: Stage,
}

impl<'a> Run<'a> {
    /// Builds the world of a plan; its time begins when this returns.
    pub fn new(plan: &'a Plan, mode: TraceMode) -> Result<Run<'a>, StageError> {
        let wire = Program::Wire.path()?;
        let mut described = Ok(());
        let mut stage = Stage::new(|builder| {
            map::describe(plan, &wire, builder.clone()).unwrap_or_else(|error| {
                described = Err(error);
                builder
            })
        })?;
        described?;
        prepare(plan, &mut stage, mode)?;
        let (sender, seen) = mpsc::channel();
        let topology = &plan.topology;
        let vip = |node| Ipv4Addr::new(127, 50, 0, map::claimed_vip(topology, node) as u8);
        let clock = Clock {
            origin: Instant::now(),
        };
        let kills: Vec<AtomicU32> = topology.nodes.iter().map(|_| AtomicU32::new(0)).collect();
        let kills = Arc::new(kills);
        let world = World {
            clock,
            kills: Arc::clone(&kills),
            ops: Arc::new(plan.ops().map(|op| (op.id, op.clone())).collect()),
            vips: Arc::new(topology.node_indices().map(vip).collect()),
            names: Arc::new(topology.nodes.iter().map(|n| n.name.clone()).collect()),
            tallies: Arc::new(Mutex::new(BTreeMap::new())),
            seen: sender,
        };
        let mut agents = Vec::new();
        for node in topology.node_indices() {
            let name = node_name(node);
            let (door, log) = (stage.lab.door(&name)?, stage.log_path(&name));
            let address = topology.node(node).address;
            let agent = Agent::start(door, node, address, log, world.clone());
            agents.push(agent.map_err(|source| StageError::Agent { name, source })?);
        }
        let nodes = topology.nodes.len();
        Ok(Run {
            plan,
            clock,
            seen,
            story: Story::new(plan, mode),
            lives: vec![Life::Down; nodes],
            pages: vec![None; nodes],
            queues: BTreeMap::new(),
            open_ops: plan.ops().map(|op| op.id).collect(),
            events: 0,
            settled_at: None,
            agents,
            kills,
            stage,
        })
    }

    /// Plays it to its end.
    pub fn play(mut self) -> Result<Journal, StageError> {
        let plan = self.plan;
        let mut steps = plan.steps.iter().enumerate().peekable();
        loop {
            let now = self.clock.now();
            while let Some((number, step)) = steps.next_if(|(_, step)| step.at <= now) {
                self.note(None, What::Step { step: number });
                self.act(number, &step.action)?;
            }
            self.look_at_processes()?;
            let now = self.clock.now();
            if now >= plan.ends_at || self.is_over(now, steps.peek().is_none()) {
                return self.end();
            }
            let next_step = steps.peek().map_or(plan.ends_at, |(_, step)| step.at);
            let wait = next_step.saturating_sub(now).min(LOOK_EVERY);
            match self.seen.recv_timeout(wait) {
                Ok((node, seen)) => self.take(node, seen),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    fn note(&mut self, node: Option<NodeIndex>, what: What) {
        self.story.note(self.clock.now(), node, what);
    }

    fn take(&mut self, node: NodeIndex, seen: Seen) {
        self.events += 1;
        match seen {
            Seen::What(at, what) => self.story.note(at, Some(node), what),
            Seen::Done(op) => {
                self.open_ops.remove(&op);
            }
            Seen::Recorder(started_at, lines) => self.story.record(node, started_at, lines),
            Seen::Page(at, page) => {
                for queue in &page.queues {
                    let key = (node, queue.name.clone());
                    let fullest = self.queues.entry(key).or_insert((queue.len, queue.max));
                    if queue.len > fullest.0 {
                        *fullest = (queue.len, queue.max);
                    }
                }
                if self.lives[node.index()] != Life::Down {
                    self.pages[node.index()] = Some((at, page));
                }
            }
        }
    }

    fn act(&mut self, number: usize, action: &Action) -> Result<(), StageError> {
        match action {
            Action::Start(node) => return self.start(*node),
            Action::Stop(node) => {
                if self.lives[node.index()] == Life::Up {
                    self.lives[node.index()] = Life::Stopping(false);
                    self.signal(*node, libc::SIGTERM);
                }
            }
            Action::Crash(node) => self.crash(*node)?,
            Action::Pause(node) => self.signal(*node, libc::SIGSTOP),
            Action::Thaw(node) => self.signal(*node, libc::SIGCONT),
            Action::Network(fault) => break_network(&mut self.stage, fault)?,
            Action::Broker { broker, up: true } => {
                self.stage.start_broker(usize::from(*broker))?;
            }
            Action::Broker { broker, up: false } => self.stage.end_broker(usize::from(*broker)),
            Action::Turn { up: true } => self.stage.start_turn()?,
            Action::Turn { up: false } => self.stage.end_turn(),
            Action::Strangers { node, count } => {
                let seed = self.plan.seed ^ (number as u64) << 32;
                let count = *count;
                self.agents[node.index()].ask(Command::Strangers { count, seed });
            }
            Action::Traffic(op) => self.agents[op.from.index()].ask(Command::Talk(op.clone())),
            // Refused before the run began, or nothing to do.
            Action::Mark
            | Action::Kv(_)
            | Action::Wipe(_)
            | Action::Retire(_)
            | Action::ClockStep { .. }
            | Action::BrokerLoss { .. }
            | Action::Attack { .. } => {}
        }
        Ok(())
    }

    fn start(&mut self, node: NodeIndex) -> Result<(), StageError> {
        match &mut self.lives[node.index()] {
            Life::Up => return Ok(()),
            Life::Stopping(again) => {
                *again = true;
                return Ok(());
            }
            Life::Down => {}
        }
        self.stage.start(&node_name(node))?;
        self.lives[node.index()] = Life::Up;
        self.note(Some(node), What::Started);
        Ok(())
    }

    fn crash(&mut self, node: NodeIndex) -> Result<(), StageError> {
        if let Some(mut process) = self.stage.remove(&node_name(node)) {
            // Before it happens: whoever sees the consequences must know the reason.
            self.kills[node.index()].fetch_add(1, Ordering::SeqCst);
            // It may just have ended by itself.
            let _ = process.signal(libc::SIGKILL);
            process.wait_end(KILL_BOUND)?;
            self.ended(node, false);
        }
        Ok(())
    }

    fn ended(&mut self, node: NodeIndex, clean: bool) {
        self.lives[node.index()] = Life::Down;
        self.pages[node.index()] = None;
        self.note(Some(node), What::Ended { clean });
    }

    fn signal(&mut self, node: NodeIndex, signal: i32) {
        if let Some(process) = self.stage.process(&node_name(node)) {
            // One that has just ended by itself is found so at the next look.
            let _ = process.signal(signal);
        }
    }

    fn look_at_processes(&mut self) -> Result<(), StageError> {
        for node in self.plan.topology.node_indices() {
            let name = node_name(node);
            let Some(status) = self.stage.process(&name).and_then(|p| p.ended()) else {
                continue;
            };
            self.stage.remove(&name);
            let again = self.lives[node.index()] == Life::Stopping(true);
            self.ended(node, status.success());
            if again {
                self.start(node)?;
            }
        }
        Ok(())
    }

    fn is_over(&mut self, now: Duration, all_steps: bool) -> bool {
        let settled = self.plan.ends_when_settled
            && all_steps
            && self.open_ops.is_empty()
            && self.plan.wanted.iter().all(|wanted| self.has(now, wanted));
        if !settled {
            self.settled_at = None;
            return false;
        }
        let since = *self.settled_at.get_or_insert(now);
        now.saturating_sub(since) >= SETTLE
    }

    /// Whether both ends of a link are as they must be.
    fn has(&self, now: Duration, wanted: &Wanted) -> bool {
        let ends = [(wanted.a, wanted.b), (wanted.b, wanted.a)];
        ends.into_iter().all(|(node, peer)| {
            let Some((at, page)) = &self.pages[node.index()] else {
                return false;
            };
            let found = finals(self.plan, page).find(|link| link.peer == peer);
            let class = wanted.class;
            now.saturating_sub(*at) <= PAGE_AGE_MAX
                && found.is_some_and(|link| {
                    link.state == LinkState::Up && (class.is_none() || link.class == class)
                })
        })
    }

    fn end(mut self) -> Result<Journal, StageError> {
        let ended_at = self.clock.now();
        let recorder = self.story.is_traced();
        for agent in &self.agents {
            agent.ask(Command::End { recorder });
        }
        for (node, agent) in self.plan.topology.node_indices().zip(&mut self.agents) {
            let name = node_name(node);
            let ended = agent.join();
            ended.map_err(|source| StageError::Agent { name, source })?;
        }
        while let Ok((node, seen)) = self.seen.try_recv() {
            self.take(node, seen);
        }
        for (node, page) in self.plan.topology.node_indices().zip(&self.pages) {
            let links = page.iter().flat_map(|(_, page)| finals(self.plan, page));
            for link in links {
                self.story.note(ended_at, Some(node), What::Final(link));
            }
        }
        for ((node, name), (len, max)) in std::mem::take(&mut self.queues) {
            let report = QueueReport { name, len, max };
            self.story.note(ended_at, Some(node), What::Queue(report));
        }
        Ok(self.story.into_journal(ended_at, self.events))
    }
}

/// Breaks the network like that, or mends it.
///
/// # Errors
/// What the lab says.
pub fn break_network(stage: &mut Stage, fault: &NetworkFault) -> Result<(), StageError> {
    match fault {
        NetworkFault::Link { device, links } => {
            let name = match device {
                Device::Node(node) => node_name(*node),
                Device::Nat(nat) => nat_name(*nat),
                // Refused before the run began.
                Device::Server(_) => return Ok(()),
            };
            let directions = [(Direction::Up, &links.up), (Direction::Down, &links.down)];
            for (direction, config) in directions {
                let spec = link_spec(config)?;
                stage.lab.set_link(&name, direction, &spec)?;
            }
        }
        NetworkFault::Flush(nat) => stage.lab.flush_nat(&nat_name(*nat))?,
        NetworkFault::UdpBlocked { nat, on } => {
            let name = nat_name(*nat);
            let mut changed = stage.lab.nat(&name)?.clone();
            changed.udp_blocked = *on;
            stage.lab.set_nat(&name, changed)?;
        }
        // Refused before the run began.
        NetworkFault::Cut { .. }
        | NetworkFault::Mend { .. }
        | NetworkFault::Renumber { .. }
        | NetworkFault::Move { .. } => {}
    }
    Ok(())
}

/// The secrets, the configurations, and the servers.
fn prepare(plan: &Plan, stage: &mut Stage, mode: TraceMode) -> Result<(), StageError> {
    let topology = &plan.topology;
    let traced = mode != TraceMode::Off;
    for node in topology.node_indices() {
        let cluster = topology.node(node).cluster;
        if cluster != CLUSTER {
            stage.write_cluster_secret(&map::secret_file(cluster), [cluster; 32])?;
        }
        stage.configure(&node_name(node), &map::node_config(topology, node, traced))?;
        let found = stage.lab.address(&node_name(node))?;
        let said = topology.node(node).address;
        if found != said {
            return Err(StageError::Address {
                name: node_name(node),
                said,
                found,
            });
        }
    }
    for broker in 0..topology.servers.brokers.clamp(1, 2) {
        stage.start_broker(usize::from(broker))?;
    }
    stage.start_turn()
}

/// How links are, by a status page.
fn finals<'p>(plan: &'p Plan, page: &'p Page) -> impl Iterator<Item = LinkFinal> + 'p {
    page.links.iter().filter_map(|link| {
        let class = link.selected().and_then(|path| path.class.parse().ok());
        Some(LinkFinal {
            peer: plan.topology.find(link.peer.as_str())?,
            state: link.state,
            class: class as Option<PathClass>,
        })
    })
}
