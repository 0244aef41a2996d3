//! Every check finds the mistake that it is for, and none where there is none.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::time::Duration;

use holdfast_workload::check::{
    durability, first_acknowledged, last_acknowledged, linearizable, longest_gap, write_gap,
};
use holdfast_workload::{Found, History, Outcome, RegisterOp, Verdict, Write};
use proptest::prelude::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn write(id: u64, at: u64, outcome: Outcome) -> Write {
    Write {
        id,
        member: "worker-1".to_owned(),
        asked: ms(at),
        ended: ms(at + 2),
        outcome,
        server: None,
        error: None,
    }
}

fn outcomes() -> impl Strategy<Value = Vec<Outcome>> {
    let outcome = prop_oneof![
        4 => Just(Outcome::Acknowledged),
        1 => Just(Outcome::Unknown),
        1 => Just(Outcome::Failed),
    ];
    prop::collection::vec(outcome, 2..60)
}

/// A history that is right: acknowledged rows are there, failed ones are not, of the unknown ones
/// every second.
fn right(outcomes: &[Outcome]) -> History {
    let mut history = History::default();
    let mut found = Vec::new();
    for (id, outcome) in (0_u64..).zip(outcomes) {
        history.writes.push(write(id, id * 10, *outcome));
        let there = match outcome {
            Outcome::Acknowledged => true,
            Outcome::Failed => false,
            Outcome::Unknown => id % 2 == 0,
        };
        if there {
            found.push(Found { id, times: 1 });
        }
    }
    history.found = Some(found);
    history
}

fn of(history: &History, outcome: Outcome) -> Vec<u64> {
    let writes = history.writes.iter().filter(|w| w.outcome == outcome);
    writes.map(|write| write.id).collect()
}

proptest! {
    #[test]
    fn a_history_that_is_right_holds(outcomes in outcomes()) {
        let result = durability(&right(&outcomes));
        prop_assert!(result.holds(), "{result:?}");
        prop_assert_eq!(
            result.acknowledged + result.unknown + result.failed,
            outcomes.len() as u64
        );
    }

    #[test]
    fn a_planted_loss_is_found_and_no_other(outcomes in outcomes(), pick in any::<prop::sample::Index>()) {
        let mut history = right(&outcomes);
        let acknowledged = of(&history, Outcome::Acknowledged);
        prop_assume!(!acknowledged.is_empty());
        let victim = *pick.get(&acknowledged);
        history.found.as_mut().unwrap().retain(|row| row.id != victim);
        let result = durability(&history);
        prop_assert_eq!(&result.lost, &vec![victim]);
        prop_assert!(!result.holds());
    }

    #[test]
    fn a_planted_duplicate_is_found(outcomes in outcomes(), pick in any::<prop::sample::Index>(), apart in any::<bool>()) {
        let mut history = right(&outcomes);
        let found = history.found.as_mut().unwrap();
        prop_assume!(!found.is_empty());
        let at = pick.index(found.len());
        let id = found[at].id;
        match apart {
            true => found.push(Found { id, times: 1 }),
            false => found[at].times = 2,
        }
        prop_assert_eq!(durability(&history).duplicated, vec![id]);
    }

    #[test]
    fn an_invented_row_and_one_that_had_failed_are_found(outcomes in outcomes(), pick in any::<prop::sample::Index>()) {
        let mut history = right(&outcomes);
        let failed = of(&history, Outcome::Failed);
        let found = history.found.as_mut().unwrap();
        found.push(Found { id: 1 << 40, times: 1 });
        let there = (!failed.is_empty()).then(|| *pick.get(&failed));
        found.extend(there.map(|id| Found { id, times: 1 }));
        let result = durability(&history);
        prop_assert_eq!(&result.invented, &vec![1 << 40]);
        prop_assert_eq!(&result.failed_but_there, &Vec::from_iter(there));
    }
}

#[test]
fn what_was_not_read_does_not_hold() {
    let mut history = right(&[Outcome::Acknowledged]);
    history.found = None;
    assert!(!durability(&history).holds());
}

#[test]
fn a_gap_is_between_two_acknowledged_writes_and_around_its_blow() {
    let mut history = History::default();
    for (id, at) in [(0, 100), (1, 200), (2, 5_000), (3, 5_100), (4, 15_000)] {
        history.writes.push(write(id, at, Outcome::Acknowledged));
    }
    history.writes.push(write(9, 1_000, Outcome::Unknown));
    let gap = write_gap(&history, ms(300));
    assert_eq!((gap.from, gap.to, gap.ended), (ms(5_102), ms(15_002), true));
    history.writes.retain(|w| w.id != 4);
    let gap = write_gap(&history, ms(300));
    assert_eq!((gap.from, gap.to, gap.ended), (ms(202), ms(5_002), true));
    assert_eq!(write_gap(&history, ms(5_003)).length(), ms(100));
    assert_eq!(longest_gap(&history).length(), ms(4_800));
    assert_eq!(last_acknowledged(&history, ms(300)), Some(ms(200)));
    assert_eq!(first_acknowledged(&history, ms(300)), Some(ms(5_002)));
}

