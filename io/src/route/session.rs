//! One session: a client that waits for a server, is connected, and goes on until the end.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use holdfast_core::route::{Input, Name, SessionId};
use tokio::io::{AsyncRead, ReadBuf};

use super::pump::{End, pump};
use super::shared::{Live, Shared};
use crate::clock::{Clock, timeout};
use crate::net::{Net, Stream};
use crate::spawn::Spawn;

/// What is read of a client that waits, at most: a request to begin, and whether it is still
/// there. A client that says more is not watched.
const EARLY_LEN_MAX: usize = 1024;

/// What a session is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    /// Nothing, until another order comes.
    #[default]
    Wait,
    /// Connect to this server.
    Connect(Name),
    /// End, and let both ends see that as a reset.
    Reset,
}

/// Where a session finds its orders.
#[derive(Debug, Default)]
pub(super) struct Slot {
    order: RefCell<Order>,
    /// Counts orders: two may be equal.
    given: Cell<u64>,
    waker: RefCell<Option<Waker>>,
}

impl Slot {
    pub(super) fn give(&self, order: Order) {
        *self.order.borrow_mut() = order;
        self.given.set(self.given.get() + 1);
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn current(&self) -> (Order, u64) {
        (self.order.borrow().clone(), self.given.get())
    }

    /// Ready when another order than the `seen`th is there.
    pub(super) fn poll_newer(&self, cx: &mut Context<'_>, seen: u64) -> Poll<()> {
        if self.given.get() != seen {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// A client's connection, and where it gets its orders.
pub(super) struct Session<N: Net, C: Clock, S: Spawn> {
    pub(super) shared: Rc<Shared<N, C, S>>,
    pub(super) _live: Live<N, C, S>,
    pub(super) id: SessionId,
    pub(super) slot: Rc<Slot>,
    pub(super) client: N::Stream,
}

impl<N: Net, C: Clock, S: Spawn> Session<N, C, S> {
    /// Run to the end.
    pub(super) async fn run(mut self) {
        // Segments leave as they come: the ends have already decided what belongs together.
        let _ = self.client.set_nodelay(true);
        let mut early = Vec::new();
        match self.connected(&mut early).await {
            Some((server, seen)) => self.pump(server, early, seen).await,
            None => {
                // Without it the application sees a clean end, which would be a lie.
                let _ = self.client.reset_on_drop();
            }
        }
        self.shared.ended(self.id);
    }

    async fn pump(&mut self, mut server: N::Stream, early: Vec<u8>, seen: u64) {
        let _ = server.set_nodelay(true);
        let ordered = |cx: &mut Context<'_>| self.slot.poll_newer(cx, seen);
        let shared = &self.shared;
        let ends = (&mut self.client, &mut server);
        let end = pump(ends, early, &shared.buffers, &shared.clock, ordered).await;
        if end != End::Clean {
            let _ = self.client.reset_on_drop();
            let _ = server.reset_on_drop();
        }
    }

    /// A connection to the server that was ordered last, and the number of that order. `None`:
    /// the session is over.
    async fn connected(&mut self, early: &mut Vec<u8>) -> Option<(N::Stream, u64)> {
        loop {
            let (order, seen) = self.slot.current();
            let name = match order {
                Order::Reset => return None,
                Order::Wait => {
                    self.waited(early, seen).await?;
                    continue;
                }
                Order::Connect(name) => name,
            };
            let mut attempt = pin!(self.connect(&name));
            let tried = poll_fn(|cx| {
                if self.slot.poll_newer(cx, seen).is_ready() {
                    return Poll::Ready(None);
                }
                attempt.as_mut().poll(cx).map(Some)
            });
            match tried.await {
                None => {}
                Some(Some(server)) => {
                    self.shared.handle(Input::Connected(self.id));
                    return Some((server, seen));
                }
                Some(None) => {
                    self.slot.give(Order::Wait);
                    self.shared.handle(Input::Failed(self.id));
                }
            }
        }
    }

    /// Wait for another order. `None`: the client is gone. When nobody leads, clients come, lose
    /// patience and come again: those that are gone must not keep the others out.
    async fn waited(&mut self, early: &mut Vec<u8>, seen: u64) -> Option<()> {
        let (slot, client) = (&self.slot, &mut self.client);
        poll_fn(|cx| {
            if slot.poll_newer(cx, seen).is_ready() {
                return Poll::Ready(Some(()));
            }
            while early.len() < EARLY_LEN_MAX {
                let mut space = [0; EARLY_LEN_MAX];
                let mut space = ReadBuf::new(&mut space[early.len()..]);
                match Pin::new(&mut *client).poll_read(cx, &mut space) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(())) if !space.filled().is_empty() => {
                        early.extend_from_slice(space.filled());
                    }
                    Poll::Ready(_) => return Poll::Ready(None),
                }
            }
            Poll::Pending
        })
        .await
    }

    async fn connect(&self, name: &Name) -> Option<N::Stream> {
        let shared = &self.shared;
        let addr = shared.address(name)?;
        let connecting = shared.net.connect(None, addr);
        match timeout(&shared.clock, shared.connect_timeout, connecting).await {
            Ok(Ok(server)) => return Some(server),
            Ok(Err(error)) => tracing::debug!(server = %name, %addr, %error, "a server refused"),
            Err(error) => tracing::debug!(server = %name, %addr, %error, "a server is silent"),
        }
        None
    }
}
