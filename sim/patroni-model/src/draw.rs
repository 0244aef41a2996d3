//! The model's generator, and how long things take.

use holdfast_net_model::{Draw, Ratio};

/// Virtual time, in microseconds since some time before the round.
pub(crate) type At = u64;

/// SplitMix64: one round is one seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Uniform in `low..=high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// One of `count` things.
    pub(crate) fn pick(&mut self, count: usize) -> usize {
        usize::try_from(self.between(0, count as u64 - 1)).expect("below a usize")
    }

    pub(crate) fn hits(&mut self, ratio: Ratio) -> bool {
        self.chance(ratio)
    }
}

impl Draw for Dice {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// How long something takes: a hump with its middle at `typical`, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) least: u64,
    pub(crate) typical: u64,
    pub(crate) most: u64,
}

impl Spread {
    pub(crate) const fn ms(least: u64, typical: u64, most: u64) -> Self {
        Self::us(least * 1_000, typical * 1_000, most * 1_000)
    }

    pub(crate) const fn us(least: u64, typical: u64, most: u64) -> Self {
        assert!(least <= typical && typical <= most);
        Self {
            least,
            typical,
            most,
        }
    }

    /// The mean of two uniform draws, bent so that half of all are below `typical`.
    pub(crate) fn draw(self, dice: &mut Dice) -> u64 {
        const HALF: u64 = 1 << 20;
        let word = dice.next_u64();
        let both = (word & (HALF - 1)) + ((word >> 32) & (HALF - 1));
        if both < HALF {
            self.least + (self.typical - self.least) * both / HALF
        } else {
            self.typical + (self.most - self.typical) * (both - HALF) / HALF
        }
    }
}
