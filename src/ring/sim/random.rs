//! The one source of chance: everything that a simulation decides comes from its seed, in the order in which it is
//! asked.

/// SplitMix64 (Steele, Lea, Flood 2014): small, and every seed is a good one.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        // The bias of a remainder is of no interest here.
        self.bits().checked_rem(n).unwrap_or(0)
    }

    /// A number from `least` to `most`, both included.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    /// As [`Random::between`], for lengths and indices.
    pub fn length(&mut self, least: usize, most: usize) -> usize {
        let (from, to) = (u64::try_from(least).unwrap_or(0), u64::try_from(most).unwrap_or(u64::MAX - 1));
        usize::try_from(self.between(from, to)).unwrap_or(least)
    }

    /// Happens `per_mille` times in a thousand.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.below(1000) < u64::from(per_mille)
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            for (to, from) in part.iter_mut().zip(self.bits().to_le_bytes()) {
                *to = from;
            }
        }
    }
}
