//! Instances that claim slots at a KV: their processes, which come and go, and who is live when.
//!
//! An observer outside of the system sees a process as the live owner of a slot from the moment
//! at which it knows of its claim until its lease is over by its own clock, or it ends. One that
//! stands still is live all that time: it does not know better when it goes on.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use holdfast_core::entropy::{Entropy, Seed};
use holdfast_core::kv::{Failure, Request, Response};
use holdfast_core::recorder::Record;
use holdfast_core::slots::{CallId, Config, Event, Input, Output, Slots};
use holdfast_core::time::Now;
use holdfast_kv_model::{Config as KvConfig, Faults, KvModel};
use holdfast_net_model::Ratio;
use holdfast_plan::{Identity, Journal, KvFault, Membership, NodeIndex, SlotOwner, SlotSeen, What};

use crate::clock::Clock;
use crate::disk::Disk;
use crate::identity::{self, Storing};
use crate::timers::Timers;

/// The cluster's name in the keys of slots.
const CLUSTER: &str = "sim";
/// A process that lost its slot ends, and whoever looks after it starts it again after this.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// The end of a lease is found to a microsecond.
const PRECISION: Duration = Duration::from_micros(1);

/// All instances, and the KV.
pub(crate) struct Claims {
    membership: Membership,
    kv: KvModel,
    members: Vec<Member>,
    tickets: u64,
    /// Changes of the KV that were told.
    told: usize,
    seed: Seed,
    entropy: Entropy,
    /// What becomes of meshes: a node's begins under the id of this slot, or ends.
    pub orders: Vec<(usize, Option<u16>)>,
    /// The number of the KV among the processes that have deadlines; the instances follow.
    pub process: usize,
}

/// One machine.
struct Member {
    name: String,
    disk: Disk,
    /// Runs, and instance ids that were drawn.
    runs: u64,
    drawn: u64,
    paused: bool,
    run: Option<Run>,
    restart_at: Option<Duration>,
}

/// One run of its process.
struct Run {
    instance: String,
    part: Part,
    calls: BTreeMap<u64, CallId>,
    /// Answers that came while it stood still.
    inbox: VecDeque<(CallId, Result<Response, Failure>)>,
    live: Option<Live>,
    tries: u64,
    retires: bool,
}

enum Part {
    /// Its id becomes durable; the next step is due then, in local time.
    Boot(Storing, Duration),
    Claim(Box<Slots>),
}

struct Live {
    slot: u16,
    from: Duration,
    /// In the world's time; `None` without an end.
    until: Option<Duration>,
}

/// What of the world the claims touch.
pub(crate) struct Scene<'a, T: Copy + Ord> {
    pub now: Duration,
    pub clock: Clock,
    pub clocks: Vec<Clock>,
    pub journal: &'a mut Journal,
    pub timers: &'a mut Timers<T>,
}

impl<T: Copy + Ord> Scene<'_, T> {
    fn at(&self, node: usize) -> Now {
        self.clocks[node].now(self.now)
    }

    fn local(&self, node: usize) -> Duration {
        self.clocks[node].local(self.now)
    }
}

impl Claims {
    /// Nobody runs yet.
    pub fn new(
        membership: &Membership,
        names: Vec<String>,
        seed: &Seed,
        now: Now,
        process: usize,
    ) -> Claims {
        let member = |name| Member {
            name,
            disk: Disk::default(),
            runs: 0,
            drawn: 0,
            paused: false,
            run: None,
            restart_at: None,
        };
        Claims {
            membership: membership.clone(),
            kv: KvModel::new(KvConfig::default(), seed.fork("kv"), now),
            members: names.into_iter().map(member).collect(),
            tickets: 0,
            told: 0,
            orders: Vec::new(),
            entropy: seed.fork("disks").rng(),
            seed: seed.fork("instances"),
            process,
        }
    }

    /// The slots, when their owners run meshes.
    pub fn meshed(&self) -> Option<&[u16]> {
        self.membership.mesh.then_some(&self.membership.slots)
    }

    fn config(&self, node: usize, instance: &str) -> Config {
        let of = self.membership.instances.get(node);
        Config {
            cluster: CLUSTER.to_owned(),
            instance: instance.to_owned(),
            slots: self.membership.slots.clone(),
            pinned: of.and_then(|instance| instance.pinned),
            lease: self.membership.lease,
            drift_per_mille: self.membership.drift_per_mille,
        }
    }

