//! Starts, ends, and changes of the world around a node that runs.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use holdfast_lab::process::wait_for;
use holdfast_lab::{Nat, PUB, Place, SERVERS};
use serde_json::Value;

use crate::traffic::{Echo, ask, ask_until};
use crate::world::{BOUND, BROKER_PORT, LINK_BOUND, NodeOptions, PORTS, TURN_PORT, World, figure};

/// How long a stream may stand still when its path goes and another must be found.
const STALL_BOUND: Duration = Duration::from_secs(5);
/// A server that was out of reach is asked again only every few seconds.
const DIRECT_BOUND: Duration = Duration::from_secs(20);
/// How long a stream is watched after something happened to its path.
const WATCH: Duration = Duration::from_secs(6);

fn behind(first: Nat, second: Nat) -> Option<World> {
    World::new(2, |lab| {
        lab.router("r1", first)
            .router("r2", second)
            .node("node-1", Place::Behind("r1"))
            .node("node-2", Place::Behind("r2"))
    })
}

/// UDP goes nowhere, TCP to the servers only.
fn blocked() -> Nat {
    Nat::udp_blocked(&[TURN_PORT, BROKER_PORT])
}

#[test]
fn a_loopback_that_is_down_is_brought_up() {
    let world = World::new(2, |lab| {
        lab.lo_up(false)
            .node("node-1", Place::Public)
            .node("node-2", Place::Public)
    });
    let Some(mut world) = world else { return };
    // Without a loopback that is up, none of its addresses is this machine's.
    let error = world.in_node(1, || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let error = error.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable, "{error}");
    world.start_all();
    world.wait_up(1, 2);
    let _service = Echo::start(&world, 2, PORTS[0]);
    ask(&world, 1, 2, PORTS[0], BOUND).unwrap();
}

#[test]
fn sigusr1_writes_the_flight_recorder_and_the_link_stays() {
    let Some(mut world) = behind(Nat::default(), Nat::default()) else {
        return;
    };
    world.start_all();
    world.wait_up(1, 2);
    let folder = world.lab.folder().join("dumps-1");
    world.process(1).signal(libc::SIGUSR1).unwrap();
    let dumps = || -> Vec<_> {
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        paths
            .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
            .collect()
    };
    wait_for("a dump is written", BOUND, || dumps().len() == 1).unwrap();
    let text = fs::read_to_string(&dumps()[0]).unwrap();
    let records = text.lines().map(serde_json::from_str::<Value>);
    let records: Vec<Value> = records.map(Result::unwrap).collect();
    assert!(
        records.len() > 10,
        "{} records of a link that came up",
        records.len()
    );
    assert!(
        !text.contains(&"5a".repeat(32)),
        "the cluster secret is in the dump"
    );
    assert_eq!(world.link(1, 2)["state"], "up");
}

#[test]
fn a_link_comes_up_with_two_dead_brokers_and_one_that_lives() {
    let Some(mut world) = behind(Nat::default(), Nat::default()) else {
        return;
    };
    // One refuses, one takes connections and never says a word.
    let silent = || TcpListener::bind((SERVERS[1], BROKER_PORT));
    let _silent = world.lab.run_in(PUB, silent).unwrap().unwrap();
    let brokers = [
        format!("http://{}:{}", SERVERS[1], BROKER_PORT + 1),
        format!("http://{}:{BROKER_PORT}", SERVERS[1]),
        format!("http://{}:{BROKER_PORT}", SERVERS[0]),
    ];
    let options = NodeOptions {
        brokers: Some(brokers.to_vec()),
        ..NodeOptions::default()
    };
    let _service = Echo::start(&world, 2, PORTS[0]);
    let started = Instant::now();
    world.start_with(1, &options);
    world.start_with(2, &options);
    ask_until(&world, 1, 2, PORTS[0], LINK_BOUND);
    figure(&format!(
        "two dead brokers and one that lives: first byte {} ms after the start of the processes",
        started.elapsed().as_millis()
    ));
    let status = world.status(1);
    let reachable = status["brokers"].as_array().unwrap().iter();
    let reachable: Vec<_> = reachable
        .map(|broker| broker["reachable"] == true)
        .collect();
    assert_eq!(reachable, [false, false, true]);
}

#[test]
fn a_link_outlives_its_broker_and_a_restarted_peer_needs_only_another_one() {
    let Some(mut world) = behind(Nat::default(), Nat::default()) else {
        return;
    };
    let both = SERVERS.map(|server| format!("http://{server}:{BROKER_PORT}"));
    let options = NodeOptions {
        brokers: Some(both.to_vec()),
        ..NodeOptions::default()
    };
    let _service = Echo::start(&world, 2, PORTS[0]);
    world.start_with(1, &options);
    world.start_with(2, &options);
    world.wait_up(1, 2);
    world.end_brokers();
    ask(&world, 1, 2, PORTS[0], BOUND).unwrap();
    world.start_broker(1).unwrap();
    let started = Instant::now();
    world.kill(2);
    world.start_again(2);
    ask_until(&world, 1, 2, PORTS[0], LINK_BOUND);
    figure(&format!(
        "first broker gone, second just started: traffic flows {} ms after kill -9 of a peer",
        started.elapsed().as_millis()
    ));
}

/// A connection that is asked and answered without a pause.
struct Watched(TcpStream);

impl Watched {
    fn open(world: &World) -> Watched {
        Watched(world.connect(1, 2, PORTS[0]).unwrap())
    }

