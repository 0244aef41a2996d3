//! The servers over real sockets on loopback.

#![cfg(feature = "net")]

mod broker;
mod relay;
