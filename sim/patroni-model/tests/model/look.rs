use std::time::Duration;
use holdfast_plan::drill::*;
use holdfast_workload::check::durability;
use crate::drills::*;

#[test]
fn look() {
    let mut list = vec![
      ("soft", soft()), ("postmaster", drill(kill(Target::Leader, Processes::Postmaster))), ("machine", drill(kill(Target::Leader, Processes::Machine))),
      ("freeze", drill(Blow::Freeze{target:Target::Leader, with_line:true})), ("freeze-proc", drill(Blow::Freeze{target:Target::Leader, with_line:false})),
      ("partition", drill(Blow::Partition{target:Target::Leader})), ("switchover", drill(Blow::Switchover)),
      ("standby", drill(kill(Target::Standby, Processes::Database))), ("agent", drill(kill(Target::Leader, Processes::Agent))),
      ("wipe leader", drill(Blow::Wipe{target: Target::Leader})), ("wipe standby", drill(Blow::Wipe{target: Target::Standby})),
      ("pause", drill(Blow::Pause)), ("rolling", drill(Blow::RollingRestart)), ("copy", drill(Blow::Copy{link: "delay=10ms,rate=20mbit,queue=5mb,loss=1/20".into()})),
      ("disk", drill(Blow::DiskStall{target: Target::Turn, for_ms: 3000})), ("cancel", Drill { heal_after: Heal::After(s(8)), ..drill(Blow::CancelWait)}), ("force", drill(Blow::ForceFailover)),
      ("kv", drill(Blow::Kill{target:Target::Leader, what: Processes::Database, with_kv_leader: true})),
    ];
    for sync in [Synchronous::Quorum, Synchronous::On, Synchronous::Off] {
    for (name, d) in &mut list {
        d.database.synchronous = sync;
        let n = 60;
        let begin = std::time::Instant::now();
        if let Some(r) = (0..30).map(|s| holdfast_patroni_model::play(d, s)).find(|r| !matches!(holdfast_workload::check::linearizable(&r.history.register), holdfast_workload::Verdict::Linearizable{..})) { println!("  {} seed {}: {:?}", name, r.seed, holdfast_workload::check::linearizable(&r.history.register)); }
 let rounds: Vec<Round> = (0..n).map(|seed| holdfast_patroni_model::play(d, seed)).collect();
        let took = begin.elapsed();
        let span = |f: &dyn Fn(&Round)->Option<Duration>| { let mut v: Vec<f64> = rounds.iter().filter_map(|r| f(r)).map(|x| x.as_secs_f64()).collect(); v.sort_by(f64::total_cmp); if v.is_empty() { "-".to_string() } else { format!("{:.2}/{:.2}/{:.2}", v[0], v[v.len()/2], v[v.len()-1]) } };
        let pts = |a: Point, b: Point| span(&|r| Some(r.at(b)?.checked_sub(r.at(a)?)?));
        let gap = span(&|r| { let g = holdfast_workload::check::write_gap(&r.history, r.at(Point::Fault)?); Some(g.length()) });
        let d: Vec<_> = rounds.iter().map(|r| durability(&r.history)).collect();
        let lost: usize = d.iter().map(|d| d.lost.len()).sum();
        let bad: usize = d.iter().filter(|d| !d.read || !d.duplicated.is_empty() || !d.invented.is_empty() || !d.failed_but_there.is_empty()).count();
        let cut = rounds.iter().filter(|r| r.cut_short).count();
        let moved = rounds.iter().filter(|r| r.timelines.1 != r.timelines.0).count();
        let two = rounds.iter().map(|r| r.two_primaries_ms).max().unwrap();
        let mut rj = std::collections::BTreeMap::new(); for r in &rounds { for (_, k) in &r.rejoins { *rj.entry(format!("{k:?}")).or_insert(0) += 1; } }
        let lin = rounds.iter().take(5).filter(|r| !matches!(holdfast_workload::check::linearizable(&r.history.register), holdfast_workload::Verdict::Linearizable{..})).count();
        println!("{sync:?} {name:12} rto {} gap {gap} free {} free->write {} whole {} oldback {} lost {lost} bad {bad} cut {cut} moved {moved} two {two} {rj:?} lin! {lin} | {:.1} ms/round w{}", pts(Point::Fault, Point::FirstAcknowledged), pts(Point::Fault, Point::KeyFree), pts(Point::KeyFree, Point::FirstAcknowledged), pts(Point::Healed, Point::Whole), pts(Point::Healed, Point::OldBack), took.as_secs_f64()*1000.0/n as f64, rounds[0].history.writes.len());
        if let Some(r) = rounds.iter().find(|r| !r.notes.is_empty()) { println!("      note {} seed {}", r.notes[0], r.seed); }
    } }
}

#[test]
fn storms() {
    for sync in [Synchronous::Quorum, Synchronous::On, Synchronous::Off] {
        for (mutant, careful) in [(false, false), (false, true), (true, false)] {
        let mut d = soft(); d.database.synchronous = sync;
        let knobs = holdfast_patroni_model::Knobs { ignore_sync: mutant, careful_quorum: careful, ..Default::default() };
        let mut bad = vec![]; let mut cut = vec![]; let mut lost = 0;
        let begin = std::time::Instant::now();
        for seed in 0..300 { let r = holdfast_patroni_model::storm(&d, seed, &knobs); let x = durability(&r.history); lost += x.lost.len(); if x.read && !x.holds() { bad.push(seed) } if r.cut_short { cut.push(seed) } }
        println!("{sync:?} mutant {mutant} careful {careful}: lost {lost} rounds bad {} {:?} cut {} {:?} {:?}", bad.len(), &bad[..bad.len().min(5)], cut.len(), &cut[..cut.len().min(5)], begin.elapsed()/300);
        }
    }
}
