//! Instances that claim slots: the sidecar's claim with the client of Consul, and what an
//! observer sees of it.
//!
//! A process is the live owner of a slot from the moment at which it knows of its claim until its
//! lease is over by its own clock, or it ends; here to the millisecond of the world's ticks.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use holdfast_core::recorder::Record;
use holdfast_core::slots::{Config, Event, Slots};
use holdfast_io::clock::Clock;
use holdfast_io::http::Stop;
use holdfast_io::kv::consul::{Address, Config as ConsulConfig, Consul};
use holdfast_io::kv::{Answer, Kv, Request};
use holdfast_plan::membership::owns_for;
use holdfast_plan::{Identity, Membership, NodeIndex, SlotSeen};
use holdfast_sidecar::claim::{Command, run_slots};
use tokio::sync::mpsc;

use crate::clock::SimClock;
use crate::kv;
use crate::net::SimNet;
use crate::shared::Shared;
use crate::spawn::SimSpawn;

/// The cluster's name in the keys of slots.
const CLUSTER: &str = "sim";
/// A process that lost its slot ends, and whoever looks after it starts it again after this.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// How long it takes until a new id is durable, in microseconds: three writes of a disk.
const STORING_US: (u64, u64) = (300, 60_000);

/// How the keys of all slots begin.
pub fn prefix() -> String {
    format!("cluster/{CLUSTER}/slots/")
}

/// What is known of a node as an instance.
#[derive(Default)]
pub struct Member {
    /// The instance id that its disk has.
    disk: RefCell<Option<String>>,
    /// Instance ids that were drawn.
    drawn: Cell<u32>,
    /// Whether it has been told to give its slot back, and how it is told.
    retires: Cell<bool>,
    commands: RefCell<Option<mpsc::Sender<Command>>>,
    live: RefCell<Option<Live>>,
}

/// A process is the live owner of a slot.
struct Live {
    slot: u16,
    instance: String,
    from: Duration,
    /// In the world's time; `None` without an end.
    until: Option<Duration>,
}

impl Member {
    /// Its disk is empty.
    pub fn wipe(&self) {
        self.disk.take();
    }

    /// Its process, which runs, gives its slot back and ends.
    pub fn retire(&self) {
        self.retires.set(true);
        if let Some(commands) = &*self.commands.borrow() {
            // It has just ended, or has been told before.
            let _ = commands.try_send(Command::Retire);
        }
    }

    /// Whether it owns a slot at that time.
    pub fn owns(&self, now: Duration) -> bool {
        let live = self.live.borrow();
        live.as_ref()
            .is_some_and(|live| live.until.is_none_or(|until| now < until))
    }

    /// Its process is no more.
    pub fn gone(&self, shared: &Shared, node: NodeIndex) {
        self.retires.set(false);
        self.commands.take();
        self.is_not_live(shared, node, shared.now.get());
    }

    fn is_not_live(&self, shared: &Shared, node: NodeIndex, now: Duration) {
        let Some(live) = self.live.take() else { return };
        let what = SlotSeen::SlotLive {
            slot: live.slot,
            instance: live.instance,
            from: live.from,
            until: live.until.map_or(now, |until| until.min(now)),
        };
        shared.note_slot(Some(node), what);
    }
}

/// The process of an instance, until it is told to stop or to give its slot back. When it loses
/// its slot it is started again.
///
/// # Errors
/// When it cannot be configured as the plan says.
pub async fn run_instance(
    shared: &Rc<Shared>,
    membership: &Membership,
    node: NodeIndex,
    mut stop: Stop,
) -> Result<(), String> {
    let process = Process {
        shared: shared.clone(),
        node,
        clock: SimClock(shared.node_host(node).clock.clone()),
    };
    let runs = async {
        loop {
            process.run(membership).await?;
            if process.member().retires.get() {
                return Ok(());
            }
            process.clock.sleep(RESTART_AFTER).await;
            let state = &shared.nodes[node.index()];
            state.runs.set(state.runs.get() + 1);
        }
    };
    tokio::select! {
        biased;
        () = stop.wait() => Ok(()),
        ended = runs => ended,
    }
}

#[derive(Clone)]
struct Process {
    shared: Rc<Shared>,
    node: NodeIndex,
    clock: SimClock,
}

impl Process {
    fn member(&self) -> &Member {
        &self.shared.nodes[self.node.index()].member
    }

    fn name(&self) -> &str {
        &self.shared.node_host(self.node).name
    }

    fn note(&self, what: SlotSeen) {
        self.shared.note_slot(Some(self.node), what);
    }

    /// Once, until its slot is lost or given back.
    async fn run(&self, membership: &Membership) -> Result<(), String> {
        let instance = self.identity(membership).await;
        if self.member().retires.get() {
            return Ok(());
        }
        let run = self.shared.nodes[self.node.index()].runs.get();
        let seed = self.shared.seed.fork(&format!("{}/run/{run}", self.name()));
        let config = self.config(membership, &instance);
        let slots = Slots::new(config, seed, self.clock.now()).map_err(|e| e.to_string())?;
        let slots = Rc::new(RefCell::new(slots));
        let group = Killed(SimSpawn::new(self.shared.node_host(self.node).number));
        let asked = Rc::new(Asked {
            consul: self.consul(group.0.clone())?,
            process: self.clone(),
            tries: Cell::new(0),
        });
        let look = {
            let (own, slots, instance) = (self.clone(), slots.clone(), instance.clone());
            let lease = membership.lease;
            move || own.look(&slots.borrow(), &instance, lease)
        };
        let events = {
            let (own, look, asked) = (self.clone(), look.clone(), asked.clone());
            move |event| {
                look();
                own.note(seen(event, &instance, asked.tries.get()));
            }
        };
        let (commands, told) = mpsc::channel(1);
        *self.member().commands.borrow_mut() = Some(commands);
        let claim = run_slots(slots, asked, self.clock.clone(), events, told);
        let mut claim = Box::pin(claim);
        poll_fn(|cx| {
            let polled = claim.as_mut().poll(cx);
            look();
            polled
        })
        .await;
        self.member().commands.take();
        self.member()
            .is_not_live(&self.shared, self.node, self.clock.0.world());
        Ok(())
    }

