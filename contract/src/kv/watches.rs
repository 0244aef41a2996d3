//! Reads that wait for a change.

use std::time::Duration;

use holdfast_io::kv::{Behavior, Condition, Entry, Wait};

use super::locks::session;
use super::{Case, SLACK, Test, cases, join_all};

pub(super) fn cases() -> Vec<Case> {
    cases![
        a_wait_ends_with_a_change,
        a_wait_ends_with_a_deletion,
        a_wait_ends_with_a_creation,
        a_wait_on_a_list_ends_with_each_kind_of_change,
        a_wait_ends_with_the_end_of_the_session_that_holds,
        a_wait_ends_with_its_time,
        a_wait_for_a_change_that_was_is_none,
        a_wait_for_an_index_that_never_was_begins_anew,
        a_wait_without_time_or_index_is_none,
        changes_elsewhere_do_not_end_a_wait_on_an_entry,
        all_who_wait_are_told,
    ]
}

/// Longer than any wait here should take.
const LONG: Duration = Duration::from_secs(30);
/// Until a read that waits has arrived, most probably; it must end well in any case.
const A_MOMENT: Duration = Duration::from_millis(300);

fn wait(after: u64) -> Option<Wait> {
    Some(Wait {
        after,
        at_most: LONG,
    })
}

/// Wait until the entry is as wanted: a wait may end without a change.
async fn await_entry(
    test: &Test,
    name: &str,
    mut index: u64,
    wanted: impl Fn(Option<&Entry>) -> bool,
) -> u64 {
    let began = test.now();
    loop {
        let (new, entry) = test.read(name, wait(index)).await;
        if wanted(entry.as_ref()) {
            assert!(
                new > index,
                "index {new} after {index}: the change is not counted"
            );
            assert!(
                test.now() - began < SLACK + A_MOMENT,
                "told after {:?}",
                test.now() - began
            );
            return new;
        }
        assert!(test.now() - began < LONG, "the change was never told");
        index = new;
    }
}

/// Do something a moment after somebody began to wait.
async fn a_moment_later<F: Future<Output = bool>>(test: &Test, does: F) {
    test.sleep(A_MOMENT).await;
    assert!(does.await, "the change was refused");
}

/// Both at one time.
async fn both<A: Future, B: Future<Output = ()>>(a: A, b: B) -> A::Output {
    let mut found = None;
    let first: std::pin::Pin<Box<dyn Future<Output = ()> + '_>> =
        Box::pin(async { found = Some(a.await) });
    join_all([first, Box::pin(b)]).await;
    found.expect("it was joined")
}

async fn a_wait_ends_with_a_change(test: Test) {
    assert!(test.put("w", "a", Condition::Any).await);
    let (index, _) = test.read("w", None).await;
    let change = a_moment_later(&test, test.put("w", "b", Condition::Any));
    both(
        await_entry(&test, "w", index, |e| e.unwrap().value == "b"),
        change,
    )
    .await;
}

async fn a_wait_ends_with_a_deletion(test: Test) {
    assert!(test.put("w", "a", Condition::Any).await);
    let (index, _) = test.read("w", None).await;
    let change = a_moment_later(&test, test.delete("w", Condition::Any));
    both(await_entry(&test, "w", index, |e| e.is_none()), change).await;
}

async fn a_wait_ends_with_a_creation(test: Test) {
    let (index, _) = test.read("w", None).await;
    let change = a_moment_later(&test, test.put("w", "a", Condition::Absent));
    both(await_entry(&test, "w", index, |e| e.is_some()), change).await;
}

async fn a_wait_on_a_list_ends_with_each_kind_of_change(test: Test) {
    let (mut index, _) = test.list("l/", None).await;
    for (value, count) in [(Some("a"), 1), (Some("b"), 1), (None, 0)] {
        let waiting = async {
            let began = test.now();
            let mut index = index;
            loop {
                let (new, entries) = test.list("l/", wait(index)).await;
                let values: Vec<_> = entries.iter().map(|e| e.value.clone()).collect();
                if values.len() == count && value.is_none_or(|v| values == [v]) {
                    assert!(new > index, "index {new} after {index}");
                    return new;
                }
                assert!(test.now() - began < LONG, "never told of {value:?}");
                index = new;
            }
        };
        let change = a_moment_later(&test, async {
            match value {
                Some(value) => test.put("l/x", value, Condition::Any).await,
                None => test.delete("l/x", Condition::Any).await,
            }
        });
        let began = test.now();
        index = both(waiting, change).await;
        assert!(test.now() - began < SLACK + A_MOMENT, "{value:?} told late");
    }
}

