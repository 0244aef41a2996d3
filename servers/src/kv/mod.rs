//! The embedded key-value store: one node, durable, speaking the subset of Consul's HTTP API that
//! Holdfast and Patroni use.
//!
//! [`store`] is the machine: Consul's semantics without io, so that simulators run it too.
//! `disk` keeps it.

#[cfg(feature = "net")]
pub mod disk;
pub mod store;
