//! The clocks of a node, which may differ from the world's.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use holdfast_core::time::Now;
use holdfast_plan::ClockSpec;

/// What every world's wall clock shows when it begins: 2023-11-14.
const UNIX_START: Duration = Duration::from_secs(1_700_000_000);
const MILLION: u128 = 1_000_000;

/// The instant that stands for the start of every world.
///
/// The platform gives no other way to make one than to read its clock: once per process and on
/// a thread of its own, so that simulation threads read none. Its value never shows.
#[allow(clippy::disallowed_methods, reason = "the one origin of virtual time")]
#[must_use]
pub fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(|| {
        let read = std::thread::spawn(Instant::now);
        read.join().expect("reading a clock does not panic")
    })
}

/// The clocks of one node. *Local* time is the node's own, from the world's start.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    /// A local million takes this much less or more of the world's.
    rate: u128,
    offset_ms: i64,
}

impl Clock {
    /// The clocks of a specification.
    #[must_use]
    pub fn new(spec: ClockSpec) -> Clock {
        // A clock that stands still or runs backwards has no deadlines.
        let rate = (i128::from(spec.drift_ppm) + MILLION as i128).max(1) as u128;
        Clock {
            origin: origin(),
            rate,
            offset_ms: spec.offset_ms,
        }
    }

    /// The wall clock jumps.
    pub const fn step(&mut self, by_ms: i64) {
        self.offset_ms = self.offset_ms.saturating_add(by_ms);
    }

    /// Local time at a moment of the world.
    #[must_use]
    pub fn local(&self, world: Duration) -> Duration {
        if self.rate == MILLION {
            return world;
        }
        nanos(world.as_nanos() * self.rate / MILLION)
    }

    /// The first moment of the world at which local time has come to `local`.
    #[must_use]
    pub fn world(&self, local: Duration) -> Duration {
        if self.rate == MILLION {
            return local;
        }
        nanos((local.as_nanos() * MILLION).div_ceil(self.rate))
    }

    /// Local time as machines are told it.
    #[must_use]
    pub fn now(&self, world: Duration) -> Now {
        let local = self.local(world);
        let offset = Duration::from_millis(self.offset_ms.unsigned_abs());
        let unix = UNIX_START + local;
        Now {
            mono: self.origin + local,
            unix: match self.offset_ms < 0 {
                true => unix.saturating_sub(offset),
                false => unix + offset,
            },
        }
    }

    /// Local time of a machine's deadline.
    #[must_use]
    pub fn local_of(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.origin)
    }
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(offset_ms: i64, drift_ppm: i32) -> Clock {
        Clock::new(ClockSpec {
            offset_ms,
            drift_ppm,
        })
    }

    #[test]
    fn a_deadline_has_come_at_its_moment_and_not_a_nanosecond_earlier() {
        for drift_ppm in [-500_000, -300, -1, 0, 1, 300, 250_000] {
            let clock = clock(0, drift_ppm);
            for local in [1u64, 999, 1_000_000_007, 86_400_000_000_001] {
                let local = Duration::from_nanos(local);
                let world = clock.world(local);
                assert!(clock.local(world) >= local, "{drift_ppm} {local:?}");
                let before = world - Duration::from_nanos(1);
                assert!(clock.local(before) < local, "{drift_ppm} {local:?}");
            }
        }
    }

    #[test]
    fn a_fast_clock_gains_what_its_rate_says() {
        let hour = Duration::from_secs(3600);
        assert_eq!(clock(0, 100).local(hour) - hour, Duration::from_millis(360));
        assert_eq!(
            hour - clock(0, -100).local(hour),
            Duration::from_millis(360)
        );
    }

    #[test]
    fn a_step_moves_the_wall_clock_only() {
        let mut stepped = clock(-5_000, 0);
        let before = stepped.now(Duration::from_secs(9));
        stepped.step(-3_600_000);
        let after = stepped.now(Duration::from_secs(9));
        assert_eq!(before.mono, after.mono);
        assert_eq!(before.unix - after.unix, Duration::from_secs(3600));
        assert_eq!(before.unix, UNIX_START + Duration::from_secs(4));
    }
}
