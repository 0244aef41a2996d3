//! `holdfast config`, as an operator meets it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::Folder;
use insta::assert_snapshot;

const GOOD: &str = r#"
id = "node-1"
cluster_secret_file = "cluster.secret"
brokers = ["http://203.0.113.10:7000"]

[[allow]]
port = 5432

[[peers]]
id = "node-1"
vip = 1

[[peers]]
id = "node-2"
vip = 2
"#;

/// The report on a file that says `text`.
fn report(text: &str) -> String {
    let folder = Folder::new().with_secret();
    folder.write("holdfast.toml", text, 0o644);
    folder.run(&["config", "check", "holdfast.toml"]).snapshot()
}

/// The report on a good file in which `from` was replaced.
fn report_on_change(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from:?} is in the good file");
    report(&GOOD.replace(from, to))
}

#[test]
fn the_example_passes_its_own_check() {
    let folder = Folder::new().with_secret();
    let example = folder.run(&["config", "example"]).ok();
    folder.write("example.toml", &example, 0o644);
    assert_snapshot!(folder.run(&["config", "check", "example.toml"]).ok());
    assert_snapshot!("example", example);
}

#[test]
fn the_example_passes_with_everything_that_it_leaves_out() {
    let folder = Folder::new().with_secret();
    folder.write("turn.secret", "a secret\n", 0o400);
    folder.write("turn.password", "a password\n", 0o400);
    folder.run(&["keys", "node", "--out", "node.key"]).ok();
    let example = folder.run(&["config", "example"]).ok();
    let full: Vec<&str> = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(code) if code.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => code,
            _ => line,
        })
        .collect();
    assert!(full.contains(&"[[turn]]"));
    folder.write("full.toml", &full.join("\n"), 0o644);
    let out = folder.run(&["config", "check", "full.toml"]).ok();
    assert!(
        out.contains("turn:203.0.113.10:3478?transport=tcp"),
        "{out}"
    );
    assert!(out.contains("own key in node.key"), "{out}");
}

#[test]
fn the_defaults_of_the_example_are_those_of_an_empty_file() {
    let folder = Folder::new().with_secret();
    let example = folder.run(&["config", "example"]).ok();
    let bare: String = {
        let keep = [
            "id =",
            "cluster_secret_file =",
            "brokers =",
            "stun =",
            "[[",
            "port =",
            "udp =",
            "vip =",
        ];
        let kept = example
            .lines()
            .filter(|l| keep.iter().any(|k| l.starts_with(k)));
        kept.map(|line| format!("{line}\n")).collect()
    };
    folder.write("example.toml", &example, 0o644);
    folder.write("bare.toml", &bare, 0o644);
    let digest = |name| {
        let out = folder.run(&["config", "check", name]).ok();
        out.lines()
            .find(|line| line.contains("digest"))
            .map(str::to_owned)
    };
    assert_eq!(
        digest("example.toml").unwrap(),
        digest("bare.toml").unwrap()
    );
}

#[test]
fn every_problem_is_explained_at_once_in_the_order_of_the_file() {
    let folder = Folder::new();
    folder.write("open.secret", "0123456789abcdef\n", 0o644);
    let text = r#"id = "node 1"
vip = 300
broker = ["http://x"]
brokers = ["https://b.example.net", "http://203.0.113.10:7000"]
listen = "localhost"
paths = "relay_only"
cluster_secret = "hunter2"
cluster_secret_file = "open.secret"
shutdown_grace = 5
log = "loud"

[limits]
mtu = 9
mtu_max = 100
stream_window = "big"

[[allow]]
port = 8080
upd = true

[[allow]]
port = 8080

[[turn]]
url = "turns:203.0.113.10"

[[peers]]
id = "a"
vip = 2

[[peers]]
id = "b"
vip = 2
key = "zz"

[[peers]]
id = "a"
"#;
    folder.write("holdfast.toml", text, 0o644);
    let env = [
        ("HOLDFAST_ADMIM", "127.0.0.1:1"),
        ("HOLDFAST_CONGESTION", "reno"),
    ];
    let ran = folder.run_with(&env, &["config", "check", "holdfast.toml"]);
    assert_snapshot!(ran.snapshot());
    assert!(
        !ran.out.contains("hunter2"),
        "an unknown key's value may be a secret"
    );
}

