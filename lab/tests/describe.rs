//! A bad description is refused with the reason, before anything is made.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use holdfast_lab::{Error, Lab, LinkSpec, NODES_MAX, Nat, Place};

fn refusal(builder: holdfast_lab::Builder) -> String {
    builder.build().unwrap_err().to_string()
}

#[test]
fn a_prefix_is_a_short_word() {
    for prefix in ["", "toolonger", "Ab", "a/b", "-a", "a b", "ä"] {
        let error = Lab::builder(prefix).build().unwrap_err();
        assert!(
            matches!(error, Error::Invalid { .. }),
            "{prefix:?}: {error}"
        );
        assert!(Lab::clean(prefix).is_err(), "{prefix:?}");
    }
    assert!(Lab::builder("a-1").build().is_ok());
}

#[test]
fn names_are_words_of_their_own() {
    let lab = || Lab::builder("t").router("r1", Nat::default());
    for name in ["r1", "pub", "", "../x", "a name", "12345678901234567"] {
        let error = refusal(lab().node(name, Place::Behind("r1")));
        assert!(error.contains("name"), "{name:?}: {error}");
    }
    let error = refusal(lab().node("n1", Place::Behind("r2")));
    assert!(error.contains("\"r2\"") && error.contains("r1"), "{error}");
}

#[test]
fn there_is_a_limit_on_nodes() {
    let mut builder = Lab::builder("t");
    for index in 0..=NODES_MAX {
        builder = builder.node(&format!("n{index}"), Place::Public);
    }
    assert_eq!(
        refusal(builder),
        "the lab has 65 nodes, but at most 64 are supported"
    );
}

#[test]
fn an_emulated_link_needs_an_emulator_and_an_end() {
    let lab = || Lab::builder("t").node("n1", Place::Public);
    let none = LinkSpec::none;
    assert!(refusal(lab().link("n1", none(), none())).contains("no link emulator"));
    let lab = lab().wire_binary(Path::new("wire"));
    assert!(refusal(lab.link("n2", none(), none())).contains("\"n2\""));
}

#[test]
fn a_link_specification_cannot_smuggle_in_another_line() {
    for spec in ["", "none\nab blackhole", "a b", "delay=10ms;"] {
        assert!(LinkSpec::new(spec).is_err(), "{spec:?}");
    }
    let spec = "delay=10ms,loss=1/100,rate=100mbit,queue=256kb";
    assert_eq!(LinkSpec::new(spec).unwrap().as_str(), spec);
}

#[test]
fn a_nat_has_sensible_timeouts_and_an_mtu_is_one_of_ipv4() {
    let nat = Nat {
        udp_timeout_s: 0,
        ..Nat::default()
    };
    assert!(refusal(Lab::builder("t").router("r1", nat)).contains("UDP timeout"));
    let small = Lab::builder("t").node("n1", Place::Public).mtu("n1", 67);
    assert!(refusal(small).contains("MTU"));
}

#[test]
fn a_port_is_published_once_and_for_a_node_behind_a_router() {
    let lab = || {
        Lab::builder("t")
            .router("r1", Nat::default())
            .node("n1", Place::Behind("r1"))
            .node("n2", Place::Behind("r1"))
            .node("n3", Place::Public)
    };
    assert!(lab().publish("n1", 8500, 8500).build().is_ok());
    let twice = lab().publish("n1", 8500, 8500).publish("n2", 8500, 80);
    assert!(refusal(twice).contains("port 8500 of r1 again"));
    assert!(refusal(lab().publish("n3", 80, 80)).contains("port 80 of n3"));
    assert!(refusal(lab().publish("n1", 0, 80)).contains("port 0"));
    assert!(refusal(lab().publish("n9", 80, 80)).contains("\"n9\""));
}
