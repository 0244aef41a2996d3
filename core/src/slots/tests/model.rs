//! Every schedule, for small sizes: the real machines, explored with all orders of what may
//! happen next, up to a depth, without visiting a state twice.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hasher};

use super::world::*;

/// What may still go wrong.
#[derive(Clone, Copy, Debug)]
struct Budget {
    losses: u8,
    crashes: u8,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A request reaches the KV; a read is answered with that.
    Arrive(usize, usize),
    Answer(usize, usize),
    Lose(usize, usize),
    Wake(usize),
    Crash(usize),
    Start(usize),
    /// Until somebody's next deadline, who need not be woken then.
    Pass,
}

struct Explorer {
    /// Fingerprints, and the depth that was left when they were last visited.
    seen: BTreeMap<u64, u8>,
    transitions: u64,
    owning: u64,
}

impl Explorer {
    fn explore(&mut self, world: &World, budget: Budget, depth: u8) {
        world.check();
        let left = self.seen.entry(fingerprint(world, budget)).or_default();
        if *left > depth {
            return;
        }
        *left = depth + 1;
        self.owning += u64::from(world.owners().iter().any(Option::is_some));
        if depth == 0 {
            return;
        }
        for step in steps(world, budget) {
            let (mut next, mut budget) = (world.clone(), budget);
            take(&mut next, &mut budget, step);
            self.transitions += 1;
            self.explore(&next, budget, depth - 1);
        }
    }
}

fn steps(world: &World, budget: Budget) -> Vec<Step> {
    let mut steps = Vec::new();
    for (n, node) in world.nodes.iter().enumerate() {
        for (f, flight) in node.flights.iter().enumerate() {
            if world.arrives(flight) {
                steps.push(Step::Arrive(n, f));
            }
            if flight.answer.is_some() {
                steps.push(Step::Answer(n, f));
            }
            if flight.call.is_some() && !flight.request.is_read() && budget.losses > 0 {
                steps.push(Step::Lose(n, f));
            }
        }
        let now = world.now(n).mono;
        match &node.machine {
            Some(machine) => {
                if machine.deadline().is_some_and(|(at, _)| now >= at) {
                    steps.push(Step::Wake(n));
                }
                if budget.crashes > 0 {
                    steps.push(Step::Crash(n));
                }
            }
            None => steps.push(Step::Start(n)),
        }
    }
    if world.next_deadline().is_some() {
        steps.push(Step::Pass);
    }
    steps
}

fn take(world: &mut World, budget: &mut Budget, step: Step) {
    match step {
        Step::Arrive(n, f) => {
            let is_read = world.nodes[n].flights[f].request.is_read();
            world.apply(n, f);
            if is_read {
                world.answer(n, f);
            }
        }
        Step::Answer(n, f) => world.answer(n, f),
        Step::Lose(n, f) => {
            budget.losses -= 1;
            world.lose(n, f);
        }
        Step::Wake(n) => {
            world.wake(n);
        }
        Step::Crash(n) => {
            budget.crashes -= 1;
            world.crash(n);
        }
        Step::Start(n) => world.start(n),
        Step::Pass => world.t = world.next_deadline().expect("there is one"),
    }
}

struct Digest(DefaultHasher);

impl std::fmt::Write for Digest {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// All that the machines, the KV and the wires hold, and nothing of the past.
fn fingerprint(world: &World, budget: Budget) -> u64 {
    let mut digest = Digest(DefaultHasher::new());
    write!(digest, "{:?}{:?}{budget:?}", world.t, world.kv).expect("hashing cannot fail");
    for node in &world.nodes {
        let parts = (&node.machine, &node.flights, node.starts);
        write!(digest, "{parts:?}").expect("hashing cannot fail");
    }
    digest.0.finish()
}

fn explore(name: &str, world: &World, budget: Budget, depth: u8) -> usize {
    let mut explorer = Explorer {
        seen: BTreeMap::new(),
        transitions: 0,
        owning: 0,
    };
    explorer.explore(world, budget, depth);
    let states = explorer.seen.len();
    println!(
        "{name}: {states} states, {} transitions, depth {depth}; in {} somebody owned a slot",
        explorer.transitions, explorer.owning
    );
    assert!(explorer.owning > 0, "{name}: nobody ever owned a slot");
    states
}

const SLOW_AND_FAST: [u32; 2] = [900, 1100];

#[test]
fn two_instances_and_one_slot_from_nothing() {
    let mut world = World::new(1, &SLOW_AND_FAST, 0);
    (0..2).for_each(|node| world.start(node));
    let budget = Budget {
        losses: 1,
        crashes: 1,
    };
    explore("2 instances, 1 slot, from nothing", &world, budget, DEPTH);
}

#[test]
fn a_slow_owner_and_a_fast_one_that_waits_for_its_slot() {
    let mut world = World::new(1, &SLOW_AND_FAST, 0);
    world.start(0);
    world.settle();
    world.start(1);
    world.settle();
    let budget = Budget {
        losses: 2,
        crashes: 1,
    };
    explore("an owner and one who waits", &world, budget, DEPTH);
}

#[test]
fn an_owner_that_crashed_returns_while_another_takes_its_slot() {
    let mut world = World::new(1, &[1100, 900], 0);
    world.start(0);
    world.settle();
    world.start(1);
    world.settle();
    world.crash(0);
    world.t += LEASE;
    let budget = Budget {
        losses: 2,
        crashes: 0,
    };
    explore("a return and a take-over", &world, budget, DEPTH);
}

#[test]
fn two_instances_and_two_slots_from_nothing() {
    let mut world = World::new(2, &SLOW_AND_FAST, 0);
    (0..2).for_each(|node| world.start(node));
    let budget = Budget {
        losses: 1,
        crashes: 0,
    };
    explore("2 instances, 2 slots, from nothing", &world, budget, DEPTH);
}

#[test]
fn three_instances_and_two_slots_from_nothing() {
    let mut world = World::new(2, &[900, 1000, 1100], 0);
    (0..3).for_each(|node| world.start(node));
    let budget = Budget {
        losses: 1,
        crashes: 0,
    };
    explore(
        "3 instances, 2 slots, from nothing",
        &world,
        budget,
        DEPTH - 3,
    );
}

/// Deep enough to lose a slot, take it over and come back; shallow enough for seconds.
const DEPTH: u8 = 13;

#[cfg(feature = "simulation")]
#[test]
fn the_exploration_sees_each_planted_mistake() {
    use crate::simulation::{Mutant, plant};
    for mutant in [Mutant::StealEarly, Mutant::OutliveLease] {
        let caught = std::panic::catch_unwind(|| {
            plant(Some(mutant));
            let mut world = World::new(1, &SLOW_AND_FAST, 0);
            world.start(0);
            world.settle();
            world.start(1);
            world.settle();
            let budget = Budget {
                losses: 0,
                crashes: 0,
            };
            explore("planted", &world, budget, DEPTH);
        });
        plant(None);
        assert!(caught.is_err(), "{mutant} was not seen");
    }
}
