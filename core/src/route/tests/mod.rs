//! What must hold, as sentences and against a model of those who ask and are asked.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod random;
mod sentences;
mod world;

use std::time::{Duration, Instant};

use super::*;
use crate::time::Now;

const S: Duration = Duration::from_secs(1);

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

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn names(texts: &[&str]) -> Vec<Name> {
    texts.iter().map(|text| name(text)).collect()
}

/// The configuration of `docs/postgres.md`.
fn config(backends: &[&str]) -> Config {
    Config {
        backends: names(backends),
        fall_back: true,
        interval: S / 2,
        timeout: S,
        rise: 1,
        fall: 2,
        hold: 5 * S,
        sessions_max: 1000,
    }
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

/// It answers that it is neither.
fn neither() -> Option<Observation> {
    Some(Observation::default())
}
