//! Playing a plan to its end.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_core::entropy::{Entropy, Seed};
use holdfast_core::simulation::take_marks;
use holdfast_core::status::{LinkState, Queue};
use holdfast_plan::{
    Action, Device, Journal, KvFault, LinkFinal, NatIndex, NetworkFault, NodeIndex, PathClass,
    Place, Plan, PlayError, QueueReport, SETTLE, SlotSeen, TraceMode, What, WorldKind,
};

use crate::attack::STRANGER;
use crate::claims::{Claims, Scene};
use crate::engine::{Once, World};
use crate::node::Node;

/// How often queues are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Events in one second of a world, above what any plan needs: more is a loop without end.
const EVENTS_PER_SECOND_MAX: u64 = 20_000_000;
/// Operations of one plan.
const OPS_MAX: usize = 1 << 20;

fn failed(what: impl Into<String>) -> PlayError {
    PlayError::World {
        world: WorldKind::Core,
        what: what.into(),
    }
}

/// One run of one plan.
pub(crate) struct Player<'a> {
    plan: &'a Plan,
    pub(crate) world: World,
    pub(crate) stranger: holdfast_net_model::HostId,
    /// What attackers draw from.
    pub(crate) entropy: Entropy,
    steps_left: usize,
    settled_since: Option<Duration>,
    /// The peaks of each node and then of the brokers, in the order in which they name them.
    queues: Vec<Vec<QueueReport>>,
}

/// Play a plan to its end.
pub(crate) fn play(plan: &Plan, mode: TraceMode) -> Result<Journal, PlayError> {
    check(plan)?;
    take_marks();
    let mut player = Player::new(plan, mode)?;
    player.run()?;
    Ok(player.finish())
}

/// Plans are made by programs; a mistake in one is an error, never a panic.
fn check(plan: &Plan) -> Result<(), PlayError> {
    if let Some(problem) = Node::problem(&plan.topology) {
        return Err(failed(problem));
    }
    let (nodes, nats) = (plan.topology.nodes.len(), plan.topology.nats.len());
    let node = |n: NodeIndex| n.index() < nodes;
    let nat = |n: NatIndex| n.index() < nats;
    let place = |p: Place| match p {
        Place::Public => true,
        Place::Behind(n) => nat(n),
    };
    let servers = plan.topology.servers.brokers.clamp(1, 2);
    let fault = |fault: &NetworkFault| match fault {
        NetworkFault::Link { device, .. } => match device {
            Device::Node(n) => node(*n),
            Device::Nat(n) => nat(*n),
            Device::Server(n) => *n < servers,
        },
        NetworkFault::Cut { from, to } | NetworkFault::Mend { from, to } => {
            node(*from) && node(*to)
        }
        NetworkFault::Flush(n)
        | NetworkFault::Renumber { nat: n, .. }
        | NetworkFault::UdpBlocked { nat: n, .. } => nat(*n),
        NetworkFault::Move {
            node: n, place: p, ..
        } => node(*n) && place(*p),
    };
    let known = |action: &Action| match action {
        Action::Start(n) | Action::Stop(n) | Action::Crash(n) | Action::Pause(n) => node(*n),
        Action::Thaw(n) | Action::Wipe(n) | Action::Retire(n) => node(*n),
        Action::Kv(KvFault::Cut { node: n, .. }) => node(*n),
        Action::Kv(_) => true,
        Action::ClockStep { node: n, .. }
        | Action::Attack { node: n, .. }
        | Action::Strangers { node: n, .. } => node(*n),
        Action::Network(what) => fault(what),
        Action::Traffic(op) => node(op.from) && node(op.to) && op.from != op.to,
        Action::Broker { .. } | Action::BrokerLoss { .. } | Action::Turn { .. } | Action::Mark => {
            true
        }
    };
    if let Some(step) = plan.steps.iter().find(|step| !known(&step.action)) {
        return Err(failed(format!(
            "{:?} names something that is not in the topology",
            step.label
        )));
    }
    let wanted = plan.wanted.iter().all(|w| node(w.a) && node(w.b));
    let places = plan.topology.nodes.iter().all(|n| place(n.place));
    let earlier = |(n, spec): (usize, &holdfast_plan::NatSpec)| match spec.place {
        Place::Public => true,
        Place::Behind(outer) => outer.index() < n,
    };
    if !wanted || !places || !plan.topology.nats.iter().enumerate().all(earlier) {
        return Err(failed("the topology refers to something that is not in it"));
    }
    let ops: BTreeSet<_> = plan.ops().map(|op| op.id).collect();
    if ops.len() != plan.ops().count() || ops.len() > OPS_MAX {
        return Err(failed(
            "two operations have one number, or there are too many",
        ));
    }
    Ok(())
}

