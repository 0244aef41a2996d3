//! How long each fault of a plan lasts: from the step that begins it to the one that undoes it.

use std::time::Duration;

use holdfast_plan::{Action, NetworkFault, Plan, Step};

/// A fault that lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The step that undoes it, if one does.
    pub ends: Option<usize>,
    /// From when to when; to the end when nothing undoes it.
    pub from: Duration,
    /// Until when.
    pub to: Duration,
    /// What it is.
    pub label: String,
}

/// All of them, in order of their beginning.
pub fn of(plan: &Plan, ended_at: Duration) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for (begins, step) in plan.steps.iter().enumerate() {
        // A step that undoes a fault may be a change of a link like any other.
        if spans.iter().any(|span| span.ends == Some(begins)) {
            continue;
        }
        if !lasts(&step.action) {
            continue;
        }
        let later = &plan.steps[begins + 1..];
        let undone = |other: &Step| undoes(&step.action, &other.action);
        // Two faults of one link may overlap: the names tell which of them is over.
        let over = format!("over: {}", step.label);
        let named = |other: &Step| undone(other) && other.label == over;
        let ends = later.iter().position(named);
        let ends = ends.or_else(|| later.iter().position(undone));
        let ends = ends.map(|n| begins + 1 + n);
        spans.push(Span {
            ends,
            from: step.at,
            to: ends.map_or(ended_at.max(step.at), |n| plan.steps[n].at),
            label: step.label.clone(),
        });
    }
    spans
}

/// Whether it is over only when something undoes it.
fn lasts(action: &Action) -> bool {
    use NetworkFault as N;
    match action {
        Action::Stop(_) | Action::Crash(_) | Action::Pause(_) => true,
        Action::Broker { up, .. } | Action::Turn { up } => !up,
        Action::BrokerLoss { lose, repeat } => lose.num() + repeat.num() > 0,
        Action::Network(N::Cut { .. } | N::Link { .. } | N::UdpBlocked { on: true, .. }) => true,
        _ => false,
    }
}

/// Whether the other step is the end of what this one begins.
fn undoes(begun: &Action, other: &Action) -> bool {
    use NetworkFault as N;
    match (begun, other) {
        (Action::Stop(a) | Action::Crash(a), Action::Start(b))
        | (Action::Pause(a), Action::Thaw(b)) => a == b,
        (
            Action::Broker {
                broker: a,
                up: false,
            },
            Action::Broker {
                broker: b,
                up: true,
            },
        ) => a == b,
        (Action::Turn { up: false }, Action::Turn { up: true }) => true,
        (Action::BrokerLoss { .. }, Action::BrokerLoss { .. }) => true,
        (Action::Network(a), Action::Network(b)) => match (a, b) {
            (N::Cut { from, to }, N::Mend { from: f, to: t }) => from == f && to == t,
            (N::Link { device: a, .. }, N::Link { device: b, .. }) => a == b,
            (N::UdpBlocked { nat: a, on: true }, N::UdpBlocked { nat: b, on: false }) => a == b,
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use holdfast_chaos::Scenario;
    use holdfast_plan::WorldKind;

    const OVERLAPPING: &str = r#"
name = "overlapping"
description = "Two faults of one link, one inside of the other."
worlds = ["core"]
duration = "60s"
seeds = { core = 1 }

[[node]]
name = "a"
[[node]]
name = "b"
[[node]]
name = "c"

[[fault]]
name = "long"
at = "5s"
for = "10s"
kind = "link"
device = "a"
link = "delay=200ms"

[[fault]]
name = "short"
at = "7s"
for = "2s"
kind = "cut"
between = ["a", "b"]

[expect]
converge_within = "10s"
"#;

    #[test]
    fn a_fault_lasts_until_the_step_that_undoes_it() {
        let scenario = Scenario::parse("overlapping.toml", OVERLAPPING).unwrap();
        let spans = of(&scenario.plan(1, WorldKind::Core), Duration::from_secs(60));
        let times = spans.iter().map(|s| (s.from.as_secs(), s.to.as_secs()));
        assert_eq!(times.collect::<Vec<_>>(), [(5, 15), (7, 9), (7, 9)]);
        assert!(spans[0].label.contains("long"), "{}", spans[0].label);
        // The two ways of a cut end each with a step of its own.
        assert_ne!(spans[1].ends, spans[2].ends);
    }
}
