//! What the readings of a window looked like, one against the other: shape, rhythm, company.
//!
//! The agent keeps a short [`History`] of each accelerator; [`Features::of`] looks at it when a window is done.
//! A window of few readings looks back before its start, as far as the history of the same holder goes.
//! Ratios between integrals (tensor to SM, memory to tensor) follow from the window's counters and are not here.
//! Nothing here changes a sum of operations: features are evidence about what kind of work it was.
//!
//! A feature that rests on too few readings, or on a series that does not move, is unknown: noise is no evidence.

mod history;
mod series;

pub use history::History;

use self::{
    history::Channel,
    series::{Series, correlation},
};
use crate::reading::coded;

coded! {
    /// A feature of a window, each a whole number.
    Feature {
        /// Readings that the others rest on, of which there is at most one a second.
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
        /// Accelerators of its host whose power, or tensor activity, clearly moves with its own.
        Company = 10 "company",
        /// Readings, per mille, in which it and one whose power moves with its own both drew little, one of them
        /// with a kernel resident and the other without: one worked elsewhere while the other waited for it.
        Waiting = 11 "waiting",
        /// Other accelerators of its host that the comparisons rest on.
        Others = 12 "others",
    }
}

/// The features of a window: each known or unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features([Option<i32>; Features::LEN]);

/// Readings that a window wants to look at; one with fewer looks back before its start.
const WANTED: usize = 32;
/// Fewest readings of which spread is told.
const FEWEST: usize = 6;
/// Fewest common readings of which correlation is told.
const FEWEST_COMMON: usize = 12;
/// From here on two accelerators count as moving together.
const TOGETHER: f64 = 0.6;

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

    /// What the history of an accelerator and of the others of its host shows of the time from `from_ms` to
    /// `to_ms` since boot.
    pub fn of<'a>(
        own: &History,
        others: impl Iterator<Item = &'a History>,
        from_ms: u64,
        to_ms: u64,
    ) -> Self {
        let from_ms = own.reach(from_ms, to_ms, WANTED);
        let power = own.series(Channel::Power, from_ms, to_ms);
        let tensor = own.series(Channel::Tensor, from_ms, to_ms);
        let nvlink = own.series(Channel::Nvlink, from_ms, to_ms);
        let readings = own.readings(from_ms, to_ms);
        let mut features = Self::default();
        if readings < FEWEST {
            return features;
        }
        features.set(Feature::Readings, i32::try_from(readings).ok());
        features.set(Feature::TensorSpread, spread(&tensor));
        features.set(Feature::PowerSpread, spread(&power));
        let mut rhythm = |series: &Series, period: Option<Feature>, strength: Feature| {
            if let Some(found) = series.rhythm() {
                features.set(strength, per_mille(found.strength));
                if let Some(period) = period {
                    features.set(period, whole(found.period_ms));
                }
            }
        };
        rhythm(&tensor, Some(Feature::TensorPeriod), Feature::TensorRhythm);
        rhythm(&power, Some(Feature::PowerPeriod), Feature::PowerRhythm);
        rhythm(&nvlink, None, Feature::NvlinkRhythm);
        features.compare(own, others, &power, &tensor, (from_ms, to_ms));
        features
    }

    fn compare<'a>(
        &mut self,
        own: &History,
        others: impl Iterator<Item = &'a History>,
        power: &Series,
        tensor: &Series,
        (from_ms, to_ms): (u64, u64),
    ) {
        let (mut by_power, mut by_tensor) = (Mean::default(), Mean::default());
        let (mut compared, mut company) = (0, 0);
        let mut waiting: Option<i32> = None;
        for other in others {
            let their_power = other.series(Channel::Power, from_ms, to_ms);
            let their_tensor = other.series(Channel::Tensor, from_ms, to_ms);
            let in_power = correlation(power, &their_power, FEWEST_COMMON);
            let in_tensor = correlation(tensor, &their_tensor, FEWEST_COMMON);
            by_power.add(in_power);
            by_tensor.add(in_tensor);
            let Some(best) = in_power.into_iter().chain(in_tensor).reduce(f64::max) else { continue };
            compared += 1;
            company += i32::from(best >= TOGETHER);
            if in_power.is_some_and(|together| together >= TOGETHER) {
                waiting = waiting.max(own.waiting(other, from_ms, to_ms, FEWEST_COMMON));
            }
        }
        self.set(Feature::PowerTogether, by_power.get().and_then(per_mille));
        self.set(Feature::TensorTogether, by_tensor.get().and_then(per_mille));
        self.set(Feature::Waiting, waiting);
        if compared > 0 {
            self.set(Feature::Others, Some(compared));
            self.set(Feature::Company, Some(company));
        }
    }

    fn set(&mut self, feature: Feature, value: Option<i32>) {
        self.0[feature as usize] = value;
    }
}

fn spread(series: &Series) -> Option<i32> {
    (series.len() >= FEWEST).then(|| series.deviation()).and_then(whole)
}

#[derive(Default)]
struct Mean {
    sum: f64,
    count: f64,
}

impl Mean {
    fn add(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.sum += value;
            self.count += 1.0;
        }
    }

    fn get(&self) -> Option<f64> {
        (self.count > 0.0).then(|| self.sum / self.count)
    }
}

fn per_mille(value: f64) -> Option<i32> {
    whole(value * 1000.0)
}

/// To the nearest whole number; `None` for what is none.
fn whole(value: f64) -> Option<i32> {
    #[expect(clippy::cast_possible_truncation, reason = "checked to be in range")]
    (value.abs() < f64::from(i32::MAX)).then(|| value.round() as i32)
}

#[cfg(test)]
mod tests;
