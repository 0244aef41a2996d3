//! Entries: conditions, indexes, order, limits.

use std::time::Duration;

use holdfast_core::kv::{KEY_LEN_MAX, VALUE_LEN_MAX};
use holdfast_io::kv::{Condition, Consistency, FailureKind, Request, Response};

use super::{Case, Test, cases, join_all};

pub(super) fn cases() -> Vec<Case> {
    cases![
        an_entry_that_is_not_there_is_none_with_an_index,
        a_value_comes_back_byte_for_byte,
        only_if_absent_creates_once,
        only_if_unchanged_needs_the_present_index,
        only_if_unchanged_never_creates,
        every_change_has_a_greater_index,
        writing_what_is_there_changes_nothing,
        a_delete_may_have_a_condition,
        a_key_may_come_back_with_a_new_create_index,
        a_list_has_the_order_of_bytes_and_nothing_else,
        an_empty_list_has_an_index,
        every_consistency_is_accepted,
        odd_keys_stay_what_they_are,
        limits_are_met_and_not_passed,
        impossible_requests_are_refused_for_good,
        of_many_writers_one_wins_each_round,
        no_increment_is_lost,
    ]
}

/// Contenders for one key.
const CONTENDERS: usize = 16;

async fn an_entry_that_is_not_there_is_none_with_an_index(test: Test) {
    let (index, entry) = test.read("none", None).await;
    assert_eq!(entry, None);
    assert!(index > 0, "index 0 cannot be waited with");
}

async fn a_value_comes_back_byte_for_byte(test: Test) {
    let all: Vec<u8> = (0..=255).collect();
    for value in [Vec::new(), all, b"null".to_vec(), vec![0; 4]] {
        assert!(test.put("value", value.clone(), Condition::Any).await);
        let entry = test.get("value").await.expect("it was written");
        assert_eq!(entry.value, value);
        assert_eq!(
            (entry.key, entry.session, entry.lock_index),
            (test.key("value"), None, 0)
        );
    }
}

async fn only_if_absent_creates_once(test: Test) {
    assert!(test.put("once", "a", Condition::Absent).await);
    assert!(!test.put("once", "b", Condition::Absent).await);
    assert_eq!(test.get("once").await.unwrap().value, "a");
}

async fn only_if_unchanged_needs_the_present_index(test: Test) {
    assert!(test.put("cas", "a", Condition::Any).await);
    let first = test.get("cas").await.unwrap();
    assert_eq!(first.create_index, first.modify_index);
    let unchanged = Condition::Unchanged(first.modify_index);
    assert!(test.put("cas", "b", unchanged).await);
    assert!(!test.put("cas", "c", unchanged).await);
    assert!(
        !test
            .put("cas", "c", Condition::Unchanged(u64::MAX / 2))
            .await
    );
    let second = test.get("cas").await.unwrap();
    assert_eq!(second.value, "b");
    assert_eq!(second.create_index, first.create_index);
    assert!(second.modify_index > first.modify_index);
}

async fn only_if_unchanged_never_creates(test: Test) {
    assert!(!test.put("none", "a", Condition::Unchanged(7)).await);
    assert_eq!(test.get("none").await, None);
}

async fn every_change_has_a_greater_index(test: Test) {
    let mut last = 0;
    for round in 0..10 {
        let name = ["a", "b"][round % 2];
        assert!(test.put(name, round.to_string(), Condition::Any).await);
        let (index, entry) = test.read(name, None).await;
        let modify_index = entry.unwrap().modify_index;
        assert!(modify_index > last, "{modify_index} after {last}");
        assert!(
            index >= modify_index,
            "an answer is older than what it holds"
        );
        last = modify_index;
    }
}

async fn writing_what_is_there_changes_nothing(test: Test) {
    assert!(test.put("same", "a", Condition::Any).await);
    let before = test.get("same").await.unwrap();
    assert!(test.put("same", "a", Condition::Any).await);
    let unchanged = Condition::Unchanged(before.modify_index);
    assert!(test.put("same", "a", unchanged).await);
    assert_eq!(test.get("same").await, Some(before));
}

