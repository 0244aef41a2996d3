//! The NATs of a lab behave as configured, measured from inside (RFC 4787, RFC 5780).
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use holdfast_lab::{Filtering, Guard, Lab, Mapping, Nat, PUB, Place, SERVERS};
use support::{PORTS, Probe, Server, TRIES_MAX, prefix, punch};

fn two(prefix: &str, a: Nat, b: Nat) -> Guard {
    Lab::builder(prefix)
        .router("r1", a)
        .router("r2", b)
        .node("n1", Place::Behind("r1"))
        .node("n2", Place::Behind("r2"))
        .build()
        .unwrap()
        .up_guarded()
        .unwrap()
}

fn measure_mapping(lab: &Lab, node: &str) -> (Mapping, bool) {
    let mut probe = Probe::new(lab, node);
    let seen = [(0, 0), (0, 1), (1, 0), (1, 1)]
        .map(|(a, p)| probe.observed(SERVERS[a], PORTS[p]).unwrap());
    let mapping = if seen.iter().all(|endpoint| *endpoint == seen[0]) {
        Mapping::Eim
    } else if seen[0] == seen[1] && seen[2] == seen[3] {
        Mapping::Adm
    } else {
        Mapping::Apdm
    };
    (mapping, seen[0].port() == probe.port())
}

fn measure_filtering(lab: &Lab, node: &str) -> Filtering {
    let mut probe = Probe::new(lab, node);
    // Answers through two processors may overtake each other; what is filtered never comes.
    let answers = (0..TRIES_MAX).flat_map(|_| probe.ask(SERVERS[0], PORTS[0], true));
    let heard: BTreeSet<u8> = answers.map(|answer| answer.from).collect();
    match heard.into_iter().collect::<Vec<_>>()[..] {
        [0, 1, 2] => Filtering::Eif,
        [0, 1] => Filtering::Adf,
        [0] => Filtering::Apdf,
        ref other => panic!("no filtering of RFC 4787 lets in {other:?}"),
    }
}

#[test]
fn every_mapping_and_filtering_measures_as_configured() {
    let Some(prefix) = prefix('m') else { return };
    let mappings = [
        Mapping::Linux,
        Mapping::Eim,
        Mapping::EimRand,
        Mapping::Adm,
        Mapping::Apdm,
    ];
    let filterings = [Filtering::Eif, Filtering::Adf, Filtering::Apdf];
    let mut kinds = Vec::new();
    for mapping in mappings {
        for filtering in filterings {
            for hairpin in [false, true] {
                let nat = Nat::new(mapping, filtering);
                kinds.push(Nat { hairpin, ..nat });
            }
        }
    }
    let mut builder = Lab::builder(&prefix);
    for (index, nat) in kinds.iter().enumerate() {
        let router = format!("r{index}");
        builder = builder
            .router(&router, nat.clone())
            .node(&format!("n{index}"), Place::Behind(&router));
    }
    let lab = builder.build().unwrap().up_guarded().unwrap();
    let _server = Server::start(&lab);
    for (index, nat) in kinds.iter().enumerate() {
        let node = format!("n{index}");
        let (mapping, port_kept) = measure_mapping(&lab, &node);
        let (expected, expected_kept) = match nat.mapping {
            Mapping::Linux | Mapping::Eim => (Mapping::Eim, true),
            Mapping::EimRand => (Mapping::Eim, false),
            other => (other, false),
        };
        assert_eq!(mapping, expected, "mapping of {nat:?}");
        assert_eq!(port_kept, expected_kept, "port kept by {nat:?}");
        assert_eq!(measure_filtering(&lab, &node), nat.filtering, "{nat:?}");
    }
}

#[test]
fn nodes_behind_different_nats_reach_each_other_exactly_where_the_types_allow_it() {
    let Some(prefix) = prefix('h') else { return };
    let cone = |filtering| Nat::new(Mapping::Eim, filtering);
    let kinds = [
        ("linux", Nat::default()),
        ("full", Nat::full_cone()),
        ("restr", cone(Filtering::Adf)),
        ("portre", cone(Filtering::Apdf)),
        ("rand", Nat::new(Mapping::EimRand, Filtering::Apdf)),
        ("sym", Nat::symmetric()),
        ("sym2", Nat::symmetric()),
        ("noudp", Nat::udp_blocked(&[443])),
    ];
    let mut builder = Lab::builder(&prefix);
    for (name, nat) in kinds {
        let router = format!("r-{name}");
        builder = builder
            .router(&router, nat)
            .node(name, Place::Behind(&router));
    }
    let lab = builder.node("public", Place::Public).build().unwrap();
    let lab = lab.up_guarded().unwrap();
    let _server = Server::start(&lab);
    for (a, b, direct) in [
        ("linux", "portre", true),
        ("linux", "rand", true),
        ("full", "restr", true),
        ("restr", "portre", true),
        ("sym", "full", true),
        ("sym", "restr", true),
        ("sym", "linux", false),
        ("sym", "portre", false),
        ("sym", "sym2", false),
        ("noudp", "full", false),
        ("linux", "public", true),
        ("sym", "public", true),
    ] {
        assert_eq!(punch(&lab, a, b), direct, "{a} with {b}");
        assert_eq!(punch(&lab, b, a), direct, "{b} with {a}");
    }
}

