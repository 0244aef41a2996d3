#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod against_model;

use holdfast_core::kv::{Behavior, Condition, Consistency, Entry, NewSession};

use super::*;

/// A store with its time.
struct Bench<J = Memory> {
    store: Store<J>,
    now: Now,
    tickets: u64,
}

fn start() -> Now {
    Now {
        mono: Instant::now(),
        unix: Duration::from_secs(1_700_000_000),
    }
}

impl Bench {
    fn new() -> Bench {
        Bench::with(Config::default())
    }

    fn with(config: Config) -> Bench {
        let now = start();
        Bench {
            store: Store::new(config, Seed::new([1; 32]), now).unwrap(),
            now,
            tickets: 0,
        }
    }
}

impl<J: Journal> Bench<J> {
    fn pass(&mut self, by: Duration) {
        self.now = self.now.plus(by);
        self.store.handle_deadline(self.now);
    }

    fn send(&mut self, request: Request) -> u64 {
        self.tickets += 1;
        let ticket = self.tickets;
        self.store.handle(self.now, Input::Call { ticket, request });
        ticket
    }

    fn answer(&mut self) -> Option<(u64, Result<Response, Failure>)> {
        let Output::Answer { ticket, result } = self.store.poll_output()?;
        Some((ticket, result))
    }

    fn try_ask(&mut self, request: Request) -> Result<Response, Failure> {
        let ticket = self.send(request);
        let mut answers = std::iter::from_fn(|| self.answer());
        let own = answers.find(|(other, _)| *other == ticket);
        own.expect("the call is answered at once").1
    }

    fn ask(&mut self, request: Request) -> Response {
        self.try_ask(request).unwrap()
    }

    fn done(&mut self, request: Request) -> bool {
        match self.ask(request) {
            Response::Done(done) => done,
            other => panic!("{other:?}"),
        }
    }

    fn put(&mut self, key: &str, value: &'static str) -> u64 {
        assert!(self.done(Request::put(key, value, Condition::Any)));
        self.store.state().index()
    }

    fn entry(&mut self, key: &str) -> (u64, Option<Entry>) {
        match self.ask(Request::get(key)) {
            Response::Entry { index, entry } => (index, entry),
            other => panic!("{other:?}"),
        }
    }

    fn list(&mut self, prefix: &str) -> (u64, Vec<Entry>) {
        match self.ask(Request::list(prefix)) {
            Response::Entries { index, entries } => (index, entries),
            other => panic!("{other:?}"),
        }
    }

    fn session(&mut self, behavior: Behavior, lock_delay: Duration) -> SessionId {
        let asked = NewSession {
            name: "test".into(),
            ttl: Duration::from_secs(10),
            behavior,
            lock_delay,
        };
        match self.ask(Request::SessionCreate(asked)) {
            Response::Session(id) => id,
            other => panic!("{other:?}"),
        }
    }

    fn acquire(&mut self, key: &str, session: &SessionId) -> bool {
        self.done(Request::Acquire {
            key: key.into(),
            value: "held".into(),
            session: session.clone(),
        })
    }

    fn watch(&mut self, key: &str, after: u64) -> u64 {
        self.send(Request::Get {
            key: key.into(),
            consistency: Consistency::Default,
            wait: Some(wait(after)),
        })
    }

    fn watch_prefix(&mut self, prefix: &str, after: u64) -> u64 {
        self.send(Request::List {
            prefix: prefix.into(),
            consistency: Consistency::Default,
            wait: Some(wait(after)),
        })
    }
}

fn wait(after: u64) -> Wait {
    Wait {
        after,
        at_most: Duration::from_secs(60),
    }
}

#[test]
fn a_change_has_a_greater_index_and_keeps_the_one_of_its_creation() {
    let mut bench = Bench::new();
    let first = bench.put("a", "1");
    let second = bench.put("a", "2");
    assert!(second > first);
    let (index, entry) = bench.entry("a");
    let entry = entry.unwrap();
    assert_eq!((entry.create_index, entry.modify_index), (first, second));
    assert_eq!(index, second);
}

#[test]
fn a_write_that_changes_nothing_leaves_the_index_alone() {
    let mut bench = Bench::new();
    let first = bench.put("a", "1");
    bench.put("a", "1");
    assert_eq!(bench.entry("a").1.unwrap().modify_index, first);
}

