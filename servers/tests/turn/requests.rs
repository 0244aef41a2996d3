//! Hand-made requests: what each is told, and what each limit does.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use holdfast_core::entropy::Seed;
use holdfast_servers::turn::{
    ConfigError, Event, Input, Limits, NONCE_LIFETIME, SharedSecret, TCP_IDLE_MAX, TcpId,
    TurnMachine,
};
use stun_types::AddressFamily;
use stun_types::message::{BINDING, Message, MessageWriteVec};
use stun_types::prelude::{MessageWrite, MessageWriteExt};
use turn_types::attribute::{EvenPort, RequestedAddressFamily, RequestedTransport};

use crate::world::*;

const CLIENT: &str = "198.51.100.7:4000";
const PEER: &str = "203.0.113.9:9000";

fn allocated(world: &mut World) -> Client {
    let credentials = world.credentials("a");
    let mut client = world.client(CLIENT, &credentials);
    assert!(client.allocate(world).ok());
    client
}

#[test]
fn a_binding_request_is_answered_without_credentials_over_udp_and_tcp() {
    let mut world = World::new();
    let binding = Message::builder_request(BINDING, MessageWriteVec::new()).finish();
    world.datagram(addr(CLIENT), binding.clone());
    assert_eq!(
        world.answer(addr(CLIENT)).unwrap().mapped,
        Some(addr(CLIENT))
    );
    let (client, from) = (TcpId(1), addr("198.51.100.8:55"));
    world.input(Input::TcpConnected { client, from });
    world.input(Input::TcpBytes {
        client,
        data: binding,
    });
    let (to, data) = world.to_streams.pop().unwrap();
    assert_eq!((to, Answer::read(&data).mapped), (client, Some(from)));
}

#[test]
fn an_attribute_that_must_be_understood_and_is_not_is_named_in_the_refusal() {
    let mut world = World::new();
    let mut binding = Message::builder_request(BINDING, MessageWriteVec::new());
    binding.add_attribute(&unknown_attribute()).unwrap();
    world.datagram(addr(CLIENT), binding.finish());
    assert_eq!(world.answer(addr(CLIENT)).unwrap().code, Some(420));
    let mut client = allocated(&mut world);
    let answer = client.allocate_with(&mut world, &[&unknown_attribute()]);
    assert_eq!(answer.code, Some(420));
}

#[test]
fn an_allocation_tells_the_advertised_address_and_the_clients_own() {
    let mut world = World::new();
    let credentials = world.credentials("a");
    let mut client = world.client(CLIENT, &credentials);
    let answer = client.allocate(&mut world);
    let relayed = answer.relayed.unwrap();
    assert_eq!(relayed.ip(), RELAY_IP);
    assert!(world.relays.contains(&relayed.port()));
    assert_eq!(answer.mapped, Some(client.from));
    assert_eq!(answer.lifetime, Some(600));
    assert!(
        matches!(&world.events[0], Event::Allocated { user, .. } if *user == credentials.username)
    );
}

#[test]
fn a_repeated_allocate_request_gets_the_same_answer_and_another_one_is_a_mismatch() {
    let mut world = World::new();
    let credentials = world.credentials("a");
    let mut client = world.client(CLIENT, &credentials);
    let request = client.allocate_request();
    world.datagram(client.from, request.clone());
    let first = world.answer(client.from).unwrap();
    world.datagram(client.from, request);
    assert_eq!(world.answer(client.from), Some(first));
    assert_eq!(client.allocate(&mut world).code, Some(437));
    assert_eq!(world.server.allocations(), 1);
}

#[test]
fn wrong_and_expired_credentials_are_refused_and_counted() {
    let mut world = World::new();
    let other = SharedSecret::new(b"another secret".to_vec()).unwrap();
    let wrong = other.credentials("a", world.now.unix + Duration::from_secs(60));
    let mut client = world.client(CLIENT, &wrong);
    assert_eq!(client.allocate(&mut world).code, Some(401));
    let expired = secret().credentials("a", world.now.unix);
    let mut client = world.client(CLIENT, &expired);
    assert_eq!(client.allocate(&mut world).code, Some(401));
    let mut nameless = world.client(CLIENT, &expired);
    nameless.username = "no expiry".to_owned();
    assert_eq!(nameless.allocate(&mut world).code, Some(401));
    let counters = world.server.counters();
    assert_eq!(counters.credentials_wrong, 2);
    assert_eq!(counters.credentials_expired, 1);
    assert_eq!(world.server.allocations(), 0);
}

