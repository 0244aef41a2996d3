use crate::drills::soft;

#[test]
fn look() {
    for seed in 0..5 {
        let round = holdfast_patroni_model::play(&soft(), seed);
        println!("seed {seed} phase {} leader {} after {:?} tl {:?} cut {} notes {:?} two {} rejoins {:?} writes {} found {:?}", round.phase, round.leader, round.leader_after, round.timelines, round.cut_short, round.notes, round.two_primaries_ms, round.rejoins, round.history.writes.len(), round.history.found.as_ref().map(Vec::len));
        for mark in &round.marks { println!("   {:>10.3} {:?} {:?} {}", mark.at.as_secs_f64(), mark.point, mark.member, mark.source); }
    }
}
