//! The contract of the key-value store, against every implementation of it.
//!
//! The names are `kv/<implementation>/<case>`. `--ignored` runs `kv/<implementation>/latency`,
//! which prints how long each operation takes.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod agent;
mod consul;
mod embedded;
mod latency;
mod model;
mod real;
mod refusals;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let mut args = Arguments::from_args();
    // Nearly all of them wait nearly all of the time.
    args.test_threads = Some(args.test_threads.unwrap_or(64));
    let mut trials: Vec<Trial> = consul::trials();
    trials.extend(agent::trials());
    trials.extend(embedded::trials());
    trials.extend(model::trials());
    trials.extend(refusals::trials());
    trials.extend(latency::trials());
    let verdict = libtest_mimic::run(&args, trials);
    consul::stop();
    verdict.exit();
}