#[test]
fn a_compare_and_set_succeeds_only_on_what_it_names() {
    let mut bench = Bench::new();
    let put = |condition| Request::put("a", "x", condition);
    assert!(!bench.done(put(Condition::Unchanged(7))), "there is none");
    assert!(bench.done(put(Condition::Absent)));
    assert!(!bench.done(put(Condition::Absent)), "there is one");
    let index = bench.entry("a").0;
    assert!(!bench.done(put(Condition::Unchanged(index + 1))));
    assert!(bench.done(Request::put("a", "y", Condition::Unchanged(index))));
    assert!(
        !bench.done(put(Condition::Unchanged(index))),
        "it was passed"
    );
}

#[test]
fn a_conditional_delete_deletes_only_what_it_names_and_is_content_with_nothing() {
    let mut bench = Bench::new();
    let index = bench.put("a", "1");
    let delete = |condition| Request::Delete {
        key: "a".into(),
        condition,
    };
    assert!(!bench.done(delete(Condition::Unchanged(index + 1))));
    assert!(bench.done(delete(Condition::Unchanged(index))));
    assert!(bench.done(delete(Condition::Unchanged(index))), "as Consul");
    assert!(bench.try_ask(delete(Condition::Absent)).is_err());
}

#[test]
fn a_lock_has_one_holder_and_counts_its_acquisitions() {
    let mut bench = Bench::new();
    let (one, two) = (
        bench.session(Behavior::Release, Duration::ZERO),
        bench.session(Behavior::Release, Duration::ZERO),
    );
    assert_ne!(one, two);
    assert!(bench.acquire("a", &one));
    assert!(!bench.acquire("a", &two));
    assert!(bench.acquire("a", &one), "it has it already");
    assert_eq!(bench.entry("a").1.unwrap().lock_index, 1);
    let release = |session: &SessionId| Request::Release {
        key: "a".into(),
        value: "free".into(),
        session: session.clone(),
    };
    assert!(!bench.done(release(&two)));
    assert!(bench.done(release(&one)));
    assert!(bench.acquire("a", &two));
    let entry = bench.entry("a").1.unwrap();
    assert_eq!((entry.lock_index, entry.session), (2, Some(two)));
}

#[test]
fn a_plain_write_keeps_the_holder() {
    let mut bench = Bench::new();
    let one = bench.session(Behavior::Release, Duration::ZERO);
    bench.acquire("a", &one);
    bench.put("a", "written");
    let entry = bench.entry("a").1.unwrap();
    assert_eq!((entry.session, entry.lock_index), (Some(one), 0));
}

#[test]
fn nobody_acquires_for_a_session_that_is_not_there() {
    let mut bench = Bench::new();
    let request = Request::Acquire {
        key: "a".into(),
        value: "".into(),
        session: SessionId("nobody".into()),
    };
    let failure = bench.try_ask(request).unwrap_err();
    assert!(failure.is_determinate());
    assert_eq!(failure.kind, holdfast_core::kv::FailureKind::NoSession);
}

#[test]
fn a_session_ends_after_its_life_and_not_sooner_and_what_it_deletes_goes_with_it() {
    let mut bench = Bench::new();
    let one = bench.session(Behavior::Delete, Duration::ZERO);
    bench.acquire("a", &one);
    bench.pass(Duration::from_millis(19_999));
    assert!(bench.done(Request::SessionRenew(one.clone())));
    bench.pass(Duration::from_millis(19_999));
    assert!(bench.entry("a").1.is_some(), "it was renewed");
    bench.pass(Duration::from_millis(1));
    assert!(bench.entry("a").1.is_none());
    assert!(!bench.done(Request::SessionRenew(one)));
}

#[test]
fn a_life_that_is_drawn_lies_between_once_and_twice_the_ttl() {
    let mut lives = BTreeSet::new();
    let mut bench = Bench::with(Config {
        life_percent: 100..=200,
        ..Config::default()
    });
    for _ in 0..200 {
        let id = bench.session(Behavior::Release, Duration::ZERO);
        lives.insert(bench.store.session_end(&id).unwrap() - bench.now.mono);
    }
    assert!(*lives.first().unwrap() >= Duration::from_secs(10));
    assert!(*lives.last().unwrap() <= Duration::from_secs(20));
    assert!(lives.len() > 50, "{}", lives.len());
}