async fn a_delete_may_have_a_condition(test: Test) {
    assert!(test.put("gone", "a", Condition::Any).await);
    let index = test.get("gone").await.unwrap().modify_index;
    assert!(test.put("gone", "b", Condition::Any).await);
    assert!(!test.delete("gone", Condition::Unchanged(index)).await);
    let index = test.get("gone").await.unwrap().modify_index;
    assert!(test.delete("gone", Condition::Unchanged(index)).await);
    assert_eq!(test.get("gone").await, None);
    // Consul calls it done: there is nothing that could have changed.
    assert!(test.delete("gone", Condition::Unchanged(index)).await);
    assert!(test.delete("gone", Condition::Any).await);
    assert!(test.delete("never was", Condition::Any).await);
}

async fn a_key_may_come_back_with_a_new_create_index(test: Test) {
    assert!(test.put("back", "a", Condition::Absent).await);
    let first = test.get("back").await.unwrap();
    assert!(test.delete("back", Condition::Any).await);
    assert!(
        !test
            .put("back", "b", Condition::Unchanged(first.modify_index))
            .await
    );
    assert!(test.put("back", "a", Condition::Absent).await);
    let second = test.get("back").await.unwrap();
    assert!(second.create_index > first.modify_index);
}

async fn a_list_has_the_order_of_bytes_and_nothing_else(test: Test) {
    let mut names = ["l/b", "l/a/z", "l/", "l/ä", "l/A", "l/10", "l/9", "l/a"];
    for name in names.iter().chain(&["l", "la", "m/x", "k"]) {
        assert!(test.put(name, *name, Condition::Any).await);
    }
    names.sort_unstable();
    let (_, entries) = test.list("l/", None).await;
    let found: Vec<_> = entries.iter().map(|e| e.key.clone()).collect();
    let expected: Vec<_> = names.iter().map(|name| test.key(name)).collect();
    assert_eq!(found, expected);
    let (_, entries) = test.list("l", None).await;
    assert_eq!(
        entries.len(),
        names.len() + 2,
        "a prefix need not end at a slash"
    );
}

async fn an_empty_list_has_an_index(test: Test) {
    let (before, entries) = test.list("empty/", None).await;
    assert_eq!((entries.len(), before > 0), (0, true));
    assert!(test.put("empty/a", "a", Condition::Any).await);
    let (with, _) = test.list("empty/", None).await;
    assert!(test.delete("empty/a", Condition::Any).await);
    let (after, entries) = test.list("empty/", None).await;
    assert_eq!(entries.len(), 0);
    assert!(
        with > before && after > with,
        "{before}, {with}, {after}: a change was not counted"
    );
}

async fn every_consistency_is_accepted(test: Test) {
    assert!(test.put("c", "a", Condition::Any).await);
    for consistency in [
        Consistency::Default,
        Consistency::Consistent,
        Consistency::Stale,
    ] {
        let get = Request::Get {
            key: test.key("c"),
            consistency,
            wait: None,
        };
        let list = Request::List {
            prefix: test.key("c"),
            consistency,
            wait: None,
        };
        for request in [get, list] {
            test.call(request)
                .await
                .unwrap_or_else(|failure| panic!("{consistency:?}: {failure}"));
        }
    }
}

async fn odd_keys_stay_what_they_are(test: Test) {
    let names = [
        "a b",
        "+",
        "%",
        "%2F",
        "100%25",
        "?x=1&y#z",
        "ü€😀",
        "//",
        "a//b",
        "..",
        "a/../b",
        "./a",
        "a/.",
        "\"'`$\\",
        "{}[]<>|^~",
        ";:@=,!*()",
        "tail/",
    ];
    for name in names {
        let name = format!("odd/{name}");
        assert!(
            test.put(&name, name.clone(), Condition::Absent).await,
            "{name}"
        );
        let entry = test
            .get(&name)
            .await
            .unwrap_or_else(|| panic!("{name} is not there"));
        assert_eq!((entry.key, entry.value), (test.key(&name), name.into()));
    }
    let (_, entries) = test.list("odd/", None).await;
    assert_eq!(entries.len(), names.len());
    for name in names {
        assert!(
            test.delete(&format!("odd/{name}"), Condition::Any).await,
            "{name}"
        );
    }
    assert_eq!(test.list("odd/", None).await.1.len(), 0);
}

