//! The machines below a link, each on its own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use holdfast_core::config::{Congestion, Limits, TurnCredentials, TurnServer, TurnTransport};
use holdfast_core::entropy::Seed;
use holdfast_core::identity::{Identity, PublicKey};
use holdfast_core::quic::{Dir, Event, Quic, QuicConfig, Role};
use holdfast_core::stun::{Stun, is_stun};
use holdfast_core::time::Now;
use holdfast_core::turn::{Turn, TurnOutput, TurnState};
use holdfast_core::types::LinkId;

use crate::world::origin;

fn key(n: u8) -> Identity {
    Identity::from_seed([n; 32])
}

// ---- QUIC ----

struct Pair {
    ends: [Quic; 2],
    now: Instant,
    events: [Vec<String>; 2],
}

impl Pair {
    /// A client with key 1 and a server with key 2, each expecting the key given.
    fn new(client_expects: PublicKey, server_expects: PublicKey) -> Pair {
        let end = |role, own: u8, peer| {
            let config = QuicConfig {
                role,
                us: &key(own),
                peer,
                link: LinkId(7),
                first_id: [7; 16],
                congestion: Congestion::Cubic,
                limits: Limits::default(),
            };
            Quic::new(&config, &Seed::new([own; 32]))
        };
        let mut client = end(Role::Client, 1, client_expects);
        let now = origin();
        client.connect(now);
        Pair {
            ends: [client, end(Role::Server, 2, server_expects)],
            now,
            events: [Vec::new(), Vec::new()],
        }
    }

    /// Pass packets to and fro for a while, 1 ms one way.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(1);
            for at in 0..2 {
                self.ends[at].handle_deadline(self.now);
                let mut buf = Vec::new();
                while let Some((len, segment, ecn)) =
                    self.ends[at].poll_transmit(self.now, 4, &mut buf)
                {
                    for packet in buf[..len].chunks(segment.unwrap_or(len)) {
                        self.ends[1 - at].handle_packet(self.now, BytesMut::from(packet), ecn);
                    }
                    buf.clear();
                }
                while let Some(event) = self.ends[at].poll_event() {
                    self.events[at].push(match event {
                        Event::Connected => "connected".into(),
                        Event::ConnectionLost { reason } => format!("lost: {reason}"),
                        other => format!("{other:?}"),
                    });
                }
            }
        }
    }

    fn saw(&self, end: usize, what: &str) -> bool {
        self.events[end].iter().any(|event| event.starts_with(what))
    }
}

#[test]
fn two_ends_with_the_right_keys_connect_and_move_bytes() {
    let mut pair = Pair::new(key(2).public(), key(1).public());
    pair.run(Duration::from_millis(50));
    assert!(
        pair.saw(0, "connected") && pair.saw(1, "connected"),
        "{:?}",
        pair.events
    );
    let client = pair.ends[0].connection().unwrap();
    let stream = client.streams().open(Dir::Bi).unwrap();
    client.send_stream(stream).write(b"hello").unwrap();
    pair.run(Duration::from_millis(10));
    let server = pair.ends[1].connection().unwrap();
    let stream = server.streams().accept(Dir::Bi).unwrap();
    let mut stream = server.recv_stream(stream);
    let mut chunks = stream.read(true).unwrap();
    assert_eq!(
        chunks.next(100).unwrap().unwrap().bytes,
        Bytes::from_static(b"hello")
    );
    let _ = chunks.finalize();
}

#[test]
fn a_server_with_another_key_is_refused() {
    let mut pair = Pair::new(key(9).public(), key(1).public());
    pair.run(Duration::from_millis(100));
    assert!(
        !pair.saw(0, "connected") && pair.saw(0, "lost"),
        "{:?}",
        pair.events
    );
    assert!(!pair.saw(1, "connected"));
}

#[test]
fn a_client_with_another_key_is_refused() {
    let mut pair = Pair::new(key(2).public(), key(9).public());
    pair.run(Duration::from_millis(100));
    // The client may see itself connected for a moment: that is why a link is up only after
    // the server's hello.
    assert!(pair.saw(0, "lost"), "{:?}", pair.events);
    assert!(!pair.saw(1, "connected"));
}

#[test]
fn a_first_packet_with_an_id_that_the_session_did_not_derive_is_ignored() {
    let mut pair = Pair::new(key(2).public(), key(1).public());
    let config = QuicConfig {
        role: Role::Client,
        us: &key(1),
        peer: key(2).public(),
        link: LinkId(7),
        first_id: [8; 16],
        congestion: Congestion::Cubic,
        limits: Limits::default(),
    };
    let mut stranger = Quic::new(&config, &Seed::new([66; 32]));
    stranger.connect(pair.now);
    let mut packet = Vec::new();
    let now = pair.now;
    stranger.poll_transmit(now, 1, &mut packet).unwrap();
    assert!(!pair.ends[1].handle_packet(now, BytesMut::from(&packet[..]), 0));
    pair.run(Duration::from_millis(50));
    assert!(
        pair.saw(0, "connected") && pair.saw(1, "connected"),
        "{:?}",
        pair.events
    );
}