    /// Ask for that long; the longest time without an answer. The echo service gives up a
    /// connection that is silent, so a stream that breaks shows as an error here.
    fn longest_stall(&mut self, watch: Duration, done: impl Fn() -> bool) -> Duration {
        let (started, mut longest) = (Instant::now(), Duration::ZERO);
        while started.elapsed() < watch && !done() {
            let asked = Instant::now();
            let mut answer = [0; 4];
            self.0.write_all(b"ping").unwrap();
            self.0.read_exact(&mut answer).unwrap();
            longest = longest.max(asked.elapsed());
        }
        longest
    }
}

/// Whether traffic of the link takes a path of that class on both sides.
fn both_use(world: &World, class: &str) -> bool {
    let class_of = |node, peer| world.selected(node, peer)["class"] == class;
    class_of(1, 2) && class_of(2, 1)
}

#[test]
fn a_stream_moves_to_a_relay_over_tcp_when_udp_is_blocked_under_it() {
    let Some(mut world) = behind(Nat::default(), Nat::default()) else {
        return;
    };
    let _service = Echo::patient(&world, 2, PORTS[0]);
    world.start_all();
    world.wait_up(1, 2);
    wait_for("the path is direct", LINK_BOUND, || {
        both_use(&world, "direct")
    })
    .unwrap();
    let mut stream = Watched::open(&world);
    world.lab.set_nat("r1", blocked()).unwrap();
    let stall = stream.longest_stall(WATCH, || both_use(&world, "relay"));
    figure(&format!(
        "UDP blocked under a stream: longest stall {} ms",
        stall.as_millis()
    ));
    assert!(both_use(&world, "relay"), "traffic takes the relay");
    assert!(stall < STALL_BOUND, "{stall:?}");
    assert_eq!(world.link(1, 2)["sessions"], 1, "the session goes on");
}

#[test]
fn a_stream_moves_from_a_relay_to_a_direct_path_when_udp_is_allowed_under_it() {
    let Some(mut world) = behind(blocked(), Nat::default()) else {
        return;
    };
    let _service = Echo::patient(&world, 2, PORTS[0]);
    world.start_all();
    world.wait_up(1, 2);
    let mut stream = Watched::open(&world);
    world.lab.set_nat("r1", Nat::default()).unwrap();
    let started = Instant::now();
    let stall = stream.longest_stall(DIRECT_BOUND, || both_use(&world, "direct"));
    let took = started.elapsed();
    assert!(both_use(&world, "direct"), "traffic is direct");
    figure(&format!(
        "UDP allowed under a stream: direct after {} ms, longest stall {} ms",
        took.as_millis(),
        stall.as_millis()
    ));
    assert!(stall < STALL_BOUND, "{stall:?}");
    assert_eq!(world.link(1, 2)["sessions"], 1, "the session goes on");
}

#[test]
fn a_stream_survives_a_nat_that_forgets_its_mappings() {
    // The first takes another port for each new mapping, the second lets it in.
    let Some(mut world) = behind(Nat::symmetric(), Nat::full_cone()) else {
        return;
    };
    let _service = Echo::patient(&world, 2, PORTS[0]);
    world.start_all();
    world.wait_up(1, 2);
    wait_for("the path is direct", LINK_BOUND, || {
        both_use(&world, "direct")
    })
    .unwrap();
    let mut stream = Watched::open(&world);
    let before = world.selected(2, 1)["remote"].clone();
    world.lab.flush_nat("r1").unwrap();
    let moved = || both_use(&world, "direct") && world.selected(2, 1)["remote"] != before;
    let stall = stream.longest_stall(WATCH, moved);
    assert!(moved(), "the path is the old one: {before}");
    figure(&format!(
        "a NAT forgot its mappings: longest stall {} ms",
        stall.as_millis()
    ));
    assert!(stall < STALL_BOUND, "{stall:?}");
    assert_eq!(world.link(1, 2)["sessions"], 1, "the session goes on");
}

#[test]
fn sighup_adds_and_removes_peers_and_leaves_other_links_and_their_streams_alone() {
    let world = World::new(3, |lab| {
        (1..=3).fold(lab, |lab, n| {
            let router = format!("r{n}");
            lab.router(&router, Nat::default())
                .node(&format!("node-{n}"), Place::Behind(&router))
        })
    });
    let Some(mut world) = world else { return };
    let _services = [2, 3].map(|node| Echo::patient(&world, node, PORTS[0]));
    world.configure_peers(1, &[1, 2]);
    world.start_again(1);
    world.start(2);
    world.start(3);
    world.wait_up(1, 2);
    let mut stream = world.connect(1, 2, PORTS[0]).unwrap();
    assert_eq!(world.link(1, 3), Value::Null, "a stranger has no link");

    world.configure_peers(1, &[1, 2, 3]);
    world.process(1).signal(libc::SIGHUP).unwrap();
    world.wait_up(1, 3);
    ask_until(&world, 1, 3, PORTS[0], LINK_BOUND);
    echo(&mut stream).unwrap();
    assert_eq!(world.link(1, 2)["sessions"], 1, "the other link goes on");

    let mut stays = world.connect(1, 3, PORTS[0]).unwrap();
    world.configure_peers(1, &[1, 3]);
    world.process(1).signal(libc::SIGHUP).unwrap();
    let gone = || world.link(1, 2) == Value::Null;
    wait_for("the link is gone", BOUND, gone).unwrap();
    assert!(echo(&mut stream).is_err(), "the peer is no longer one");
    let refused = world.connect(1, 2, PORTS[0]).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    echo(&mut stays).unwrap();
    assert_eq!(world.link(1, 3)["sessions"], 1);
}

/// A few bytes there and back.
fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let mut back = [0; 4];
    stream.write_all(b"ping")?;
    stream.read_exact(&mut back)?;
    assert_eq!(&back, b"ping");
    Ok(())
}
