//! `holdfast keys`, as an operator meets it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::Folder;

#[test]
fn a_cluster_secret_is_64_digits_in_a_file_that_only_its_owner_reads() {
    let folder = Folder::new();
    folder.run(&["keys", "secret", "--out", "a.secret"]).ok();
    let secret = folder.read("a.secret");
    assert_eq!(secret.trim_end().len(), 64);
    assert!(secret.trim_end().bytes().all(|b| b.is_ascii_hexdigit()));
    assert_eq!(folder.mode("a.secret"), 0o400);
    assert_ne!(folder.run(&["keys", "secret"]).ok(), secret);
}

#[test]
fn no_key_is_ever_overwritten() {
    let folder = Folder::new();
    for kind in ["secret", "node"] {
        folder.run(&["keys", kind, "--out", kind]).ok();
        let before = folder.read(kind);
        let again = folder.run(&["keys", kind, "--out", kind]);
        assert_eq!(again.code, 1, "{again:?}");
        assert!(again.err.contains("not overwritten"), "{again:?}");
        assert_eq!(folder.read(kind), before);
    }
}

#[test]
fn show_prints_the_public_key_that_node_printed() {
    let folder = Folder::new();
    let public = folder.run(&["keys", "node", "--out", "node.key"]).ok();
    assert_eq!(folder.run(&["keys", "show", "node.key"]).ok(), public);
    assert_eq!(folder.mode("node.key"), 0o400);
}

#[test]
fn show_derives_the_keys_of_named_nodes_from_a_cluster_secret() {
    let folder = Folder::new().with_secret();
    let all = folder
        .run(&["keys", "show", "cluster.secret", "--id", "a,b"])
        .ok();
    assert_eq!(all.lines().count(), 2);
    let bare = folder.run(&["keys", "show", "cluster.secret"]);
    assert_eq!(bare.code, 2);
    assert!(bare.err.contains("--id"), "{bare:?}");
}

#[test]
fn a_deployment_is_a_set_of_files_that_all_pass_the_check() {
    let folder = Folder::new();
    let args = [
        "keys",
        "deployment",
        "--nodes",
        "a,b,c",
        "--out",
        "out",
        "--brokers",
        "http://203.0.113.10:7000",
        "--stun",
        "203.0.113.10:3478",
        "--turn",
        "turn:203.0.113.10:3478,turn:203.0.113.10:3478?transport=tcp",
        "--allow",
        "5432,8301/udp",
    ];
    folder.run(&args).ok();
    for node in ["a", "b", "c"] {
        let file = format!("out/{node}.toml");
        let out = folder.run(&["config", "check", &file]).ok();
        assert!(out.contains("5432 tcp, 8301 tcp+udp"), "{out}");
    }
    insta::assert_snapshot!(folder.read("out/b.toml"));
    let again = folder.run(&args);
    assert_eq!(again.code, 1);
    assert!(again.err.contains("not overwritten"), "{again:?}");
}

#[test]
fn a_deployment_with_bad_names_or_urls_writes_nothing() {
    let folder = Folder::new();
    let broker = "http://203.0.113.10:7000";
    for (nodes, brokers) in [("a,a", broker), ("a,b/c", broker), ("a,b", "b:1")] {
        let args = [
            "keys",
            "deployment",
            "--nodes",
            nodes,
            "--out",
            "out",
            "--brokers",
            brokers,
        ];
        let ran = folder.run(&args);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(!folder.0.join("out").exists());
    }
}
