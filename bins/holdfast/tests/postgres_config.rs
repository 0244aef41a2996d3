//! The configuration of a database, as an operator meets it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;

use common::{Folder, Ran};
use insta::assert_snapshot;

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";

const MEMBER: &str = r#"cluster = "north"
role = "worker"
brokers = ["http://203.0.113.10:7000"]
state_dir = "/nonexistent/state"
run_dir = "/nonexistent/run"
hosts_file = ""
allow = [{ port = 5432 }, { port = 8008 }]
peers = [{ id = "coordinator-1", vip = 1 }, { id = "worker-2", vip = 2 }, { id = "worker-3", vip = 3 }]

[tee]
kind = "plain"
key_file = "shared.key"

[kv]
addresses = ["http://203.0.113.20:8500"]
"#;

/// A folder with programs that look like PostgreSQL and Patroni: what is installed where the
/// tests run is not looked at.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("shared.key", KEY, 0o400);
    fs::create_dir(folder.0.join("bin")).unwrap();
    folder.write("bin/postgres", "#!/bin/sh\n", 0o755);
    folder.write("bin/patroni", "#!/bin/sh\n", 0o755);
    folder
}

/// Programs and a user that are there. Nobody is a user of every machine.
const THERE: &str =
    "\n[postgres]\nbin_dir = \"bin\"\npatroni = \"bin/patroni\"\nuser = \"nobody\"\n";

fn run(folder: &Folder, text: &str, env: &[(&str, &str)], args: &[&str]) -> Ran {
    folder.write("holdfast.toml", text, 0o644);
    let mut ran = folder.run_with(env, args);
    // Folders of tests have names of their own.
    let own = folder.0.display().to_string();
    ran.out = ran.out.replace(&own, "FOLDER");
    ran.err = ran.err.replace(&own, "FOLDER");
    ran
}

fn check_with(text: &str, env: &[(&str, &str)]) -> Ran {
    let check = ["config", "check", "--offline", "holdfast.toml"];
    run(&folder(), &format!("{MEMBER}{text}"), env, &check)
}

fn check(more: &str) -> Ran {
    check_with(&format!("{THERE}{more}"), &[])
}

#[test]
fn a_worker_with_a_database_is_told_what_it_runs() {
    assert_snapshot!(check("").ok());
}

#[test]
fn every_problem_of_a_database_is_explained_at_once() {
    let text = r#"
[postgres]
bin_dir = "nowhere"
patroni = "nowhere/patroni"
user = "no-such-user"
port = 0
rest_port = "8008"
synchronous = "qorum"
ttl = "10s"
loop_wait = "500ms"
retry_timeout = "1s"
maximum_lag_on_failover = "1 MB"
parameters = { "no name" = 1, work_mem = [], shared_buffers = "64MB" }
overlay = "no-such-file.yml"
tls = "yes"
disk_free_min = 64
tttl = "30s"

[postgres.endpoints]
primary = "127.10.0.1"
replicas = "127.10.0.2:0"
sessions_max = 0
hold = "5"

[postgres.endpoints.check]
rise = 0
interval = "1ms"

[postgres.endpoint]
primary = "127.10.0.1:5432"
"#;
    assert_snapshot!(check_with(text, &[]).snapshot());
}

#[test]
fn what_contradicts_itself_is_explained() {
    let text = r#"port = 5433
rest_port = 5433
ttl = "25s"
parameters = { port = 5433, max_connections = 50 }

[postgres.endpoints]
primary = "127.50.0.9:5432"
replicas = "127.0.0.1:7070"
"#;
    assert_snapshot!(check(text).snapshot());
}

#[test]
fn endpoints_share_no_address_with_each_other_or_with_postgresql() {
    let same = check("\n[postgres.endpoints]\nreplicas = \"127.10.0.1:5432\"\n");
    assert_eq!(same.code, 2);
    assert!(
        same.out.contains("127.10.0.1:5432, as `primary`"),
        "{same:?}"
    );
    let own = check("\n[postgres.endpoints]\nprimary = \"127.0.0.1:5432\"\n");
    assert!(
        own.out.contains("127.0.0.1:5432, PostgreSQL's own"),
        "{own:?}"
    );
}

#[test]
fn the_ports_of_members_have_to_be_open() {
    let text = format!("{MEMBER}{THERE}").replace("{ port = 8008 }", "{ port = 8009 }");
    let folder = folder();
    let ran = run(
        &folder,
        &text,
        &[],
        &["config", "check", "--offline", "holdfast.toml"],
    );
    assert_snapshot!(ran.snapshot());
}

