//! The seeded stream that simulation threads get as entropy: xoshiro256**. Not for secrets.

#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream([u64; 4]);

impl Stream {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        let mut state = [0; 4];
        let (words, _) = seed.as_chunks::<8>();
        for (i, (word, bytes)) in state.iter_mut().zip(words).enumerate() {
            // Mixed, because the generator stays at zero when all of its state is zero.
            *word = mix(u64::from_le_bytes(*bytes).wrapping_add(GOLDEN.wrapping_mul(i as u64 + 1)));
        }
        Self(state)
    }

    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }

    const fn next(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64.
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::Stream;

    #[test]
    fn the_zero_seed_gives_a_stream_like_any_other() {
        let mut buffer = [0; 33];
        Stream::new([0; 32]).fill(&mut buffer);
        assert!(
            buffer.iter().filter(|byte| **byte == 0).count() < 4,
            "{buffer:?}"
        );
    }
}
