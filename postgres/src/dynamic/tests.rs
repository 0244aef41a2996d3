//! Against the embedded store, as the worlds play it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use serde_json::json;

use super::*;
use crate::testing::{TestKv, credentials, run};

const OURS: Claim<'static> = Claim {
    cluster: "demo",
    mark: "mark",
    major: None,
};

fn keys() -> Keys {
    Keys::of("demo")
}

fn again(kv: &TestKv, wanted: &Value) -> Result<(), ReconcileError> {
    run(reconcile(kv, &keys(), OURS, wanted))
}

fn config(kv: &TestKv) -> Value {
    serde_json::from_slice(&kv.get("service/demo/config").unwrap()).unwrap()
}

#[test]
fn whoever_starts_first_writes_it_and_claims_the_path() {
    let kv = TestKv::default();
    let file = json!({"ttl": 30, "postgresql": {"parameters": {"work_mem": "4MB"}}});
    again(&kv, &file).unwrap();
    assert_eq!(config(&kv), file);
    let before = kv.changes();
    again(&kv, &file).unwrap();
    assert_eq!(kv.changes(), before, "nothing is written again");
}

#[test]
fn a_change_of_the_file_is_written_and_a_live_edit_is_left_alone() {
    let kv = TestKv::default();
    let old =
        json!({"ttl": 30, "loop_wait": 10, "postgresql": {"parameters": {"a": "1", "b": "1"}}});
    again(&kv, &old).unwrap();
    let edited = json!({"ttl": 30, "loop_wait": 5, "pause": true,
        "postgresql": {"parameters": {"a": "1", "b": "1", "c": "9"}}});
    kv.set("service/demo/config", edited.to_string());
    again(&kv, &old).unwrap();
    assert_eq!(config(&kv), edited, "the file is as it was written");
    assert_eq!(
        differences(&config(&kv), &old),
        [
            "loop_wait is 5 (the file: 10)",
            "postgresql.parameters.c is \"9\" (the file: not set)"
        ]
    );
    let new = json!({"ttl": 60, "loop_wait": 10, "postgresql": {"parameters": {"a": "2"}}});
    again(&kv, &new).unwrap();
    let expected = json!({"ttl": 60, "loop_wait": 5, "pause": true,
        "postgresql": {"parameters": {"a": "2", "c": "9"}}});
    assert_eq!(config(&kv), expected, "only what the file changed");
}

#[test]
fn the_major_version_is_kept_until_another_is_known() {
    let kv = TestKv::default();
    let file = json!({"ttl": 30});
    let keys = keys();
    let with = |major| run(reconcile(&kv, &keys, Claim { major, ..OURS }, &file)).unwrap();
    let kept = || {
        let note = kv.get("service/demo/holdfast").unwrap();
        serde_json::from_slice::<Note>(&note).unwrap().major
    };
    for (given, expected) in [
        (None, None),
        (Some(15), Some(15)),
        (None, Some(15)),
        (Some(16), Some(16)),
    ] {
        with(given);
        assert_eq!(kept(), expected);
        let before = kv.changes();
        with(given);
        assert_eq!(kv.changes(), before, "nothing is written again");
    }
}

#[test]
fn a_path_of_another_cluster_is_refused_and_stays_as_it_is() {
    let kv = TestKv::default();
    again(&kv, &json!({"ttl": 30})).unwrap();
    let (keys, file) = (keys(), json!({"ttl": 60}));
    let other = reconcile(
        &kv,
        &keys,
        Claim {
            mark: "other",
            ..OURS
        },
        &file,
    );
    let error = run(other).unwrap_err().to_string();
    assert!(
        error.contains("service/demo/holdfast") && error.contains("expected other"),
        "{error}"
    );
    assert_eq!(config(&kv), json!({"ttl": 30}));
}

#[test]
fn a_cluster_that_patroni_made_alone_is_taken_over_key_by_key() {
    let kv = TestKv::default();
    kv.set(
        "service/demo/config",
        json!({"ttl": 20, "tag": 1}).to_string(),
    );
    again(&kv, &json!({"ttl": 30})).unwrap();
    assert_eq!(config(&kv), json!({"ttl": 30, "tag": 1}));
}

#[test]
fn a_config_that_was_deleted_is_written_in_whole_when_the_file_changes() {
    let kv = TestKv::default();
    again(&kv, &json!({"ttl": 30, "loop_wait": 10})).unwrap();
    kv.delete("service/demo/config");
    again(&kv, &json!({"ttl": 40, "loop_wait": 10})).unwrap();
    assert_eq!(config(&kv), json!({"ttl": 40, "loop_wait": 10}));
}

#[test]
fn what_others_write_there_is_an_error_and_no_panic() {
    for text in ["", "{", "[]", "null", "{\"mark\": 1}"] {
        let kv = TestKv::default();
        kv.set("service/demo/holdfast", text.to_owned());
        let error = again(&kv, &json!({})).unwrap_err().to_string();
        assert!(error.contains("service/demo/holdfast"), "{error}");
    }
    let kv = TestKv::default();
    kv.set("service/demo/config", "[1]".to_owned());
    assert!(
        again(&kv, &json!({"ttl": 1}))
            .unwrap_err()
            .to_string()
            .contains("config")
    );
}

#[test]
fn the_mark_tells_clusters_of_one_name_apart() {
    let mut other = credentials();
    other.ca = zeroize::Zeroizing::new([8; 32]);
    let ours = mark("demo", &credentials());
    assert_eq!(ours.len(), 32);
    assert_eq!(ours, mark("demo", &credentials()));
    assert_ne!(ours, mark("demo", &other));
    assert_ne!(ours, mark("demo2", &credentials()));
}

#[test]
fn differences_have_an_end_and_show_no_secrets() {
    let many: Map<String, Value> = (0..50).map(|n| (format!("k{n:02}"), json!(n))).collect();
    let found = differences(&Value::Object(many), &json!({}));
    assert_eq!(found.len(), DIFFERENCES_MAX + 1);
    assert_eq!(found.last().unwrap(), "and 42 more");
    let found = differences(
        &json!({"primary_conninfo": "password=x", "a\u{1b}": 1}),
        &json!({}),
    );
    assert!(!found.concat().contains("password=x"), "{found:?}");
    assert!(!found.concat().contains('\u{1b}'), "{found:?}");
}
