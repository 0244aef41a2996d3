//! Where writers note what they do.

use std::collections::BTreeMap;
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
    /// Asked for and not over, by key: a writer that is not waited for leaves them behind.
    writes_open: BTreeMap<u64, Write>,
    /// The same of the register, by client.
    register_open: BTreeMap<u16, RegisterOp>,
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
    /// found. What is not over is unknown: it may have happened.
    #[must_use]
    pub fn history(&self, found: Option<Vec<Found>>) -> History {
        let ended = self.now();
        let log = self.log();
        let mut history = log.history.clone();
        let writes = log.writes_open.values().cloned();
        history
            .writes
            .extend(writes.map(|write| Write { ended, ..write }));
        let register = log.register_open.values().cloned();
        history
            .register
            .extend(register.map(|op| RegisterOp { ended, ..op }));
        drop(log);
        history.writes.sort_by_key(|write| (write.asked, write.id));
        history.register.sort_by_key(|op| (op.asked, op.client));
        history.found = found;
        history
    }

    pub(super) fn is_full(&self) -> bool {
        let log = self.log();
        log.history.writes.len() >= OPERATIONS_MAX || log.history.register.len() >= OPERATIONS_MAX
    }

    /// A write is asked for: unknown until [`add`](Self::add) says more of it.
    pub(super) fn asks(&self, write: Write) {
        self.log().writes_open.insert(write.id, write);
    }

    /// An operation on the register is asked for: unknown until it is over.
    pub(super) fn asks_register(&self, op: RegisterOp) {
        self.log().register_open.insert(op.client, op);
    }

    pub(super) fn add(&self, write: Write) {
        let progress = {
            let mut log = self.log();
            log.writes_open.remove(&write.id);
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
        let mut log = self.log();
        log.register_open.remove(&op.client);
        log.history.register.push(op);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_and_is_not_over_is_unknown_and_noted_once() {
        let recorder = Recorder::new(Instant::now());
        let write = Write {
            id: 7,
            member: "worker-1".to_owned(),
            asked: Duration::ZERO,
            ended: Duration::ZERO,
            outcome: Outcome::Unknown,
            server: None,
            error: None,
        };
        let op = RegisterOp {
            client: 1,
            asked: Duration::ZERO,
            ended: Duration::ZERO,
            wrote: Some(5),
            read: None,
            outcome: Outcome::Unknown,
        };
        recorder.asks(write.clone());
        recorder.asks_register(op.clone());
        let open = recorder.history(None);
        assert_eq!((open.writes.len(), open.register.len()), (1, 1));
        assert_eq!(open.writes[0].outcome, Outcome::Unknown);
        let outcome = Outcome::Acknowledged;
        recorder.add(Write { outcome, ..write });
        recorder.add_register(RegisterOp { outcome, ..op });
        let over = recorder.history(None);
        assert_eq!((over.writes.len(), over.register.len()), (1, 1));
        assert_eq!(over.writes[0].outcome, Outcome::Acknowledged);
    }
}
