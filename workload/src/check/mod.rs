//! What is wrong with a history.
//!
//! * [`durability`]: every acknowledged row is there exactly once, and no other than was asked for.
//! * [`linearizable`]: the register behaved as if there were one of it.
//! * [`write_gap`]: how long nobody could write.

mod durability;
mod gap;
mod linear;

pub use durability::{Durability, durability};
pub use gap::{Gap, first_acknowledged, last_acknowledged, longest_gap, write_gap};
pub use linear::{OPERATIONS_MAX, Verdict, linearizable};
