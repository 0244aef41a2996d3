//! Endpoints over loopback sockets, with servers that say whatever a test wants.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod pumps;
mod sentences;
mod stage;
mod throughput;

use std::time::Duration;

use super::*;
use crate::clock::timeout;
use crate::real::RealClock;

/// Longest wait of a test for what should come at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// Wait for it, but not for ever.
async fn soon<F: Future>(what: F) -> F::Output {
    timeout(&RealClock, PATIENCE, what)
        .await
        .expect("it comes soon")
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn leads(term: u64) -> Option<Observation> {
    Some(Observation {
        leads: Some(term),
        follows: false,
    })
}

fn follows() -> Option<Observation> {
    Some(Observation {
        leads: None,
        follows: true,
    })
}
