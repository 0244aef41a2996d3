//! The configuration of a member, as an operator meets it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{Folder, Ran};
use insta::assert_snapshot;

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";

const GOOD: &str = r#"cluster = "north"
role = "worker"
brokers = ["http://203.0.113.10:7000"]
hosts_file = ""

[tee]
kind = "plain"
key_file = "shared.key"

[kv]
addresses = ["http://203.0.113.20:8500"]

[[allow]]
port = 5432

[[peers]]
id = "coordinator-1"
vip = 1

[[peers]]
id = "worker-2"
vip = 2

[[peers]]
id = "worker-3"
vip = 3
"#;

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("shared.key", KEY, 0o400);
    folder
}

fn check(text: &str, env: &[(&str, &str)]) -> Ran {
    let folder = folder();
    folder.write("holdfast.toml", text, 0o644);
    folder.run_with(env, &["config", "check", "holdfast.toml"])
}

#[test]
fn the_example_of_a_member_passes_its_own_check() {
    let folder = Folder::new();
    let example = folder.run(&["config", "example", "--sidecar"]).ok();
    folder.write("example.toml", &example, 0o644);
    // Consul need not be installed where the example is looked at.
    folder.write("consul", "#!/bin/sh\n", 0o755);
    // Nor a database.
    folder.write("patroni", "#!/bin/sh\n", 0o755);
    folder.write("postgres", "#!/bin/sh\n", 0o755);
    let env = [
        ("PATH", folder.0.to_str().unwrap()),
        ("HOLDFAST_POSTGRES_BIN_DIR", folder.0.to_str().unwrap()),
        ("HOLDFAST_POSTGRES_PATRONI", "patroni"),
        ("HOLDFAST_POSTGRES_USER", "nobody"),
    ];
    let checked = folder.run_with(&env, &["config", "check", "example.toml"]);
    assert_snapshot!(checked.ok().replace(folder.0.to_str().unwrap(), "FOLDER"));
    assert_snapshot!("example_of_a_member", example);
}

#[test]
fn the_example_of_a_member_passes_with_everything_that_it_leaves_out() {
    let folder = folder();
    folder.write("instance.key", KEY, 0o400);
    folder.write("consul.token", "a-token\n", 0o400);
    let example = folder.run(&["config", "example", "--sidecar"]).ok();
    let full: Vec<&str> = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(code) if code.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => code,
            _ => line,
        })
        // Certificates are not made here, nor is a file for Patroni.
        .filter(|line| !line.starts_with("ca_file") && !line.starts_with("overlay"))
        .collect();
    folder.write("full.toml", &full.join("\n"), 0o644);
    let out = folder.run(&["config", "check", "full.toml"]).ok();
    assert!(out.contains("worker-4, pinned"), "{out}");
    assert!(out.contains("warning: children[0].user"), "{out}");
    assert!(out.contains("warning: consul.program"), "{out}");
    assert!(out.contains("postgres"), "{out}");
}

#[test]
fn a_worker_is_told_which_peers_it_may_become() {
    assert_snapshot!(check(GOOD, &[]).ok());
}

#[test]
fn the_environment_pins_by_the_variable_of_the_role() {
    let out = check(GOOD, &[("WORKER_ORDINAL", "3")]).ok();
    assert!(out.contains("worker-3, pinned"), "{out}");
    let both = [("WORKER_ORDINAL", "3"), ("HOLDFAST_ORDINAL", "2")];
    assert!(check(GOOD, &both).ok().contains("worker-2, pinned"));
    let foreign = check(GOOD, &[("COORDINATOR_ORDINAL", "1")]).ok();
    assert!(foreign.contains("warning: ordinal"), "{foreign}");
    assert!(foreign.contains("one of worker-2, worker-3"), "{foreign}");
    let unknown = check(GOOD, &[("WORKER_ORDINAL", "9")]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.out.contains("2, 3"), "{unknown:?}");
}

#[test]
fn a_coordinator_needs_no_kv_and_everybody_else_does() {
    let text = GOOD
        .replace("\"worker\"", "\"coordinator\"")
        .replace("addresses = [\"http://203.0.113.20:8500\"]", "");
    let pinned = check(&text, &[("COORDINATOR_ORDINAL", "1")]).ok();
    assert!(pinned.contains("coordinator-1, pinned"), "{pinned}");
    assert!(!pinned.contains("warning"), "{pinned}");
    assert_snapshot!(check(&text, &[]).snapshot());
}

