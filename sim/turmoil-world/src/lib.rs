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
//! * In a plan with a membership each node is an instance: the sidecar's claim, with the client of
//!   Consul, at the embedded KV on the first server, which keeps its entries when it is restarted.
//! * turmoil's `fail_rate` and `repair_rate` are 0: it must not heal what a plan has cut.

mod apps;
mod claims;
mod clock;
mod fabric;
mod host;
mod kv;
mod log;
mod loopback;
mod lossy;
mod net;
mod node;
mod observer;
mod outage;
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

/// Who draws entropy of its own in this world, for `holdfast_interposer`: the STUN and TURN
/// stack, as in every world.
pub const ALLOWED_ENTROPY: &[&str] = &["stun_types", "stun_proto", "turn_*"];

/// Who reads a real clock in this world, without an effect, as narrow as it can be said: every
/// task has turmoil and tokio in its backtrace.
///
/// * `fastrand` when a thread first uses it; core seeds it again before each use.
/// * turmoil's default for a wall clock, which is replaced.
/// * tokio's paused clock reads where it begins; nothing looks at more than differences.
/// * hyper's `Date` header, which is always as long and which nobody reads.
/// * tokio measures how busy its runtimes are, some twenty times in each simulated
///   millisecond. To ask each of these reads for its backtrace makes a world slower than real
///   time, so long runs are better only counted (`Interposer::count_only`) and compared.
pub const ALLOWED_CLOCKS: &[&str] = &[
    "fastrand",
    "turmoil-0.7.2/src/config.rs",
    "tokio-1.54.1/src/time/clock.rs",
    "tokio-1.54.1/src/runtime/metrics/batch.rs",
    "hyper-1.12.0/src/common/date.rs",
];

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
    guarded(log.clone(), || World::new(plan, mode, log)?.run()).map_err(failed)
}

/// Play, and make an error of every panic, wherever it is.
fn guarded<T>(log: Log, playing: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let played = tracing::subscriber::with_default(log, || catch_unwind(AssertUnwindSafe(playing)));
    // The first one is the cause: what a runtime says when it shuts down comes later.
    let first = spawn::take_panic();
    match (played, first) {
        (_, Some(first)) => Err(first),
        (Ok(outcome), None) => outcome,
        (Err(payload), None) => Err(spawn::panic_text(&*payload)),
    }
}

fn failed(what: String) -> PlayError {
    PlayError::World {
        world: WorldKind::Turmoil,
        what,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::time::Duration;

    use holdfast_io::spawn::Spawn;
    use holdfast_plan::{Servers, Topology, topology::default_links};

    use super::*;
    use crate::spawn::SimSpawn;

    fn nobody() -> Plan {
        Plan {
            name: "nobody".to_owned(),
            seed: 1,
            topology: Topology {
                nats: Vec::new(),
                nodes: Vec::new(),
                servers: Servers {
                    brokers: 1,
                    links: default_links(),
                },
            },
            steps: Vec::new(),
            healed_at: Duration::ZERO,
            ends_at: Duration::from_secs(1),
            ends_when_settled: false,
            wanted: Vec::new(),
            membership: None,
        }
    }

    #[test]
    fn a_world_of_nobody_ends_when_its_time_is_over() {
        let journal = play(&nobody(), TraceMode::Off).unwrap();
        assert_eq!(journal.ended_at, Duration::from_secs(1));
    }

    #[test]
    fn a_panic_in_a_task_that_nobody_waits_for_fails_the_run_and_is_named() {
        let log = Log::default();
        let playing = || {
            let mut world = World::new(&nobody(), TraceMode::Off, log.clone())?;
            let spawn = SimSpawn::new(0);
            world.add_host([198, 19, 255, 9].into(), move || {
                let spawn = spawn.clone();
                async move {
                    spawn
                        .spawn("the unlucky", async { panic!("out of luck") })
                        .detach();
                    std::future::pending().await
                }
            });
            world.run()
        };
        let error = guarded(log.clone(), playing).map(|_| ()).unwrap_err();
        assert_eq!(error, r#"the task "the unlucky" panicked: out of luck"#);
    }

    #[test]
    fn this_is_built_with_the_flag_that_makes_panics_count() {
        const { assert!(TOKIO_UNSTABLE) };
    }
}
