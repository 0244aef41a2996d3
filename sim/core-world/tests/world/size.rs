//! More than a few.

use holdfast_core::status::LinkState;
use holdfast_plan::{NodeIndex, OpId, Service, What};

use crate::plans::{Grow, homes, plan, s};

#[test]
fn twenty_homes_are_a_full_mesh_in_seconds() {
    let mut plan = plan(homes(20), s(60));
    plan.ends_when_settled = true;
    for a in 0..20 {
        for b in 0..a {
            plan = plan.wants(NodeIndex(a), NodeIndex(b), None);
        }
    }
    let journal = plan
        .stream(
            s(3),
            NodeIndex(19),
            NodeIndex(0),
            Service::Echo,
            10_000,
            s(5),
        )
        .play();
    assert!(journal.ended_at < s(8), "{:?}", journal.ended_at);
    assert!(journal.client(OpId(0)).unwrap().complete);
    let up = |what: &What| matches!(what, What::Final(link) if link.state == LinkState::Up);
    let ends = journal.entries.iter().filter(|entry| up(&entry.what));
    assert_eq!(ends.count(), 20 * 19);
}
