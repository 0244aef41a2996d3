#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test begins at some moment, and nothing depends on which"
)]

use std::collections::BTreeMap;
use std::time::Instant;

use holdfast_core::entropy::Seed;
use holdfast_core::kv::{
    Behavior, Condition, Consistency, FailureKind, NewSession, Request, SessionId, Wait,
};
use holdfast_core::time::Now;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

struct World {
    model: KvModel,
    now: Now,
    start: Now,
    tickets: u64,
    answers: BTreeMap<(u32, u64), (Duration, Result<Response, Failure>)>,
}

impl World {
    fn new(seed: u8, faults: Faults) -> World {
        let now = Now {
            mono: Instant::now(),
            unix: Duration::from_secs(1_700_000_000),
        };
        let config = Config {
            faults,
            ..Config::default()
        };
        World {
            model: KvModel::new(config, Seed::new([seed; 32]), now),
            now,
            start: now,
            tickets: 0,
            answers: BTreeMap::new(),
        }
    }

    fn send(&mut self, client: u32, request: Request) -> (u32, u64) {
        self.tickets += 1;
        self.model.call(self.now, client, self.tickets, request);
        (client, self.tickets)
    }

    /// Let time pass, from deadline to deadline.
    fn pass(&mut self, by: Duration) {
        let end = self.now.mono + by;
        loop {
            let next = self.model.deadline().map(|(at, _)| at);
            let next = next.filter(|at| *at < end).unwrap_or(end);
            self.now = self.now.plus(next.saturating_duration_since(self.now.mono));
            self.model.handle_deadline(self.now);
            while let Some(answer) = self.model.poll_output() {
                let name = (answer.client, answer.ticket);
                let at = self.now.mono - self.start.mono;
                let before = self.answers.insert(name, (at, answer.result));
                assert_eq!(before, None, "{name:?} was answered twice");
            }
            if self.now.mono >= end {
                return;
            }
        }
    }

    fn ask(&mut self, client: u32, request: Request) -> Result<Response, Failure> {
        let name = self.send(client, request);
        self.pass(Duration::from_secs(11));
        self.answers.remove(&name).expect("patience is over").1
    }

    fn at(&self, after: Duration) -> Instant {
        self.now.mono + after
    }

    fn session(&mut self) -> SessionId {
        let asked = NewSession {
            name: "test".into(),
            ttl: Duration::from_secs(100),
            behavior: Behavior::Delete,
            lock_delay: Duration::ZERO,
        };
        match self.ask(0, Request::SessionCreate(asked)) {
            Ok(Response::Session(id)) => id,
            other => panic!("{other:?}"),
        }
    }
}

fn put(value: &'static str) -> Request {
    Request::put("k", value, Condition::Any)
}

#[test]
fn without_faults_every_call_is_answered_within_two_delays() {
    let mut world = World::new(1, Faults::default());
    let name = world.send(1, put("1"));
    world.pass(Duration::from_millis(40));
    assert_eq!(world.answers[&name].1, Ok(Response::Done(true)));
    assert_eq!(world.model.history().len(), 1);
    assert_eq!(world.model.history()[0].by, Some(name));
}

#[test]
fn a_lost_request_never_happens_and_its_caller_cannot_know() {
    let mut world = World::new(
        1,
        Faults {
            lost_request: Ratio::ALWAYS,
            ..Faults::default()
        },
    );
    assert!(!world.ask(1, put("1")).unwrap_err().is_determinate());
    world.pass(Duration::from_secs(100));
    assert!(world.model.history().is_empty());
}

#[test]
fn a_request_whose_answer_is_lost_happened_and_its_caller_cannot_know() {
    let mut world = World::new(
        1,
        Faults {
            lost_answer: Ratio::ALWAYS,
            ..Faults::default()
        },
    );
    assert!(!world.ask(1, put("1")).unwrap_err().is_determinate());
    assert_eq!(world.model.entry("k").unwrap().value, "1");
}

#[test]
fn a_late_request_happens_after_its_caller_gave_up() {
    let mut world = World::new(
        1,
        Faults {
            late_request: Ratio::ALWAYS,
            ..Faults::default()
        },
    );
    let name = world.send(1, put("late"));
    world.pass(Duration::from_secs(10));
    assert!(!world.answers[&name].1.clone().unwrap_err().is_determinate());
    assert!(world.model.entry("k").is_none());
    world.model.set_faults(Faults::default());
    world.ask(2, put("early")).unwrap();
    world.pass(Duration::from_secs(30));
    assert_eq!(world.model.entry("k").unwrap().value, "late");
    assert_eq!(world.model.history().last().unwrap().by, Some(name));
}

