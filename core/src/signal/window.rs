//! Which sequence numbers were seen: a sliding window, as in RFC 6479.

/// Remembers the latest 64 sequence numbers of one incarnation.
///
/// Brokers repeat and reorder; each number counts once, and what is older than the window is
/// taken for seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct SequenceWindow {
    /// One past the highest number seen.
    next: u64,
    /// Bit n: whether `next - 1 - n` was seen.
    seen: u64,
}

impl SequenceWindow {
    /// Whether `sequence` is new; it is not from now on.
    pub fn accept(&mut self, sequence: u64) -> bool {
        let Some(after) = sequence.checked_add(1) else {
            return false;
        };
        if after > self.next {
            let shift = after - self.next;
            self.seen = if shift < 64 { self.seen << shift } else { 0 };
            self.seen |= 1;
            self.next = after;
            return true;
        }
        let age = self.next - after;
        if age >= 64 || self.seen & (1 << age) != 0 {
            return false;
        }
        self.seen |= 1 << age;
        true
    }

    /// Whether `sequence` is the highest seen so far.
    pub fn is_latest(&self, sequence: u64) -> bool {
        sequence.checked_add(1) == Some(self.next)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_counts_once_in_any_order() {
        let mut window = SequenceWindow::default();
        assert!(window.accept(5));
        assert!(window.accept(3));
        assert!(!window.accept(5));
        assert!(!window.accept(3));
        assert!(window.accept(4));
        assert!(window.accept(500));
        assert!(!window.accept(400), "older than the window");
        assert!(!window.accept(u64::MAX), "the last number has no successor");
    }

    proptest! {
        #[test]
        fn no_number_is_ever_accepted_twice(numbers in proptest::collection::vec(0u64..200, 0..400)) {
            let mut window = SequenceWindow::default();
            let mut accepted = BTreeSet::new();
            for n in numbers {
                if window.accept(n) {
                    prop_assert!(accepted.insert(n));
                }
            }
        }
    }
}
