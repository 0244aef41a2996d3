//! The libc symbols that this crate defines. The linker prefers a definition in the binary
//! to one in a shared library, so the whole process ends up here.

use crate::{real, state};
use libc::{c_int, c_long, c_uint, c_void, clockid_t, size_t, ssize_t, time_t, timespec, timeval};

/// Longest request that `getentropy` serves, by its manual page.
const GETENTROPY_BYTES_MAX: size_t = 256;

/// Serves a simulation thread; says whether it did.
///
/// # Safety
/// `buffer` is writable for `len` bytes.
unsafe fn serve(call: &str, buffer: *mut c_void, len: size_t) -> bool {
    if len == 0 || buffer.is_null() {
        return false; // a probe, or an error for the real one to report
    }
    // SAFETY: the caller's contract. Zeroing first makes the bytes initialised.
    let buffer = unsafe {
        std::ptr::write_bytes(buffer.cast::<u8>(), 0, len);
        std::slice::from_raw_parts_mut(buffer.cast::<u8>(), len)
    };
    state::serve_entropy(call, buffer)
}

/// `getrandom(2)`.
///
/// # Safety
/// As the function of libc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, len: size_t, flags: c_uint) -> ssize_t {
    // SAFETY: the contract of the symbol.
    if unsafe { serve("getrandom", buffer, len) } {
        return len.cast_signed();
    }
    let args = [
        buffer as c_long,
        len as c_long,
        c_long::from(flags),
        0,
        0,
        0,
    ];
    // SAFETY: the contract of the symbol is that of the system call.
    unsafe { real::syscall(libc::SYS_getrandom, args) as ssize_t }
}

/// `getentropy(3)`.
///
/// # Safety
/// As the function of libc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getentropy(buffer: *mut c_void, len: size_t) -> c_int {
    if len > GETENTROPY_BYTES_MAX {
        // SAFETY: libc returns a valid pointer to the calling thread's own `errno`.
        unsafe { *libc::__errno_location() = libc::EIO };
        return -1;
    }
    // SAFETY: the contract of the symbol.
    if unsafe { serve("getentropy", buffer, len) } {
        return 0;
    }
    let args = [buffer as c_long, len as c_long, 0, 0, 0, 0];
    // SAFETY: the contract of the symbol. So short a request is never cut (getrandom(2)).
    let got = unsafe { real::syscall(libc::SYS_getrandom, args) };
    if got == len as c_long { 0 } else { -1 }
}

/// `syscall(2)`: `SYS_getrandom` and `SYS_clock_gettime` are looked at, all others pass.
///
/// libc's is variadic. A caller of it passes integers exactly as to these parameters on
/// both supported architectures; those that it does not pass are read as garbage and reach
/// a system call that does not look at them.
///
/// # Safety
/// That of the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    if number == libc::SYS_getrandom {
        // SAFETY: the arguments of this system call are those of the function.
        return unsafe { getrandom(a as *mut c_void, b as size_t, c as c_uint) as c_long };
    }
    if number == libc::SYS_clock_gettime {
        state::note_clock_read("syscall(SYS_clock_gettime)");
    }
    // SAFETY: the caller's contract.
    unsafe { real::syscall(number, [a, b, c, d, e, f]) }
}

/// `clock_gettime(2)`.
///
/// # Safety
/// As the function of libc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    state::note_clock_read("clock_gettime");
    // SAFETY: the contract of the symbol.
    unsafe { real::clock_gettime(clock, time) }
}

/// `gettimeofday(2)`. The time zone, obsolete, reads as zero.
///
/// # Safety
/// As the function of libc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(time: *mut timeval, zone: *mut c_void) -> c_int {
    /// `struct timezone`: two ints.
    const ZONE_BYTES: usize = 8;
    state::note_clock_read("gettimeofday");
    let now = wall_clock();
    // SAFETY: the contract of the symbol: each pointer is null or valid.
    unsafe {
        if !time.is_null() {
            *time = timeval {
                tv_sec: now.tv_sec,
                tv_usec: now.tv_nsec / 1000,
            };
        }
        if !zone.is_null() {
            std::ptr::write_bytes(zone.cast::<u8>(), 0, ZONE_BYTES);
        }
    }
    0
}

/// `time(2)`.
///
/// # Safety
/// As the function of libc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn time(out: *mut time_t) -> time_t {
    state::note_clock_read("time");
    let seconds = wall_clock().tv_sec;
    if !out.is_null() {
        // SAFETY: the contract of the symbol: the pointer is null or valid.
        unsafe { *out = seconds };
    }
    seconds
}

fn wall_clock() -> timespec {
    let mut now = timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is that of a local.
    unsafe { real::clock_gettime(libc::CLOCK_REALTIME, &raw mut now) };
    now
}
