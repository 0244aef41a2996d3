//! Paths as they must be, and answers as they come.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use proptest::prelude::*;

use super::*;
use crate::kv::FailureKind;

fn path(request: &Request) -> String {
    encode(request).unwrap().path_and_query
}

fn answer(index: Option<&str>, body: &str) -> Incoming {
    let mut headers = HeaderMap::new();
    if let Some(index) = index {
        headers.insert("x-consul-index", index.parse().unwrap());
    }
    Incoming {
        status: StatusCode::OK,
        headers,
        body: body.to_owned().into(),
    }
}

fn entry_json(key: &str, value: &str) -> String {
    format!(
        r#"{{"Key":"{key}","Value":{value},"Flags":0,"CreateIndex":1,"ModifyIndex":2,"LockIndex":0}}"#
    )
}

#[test]
fn a_key_stays_what_it_is_in_a_path() {
    for (key, expected) in [
        ("cluster/a/slots/1", "cluster/a/slots/1"),
        ("tail/", "tail/"),
        ("a b", "a%20b"),
        ("100%?#", "100%25%3F%23"),
        ("ü", "%C3%BC"),
        ("a//b", "a%2F%2Fb"),
        ("/a", "%2Fa"),
        ("..", "%2E%2E"),
        ("a/../b", "a%2F%2E%2E%2Fb"),
        ("a/.", "a%2F%2E"),
        ("a..b/.c", "a..b/.c"),
    ] {
        assert_eq!(
            path(&Request::get(key)),
            format!("/v1/kv/{expected}?consistent")
        );
    }
}

#[test]
fn a_wait_is_asked_for_only_if_it_can_be_kept() {
    let get = |after, at_most| {
        path(&Request::Get {
            key: "k".to_owned(),
            consistency: Consistency::Default,
            wait: Some(Wait { after, at_most }),
        })
    };
    let second = Duration::from_secs(1);
    assert_eq!(get(7, second), "/v1/kv/k?index=7&wait=1000ms");
    assert_eq!(get(7, Duration::from_nanos(1)), "/v1/kv/k?index=7&wait=1ms");
    assert_eq!(get(7, second * 3600), "/v1/kv/k?index=7&wait=600000ms");
    assert_eq!(get(7, Duration::ZERO), "/v1/kv/k");
    assert_eq!(get(0, second), "/v1/kv/k");
}

#[test]
fn what_no_server_would_take_is_not_sent() {
    let session = |id: &str| Request::SessionRenew(SessionId(id.into()));
    for request in [
        Request::get(""),
        Request::get("a\nb"),
        Request::get("k".repeat(KEY_LEN_MAX + 1)),
        Request::put("k", vec![0; VALUE_LEN_MAX + 1], Condition::Any),
        Request::put("k", "v", Condition::Unchanged(0)),
        Request::Delete {
            key: "k".to_owned(),
            condition: Condition::Absent,
        },
        session(""),
        session("a b"),
    ] {
        let failure = encode(&request).unwrap_err();
        assert_eq!(
            (failure.is_determinate(), failure.kind),
            (true, FailureKind::Invalid)
        );
    }
}

#[test]
fn an_index_that_went_backwards_begins_anew_and_is_never_0_otherwise() {
    let read = |after: Option<u64>, index: &str| {
        let wait = after.map(|after| Wait {
            after,
            at_most: Duration::from_secs(1),
        });
        let request = Request::Get {
            key: "k".to_owned(),
            consistency: Consistency::Default,
            wait,
        };
        match decode(&request, &answer(Some(index), "[]")) {
            Ok(Response::Entry { index, .. }) => Some(index),
            _ => None,
        }
    };
    assert_eq!(read(None, "9"), Some(9));
    assert_eq!(read(None, "0"), Some(1));
    assert_eq!(read(Some(9), "9"), Some(9));
    assert_eq!(read(Some(9), "8"), Some(0));
    assert_eq!(read(Some(9), "+10"), None);
    assert_eq!(read(Some(9), "99999999999999999999"), None);
}

