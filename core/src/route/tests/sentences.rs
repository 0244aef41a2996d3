//! What must hold, one sentence each.

use std::collections::BTreeMap;

use super::world::{State, World};
use super::*;
use crate::entropy::Seed;

/// a leads by term 5, b and c follow.
fn whole() -> World {
    let mut world = World::new(config(&["a", "b", "c"]));
    world.say("a", leads(5));
    world.say("b", follows());
    world.say("c", follows());
    world.answer_all();
    world
}

fn exclusive(world: &World) -> Vec<String> {
    world.router.view().exclusive.leads_to
}

#[test]
fn every_server_is_asked_at_once_and_the_first_good_answer_counts() {
    let mut world = World::new(Config {
        rise: 3,
        ..config(&["a", "b", "c"])
    });
    assert_eq!(world.asked.len(), 3);
    world.say("a", leads(5));
    world.answer_all();
    assert_eq!(exclusive(&world), ["a"]);
}

#[test]
fn a_server_that_came_back_is_up_after_as_many_good_answers_as_rise_says() {
    let mut world = World::new(Config {
        rise: 3,
        ..config(&["a"])
    });
    for (answer, is_up) in [
        (leads(5), true),
        (neither(), false),
        (leads(5), false),
        (leads(5), false),
        (neither(), false),
        (leads(5), false),
        (leads(5), false),
        (leads(5), true),
    ] {
        world.say("a", answer);
        world.round();
        assert_eq!(!exclusive(&world).is_empty(), is_up);
    }
}

#[test]
fn a_silent_server_is_down_after_as_many_missing_answers_as_fall_says() {
    let mut world = whole();
    let (session, _) = world.open(Pool::Exclusive);
    world.say("a", None);
    world.round();
    assert_eq!(exclusive(&world), ["a"]);
    world.round();
    assert!(exclusive(&world).is_empty());
    assert_eq!(world.reset, [session]);
}

#[test]
fn an_answer_that_comes_after_the_timeout_is_none() {
    let mut world = whole();
    for _ in 0..2 {
        world.pass(S / 2);
        world.pass(S + Duration::from_millis(1));
        let late: Vec<CheckId> = world.asked.keys().copied().collect();
        for check in late {
            world.asked.remove(&check);
            let observation = leads(5);
            let input = Input::Checked { check, observation };
            world.router.handle(world.now, input);
        }
    }
    assert!(exclusive(&world).is_empty());
}

#[test]
fn a_server_that_says_that_it_no_longer_leads_loses_its_sessions_at_once() {
    let mut world = whole();
    let (session, server) = world.open(Pool::Exclusive);
    assert_eq!(server, "a");
    world.say("a", neither());
    world.round();
    assert_eq!(world.reset, [session]);
}

#[test]
fn a_new_leader_of_a_higher_term_ends_the_sessions_to_the_old_one_that_is_silent() {
    let mut world = whole();
    let (session, _) = world.open(Pool::Exclusive);
    world.pass(S / 2);
    world.say("b", leads(6));
    let check = *world
        .asked
        .iter()
        .find(|(_, n)| n.as_str() == "b")
        .unwrap()
        .0;
    world.answer(check);
    assert_eq!(world.reset, [session]);
    assert_eq!(exclusive(&world), ["b"]);
    let (_, server) = world.open(Pool::Exclusive);
    assert_eq!(server, "b");
}

#[test]
fn a_leader_that_is_not_up_yet_ends_the_sessions_to_the_old_one_already() {
    let mut world = World::new(Config {
        rise: 2,
        ..config(&["a", "b"])
    });
    world.say("a", leads(5));
    world.say("b", follows());
    world.answer_all();
    let (session, _) = world.open(Pool::Exclusive);
    world.say("b", leads(6));
    world.round();
    assert_eq!(world.reset, [session]);
    assert!(exclusive(&world).is_empty());
    world.round();
    assert_eq!(exclusive(&world), ["b"]);
}

#[test]
fn an_old_leader_that_comes_back_is_not_led_to() {
    let mut world = whole();
    world.say("a", None);
    world.say("b", leads(6));
    world.round();
    world.say("a", leads(5));
    world.say("b", None);
    world.run(60 * S);
    assert!(exclusive(&world).is_empty());
    let problem = world.router.view().exclusive.problem.unwrap();
    assert!(
        problem.contains("a leads by term 5, and 6 was seen"),
        "{problem}"
    );
}

