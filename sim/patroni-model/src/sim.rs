//! Virtual time: events in order, and tasks that wait for them.
//!
//! What blocks in the real thing (Patroni's loop, its threads, the drill itself) is an `async`
//! function here, polled by [`run`]; what is frequent (statements, WAL, health checks) is an
//! [`Event`] that [`World::handle`] acts on at once. Tasks and events belong to a member or to
//! nobody: those of a frozen member are held until it thaws, those of a dead one are dropped.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::draw::At;
use crate::world::World;

pub(crate) type Shared = Rc<RefCell<World>>;
pub(crate) type TaskId = usize;
pub(crate) type Work<T> = Pin<Box<dyn Future<Output = T>>>;

/// Events of a round at most: one that does not end is a defect, and is told as one.
const EVENTS_MAX: u64 = 200_000_000;

/// What happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// A task goes on.
    Wake(TaskId),
    /// Tasks that wait look again.
    Poke,
    /// A session may be over.
    SessionEnds { session: u32, renewal: u32 },
    /// The KV has a leader again.
    Elected { term: u32 },
    /// PostgreSQL takes connections.
    Started { member: usize, postmaster: u32 },
    /// PostgreSQL has left recovery.
    Promoted { member: usize, postmaster: u32 },
    /// A walreceiver asks its upstream.
    Receive { member: usize, attempt: u32 },
    /// A silent replication connection is given up, if it is still silent.
    ReplicationPatience { member: usize, stream: u32 },
    /// Commits that wait for a standby may go on.
    Release { member: usize },
    /// An endpoint asks a member.
    Check { endpoint: usize, member: usize },
    /// What came of it.
    Checked {
        endpoint: usize,
        member: usize,
        leads: Option<u32>,
    },
    /// A client's next step is due.
    Client { client: usize, step: u32 },
    /// A client's time for its operation is over.
    Deadline { client: usize, serial: u32 },
    /// A statement reaches PostgreSQL.
    Statement {
        client: usize,
        serial: u32,
        member: usize,
        postmaster: u32,
    },
    /// A commit has been heard of by those that it waits for.
    Commit {
        client: usize,
        serial: u32,
        member: usize,
        postmaster: u32,
        lsn: u64,
    },
    /// A client is answered.
    Answer { client: usize, serial: u32 },
}

/// What is due, and who waits.
#[derive(Default)]
pub(crate) struct Agenda {
    pub(crate) now: At,
    serial: u64,
    due: BinaryHeap<Reverse<(At, u64, Event)>>,
    ready: VecDeque<TaskId>,
    waiting: Vec<TaskId>,
    current: TaskId,
    spawned: Vec<Task>,
    held: Vec<(usize, Event)>,
    pub(crate) over: bool,
}

struct Task {
    member: Option<usize>,
    life: u32,
    work: Work<()>,
}

impl Agenda {
    pub(crate) fn at(&mut self, at: At, event: Event) {
        self.serial += 1;
        self.due
            .push(Reverse((at.max(self.now), self.serial, event)));
    }

    pub(crate) fn after(&mut self, wait: At, event: Event) {
        self.at(self.now + wait, event);
    }

    /// Something changed that a waiting task may wait for.
    pub(crate) fn poke(&mut self) {
        self.ready.extend(self.waiting.drain(..));
    }

    pub(crate) fn poke_if(&mut self, wanted: bool) {
        if wanted {
            self.poke();
        }
    }

    /// Keeps an event until the member thaws.
    pub(crate) fn hold(&mut self, member: usize, event: Event) {
        self.held.push((member, event));
    }

    /// What was held for the member happens now.
    pub(crate) fn thaw(&mut self, member: usize) {
        let held = std::mem::take(&mut self.held);
        for (whose, event) in held {
            if whose == member {
                self.at(self.now, event);
            } else {
                self.held.push((whose, event));
            }
        }
        self.poke();
    }

    pub(crate) fn spawn(&mut self, member: Option<usize>, life: u32, work: Work<()>) {
        self.spawned.push(Task { member, life, work });
    }
}

