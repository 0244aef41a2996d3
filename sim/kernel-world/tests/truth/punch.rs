//! Hole punching: both ends learn their public endpoints from a reflector, hear of each other's,
//! send, and answer whoever they hear.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::SocketAddrV4;

use holdfast_kernel_world::stage::can_run;
use holdfast_plan::{NodeIndex, SERVERS};

use crate::ground::{
    End, Ground, Host, Kernel, Model, REFLECTOR, behaviours, config, figure, label, topology,
};

/// A packet that took unusually long, or two mappings that happened on one port, do not come
/// again with other ports.
const TRIES_MAX: u16 = 3;

/// Two sockets that want to meet.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub ends: [End; 2],
}

/// What came of a pair: for each round, who heard something (0 or 1, of [`Pair::ends`]), `!` if
/// it came from another endpoint than the one that the reflector saw; or that one of them did not
/// hear the reflector.
pub type Outcome = String;

/// Which end a packet is from.
fn tag(pair: usize, end: usize) -> u32 {
    (pair * 2 + end) as u32
}

/// Let all pairs meet at the same time.
pub fn meet(ground: &mut dyn Ground, pairs: &[Pair]) -> Vec<Outcome> {
    let reflector = SocketAddrV4::new(SERVERS[0], REFLECTOR.port);
    let each = || (0..pairs.len()).flat_map(|pair| [(pair, 0), (pair, 1)]);
    // Opens the reflector's socket: nothing hears this one.
    ground.send(REFLECTOR, reflector, u32::MAX);
    ground.settle();
    for (pair, end) in each() {
        ground.send(pairs[pair].ends[end], reflector, tag(pair, end));
    }
    let mut public = BTreeMap::new();
    for heard in ground.settle() {
        assert_eq!(heard.at, REFLECTOR);
        public.insert(heard.tag, heard.from);
        ground.send(REFLECTOR, heard.from, heard.tag);
    }
    let answered: BTreeSet<u32> = ground.settle().iter().map(|heard| heard.tag).collect();
    let is_known = |pair| [0, 1].iter().all(|end| answered.contains(&tag(pair, *end)));
    let known = |pair, end| public[&tag(pair, end)];
    let mut outcomes = vec![Outcome::new(); pairs.len()];
    let mut peers: BTreeMap<u32, SocketAddrV4> = BTreeMap::new();
    // Two rounds of each end to the other's known endpoint, then answers.
    for round in 0..8 {
        for (pair, end) in each().filter(|(pair, _)| is_known(*pair)) {
            let to = match round {
                0..4 if end == round % 2 => Some(known(pair, 1 - end)),
                0..4 => None,
                _ if end == round % 2 => peers.get(&tag(pair, end)).copied(),
                _ => None,
            };
            if let Some(to) = to {
                ground.send(pairs[pair].ends[end], to, tag(pair, end));
            }
        }
        let mut heard_by = BTreeSet::new();
        for heard in ground.settle() {
            let (pair, from) = (heard.tag as usize / 2, heard.tag as usize % 2);
            assert_eq!(
                heard.at,
                pairs[pair].ends[1 - from],
                "at whom it was sent to"
            );
            peers.insert(tag(pair, 1 - from), heard.from);
            heard_by.insert((pair, 1 - from, heard.from != known(pair, from)));
        }
        for (pair, end, is_other) in heard_by {
            let _ = write!(outcomes[pair], "{end}{}", if is_other { "!" } else { "" });
        }
        outcomes.iter_mut().for_each(|outcome| outcome.push('|'));
    }
    for (pair, outcome) in outcomes.iter_mut().enumerate() {
        if !is_known(pair) {
            "no reflector".clone_into(outcome);
        }
    }
    outcomes
}

/// Let all pairs meet on both grounds, those that differ again with other ports; what differs
/// every time, as (number of the pair, the model's outcome, the kernel's), and the kernel's
/// outcomes.
pub fn compare(
    model: &mut Model,
    kernel: &mut Kernel,
    pairs: &[Pair],
) -> (Vec<(usize, Outcome, Outcome)>, Vec<Outcome>) {
    let mut outcomes = vec![Outcome::new(); pairs.len()];
    let mut open: Vec<usize> = (0..pairs.len()).collect();
    let mut different = Vec::new();
    for attempt in 0..TRIES_MAX {
        let moved: Vec<Pair> = open.iter().map(|n| moved(pairs[*n], attempt)).collect();
        let told = meet(model, &moved);
        let true_ones = meet(kernel, &moved);
        different.clear();
        for ((n, told), truth) in open.iter().zip(told).zip(true_ones) {
            outcomes[*n] = truth.clone();
            if told != truth {
                different.push((*n, told, truth));
            }
        }
        open = different.iter().map(|(n, ..)| *n).collect();
        if open.is_empty() {
            break;
        }
    }
    (different, outcomes)
}

/// The same pair on other ports.
fn moved(pair: Pair, attempt: u16) -> Pair {
    let ends = pair.ends.map(|end| End {
        port: end.port + attempt * 1_000,
        ..end
    });
    Pair { ends }
}

/// Whether both ends heard each other.
pub fn met(outcome: &str) -> bool {
    outcome.contains('0') && outcome.contains('1')
}

#[test]
fn the_model_and_the_kernel_let_the_same_nats_meet() {
    if !can_run() {
        return;
    }
    let kinds: Vec<_> = behaviours().into_iter().map(config).collect();
    // Two of each kind: the first of a pair is behind one of the first half.
    let count = kinds.len() as u16;
    let topology = topology(&[kinds.clone(), kinds.clone()].concat(), 1);
    let mut pairs = Vec::new();
    for a in 0..count {
        for b in 0..count {
            let end = |node, port| End {
                host: Host::Node(node),
                port,
            };
            let ends = [end(a, 10_000 + b), end(count + b, 10_100 + a)];
            pairs.push(Pair { ends });
        }
    }
    let (mut model, mut kernel) = (Model::new(&topology), Kernel::new(&topology));
    let (different, outcomes) = compare(&mut model, &mut kernel, &pairs);
    let mut told = String::new();
    for (n, outcome) in outcomes.iter().enumerate() {
        if n % kinds.len() == 0 {
            let _ = write!(told, "\n{:>10} ", label(&kinds[n / kinds.len()]));
        }
        told.push(if met(outcome) { '+' } else { '.' });
    }
    for (n, model, kernel) in &different {
        let (a, b) = (n / kinds.len(), n % kinds.len());
        let (a, b) = (label(&kinds[a]), label(&kinds[b]));
        let _ = write!(
            told,
            "\n{a:>10} and {b:<10} model {model:<20} kernel {kernel}"
        );
    }
    // What ICE can do is what these packets can do.
    for (n, outcome) in outcomes.iter().enumerate() {
        let (a, b) = ((n / kinds.len()) as u16, count + (n % kinds.len()) as u16);
        let host = |node| model.built.host(NodeIndex(node));
        let possible = model.network.direct_path_possible(host(a), host(b));
        if possible != met(outcome) {
            let (a, b) = (
                label(&kinds[n / kinds.len()]),
                label(&kinds[n % kinds.len()]),
            );
            let _ = write!(
                told,
                "\n{a:>10} and {b:<10} oracle {possible}, kernel {outcome}"
            );
        }
    }
    println!("{told}");
    assert!(different.is_empty(), "{told}");
    figure(&format!(
        "{} pairs of NATs, {} of them meet",
        pairs.len(),
        outcomes.iter().filter(|outcome| met(outcome)).count()
    ));
}
