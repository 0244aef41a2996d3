//! `holdfast sidecar` as a process, on this machine's own loopback, without a peer that answers.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::net::TcpListener;
use std::time::Duration;

use common::{Folder, Kv, Running};
use holdfast_lab::process::wait_for;

/// Far more than anything here takes.
const BOUND: Duration = Duration::from_secs(30);
const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";

/// A child that waits for its end.
const CHILD: &str =
    "[[children]]\nname = \"app\"\ncommand = [\"/bin/sleep\", \"600\"]\nafter = [\"mesh\"]\n";

/// A member with a configuration of its own, and its admin address.
struct Member {
    folder: Folder,
    admin: String,
}

impl Member {
    fn new(top: &str, end: &str) -> Member {
        let folder = Folder::new();
        folder.write("tee.key", KEY, 0o400);
        // Free a moment ago. Whoever takes it in between makes the test fail, not lie.
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        let member = Member {
            folder,
            admin: free.unwrap().to_string(),
        };
        member.configure(top, end);
        member
    }

    fn configure(&self, top: &str, end: &str) {
        let text = format!(
            "cluster = \"north\"\nrole = \"worker\"\nbrokers = [\"http://127.0.0.1:9\"]\n\
             listen = \"127.0.0.1:0\"\nadmin = \"{}\"\ndump_dir = \"dumps\"\n\
             state_dir = \"state\"\nrun_dir = \"run\"\nsecrets_dir = \"secrets\"\n\
             hosts_file = \"hosts\"\n{top}\n[tee]\nkind = \"plain\"\nkey_file = \"tee.key\"\n\
             [[peers]]\nid = \"coordinator-1\"\nvip = 1\n\
             [[peers]]\nid = \"worker-2\"\nvip = 2\n{end}",
            self.admin
        );
        self.folder.write("holdfast.toml", &text, 0o644);
    }

    fn start(&self) -> Running {
        Running::start(&self.folder, &["sidecar", "--config", "holdfast.toml"])
    }

    fn is_healthy(&self) -> bool {
        let args = ["status", "--healthy", "--config", "holdfast.toml"];
        self.folder.run(&args).code == 0
    }

    fn status(&self) -> String {
        let ran = self.folder.run(&["status", "--config", "holdfast.toml"]);
        ran.ok()
    }
}

#[test]
fn a_member_becomes_healthy_is_told_other_children_and_ends_with_0() {
    let member = Member::new("ordinal = 2", CHILD);
    let mut sidecar = member.start();
    wait_for("it is healthy", BOUND, || member.is_healthy()).unwrap();
    let status = member.status();
    assert!(
        status.starts_with("worker-2 of north  running  slot 2"),
        "{status}"
    );
    assert!(status.contains("app    ready"), "{status}");
    assert!(status.contains("worker-2 (127.50.0.2)"), "{status}");
    let again = member.start().code();
    assert_eq!(again, Some(1), "one sidecar for one state folder");

    member.configure("ordinal = 2", &CHILD.replace("\"app\"", "\"other\""));
    sidecar.signal(libc::SIGHUP);
    wait_for("the other child runs", BOUND, || {
        let status = member.status();
        status.contains("other  ready") && !status.contains("app  ")
    })
    .unwrap();
    member.configure("ordinal = 2", "broken");
    sidecar.signal(libc::SIGHUP);
    sidecar.wait_until("the refusal of a broken file", |entry| {
        let message = entry["message"].as_str().unwrap_or_default();
        message.starts_with("nothing was reloaded") && message.contains("holdfast.toml:")
    });
    sidecar.signal(libc::SIGTERM);
    assert_eq!(sidecar.code(), Some(0));
}

#[test]
fn a_member_whose_slot_cannot_be_renewed_ends_with_4() {
    let place = Folder::new();
    let kv = Kv::start(&place, &[]);
    let end = format!(
        "[kv]\naddresses = [\"http://{}\"]\n[slots]\nlease = \"2s\"\n{CHILD}",
        kv.address
    );
    let member = Member::new("", &end);
    let mut sidecar = member.start();
    wait_for("it is healthy", BOUND, || member.is_healthy()).unwrap();
    drop(kv);
    assert_eq!(sidecar.code(), Some(4));
}

#[test]
fn a_user_that_does_not_exist_is_an_error_at_the_start_and_a_warning_before() {
    let child = format!("{CHILD}user = \"nobody-here\"\n");
    let member = Member::new("ordinal = 2", &child);
    let check = member.folder.run(&["config", "check", "holdfast.toml"]);
    assert_eq!(check.code, 0, "{check:?}");
    assert!(check.out.contains("warning: children[0].user"), "{check:?}");
    let ran = member.folder.run(&["sidecar", "--config", "holdfast.toml"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("error: children[0].user"), "{ran:?}");
    // Who only wants secrets and a slot runs no children.
    let once = member
        .folder
        .run(&["bootstrap", "--config", "holdfast.toml"]);
    assert_eq!(once.ok(), "worker-2 run/info.json\n");
}
