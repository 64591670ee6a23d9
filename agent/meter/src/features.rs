//! What the readings of a window looked like, one against the other: shape, rhythm, company.
//!
//! Ratios between integrals (tensor to SM, memory to tensor) follow from the window's counters and are not here.
//! Nothing here changes a sum of operations: features are evidence about what kind of work it was.

use crate::reading::coded;

coded! {
    /// A feature of a window, each a whole number.
    Feature {
        /// Readings that the others rest on.
        Readings = 0 "readings",
        /// Standard deviation of tensor activity, in parts per million of all cycles.
        TensorSpread = 1 "tensor_spread_ppm",
        /// Period at which tensor activity repeats itself best, in milliseconds.
        TensorPeriod = 2 "tensor_period_ms",
        /// Autocorrelation of tensor activity at that period, per mille.
        TensorRhythm = 3 "tensor_rhythm",
        /// Standard deviation of power, in milliwatts.
        PowerSpread = 4 "power_spread_mw",
        /// Period at which power repeats itself best, in milliseconds.
        PowerPeriod = 5 "power_period_ms",
        /// Autocorrelation of power at that period, per mille.
        PowerRhythm = 6 "power_rhythm",
        /// Autocorrelation of NVLink traffic at its best period, per mille.
        NvlinkRhythm = 7 "nvlink_rhythm",
        /// Mean correlation of its power with that of the other accelerators of its host, per mille.
        PowerTogether = 8 "power_together",
        /// Mean correlation of its tensor activity with that of the others, per mille.
        TensorTogether = 9 "tensor_together",
    }
}

/// The features of a window: each known or unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features([Option<i32>; Features::LEN]);

impl Features {
    /// How many there are.
    pub const LEN: usize = Feature::ALL.len();

    /// The feature, `None` where it could not be computed.
    pub fn get(&self, feature: Feature) -> Option<i32> {
        self.0[feature as usize]
    }

    /// The same with one feature known.
    #[must_use]
    pub fn with(mut self, feature: Feature, value: i32) -> Self {
        self.0[feature as usize] = Some(value);
        self
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }
}
