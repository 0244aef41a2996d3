//! The clocks of a simulated host: tokio's paused clock, shifted, scaled and stepped.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use holdfast_io::clock::{Clock, Now, Sleep};
use holdfast_plan::ClockSpec;

/// What the wall clocks of a world show at its start: a moment in 2025.
pub const EPOCH: Duration = Duration::from_secs(1_750_000_000);
/// Timers beyond this never fire in a run; it keeps arithmetic on time from overflowing.
const SLEEP_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
const PPM: i64 = 1_000_000;

/// What monotonic clocks show at the start of a world. It says nothing, and is the same for
/// all worlds of a process.
#[allow(
    clippy::disallowed_methods,
    reason = "the one origin of virtual time, read on a thread that simulates nothing"
)]
fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(|| {
        let reader = std::thread::spawn(Instant::now);
        reader.join().expect("reading a clock does not panic")
    })
}

/// The clocks of one host. They go on when its processes end.
#[derive(Debug)]
pub struct HostClock {
    drift_ppm: i64,
    /// How far the wall clock is ahead, in milliseconds.
    ahead_ms: Cell<i64>,
    /// The runtime's time and the world's at one moment.
    base: Cell<Option<(tokio::time::Instant, Duration)>>,
    /// The world's time when it was last asked for: destructors run outside of the runtime.
    last: Cell<Duration>,
}

impl HostClock {
    /// Clocks that differ from the world's in that way.
    pub fn new(spec: ClockSpec) -> Rc<HostClock> {
        Rc::new(HostClock {
            drift_ppm: spec.drift_ppm.into(),
            ahead_ms: Cell::new(spec.offset_ms),
            base: Cell::new(None),
            last: Cell::new(Duration::ZERO),
        })
    }

    /// A new runtime of this host begins at the world's time `at`. Call it inside of that.
    #[allow(clippy::disallowed_methods, reason = "tokio's paused clock")]
    pub fn begin(&self, at: Duration) {
        self.base.set(Some((tokio::time::Instant::now(), at)));
        self.last.set(at);
    }

    /// The wall clock jumps.
    pub fn step(&self, by_ms: i64) {
        self.ahead_ms.set(self.ahead_ms.get().saturating_add(by_ms));
    }

    /// The world's time, to the runtime's precision.
    #[allow(clippy::disallowed_methods, reason = "tokio's paused clock")]
    pub fn world(&self) -> Duration {
        // Outside of a runtime tokio's clock is the real one.
        if let Some((then, at)) = self.base.get()
            && tokio::runtime::Handle::try_current().is_ok()
        {
            self.last.set(at + (tokio::time::Instant::now() - then));
        }
        self.last.get()
    }

    /// What this host's monotonic clock has counted when the world's time is `world`.
    fn local(&self, world: Duration) -> Duration {
        scale(world, PPM + self.drift_ppm, PPM)
    }

    /// How long it takes by the world's time until this host's clocks have counted so much.
    pub fn true_length(&self, local: Duration) -> Duration {
        scale(local, PPM, PPM + self.drift_ppm)
    }

    fn deadline(&self, at: Instant) -> tokio::time::Instant {
        let local = at.saturating_duration_since(origin()).min(SLEEP_MAX);
        let world = scale(local, PPM, PPM + self.drift_ppm);
        let (then, base) = self.base.get().expect("a runtime has begun");
        then + world.saturating_sub(base)
    }
}

/// Rounded up, so that a timer never fires before its time.
fn scale(time: Duration, by: i64, of: i64) -> Duration {
    if by == of {
        return time;
    }
    let by = u128::from(by.max(1).unsigned_abs());
    let of = u128::from(of.max(1).unsigned_abs());
    let nanos = (time.as_nanos() * by).div_ceil(of);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// [`HostClock`] as drivers see it.
#[derive(Clone, Debug)]
pub struct SimClock(pub Rc<HostClock>);

impl Clock for SimClock {
    type Sleep = SimSleep;

    fn now(&self) -> Now {
        let local = self.0.local(self.0.world());
        let ahead = Duration::from_millis(self.0.ahead_ms.get().unsigned_abs());
        let unix = EPOCH + local;
        Now {
            mono: origin() + local,
            unix: match self.0.ahead_ms.get() < 0 {
                true => unix.saturating_sub(ahead),
                false => unix + ahead,
            },
        }
    }

    #[allow(clippy::disallowed_methods, reason = "tokio's paused clock")]
    fn sleep_until(&self, at: Instant) -> SimSleep {
        SimSleep {
            timer: Box::pin(tokio::time::sleep_until(self.0.deadline(at))),
            clock: self.0.clone(),
        }
    }
}

/// A timer of a simulated host. Its resolution is a millisecond.
#[derive(Debug)]
pub struct SimSleep {
    timer: Pin<Box<tokio::time::Sleep>>,
    clock: Rc<HostClock>,
}

impl Future for SimSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.as_mut().poll(cx)
    }
}

impl Sleep for SimSleep {
    fn reset(&mut self, at: Instant) {
        let at = self.clock.deadline(at);
        if self.timer.deadline() != at {
            self.timer.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_there_and_back_never_comes_out_early() {
        for ppm in [-500, -1, 0, 1, 200, 1_000] {
            for nanos in [0, 1, 999_999, 1_000_000, 123_456_789_012] {
                let world = Duration::from_nanos(nanos);
                let local = scale(world, PPM + ppm, PPM);
                let back = scale(local, PPM, PPM + ppm);
                assert!(back >= world, "{ppm} {nanos}");
                assert!(back <= world + Duration::from_nanos(2), "{ppm} {nanos}");
            }
        }
    }
}
