//! The world as a whole: time, steps, and the end.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use holdfast_core::entropy::Entropy;
use holdfast_core::simulation::take_marks;
use holdfast_core::status::LinkState;
use holdfast_plan::{
    Action, Journal, LinkFinal, NetworkFault, NodeIndex, PathClass, Plan, QueueReport, SETTLE,
    Step, TraceMode, UDP_PORT, Wanted, What,
};
use turmoil::Sim;

use crate::apps::Apps;
use crate::log::Log;
use crate::node::run_node;
use crate::observer;
use crate::outage::Outage;
use crate::outsider::{run_outsider, strangers};
use crate::routes::Routes;
use crate::server::run_server;
use crate::shared::Shared;
use crate::spawn::SimSpawn;

/// One step of turmoil: the resolution of everything. Its own limit is a millisecond.
const TICK: Duration = Duration::from_millis(1);
/// Segments that one direction of one TCP connection holds. turmoil's default of 64 would
/// let a relay over TCP carry 64 datagrams in a round trip.
const TCP_SEGMENTS_MAX: usize = 1024;
/// One way between the outsider and a server.
const OUTSIDER_DELAY: Duration = Duration::from_millis(10);
/// How often silent TCP connections are looked for.
const TEND_INTERVAL: Duration = Duration::from_millis(100);

/// A world in play.
pub struct World {
    sim: Sim<'static>,
    shared: Rc<Shared>,
    apps: Apps,
    log: Log,
    routes: Routes,
    strangers: Entropy,
    next_step: usize,
    settled_since: Option<Duration>,
    outage: Outage,
}

impl World {
    /// Build it.
    pub fn new(plan: &Plan, mode: TraceMode, log: Log) -> Result<World, String> {
        let shared = Shared::new(plan, mode)?;
        let mut sim = turmoil::Builder::new()
            .tick_duration(TICK)
            .rng_seed(plan.seed)
            .epoch(std::time::UNIX_EPOCH + crate::clock::EPOCH)
            // Bursts of failures and repairs of its own would undo what a plan says.
            .fail_rate(0.0)
            .repair_rate(0.0)
            .tcp_capacity(TCP_SEGMENTS_MAX)
            .build();
        for node in plan.topology.node_indices() {
            let host = shared.node_host(node);
            let (own, spawn) = (shared.clone(), SimSpawn::new(host.number));
            sim.host(IpAddr::V4(host.turmoil_ip), move || {
                spawn.scope("node", run_node(own.clone(), node))
            });
        }
        for server in 0..shared.servers.len() {
            let host = shared.server_host(server);
            let (own, spawn) = (shared.clone(), SimSpawn::new(host.number));
            sim.host(IpAddr::V4(host.turmoil_ip), move || {
                spawn.scope("server", run_server(own.clone(), server))
            });
        }
        let apps = Apps::new(&shared);
        let host = shared.apps_host();
        let (own, programs, spawn) = (shared.clone(), apps.clone(), SimSpawn::new(host.number));
        sim.host(IpAddr::V4(host.turmoil_ip), move || {
            let (own, programs, observers) = (own.clone(), programs.clone(), spawn.clone());
            spawn.scope("applications", async move {
                if own.plan.membership.is_none() {
                    observer::watch(&own, &observers);
                }
                programs.run().await
            })
        });
        let attacked = |step: &Step| matches!(step.action, Action::Attack { .. });
        if plan.steps.iter().any(attacked) {
            let host = shared.outsider_host();
            let (own, spawn) = (shared.clone(), SimSpawn::new(host.number));
            sim.host(IpAddr::V4(host.turmoil_ip), move || {
                spawn.scope("outsider", run_outsider(own.clone(), spawn.clone()))
            });
            // Like anybody's line.
            for server in 0..shared.servers.len() {
                let server = IpAddr::V4(shared.server_host(server).turmoil_ip);
                sim.set_link_latency(IpAddr::V4(host.turmoil_ip), server, OUTSIDER_DELAY);
            }
        }
        let mut world = World {
            sim,
            strangers: shared.seed.fork("strangers").rng(),
            routes: Routes::new(&plan.topology),
            shared,
            apps,
            log,
            next_step: 0,
            settled_since: None,
            outage: Outage::new(plan.topology.nodes.len()),
        };
        world.route_tcp();
        Ok(world)
    }

    /// One more host, with software of a test's.
    #[cfg(test)]
    pub fn add_host<F, T>(&mut self, ip: std::net::Ipv4Addr, software: F)
    where
        F: Fn() -> T + 'static,
        T: Future<Output = turmoil::Result> + 'static,
    {
        self.sim.host(IpAddr::V4(ip), software);
    }

