//! What was refused or dropped, by reason; each reason is logged seldom.

use std::collections::BTreeMap;

/// Counts by name, and which counts deserve a log line.
#[derive(Debug, Default)]
pub struct Counters {
    counts: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// Count one more. Returns whether to log it: the first, the tenth, the hundredth, …, so
    /// that an attacker cannot fill a disk.
    pub fn count(&mut self, name: &'static str) -> bool {
        let count = self.counts.entry(name).or_default();
        *count += 1;
        let mut power = *count;
        while power.is_multiple_of(10) {
            power /= 10;
        }
        power == 1
    }

    /// Every name and its count.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.counts.iter().map(|(name, count)| (*name, *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_logged_once_per_power_of_ten() {
        let mut counters = Counters::default();
        let logged = (0..1000).filter(|_| counters.count("flood")).count();
        assert_eq!(logged, 4);
        assert_eq!(counters.iter().next(), Some(("flood", 1000)));
    }
}
