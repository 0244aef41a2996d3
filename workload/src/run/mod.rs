//! Writers with a deadline, over streams that the caller connects.
//!
//! Nothing here spawns, listens or resolves: a writer is one future, which runs on any executor with
//! tokio's timer, also on a thread of another network namespace. [`write_rows`] and
//! [`use_register`] note what they do in a [`Recorder`] until they are told to [`Stop`];
//! [`schema`] makes the tables, fills them, and reads the rows afterwards.

mod outcome;
mod recorder;
mod register;
pub mod schema;
mod session;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use recorder::{OPERATIONS_MAX, Progress, Recorder};
pub use register::{RegisterSpec, use_register};
pub use session::{Login, Rows, Session, WorkError};
pub use writer::{Pace, WriterSpec, row_id, write_rows};

/// How long a writer waits after a connect that failed: long enough not to storm a server that is
/// starting, short against any gap that is worth a number.
pub const BACKOFF: Duration = Duration::from_millis(50);

/// Tells writers that it is enough. They end within their deadline.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// It is enough.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
