//! What a crowd costs.

use super::world::*;
use crate::entropy::Seed;

/// Sixty-four at once, every answer on its way for as long as every other: a round is one exchange
/// with the KV of everybody who has something to ask. Returns (rounds, calls).
fn crowd(seed: u64) -> (u32, u64) {
    let mut world = World::new(64, &[1000; 64], seed);
    (0..64).for_each(|node| world.start(node));
    let mut order = Seed::new([seed as u8; 32]).rng();
    let mut rounds = 0;
    while world.owners().contains(&None) {
        let mut nodes: Vec<usize> = (0..64).collect();
        for i in (1..64).rev() {
            nodes.swap(i, usize::try_from(order.below(i as u64 + 1)).unwrap());
        }
        for node in &nodes {
            for nth in 0..world.nodes[*node].flights.len() {
                world.apply(*node, nth);
            }
        }
        for node in &nodes {
            if world.nodes[*node]
                .flights
                .first()
                .is_some_and(|f| f.answer.is_some())
            {
                world.answer(*node, 0);
            }
        }
        rounds += 1;
        assert!(rounds < 1000, "it never ends");
        world.check();
    }
    (rounds, world.nodes.iter().map(|node| node.calls).sum())
}

#[test]
fn sixty_four_contenders_have_sixty_four_slots_within_few_rounds_and_calls() {
    let runs: Vec<(u32, u64)> = (0..10).map(crowd).collect();
    let rounds = runs.iter().map(|(rounds, _)| *rounds).max().unwrap();
    let calls = runs.iter().map(|(_, calls)| *calls).max().unwrap();
    println!("64 contenders, 64 slots: (rounds, calls) {runs:?}");
    // A read and a write for each try: eight tries each on average, twenty for the unluckiest.
    assert!(rounds <= 40, "{rounds} rounds");
    assert!(calls <= 64 * 16, "{calls} calls");
}
