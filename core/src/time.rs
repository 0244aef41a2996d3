//! Time as an argument.

use std::time::{Duration, Instant};

/// The two clocks a machine may be told about, read at the same moment.
///
/// Decisions rest on `mono`. `unix` bounds the expiry of credentials and messages only,
/// because a wall clock may be an hour off and must then cost nothing but that bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time.
    pub mono: Instant,
    /// Time since the Unix epoch, by this node's own opinion.
    pub unix: Duration,
}

impl Now {
    /// The same moment shifted forward, for tests and simulators.
    pub fn plus(self, by: Duration) -> Now {
        Now {
            mono: self.mono + by,
            unix: self.unix + by,
        }
    }
}
