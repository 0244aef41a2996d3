//! The real program in network namespaces of this machine: kernel NATs, links that the model's
//! own code emulates, coturn, brokers, and the clock on the wall.
//!
//! * [`play`] plays a plan to its end.
//! * [`stage`] is the lab with everything that runs in it, which the kernel tests use too.
//! * [`config`] writes a node's configuration.
//! * [`members`] are instances that claim slots, whose meshes are part of `holdfast sidecar`.
//! * [`drill`] strikes a cluster of databases.
//! * [`map`] says which router of the kernel is which NAT of the model.
//!
//! What is seen comes from outside: link states, paths and errors from each node's log as it
//! grows, how links and queues are from its status page, and bytes from the applications.

mod agent;
pub mod config;
pub mod drill;
mod http;
pub mod map;
pub mod members;
mod run;
pub mod stage;
mod story;

use holdfast_plan::{Journal, Plan, PlayError, TraceMode, WorldKind};

use crate::run::Run;

/// Play a plan to its end, in as much time as it takes. One at a time in a process: others wait.
///
/// # Errors
/// [`PlayError::Unsupported`] when the plan needs what this world lacks, [`PlayError::World`]
/// when it cannot be built or kept running, so without privilege or tools.
pub fn play(plan: &Plan, mode: TraceMode) -> Result<Journal, PlayError> {
    let world = WorldKind::Kernel;
    let mut obstacles: Vec<String> = Vec::new();
    obstacles.extend(plan.obstacles(world).into_iter().map(str::to_owned));
    obstacles.extend(map::obstacle(plan));
    obstacles.extend(members::obstacle(plan));
    if !obstacles.is_empty() {
        let what = obstacles.join(", ");
        return Err(PlayError::Unsupported { world, what });
    }
    let played = match plan.membership {
        None => Run::new(plan, mode).and_then(Run::play),
        Some(_) => {
            let consul = members::consul().map_err(without)?;
            members::Run::new(plan, mode, &consul).and_then(members::Run::play)
        }
    };
    played.map_err(|error| PlayError::World {
        world,
        what: error.to_string(),
    })
}

/// A tool is missing: that is a failure only where everything has to be there.
fn without(what: String) -> PlayError {
    let world = WorldKind::Kernel;
    match std::env::var("CI").as_deref() {
        Ok("true") => PlayError::World { world, what },
        _ => PlayError::Unsupported { world, what },
    }
}
