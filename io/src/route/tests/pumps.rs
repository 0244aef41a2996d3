//! The pump over pipes in memory.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::super::pump::{Buffers, End, pump};
use super::*;
use crate::clock::{Now, Sleep};
use crate::real::{RealSpawn, block_on};
use crate::spawn::Task;

/// A clock that stands still unless it is moved.
#[derive(Clone)]
struct StillClock(Rc<(Now, Cell<Duration>, RefCell<Vec<Waker>>)>);

impl StillClock {
    fn new() -> StillClock {
        StillClock(Rc::new((
            RealClock.now(),
            Cell::default(),
            RefCell::default(),
        )))
    }

    fn pass(&self, time: Duration) {
        self.0.1.set(self.0.1.get() + time);
        self.0.2.take().into_iter().for_each(Waker::wake);
    }
}

impl Clock for StillClock {
    type Sleep = StillSleep;

    fn now(&self) -> Now {
        self.0.0.plus(self.0.1.get())
    }

    fn sleep_until(&self, at: Instant) -> StillSleep {
        StillSleep(self.clone(), at)
    }
}

struct StillSleep(StillClock, Instant);

impl Future for StillSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.now().mono >= self.1 {
            return Poll::Ready(());
        }
        self.0.0.2.borrow_mut().push(cx.waker().clone());
        Poll::Pending
    }
}

impl Sleep for StillSleep {
    fn reset(&mut self, at: Instant) {
        self.1 = at;
    }
}

/// Capacity of a pipe.
const PIPE: usize = 4096;

/// Two ends, what is between them, and how that ended.
struct Pipe {
    left: tokio::io::DuplexStream,
    right: tokio::io::DuplexStream,
    order: watch::Sender<bool>,
    end: watch::Receiver<Option<End>>,
    clock: StillClock,
    _task: Task,
}

fn pipe() -> Pipe {
    let (left, mut a) = duplex(PIPE);
    let (mut b, right) = duplex(PIPE);
    let (order, ordered) = watch::channel(false);
    let (tell, end) = watch::channel(None);
    let clock = StillClock::new();
    let own = clock.clone();
    let task = RealSpawn.spawn("pump", async move {
        let buffers = Buffers::default();
        let mut stop = Stop::from(ordered);
        let wait = RefCell::new(Box::pin(async move { stop.wait().await }));
        let ordered = |cx: &mut Context<'_>| wait.borrow_mut().as_mut().poll(cx);
        let end = pump(
            (&mut a, &mut b),
            b"early ".to_vec(),
            &buffers,
            &own,
            ordered,
        )
        .await;
        let _ = tell.send(Some(end));
    });
    Pipe {
        left,
        right,
        order,
        end,
        clock,
        _task: task,
    }
}

impl Pipe {
    async fn end(&mut self) -> End {
        let end = soon(self.end.wait_for(Option::is_some)).await.unwrap();
        end.expect("that was waited for")
    }
}

#[test]
fn bytes_arrive_both_ways_and_the_end_of_each_way_by_itself() {
    block_on(async {
        let mut pipe = pipe();
        pipe.left.write_all(b"question").await.unwrap();
        pipe.left.shutdown().await.unwrap();
        let mut heard = String::new();
        pipe.right.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "early question");
        pipe.right.write_all(b"answer").await.unwrap();
        pipe.right.shutdown().await.unwrap();
        let mut heard = String::new();
        pipe.left.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "answer");
        assert_eq!(pipe.end().await, End::Clean);
    })
    .unwrap();
}

#[test]
fn who_does_not_read_stops_who_writes() {
    block_on(async {
        let mut pipe = pipe();
        let mut written = 0;
        let mut pauses = 0;
        // Pending again and again, with the pump polled in between: nothing moves any more.
        while pauses < 50 {
            let write = pipe.left.write(&[7; 1000]);
            let mut write = std::pin::pin!(write);
            let tried = std::future::poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx))).await;
            match tried {
                Poll::Ready(len) => written += len.unwrap(),
                Poll::Pending => pauses += 1,
            }
            tokio::task::yield_now().await;
        }
        // Two pipes, and one buffer between them.
        assert!(
            (PIPE..=2 * PIPE + (64 << 10)).contains(&written),
            "{written}"
        );
        drop(pipe.left);
        let mut heard = Vec::new();
        pipe.right.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard.len(), "early ".len() + written);
    })
    .unwrap();
}

#[test]
fn an_end_that_is_gone_breaks_it() {
    block_on(async {
        let mut pipe = pipe();
        let (_, other) = duplex(1);
        drop(std::mem::replace(&mut pipe.right, other));
        let _ = pipe.left.write_all(&[7; PIPE]).await;
        assert_eq!(pipe.end().await, End::Broken);
    })
    .unwrap();
}

#[test]
fn an_order_ends_it_at_once_even_when_nothing_moves() {
    block_on(async {
        let mut pipe = pipe();
        pipe.left.write_all(&[7; PIPE]).await.unwrap();
        pipe.order.send(true).unwrap();
        assert_eq!(pipe.end().await, End::Ordered);
    })
    .unwrap();
}

#[test]
fn an_end_that_hears_nothing_more_and_says_nothing_for_long_breaks_it() {
    block_on(async {
        let mut pipe = pipe();
        pipe.clock.pass(Duration::from_secs(3600));
        pipe.left.shutdown().await.unwrap();
        let mut early = String::new();
        pipe.right.read_to_string(&mut early).await.unwrap();
        for _ in 0..3 {
            pipe.clock.pass(Duration::from_secs(599));
            pipe.right.write_all(b"still here").await.unwrap();
            let mut heard = [0; 10];
            soon(pipe.left.read_exact(&mut heard)).await.unwrap();
        }
        assert_eq!(*pipe.end.borrow(), None);
        pipe.clock.pass(Duration::from_secs(600));
        assert_eq!(pipe.end().await, End::Broken);
    })
    .unwrap();
}
