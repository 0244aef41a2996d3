//! Whole nodes in virtual time: what a link promises, one sentence per test.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod bugs;
mod congestion;
mod machines;
mod paths;
mod reload;
mod replay;
mod setup;
mod signaling;
mod streams;
mod world;
