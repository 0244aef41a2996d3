//! Whatever a seed draws stays within the budget.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::time::Duration;

use holdfast_chaos::Scenario;
use holdfast_plan::{Action, Device, NetworkFault, NodeIndex, Place, Plan, WorldKind};
use proptest::prelude::*;

/// All kinds that drawn faults can have.
const KINDS: [&str; 17] = [
    "cut",
    "loss",
    "delay",
    "blackhole",
    "flush",
    "renumber",
    "crash",
    "restart",
    "pause",
    "roam",
    "broker",
    "broker-loss",
    "turn",
    "udp-blocked",
    "clock-step",
    "attack",
    "strangers",
];

#[derive(Clone, Debug)]
struct Drawn {
    nodes: usize,
    nats: usize,
    kinds: Vec<&'static str>,
    window_s: (u64, u64),
    faults_max: u32,
    down_max: u32,
    spare: usize,
    seed: u64,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let kinds = proptest::sample::subsequence(KINDS.to_vec(), 1..=KINDS.len());
    let shape = (2..6usize, 1..4usize, kinds, (0..20u64, 1..60u64));
    let budget = (1..40u32, 1..4u32, 0..2usize, any::<u32>());
    (shape, budget).prop_map(|((nodes, nats, kinds, (from, len)), budget)| Drawn {
        nodes,
        nats,
        kinds,
        window_s: (from, from + len),
        faults_max: budget.0,
        down_max: budget.1,
        spare: budget.2,
        seed: budget.3.into(),
    })
}

impl Drawn {
    fn scenario(&self) -> Scenario {
        let mut text = "name = \"swarm\"\ndescription = \"Drawn.\"\nworlds = [\"core\"]\n\
                        duration = \"120s\"\n[servers]\nbrokers = 2\n"
            .to_owned();
        for n in 0..self.nats {
            let kind = ["home", "symmetric", "full-cone"][n % 3];
            text += &format!("[[nat]]\nname = \"nat-{n}\"\nkind = \"{kind}\"\n");
        }
        for n in 0..self.nodes {
            text += &format!("[[node]]\nname = \"n{n}\"\nstart = [\"0s\", \"{n}s\"]\n");
            // The last one is public.
            if n + 1 < self.nodes {
                text += &format!("behind = \"nat-{}\"\n", n % self.nats);
            }
        }
        let spare: Vec<String> = (0..self.spare).map(|n| format!("n{n}")).collect();
        text += &format!(
            "[swarm]\nkinds = {:?}\nwindow = [\"{}s\", \"{}s\"]\nfaults_max = {}\n\
             down_max = {}\nspare = {spare:?}\n",
            self.kinds, self.window_s.0, self.window_s.1, self.faults_max, self.down_max
        );
        Scenario::parse("", &text).unwrap_or_else(|problems| panic!("\n{problems}\n{text}"))
    }
}

/// Whom a node's absence or trouble is done to.
fn victim(action: &Action) -> Vec<NodeIndex> {
    match action {
        Action::Crash(node)
        | Action::Stop(node)
        | Action::Pause(node)
        | Action::ClockStep { node, .. }
        | Action::Attack { node, .. }
        | Action::Strangers { node, .. } => vec![*node],
        Action::Network(NetworkFault::Link {
            device: Device::Node(node),
            ..
        })
        | Action::Network(NetworkFault::Move { node, .. }) => vec![*node],
        Action::Network(NetworkFault::Cut { from, to }) => vec![*from, *to],
        _ => Vec::new(),
    }
}

