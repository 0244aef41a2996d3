//! What is generated, for people to read, and what is refused.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::testing::{credentials, place, settings};

fn over(text: &str) -> Result<Generated, Error> {
    let overlay = yaml::read(text).unwrap();
    generate_with(&settings(), &place(), &credentials(), Some(&overlay))
}

#[test]
fn a_worker_is_told_this() {
    let generated = generate(&settings(), &place(), &credentials()).unwrap();
    insta::assert_snapshot!(generated.shown);
}

#[test]
fn a_secure_kv_and_no_tls_are_told_this() {
    let mut place = place();
    place.kv.address = "https://kv.example:8501".to_owned();
    place.kv.token = Some(Zeroizing::new("the token".to_owned()));
    place.kv.ca_file = Some(PathBuf::from("/etc/holdfast/kv.pem"));
    let mut settings = settings();
    settings.tls = false;
    settings.user = "database".to_owned();
    settings.synchronous = crate::settings::Synchronous::Off;
    let generated = generate(&settings, &place, &credentials()).unwrap();
    insta::assert_snapshot!(generated.shown);
    assert!(generated.yaml.contains("token: \"the token\""));
}

#[test]
fn secrets_are_in_the_file_and_never_in_what_is_shown() {
    let generated = generate(&settings(), &place(), &credentials()).unwrap();
    for secret in ["of-superuser", "of-replication", "of-rewind", "of-rest"] {
        assert!(generated.yaml.contains(secret), "{secret}");
        assert!(!generated.shown.contains(secret), "{secret}");
        assert!(!format!("{generated:?}").contains(secret), "{secret}");
        assert!(!generated.dynamic.to_string().contains(secret), "{secret}");
    }
    assert_eq!(generated.shown.matches(MASK).count(), 4);
}

#[test]
fn the_users_file_is_laid_over_key_by_key() {
    let generated = over(
        "tags: {nofailover: true}\n\
         postgresql:\n  parameters: {work_mem: 8MB}\n  pg_hba: [local all all peer]\n\
         bootstrap: {dcs: {ttl: 60, maximum_lag_on_failover: 5}}\n\
         log: {level: DEBUG}\n",
    )
    .unwrap();
    assert_eq!(generated.dynamic["ttl"], json!(60));
    assert_eq!(generated.dynamic["loop_wait"], json!(10));
    let read = yaml::read(&generated.shown).unwrap();
    assert_eq!(read["tags"]["nofailover"], json!(true));
    assert_eq!(read["postgresql"]["parameters"]["work_mem"], json!("8MB"));
    assert_eq!(read["postgresql"]["parameters"]["ssl"], json!("on"));
    assert_eq!(read["postgresql"]["pg_hba"], json!(["local all all peer"]));
    assert_eq!(read["log"]["level"], json!("DEBUG"));
}

#[test]
fn what_would_break_a_promise_is_refused_by_name() {
    for (text, named) in [
        ("scope: other", "scope"),
        ("name: me", "name"),
        ("namespace: /x", "namespace"),
        ("consul: {host: a}", "consul"),
        ("etcd3: {host: a}", "etcd3"),
        ("restapi: {listen: '0.0.0.0:1'}", "restapi.listen"),
        (
            "restapi: {authentication: {password: x}}",
            "restapi.authentication",
        ),
        ("postgresql: {listen: '*'}", "postgresql.listen"),
        ("postgresql: {data_dir: /x}", "postgresql.data_dir"),
        ("postgresql: {bin_dir: /x}", "postgresql.bin_dir"),
        (
            "postgresql: {authentication: {superuser: {password: x}}}",
            "postgresql.authentication",
        ),
        (
            "postgresql: {parameters: {FSYNC: off}}",
            "postgresql.parameters.FSYNC",
        ),
        (
            "bootstrap: {dcs: {postgresql: {parameters: {port: 1}}}}",
            "parameters.port",
        ),
        (
            "bootstrap: {initdb: [{encoding: UTF8}]}",
            "bootstrap.initdb",
        ),
        ("bootstrap: {method: mine}", "bootstrap.method"),
        ("bootstrap: {dcs: {pause: true}}", "bootstrap.dcs.pause"),
        (
            "bootstrap: {dcs: {failsafe_mode: true}}",
            "bootstrap.dcs.failsafe_mode",
        ),
        (
            "bootstrap: {dcs: {primary_start_timeout: 300}}",
            "bootstrap.dcs.primary_start_timeout",
        ),
        (
            "bootstrap: {dcs: {postgresql: {use_pg_rewind: false}}}",
            "bootstrap.dcs.postgresql.use_pg_rewind",
        ),
        (
            "bootstrap: {dcs: {postgresql: {use_slots: false}}}",
            "bootstrap.dcs.postgresql.use_slots",
        ),
        (
            "postgresql: {use_pg_rewind: false}",
            "postgresql.use_pg_rewind",
        ),
        ("postgresql: {custom_conf: /x}", "postgresql.custom_conf"),
        (
            "postgresql: {remove_data_directory_on_rewind_failure: true}",
            "postgresql.remove_data_directory_on_rewind_failure",
        ),
    ] {
        let error = over(text).unwrap_err().to_string();
        assert!(
            error.contains(named) && error.contains("cannot be set"),
            "{text}: {error}"
        );
    }
    for text in [
        "postgresql: 1",
        "postgresql: ~",
        "bootstrap: {dcs: ~}",
        "- a",
        "restapi: []",
    ] {
        let error = over(text).unwrap_err().to_string();
        assert!(error.contains("expected a mapping"), "{text}: {error}");
    }
}