    /// Whether as many instances own a slot as can.
    pub fn are_settled<T: Copy + Ord>(&self, scene: &Scene<'_, T>) -> bool {
        let runs = |m: &&Member| m.run.is_some() || m.restart_at.is_some();
        let running = self.members.iter().filter(runs).count();
        let owns = |n: &usize| match &self.members[*n].run {
            Some(run) => match &run.part {
                Part::Claim(slots) => slots.owned(scene.at(*n)).is_some(),
                Part::Boot(..) => false,
            },
            None => false,
        };
        let owners = (0..self.members.len()).filter(owns).count();
        owners == running.min(self.membership.slots.len())
    }

    // ---- processes ----

    /// A process starts.
    ///
    /// # Errors
    /// When it cannot be configured like that.
    pub fn start<T: Copy + Ord>(
        &mut self,
        scene: &mut Scene<'_, T>,
        node: usize,
    ) -> Result<(), String> {
        self.config(node, "any")
            .check()
            .map_err(|e| e.to_string())?;
        self.end(scene, node, Some(false));
        let index = NodeIndex(node as u16);
        let name = self.members[node].name.clone();
        scene
            .journal
            .note(scene.now, Some((index, &name)), What::Started);
        self.boot(scene, node);
        self.settle(scene);
        Ok(())
    }

