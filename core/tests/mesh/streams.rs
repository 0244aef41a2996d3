//! What flows over a link.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::config::Limits;
use holdfast_core::mesh::{Received, ResetReason};
use holdfast_core::status::LinkState;
use holdfast_plan::NodeIndex;

use crate::setup::{SECOND, assert_flows, home, settled, start_both, two_nats};
use crate::world::{CLOSED, ECHO, FORBIDDEN, SINK, STOPPED, Steer, World};

#[test]
fn a_port_that_is_not_allowed_is_refused_by_the_receiving_side() {
    let mut world = settled(80, home);
    let stream = world.open(0, 1, FORBIDDEN, 100, false);
    world.until(SECOND, |world| world.app(0, stream).reset.is_some());
    assert_eq!(world.app(0, stream).reset, Some(ResetReason::NotAllowed));
    assert_eq!(world.counter(1, "port_not_allowed"), 1);
    assert_flows(&mut world, 0, 1);
}

#[test]
fn a_closed_port_is_refused() {
    let mut world = settled(81, home);
    let stream = world.open(0, 1, CLOSED, 100, false);
    world.until(SECOND, |world| world.app(0, stream).reset.is_some());
    assert_eq!(world.app(0, stream).reset, Some(ResetReason::Refused));
}

#[test]
fn a_reset_reaches_an_application_that_has_stopped_reading() {
    let mut world = settled(76, home);
    let stream = world.open(0, 1, STOPPED, u64::MAX, false);
    world.run(SECOND * 2);
    world.call(0, |mesh, now| {
        mesh.stream_reset(now, stream, ResetReason::Reset)
    });
    let told = |world: &World| world.streams(1).any(|app| app.reset.is_some());
    let took = world.until(SECOND, told);
    assert!(took < Duration::from_millis(60), "{took:?}");
    assert_eq!(world.status(1, 0).streams, 0);
}

#[test]
fn streams_that_break_give_their_credit_back() {
    let mut world = settled(78, home);
    let most = Limits::default().streams_per_link as usize;
    for n in 0..most + 100 {
        let port = if n % 2 == 0 { CLOSED } else { SINK };
        let stream = world.open(0, 1, port, 1000, false);
        world.run(Duration::from_millis(25));
        if port == SINK {
            world.call(0, |mesh, now| {
                mesh.stream_reset(now, stream, ResetReason::Reset)
            });
        }
    }
    world.run(SECOND);
    assert_eq!(
        (world.status(0, 1).streams, world.status(1, 0).streams),
        (0, 0)
    );
    assert_flows(&mut world, 0, 1);
    assert_flows(&mut world, 1, 0);
}

#[test]
fn duplicated_and_reordered_packets_change_nothing() {
    let mut world = settled(77, home);
    for node in 0..2 {
        let (host, now) = (world.nodes[node].host, world.now());
        let (up, _) = world.net.host_links_mut(host);
        up.update(now, |config| {
            config.duplicate = holdfast_net_model::Ratio::of(1, 5);
            config.jitter = Duration::from_millis(4);
            config.order = holdfast_net_model::Order::Free;
        });
    }
    let stream = world.open(0, 1, ECHO, 3_000_000, true);
    world.until(SECOND * 60, |world| world.app(0, stream).read_finished);
    assert_eq!(world.app(0, stream).received, 3_000_000);
}

#[test]
fn a_half_close_is_carried_through_and_the_other_half_goes_on() {
    let mut world = settled(82, home);
    // The echo closes its half only after ours has ended and everything went back.
    let stream = world.open(0, 1, ECHO, 3_000_000, true);
    world.until(SECOND * 5, |world| world.app(0, stream).read_finished);
    assert_eq!(world.app(0, stream).received, 3_000_000);
    world.run(Duration::from_millis(100));
    assert_eq!(world.status(0, 1).streams, 0);
    assert_eq!(world.status(1, 0).streams, 0);
}