#[test]
fn every_problem_of_a_member_is_explained_at_once() {
    let text = r#"id = "worker-3"
cluster = "north/south"
role = "workr"
ordinal = -1
brokers = ["http://203.0.113.10:7000"]
secrets_dir = 7

[tee]
kind = "sgx"
endpoint = "dstack.sock"
patience = "an hour"

[kv]
address = ["http://203.0.113.20:8500"]
addresses = ["203.0.113.20", "https://kv.example.net:8501"]
token_file = "open.token"

[slots]
lease = "500ms"

[consul]
program = "/no/such/consul"
raft_multiplier = 11
user = "nobody-here"

[[services]]
name = "a/b"
port = 80

[[services]]
name = "web"

[[children]]
name = "app"
command = []
after = ["datbase"]
ready = "udp:127.0.0.1:80"
stop_signal = "SIGNAL"
max_restart = 3

[[children]]
name = "database"
command = ["/bin/sh"]
user = "nobody-here"
after = ["database", "replica"]

[[children]]
name = "replica"
command = ["/bin/sh"]
after = ["database", "prim"]
env = ["=x"]

[[children]]
name = "replica"
command = ["/bin/sh"]

[[children]]
name = "mesh"
command = ["/bin/sh"]

[[peers]]
id = "coordinator-1"
vip = 1

[[peers]]
id = "worker-1"
vip = 2
"#;
    let folder = folder();
    folder.write("open.token", "hunter2\n", 0o644);
    folder.write("holdfast.toml", text, 0o644);
    let env = [
        ("HOLDFAST_SECRET_CLUSTER_SECRET", "hunter2"),
        ("HOLDFAST_KV_TOKEN_FLE", "x"),
    ];
    let ran = folder.run_with(&env, &["config", "check", "holdfast.toml"]);
    assert_snapshot!(ran.snapshot());
    assert!(!ran.out.contains("hunter2"), "secrets are not shown");
}

#[test]
fn what_is_missing_is_named_with_a_way_to_give_it() {
    assert_snapshot!(check("[slots]\n", &[]).snapshot());
}

#[test]
fn services_are_read_as_the_reference_writes_them() {
    let services = r#"[{"name":"postgres-master","port":5432,"subset":"master","vip":2,
        "sidecar_port":21000,"parent":"postgres","registers_parent":true,"unheard_of":1}]"#;
    let text = format!("{GOOD}\n[consul]\nprogram = \"/bin/sh\"\n");
    let ran = check(&text, &[("SERVICES_JSON", services)]).ok();
    assert!(ran.contains("postgres-master"), "{ran}");
    assert!(ran.contains("warning: allow"), "Consul's ports: {ran}");
    let bad = check(&text, &[("SERVICES_JSON", r#"[{"name":"a","port":0}]"#)]);
    assert_eq!(bad.code, 2);
    assert!(bad.out.contains("SERVICES_JSON"), "{bad:?}");
}

#[test]
fn a_plain_node_does_not_look_at_what_makes_a_member() {
    let folder = folder().with_secret();
    let node = "id = \"worker-2\"\ncluster_secret_file = \"cluster.secret\"\nlisten = \"here\"\n";
    folder.write("holdfast.toml", &format!("{node}{GOOD}"), 0o644);
    let ran = folder.run(&["mesh", "--config", "holdfast.toml"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.ends_with("1 error\n"), "only `listen`: {ran:?}");
}

#[test]
fn a_kv_whose_name_has_no_address_is_a_warning_unless_offline() {
    let folder = folder();
    let text = GOOD.replace("203.0.113.20", "no-such-host.invalid");
    folder.write("holdfast.toml", &text, 0o644);
    let ran = folder.run(&["config", "check", "holdfast.toml"]).ok();
    assert!(ran.contains("warning: kv.addresses[0]"), "{ran}");
    let offline = folder
        .run(&["config", "check", "--offline", "holdfast.toml"])
        .ok();
    assert!(!offline.contains("warning"), "{offline}");
}
