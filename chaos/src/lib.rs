//! Scenarios, faults drawn from a seed, oracles, shrinking.
//!
//! ```text
//! scenarios/*.toml ──load, check──> Scenario ──seed──> Plan ──world──> Journal ──oracles──> Verdict
//! ```
//!
//! * [`scenario`]: the format, loading, and every problem of a file at once.
//! * `plan`: a scenario and a seed become a plan.
//! * [`oracle`]: judges a journal. It knows the plan and nothing else.
//! * [`run`]: plays a seed in a world and judges it; many seeds; the same seed twice.
//! * [`mod@shrink`]: the smallest schedule that still fails; [`mod@search`]: new seeds until one does.
//! * [`drill`]: the same for disasters with a database in them.
//! * [`coverage`]: which marks no run has reached; [`mutants`]: planted mistakes and who sees them.
//!
//! The format, the oracles and the exit codes are described in `docs/testing.md`.

pub mod coverage;
mod draw;
pub mod drill;
pub mod mutants;
pub mod oracle;
pub mod plan;
pub mod run;
pub mod scenario;
pub mod search;
pub mod shrink;

pub use drill::{Disaster, DrillScenario};
pub use holdfast_core::simulation::Mutant;
pub use oracle::{FailureClass, Verdict, Violation, judge, verdict};
pub use run::{Difference, Run, replay_line, run_many, run_seed, verify_replay};
pub use scenario::{LoadError, Problem, Problems, Scenario, json_schema};
pub use search::{Search, search};
pub use shrink::{Shrunk, regression_file, shrink};
