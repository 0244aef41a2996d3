//! What must hold, one sentence each.

use std::time::Duration;

use super::world::*;
use crate::entropy::Seed;
use crate::kv::{Failure, FailureKind, Request, Response};
use crate::slots::{Config, ConfigError, Event, Input, Loss, Obstacle, Output, Slots, State};

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const KEY: &str = "cluster/c/slots/0";

fn world(slots: u16, nodes: usize) -> World {
    World::new(slots, &vec![1000; nodes], 0)
}

fn started(slots: u16, nodes: usize) -> World {
    let mut world = world(slots, nodes);
    (0..nodes).for_each(|node| world.start(node));
    world.settle();
    world
}

fn value(instance: &str, run: char, beat: u64) -> String {
    let run = run.to_string().repeat(32);
    let lease = LEASE.as_millis();
    format!(
        r#"{{"holdfast":1,"instance":"{instance}","run":"{run}","beat":{beat},"lease_ms":{lease}}}"#
    )
}

fn waits_for(world: &World, node: usize) -> Option<&Obstacle> {
    match world.nodes[node].events.last() {
        Some(Event::Waiting(obstacle)) => Some(obstacle),
        _ => None,
    }
}

fn lost(world: &World, node: usize) -> Option<&Loss> {
    match world.nodes[node].events.last() {
        Some(Event::Lost { why, .. }) => Some(why),
        _ => None,
    }
}

#[test]
fn the_first_takes_the_lowest_slot_and_renews_it_every_third_of_its_lease() {
    let mut world = started(3, 1);
    let owned = Event::Owned {
        slot: 0,
        rejoined: false,
    };
    assert_eq!(world.nodes[0].events, [owned]);
    assert_eq!(world.machine(0).state(), State::Owning);
    assert_eq!(world.nodes[0].calls, 2, "a read and a write");
    world.run(LEASE * 100 + S);
    assert_eq!(world.owned(0), Some(0));
    assert_eq!(world.nodes[0].calls, 2 + 300 * 2, "a read and a write each");
    assert_eq!(world.nodes[0].events.len(), 1);
}

#[test]
fn all_slots_taken_is_told_once_and_the_next_to_be_free_is_taken() {
    let mut world = started(2, 3);
    world.run(LEASE * 3);
    let waiting = world
        .nodes
        .iter()
        .position(|n| n.events == [Event::Waiting(Obstacle::AllTaken(2))]);
    let waiting = waiting.expect("three do not fit two slots");
    let other = (waiting + 1) % 3;
    let slot = world.owned(other);
    world.input(other, Input::Retire);
    assert_eq!(world.owned(other), None, "from the moment it was asked");
    world.settle();
    assert_eq!(world.machine(other).state(), State::Retired);
    assert_eq!(world.machine(other).deadline(), None);
    assert_eq!(world.owned(waiting), slot, "at once, not after a lease");
}

#[test]
fn a_crashed_owners_slot_is_free_after_its_lease_and_not_sooner() {
    let mut world = started(1, 2);
    let (owner, waiting) = if world.owned(0).is_some() {
        (0, 1)
    } else {
        (1, 0)
    };
    world.crash(owner);
    let counted = LEASE * 1100 / 900;
    world.run(counted - S);
    assert_eq!(world.owned(waiting), None);
    let view = &world.machine(waiting).views(world.now(waiting))[0];
    assert_eq!(view.owner, Some(world.nodes[owner].config.instance.clone()));
    assert!((1..=1100).contains(&view.lease_ms.unwrap()), "{view:?}");
    world.run(S * 2);
    assert_eq!(world.owned(waiting), Some(0));
}

#[test]
fn whoever_returns_takes_its_own_slot_at_once_and_not_the_lowest() {
    let mut world = started(3, 3);
    world.run(S);
    let before = world.owners();
    let node = before.iter().position(|slot| *slot == Some(2)).unwrap();
    let first = before.iter().position(|slot| *slot == Some(0)).unwrap();
    world.input(first, Input::Retire);
    world.crash(node);
    world.start(node);
    world.settle();
    assert_eq!(world.owned(node), Some(2));
    let rejoined = Event::Owned {
        slot: 2,
        rejoined: true,
    };
    assert_eq!(world.nodes[node].events.last(), Some(&rejoined));
}

