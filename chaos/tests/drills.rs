//! Drills: what is wrong with a file is told with its place, and every check of a round can fail.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::time::Duration;

use holdfast_chaos::drill::stats::{RTO, of_rounds};
use holdfast_chaos::drill::{DrillVerdict, judge};
use holdfast_chaos::{Disaster, DrillScenario, FailureClass};
use holdfast_plan::WorldKind;
use holdfast_plan::drill::{Blow, Heal, Mark, Point, Rejoin, Round, Target, Transport};
use holdfast_workload::{Found, History, Outcome, RegisterOp, Write};
use insta::assert_snapshot;

const FAILOVER: &str = r#"
name = "failover"
description = "The leader is killed."
worlds = ["core", "kernel"]

[drill]
blow = { kind = "kill", target = "leader", what = "database" }
heal_after_write = "5s"

[expect]
failovers = 1
write_gap = "30s"
whole_within = "40s"
rejoin = ["replay", "rewind"]
"#;

fn failover() -> DrillScenario {
    DrillScenario::parse("", FAILOVER).unwrap_or_else(|problems| panic!("\n{problems}"))
}

fn with(from: &str, to: &str) -> DrillScenario {
    assert!(FAILOVER.contains(from));
    let text = FAILOVER.replace(from, to);
    DrillScenario::parse("", &text).unwrap_or_else(|problems| panic!("\n{problems}"))
}

fn problems(text: &str) -> String {
    match Disaster::parse("drill.toml", text) {
        Ok(_) => "no problem".to_owned(),
        Err(problems) => problems.to_string(),
    }
}

const fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// A round in which everything is as it should be: the leader dies after 10 s, another leads after
/// 34 s, and the old one is back after 50 s.
fn round() -> Round {
    let mark = |at, point| Mark {
        at: s(at),
        point,
        member: None,
        source: "a test".to_owned(),
    };
    let mut history = History::default();
    for (id, at) in (0..).zip((0..10).chain(34..60)) {
        for worker in 0..3 {
            history.writes.push(Write {
                id: 1_000 * worker + id,
                member: format!("worker-{}", worker + 1),
                asked: s(at),
                ended: s(at) + Duration::from_millis(5),
                outcome: Outcome::Acknowledged,
                server: Some("127.50.0.2 timeline 1".to_owned()),
                error: None,
            });
        }
    }
    history.writes.push(Write {
        id: 900,
        asked: s(10),
        ended: s(11),
        outcome: Outcome::Unknown,
        ..history.writes[0].clone()
    });
    let there = history
        .writes
        .iter()
        .filter(|w| w.outcome == Outcome::Acknowledged);
    let there = there.map(|w| Found { id: w.id, times: 1 }).collect();
    history.found = Some(there);
    for (at, wrote, read) in [(1, Some(7), None), (3, None, Some(7)), (40, None, Some(7))] {
        history.register.push(RegisterOp {
            client: 1,
            asked: s(at),
            ended: s(at + 1),
            wrote,
            read,
            outcome: Outcome::Acknowledged,
        });
    }
    Round {
        seed: 3,
        phase: 500,
        leader: "worker-1".to_owned(),
        struck: vec!["worker-1".to_owned()],
        leader_after: Some("worker-2".to_owned()),
        timelines: (1, 2),
        marks: vec![
            mark(9, Point::LastAcknowledged),
            mark(10, Point::Fault),
            mark(33, Point::KeyFree),
            mark(34, Point::Promoted),
            mark(34, Point::FirstAcknowledged),
            mark(39, Point::Healed),
            mark(50, Point::OldBack),
            mark(50, Point::Whole),
        ],
        history,
        rejoins: vec![("worker-1".to_owned(), Rejoin::Rewind)],
        two_primaries_ms: 0,
        two_led_ms: 0,
        notes: Vec::new(),
        crashes: Vec::new(),
        cut_short: false,
    }
}

/// Which oracles saw something, and how bad it is.
fn seen(verdict: &DrillVerdict) -> Vec<(FailureClass, &'static str)> {
    verdict
        .violations
        .iter()
        .map(|v| (v.class, v.oracle))
        .collect()
}

fn judged(change: impl FnOnce(&mut Round)) -> Vec<(FailureClass, &'static str)> {
    let mut round = round();
    change(&mut round);
    seen(&judge(&failover(), &round))
}

#[test]
fn a_round_in_which_all_is_well_holds() {
    let verdict = judge(&failover(), &round());
    assert!(verdict.held(), "{verdict:?}");
    assert_eq!(verdict.exit_code(), 0);
    assert_eq!(verdict.durability.unknown, 1);
    let found = of_rounds([round()].iter());
    let rto = found.iter().find(|stats| stats.span == RTO).unwrap();
    assert_eq!(rto.p50_ms, 24_000.0);
}

