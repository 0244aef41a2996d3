//! Local tasks as a value that a driver is given.

use std::future::Future;

/// Starts tasks on the thread of the caller. They need not be `Send`.
pub trait Spawn: Clone + 'static {
    /// Start a task. A panic in it is reported under `name`.
    fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + 'static) -> Task;
}

/// A running task: dropped, it is aborted at its next suspension point.
#[must_use = "a task is aborted when its handle is dropped"]
pub struct Task {
    abort: Option<Box<dyn FnOnce()>>,
}

impl Task {
    /// A task that `abort` ends.
    pub fn new(abort: impl FnOnce() + 'static) -> Task {
        Task {
            abort: Some(Box::new(abort)),
        }
    }

    /// Let the task run to its end by itself.
    pub fn detach(mut self) {
        self.abort = None;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(abort) = self.abort.take() {
            abort();
        }
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Task(..)")
    }
}
