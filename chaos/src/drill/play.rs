//! Rounds in a world, judged.

use holdfast_plan::WorldKind;
use holdfast_plan::drill::{Drill, Round};

use super::{DrillScenario, DrillVerdict, judge};
use crate::run::apart;

/// Why a drill could not be played.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DrillError {
    /// That world cannot.
    #[error("the {world} world cannot play it: {why}")]
    Obstacle {
        /// Which.
        world: WorldKind,
        /// Why.
        why: String,
    },
    /// It could not be built.
    #[error("the kernel world: {0}")]
    Stage(String),
    /// A world ended without one of its rounds.
    #[error("{0} rounds were asked for, and {1} were played")]
    Missing(usize, usize),
}

/// One round, played and judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlayedRound {
    /// What was seen.
    pub round: Round,
    /// What came of it.
    pub verdict: DrillVerdict,
}

/// Why a world cannot play a drill, or `None` if it can.
#[must_use]
pub fn obstacle(drill: &Drill, world: WorldKind) -> Option<String> {
    match world {
        WorldKind::Core => holdfast_patroni_model::obstacle(drill),
        WorldKind::Kernel => holdfast_kernel_world::drill::obstacle(drill),
        WorldKind::Turmoil => Some("it has no databases".to_owned()),
    }
}

/// Plays a round for each seed; each is judged and told as it is over.
///
/// # Errors
/// When the world cannot play it, or could not be built, or ends before its rounds do.
pub fn play(
    scenario: &DrillScenario,
    drill: &Drill,
    world: WorldKind,
    seeds: &[u64],
    told: &mut dyn FnMut(PlayedRound),
) -> Result<(), DrillError> {
    if let Some(why) = obstacle(drill, world) {
        return Err(DrillError::Obstacle { world, why });
    }
    let mut count = 0;
    let mut one = |played: PlayedRound| {
        count += 1;
        told(played);
    };
    let judged = |round: Round| PlayedRound {
        verdict: judge(scenario, &round),
        round,
    };
    match world {
        WorldKind::Kernel => {
            let mut told = |round| one(judged(round));
            holdfast_kernel_world::drill::play(drill, seeds, &mut told)
                .map_err(|error| DrillError::Stage(error.to_string()))?;
        }
        WorldKind::Core | WorldKind::Turmoil => {
            for seed in seeds {
                let played = apart(*seed, || holdfast_patroni_model::play(drill, *seed));
                one(match played {
                    Ok(round) => judged(round),
                    Err(panic) => crashed(*seed, panic.detail),
                });
            }
        }
    }
    match count == seeds.len() {
        true => Ok(()),
        false => Err(DrillError::Missing(seeds.len(), count)),
    }
}

fn crashed(seed: u64, detail: String) -> PlayedRound {
    PlayedRound {
        round: Round {
            seed,
            cut_short: true,
            ..Round::default()
        },
        verdict: DrillVerdict::crashed(detail),
    }
}
