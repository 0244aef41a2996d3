//! When to write the flight recorder's content, and the trait of where.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Clock;

/// Shortest time between two dumps that errors cause: one mishap logs many.
pub const ERROR_DUMP_INTERVAL: Duration = Duration::from_secs(10);

/// Why a dump is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpReason {
    /// Somebody asked, by a signal.
    Signal,
    /// An error was logged.
    Error,
}

impl DumpReason {
    /// In lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            DumpReason::Signal => "signal",
            DumpReason::Error => "error",
        }
    }
}

/// Where dumps go.
pub trait DumpSink {
    /// Write a dump as a whole or not at all; returns where it is.
    fn write(&self, reason: DumpReason, lines: &[String]) -> io::Result<String>;
}

/// Asks for dumps, from any thread and any number of times.
#[derive(Clone, Debug, Default)]
pub struct DumpTrigger(Arc<Requests>);

#[derive(Debug, Default)]
struct Requests {
    signal: AtomicBool,
    error: AtomicBool,
    notify: Notify,
}

impl DumpTrigger {
    /// Ask for a dump. Requests that have not been served yet are one.
    pub fn request(&self, reason: DumpReason) {
        let flag = match reason {
            DumpReason::Signal => &self.0.signal,
            DumpReason::Error => &self.0.error,
        };
        flag.store(true, Ordering::Release);
        self.0.notify.notify_one();
    }

    async fn next(&self) -> DumpReason {
        loop {
            if self.0.signal.swap(false, Ordering::AcqRel) {
                return DumpReason::Signal;
            }
            if self.0.error.swap(false, Ordering::AcqRel) {
                return DumpReason::Error;
            }
            self.0.notify.notified().await;
        }
    }
}

/// Serve the requests for ever: `content` gives the lines. Errors that follow a dump within
/// [`ERROR_DUMP_INTERVAL`] cause none.
pub async fn serve_dumps<C: Clock>(
    clock: C,
    trigger: DumpTrigger,
    sink: Box<dyn DumpSink>,
    content: impl Fn(&mut Vec<String>),
) {
    let mut last = None;
    loop {
        let reason = trigger.next().await;
        let now = clock.now().mono;
        let recent = last.is_some_and(|at| now < at + ERROR_DUMP_INTERVAL);
        if reason == DumpReason::Error && recent {
            continue;
        }
        last = Some(now);
        let mut lines = Vec::new();
        content(&mut lines);
        match sink.write(reason, &lines) {
            Ok(place) => {
                tracing::info!(place, reason = reason.as_str(), "flight recorder dumped");
            }
            // Not as an error: that would ask for the next dump.
            Err(error) => tracing::warn!(%error, "the flight recorder cannot be dumped"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::real::{RealClock, block_on};
    use std::cell::RefCell;
    use std::rc::Rc;

    struct Kept(Rc<RefCell<Vec<DumpReason>>>);

    impl DumpSink for Kept {
        fn write(&self, reason: DumpReason, lines: &[String]) -> io::Result<String> {
            assert_eq!(lines, ["line"]);
            self.0.borrow_mut().push(reason);
            Ok("kept".to_owned())
        }
    }

    #[test]
    fn a_flood_of_errors_is_one_dump_and_a_signal_always_is_one() {
        let kept = Rc::new(RefCell::new(Vec::new()));
        let trigger = DumpTrigger::default();
        let sink = Box::new(Kept(kept.clone()));
        block_on(async {
            let serve = serve_dumps(RealClock, trigger.clone(), sink, |out| {
                out.push("line".to_owned());
            });
            let script = async {
                for reason in [DumpReason::Error, DumpReason::Error, DumpReason::Signal] {
                    trigger.request(reason);
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                () = serve => unreachable!("it serves for ever"),
                () = script => {}
            }
        })
        .unwrap();
        assert_eq!(*kept.borrow(), [DumpReason::Error, DumpReason::Signal]);
    }
}
