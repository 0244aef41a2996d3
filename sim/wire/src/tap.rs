//! TAP devices in network namespaces, and waiting on them.

use crate::Failure;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

/// `TUNSETIFF`, `_IOW('T', 202, int)` of linux/if_tun.h.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;

/// A TAP device. It disappears when this is dropped or the process ends, however it ends.
pub(crate) struct Tap(OwnedFd);

impl Tap {
    /// Creates the device `interface` in `/run/netns/{namespace}` and leaves the calling
    /// thread in that namespace.
    ///
    /// # Errors
    /// When the namespace does not exist, the name is taken or not valid, or the process may
    /// not do this.
    pub(crate) fn create(namespace: &str, interface: &str) -> Result<Self, Failure> {
        let name = interface_name(interface)?;
        enter(namespace)?;
        // A TAP device belongs to the namespace in which its file was opened.
        let file = open(c"/dev/net/tun", libc::O_RDWR | libc::O_NONBLOCK)
            .map_err(|error| Failure(format!("/dev/net/tun: {error}")))?;
        // EXCL: never attach to a device that exists already.
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_TUN_EXCL;
        let request = libc::ifreq {
            ifr_name: name,
            ifr_ifru: libc::__c_anonymous_ifr_ifru {
                // The flags are a bit set in a short: the highest bit is one of them.
                ifru_flags: (flags & 0xffff).cast_unsigned() as u16 as libc::c_short,
            },
        };
        // SAFETY: the file is open and the request is the structure that TUNSETIFF reads.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw const request) };
        if result < 0 {
            let error = io::Error::last_os_error();
            return Err(Failure(format!(
                "cannot create {interface} in {namespace}: {error}"
            )));
        }
        Ok(Self(file))
    }

    /// Reads one frame, or `None` when none is waiting.
    ///
    /// # Errors
    /// When the device is gone.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            // SAFETY: the pointer and the length are those of one live, writable slice.
            let result =
                unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            if let Ok(len) = usize::try_from(result) {
                return Ok(Some(len));
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(None),
                io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            }
        }
    }

    /// Writes one frame; says whether the device took it, which it does not while it is down.
    pub(crate) fn write(&self, frame: &[u8]) -> bool {
        // SAFETY: the pointer and the length are those of one live slice.
        let result = unsafe { libc::write(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len()) };
        usize::try_from(result) == Ok(frame.len())
    }

    /// Waits until a frame can be read, but not longer than `timeout`; for ever without one.
    pub(crate) fn wait(&self, timeout: Option<Duration>) {
        let timeout = timeout.map(|timeout| libc::timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        let timeout = timeout
            .as_ref()
            .map_or(std::ptr::null(), std::ptr::from_ref);
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd, a null or valid timeout, no signal mask. An error is as good
        // as a wake-up: the caller reads and looks at its clock in any case.
        unsafe { libc::ppoll(&raw mut poll, 1, timeout, std::ptr::null()) };
    }
}

/// Makes the kernel wake the calling thread on time: without the default slack of 50 µs, and
/// ahead of ordinary work, which otherwise delays frames by whole time slices on a busy
/// machine. Without the right to do so the wire works, less punctually.
pub(crate) fn wake_precisely() {
    /// Ahead of ordinary work; not real time, which could starve the machine under load.
    const NICE: libc::c_int = -15;
    // SAFETY: both calls take integers only. The slack is in nanoseconds, where 0 would mean
    // the default; process 0 is the calling thread, as priorities on Linux are per thread.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64);
        libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
    }
}

fn interface_name(interface: &str) -> Result<[libc::c_char; libc::IFNAMSIZ], Failure> {
    let is_valid = !interface.is_empty()
        && interface.len() < libc::IFNAMSIZ
        && interface
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte));
    if !is_valid {
        return Err(Failure(format!(
            "{interface:?} is not the name of an interface"
        )));
    }
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(name)
}

fn enter(namespace: &str) -> Result<(), Failure> {
    if namespace.is_empty() || namespace.contains('/') || namespace.starts_with('.') {
        return Err(Failure(format!(
            "{namespace:?} is not the name of a namespace"
        )));
    }
    let file = File::open(format!("/run/netns/{namespace}"))
        .map_err(|error| Failure(format!("network namespace {namespace}: {error}")))?;
    // SAFETY: an open file and a constant.
    if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } < 0 {
        let error = io::Error::last_os_error();
        return Err(Failure(format!(
            "cannot enter network namespace {namespace}: {error}"
        )));
    }
    Ok(())
}

fn open(path: &std::ffi::CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    let path = CString::from(path);
    // SAFETY: a C string and flags that need no mode.
    let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_misread_are_refused() {
        for name in ["", "sixteen-letters-", "a/b", "a b", "wan%d", "é"] {
            assert!(interface_name(name).is_err(), "{name}");
        }
        assert!(interface_name("fifteen-letters").is_ok());
        for name in ["", "../x", "a/b", ".."] {
            let error = enter(name).expect_err(name);
            assert!(error.0.contains("not the name"), "{error}");
        }
    }
}