#[test]
fn an_allocation_cannot_be_refreshed_past_the_expiry_of_its_credentials() {
    let mut world = World::new();
    let brief = secret().credentials("a", world.now.unix + Duration::from_secs(300));
    let mut client = world.client(CLIENT, &brief);
    assert!(client.allocate(&mut world).ok());
    world.advance(Duration::from_secs(300));
    assert_eq!(client.refresh(&mut world, 600).code, Some(401));
    world.advance(Duration::from_secs(300));
    assert_eq!(world.server.allocations(), 0);
    assert!(world.relays.is_empty());
}

#[test]
fn a_nonce_is_good_for_its_lifetime_and_for_one_address() {
    let mut world = World::new();
    let credentials = world.credentials("a");
    let mut client = world.client(CLIENT, &credentials);
    let mut thief = world.client("198.51.100.66:6", &credentials);
    thief.nonce.clone_from(&client.nonce);
    assert_eq!(thief.allocate(&mut world).code, Some(438));
    world.advance(NONCE_LIFETIME);
    assert!(client.allocate(&mut world).ok());
    world.advance(Duration::from_secs(1));
    let stale = client.refresh(&mut world, 600);
    assert_eq!(stale.code, Some(438));
    client.nonce = stale.nonce.unwrap();
    assert!(client.refresh(&mut world, 600).ok());
    assert_eq!(world.server.counters().nonces_stale, 2);
}

#[test]
fn another_users_allocation_cannot_be_used_from_the_same_address() {
    let mut world = World::new();
    allocated(&mut world);
    let other = world.credentials("b");
    let mut other = world.client(CLIENT, &other);
    assert_eq!(other.refresh(&mut world, 0).code, Some(441));
    assert_eq!(other.permit(&mut world, addr(PEER)).code, Some(441));
}

#[test]
fn what_is_not_offered_is_refused_with_the_code_that_says_so() {
    let mut world = World::new();
    let credentials = world.credentials("a");
    let mut client = world.client(CLIENT, &credentials);
    let udp = RequestedTransport::new(RequestedTransport::UDP);
    let tcp = RequestedTransport::new(RequestedTransport::TCP);
    let v6 = RequestedAddressFamily::new(AddressFamily::IPV6);
    assert_eq!(client.allocate_with(&mut world, &[]).code, Some(400));
    assert_eq!(client.allocate_with(&mut world, &[&tcp]).code, Some(442));
    assert_eq!(
        client.allocate_with(&mut world, &[&udp, &v6]).code,
        Some(440)
    );
    let reserve = EvenPort::new(true);
    assert_eq!(
        client.allocate_with(&mut world, &[&udp, &reserve]).code,
        Some(508)
    );
    assert_eq!(client.refresh(&mut world, 600).code, Some(437));
    let even = client.allocate_with(&mut world, &[&udp, &EvenPort::new(false)]);
    assert_eq!(even.relayed.unwrap().port() % 2, 0);
}

#[test]
fn nothing_passes_without_a_permission_in_either_direction() {
    let mut world = World::new();
    let mut client = allocated(&mut world);
    let port = *world.relays.first().unwrap();
    let from_peer = Input::PeerDatagram {
        port,
        from: addr(PEER),
        data: b"in".to_vec(),
    };
    client.send(&mut world, addr(PEER), b"out");
    world.input(from_peer.clone());
    assert!(world.to_peers.is_empty() && world.to_clients.is_empty());
    assert_eq!(world.server.counters().strangers, 2);
    assert!(client.permit(&mut world, addr(PEER)).ok());
    client.send(&mut world, addr(PEER), b"out");
    world.input(from_peer);
    assert_eq!(world.to_peers, [(port, addr(PEER), b"out".to_vec())]);
    assert_eq!(world.to_clients.len(), 1);
}

