//! What is on its way, by the time at which it moves next.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Things that move at their time; at the same time, in the order in which they were added.
#[derive(Clone, Debug)]
pub(super) struct Flights<T> {
    /// The next of all, when it is known. Over links without delay a thing moves on at once,
    /// and never meets the heap.
    next: Option<Entry<T>>,
    later: BinaryHeap<Entry<T>>,
    sequence: u64,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    at: Duration,
    sequence: u64,
    /// Boxed: a heap moves its entries about.
    what: Box<T>,
}

impl<T> Entry<T> {
    const fn key(&self) -> (Duration, u64) {
        (self.at, self.sequence)
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    /// The earliest is the greatest: that is what the heap gives out.
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

impl<T> Flights<T> {
    pub(super) const fn new() -> Self {
        Self {
            next: None,
            later: BinaryHeap::new(),
            sequence: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.later.len() + usize::from(self.next.is_some())
    }

    /// When the next one moves.
    pub(super) fn next_at(&self) -> Option<Duration> {
        let next = self.next.as_ref().or_else(|| self.later.peek());
        next.map(|entry| entry.at)
    }

    pub(super) fn add(&mut self, at: Duration, what: Box<T>) {
        self.sequence += 1;
        let sequence = self.sequence;
        let entry = Entry { at, sequence, what };
        let next = self.next.as_ref().or_else(|| self.later.peek());
        if next.is_some_and(|next| next.key() < entry.key()) {
            self.later.push(entry);
        } else if let Some(before) = self.next.replace(entry) {
            self.later.push(before);
        }
    }

    /// Take the next one out if it moves at or before `now`.
    pub(super) fn take_due(&mut self, now: Duration) -> Option<(Duration, Box<T>)> {
        if self.next_at()? > now {
            return None;
        }
        let entry = self.next.take().or_else(|| self.later.pop())?;
        Some((entry.at, entry.what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Draw;
    use crate::testing::SplitMix;
    use std::collections::BTreeMap;

    #[test]
    fn things_move_at_their_time_and_then_in_the_order_of_adding() {
        let mut draw = SplitMix(1);
        let mut flights = Flights::new();
        let mut model = BTreeMap::new();
        for n in 0..20_000u64 {
            let at = Duration::from_secs(draw.below(6));
            if draw.below(2) == 0 {
                let due = model.first_key_value().filter(|((due, _), ())| *due <= at);
                let due = due.map(|(key, ())| *key);
                if let Some(key) = due {
                    model.remove(&key);
                }
                assert_eq!(flights.take_due(at).map(|(at, n)| (at, *n)), due);
            } else {
                flights.add(at, Box::new(n));
                model.insert((at, n), ());
            }
            assert_eq!(flights.len(), model.len());
            let next_at = model.first_key_value().map(|((at, _), ())| *at);
            assert_eq!(flights.next_at(), next_at);
        }
    }
}