/// Until it is over, or nothing is left to happen.
pub(crate) fn run(shared: &Shared) {
    let mut tasks: Vec<Option<Task>> = Vec::new();
    for _ in 0..EVENTS_MAX {
        adopt(shared, &mut tasks);
        while let Some(id) = next_ready(shared) {
            poll(shared, &mut tasks, id);
            adopt(shared, &mut tasks);
        }
        let mut world = shared.borrow_mut();
        if world.agenda.over {
            return;
        }
        let Some(Reverse((at, _, event))) = world.agenda.due.pop() else {
            return;
        };
        world.agenda.now = at;
        match (event, world.frozen_owner(event)) {
            (Event::Wake(id), _) => world.agenda.ready.push_back(id),
            (event, Some(member)) => world.agenda.hold(member, event),
            (event, None) => world.handle(event),
        }
    }
    shared
        .borrow_mut()
        .note("the model gave up: too many events".to_owned());
}

fn next_ready(shared: &Shared) -> Option<TaskId> {
    shared.borrow_mut().agenda.ready.pop_front()
}

fn adopt(shared: &Shared, tasks: &mut Vec<Option<Task>>) {
    let mut world = shared.borrow_mut();
    for task in std::mem::take(&mut world.agenda.spawned) {
        world.agenda.ready.push_back(tasks.len());
        tasks.push(Some(task));
    }
}

fn poll(shared: &Shared, tasks: &mut [Option<Task>], id: TaskId) {
    let Some(mut task) = tasks[id].take() else {
        return;
    };
    {
        let mut world = shared.borrow_mut();
        if let Some(member) = task.member {
            if world.patroni[member].life != task.life {
                return;
            }
            if world.still(member) {
                world.agenda.hold(member, Event::Wake(id));
                tasks[id] = Some(task);
                return;
            }
        }
        world.agenda.current = id;
    }
    let mut context = Context::from_waker(Waker::noop());
    if task.work.as_mut().poll(&mut context).is_pending() {
        tasks[id] = Some(task);
    }
}

/// Waits so long.
pub(crate) fn sleep(shared: &Shared, wait: At) -> impl Future<Output = ()> + use<> {
    let until = shared.borrow().agenda.now + wait;
    let shared = Rc::clone(shared);
    let mut asked = false;
    std::future::poll_fn(move |_| {
        let mut world = shared.borrow_mut();
        if world.agenda.now >= until {
            return Poll::Ready(());
        }
        if !asked {
            asked = true;
            let id = world.agenda.current;
            world.agenda.at(until, Event::Wake(id));
        }
        Poll::Pending
    })
}

/// Waits until there is what `condition` looks for, and not longer than `wait`.
pub(crate) fn until<T>(
    shared: &Shared,
    wait: At,
    mut condition: impl FnMut(&mut World) -> Option<T>,
) -> impl Future<Output = Option<T>> {
    let deadline = shared.borrow().agenda.now.saturating_add(wait);
    let shared = Rc::clone(shared);
    let mut asked = false;
    std::future::poll_fn(move |_| {
        let mut world = shared.borrow_mut();
        if let Some(found) = condition(&mut world) {
            return Poll::Ready(Some(found));
        }
        if world.agenda.now >= deadline {
            return Poll::Ready(None);
        }
        let id = world.agenda.current;
        if !asked {
            asked = true;
            world.agenda.at(deadline, Event::Wake(id));
        }
        if !world.agenda.waiting.contains(&id) {
            world.agenda.waiting.push(id);
        }
        Poll::Pending
    })
}

/// Waits for all of them.
pub(crate) async fn all<T: 'static>(works: Vec<Work<T>>) -> Vec<T> {
    let mut slots: Vec<Result<T, Work<T>>> = works.into_iter().map(Err).collect();
    std::future::poll_fn(move |context| {
        let mut waits = false;
        for slot in &mut slots {
            if let Err(work) = slot {
                match work.as_mut().poll(context) {
                    Poll::Ready(value) => *slot = Ok(value),
                    Poll::Pending => waits = true,
                }
            }
        }
        if waits {
            return Poll::Pending;
        }
        Poll::Ready(slots.drain(..).filter_map(Result::ok).collect())
    })
    .await
}
