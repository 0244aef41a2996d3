//! What the real drivers and servers do on simulated hosts.

use holdfast_plan::{Action, Journal, OpId, PathClass, Plan, Service, TraceMode, What};
use holdfast_turmoil_world::play;

use crate::plans::{A, B, ms, plan, secs, step, stream, two_homes, wanted};

fn played(plan: &Plan) -> Journal {
    let journal = play(plan, TraceMode::Digest).unwrap();
    for entry in &journal.entries {
        assert!(!matches!(entry.what, What::Error { .. }), "{entry:?}");
    }
    journal
}

#[test]
fn two_nodes_behind_home_nats_meet_directly_and_a_megabyte_is_echoed() {
    let mut plan = plan("echo", 1, two_homes());
    plan.steps.push(step(secs(1), stream(1, Service::Echo, 1_000_000, secs(30))));
    plan.wanted = vec![wanted(Some(PathClass::Direct))];
    let journal = play(&plan, TraceMode::Full).unwrap();
    if std::env::var_os("SHOW").is_some() {
        for line in journal.trace.lines() { println!("{line}"); }
    }
    let client = journal.client(OpId(1)).unwrap();
    assert!(client.complete, "{client:?}");
    assert_eq!(client.received, 1_000_000);
    assert!(journal.ended_at < secs(30), "{:?}", journal.ended_at);
    let _ = (A, B, ms(1), Action::Mark);
    let _ = played;
}