#[test]
fn a_gap_that_no_write_ends_says_so() {
    let mut history = History::default();
    history.writes.push(write(0, 100, Outcome::Acknowledged));
    history.writes.push(write(1, 9_000, Outcome::Unknown));
    let gap = write_gap(&history, ms(500));
    assert_eq!((gap.length(), gap.ended), (ms(8_900), false));
    assert_eq!(first_acknowledged(&history, ms(500)), None);
}

fn op(client: u16, from: u64, to: u64, wrote: Option<u64>, read: Option<u64>) -> RegisterOp {
    RegisterOp {
        client,
        asked: ms(from),
        ended: ms(to),
        wrote,
        read,
        outcome: Outcome::Acknowledged,
    }
}

/// What clients of a real register see: each operation takes effect at an instant within its own
/// time, at which the value is read or written.
fn true_register(steps: &[(u16, u64, u64, bool, bool)]) -> Vec<RegisterOp> {
    let mut ops = Vec::new();
    let mut value = 0;
    for (n, (client, before, after, is_write, is_unknown)) in steps.iter().enumerate() {
        let effect = 100 * (n as u64 + 1);
        let (from, to) = (effect.saturating_sub(*before), effect + after);
        let outcome = match is_unknown {
            true => Outcome::Unknown,
            false => Outcome::Acknowledged,
        };
        let written = n as u64 + 1;
        let made = match is_write {
            true => {
                value = written;
                op(*client, from, to, Some(written), None)
            }
            false => op(*client, from, to, None, (!is_unknown).then_some(value)),
        };
        ops.push(RegisterOp { outcome, ..made });
    }
    ops
}

fn steps() -> impl Strategy<Value = Vec<(u16, u64, u64, bool, bool)>> {
    let step = (
        0_u16..4,
        0_u64..400,
        0_u64..400,
        any::<bool>(),
        prop::bool::weighted(0.2),
    );
    prop::collection::vec(step, 1..40)
}

proptest! {
    #[test]
    fn what_a_true_register_does_is_linearizable(steps in steps()) {
        let verdict = linearizable(&true_register(&steps));
        prop_assert!(matches!(verdict, Verdict::Linearizable { .. }), "{verdict:?}");
    }

    #[test]
    fn a_stale_read_after_it_all_is_rejected(steps in steps(), stale in any::<prop::sample::Index>()) {
        let mut ops = true_register(&steps);
        // A write that is over before the read begins, and an older value that it returns.
        let end = 100 * (steps.len() as u64 + 10);
        ops.push(op(7, end, end + 10, Some(9_999), None));
        let mut old: Vec<u64> = ops.iter().filter(|op| op.outcome == Outcome::Acknowledged).filter_map(|op| op.wrote).filter(|v| *v != 9_999).collect();
        old.push(0);
        let value = *stale.get(&old);
        ops.push(op(8, end + 20, end + 30, None, Some(value)));
        let verdict = linearizable(&ops);
        prop_assert!(matches!(verdict, Verdict::Violated { .. }), "{verdict:?}");
    }
}

#[test]
fn a_lost_write_is_rejected_and_the_read_that_shows_it_is_named() {
    let ops = [
        op(0, 0, 10, Some(1), None),
        op(0, 20, 30, Some(2), None),
        op(1, 40, 50, None, Some(1)),
        op(1, 60, 70, None, Some(1)),
    ];
    let Verdict::Violated { why } = linearizable(&ops) else {
        panic!("a lost write is linearizable?");
    };
    assert!(
        why.starts_with("client 1 read 1 between 0.040s and 0.050s"),
        "{why}"
    );
}

#[test]
fn an_unknown_write_may_be_late_or_never_but_not_come_and_go() {
    let unknown = RegisterOp {
        outcome: Outcome::Unknown,
        ..op(0, 0, 10, Some(1), None)
    };
    let late = [
        unknown.clone(),
        op(1, 20, 30, None, Some(0)),
        op(1, 90, 99, None, Some(1)),
    ];
    let never = [unknown.clone(), op(1, 20, 30, None, Some(0))];
    let gone = [
        unknown,
        op(1, 20, 30, None, Some(1)),
        op(1, 90, 99, None, Some(0)),
    ];
    assert!(matches!(linearizable(&late), Verdict::Linearizable { .. }));
    assert!(matches!(linearizable(&never), Verdict::Linearizable { .. }));
    assert!(matches!(linearizable(&gone), Verdict::Violated { .. }));
}

#[test]
fn values_that_nobody_wrote_or_that_had_failed_are_rejected() {
    let invented = [op(0, 0, 10, None, Some(5))];
    let failed = RegisterOp {
        outcome: Outcome::Failed,
        ..op(0, 0, 10, Some(5), None)
    };
    let read = op(1, 20, 30, None, Some(5));
    assert!(matches!(linearizable(&invented), Verdict::Violated { .. }));
    assert!(matches!(
        linearizable(&[failed, read]),
        Verdict::Violated { .. }
    ));
}
