//! What a TCP connection does at one end arrives at the other.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::Duration;

use holdfast_lab::process::wait_for;
use holdfast_lab::{Nat, Place};
use serde_json::Value;
use socket2::SockRef;

use crate::traffic::{Content, Echo, ask, ask_until, expect_reset, hash, hash_all};
use crate::world::{BOUND, LINK_BOUND, PORTS, World, accept, vip};

/// More than all buffers on the way hold at once.
const HALF_CLOSE_LEN: usize = 8_000_000;

/// Two nodes behind NATs, not started.
fn two_nodes() -> Option<World> {
    World::new(2, |lab| {
        lab.router("r1", Nat::default())
            .router("r2", Nat::default())
            .node("node-1", Place::Behind("r1"))
            .node("node-2", Place::Behind("r2"))
    })
}

/// The same, with their link up.
fn linked() -> Option<World> {
    let mut world = two_nodes()?;
    world.start_all();
    world.wait_up(1, 2);
    Some(world)
}

/// Both ends of one connection.
fn connection(world: &World, from: u8, to: u8, port: u16) -> (TcpStream, TcpStream) {
    let listener = world.listen(to, vip(to), port);
    let client = world.connect(from, to, port).unwrap();
    let (server, source) = accept(&listener, BOUND);
    assert_eq!(source.ip(), vip(from), "the source of a connection");
    (client, server)
}

fn reset(stream: TcpStream) {
    let linger = Some(Duration::ZERO);
    SockRef::from(&stream).set_linger(linger).unwrap();
}

#[test]
fn a_service_that_listens_on_loopback_only_is_reached() {
    let Some(world) = linked() else { return };
    let listener = world.listen(2, Ipv4Addr::LOCALHOST, PORTS[0]);
    let _service = Echo::on(listener);
    ask(&world, 1, 2, PORTS[0], BOUND).unwrap();
}

#[test]
fn a_port_that_another_process_holds_is_named_and_the_rest_works() {
    let Some(mut world) = two_nodes() else { return };
    let greedy = world.listen(1, Ipv4Addr::UNSPECIFIED, PORTS[0]);
    let greedy_udp = world.udp(1, Ipv4Addr::UNSPECIFIED, PORTS[2]);
    world.start_all();
    world.wait_up(1, 2);
    let clashes = || {
        let mut found = named_clashes(&world.status(1));
        found.sort();
        found
    };
    let (tcp, udp) = (
        format!("tcp {}:{}", vip(2), PORTS[0]),
        format!("udp {}:{}", vip(2), PORTS[2]),
    );
    let expected = [tcp, udp];
    wait_for("the clashes are named", BOUND, || clashes() == expected).unwrap();
    assert_eq!(
        named_clashes(&world.status(2)),
        [""; 0],
        "nothing is taken there"
    );

    let _services = [PORTS[0], PORTS[1]].map(|port| Echo::start(&world, 2, port));
    ask(&world, 1, 2, PORTS[1], BOUND).unwrap();

    drop((greedy, greedy_udp));
    wait_for("no clash is left", BOUND, || clashes().is_empty()).unwrap();
    ask_until(&world, 1, 2, PORTS[0], BOUND);
}

fn named_clashes(status: &Value) -> Vec<String> {
    let clashes = status["clashes"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    clashes
        .map(|clash| format!("{} {}", text(&clash["protocol"]), text(&clash["addr"])))
        .collect()
}

#[test]
fn a_half_close_is_carried_through_and_the_answer_still_comes() {
    let Some(world) = linked() else { return };
    for (from, to) in [(1, 2), (2, 1)] {
        let (mut client, mut server) = connection(&world, from, to, PORTS[0]);
        let content = Content::new(u64::from(from)).bytes(HALF_CLOSE_LEN);
        let expected = hash(&content);
        let sender = std::thread::spawn(move || {
            client.write_all(&content).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            client
        });
        // Only the end of the content ends this; the other direction is still open.
        let (hash, len) = hash_all(&mut server).unwrap();
        assert_eq!((hash, len), (expected.clone(), HALF_CLOSE_LEN as u64));
        let mut client = sender.join().unwrap();
        server.write_all(&expected).unwrap();
        let mut answer = vec![0; expected.len()];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, expected);
        drop(server);
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "then comes the end");
    }
}

#[test]
fn a_reset_is_carried_through_from_either_end() {
    let Some(world) = linked() else { return };
    for (from, to) in [(1, 2), (2, 1)] {
        let (client, mut server) = connection(&world, from, to, PORTS[0]);
        reset(client);
        let error = server.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");

        let (mut client, server) = connection(&world, from, to, PORTS[0]);
        reset(server);
        let error = client.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    }
}

#[test]
fn a_port_where_nobody_listens_resets_and_one_that_is_not_forwarded_refuses() {
    let Some(world) = linked() else { return };
    expect_reset(&world, 1, 2, PORTS[1]);

    let error = world.connect(1, 2, PORTS[0] + 1).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
}

#[test]
fn the_status_command_prints_the_page_and_the_pair_in_use() {
    let Some(world) = linked() else { return };
    let admin = ["--admin", "http://127.0.0.1:7070"];
    let json = world.run(1, &[&["status", "--json"], &admin[..]].concat());
    let printed: Value = serde_json::from_str(&json).unwrap();
    let served = world.status(1);
    for key in ["id", "vip", "incarnation"] {
        assert!(!served[key].is_null(), "{key}");
        assert_eq!(printed[key], served[key], "{key}");
    }
    let what = "the pair that is marked as selected is in the table of the peer";
    let shown = || {
        let path = world.selected(1, 2);
        let remote = path["remote"].as_str().unwrap_or("?");
        world
            .run(1, &[&["status", "node-2"], &admin[..]].concat())
            .contains(remote)
    };
    wait_for(what, LINK_BOUND, shown).unwrap();
}
