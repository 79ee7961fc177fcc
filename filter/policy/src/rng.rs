//! Randomness as an argument.
//!
//! Decisions draw from a [`Rng`] that the caller owns and seeds, so that tests replay them.
//! [`SplitMix64`] (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014)
//! is enough for spreading load and jitter; nothing here is secret.

/// A source of random 64-bit numbers.
pub trait Rng {
    /// The next number, uniform over all of `u64`.
    fn next_u64(&mut self) -> u64;

    /// A number uniform in `0..bound` (0 when `bound` is 0), by multiply-shift (Lemire 2019); its
    /// bias is below `bound` / 2^32, and of larger bounds `bound` / 2^64. The small case is apart
    /// because a 128-bit product is a call on wasm32.
    fn below(&mut self, bound: u64) -> u64 {
        if bound <= u64::from(u32::MAX) {
            return ((self.next_u64() >> 32) * bound) >> 32;
        }
        let wide = u128::from(self.next_u64()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }
}

/// A small, seedable generator with 64 bits of state.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A generator whose whole sequence follows from `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }
}

impl Rng for SplitMix64 {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_the_published_ones() {
        let mut rng = SplitMix64::new(1_234_567);
        assert_eq!(rng.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(rng.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn below_stays_below_and_reaches_every_value() {
        let mut rng = SplitMix64::new(7);
        let mut seen = [0_u32; 5];
        for _ in 0..1000 {
            seen[usize::try_from(rng.below(5)).unwrap()] += 1;
        }
        assert!(seen.iter().all(|&n| n > 120), "{seen:?}");
        assert_eq!(rng.below(0), 0);
    }
}