#[test]
fn a_term_is_forgotten_when_only_a_lower_one_was_there_for_long() {
    let mut world = whole();
    world.say("a", leads(2));
    world.round();
    assert!(exclusive(&world).is_empty());
    world.run(TERM_MEMORY - 2 * S);
    assert!(exclusive(&world).is_empty());
    world.run(2 * S);
    assert_eq!(exclusive(&world), ["a"]);
    assert!(
        world
            .events
            .contains(&Event::TermForgotten { was: 5, now: 2 })
    );
}

#[test]
fn a_break_in_the_lower_term_begins_the_wait_anew() {
    let mut world = whole();
    world.say("a", leads(2));
    world.run(TERM_MEMORY - S);
    world.say("a", neither());
    world.round();
    world.say("a", leads(2));
    world.run(TERM_MEMORY - S);
    assert!(exclusive(&world).is_empty());
    world.run(2 * S);
    assert_eq!(exclusive(&world), ["a"]);
}

#[test]
fn of_two_leaders_with_one_term_the_one_that_is_led_to_stays_and_it_is_told() {
    let mut world = World::new(config(&["a", "b"]));
    world.say("b", leads(5));
    world.answer_all();
    world.say("a", leads(5));
    world.round();
    world.round();
    assert_eq!(exclusive(&world), ["b"]);
    let (kept, other, term) = (name("b"), name("a"), 5);
    let told = Event::Ambiguous { kept, other, term };
    assert_eq!(world.events.iter().filter(|e| **e == told).count(), 1);
}

#[test]
fn of_two_leaders_with_one_term_the_one_that_answers_is_led_to() {
    let mut world = whole();
    let (session, _) = world.open(Pool::Exclusive);
    world.say("a", None);
    world.say("b", leads(5));
    world.round();
    assert_eq!(world.reset, [session]);
    assert_eq!(exclusive(&world), ["b"]);
    world.say("a", leads(5));
    world.round();
    assert_eq!(exclusive(&world), ["b"], "it does not go back and forth");
}

#[test]
fn a_session_waits_for_a_server_and_gets_the_first_there_is() {
    let mut world = World::new(config(&["a", "b"]));
    let session = world.ask(Pool::Exclusive);
    world.run(3 * S);
    assert_eq!(world.server(session), None);
    world.say("b", leads(1));
    world.round();
    assert_eq!(world.server(session).as_deref(), Some("b"));
}

#[test]
fn a_session_that_found_no_server_within_the_hold_is_refused() {
    let mut world = World::new(config(&["a"]));
    let session = world.ask(Pool::Exclusive);
    world.pass(5 * S - Duration::from_nanos(1));
    assert!(world.refused.is_empty());
    world.pass(Duration::from_nanos(1));
    assert_eq!(world.refused[&session], Refusal::NoServer);
}

#[test]
fn a_connect_that_hangs_is_refused_at_the_end_of_the_hold() {
    let mut world = whole();
    let session = world.ask(Pool::Exclusive);
    assert_eq!(world.server(session).as_deref(), Some("a"));
    world.run(5 * S);
    assert_eq!(world.refused[&session], Refusal::NoServer);
}

#[test]
fn a_session_that_is_being_connected_follows_the_leader() {
    let mut world = whole();
    let session = world.ask(Pool::Exclusive);
    world.say("a", follows());
    world.say("b", leads(6));
    world.round();
    assert_eq!(world.server(session).as_deref(), Some("b"));
    assert!(world.reset.is_empty());
}

#[test]
fn after_a_failed_connect_another_server_is_tried_at_once() {
    let mut world = whole();
    let session = world.ask(Pool::Shared);
    let first = world.server(session).unwrap();
    world.failed(session);
    let second = world.server(session).unwrap();
    assert_ne!(first, second);
    assert_ne!(second, "a", "followers are there");
}

#[test]
fn the_only_server_is_tried_again_after_a_pause_until_the_hold_is_over() {
    let mut world = whole();
    let session = world.ask(Pool::Exclusive);
    let mut tries = 0;
    while world.refused.is_empty() {
        if world.server(session).is_some() {
            tries += 1;
            world.failed(session);
            assert_eq!(world.server(session), None);
        }
        let (at, _) = world.router.deadline().unwrap();
        world.run(at.saturating_duration_since(world.now.mono));
    }
    assert_eq!(world.refused[&session], Refusal::NoServer);
    assert_eq!(tries, 20, "5 s in steps of 250 ms");
}

