//! madsim's time and tasks behind the traits of the drivers.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use holdfast_io::clock::{Clock, Now, Sleep};
use holdfast_io::spawn::{Spawn, Task};
use madsim::time::TimeHandle;

/// What wall clocks show at the start: a moment in 2025.
const EPOCH: Duration = Duration::from_secs(1_750_000_000);

/// madsim's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct LaneClock;

impl Clock for LaneClock {
    type Sleep = LaneSleep;

    fn now(&self) -> Now {
        let time = TimeHandle::current();
        Now {
            mono: time.now_instant(),
            unix: EPOCH + time.elapsed(),
        }
    }

    fn sleep_until(&self, at: Instant) -> LaneSleep {
        LaneSleep {
            at,
            armed: None,
            timer: Box::pin(madsim::time::sleep_until(at)),
        }
    }
}

/// A timer. madsim adds one with every poll and removes none, so it is polled only when there
/// is something new to wait for.
pub struct LaneSleep {
    at: Instant,
    armed: Option<(Instant, Waker)>,
    timer: Pin<Box<madsim::time::Sleep>>,
}

impl Future for LaneSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if TimeHandle::current().now_instant() >= self.at {
            return Poll::Ready(());
        }
        let at = self.at;
        let same = |(armed, waker): &(Instant, Waker)| *armed == at && waker.will_wake(cx.waker());
        if !self.armed.as_ref().is_some_and(same) {
            self.armed = Some((at, cx.waker().clone()));
            self.timer.as_mut().reset(at);
            return self.timer.as_mut().poll(cx);
        }
        Poll::Pending
    }
}

impl Sleep for LaneSleep {
    fn reset(&mut self, at: Instant) {
        self.at = at;
    }
}

/// Starts tasks and counts those that live.
#[derive(Clone, Debug, Default)]
pub struct LaneSpawn(Rc<Cell<usize>>);

impl LaneSpawn {
    /// Tasks whose future has not been dropped.
    #[must_use]
    pub fn live(&self) -> usize {
        self.0.get()
    }
}

struct Alive(Rc<Cell<usize>>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Spawn for LaneSpawn {
    fn spawn(&self, _: &'static str, future: impl Future<Output = ()> + 'static) -> Task {
        self.0.set(self.0.get() + 1);
        let alive = Alive(self.0.clone());
        let task = madsim::task::spawn_local(async move {
            let _alive = alive;
            future.await;
        });
        let abort = task.abort_handle();
        Task::new(move || abort.abort())
    }
}
