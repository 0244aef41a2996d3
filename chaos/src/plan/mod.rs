//! A scenario and a seed become a plan.
//!
//! Everything random derives from the seed, forked by the name of what is drawn, so that an edit
//! in one place of a scenario leaves what is drawn for every other as it was.

pub(crate) mod schedule;
pub(crate) mod wanted;

use std::time::Duration;

use holdfast_core::entropy::{Entropy, Seed};
use holdfast_plan::{Action, NodeIndex, Op, OpId, OpKind, Plan, Step, Wanted, WorldKind, traffic};

use crate::Scenario;
use crate::draw;
use crate::scenario::format::{Fault, Seeds, Workload};
use crate::scenario::values::{Start, Time, When};
use crate::scenario::{File, clock, membership};

/// Bytes of a probe: more than a packet, less than anybody waits for.
const PROBE_BYTES: u64 = 2_000;
/// The names of probes begin so.
pub(crate) const PROBE: &str = "probe ";

/// The root of everything that is drawn for a seed.
pub(crate) fn root(seed: u64) -> Seed {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    Seed::new(bytes).fork("plan")
}

/// A time of a range, in whole milliseconds where the range has some.
pub(crate) fn draw_time(from: Duration, to: Duration, entropy: &mut Entropy) -> Duration {
    let span_ms = to.saturating_sub(from).as_millis() as u64;
    from + Duration::from_millis(entropy.below(span_ms + 1))
}

fn fixed(when: When, entropy: &mut Entropy) -> When {
    When::At(Time(draw_time(when.from(), when.to(), entropy)))
}

impl Scenario {
    /// Everything drawn from a seed, for a world: the same for all of them, but for the drawn
    /// faults that a world cannot do.
    #[must_use]
    pub fn plan(&self, seed: u64, world: WorldKind) -> Plan {
        let file = self.drawn(seed, world);
        let topology = self.topology();
        let mut steps = Steps::default();
        steps.add_events(&file, topology);
        for workload in &file.workload {
            steps.add_workload(workload, topology);
        }
        let over = file.fault.iter().map(schedule::over_at).max();
        let healed_at = over.unwrap_or_default();
        let events = steps.sorted();
        let membership = membership(&file);
        let wanted = match membership {
            // Who owns which slot, and so who is whose peer, nobody knows before.
            Some(_) => Vec::new(),
            None => wanted::wanted(topology, &file.expect, &events),
        };
        self.add_probes(&mut steps, healed_at, &wanted, &events);
        let mut topology = topology.clone();
        for (spec, node) in topology.nodes.iter_mut().zip(&file.node) {
            spec.clock = clock(node);
        }
        Plan {
            name: file.name.clone(),
            seed,
            topology,
            steps: steps.sorted(),
            healed_at,
            ends_at: file.duration.0,
            ends_when_settled: !file.full_length,
            wanted,
            membership,
        }
    }

    /// Starts and faults, each as early as it can be: what is never undone, in its order.
    pub(crate) fn earliest(&self) -> Vec<Step> {
        let mut file = self.file().clone();
        for node in &mut file.node {
            node.start = node.start.or(Some(Start::When(When::default())));
        }
        let mut steps = Steps::default();
        steps.add_events(&file, self.topology());
        steps.sorted()
    }

    /// The file with everything drawn: no range and no swarm is left in it.
    #[must_use]
    pub fn drawn(&self, seed: u64, world: WorldKind) -> File {
        let root = root(seed);
        let rng = |part: &str, name: &str| root.fork(part).fork(name).rng();
        let mut file = self.file().clone();
        for node in &mut file.node {
            node.start = match node.start {
                None => Some(Start::When(When::default())),
                Some(Start::When(when)) => {
                    Some(Start::When(fixed(when, &mut rng("starts", &node.name))))
                }
                never => never,
            };
        }
        if let Some(ppm) = file.membership.as_mut().and_then(|m| m.clocks_ppm.take()) {
            for node in &mut file.node {
                let drawn = rng("clocks", &node.name).below(2 * u64::from(ppm) + 1);
                let drawn = drawn as i32 - ppm as i32;
                node.clock.drift_ppm.get_or_insert(drawn);
            }
        }
        for workload in &mut file.workload {
            workload.at = fixed(workload.at, &mut rng("workloads", &workload.name));
        }
        for (n, fault) in file.fault.iter_mut().enumerate() {
            let label = fault.name.clone().unwrap_or_else(|| n.to_string());
            let mut rng = rng("faults", &label);
            fault.at = fixed(fault.at, &mut rng);
            fault.lasts = fault.lasts.map(|lasts| fixed(lasts, &mut rng));
        }
        if let Some(swarm) = file.swarm.take() {
            let drawn = draw::swarm(&swarm, &file, self.topology(), &root.fork("swarm"));
            let can = |fault: &Fault| {
                let effect = schedule::effect(fault, self.topology());
                effect.is_some_and(|e| e.begin.iter().all(|a| a.obstacle(world).is_none()))
            };
            file.fault.extend(drawn.into_iter().filter(can));
        }
        file.seed = Some(seed);
        file.seeds = Seeds::default();
        file
    }

