//! In a process of its own: what it does is for good.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use holdfast_bootstrap::real::forbid_core_dumps;

#[test]
fn a_process_that_forbade_core_dumps_has_none_and_cannot_be_attached_to() {
    forbid_core_dumps().unwrap();
    forbid_core_dumps().unwrap();
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let words: Vec<_> = core.unwrap().split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"]);
    // SAFETY: this option takes nothing.
    assert_eq!(unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) }, 0);
}
