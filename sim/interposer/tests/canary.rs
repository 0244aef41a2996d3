//! The canary sings for seeded threads and dies loudly for everything else.

#![allow(clippy::unwrap_used)] // a failed set-up should fail the test where it happens

use holdfast_interposer::{Interposer, simulate};
use rand::Rng as _;
use std::hash::{BuildHasher as _, RandomState};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output};
use std::time::{Instant, SystemTime};

/// Names the forbidden act to commit, in a child process that is expected to die of it.
const ACT: &str = "HOLDFAST_INTERPOSER_ACT";

fn hash_and_draw() -> (u64, [u64; 4]) {
    (
        RandomState::new().hash_one(1),
        std::array::from_fn(|_| rand::rng().random()),
    )
}

fn run(seed: u8) -> holdfast_interposer::Report<(u64, [u64; 4])> {
    Interposer::new([seed; 32])
        .allow_entropy(&["rand"])
        .run(hash_and_draw)
}

/// Runs this very binary again, with `act` in the environment of [`the_act_itself`].
fn child(act: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "the_act_itself",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(ACT, act)
        .output()
        .unwrap()
}

fn assert_aborts(act: &str, call: &str) {
    let output = child(act);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(6), "{act}: {stderr}");
    assert!(
        stderr.contains(&format!("interposer: {call} on a simulation thread")),
        "{stderr}"
    );
    assert!(
        stderr.contains("the_act_itself"),
        "the backtrace leads to the culprit: {stderr}"
    );
}

#[test]
fn the_act_itself() {
    let Ok(act) = std::env::var(ACT) else { return };
    simulate([1; 32], || match act.as_str() {
        "instant" => drop(Instant::now()),
        "system time" => drop(SystemTime::now()),
        "rand" => drop(rand::rng().random::<u64>()),
        // SAFETY: null is allowed here.
        "time" => drop(unsafe { libc::time(std::ptr::null_mut()) }),
        "syscall" => {
            let mut buffer = [0_u8; 8];
            // SAFETY: the arguments of getrandom(2), over a local buffer.
            unsafe { libc::syscall(libc::SYS_getrandom, buffer.as_mut_ptr(), buffer.len(), 0) };
        }
        "nothing" => {}
        other => panic!("no act is called {other}"),
    });
}

#[test]
fn the_same_seed_gives_the_same_hash_keys_and_draws() {
    let first = run(1);
    assert_eq!(first, run(1));
    assert!(first.entropy_reads >= 2, "{first:?}");
    assert_eq!(first.clock_reads, 0);
}

#[test]
fn different_seeds_differ_in_hash_keys_and_draws() {
    let (one, other) = (run(1).value, run(2).value);
    assert_ne!(one.0, other.0);
    assert_ne!(one.1, other.1);
}

#[test]
fn fifty_seeds_replay_identically_in_one_process() {
    for seed in 0..50 {
        assert_eq!(run(seed), run(seed));
    }
}

#[test]
fn other_threads_keep_real_entropy_and_time() {
    let fresh = || std::thread::spawn(hash_and_draw).join().unwrap();
    assert_ne!(fresh(), fresh());
    let start = Instant::now();
    assert!(start.elapsed().as_secs() < 60);
    assert!(SystemTime::now() > SystemTime::UNIX_EPOCH);
    // Threads that a simulation starts are not simulated.
    let inner = simulate([1; 32], || std::thread::spawn(Instant::now).join().unwrap());
    assert!(inner.value >= start);
    assert_eq!(inner.clock_reads, 0);
}

#[test]
fn a_clock_read_on_a_simulation_thread_aborts() {
    assert_aborts("instant", "clock_gettime");
    assert_aborts("system time", "clock_gettime");
    assert_aborts("time", "time");
}

#[test]
fn an_entropy_read_outside_the_allowlist_aborts() {
    assert_aborts("rand", "getrandom");
    assert_aborts("syscall", "getrandom");
}

#[test]
fn a_clean_simulation_does_not_abort() {
    assert!(child("nothing").status.success());
}

#[test]
fn count_only_serves_counts_and_never_aborts() {
    let body = || {
        let before = Instant::now();
        (rand::rng().random::<u64>(), before.elapsed().as_secs() < 60)
    };
    let first = Interposer::new([3; 32]).count_only().run(body);
    assert_eq!(first, Interposer::new([3; 32]).count_only().run(body));
    assert_eq!(first.clock_reads, 2);
    assert_eq!(first.entropy_reads, 1);
}

#[test]
fn a_simulation_may_borrow_and_its_panic_reaches_the_caller() {
    let text = String::from("borrowed");
    assert_eq!(simulate([1; 32], || text.len()).value, 8);
    let panic = std::panic::catch_unwind(|| simulate([1; 32], || panic!("on purpose")));
    assert_eq!(
        *panic.unwrap_err().downcast::<&str>().unwrap(),
        "on purpose"
    );
}

#[test]
fn every_hooked_call_works_on_ordinary_threads() {
    let mut buffer = [0_u8; 64];
    let (pointer, len) = (buffer.as_mut_ptr().cast(), buffer.len());
    let mut now = libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    // SAFETY: pointers and lengths are those of locals.
    unsafe {
        assert_eq!(libc::getentropy(pointer, len), 0);
        assert_eq!(libc::getentropy(pointer, 257), -1);
        assert_eq!(libc::getrandom(pointer, len, 0), 64);
        assert_eq!(libc::syscall(libc::SYS_getrandom, pointer, len, 0), 64);
        assert_eq!(
            libc::syscall(libc::SYS_getpid),
            libc::c_long::from(libc::getpid())
        );
        assert_eq!(libc::syscall(libc::SYS_close, -1), -1);
        assert_eq!(*libc::__errno_location(), libc::EBADF);
        assert_eq!(libc::gettimeofday(&raw mut now, std::ptr::null_mut()), 0);
        assert!(libc::time(std::ptr::null_mut()) >= now.tv_sec);
    }
    assert!(buffer.iter().any(|byte| *byte != 0));
}
