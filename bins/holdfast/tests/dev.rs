//! `holdfast dev`: real namespaces, NATs and processes. Needs root.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use common::{Folder, Ran};
use holdfast_lab::process::wait_for;

/// A node that was killed or started shows as such within this time.
const BOUND: Duration = Duration::from_secs(30);

/// The lease of a node that was wiped runs out first.
const WIPE_BOUND: Duration = Duration::from_secs(90);

/// A cluster of its own for one test, removed with the value.
struct Dev {
    folder: Folder,
    prefix: String,
}

impl Dev {
    /// `None` where it cannot be made; said aloud, and a failure where everything must run.
    fn new(letter: char) -> Option<Dev> {
        if let Err(why) = holdfast_lab::preconditions() {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "CI must run this test: {why}"
            );
            // Not by `eprintln!`, which the test harness swallows where a test passes.
            let _ = writeln!(std::io::stderr(), "SKIPPED, not tested: {why}");
            return None;
        }
        Some(Dev {
            folder: Folder::new(),
            // Namespaces live beside those of other runs.
            prefix: format!("hf{letter}{}", std::process::id() % 100_000),
        })
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.folder
            .run(&[&["dev", "--prefix", &self.prefix], args].concat())
    }

    fn namespaces(&self) -> usize {
        let found = std::fs::read_dir("/run/netns").into_iter().flatten();
        let names = found.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let start = format!("{}-", self.prefix);
        names.filter(|name| name.starts_with(&start)).count()
    }

    fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.run(&["status", "--json"]).ok()).unwrap()
    }

    fn links_up(&self) -> usize {
        let status = self.status();
        let nodes = status.as_array().unwrap().iter();
        let links = nodes.filter_map(|node| node["status"]["links"].as_array());
        links.flatten().filter(|link| link["state"] == "up").count()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.run(&["down"]);
    }
}

#[test]
fn a_cluster_comes_up_carries_a_request_and_goes_without_a_trace() {
    let Some(dev) = Dev::new('a') else { return };
    let table = dev.run(&["up", "--workers", "1", "--no-postgres"]).ok();
    assert_eq!(table.matches(" up ").count(), 2, "{table}");
    assert!(
        table.contains("coordinator-1  127.50.0.1  1 pinned"),
        "{table}"
    );
    assert!(table.contains("worker-2       127.50.0.2  2 "), "{table}");

    let program = env!("CARGO_BIN_EXE_holdfast");
    let serve = [
        "exec",
        "worker-2",
        "--",
        program,
        "dev",
        "serve-hello",
        "--port",
        "8080",
        "--background",
    ];
    assert_eq!(dev.run(&serve).ok(), "listening on 127.50.0.2:8080\n");
    let request =
        "exec 3<>/dev/tcp/127.50.0.2/8080; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
    let answer = dev
        .run(&["exec", "coordinator-1", "--", "/bin/bash", "-c", request])
        .ok();
    assert!(answer.ends_with("hello from worker-2\n"), "{answer}");

    assert!(
        dev.run(&["logs", "coordinator-1"])
            .ok()
            .contains("starting")
    );
    let second = dev.run(&["up"]);
    assert_eq!(second.code, 1);
    assert!(second.err.contains("up already"), "{second:?}");

    dev.run(&["down"]).ok();
    assert_eq!(dev.namespaces(), 0);
    for left in ["/run/holdfast-lab", "/var/lib/holdfast-dev"] {
        assert!(!Path::new(left).join(&dev.prefix).exists(), "{left}");
    }
    assert_eq!(dev.run(&["down"]).ok(), "there is no cluster to remove\n");
    assert_eq!(dev.run(&["status"]).code, 1);
}

#[test]
fn exec_passes_the_exit_code_on() {
    let Some(dev) = Dev::new('b') else { return };
    dev.run(&["up", "--workers", "1", "--no-postgres"]).ok();
    let code = |args: &[&str]| dev.run(&[&["exec"], args].concat()).code;
    assert_eq!(code(&["coordinator-1", "--", "/bin/sh", "-c", "exit 7"]), 7);
    assert_eq!(code(&["coordinator-1", "no-such-command"]), 127);
    let unknown = dev.run(&["exec", "node-9", "true"]);
    assert_eq!(unknown.code, 1);
    assert!(
        unknown
            .err
            .contains("the nodes are coordinator-1, worker-2"),
        "{unknown:?}"
    );
}

