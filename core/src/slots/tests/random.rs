//! Random schedules: requests and answers that are late, lost or doubled in effect, clocks that
//! run differently, crashes. Checked at every step: see `World::check`, `Kv::check_patience`
//! and `Node::check_return`.

use std::time::Duration;

use proptest::prelude::*;

use super::world::*;
use crate::slots::{Input, Slots, State};

/// What happens next, as drawn.
type Draw = (u8, u8, u8);

fn play(world: &mut World, (kind, node, nth): Draw) {
    let node = usize::from(node) % world.nodes.len();
    let flights = world.nodes[node].flights.len();
    let nth = usize::from(nth) % flights.max(1);
    let flight = world.nodes[node].flights.get(nth);
    let (sent, answered, awaited) = flight.map_or((false, false, false), |flight| {
        (
            flight.answer.is_none(),
            flight.answer.is_some(),
            flight.call.is_some(),
        )
    });
    match kind % 32 {
        0..=9 if sent => {
            world.apply(node, nth);
        }
        0..=17 if answered => world.answer(node, nth),
        18 | 19 if awaited => world.lose(node, nth),
        20 if sent && awaited => world.refuse(node, nth),
        21..=25 => {
            world.wake(node);
        }
        26 | 27 => world.t = world.next_deadline().unwrap_or(world.t),
        28 => world.t += Duration::from_millis(700),
        29 if kind < 64 => world.crash(node),
        29 => world.t += LEASE / 4,
        31 if kind >= 192 && world.nodes[node].machine.is_some() => {
            world.input(node, Input::Retire);
        }
        30 | 31 => world.start(node),
        _ => {}
    }
    world.check();
}

/// From now on everything works. Everybody who lost its slot, or gave it back, starts again.
fn heal(world: &mut World) {
    // The longest lease by the slowest clock, and some.
    for _ in 0..5 {
        for node in 0..world.nodes.len() {
            let machine = world.nodes[node].machine.as_ref();
            let ended = |m: &Slots| matches!(m.state(), State::Lost | State::Retired);
            if machine.is_some_and(ended) {
                world.crash(node);
            }
            world.start(node);
        }
        world.run(LEASE);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_two_live_owners_and_n_fill_n_whatever_happens(
        rates in prop::collection::vec(900u32..=1100, 1..6),
        seed: u64,
        draws in prop::collection::vec(any::<Draw>(), 0..800),
    ) {
        let slots = u16::try_from(rates.len()).unwrap();
        let mut world = World::new(slots, &rates, seed);
        for draw in draws {
            play(&mut world, draw);
        }
        heal(&mut world);
        let mut owned: Vec<_> = world.owners().into_iter().flatten().collect();
        owned.sort_unstable();
        prop_assert_eq!(owned, (0..slots).collect::<Vec<_>>(), "every slot once");
        prop_assert_eq!(world.kv.entries.len(), usize::from(slots), "and no stray entry");
    }

    #[test]
    fn more_instances_than_slots_fill_all_slots_and_the_rest_waits(
        rates in prop::collection::vec(900u32..=1100, 2..6),
        seed: u64,
        draws in prop::collection::vec(any::<Draw>(), 0..400),
    ) {
        let slots = u16::try_from(rates.len()).unwrap() / 2;
        let mut world = World::new(slots, &rates, seed);
        for draw in draws {
            play(&mut world, draw);
        }
        heal(&mut world);
        let owned = world.owners().into_iter().flatten().count();
        prop_assert_eq!(owned, usize::from(slots));
    }
}

#[cfg(feature = "simulation")]
mod planted {
    use super::*;
    use crate::entropy::Seed;
    use crate::simulation::{Mutant, plant, take_marks};

    /// Schedules from a fixed seed until one fails.
    fn is_caught(mutant: Option<Mutant>) -> bool {
        plant(mutant);
        let caught = (0..200u8).any(|n| {
            let mut entropy = Seed::new([n; 32]).rng();
            let caught = std::panic::catch_unwind(move || {
                let mut world = World::new(2, &[900, 1000, 1100], u64::from(n));
                for _ in 0..800 {
                    let [kind, node, nth] = entropy.bytes();
                    play(&mut world, (kind, node, nth));
                }
            });
            caught.is_err()
        });
        plant(None);
        caught
    }

    #[test]
    fn each_planted_mistake_is_seen_and_only_those() {
        take_marks();
        assert!(!is_caught(None));
        let marks = take_marks();
        assert!(is_caught(Some(Mutant::StealEarly)));
        assert!(is_caught(Some(Mutant::OutliveLease)));
        let all = crate::simulation::MARKS.iter();
        for mark in all.filter(|mark| mark.starts_with("slots/")) {
            assert!(marks.contains_key(mark), "{mark} was not reached");
        }
    }
}
