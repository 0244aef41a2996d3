//! How long each fault of a plan lasts: from the step that begins it to the one that undoes it.

use std::time::Duration;

use holdfast_plan::{Action, NetworkFault, Plan, Step};

/// A fault that lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The step that begins it.
    pub begins: usize,
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
        let later = &plan.steps[begins + 1..];
        let undone = |other: &Step| undoes(&step.action, &other.action);
        let ends = later.iter().position(undone).map(|n| begins + 1 + n);
        if ends.is_some() || lasts(&step.action) {
            spans.push(Span {
                begins,
                ends,
                from: step.at,
                to: ends.map_or(ended_at.max(step.at), |n| plan.steps[n].at),
                label: step.label.clone(),
            });
        }
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
        (Action::BrokerLoss { .. }, Action::BrokerLoss { .. }) => lasts(begun),
        (Action::Network(a), Action::Network(b)) => match (a, b) {
            (N::Cut { from, to }, N::Mend { from: f, to: t }) => from == f && to == t,
            (N::Link { device: a, .. }, N::Link { device: b, .. }) => a == b,
            (N::UdpBlocked { nat: a, on: true }, N::UdpBlocked { nat: b, on: false }) => a == b,
            _ => false,
        },
        _ => false,
    }
}
