//! Every decision of Holdfast, as state machines that never touch the world.
//!
//! Nothing in this crate opens a socket, reads a clock, draws randomness of its own or
//! starts a thread. Time and entropy are arguments; what should happen is returned as
//! data. The same bytes in give the same bytes out, which is what makes a failure
//! replayable from its seed.
//!
//! A machine has five verbs (`docs/architecture.md`):
//!
//! * `new(config, seed, now)`: time and entropy are constructor arguments;
//! * `handle(now, input)`: something happened;
//! * `handle_deadline(now)`: time passed;
//! * `poll_output()`: what to do;
//! * `deadline()`: when to wake, and why.
//!
//! The hot path has verbs of its own, sorted like those of `quinn-proto`.
//!
//! Start reading at [`mesh`], which owns everything else.

#[macro_use]
mod hooks;

pub mod bucket;
pub mod config;
pub mod entropy;
pub mod ice;
pub mod identity;
pub mod kv;
pub mod link;
pub mod mesh;
pub mod mux;
pub mod quic;
pub mod recorder;
pub mod rendezvous;
pub mod route;
pub mod signal;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod slots;
pub mod status;
pub mod stun;
pub mod supervise;
pub mod time;
pub mod turn;
pub mod types;