#[test]
fn garbage_packets_disturb_no_connection() {
    let mut pair = Pair::new(key(2).public(), key(1).public());
    pair.run(Duration::from_millis(50));
    for len in [0usize, 1, 8, 9, 25, 100, 1500] {
        for first in [0x00, 0x40, 0x7f, 0xc0, 0xff] {
            let mut packet = vec![0xa5; len];
            if let Some(byte) = packet.first_mut() {
                *byte = first;
            }
            let now = pair.now;
            pair.ends[1].handle_packet(now, BytesMut::from(&packet[..]), 0);
        }
    }
    pair.run(Duration::from_millis(50));
    assert!(!pair.saw(1, "lost"));
}

// ---- STUN ----

/// A Binding success response with XOR-MAPPED-ADDRESS (RFC 8489 section 14.2).
fn binding_response(request: &[u8], mapped: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(mapped) = mapped else {
        panic!("IPv4 here");
    };
    let cookie = [0x21, 0x12, 0xa4, 0x42];
    let mut out = vec![1, 1, 0, 12];
    out.extend_from_slice(&request[4..20]);
    out.extend_from_slice(&[0, 0x20, 0, 8, 0, 1]);
    out.extend_from_slice(&(mapped.port() ^ 0x2112).to_be_bytes());
    out.extend(mapped.ip().octets().iter().zip(cookie).map(|(a, b)| a ^ b));
    out
}

#[test]
fn a_stun_client_repeats_until_answered_and_believes_only_answers_to_its_own_requests() {
    let server: SocketAddr = "203.0.113.10:3478".parse().unwrap();
    let mapped: SocketAddr = "203.0.113.101:40000".parse().unwrap();
    let now = origin();
    let mut stun = Stun::new(server, &Seed::new([1; 32]), now);
    let first = stun.poll(now).unwrap();
    assert!(is_stun(&first));
    let repeat = stun.poll(stun.deadline()).expect("nobody answered");
    assert_ne!(first[8..20], repeat[8..20], "a transaction of its own");

    let mut forged = binding_response(&first, mapped);
    forged[15] ^= 1;
    assert_eq!(stun.handle(now, &forged), None, "nobody asked for it");
    assert_eq!(
        stun.handle(now, &binding_response(&first, mapped)),
        Some(true)
    );
    assert_eq!(stun.mapped(), Some(mapped));
    let gap = stun.deadline() - now;
    assert!(
        gap >= Duration::from_secs(10),
        "{gap:?}: an answered client is quiet"
    );
}

// ---- TURN ----

fn turn(transport: TurnTransport) -> (Turn, Now) {
    let now = Now {
        mono: origin(),
        unix: Duration::from_secs(1_700_000_000),
    };
    let server = TurnServer {
        addr: "203.0.113.10:3478".parse().unwrap(),
        transport,
        credentials: TurnCredentials::Static {
            username: "user".into(),
            password: "password".to_string().into(),
        },
    };
    (Turn::new(server, now), now)
}

fn outputs(turn: &mut Turn) -> Vec<TurnOutput> {
    std::iter::from_fn(|| turn.poll_output()).collect()
}

#[test]
fn a_turn_client_whose_server_is_silent_gives_up_and_tries_again_later() {
    let (mut turn, start) = turn(TurnTransport::Udp);
    turn.start(start);
    let mut failures = 0;
    let mut datagrams = 0;
    let mut now = start;
    while now.mono < start.mono + Duration::from_secs(60) {
        if let Some(at) = turn.deadline() {
            now = start.plus((at.max(now.mono + Duration::from_millis(1))) - start.mono);
        }
        turn.handle_deadline(now);
        for output in outputs(&mut turn) {
            failures += usize::from(matches!(output, TurnOutput::Failed(_)));
            datagrams += usize::from(matches!(output, TurnOutput::Datagram(_)));
        }
    }
    assert!(
        (3..12).contains(&failures),
        "{failures} failures in a minute"
    );
    assert!(datagrams < 120, "{datagrams} datagrams in a minute");
}

#[test]
fn a_turn_client_survives_garbage_and_the_end_of_its_connection() {
    let (mut turn, now) = turn(TurnTransport::Tcp);
    turn.start(now);
    assert!(matches!(outputs(&mut turn)[..], [TurnOutput::Connect]));
    turn.connected(now, "10.0.0.1:40000".parse().unwrap());
    assert_eq!(turn.state(), TurnState::Allocating);
    for len in [1usize, 3, 4, 19, 20, 21, 70_000] {
        turn.handle(now, BytesMut::from(&vec![0x41; len][..]), &mut |_, _| {
            panic!("nothing was relayed")
        });
    }
    turn.closed(now);
    assert_eq!(turn.state(), TurnState::Waiting);
    let later = now.plus(Duration::from_secs(1));
    turn.handle_deadline(later);
    assert_eq!(turn.state(), TurnState::Connecting);
}
