//! One run of a plan with slots.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use holdfast_bootstrap::testing::Agent as GuestAgent;
use holdfast_core::status::LinkState;
use holdfast_lab::PUB;
use holdfast_lab::process::{Process, wait_for};
use holdfast_plan::{Action, Journal, KvFault, NodeIndex, Plan, SETTLE, SlotSeen, TraceMode, What};

use super::config;
use super::record::{End, Record};
use super::setup::{failed, only_these_secrets, prepare, publish};
use super::watch::{self, Said, Seen, Sight, Subject, Watch};
use super::{Cast, kv};
use crate::agent::Clock;
use crate::map::{self, node_name};
use crate::run::break_network;
use crate::stage::{Program, Stage, StageError};
use crate::story::Story;

/// The longest time without a look at the processes.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A page that is older says nothing of now.
const PAGE_AGE_MAX: Duration = Duration::from_secs(1);
/// How long killed processes may take to end: children are killed by the kernel when their
/// sidecar is gone.
const KILL_BOUND: Duration = Duration::from_secs(5);
/// Whoever looks after a sidecar that ended, as its slot was lost, starts it again after this.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// What a sidecar exits with that has lost its slot, `docs/membership.md`.
const SLOT_LOST: i32 = 4;
/// An instance, as far as the plan goes.
#[derive(Debug, Default)]
struct Member {
    process: Option<Process>,
    /// It was told to stop; whether it shall start once it has.
    stopping: Option<bool>,
    restart_at: Option<Duration>,
    page: Option<Sight>,
}

/// A plan with slots in progress.
pub struct Run<'a> {
    cast: Cast<'a>,
    clock: Clock,
    seen: Receiver<Seen>,
    story: Story<'a>,
    record: Record,
    lives: Arc<Vec<AtomicU32>>,
    gateways: Vec<Ipv4Addr>,
    events: u64,
    settled_at: Option<Duration>,
    // In the order in which they end.
    watches: Vec<(String, Watch)>,
    members: Vec<Member>,
    _tees: Vec<GuestAgent>,
    stage: Stage,
}

