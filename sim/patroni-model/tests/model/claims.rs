//! What must hold of every blow, and what may be lost where nothing is promised.

use holdfast_patroni_model::play;
use holdfast_plan::drill::{
    Blow, Drill, Heal, Processes, Rejoin, Round, Synchronous, Target, Transport,
};
use holdfast_workload::check::{durability, linearizable};
use holdfast_workload::{Durability, Outcome, Verdict};

use crate::drills::{drill, freeze, kill, partition, s, soft, with, with_kv_leader};

const SEEDS: u64 = 25;

/// Every blow inside of the claim.
fn blows() -> Vec<Drill> {
    let narrow = "delay=10ms,rate=20mbit,queue=5mb,loss=1/20";
    vec![
        soft(),
        with_kv_leader(),
        drill(kill(Target::Leader, Processes::Postmaster)),
        drill(kill(Target::Leader, Processes::Machine)),
        drill(kill(Target::Standby, Processes::Database)),
        drill(kill(Target::Turn, Processes::Machine)),
        drill(kill(Target::Leader, Processes::Agent)),
        freeze(true),
        freeze(false),
        partition(),
        drill(Blow::Switchover),
        drill(Blow::Wipe {
            target: Target::Leader,
        }),
        drill(Blow::Wipe {
            target: Target::Standby,
        }),
        drill(Blow::Pause),
        drill(Blow::RollingRestart),
        drill(Blow::Copy {
            link: narrow.to_owned(),
        }),
        drill(Blow::DiskStall {
            target: Target::Turn,
            for_ms: 3_000,
        }),
    ]
}

fn meshed(mut drill: Drill) -> Drill {
    drill.transport = Transport::Mesh;
    drill.link = Some("delay=5ms,jitter=1ms,loss=1/100".to_owned());
    drill
}

fn rounds(drill: &Drill) -> impl Iterator<Item = (Round, Durability)> {
    (0..SEEDS).map(|seed| {
        let round = play(drill, seed);
        let rows = durability(&round.history);
        (round, rows)
    })
}

fn lost(drill: &Drill) -> usize {
    rounds(drill).map(|(_, rows)| rows.lost.len()).sum()
}

#[test]
fn with_synchronous_standbys_nothing_acknowledged_is_lost_in_any_blow() {
    for synchronous in [Synchronous::Quorum, Synchronous::On] {
        for blow in blows() {
            for drill in [blow.clone(), meshed(blow.clone())] {
                let drill = with(synchronous, drill);
                for (round, rows) in rounds(&drill) {
                    let what = (synchronous, &drill.blow, round.seed, &round.notes);
                    assert!(rows.holds(), "{what:?}: {rows:?}");
                    assert!(!round.cut_short, "{what:?}");
                    assert_eq!(round.two_primaries_ms, 0, "{what:?}");
                    assert!(rows.acknowledged > 100, "{what:?}");
                }
            }
        }
    }
}

#[test]
fn with_synchronous_standbys_the_register_is_one() {
    for blow in blows() {
        for (round, _) in rounds(&blow).take(3) {
            let verdict = linearizable(&round.history.register);
            let what = (&blow.blow, round.seed);
            assert!(
                matches!(verdict, Verdict::Linearizable { .. }),
                "{what:?}: {verdict:?}"
            );
        }
    }
}

#[test]
fn without_them_a_cut_off_or_thawed_leader_has_acknowledged_what_is_lost() {
    for drill in [partition(), freeze(true), freeze(false)] {
        let drill = with(Synchronous::Off, drill);
        assert!(lost(&drill) > 0, "{:?}", drill.blow);
    }
}

#[test]
fn a_commit_that_waits_for_nobody_is_lost_with_a_leader_that_is_cut_off() {
    let mut weak = partition();
    weak.database.parameters = vec![("synchronous_commit".to_owned(), "local".to_owned())];
    assert!(lost(&weak) > 0);
}

#[test]
fn a_failover_that_is_forced_to_a_replica_that_lags_loses_what_it_lacks() {
    let forced = Drill {
        transport: Transport::Mesh,
        ..drill(Blow::ForceFailover)
    };
    assert!(lost(&forced) > 0);
    for (round, _) in rounds(&forced) {
        assert_ne!(
            round.leader_after,
            Some(round.leader),
            "seed {}",
            round.seed
        );
    }
}

#[test]
fn a_wait_that_was_cancelled_is_unknown_and_nothing_acknowledged_is_lost() {
    let mut cancelled = drill(Blow::CancelWait);
    cancelled.heal_after = Heal::After(s(8));
    for (round, rows) in rounds(&cancelled) {
        let told = |error: &Option<String>| error.as_ref().is_some_and(|e| e.contains("WARNING"));
        let cancelled = round
            .history
            .writes
            .iter()
            .filter(|write| told(&write.error));
        let outcomes: Vec<Outcome> = cancelled.map(|write| write.outcome).collect();
        assert!(outcomes.len() > 10, "seed {}", round.seed);
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Unknown));
        assert!(rows.holds(), "seed {}: {rows:?}", round.seed);
        assert_eq!(round.timelines, (1, 1), "seed {}", round.seed);
    }
}

#[test]
fn nobody_takes_over_where_the_leader_still_leads() {
    let narrow = "delay=10ms,rate=20mbit,queue=5mb,loss=1/20";
    let drills = [
        drill(kill(Target::Leader, Processes::Agent)),
        drill(kill(Target::Standby, Processes::Database)),
        drill(Blow::Pause),
        drill(Blow::Copy {
            link: narrow.to_owned(),
        }),
        drill(Blow::DiskStall {
            target: Target::Turn,
            for_ms: 3_000,
        }),
        drill(Blow::Wipe {
            target: Target::Standby,
        }),
    ];
    for drill in drills {
        for (round, _) in rounds(&drill) {
            let what = (&drill.blow, round.seed);
            assert_eq!(round.timelines, (1, 1), "{what:?}");
            assert_eq!(round.leader_after.as_ref(), Some(&round.leader), "{what:?}");
        }
    }
}

#[test]
fn a_killed_leader_comes_back_by_its_wal_or_by_a_rewind_and_a_wiped_one_by_a_copy() {
    for (round, _) in rounds(&soft()) {
        let [(who, how)] = round.rejoins.as_slice() else {
            panic!("seed {}: {:?}", round.seed, round.rejoins);
        };
        assert_eq!(*who, round.leader);
        assert_ne!(*how, Rejoin::Copy, "seed {}", round.seed);
    }
    for (round, _) in rounds(&drill(Blow::Wipe {
        target: Target::Leader,
    })) {
        let expected = vec![(round.leader.clone(), Rejoin::Copy)];
        assert_eq!(round.rejoins, expected, "seed {}", round.seed);
    }
}

#[test]
fn a_killed_standby_of_a_quorum_stalls_nobody() {
    let standby = drill(kill(Target::Standby, Processes::Database));
    let gaps = crate::drills::Times::gap(&standby, SEEDS);
    assert!(gaps.percentile(100) < 1.0, "{:?}", gaps.0);
}

#[test]
fn moments_come_in_their_order() {
    for (round, _) in rounds(&soft()) {
        let times: Vec<_> = round.marks.iter().map(|mark| mark.at).collect();
        assert!(times.is_sorted(), "seed {}", round.seed);
        let points: Vec<_> = round.marks.iter().map(|mark| mark.point).collect();
        assert_eq!(points.len(), 11, "seed {}: {points:?}", round.seed);
    }
}
