//! Sessions: their ends, and what becomes of what they hold.
//!
//! A session may live for up to twice its TTL, and Consul's shortest is 10 s: the longest cases.

use std::time::Duration;

use holdfast_io::kv::{Behavior, FailureKind, NewSession, Request, Response, SessionId};

use super::locks::session;
use super::{Case, SLACK, Test, cases};

pub(super) fn cases() -> Vec<Case> {
    cases![
        a_session_that_ends_leaves_its_entries,
        a_session_that_ends_deletes_its_entries,
        a_session_that_is_gone_cannot_be_renewed,
        ending_no_session_succeeds,
        a_session_ends_between_once_and_twice_its_ttl,
        a_renewal_puts_the_end_off,
        a_session_that_expired_deletes_its_entries,
        a_session_needs_a_ttl_within_limits,
    ]
}

/// Consul's shortest.
const TTL: Duration = Duration::from_secs(10);

async fn short(test: &Test, behavior: Behavior) -> SessionId {
    let request = Request::SessionCreate(NewSession {
        name: "short".to_owned(),
        ttl: TTL,
        behavior,
        lock_delay: Duration::ZERO,
    });
    match test.call(request).await.unwrap() {
        Response::Session(session) => session,
        other => panic!("expected a session, found {other:?}"),
    }
}

async fn a_session_that_ends_leaves_its_entries(test: Test) {
    let session = session(&test, Behavior::Release, Duration::ZERO).await;
    assert!(test.acquire("held", "a", &session).await);
    let before = test.get("held").await.unwrap();
    test.destroy(&session).await;
    let entry = test.get("held").await.unwrap();
    assert_eq!(
        (entry.value, entry.session, entry.lock_index),
        ("a".into(), None, 1)
    );
    assert!(
        entry.modify_index > before.modify_index,
        "a watcher would not see it"
    );
}

async fn a_session_that_ends_deletes_its_entries(test: Test) {
    let session = session(&test, Behavior::Delete, Duration::ZERO).await;
    for name in ["a", "b"] {
        assert!(test.acquire(name, "x", &session).await);
    }
    assert!(test.acquire("released", "x", &session).await);
    assert!(test.release("released", "x", &session).await);
    test.destroy(&session).await;
    for (name, there) in [("a", false), ("b", false), ("released", true)] {
        assert_eq!(test.get(name).await.is_some(), there, "{name}");
    }
}

async fn a_session_that_is_gone_cannot_be_renewed(test: Test) {
    let session = session(&test, Behavior::Release, Duration::ZERO).await;
    assert!(test.renew(&session).await);
    test.destroy(&session).await;
    assert!(!test.renew(&session).await);
    assert!(!test.renew(&SessionId("none".into())).await);
}

async fn ending_no_session_succeeds(test: Test) {
    let session = session(&test, Behavior::Release, Duration::ZERO).await;
    test.destroy(&session).await;
    test.destroy(&session).await;
    test.destroy(&SessionId("00000000-0000-0000-0000-000000000000".into()))
        .await;
}

async fn a_session_ends_between_once_and_twice_its_ttl(test: Test) {
    let began = test.now();
    let session = short(&test, Behavior::Release).await;
    assert!(test.acquire("held", "a", &session).await);
    let made = test.now();
    let ended = test
        .until("held", TTL * 2 + SLACK, |entry| {
            entry.unwrap().session.is_none()
        })
        .await;
    assert!(ended - began >= TTL, "it ended after {:?}", ended - began);
    assert!(
        ended - made <= TTL * 2 + SLACK,
        "it ended after {:?}",
        ended - made
    );
    assert!(!test.renew(&session).await);
}

async fn a_renewal_puts_the_end_off(test: Test) {
    let session = short(&test, Behavior::Release).await;
    assert!(test.acquire("held", "a", &session).await);
    let made = test.now();
    // The last check comes after twice the TTL, and less than one TTL after the last renewal.
    for _ in 0..3 {
        test.sleep(TTL * 7 / 10).await;
        assert!(
            test.renew(&session).await,
            "ended {:?} after it was made",
            test.now() - made
        );
    }
    let entry = test.get("held").await.unwrap();
    assert!(test.now() - made > TTL * 2);
    assert_eq!(entry.session, Some(session.clone()));
    test.destroy(&session).await;
}

async fn a_session_that_expired_deletes_its_entries(test: Test) {
    let session = short(&test, Behavior::Delete).await;
    let began = test.now();
    assert!(test.acquire("held", "a", &session).await);
    let ended = test
        .until("held", TTL * 2 + SLACK, |entry| entry.is_none())
        .await;
    assert!(
        ended - began + Duration::from_secs(1) >= TTL,
        "gone after {:?}",
        ended - began
    );
}

async fn a_session_needs_a_ttl_within_limits(test: Test) {
    let second = Duration::from_secs(1);
    for ttl in [Duration::ZERO, TTL - second, second * 86_401] {
        let failure = test
            .refused(Request::SessionCreate(NewSession {
                name: String::new(),
                ttl,
                behavior: Behavior::Release,
                lock_delay: Duration::ZERO,
            }))
            .await;
        let found = (failure.is_determinate(), failure.kind);
        assert_eq!(found, (true, FailureKind::Invalid), "{ttl:?}: {failure}");
    }
}
