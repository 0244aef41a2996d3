//! What every implementation of a trait must do.
//!
//! A contract is a list of cases. Each is run against every implementation by a test of this
//! crate, so that a simulation never permits what the real thing refuses, nor the other way round.

#![allow(
    clippy::unwrap_used,
    reason = "everything here is run by tests, where a failed unwrap is a failed test"
)]

pub mod kv;