#[test]
fn nodes_behind_one_nat_meet_at_its_public_address_only_if_it_hairpins() {
    let Some(prefix) = prefix('p') else { return };
    let no_hairpin = Nat {
        isolate: true,
        ..Nat::default()
    };
    let restricted = Nat {
        filtering: Filtering::Apdf,
        ..Nat::hairpinning()
    };
    let mut builder = Lab::builder(&prefix);
    for (router, nat) in [
        ("r1", Nat::hairpinning()),
        ("r2", no_hairpin),
        ("r3", restricted),
        ("r4", Nat::default()),
    ] {
        builder = builder
            .router(router, nat)
            .node(&format!("{router}a"), Place::Behind(router))
            .node(&format!("{router}b"), Place::Behind(router));
    }
    let lab = builder.build().unwrap().up_guarded().unwrap();
    let _server = Server::start(&lab);
    for (router, hairpins, private) in [
        ("r1", true, false),
        ("r2", false, false),
        ("r3", true, false),
        ("r4", false, true),
    ] {
        let (a, b) = (format!("{router}a"), format!("{router}b"));
        assert_eq!(punch(&lab, &a, &b), hairpins, "hairpin through {router}");
        assert_eq!(
            reaches_in_private(&lab, &a, &b),
            private,
            "private {router}"
        );
    }
}

fn reaches_in_private(lab: &Lab, a: &str, b: &str) -> bool {
    let (sender, mut receiver) = (Probe::new(lab, a), Probe::new(lab, b));
    sender.send(SocketAddrV4::new(lab.address(b).unwrap(), receiver.port()));
    receiver.observed(SERVERS[0], PORTS[0]).unwrap();
    !receiver.heard.is_empty()
}

#[test]
fn a_forgotten_nat_state_gives_a_random_mapping_another_port_and_still_answers() {
    let Some(prefix) = prefix('f') else { return };
    let lab = two(
        &prefix,
        Nat::new(Mapping::EimRand, Filtering::Apdf),
        Nat::default(),
    );
    let _server = Server::start(&lab);
    let mut random = Probe::new(&lab, "n1");
    let mut kept = Probe::new(&lab, "n2");
    let mut see = || {
        let both = [&mut random, &mut kept].map(|probe| probe.observed(SERVERS[0], PORTS[0]));
        both.map(Option::unwrap)
    };
    let before = see();
    assert_eq!(before, see(), "stable without a reason to change");
    lab.flush_nat("r1").unwrap();
    lab.flush_nat("r2").unwrap();
    let after = see();
    assert_ne!(before[0], after[0]);
    assert_eq!(
        before[1], after[1],
        "a plain masquerade takes the free local port again"
    );
}

#[test]
fn a_nat_forgets_while_traffic_flows() {
    /// Each would find the old port again if a packet slipped between the two memories.
    const FLUSHES: usize = 10;
    let Some(prefix) = prefix('g') else { return };
    let random = Nat::new(Mapping::EimRand, Filtering::Apdf);
    let lab = two(&prefix, random, Nat::default());
    let _server = Server::start(&lab);
    let mut probe = Probe::new(&lab, "n1");
    let busy = probe.socket.try_clone().unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Too short to be a request, so the server answers nothing.
                let _ = busy.send_to(b"x", (SERVERS[0], PORTS[0]));
            }
        });
        let mut seen = vec![probe.observed(SERVERS[0], PORTS[0]).unwrap()];
        for _ in 0..FLUSHES {
            lab.flush_nat("r1").unwrap();
            seen.push(probe.observed(SERVERS[0], PORTS[0]).unwrap());
        }
        done.store(true, Ordering::Relaxed);
        let repeated = seen.windows(2).filter(|two| two[0] == two[1]).count();
        assert_eq!(repeated, 0, "{seen:?}");
    });
}

