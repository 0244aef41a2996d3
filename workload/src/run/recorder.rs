//! Where writers note what they do.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::{Found, History, Outcome, RegisterOp, Write};

/// Most writes, and most operations on the register, that are noted: 100 a second for three hours.
/// Writers stop when it is reached.
pub const OPERATIONS_MAX: usize = 1_000_000;

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Writes that were acknowledged,
    pub acknowledged: u64,
    /// that may have happened,
    pub unknown: u64,
    /// that did not.
    pub failed: u64,
    /// When the last acknowledged write was over, since the history began.
    pub last_acknowledged: Option<Duration>,
    /// How long that is ago, or, without one, how long the history is.
    pub gap: Duration,
}

/// Where writers note what they do, all on one clock; clones share it.
#[derive(Clone)]
pub struct Recorder(Arc<Shared>);

type Told = dyn Fn(&Write, Progress) + Send + Sync;

struct Shared {
    origin: Instant,
    log: Mutex<Log>,
    told: Option<Box<Told>>,
}

#[derive(Default)]
struct Log {
    history: History,
    progress: Progress,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Recorder").field(&self.progress()).finish()
    }
}

impl Recorder {
    /// A history that begins at that instant.
    #[must_use]
    pub fn new(origin: Instant) -> Recorder {
        Recorder::build(origin, None)
    }

    /// The same, and `told` hears of every write as it is over. It must not wait.
    #[must_use]
    pub fn telling(
        origin: Instant,
        told: impl Fn(&Write, Progress) + Send + Sync + 'static,
    ) -> Recorder {
        Recorder::build(origin, Some(Box::new(told)))
    }

    fn build(origin: Instant, told: Option<Box<Told>>) -> Recorder {
        let log = Mutex::default();
        Recorder(Arc::new(Shared { origin, log, told }))
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // Every change is one push: what a thread that panicked left is whole.
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, since the history began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.0.origin.elapsed()
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let mut progress = self.log().progress;
        progress.gap = self
            .now()
            .saturating_sub(progress.last_acknowledged.unwrap_or_default());
        progress
    }

    /// What was done so far, writes ascending by when they were asked for; with the rows that were
    /// found.
    #[must_use]
    pub fn history(&self, found: Option<Vec<Found>>) -> History {
        let mut history = self.log().history.clone();
        history.writes.sort_by_key(|write| (write.asked, write.id));
        history.register.sort_by_key(|op| (op.asked, op.client));
        history.found = found;
        history
    }

    pub(super) fn is_full(&self) -> bool {
        let log = self.log();
        log.history.writes.len() >= OPERATIONS_MAX || log.history.register.len() >= OPERATIONS_MAX
    }

    pub(super) fn add(&self, write: Write) {
        let progress = {
            let mut log = self.log();
            let counted = &mut log.progress;
            match write.outcome {
                Outcome::Acknowledged => {
                    counted.acknowledged += 1;
                    counted.last_acknowledged = counted.last_acknowledged.max(Some(write.ended));
                }
                Outcome::Unknown => counted.unknown += 1,
                Outcome::Failed => counted.failed += 1,
            }
            let mut progress = log.progress;
            let last = progress.last_acknowledged.unwrap_or_default();
            progress.gap = write.ended.saturating_sub(last);
            log.history.writes.push(write.clone());
            progress
        };
        if let Some(told) = &self.0.told {
            told(&write, progress);
        }
    }

    pub(super) fn add_register(&self, op: RegisterOp) {
        self.log().history.register.push(op);
    }
}
