//! What happens when: moments in their order, and one deadline per process.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Moments, earliest first; ties in the order in which they were asked for.
///
/// A process has one deadline, which moves often and mostly to later. So a deadline that moved
/// to later leaves its old moment in the heap, where it wakes the process for nothing once; one
/// that moved to earlier adds a moment, and the old one is skipped.
#[derive(Debug)]
pub struct Timers<T> {
    heap: BinaryHeap<Reverse<(Duration, u64, What<T>)>>,
    sequence: u64,
    armed: Vec<Option<Duration>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What<T> {
    Process(usize),
    Once(T),
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due<T> {
    /// A process asked to be woken, maybe earlier than its deadline is now.
    Process(usize),
    /// What was put in for this moment.
    Once(T),
}

impl<T: Copy + Ord> Timers<T> {
    /// Nothing for that many processes.
    #[must_use]
    pub fn new(processes: usize) -> Timers<T> {
        Timers {
            heap: BinaryHeap::new(),
            sequence: 0,
            armed: vec![None; processes],
        }
    }

    /// Something happens once.
    pub fn once(&mut self, at: Duration, what: T) {
        self.push(at, What::Once(what));
    }

    /// A process has this deadline now, or none.
    #[inline]
    pub fn arm(&mut self, process: usize, at: Option<Duration>) {
        if let Some(at) = at
            && self.armed[process].is_none_or(|armed| at < armed)
        {
            self.armed[process] = Some(at);
            self.push(at, What::Process(process));
        }
    }

    /// The next moment. A process may be woken then that has nothing to do.
    #[inline]
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    /// Take what is next; `None` for a moment that was called off.
    pub fn pop(&mut self) -> Option<Due<T>> {
        let Reverse((at, _, what)) = self.heap.pop()?;
        match what {
            What::Once(what) => Some(Due::Once(what)),
            What::Process(process) if self.armed[process] == Some(at) => {
                self.armed[process] = None;
                Some(Due::Process(process))
            }
            What::Process(_) => None,
        }
    }

    fn push(&mut self, at: Duration, what: What<T>) {
        self.sequence += 1;
        self.heap.push(Reverse((at, self.sequence, what)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn drain(timers: &mut Timers<u8>) -> Vec<(Duration, Due<u8>)> {
        let mut seen = Vec::new();
        while let Some(at) = timers.next() {
            seen.extend(timers.pop().map(|due| (at, due)));
        }
        seen
    }

    #[test]
    fn ties_happen_in_the_order_in_which_they_were_asked_for() {
        let mut timers = Timers::new(1);
        timers.once(ms(2), 9);
        timers.arm(0, Some(ms(2)));
        timers.once(ms(2), 1);
        timers.once(ms(1), 5);
        let expected = vec![
            (ms(1), Due::Once(5)),
            (ms(2), Due::Once(9)),
            (ms(2), Due::Process(0)),
            (ms(2), Due::Once(1)),
        ];
        assert_eq!(drain(&mut timers), expected);
    }

    #[test]
    fn a_deadline_that_moved_to_earlier_wakes_its_process_once() {
        let mut timers = Timers::new(1);
        timers.arm(0, Some(ms(9)));
        timers.arm(0, Some(ms(3)));
        assert_eq!(drain(&mut timers), vec![(ms(3), Due::Process(0))]);
    }

    #[test]
    fn a_deadline_that_moved_to_later_wakes_its_process_at_the_old_moment_to_ask_again() {
        let mut timers = Timers::new(1);
        timers.arm(0, Some(ms(3)));
        timers.arm(0, Some(ms(9)));
        assert_eq!(drain(&mut timers), vec![(ms(3), Due::Process(0))]);
    }
}
