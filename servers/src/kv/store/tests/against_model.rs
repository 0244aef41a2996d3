//! The store against a model that is written as plainly as possible.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What the plain model knows of an entry.
#[derive(Clone, Debug, PartialEq)]
struct Plain {
    value: String,
    made: u64,
    changed: u64,
    locks: u64,
    holder: Option<usize>,
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize, u8, Condition),
    /// The condition names the entry's index, less this.
    PutChecked(usize, u8, u64),
    DeleteChecked(usize, u64),
    Delete(usize),
    DeleteTree(usize),
    Acquire(usize, u8, usize),
    Release(usize, u8, usize),
    Begin(bool, u64),
    Destroy(usize),
    Renew(usize),
    Pass(u64),
}

const KEYS: [&str; 5] = ["a", "a/x", "a/y", "b", "b/x"];
const PREFIXES: [&str; 4] = ["", "a", "a/", "b/"];

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS.len();
    prop_oneof![
        (key.clone(), 0..3u8).prop_map(|(k, v)| Step::Put(k, v, Condition::Any)),
        (key.clone(), 0..3u8).prop_map(|(k, v)| Step::Put(k, v, Condition::Absent)),
        (key.clone(), 0..3u8, 0..2u64).prop_map(|(k, v, off)| Step::PutChecked(k, v, off)),
        (key.clone(), 0..2u64).prop_map(|(k, off)| Step::DeleteChecked(k, off)),
        key.clone().prop_map(Step::Delete),
        (0..PREFIXES.len()).prop_map(Step::DeleteTree),
        (key.clone(), 0..3u8, 0..4usize).prop_map(|(k, v, s)| Step::Acquire(k, v, s)),
        (key, 0..3u8, 0..4usize).prop_map(|(k, v, s)| Step::Release(k, v, s)),
        (any::<bool>(), 0..3u64).prop_map(|(delete, delay)| Step::Begin(delete, delay)),
        (0..4usize).prop_map(Step::Destroy),
        (0..4usize).prop_map(Step::Renew),
        (1..12u64).prop_map(Step::Pass),
    ]
}

/// The plain model: lists and loops.
#[derive(Default)]
struct Model {
    index: u64,
    second: u64,
    entries: Vec<(usize, Plain)>,
    /// Behavior, lock delay, end, alive.
    sessions: Vec<(bool, u64, u64, bool)>,
    delays: Vec<(usize, u64)>,
}

impl Model {
    fn find(&self, key: usize) -> Option<Plain> {
        let found = self.entries.iter().find(|(other, _)| *other == key);
        found.map(|(_, plain)| plain.clone())
    }

    fn set(&mut self, key: usize, value: u8, holder: Option<usize>, locks: u64) {
        let before = self.find(key);
        let value = value.to_string();
        if let Some(before) = &before
            && (&before.value, before.holder, before.locks) == (&value, holder, locks)
        {
            return;
        }
        self.index += 1;
        let changed = self.index;
        let made = before.map_or(changed, |before| before.made);
        self.entries.retain(|(other, _)| *other != key);
        let plain = Plain {
            value,
            made,
            changed,
            locks,
            holder,
        };
        self.entries.push((key, plain));
    }

    fn remove(&mut self, keys: Vec<usize>) {
        if !keys.is_empty() {
            self.index += 1;
            self.entries.retain(|(other, _)| !keys.contains(other));
        }
    }

    fn end(&mut self, session: usize) {
        let Some((delete, delay, _, alive)) = self.sessions.get_mut(session) else {
            return;
        };
        if !std::mem::take(alive) {
            return;
        }
        let (delete, delay) = (*delete, *delay);
        self.index += 1;
        let index = self.index;
        let second = self.second;
        let mut kept = Vec::new();
        for (key, mut plain) in std::mem::take(&mut self.entries) {
            if plain.holder == Some(session) {
                if delay > 0 {
                    self.delays.push((key, second + delay));
                }
                if delete {
                    continue;
                }
                plain.holder = None;
                plain.changed = index;
            }
            kept.push((key, plain));
        }
        self.entries = kept;
    }

