//! A token bucket: so many at once, then one more at a time.

use std::time::{Duration, Instant};

/// How often something may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How often at once.
    pub burst: u32,
    /// Once more after each of these, which is not zero.
    pub every: Duration,
}

/// What is left of a [`Rate`].
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: Rate,
    tokens: u32,
    /// Up to when tokens have been added: the fraction of one that is earned is not lost.
    filled_at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate, now: Instant) -> Bucket {
        Bucket {
            rate,
            tokens: rate.burst,
            filled_at: now,
        }
    }

    /// Whether it may be done now; it counts as done then.
    pub fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let allowed = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        allowed
    }

    /// Whether it has been left alone for long enough to be as good as new.
    pub fn is_full(&self, now: Instant) -> bool {
        let mut filled = *self;
        filled.fill(now);
        filled.tokens == self.rate.burst
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled_at);
        let earned = passed.as_nanos() / self.rate.every.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        let tokens = self.tokens.saturating_add(earned);
        if tokens >= self.rate.burst {
            (self.tokens, self.filled_at) = (self.rate.burst, now);
        } else {
            self.tokens = tokens;
            self.filled_at += self.rate.every * earned;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        burst: 10,
        every: Duration::from_millis(10),
    };

    #[allow(clippy::disallowed_methods, reason = "the one origin of virtual time")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_burst_is_allowed_and_then_the_rate_whatever_the_pace_of_asking() {
        for pace_ms in [1, 3, 7, 15] {
            let now = start();
            let mut bucket = Bucket::new(RATE, now);
            assert_eq!((0..50).filter(|_| bucket.take(now)).count(), 10);
            let asked = (1..=3000 / pace_ms).map(|n| now + Duration::from_millis(n * pace_ms));
            let allowed = asked.filter(|at| bucket.take(*at)).count() as u64;
            let expected = (3000 / pace_ms).min(300);
            assert!(
                allowed.abs_diff(expected) <= 1,
                "every {pace_ms} ms: {allowed}"
            );
        }
    }

    #[test]
    fn a_bucket_left_alone_is_full_again() {
        let now = start();
        let mut bucket = Bucket::new(RATE, now);
        bucket.take(now);
        assert!(!bucket.is_full(now + Duration::from_millis(9)));
        assert!(bucket.is_full(now + Duration::from_millis(10)));
    }
}
