//! `holdfast mesh` as a process, on this machine's own loopback, without a peer that answers.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, ChildStderr, Stdio};

use common::Folder;

/// A node that runs, its log, and its admin address.
struct Node {
    child: Child,
    log: BufReader<ChildStderr>,
    admin: String,
}

impl Node {
    fn start(folder: &Folder) -> Node {
        let mut node = Node::spawn(folder, "", "");
        node.wait_for("the node is running");
        node
    }

    /// With more lines at the top and at the end of its configuration.
    fn spawn(folder: &Folder, top: &str, end: &str) -> Node {
        // Free a moment ago. Whoever takes it in between makes the test fail, not lie.
        let free = || {
            TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
        };
        let (admin, broker) = (free().to_string(), free().to_string());
        let text = format!(
            "id = \"node-1\"\ncluster_secret_file = \"cluster.secret\"\n\
             brokers = [\"http://{broker}\"]\nlisten = \"127.0.0.1:0\"\nadmin = \"{admin}\"\n\
             dump_dir = \"dumps\"\n{top}\
             [[peers]]\nid = \"node-1\"\nvip = 1\n[[peers]]\nid = \"node-2\"\nvip = 2\n{end}"
        );
        folder.write("holdfast.toml", &text, 0o644);
        let mut child = folder
            .command(&["mesh", "--config", "holdfast.toml"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Node { child, log, admin }
    }

    /// Read the log until this message; its entry.
    fn wait_for(&mut self, message: &str) -> serde_json::Value {
        loop {
            let mut line = String::new();
            let read = self.log.read_line(&mut line).unwrap();
            assert_ne!(read, 0, "the log ended before {message:?}");
            let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
            if entry["message"] == message {
                return entry;
            }
        }
    }

    fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.child.id()).unwrap();
        // SAFETY: the child is ours and not yet waited for, so its id names no other process.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_node_alone_says_that_it_waits_for_its_peer() {
    let folder = Folder::new().with_secret();
    let node = Node::start(&folder);
    let out = folder.run(&["status", "--admin", &node.admin]).ok();
    assert!(out.starts_with("node-1 (127.50.0.1)"), "{out}");
    assert!(out.contains("node-2  127.50.0.2  signaling"), "{out}");
    let env = [("HOLDFAST_ADMIN", node.admin.as_str())];
    let same = folder.run_with(&env, &["status", "node-2"]).ok();
    assert!(same.starts_with("node-2 (127.50.0.2)"), "{same}");
}

#[test]
fn sigterm_ends_a_node_with_0() {
    let folder = Folder::new().with_secret();
    let mut node = Node::start(&folder);
    node.signal(libc::SIGTERM);
    node.wait_for("ended");
    assert_eq!(node.child.wait().unwrap().code(), Some(0));
}

#[test]
fn sigusr1_dumps_the_flight_recorder_and_the_node_goes_on() {
    let folder = Folder::new().with_secret();
    let mut node = Node::start(&folder);
    node.signal(libc::SIGUSR1);
    let entry = node.wait_for("flight recorder dumped");
    let place = entry["place"].as_str().unwrap();
    assert!(place.starts_with("dumps/"), "{place}");
    for line in folder.read(place).lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    folder.run(&["status", "--admin", &node.admin]).ok();
}

#[test]
fn an_admin_address_that_is_taken_is_a_failure_that_names_it() {
    let folder = Folder::new().with_secret();
    let node = Node::start(&folder);
    let ran = folder.run(&["mesh", "--config", "holdfast.toml"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains(&node.admin), "{ran:?}");
}

#[test]
fn a_node_starts_without_a_server_whose_name_has_no_address() {
    let folder = Folder::new().with_secret();
    let mut node = Node::spawn(&folder, "stun = [\"absent.invalid:3478\"]\n", "");
    node.wait_for("a server's name has no address yet: going on without it");
    node.wait_for("the node is running");
    node.signal(libc::SIGTERM);
    assert_eq!(node.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_node_that_needs_a_relay_waits_for_its_address_and_can_be_stopped_meanwhile() {
    let folder = Folder::new().with_secret();
    let turn = "[[turn]]\nurl = \"turn:absent.invalid:3478\"\nsecret_file = \"cluster.secret\"\n";
    let mut node = Node::spawn(&folder, "paths = \"relay-only\"\n", turn);
    node.wait_for("waiting for the address of a TURN server, as `paths` is \"relay-only\"");
    node.signal(libc::SIGTERM);
    assert_eq!(node.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_fatal_error_is_in_the_log_too() {
    let folder = Folder::new().with_secret();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = taken.local_addr().unwrap().to_string();
    // The later line would be a duplicate key, so the variable, which wins, names it.
    Node::start(&folder);
    let ran = folder.run_with(
        &[("HOLDFAST_ADMIN", &admin)],
        &["mesh", "--config", "holdfast.toml"],
    );
    assert_eq!(ran.code, 1, "{ran:?}");
    let logged = ran.err.lines().filter(|line| line.starts_with('{'));
    let logged: Vec<&str> = logged.filter(|line| line.contains("ERROR")).collect();
    assert!(logged.iter().any(|line| line.contains(&admin)), "{ran:?}");
}
