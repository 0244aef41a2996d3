//! The invariants against whatever servers say and clients do. `World` checks them at every
//! output.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::world::{State, World};
use super::*;

const SERVERS: [&str; 4] = ["a", "b", "c", "d"];

fn answer(draw: u8, term: u64) -> Option<Observation> {
    match draw % 8 {
        0 => None,
        1 => neither(),
        2..=4 => follows(),
        5 => Some(Observation {
            leads: Some(term),
            follows: true,
        }),
        _ => leads(term),
    }
}

fn play(world: &mut World, (kind, which, draw): (u8, u8, u8)) {
    let nth = usize::from(which);
    let server = SERVERS[nth % SERVERS.len()];
    let states = world.sessions.iter();
    let connecting: Vec<SessionId> = states
        .filter(|(_, session)| matches!(session.state, State::Connecting(_)))
        .map(|(id, _)| *id)
        .collect();
    let session = connecting.get(nth % connecting.len().max(1)).copied();
    match (kind % 16, session) {
        (0 | 1, _) => world.say(server, answer(draw, u64::from(draw >> 5) + 1)),
        (2..=4, _) => {
            let checks: Vec<CheckId> = world.asked.keys().copied().collect();
            if let Some(check) = checks.get(nth % checks.len().max(1)) {
                world.answer(*check);
            }
        }
        (5 | 6, _) => {
            let pool = [Pool::Exclusive, Pool::Shared][nth % 2];
            world.ask(pool);
        }
        (7..=9, Some(session)) => world.connected(session),
        (10, Some(session)) => world.failed(session),
        (11, _) => {
            let session = world.sessions.keys().nth(nth % 8).copied();
            session.into_iter().for_each(|session| world.ended(session));
        }
        (12, _) if draw < 40 => {
            let some = SERVERS.iter().enumerate();
            let some = some.filter(|(bit, _)| which >> bit & 1 == 1);
            let some: Vec<Name> = some.map(|(_, text)| name(text)).collect();
            world.set_backends(&some);
        }
        // In time: `World` takes every answer for one.
        _ => {
            let oldest = Duration::from_millis(u64::from(draw));
            world.pass(oldest);
            world.answer_all();
        }
    }
}

fn configs() -> impl Strategy<Value = Config> {
    (1..4u32, 1..4u32, any::<bool>(), 1..12usize, 0..3000u64).prop_map(
        |(rise, fall, fall_back, sessions_max, hold)| Config {
            rise,
            fall,
            fall_back,
            sessions_max,
            hold: Duration::from_millis(hold),
            ..config(&SERVERS)
        },
    )
}

fn draws(len: usize) -> impl Strategy<Value = Vec<(u8, u8, u8)>> {
    prop::collection::vec(any::<(u8, u8, u8)>(), 0..len)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_leader_of_the_highest_term_sessions_only_where_they_belong_and_no_longer_wait_than_the_hold(
        config in configs(),
        draws in draws(400),
    ) {
        let mut world = World::new(config);
        for draw in draws {
            play(&mut world, draw);
        }
        // Nobody says anything any more: nobody is led to, and nobody waits.
        for server in SERVERS {
            world.say(server, None);
        }
        world.run(10 * S);
        prop_assert!(world.sessions.is_empty());
    }

    #[test]
    fn the_same_inputs_give_the_same_outputs(config in configs(), draws in draws(200)) {
        let run = || {
            let mut world = World::new(config.clone());
            draws.iter().for_each(|draw| play(&mut world, *draw));
            world.trace
        };
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn every_one_of_n_replicas_gets_at_least_half_its_share(
        present in prop::collection::btree_set(0..32u8, 1..12),
        seed in any::<u8>(),
    ) {
        let texts: Vec<String> = present.iter().map(|n| format!("n{n}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut world = World::seeded(config(&texts), seed);
        for server in &texts {
            world.say(server, follows());
        }
        world.answer_all();
        let mut served: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..100 {
            *served.entry(world.open(Pool::Shared).1).or_default() += 1;
        }
        let n = texts.len();
        prop_assert_eq!(served.len(), n);
        prop_assert!(served.values().all(|picks| picks * 2 * n >= 100));
    }
}

#[test]
fn the_schedules_that_are_drawn_reach_everything_worth_reaching() {
    let mut reached = BTreeSet::new();
    let mut entropy = crate::entropy::Seed::new([1; 32]).rng();
    for seed in 0..40 {
        let mut world = World::seeded(config(&SERVERS), seed);
        for _ in 0..400 {
            let [kind, which, draw] = entropy.bytes();
            play(&mut world, (kind, which, draw));
        }
        let words = |line: &String| {
            let said = line.split(['{', ' ']).map(str::to_owned);
            let why = ["Silent", "RoleLost", "Removed", "NoServer"];
            let why = why.into_iter().filter(|why| line.contains(why));
            said.take(1)
                .chain(why.map(str::to_owned))
                .collect::<Vec<_>>()
        };
        reached.extend(world.trace.iter().flat_map(words));
    }
    for what in [
        "Check",
        "Connect",
        "Wait",
        "Refuse",
        "Reset",
        "Event(Up",
        "Event(Down",
        "Event(Switched",
        "Event(Ambiguous",
        "Silent",
        "RoleLost",
        "Removed",
        "NoServer",
    ] {
        assert!(
            reached.contains(what),
            "{what} was not reached: {reached:?}"
        );
    }
}
