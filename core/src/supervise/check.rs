//! What can be wrong with a list of children.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{CHILDREN_MAX, Child, EXTERNALS_MAX, Name, RESTARTS_MAX, TIME_MAX};

/// What is wrong with a list of children.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// More than [`CHILDREN_MAX`].
    #[error("{found} children: expected at most {CHILDREN_MAX}")]
    TooMany {
        /// How many.
        found: usize,
    },
    /// More than [`EXTERNALS_MAX`].
    #[error("{found} externals: expected at most {EXTERNALS_MAX}")]
    TooManyExternals {
        /// How many.
        found: usize,
    },
    /// Two children with one name.
    #[error("two children are called {0}")]
    Duplicate(Name),
    /// A child with the name of an external.
    #[error("a child cannot be called {0}: the name is taken")]
    Reserved(Name),
    /// It waits for what does not exist.
    #[error("child {child} waits for {after}, and nothing is called that")]
    Unknown {
        /// Who waits.
        child: Name,
        /// For what.
        after: Name,
    },
    /// These wait for each other, in this order, the last one for the first.
    #[error("children that wait for each other: {}", shown(.0))]
    Cycle(Vec<Name>),
    /// A number or a time that cannot be meant.
    #[error("child {child}: {key} is {found}: expected {expected}")]
    OutOfRange {
        /// Whose.
        child: Name,
        /// The name of the value.
        key: &'static str,
        /// What it is.
        found: String,
        /// What it could be.
        expected: String,
    },
}

fn shown(names: &[Name]) -> String {
    let names: Vec<&str> = names.iter().map(Name::as_str).collect();
    names.join(" after ")
}

/// What is wrong with these children, if something is. `externals` are names that they may wait
/// for as well.
///
/// # Errors
///
/// The first that is found.
pub fn check(children: &[Child], externals: &[Name]) -> Result<(), ConfigError> {
    if children.len() > CHILDREN_MAX {
        let found = children.len();
        return Err(ConfigError::TooMany { found });
    }
    if externals.len() > EXTERNALS_MAX {
        let found = externals.len();
        return Err(ConfigError::TooManyExternals { found });
    }
    let mut by_name = BTreeMap::new();
    for child in children {
        if externals.contains(&child.name) {
            return Err(ConfigError::Reserved(child.name.clone()));
        }
        if by_name.insert(&child.name, child).is_some() {
            return Err(ConfigError::Duplicate(child.name.clone()));
        }
        ranges(child)?;
    }
    for child in children {
        let exists = |name: &&Name| by_name.contains_key(*name) || externals.contains(name);
        if let Some(after) = child.after.iter().find(|name| !exists(name)) {
            return Err(ConfigError::Unknown {
                child: child.name.clone(),
                after: after.clone(),
            });
        }
    }
    match cycle(&by_name) {
        Some(names) => Err(ConfigError::Cycle(names)),
        None => Ok(()),
    }
}

fn ranges(child: &Child) -> Result<(), ConfigError> {
    let error = |key, found: String, expected: String| ConfigError::OutOfRange {
        child: child.name.clone(),
        key,
        found,
        expected,
    };
    for (key, time, least) in [
        ("stop_deadline", child.stop_deadline, Duration::ZERO),
        (
            "backoff_first",
            child.backoff_first,
            Duration::from_millis(1),
        ),
        ("backoff_last", child.backoff_last, child.backoff_first),
        ("window", child.window, Duration::from_millis(1)),
    ] {
        if !(least..=TIME_MAX).contains(&time) {
            let expected = format!("{least:?} to {TIME_MAX:?}");
            return Err(error(key, format!("{time:?}"), expected));
        }
    }
    if child.max_restarts > RESTARTS_MAX {
        let expected = format!("at most {RESTARTS_MAX}");
        return Err(error(
            "max_restarts",
            child.max_restarts.to_string(),
            expected,
        ));
    }
    Ok(())
}

/// Children that wait for each other, if there are any.
fn cycle(children: &BTreeMap<&Name, &Child>) -> Option<Vec<Name>> {
    // Whoever waits for nobody that is left can start; who is left at the end cannot.
    let mut left: BTreeSet<&Name> = children.keys().copied().collect();
    loop {
        let waits = |name: &Name| {
            children[name]
                .after
                .iter()
                .find(|after| left.contains(*after))
        };
        let free: Vec<&Name> = left
            .iter()
            .copied()
            .filter(|name| waits(name).is_none())
            .collect();
        if free.is_empty() {
            break;
        }
        left.retain(|name| !free.contains(name));
    }
    // Everybody left waits for another that is left: follow them until one comes again.
    let mut path: Vec<&Name> = vec![left.first()?];
    loop {
        let last = path.last().copied()?;
        let next = children[last]
            .after
            .iter()
            .find(|after| left.contains(*after))?;
        if let Some(start) = path.iter().position(|name| *name == next) {
            return Some(path[start..].iter().map(|name| (*name).clone()).collect());
        }
        path.push(next);
    }
}
