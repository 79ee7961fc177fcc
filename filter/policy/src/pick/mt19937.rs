//! The generator behind Envoy's overflow order: MT19937.
//!
//! Matsumoto and Nishimura, "Mersenne Twister", ACM TOMACS 8 (1998), with the seeding of 2002,
//! which is what C++ calls `std::mt19937`. Anything else would send an overflowing key to another
//! endpoint than Envoy does.
//!
//! Words are seeded and twisted as they are needed: the first number takes 398 of the 624 words,
//! each after that one more, and an overflow rarely needs many.

/// Words of state, and how far apart the words are that are combined.
const WORDS: usize = 624;
const SHIFT: usize = 397;

const SEED_MUL: u32 = 1_812_433_253;
const TWIST: u32 = 0x9908_b0df;
const UPPER: u32 = 0x8000_0000;

/// Draws for one number; each is refused with a probability below one half.
const DRAWS_MAX: u32 = 128;

/// A seeded generator of uniform `u32`.
#[derive(Debug)]
pub(super) struct Mt19937 {
    words: Box<[u32; WORDS]>,
    /// Words that the seed has reached.
    seeded: usize,
    /// The next word to twist and give out.
    next: usize,
}

impl Mt19937 {
    /// The generator of seed 0.
    pub(super) fn new() -> Self {
        Self { words: Box::new([0; WORDS]), seeded: 1, next: 0 }
    }

    /// Starts the sequence of `seed`.
    pub(super) fn seed(&mut self, seed: u32) {
        self.set(0, seed);
        self.seeded = 1;
        self.next = 0;
    }

    /// The next number.
    pub(super) fn next_u32(&mut self) -> u32 {
        self.seed_through(self.next + SHIFT);
        let at = self.next;
        let after = (at + 1) % WORDS;
        let mixed = self.get(at) & UPPER | self.get(after) & !UPPER;
        let twist = if mixed & 1 == 0 { 0 } else { TWIST };
        let mut word = self.get((at + SHIFT) % WORDS) ^ (mixed >> 1) ^ twist;
        self.set(at, word);
        self.next = after;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// Uniform in `0..bound` by Envoy's rule: the number divided by `2^32 / bound`, drawn again
    /// while that is not below the bound (less than once on average). 0 when `bound` is 0.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        let Some(divisor) = (1_u64 << 32).checked_div(u64::from(bound)) else {
            return 0;
        };
        for _ in 0..DRAWS_MAX {
            let x = u64::from(self.next_u32()).checked_div(divisor).unwrap_or(0);
            if x < u64::from(bound) {
                return u32::try_from(x).unwrap_or(0);
            }
        }
        0
    }

    /// Seeds words up to `last`, or all.
    fn seed_through(&mut self, last: usize) {
        let from = self.seeded;
        if last < from || from == WORDS {
            return;
        }
        let mut word = self.get(from - 1);
        let seeded = self.words.iter_mut().enumerate().skip(from).take(last + 1 - from);
        for (at, to) in seeded {
            let index = u32::try_from(at).unwrap_or(0);
            word = SEED_MUL.wrapping_mul(word ^ (word >> 30)).wrapping_add(index);
            *to = word;
        }
        self.seeded = WORDS.min(last + 1);
    }

    fn get(&self, at: usize) -> u32 {
        self.words.get(at).copied().unwrap_or(0)
    }

    fn set(&mut self, at: usize, word: u32) {
        if let Some(to) = self.words.get_mut(at) {
            *to = word;
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    /// The ten-thousandth number of the default seed is part of the C++ standard ([rand.predef]).
    #[test]
    fn the_ten_thousandth_number_is_the_standards() {
        let mut random = Mt19937::new();
        random.seed(1);
        for _ in 0..1000 {
            random.next_u32();
        }
        random.seed(5489);
        let last = (0..10_000).map(|_| random.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn numbers_stay_below_their_bound_and_nobody_divides_by_zero() {
        let mut random = Mt19937::new();
        random.seed(7);
        for bound in [1, 2, 3, 5, 1 << 31, u32::MAX] {
            assert!((0..100).all(|_| random.below(bound) < bound));
        }
        assert_eq!(random.below(0), 0);
    }
}
