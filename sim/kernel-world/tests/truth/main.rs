//! Whether the model tells the truth: the same packets in the network model and between kernel
//! NATs, and the same ones must arrive.
//!
//! The kernel's NATs are independent of the model: conntrack and nftables. Needs root, `ip` and
//! `nft`. Without root the tests say that they were skipped; where `CI=true` they fail.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod expiry;
mod ground;
mod hairpin;
mod punch;
