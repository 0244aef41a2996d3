//! The slot of this machine: waited for, and watched until it is lost.

use std::cell::RefCell;
use std::rc::Rc;

use holdfast_core::entropy::Seed;
use holdfast_core::slots::{self, Event, Loss, Obstacle, Slot, Slots};
use holdfast_io::clock::Clock;
use holdfast_io::kv::{Answer, Kv, Request, Response};
use holdfast_io::real::{RealClock, RealSpawn};
use holdfast_io::spawn::{Spawn, Task};
use tokio::sync::mpsc;

use crate::admin::Admin;
use crate::claim::run_slots;
use crate::error::Error;
use crate::options::Options;
use crate::status::Shared;

/// The claim of a slot, while it lasts.
pub(super) struct Claim {
    events: mpsc::UnboundedReceiver<Event>,
    pinned: Option<Slot>,
    /// Keeps the channel open where no KV is asked.
    _sender: mpsc::UnboundedSender<Event>,
    _task: Option<Task>,
}

impl Claim {
    pub(super) fn start<B>(
        options: &Options<B>,
        slots: Vec<Slot>,
        instance: &str,
        seed: &Seed,
        (admin, shared): (&Admin, &Shared),
    ) -> Result<Claim, Error> {
        // A machine says little: bounded by what happens to a slot.
        let (sender, events) = mpsc::unbounded_channel();
        let task = match &options.kv {
            None => None,
            Some(kv) => {
                let kv = Rc::new(Watched {
                    kv: kv.clone(),
                    shared: shared.clone(),
                });
                let config = slots::Config {
                    cluster: options.cluster.clone(),
                    instance: instance.to_owned(),
                    slots,
                    pinned: options.slots.pinned,
                    lease: options.slots.lease,
                    drift_per_mille: options.slots.drift_per_mille,
                };
                let machine = Slots::new(config, seed.fork("slots"), RealClock.now())
                    .map_err(|error| Error::Config(error.to_string()))?;
                Some(Claim::spawn(machine, kv, sender.clone(), admin))
            }
        };
        Ok(Claim {
            events,
            pinned: options.slots.pinned,
            _sender: sender,
            _task: task,
        })
    }

    fn spawn(
        machine: Slots,
        kv: Rc<dyn Kv>,
        sender: mpsc::UnboundedSender<Event>,
        admin: &Admin,
    ) -> Task {
        let machine = Rc::new(RefCell::new(machine));
        admin.show_slots(machine.clone());
        let (_never, commands) = mpsc::channel(1);
        let events = move |event| {
            log(&event);
            // Without a receiver the sidecar ends.
            let _ = sender.send(event);
        };
        RealSpawn.spawn("slots", async move {
            run_slots(machine, kv, RealClock, events, commands).await;
        })
    }

    /// Wait for a slot.
    pub(super) async fn owned<B>(
        &mut self,
        options: &Options<B>,
        shared: &Shared,
    ) -> Result<Slot, Error> {
        if let (Some(pinned), None) = (self.pinned, &self._task) {
            return Ok(pinned);
        }
        let patience = options.slots.patience;
        let started = RealClock.now().mono;
        let mut why = "the KV has not answered".to_owned();
        loop {
            let left = async {
                match patience.is_zero() {
                    true => std::future::pending().await,
                    false => RealClock.sleep_until(started + patience).await,
                }
            };
            let event = tokio::select! {
                event = self.events.recv() => event.expect("the other sender is here"),
                () = left => {
                    let patience_s = patience.as_secs();
                    return Err(Error::NoSlot { patience_s, why });
                }
            };
            match event {
                Event::Owned { slot, .. } => {
                    unhindered(shared);
                    return Ok(slot);
                }
                Event::Waiting(Obstacle::Forbidden(what)) => return Err(Error::KvRefused(what)),
                Event::Waiting(obstacle) => {
                    why = obstacle.to_string();
                    shared.update(|status| status.slot.waiting_for = Some(why.clone()));
                }
                Event::Lost { slot, why } => return Err(Error::SlotLost { slot, why }),
                Event::Retired { slot } => {
                    let why = Loss::Overwritten;
                    return Err(Error::SlotLost { slot, why });
                }
            }
        }
    }

    /// Wait until it is lost.
    pub(super) async fn lost(&mut self, shared: &Shared) -> Error {
        loop {
            match self.events.recv().await.expect("the other sender is here") {
                Event::Lost { slot, why } => return Error::SlotLost { slot, why },
                Event::Retired { slot } => {
                    let why = Loss::Overwritten;
                    return Error::SlotLost { slot, why };
                }
                Event::Owned { .. } => unhindered(shared),
                Event::Waiting(obstacle) => shared.update(|status| {
                    status.slot.refused = matches!(obstacle, Obstacle::Forbidden(_));
                    status.slot.waiting_for = Some(obstacle.to_string());
                }),
            }
        }
    }
}

/// A KV whose answers end what stood in the way: a renewal that succeeds is no event.
struct Watched {
    kv: Rc<dyn Kv>,
    shared: Shared,
}

impl Kv for Watched {
    fn call(&self, request: Request) -> Answer<'_> {
        Box::pin(async move {
            let result = self.kv.call(request).await;
            // Only who owns a slot writes again; that reads succeed says nothing of writes.
            let owned = self.shared.view(|status| status.slot.slot.is_some());
            if owned && matches!(result, Ok(Response::Done(_))) {
                unhindered(&self.shared);
            }
            result
        })
    }
}

fn unhindered(shared: &Shared) {
    shared.update(|status| {
        status.slot.waiting_for = None;
        status.slot.refused = false;
    });
}

fn log(event: &Event) {
    match event {
        Event::Owned { slot, rejoined } => tracing::info!(slot, rejoined, "slot owned"),
        Event::Lost { slot, why } => tracing::error!(slot, %why, "slot lost"),
        Event::Retired { slot } => tracing::info!(slot, "slot given back"),
        Event::Waiting(obstacle) => tracing::warn!(%obstacle, "no slot yet, or none renewed"),
    }
}