impl<'a> Player<'a> {
    fn new(plan: &'a Plan, mode: TraceMode) -> Result<Player<'a>, PlayError> {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&plan.seed.to_le_bytes());
        let seed = Seed::new(bytes);
        let error = |error: holdfast_net_model::TopologyError| failed(error.to_string());
        let mut world = World::new(&plan.topology, seed.clone(), mode).map_err(error)?;
        world.wanted = plan.wanted.clone();
        if let Some(membership) = &plan.membership {
            world.set_membership(membership);
        }
        let stranger = world.add_stranger(STRANGER.into()).map_err(error)?;
        for (n, step) in plan.steps.iter().enumerate() {
            let n = u32::try_from(n).map_err(|_| failed("too many steps"))?;
            world.timers.once(step.at, Once::Step(n));
        }
        world.timers.once(LOOK_EVERY, Once::Look);
        Ok(Player {
            plan,
            stranger,
            world,
            entropy: seed.fork("attacks").rng(),
            steps_left: plan.steps.len(),
            settled_since: None,
            queues: vec![Vec::new(); plan.topology.nodes.len() + 1],
        })
    }

    fn run(&mut self) -> Result<(), PlayError> {
        let (mut second, mut events) = (Duration::ZERO, 0u64);
        loop {
            let until = match self.settled_since {
                Some(since) => self.plan.ends_at.min(since + SETTLE),
                None => self.plan.ends_at,
            };
            match self.world.step(until) {
                None => {
                    self.world.now = until;
                    return Ok(());
                }
                Some(None) => {}
                Some(Some(Once::Op(n))) => {
                    self.world.go_on(n as usize);
                    self.world.flush();
                }
                Some(Some(Once::Step(n))) => self.happen(n as usize)?,
                Some(Some(Once::Look)) => {
                    self.look();
                    let next = self.world.now + LOOK_EVERY;
                    self.world.timers.once(next, Once::Look);
                }
            }
            if self.plan.ends_when_settled && std::mem::take(&mut self.world.stirred) {
                self.judge();
            }
            events += 1;
            if self.world.now >= second + Duration::from_secs(1) {
                (second, events) = (self.world.now, 0);
            } else if events > EVENTS_PER_SECOND_MAX {
                return Err(failed(format!(
                    "more than {EVENTS_PER_SECOND_MAX} events in the second after {second:?}: \
                     something goes round without end"
                )));
            }
        }
    }

    /// Whether everything is as it is wanted; it has to stay so for a while.
    fn judge(&mut self) {
        let claimed = self
            .world
            .with_claims(|claims, scene| claims.are_settled(scene));
        // Only looked at.
        self.world.stirred = false;
        let settled = self.steps_left == 0
            && self.world.ops.are_over()
            && self.world.all_wanted()
            && claimed.unwrap_or(true)
            && self.world.all_meshed();
        self.settled_since = match (settled, self.settled_since) {
            (false, _) => None,
            (true, None) => Some(self.world.now),
            (true, since) => since,
        };
    }

    fn happen(&mut self, n: usize) -> Result<(), PlayError> {
        let step = &self.plan.steps[n];
        self.steps_left -= 1;
        self.world.stirred = true;
        let now = self.world.now;
        self.world.journal.note(now, None, What::Step { step: n });
        let action = &step.action;
        let done = self
            .world
            .with_claims(|claims, scene| claim(claims, scene, action));
        if let Some(claimed) = done.transpose().map_err(failed)?
            && claimed
        {
            return Ok(());
        }
        let world = &mut self.world;
        match &step.action {
            Action::Start(node) => world.start(node.index()).map_err(|problems| {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                failed(problems.join("; "))
            })?,
            Action::Stop(node) => world.stop(node.index()),
            Action::Crash(node) => world.kill(node.index()),
            Action::Pause(node) => world.pause(node.index()),
            Action::Thaw(node) => world.thaw(node.index()),
            Action::ClockStep { node, by_ms } => world.step_clock(node.index(), *by_ms),
            Action::Network(fault) => {
                let built = world.built.clone();
                let done = built.apply(fault, now, &mut world.net);
                done.map_err(|error| failed(format!("{}: {error}", step.label)))?;
                if let NetworkFault::Move { node, address, .. } = fault {
                    world.moved(node.index(), *address);
                }
            }
            Action::Broker { broker, up } => world.set_broker(usize::from(*broker), *up),
            Action::BrokerLoss { lose, repeat } => {
                world.broker_loss.lose = *lose;
                world.broker_loss.repeat = *repeat;
            }
            Action::Turn { up } => world.set_turn(*up),
            Action::Attack { node, attack } => self.attack(node.index(), *attack),
            Action::Strangers { node, count } => self.strangers(node.index(), *count),
            Action::Traffic(op) => {
                world.begin(op.clone());
                world.flush();
            }
            // Of instances, and nodes are none.
            Action::Kv(_) | Action::Wipe(_) | Action::Retire(_) | Action::Mark => {}
        }
        self.look();
        Ok(())
    }

    // ---- queues ----

