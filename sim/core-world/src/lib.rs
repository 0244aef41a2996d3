//! Core machines in a discrete-event simulation.

use holdfast_plan::{Journal, Plan, PlayError, TraceMode, WorldKind};

/// Play a plan to its end.
///
/// # Errors
/// When the world cannot play it.
pub fn play(plan: &Plan, mode: TraceMode) -> Result<Journal, PlayError> {
    let _ = (plan, mode);
    Err(PlayError::Unsupported {
        world: WorldKind::Core,
        what: "it is not built yet".to_owned(),
    })
}