#[test]
fn a_router_that_blocks_udp_passes_tcp_to_the_listed_ports_only() {
    let Some(prefix) = prefix('u') else { return };
    let lab = two(&prefix, Nat::udp_blocked(&[443]), Nat::default());
    let _server = Server::start(&lab);
    let listen = |port| {
        let listener = lab.run_in(PUB, || TcpListener::bind((SERVERS[0], port)));
        listener.unwrap().unwrap()
    };
    let (allowed, refused) = (listen(443), listen(444));
    assert_eq!(Probe::new(&lab, "n1").observed(SERVERS[0], PORTS[0]), None);
    assert!(
        Probe::new(&lab, "n2")
            .observed(SERVERS[0], PORTS[0])
            .is_some()
    );

    let connect = |port| {
        let address = SocketAddrV4::new(SERVERS[0], port).into();
        // A refused port is dropped in silence, so this is how long the refusal takes.
        let bound = Duration::from_secs(1);
        lab.run_in("n1", || TcpStream::connect_timeout(&address, bound))
            .unwrap()
    };
    let mut client = connect(443).unwrap();
    let (mut served, peer) = allowed.accept().unwrap();
    assert_eq!(
        support::ip(SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 101), 0)),
        peer.ip()
    );
    client.write_all(b"hello").unwrap();
    drop(client);
    let mut received = String::new();
    served.read_to_string(&mut received).unwrap();
    assert_eq!(received, "hello");
    assert!(connect(444).is_err());
    drop(refused);
}

#[test]
fn a_router_that_is_reconfigured_behaves_differently_at_once() {
    let Some(prefix) = prefix('r') else { return };
    let mut lab = two(&prefix, Nat::default(), Nat::default());
    let _server = Server::start(&lab);
    let mut probe = Probe::new(&lab, "n1");
    let before = probe.observed(SERVERS[0], PORTS[0]).unwrap();
    lab.set_nat("r1", Nat::udp_blocked(&[443])).unwrap();
    assert_eq!(probe.observed(SERVERS[0], PORTS[0]), None);
    lab.set_nat("r1", Nat::full_cone()).unwrap();
    assert_eq!(probe.observed(SERVERS[0], PORTS[0]), Some(before));
    assert_eq!(measure_filtering(&lab, "n1"), Filtering::Eif);
    assert_eq!(
        Lab::attach(&prefix).unwrap().nat("r1").unwrap(),
        &Nat::full_cone()
    );
}

#[test]
fn a_published_port_is_reached_from_everywhere_and_no_other_port_is() {
    let Some(prefix) = prefix('t') else { return };
    let lab = Lab::builder(&prefix)
        // The strictest NAT: only what is published comes in, and answers still go out.
        .router("r1", Nat::udp_blocked(&[443]))
        .router("r2", Nat::symmetric())
        .node("n1", Place::Behind("r1"))
        .node("n2", Place::Behind("r1"))
        .node("n3", Place::Behind("r2"))
        .node("n4", Place::Public)
        .publish("n1", 8500, 80)
        .build()
        .unwrap();
    let mut lab = lab.up_guarded().unwrap();
    let gateway = lab.public_address("n1").unwrap();
    let listener = lab.run_in("n1", || TcpListener::bind("0.0.0.0:80"));
    let listener = listener.unwrap().unwrap();
    let connect = |lab: &Lab, from: &str, port| {
        let address = SocketAddrV4::new(gateway, port).into();
        // What is not published is dropped in silence, so this is how long the refusal takes.
        let bound = Duration::from_secs(1);
        lab.run_in(from, || TcpStream::connect_timeout(&address, bound))
            .unwrap()
    };
    let is_served = |lab: &Lab, from: &str| {
        let mut client = connect(lab, from, 8500).unwrap();
        let (mut served, _) = listener.accept().unwrap();
        served.write_all(b"hello").unwrap();
        drop(served);
        let mut received = String::new();
        client.read_to_string(&mut received).unwrap();
        received == "hello"
    };
    for from in [PUB, "n3", "n4"] {
        assert!(is_served(&lab, from), "{from}");
        assert!(connect(&lab, from, 80).is_err(), "{from}");
    }
    lab.set_nat("r1", Nat::default()).unwrap();
    for from in ["n1", "n2", "n3"] {
        assert!(is_served(&lab, from), "{from}, after the NAT was changed");
    }
}