#[test]
fn all_syntax_errors_of_a_file_are_told_and_nothing_is_guessed_from_the_rest() {
    assert_snapshot!(report("id = \"a\nvip = = 3\n[limits\nx=1\n"));
}

#[test]
fn an_empty_file_lacks_what_has_no_default() {
    assert_snapshot!(report(""));
}

#[test]
fn a_duplicate_vip_names_both_owners_and_the_line() {
    assert_snapshot!(report_on_change("vip = 2", "vip = 1"));
}

#[test]
fn a_vip_that_contradicts_the_own_entry_is_refused() {
    assert_snapshot!(report(&format!("vip = 7{GOOD}")));
}

#[test]
fn a_node_that_the_peers_do_not_know_needs_a_vip() {
    assert_snapshot!(report_on_change(
        "id = \"node-1\"\ncluster",
        "id = \"node-9\"\ncluster"
    ));
}

#[test]
fn a_port_listed_twice_is_told_on_its_own_line_also_behind_a_bad_rule() {
    let rules = "[[allow]]\nport = 0\n\n[[allow]]\nport = 5432\n\n[[allow]]\nport = 5432\n";
    assert_snapshot!(report_on_change("[[allow]]\nport = 5432\n", rules));
}

#[test]
fn relay_only_needs_a_relay() {
    assert_snapshot!(report(&format!("paths = \"relay-only\"{GOOD}")));
}

#[test]
fn without_a_cluster_secret_every_peer_needs_a_key() {
    let folder = Folder::new();
    folder.run(&["keys", "node", "--out", "node.key"]).ok();
    let text = GOOD.replace(
        "cluster_secret_file = \"cluster.secret\"",
        "key_file = \"node.key\"",
    );
    folder.write("holdfast.toml", &text, 0o644);
    let ran = folder.run(&["config", "check", "holdfast.toml"]);
    assert_snapshot!(ran.snapshot());
}

#[test]
fn a_secret_that_others_can_read_is_refused_with_the_remedy() {
    let folder = Folder::new().with_secret();
    folder.write("holdfast.toml", GOOD, 0o644);
    for mode in [0o440, 0o404, 0o604, 0o600 | 0o020] {
        let secret = folder.0.join("cluster.secret");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&secret, mode).unwrap();
        let ran = folder.run(&["config", "check", "holdfast.toml"]);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.out.contains("chmod 0400 cluster.secret"), "{ran:?}");
        assert!(!ran.out.contains("0123456789"), "{ran:?}");
    }
}

#[test]
fn a_missing_file_says_how_to_get_one() {
    let folder = Folder::new();
    let ran = folder.run(&["config", "check", "absent.toml"]);
    assert_snapshot!(ran.snapshot());
}

