//! Strangers and garbage: counted, and nothing else is disturbed.

use std::net::{SocketAddr, UdpSocket};

use holdfast_lab::{Nat, PUB, Place};

use crate::traffic::{Content, Echo, ask, exchange_datagrams};
use crate::world::{BOUND, NodeOptions, PORTS, World};

/// Packets of each kind of garbage.
const PACKETS: usize = 200;
/// What the random bytes are drawn from; part of the test, so that it repeats.
const SEED: u64 = 0x6172_6261_6765;
/// Messages of an impostor that must have been refused before "it never gets up" is believed:
/// an honest peer is up after two.
const IMPOSTOR_MESSAGES: u64 = 4;

#[test]
fn a_peer_with_the_wrong_key_never_gets_up_and_is_counted() {
    let world = World::new(3, |lab| {
        lab.router("r1", Nat::default())
            .node("node-1", Place::Behind("r1"))
            .node("node-2", Place::Public)
            .node("node-3", Place::Public)
    });
    let Some(mut world) = world else { return };
    let impostor = NodeOptions {
        wrong_key: true,
        ..NodeOptions::default()
    };
    world.start(1);
    world.start_with(2, &impostor);
    world.start(3);
    world.wait_up(1, 3);
    world.wait_refused(1, "signal_stranger", IMPOSTOR_MESSAGES);
    for (node, peer) in [(1, 2), (2, 1), (3, 2), (2, 3)] {
        assert_eq!(
            world.link(node, peer)["state"],
            "signaling",
            "{node} and {peer}"
        );
    }
    let _service = Echo::start(&world, 3, PORTS[0]);
    ask(&world, 1, 3, PORTS[0], BOUND).unwrap();
}

#[test]
fn garbage_on_the_udp_port_is_counted_and_the_link_stays_up() {
    let world = World::new(2, |lab| {
        lab.router("r2", Nat::default())
            .node("node-1", Place::Public)
            .node("node-2", Place::Behind("r2"))
    });
    let Some(mut world) = world else { return };
    world.start_all();
    world.wait_up(1, 2);
    let udp_addr = world.status(1)["udp_addr"].as_str().unwrap().to_owned();
    let port = udp_addr.parse::<SocketAddr>().unwrap().port();
    let target = SocketAddr::from((world.lab.address("node-1").unwrap(), port));
    let bind = || UdpSocket::bind(("0.0.0.0", 0));
    let stranger = world.lab.run_in(PUB, bind).unwrap().unwrap();

    let mut content = Content::new(SEED);
    let expected = |counters: &[&str]| counters.iter().map(|name| world.refused(1, name)).sum();
    for (name, make, counters) in GARBAGE {
        let before: u64 = expected(counters);
        for _ in 0..PACKETS {
            stranger.send_to(&make(&mut content), target).unwrap();
        }
        let all = before + PACKETS as u64;
        let counted = || expected(counters) >= all;
        let what = format!("{name} is counted as {counters:?}");
        holdfast_lab::process::wait_for(&what, BOUND, counted).unwrap();
        assert_eq!(world.link(1, 2)["state"], "up", "after {name}");
    }

    // There is nothing in it to count, and nothing to trip over.
    stranger.send_to(&[], target).unwrap();

    let link = world.link(1, 2);
    assert_eq!(
        (&link["state"], &link["sessions"]),
        (&"up".into(), &1.into())
    );
    let _services = [1, 2].map(|node| Echo::start(&world, node, PORTS[0]));
    for (from, to) in [(1, 2), (2, 1)] {
        ask(&world, from, to, PORTS[0], BOUND).unwrap();
        exchange_datagrams(&world, from, to, PORTS[2], &[1_200]);
    }
}

type Make = fn(&mut Content) -> Vec<u8>;

