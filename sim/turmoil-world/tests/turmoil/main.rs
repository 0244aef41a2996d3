//! Whole worlds, and what an observer sees of them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod plans;
mod soak;
mod worlds;
