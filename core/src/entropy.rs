//! Entropy as an argument: one seed, forked by label.
//!
//! In production the seed comes from the operating system, in a simulator from the scenario.
//! Forking by label (`node/3/ice`) instead of drawing from one stream means that a new draw
//! in one place does not shift every other.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use ring::hmac;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// 32 bytes that everything random in a machine derives from.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Seed([u8; 32]);

impl Seed {
    /// Take over a seed.
    pub fn new(bytes: [u8; 32]) -> Seed {
        Seed(bytes)
    }

    /// An independent seed for the part of the machine that `label` names.
    ///
    /// HMAC-SHA-256 keyed by the parent, so that a child tells nothing of its siblings.
    pub fn fork(&self, label: &str) -> Seed {
        Seed(self.derive(label.as_bytes()))
    }

    /// 32 bytes bound to `context`: the same context gives the same bytes.
    pub fn derive(&self, context: &[u8]) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let tag = hmac::sign(&key, context);
        let mut out = [0; 32];
        out.copy_from_slice(tag.as_ref());
        out
    }

    /// A generator that draws from this seed.
    pub fn rng(&self) -> Entropy {
        Entropy(ChaCha20Rng::from_seed(self.0))
    }
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// A seeded ChaCha20 generator: cryptographically strong, and the same for the same seed.
pub struct Entropy(ChaCha20Rng);

impl Entropy {
    /// The next 64 bits.
    pub fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `bound`, which must not be zero. The bias is below 2⁻³² for the small
    /// bounds used here.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a bound of zero admits no number");
        self.u64() % bound
    }

    /// Random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// Fill `out` with random bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        self.0.fill_bytes(out);
    }
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entropy(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forks_are_stable_and_independent_of_each_other() {
        let root = Seed::new([7; 32]);
        let first: [u8; 16] = root.fork("a").rng().bytes();
        root.fork("b").rng().u64();
        assert_eq!(first, root.fork("a").rng().bytes::<16>());
        assert_ne!(first, root.fork("b").rng().bytes::<16>());
    }
}