#[test]
fn patronis_minimums_are_named_with_what_was_found() {
    let with = |ttl, loop_wait, retry| {
        let mut settings = settings();
        settings.ttl = Duration::from_secs(ttl);
        settings.loop_wait = Duration::from_secs(loop_wait);
        settings.retry_timeout = Duration::from_secs(retry);
        generate(&settings, &place(), &credentials()).map_err(|error| error.to_string())
    };
    assert!(with(20, 10, 5).is_ok());
    for (ttl, loop_wait, retry, key, found) in [
        (19, 1, 3, "postgres.ttl", "19s"),
        (30, 0, 10, "postgres.loop_wait", "0ns"),
        (30, 10, 2, "postgres.retry_timeout", "2s"),
        (
            30,
            11,
            10,
            "postgres.ttl",
            "30s, with loop_wait 11s and retry_timeout 10s",
        ),
    ] {
        let error = with(ttl, loop_wait, retry).unwrap_err();
        assert!(
            error.starts_with(&format!("{key} is {found}: expected ")),
            "{error}"
        );
    }
    let mut fraction = settings();
    fraction.loop_wait = Duration::from_millis(1500);
    let error = generate(&fraction, &place(), &credentials()).unwrap_err();
    assert!(error.to_string().contains("whole seconds"), "{error}");
    assert!(
        over("bootstrap: {dcs: {ttl: 5}}")
            .unwrap_err()
            .to_string()
            .contains("postgres.ttl")
    );
}

#[test]
fn a_name_keeps_to_what_postgresql_compares() {
    let mut place = place();
    place.instance = "0123456789abcdef".repeat(4);
    let name = member_name(&place).unwrap();
    assert_eq!(name.len(), 63);
    assert!(name.starts_with("worker-1-0123456789"), "{name}");
    place.id = "w".repeat(60).parse().unwrap();
    assert!(member_name(&place).is_err());
    place.instance = "a b".to_owned();
    assert!(member_name(&place).is_err());
}

#[test]
fn settings_that_cannot_be_are_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Settings)| {
        let mut settings = settings();
        change(&mut settings);
        generate(&settings, &place(), &credentials())
            .unwrap_err()
            .to_string()
    };
    assert!(refused(&|s| s.scope = "a/b".to_owned()).contains("postgres.scope"));
    assert!(refused(&|s| s.rest_port = s.port).contains("postgres.rest_port"));
    assert!(refused(&|s| s.data_dir = "relative".into()).contains("postgres.data_dir"));
    let set = |name: &str, value: &str| {
        let (name, value) = (name.to_owned(), value.to_owned());
        refused(&move |s| drop(s.parameters.insert(name.clone(), value.clone())))
    };
    assert!(set("fsync", "off").contains("postgres.parameters.fsync"));
    assert!(set("work_mem", "1MB\nfsync = off").contains("one line"));
    assert!(set("a b", "1").contains("parameters"));
}

#[test]
fn patroni_itself_finds_nothing_wrong() {
    let patroni = Path::new("/opt/holdfast/bin/patroni");
    if !patroni.exists() {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!ci, "{patroni:?} is not there");
        eprintln!("NOT CHECKED: {patroni:?} is not there");
        return;
    }
    let folder = std::env::temp_dir().join(format!("holdfast-postgres-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("patroni.yml");
    let generated = generate(&settings(), &place(), &credentials()).unwrap();
    std::fs::write(&file, generated.yaml.as_bytes()).unwrap();
    let mut command = std::process::Command::new(patroni);
    let output = command.arg("--validate-config").arg(&file).output();
    std::fs::remove_dir_all(&folder).unwrap();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