    /// It finds out who it is.
    fn boot<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>, node: usize) {
        let of = self.membership.instances.get(node);
        let tee = of.is_some_and(|instance| instance.identity == Identity::Tee);
        let member = &mut self.members[node];
        member.runs += 1;
        (member.paused, member.restart_at) = (false, None);
        let known = match tee {
            true => Some(format!("tee-{}", member.name)),
            false => identity::stored(&member.disk),
        };
        let is_known = known.is_some();
        let instance = known.unwrap_or_else(|| {
            member.drawn += 1;
            let label = format!("{}/id/{}", member.name, member.drawn);
            let id: [u8; 8] = self.seed.fork(&label).rng().bytes();
            format!("{:016x}", u64::from_be_bytes(id))
        });
        let part = match is_known {
            true => Part::Boot(Storing::Done, scene.local(node)),
            false => {
                let storing = Storing::begin(&mut member.disk, &instance);
                let takes = identity::disk_time(&mut self.entropy);
                Part::Boot(storing, scene.local(node) + takes)
            }
        };
        member.run = Some(Run {
            instance: instance.clone(),
            part,
            calls: BTreeMap::new(),
            inbox: VecDeque::new(),
            live: None,
            tries: 0,
            retires: false,
        });
        let is_new = !is_known;
        self.note(scene, node, SlotSeen::Identity { instance, is_new });
        self.wake(scene, node);
    }

    /// What is due of storing the id; at last the claim begins.
    fn go_on_booting<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>, node: usize) {
        let local = scene.local(node);
        loop {
            let member = &mut self.members[node];
            let Some(run) = &mut member.run else { return };
            match &mut run.part {
                Part::Boot(storing, due) if *due <= local && *storing != Storing::Done => {
                    *storing = storing.go_on(&mut member.disk);
                    *due = local + identity::disk_time(&mut self.entropy);
                }
                Part::Boot(Storing::Done, due) if *due <= local => break,
                _ => return,
            }
        }
        let member = &self.members[node];
        let instance = member.run.as_ref().map(|run| run.instance.clone());
        let config = self.config(node, &instance.unwrap_or_default());
        let seed = self
            .seed
            .fork(&format!("{}/run/{}", member.name, member.runs));
        let slots = Slots::new(config, seed, scene.at(node)).expect("checked when it was started");
        if let Some(run) = &mut self.members[node].run {
            run.part = Part::Claim(Box::new(slots));
        }
        self.drain(scene, node);
    }

    /// The process ends, if one runs. `told`: whether with a goodbye; `None` when the node itself
    /// decided.
    pub fn end<T: Copy + Ord>(
        &mut self,
        scene: &mut Scene<'_, T>,
        node: usize,
        told: Option<bool>,
    ) {
        let member = &mut self.members[node];
        (member.paused, member.restart_at) = (false, None);
        let Some(run) = member.run.take() else { return };
        self.orders.push((node, None));
        let now = scene.clock.now(scene.now);
        for ticket in run.calls.keys() {
            self.kv.cancel(now, node as u32, *ticket);
        }
        self.close(scene, node, run.live, &run.instance);
        if let Some(clean) = told {
            let index = NodeIndex(node as u16);
            let name = &self.members[node].name;
            let what = What::Ended { clean };
            scene.journal.note(scene.now, Some((index, name)), what);
        }
        scene.timers.arm(self.process + 1 + node, None);
        self.settle(scene);
    }

    /// The machine is gone with what was not synced; its process with it.
    pub fn crash<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>, node: usize) {
        self.end(scene, node, Some(false));
        self.members[node].disk.crash(&mut self.entropy);
    }

    /// … with its disk.
    pub fn wipe<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>, node: usize) {
        self.end(scene, node, Some(false));
        self.members[node].disk.wipe();
    }

    /// The process gives its slot back, and ends.
    pub fn retire<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>, node: usize) {
        let now = scene.at(node);
        let member = &mut self.members[node];
        let Some(run) = &mut member.run else {
            member.restart_at = None;
            scene.timers.arm(self.process + 1 + node, None);
            return;
        };
        run.retires = true;
        match &mut run.part {
            _ if member.paused => return,
            Part::Boot(..) => return self.end(scene, node, Some(true)),
            Part::Claim(slots) => slots.handle(now, Input::Retire),
        }
        self.drain(scene, node);
        self.settle(scene);
    }

    /// The process stands still.
    pub fn pause(&mut self, node: usize) {
        self.members[node].paused = self.members[node].run.is_some();
    }

    /// It goes on, with the answers that wait for it.
    pub fn thaw<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>, node: usize) {
        if !std::mem::take(&mut self.members[node].paused) {
            return;
        }
        while let Some(run) = &mut self.members[node].run
            && let Some((call, result)) = run.inbox.pop_front()
        {
            self.answer(scene, node, call, result);
        }
        if self.members[node]
            .run
            .as_ref()
            .is_some_and(|run| run.retires)
        {
            self.retire(scene, node);
        }
        self.wake(scene, node);
        self.settle(scene);
    }

    // ---- calls ----

    /// A deadline has come: of the KV, or of an instance.
    pub fn handle_deadline<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>, process: usize) {
        match process.checked_sub(self.process + 1) {
            None => self.kv.handle_deadline(scene.clock.now(scene.now)),
            Some(node) => self.wake(scene, node),
        }
        self.settle(scene);
    }

    fn wake<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>, node: usize) {
        let now = scene.at(node);
        let member = &mut self.members[node];
        if member.paused {
            return;
        }
        let Some(run) = &mut member.run else {
            if member.restart_at.is_some_and(|at| at <= scene.now) {
                return self.boot(scene, node);
            }
            return self.arm(scene, node);
        };
        match &mut run.part {
            Part::Boot(..) => self.go_on_booting(scene, node),
            Part::Claim(slots) => {
                if let Some((_, why)) = slots.deadline().filter(|(at, _)| *at <= now.mono) {
                    let record = Record::Deadline { why };
                    scene.journal.trace.record(scene.now, &member.name, &record);
                    slots.handle_deadline(now);
                }
                self.drain(scene, node);
            }
        }
        self.arm(scene, node);
    }

    fn answer<T: Copy + Ord>(
        &mut self,
        scene: &mut Scene<'_, T>,
        node: usize,
        call: CallId,
        result: Result<Response, Failure>,
    ) {
        let now = scene.at(node);
        let member = &mut self.members[node];
        let Some(run) = &mut member.run else { return };
        if member.paused {
            return run.inbox.push_back((call, result));
        }
        if scene.journal.trace.is_on() {
            let what = format!("{call:?} {result:?}");
            let record = Record::Input { what };
            scene.journal.trace.record(scene.now, &member.name, &record);
        }
        if let Part::Claim(slots) = &mut run.part {
            slots.handle(now, Input::Answer { call, result });
        }
        self.drain(scene, node);
    }

    /// Carry out what a machine wants, and look who is live.
    fn drain<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>, node: usize) {
        while let Some(run) = &mut self.members[node].run
            && let Part::Claim(slots) = &mut run.part
            && let Some(output) = slots.poll_output()
        {
            match output {
                Output::Call { call, request } => self.ask(scene, node, call, request),
                Output::Event(event) => {
                    self.observe(scene, node);
                    self.event(scene, node, event);
                }
            }
        }
        self.observe(scene, node);
        self.arm(scene, node);
    }

    fn ask<T: Copy + Ord>(
        &mut self,
        scene: &mut Scene<'_, T>,
        node: usize,
        call: CallId,
        request: Request,
    ) {
        self.tickets += 1;
        let member = &mut self.members[node];
        if scene.journal.trace.is_on() {
            let what = format!("{call:?} {request:?}");
            let record = Record::Output { what };
            scene.journal.trace.record(scene.now, &member.name, &record);
        }
        if let Some(run) = &mut member.run {
            run.calls.insert(self.tickets, call);
            run.tries += u64::from(matches!(request, Request::Put { .. }));
        }
        let now = scene.clock.now(scene.now);
        self.kv.call(now, node as u32, self.tickets, request);
    }

    fn event<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>, node: usize, event: Event) {
        let run = self.members[node].run.as_ref();
        let (instance, tries) =
            run.map_or_else(Default::default, |run| (run.instance.clone(), run.tries));
        match event {
            Event::Owned { slot, rejoined } => {
                let what = SlotSeen::SlotOwned {
                    slot,
                    instance,
                    rejoined,
                    tries,
                };
                self.note(scene, node, what);
                self.orders.push((node, Some(slot)));
            }
            Event::Waiting(why) => {
                let why = why.to_string();
                self.note(scene, node, SlotSeen::SlotWaiting { why });
            }
            Event::Lost { slot, why } => {
                let why = why.to_string();
                self.note(scene, node, SlotSeen::SlotLost { slot, why });
                self.end(scene, node, None);
                self.members[node].restart_at = Some(scene.now + RESTART_AFTER);
                self.arm(scene, node);
            }
            Event::Retired { slot } => {
                self.note(scene, node, SlotSeen::SlotRetired { slot });
                self.end(scene, node, Some(true));
            }
        }
    }

    /// Give away what the KV answers, and tell what changed in it, until it is quiet.
    fn settle<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>) {
        while let Some(answered) = self.kv.poll_output() {
            let node = answered.client as usize;
            let run = self.members.get_mut(node).and_then(|m| m.run.as_mut());
            // Of a run that is gone, or one that was cancelled.
            let Some(call) = run.and_then(|run| run.calls.remove(&answered.ticket)) else {
                continue;
            };
            self.answer(scene, node, call, answered.result);
        }
        self.tell_changes(scene);
        let due = self.kv.deadline().map(|(at, _)| scene.clock.local_of(at));
        let due = due.map(|due| due.max(scene.now));
        scene.timers.arm(self.process, due);
    }

    fn arm<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>, node: usize) {
        let member = &self.members[node];
        let clock = &scene.clocks[node];
        let due = match &member.run {
            _ if member.paused => None,
            None => member.restart_at,
            Some(run) => match &run.part {
                Part::Boot(_, due) => Some(clock.world(*due)),
                Part::Claim(slots) => slots
                    .deadline()
                    .map(|(at, _)| clock.world(clock.local_of(at))),
            },
        };
        let due = due.map(|due| due.max(scene.now));
        scene.timers.arm(self.process + 1 + node, due);
    }

    // ---- the KV's faults ----

    /// Something goes wrong with the KV.
    pub fn disturb<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>, fault: KvFault) {
        let now = scene.clock.now(scene.now);
        match fault {
            KvFault::Leader { after } => self.kv.change_leader(now, now.mono + after),
            KvFault::Away { lasts } => self.kv.set_unavailable(now, now.mono + lasts),
            KvFault::Cut { node, on } => self.kv.set_cut(now, u32::from(node.0), on),
            KvFault::Loss { lose, late } => {
                let none = lose == Ratio::NEVER && late == Ratio::NEVER;
                self.kv.set_faults(match none {
                    true => Faults::default(),
                    false => Faults {
                        lost_request: lose,
                        lost_answer: lose,
                        late_request: late,
                        ..Faults::default()
                    },
                });
            }
        }
        self.settle(scene);
    }

    // ---- what an observer sees ----

    fn note<T: Copy + Ord>(&self, scene: &mut Scene<'_, T>, node: usize, what: SlotSeen) {
        let name = self.members[node].name.as_str();
        let index = NodeIndex(node as u16);
        scene
            .journal
            .note_slot(scene.now, Some((index, name)), what);
    }

    /// Who is live, and until when by its own clock if nothing else happens.
    fn observe<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>, node: usize) {
        let now = scene.at(node);
        let Some(run) = &mut self.members[node].run else {
            return;
        };
        let Part::Claim(slots) = &run.part else {
            return;
        };
        let owned = slots.owned(now);
        let until = owned
            .and_then(|_| lasts(slots, now, self.membership.lease))
            .map(|lasts| {
                let local = scene.local(node) + lasts;
                scene.clocks[node].world(local)
            });
        if let Some(live) = &mut run.live
            && Some(live.slot) == owned
            && live.until.is_none_or(|until| scene.now <= until)
        {
            live.until = until;
            return;
        }
        let over = run.live.take();
        run.live = owned.map(|slot| Live {
            slot,
            from: scene.now,
            until,
        });
        let instance = run.instance.clone();
        self.close(scene, node, over, &instance);
    }

    fn close<T: Copy + Ord>(
        &self,
        scene: &mut Scene<'_, T>,
        node: usize,
        live: Option<Live>,
        instance: &str,
    ) {
        let Some(Live { slot, from, until }) = live else {
            return;
        };
        let what = SlotSeen::SlotLive {
            slot,
            instance: instance.to_owned(),
            from,
            until: until.map_or(scene.now, |until| until.min(scene.now)),
        };
        self.note(scene, node, what);
    }

    /// The run is over: who was live until now.
    pub fn finish<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>) {
        for node in 0..self.members.len() {
            let run = self.members[node].run.as_mut();
            let Some((live, instance)) = run.map(|run| (run.live.take(), run.instance.clone()))
            else {
                continue;
            };
            self.close(scene, node, live, &instance);
        }
        self.tell_changes(scene);
    }

    fn tell_changes<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>) {
        let prefix = self.config(0, "any").prefix();
        let history = self.kv.history();
        for change in &history[self.told..] {
            let by = change.by.map(|(client, _)| client as usize);
            let named = by.and_then(|n| Some((NodeIndex(n as u16), self.members.get(n)?)));
            let ordinal = change
                .key
                .strip_prefix(&prefix)
                .and_then(|o| o.parse().ok());
            let after = change.after.as_ref();
            let what = SlotSeen::SlotEntry {
                key: change.key.clone(),
                slot: ordinal,
                index: change.index,
                owner: after.and_then(|entry| owner(&entry.value)),
                is_gone: after.is_none(),
            };
            let at = scene.clock.local_of(change.at.mono);
            let named = named.map(|(index, member)| (index, member.name.as_str()));
            scene.journal.note_slot(at, named, what);
        }
        self.told = history.len();
    }
}

/// For how long the machine calls itself the owner if nothing happens, by its own clock; `None`
/// when there is no end to it.
fn lasts(slots: &Slots, now: Now, lease: Duration) -> Option<Duration> {
    let owns = |after: Duration| slots.owned(now.plus(after)).is_some();
    let (mut is, mut is_not) = (Duration::ZERO, lease + lease);
    if owns(is_not) {
        return None;
    }
    while is_not - is > PRECISION {
        let middle = is + (is_not - is) / 2;
        match owns(middle) {
            true => is = middle,
            false => is_not = middle,
        }
    }
    Some(is_not)
}

/// Whose an entry is, by its text: the format of `docs/membership.md`, read without core's help.
fn owner(value: &[u8]) -> Option<SlotOwner> {
    let json: serde_json::Value = serde_json::from_slice(value).ok()?;
    Some(SlotOwner {
        instance: json.get("instance")?.as_str()?.to_owned(),
        run: json.get("run")?.as_str()?.to_owned(),
        lease_ms: json.get("lease_ms")?.as_u64()?,
    })
}
