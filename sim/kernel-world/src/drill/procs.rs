//! Processes, found by what they are and not by their name alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A process and its parent.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may itself contain anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    fields.nth(1)?.parse().ok()
}

/// These processes and all that descend from them, of those given.
pub fn with_descendants(roots: &[u32], among: &[u32]) -> Vec<u32> {
    let parents: BTreeMap<u32, u32> = among
        .iter()
        .filter_map(|pid| Some((*pid, parent(*pid)?)))
        .collect();
    let mut found: BTreeSet<u32> = roots
        .iter()
        .copied()
        .filter(|p| among.contains(p))
        .collect();
    loop {
        let more = parents.iter().filter(|(_, parent)| found.contains(parent));
        let more: Vec<u32> = more.map(|(pid, _)| *pid).collect();
        let before = found.len();
        found.extend(more);
        if found.len() == before {
            return found.into_iter().collect();
        }
    }
}

/// The postmaster of a data directory, if it is one of those processes and really runs it.
pub fn postmaster(data: &Path, among: &[u32]) -> Option<u32> {
    let file = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid: u32 = file.lines().next()?.trim().parse().ok()?;
    let runs_it = arguments(pid).any(|word| word == data.as_os_str().as_bytes());
    (among.contains(&pid) && runs_it).then_some(pid)
}

/// Those whose command line has an argument that ends like that.
pub fn with_argument(end: &[u8], among: &[u32]) -> Vec<u32> {
    let has = |pid: &&u32| arguments(**pid).any(|word| word.ends_with(end));
    among.iter().filter(has).copied().collect()
}

fn arguments(pid: u32) -> impl Iterator<Item = Vec<u8>> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<Vec<u8>> = line.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    words.into_iter()
}

/// A signal to processes that were there just now; those that have ended are left out.
pub fn send(pids: &[u32], signal: i32) {
    for pid in pids {
        if let Ok(pid) = libc::pid_t::try_from(*pid) {
            // SAFETY: two integers.
            let _ = unsafe { libc::kill(pid, signal) };
        }
    }
}

/// Whether a process is there and more than a name that waits for its parent.
pub fn is_there(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_some_and(|rest| !rest.starts_with('Z') && !rest.starts_with('X'))
}