    /// Those that end at the same moment end in the order of their identities.
    fn pass(&mut self, seconds: u64, ids: &[SessionId]) {
        for _ in 0..seconds {
            self.second += 1;
            let mut order: Vec<usize> = (0..self.sessions.len()).collect();
            order.sort_by_key(|session| &ids[*session]);
            for session in order {
                if self.sessions[session].2 <= self.second {
                    self.end(session);
                }
            }
        }
    }

    fn alive(&self, session: usize) -> bool {
        self.sessions.get(session).is_some_and(|session| session.3)
    }

    /// Whether it was done, or nothing for a failure.
    fn step(&mut self, step: &Step, ids: &[SessionId]) -> Option<bool> {
        match *step {
            Step::Put(key, value, condition) => {
                let before = self.find(key);
                if condition == Condition::Absent && before.is_some() {
                    return Some(false);
                }
                self.set(key, value, before.and_then(|before| before.holder), 0);
            }
            Step::PutChecked(key, value, off) => match self.find(key) {
                Some(before) if off == 0 => self.set(key, value, before.holder, 0),
                _ => return Some(false),
            },
            Step::DeleteChecked(key, off) => match self.find(key) {
                Some(_) if off > 0 => return Some(false),
                Some(_) => self.remove(vec![key]),
                None => {}
            },
            Step::Delete(key) => {
                let keys = self.find(key).map(|_| key);
                self.remove(keys.into_iter().collect());
            }
            Step::DeleteTree(prefix) => {
                let below = self.entries.iter().map(|(key, _)| *key);
                let below = below.filter(|key| KEYS[*key].starts_with(PREFIXES[prefix]));
                self.remove(below.collect());
            }
            Step::Acquire(key, value, session) => {
                let delayed = |(other, end): &(usize, u64)| *other == key && self.second < *end;
                if self.delays.iter().any(delayed) {
                    return Some(false);
                }
                if !self.alive(session) {
                    return None;
                }
                let locks = match self.find(key) {
                    None => 1,
                    Some(before) if before.holder == Some(session) => before.locks,
                    Some(before) if before.holder.is_some() => return Some(false),
                    Some(before) => before.locks + 1,
                };
                self.set(key, value, Some(session), locks);
            }
            Step::Release(key, value, session) => match self.find(key) {
                Some(before) if before.holder == Some(session) => {
                    self.set(key, value, None, before.locks);
                }
                _ => return Some(false),
            },
            Step::Begin(delete, delay) => {
                self.index += 1;
                let end = self.second + 20;
                self.sessions.push((delete, delay, end, true));
            }
            Step::Destroy(session) => self.end(session),
            Step::Renew(session) => {
                if !self.alive(session) {
                    return Some(false);
                }
                self.sessions[session].2 = self.second + 20;
            }
            Step::Pass(seconds) => self.pass(seconds, ids),
        }
        Some(true)
    }
}

