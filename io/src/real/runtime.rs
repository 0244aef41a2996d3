//! Tasks, time and entropy of the operating system.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use holdfast_core::entropy::Seed;

use crate::clock::{Clock, Now, Sleep};
use crate::spawn::{Spawn, Task};

/// Run a future to its end on this thread, together with the local tasks that it spawns.
pub fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let output = tokio::task::LocalSet::new().block_on(&runtime, future);
    // A lookup that hangs in the system's resolver cannot be interrupted, only left behind.
    runtime.shutdown_background();
    Ok(output)
}

/// 32 bytes of entropy from the operating system.
pub fn os_seed() -> io::Result<Seed> {
    let mut bytes = [0u8; 32];
    // SAFETY: the pointer and the length describe `bytes`.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    match usize::try_from(got) {
        // Up to 256 bytes come as a whole (getrandom(2)).
        Ok(len) if len == bytes.len() => Ok(Seed::new(bytes)),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Allow as many open files as the hard limit does: each forwarded connection is one.
/// Returns the limit in force.
pub fn raise_file_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid rlimit to write to.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is a valid rlimit to read from.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

/// The clocks of the operating system, through tokio.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealClock;

impl Clock for RealClock {
    type Sleep = RealSleep;

    fn now(&self) -> Now {
        Now {
            mono: tokio::time::Instant::now().into_std(),
            // Before 1970 only expiry is affected, and nothing is expired then.
            unix: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or(Duration::ZERO),
        }
    }

    fn sleep_until(&self, at: Instant) -> RealSleep {
        RealSleep(Box::pin(tokio::time::sleep_until(at.into())))
    }
}

/// A tokio timer.
#[derive(Debug)]
pub struct RealSleep(Pin<Box<tokio::time::Sleep>>);

impl Future for RealSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl Sleep for RealSleep {
    fn reset(&mut self, at: Instant) {
        let at = at.into();
        if self.0.deadline() != at {
            self.0.as_mut().reset(at);
        }
    }
}

/// Local tasks of the tokio `LocalSet` that the caller runs in.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealSpawn;

impl Spawn for RealSpawn {
    fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + 'static) -> Task {
        let mut future = Box::pin(future);
        let task = tokio::task::spawn_local(poll_fn(move |cx| {
            let _reporter = PanicReporter { name };
            future.as_mut().poll(cx)
        }));
        let abort = task.abort_handle();
        Task::new(move || abort.abort())
    }
}

/// Names the task when a panic unwinds through its poll: tokio would keep that to itself.
struct PanicReporter {
    name: &'static str,
}

impl Drop for PanicReporter {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.name, "a task panicked");
        }
    }
}
