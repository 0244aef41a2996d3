//! `holdfast dev` with databases: real PostgreSQL and Patroni, members of each other only through
//! the mesh. Needs root.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use common::{Folder, Ran};
use serde_json::Value;

/// The Python of the clients that people connect with; `deploy/setup.sh test` puts it there.
const CLIENTS: &str = "/opt/holdfast/clients/bin/python";

/// A cluster of its own, removed with the value.
struct Dev {
    folder: Folder,
    prefix: String,
}

impl Dev {
    /// `None` where it cannot be made; said aloud, and a failure where everything must run.
    fn new(letter: char) -> Option<Dev> {
        let missing = match holdfast_lab::preconditions() {
            Err(why) => Some(why.to_string()),
            Ok(()) => without_database(),
        };
        if let Some(why) = missing {
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
        let all = [&["dev", "--prefix", &self.prefix], args].concat();
        // `nft` and `ip` are found in it.
        let path = std::env::var("PATH").unwrap_or_default();
        self.folder.run_with(&[("PATH", &path)], &all)
    }

    fn json(&self, args: &[&str]) -> Value {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{ran:?}");
        serde_json::from_str(&ran.out).unwrap()
    }

    /// What people connect with, at both endpoints as a node sees them, plain and over TLS.
    fn try_clients(&self, node: &str) {
        let own = format!("/var/lib/holdfast-dev/{}/{node}", self.prefix);
        let password = format!("{own}/secrets/postgres-superuser.password");
        let ca = format!("{own}/run/ca.pem");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/clients/check.py");
        let endpoints = [
            "--primary",
            "127.10.0.1:5432",
            "--replica",
            "127.10.0.2:5432",
        ];
        let login = [
            "--user",
            "postgres",
            "--password-file",
            &password,
            "--ca",
            &ca,
        ];
        let command = ["exec", node, "--", CLIENTS, script];
        let out = self.run(&[&command[..], &endpoints, &login].concat()).ok();
        assert_eq!(out.matches("ok (plain, verify-full)").count(), 5, "{out}");
    }

    /// Freezes the leader; then cuts off, and wipes, what it became.
    fn strike_in_every_way(&self) {
        let seen = self.json(&["kill", "leader", "--freeze", "--json"]);
        assert_eq!(seen["rows"]["lost"], 0, "{seen}");
        assert_eq!(seen["rows"]["holds"], true, "{seen}");
        let node = seen["node"].as_str().unwrap();
        self.json(&["heal", "--json"]);
        for (how, word) in [
            ("--partition", "cut off"),
            ("--wipe", "killed, and its disk emptied"),
        ] {
            let struck = self.json(&["kill", node, how, "--json"]);
            assert_eq!(struck["is"], word);
            let healed = self.json(&["heal", node, "--json"]);
            assert_eq!(healed["nodes"], serde_json::json!([node]));
        }
        assert_eq!(self.ask("SELECT x FROM t"), "42");
    }

    /// Neither a log nor a process list has one.
    fn no_secret_is_told(&self) {
        let read =
            |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        let entries = |folder: &str| std::fs::read_dir(folder).unwrap().flatten();
        let secrets = format!("/var/lib/holdfast-dev/{}/worker-2/secrets", self.prefix);
        let secrets: Vec<String> = entries(&secrets)
            .map(|entry| read(&entry.path()).trim().to_owned())
            .collect();
        assert!(secrets.len() > 3 && secrets.iter().all(|secret| secret.len() > 15));
        let processes = entries("/proc").flat_map(|entry| {
            // One that ends meanwhile has none.
            std::fs::read(entry.path().join("cmdline")).ok()
        });
        let mut told: Vec<String> = processes
            .map(|line| String::from_utf8_lossy(&line).into_owned())
            .collect();
        for node in ["coordinator-1", "worker-2", "worker-3", "worker-4"] {
            told.push(self.run(&["logs", node]).ok());
        }
        for secret in &secrets {
            // Not the text: it would be in the log of the test.
            assert!(!told.iter().any(|text| text.contains(secret)));
        }
    }

    /// One value, through the primary's endpoint.
    fn ask(&self, sql: &str) -> String {
        let psql = [
            "psql",
            "--",
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
        ];
        let out = self.run(&[&psql[..], &["-c", sql]].concat()).ok();
        out.trim().to_owned()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.run(&["down"]);
    }
}

/// Why no database can be run here.
fn without_database() -> Option<String> {
    let server = std::fs::read_dir("/usr/lib/postgresql").is_ok_and(|mut all| all.next().is_some());
    let mut patroni = std::process::Command::new("patroni");
    let patroni = patroni.arg("--version").stdout(Stdio::null()).status();
    let patroni = patroni.is_ok() || Path::new("/opt/holdfast/bin/patroni").exists();
    let missing = match (server, patroni, Path::new(CLIENTS).exists()) {
        (false, ..) => "PostgreSQL",
        (_, false, _) => "Patroni",
        (.., false) => "what deploy/clients lists",
        _ => return None,
    };
    Some(format!("{missing} is not installed: run `make setup`"))
}

#[test]
fn a_killed_leader_costs_no_acknowledged_row_and_comes_back() {
    let Some(dev) = Dev::new('p') else { return };
    let table = dev.run(&["up"]).ok();
    assert_eq!(table.matches("  quorum\n").count(), 2, "{table}");
    assert!(table.contains("synchronous quorum\n"), "{table}");

    dev.ask("CREATE TABLE t (x int); INSERT INTO t VALUES (42)");
    assert_eq!(dev.ask("SELECT x FROM t"), "42");
    let ssl = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(dev.ask(ssl), "t");
    dev.try_clients("worker-3");

    let seen = dev.json(&["kill", "leader", "--json"]);
    assert_eq!(seen["rows"]["lost"], 0, "{seen}");
    assert_eq!(seen["rows"]["holds"], true, "{seen}");
    assert!(
        seen["rows"]["acknowledged"].as_u64().unwrap() > 50,
        "{seen}"
    );
    let events: Vec<&str> = seen["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    for event in ["fault", "detected", "key free", "promoted", "first write"] {
        assert!(events.contains(&event), "{event} of {seen}");
    }
    assert_eq!(dev.ask("SELECT x FROM t"), "42");

    let killed = seen["node"].as_str().unwrap();
    let healed = dev.json(&["heal", "--json"]);
    assert_eq!(healed["started"], serde_json::json!([killed]));
    let count = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    assert_eq!(dev.ask(count), "2");

    dev.try_clients(killed);
    dev.strike_in_every_way();
    let told = dev.json(&["bench", "--seconds", "2", "--pgbench", "--json"]);
    assert_eq!(told["rows"]["holds"], true, "{told}");
    assert_eq!(told["pgbench"].as_array().unwrap().len(), 3, "{told}");
    dev.no_secret_is_told();
}

#[test]
fn psql_and_bench_say_that_there_is_no_database() {
    let Some(dev) = Dev::new('q') else { return };
    dev.run(&["up", "--workers", "1", "--no-postgres"]).ok();
    for command in ["psql", "bench"] {
        let ran = dev.run(&[command]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains("has no databases"), "{ran:?}");
    }
    let leader = dev.run(&["kill", "leader"]);
    assert!(leader.err.contains("no database leads"), "{leader:?}");
}
