//! The three topologies on which everything must work: a direct path between two NATs, a
//! relay where both are symmetric, a relay over TCP where one blocks UDP.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use holdfast_lab::process::wait_for;
use holdfast_lab::{Nat, Place};
use serde_json::Value;

use crate::traffic::{Content, Echo, ask_until, exchange_datagrams, expect_reset, transfer};
use crate::world::{
    BOUND, BROKER_PORT, FORBIDDEN_PORT, LINK_BOUND, PORTS, TURN_PORT, World, accept, figure, timed,
    vip,
};

/// A mesh that has been killed in half must carry traffic again within this time.
const RECOVERY_BOUND: Duration = Duration::from_secs(5);
/// Peers that are told must know within this time.
const GOODBYE_BOUND: Duration = Duration::from_secs(1);
/// What goes over one connection, bytes.
const TRANSFER_LEN: usize = 100_000_000;
/// Connections at one time, and what each of them carries both ways, bytes.
const CONNECTIONS: usize = 200;
const CONNECTION_LEN: usize = 16_000;
/// Datagrams: the smallest, one that just fits, and two that need several packets.
const DATAGRAM_SIZES: [usize; 4] = [1, 1_200, 9_000, 60_000];

/// Two nodes, each behind a router of its own.
fn pair(first: Nat, second: Nat) -> Option<World> {
    World::new(2, |lab| {
        lab.router("r1", first)
            .router("r2", second)
            .node("node-1", Place::Behind("r1"))
            .node("node-2", Place::Behind("r2"))
    })
}

fn two_nats() -> Option<World> {
    pair(Nat::default(), Nat::default())
}

fn symmetric() -> Option<World> {
    pair(Nat::symmetric(), Nat::symmetric())
}

fn udp_blocked() -> Option<World> {
    pair(Nat::udp_blocked(&[TURN_PORT, BROKER_PORT]), Nat::default())
}

/// What a node says of the path in use; waited for, since a better one may be found after the
/// first that works.
fn expect_class(world: &World, class: &str) {
    for (node, peer) in [(1, 2), (2, 1)] {
        let what = format!("node-{node} uses a {class} path");
        let found = || world.selected(node, peer)["class"] == class;
        wait_for(&what, LINK_BOUND, found).unwrap();
    }
}

/// Every allocation that is ready, by how its owner reaches the server.
fn relayed(world: &World, node: u8, transport: &str) -> Vec<Value> {
    let status = world.status(node);
    let relays = status["relays"].as_array().into_iter().flatten();
    let ready = relays.filter(|relay| relay["state"] == "ready");
    let wanted = ready.filter(|relay| relay["transport"] == transport);
    wanted.map(|relay| relay["relayed"].clone()).collect()
}

/// Traffic goes through allocations that are reached over UDP. Which of the two nodes' is up
/// to each of them: a node may take its own, or send to that of its peer.
fn expect_udp_relay(world: &World) {
    for (node, peer) in [(1, 2), (2, 1)] {
        let path = world.selected(node, peer);
        let own = relayed(world, node, "udp").contains(&path["local"]);
        let other = relayed(world, peer, "udp").contains(&path["remote"]);
        assert!(own || other, "node-{node}: {path:#}");
    }
}

fn starts_up_and_answers(name: &str, world: &mut World) {
    let services = [1, 2].map(|node| Echo::start(world, node, PORTS[0]));
    let started = Instant::now();
    world.start_all();
    ask_until(world, 1, 2, PORTS[0], LINK_BOUND);
    figure(&format!(
        "{name}: first byte {} ms after the start of the processes",
        started.elapsed().as_millis()
    ));
    ask_until(world, 2, 1, PORTS[0], BOUND);
    world.wait_up(1, 2);
    drop(services);
}

