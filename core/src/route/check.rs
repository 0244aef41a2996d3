//! What can be wrong with a configuration.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{BACKENDS_MAX, Config, INTERVAL_MIN, Name, SESSIONS_MAX, STREAK_MAX, TIME_MAX};

/// What is wrong with a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// More than [`BACKENDS_MAX`].
    #[error("{found} servers: expected at most {BACKENDS_MAX}")]
    TooMany {
        /// How many.
        found: usize,
    },
    /// Two servers with one name.
    #[error("two servers are called {0}")]
    Duplicate(Name),
    /// A number or a time that cannot be meant.
    #[error("{key} is {found}: expected {expected}")]
    OutOfRange {
        /// The name of the value.
        key: &'static str,
        /// What it is.
        found: String,
        /// What it could be.
        expected: String,
    },
}

/// What is wrong with a list of servers, if something is.
///
/// # Errors
///
/// [`ConfigError::TooMany`] or [`ConfigError::Duplicate`].
pub fn check_backends(backends: &[Name]) -> Result<(), ConfigError> {
    if backends.len() > BACKENDS_MAX {
        let found = backends.len();
        return Err(ConfigError::TooMany { found });
    }
    let mut names = BTreeSet::new();
    match backends.iter().find(|name| !names.insert(*name)) {
        Some(twice) => Err(ConfigError::Duplicate(twice.clone())),
        None => Ok(()),
    }
}

impl Config {
    /// What is wrong with it, if something is.
    ///
    /// # Errors
    ///
    /// The first that is found.
    pub fn check(&self) -> Result<(), ConfigError> {
        check_backends(&self.backends)?;
        within("interval", self.interval, INTERVAL_MIN, TIME_MAX)?;
        within("timeout", self.timeout, INTERVAL_MIN, TIME_MAX)?;
        within("rise", self.rise, 1, STREAK_MAX)?;
        within("fall", self.fall, 1, STREAK_MAX)?;
        within("hold", self.hold, Duration::ZERO, TIME_MAX)?;
        within("sessions_max", self.sessions_max, 1, SESSIONS_MAX)
    }
}

fn within<T: PartialOrd + std::fmt::Debug>(
    key: &'static str,
    found: T,
    least: T,
    most: T,
) -> Result<(), ConfigError> {
    if (&least..=&most).contains(&&found) {
        return Ok(());
    }
    Err(ConfigError::OutOfRange {
        key,
        found: format!("{found:?}"),
        expected: format!("{least:?} to {most:?}"),
    })
}
