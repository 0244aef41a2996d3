//! Writers with a deadline, and the check of their history.
//!
//! A writer writes rows that nobody else writes, one after the other, and notes of each when it was
//! asked for, when it was over, and what it was told. Afterwards everything is read: what was
//! acknowledged must be there exactly once, and nothing else may be there that nobody asked for.
//!
//! * [`history`](History): what was done and found. [`check`]: what is wrong with it.
//! * `run`: the writers, on `tokio-postgres`, over streams that the caller connects.

pub mod check;
mod history;
#[cfg(feature = "run")]
pub mod run;

pub use check::{Durability, Verdict};
pub use history::{Found, History, Outcome, RegisterOp, Write};
