//! Every scenario in its worlds, each with its budget of seeds; then what only many runs show:
//! that a seed replays, that planted mistakes are caught, that every mark is hit.
//!
//! The names begin with the world, so that `-- core/` is a stage, and `-- core/roaming` one
//! scenario. Kernel scenarios run at the speed of the clock: some of them by default, the others
//! with `--ignored`. `calibration/` holds the model of Patroni and PostgreSQL to what was measured.

mod canary;
mod drills;
mod library;
mod mutants;
mod runs;

use libtest_mimic::{Arguments, Conclusion};

fn main() {
    if canary::answered() {
        return;
    }
    let mut args = Arguments::from_args();
    // A trial keeps both processors busy by itself.
    args.test_threads = Some(1);
    let (scenarios, drills) = library::disasters();
    let mut trials = runs::trials(&scenarios);
    trials.extend(canary::trials(&scenarios));
    trials.extend(mutants::trials(&scenarios));
    trials.extend(drills::trials(&drills));
    let verdict = libtest_mimic::run(&args, trials);
    let marks = runs::marks_trial();
    let verdict = if verdict.has_failed() || !runs::all_of_core_ran(&scenarios) {
        verdict
    } else {
        merge(&verdict, &libtest_mimic::run(&args, vec![marks]))
    };
    runs::print_table();
    drills::print_table();
    verdict.exit();
}

fn merge(a: &Conclusion, b: &Conclusion) -> Conclusion {
    Conclusion {
        num_filtered_out: a.num_filtered_out,
        num_passed: a.num_passed + b.num_passed,
        num_failed: a.num_failed + b.num_failed,
        num_ignored: a.num_ignored + b.num_ignored,
        num_measured: a.num_measured + b.num_measured,
    }
}