    /// The scenario with everything drawn: it has this seed only.
    #[must_use]
    pub fn fixed(&self, seed: u64, world: WorldKind) -> Scenario {
        Scenario::of(self.drawn(seed, world))
    }

    /// Bytes both ways over every wanted link, as soon as everything is whole.
    fn add_probes(
        &self,
        steps: &mut Steps,
        healed_at: Duration,
        wanted: &[Wanted],
        events: &[Step],
    ) {
        let topology = self.topology();
        let started = |node: NodeIndex| {
            let starts = events.iter().filter(|s| s.action == Action::Start(node));
            starts.map(|step| step.at).max().unwrap_or_default()
        };
        let name = |node: NodeIndex| &topology.node(node).name;
        for (from, to) in wanted.iter().flat_map(|w| [(w.a, w.b), (w.b, w.a)]) {
            let at = healed_at.max(started(from)).max(started(to));
            let kind = OpKind::Stream {
                bytes: PROBE_BYTES,
                patience: self.converge_within(),
            };
            let op = Op {
                id: steps.next_op(),
                name: format!("{PROBE}{}>{}", name(from), name(to)),
                from,
                to,
                service: holdfast_plan::Service::Echo,
                kind,
            };
            let label = op.name.clone();
            steps.add(at, Phase::Traffic, Action::Traffic(op), || label);
        }
    }
}

/// What comes first when several things happen at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Start,
    Undo,
    Fault,
    Traffic,
}

#[derive(Default)]
struct Steps {
    steps: Vec<(Phase, Step)>,
    ops: u32,
}

impl Steps {
    fn add(&mut self, at: Duration, phase: Phase, action: Action, label: impl FnOnce() -> String) {
        let label = label();
        self.steps.push((phase, Step { at, action, label }));
    }

    fn next_op(&mut self) -> OpId {
        self.ops += 1;
        OpId(self.ops)
    }

    fn add_events(&mut self, file: &File, topology: &holdfast_plan::Topology) {
        for (node, spec) in topology.node_indices().zip(&file.node) {
            if let Some(Start::When(at)) = spec.start {
                let label = || format!("{} starts", spec.name);
                self.add(at.from(), Phase::Start, Action::Start(node), label);
            }
        }
        for fault in &file.fault {
            self.add_fault(fault, topology);
        }
    }

    fn add_fault(&mut self, fault: &Fault, topology: &holdfast_plan::Topology) {
        let effect = schedule::effect(fault, topology);
        let effect = effect.expect("a fault that names what is not there is refused when loading");
        for action in effect.begin {
            self.add(fault.at.from(), Phase::Fault, action, || {
                effect.label.clone()
            });
        }
        if fault.lasts.is_some() {
            for action in effect.undo {
                let label = || format!("over: {}", effect.label);
                self.add(schedule::over_at(fault), Phase::Undo, action, label);
            }
        }
    }

    fn add_workload(&mut self, workload: &Workload, topology: &holdfast_plan::Topology) {
        let ends = topology
            .find(&workload.from)
            .zip(topology.find(&workload.to));
        let (from, to) = ends.expect("a workload of unknown nodes is refused when loading");
        let kind = match (workload.bytes, workload.datagrams) {
            (Some(bytes), _) => OpKind::Stream {
                bytes: bytes.0.max(traffic::HEADER_LEN as u64),
                patience: workload.patience.unwrap_or_default().0,
            },
            (None, count) => OpKind::Datagrams {
                count: count.unwrap_or(1),
                interval: workload.every.unwrap_or_default().0,
                len_bytes: workload.length.map_or(0, |length| length.0 as u32),
            },
        };
        let interval = workload.interval.unwrap_or_default().0;
        for n in 0..workload.repeat.unwrap_or(1) {
            let op = Op {
                id: self.next_op(),
                name: workload.name.clone(),
                from,
                to,
                service: workload.service,
                kind,
            };
            let at = workload.at.from() + interval * n;
            self.add(at, Phase::Traffic, Action::Traffic(op), || {
                workload.name.clone()
            });
        }
    }

    /// In order of time.
    fn sorted(&self) -> Vec<Step> {
        let mut steps = self.steps.clone();
        steps.sort_by_key(|(phase, step)| (step.at, *phase));
        steps.into_iter().map(|(_, step)| step).collect()
    }
}