#[test]
fn a_stream_that_is_opened_and_closed_beside_a_bulk_transfer_loses_nothing() {
    let mut world = settled(79, home);
    for node in 0..2 {
        crate::paths::set_loss(&mut world, node, 3);
    }
    let bulk: Vec<_> = (0..20)
        .map(|_| world.open(0, 1, SINK, u64::MAX, false))
        .collect();
    world.run(SECOND);
    for size in [0, 1, 1000] {
        let stream = world.open(0, 1, ECHO, size, true);
        world.until(SECOND * 20, |world| world.app(0, stream).read_finished);
        assert_eq!(
            (world.app(0, stream).received, world.app(0, stream).reset),
            (size, None)
        );
    }
    assert_eq!(world.counter(1, "stream_header_malformed"), 0);
    assert!(
        bulk.iter()
            .all(|stream| world.app(0, *stream).reset.is_none())
    );
}

/// What fits of a write is no refusal to QUIC, which tells of room only after one.
#[test]
fn streams_that_share_a_full_send_window_all_go_on() {
    let mut world = two_nats(84, home);
    let limits = Limits {
        send_window: 256 << 10,
        ..Limits::default()
    };
    world.nodes[0].tuning.limits = limits;
    start_both(&mut world);
    for _ in 0..3 {
        world.open(0, 1, SINK, 2_000_000, true);
    }
    let arrived = |world: &World| world.received_at(1, SINK) == 6_000_000;
    world.until(SECOND * 60, arrived);
}

#[test]
fn a_reset_is_carried_through() {
    let mut world = settled(83, home);
    let stream = world.open(0, 1, SINK, 1000, false);
    world.run(SECOND);
    world.call(0, |mesh, now| {
        mesh.stream_reset(now, stream, ResetReason::Reset)
    });
    let seen = |world: &World| {
        let mut apps = world.streams(1);
        apps.any(|app| app.reset == Some(ResetReason::Reset))
    };
    let took = world.until(SECOND, seen);
    assert!(took < Duration::from_millis(60), "{took:?}");
}

#[test]
fn two_hundred_stopped_readers_leave_a_live_one_its_goodput() {
    let goodput = |stopped: usize| {
        let mut world = settled(84, home);
        for node in 0..2 {
            let (host, now) = (world.nodes[node].host, world.now());
            let (up, _) = world.net.host_links_mut(host);
            up.update(now, |config| {
                config.rate_bits_per_s = std::num::NonZeroU64::new(100_000_000);
                config.queue_bytes = 500_000;
            });
        }
        let streams: Vec<_> = (0..stopped)
            .map(|_| world.open(0, 1, STOPPED, u64::MAX, false))
            .collect();
        // All of them run into their windows.
        world.run(SECOND * 50);
        let live = world.open(0, 1, SINK, u64::MAX, false);
        world.run(SECOND);
        let before = world.received_at(1, SINK);
        world.run(SECOND * 2);
        assert_eq!(world.app(0, live).reset, None);
        for stream in streams {
            assert_eq!(world.app(0, stream).reset, None);
            // The formula of docs/architecture.md: at most one window each.
            let window = u64::from(Limits::default().stream_window);
            assert!(world.app(0, stream).sent <= window, "more than a window");
        }
        world.received_at(1, SINK) - before
    };
    let (alone, crowded) = (goodput(0), goodput(200));
    println!("alone {alone}, crowded {crowded} bytes in two seconds");
    assert!(
        crowded * 10 >= alone * 8,
        "alone {alone}, crowded {crowded}"
    );
}

#[test]
fn two_hundred_concurrent_streams_all_arrive() {
    let mut world = settled(85, home);
    let streams: Vec<_> = (0..200)
        .map(|_| world.open(0, 1, ECHO, 20_000, true))
        .collect();
    world.until(SECOND * 10, |world| {
        streams
            .iter()
            .all(|stream| world.app(0, *stream).read_finished)
    });
    assert!(
        streams
            .iter()
            .all(|stream| world.app(0, *stream).received == 20_000)
    );
}

