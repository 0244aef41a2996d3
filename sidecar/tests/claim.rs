//! The claim of slots, driven against a store in memory.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use common::until;
use holdfast_core::slots::{self, Event, LEASE, Slot, Slots};
use holdfast_io::clock::Clock;
use holdfast_io::kv::{Answer, Condition, Entry, Failure, FailureKind, Kv, Request, Response};
use holdfast_io::real::{RealClock, RealSpawn, block_on, os_seed};
use holdfast_io::spawn::{Spawn, Task};
use holdfast_sidecar::claim::{Command, run_slots};
use tokio::sync::mpsc;

#[derive(Default)]
struct Store {
    entries: RefCell<BTreeMap<String, Entry>>,
    index: Cell<u64>,
    calls: Cell<u64>,
}

impl Store {
    fn index_of(&self, key: &str) -> u64 {
        let entries = self.entries.borrow();
        entries.get(key).map_or(0, |entry| entry.modify_index)
    }

    fn permits(&self, key: &str, condition: Condition) -> bool {
        match condition {
            Condition::Any => true,
            Condition::Absent => self.index_of(key) == 0,
            Condition::Unchanged(index) => self.index_of(key) == index,
        }
    }

    fn answer(&self, request: Request) -> Result<Response, Failure> {
        let index = self.index.get().max(1);
        Ok(match request {
            Request::Get { key, .. } => {
                let entry = self.entries.borrow().get(&key).cloned();
                Response::Entry { index, entry }
            }
            Request::List { prefix, .. } => {
                let entries = self.entries.borrow();
                let found = entries
                    .values()
                    .filter(|entry| entry.key.starts_with(&prefix));
                let entries = found.cloned().collect();
                Response::Entries { index, entries }
            }
            Request::Put {
                key,
                value,
                condition,
            } if self.permits(&key, condition) => {
                self.index.set(self.index.get() + 1);
                let entry = Entry {
                    key: key.clone(),
                    value,
                    create_index: self.index.get(),
                    modify_index: self.index.get(),
                    lock_index: 0,
                    session: None,
                };
                self.entries.borrow_mut().insert(key, entry);
                Response::Done(true)
            }
            Request::Delete { key, condition } if self.permits(&key, condition) => {
                self.index.set(self.index.get() + 1);
                self.entries.borrow_mut().remove(&key);
                Response::Done(true)
            }
            Request::Put { .. } | Request::Delete { .. } => Response::Done(false),
            _ => return Err(Failure::determinate(FailureKind::Invalid, "not asked here")),
        })
    }
}

impl Kv for Store {
    fn call(&self, request: Request) -> Answer<'_> {
        self.calls.set(self.calls.get() + 1);
        Box::pin(async move {
            let waits = match &request {
                Request::Get { wait, .. } | Request::List { wait, .. } => *wait,
                _ => None,
            };
            while waits.is_some_and(|wait| self.index.get() <= wait.after) {
                RealClock.sleep(Duration::from_millis(1)).await;
            }
            // Others have their turn between the request and its effect, and before the answer.
            tokio::task::yield_now().await;
            let answer = self.answer(request);
            tokio::task::yield_now().await;
            answer
        })
    }
}

struct Claimant {
    events: Rc<RefCell<Vec<Event>>>,
    commands: mpsc::Sender<Command>,
    _task: Task,
}

impl Claimant {
    fn start(store: &Rc<Store>, instance: &str, slots: u16) -> Claimant {
        let config = slots::Config {
            cluster: "test".to_owned(),
            instance: instance.to_owned(),
            slots: (0..slots).collect(),
            pinned: None,
            lease: LEASE,
            drift_per_mille: 5,
        };
        let machine = Slots::new(config, os_seed().unwrap(), RealClock.now()).unwrap();
        let (commands, told) = mpsc::channel(1);
        let events: Rc<RefCell<Vec<Event>>> = Rc::default();
        let (heard, kv) = (events.clone(), store.clone());
        let task = RealSpawn.spawn("claim", async move {
            let hear = move |event| heard.borrow_mut().push(event);
            run_slots(Rc::new(RefCell::new(machine)), kv, RealClock, hear, told).await;
        });
        Claimant {
            events,
            commands,
            _task: task,
        }
    }

    fn owned(&self) -> Option<Slot> {
        let events = self.events.borrow();
        events.iter().find_map(|event| match event {
            Event::Owned { slot, .. } => Some(*slot),
            _ => None,
        })
    }
}

#[test]
fn as_many_machines_as_slots_have_one_each() {
    block_on(async {
        let store = Rc::new(Store::default());
        let all: Vec<Claimant> = (0..16)
            .map(|n| Claimant::start(&store, &format!("instance-{n}"), 16))
            .collect();
        until("all own one", || {
            all.iter().all(|one| one.owned().is_some())
        })
        .await;
        let mut owned: Vec<Slot> = all.iter().filter_map(Claimant::owned).collect();
        owned.sort_unstable();
        assert_eq!(owned, (0..16).collect::<Vec<Slot>>());
        eprintln!("16 machines, 16 slots: {} calls", store.calls.get());
    })
    .unwrap();
}

#[test]
fn a_slot_that_is_given_back_is_another_machines_at_once() {
    block_on(async {
        let store = Rc::new(Store::default());
        let first = Claimant::start(&store, "first", 1);
        until("it is owned", || first.owned().is_some()).await;
        let second = Claimant::start(&store, "second", 1);
        let waits = || matches!(second.events.borrow().last(), Some(Event::Waiting(_)));
        until("the second one waits", waits).await;
        first.commands.send(Command::Retire).await.unwrap();
        until("the second one has it", || second.owned() == Some(0)).await;
        let last = first.events.borrow().last().cloned();
        assert_eq!(last, Some(Event::Retired { slot: 0 }));
    })
    .unwrap();
}