#[test]
fn an_owner_whose_kv_is_away_lives_for_its_life_from_the_last_sending_to_the_instant() {
    let mut world = started(1, 1);
    let waiting = "the KV does not answer";
    let over = world.t + LIFE;
    // Everything that is asked from now on is lost.
    while world.t < over - Duration::from_millis(1) {
        while !world.nodes[0].flights.is_empty() {
            world.lose(0, 0);
        }
        let next = world.next_deadline().unwrap();
        world.t = next.min(over - Duration::from_nanos(1));
        assert_eq!(world.owned(0), Some(0));
        world.wake(0);
    }
    let told = waits_for(&world, 0).unwrap().to_string();
    assert!(told.starts_with(waiting), "{told}");
    assert_eq!(world.nodes[0].events.len(), 2, "told once");
    world.t = over;
    assert_eq!(world.owned(0), None, "even though it has not been woken");
    assert!(world.wake(0));
    assert_eq!(lost(&world, 0), Some(&Loss::LeaseOver));
    assert_eq!(world.machine(0).state(), State::Lost);
    assert_eq!(world.machine(0).deadline(), None);
}

#[test]
fn a_lease_counts_from_the_sending_even_when_the_answer_is_late() {
    let mut world = world(1, 1);
    world.start(0);
    world.step(0);
    world.step(0);
    assert!(world.apply(0, 0), "the claim arrives");
    world.t += LIFE - MS;
    world.answer(0, 0);
    assert_eq!(world.owned(0), Some(0));
    world.t += MS;
    assert_eq!(world.owned(0), None);
}

#[test]
fn an_answer_that_comes_after_the_lease_makes_nobody_an_owner() {
    let mut world = world(1, 1);
    world.start(0);
    world.step(0);
    world.step(0);
    assert!(world.apply(0, 0), "the claim arrives");
    world.t += LIFE;
    world.answer(0, 0);
    assert_eq!(world.owned(0), None);
    assert_eq!(world.nodes[0].events, []);
    world.settle();
    assert_eq!(world.owned(0), Some(0), "it was set once more");
}

#[test]
fn a_claim_of_unknown_outcome_is_settled_by_reading_whether_or_not_it_happened() {
    for happened in [true, false] {
        let mut world = world(2, 1);
        world.start(0);
        world.step(0);
        world.step(0);
        if happened {
            assert!(world.apply(0, 0));
        }
        world.lose(0, 0);
        assert_eq!(world.machine(0).state(), State::Claiming);
        assert_eq!(world.owned(0), None);
        world.run(S);
        assert_eq!(world.owned(0), Some(0), "happened: {happened}");
        assert_eq!(world.kv.entries.len(), 1);
    }
}

#[test]
fn a_claim_of_unknown_outcome_keeps_from_trying_another_slot_until_it_is_settled() {
    let mut world = world(2, 1);
    world.start(0);
    world.step(0);
    world.step(0);
    for _ in 0..20 {
        let last = world.nodes[0].flights.len() - 1;
        let flight = &world.nodes[0].flights[last];
        if let Request::Put { key, .. } = &flight.request {
            assert_eq!(key, KEY);
            world.lose(0, last);
        } else {
            world.apply(0, last);
            world.answer(0, last);
        }
        world.t += S * 10;
        world.wake(0);
    }
    assert!(world.nodes[0].flights.len() > 5, "the late ones");
    // The first of them arrives at last, and makes the others fail.
    world.run(S * 10);
    assert_eq!(world.owned(0), Some(0));
    assert_eq!(world.kv.entries.len(), 1);
}

