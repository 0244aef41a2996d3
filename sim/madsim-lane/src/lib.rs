//! The drivers and pumps of `holdfast-io` under madsim's executor, which picks the next task at
//! random: many seeds are many interleavings of wake-ups, cancellations and shutdowns.
//!
//! turmoil runs the same code in one fixed order per plan; here the order itself is drawn. Only
//! the executor and the time are madsim's. Its sockets are no drop-in for ours, so the network
//! is in memory, and simple: each datagram takes two milliseconds, nothing is lost.
//!
//! ```sh
//! RUSTFLAGS="--cfg madsim" cargo test --manifest-path sim/madsim-lane/Cargo.toml \
//!     --target-dir target/madsim
//! ```
//!
//! The only command that sets RUSTFLAGS, with a target folder of its own: the flag reaches every
//! dependency. Without it this crate is empty. madsim defines the symbols that
//! `holdfast-interposer` does; the two exclude each other.

#![cfg(madsim)]

#[path = "../../turmoil-world/src/loopback.rs"]
#[allow(dead_code, reason = "the turmoil world uses the rest of it")]
mod loopback;
pub mod net;
pub mod runtime;
