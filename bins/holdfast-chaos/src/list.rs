//! `list`: which scenarios there are.

use std::process::ExitCode;
use std::time::Duration;

use holdfast_chaos::{Disaster, DrillScenario, Scenario};
use serde::Serialize;

use crate::cli::ListArgs;
use crate::output::{Table, length, print, print_json};
use crate::{find, load_any};

#[derive(Serialize)]
struct Listed {
    name: String,
    description: String,
    worlds: Vec<World>,
}

#[derive(Serialize)]
struct World {
    world: &'static str,
    /// How many seeds its budget has.
    seeds: u64,
    /// How long all of them last at most, in the world's time.
    simulated_s_max: f64,
}

impl Listed {
    fn of(disaster: &Disaster) -> Listed {
        match disaster {
            Disaster::Scenario(scenario) => Listed::of_scenario(scenario),
            Disaster::Drill(drill) => Listed::of_drill(drill),
        }
    }

    fn of_drill(drill: &DrillScenario) -> Listed {
        let worlds = drill.worlds().iter().map(|world| {
            let rounds = drill.seeds(*world).end;
            World {
                world: world.as_str(),
                seeds: rounds,
                simulated_s_max: drill.round_max().as_secs_f64() * rounds as f64,
            }
        });
        Listed {
            name: drill.name().to_owned(),
            description: drill.description().to_owned(),
            worlds: worlds.collect(),
        }
    }

    fn of_scenario(scenario: &Scenario) -> Listed {
        let worlds = scenario.worlds().iter().map(|world| {
            let range = scenario.seeds(*world);
            let seeds = range.end.saturating_sub(range.start);
            // How long a run lasts at most does not depend on its seed.
            let longest = scenario.plan(range.start, *world).ends_at;
            World {
                world: world.as_str(),
                seeds,
                simulated_s_max: longest.as_secs_f64() * seeds as f64,
            }
        });
        Listed {
            name: scenario.name().to_owned(),
            description: scenario.description().to_owned(),
            worlds: worlds.collect(),
        }
    }
}

/// Show all that can be loaded, and what is wrong with the others on standard error.
pub fn run(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let mut listed = Vec::new();
    for file in find::all()? {
        match load_any(&file) {
            Ok(disaster) => listed.push(Listed::of(&disaster)),
            Err(error) => eprintln!("warning: {error}"),
        }
    }
    if args.json {
        print_json(&listed)?;
    } else {
        print(&table(&listed))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(listed: &[Listed]) -> String {
    let mut table = Table::with_headings(&[
        "SCENARIO",
        "WORLDS: SEEDS",
        ">SIMULATED AT MOST",
        "DESCRIPTION",
    ]);
    for scenario in listed {
        let worlds = scenario
            .worlds
            .iter()
            .map(|w| format!("{}: {}", w.world, w.seeds));
        let simulated: f64 = scenario.worlds.iter().map(|w| w.simulated_s_max).sum();
        table.row([
            scenario.name.clone(),
            worlds.collect::<Vec<_>>().join(", "),
            length(Duration::try_from_secs_f64(simulated).unwrap_or(Duration::MAX)),
            scenario.description.clone(),
        ]);
    }
    table.render()
}