#[test]
fn replicas_take_turns() {
    let mut world = whole();
    let picks: Vec<String> = (0..4).map(|_| world.open(Pool::Shared).1).collect();
    assert_eq!(picks[0], picks[2]);
    assert_eq!(picks[1], picks[3]);
    assert_ne!(picks[0], picks[1]);
}

#[test]
fn nodes_that_start_together_do_not_all_begin_with_the_same_replica() {
    let first = |seed| {
        let mut world = World::seeded(config(&["b", "c"]), seed);
        world.say("b", follows());
        world.say("c", follows());
        world.answer_all();
        world.open(Pool::Shared).1
    };
    let firsts: Vec<String> = (0..20).map(first).collect();
    assert!(firsts.iter().any(|name| name == "b"));
    assert!(firsts.iter().any(|name| name == "c"));
}

/// About 100 calls, and every instance served at least one in twenty.
#[test]
fn a_hundred_calls_reach_every_replica_even_when_some_come_and_go() {
    let mut world = World::new(config(&["a", "b", "c", "d", "e"]));
    for server in ["b", "c", "d", "e"] {
        world.say(server, follows());
    }
    world.say("a", leads(1));
    world.answer_all();
    let mut served: BTreeMap<String, u32> = BTreeMap::new();
    for call in 0..100 {
        // One of them is away for a fifth of the time.
        world.say("e", if call % 50 < 10 { None } else { follows() });
        world.run(S / 10);
        let (session, server) = world.open(Pool::Shared);
        *served.entry(server).or_default() += 1;
        if world.sessions.contains_key(&session) {
            world.ended(session);
        }
    }
    assert_eq!(served.len(), 4, "the one that leads has none: {served:?}");
    assert!(served.values().all(|calls| *calls >= 5), "{served:?}");
}

#[test]
fn without_a_follower_the_shared_pool_leads_to_the_leader_and_back() {
    let mut world = whole();
    world.say("b", neither());
    world.say("c", None);
    world.run(3 * S);
    let (session, server) = world.open(Pool::Shared);
    assert_eq!(server, "a");
    world.say("b", follows());
    world.round();
    assert_eq!(world.open(Pool::Shared).1, "b");
    assert!(
        world.sessions.contains_key(&session),
        "it goes on where it is"
    );
    world.say("a", neither());
    world.round();
    assert_eq!(world.reset, [session], "until its server loses its role");
}

#[test]
fn without_a_follower_and_without_falling_back_a_shared_session_waits() {
    let mut world = World::new(Config {
        fall_back: false,
        ..config(&["a", "b"])
    });
    world.say("a", leads(1));
    world.answer_all();
    let session = world.ask(Pool::Shared);
    assert_eq!(world.server(session), None);
    assert_eq!(
        world.router.view().shared.problem.unwrap(),
        "no server follows"
    );
    world.run(5 * S);
    assert_eq!(world.refused[&session], Refusal::NoServer);
}

#[test]
fn a_replica_that_lags_for_a_moment_keeps_its_sessions_and_one_that_leads_does_not() {
    let mut world = World::new(config(&["b"]));
    world.say("b", follows());
    world.answer_all();
    let (session, _) = world.open(Pool::Shared);
    world.say("b", neither());
    world.round();
    assert!(world.reset.is_empty());
    world.say("b", leads(2));
    world.round();
    assert_eq!(world.reset, [session]);
}

#[test]
fn more_sessions_than_may_be_are_refused_at_once_in_their_pool_alone() {
    let mut world = World::new(Config {
        sessions_max: 3,
        ..config(&["a", "b"])
    });
    world.say("a", leads(1));
    world.say("b", follows());
    world.answer_all();
    let open: Vec<SessionId> = (0..3).map(|_| world.open(Pool::Exclusive).0).collect();
    let refused = world.ask(Pool::Exclusive);
    assert_eq!(world.refused[&refused], Refusal::Full);
    world.open(Pool::Shared);
    world.ended(open[0]);
    world.open(Pool::Exclusive);
    assert_eq!(world.router.view().exclusive.refused, 1);
}

#[test]
fn other_servers_leave_the_sessions_of_those_that_stay_alone() {
    let mut world = whole();
    let (kept, _) = world.open(Pool::Exclusive);
    let shared: Vec<_> = (0..2).map(|_| world.open(Pool::Shared)).collect();
    world.say("d", follows());
    world.set_backends(&names(&["a", "b", "d"]));
    world.answer_all();
    let of_c = shared.iter().find(|(_, server)| server == "c").unwrap().0;
    assert_eq!(world.reset, [of_c]);
    assert!(world.sessions.contains_key(&kept));
    assert!((0..2).any(|_| world.open(Pool::Shared).1 == "d"));
}