#[test]
fn a_file_larger_than_its_limit_and_one_that_is_no_text_are_refused() {
    let folder = Folder::new();
    std::fs::write(folder.0.join("large.toml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    std::fs::write(folder.0.join("bytes.toml"), b"id = \"\xff\"").unwrap();
    let large = folder.run(&["config", "check", "large.toml"]);
    let bytes = folder.run(&["config", "check", "bytes.toml"]);
    assert_eq!((large.code, bytes.code), (2, 2));
    assert!(large.out.contains("at most 1 MiB"), "{large:?}");
    assert!(bytes.out.contains("no UTF-8, at offset 6"), "{bytes:?}");
}

#[test]
fn the_reference_variables_are_enough_without_a_file() {
    let folder = Folder::new().with_secret();
    let env = [
        ("HOLDFAST_ID", "worker-3"),
        (
            "HOLDFAST_BROKERS",
            "http://203.0.113.10:7000, http://203.0.113.11:7000,",
        ),
        ("HOLDFAST_CLUSTER_SECRET_FILE", "cluster.secret"),
        (
            "PEERS_JSON",
            r#"[{"id":"worker-3","vip":4},{"id":"coordinator-0","vip":1}]"#,
        ),
        (
            "MESH_CONN_ALLOWLIST",
            r#"[{"port":8301,"udp":true},{"port":8300,"udp":false}]"#,
        ),
    ];
    assert_snapshot!(folder.run_with(&env, &["config", "check"]).ok());
}

#[test]
fn the_environment_wins_over_the_file_and_an_empty_variable_is_not_set() {
    let folder = Folder::new().with_secret();
    folder.write("holdfast.toml", GOOD, 0o644);
    let env = [
        ("HOLDFAST_LISTEN", "0.0.0.0:4000"),
        ("HOLDFAST_LIMITS_MTU_MAX", "1300"),
        ("HOLDFAST_BROKERS", ""),
        ("HOLDFAST_CONFIG", "holdfast.toml"),
    ];
    let out = folder.run_with(&env, &["config", "check"]).ok();
    assert!(out.contains("0.0.0.0:4000"), "{out}");
    assert!(out.contains("http://203.0.113.10:7000"), "{out}");
}

#[test]
fn a_malformed_variable_is_told_by_its_name() {
    let folder = Folder::new().with_secret();
    folder.write("holdfast.toml", GOOD, 0o644);
    let env = [
        ("PEERS_JSON", "[{\"id\":"),
        ("MESH_CONN_ALLOWLIST", "{}"),
        ("HOLDFAST_VIP", "one"),
    ];
    let ran = folder.run_with(&env, &["config", "check", "holdfast.toml"]);
    assert_snapshot!(ran.snapshot());
    let without_peers = folder.run_with(&env[1..], &["config", "check", "holdfast.toml"]);
    assert_snapshot!("a_malformed_value_of_a_variable", without_peers.snapshot());
}

#[test]
fn a_server_whose_name_has_no_address_is_a_warning_unless_offline() {
    let folder = Folder::new().with_secret();
    let text = GOOD.replace("203.0.113.10", "no-such-host.invalid");
    folder.write("holdfast.toml", &text, 0o644);
    let ran = folder.run(&["config", "check", "holdfast.toml"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.out.contains("brokers[0] (holdfast.toml:4)")
            || ran.out.contains("brokers (holdfast.toml:4)"),
        "{ran:?}"
    );
    let offline = folder.run(&["config", "check", "--offline", "holdfast.toml"]);
    assert_eq!(offline.code, 0, "{offline:?}");
}

#[test]
fn json_has_the_same_problems_and_a_summary_when_there_are_none() {
    let folder = Folder::new().with_secret();
    folder.write("good.toml", GOOD, 0o644);
    folder.write("bad.toml", &GOOD.replace("vip = 2", "vip = 0"), 0o644);
    let good = folder.run(&["config", "check", "--json", "good.toml"]).ok();
    let good: serde_json::Value = serde_json::from_str(&good).unwrap();
    assert_eq!(good["ok"], true);
    assert_eq!(good["summary"]["node"], "node-1 (127.50.0.1)");
    let bad = folder.run(&["config", "check", "--json", "bad.toml"]);
    assert_eq!(bad.code, 2);
    let bad: serde_json::Value = serde_json::from_str(&bad.out).unwrap();
    assert_eq!(bad["ok"], false);
    assert_eq!(bad["problems"][0]["line"], 15);
    assert_eq!(bad["problems"][0]["key"], "peers[1].vip");
    assert_eq!(bad["problems"][0]["found"], "0");
}

#[test]
fn a_role_with_a_bad_configuration_ends_with_exit_code_2() {
    let folder = Folder::new();
    folder.write("holdfast.toml", GOOD, 0o644);
    let ran = folder.run(&["mesh", "--config", "holdfast.toml"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(
        ran.err.contains("cluster_secret_file (holdfast.toml:3)"),
        "{ran:?}"
    );
    assert_eq!(folder.run(&["mesh", "--no-such-flag"]).code, 2);
}

#[test]
fn a_broker_may_have_an_address_of_another_family_than_the_udp_socket() {
    let folder = Folder::new().with_secret();
    let text = GOOD.replace("203.0.113.10", "[2001:db8::1]");
    folder.write("holdfast.toml", &text, 0o644);
    let out = folder.run(&["config", "check", "holdfast.toml"]).ok();
    assert!(!out.contains("warning"), "{out}");
}
