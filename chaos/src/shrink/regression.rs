//! A shrunk failure as a file to keep.

use super::Shrunk;
use crate::{Scenario, replay_line};

/// The longest line of the violation that is repeated, in characters.
const DETAIL_LEN_MAX: usize = 300;

/// The file to keep it in, below `scenarios/regressions`: name and text.
#[must_use]
pub fn regression_file(shrunk: &Shrunk, commit: &str) -> (String, String) {
    let mut file = shrunk.scenario.file().clone();
    let origin: String = shrunk.origin.chars().take(40).collect();
    file.name = format!("{origin}-{}", shrunk.seed);
    let scenario = Scenario::of(file);
    let toml = scenario.to_toml();
    let violation = &shrunk.violation;
    // A line break would end the comment.
    let detail: String = violation
        .detail
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(DETAIL_LEN_MAX)
        .collect();
    let replay = replay_line(&scenario, shrunk.world, shrunk.seed, commit);
    let text = format!(
        "# Found as seed {seed} of {origin} in the {world} world, shrunk from {before} faults to {faults}.\n\
         # {class}, {oracle}, at {at:?}: {detail}\n\
         # {replay}\n\
         {toml}",
        seed = shrunk.seed,
        world = shrunk.world,
        before = shrunk.faults_before,
        faults = shrunk.faults,
        class = violation.class,
        oracle = violation.oracle,
        at = violation.at,
    );
    (format!("{}.toml", scenario.name()), text)
}