#[test]
fn a_permission_lapses_after_five_minutes_unless_it_is_renewed() {
    let mut world = World::new();
    let mut client = allocated(&mut world);
    assert!(client.permit(&mut world, addr(PEER)).ok());
    world.advance(Duration::from_secs(299));
    assert!(client.permit(&mut world, addr(PEER)).ok());
    world.advance(Duration::from_secs(299));
    client.send(&mut world, addr(PEER), b"renewed");
    assert_eq!(world.to_peers.len(), 1);
    world.advance(Duration::from_secs(1));
    client.send(&mut world, addr(PEER), b"lapsed");
    assert_eq!(world.to_peers.len(), 1);
}

#[test]
fn a_channel_carries_data_both_ways_and_belongs_to_one_peer() {
    let mut world = World::new();
    let mut client = allocated(&mut world);
    let port = *world.relays.first().unwrap();
    assert!(client.bind(&mut world, 0x4000, addr(PEER)).ok());
    client.channel_data(&mut world, 0x4000, b"ping");
    assert_eq!(world.to_peers, [(port, addr(PEER), b"ping".to_vec())]);
    world.input(Input::PeerDatagram {
        port,
        from: addr(PEER),
        data: b"pong!".to_vec(),
    });
    assert_eq!(
        world.to_clients.pop().unwrap().1,
        channel_data(0x4000, b"pong!")
    );
    let other = addr("203.0.113.10:9000");
    assert_eq!(client.bind(&mut world, 0x4000, other).code, Some(400));
    assert_eq!(client.bind(&mut world, 0x4001, addr(PEER)).code, Some(400));
    assert_eq!(client.bind(&mut world, 0x3fff, other).code, Some(400));
    assert!(client.bind(&mut world, 0x4000, addr(PEER)).ok());
    let counters = world.server.counters();
    assert_eq!((counters.to_peers_bytes, counters.to_clients_bytes), (4, 5));
}

#[test]
fn a_channel_lapses_after_ten_minutes_and_its_number_is_free_again() {
    let mut world = World::new();
    let mut client = allocated(&mut world);
    assert!(client.bind(&mut world, 0x4000, addr(PEER)).ok());
    world.advance(Duration::from_secs(300));
    assert!(client.refresh(&mut world, 3600).ok());
    world.advance(Duration::from_secs(300));
    assert!(client.permit(&mut world, addr(PEER)).ok());
    client.channel_data(&mut world, 0x4000, b"late");
    assert!(world.to_peers.is_empty());
    assert!(
        client
            .bind(&mut world, 0x4000, addr("203.0.113.10:9000"))
            .ok()
    );
}

#[test]
fn peers_that_would_turn_the_server_against_its_host_are_forbidden() {
    let mut world = World::new();
    let mut client = allocated(&mut world);
    for peer in [
        "127.0.0.1:80",
        "0.0.0.0:80",
        "224.0.0.1:80",
        "255.255.255.255:80",
    ] {
        assert_eq!(
            client.permit(&mut world, addr(peer)).code,
            Some(403),
            "{peer}"
        );
        assert_eq!(
            client.bind(&mut world, 0x4000, addr(peer)).code,
            Some(403),
            "{peer}"
        );
    }
    assert_eq!(
        client.permit(&mut world, addr("[2001:db8::1]:80")).code,
        Some(443)
    );
    let mut world = World::with(holdfast_servers::turn::Config {
        loopback_peers: true,
        ..config()
    });
    let mut client = allocated(&mut world);
    assert!(client.permit(&mut world, addr("127.0.0.1:80")).ok());
}

#[test]
fn an_allocation_ends_with_its_lifetime_or_when_it_is_given_back() {
    let mut world = World::new();
    let mut client = allocated(&mut world);
    world.advance(Duration::from_secs(599));
    assert!(client.refresh(&mut world, 600).ok());
    world.advance(Duration::from_secs(599));
    assert_eq!(world.server.allocations(), 1);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.server.allocations(), 0);
    assert!(world.relays.is_empty());
    let mut client = allocated(&mut world);
    assert_eq!(client.refresh(&mut world, 0).lifetime, Some(0));
    assert!(world.relays.is_empty());
    assert_eq!(client.refresh(&mut world, 0).code, Some(437));
    assert_eq!(world.server.deadline(), None);
}

