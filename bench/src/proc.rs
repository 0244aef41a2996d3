//! What a process used, from `/proc`.

use std::{fs, time::Duration};

use anyhow::Context;

/// Ticks per second of `/proc/PID/stat`: `USER_HZ`, which is 100 on every Linux that Rust runs on.
const TICKS_PER_S: u64 = 100;

/// Memory of a process, resident, kB.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Now.
    pub now_kb: u64,
    /// At most so far.
    pub peak_kb: u64,
}

/// The memory that a process has resident.
///
/// # Errors
/// If it is gone.
pub fn memory(pid: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        value.with_context(|| format!("{path} has no {name}"))
    };
    Ok(Memory {
        now_kb: field("VmRSS:")?,
        peak_kb: field("VmHWM:")?,
    })
}

/// The processor time that a process has used, its own and the kernel's for it.
///
/// # Errors
/// If it is gone.
pub fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = cpu_ticks(&text).with_context(|| format!("{path} is malformed"))?;
    Ok(Duration::from_millis(ticks * 1_000 / TICKS_PER_S))
}

/// The processor time that everybody on the machine has used, the kernel's own included.
///
/// # Errors
/// If `/proc/stat` cannot be read.
pub fn cpu_of_all() -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let ticks = ticks_of_all(&text).context("/proc/stat is malformed")?;
    Ok(Duration::from_millis(ticks * 1_000 / TICKS_PER_S))
}

/// All of the first line but for idle time, waits for a disk, what a hypervisor took, and guests,
/// which are counted as user time too.
fn ticks_of_all(stat: &str) -> Option<u64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Result<Vec<u64>, _> = line.split_ascii_whitespace().map(str::parse).collect();
    let fields = fields.ok().filter(|fields| fields.len() >= 7)?;
    Some([0, 1, 2, 5, 6].iter().map(|at| fields[*at]).sum())
}

/// Fields 14 and 15, counted from the end of the name, which may contain anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b)) S 1 7 7 0 -1 4194304 100 0 0 0 12 30 0 0 20 0 1 0 5 0 0";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("7 (short) S 1"), None);
    }

    #[test]
    fn idle_and_waiting_processors_are_not_used() {
        let stat = "cpu  1 2 4 1000 2000 8 16 3000 5 0\ncpu0 9 9 9 9 9 9 9 9 9 9\n";
        assert_eq!(ticks_of_all(stat), Some(31));
        assert_eq!(ticks_of_all("cpu0 1 2 3 4 5 6 7"), None);
        assert_eq!(ticks_of_all("cpu  1 2"), None);
    }

    #[test]
    fn this_process_has_memory() {
        let memory = memory(std::process::id()).map(|m| (m.now_kb, m.peak_kb));
        assert!(
            matches!(memory, Ok((now, peak)) if now > 0 && peak >= now),
            "{memory:?}"
        );
    }
}