    /// Play it to its end.
    pub fn run(mut self) -> Result<Journal, String> {
        let shared = self.shared.clone();
        // Of whatever this thread did before.
        take_marks();
        while !self.is_over() {
            shared.now.set(self.sim.elapsed());
            self.take_steps()?;
            self.start_again();
            self.tend_kv();
            for host in &shared.hosts {
                host.ports.tick();
            }
            shared.deliver();
            self.tend_tcp();
            self.sim.step().map_err(|error| error.to_string())?;
            for line in self.log.take() {
                shared.hear(&line);
            }
            shared.journal.borrow_mut().figures.events += 1;
        }
        Ok(self.finish())
    }

    fn now(&self) -> Duration {
        self.sim.elapsed()
    }

    fn is_over(&mut self) -> bool {
        let now = self.now();
        let plan = &self.shared.plan;
        if now >= plan.ends_at {
            return true;
        }
        let quiet = self.next_step == plan.steps.len() && self.shared.ops_open.get() == 0;
        let met = || plan.wanted.iter().all(|w| self.is_met(*w)) && self.are_claimed(now);
        if !plan.ends_when_settled || !quiet || !met() {
            self.settled_since = None;
            return false;
        }
        now >= *self.settled_since.get_or_insert(now) + SETTLE
    }

    /// Whether as many instances own a slot as can.
    fn are_claimed(&self, now: Duration) -> bool {
        let nodes = &self.shared.nodes;
        self.shared.plan.membership.as_ref().is_none_or(|m| {
            let runs = nodes.iter().filter(|node| node.wanted.get()).count();
            let owners = nodes.iter().filter(|node| node.member.owns(now)).count();
            owners == runs.min(m.slots.len())
        })
    }

    fn is_met(&self, wanted: Wanted) -> bool {
        let ends = [(wanted.a, wanted.b), (wanted.b, wanted.a)];
        ends.into_iter().all(|(node, peer)| {
            let found = self.links(node).into_iter().find(|link| link.peer == peer);
            found.is_some_and(|link| {
                let class = wanted.class.is_none() || wanted.class == link.class;
                link.state == LinkState::Up && class
            })
        })
    }

    /// What a node says of its links.
    fn links(&self, node: NodeIndex) -> Vec<LinkFinal> {
        let status = self.shared.nodes[node.index()].status.borrow();
        let links = status.iter().flat_map(|status| &status.mesh.links);
        let named = links.filter_map(|link| {
            let class = link.selected().map(|path| path.class.parse::<PathClass>());
            Some(LinkFinal {
                peer: self.shared.plan.topology.find(link.peer.as_str())?,
                state: link.state,
                class: class.and_then(Result::ok),
            })
        });
        named.collect()
    }

    fn take_steps(&mut self) -> Result<(), String> {
        let now = self.now();
        let shared = self.shared.clone();
        while let Some(step) = shared.plan.steps.get(self.next_step) {
            if step.at > now {
                break;
            }
            shared.note(
                None,
                What::Step {
                    step: self.next_step,
                },
            );
            self.next_step += 1;
            self.act(&step.action)?;
        }
        Ok(())
    }

    fn act(&mut self, action: &Action) -> Result<(), String> {
        let shared = self.shared.clone();
        match action {
            Action::Start(node) => self.start(*node),
            Action::Stop(node) => {
                let state = &shared.nodes[node.index()];
                state.again.set(false);
                if let Some(stop) = &*state.stop.borrow() {
                    // Nobody hears it when the node has just ended by itself.
                    state.stopping.set(stop.send(true).is_ok());
                }
            }
            Action::Crash(node) => self.crash(*node),
            Action::Pause(_) | Action::Thaw(_) => {
                return Err("a host of turmoil cannot stand still".to_owned());
            }
            Action::ClockStep { node, by_ms } => shared.node_host(*node).clock.step(*by_ms),
            Action::Network(fault) => self.disturb(fault)?,
            Action::Broker { broker, up } => {
                if let Some(server) = shared.servers.get(usize::from(*broker)) {
                    server.broker.set(*up);
                    server.changed.notify_one();
                }
            }
            Action::BrokerLoss { lose, repeat } => shared.broker_loss.set((*lose, *repeat)),
            Action::Turn { up } => {
                shared.servers[0].turn.set(*up);
                shared.servers[0].changed.notify_one();
            }
            Action::Attack { node, attack } => shared.attacks.push((*node, *attack)),
            Action::Strangers { node, count } => self.strangers(*node, *count),
            Action::Traffic(op) => {
                shared.ops_open.set(shared.ops_open.get() + 1);
                shared.ops.push(op.clone());
            }
            Action::Wipe(node) => {
                self.crash(*node);
                shared.nodes[node.index()].member.wipe();
            }
            Action::Retire(node) => {
                let state = &shared.nodes[node.index()];
                state.again.set(false);
                if state.running.get() {
                    state.member.retire();
                }
            }
            Action::Kv(fault) => {
                let now = self.now();
                self.outage.disturb(now, &shared.servers[0], *fault);
            }
            Action::Mark => {}
        }
        Ok(())
    }