impl<'a> Run<'a> {
    /// Builds the world of a plan; its time begins when this returns.
    ///
    /// # Errors
    /// What cannot be built.
    ///
    /// # Panics
    /// On a plan without slots.
    pub fn new(plan: &'a Plan, mode: TraceMode, consul: &'a Path) -> Result<Run<'a>, StageError> {
        let cast = Cast::of(plan).expect("others are played by another");
        let wire = Program::Wire.path()?;
        let mut described = Ok(());
        let mut stage = Stage::new(|builder| {
            let lab = map::describe(plan, &wire, builder.clone());
            let lab = lab.unwrap_or_else(|error| {
                described = Err(error);
                builder
            });
            publish(cast, lab)
        })?;
        described?;
        let gateways = cast.coordinators().map(|(node, _)| {
            let name = node_name(node);
            stage.lab.public_address(&name)
        });
        let gateways = gateways.collect::<Result<Vec<_>, _>>()?;
        let tees = prepare(cast, &mut stage, consul, &gateways)?;
        let nodes: Vec<NodeIndex> = plan.topology.node_indices().collect();
        let lives: Vec<AtomicU32> = nodes.iter().map(|_| AtomicU32::new(0)).collect();
        let lives = Arc::new(lives);
        let (sender, seen) = mpsc::channel();
        let clock = Clock {
            origin: Instant::now(),
        };
        let mut watches = Vec::new();
        for node in nodes.iter().copied() {
            let name = node_name(node);
            let subject = Subject {
                node,
                clock,
                lives: Arc::clone(&lives),
                folder: stage.lab.folder(),
                seen: sender.clone(),
            };
            let door = stage.lab.door(&name)?;
            let watch = Watch::start(format!("watch-{name}"), door, move |over| {
                watch::look_on(&subject, over);
            });
            watches.push((name.clone(), watch.map_err(failed(&name))?));
        }
        let (to, of) = (sender, gateways.clone());
        let watch = Watch::start("watch-kv".to_owned(), stage.lab.door(PUB)?, move |over| {
            kv::look_on(&of, clock, &to, over);
        });
        watches.push((PUB.to_owned(), watch.map_err(failed(PUB))?));
        Ok(Run {
            cast,
            clock,
            seen,
            story: Story::new(plan, mode),
            record: Record::default(),
            lives,
            gateways,
            events: 0,
            settled_at: None,
            watches,
            members: nodes.iter().map(|_| Member::default()).collect(),
            _tees: tees,
            stage,
        })
    }

    /// Plays it to its end.
    ///
    /// # Errors
    /// What cannot be kept running.
    pub fn play(mut self) -> Result<Journal, StageError> {
        let plan = self.cast.plan;
        let mut steps = plan.steps.iter().enumerate().peekable();
        loop {
            let now = self.clock.now();
            while let Some((number, step)) = steps.next_if(|(_, step)| step.at <= now) {
                self.note(None, What::Step { step: number });
                self.act(&step.action)?;
            }
            self.look_at_processes()?;
            let now = self.clock.now();
            if now >= plan.ends_at || self.is_over(now, steps.peek().is_none()) {
                return self.end();
            }
            let next_step = steps.peek().map_or(plan.ends_at, |(_, step)| step.at);
            let wait = next_step.saturating_sub(now).min(LOOK_EVERY);
            match self.seen.recv_timeout(wait) {
                Ok(seen) => self.take(seen),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    fn note(&mut self, node: Option<NodeIndex>, what: What) {
        self.story.note(self.clock.now(), node, what);
    }

    fn life(&self, node: NodeIndex) -> u32 {
        self.lives[node.index()].load(Ordering::SeqCst)
    }

    fn take(&mut self, seen: Seen) {
        self.events += 1;
        match seen {
            Seen::Page(node, life, sight) => {
                self.record.page(node, life, &sight);
                let is_now = life == self.life(node);
                let member = &mut self.members[node.index()];
                if is_now && member.process.is_some() {
                    let before = member
                        .page
                        .as_ref()
                        .map(|seen| &seen.page.sidecar.not_ready);
                    let reasons = &sight.page.sidecar.not_ready;
                    if before != Some(reasons) {
                        let what = match reasons.is_empty() {
                            true => "ready".to_owned(),
                            false => format!("not ready: {}", reasons.join("; ")),
                        };
                        self.story.say(sight.told_at, node, what);
                    }
                    member.page = Some(sight);
                }
            }
            Seen::Said(node, _, at, Said::Error(line)) => {
                self.story.note(at, Some(node), What::Error { line });
            }
            Seen::Said(node, life, at, said) => self.record.said(node, life, at, said),
            Seen::Change(change) => self.record.changed(change),
        }
    }

    // ---- what the plan says ----

    fn act(&mut self, action: &Action) -> Result<(), StageError> {
        match action {
            Action::Start(node) => self.start(*node)?,
            Action::Stop(node) => {
                let member = &mut self.members[node.index()];
                member.restart_at = None;
                if let Some(process) = &member.process {
                    member.stopping = Some(false);
                    // It may just have ended by itself.
                    let _ = process.signal(libc::SIGTERM);
                }
            }
            Action::Crash(node) => self.kill(*node)?,
            Action::Wipe(node) => {
                self.kill(*node)?;
                let disk = config::disk(&self.stage.lab.folder(), *node);
                match fs::remove_dir_all(&disk) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(StageError::File {
                            path: disk,
                            source: error,
                        });
                    }
                    _ => {}
                }
            }
            Action::Pause(node) => self.signal_all(*node, libc::SIGSTOP)?,
            Action::Thaw(node) => self.signal_all(*node, libc::SIGCONT)?,
            Action::Kv(KvFault::Leader { .. }) => self.end_leader()?,
            Action::Network(fault) => break_network(&mut self.stage, fault)?,
            Action::Broker { broker, up: true } => {
                self.stage.start_broker(usize::from(*broker))?;
            }
            Action::Broker { broker, up: false } => self.stage.end_broker(usize::from(*broker)),
            Action::Turn { up: true } => self.stage.start_turn()?,
            Action::Turn { up: false } => self.stage.end_turn(),
            // Refused before the run began, or nothing to do.
            Action::Mark
            | Action::Kv(_)
            | Action::Retire(_)
            | Action::Traffic(_)
            | Action::Strangers { .. }
            | Action::ClockStep { .. }
            | Action::BrokerLoss { .. }
            | Action::Attack { .. } => {}
        }
        Ok(())
    }

    fn start(&mut self, node: NodeIndex) -> Result<(), StageError> {
        let member = &mut self.members[node.index()];
        member.restart_at = None;
        if member.process.is_some() {
            if let Some(again) = &mut member.stopping {
                *again = true;
            }
            return Ok(());
        }
        self.spawn(node)?;
        self.note(Some(node), What::Started);
        Ok(())
    }

    fn spawn(&mut self, node: NodeIndex) -> Result<(), StageError> {
        let (name, folder) = (node_name(node), self.stage.lab.folder());
        let mut command = self.stage.lab.command(&name, self.stage.holdfast())?;
        command
            .args(["sidecar", "--config"])
            .arg(folder.join(format!("{name}.toml")));
        only_these_secrets(&mut command);
        let life = self.lives[node.index()].fetch_add(1, Ordering::SeqCst) + 1;
        let log = watch::log_path(&folder, node, life);
        let process = Process::spawn(&name, command, &log)?;
        let member = &mut self.members[node.index()];
        member.process = Some(process);
        member.stopping = None;
        Ok(())
    }

    /// SIGKILL to the sidecar; its children have to die with it.
    fn kill(&mut self, node: NodeIndex) -> Result<(), StageError> {
        let life = self.life(node);
        let member = &mut self.members[node.index()];
        (member.restart_at, member.stopping, member.page) = (None, None, None);
        let Some(mut process) = member.process.take() else {
            return Ok(());
        };
        let was_there = self.clock.now();
        // It may just have ended by itself.
        let _ = process.signal(libc::SIGKILL);
        process.wait_end(KILL_BOUND)?;
        self.record.ended(node, life, End::Killed(was_there));
        self.note(Some(node), What::Ended { clean: false });
        let name = node_name(node);
        let stage = &self.stage;
        let no_children = || inhabitants(stage, &name).is_ok_and(|pids| pids.is_empty());
        if wait_for("no children", KILL_BOUND, no_children).is_err() {
            let line = format!("children outlive their sidecar by {KILL_BOUND:?}");
            self.note(Some(node), What::Error { line });
        }
        Ok(())
    }

    /// A signal to everything in an instance's namespace.
    fn signal_all(&mut self, node: NodeIndex, signal: i32) -> Result<(), StageError> {
        for pid in inhabitants(&self.stage, &node_name(node))? {
            send(pid, signal);
        }
        Ok(())
    }

    /// SIGKILL to the Consul server that leads, if one does; its sidecar runs on.
    fn end_leader(&mut self) -> Result<(), StageError> {
        let gateways = &self.gateways;
        let leader = self.stage.lab.run_in(PUB, || kv::leader(gateways))?;
        let node = self
            .cast
            .coordinators()
            .find(|(_, slot)| Some(*slot) == leader);
        let Some((node, _)) = node else {
            return Ok(());
        };
        let page = self.members[node.index()].page.as_ref();
        let agent = page.and_then(|sight| {
            let children = &sight.page.sidecar.children;
            children.iter().find(|child| child.name == "consul")?.pid
        });
        let pids = inhabitants(&self.stage, &node_name(node))?;
        if let Some(pid) = agent.filter(|pid| pids.contains(pid)) {
            send(pid, libc::SIGKILL);
        }
        Ok(())
    }

    // ---- what happens by itself ----

    fn look_at_processes(&mut self) -> Result<(), StageError> {
        for node in self.cast.plan.topology.node_indices() {
            let now = self.clock.now();
            let member = &mut self.members[node.index()];
            if member.restart_at.is_some_and(|at| at <= now) {
                member.restart_at = None;
                self.spawn(node)?;
                continue;
            }
            let Some(status) = member.process.as_mut().and_then(Process::ended) else {
                continue;
            };
            (member.process, member.page) = (None, None);
            let again = member.stopping.take();
            let lost = status.code() == Some(SLOT_LOST);
            if lost && again.is_none() {
                member.restart_at = Some(now + RESTART_AFTER);
            }
            let life = self.life(node);
            self.record.ended(node, life, End::Left);
            if !lost {
                let clean = status.success();
                self.note(Some(node), What::Ended { clean });
            }
            if again == Some(true) {
                self.start(node)?;
            }
        }
        Ok(())
    }

    fn is_over(&mut self, now: Duration, all_steps: bool) -> bool {
        let settled =
            self.cast.plan.ends_when_settled && all_steps && self.obstacles(now).is_empty();
        if !settled {
            self.settled_at = None;
            return false;
        }
        let since = *self.settled_at.get_or_insert(now);
        now.saturating_sub(since) >= SETTLE
    }

    /// What keeps which instance from being a member like the others: as many own a slot as can,
    /// they are ready, their Consul agents included, and linked with each other.
    fn obstacles(&self, now: Duration) -> Vec<(NodeIndex, String)> {
        let nodes = self.cast.plan.topology.node_indices();
        let runs = |node: &NodeIndex| {
            let member = &self.members[node.index()];
            member.process.is_some() || member.restart_at.is_some()
        };
        let running: Vec<NodeIndex> = nodes.filter(runs).collect();
        let mut pages = BTreeMap::new();
        for node in &running {
            let page = self.members[node.index()].page.as_ref();
            let fresh = page.filter(|p| now.saturating_sub(p.asked_at) <= PAGE_AGE_MAX);
            let slot = fresh.and_then(|sight| sight.page.sidecar.slot.slot);
            if let Some((sight, slot)) = fresh.zip(slot) {
                pages.insert(slot, (*node, &sight.page));
            }
        }
        let mut found = Vec::new();
        let expected = running.len().min(self.cast.membership.slots.len());
        if pages.len() < expected {
            let is_without = |node: &&NodeIndex| pages.values().all(|(owner, _)| owner != *node);
            let without = running.iter().filter(is_without);
            found.extend(without.map(|node| (*node, "no slot is owned".to_owned())));
        }
        for (slot, (node, page)) in &pages {
            let reasons = page.sidecar.not_ready.iter();
            found.extend(reasons.map(|reason| (*node, reason.clone())));
            for other in pages.keys().filter(|other| *other != slot) {
                let peer = self.cast.peer_id(*other);
                let link = page.links.iter().find(|link| link.peer.as_str() == peer);
                if link.is_none_or(|link| link.state != LinkState::Up) {
                    found.push((*node, format!("no link to {peer}")));
                }
            }
        }
        found
    }

    fn end(mut self) -> Result<Journal, StageError> {
        let ended_at = self.clock.now();
        for (_, watch) in &self.watches {
            watch.end();
        }
        for (name, mut watch) in std::mem::take(&mut self.watches) {
            watch.join().map_err(failed(&name))?;
        }
        while let Ok(seen) = self.seen.try_recv() {
            self.take(seen);
        }
        let obstacles = match self.settled_at {
            Some(_) => Vec::new(),
            None => self.obstacles(ended_at),
        };
        for (node, why) in obstacles {
            let line = format!("not ready when the run ended: {why}");
            self.story.note(ended_at, Some(node), What::Error { line });
        }
        for (at, node, what) in self.record.notes(ended_at) {
            self.story.note_slot(at, node, what);
        }
        for (node, member) in self.cast.plan.topology.node_indices().zip(&self.members) {
            let links = member.page.iter().flat_map(|sight| &sight.page.links);
            for link in links {
                if let Some(slot) = Cast::slot_of(link.peer.as_str()) {
                    let state = link.state;
                    let what = SlotSeen::SlotLink { slot, state };
                    self.story.note_slot(ended_at, Some(node), what);
                }
            }
        }
        Ok(self.story.into_journal(ended_at, self.events))
    }
}

/// The processes in a namespace.
fn inhabitants(stage: &Stage, name: &str) -> Result<Vec<u32>, StageError> {
    let status = stage.lab.status()?;
    let own = status.namespaces.into_iter().find(|own| own.name == name);
    Ok(own.map(|own| own.pids).unwrap_or_default())
}

/// A signal to a process that was there just now, and is no child of ours.
fn send(pid: u32, signal: i32) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        // SAFETY: two integers.
        let _ = unsafe { libc::kill(pid, signal) };
    }
}
