//! Bytes that mean nothing, and valid messages with a few bytes changed.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use holdfast_servers::turn::{Input, TcpId};
use proptest::prelude::*;

use crate::world::*;

const CLIENT: &str = "198.51.100.7:4000";
const PEER: &str = "203.0.113.9:9000";

/// Valid messages of every kind from a client with an allocation, for mutation.
fn valid_messages(world: &mut World) -> Vec<Vec<u8>> {
    let credentials = world.credentials("a");
    let mut client = world.client(CLIENT, &credentials);
    assert!(client.allocate(world).ok());
    assert!(client.bind(world, 0x4000, addr(PEER)).ok());
    let peer = turn_types::attribute::XorPeerAddress::new(addr(PEER), 9.into());
    vec![
        client.allocate_request(),
        client.request(turn_types::message::REFRESH, &[]),
        client.request(turn_types::message::CREATE_PERMISSION, &[&peer]),
        client.request(
            turn_types::message::CHANNEL_BIND,
            &[&turn_types::attribute::ChannelNumber::new(0x4001), &peer],
        ),
        client.request(stun_types::message::BINDING, &[]),
        send_indication(addr(PEER), b"payload"),
        channel_data(0x4000, b"payload"),
    ]
}

/// Feed one message over UDP and TCP, whole and in pieces.
fn feed(world: &mut World, data: &[u8], cut: usize) {
    world.datagram(addr(CLIENT), data.to_vec());
    let client = TcpId(1);
    world.input(Input::TcpConnected {
        client,
        from: addr(CLIENT),
    });
    let (head, tail) = data.split_at(cut.min(data.len()));
    for part in [head, tail] {
        world.input(Input::TcpBytes {
            client,
            data: part.to_vec(),
        });
    }
    world.input(Input::TcpClosed { client });
    for port in [50_000, 50_050, *world.relays.first().unwrap_or(&1)] {
        world.input(Input::PeerDatagram {
            port,
            from: addr(PEER),
            data: data.to_vec(),
        });
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_no_harm(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20),
        cut in 0usize..200,
    ) {
        let mut world = World::new();
        for data in &messages {
            feed(&mut world, data, cut);
        }
        prop_assert_eq!(world.server.allocations(), 0);
        prop_assert_eq!(world.server.tcp_clients(), 0);
        prop_assert!(world.to_peers.is_empty());
    }

    #[test]
    fn mutated_messages_do_no_harm(
        which in 0usize..7,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        truncated in prop::option::of(any::<prop::sample::Index>()),
        appended in prop::collection::vec(any::<u8>(), 0..8),
        cut in 0usize..200,
    ) {
        let mut world = World::new();
        let mut data = valid_messages(&mut world).swap_remove(which);
        for (at, value) in changes {
            let at = at.index(data.len());
            data[at] = value;
        }
        if let Some(end) = truncated {
            data.truncate(end.index(data.len()));
        }
        data.extend(appended);
        feed(&mut world, &data, cut);
        // Only what a permission allows was relayed, and the server still serves.
        for (_, to, _) in &world.to_peers {
            prop_assert_eq!(to.ip(), addr(PEER).ip());
        }
        world.to_clients.clear();
        let credentials = world.credentials("b");
        let mut honest = world.client("198.51.100.99:1", &credentials);
        prop_assert!(honest.allocate(&mut world).ok());
    }
}