    /// It finds out who it is; a new id is durable before it is used.
    async fn identity(&self, membership: &Membership) -> String {
        let of = membership.instances.get(self.node.index());
        let member = self.member();
        let known = match of.map(|instance| instance.identity) {
            Some(Identity::Tee) => Some(format!("tee-{}", self.name())),
            _ => member.disk.borrow().clone(),
        };
        let is_new = known.is_none();
        let instance = known.clone().unwrap_or_else(|| {
            member.drawn.set(member.drawn.get() + 1);
            let id: [u8; 8] = self.entropy("id").bytes();
            format!("{:016x}", u64::from_be_bytes(id))
        });
        self.note(SlotSeen::Identity {
            instance: instance.clone(),
            is_new,
        });
        if is_new {
            let (least, most) = STORING_US;
            let takes = least + self.entropy("disk").below(most - least);
            self.clock.sleep(Duration::from_micros(takes)).await;
            *member.disk.borrow_mut() = Some(instance.clone());
        }
        instance
    }

    /// Of the id that was drawn last.
    fn entropy(&self, of: &str) -> holdfast_core::entropy::Entropy {
        let drawn = self.member().drawn.get();
        let label = format!("{}/{of}/{drawn}", self.name());
        self.shared.seed.fork(&label).rng()
    }

    fn config(&self, membership: &Membership, instance: &str) -> Config {
        let of = membership.instances.get(self.node.index());
        Config {
            cluster: CLUSTER.to_owned(),
            instance: instance.to_owned(),
            slots: membership.slots.clone(),
            pinned: of.and_then(|instance| instance.pinned),
            lease: membership.lease,
            drift_per_mille: membership.drift_per_mille,
        }
    }

    fn consul(&self, group: SimSpawn) -> Result<Consul<SimNet, SimClock, SimSpawn>, String> {
        let net = self.shared.net(self.shared.node_host(self.node));
        let address = format!("http://{}", kv::ADDRESS).parse::<Address>();
        let config = ConsulConfig::new(vec![address.map_err(|e| e.to_string())?]);
        Consul::new(net, self.clock.clone(), group, config).map_err(|e| e.to_string())
    }

    /// Who is live, and until when by its own clock if nothing else happens.
    fn look(&self, slots: &Slots, instance: &str, lease: Duration) {
        let (now, world) = (self.clock.now(), self.clock.0.world());
        let owned = slots.owned(now);
        let until = owned
            .and_then(|_| owns_for(slots, now, lease))
            .map(|lasts| world + self.clock.0.true_length(lasts));
        if let Some(live) = &mut *self.member().live.borrow_mut()
            && Some(live.slot) == owned
            && live.until.is_none_or(|until| world <= until)
        {
            live.until = until;
            return;
        }
        self.member().is_not_live(&self.shared, self.node, world);
        *self.member().live.borrow_mut() = owned.map(|slot| Live {
            slot,
            instance: instance.to_owned(),
            from: world,
            until,
        });
    }
}

/// Tasks that end with their process.
struct Killed(SimSpawn);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill();
    }
}

fn seen(event: Event, instance: &str, tries: u64) -> SlotSeen {
    match event {
        Event::Owned { slot, rejoined } => SlotSeen::SlotOwned {
            slot,
            instance: instance.to_owned(),
            rejoined,
            tries,
        },
        Event::Waiting(why) => SlotSeen::SlotWaiting {
            why: why.to_string(),
        },
        Event::Lost { slot, why } => SlotSeen::SlotLost {
            slot,
            why: why.to_string(),
        },
        Event::Retired { slot } => SlotSeen::SlotRetired { slot },
    }
}

/// The client, with what it is asked and answers told to the trace.
struct Asked {
    consul: Consul<SimNet, SimClock, SimSpawn>,
    process: Process,
    /// Writes.
    tries: Cell<u64>,
}

impl Asked {
    fn record(&self, record: impl FnOnce() -> Record) {
        let shared = &self.process.shared;
        let mut journal = shared.journal.borrow_mut();
        if journal.trace.is_on() {
            let now = shared.now.get();
            journal.trace.record(now, self.process.name(), &record());
        }
    }
}

impl Kv for Asked {
    fn call(&self, request: Request) -> Answer<'_> {
        let is_write = matches!(request, Request::Put { .. });
        self.tries.set(self.tries.get() + u64::from(is_write));
        self.record(|| Record::Output {
            what: format!("{request:?}"),
        });
        Box::pin(async move {
            let result = self.consul.call(request).await;
            self.record(|| Record::Input {
                what: format!("{result:?}"),
            });
            result
        })
    }
}
