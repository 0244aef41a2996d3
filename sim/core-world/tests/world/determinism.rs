//! One seed, one history.

use holdfast_interposer::Interposer;
use holdfast_net_model::{LinkConfig, Links, Loss, Ratio};
use holdfast_plan::{Action, Device, Journal, NetworkFault, Plan, Service, TraceMode};

use crate::plans::{A, B, C, Grow, homes, ms, plan, s};

/// With everything in it: loss, a restart, a pause, a cut, streams.
fn eventful(seed: u64) -> Plan {
    let lossy = Links::symmetric(LinkConfig {
        loss: Loss::Bernoulli(Ratio::of(5, 100)),
        jitter: ms(3),
        ..LinkConfig::with_delay(ms(5))
    });
    let link = NetworkFault::Link {
        device: Device::Node(A),
        links: Box::new(lossy),
    };
    let cut = NetworkFault::Cut { from: B, to: C };
    let mut plan = plan(homes(3), s(15))
        .at(s(0), Action::Network(link))
        .stream(s(2), A, B, Service::Echo, 300_000, s(5))
        .datagrams(s(2), B, C, Service::Echo, 300)
        .at(s(4), Action::Network(cut))
        .at(s(6), Action::Crash(C))
        .at(s(7), Action::Start(C))
        .at(s(8), Action::Pause(A))
        .at(s(9), Action::Thaw(A));
    plan.seed = seed;
    plan
}

/// On a thread that aborts when it reads time or entropy that was not injected: see
/// `core/tests/mesh/replay.rs`.
fn simulated(plan: &Plan, mode: TraceMode) -> Journal {
    let _ = holdfast_core_world::origin();
    Interposer::new([1; 32])
        .allow_entropy(holdfast_interposer::ALLOWED_BY_DEFAULT)
        .allow_clocks(&["fastrand"])
        .run(|| holdfast_core_world::play(plan, mode).unwrap())
        .value
}

#[test]
fn two_runs_of_a_plan_have_one_history_and_two_seeds_have_two() {
    let digest = |seed| {
        let journal = simulated(&eventful(seed), TraceMode::Digest);
        (journal.trace.digest(), journal.entries)
    };
    let (first, again, other) = (digest(1), digest(1), digest(2));
    assert!(first.0.1 > 1000, "a history that says something");
    assert_eq!(first, again);
    assert_ne!(first.0, other.0);
}

#[test]
fn what_is_traced_changes_nothing() {
    let entries = |mode| {
        let journal = simulated(&eventful(3), mode);
        (journal.entries, journal.figures)
    };
    let off = entries(TraceMode::Off);
    assert_eq!(off, entries(TraceMode::Digest));
    assert_eq!(off, entries(TraceMode::Full));
}

/// How two nodes meet: what they say to their brokers, and what an observer sees of it.
#[test]
fn two_nodes_meet_like_this() {
    let journal = simulated(&plan(homes(2), ms(900)), TraceMode::Full);
    let mut story = String::new();
    for line in journal.trace.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let at_ms = line["t_ns"].as_u64().unwrap() / 1_000_000;
        let node = line["node"].as_str().unwrap_or("-");
        let what = match line["kind"].as_str().unwrap() {
            "seen" if line["what"]["seen"] == "queue" => continue,
            "seen" => format!("saw {}", line["what"]),
            "input" | "output" => {
                let what = line["what"].as_str().unwrap();
                let Some(signal) = what.strip_prefix("signal ") else {
                    continue;
                };
                let to_peer = signal.starts_with("to ");
                format!("signal {}", if to_peer { "out" } else { "in" })
            }
            _ => continue,
        };
        story += &format!("{at_ms:>4} ms {node} {what}\n");
    }
    insta::assert_snapshot!(story);
}