#[test]
fn a_lock_delay_follows_the_end_of_a_session_but_not_a_release() {
    let mut bench = Bench::new();
    let delay = Duration::from_secs(15);
    let (one, two) = (
        bench.session(Behavior::Delete, delay),
        bench.session(Behavior::Delete, delay),
    );
    bench.acquire("a", &one);
    bench.done(Request::Release {
        key: "a".into(),
        value: "".into(),
        session: one.clone(),
    });
    assert!(bench.acquire("a", &two), "released");
    assert!(bench.done(Request::SessionDestroy(two)));
    assert!(!bench.acquire("a", &one));
    assert!(
        bench.done(Request::put("a", "x", Condition::Any)),
        "no lock"
    );
    bench.pass(Duration::from_millis(14_999));
    assert!(!bench.acquire("a", &one));
    bench.pass(Duration::from_millis(1));
    assert!(bench.acquire("a", &one));
}

#[test]
fn without_a_lock_delay_the_next_one_gets_the_lock_at_once() {
    let mut bench = Bench::new();
    let (one, two) = (
        bench.session(Behavior::Release, Duration::ZERO),
        bench.session(Behavior::Release, Duration::from_micros(1)),
    );
    bench.acquire("a", &one);
    bench.done(Request::SessionDestroy(one));
    assert!(bench.acquire("a", &two));
}

#[test]
fn a_change_of_leader_begins_every_ttl_anew_and_forgets_lock_delays() {
    let mut bench = Bench::new();
    let (one, two) = (
        bench.session(Behavior::Release, Duration::from_secs(60)),
        bench.session(Behavior::Release, Duration::ZERO),
    );
    bench.acquire("a", &one);
    bench.done(Request::SessionDestroy(one));
    bench.pass(Duration::from_secs(19));
    bench.store.handle(bench.now, Input::LeaderChanged);
    assert!(bench.acquire("a", &two));
    bench.pass(Duration::from_secs(19));
    assert!(bench.store.state().session(&two).is_some());
    bench.pass(Duration::from_secs(1));
    assert!(bench.store.state().session(&two).is_none());
}

#[test]
fn a_session_of_a_forbidden_length_is_refused_as_consul_refuses_it() {
    let mut bench = Bench::new();
    for secs in [1, 9, 86_401] {
        let asked = NewSession {
            name: String::new(),
            ttl: Duration::from_secs(secs),
            behavior: Behavior::Release,
            lock_delay: Duration::ZERO,
        };
        let failure = bench.try_ask(Request::SessionCreate(asked)).unwrap_err();
        assert!(failure.message.starts_with("Invalid Session TTL"));
    }
}

#[test]
fn a_reader_wakes_for_its_key_alone() {
    let mut bench = Bench::new();
    let index = bench.put("a", "1");
    let ticket = bench.watch("a", index);
    bench.put("ab", "1");
    bench.put("b", "1");
    assert_eq!(bench.store.waiting(), 1);
    bench.send(Request::put("a", "2", Condition::Any));
    let answers: Vec<_> = std::iter::from_fn(|| bench.answer()).collect();
    assert!(answers.iter().any(|(other, _)| *other == ticket));
    assert_eq!(bench.store.waiting(), 0);
}

#[test]
fn a_reader_of_a_missing_key_wakes_when_it_is_there_and_again_when_it_is_gone() {
    let mut bench = Bench::new();
    bench.put("other", "1");
    let (index, entry) = bench.entry("a");
    assert!(entry.is_none() && index > 0);
    let ticket = bench.watch("a", index);
    bench.put("another", "1");
    assert_eq!(bench.store.waiting(), 1);
    bench.send(Request::put("a", "1", Condition::Any));
    let woken = std::iter::from_fn(|| bench.answer()).find(|(other, _)| *other == ticket);
    let Some((_, Ok(Response::Entry { index, entry }))) = woken else {
        panic!("{woken:?}");
    };
    assert_eq!(entry.unwrap().modify_index, index);
    let ticket = bench.watch("a", index);
    bench.send(Request::Delete {
        key: "a".into(),
        condition: Condition::Any,
    });
    let woken = std::iter::from_fn(|| bench.answer()).find(|(other, _)| *other == ticket);
    let Some((_, Ok(Response::Entry { index: gone, entry }))) = woken else {
        panic!("{woken:?}");
    };
    assert!(entry.is_none() && gone > index);
}

