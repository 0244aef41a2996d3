//! Processes as a value that a driver is given: start, signal, and hear how they ended.

#![allow(
    async_fn_in_trait,
    reason = "drivers are local: no future here is ever sent to another thread"
)]

mod output;
mod real;
mod spec;
mod users;

use holdfast_core::supervise::{Ended, Run, Signal};

pub use real::{RealProcesses, end_strays};
pub use spec::{SpawnError, Spec};

/// Starts processes, each in a group of its own, and hears of their ends.
pub trait Processes: 'static {
    /// Start a process. What it prints is logged under the name of the child.
    ///
    /// # Errors
    /// [`SpawnError`]: nothing was started, and no end will be told.
    fn spawn(&self, run: Run, spec: &Spec) -> Result<u32, SpawnError>;

    /// Send a signal to the whole group of a run, or to its first process alone where its
    /// [`Spec`] says so. Nothing, when it has ended.
    fn signal(&self, run: Run, signal: Signal);

    /// The next run that has ended, its whole group with it. Nothing is lost when the future is
    /// dropped. Call it from one task only.
    async fn ended(&self) -> (Run, Ended);
}

/// The user and the group of a name; `None` without one.
pub(crate) fn account_ids(user: Option<&str>) -> Result<Option<(u32, u32)>, SpawnError> {
    Ok(users::find(user, None)?.map(|account| (account.uid, account.gid)))
}
