//! Planted mistakes: an oracle that never fails proves nothing.

use std::sync::Arc;

use holdfast_chaos::mutants::{Planted, TABLE, hunt};
use holdfast_chaos::{Mutant, Scenario};
use libtest_mimic::{Failed, Trial};

/// Mistakes that the suite must see, of those in the table.
const CAUGHT_MIN: usize = 8;

/// A trial for each row of the table.
pub fn trials(scenarios: &[Arc<Scenario>]) -> Vec<Trial> {
    let row = |planted: &'static Planted| {
        let scenario = scenarios.iter().find(|s| s.name() == planted.scenario);
        let scenario = scenario.expect("the table names scenarios").clone();
        let name = format!("{}/catches {}", planted.world, planted.mutant);
        Trial::test(name, move || catches(planted, &scenario))
    };
    let count = Trial::test("core/catches enough", || {
        let caught = Mutant::ALL
            .iter()
            .filter(|m| TABLE.iter().any(|row| row.mutant == **m));
        let caught = caught.count();
        if caught < CAUGHT_MIN {
            return Err(format!("only {caught} mistakes have a row in the table").into());
        }
        Ok(())
    });
    TABLE.iter().map(row).chain([count]).collect()
}

fn catches(planted: &Planted, scenario: &Scenario) -> Result<(), Failed> {
    match hunt(planted, scenario) {
        None => {
            let (oracle, seeds) = (planted.oracle, planted.seeds);
            Err(format!("{oracle} did not see it within {seeds} seeds").into())
        }
        Some(_) => Ok(()),
    }
}
