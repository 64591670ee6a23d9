//! Randomness that can be repeated: SplitMix64 from a printed seed.

use std::ops::Range;

/// A generator.
#[derive(Clone, Debug)]
pub struct Random(u64);

/// Set it to the seed that a failed test printed, to get the same choices again.
pub const SEED: &str = "WEIGHBRIDGE_TEST_SEED";

impl Random {
    /// From [`SEED`] in the environment, else always the same, so that whoever changes something sees what the change
    /// does; the long form ([`crate::is_soak`]) takes the time, and so a new course each run. Prints the seed.
    ///
    /// # Panics
    /// If the variable holds no number.
    pub fn announced() -> Self {
        let seed = match std::env::var(SEED) {
            Ok(text) => text.parse().expect("the seed is a whole number"),
            Err(_) if crate::is_soak() => crate::wait::now().0.cast_unsigned(),
            Err(_) => 1,
        };
        println!("seed: {SEED}={seed}");
        Self(seed)
    }

    /// From this seed.
    pub fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `range`, which must not be empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.number() % (range.end - range.start)
    }
}
