//! Drives the claim of a slot: [`Slots`] with a [`Kv`]. Touches no operating system, so that it
//! runs in simulation as it does here.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use holdfast_core::slots::{CallId, Event, Input, Output, Slots};
use holdfast_io::clock::{Clock, Sleep};
use holdfast_io::kv::{Failure, Kv, Response};
use tokio::sync::mpsc;

/// A call on its way.
type Call = Pin<Box<dyn Future<Output = (CallId, Result<Response, Failure>)>>>;

/// What a claim can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Give the slot back, so that another instance may have it at once.
    Retire,
}

/// Drive the claim until the slot is lost or given back. A dropped `commands` sender changes
/// nothing; a dropped future leaves the slot to its lease.
///
/// `slots` may be looked at between polls, and is never borrowed across one. Calls that are on
/// their way run concurrently within this future.
pub async fn run_slots<C: Clock>(
    slots: Rc<RefCell<Slots>>,
    kv: Rc<dyn Kv>,
    clock: C,
    mut events: impl FnMut(Event),
    mut commands: mpsc::Receiver<Command>,
) {
    let mut calls: Vec<Call> = Vec::new();
    let mut sleep = clock.sleep_until(clock.now().mono);
    loop {
        if act(&slots, &kv, &mut calls, &mut events) {
            return;
        }
        let deadline = slots.borrow().deadline();
        let input = poll_fn(|cx| {
            for at in 0..calls.len() {
                if let Poll::Ready((call, result)) = calls[at].as_mut().poll(cx) {
                    drop(calls.swap_remove(at));
                    return Poll::Ready(Some(Input::Answer { call, result }));
                }
            }
            if let Poll::Ready(Some(Command::Retire)) = commands.poll_recv(cx) {
                return Poll::Ready(Some(Input::Retire));
            }
            let Some((at, _why)) = deadline else {
                return Poll::Pending;
            };
            sleep.reset(at);
            Pin::new(&mut sleep).poll(cx).map(|()| None)
        })
        .await;
        let now = clock.now();
        match (input, deadline) {
            (Some(input), _) => slots.borrow_mut().handle(now, input),
            (None, Some((at, _why))) => {
                // A timer may fire a moment early: the machine has to see its deadline reached.
                let late = at.saturating_duration_since(now.mono);
                slots.borrow_mut().handle_deadline(now.plus(late));
            }
            (None, None) => {}
        }
    }
}

/// Do what the machine says. Whether it is done for good.
fn act(
    slots: &Rc<RefCell<Slots>>,
    kv: &Rc<dyn Kv>,
    calls: &mut Vec<Call>,
    events: &mut impl FnMut(Event),
) -> bool {
    loop {
        // Not borrowed while others are told.
        let output = slots.borrow_mut().poll_output();
        match output {
            None => return false,
            Some(Output::Call { call, request }) => {
                let kv = kv.clone();
                calls.push(Box::pin(async move { (call, kv.call(request).await) }));
            }
            Some(Output::Event(event)) => {
                let over = matches!(event, Event::Lost { .. } | Event::Retired { .. });
                events(event);
                if over {
                    return true;
                }
            }
        }
    }
}
