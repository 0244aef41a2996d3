//! Where changes are kept before they happen.

use holdfast_core::time::Now;

use super::state::{Batch, State};

/// A change was not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// It is certainly not kept.
    #[error("{0}")]
    Refused(String),
    /// It may be kept: what is kept has to be read again before the next change.
    #[error("{0}")]
    Unsure(String),
}

/// Keeps changes. The store asks before it changes anything, and tells nobody of a change that
/// was not kept.
pub trait Journal {
    /// Keep these changes, so that they survive whatever happens from now on.
    fn record(&mut self, now: Now, before: &State, batch: &Batch) -> Result<(), JournalError>;

    /// What is kept, after [`JournalError::Unsure`].
    fn recover(&mut self) -> Result<State, JournalError>;
}

/// Keeps nothing: the store ends with its process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory;

impl Journal for Memory {
    fn record(&mut self, _now: Now, _before: &State, _batch: &Batch) -> Result<(), JournalError> {
        Ok(())
    }

    fn recover(&mut self) -> Result<State, JournalError> {
        Err(JournalError::Refused("memory keeps nothing".into()))
    }
}
