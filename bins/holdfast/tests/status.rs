//! `holdfast status` against a server that answers like a node.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;

use common::Folder;

const STATUS: &str = include_str!("data/status.json");

/// Answer one request with `body`; the address, and the thread to join.
fn answer_once(status: &'static str, body: &'static str) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = format!("http://{}", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut request = String::new();
        let mut reader = BufReader::new(client.try_clone().unwrap());
        while reader.read_line(&mut request).unwrap() > 2 {}
        let length = body.len();
        write!(
            client,
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        request
    });
    (admin, thread)
}

fn status(folder: &Folder, body: &'static str, args: &[&str]) -> common::Ran {
    let (admin, thread) = answer_once("200 OK", body);
    let ran = folder.run(&[&["status", "--admin", &admin], args].concat());
    assert!(thread.join().unwrap().starts_with("GET /status HTTP/1.1"));
    ran
}

#[test]
fn the_links_of_a_node_are_a_table() {
    let folder = Folder::new();
    let out = status(&folder, STATUS, &[]).ok();
    assert!(out.starts_with("node-1 (127.50.0.1)"), "{out}");
    assert!(out.contains("node-2"), "{out}");
}

#[test]
fn json_is_what_the_node_said() {
    let folder = Folder::new();
    let out = status(&folder, STATUS, &["--json"]).ok();
    assert_eq!(out.trim_end(), STATUS.trim_end());
}

#[test]
fn one_peer_is_shown_with_all_its_pairs() {
    let folder = Folder::new();
    let out = status(&folder, STATUS, &["node-2"]).ok();
    assert!(out.contains("no answer yet"), "{out}");
    let unknown = status(&folder, STATUS, &["node-9"]);
    assert_eq!(unknown.code, 1);
    assert!(
        unknown.err.contains("its peers: node-2, node-3"),
        "{unknown:?}"
    );
}

#[test]
fn a_node_that_does_not_run_is_told_with_the_address_that_was_asked() {
    let folder = Folder::new();
    // Bound and closed: nobody listens there.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let ran = folder.run(&["status", "--admin", &format!("http://{free}")]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("`holdfast sidecar` running?"), "{ran:?}");
    assert!(ran.err.contains(&free.to_string()), "{ran:?}");
}

#[test]
fn the_address_is_that_of_the_configuration_even_if_its_secrets_are_out_of_reach() {
    let folder = Folder::new();
    for by_variable in [false, true] {
        let (admin, thread) = answer_once("200 OK", STATUS);
        let address = admin.trim_start_matches("http://");
        let text = format!("admin = \"{address}\"\ncluster_secret_file = \"absent\"\n");
        folder.write("node.toml", &text, 0o644);
        let ran = match by_variable {
            false => folder.run(&["status", "--config", "node.toml"]),
            true => folder.run_with(&[("HOLDFAST_CONFIG", "node.toml")], &["status"]),
        };
        assert!(ran.ok().contains("node-2"));
        thread.join().unwrap();
    }
    let ran = folder.run(&["status", "--config", "absent.toml"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("absent.toml"), "{ran:?}");
}

#[test]
fn another_server_is_not_taken_for_a_node() {
    let folder = Folder::new();
    let ran = status(&folder, "<html>", &[]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("is not a node's status"), "{ran:?}");
}

#[test]
fn a_bad_address_says_what_was_expected() {
    let folder = Folder::new();
    for bad in ["here", "http://", "127.0.0.1:0", "http://a:b"] {
        let ran = folder.run(&["status", "--admin", bad]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains("expected one such as"), "{ran:?}");
    }
}

#[test]
fn a_health_check_succeeds_only_if_the_node_is_ready() {
    let folder = Folder::new();
    let check = |status, body| {
        let (admin, thread) = answer_once(status, body);
        let ran = folder.run(&["status", "--healthy", "--admin", &admin]);
        assert!(thread.join().unwrap().starts_with("GET /readyz HTTP/1.1"));
        ran
    };
    assert_eq!(check("200 OK", "{\"ready\":true}").ok(), "");
    let body = "{\"ready\":false,\"reason\":\"app is backoff\"}";
    let ran = check("503 Service Unavailable", body);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("not ready: app is backoff"), "{ran:?}");
    assert_eq!(check("404 Not Found", "").code, 1);
}
