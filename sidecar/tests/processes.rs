//! Real processes: started, signalled, reaped with all that they leave behind.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::time::Duration;

use common::{Folder, Log, PATIENCE, alone, exists, root, runs, sh, until};
use holdfast_core::supervise::{Ended, Run, Signal};
use holdfast_io::clock::timeout;
use holdfast_io::real::{RealClock, block_on};
use holdfast_sidecar::processes::{Processes, RealProcesses, Spec};

fn spec(script: &str) -> Spec {
    Spec {
        name: "child".parse().unwrap(),
        command: sh(script),
        user: None,
        group: None,
        env: Vec::new(),
        without: Vec::new(),
        dir: None,
        asks_its_own: false,
    }
}

async fn ended(processes: &RealProcesses) -> (Run, Ended) {
    let ended = timeout(&RealClock, PATIENCE, processes.ended()).await;
    ended.expect("a process that has ended is told of")
}

#[test]
fn the_end_of_a_process_is_told_with_its_code_or_signal() {
    let _one = alone();
    block_on(async {
        let processes = RealProcesses::new().unwrap();
        processes.spawn(Run(1), &spec("exit 7")).unwrap();
        assert_eq!(ended(&processes).await, (Run(1), Ended::Code(7)));
        processes
            .spawn(Run(2), &spec("kill -USR1 $$; sleep 100"))
            .unwrap();
        let signal = Signal(libc::SIGUSR1);
        assert_eq!(ended(&processes).await, (Run(2), Ended::Signal(signal)));
    })
    .unwrap();
}

