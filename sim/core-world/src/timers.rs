//! What happens when: one deadline per process, and moments in their order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// No deadline.
const NEVER: u64 = u64::MAX;

/// The deadlines of processes, and what happens once.
///
/// A process's deadline moves with nearly every packet, so it is kept in a tournament: a
/// complete binary tree whose leaves are the deadlines and whose inner nodes are the earlier of
/// two. Moving one costs the depth of the tree, and nobody is woken for nothing.
#[derive(Debug)]
pub struct Timers<T> {
    once: BinaryHeap<Reverse<(u64, u64, T)>>,
    sequence: u64,
    /// The root is at 1, the children of `n` at `2n` and `2n + 1`, the leaves in the second half.
    tree: Vec<u64>,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due<T> {
    /// A process's deadline, which it has no more.
    Process(usize),
    /// What was put in for this moment.
    Once(T),
}

fn nanos(at: Duration) -> u64 {
    // 584 years are enough for every world.
    u64::try_from(at.as_nanos()).unwrap_or(NEVER - 1)
}

impl<T: Copy + Ord> Timers<T> {
    /// Nothing for that many processes.
    #[must_use]
    pub fn new(processes: usize) -> Timers<T> {
        Timers {
            once: BinaryHeap::new(),
            sequence: 0,
            tree: vec![NEVER; 2 * processes.next_power_of_two().max(1)],
        }
    }

    /// Something happens once.
    pub fn once(&mut self, at: Duration, what: T) {
        self.sequence += 1;
        self.once.push(Reverse((nanos(at), self.sequence, what)));
    }

    /// A process has this deadline now, or none.
    #[inline]
    pub fn arm(&mut self, process: usize, at: Option<Duration>) {
        self.set(process, at.map_or(NEVER, nanos));
    }

    #[inline]
    fn set(&mut self, process: usize, at: u64) {
        let mut node = self.tree.len() / 2 + process;
        if self.tree[node] == at {
            return;
        }
        self.tree[node] = at;
        while node > 1 {
            node /= 2;
            let earlier = self.tree[2 * node].min(self.tree[2 * node + 1]);
            if self.tree[node] == earlier {
                return;
            }
            self.tree[node] = earlier;
        }
    }

    /// The next moment.
    #[inline]
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        let once = self.once.peek().map_or(NEVER, |Reverse((at, ..))| *at);
        let next = once.min(self.tree[1]);
        (next != NEVER).then(|| Duration::from_nanos(next))
    }

    /// Take what is next. Of a tie, what happens once comes first, in the order in which it was
    /// put in; then processes by their number.
    pub fn pop(&mut self) -> Option<Due<T>> {
        let process_at = self.tree[1];
        if let Some(Reverse((at, ..))) = self.once.peek()
            && *at <= process_at
        {
            let Reverse((_, _, what)) = self.once.pop()?;
            return Some(Due::Once(what));
        }
        if process_at == NEVER {
            return None;
        }
        let leaves = self.tree.len() / 2;
        let mut node = 1;
        while node < leaves {
            node *= 2;
            node += usize::from(self.tree[node] != process_at);
        }
        self.set(node - leaves, NEVER);
        Some(Due::Process(node - leaves))
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
    fn everything_happens_in_order_and_ties_in_a_stated_one() {
        let mut timers = Timers::new(5);
        timers.once(ms(2), 9);
        timers.arm(4, Some(ms(2)));
        timers.arm(3, Some(ms(7)));
        timers.arm(0, Some(ms(2)));
        timers.once(ms(2), 1);
        timers.once(ms(1), 5);
        let expected = vec![
            (ms(1), Due::Once(5)),
            (ms(2), Due::Once(9)),
            (ms(2), Due::Once(1)),
            (ms(2), Due::Process(0)),
            (ms(2), Due::Process(4)),
            (ms(7), Due::Process(3)),
        ];
        assert_eq!(drain(&mut timers), expected);
        assert_eq!(timers.pop(), None);
    }

    #[test]
    fn a_deadline_that_moves_wakes_its_process_once() {
        for processes in 1..10 {
            let mut timers = Timers::new(processes);
            for at in [9, 3, 12, 5] {
                timers.arm(processes - 1, Some(ms(at)));
            }
            let expected = vec![(ms(5), Due::Process(processes - 1))];
            assert_eq!(drain(&mut timers), expected);
            timers.arm(0, Some(ms(1)));
            timers.arm(0, None);
            assert_eq!(timers.next(), None);
        }
    }
}