#[test]
fn every_key_is_also_a_variable() {
    let env = [
        ("HOLDFAST_POSTGRES_BIN_DIR", "bin"),
        ("HOLDFAST_POSTGRES_PATRONI", "bin/patroni"),
        ("HOLDFAST_POSTGRES_USER", "nobody"),
        ("HOLDFAST_POSTGRES_TLS", "false"),
        ("HOLDFAST_POSTGRES_PARAMETERS", r#"{"work_mem": "8MB"}"#),
        ("HOLDFAST_POSTGRES_ENDPOINTS_PRIMARY", "127.10.0.9:5432"),
        ("HOLDFAST_POSTGRES_ENDPOINTS_CHECK_RISE", "3"),
    ];
    let out = check_with("", &env).ok();
    assert!(out.contains("primary 127.10.0.9:5432"), "{out}");
    assert!(
        out.contains("FOLDER/bin") || out.contains("bin, run as nobody"),
        "{out}"
    );
    let wrong = check_with("", &[("HOLDFAST_POSTGRES_TLS", "yes")]);
    assert_eq!(wrong.code, 2);
    let told = "postgres.tls (environment variable HOLDFAST_POSTGRES_TLS)";
    assert!(wrong.out.contains(told), "{wrong:?}");
}

#[test]
fn coordinators_and_machines_with_endpoints_alone_run_no_database() {
    let text = format!("{MEMBER}{THERE}").replace("role = \"worker\"", "role = \"coordinator\"");
    let folder = folder();
    let args = ["config", "check", "--offline", "holdfast.toml"];
    let env = [("COORDINATOR_ORDINAL", "1")];
    let coordinator = run(&folder, &text, &env, &args).ok();
    assert!(!coordinator.contains("patroni"), "{coordinator}");
    assert!(coordinator.contains("endpoints"), "{coordinator}");
    let alone = check_with("\n[postgres.endpoints]\n", &[]).ok();
    assert!(!alone.contains("patroni"), "{alone}");
    assert!(alone.contains("primary 127.10.0.1:5432"), "{alone}");
    let none = check_with("", &[]).ok();
    assert!(!none.contains("endpoints"), "{none}");
}

#[test]
fn a_data_directory_of_another_user_is_refused() {
    let folder = folder();
    fs::create_dir(folder.0.join("data")).unwrap();
    folder.write("data/PG_VERSION", "15\n", 0o600);
    let text = format!("{MEMBER}{THERE}data_dir = \"data\"\n");
    let ran = run(
        &folder,
        &text,
        &[],
        &["config", "check", "--offline", "holdfast.toml"],
    );
    assert_eq!(ran.code, 2);
    assert!(
        ran.out.contains("which belongs to the user with the id"),
        "{ran:?}"
    );
    assert!(ran.out.contains("mode 0700 or 0750"), "{ran:?}");
    fs::remove_file(folder.0.join("data/PG_VERSION")).unwrap();
    // Nothing is in it: it becomes the database's.
    run(
        &folder,
        &text,
        &[],
        &["config", "check", "--offline", "holdfast.toml"],
    )
    .ok();
}

#[test]
fn patronis_configuration_is_shown_before_the_machine_has_a_name() {
    let folder = folder();
    let text = format!("{MEMBER}{THERE}parameters = {{ work_mem = \"8MB\" }}\n");
    let show = ["config", "show", "patroni", "--config", "holdfast.toml"];
    assert_snapshot!(run(&folder, &text, &[], &show).ok());
}

#[test]
fn a_machine_that_has_a_name_is_shown_with_it() {
    let folder = folder();
    fs::create_dir(folder.0.join("run")).unwrap();
    let info = r#"{"instance_id":"0123abcd","app_id":"a","compose_hash":"","cluster_name":"north","role":"worker","ordinal":3}"#;
    folder.write("run/info.json", info, 0o444);
    let text = format!("{MEMBER}{THERE}").replace("/nonexistent/run", "run");
    let show = ["config", "show", "patroni", "--config", "holdfast.toml"];
    let out = run(&folder, &text, &[], &show).ok();
    assert!(out.contains("name: worker-3-0123abcd"), "{out}");
    assert!(out.contains("127.50.0.3:8008"), "{out}");
    assert!(!out.contains("no slot yet"), "{out}");
}

#[test]
fn an_overlay_is_laid_over_and_what_it_may_not_say_is_refused() {
    let folder = folder();
    folder.write("over.yml", "tags:\n  nofailover: true\n", 0o644);
    let text = format!("{MEMBER}{THERE}overlay = \"over.yml\"\n");
    let show = ["config", "show", "patroni", "--config", "holdfast.toml"];
    let out = run(&folder, &text, &[], &show).ok();
    assert!(out.contains("nofailover: true"), "{out}");
    folder.write("over.yml", "scope: other\n", 0o644);
    let refused = run(&folder, &text, &[], &show);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(
        refused.err.contains("postgres.overlay (holdfast.toml:"),
        "{refused:?}"
    );
    assert!(refused.err.contains("scope"), "{refused:?}");
}

#[test]
fn where_no_database_is_run_there_is_nothing_to_show() {
    let folder = folder();
    let show = ["config", "show", "patroni", "--config", "holdfast.toml"];
    let none = run(&folder, MEMBER, &[], &show);
    assert_eq!(none.code, 2);
    assert!(none.err.contains("no section [postgres]"), "{none:?}");
}
