//! What the tasks of the endpoints have in common: the machine, and who is told what it says.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use holdfast_core::route::{CheckId, Event, Input, Name, Output, Router, SessionId};
use tokio::sync::Notify;

use super::pump::Buffers;
use super::session::{Order, Slot};
use super::{Backend, Listen, ListenerView};
use crate::clock::Clock;
use crate::spawn::Task;

/// The machine, and what stands for it in the world.
pub(super) struct Shared<N, C, S> {
    pub(super) net: N,
    pub(super) clock: C,
    pub(super) spawn: S,
    pub(super) connect_timeout: Duration,
    pub(super) buffers: Buffers,
    router: RefCell<Router>,
    backends: RefCell<BTreeMap<Name, SocketAddr>>,
    /// Checks that are to be made.
    checks: RefCell<VecDeque<(CheckId, Name)>>,
    sessions: RefCell<BTreeMap<SessionId, Entry>>,
    sessions_ever: Cell<u64>,
    /// Tasks of sessions that have not ended.
    live: Cell<usize>,
    listeners: RefCell<Vec<ListenerView>>,
    /// Wakes the driver: a deadline, a check, or something in the view may be new.
    pub(super) changed: Notify,
}

/// A session of which the machine knows.
struct Entry {
    slot: Rc<Slot>,
    task: Option<Task>,
}

impl Entry {
    /// The last order; the task ends by itself.
    fn reset(mut self) {
        self.slot.give(Order::Reset);
        self.detach();
    }

    fn detach(&mut self) {
        if let Some(task) = self.task.take() {
            task.detach();
        }
    }
}

/// Counts a session's task for as long as it lives.
pub(super) struct Live<N, C, S>(Rc<Shared<N, C, S>>);

impl<N, C, S> Drop for Live<N, C, S> {
    fn drop(&mut self) {
        self.0.live.set(self.0.live.get() - 1);
        self.0.changed.notify_one();
    }
}

impl<N, C: Clock, S> Shared<N, C, S> {
    pub(super) fn new(
        (net, clock, spawn): (N, C, S),
        router: Router,
        backends: &[Backend],
        listen: &[Listen],
        connect_timeout: Duration,
    ) -> Rc<Shared<N, C, S>> {
        let views = listen.iter().map(|listen| ListenerView {
            address: listen.addr,
            pool: listen.pool,
            listens: false,
            problem: None,
        });
        let shared = Rc::new(Shared {
            net,
            clock,
            spawn,
            connect_timeout,
            buffers: Buffers::default(),
            router: RefCell::new(router),
            backends: RefCell::new(addresses(backends)),
            checks: RefCell::default(),
            sessions: RefCell::default(),
            sessions_ever: Cell::new(0),
            live: Cell::new(0),
            listeners: RefCell::new(views.collect()),
            changed: Notify::new(),
        });
        shared.work();
        shared
    }

    // ---- The machine ----

    /// Tell the machine, and do what it says.
    pub(super) fn handle(&self, input: Input) {
        let now = self.clock.now();
        self.router.borrow_mut().handle(now, input);
        self.work();
    }

    /// Time passed.
    pub(super) fn handle_deadline(&self) {
        let mut router = self.router.borrow_mut();
        if let Some((at, _why)) = router.deadline() {
            let now = self.clock.now();
            // A timer may fire a moment early: the machine has to see its deadline reached.
            let early = at.saturating_duration_since(now.mono);
            router.handle_deadline(now.plus(early));
        }
        drop(router);
        self.work();
    }

    /// Look at the machine.
    pub(super) fn view<T>(&self, look: impl FnOnce(&Router) -> T) -> T {
        look(&self.router.borrow())
    }

    /// Other servers, or other addresses of them.
    pub(super) fn set_backends(&self, backends: &[Backend]) {
        let addresses = addresses(backends);
        let known = self.backends.borrow().clone();
        // A server at another address is another: it begins anew.
        let is_moved = |name: &Name| known.get(name).is_some_and(|old| *old != addresses[name]);
        let names: Vec<Name> = backends.iter().map(|b| b.name.clone()).collect();
        let stay = names.iter().filter(|name| !is_moved(name)).cloned();
        let now = self.clock.now();
        let mut router = self.router.borrow_mut();
        let result = holdfast_core::route::check_backends(&names)
            .and_then(|()| router.set_backends(now, stay.collect()))
            .and_then(|()| router.set_backends(now, names.clone()));
        drop(router);
        match result {
            Ok(()) => *self.backends.borrow_mut() = addresses,
            Err(error) => tracing::error!(%error, "the servers stay what they were"),
        }
        self.work();
    }