#[test]
fn a_leader_that_is_removed_takes_its_sessions_with_it_and_its_term_stays_known() {
    let mut world = whole();
    let (session, _) = world.open(Pool::Exclusive);
    world.set_backends(&names(&["b", "c"]));
    assert_eq!(world.reset, [session]);
    world.say("b", leads(4));
    world.round();
    assert!(exclusive(&world).is_empty());
}

#[test]
fn a_list_of_servers_that_cannot_be_changes_nothing() {
    let mut world = whole();
    let twice = names(&["a", "a"]);
    let result = world.router.set_backends(world.now, twice);
    assert_eq!(result, Err(ConfigError::Duplicate(name("a"))));
    let many = (0..=BACKENDS_MAX).map(|n| name(&format!("n{n}"))).collect();
    let result = world.router.set_backends(world.now, many);
    assert!(matches!(result, Err(ConfigError::TooMany { .. })));
    assert_eq!(exclusive(&world), ["a"]);
}

#[test]
fn values_that_cannot_be_meant_are_refused_by_name() {
    let wrong = [
        (
            "interval",
            Config {
                interval: Duration::ZERO,
                ..config(&[])
            },
        ),
        (
            "timeout",
            Config {
                timeout: 2 * TIME_MAX,
                ..config(&[])
            },
        ),
        (
            "rise",
            Config {
                rise: 0,
                ..config(&[])
            },
        ),
        (
            "fall",
            Config {
                fall: STREAK_MAX + 1,
                ..config(&[])
            },
        ),
        (
            "hold",
            Config {
                hold: 2 * TIME_MAX,
                ..config(&[])
            },
        ),
        (
            "sessions_max",
            Config {
                sessions_max: 0,
                ..config(&[])
            },
        ),
    ];
    for (key, config) in wrong {
        let error = Router::new(config, &Seed::new([7; 32]), start()).unwrap_err();
        assert!(error.to_string().starts_with(key), "{error}");
    }
}

#[test]
fn checks_come_within_their_interval_and_not_in_step() {
    let mut world = whole();
    let mut last = world.now.mono;
    let mut gaps = Vec::new();
    while gaps.len() < 20 {
        let (at, why) = world.router.deadline().unwrap();
        assert_eq!(why, "a server is to be asked");
        world.pass(at.saturating_duration_since(world.now.mono));
        if world.asked.values().any(|server| server.as_str() == "a") {
            gaps.push(world.now.mono - last);
            last = world.now.mono;
        }
        world.answer_all();
    }
    let allowed = S * 45 / 100..=S / 2;
    assert!(gaps.iter().all(|gap| allowed.contains(gap)), "{gaps:?}");
    gaps.sort_unstable();
    gaps.dedup();
    assert!(gaps.len() > 10, "{gaps:?}");
}

#[test]
fn the_view_says_who_is_what_and_why() {
    let mut world = whole();
    world.say("c", None);
    world.round();
    world.open(Pool::Exclusive);
    world.ask(Pool::Shared);
    let view = world.router.view();
    assert_eq!(view.exclusive.leads_to, ["a"]);
    assert_eq!(view.shared.leads_to, ["b", "c"]);
    assert_eq!((view.exclusive.sessions, view.shared.waiting), (1, 1));
    let whys: Vec<&str> = view.backends.iter().map(|b| b.why.as_str()).collect();
    let silent = "it does not answer (1 in a row)";
    assert_eq!(whys, ["it leads by term 5", "it follows", silent]);
}

#[test]
fn inputs_about_what_is_not_there_change_nothing() {
    let mut world = whole();
    let (session, server) = world.open(Pool::Exclusive);
    let (now, none) = (world.now, SessionId(99));
    for input in [
        Input::Connected(none),
        Input::Failed(none),
        Input::Ended(none),
        Input::Failed(session),
        Input::Ask {
            pool: Pool::Shared,
            session,
        },
        Input::Checked {
            check: CheckId(99),
            observation: leads(9),
        },
    ] {
        world.router.handle(now, input);
        assert_eq!(world.router.poll_output(), None);
    }
    assert_eq!(world.sessions[&session].state, State::Open(name(&server)));
}
