//! Rows that are missing, double, or invented.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{History, Outcome};

/// What became of the rows of a history. Lists are ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durability {
    /// How many writes were acknowledged.
    pub acknowledged: u64,
    /// How many may have happened.
    pub unknown: u64,
    /// How many did not happen.
    pub failed: u64,
    /// Acknowledged, and not there.
    pub lost: Vec<u64>,
    /// There more than once.
    pub duplicated: Vec<u64>,
    /// There, and nobody asked for it.
    pub invented: Vec<u64>,
    /// There, although the client was told that it did not happen.
    pub failed_but_there: Vec<u64>,
    /// Unknown, and there: no mistake.
    pub unknown_and_there: u64,
    /// Whether anything was read at all. If not, nothing is known of what is lost.
    pub read: bool,
}

impl Durability {
    /// Whether everything was read, and nothing is wrong.
    #[must_use]
    pub fn holds(&self) -> bool {
        let wrong = [
            &self.lost,
            &self.duplicated,
            &self.invented,
            &self.failed_but_there,
        ];
        self.read && wrong.iter().all(|ids| ids.is_empty())
    }
}

/// What became of the rows.
#[must_use]
pub fn durability(history: &History) -> Durability {
    let asked: BTreeMap<u64, Outcome> = history
        .writes
        .iter()
        .map(|write| (write.id, write.outcome))
        .collect();
    let count = |outcome| {
        history
            .writes
            .iter()
            .filter(|w| w.outcome == outcome)
            .count() as u64
    };
    let mut result = Durability {
        acknowledged: count(Outcome::Acknowledged),
        unknown: count(Outcome::Unknown),
        failed: count(Outcome::Failed),
        read: history.found.is_some(),
        ..Durability::default()
    };
    let Some(rows) = &history.found else {
        return result;
    };
    let mut found: BTreeMap<u64, u64> = BTreeMap::new();
    for row in rows {
        *found.entry(row.id).or_default() += u64::from(row.times);
    }
    found.retain(|_, times| *times > 0);
    for (id, times) in &found {
        match asked.get(id) {
            None => result.invented.push(*id),
            Some(Outcome::Failed) => result.failed_but_there.push(*id),
            Some(Outcome::Unknown) => result.unknown_and_there += 1,
            Some(Outcome::Acknowledged) => {}
        }
        if *times > 1 {
            result.duplicated.push(*id);
        }
    }
    let lost = asked
        .iter()
        .filter(|(id, outcome)| **outcome == Outcome::Acknowledged && !found.contains_key(id));
    result.lost = lost.map(|(id, _)| *id).collect();
    result
}
