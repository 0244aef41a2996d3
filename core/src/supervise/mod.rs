//! When which child runs: start in order of readiness, restart with backoff, an intensity limit,
//! shutdown in reverse with deadlines.
//!
//! States and invariants: `docs/membership.md`.
//!
//! `after` says when a child may start, and nothing else: when a child that others have waited for
//! ends, the others run on. Who cannot live without it ends by itself, and then waits for it
//! again. So one child that flaps flaps alone.
//!
//! What children wait for may also be an *external*: a name that the driver answers for with
//! [`Input::External`], such as `mesh`.

mod check;
mod machine;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use check::{ConfigError, check};
pub use machine::Supervisor;

/// Most children.
pub const CHILDREN_MAX: usize = 64;
/// Most names that are no children and can be waited for.
pub const EXTERNALS_MAX: usize = 16;
/// Most restarts that a window may allow: more is no limit.
pub const RESTARTS_MAX: u32 = 1000;
/// Longest wait, window or deadline of a child: an hour. Whoever means longer means for ever.
pub const TIME_MAX: Duration = Duration::from_secs(3600);
/// What nothing survives: SIGKILL.
pub const KILL: Signal = Signal(9);

/// The name of a child: 1 to 63 letters, digits, '-', '_', '.'.
pub type Name = crate::types::PeerId;

/// A signal, by the number that the system has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(pub i32);

/// What the machine needs to know of a child. How it is started is for the driver; `digest` tells
/// whether that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its name.
    pub name: Name,
    /// Children that have to be ready first, by name.
    pub after: Vec<Name>,
    /// Whether it is ready as soon as it runs; otherwise when the driver says so.
    pub ready_at_once: bool,
    /// A child that has ended well ends for good, and is ready then: a task, not a service.
    pub one_shot: bool,
    /// Of everything that a new process would be needed for: a reload with another digest ends
    /// the child and starts it again, one that changes only what is said here does not.
    pub digest: [u8; 32],
    /// What asks it to end.
    pub stop_signal: Signal,
    /// How long it may take to end.
    pub stop_deadline: Duration,
    /// First wait before it is started again; it doubles with every failure in a row.
    pub backoff_first: Duration,
    /// Longest wait.
    pub backoff_last: Duration,
    /// More restarts than these within `window` are too many.
    pub max_restarts: u32,
    /// See `max_restarts`; as long it then rests. A run that was ready for as long begins with the
    /// first wait again.
    pub window: Duration,
}

/// Names a run of a child: greater with every run, of any child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run(pub u64);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(Signal),
    /// It could not be started.
    NotStarted,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Code(code) => write!(f, "exit code {code}"),
            Ended::Signal(Signal(number)) => write!(f, "signal {number}"),
            Ended::NotStarted => f.write_str("it could not be started"),
        }
    }
}

/// Something happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// The process of that run exists.
    Started(Run),
    /// It does what it is there for.
    Ready(Run),
    /// It no longer does.
    Unready(Run),
    /// It ended, and its whole process group with it.
    Ended {
        /// Which run.
        run: Run,
        /// How.
        how: Ended,
    },
    /// What children may wait for and is none of them has become ready, or no longer is. Names
    /// that were not given to [`Supervisor::with_externals`] are ignored.
    External {
        /// Its name.
        name: Name,
        /// Whether it is.
        ready: bool,
    },
    /// These are the children from now on: the others end, changed ones start again. If something
    /// is wrong with them, nothing changes, and [`Output::Refused`] says what.
    Reload(Vec<Child>),
    /// Start this child again, as somebody asked.
    Restart(Name),
    /// End everything, in order.
    Shutdown,
}

/// What to do, or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Start a process for this child; answer with [`Input::Started`] or [`Input::Ended`]. No
    /// signal is sent to it before that.
    Spawn {
        /// Which child.
        child: Name,
        /// To answer with.
        run: Run,
    },
    /// Send a signal to the process group of a run.
    Signal {
        /// Which run.
        run: Run,
        /// Which signal.
        signal: Signal,
    },
    /// A child entered another state.
    Changed {
        /// Which child.
        child: Name,
        /// Its state.
        state: State,
        /// Why, for people.
        why: String,
    },
    /// What [`Input::Reload`] brought is wrong: nothing has changed.
    Refused(ConfigError),
    /// After [`Input::Shutdown`]: all have ended. The machine does nothing more.
    Done,
}

/// Where a child stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// For others to be ready.
    Waiting,
    /// A process is being started, or runs and is not ready.
    Starting,
    /// Does what it is there for.
    Ready,
    /// It was asked to end.
    Stopping,
    /// It ended and is started again after a while.
    Backoff,
    /// It failed too often and rests.
    Failed,
    /// A task that is done, or a child after shutdown.
    Done,
}

/// A child, for people.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ChildView {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: State,
    /// How often it was started again.
    pub restarts: u32,
    /// How it ended last, for people.
    pub last_end: Option<String>,
}
