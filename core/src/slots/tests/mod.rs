//! Machines against a small KV in virtual time.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod contend;
mod model;
mod random;
mod sentences;
mod world;