#[test]
fn a_lost_a_double_an_invented_and_a_failed_row_are_each_seen() {
    let wrong = [(FailureClass::Correctness, "durability")];
    fn found(round: &mut Round) -> &mut Vec<Found> {
        round.history.found.as_mut().unwrap()
    }
    let lose = |r: &mut Round| {
        found(r).remove(4);
    };
    assert_eq!(judged(lose), wrong);
    assert_eq!(judged(|r| found(r)[4].times = 2), wrong);
    assert_eq!(
        judged(|r| found(r).push(Found {
            id: 77_777,
            times: 1
        })),
        wrong
    );
    let failed = |r: &mut Round| r.history.writes[12].outcome = Outcome::Failed;
    assert_eq!(judged(failed), wrong);
    let mut round = round();
    found(&mut round).remove(4);
    let verdict = judge(&failover(), &round);
    assert_eq!(verdict.exit_code(), FailureClass::Correctness.exit_code());
    let detail = &verdict.violations[0].detail;
    assert!(
        detail.starts_with("1 of 108 acknowledged writes lost: 1001 (asked at 1.000s"),
        "{detail}"
    );
}

#[test]
fn a_stale_read_two_primaries_and_an_unwanted_failover_are_seen() {
    let stale = |r: &mut Round| r.history.register[1].read = Some(0);
    assert_eq!(judged(stale), [(FailureClass::Correctness, "linearizable")]);
    let late = |r: &mut Round| r.history.register[2].asked = s(20);
    assert_eq!(judged(late), [(FailureClass::Harness, "linearizable")]);
    let early = |r: &mut Round| {
        r.history.register.remove(1);
    };
    assert_eq!(judged(early), [(FailureClass::Harness, "linearizable")]);
    let nobody = |r: &mut Round| r.history.register.clear();
    assert_eq!(judged(nobody), [(FailureClass::Harness, "linearizable")]);
    let two = |r: &mut Round| r.two_primaries_ms = 1;
    assert_eq!(judged(two), [(FailureClass::Correctness, "primaries")]);
    let often = |r: &mut Round| r.timelines.1 = 3;
    assert_eq!(judged(often), [(FailureClass::Correctness, "failovers")]);
    let never = |r: &mut Round| r.timelines.1 = 1;
    assert_eq!(judged(never), [(FailureClass::Liveness, "failovers")]);
}

#[test]
fn what_takes_too_long_or_comes_back_by_a_copy_is_seen() {
    let gap = |r: &mut Round| {
        r.history
            .writes
            .retain(|w| w.asked < s(10) || w.asked > s(41));
        let left: Vec<u64> = r.history.writes.iter().map(|w| w.id).collect();
        r.history
            .found
            .as_mut()
            .unwrap()
            .retain(|row| left.contains(&row.id));
    };
    assert_eq!(judged(gap), [(FailureClass::Liveness, "write-gap")]);
    let whole = |r: &mut Round| r.marks.last_mut().unwrap().at = s(80);
    assert_eq!(judged(whole), [(FailureClass::Liveness, "whole")]);
    let copy = |r: &mut Round| r.rejoins[0].1 = Rejoin::Copy;
    assert_eq!(judged(copy), [(FailureClass::Liveness, "rejoin")]);
    let unseen = |r: &mut Round| r.rejoins.clear();
    assert_eq!(judged(unseen), [(FailureClass::Liveness, "rejoin")]);
}

/// The writes through one endpoint that were over within some seconds failed.
fn fail(round: &mut Round, member: &str, within: std::ops::Range<u64>) {
    for write in &mut round.history.writes {
        if write.member == member && within.contains(&write.ended.as_secs()) {
            write.outcome = Outcome::Failed;
            let found = round.history.found.as_mut().unwrap();
            found.retain(|row| row.id != write.id);
        }
    }
}

#[test]
fn a_worker_whose_endpoint_never_finds_the_new_leader_is_seen() {
    let wrong = [(FailureClass::Liveness, "write-gap")];
    assert_eq!(judged(|r| fail(r, "worker-3", 34..45)), wrong);
    // Its database was killed, and its endpoint was not.
    assert_eq!(judged(|r| fail(r, "worker-1", 34..50)), wrong);
    let mut blind = round();
    fail(&mut blind, "worker-3", 34..60);
    let verdict = judge(&failover(), &blind);
    assert_eq!(seen(&verdict), [wrong[0], wrong[0]]);
    let detail = &verdict.violations[0].detail;
    assert!(detail.contains("through worker-3 from 9.005s"), "{detail}");
}

#[test]
fn a_worker_that_did_not_write_before_the_blow_or_not_at_all_is_seen() {
    let wrong = [(FailureClass::Harness, "played")];
    let late = [wrong[0], (FailureClass::Liveness, "write-gap")];
    assert_eq!(judged(|r| fail(r, "worker-1", 0..10)), late);
    let gone = |r: &mut Round| {
        fail(r, "worker-2", 0..60);
        r.history.writes.retain(|write| write.member != "worker-2");
    };
    assert_eq!(judged(gone), wrong);
}

#[test]
fn what_must_not_happen_whatever_the_blow_is_a_crash() {
    let crash = |r: &mut Round| r.crashes.push("the sidecar of worker-2 ended".to_owned());
    assert_eq!(judged(crash), [(FailureClass::Crash, "crash")]);
}

