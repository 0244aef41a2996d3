//! Time as a value that a driver is given.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

pub use holdfast_core::time::Now;

/// The two clocks of a node, and a way to wait.
pub trait Clock: Clone + 'static {
    /// What [`Clock::sleep_until`] returns.
    type Sleep: Sleep;

    /// Both clocks, read at one moment.
    fn now(&self) -> Now;

    /// A future that is ready at `at`, or at once when that has passed.
    fn sleep_until(&self, at: Instant) -> Self::Sleep;

    /// A future that is ready after `for_`.
    fn sleep(&self, for_: Duration) -> Self::Sleep {
        self.sleep_until(self.now().mono + for_)
    }
}

/// A timer that can be moved without making a new one: a driver moves its own every turn.
pub trait Sleep: Future<Output = ()> + Unpin + 'static {
    /// Be ready at `at` instead. Poll again to be woken then.
    fn reset(&mut self, at: Instant);
}

/// A time limit that ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {limit_ms} ms")]
pub struct Elapsed {
    /// The limit.
    pub limit_ms: u64,
}

impl From<Elapsed> for std::io::Error {
    fn from(elapsed: Elapsed) -> std::io::Error {
        std::io::Error::new(std::io::ErrorKind::TimedOut, elapsed)
    }
}

/// Wait for `future`, but no longer than `limit`; it is dropped then.
pub async fn timeout<C: Clock, F: Future>(
    clock: &C,
    limit: Duration,
    future: F,
) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut sleep = clock.sleep(limit);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut sleep).poll(cx).map(|()| {
            Err(Elapsed {
                limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
            })
        })
    })
    .await
}