/// The same step on the store.
fn play(bench: &mut Bench, ids: &mut Vec<SessionId>, step: &Step) -> Option<bool> {
    let id = |session: usize, ids: &[SessionId]| {
        let nobody = SessionId("nobody".into());
        ids.get(session).cloned().unwrap_or(nobody)
    };
    let index = |bench: &Bench, key: usize, off: u64| {
        let entry = bench.store.state().entry(KEYS[key]);
        entry.map_or(1, |stored| stored.entry.modify_index) + off
    };
    let request = match *step {
        Step::Put(key, value, condition) => Request::put(KEYS[key], value.to_string(), condition),
        Step::PutChecked(key, value, off) => {
            let condition = Condition::Unchanged(index(bench, key, off));
            Request::put(KEYS[key], value.to_string(), condition)
        }
        Step::DeleteChecked(key, off) => Request::Delete {
            key: KEYS[key].into(),
            condition: Condition::Unchanged(index(bench, key, off)),
        },
        Step::Delete(key) => Request::Delete {
            key: KEYS[key].into(),
            condition: Condition::Any,
        },
        Step::DeleteTree(prefix) => {
            let prefix = PREFIXES[prefix].to_owned();
            let ask = Ask::DeleteTree { prefix };
            bench.store.handle(bench.now, Input::Ask { ticket: 0, ask });
            return Some(bench.answer().unwrap().1 == Ok(Response::Done(true)));
        }
        Step::Acquire(key, value, session) => Request::Acquire {
            key: KEYS[key].into(),
            value: value.to_string().into(),
            session: id(session, ids),
        },
        Step::Release(key, value, session) => Request::Release {
            key: KEYS[key].into(),
            value: value.to_string().into(),
            session: id(session, ids),
        },
        Step::Begin(delete, delay) => {
            let behavior = match delete {
                true => Behavior::Delete,
                false => Behavior::Release,
            };
            ids.push(bench.session(behavior, Duration::from_secs(delay)));
            return Some(true);
        }
        Step::Destroy(session) => Request::SessionDestroy(id(session, ids)),
        Step::Renew(session) => Request::SessionRenew(id(session, ids)),
        Step::Pass(seconds) => {
            (0..seconds).for_each(|_| bench.pass(Duration::from_secs(1)));
            return Some(true);
        }
    };
    match bench.try_ask(request) {
        Ok(Response::Done(done)) => Some(done),
        Ok(other) => panic!("{other:?}"),
        Err(_) => None,
    }
}

fn same(bench: &Bench, model: &Model, ids: &[SessionId]) {
    let seen = bench.store.state().entries().map(|stored| {
        let entry = &stored.entry;
        let holder = entry.session.as_ref().map(|holder| {
            let found = ids.iter().position(|id| id == holder);
            found.expect("the holder is known")
        });
        let plain = Plain {
            value: String::from_utf8(entry.value.to_vec()).unwrap(),
            made: entry.create_index,
            changed: entry.modify_index,
            locks: entry.lock_index,
            holder,
        };
        (entry.key.clone(), plain)
    });
    let mut expected: Vec<_> = model.entries.clone();
    expected.sort_by_key(|(key, _)| KEYS[*key]);
    let expected = expected
        .into_iter()
        .map(|(key, plain)| (KEYS[key].to_owned(), plain));
    assert_eq!(seen.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    let alive = model.sessions.iter().filter(|session| session.3).count();
    assert_eq!(bench.store.state().sessions_len(), alive);
    assert_eq!(bench.store.state().index(), model.index);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_store_does_what_the_plain_model_does(steps in vec(step(), 1..60)) {
        let mut bench = Bench::new();
        let mut model = Model { index: 1, ..Model::default() };
        let mut ids = Vec::new();
        for step in &steps {
            let done = play(&mut bench, &mut ids, step);
            prop_assert_eq!(done, model.step(step, &ids), "{:?}", step);
            same(&bench, &model, &ids);
        }
    }

    #[test]
    fn a_waiting_read_is_answered_exactly_when_its_index_is_passed(
        steps in vec(step(), 1..60),
        prefix in 0..PREFIXES.len(),
    ) {
        let mut bench = Bench::new();
        let mut ids = Vec::new();
        let mut seen = bench.list(PREFIXES[prefix]);
        let ticket = 1_000_000;
        let watch = |bench: &mut Bench, after: u64| {
            let request = Request::List {
                prefix: PREFIXES[prefix].into(),
                consistency: Consistency::Default,
                wait: Some(Wait { after, at_most: Duration::from_secs(600) }),
            };
            bench.store.handle(bench.now, Input::Call { ticket, request });
        };
        for step in &steps {
            watch(&mut bench, seen.0);
            prop_assert_eq!(bench.store.waiting(), 1);
            play(&mut bench, &mut ids, step);
            let now = bench.list(PREFIXES[prefix]);
            let woken = bench.store.waiting() == 0;
            // The index of a prefix below which there never was anything moves with every change.
            prop_assert_eq!(woken, now.1 != seen.1, "{:?}", step);
            bench.store.handle(bench.now, Input::Cancel { ticket });
            seen = now;
        }
    }
}
