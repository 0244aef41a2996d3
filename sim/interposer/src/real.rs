//! The implementations behind the symbols that this crate defines.

use libc::{c_int, c_long, c_void, clockid_t, timespec};
use std::sync::atomic::{AtomicPtr, Ordering};

type ClockGettime = unsafe extern "C" fn(clockid_t, *mut timespec) -> c_int;

/// libc's own `clock_gettime`, null until first used. It answers from the vDSO, which is
/// what keeps the rest of the process as fast as without this crate.
static CLOCK_GETTIME: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// The next definition of `clock_gettime` after ours; the system call where there is none.
///
/// # Safety
/// As the function of libc.
pub(crate) unsafe fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    let mut next = CLOCK_GETTIME.load(Ordering::Relaxed);
    if next.is_null() {
        // SAFETY: the name is a C string, and looking it up has no other precondition.
        next = unsafe { libc::dlsym(libc::RTLD_NEXT, c"clock_gettime".as_ptr()) };
        CLOCK_GETTIME.store(next, Ordering::Relaxed);
    }
    if next.is_null() {
        let args = [c_long::from(clock), time as c_long, 0, 0, 0, 0];
        // SAFETY: these are the arguments of this system call; the pointer is the caller's.
        let result = unsafe { syscall(libc::SYS_clock_gettime, args) };
        return if result < 0 { -1 } else { 0 };
    }
    // SAFETY: libc's symbol of this name has this type.
    let next = unsafe { std::mem::transmute::<*mut c_void, ClockGettime>(next) };
    // SAFETY: the arguments are the caller's.
    unsafe { next(clock, time) }
}

/// A system call as libc's `syscall` makes it: -1 and `errno` on failure.
///
/// # Safety
/// That of the system call.
pub(crate) unsafe fn syscall(number: c_long, args: [c_long; 6]) -> c_long {
    /// The kernel returns errors as the negated numbers of this range.
    const ERRNO_MAX: c_long = 4095;
    // SAFETY: the caller's contract.
    let result = unsafe { raw(number, args) };
    if (-ERRNO_MAX..0).contains(&result) {
        // SAFETY: libc returns a valid pointer to the calling thread's own `errno`.
        unsafe { *libc::__errno_location() = c_int::try_from(-result).unwrap_or(libc::EINVAL) };
        return -1;
    }
    result
}

#[cfg(target_arch = "x86_64")]
unsafe fn raw(number: c_long, args: [c_long; 6]) -> c_long {
    let result;
    // SAFETY: the kernel's calling convention on x86_64: it changes rax, rcx and r11 only,
    // and memory as the caller of this function answers for.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn raw(number: c_long, args: [c_long; 6]) -> c_long {
    let result;
    // SAFETY: the kernel's calling convention on aarch64: it changes x0 only, and memory as
    // the caller of this function answers for.
    unsafe {
        std::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") args[0] => result,
            in("x1") args[1],
            in("x2") args[2],
            in("x3") args[3],
            in("x4") args[4],
            in("x5") args[5],
            options(nostack),
        );
    }
    result
}