    fn look(&mut self) {
        for node in 0..self.world.nodes.len() {
            if let Some(mesh) = self.world.nodes[node].mesh() {
                keep_peaks(&mut self.queues[node], mesh.queues());
            }
        }
        let brokers = self.queues.last_mut().expect("one more than nodes");
        for broker in self.world.brokers.iter().flatten() {
            keep_peaks(brokers, broker.mailboxes().queues());
        }
    }

    // ---- the end ----

    fn finish(mut self) -> Journal {
        self.look();
        self.world.report_rest();
        self.world.with_claims(|claims, scene| claims.finish(scene));
        let nodes = self.world.nodes.len();
        for (owner, reports) in std::mem::take(&mut self.queues).into_iter().enumerate() {
            for what in reports.into_iter().map(What::Queue) {
                if owner < nodes {
                    self.world.note(owner, what);
                } else {
                    self.world.journal.note(self.world.now, None, what);
                }
            }
        }
        for node in 0..self.world.nodes.len() {
            for report in self.world.finals(node) {
                self.world.note_final(node, report);
            }
        }
        let mut journal = self.world.journal;
        journal.ended_at = self.world.now;
        journal.figures = self.world.figures;
        journal.marks = take_marks();
        journal
    }
}

/// Does what concerns instances; false when it is not for them.
fn claim<T: Copy + Ord>(
    claims: &mut Claims,
    scene: &mut Scene<'_, T>,
    action: &Action,
) -> Result<bool, String> {
    match action {
        Action::Start(node) => claims.start(scene, node.index())?,
        Action::Stop(node) => claims.end(scene, node.index(), Some(true)),
        Action::Crash(node) => claims.crash(scene, node.index()),
        Action::Wipe(node) => claims.wipe(scene, node.index()),
        Action::Retire(node) => claims.retire(scene, node.index()),
        // Its mesh, too.
        Action::Pause(node) => {
            claims.pause(node.index());
            return Ok(false);
        }
        Action::Thaw(node) => {
            claims.thaw(scene, node.index());
            return Ok(false);
        }
        Action::Kv(fault) => claims.disturb(scene, *fault),
        _ => return Ok(false),
    }
    Ok(true)
}

/// Remember the fullest that each queue has been. Names come in one order nearly always, so that
/// nothing has to be looked for.
fn keep_peaks(known: &mut Vec<QueueReport>, queues: Vec<Queue>) {
    for (n, queue) in queues.into_iter().enumerate() {
        let Queue { name, len, max } = queue;
        let at = match known.get(n) {
            Some(report) if report.name == name => Some(n),
            _ => known.iter().position(|report| report.name == name),
        };
        match at.map(|at| &mut known[at]) {
            None => known.push(QueueReport { name, len, max }),
            Some(report) if len > report.len => (report.len, report.max) = (len, max),
            Some(_) => {}
        }
    }
}

impl World {
    /// Whether both ends of every wanted link are up, on a path of the wanted class.
    fn all_wanted(&self) -> bool {
        let end = |from: NodeIndex, to: NodeIndex, class: Option<PathClass>| {
            let run = self.nodes[from.index()].run.as_ref();
            let link = self.link_between(from.index(), to.index());
            run.zip(link).is_some_and(|(run, link)| {
                let view = &run.views[link.index()];
                view.state == LinkState::Up && (class.is_none() || view.class == class)
            })
        };
        self.wanted
            .iter()
            .all(|w| end(w.a, w.b, w.class) && end(w.b, w.a, w.class))
    }

    /// Whether the owners of slots are all linked with each other.
    fn all_meshed(&self) -> bool {
        if self.claims.is_none() {
            return true;
        }
        let runs = || self.nodes.iter().filter(|node| node.is_running());
        let is_up = |node: &Node, slot: u16| {
            let run = node.run.as_ref();
            run.is_some_and(|run| {
                let views = run.peers.iter().zip(&run.views);
                let mut of = views.filter(|(peer, _)| peer.0 + 1 == slot);
                of.all(|(_, view)| view.state == LinkState::Up)
            })
        };
        runs().all(|node| runs().all(|other| is_up(node, other.slot())))
    }

    fn note_final(&mut self, node: usize, report: LinkFinal) {
        if self.claims.is_none() {
            return self.note(node, What::Final(report));
        }
        let name = self.nodes[node].spec.name.as_str();
        let what = SlotSeen::SlotLink {
            slot: report.peer.0 + 1,
            state: report.state,
        };
        let index = NodeIndex(node as u16);
        self.journal.note_slot(self.now, Some((index, name)), what);
    }

    fn finals(&self, node: usize) -> Vec<LinkFinal> {
        let Some(run) = &self.nodes[node].run else {
            return Vec::new();
        };
        let status = run.mesh.status(self.at(node));
        let links = status.links.iter().zip(&run.peers);
        links
            .map(|(link, peer)| LinkFinal {
                peer: *peer,
                state: link.state,
                class: link.selected().and_then(|path| path.class.parse().ok()),
            })
            .collect()
    }
}
