//! One seed, one history: in one process and in two, with no ambient time or entropy.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the second process is started from here"
)]

#[path = "../turmoil/plans.rs"]
mod plans;

use std::process::Command;

use holdfast_core::status::LinkState;
use holdfast_interposer::Interposer;
use holdfast_net_model::{LinkConfig, Links, Loss, Ratio};
use holdfast_plan::{Action, Device, NetworkFault, Service, Side, TraceMode, What};
use holdfast_turmoil_world::{ALLOWED_CLOCKS, ALLOWED_ENTROPY, play};

use plans::{A, B, ms, plan, secs, step, stream, two_homes};

/// Set in the child process of the two-process test.
const CHILD: &str = "HOLDFAST_TURMOIL_REPLAY_CHILD";

/// A history with everything in it: loss, a crash, a lossy broker, relayed streams.
fn history(seed: u64) -> Vec<String> {
    let mut topology = two_homes();
    topology.nats[1].config.udp_blocked = true;
    topology.nodes[1].turn = vec![holdfast_plan::Transport::Udp, holdfast_plan::Transport::Tcp];
    let mut plan = plan("history", seed, topology);
    let lossy = LinkConfig {
        loss: Loss::Bernoulli(Ratio::of(1, 50)),
        jitter: ms(3),
        ..LinkConfig::with_delay(ms(8))
    };
    let fault = NetworkFault::Link {
        device: Device::Node(A),
        links: Box::new(Links::symmetric(lossy)),
    };
    let loss = Action::BrokerLoss {
        lose: Ratio::of(1, 4),
        repeat: Ratio::of(1, 4),
    };
    plan.steps.extend([
        step(ms(1), loss),
        step(ms(500), Action::Network(fault)),
        step(secs(2), stream(1, Service::Echo, 300_000, secs(60))),
        step(ms(2_300), Action::Crash(B)),
        step(ms(2_500), Action::Start(B)),
        step(secs(4), Action::Stop(A)),
        step(secs(6), Action::Start(A)),
        step(secs(8), stream(2, Service::Echo, 100_000, secs(60))),
    ]);
    let journal = play(&plan, TraceMode::Full).unwrap();
    let done =
        |what: &What| matches!(what, What::Stream(r) if r.side == Side::Client && r.complete);
    let done = journal
        .entries
        .iter()
        .filter(|entry| done(&entry.what))
        .count();
    assert_eq!(done, 2, "both streams arrived in the end");
    let mut lines = journal.trace.lines().to_vec();
    lines.push(format!(
        "{{{:?} {:?}",
        journal.trace.digest(),
        journal.marks
    ));
    lines
}

/// On a fresh thread whose entropy is all of the seed's. Clocks are real ones: who read them
/// with an effect would not come to the same history twice.
fn simulated(seed: u64) -> Vec<String> {
    Interposer::new([seed as u8; 32])
        .count_only()
        .run(|| history(seed))
        .value
}

fn assert_same(first: &[String], second: &[String]) {
    for (n, (a, b)) in first.iter().zip(second).enumerate() {
        assert_eq!(a, b, "line {n} differs");
    }
    assert_eq!(first.len(), second.len());
    assert!(first.len() > 1000, "a history that says something");
}

/// Short, since each read of a clock is asked for its backtrace.
#[test]
fn nobody_reads_a_clock_or_draws_entropy_but_those_who_are_known_to() {
    let mut plan = plan("canary", 89, two_homes());
    (plan.ends_when_settled, plan.ends_at) = (false, ms(300));
    let journal = Interposer::new([89; 32])
        .allow_entropy(ALLOWED_ENTROPY)
        .allow_clocks(ALLOWED_CLOCKS)
        .run(|| play(&plan, TraceMode::Digest).unwrap())
        .value;
    let up = |what: &What| {
        matches!(
            what,
            What::Link {
                state: LinkState::Up,
                ..
            }
        )
    };
    assert!(journal.entries.iter().any(|entry| up(&entry.what)));
}

#[test]
fn two_runs_of_a_seed_are_the_same_in_one_process() {
    assert_same(&simulated(90), &simulated(90));
}

#[test]
fn two_runs_of_a_seed_are_the_same_in_two_processes() {
    if std::env::var_os(CHILD).is_some() {
        println!("{}", simulated(91).join("\n"));
        return;
    }
    let name = "two_runs_of_a_seed_are_the_same_in_two_processes";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{errors}");
    let output = String::from_utf8(child.stdout).unwrap();
    let lines = output.lines().filter(|line| line.starts_with('{'));
    let lines: Vec<String> = lines.map(String::from).collect();
    assert_same(&simulated(91), &lines);
}

#[test]
fn different_seeds_have_different_histories() {
    assert_ne!(simulated(92), simulated(93));
}
