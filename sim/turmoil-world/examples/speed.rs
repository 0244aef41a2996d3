//! How much faster than real time a world runs: two quiet nodes, and one busy stream.
//!
//! ```sh
//! cargo run --release -p holdfast-turmoil-world --example speed
//! ```

#[path = "../tests/turmoil/plans.rs"]
#[allow(dead_code, reason = "the tests use the rest of it")]
mod plans;

use std::time::Instant;

use holdfast_plan::{Plan, Service, TraceMode};
use holdfast_turmoil_world::play;

use plans::{plan, secs, step, stream, two_homes};

fn main() {
    let mut quiet = plan("quiet", 1, two_homes());
    (quiet.ends_when_settled, quiet.ends_at) = (false, secs(120));
    let mut busy = plan("5 MB", 1, two_homes());
    busy.steps
        .push(step(secs(1), stream(1, Service::Echo, 5_000_000, secs(60))));
    for plan in [quiet, busy] {
        for mode in [TraceMode::Off, TraceMode::Digest] {
            measure(&plan, mode);
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "it measures real time")]
fn measure(plan: &Plan, mode: TraceMode) {
    let began = Instant::now();
    let journal = match play(plan, mode) {
        Ok(journal) => journal,
        Err(error) => return eprintln!("{error}"),
    };
    let took = began.elapsed().as_secs_f64();
    let played = journal.ended_at.as_secs_f64();
    println!(
        "{:6} {mode:6?}: {played:7.3} s in {took:6.3} s, {:6.1} x real time, {} datagrams",
        plan.name,
        played / took,
        journal.figures.datagrams,
    );
}