#[test]
fn a_reader_of_a_prefix_wakes_for_what_is_below_it_deletions_included() {
    let mut bench = Bench::new();
    bench.put("p/a", "1");
    bench.put("q/a", "1");
    let (index, entries) = bench.list("p/");
    assert_eq!(entries.len(), 1);
    let ticket = bench.watch_prefix("p/", index);
    bench.put("q/b", "1");
    assert_eq!(bench.store.waiting(), 1);
    bench.send(Request::Delete {
        key: "p/a".into(),
        condition: Condition::Any,
    });
    let woken = std::iter::from_fn(|| bench.answer()).find(|(other, _)| *other == ticket);
    let Some((
        _,
        Ok(Response::Entries {
            index: gone,
            entries,
        }),
    )) = woken
    else {
        panic!("{woken:?}");
    };
    assert!(entries.is_empty() && gone > index);
}

#[test]
fn no_index_to_wait_with_is_ever_zero_or_goes_back() {
    let mut bench = Bench::new();
    assert!(bench.list("p/").0 > 0 && bench.list("").0 > 0 && bench.entry("a").0 > 0);
    let mut last = 0;
    for round in 0..20_000 {
        let key = format!("p/{round}");
        bench.done(Request::put(key.as_str(), "1", Condition::Any));
        bench.done(Request::Delete {
            key,
            condition: Condition::Any,
        });
        if round % 500 == 0 {
            let index = bench.list("p/").0;
            assert!(index >= last, "{index} after {last}");
            last = index;
        }
    }
}

#[test]
fn a_wait_ends_when_its_time_is_over() {
    let mut bench = Bench::new();
    let index = bench.put("a", "1");
    let ticket = bench.watch("a", index);
    let (at, why) = bench.store.deadline().unwrap();
    assert_eq!(
        (at - bench.now.mono, why),
        (Duration::from_secs(60), "waiting read")
    );
    bench.pass(Duration::from_secs(60));
    assert!(bench.answer().is_some_and(|(other, answer)| {
        other == ticket
            && matches!(answer, Ok(Response::Entry { index: same, .. }) if same == index)
    }));
    assert_eq!(bench.store.deadline(), None);
}

#[test]
fn who_gave_up_is_not_answered() {
    let mut bench = Bench::new();
    let index = bench.put("a", "1");
    let ticket = bench.watch("a", index);
    bench.store.handle(bench.now, Input::Cancel { ticket });
    bench.send(Request::put("a", "2", Condition::Any));
    assert!(std::iter::from_fn(|| bench.answer()).all(|(other, _)| other != ticket));
}

#[test]
fn everything_has_a_limit_and_what_is_refused_did_not_happen() {
    let mut bench = Bench::with(Config {
        limits: Limits {
            entries_max: 2,
            sessions_max: 1,
            records_max: 1,
            waiting_max: 1,
            bytes_max: 4096,
        },
        ..Config::default()
    });
    let refused = |bench: &mut Bench, request: Request| {
        let failure = bench.try_ask(request).unwrap_err();
        assert!(failure.is_determinate(), "{failure:?}");
        failure.kind
    };
    let any = Condition::Any;
    use holdfast_core::kv::FailureKind::{Busy, Invalid};
    assert_eq!(refused(&mut bench, Request::put("", "", any)), Invalid);
    assert_eq!(
        refused(&mut bench, Request::put("k".repeat(513), "", any)),
        Invalid
    );
    let large = vec![0; holdfast_core::kv::VALUE_LEN_MAX + 1];
    assert_eq!(refused(&mut bench, Request::put("k", large, any)), Invalid);
    assert_eq!(
        refused(&mut bench, Request::put("k", vec![0; 4096], any)),
        Busy
    );
    bench.put("a", "1");
    bench.put("b", "1");
    assert_eq!(refused(&mut bench, Request::put("c", "", any)), Busy);
    bench.session(Behavior::Release, Duration::ZERO);
    let asked = NewSession {
        name: String::new(),
        ttl: Duration::from_secs(10),
        behavior: Behavior::Release,
        lock_delay: Duration::ZERO,
    };
    assert_eq!(refused(&mut bench, Request::SessionCreate(asked)), Busy);
    let index = bench.entry("a").0;
    bench.watch("a", index);
    let ticket = bench.watch("a", index);
    let (other, answer) = bench.answer().unwrap();
    assert_eq!((other, answer.unwrap_err().kind), (ticket, Busy));
    assert_eq!(bench.list("").1.len(), 2);
}

