//! Plays drills without the harness: `drill NAME TRANSPORT SEEDS [FILL_MB]`, a line for each round.
#![allow(
    clippy::unwrap_used,
    reason = "a program for those who work on this world"
)]

use std::env;
use std::time::{Duration, Instant};

use holdfast_kernel_world::drill::{obstacle, play};
use holdfast_plan::drill::*;
use holdfast_workload::Outcome;

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    let name = words[0].clone();
    let transport = match words[1].as_str() {
        "mesh" => Transport::Mesh,
        _ => Transport::Loopback,
    };
    let count: u64 = words[2].parse().unwrap();
    let fill: u64 = words
        .get(3)
        .map_or(0, |mb| mb.parse::<u64>().unwrap() << 20);
    let kill = |target, what, with_kv_leader| Blow::Kill {
        target,
        what,
        with_kv_leader,
    };
    let second = Duration::from_secs(1);
    let (blow, heal) = match name.as_str() {
        "failover-soft" => (
            kill(Target::Leader, Processes::Database, false),
            Heal::AfterWrite(second),
        ),
        "failover-postmaster" => (
            kill(Target::Leader, Processes::Postmaster, false),
            Heal::AfterWrite(second),
        ),
        "failover-hard" => (
            kill(Target::Leader, Processes::Machine, false),
            Heal::AfterWrite(second),
        ),
        "failover-freeze" => (
            Blow::Freeze {
                target: Target::Leader,
                with_line: true,
            },
            Heal::AfterWrite(second * 5),
        ),
        "failover-stop" => (
            Blow::Freeze {
                target: Target::Leader,
                with_line: false,
            },
            Heal::AfterWrite(second * 5),
        ),
        "failover-partition" => (
            Blow::Partition {
                target: Target::Leader,
            },
            Heal::AfterWrite(second * 5),
        ),
        "failover-kv-leader" => (
            kill(Target::Leader, Processes::Database, true),
            Heal::AfterWrite(second),
        ),
        "switchover" => (Blow::Switchover, Heal::After(second)),
        "disk-loss-replica" => (
            Blow::Wipe {
                target: Target::Standby,
            },
            Heal::After(second),
        ),
        "disk-loss-primary" => (
            Blow::Wipe {
                target: Target::Leader,
            },
            Heal::AfterWrite(second),
        ),
        "standby-killed" => (
            kill(Target::Standby, Processes::Database, false),
            Heal::After(second * 5),
        ),
        "consul-agent-restart" => (
            kill(Target::Leader, Processes::Agent, false),
            Heal::After(second),
        ),
        "pause" => (Blow::Pause, Heal::After(second)),
        "rolling-restart" => (Blow::RollingRestart, Heal::After(second)),
        "disk-stall" => (
            Blow::DiskStall {
                target: Target::Turn,
                for_ms: 3_000,
            },
            Heal::After(second * 5),
        ),
        "copy" => (
            Blow::Copy {
                link: "delay=10ms,loss=5/100,rate=20mbit,queue=5mb".to_owned(),
            },
            Heal::After(second),
        ),
        "cancelled-wait" => (Blow::CancelWait, Heal::After(second * 10)),
        "forced-failover" => (Blow::ForceFailover, Heal::After(second * 5)),
        other => panic!("no {other}"),
    };
    let drill = Drill {
        name,
        database: Database {
            ttl: second * 30,
            loop_wait: second * 10,
            retry_timeout: second * 10,
            synchronous: Synchronous::Quorum,
            fill,
            parameters: Vec::new(),
        },
        transport,
        link: words.get(4).cloned(),
        workers: 3,
        coordinators: 3,
        work: Work {
            writers: 2,
            every: Duration::from_millis(50),
            deadline: second,
        },
        blow,
        heal_after: heal,
        write_bound: second * 90,
        whole_bound: second * 180,
    };
    if let Some(why) = obstacle(&drill) {
        eprintln!("obstacle: {why}");
        return;
    }
    let begun = Instant::now();
    let seeds: Vec<u64> = (1..=count).collect();
    let played = play(&drill, &seeds, &mut |round| {
        let at = |point| round.at(point).map_or(f64::NAN, |at| at.as_secs_f64());
        let fault = at(Point::Fault);
        let acked: Vec<_> = round
            .history
            .writes
            .iter()
            .filter(|w| w.outcome == Outcome::Acknowledged)
            .collect();
        let mut ends: Vec<_> = acked.iter().map(|w| w.ended).collect();
        ends.sort();
        let gap = ends
            .windows(2)
            .map(|w| w[1] - w[0])
            .max()
            .unwrap_or_default();
        let lost = round.history.found.as_ref().map(|found| {
            let there: std::collections::BTreeSet<u64> = found.iter().map(|f| f.id).collect();
            acked.iter().filter(|w| !there.contains(&w.id)).count()
        });
        println!(
            "seed {} phase {} rto {:.2} gap {:.2} whole {:.2} lost {lost:?} of {} {}->{:?} tl {:?} two {} ms rejoins {:?} cut {} notes {:?} t {:.0?}",
            round.seed,
            round.phase,
            at(Point::FirstAcknowledged) - fault,
            gap.as_secs_f64(),
            at(Point::Whole) - fault,
            acked.len(),
            round.leader,
            round.leader_after,
            round.timelines,
            round.two_primaries_ms,
            round.rejoins,
            round.cut_short,
            round.notes,
            begun.elapsed()
        );
        for mark in &round.marks {
            println!(
                "    {:8.3} {:18} {:?} {}",
                mark.at.as_secs_f64() - fault,
                mark.point.as_str(),
                mark.member,
                mark.source
            );
        }
    });
    println!("{played:?} after {:.1?}", begun.elapsed());
}
