//! The process itself.

use std::io;

/// Let no secret of this process reach a disk: no core dump, and no other process of this user
/// may attach to it (prctl(2) PR_SET_DUMPABLE, setrlimit(2) RLIMIT_CORE). To be called before
/// the first secret is read. Children inherit the limit; a program that is run becomes dumpable
/// again, but writes no core.
pub fn forbid_core_dumps() -> io::Result<()> {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `none` is a valid rlimit to read from.
    if unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: this option takes one integer.
    match unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
