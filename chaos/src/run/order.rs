//! Work on several threads whose results are given away in the order of the work.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};

/// How many pieces a thread may be ahead of the earliest that is not given away yet: what is done
/// waits in memory for it.
const AHEAD_PER_THREAD: usize = 4;

/// Which piece is next, and how far the others may go.
struct Queue<I> {
    work: I,
    begun: usize,
    given_away: usize,
    ahead_max: usize,
    is_over: bool,
}

/// What somebody who asks for work gets.
#[derive(Debug, PartialEq, Eq)]
enum Next<T> {
    Piece(usize, T),
    /// An earlier piece has to be given away first.
    Wait,
    Over,
}

impl<I: Iterator> Queue<I> {
    fn next(&mut self) -> Next<I::Item> {
        if self.is_over {
            return Next::Over;
        }
        if self.begun - self.given_away >= self.ahead_max {
            return Next::Wait;
        }
        let Some(piece) = self.work.next() else {
            self.is_over = true;
            return Next::Over;
        };
        self.begun += 1;
        Next::Piece(self.begun - 1, piece)
    }
}

struct Shared<I> {
    queue: Mutex<Queue<I>>,
    changed: Condvar,
}

impl<I: Iterator> Shared<I> {
    fn lock(&self) -> MutexGuard<'_, Queue<I>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next piece, when it may begin.
    fn take(&self) -> Option<(usize, I::Item)> {
        let mut queue = self.lock();
        loop {
            match queue.next() {
                Next::Piece(n, piece) => return Some((n, piece)),
                Next::Over => return None,
                Next::Wait => {
                    let woken = self.changed.wait(queue);
                    queue = woken.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Queue<I>)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// Ends the work, however its receiver ends: nobody waits for what does not come.
struct Ending<'a, I: Iterator>(&'a Shared<I>);

impl<I: Iterator> Drop for Ending<'_, I> {
    fn drop(&mut self) {
        self.0.change(|queue| queue.is_over = true);
    }
}

/// Does each piece of `work` on one of so many threads; `on_done` gets the results in the order of
/// the work, and ends it all with [`ControlFlow::Break`].
pub(super) fn in_order<I, R: Send>(
    work: I,
    threads: usize,
    do_it: &(impl Fn(I::Item) -> R + Sync),
    on_done: &mut dyn FnMut(R) -> ControlFlow<()>,
) where
    I: Iterator<Item: Send> + Send,
{
    let shared = Shared {
        queue: Mutex::new(Queue {
            work,
            begun: 0,
            given_away: 0,
            ahead_max: threads * AHEAD_PER_THREAD,
            is_over: false,
        }),
        changed: Condvar::new(),
    };
    let (done, ready) = mpsc::sync_channel(threads);
    #[expect(clippy::disallowed_methods, reason = "each piece is a thread's own")]
    std::thread::scope(|scope| {
        // Dropped before the threads are waited for, and the receiver with it.
        let (ending, ready) = (Ending(&shared), ready);
        for _ in 0..threads {
            let (shared, done) = (&shared, done.clone());
            scope.spawn(move || {
                while let Some((n, piece)) = shared.take() {
                    if done.send((n, do_it(piece))).is_err() {
                        return; // Enough was seen.
                    }
                }
            });
        }
        drop(done);
        let (mut next, mut waiting) = (0, BTreeMap::new());
        for (n, result) in ready {
            waiting.insert(n, result);
            while let Some(result) = waiting.remove(&next) {
                next += 1;
                if on_done(result).is_break() {
                    return;
                }
                ending.0.change(|queue| queue.given_away = next);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_work() {
        let mut seen = Vec::new();
        in_order(0..100u32, 4, &|n| n * 2, &mut |n| {
            seen.push(n);
            ControlFlow::Continue(())
        });
        assert_eq!(seen, (0..100).map(|n| n * 2).collect::<Vec<_>>());
    }

    #[test]
    fn work_without_an_end_ends_when_enough_was_seen() {
        let mut seen = 0;
        in_order(0u64.., 3, &|n| n, &mut |n| {
            seen = n;
            match n {
                10 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        assert_eq!(seen, 10);
    }

    #[test]
    fn nobody_runs_further_ahead_of_a_slow_piece_than_allowed() {
        let mut queue = Queue {
            work: 0..10,
            begun: 0,
            given_away: 0,
            ahead_max: 3,
            is_over: false,
        };
        for n in 0..3 {
            assert_eq!(queue.next(), Next::Piece(n, n));
        }
        assert_eq!(queue.next(), Next::Wait);
        queue.given_away = 1;
        assert_eq!(queue.next(), Next::Piece(3, 3));
        assert_eq!(queue.next(), Next::Wait);
    }

    #[test]
    fn a_panic_of_the_receiver_leaves_no_thread_behind() {
        let ran = std::panic::catch_unwind(|| {
            in_order(0u64.., 2, &|n| n, &mut |_| panic!("had enough"));
        });
        assert!(ran.is_err());
    }
}
