//! Servers that Holdfast brings along, so that one machine is enough to try everything.
//!
//! [`turn`] is a STUN and TURN server as a machine without io, so that simulators and tests
//! drive the code that the embedded server runs; in production coturn serves STUN and TURN.
//! `relay` drives it over sockets, `broker` answers nodes that look for each other, and
//! `rendezvous` is both together, as one command starts them.
//!
//! With `default-features = false` only [`turn`] is compiled: the drivers are behind the
//! feature `net`.

#[cfg(feature = "net")]
pub mod broker;
pub mod kv;
#[cfg(feature = "net")]
mod per_source;
#[cfg(feature = "net")]
pub mod relay;
#[cfg(feature = "net")]
pub mod rendezvous;
pub mod turn;