#[test]
fn a_late_claim_that_leaves_a_second_entry_is_removed_and_no_slot_is_lost() {
    let mut world = world(2, 1);
    world.start(0);
    world.step(0);
    world.step(0);
    world.lose(0, 0);
    let late = world.nodes[0].flights.remove(0);
    // Another takes the slot meanwhile, so that ours goes on to the next, and goes away.
    world
        .kv
        .set(world.t, KEY, value("other", 'a', 1).as_bytes());
    world.run(S);
    assert_eq!(world.owned(0), Some(1));
    world.kv.delete(KEY);
    world.nodes[0].flights.push(late);
    let late = world.nodes[0].flights.len() - 1;
    assert!(world.apply(0, late));
    assert_eq!(world.kv.entries.len(), 2);
    world.run(LEASE);
    assert_eq!(world.kv.entries.len(), 1);
    assert_eq!(world.owned(0), Some(1));
}

#[test]
fn another_run_of_the_same_instance_is_named_as_a_duplicate() {
    let mut world = started(1, 1);
    world.kv.set(world.t, KEY, value("i-0", 'b', 9).as_bytes());
    world.run(LEASE / 2);
    assert_eq!(lost(&world, 0), Some(&Loss::Duplicate));
}

#[test]
fn an_entry_that_is_anothers_or_gone_or_strange_ends_an_owner() {
    for (set, expected) in [
        (Some(value("other", 'b', 9)), Loss::Taken("other".into())),
        (Some("other".into()), Loss::Taken("other".into())),
        (Some("?".into()), Loss::Overwritten),
        (None, Loss::Overwritten),
    ] {
        let mut world = started(2, 1);
        match &set {
            Some(value) => world.kv.set(world.t, KEY, value.as_bytes()),
            None => world.kv.delete(KEY),
        }
        world.run(LEASE / 2);
        assert_eq!(lost(&world, 0), Some(&expected));
        assert_eq!(world.owned(0), None);
    }
}

#[test]
fn what_others_wrote_is_respected_for_ever_and_named() {
    let mut world = world(3, 1);
    world.kv.set(world.t, "cluster/c/slots/0", b"6a0f31c2");
    world
        .kv
        .set(world.t, "cluster/c/slots/1", b"{\"holdfast\":2}");
    for other in [
        "cluster/c/slots/",
        "cluster/c/slots/02",
        "cluster/c/slots/2/x",
        "cluster/c/slots/9",
    ] {
        world.kv.set(world.t, other, b"i-0");
    }
    world.start(0);
    world.run(LEASE * 50);
    assert_eq!(world.owned(0), Some(2));
    let views = world.machine(0).views(world.now(0));
    assert_eq!(views[0].owner.as_deref(), Some("6a0f31c2"));
    assert_eq!((views[0].lease_ms, &views[0].problem), (None, &None));
    assert_eq!(views[1].owner, None);
    assert!(
        views[1]
            .problem
            .as_ref()
            .unwrap()
            .contains("newer holdfast")
    );
    assert_eq!(views[2].owner.as_deref(), Some("i-0"));
    assert!(views[2].lease_ms.unwrap() > 0);
}

#[test]
fn ones_own_id_in_the_references_format_is_ones_own_slot() {
    let mut world = world(3, 1);
    world.kv.set(world.t, "cluster/c/slots/2", b"i-0\n");
    world.start(0);
    world.settle();
    assert_eq!(world.owned(0), Some(2));
    let entry = &world.kv.entries["cluster/c/slots/2"];
    assert!(entry.value.starts_with(b"{\"holdfast\":1"));
}

#[test]
fn a_refusal_is_told_and_tried_again_slowly() {
    let mut world = world(1, 1);
    world.start(0);
    for _ in 0..10 {
        let call = world.nodes[0].flights.remove(0).call.unwrap();
        let failure = Failure::determinate(FailureKind::Forbidden, "403: ACL not found");
        let result = Err(failure);
        world.input(0, Input::Answer { call, result });
        world.t = world.next_deadline().unwrap();
        world.wake(0);
    }
    let told = Obstacle::Forbidden("403: ACL not found".into());
    assert_eq!(world.nodes[0].events, [Event::Waiting(told)]);
    assert!(world.t > S * 150, "{:?} for ten tries", world.t);
    world.settle();
    assert_eq!(world.owned(0), Some(0), "once it is allowed");
}

