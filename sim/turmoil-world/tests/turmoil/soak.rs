//! Drawn schedules of everything at once: whatever happens, the mesh comes back.

use std::time::Duration;

use holdfast_core::entropy::{Entropy, Seed};
use holdfast_net_model::{LinkConfig, Links, Loss, Mapping, Ratio};
use holdfast_plan::{
    Action, Device, NatIndex, NetworkFault, NodeIndex, Op, OpId, OpKind, Place, Plan, Service,
    Side, Step, Topology, TraceMode, Transport, Wanted, What,
};
use holdfast_turmoil_world::play;

use crate::plans::{ms, node, plan, secs, step, two_homes};

const SEEDS: u64 = 4;
const FAULTS: usize = 25;
const OPS: u32 = 12;
/// Every fault is over then.
const HEALED_AT: Duration = secs(54);

fn topology(entropy: &mut Entropy) -> Topology {
    let mut topology = two_homes();
    topology.nodes.push(node(2, "c", Place::Public));
    for node in &mut topology.nodes {
        node.turn = match entropy.below(3) {
            0 => vec![Transport::Udp],
            1 => vec![Transport::Tcp],
            _ => vec![Transport::Udp, Transport::Tcp],
        };
        node.clock.offset_ms = entropy.below(60_000) as i64 - 30_000;
        node.clock.drift_ppm = entropy.below(200) as i32 - 100;
    }
    for nat in &mut topology.nats {
        if entropy.below(2) == 0 {
            nat.config.mapping = Mapping::AddressAndPortDependent;
            nat.config.port_preservation = false;
        }
    }
    topology.servers.brokers = 1 + entropy.below(2) as u8;
    topology
}

fn relink(device: Device, links: Links) -> Action {
    let links = Box::new(links);
    Action::Network(NetworkFault::Link { device, links })
}

fn bad_links(entropy: &mut Entropy) -> Links {
    Links::symmetric(match entropy.below(2) {
        0 => LinkConfig {
            blackhole: true,
            ..LinkConfig::IDEAL
        },
        _ => LinkConfig {
            loss: Loss::Bernoulli(Ratio::of(entropy.below(20) as u32, 100)),
            jitter: ms(entropy.below(20)),
            duplicate: Ratio::of(1, 50),
            ..LinkConfig::with_delay(ms(entropy.below(60)))
        },
    })
}

/// A fault and what ends it, if anything has to.
fn fault(topology: &Topology, entropy: &mut Entropy) -> (Action, Option<Action>) {
    let node = NodeIndex(entropy.below(3) as u16);
    let nat = NatIndex(entropy.below(2) as u16);
    let broker = entropy.below(topology.servers.brokers.into()) as u8;
    let octet = |entropy: &mut Entropy| entropy.below(50) as u8;
    match entropy.below(10) {
        0 => (Action::Crash(node), Some(Action::Start(node))),
        1 => (Action::Stop(node), Some(Action::Start(node))),
        2 => (
            Action::Broker { broker, up: false },
            Some(Action::Broker { broker, up: true }),
        ),
        3 => (Action::Turn { up: false }, Some(Action::Turn { up: true })),
        4 => {
            let device = Device::Node(node);
            let healed = relink(device, topology.node(node).links);
            (relink(device, bad_links(entropy)), Some(healed))
        }
        5 => {
            let device = Device::Server(0);
            let healed = relink(device, topology.servers.links);
            (relink(device, bad_links(entropy)), Some(healed))
        }
        6 => (Action::Network(NetworkFault::Flush(nat)), None),
        7 => {
            let public_ip = [203, 0, 113, 150 + octet(entropy)].into();
            (
                Action::Network(NetworkFault::Renumber { nat, public_ip }),
                None,
            )
        }
        8 => {
            let place = topology.node(node).place;
            let address = match place {
                Place::Public => [203, 0, 113, 40 + octet(entropy)],
                Place::Behind(nat) => [10, 1 + nat.0 as u8, 80 + octet(entropy), 2],
            };
            let address = address.into();
            (
                Action::Network(NetworkFault::Move {
                    node,
                    place,
                    address,
                }),
                None,
            )
        }
        _ => {
            let by_ms = entropy.below(120_000) as i64 - 60_000;
            (Action::ClockStep { node, by_ms }, None)
        }
    }
}

fn op(id: u32, entropy: &mut Entropy) -> Action {
    let from = NodeIndex(entropy.below(3) as u16);
    let kind = match entropy.below(4) {
        0 => OpKind::Datagrams {
            count: 50,
            interval: ms(20),
            len_bytes: 16 + entropy.below(2_000) as u32,
        },
        _ => OpKind::Stream {
            bytes: 16 + entropy.below(2_000_000),
            patience: secs(400),
        },
    };
    Action::Traffic(Op {
        id: OpId(id),
        name: "drawn".to_owned(),
        from,
        to: NodeIndex((from.0 + 1 + entropy.below(2) as u16) % 3),
        service: [Service::Echo, Service::Sink][entropy.below(2) as usize],
        kind,
    })
}

fn drawn(seed: u64) -> Plan {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut entropy = Seed::new(bytes).rng();
    let topology = topology(&mut entropy);
    let mut plan = plan("drawn", seed, topology.clone());
    let link = |a, b| Wanted {
        a: NodeIndex(a),
        b: NodeIndex(b),
        class: None,
    };
    plan.wanted = vec![link(0, 1), link(0, 2), link(1, 2)];
    for _ in 0..FAULTS {
        let at = ms(1_000 + entropy.below(40_000));
        let until = at + ms(entropy.below(12_000));
        let (begins, ends) = fault(&topology, &mut entropy);
        plan.steps.push(step(at, begins));
        plan.steps.extend(ends.map(|action| step(until, action)));
    }
    for id in 0..OPS {
        let at = ms(1_000 + entropy.below(45_000));
        plan.steps.push(step(at, op(id, &mut entropy)));
    }
    plan.steps.extend(healing(&topology));
    plan.steps.sort_by_key(|step| step.at);
    (plan.healed_at, plan.ends_at) = (HEALED_AT, secs(500));
    plan
}

fn healing(topology: &Topology) -> Vec<Step> {
    let servers = Device::Server(0);
    let mut all = vec![
        relink(servers, topology.servers.links),
        Action::Turn { up: true },
    ];
    for broker in 0..topology.servers.brokers {
        all.push(Action::Broker { broker, up: true });
    }
    for node in topology.node_indices() {
        all.push(Action::Start(node));
        all.push(relink(Device::Node(node), topology.node(node).links));
    }
    all.into_iter()
        .map(|action| step(HEALED_AT, action))
        .collect()
}

#[test]
fn whatever_happens_the_links_come_back_and_every_stream_arrives_whole() {
    for seed in 0..SEEDS {
        let plan = drawn(seed);
        let journal = play(&plan, TraceMode::Off).unwrap();
        assert!(journal.ended_at < plan.ends_at, "seed {seed} never settled");
        for entry in &journal.entries {
            let bad = match &entry.what {
                What::Error { .. } | What::StrangeDatagram { .. } => true,
                What::Stream(report) => {
                    let lost = report.side == Side::Client && !report.complete;
                    lost || report.altered_at.is_some()
                }
                What::Datagrams(report) => report.received > report.sent,
                What::Queue(queue) => queue.len > queue.max,
                _ => false,
            };
            assert!(!bad, "seed {seed}: {entry:?}");
        }
    }
}