#[test]
fn each_limit_refuses_what_exceeds_it_and_frees_what_is_given_back() {
    let limits = Limits {
        allocations_max: 3,
        allocations_per_source_max: 2,
        permissions_max: 2,
        channels_max: 1,
        ..Limits::default()
    };
    let mut world = World::with(holdfast_servers::turn::Config { limits, ..config() });
    let credentials = world.credentials("a");
    let mut clients: Vec<Client> = (1..=3)
        .map(|port| world.client(&format!("198.51.100.7:{port}"), &credentials))
        .collect();
    assert!(clients[0].allocate(&mut world).ok());
    assert!(clients[1].allocate(&mut world).ok());
    assert_eq!(clients[2].allocate(&mut world).code, Some(486));
    let mut elsewhere = world.client("198.51.100.8:1", &credentials);
    assert!(elsewhere.allocate(&mut world).ok());
    let mut too_many = world.client("198.51.100.9:1", &credentials);
    assert_eq!(too_many.allocate(&mut world).code, Some(508));
    assert!(clients[0].refresh(&mut world, 0).ok());
    assert!(too_many.allocate(&mut world).ok());

    assert!(
        elsewhere
            .bind(&mut world, 0x4000, addr("203.0.113.1:1"))
            .ok()
    );
    assert_eq!(
        elsewhere
            .bind(&mut world, 0x4001, addr("203.0.113.1:2"))
            .code,
        Some(508)
    );
    assert!(elsewhere.permit(&mut world, addr("203.0.113.2:1")).ok());
    assert_eq!(
        elsewhere.permit(&mut world, addr("203.0.113.3:1")).code,
        Some(508)
    );
    assert!(elsewhere.permit(&mut world, addr("203.0.113.1:1")).ok());
    assert_eq!(world.server.counters().limit_refusals, 4);
}

#[test]
fn a_port_that_another_program_has_is_passed_over() {
    let mut world = World::with(holdfast_servers::turn::Config {
        relay_ports: 50_000..=50_001,
        ..config()
    });
    world.occupied.insert(50_000);
    let credentials = world.credentials("a");
    let mut client = world.client(CLIENT, &credentials);
    assert_eq!(client.allocate(&mut world).relayed.unwrap().port(), 50_001);
    let mut second = world.client("198.51.100.8:1", &credentials);
    assert_eq!(second.allocate(&mut world).code, Some(508));
    assert_eq!(world.server.allocations(), 1);
}

#[test]
fn a_stream_may_be_cut_at_any_byte() {
    let mut world = World::new();
    let (client, from) = (TcpId(1), addr(CLIENT));
    world.input(Input::TcpConnected { client, from });
    let credentials = world.credentials("a");
    // The nonce is bound to the address, whatever the transport.
    let mut maker = world.client(CLIENT, &credentials);
    let mut stream = maker.allocate_request();
    let id = u128::from(maker.from.port()) << 32;
    let peer = turn_types::attribute::XorPeerAddress::new(addr(PEER), (id + 2).into());
    let number = turn_types::attribute::ChannelNumber::new(0x4000);
    stream.extend(maker.request(turn_types::message::CHANNEL_BIND, &[&number, &peer]));
    for payload in [&b"odd"[..], b"", b"even", b"12345"] {
        stream.extend(channel_data(0x4000, payload));
        stream.resize(stream.len().next_multiple_of(4), 0xee);
    }
    stream.extend(send_indication(addr(PEER), b"indicated"));
    for byte in stream {
        world.input(Input::TcpBytes {
            client,
            data: vec![byte],
        });
    }
    let payloads: Vec<&[u8]> = world
        .to_peers
        .iter()
        .map(|(_, _, data)| &data[..])
        .collect();
    assert_eq!(
        payloads,
        [&b"odd"[..], b"", b"even", b"12345", b"indicated"]
    );
    let port = *world.relays.first().unwrap();
    world.to_streams.clear();
    world.input(Input::PeerDatagram {
        port,
        from: addr(PEER),
        data: b"12345".to_vec(),
    });
    assert_eq!(
        world.to_streams[0].1,
        [&channel_data(0x4000, b"12345")[..], &[0; 3]].concat()
    );
}