fn carries_tcp_and_udp_both_ways(world: &World) {
    for (from, to) in [(1, 2), (2, 1)] {
        exchange_datagrams(world, from, to, PORTS[2], &DATAGRAM_SIZES);
        many_connections(world, from, to, PORTS[1]);
        refuses_a_forbidden_port(world, from, to);
    }
}

/// All connections are open before the first byte is answered.
fn many_connections(world: &World, from: u8, to: u8, port: u16) {
    let listener = world.listen(to, vip(to), port);
    let server = thread::spawn(move || {
        let streams: Vec<_> = (0..CONNECTIONS).map(|_| accept(&listener, BOUND)).collect();
        for (mut stream, source) in streams {
            assert_eq!(source.ip(), vip(from), "the source of a connection");
            let mut question = Vec::new();
            stream.read_to_end(&mut question).unwrap();
            question.reverse();
            stream.write_all(&question).unwrap();
        }
    });
    let mut streams: Vec<_> = (0..CONNECTIONS)
        .map(|_| world.connect(from, to, port).unwrap())
        .collect();
    let mut content = Content::new(port.into());
    let questions: Vec<_> = streams
        .iter_mut()
        .map(|stream| {
            let question = content.bytes(CONNECTION_LEN);
            stream.write_all(&question).unwrap();
            question
        })
        .collect();
    let open = || world.status(from)["connections"] == CONNECTIONS;
    wait_for("all connections are open at one time", BOUND, open).unwrap();
    for stream in &streams {
        stream.shutdown(Shutdown::Write).unwrap();
    }
    for (stream, mut expected) in streams.iter_mut().zip(questions) {
        expected.reverse();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer == expected, "an answer of {} bytes", answer.len());
    }
    server.join().unwrap();
}

/// The node that is asked decides: its service hears nothing, the client is reset.
fn refuses_a_forbidden_port(world: &World, from: u8, to: u8) {
    let listener = world.listen(to, vip(to), FORBIDDEN_PORT);
    listener.set_nonblocking(true).unwrap();
    let before = world.refused(to, "port_not_allowed");
    expect_reset(world, from, to, FORBIDDEN_PORT);
    world.wait_refused(to, "port_not_allowed", before + 1);
    let client = world.udp(from, vip(from), 0);
    let service = (vip(to), FORBIDDEN_PORT);
    client.send_to(b"let me in", service).unwrap();
    world.wait_refused(to, "port_not_allowed", before + 2);
    let silence = listener.accept().unwrap_err();
    assert_eq!(silence.kind(), io::ErrorKind::WouldBlock, "{silence}");
}

fn carries_a_lot(name: &str, world: &mut World) {
    world.start_all();
    world.wait_up(1, 2);
    for (from, to) in [(1, 2), (2, 1)] {
        let took = transfer(world, from, to, PORTS[0], TRANSFER_LEN);
        figure(&format!(
            "{name}: {} MB from node-{from} to node-{to} in {:.2} s, {:.0} MB/s",
            TRANSFER_LEN / 1_000_000,
            took.as_secs_f64(),
            TRANSFER_LEN as f64 / 1e6 / took.as_secs_f64()
        ));
    }
    figure(&format!(
        "{name}: resident memory {} and {} KiB",
        world.rss_kib(1),
        world.rss_kib(2)
    ));
}

fn recovers_and_says_goodbye(name: &str, world: &mut World) {
    let _services = [1, 2].map(|node| Echo::start(world, node, PORTS[0]));
    world.start_all();
    world.wait_up(1, 2);
    for (victim, other) in [(2, 1), (1, 2)] {
        let sessions = world.link(other, victim)["sessions"].as_u64().unwrap();
        let (took, ()) = timed(|| {
            world.kill(victim);
            world.start_again(victim);
            ask_until(world, other, victim, PORTS[0], LINK_BOUND);
            ask_until(world, victim, other, PORTS[0], BOUND);
        });
        figure(&format!(
            "{name}: traffic flows both ways {} ms after kill -9 of node-{victim} and its start",
            took.as_millis()
        ));
        assert!(took < RECOVERY_BOUND, "{took:?}");
        let again = world.link(other, victim)["sessions"].as_u64().unwrap();
        assert_eq!(again, sessions + 1, "one restart is one new session");
    }
    world.process(2).signal(libc::SIGTERM).unwrap();
    let (took, ()) = timed(|| world.wait_state(1, 2, "idle", GOODBYE_BOUND));
    figure(&format!(
        "{name}: a peer knows of SIGTERM after {} ms",
        took.as_millis()
    ));
    let ended = world.process(2).wait_end(BOUND).unwrap();
    assert_eq!(ended.code(), Some(0), "{ended}");
}

