//! What happened, for oracles.

use holdfast_core::kv::Entry;
use holdfast_core::time::Now;
use holdfast_servers::kv::store::{Batch, Change, Journal, JournalError, State};

/// A change that was applied to an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its index.
    pub index: u64,
    /// When.
    pub at: Now,
    /// Whose call it was, as client and ticket; nobody's when a session ended by itself.
    pub by: Option<(u32, u64)>,
    /// The key.
    pub key: String,
    /// The entry before.
    pub before: Option<Entry>,
    /// The entry from then on.
    pub after: Option<Entry>,
}

/// A journal that forgets nothing, and survives everything.
#[derive(Default)]
pub(crate) struct History {
    pub applied: Vec<Applied>,
    /// Whose call is being done.
    pub by: Option<(u32, u64)>,
}

impl Journal for History {
    fn record(&mut self, now: Now, before: &State, batch: &Batch) -> Result<(), JournalError> {
        for change in &batch.changes {
            let (key, after) = match change {
                Change::Entry(stored) => (&stored.entry.key, Some(stored.entry.clone())),
                Change::EntryGone(key) => (key, None),
                Change::Session(_)
                | Change::SessionGone(_)
                | Change::Record(_)
                | Change::RecordGone(_) => continue,
            };
            self.applied.push(Applied {
                index: batch.index,
                at: now,
                by: self.by,
                key: key.clone(),
                before: before.entry(key).map(|stored| stored.entry.clone()),
                after,
            });
        }
        Ok(())
    }

    fn recover(&mut self) -> Result<State, JournalError> {
        Err(JournalError::Refused("nothing was ever unsure".into()))
    }
}
