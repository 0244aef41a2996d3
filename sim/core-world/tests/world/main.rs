//! Plans in the core world: what a harness sees of them, one sentence per test.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod claims;
mod determinism;
mod faults;
mod plans;
mod processes;
mod size;
mod traffic;