    fn start(&mut self, node: NodeIndex) {
        let state = &self.shared.nodes[node.index()];
        if state.running.get() {
            // It may still be saying goodbye.
            return state.again.set(state.stopping.get());
        }
        if !state.wanted.replace(true) {
            let host = self.shared.node_host(node);
            self.sim.bounce(IpAddr::V4(host.turmoil_ip));
        }
    }

    /// Start what has ended meanwhile and was to start again.
    fn start_again(&mut self) {
        let shared = self.shared.clone();
        for (n, state) in shared.nodes.iter().enumerate() {
            if state.again.get() && !state.running.get() {
                state.again.set(false);
                self.start(NodeIndex(n as u16));
            }
        }
    }

    fn crash(&mut self, node: NodeIndex) {
        let state = &self.shared.nodes[node.index()];
        if !state.running.get() {
            return state.wanted.set(false);
        }
        let host = self.shared.node_host(node);
        let sim = &mut self.sim;
        host.loopback
            .killed(|| sim.crash(IpAddr::V4(host.turmoil_ip)));
        state.gone(&self.shared, node, false);
    }

    fn disturb(&mut self, fault: &NetworkFault) -> Result<(), String> {
        let shared = self.shared.clone();
        shared.fabric.borrow_mut().apply(shared.now.get(), fault)?;
        if let NetworkFault::Move { node, address, .. } = fault {
            let host = shared.node_host(*node);
            host.set_address(*address);
            host.wires.moved(shared.now.get());
        }
        self.routes.apply(fault);
        self.route_tcp();
        Ok(())
    }

    /// Give turmoil's links the delays and the black holes of the model.
    fn route_tcp(&mut self) {
        let shared = &self.shared;
        for (node, server, change) in self.routes.changes(shared.now.get()) {
            let a = IpAddr::V4(shared.node_host(node).turmoil_ip);
            let b = IpAddr::V4(shared.server_host(server).turmoil_ip);
            self.sim.set_link_latency(a, b, change.delay);
            match change.silent {
                Some(true) => self.sim.hold(a, b),
                Some(false) if server == 0 && self.outage.holds(node) => {}
                Some(false) => self.sim.release(a, b),
                None => {}
            }
        }
    }

    fn tend_kv(&mut self) {
        for (node, hold) in self.outage.tend(self.now(), &self.shared.servers[0]) {
            let a = IpAddr::V4(self.shared.node_host(node).turmoil_ip);
            let b = IpAddr::V4(self.shared.server_host(0).turmoil_ip);
            match hold {
                true => self.sim.hold(a, b),
                false if self.routes.silent_since(node, 0).is_some() => {}
                false => self.sim.release(a, b),
            }
        }
    }

    fn tend_tcp(&self) {
        let now = self.shared.now.get();
        if !now.as_millis().is_multiple_of(TEND_INTERVAL.as_millis()) {
            return;
        }
        let nodes = self.shared.nodes.len();
        for host in &self.shared.hosts[..nodes + self.shared.servers.len()] {
            host.wires.tend(now, |peer| {
                let other = self
                    .shared
                    .hosts
                    .iter()
                    .find(|h| IpAddr::V4(h.turmoil_ip) == peer)?;
                let (node, server) = (host.number.min(other.number), host.number.max(other.number));
                self.routes
                    .silent_since(NodeIndex(node as u16), server.checked_sub(nodes)?)
            });
        }
    }

    fn strangers(&mut self, node: NodeIndex, count: u32) {
        let host = self.shared.node_host(node);
        let to = SocketAddr::new(host.address(), UDP_PORT);
        for (from, bytes) in strangers(&mut self.strangers, count) {
            self.shared.arrive(host, from, to, bytes);
        }
    }

    fn finish(self) -> Journal {
        let shared = &self.shared;
        shared.now.set(self.now());
        self.apps.finish();
        for node in shared.plan.topology.node_indices() {
            shared.nodes[node.index()].member.gone(shared, node);
        }
        for node in shared.plan.topology.node_indices() {
            for link in self.links(node) {
                shared.note(Some(node), What::Final(link));
            }
            for (name, (len, max)) in shared.nodes[node.index()].queues.take() {
                shared.note(Some(node), What::Queue(QueueReport { name, len, max }));
            }
        }
        let mut journal = shared.journal.take();
        journal.ended_at = self.now();
        journal.marks = take_marks();
        journal
    }
}