#[test]
fn a_late_compare_and_set_does_not_undo_what_came_meanwhile() {
    let mut world = World::new(
        1,
        Faults {
            late_request: Ratio::ALWAYS,
            ..Faults::default()
        },
    );
    world.send(1, Request::put("k", "late", Condition::Absent));
    world.pass(Duration::from_secs(10));
    world.model.set_faults(Faults::default());
    world.ask(2, put("early")).unwrap();
    world.pass(Duration::from_secs(60));
    assert_eq!(world.model.entry("k").unwrap().value, "early");
}

#[test]
fn a_cut_client_hears_nothing_and_is_not_heard() {
    let mut world = World::new(1, Faults::default());
    world.model.set_cut(world.now, 1, true);
    assert!(!world.ask(1, put("1")).unwrap_err().is_determinate());
    assert_eq!(world.ask(2, put("2")), Ok(Response::Done(true)));
    assert_eq!(world.model.history().len(), 1);
    world.model.set_cut(world.now, 1, false);
    assert_eq!(world.ask(1, put("1")), Ok(Response::Done(true)));
}

#[test]
fn a_store_that_is_away_refuses_connections_and_nothing_happens() {
    let mut world = World::new(1, Faults::default());
    let until = world.at(Duration::from_secs(60));
    world.model.set_unavailable(world.now, until);
    let failure = world.ask(1, put("1")).unwrap_err();
    assert!(failure.is_determinate());
    assert_eq!(failure.kind, FailureKind::Unavailable);
    world.pass(Duration::from_secs(50));
    assert_eq!(world.ask(1, put("1")), Ok(Response::Done(true)));
}

#[test]
fn a_session_ends_between_once_and_twice_its_ttl() {
    let mut ends = Vec::new();
    for seed in 0..40 {
        let mut world = World::new(seed, Faults::default());
        let id = world.session();
        world.pass(Duration::from_secs(88));
        assert!(world.model.session_end(&id).is_some(), "before its TTL");
        ends.push(world.model.session_end(&id).unwrap() - world.start.mono);
        world.pass(Duration::from_secs(110));
        assert!(
            world.model.session_end(&id).is_none(),
            "after twice its TTL"
        );
    }
    ends.sort();
    assert!(ends[0] < Duration::from_secs(115), "{ends:?}");
    assert!(ends[39] > Duration::from_secs(185), "{ends:?}");
}

#[test]
fn a_new_leader_begins_every_ttl_anew() {
    let mut world = World::new(1, Faults::default());
    let id = world.session();
    world.pass(Duration::from_secs(80));
    let until = world.at(Duration::from_secs(300));
    world.model.change_leader(world.now, until);
    world.pass(Duration::from_secs(399));
    assert!(
        world.model.session_end(&id).is_some(),
        "a leader that is away ends nothing"
    );
    world.pass(Duration::from_secs(102));
    assert!(world.model.session_end(&id).is_none());
}

#[test]
fn without_a_leader_some_calls_are_refused_some_lost_and_some_happen_later() {
    let mut world = World::new(1, Faults::default());
    let until = world.at(Duration::from_secs(5));
    world.model.change_leader(world.now, until);
    let names: Vec<_> = (0..60)
        .map(|n| world.send(1, Request::put(format!("k{n}"), "1", Condition::Any)))
        .collect();
    world.pass(Duration::from_secs(4));
    assert!(world.model.history().is_empty());
    let failed = |name| world.answers[name].1.clone().unwrap_err();
    let determinate = names.iter().filter(|name| failed(name).is_determinate());
    let determinate: Vec<_> = determinate.copied().collect();
    assert!(
        (10..30).contains(&determinate.len()),
        "{}",
        determinate.len()
    );
    world.pass(Duration::from_secs(10));
    let happened = world.model.history();
    assert!((10..30).contains(&happened.len()), "{}", happened.len());
    assert!(happened.iter().all(|applied| applied.at.mono >= until));
    let denied = |name| happened.iter().any(|applied| applied.by == Some(name));
    assert!(
        !determinate.into_iter().any(denied),
        "it was said not to happen"
    );
}

#[test]
fn a_reader_that_waits_loses_its_connection_with_the_leader() {
    let mut world = World::new(1, Faults::default());
    world.ask(1, put("1")).unwrap();
    let index = world.model.entry("k").unwrap().modify_index;
    let watch = Request::Get {
        key: "k".into(),
        consistency: Consistency::Default,
        wait: Some(Wait {
            after: index,
            at_most: Duration::from_secs(300),
        }),
    };
    let name = world.send(1, watch);
    world.pass(Duration::from_secs(1));
    let until = world.at(Duration::from_secs(1));
    world.model.change_leader(world.now, until);
    world.pass(Duration::from_secs(1));
    assert!(world.answers[&name].1.is_err());
}

