//! Entries that a session holds.

use std::time::Duration;

use holdfast_io::kv::{Behavior, Condition, FailureKind, NewSession, Request, Response, SessionId};

use super::{Case, SLACK, Test, cases, join_all};

pub(super) fn cases() -> Vec<Case> {
    cases![
        a_lock_is_held_by_one,
        the_lock_index_counts_acquisitions,
        a_lock_does_not_keep_others_from_writing,
        a_released_lock_is_free_at_once,
        a_lock_needs_a_session_that_lives,
        an_acquisition_creates_the_entry,
        a_deleted_lock_is_free,
        a_lock_that_was_taken_away_is_free_after_its_delay,
        of_many_sessions_one_gets_the_lock,
    ]
}

/// Make a session that outlives its test.
pub(super) async fn session(test: &Test, behavior: Behavior, lock_delay: Duration) -> SessionId {
    let request = Request::SessionCreate(NewSession {
        name: "contract \"ü\"".to_owned(),
        ttl: Duration::from_secs(60),
        behavior,
        lock_delay,
    });
    match test.call(request).await.unwrap() {
        Response::Session(session) => session,
        other => panic!("expected a session, found {other:?}"),
    }
}

async fn plain(test: &Test) -> SessionId {
    session(test, Behavior::Release, Duration::ZERO).await
}

async fn a_lock_is_held_by_one(test: Test) {
    let (one, two) = (plain(&test).await, plain(&test).await);
    assert_ne!(one, two);
    assert!(test.acquire("lock", "one", &one).await);
    assert!(!test.acquire("lock", "two", &two).await);
    assert!(!test.release("lock", "two", &two).await);
    let entry = test.get("lock").await.unwrap();
    assert_eq!((entry.value, entry.session), ("one".into(), Some(one)));
}

async fn the_lock_index_counts_acquisitions(test: Test) {
    let (one, two) = (plain(&test).await, plain(&test).await);
    assert!(test.acquire("lock", "a", &one).await);
    let first = test.get("lock").await.unwrap();
    assert!(test.acquire("lock", "b", &one).await);
    let again = test.get("lock").await.unwrap();
    assert!(test.release("lock", "c", &one).await);
    let free = test.get("lock").await.unwrap();
    assert!(test.acquire("lock", "d", &two).await);
    let second = test.get("lock").await.unwrap();
    let counts = [&first, &again, &free, &second].map(|e| e.lock_index);
    assert_eq!(counts, [1, 1, 1, 2]);
    assert!(again.modify_index > first.modify_index);
    assert_eq!((free.value, free.session), ("c".into(), None));
    assert_eq!((second.value, second.session), ("d".into(), Some(two)));
}

async fn a_lock_does_not_keep_others_from_writing(test: Test) {
    let one = plain(&test).await;
    assert!(test.acquire("lock", "a", &one).await);
    assert!(test.put("lock", "b", Condition::Any).await);
    let entry = test.get("lock").await.unwrap();
    assert_eq!(
        (entry.value, entry.session.clone()),
        ("b".into(), Some(one.clone()))
    );
    let unchanged = Condition::Unchanged(entry.modify_index);
    assert!(test.put("lock", "c", unchanged).await);
    let entry = test.get("lock").await.unwrap();
    // Consul forgets how often it was acquired, and begins anew.
    assert_eq!((entry.session, entry.lock_index), (Some(one), 0));
}

async fn a_released_lock_is_free_at_once(test: Test) {
    let one = session(&test, Behavior::Release, Duration::from_secs(60)).await;
    let two = plain(&test).await;
    assert!(test.acquire("lock", "a", &one).await);
    assert!(test.release("lock", "b", &one).await);
    assert!(test.acquire("lock", "c", &two).await);
}

async fn a_lock_needs_a_session_that_lives(test: Test) {
    let dead = plain(&test).await;
    test.destroy(&dead).await;
    let unknown = SessionId("00000000-0000-0000-0000-000000000000".into());
    for session in [dead, unknown, SessionId("none".into())] {
        let failure = test
            .refused(Request::Acquire {
                key: test.key("lock"),
                value: "a".into(),
                session: session.clone(),
            })
            .await;
        let found = (failure.is_determinate(), failure.kind);
        assert_eq!(found, (true, FailureKind::NoSession), "{failure}");
        assert!(!test.release("lock", "a", &session).await);
    }
    assert_eq!(test.get("lock").await, None);
}

async fn an_acquisition_creates_the_entry(test: Test) {
    let one = plain(&test).await;
    assert!(test.acquire("new", "a", &one).await);
    let entry = test.get("new").await.unwrap();
    assert_eq!(
        (entry.create_index, entry.lock_index),
        (entry.modify_index, 1)
    );
}

async fn a_deleted_lock_is_free(test: Test) {
    let (one, two) = (plain(&test).await, plain(&test).await);
    assert!(test.acquire("lock", "a", &one).await);
    assert!(test.delete("lock", Condition::Any).await);
    assert!(test.acquire("lock", "b", &two).await);
    assert_eq!(test.get("lock").await.unwrap().session, Some(two));
}

async fn a_lock_that_was_taken_away_is_free_after_its_delay(test: Test) {
    let delay = Duration::from_secs(3);
    let one = session(&test, Behavior::Release, delay).await;
    let two = plain(&test).await;
    assert!(test.acquire("lock", "a", &one).await);
    let began = test.now();
    test.destroy(&one).await;
    assert_eq!(test.get("lock").await.unwrap().session, None);
    let mut refusals = 0;
    while !test.acquire("lock", "b", &two).await {
        refusals += 1;
        assert!(test.now() - began < delay + SLACK, "the delay does not end");
        test.sleep(Duration::from_millis(50)).await;
    }
    let took = test.now() - began;
    assert!(
        refusals > 0 && took >= delay,
        "free after {took:?}, {refusals} refusals"
    );
}

async fn of_many_sessions_one_gets_the_lock(test: Test) {
    let sessions = join_all((0..16).map(|_| plain(&test))).await;
    for _ in 0..4 {
        let won = join_all(sessions.iter().map(|s| test.acquire("lock", "x", s))).await;
        let winners: Vec<_> = (0..won.len()).filter(|i| won[*i]).collect();
        let holder = test.get("lock").await.unwrap().session;
        assert_eq!(winners.len(), 1);
        let winner = &sessions[winners[0]];
        assert_eq!(holder.as_ref(), Some(winner));
        assert!(test.release("lock", "", winner).await);
    }
}