/// Fails as it is told to.
#[derive(Default)]
struct Broken {
    fail: Option<JournalError>,
    kept: State,
    keep_anyway: bool,
}

impl Journal for Broken {
    fn record(&mut self, _: Now, _: &State, batch: &Batch) -> Result<(), JournalError> {
        match self.fail.clone() {
            None => self.kept.apply(batch.clone()),
            Some(error) => {
                if self.keep_anyway {
                    self.kept.apply(batch.clone());
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn recover(&mut self) -> Result<State, JournalError> {
        match self.fail.clone() {
            None => Ok(self.kept.clone()),
            Some(error) => Err(error),
        }
    }
}

fn broken() -> Bench<Broken> {
    let now = start();
    let (config, seed) = (Config::default(), Seed::new([1; 32]));
    let journal = Broken::default();
    Bench {
        store: Store::with_journal(config, seed, now, State::default(), journal).unwrap(),
        now,
        tickets: 0,
    }
}

#[test]
fn what_was_not_kept_did_not_happen_and_nobody_is_told_of_it() {
    let mut bench = broken();
    let index = bench.put("a", "1");
    bench.watch("a", index);
    bench.store.journal_mut().fail = Some(JournalError::Refused("full".into()));
    let failure = bench.try_ask(Request::put("a", "2", Condition::Any));
    assert!(failure.unwrap_err().is_determinate());
    assert_eq!(bench.store.waiting(), 1);
    assert_eq!(bench.entry("a").0, index);
    bench.store.journal_mut().fail = None;
    assert_eq!(bench.put("a", "3"), index + 1);
}

#[test]
fn what_may_have_been_kept_is_read_again_before_the_next_change() {
    let mut bench = broken();
    let index = bench.put("a", "1");
    let ticket = bench.watch("a", index);
    let journal = bench.store.journal_mut();
    journal.fail = Some(JournalError::Unsure("lost sight of it".into()));
    journal.keep_anyway = true;
    let failure = bench.try_ask(Request::put("a", "2", Condition::Any));
    assert!(!failure.unwrap_err().is_determinate());
    let refused = bench.try_ask(Request::put("a", "3", Condition::Any));
    assert!(
        refused.unwrap_err().is_determinate(),
        "nothing is known yet"
    );
    bench.store.journal_mut().fail = None;
    bench.send(Request::put("b", "1", Condition::Any));
    assert!(std::iter::from_fn(|| bench.answer()).any(|(other, _)| other == ticket));
    assert_eq!(bench.entry("a").1.unwrap().value, "2");
}

#[test]
fn a_session_whose_end_could_not_be_kept_ends_when_it_can_be() {
    let mut bench = broken();
    let one = bench.session(Behavior::Delete, Duration::ZERO);
    bench.acquire("a", &one);
    bench.store.journal_mut().fail = Some(JournalError::Refused("full".into()));
    bench.pass(Duration::from_secs(20));
    assert!(bench.entry("a").1.is_some());
    bench.store.journal_mut().fail = None;
    bench.pass(Duration::from_secs(1));
    assert!(bench.entry("a").1.is_none());
}

#[test]
fn an_exported_state_is_the_same_when_it_is_restored() {
    let mut bench = Bench::new();
    let one = bench.session(Behavior::Delete, Duration::ZERO);
    bench.acquire("a", &one);
    bench.put("b", "1");
    let state = bench.store.state();
    let parts = state.sessions().cloned().map(Change::Session);
    let parts = parts.chain(state.entries().cloned().map(Change::Entry));
    let restored = State::restore(state.index(), parts).unwrap();
    assert!(restored.entries().eq(state.entries()));
    assert!(restored.sessions().eq(state.sessions()));
    assert_eq!(restored.index(), state.index());
    let orphans = state.entries().cloned().map(Change::Entry);
    assert!(State::restore(state.index(), orphans).is_err());
    assert!(State::restore(1, state.entries().cloned().map(Change::Entry)).is_err());
}