#[test]
fn nonsense_for_an_answer_is_a_failure_and_no_more() {
    let mut world = world(1, 1);
    world.start(0);
    for _ in 0..5 {
        let call = world.nodes[0].flights.remove(0).call.unwrap();
        let result = Ok(Response::Entry {
            index: 0,
            entry: None,
        });
        world.input(
            0,
            Input::Answer {
                call,
                result: result.clone(),
            },
        );
        // The same once more: each call is answered once, and the rest is ignored.
        world.input(0, Input::Answer { call, result });
        world.t = world.next_deadline().unwrap();
        world.wake(0);
    }
    world.settle();
    assert_eq!(world.owned(0), Some(0));
}

#[test]
fn an_owner_that_cannot_reach_the_kv_tries_often_enough_and_not_more() {
    let mut world = started(1, 1);
    let before = world.nodes[0].calls;
    while lost(&world, 0).is_none() {
        while !world.nodes[0].flights.is_empty() {
            world.refuse(0, 0);
        }
        world.t = world.next_deadline().unwrap();
        world.wake(0);
    }
    let tries = world.nodes[0].calls - before;
    assert!((8..30).contains(&tries), "{tries} tries in a lease");
}

// ---- Pinned ----

fn pinned(nodes: usize) -> World {
    let mut world = world(1, nodes);
    for node in &mut world.nodes {
        node.config.pinned = Some(0);
    }
    world
}

#[test]
fn a_pinned_slot_is_owned_without_a_kv_and_for_as_long_as_it_is_away() {
    let mut world = pinned(1);
    world.start(0);
    let owned = Event::Owned {
        slot: 0,
        rejoined: false,
    };
    assert_eq!(world.nodes[0].events, [owned]);
    for _ in 0..100 {
        while !world.nodes[0].flights.is_empty() {
            world.refuse(0, 0);
        }
        world.t += LEASE;
        world.wake(0);
        assert_eq!(world.owned(0), Some(0));
    }
    assert!(waits_for(&world, 0).is_some());
    world.settle();
    assert_eq!(world.kv.entries.len(), 1, "claimed as soon as there is one");
    // And again when the KV has lost everything.
    world.kv.delete(KEY);
    world.run(LEASE);
    assert_eq!(world.kv.entries.len(), 1);
    assert_eq!(world.owned(0), Some(0));
}

#[test]
fn of_two_machines_with_one_pin_the_one_that_claimed_first_stays() {
    let mut world = pinned(2);
    world.start(0);
    world.settle();
    world.run(LEASE);
    world.start(1);
    assert_eq!(world.owned(1), Some(0), "nobody can know yet");
    while world.owned(1).is_some() {
        world.t = world.next_deadline().unwrap();
        while world.step(0) || world.step(1) {}
        assert!(world.t < LEASE * 2, "the first renews within a third");
    }
    assert_eq!(lost(&world, 1), Some(&Loss::Taken("i-0".into())));
    assert_eq!(world.owned(0), Some(0));
}

#[test]
fn a_pin_whose_former_machine_is_gone_is_claimed_after_its_lease() {
    let mut world = pinned(1);
    world.kv.set(world.t, KEY, value("gone", 'c', 3).as_bytes());
    world.start(0);
    world.run(LEASE);
    let view = &world.machine(0).views(world.now(0))[0];
    assert!(view.problem.as_ref().unwrap().contains("gone"), "{view:?}");
    world.run(LEASE);
    assert_eq!(world.owned(0), Some(0));
    let value = &world.kv.entries[KEY].value;
    assert!(std::str::from_utf8(value).unwrap().contains("i-0"));
}

// ---- Giving it back ----

#[test]
fn a_machine_that_owns_nothing_is_retired_at_once() {
    let mut world = world(1, 1);
    world.start(0);
    world.input(0, Input::Retire);
    assert_eq!(world.machine(0).state(), State::Retired);
    assert_eq!(world.nodes[0].events, []);
}

