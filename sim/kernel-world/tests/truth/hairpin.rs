//! Two nodes behind one NAT: by its public address, and by their own.

use std::fmt::Write;
use std::net::SocketAddrV4;

use holdfast_kernel_world::stage::can_run;
use holdfast_net_model::{Filtering, Mapping, NatConfig};
use holdfast_plan::{NodeIndex, Topology};

use crate::ground::{
    End, Ground, Host, Kernel, Model, behaviours, config, figure, label, topology,
};
use crate::punch::{Pair, compare, met};

/// Ports of the sockets that send to private addresses.
const PRIVATE_PORT: u16 = 20_000;

fn kinds() -> Vec<NatConfig> {
    let with = |hairpinning, isolated| {
        let each = behaviours().into_iter().map(config);
        each.map(move |config| NatConfig {
            hairpinning,
            isolated,
            ..config
        })
    };
    let mut kinds: Vec<_> = with(true, true).chain(with(false, true)).collect();
    // Whether nodes are kept apart has nothing to do with mappings and filters.
    kinds.extend(with(false, false).take(2));
    kinds.extend(with(true, false).take(2));
    kinds
}

fn pairs(topology: &Topology, port: u16) -> Vec<Pair> {
    let nats = 0..topology.nats.len() as u16;
    let end = |node| End {
        host: Host::Node(node),
        port: port + node,
    };
    let pair = |nat: u16| Pair {
        ends: [end(2 * nat), end(2 * nat + 1)],
    };
    nats.map(pair).collect()
}

/// For each pair, whether the second heard the first at its own address.
fn reach_in_private(ground: &mut dyn Ground, topology: &Topology, pairs: &[Pair]) -> Vec<bool> {
    let private = |end: End| match end.host {
        Host::Node(node) => SocketAddrV4::new(topology.node(NodeIndex(node)).address, end.port),
        Host::Server(_) => panic!("a pair is of nodes"),
    };
    // Opens the sockets: neither hears its own.
    for (n, pair) in (0..).zip(pairs) {
        let [a, b] = pair.ends;
        ground.send(b, private(b), u32::MAX);
        ground.send(a, private(b), n);
    }
    let heard = ground.settle();
    let reached = |(n, pair): (u32, &Pair)| {
        let [a, b] = pair.ends;
        heard
            .iter()
            .any(|h| h.tag == n && h.at == b && h.from == private(a))
    };
    (0..).zip(pairs).map(reached).collect()
}

#[test]
fn the_model_and_the_kernel_let_the_same_neighbours_meet() {
    if !can_run() {
        return;
    }
    let kinds = kinds();
    let topology = topology(&kinds, 2);
    let (mut model, mut kernel) = (Model::new(&topology), Kernel::new(&topology));
    let private = pairs(&topology, PRIVATE_PORT);
    let told = reach_in_private(&mut model, &topology, &private);
    let truth = reach_in_private(&mut kernel, &topology, &private);
    let expected: Vec<bool> = kinds.iter().map(|kind| !kind.isolated).collect();
    assert_eq!((&told, &truth), (&expected, &expected), "in private");
    let (different, outcomes) = compare(&mut model, &mut kernel, &pairs(&topology, 10_000));
    let mut said = String::new();
    for (n, model, kernel) in &different {
        // Who hears whom is the same, but conntrack answers a stranger from the port that it
        // reached; only past it, where nothing hairpins, a router of the lab does not.
        let from_anywhere = |outcome: &str| outcome.replace('!', "");
        let is_stranger = kinds[*n].mapping != Mapping::EndpointIndependent
            && kinds[*n].filtering == Filtering::EndpointIndependent;
        if is_stranger && from_anywhere(model) == from_anywhere(kernel) {
            continue;
        }
        let (kind, hairpinning) = (label(&kinds[*n]), kinds[*n].hairpinning);
        let _ = write!(
            said,
            "\n{kind:>10} hairpinning {hairpinning:<5} model {model:<20} kernel {kernel}"
        );
    }
    assert!(said.is_empty(), "{said}");
    figure(&format!(
        "{} kinds of NAT with two nodes, {} of them let them meet at its public address",
        kinds.len(),
        outcomes.iter().filter(|outcome| met(outcome)).count()
    ));
}
