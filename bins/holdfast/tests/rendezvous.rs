//! `holdfast rendezvous` as a process.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use common::Folder;

/// Start it on free ports and wait until it says that it serves.
fn start(folder: &Folder) -> (Child, BufReader<std::process::ChildStderr>) {
    let args = [
        "rendezvous",
        "--listen",
        "127.0.0.1:0",
        "--turn",
        "--turn-listen",
        "127.0.0.1:0",
        "--turn-secret-file",
        "cluster.secret",
    ];
    let mut child = folder
        .command(&args)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let (mut broker, mut turn) = (false, false);
    while !(broker && turn) {
        let mut line = String::new();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended early");
        let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
        broker |= entry["message"] == "broker serves";
        turn |= entry["message"] == "TURN serves";
    }
    (child, log)
}

#[test]
fn it_serves_logs_json_without_a_terminal_and_ends_with_0_on_sigterm() {
    let folder = Folder::new().with_secret();
    let (mut child, _log) = start(&folder);
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    // SAFETY: the child is ours and not yet waited for, so its id names no other process.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn an_open_or_missing_secret_is_bad_configuration() {
    let folder = Folder::new();
    folder.write("open", "0123456789abcdef\n", 0o644);
    for (secret, said) in [("open", "chmod 0400 open"), ("absent", "No such file")] {
        let args = ["rendezvous", "--turn", "--turn-secret-file", secret];
        let ran = folder.run(&args);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains(said), "{ran:?}");
    }
    assert_eq!(folder.run(&["rendezvous", "--turn"]).code, 2);
}

#[test]
fn an_address_that_is_taken_is_a_failure_that_names_it() {
    let folder = Folder::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran = folder.run(&["rendezvous", "--listen", &address]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains(&address), "{ran:?}");
}

#[test]
fn an_address_that_nodes_cannot_guess_is_bad_usage_that_names_its_option() {
    let folder = Folder::new().with_secret();
    // An IPv6 address of all zeroes: with no, or more than one, IPv6 address of this host.
    let args = [
        "rendezvous",
        "--listen",
        "127.0.0.1:0",
        "--turn",
        "--turn-listen",
        "[::]:0",
        "--turn-secret-file",
        "cluster.secret",
    ];
    let Ok(addresses) = std::fs::read_to_string("/proc/net/if_inet6") else {
        return;
    };
    // Scope 00 is global; exactly one would be advertised.
    let global = addresses
        .lines()
        .filter(|line| line.split_whitespace().nth(3) == Some("00"));
    if global.count() == 0 {
        let ran = folder.run(&args);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains("--turn-public-ip"), "{ran:?}");
    }
}