#[test]
fn datagrams_of_every_size_arrive_intact_with_the_senders_port() {
    // "A packet read into a too small buffer truncates the datagram."
    let mut world = settled(86, home);
    let from: SocketAddr = "127.0.0.1:41000".parse().unwrap();
    let link = world.link(0, 1);
    let sizes = [0, 1, 1000, 1200, 1400, 1500, 9000, 40_000, 65_507];
    for size in sizes {
        let payload: Bytes = (0..size).map(|i| i as u8).collect::<Vec<u8>>().into();
        world.call(0, |mesh, now| {
            mesh.udp_send(now, link, SINK.port(), from, payload)
        });
        world.run(Duration::from_millis(300));
        let (port, to, got) = world.nodes[1].datagrams.pop().expect("one arrived");
        assert_eq!((port, to), (41000, "127.50.0.2:9009".parse().unwrap()));
        assert!(got.len() == size && got.iter().enumerate().all(|(i, b)| *b == i as u8));
    }
    let oversize = Bytes::from(vec![0; 65_508]);
    world.call(0, |mesh, now| {
        mesh.udp_send(now, link, SINK.port(), from, oversize)
    });
    assert_eq!(world.counter(0, "udp_oversize"), 1);
}

#[test]
fn an_answering_datagram_finds_the_application_that_asked() {
    let mut world = settled(87, home);
    let app: SocketAddr = "127.0.0.1:41000".parse().unwrap();
    let (there, back) = (world.link(0, 1), world.link(1, 0));
    world.call(0, |mesh, now| {
        mesh.udp_send(now, there, SINK.port(), app, Bytes::from_static(b"ping"))
    });
    world.run(Duration::from_millis(100));
    // The sink's port answers to where it came from: the sender's VIP and port.
    let service: SocketAddr = "127.50.0.2:9009".parse().unwrap();
    world.call(1, |mesh, now| {
        mesh.udp_send(now, back, 41000, service, Bytes::from_static(b"pong"))
    });
    world.run(Duration::from_millis(100));
    assert_eq!(
        world.nodes[0].datagrams.pop(),
        Some((SINK.port(), app, Bytes::from_static(b"pong")))
    );
    // To a port that nobody here uses and that is not allowed: nothing.
    world.call(1, |mesh, now| {
        mesh.udp_send(now, back, 41001, service, Bytes::from_static(b"?"))
    });
    world.run(Duration::from_millis(100));
    assert!(world.nodes[0].datagrams.is_empty());
    assert_eq!(world.counter(0, "port_not_allowed"), 1);
}

#[test]
fn packets_of_strangers_are_counted_and_get_no_answer() {
    let mut world = settled(88, home);
    let meta = Received {
        from: "198.51.100.77:999".parse().unwrap(),
        to: Some("10.2.1.2".parse().unwrap()),
        ecn: 0,
    };
    let quic_initial = [&[0xc3, 0, 0, 0, 1, 8][..], &[9; 1194]].concat();
    let stun = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
    let short_header = vec![0x40; 60];
    let bytes = world.status(1, 0).tx_bytes;
    for packet in [quic_initial, stun, short_header, vec![], vec![0xff; 3]] {
        world.call(1, |mesh, now| {
            mesh.handle_datagram(now, meta, packet[..].into())
        });
    }
    assert_eq!(world.counter(1, "stun_stranger"), 1);
    assert_eq!(world.counter(1, "packet_stranger"), 4);
    assert_eq!(world.status(1, 0).tx_bytes, bytes, "no answer");
    assert_flows(&mut world, 0, 1);
}

#[test]
fn a_node_with_another_clusters_key_gets_nothing_through() {
    // "No identity in the QUIC handshake: anyone who reaches the signaling broker can join."
    // It takes the name of a member that does not run.
    let mut world = crate::setup::homes(89, home, 3, |n, spec| {
        if n == 2 {
            spec.cluster = 66;
            spec.poses_as = Some(NodeIndex(0));
        }
    });
    world.start(2).unwrap();
    world.start(1).unwrap();
    world.run(SECOND * 20);
    assert_ne!(world.state(2, 1), LinkState::Up);
    assert_eq!(world.state(1, 0), LinkState::Signaling);
    assert_eq!(world.status(1, 0).sessions, 0);
}
