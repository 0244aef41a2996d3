//! The embedded key-value store: one node, durable, speaking the subset of Consul's HTTP API that
//! Holdfast and Patroni use.
//!
//! [`store`] is the machine: Consul's semantics without io, so that simulators run it too.
//! `disk` keeps it, `http` serves it.

#[cfg(feature = "net")]
pub mod disk;
#[cfg(feature = "net")]
pub mod http;
pub mod store;