#[test]
fn hostile_answers_are_garbled() {
    let list = Request::list("a/");
    let get = Request::get("a/1");
    let (one, two) = (entry_json("a/1", "\"aGk=\""), entry_json("a/2", "null"));
    assert!(decode(&list, &answer(Some("5"), &format!("[{one},{two}]"))).is_ok());
    let deep = "[".repeat(100_000);
    for (request, index, body) in [
        (&list, None, "[]".to_owned()),
        (&list, Some("5"), format!("[{two},{one}]")),
        (&list, Some("5"), format!("[{one},{one}]")),
        (&list, Some("5"), format!("[{}]", entry_json("b/1", "null"))),
        (&get, Some("5"), format!("[{two}]")),
        (&get, Some("5"), format!("[{one},{one}]")),
        (&get, Some("5"), format!("[{}]", entry_json("a/1", "\"!\""))),
        (&get, Some("5"), "null".to_owned()),
        (&get, Some("5"), deep),
        (
            &Request::put("k", "v", Condition::Any),
            None,
            "maybe".to_owned(),
        ),
        (&Request::put("k", "v", Condition::Any), None, String::new()),
    ] {
        let failure = decode(request, &answer(index, &body)).unwrap_err();
        assert_eq!(
            (failure.is_determinate(), failure.kind),
            (false, FailureKind::Garbled)
        );
    }
}

fn every_request() -> Vec<Request> {
    let session = SessionId("s".into());
    let wait = Some(Wait {
        after: 9,
        at_most: Duration::from_secs(1),
    });
    vec![
        Request::get("k"),
        Request::List {
            prefix: "k".to_owned(),
            consistency: Consistency::Default,
            wait,
        },
        Request::put("k", "v", Condition::Any),
        Request::SessionRenew(session.clone()),
        Request::SessionDestroy(session),
        Request::SessionCreate(NewSession {
            name: "n".to_owned(),
            ttl: Duration::from_secs(10),
            behavior: Behavior::Delete,
            lock_delay: Duration::ZERO,
        }),
    ]
}

proptest! {
    #[test]
    fn whatever_comes_is_read_or_garbled(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        json in r#"[\[{]{0,2}("(Key|Value|ModifyIndex|ID|Session)":("k"|"aGk="|null|-?[0-9]{0,20}),?){0,5}[\]}]{0,2}"#,
        index in "[0-9]{0,21}",
    ) {
        for body in [bytes, json.into_bytes()] {
            let mut answer = answer(Some(&index), "");
            answer.body = body.into();
            for request in every_request() {
                if let Err(failure) = decode(&request, &answer) {
                    prop_assert_eq!(failure.kind, FailureKind::Garbled);
                    prop_assert!(!failure.is_determinate());
                }
            }
        }
    }

    #[test]
    fn an_entry_comes_back_as_it_was(
        key in "[^\\p{Cc}]{1,30}",
        value in proptest::collection::vec(any::<u8>(), 0..50),
        indexes in (1..u64::MAX, 1..u64::MAX, any::<u64>()),
        session in proptest::option::of("[a-f0-9-]{1,36}"),
    ) {
        let (create_index, modify_index, lock_index) = indexes;
        let body = json!([{
            "Key": key, "Value": STANDARD.encode(&value), "Flags": 0, "CreateIndex": create_index,
            "ModifyIndex": modify_index, "LockIndex": lock_index, "Session": session,
        }]);
        let entry = Entry {
            key: key.clone(),
            value: value.into(),
            create_index,
            modify_index,
            lock_index,
            session: session.map(|id| SessionId(id.into())),
        };
        let found = decode(&Request::get(key), &answer(Some("7"), &body.to_string()));
        prop_assert_eq!(found, Ok(Response::Entry { index: 7, entry: Some(entry) }));
    }

    #[test]
    fn a_path_has_nothing_that_ends_it_or_climbs_out_of_it(key in "[^\\p{Cc}]{1,30}") {
        let call = encode(&Request::put(key.clone(), "v", Condition::Any)).unwrap();
        let path = call.path_and_query.strip_prefix("/v1/kv/").unwrap();
        prop_assert!(path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~/%".contains(&b)));
        prop_assert!(!path.split('/').any(|s| matches!(s, "." | "..")) && !path.contains("//"));
        let decoded = percent_encoding::percent_decode_str(path).decode_utf8().unwrap();
        prop_assert_eq!(decoded, key);
    }
}
