//! What a constant device amounts to, worked out by hand: integers, and none of the program's own code.

use crate::machine::{Device, MAX_CLOCK_MHZ};

/// Streaming multiprocessors of an H100 SXM5.
const UNITS: u128 = 132;

/// Dense 16-bit operations of one of them in one clock: 4 tensor cores x 512 multiply-adds x 2.
const OPERATIONS: u128 = 4096;

const TERA: u128 = 1_000_000_000_000;

/// Bounds and best estimate, in whole teraoperations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// At least.
    pub low: u128,
    /// Best.
    pub best: u128,
    /// At most.
    pub high: u128,
}

impl Amount {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { low: self.low + other.low, best: self.best + other.best, high: self.high + other.high }
    }
}

/// SM cycles that pass in `millis`.
pub fn elapsed_cycles(device: &Device, millis: u64) -> u128 {
    // MHz x milliseconds x 1000.
    u128::from(device.clock_mhz) * u128::from(millis) * 1000
}

/// Those in which tensor pipes are active.
pub fn tensor_cycles(device: &Device, millis: u64) -> u128 {
    let eighths = elapsed_cycles(device, millis) * u128::from(device.tensor_eighths);
    assert_eq!(eighths % 8, 0, "a thousand cycles divide by eight");
    eighths / 8
}

/// One window, rounded once: low down, high up, best to nearest.
pub fn window(device: &Device, millis: u64) -> Amount {
    let operations = tensor_cycles(device, millis) * UNITS * OPERATIONS;
    // The format may be TF32, at half the rate, or FP8, at twice; the instrument may be off by a twentieth.
    let low = operations * 95 / 2 / 100;
    let high = operations * 2 * 105;
    // Nothing exceeds FP8 at the highest clock.
    let peak = u128::from(MAX_CLOCK_MHZ) * u128::from(millis) * 1000 * UNITS * OPERATIONS * 2;
    let high = high.min(peak * 100);
    Amount { low: low / TERA, best: (operations + TERA / 2) / TERA, high: high.div_ceil(TERA * 100) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_at_a_gigahertz_and_half_active() {
        let device = Device { clock_mhz: 1000, tensor_eighths: 4, ..Device::numbered(1) };
        assert_eq!(tensor_cycles(&device, 60_000), 30_000_000_000);
        // 3e10 cycles x 540672 = 16220.16e12.
        assert_eq!(window(&device, 60_000), Amount { low: 7704, best: 16220, high: 34063 });
    }

    #[test]
    fn nothing_exceeds_the_peak() {
        let device = Device { clock_mhz: MAX_CLOCK_MHZ, tensor_eighths: 8, ..Device::numbered(1) };
        // 1.98e9 x 540672 x 2 = 2141.06112e12 a second.
        assert_eq!(window(&device, 1000).high, 2142);
        assert_eq!(window(&device, 1000).best, 1071);
    }
}
