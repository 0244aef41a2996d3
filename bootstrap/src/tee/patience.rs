//! Going on trying, for as long as somebody is patient.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use holdfast_core::entropy::{Entropy, Seed};
use holdfast_io::clock::{Clock, timeout};
use zeroize::Zeroizing;

use super::{Info, LocalBoxFuture, Quote, Tee, TeeError, millis};

/// The first pause: an agent that is just starting is there soon.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// The longest pause: somebody who repairs the agent should not have to wait for us.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A TEE that is asked again after a failure that may pass
/// ([`TeeError::is_transient`]), with pauses that double and are drawn between half and all of
/// that, until its patience is over.
pub struct Patient<T, C> {
    tee: T,
    clock: C,
    patience: Duration,
    entropy: RefCell<Entropy>,
}

impl<T: Tee, C: Clock> Patient<T, C> {
    /// Each call goes on for at most `patience`; with zero it is tried once.
    pub fn new(tee: T, clock: C, patience: Duration, seed: &Seed) -> Patient<T, C> {
        let entropy = RefCell::new(seed.fork("tee/patience").rng());
        Patient {
            tee,
            clock,
            patience,
            entropy,
        }
    }

    async fn call<'a, A>(
        &'a self,
        ask: impl Fn() -> LocalBoxFuture<'a, Result<A, TeeError>>,
    ) -> Result<A, TeeError> {
        if self.patience.is_zero() {
            return ask().await;
        }
        let start = self.clock.now().mono;
        let waited = || self.clock.now().mono.saturating_duration_since(start);
        let mut pause = PAUSE_FIRST;
        let mut last = None;
        for attempts in 1.. {
            let left = self.patience.saturating_sub(waited());
            let error = match timeout(&self.clock, left, ask()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) if error.is_transient() => error,
                Ok(Err(error)) => return Err(error),
                // The attempt was cut short by us: what went wrong before says more.
                Err(elapsed) => last.take().unwrap_or(TeeError::Slow {
                    endpoint: "the TEE".to_owned(),
                    call: "a call",
                    limit_ms: elapsed.limit_ms,
                }),
            };
            let rest = self.jittered(pause);
            if waited() + rest >= self.patience {
                return Err(TeeError::GaveUp {
                    attempts,
                    waited_ms: millis(waited()),
                    last: Box::new(error),
                });
            }
            tracing::warn!(%error, attempts, again_in_ms = millis(rest), "the TEE does not answer yet");
            last = Some(error);
            self.clock.sleep(rest).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        unreachable!("the pauses alone exceed any patience")
    }

    /// Between half of `pause` and all of it, so that machines that start together do not ask
    /// together.
    fn jittered(&self, pause: Duration) -> Duration {
        let half = pause / 2;
        half + Duration::from_millis(self.entropy.borrow_mut().below(millis(half) + 1))
    }
}

impl<T: fmt::Debug, C> fmt::Debug for Patient<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patient")
            .field("tee", &self.tee)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}

impl<T: Tee, C: Clock> Tee for Patient<T, C> {
    fn info(&self) -> LocalBoxFuture<'_, Result<Info, TeeError>> {
        Box::pin(self.call(|| self.tee.info()))
    }

    fn key<'a>(
        &'a self,
        path: &'a str,
        purpose: &'a str,
    ) -> LocalBoxFuture<'a, Result<Zeroizing<[u8; 32]>, TeeError>> {
        Box::pin(self.call(move || self.tee.key(path, purpose)))
    }

    fn quote<'a>(
        &'a self,
        report_data: &'a [u8; 64],
    ) -> LocalBoxFuture<'a, Result<Quote, TeeError>> {
        Box::pin(self.call(move || self.tee.quote(report_data)))
    }
}