/// Follows a plan and checks that it does what it may; at the end all is as it was.
fn check(plan: &Plan, down_max: usize, spared: usize, window: (Duration, Duration)) {
    let topology = &plan.topology;
    let spared: Vec<NodeIndex> = (0..spared as u16).map(NodeIndex).collect();
    let mut runs = vec![false; topology.nodes.len()];
    let mut started = runs.clone();
    let mut dark = runs.clone();
    let mut away = runs.clone();
    let mut cuts = std::collections::BTreeSet::new();
    let (mut turn, mut brokers) = (true, [true; 2]);
    let mut blocked = vec![false; topology.nats.len()];
    for (n, step) in plan.steps.iter().enumerate() {
        if step.action.is_fault() {
            assert!(step.at >= window.0 && step.at <= window.1, "{step:?}");
        }
        for node in victim(&step.action) {
            assert!(!spared.contains(&node), "{step:?}");
        }
        match &step.action {
            Action::Start(node) | Action::Thaw(node) => {
                assert!(!runs[node.index()], "{step:?}");
                (runs[node.index()], started[node.index()]) = (true, true);
            }
            Action::Crash(node) | Action::Stop(node) | Action::Pause(node) => {
                assert!(runs[node.index()], "{step:?}");
                runs[node.index()] = false;
            }
            Action::Turn { up } => turn = *up,
            Action::Broker { broker, up } => brokers[usize::from(*broker)] = *up,
            Action::Network(NetworkFault::Cut { from, to }) => {
                assert!(cuts.insert((*from, *to)), "{step:?}");
            }
            Action::Network(NetworkFault::Mend { from, to }) => {
                assert!(cuts.remove(&(*from, *to)), "{step:?}");
            }
            Action::Network(NetworkFault::Link {
                device: Device::Node(node),
                links,
            }) => dark[node.index()] = links.up.blackhole || links.down.blackhole,
            Action::Network(NetworkFault::Move {
                node,
                place,
                address,
            }) => {
                let home = topology.node(*node);
                away[node.index()] = *place != home.place || *address != home.address;
                if let Place::Behind(nat) = place {
                    assert!(nat.index() < topology.nats.len());
                }
            }
            Action::Network(NetworkFault::UdpBlocked { nat, on }) => blocked[nat.index()] = *on,
            _ => {}
        }
        // What happens at one time counts when all of it has happened.
        if plan.steps.get(n + 1).is_none_or(|next| next.at > step.at) {
            let is_down = |n: usize| started[n] && (!runs[n] || dark[n] || away[n]);
            let down = (0..runs.len()).filter(|n| is_down(*n)).count();
            assert!(down <= down_max, "{down} nodes are down at {:?}", step.at);
        }
    }
    assert!(turn && brokers == [true; 2] && cuts.is_empty());
    assert!(runs.iter().all(|runs| *runs) && !dark.contains(&true) && !away.contains(&true));
    assert!(!blocked.contains(&true));
    assert!(plan.steps.is_sorted_by_key(|step| step.at));
    assert!(plan.healed_at <= window.1);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn a_drawn_schedule_respects_its_budget_and_is_healed_by_the_end_of_its_window(drawn in drawn()) {
        let scenario = drawn.scenario();
        let plan = scenario.plan(drawn.seed, WorldKind::Core);
        let window = (Duration::from_secs(drawn.window_s.0), Duration::from_secs(drawn.window_s.1));
        check(&plan, drawn.down_max as usize, drawn.spare, window);
        let (_, built) = plan.topology.build::<()>().unwrap();
        prop_assert_eq!(built.nodes.len(), drawn.nodes);
    }

    #[test]
    fn a_drawn_schedule_can_be_written_down_and_read_back(drawn in drawn()) {
        let scenario = drawn.scenario();
        let fixed = scenario.fixed(drawn.seed, WorldKind::Core);
        let read = Scenario::parse("", &fixed.to_toml());
        let read = read.unwrap_or_else(|problems| panic!("\n{problems}\n{}", fixed.to_toml()));
        let plan = scenario.plan(drawn.seed, WorldKind::Core);
        prop_assert_eq!(read.plan(drawn.seed, WorldKind::Core), plan);
    }

    #[test]
    fn every_network_fault_of_a_drawn_schedule_can_be_applied(drawn in drawn()) {
        let plan = drawn.scenario().plan(drawn.seed, WorldKind::Core);
        let (mut network, built) = plan.topology.build::<()>().unwrap();
        for step in &plan.steps {
            if let Action::Network(fault) = &step.action {
                let done = built.apply(fault, step.at, &mut network);
                prop_assert!(done.is_ok(), "{}: {:?}", step.label, done);
            }
        }
    }
}