/// A kind of garbage, how it is made, and the counters of which one must see it.
const GARBAGE: &[(&str, Make, &[&str])] = &[
    (
        "noise",
        noise,
        &["packet_stranger", "packet_rejected", "stun_stranger"],
    ),
    (
        "a QUIC packet for the first link",
        quic_short,
        &["packet_rejected"],
    ),
    (
        "a QUIC first packet for the first link",
        quic_long,
        &["packet_rejected"],
    ),
    (
        "a QUIC packet for a link that is none",
        quic_nobody,
        &["packet_stranger"],
    ),
    ("a STUN answer to nobody", stun_answer, &["stun_stranger"]),
    (
        "a STUN request for nobody",
        |c| stun_request(c, "ffff0000:x"),
        &["stun_stranger"],
    ),
    (
        "a STUN request without a proof",
        |c| stun_request(c, "0000ab:cd"),
        &["stun_malformed"],
    ),
    (
        "a STUN request with a wrong proof",
        stun_forged,
        &["stun_rejected"],
    ),
    (
        "a STUN request that is cut off",
        stun_cut,
        &["stun_malformed", "stun_stranger"],
    ),
    (
        "a STUN request with a wrong length",
        stun_long,
        &["stun_malformed", "stun_stranger"],
    ),
    (
        "TURN channel data",
        channel_data,
        &["packet_stranger", "packet_rejected"],
    ),
];

fn noise(content: &mut Content) -> Vec<u8> {
    let len = usize::from(content.bytes(1)[0]) * 5 + 1;
    content.bytes(len)
}

/// RFC 9000 section 17.3: the first bytes of the connection id are the number of the link.
fn quic_short(content: &mut Content) -> Vec<u8> {
    [&[0x41, 0, 0][..], &content.bytes(60)].concat()
}

fn quic_nobody(content: &mut Content) -> Vec<u8> {
    [&[0x41, 0xff, 0xff][..], &content.bytes(60)].concat()
}

/// RFC 9000 section 17.2.2, in the size that an Initial must have.
fn quic_long(content: &mut Content) -> Vec<u8> {
    let head = [0xc3, 0, 0, 0, 1, 8, 0, 0];
    [&head[..], &content.bytes(1_200 - head.len())].concat()
}

/// RFC 8489 section 5.
fn stun(content: &mut Content, kind: u16, len: u16, attributes: &[u8]) -> Vec<u8> {
    let cookie = 0x2112_a442_u32.to_be_bytes();
    let (kind, len) = (kind.to_be_bytes(), len.to_be_bytes());
    [&kind, &len, &cookie[..], &content.bytes(12), attributes].concat()
}

fn stun_answer(content: &mut Content) -> Vec<u8> {
    stun(content, 0x0101, 0, &[])
}

/// With USERNAME (RFC 8489 section 14.3) alone: nothing proves it.
fn stun_request(content: &mut Content, username: &str) -> Vec<u8> {
    let attributes = username_attribute(username);
    let len = u16::try_from(attributes.len()).unwrap();
    stun(content, 0x0001, len, &attributes)
}

/// As a check (RFC 8445 section 7.2.2) with PRIORITY, and MESSAGE-INTEGRITY under a key that
/// nobody has.
fn stun_forged(content: &mut Content) -> Vec<u8> {
    let priority = [0, 0x24, 0, 4, 1, 2, 3, 4];
    let integrity = [&[0, 8, 0, 20][..], &content.bytes(20)].concat();
    let attributes = [&username_attribute("0000ab:cd"), &priority[..], &integrity].concat();
    let len = u16::try_from(attributes.len()).unwrap();
    stun(content, 0x0001, len, &attributes)
}

fn username_attribute(username: &str) -> Vec<u8> {
    let len = u16::try_from(username.len()).unwrap().to_be_bytes();
    let mut attribute = [&[0, 6][..], &len, username.as_bytes()].concat();
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// Its second attribute ends after the message.
fn stun_cut(content: &mut Content) -> Vec<u8> {
    let attributes = [
        &username_attribute("0000ab:cd")[..],
        &[0, 8, 0, 20, 1, 2, 3, 4],
    ]
    .concat();
    let len = u16::try_from(attributes.len()).unwrap();
    stun(content, 0x0001, len, &attributes)
}

fn stun_long(content: &mut Content) -> Vec<u8> {
    let attributes = username_attribute("0000ab:cd");
    stun(content, 0x0001, u16::MAX, &attributes)
}

/// RFC 8656 section 12.4, but not from our TURN server.
fn channel_data(content: &mut Content) -> Vec<u8> {
    [&[0x40, 0, 0, 100][..], &content.bytes(100)].concat()
}