#[test]
fn a_claim_on_its_way_is_undone_when_it_is_not_wanted_any_more() {
    let mut world = world(1, 1);
    world.start(0);
    world.step(0);
    world.step(0);
    world.input(0, Input::Retire);
    world.settle();
    assert_eq!(world.machine(0).state(), State::Retired);
    assert_eq!(world.nodes[0].events, [Event::Retired { slot: 0 }]);
    assert_eq!(world.kv.entries.len(), 0);
}

#[test]
fn giving_back_to_a_kv_that_is_away_takes_seconds_and_no_more() {
    let mut world = started(1, 1);
    world.input(0, Input::Retire);
    let start = world.t;
    while world.machine(0).state() != State::Retired {
        while !world.nodes[0].flights.is_empty() {
            world.lose(0, 0);
        }
        world.t = world.next_deadline().unwrap();
        world.wake(0);
    }
    assert!(world.t - start <= S * 6, "{:?}", world.t - start);
    assert_eq!(
        world.nodes[0].events.last(),
        Some(&Event::Retired { slot: 0 })
    );
}

// ---- Configuration ----

#[test]
fn a_wrong_configuration_is_named() {
    let good = || config("i", 3);
    let error = |config: Config| {
        let now = world(1, 1).now(0);
        config
            .check()
            .and_then(|()| Slots::new(config, Seed::new([0; 32]), now))
            .err()
    };
    let with = |change: fn(&mut Config)| {
        let mut config = good();
        change(&mut config);
        error(config)
    };
    assert_eq!(error(good()), None);
    assert_eq!(with(|c| c.slots.clear()), Some(ConfigError::NoSlots));
    assert_eq!(
        with(|c| c.slots = (0..300).collect()),
        Some(ConfigError::TooMany { found: 300 })
    );
    assert_eq!(
        with(|c| c.slots = vec![1, 1]),
        Some(ConfigError::NotAscending(1))
    );
    assert_eq!(
        with(|c| c.pinned = Some(7)),
        Some(ConfigError::PinUnknown(7))
    );
    for bad in ["", "a b", "é", &"x".repeat(129)] {
        let config = config(bad, 1);
        assert!(
            matches!(error(config), Some(ConfigError::Instance(_))),
            "{bad:?}"
        );
    }
    for bad in ["", "a/b", "a b", ".."] {
        let mut config = good();
        config.cluster = bad.into();
        let refused = matches!(error(config), Some(ConfigError::Cluster(_)));
        assert_eq!(refused, bad != "..", "{bad:?}");
    }
    for bad in [Duration::ZERO, S * 90_000] {
        let mut config = good();
        config.lease = bad;
        assert_eq!(error(config), Some(ConfigError::Lease(bad)));
    }
    assert_eq!(
        with(|c| c.drift_per_mille = 1000),
        Some(ConfigError::Drift(1000))
    );
}

#[test]
fn nothing_is_asked_after_the_end() {
    let mut world = started(1, 1);
    world.kv.delete(KEY);
    world.run(LEASE / 2);
    assert_eq!(world.machine(0).state(), State::Lost);
    world.input(0, Input::Retire);
    let now = world.now(0);
    let machine = world.nodes[0].machine.as_mut().unwrap();
    machine.handle_deadline(now.plus(LEASE));
    assert_eq!(machine.poll_output(), None::<Output>);
    assert_eq!(machine.state(), State::Lost);
}

#[test]
fn a_kv_that_denies_every_claim_is_not_asked_in_a_loop() {
    let mut world = world(1, 1);
    world.start(0);
    let end = S * 600;
    while world.t < end {
        let Some(flight) = world.nodes[0].flights.first() else {
            world.t = world.next_deadline().unwrap();
            world.wake(0);
            continue;
        };
        // What cannot be: there is no entry, and it cannot be set.
        let result = Ok(match flight.request {
            Request::Put { .. } => Response::Done(false),
            _ => Response::Entries {
                index: 5,
                entries: Vec::new(),
            },
        });
        let call = world.nodes[0].flights.remove(0).call.unwrap();
        world.input(0, Input::Answer { call, result });
    }
    let calls = world.nodes[0].calls;
    assert!((50..300).contains(&calls), "{calls} calls in ten minutes");
}
