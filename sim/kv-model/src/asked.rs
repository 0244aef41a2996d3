//! The model as a [`Kv`]: what drivers ask in a simulation.
//!
//! No task is needed: every call drives the model as far as its own answer.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;

use holdfast_io::clock::Clock;
use holdfast_io::kv::{Answer, Failure, Kv, Request, Response};
use tokio::sync::Notify;

use crate::KvModel;

/// One client of a model. Clones are the same client; [`ModelKv::client`] makes another.
#[derive(Clone)]
pub struct ModelKv<C> {
    shared: Rc<Shared<C>>,
    client: u32,
}

struct Shared<C> {
    clock: C,
    model: RefCell<KvModel>,
    answers: RefCell<BTreeMap<(u32, u64), Result<Response, Failure>>>,
    tickets: Cell<u64>,
    answered: Notify,
}

impl<C: Clock> ModelKv<C> {
    /// Client 0 of a model whose time is that of `clock`.
    pub fn new(model: KvModel, clock: C) -> ModelKv<C> {
        let shared = Shared {
            clock,
            model: RefCell::new(model),
            answers: RefCell::default(),
            tickets: Cell::new(0),
            answered: Notify::new(),
        };
        ModelKv {
            shared: Rc::new(shared),
            client: 0,
        }
    }

    /// Another client of the same model.
    #[must_use]
    pub fn client(&self, client: u32) -> ModelKv<C> {
        ModelKv {
            shared: self.shared.clone(),
            client,
        }
    }

    /// The model, up to date: to set faults, to read its history.
    pub fn with<T>(&self, look: impl FnOnce(&mut KvModel) -> T) -> T {
        self.shared.drive();
        let result = look(&mut self.shared.model.borrow_mut());
        // What was done to it may have moved its next deadline.
        self.shared.answered.notify_waiters();
        result
    }
}

impl<C: Clock> Shared<C> {
    fn drive(&self) {
        let mut model = self.model.borrow_mut();
        model.handle_deadline(self.clock.now());
        let mut any = false;
        while let Some(answer) = model.poll_output() {
            let name = (answer.client, answer.ticket);
            self.answers.borrow_mut().insert(name, answer.result);
            any = true;
        }
        if any {
            self.answered.notify_waiters();
        }
    }

    async fn answer(&self, name: (u32, u64)) -> Result<Response, Failure> {
        loop {
            let mut answered = pin!(self.answered.notified());
            answered.as_mut().enable();
            self.drive();
            if let Some(answer) = self.answers.borrow_mut().remove(&name) {
                return answer;
            }
            let deadline = self.model.borrow().deadline();
            match deadline {
                Some((at, _why)) => tokio::select! {
                    () = answered => {}
                    () = self.clock.sleep_until(at) => {}
                },
                None => answered.await,
            }
        }
    }
}

/// Gives its call up when it is dropped before the answer.
struct Asking<C: Clock> {
    shared: Rc<Shared<C>>,
    name: (u32, u64),
}

impl<C: Clock> Drop for Asking<C> {
    fn drop(&mut self) {
        let (client, ticket) = self.name;
        let now = self.shared.clock.now();
        self.shared.model.borrow_mut().cancel(now, client, ticket);
        self.shared.answers.borrow_mut().remove(&self.name);
    }
}

impl<C: Clock> Kv for ModelKv<C> {
    fn call(&self, request: Request) -> Answer<'_> {
        let shared = self.shared.clone();
        let client = self.client;
        Box::pin(async move {
            let ticket = shared.tickets.get();
            shared.tickets.set(ticket + 1);
            let name = (client, ticket);
            let now = shared.clock.now();
            shared.model.borrow_mut().call(now, client, ticket, request);
            let _asking = Asking {
                shared: shared.clone(),
                name,
            };
            shared.answer(name).await
        })
    }
}