#[test]
fn a_round_that_was_cut_short_or_not_measured_is_no_success() {
    let short = |r: &mut Round| {
        r.cut_short = true;
        r.marks.pop();
    };
    assert_eq!(judged(short), [(FailureClass::Liveness, "whole")]);
    let unread = |r: &mut Round| r.history.found = None;
    assert_eq!(judged(unread), [(FailureClass::Harness, "played")]);
    let no_blow = |r: &mut Round| r.marks.retain(|mark| mark.point != Point::Fault);
    assert_eq!(judged(no_blow)[0], (FailureClass::Harness, "played"));
    let empty = judge(&failover(), &Round::default());
    assert!(!empty.held());
}

#[test]
fn what_is_outside_of_the_claim_is_named_and_only_then_a_loss_is_none() {
    let mut lossy = round();
    lossy.history.found.as_mut().unwrap().remove(4);
    let weak = "[database]\nparameters = { synchronous_commit = \"local\" }\n\n[drill]";
    let named = with("[drill]", weak);
    let listed = with("[expect]", "[expect]\noutside = [\"weak-commit\"]");
    let both = FAILOVER
        .replace("[drill]", weak)
        .replace("[expect]", "[expect]\noutside = [\"weak-commit\"]");
    let both = DrillScenario::parse("", &both).unwrap();

    let verdict = judge(&named, &lossy);
    assert_eq!(seen(&verdict), [(FailureClass::Correctness, "durability")]);
    let [outside] = verdict.outside.as_slice() else {
        panic!("{verdict:?}");
    };
    assert_eq!(
        outside.detail,
        "synchronous_commit = local, 1 acknowledged writes lost"
    );
    // Expected, and nothing of it is there.
    assert_eq!(
        seen(&judge(&listed, &round())),
        [(FailureClass::Harness, "outside")]
    );
    assert!(judge(&both, &lossy).held());
}

#[test]
fn a_cancelled_wait_is_named_and_indeterminate() {
    let text = FAILOVER.replace("[expect]", "[expect]\noutside = [\"cancelled-wait\"]");
    let cancelled = DrillScenario::parse("", &text).unwrap();
    assert_eq!(
        seen(&judge(&cancelled, &round())),
        [(FailureClass::Harness, "outside")]
    );
    let mut round = round();
    let last = round.history.writes.last_mut().unwrap();
    let told = "01000 WARNING: canceling wait for synchronous replication due to user request";
    last.error = Some(told.to_owned());
    let verdict = judge(&cancelled, &round);
    assert!(verdict.held(), "{verdict:?}");
    assert_eq!(verdict.outside.len(), 1);
}

#[test]
fn a_file_says_what_is_played_and_the_rest_is_as_patroni_has_it() {
    let drill = failover().drill();
    assert_eq!((drill.workers, drill.coordinators), (3, 3));
    assert_eq!(drill.transport, Transport::Mesh);
    assert_eq!(drill.heal_after, Heal::AfterWrite(s(5)));
    assert_eq!(drill.database.ttl, s(30));
    assert!(matches!(
        drill.blow,
        Blow::Kill {
            target: Target::Leader,
            ..
        }
    ));
    assert_eq!(failover().seeds(WorldKind::Core), 0..200);
    assert_eq!(failover().seeds(WorldKind::Kernel), 0..10);
    assert_eq!(failover().seeds(WorldKind::Turmoil), 0..0);
    let loopback = failover().drill_over(Transport::Loopback);
    assert_eq!(loopback.transport, Transport::Loopback);
}

#[test]
fn unknown_keys_wrong_types_and_missing_tables() {
    assert_snapshot!(problems(
        r#"
name = "drill"
description = "Wrong."
worlds = ["core", "turmoil"]
duration = "60s"

[database]
ttl = 30
synchronous = "quorom"
parameters = { work_mem = 7 }

[expect]
fail_overs = 1
lost_max = -1
"#
    ));
}

#[test]
fn keys_that_a_kind_of_blow_lacks_or_does_not_have() {
    assert_snapshot!(problems(
        r#"
name = "drill"
description = "Wrong."
worlds = ["core", "core"]
seeds = { kernel = 3 }

[drill]
blow = { kind = "kill", with_line = true, link = "delay=5ms" }
every = "0s"
"#
    ));
}

#[test]
fn settings_that_patroni_clamps_and_expectations_that_contradict_the_rest() {
    assert_snapshot!(problems(
        r#"
name = "other"
description = " "
worlds = []

[database]
ttl = "20s"
retry_timeout = "2s"
loop_wait = "20s"
synchronous = "off"
fill = "20GB"

[drill]
blow = { kind = "kill", target = "leader", what = "database", with_kv_leader = true }
coordinators = 1
heal_after = "1s"
heal_after_write = "1s"
write_bound = "10s"

[expect]
failovers = 0
write_gap = "60s"
lost_max = 3
rejoin = ["copy", "copy"]
"#
    ));
}
