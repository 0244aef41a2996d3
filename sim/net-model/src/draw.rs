//! Randomness as an argument, and probabilities as integer ratios.

/// A stream of random numbers that the caller owns, seeds and forks.
pub trait Draw {
    /// The next 64 uniformly distributed bits.
    fn next_u64(&mut self) -> u64;

    /// True with the probability `ratio`. Certain outcomes consume nothing from the
    /// stream, so that switching an impairment off leaves the other draws unchanged.
    fn chance(&mut self, ratio: Ratio) -> bool {
        if ratio.num == 0 {
            return false;
        }
        if ratio.num == ratio.den {
            return true;
        }
        self.below(u64::from(ratio.den)) < u64::from(ratio.num)
    }

    /// A number in `0..bound`; 0 when `bound` is 0. The bias is below `bound` / 2^64.
    fn below(&mut self, bound: u64) -> u64 {
        // Lemire's multiply-shift: no division, and no loop that would consume an
        // unpredictable number of draws.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

/// A probability: `num` in `den`, exact and the same on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    num: u32,
    den: u32,
}

impl Ratio {
    /// Probability 0.
    pub const NEVER: Self = Self { num: 0, den: 1 };
    /// Probability 1.
    pub const ALWAYS: Self = Self { num: 1, den: 1 };

    /// `num` in `den`, or `None` when `den` is 0 or the ratio exceeds 1.
    #[must_use]
    pub const fn new(num: u32, den: u32) -> Option<Self> {
        if den == 0 || num > den {
            None
        } else {
            Some(Self { num, den })
        }
    }

    /// `num` in `den` for constants.
    ///
    /// # Panics
    /// When `den` is 0 or the ratio exceeds 1.
    #[must_use]
    pub const fn of(num: u32, den: u32) -> Self {
        match Self::new(num, den) {
            Some(ratio) => ratio,
            None => panic!("a ratio is at most 1 and its denominator is not 0"),
        }
    }

    /// The numerator.
    #[must_use]
    pub const fn num(self) -> u32 {
        self.num
    }

    /// The denominator, never 0.
    #[must_use]
    pub const fn den(self) -> u32 {
        self.den
    }
}

impl Default for Ratio {
    fn default() -> Self {
        Self::NEVER
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SplitMix;

    #[test]
    fn certain_outcomes_consume_no_randomness() {
        let mut draw = SplitMix(1);
        assert!(!draw.chance(Ratio::NEVER));
        assert!(draw.chance(Ratio::ALWAYS));
        assert!(draw.chance(Ratio::of(7, 7)));
        assert_eq!(draw.0, 1);
    }

    #[test]
    fn impossible_ratios_are_refused() {
        assert_eq!(Ratio::new(1, 0), None);
        assert_eq!(Ratio::new(2, 1), None);
        assert_eq!(Ratio::new(0, 1), Some(Ratio::NEVER));
    }

    #[test]
    fn a_bounded_draw_stays_below_its_bound() {
        let mut draw = SplitMix(2);
        assert_eq!(draw.below(0), 0);
        assert!((0..10_000).all(|_| draw.below(3) < 3));
    }
}