#[test]
fn a_killed_node_is_shown_as_such_and_comes_back() {
    let Some(dev) = Dev::new('c') else { return };
    dev.run(&[
        "up",
        "--workers",
        "1",
        "--no-postgres",
        "--nat",
        "symmetric",
    ])
    .ok();
    dev.run(&["kill", "worker-2"]).ok();
    wait_for("worker-2 is gone", BOUND, || {
        dev.run(&["status"]).ok().contains("not running")
    })
    .unwrap();
    assert_eq!(dev.run(&["kill", "worker-2"]).code, 1);
    dev.run(&["start", "worker-2"]).ok();
    wait_for("all links are up again", BOUND, || dev.links_up() == 2).unwrap();
    assert_eq!(dev.run(&["start", "worker-2"]).code, 1);
}

#[test]
fn a_wiped_worker_comes_back_as_another_instance_with_the_same_slot() {
    let Some(dev) = Dev::new('w') else { return };
    dev.run(&["up", "--workers", "1", "--no-postgres"]).ok();
    let sidecar = || dev.status()[1]["status"]["sidecar"].clone();
    let before = sidecar();
    assert_eq!(before["slot"]["slot"], 2, "{before}");
    dev.run(&["wipe", "worker-2"]).ok();
    wait_for("worker-2 has its slot again", WIPE_BOUND, || {
        let now = sidecar();
        now["slot"]["slot"] == 2 && now["instance"] != before["instance"]
    })
    .unwrap();
    wait_for("all links are up again", BOUND, || dev.links_up() == 2).unwrap();
}

/// `CONSUL_BIN`, or what `make setup` has built. `None` where there is none; said aloud, and a
/// failure where everything must run.
fn consul() -> Option<String> {
    let named = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let built = || {
        let cache = named("HOLDFAST_CACHE");
        let cache = cache.or_else(|| Some(format!("{}/.cache/holdfast", named("HOME")?)));
        Some(format!("{}/tools/bin/consul", cache?))
    };
    let found = named("CONSUL_BIN").or_else(built);
    let found = found.filter(|path| Path::new(path).exists());
    if found.is_none() {
        let why = "Consul is not installed: run `make setup`, or set CONSUL_BIN";
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "CI must run this test: {why}"
        );
        // As above.
        let _ = writeln!(std::io::stderr(), "SKIPPED, not tested: {why}");
    }
    found
}

#[test]
fn consul_elects_a_leader_through_the_mesh_and_goes_on_without_a_coordinator() {
    let Some(consul) = consul() else { return };
    let Some(dev) = Dev::new('l') else { return };
    let up = [
        "dev",
        "--prefix",
        &dev.prefix,
        "up",
        "--no-postgres",
        "--consul",
        "--workers",
        "2",
    ];
    dev.folder.run_with(&[("CONSUL_BIN", &consul)], &up).ok();
    // An agent may lose its leader again in the first seconds, and finds it within the bound.
    let knowing = |role: &str| {
        let table = dev.run(&["status"]).ok();
        table.matches(&format!("{role}, leader 127.50.0.")).count()
    };
    wait_for("all agents know a leader", BOUND, || {
        knowing("server") == 3 && knowing("client") == 2
    })
    .unwrap();
    let on = |node: &str, args: &[&str]| {
        let command = [&["exec", node, "--", &consul], args].concat();
        dev.run(&command)
    };
    on("worker-4", &["kv", "put", "key", "before"]).ok();
    assert_eq!(on("worker-5", &["kv", "get", "key"]).ok(), "before\n");
    dev.run(&["kill", "coordinator-1"]).ok();
    // If that one led, the others elect a leader first.
    wait_for("the rest goes on", BOUND, || {
        on("worker-5", &["kv", "put", "key", "after"]).code == 0
    })
    .unwrap();
    assert_eq!(on("worker-4", &["kv", "get", "key"]).ok(), "after\n");
}

#[test]
fn the_databases_of_a_cluster_that_was_up_before_a_restart_are_removed_by_nobody_unasked() {
    let Some(dev) = Dev::new('x') else { return };
    // What a restart of the machine leaves: disks, and no namespaces.
    let disks = Path::new("/var/lib/holdfast-dev").join(&dev.prefix);
    std::fs::create_dir_all(disks.join("worker-2")).unwrap();
    std::fs::write(disks.join("used"), "").unwrap();
    let ran = dev.run(&["up", "--no-postgres", "--workers", "1"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("`holdfast dev up --wipe`"), "{ran:?}");
    assert!(disks.join("worker-2").exists());
    assert_eq!(dev.run(&["down"]).ok(), "the cluster is removed\n");
    assert!(!disks.exists());
}

#[test]
fn an_unknown_nat_and_a_number_of_workers_out_of_range_are_bad_usage() {
    let folder = Folder::new();
    for args in [
        ["dev", "up", "--workers", "0"],
        ["dev", "up", "--workers", "14"],
    ] {
        assert_eq!(folder.run(&args).code, 2);
    }
    let Some(dev) = Dev::new('d') else { return };
    let ran = dev.run(&["up", "--no-postgres", "--nat", "cone"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("expected linux, eim"), "{ran:?}");
}
