//! Tasks of a simulated host: known by their node, in groups that can be killed, and with
//! panics that nobody overlooks.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use holdfast_io::spawn::{Spawn, Task};
use tokio::task::AbortHandle;

thread_local! {
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Tasks of a group that have ended are forgotten when it has this many.
const GROUP_SWEEP_LEN: usize = 64;

/// The host whose task is being polled on this thread, by its number.
pub fn current_host() -> Option<usize> {
    CURRENT.get()
}

/// The first panic of a task on this thread since the last call, as text.
pub fn take_panic() -> Option<String> {
    PANIC.take()
}

/// What a panic said.
pub fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a text".to_owned())
}

/// Starts tasks of one host.
#[derive(Clone, Debug)]
pub struct SimSpawn {
    host: usize,
    group: Rc<RefCell<Vec<AbortHandle>>>,
}

impl SimSpawn {
    /// A new group of tasks of that host.
    pub fn new(host: usize) -> SimSpawn {
        SimSpawn {
            host,
            group: Rc::default(),
        }
    }

    /// End every task of the group at its next suspension point, those that were detached too.
    pub fn kill(&self) {
        for task in self.group.take() {
            task.abort();
        }
    }

    /// Poll `future` as a task of this host.
    pub fn scope<T, F: Future<Output = T> + 'static>(
        &self,
        name: &'static str,
        future: F,
    ) -> impl Future<Output = T> + use<T, F> {
        let host = self.host;
        let mut future = Box::pin(future);
        poll_fn(move |cx| {
            let outer = CURRENT.replace(Some(host));
            let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
            CURRENT.set(outer);
            polled.unwrap_or_else(|payload| {
                let text = panic_text(&*payload);
                PANIC.with_borrow_mut(|first| {
                    first.get_or_insert_with(|| format!("the task {name:?} panicked: {text}"));
                });
                resume_unwind(payload)
            })
        })
    }
}

impl Spawn for SimSpawn {
    #[allow(
        clippy::disallowed_methods,
        reason = "turmoil's hosts are tokio runtimes"
    )]
    fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + 'static) -> Task {
        let task = tokio::task::spawn_local(self.scope(name, future));
        let abort = task.abort_handle();
        let mut group = self.group.borrow_mut();
        if group.len() >= GROUP_SWEEP_LEN {
            group.retain(|task| !task.is_finished());
        }
        group.push(abort.clone());
        Task::new(move || abort.abort())
    }
}
