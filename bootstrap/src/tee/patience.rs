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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    #![allow(
        clippy::disallowed_methods,
        reason = "virtual time begins at some instant, and only the system makes one"
    )]
    use super::*;
    use holdfast_io::clock::{Now, Sleep};
    use holdfast_io::real::block_on;
    use std::cell::Cell;
    use std::collections::VecDeque;
    use std::pin::Pin;
    use std::rc::Rc;
    use std::task::{Context, Poll};
    use std::time::Instant;

    /// Time that passes only by waiting for it, and then at once.
    #[derive(Clone)]
    struct Virtual(Rc<Cell<Instant>>);

    struct Waiting(Virtual, Instant);

    impl Clock for Virtual {
        type Sleep = Waiting;

        fn now(&self) -> Now {
            Now {
                mono: self.0.get(),
                unix: Duration::ZERO,
            }
        }

        fn sleep_until(&self, at: Instant) -> Waiting {
            Waiting(self.clone(), at)
        }
    }

    impl Future for Waiting {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            let clock = &self.0.0;
            clock.set(clock.get().max(self.1));
            Poll::Ready(())
        }
    }

    impl Sleep for Waiting {
        fn reset(&mut self, at: Instant) {
            self.1 = at;
        }
    }

    /// Fails as told, then answers; says when it was asked.
    struct Scripted {
        clock: Virtual,
        start: Instant,
        failures: RefCell<VecDeque<TeeError>>,
        asked_at: RefCell<Vec<Duration>>,
        hangs: bool,
    }

    impl Tee for Rc<Scripted> {
        fn info(&self) -> LocalBoxFuture<'_, Result<Info, TeeError>> {
            let at = self.clock.0.get() - self.start;
            self.asked_at.borrow_mut().push(at);
            let answer = match self.failures.borrow_mut().pop_front() {
                Some(error) => Err(error),
                None => Ok(Info {
                    instance_id: None,
                    app_id: "a".to_owned(),
                    compose_hash: None,
                }),
            };
            let hangs = self.hangs;
            Box::pin(async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                answer
            })
        }

        fn key<'a>(
            &'a self,
            _: &'a str,
            _: &'a str,
        ) -> LocalBoxFuture<'a, Result<Zeroizing<[u8; 32]>, TeeError>> {
            Box::pin(async { Ok(Zeroizing::new([1; 32])) })
        }

        fn quote<'a>(&'a self, _: &'a [u8; 64]) -> LocalBoxFuture<'a, Result<Quote, TeeError>> {
            Box::pin(async { Err(TeeError::Unsupported { what: "a quote" }) })
        }
    }

    fn missing() -> TeeError {
        TeeError::Missing {
            endpoint: "unix:/x".to_owned(),
        }
    }

    fn scripted(failures: impl IntoIterator<Item = TeeError>, hangs: bool) -> Rc<Scripted> {
        let start = Instant::now();
        Rc::new(Scripted {
            clock: Virtual(Rc::new(Cell::new(start))),
            start,
            failures: RefCell::new(failures.into_iter().collect()),
            asked_at: RefCell::default(),
            hangs,
        })
    }

    fn ask(tee: &Rc<Scripted>, patience_s: u64, seed: u8) -> Result<Info, TeeError> {
        let patience = Duration::from_secs(patience_s);
        let seed = Seed::new([seed; 32]);
        let patient = Patient::new(tee.clone(), tee.clock.clone(), patience, &seed);
        block_on(patient.info()).unwrap()
    }

    #[test]
    fn a_failure_that_passes_is_tried_again_after_pauses_that_double() {
        let tee = scripted((0..9).map(|_| missing()), false);
        assert_eq!(ask(&tee, 60, 1).unwrap().app_id, "a");
        let asked_at = tee.asked_at.borrow();
        assert_eq!(asked_at.len(), 10);
        let pauses = asked_at.windows(2).map(|pair| pair[1] - pair[0]);
        let mut full = PAUSE_FIRST;
        for pause in pauses {
            assert!((full / 2..=full).contains(&pause), "{pause:?} of {full:?}");
            full = (full * 2).min(PAUSE_MAX);
        }
    }

    #[test]
    fn machines_with_other_seeds_pause_at_other_times() {
        let times = |seed| {
            let tee = scripted((0..9).map(|_| missing()), false);
            ask(&tee, 60, seed).unwrap();
            tee.asked_at.take()
        };
        assert_eq!(times(1), times(1));
        assert_ne!(times(1), times(2));
    }

    #[test]
    fn it_gives_up_within_its_patience_and_says_how_often_and_why() {
        let tee = scripted((0..1000).map(|_| missing()), false);
        let error = ask(&tee, 60, 1).unwrap_err();
        let waited = tee.clock.0.get() - tee.start;
        assert!(waited <= Duration::from_secs(60), "{waited:?}");
        assert!(waited >= Duration::from_secs(50), "{waited:?}");
        let attempts = tee.asked_at.borrow().len();
        let text = error.to_string();
        assert!(
            text.contains(&format!("gave up after {attempts} attempts")),
            "{text}"
        );
        assert!(text.contains("unix:/x: there is no such socket"), "{text}");
        assert!(!error.is_transient());
    }

    #[test]
    fn a_call_that_hangs_is_over_with_the_patience() {
        let tee = scripted([], true);
        assert!(matches!(
            ask(&tee, 7, 1),
            Err(TeeError::GaveUp { attempts: 1, .. })
        ));
        assert_eq!(tee.clock.0.get() - tee.start, Duration::from_secs(7));
    }

    #[test]
    fn a_failure_that_stays_is_returned_at_once() {
        let shape = TeeError::Shape {
            endpoint: String::new(),
            call: "/Info",
            found: String::new(),
            expected: "",
        };
        let tee = scripted([shape], false);
        assert!(matches!(ask(&tee, 60, 1), Err(TeeError::Shape { .. })));
        assert_eq!(tee.asked_at.borrow().len(), 1);
    }

    #[test]
    fn without_patience_it_is_tried_once() {
        let tee = scripted([missing()], false);
        assert!(matches!(ask(&tee, 0, 1), Err(TeeError::Missing { .. })));
        assert_eq!(tee.asked_at.borrow().len(), 1);
    }
}
