//! The faults that a seed draws for itself (Groce et al., *Swarm testing*, ISSTA 2012): each seed
//! first picks which kinds it uses at all and how often, so that rare combinations are not
//! drowned by frequent ones.
//!
//! The budget makes sure that what must survive can: no more nodes are down at once than
//! `down_max`, nothing is done to `spare`, everything is undone before the window ends, and no
//! two faults hold one thing at a time.

use std::time::Duration;

use holdfast_core::entropy::{Entropy, Seed};
use holdfast_plan::{NodeIndex, Place, Topology};

use crate::draw::budget::Budget;
use crate::plan::draw_time;
use crate::scenario::File;
use crate::scenario::format::{Fault, FaultKind, Swarm, SwarmKind};
use crate::scenario::values::{Start, Time, When};

mod budget;
mod kinds;

/// How often another fault is tried where one did not fit.
const TRIES: u32 = 16;
/// How much more often than others a kind may come.
const WEIGHTS: [u64; 4] = [1, 2, 4, 8];
/// The faults of one seed in so many crowd in an eighth of the window.
const CROWDED_IN: u64 = 4;

/// The faults of a swarm, beside those that the file has, in order of time. Starts and faults of
/// the file are drawn already.
pub(crate) fn swarm(swarm: &Swarm, file: &File, topology: &Topology, seed: &Seed) -> Vec<Fault> {
    let mut rng = seed.fork("kinds").rng();
    let mut kinds: Vec<(SwarmKind, u64)> = Vec::new();
    for kind in &swarm.kinds {
        let weight = WEIGHTS[rng.below(WEIGHTS.len() as u64) as usize];
        if rng.below(2) == 0 {
            kinds.push((*kind, weight));
        }
    }
    if kinds.is_empty() && !swarm.kinds.is_empty() {
        let only = rng.below(swarm.kinds.len() as u64) as usize;
        kinds.push((swarm.kinds[only], 1));
    }
    let count = 1 + rng.below(u64::from(swarm.faults_max));
    let window = crowd(swarm, &mut rng);
    let mut budget = Budget::new(swarm, file, topology);
    let mut faults: Vec<Fault> = Vec::new();
    for n in 0..count {
        let mut rng = seed.fork(&n.to_string()).rng();
        let fitting = (0..TRIES).find_map(|_| {
            let kind = pick(&kinds, &mut rng)?;
            let drawing = Drawing {
                topology,
                file,
                window,
                end: swarm.window[1].0,
                spare: &swarm.spare,
            };
            let fault = drawing.one(kind, &mut rng)?;
            budget.take(&fault).then_some(fault)
        });
        faults.extend(fitting);
    }
    faults.sort_by_key(|fault| fault.at.from());
    faults
}

/// When faults begin: anywhere in the window, or all at nearly the same time.
fn crowd(swarm: &Swarm, rng: &mut Entropy) -> (Duration, Duration) {
    let [from, to] = swarm.window.map(|time| time.0);
    let start = draw_time(from, to, rng);
    match rng.below(CROWDED_IN) {
        0 => (start, to.min(start + (to - from) / 8)),
        _ => (from, to),
    }
}

fn pick(kinds: &[(SwarmKind, u64)], rng: &mut Entropy) -> Option<SwarmKind> {
    let sum: u64 = kinds.iter().map(|(_, weight)| weight).sum();
    let mut at = rng.below(sum.max(1));
    for (kind, weight) in kinds {
        if at < *weight {
            return Some(*kind);
        }
        at -= weight;
    }
    None
}

/// What a single fault is drawn from.
struct Drawing<'a> {
    topology: &'a Topology,
    file: &'a File,
    /// Faults begin in it.
    window: (Duration, Duration),
    /// … and are over by then.
    end: Duration,
    spare: &'a [String],
}

impl Drawing<'_> {
    /// A node that something may be done to, and that has started by then.
    fn node(&self, at: Duration, rng: &mut Entropy) -> Option<NodeIndex> {
        let nodes: Vec<NodeIndex> = self.nodes(at).collect();
        choose(&nodes, rng)
    }

    fn nodes(&self, at: Duration) -> impl Iterator<Item = NodeIndex> + '_ {
        self.topology.members().filter(move |node| {
            let has_started = match self.file.node[node.index()].start {
                Some(Start::When(start)) => start.from() <= at,
                Some(Start::Never(_)) => false,
                None => true,
            };
            has_started && !self.is_spare(*node)
        })
    }

    fn is_spare(&self, node: NodeIndex) -> bool {
        self.spare.contains(&self.topology.node(node).name)
    }

    /// The name of a NAT that nothing to be spared is behind, but somebody is.
    fn nat(&self, rng: &mut Entropy) -> Option<usize> {
        let above = |node: NodeIndex| {
            let inside = |place: Place| match place {
                Place::Behind(nat) => Some(nat.index()),
                Place::Public => None,
            };
            let first = inside(self.topology.node(node).place);
            std::iter::successors(first, move |nat| inside(self.topology.nats[*nat].place))
        };
        let behind = |nat: usize, spare: bool| {
            let mut members = self.topology.members();
            members.any(|node| self.is_spare(node) == spare && above(node).any(|n| n == nat))
        };
        let nats = 0..self.topology.nats.len();
        let usable: Vec<usize> = nats
            .filter(|n| behind(*n, false) && !behind(*n, true))
            .collect();
        choose(&usable, rng)
    }

    /// When a fault that lasts about so many milliseconds is there.
    fn times(&self, lasts_ms: (u64, u64), rng: &mut Entropy) -> Option<(When, When)> {
        let at = self.at(rng);
        let lasts = Duration::from_millis(lasts_ms.0 + rng.below(lasts_ms.1 - lasts_ms.0));
        let lasts = lasts.min(self.end.checked_sub(at)?);
        let fits = lasts >= Duration::from_millis(lasts_ms.0);
        fits.then_some((When::At(Time(at)), When::At(Time(lasts))))
    }

    fn at(&self, rng: &mut Entropy) -> Duration {
        draw_time(self.window.0, self.window.1, rng)
    }
}

fn choose<T: Copy>(from: &[T], rng: &mut Entropy) -> Option<T> {
    match from.len() {
        0 => None,
        len => Some(from[rng.below(len as u64) as usize]),
    }
}

/// A fault of that kind with nothing else said.
fn plain(kind: FaultKind, at: When, lasts: Option<When>) -> Fault {
    Fault {
        name: None,
        at,
        lasts,
        kind,
        from: None,
        to: None,
        between: None,
        device: None,
        link: None,
        nat: None,
        address: None,
        node: None,
        behind: None,
        by: None,
        broker: None,
        lose: None,
        repeat: None,
        late: None,
        attack: None,
        count: None,
    }
}