    fn work(&self) {
        loop {
            // Not borrowed while others are told.
            let output = self.router.borrow_mut().poll_output();
            let Some(output) = output else {
                self.changed.notify_one();
                return;
            };
            match output {
                Output::Check { check, backend } => {
                    self.checks.borrow_mut().push_back((check, backend));
                }
                Output::Connect { session, backend } => {
                    self.order(session, Order::Connect(backend));
                }
                Output::Wait { session } => self.order(session, Order::Wait),
                Output::Refuse { session, why } => {
                    tracing::debug!(session = session.0, %why, "a session was refused");
                    self.reset(session);
                }
                Output::Reset { session } => self.reset(session),
                Output::Event(event) => log(&event),
            }
        }
    }

    pub(super) fn next_check(&self) -> Option<(CheckId, Backend)> {
        loop {
            let (check, name) = self.checks.borrow_mut().pop_front()?;
            // One that is no server any more is not waited for.
            if let Some(addr) = self.address(&name) {
                return Some((check, Backend { name, addr }));
            }
        }
    }

    pub(super) fn address(&self, name: &Name) -> Option<SocketAddr> {
        self.backends.borrow().get(name).copied()
    }

    // ---- Listeners ----

    /// Change what is shown of a listener.
    pub(super) fn show(&self, nth: usize, change: impl FnOnce(&mut ListenerView)) {
        change(&mut self.listeners.borrow_mut()[nth]);
        self.changed.notify_one();
    }

    pub(super) fn listeners(&self) -> Vec<ListenerView> {
        self.listeners.borrow().clone()
    }

    // ---- Sessions ----

    /// A session that the machine is about to be asked for.
    pub(super) fn add_session(&self) -> (SessionId, Rc<Slot>) {
        let id = SessionId(self.sessions_ever.get() + 1);
        self.sessions_ever.set(id.0);
        let slot = Rc::new(Slot::default());
        let entry = Entry {
            slot: slot.clone(),
            task: None,
        };
        self.sessions.borrow_mut().insert(id, entry);
        (id, slot)
    }

    pub(super) fn has_session(&self, id: SessionId) -> bool {
        self.sessions.borrow().contains_key(&id)
    }

    /// What ends with the endpoints. It may have ended already.
    pub(super) fn add_task(&self, id: SessionId, task: Task) {
        match self.sessions.borrow_mut().get_mut(&id) {
            Some(entry) => entry.task = Some(task),
            None => task.detach(),
        }
    }

    /// A session is over: called by its own task, which ends by itself.
    pub(super) fn ended(&self, id: SessionId) {
        let entry = self.sessions.borrow_mut().remove(&id);
        if let Some(mut entry) = entry {
            entry.detach();
        }
        self.handle(Input::Ended(id));
    }

    fn order(&self, id: SessionId, order: Order) {
        let sessions = self.sessions.borrow();
        let slot = sessions.get(&id).map(|entry| entry.slot.clone());
        drop(sessions);
        if let Some(slot) = slot {
            slot.give(order);
        }
    }

    fn reset(&self, id: SessionId) {
        let entry = self.sessions.borrow_mut().remove(&id);
        if let Some(entry) = entry {
            entry.reset();
        }
    }

    /// Reset all that are left.
    pub(super) fn reset_all(&self) {
        let sessions = std::mem::take(&mut *self.sessions.borrow_mut());
        sessions.into_values().for_each(Entry::reset);
    }

    /// Let go of everything at once.
    pub(super) fn clear(&self) {
        // Dropped when nothing is borrowed: tasks have a say when they end.
        let sessions = std::mem::take(&mut *self.sessions.borrow_mut());
        drop(sessions);
    }

    pub(super) fn live(self: &Rc<Self>) -> Live<N, C, S> {
        self.live.set(self.live.get() + 1);
        Live(self.clone())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.live.get() == 0
    }
}

fn addresses(backends: &[Backend]) -> BTreeMap<Name, SocketAddr> {
    let pairs = backends.iter().map(|b| (b.name.clone(), b.addr));
    pairs.collect()
}

fn log(event: &Event) {
    let shown = |name: &Option<Name>| name.as_ref().map_or("nobody", Name::as_str).to_owned();
    match event {
        Event::Up { backend, pool } => tracing::info!(%backend, ?pool, "a server is up"),
        Event::Down { backend, pool, why } => {
            tracing::warn!(%backend, ?pool, %why, "a server is down");
        }
        Event::Switched { from, to, term } => {
            let (from, to) = (shown(from), shown(to));
            tracing::info!(from, to, ?term, "another server leads");
        }
        Event::Ambiguous { kept, other, term } => {
            tracing::error!(%kept, %other, term, "two servers lead by the same term");
        }
        Event::TermForgotten { was, now } => {
            tracing::warn!(
                was,
                now,
                "nobody has led by the highest term for long: forgotten"
            );
        }
    }
}
