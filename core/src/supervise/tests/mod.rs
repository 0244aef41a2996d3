//! Children that are only said to run, in virtual time.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod random;
mod sentences;

use std::time::{Duration, Instant};

use super::*;
use crate::time::Now;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
const TERM: Signal = Signal(15);

fn start() -> Now {
    #[allow(clippy::disallowed_methods, reason = "the one origin of virtual time")]
    fn origin() -> Instant {
        Instant::now()
    }
    Now {
        mono: origin(),
        unix: S,
    }
}

fn name(name: &str) -> Name {
    name.parse().unwrap()
}

fn child(of: &str, after: &[&str]) -> Child {
    Child {
        name: name(of),
        after: after.iter().map(|after| name(after)).collect(),
        ready_at_once: true,
        one_shot: false,
        digest: [0; 32],
        stop_signal: TERM,
        stop_deadline: S * 10,
        backoff_first: MS * 100,
        backoff_last: S * 5,
        max_restarts: 5,
        window: S * 60,
    }
}
