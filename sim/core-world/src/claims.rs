//! Instances that claim slots at a KV: their processes, which come and go, and who is live when.
//!
//! An observer outside of the system sees a process as the live owner of a slot from the moment
//! at which it knows of its claim until its lease is over by its own clock, or it ends. One that
//! stands still is live all that time: it does not know better when it goes on.

mod calls;
mod observer;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use holdfast_core::entropy::{Entropy, Seed};
use holdfast_core::kv::{Failure, Response};
use holdfast_core::slots::{CallId, Config, Input, Slots};
use holdfast_core::time::Now;
use holdfast_kv_model::{Config as KvConfig, KvModel};
use holdfast_plan::{Identity, Journal, Membership, NodeIndex, SlotSeen, What};

use crate::clock::Clock;
use crate::disk::Disk;
use crate::identity::{self, Storing};
use crate::timers::Timers;

/// The cluster's name in the keys of slots.
const CLUSTER: &str = "sim";
/// A process that lost its slot ends, and whoever looks after it starts it again after this.
const RESTART_AFTER: Duration = Duration::from_secs(1);

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
}
