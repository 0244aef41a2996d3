//! The real drivers and servers on simulated hosts.
//!
//! What runs is what ships: `holdfast_io::mesh::run_mesh`, the broker behind HTTP and the TURN
//! server, with every task, timer, socket and buffer of theirs. Only the operating system is
//! simulated: each node and server is a host of turmoil with a tokio runtime of its own, whose
//! time is virtual.
//!
//! * UDP goes through `holdfast_net_model`, with the model's own times of arrival, rounded up
//!   to the tick of a millisecond.
//! * TCP between hosts goes through turmoil. It has the delays of the model, and stands still
//!   while a link on its way is a black hole; losses and rates are for datagrams.
//! * Loopback addresses are pipes in memory, since turmoil knows one address for each host.
//!   turmoil's addresses are flat: a broker sees each node's own, never a NAT's.
//! * A crash is turmoil's, which runs destructors: sockets close as a kernel would close them.
//! * turmoil's `fail_rate` and `repair_rate` are 0: it must not heal what a plan has cut.

mod apps;
mod clock;
mod fabric;
mod host;
mod log;
mod loopback;
mod lossy;
mod net;
mod node;
mod observer;
mod outsider;
mod routes;
mod server;
mod shared;
mod spawn;
mod wire;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use holdfast_plan::{Journal, Plan, PlayError, TraceMode, WorldKind};

use crate::log::Log;
use crate::world::World;

/// Whether this was built as it has to be.
#[allow(
    unexpected_cfgs,
    reason = "tokio's own flag, set in .cargo/config.toml"
)]
const TOKIO_UNSTABLE: bool = cfg!(tokio_unstable);

/// Play a plan to its end.
///
/// # Errors
/// When the world cannot play it, and when a task of it panics.
pub fn play(plan: &Plan, mode: TraceMode) -> Result<Journal, PlayError> {
    if !TOKIO_UNSTABLE {
        return Err(failed(
            "it was built without --cfg tokio_unstable, so that a panic in a task would pass as \
             success: leave RUSTFLAGS unset, .cargo/config.toml has the flag"
                .to_owned(),
        ));
    }
    let obstacles = plan.obstacles(WorldKind::Turmoil);
    if !obstacles.is_empty() {
        let what: Vec<&str> = obstacles.into_iter().collect();
        return Err(PlayError::Unsupported {
            world: WorldKind::Turmoil,
            what: what.join(", "),
        });
    }
    let log = Log::default();
    let playing = || World::new(plan, mode, log.clone()).and_then(World::run);
    let played =
        tracing::subscriber::with_default(log.clone(), || catch_unwind(AssertUnwindSafe(playing)));
    let outcome = played.unwrap_or_else(|payload| {
        let first = spawn::take_panic();
        Err(first.unwrap_or_else(|| spawn::panic_text(&*payload)))
    });
    outcome.map_err(failed)
}

fn failed(what: String) -> PlayError {
    PlayError::World {
        world: WorldKind::Turmoil,
        what,
    }
}