#[test]
fn an_allocation_ends_with_its_tcp_connection() {
    let mut world = World::new();
    let (client, from) = (TcpId(1), addr(CLIENT));
    world.input(Input::TcpConnected { client, from });
    let credentials = world.credentials("a");
    let mut maker = world.client(CLIENT, &credentials);
    world.input(Input::TcpBytes {
        client,
        data: maker.allocate_request(),
    });
    assert_eq!(world.relays.len(), 1);
    world.advance(TCP_IDLE_MAX * 2);
    assert!(
        world.closed.is_empty(),
        "a client with an allocation is not idle"
    );
    world.input(Input::TcpClosed { client });
    assert!(world.relays.is_empty());
    assert_eq!(
        (world.server.allocations(), world.server.tcp_clients()),
        (0, 0)
    );
    assert_eq!(world.server.deadline(), None);
}

#[test]
fn a_tcp_client_that_wants_nothing_or_speaks_something_else_is_closed() {
    let limits = Limits {
        tcp_clients_per_source_max: 2,
        ..Limits::default()
    };
    let mut world = World::with(holdfast_servers::turn::Config { limits, ..config() });
    for id in 1..=3 {
        world.input(Input::TcpConnected {
            client: TcpId(id),
            from: addr(CLIENT),
        });
    }
    assert_eq!(world.closed, [TcpId(3)]);
    world.input(Input::TcpBytes {
        client: TcpId(1),
        data: vec![0x16, 3, 1, 2],
    });
    assert_eq!(world.closed, [TcpId(3), TcpId(1)]);
    world.advance(TCP_IDLE_MAX);
    assert_eq!(world.closed, [TcpId(3), TcpId(1), TcpId(2)]);
    assert_eq!(world.server.tcp_clients(), 0);
}

#[test]
fn the_same_seed_gives_the_same_ports_and_nonces() {
    let run = || {
        let mut world = World::new();
        let credentials = world.credentials("a");
        let mut client = world.client(CLIENT, &credentials);
        (client.allocate(&mut world), client.nonce)
    };
    assert_eq!(run(), run());
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let world = World::new();
    let make = |config| TurnMachine::new(config, Seed::new([1; 32]), world.now).err();
    let unspecified = "0.0.0.0".parse().unwrap();
    type Config = holdfast_servers::turn::Config;
    assert_eq!(
        make(Config {
            realm: String::new(),
            ..config()
        }),
        Some(ConfigError::Realm(0))
    );
    assert_eq!(
        make(Config {
            relay_ports: 0..=9,
            ..config()
        }),
        Some(ConfigError::Ports)
    );
    assert_eq!(
        make(Config {
            relay_ip: unspecified,
            ..config()
        }),
        Some(ConfigError::RelayIp(unspecified))
    );
}

#[test]
fn a_server_with_an_ipv6_relay_address_relays_ipv6() {
    let mut world = World::with(holdfast_servers::turn::Config {
        relay_ip: "2001:db8::1".parse().unwrap(),
        ..config()
    });
    let peer = addr("[2001:db8::99]:9000");
    let credentials = world.credentials("a");
    let mut client = world.client("[2001:db8::7]:4000", &credentials);
    assert_eq!(client.allocate(&mut world).code, Some(440));
    let udp = RequestedTransport::new(RequestedTransport::UDP);
    let v6 = RequestedAddressFamily::new(AddressFamily::IPV6);
    let relayed = client.allocate_with(&mut world, &[&udp, &v6]).relayed;
    let port = relayed.unwrap().port();
    assert_eq!(relayed, Some(addr(&format!("[2001:db8::1]:{port}"))));
    assert!(client.permit(&mut world, peer).ok());
    assert_eq!(client.permit(&mut world, addr(PEER)).code, Some(443));
    assert_eq!(client.permit(&mut world, addr("[::1]:80")).code, Some(403));
    let mapped_loopback = addr("[::ffff:127.0.0.1]:80");
    assert_eq!(client.permit(&mut world, mapped_loopback).code, Some(403));
    client.send(&mut world, peer, b"out");
    assert_eq!(world.to_peers, [(port, peer, b"out".to_vec())]);
    let data = b"in".to_vec();
    let from = peer;
    world.input(Input::PeerDatagram { port, from, data });
    assert_eq!(world.to_clients.len(), 1);
}