#[test]
fn a_cancelled_call_may_happen_and_is_not_answered() {
    let mut world = World::new(1, Faults::default());
    let (client, ticket) = world.send(1, put("1"));
    world.model.cancel(world.now, client, ticket);
    world.pass(Duration::from_secs(20));
    assert!(world.answers.is_empty());
    assert_eq!(world.model.entry("k").unwrap().value, "1");
}

#[derive(Clone, Debug)]
enum Step {
    Put(u32, u8, bool),
    Watch(u32, u8),
    Cut(u32, bool),
    Leader(u64),
    Away(u64),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..3u32, 0..3u8, any::<bool>()).prop_map(|(c, k, cas)| Step::Put(c, k, cas)),
        2 => (0..3u32, 0..3u8).prop_map(|(c, k)| Step::Watch(c, k)),
        1 => (0..3u32, any::<bool>()).prop_map(|(c, cut)| Step::Cut(c, cut)),
        1 => (1..5_000u64).prop_map(Step::Leader),
        1 => (1..5_000u64).prop_map(Step::Away),
        4 => (1..15_000u64).prop_map(Step::Pass),
    ]
}

/// Client and ticket.
type Name = (u32, u64);

/// What became of it, and by when each call had to be answered.
fn play(seed: u8, steps: &[Step]) -> (World, Vec<(Name, Duration)>) {
    let often = Ratio::of(1, 5);
    let mut world = World::new(
        seed,
        Faults {
            lost_request: often,
            lost_answer: often,
            late_request: often,
            ..Faults::default()
        },
    );
    let mut sent = Vec::new();
    for step in steps {
        let now = world.now;
        let at = now.mono - world.start.mono;
        match step {
            Step::Put(client, key, cas) => {
                let key = format!("{key}");
                let condition = match world.model.entry(&key) {
                    Some(entry) if *cas => Condition::Unchanged(entry.modify_index),
                    _ => Condition::Any,
                };
                let value = format!("{}", sent.len());
                let name = world.send(*client, Request::put(key, value, condition));
                sent.push((name, at + Duration::from_secs(10)));
            }
            Step::Watch(client, key) => {
                let wait = Wait {
                    after: world.model.state().index(),
                    at_most: Duration::from_secs(20),
                };
                let watch = Request::Get {
                    key: format!("{key}"),
                    consistency: Consistency::Default,
                    wait: Some(wait),
                };
                sent.push((world.send(*client, watch), at + Duration::from_secs(30)));
            }
            Step::Cut(client, cut) => world.model.set_cut(now, *client, *cut),
            Step::Leader(ms) => {
                let until = world.at(Duration::from_millis(*ms));
                world.model.change_leader(now, until);
            }
            Step::Away(ms) => {
                let until = world.at(Duration::from_millis(*ms));
                world.model.set_unavailable(now, until);
            }
            Step::Pass(ms) => world.pass(Duration::from_millis(*ms)),
        }
    }
    world.pass(Duration::from_secs(100));
    (world, sent)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn every_call_is_answered_once_in_time_and_the_answers_are_true(
        seed in any::<u8>(),
        steps in vec(step(), 1..60),
    ) {
        let (world, sent) = play(seed, &steps);
        prop_assert_eq!(world.answers.len(), sent.len());
        for (name, latest) in &sent {
            prop_assert!(world.answers[name].0 <= *latest, "{:?} is late", name);
        }
        let history = world.model.history();
        for (name, (_, answer)) in &world.answers {
            let happened = history.iter().filter(|applied| applied.by == Some(*name)).count();
            match answer {
                Ok(Response::Done(done)) => prop_assert_eq!(happened, usize::from(*done)),
                Ok(_) => prop_assert_eq!(happened, 0),
                Err(failure) if failure.is_determinate() => prop_assert_eq!(happened, 0),
                Err(_) => prop_assert!(happened <= 1),
            }
        }
        for pair in history.windows(2) {
            prop_assert!(pair[0].index < pair[1].index && pair[0].at.mono <= pair[1].at.mono);
        }
        prop_assert!(world.model.deadline().is_none(), "nothing is left to do");
    }

    #[test]
    fn the_same_seed_gives_the_same_run(seed in any::<u8>(), steps in vec(step(), 1..40)) {
        let (one, other) = (play(seed, &steps).0, play(seed, &steps).0);
        prop_assert_eq!(&one.answers, &other.answers);
        let indices = |world: &World| -> Vec<_> {
            let since = |applied: &Applied| applied.at.mono - world.start.mono;
            let history = world.model.history().iter();
            history.map(|applied| (applied.index, since(applied), applied.by)).collect()
        };
        prop_assert_eq!(indices(&one), indices(&other));
    }
}
