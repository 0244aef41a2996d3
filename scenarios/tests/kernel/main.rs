//! The program itself between kernel NATs: processes of `holdfast mesh` in network
//! namespaces, coturn as their STUN and TURN server, `holdfast rendezvous` as their broker.
//!
//! Needs root, `ip`, `nft` and coturn. Without root the tests say that they were skipped;
//! where `CI=true` they fail. The tests run one after the other, since they measure times.
//! Lines that begin with `figure:` are the measurements.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod hostile;
mod lifecycle;
mod streams;
mod topologies;
mod traffic;
mod world;