#[test]
fn between_two_nats_a_direct_path_carries_tcp_and_udp_both_ways() {
    let Some(mut world) = two_nats() else { return };
    starts_up_and_answers("two NATs", &mut world);
    expect_class(&world, "direct");
    carries_tcp_and_udp_both_ways(&world);
}

#[test]
fn between_two_nats_100_mb_arrive_whole_both_ways() {
    let Some(mut world) = two_nats() else { return };
    carries_a_lot("two NATs", &mut world);
    expect_class(&world, "direct");
}

#[test]
fn between_two_nats_a_killed_node_comes_back_and_a_stopped_one_says_goodbye() {
    let Some(mut world) = two_nats() else { return };
    recovers_and_says_goodbye("two NATs", &mut world);
}

#[test]
fn between_symmetric_nats_a_relay_carries_tcp_and_udp_both_ways() {
    let Some(mut world) = symmetric() else { return };
    starts_up_and_answers("symmetric", &mut world);
    expect_class(&world, "relay");
    expect_udp_relay(&world);
    carries_tcp_and_udp_both_ways(&world);
}

#[test]
fn between_symmetric_nats_100_mb_arrive_whole_both_ways() {
    let Some(mut world) = symmetric() else { return };
    carries_a_lot("symmetric", &mut world);
    expect_class(&world, "relay");
}

#[test]
fn between_symmetric_nats_a_killed_node_comes_back_and_a_stopped_one_says_goodbye() {
    let Some(mut world) = symmetric() else { return };
    recovers_and_says_goodbye("symmetric", &mut world);
}

#[test]
fn where_udp_is_blocked_a_relay_over_tcp_carries_tcp_and_udp_both_ways() {
    let Some(mut world) = udp_blocked() else {
        return;
    };
    starts_up_and_answers("UDP blocked", &mut world);
    expect_class(&world, "relay");
    // Nothing else gets out of node-1.
    let path = world.selected(1, 2);
    assert!(
        relayed(&world, 1, "tcp").contains(&path["local"]),
        "{path:#}"
    );
    carries_tcp_and_udp_both_ways(&world);
}

#[test]
fn where_udp_is_blocked_100_mb_arrive_whole_both_ways() {
    let Some(mut world) = udp_blocked() else {
        return;
    };
    carries_a_lot("UDP blocked", &mut world);
    expect_class(&world, "relay");
}

#[test]
fn where_udp_is_blocked_a_killed_node_comes_back_and_a_stopped_one_says_goodbye() {
    let Some(mut world) = udp_blocked() else {
        return;
    };
    recovers_and_says_goodbye("UDP blocked", &mut world);
}

#[test]
fn where_udp_is_blocked_on_both_sides_two_relays_over_tcp_carry_tcp_and_udp() {
    let blocked = || Nat::udp_blocked(&[TURN_PORT, BROKER_PORT]);
    let Some(mut world) = pair(blocked(), blocked()) else {
        return;
    };
    starts_up_and_answers("UDP blocked on both sides", &mut world);
    for (node, peer) in [(1, 2), (2, 1)] {
        let path = world.selected(node, peer);
        assert!(
            relayed(&world, node, "tcp").contains(&path["local"]),
            "{path:#}"
        );
    }
    carries_tcp_and_udp_both_ways(&world);
}