async fn a_wait_ends_with_the_end_of_the_session_that_holds(test: Test) {
    for (name, behavior) in [("r", Behavior::Release), ("d", Behavior::Delete)] {
        let session = session(&test, behavior, Duration::ZERO).await;
        assert!(test.acquire(name, "a", &session).await);
        let (index, _) = test.read(name, None).await;
        let change = a_moment_later(&test, async {
            test.destroy(&session).await;
            true
        });
        let free = |e: Option<&Entry>| e.is_none_or(|e| e.session.is_none());
        both(await_entry(&test, name, index, free), change).await;
    }
}

async fn a_wait_ends_with_its_time(test: Test) {
    assert!(test.put("w", "a", Condition::Any).await);
    let (index, before) = test.read("w", None).await;
    let at_most = Duration::from_secs(2);
    let began = test.now();
    let wait = Some(Wait {
        after: index,
        at_most,
    });
    let (after, entry) = test.read("w", wait).await;
    let took = test.now() - began;
    assert_eq!((after, entry), (index, before));
    // Consul adds up to a sixteenth.
    assert!(
        took >= at_most && took < at_most * 17 / 16 + SLACK,
        "{took:?}"
    );
}

async fn a_wait_for_a_change_that_was_is_none(test: Test) {
    assert!(test.put("w", "a", Condition::Any).await);
    let (index, _) = test.read("w", None).await;
    assert!(test.put("w", "b", Condition::Any).await);
    let began = test.now();
    let (after, entry) = test.read("w", wait(index)).await;
    assert_eq!((after > index, entry.unwrap().value), (true, "b".into()));
    assert!(test.now() - began < SLACK, "{:?}", test.now() - began);
}

async fn a_wait_for_an_index_that_never_was_begins_anew(test: Test) {
    assert!(test.put("w", "a", Condition::Any).await);
    let (index, _) = test.read("w", None).await;
    let wait = Some(Wait {
        after: index + 1_000_000_000,
        at_most: Duration::from_secs(1),
    });
    let (after, entry) = test.read("w", wait).await;
    assert_eq!((after, entry.unwrap().value), (0, "a".into()));
}

async fn a_wait_without_time_or_index_is_none(test: Test) {
    assert!(test.put("w", "a", Condition::Any).await);
    let (index, _) = test.read("w", None).await;
    let began = test.now();
    for (after, at_most) in [(0, LONG), (index, Duration::ZERO), (0, Duration::ZERO)] {
        let wait = Some(Wait { after, at_most });
        assert_eq!(test.read("w", wait).await.0, index);
        assert_eq!(test.list("w", wait).await.1.len(), 1);
    }
    assert!(test.now() - began < SLACK, "{:?}", test.now() - began);
}

async fn changes_elsewhere_do_not_end_a_wait_on_an_entry(test: Test) {
    assert!(test.put("w", "a", Condition::Any).await);
    let (index, _) = test.read("w", None).await;
    let at_most = Duration::from_secs(2);
    let began = test.now();
    let wait = Some(Wait {
        after: index,
        at_most,
    });
    let change = a_moment_later(&test, test.put("w2", "b", Condition::Any));
    let (after, _) = both(test.read("w", wait), change).await;
    assert_eq!(after, index);
    assert!(test.now() - began >= at_most, "{:?}", test.now() - began);
}

async fn all_who_wait_are_told(test: Test) {
    assert!(test.put("w", "a", Condition::Any).await);
    let (index, _) = test.read("w", None).await;
    let waiting = (0..16).map(|_| await_entry(&test, "w", index, |e| e.unwrap().value == "b"));
    let change = a_moment_later(&test, test.put("w", "b", Condition::Any));
    let told = both(join_all(waiting), change).await;
    assert!(told.iter().all(|index| *index == told[0]), "{told:?}");
}
