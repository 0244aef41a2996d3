//! Finding a path.

use std::time::Duration;

use holdfast_net_model::{Links, NatConfig, Uplink};

use crate::world::{ECHO, Spec, World};

const SECOND: Duration = Duration::from_secs(1);

/// Two nodes, each behind a NAT of its own.
pub fn two_nats(seed: u8, nat: impl Fn([u8; 4]) -> NatConfig) -> World {
    World::new(seed, |net| {
        let nats = [[203, 0, 113, 101], [203, 0, 113, 102]]
            .map(|ip| net.add_nat(Uplink::Core, nat(ip), Links::ideal()).unwrap());
        vec![
            Spec::new("a", Uplink::Behind(nats[0]), [10, 1, 1, 2]),
            Spec::new("b", Uplink::Behind(nats[1]), [10, 2, 1, 2]),
        ]
    })
}

#[test]
fn two_nodes_behind_different_nats_find_a_direct_path_and_echo_bytes() {
    let mut world = two_nats(1, |ip| NatConfig::home(ip.into()));
    world.start(0);
    world.start(1);
    let took = world.run_until(SECOND * 2, |world| world.both_up(0, 1));
    println!("up after {took:?}");
    world.run(SECOND);
    assert_eq!(world.class(0, 1).as_deref(), Some("direct"));
    let stream = world.open(0, 1, ECHO, 1_000_000, true);
    world.run_until(SECOND * 5, |world| world.app(0, stream).read_finished);
    assert_eq!(world.app(0, stream).received, 1_000_000);
}