#[test]
fn what_cannot_be_started_says_what_is_missing() {
    let _one = alone();
    block_on(async {
        let processes = RealProcesses::new().unwrap();
        let program = Spec {
            command: vec!["/no/such/program".to_owned()],
            ..spec("")
        };
        let user = Spec {
            user: Some("no-such-user".to_owned()),
            ..spec("true")
        };
        let dir = Spec {
            dir: Some("/no/such/folder".into()),
            ..spec("true")
        };
        let nothing = Spec {
            command: Vec::new(),
            ..spec("")
        };
        for (spec, says) in [
            (program, "/no/such/program"),
            (user, "no-such-user"),
            (dir, "/no/such/folder"),
            (nothing, "empty"),
        ] {
            let error = processes.spawn(Run(1), &spec).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        // And nothing is left of it.
        processes.spawn(Run(2), &spec("exit 0")).unwrap();
        assert_eq!(ended(&processes).await, (Run(2), Ended::Code(0)));
    })
    .unwrap();
}

#[test]
fn a_signal_reaches_the_whole_group() {
    let _one = alone();
    let folder = Folder::new("group");
    let pid_file = folder.file("pid");
    block_on(async {
        let processes = RealProcesses::new().unwrap();
        let script = format!("sleep 1000 & echo $! > {}; wait", pid_file.display());
        processes.spawn(Run(1), &spec(&script)).unwrap();
        until("the second process", || folder.number("pid").is_some()).await;
        let second = folder.number("pid").unwrap();
        processes.signal(Run(1), Signal(libc::SIGTERM));
        let (run, how) = ended(&processes).await;
        assert_eq!((run, how), (Run(1), Ended::Signal(Signal(libc::SIGTERM))));
        until("its end", || !exists(second)).await;
    })
    .unwrap();
}

#[test]
fn an_end_is_told_when_nothing_of_the_group_is_left() {
    let _one = alone();
    let folder = Folder::new("rest");
    let pid_file = folder.file("pid");
    block_on(async {
        let processes = RealProcesses::new().unwrap();
        let script = format!(
            "sh -c 'trap \"\" TERM; echo $$ > {}; while :; do sleep 1; done' & \
             while [ ! -s {0} ]; do sleep 0.01; done; exit 3",
            pid_file.display()
        );
        processes.spawn(Run(1), &spec(&script)).unwrap();
        assert_eq!(ended(&processes).await, (Run(1), Ended::Code(3)));
        let rest = folder.number("pid").unwrap();
        assert!(
            !exists(rest),
            "the rest of the group has ended, and is reaped"
        );
    })
    .unwrap();
}

#[test]
fn a_process_that_was_left_behind_is_reaped() {
    let _one = alone();
    let folder = Folder::new("orphan");
    let pid_file = folder.file("pid");
    block_on(async {
        let processes = RealProcesses::new().unwrap();
        // In a session of its own it is no longer of the group.
        let script = format!(
            "setsid sh -c 'echo $$ > {}; sleep 0.1' & exit 0",
            pid_file.display()
        );
        let script = script.replace("exit 0", "while [ ! -s PID ]; do sleep 0.01; done; exit 0");
        let script = script.replace("PID", &pid_file.display().to_string());
        processes.spawn(Run(1), &spec(&script)).unwrap();
        assert_eq!(ended(&processes).await, (Run(1), Ended::Code(0)));
        let orphan = folder.number("pid").unwrap();
        until("no zombie", || !exists(orphan)).await;
        assert!(processes.orphans_reaped() > 0, "it was ours to reap");
    })
    .unwrap();
}

#[test]
fn each_line_is_an_event_with_the_name_of_the_child_and_the_stream() {
    let _one = alone();
    let log = Log::listen();
    block_on(async {
        let processes = RealProcesses::new().unwrap();
        let script = "echo out; echo err >&2; printf 'no end'; printf '\\377\\n' >&2";
        processes.spawn(Run(1), &spec(script)).unwrap();
        ended(&processes).await;
        for line in [
            "out child=child stream=\"stdout\"",
            "err child=child stream=\"stderr\"",
            "no end child=child",
            "\u{fffd} child=child",
        ] {
            until(line, || log.text().contains(line)).await;
        }
    })
    .unwrap();
}

#[test]
fn a_process_that_floods_holds_nobody_up() {
    let _one = alone();
    block_on(async {
        let processes = RealProcesses::new().unwrap();
        let flood = |n| {
            processes
                .spawn(Run(n), &spec("exec yes a line of some length"))
                .unwrap()
        };
        flood(1);
        flood(2);
        for n in 10..20 {
            let started = std::time::Instant::now();
            processes.spawn(Run(n), &spec("exit 0")).unwrap();
            assert_eq!(ended(&processes).await, (Run(n), Ended::Code(0)));
            assert!(started.elapsed() < Duration::from_secs(10));
        }
        processes.signal(Run(1), Signal(libc::SIGKILL));
        processes.signal(Run(2), Signal(libc::SIGKILL));
        ended(&processes).await;
        ended(&processes).await;
    })
    .unwrap();
}

#[test]
fn a_child_has_its_variables_and_none_of_the_sidecars_secrets() {
    let _one = alone();
    let folder = Folder::new("env");
    // SAFETY: tests that use the environment run one at a time.
    unsafe { std::env::set_var("HOLDFAST_SECRET_TURN_SECRET", "hidden") };
    block_on(async {
        let processes = RealProcesses::new().unwrap();
        let with = Spec {
            env: vec![("KEY".to_owned(), "a value".to_owned())],
            dir: Some(folder.0.clone()),
            ..spec("env > env; pwd > pwd; exec true")
        };
        processes.spawn(Run(1), &with).unwrap();
        assert_eq!(ended(&processes).await, (Run(1), Ended::Code(0)));
    })
    .unwrap();
    let found = folder.text("env");
    assert!(found.contains("KEY=a value\n"), "{found}");
    assert!(found.contains("PATH="), "{found}");
    assert!(!found.contains("hidden"), "{found}");
    assert_eq!(
        folder.text("pwd").trim_end(),
        folder.0.display().to_string()
    );
}

#[test]
fn a_child_runs_as_its_user_and_gains_no_privileges() {
    if !root() {
        return;
    }
    let _one = alone();
    let folder = Folder::new("user");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&folder.0, mode).unwrap();
    block_on(async {
        let processes = RealProcesses::new().unwrap();
        let nobody = Spec {
            user: Some("nobody".to_owned()),
            dir: Some(folder.0.clone()),
            ..spec("id -u > uid; id -G > groups; cat /proc/self/status > status; echo $USER > name")
        };
        processes.spawn(Run(1), &nobody).unwrap();
        assert_eq!(ended(&processes).await, (Run(1), Ended::Code(0)));
    })
    .unwrap();
    assert_eq!(folder.text("uid"), "65534\n");
    assert_eq!(folder.text("groups"), "65534\n", "none of root's groups");
    assert_eq!(folder.text("name"), "nobody\n");
    let status = folder.text("status");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
}

#[test]
fn who_asks_its_own_is_asked_alone_and_killed_with_them() {
    let _one = alone();
    let folder = Folder::new("asks-its-own");
    let rest = "trap 'echo > told; exit' TERM; echo $$ > rest; while :; do sleep 0.01; done";
    std::fs::write(folder.file("rest.sh"), rest).unwrap();
    let first = "/bin/sh rest.sh & trap 'sleep 0.2; exit 3' TERM; while :; do sleep 0.01; done";
    block_on(async {
        let processes = RealProcesses::new().unwrap();
        let spec = Spec {
            dir: Some(folder.0.clone()),
            asks_its_own: true,
            ..spec(first)
        };
        let pid = i32::try_from(processes.spawn(Run(1), &spec).unwrap()).unwrap();
        until("both run", || folder.number("rest").is_some()).await;
        let rest = folder.number("rest").unwrap();
        processes.signal(Run(1), Signal(libc::SIGTERM));
        until("the first has ended", || !runs(pid)).await;
        assert!(runs(rest), "what it has left has time as well");
        processes.signal(Run(1), Signal(libc::SIGKILL));
        assert_eq!(ended(&processes).await, (Run(1), Ended::Code(3)));
        assert!(!runs(rest));
        assert!(!folder.file("told").exists(), "it was not asked");
    })
    .unwrap();
}
