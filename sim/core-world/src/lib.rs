//! Core machines in a discrete-event simulation: the fastest of the three worlds.
//!
//! A [`World`] holds everything that a run needs and nothing of the machine it runs on: nodes
//! ([`holdfast_core::mesh::Mesh`] with its signaling client and its applications), brokers
//! ([`holdfast_core::rendezvous::Mailboxes`]), a STUN and TURN server, a small TCP ([`tcp`]),
//! and the network model between them. [`play`] plays a plan in one; tests steer one by hand.
//!
//! With a membership in the plan, nodes are instances that claim slots instead: with a [`disk`],
//! a clock and the simulated KV (`holdfast_kv_model`), and without a mesh.
//!
//! One seed is one history. Two libraries below draw from the platform's generator and cannot
//! be given another (see `holdfast_interposer::ALLOWED_BY_DEFAULT`), so a run is the same to
//! the byte on the threads of `holdfast-interposer` only.

mod apps;
mod attack;
mod claims;
mod clock;
pub mod disk;
mod effects;
mod engine;
mod hosting;
mod identity;
mod node;
mod ops;
mod play;
mod process;
mod servers;
mod signal;
pub mod tcp;
mod timers;
mod wire;

pub use apps::App;
pub use clock::{Clock, origin};
pub use engine::{Payload, Posted, World};
pub use node::{Node, Tuning};
pub use servers::{BrokerLoss, TURN_SECRET};

use holdfast_plan::{Journal, Plan, PlayError, TraceMode, WorldKind};

/// Play a plan to its end.
///
/// Marks are those of the calling thread, from the call on; a mutant is planted on it by the
/// caller (`holdfast_core::simulation`).
///
/// # Errors
/// When the plan refers to what is not there, a node cannot be configured, or the world goes
/// round without end.
pub fn play(plan: &Plan, mode: TraceMode) -> Result<Journal, PlayError> {
    if let Some(what) = plan.obstacles(WorldKind::Core).first() {
        return Err(PlayError::Unsupported {
            world: WorldKind::Core,
            what: (*what).to_owned(),
        });
    }
    play::play(plan, mode)
}
