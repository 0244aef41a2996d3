//! Writers with a deadline, and the check of their history.
//!
//! A writer writes rows that nobody else writes, one after the other, and notes of each when it was
//! asked for, when it was over, and what it was told. Afterwards everything is read: what was
//! acknowledged must be there exactly once, and nothing else may be there that nobody asked for.

mod history;

pub use history::{Found, History, Outcome, RegisterOp, Write};
