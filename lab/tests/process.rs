//! Processes are ended by id and not confused; conditions are waited for with a bound.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    env, fs,
    path::PathBuf,
    process::{self, Command},
    time::{Duration, Instant},
};

use holdfast_lab::{
    Error,
    process::{Process, ProcessId, wait_for, wait_for_value},
};

const BOUND: Duration = Duration::from_secs(10);

/// A log file of one's own, removed at the end.
struct Log(PathBuf);

impl Log {
    fn new(name: &str) -> Self {
        Self(env::temp_dir().join(format!("holdfast-lab-{}-{name}.log", process::id())))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn shell(log: &Log, script: &str) -> Process {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    Process::spawn("shell", command, &log.0).unwrap()
}

#[test]
fn a_dropped_process_is_dead_and_reaped() {
    let log = Log::new("drop");
    let process = shell(&log, "sleep 1000");
    let id = ProcessId::of(process.pid());
    assert!(id.is_alive());
    drop(process);
    assert!(!id.is_alive());
}

#[test]
fn a_process_that_ignores_sigterm_is_killed_after_its_grace() {
    let log = Log::new("stubborn");
    let mut process = shell(&log, "trap '' TERM; echo begun; while :; do sleep 1; done");
    process.wait_for_log("begun", BOUND).unwrap();
    let started = Instant::now();
    let status = process.stop(Duration::from_millis(50)).unwrap();
    assert!(!status.success());
    assert!(started.elapsed() >= Duration::from_millis(50));
}

#[test]
fn a_stopped_process_still_ends_by_sigterm() {
    let log = Log::new("stopped");
    let mut process = shell(
        &log,
        "trap 'echo bye; exit 7' TERM; echo begun; while :; do :; done",
    );
    process.wait_for_log("begun", BOUND).unwrap();
    process.signal(libc::SIGSTOP).unwrap();
    assert_eq!(process.stop(BOUND).unwrap().code(), Some(7));
    assert!(fs::read_to_string(&log.0).unwrap().contains("bye"));
}

#[test]
fn a_process_that_ends_before_it_is_ready_says_why() {
    let log = Log::new("early");
    let mut process = shell(&log, "echo no such port >&2; exit 3");
    let error = process.wait_for_log("ready", BOUND).unwrap_err();
    assert!(matches!(&error, Error::Ended { status, .. } if status.code() == Some(3)));
    assert!(error.to_string().contains("no such port"), "{error}");
}

#[test]
fn an_id_that_names_another_process_now_is_not_alive() {
    let mut id = ProcessId::of(process::id());
    assert!(id.is_alive());
    id.start_ticks += 1;
    assert!(!id.is_alive());
}

#[test]
fn waiting_has_a_bound_and_names_what_was_waited_for() {
    let bound = Duration::from_millis(20);
    let error = wait_for("the impossible", bound, || false).unwrap_err();
    assert_eq!(error.to_string(), "the impossible: not within 20ms");
    let mut looks = 0..;
    let third = wait_for_value("three looks", BOUND, || {
        looks.next().filter(|look| *look == 2)
    });
    assert_eq!(third.unwrap(), 2);
}