async fn limits_are_met_and_not_passed(test: Test) {
    let longest = "k".repeat(KEY_LEN_MAX - test.key("").len());
    assert!(test.put(&longest, "a", Condition::Any).await);
    assert_eq!(test.get(&longest).await.unwrap().value, "a");
    let largest: Vec<u8> = (0..VALUE_LEN_MAX).map(|i| (i % 251) as u8).collect();
    assert!(test.put("large", largest.clone(), Condition::Any).await);
    assert!(
        test.get("large").await.unwrap().value == largest,
        "a large value came back changed"
    );
    let too_long = test.key(&format!("{longest}k"));
    for request in [
        Request::put(too_long.clone(), "a", Condition::Any),
        Request::get(too_long.clone()),
        Request::list(too_long),
        Request::put(
            test.key("large"),
            vec![0; VALUE_LEN_MAX + 1],
            Condition::Any,
        ),
    ] {
        let failure = test.refused(request).await;
        assert_eq!(
            (failure.is_determinate(), failure.kind),
            (true, FailureKind::Invalid)
        );
    }
    assert!(
        test.get("large").await.unwrap().value == largest,
        "a refused value was written"
    );
}

async fn impossible_requests_are_refused_for_good(test: Test) {
    for request in [
        Request::get(""),
        Request::put("", "a", Condition::Any),
        Request::put(test.key("a\nb"), "a", Condition::Any),
        Request::put(test.key("a\0b"), "a", Condition::Any),
        Request::put(test.key("a"), "a", Condition::Unchanged(0)),
        Request::Delete {
            key: test.key("a"),
            condition: Condition::Absent,
        },
        Request::Delete {
            key: test.key("a"),
            condition: Condition::Unchanged(0),
        },
    ] {
        let failure = test.refused(request.clone()).await;
        let found = (failure.is_determinate(), failure.kind);
        assert_eq!(
            found,
            (true, FailureKind::Invalid),
            "{request:?}: {failure}"
        );
    }
}

async fn of_many_writers_one_wins_each_round(test: Test) {
    let mut condition = Condition::Absent;
    for round in 0..8 {
        let writers = (0..CONTENDERS).map(|writer| {
            let value = format!("{round} {writer}");
            let test = &test;
            async move { test.put("contended", value, condition).await }
        });
        let won = join_all(writers).await;
        let winners: Vec<_> = (0..CONTENDERS).filter(|w| won[*w]).collect();
        let entry = test.get("contended").await.unwrap();
        let expected = format!("{round} {}", winners[0]);
        assert_eq!(
            (winners.len(), entry.value),
            (1, expected.into()),
            "round {round}"
        );
        condition = Condition::Unchanged(entry.modify_index);
    }
}

async fn no_increment_is_lost(test: Test) {
    assert!(test.put("counter", "0", Condition::Absent).await);
    let increments = (0..6).map(|_| async {
        for _ in 0..4 {
            loop {
                let entry = test.get("counter").await.unwrap();
                let count: u32 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                let unchanged = Condition::Unchanged(entry.modify_index);
                if test
                    .put("counter", (count + 1).to_string(), unchanged)
                    .await
                {
                    break;
                }
                test.sleep(Duration::from_millis(1)).await;
            }
        }
    });
    join_all(increments).await;
    let answer = test.call(Request::get(test.key("counter"))).await;
    let Ok(Response::Entry {
        entry: Some(entry), ..
    }) = answer
    else {
        panic!("expected an entry, found {answer:?}");
    };
    assert_eq!(entry.value, "24");
}
