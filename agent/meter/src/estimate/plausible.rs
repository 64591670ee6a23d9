//! What cannot have happened, whatever a source says: more cycles than the clock has, more energy than the board
//! can draw, more time than passed.
//!
//! Counters are read a little before or after a window ends, so each limit has slack; what is beyond it was no
//! measurement. Such a window stays as it was sent, but nothing in it is certain: its low is nothing and its high
//! what the device can do in the time, as for a gap.
//!
//! Deliberately absent: that a reading is too low. An idle device looks like that.

use serde::{Deserialize, Serialize};

use super::{Estimate, Estimator, tera};
use crate::{
    operations::{Calibrated, Interval, Operations},
    reading::Source,
    table::Hardware,
    window::{Counter, Window},
};

/// Why a window cannot be as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// More cycles than its clock has in the time.
    Cycles,
    /// A pipe was active for longer than the clock ran.
    Pipes,
    /// Something was busy for longer than the time.
    Time,
    /// More energy than twice its power limit gives.
    Energy,
    /// It ended after it was received.
    Future,
    /// It is older than any agent keeps anything.
    Past,
}

impl Doubt {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Cycles, Self::Pipes, Self::Time, Self::Energy, Self::Future, Self::Past];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cycles => "cycles",
            Self::Pipes => "pipes",
            Self::Time => "time",
            Self::Energy => "energy",
            Self::Future => "future",
            Self::Past => "past",
        }
    }

    /// In words, for people.
    pub fn means(self) -> &'static str {
        match self {
            Self::Cycles => "more cycles than its clock has in the time",
            Self::Pipes => "a pipe active for longer than the clock ran",
            Self::Time => "busy for longer than the time that passed",
            Self::Energy => "more energy than twice its power limit gives",
            Self::Future => "measured after it was received",
            Self::Past => "older than any agent keeps anything",
        }
    }
}

/// Beyond the limit by so much, in per mille, is an instrument's error.
const TOLERANCE: u128 = 1050;

/// A driver's counters are read so much before or after a window's end, in milliseconds.
const SLACK_MS: u128 = 5_000;

/// Those of exporters and controllers, which have a pace and a grain of their own: a tenth of a kilowatt hour is
/// eight minutes of a board.
const FOREIGN_SLACK_MS: u128 = 600_000;

/// Of a device that is in no table, the most that a board draws, in watts.
const UNKNOWN_POWER_W: u128 = 10_000;

impl Estimator {
    /// Why this window cannot be, if it cannot.
    pub fn doubt<'a>(&self, hardware: impl Into<Hardware<'a>>, window: &Window) -> Option<Doubt> {
        let hardware = hardware.into();
        let slack = match window.source {
            Source::Nvml | Source::Amdgpu | Source::Simulated => SLACK_MS,
            _ => FOREIGN_SLACK_MS,
        };
        let millis = u128::from(window.span.millis()) * TOLERANCE / 1000 + slack;
        let get = |counter| window.counters.get(counter).map(u128::from);
        let mhz = u128::from(
            hardware.model.map_or(Hardware::FASTEST_CLOCK_MHZ, |model| hardware.max_clock_mhz(model)),
        );
        let cycles = millis * 1000 * mhz;
        let elapsed = get(Counter::ElapsedCycles);
        let pipes = [
            Counter::TensorCycles,
            Counter::HmmaCycles,
            Counter::ImmaCycles,
            Counter::DfmaCycles,
            Counter::Fp64Cycles,
            Counter::Fp32Cycles,
            Counter::Fp16Cycles,
            Counter::IntegerCycles,
            Counter::SmCycles,
        ];
        let active = pipes.into_iter().filter_map(get).max().unwrap_or(0);
        if elapsed.unwrap_or(0).max(active) > cycles {
            return Some(Doubt::Cycles);
        }
        if elapsed.is_some_and(|elapsed| active > elapsed * TOLERANCE / 1000 + slack * 1000 * mhz) {
            return Some(Doubt::Pipes);
        }
        if [Counter::BusyMicros, Counter::DramMicros].into_iter().filter_map(get).any(|us| us > millis * 1000)
        {
            return Some(Doubt::Time);
        }
        let watts = hardware.model.map_or(UNKNOWN_POWER_W, |model| u128::from(model.power_w));
        // Watts x milliseconds x 1000 = microjoules.
        get(Counter::EnergyMicrojoules)
            .is_some_and(|energy| energy > 2 * watts * millis * 1000)
            .then_some(Doubt::Energy)
    }
}

impl Estimate {
    /// The same for a window that cannot be: from nothing to all that the device can do in its `millis`.
    #[must_use]
    pub fn doubted(&self, millis: u64) -> Self {
        let high = tera((self.peak_ops_per_ms * u128::from(millis)).div_ceil(Operations::UNIT));
        let best = self.bound.best().min(high);
        Self {
            bound: Interval::new(Operations::ZERO, best, high).expect("best is at most high"),
            calibrated: Calibrated::new(Operations::ZERO, high).expect("from zero"),
            peak_ops_per_ms: self.peak_ops_per_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        reading::Tier,
        time::{Span, UtcMillis},
        window::{Counters, Coverage},
    };

    const H100: &str = "NVIDIA H100 80GB HBM3";
    const MINUTE_CYCLES: u64 = 60 * 1_980_000_000;

    fn minute(source: Source, counters: Counters) -> Window {
        Window {
            accelerator: "GPU-1".parse().expect("valid"),
            span: Span::new(UtcMillis(0), UtcMillis(60_000)).expect("not empty"),
            boot_start_ms: 0,
            source,
            tier: Tier::B,
            coverage: Coverage::Measured,
            ticks: 60,
            counters,
            features: Default::default(),
            uses: Vec::new(),
        }
    }

    fn doubted(name: &str, counters: Counters) -> Option<Doubt> {
        let estimator = Estimator::shipped();
        estimator.doubt(estimator.table().find(None, name), &minute(Source::Nvml, counters))
    }

    #[test]
    fn what_a_device_can_do_in_the_time_is_no_doubt_and_what_is_beyond_it_is_one() {
        let none = Counters::default();
        let cases = [
            (none.with(Counter::TensorCycles, MINUTE_CYCLES), None),
            (none.with(Counter::TensorCycles, MINUTE_CYCLES / 60 * 67), None),
            (none.with(Counter::TensorCycles, MINUTE_CYCLES / 60 * 69), Some(Doubt::Cycles)),
            (none.with(Counter::ElapsedCycles, u64::MAX), Some(Doubt::Cycles)),
            (
                none.with(Counter::ElapsedCycles, 1_000).with(Counter::SmCycles, MINUTE_CYCLES),
                Some(Doubt::Pipes),
            ),
            (none.with(Counter::ElapsedCycles, MINUTE_CYCLES).with(Counter::SmCycles, MINUTE_CYCLES), None),
            (none.with(Counter::BusyMicros, 60_000_000), None),
            (none.with(Counter::BusyMicros, 70_000_000), Some(Doubt::Time)),
            (none.with(Counter::DramMicros, 70_000_000), Some(Doubt::Time)),
            (none.with(Counter::EnergyMicrojoules, 60 * 700_000_000), None),
            (none.with(Counter::EnergyMicrojoules, 60 * 1_600_000_000), Some(Doubt::Energy)),
        ];
        for (counters, expected) in cases {
            assert_eq!(doubted(H100, counters), expected, "{counters:?}");
        }
    }

    #[test]
    fn of_a_device_that_is_in_no_table_more_is_possible_but_not_everything() {
        let cycles =
            |cycles| doubted("NVIDIA Unheard Of", Counters::default().with(Counter::TensorCycles, cycles));
        assert_eq!(cycles(MINUTE_CYCLES * 2), None);
        assert_eq!(cycles(MINUTE_CYCLES * 20), Some(Doubt::Cycles));
    }

    #[test]
    fn a_controller_that_counts_in_tenths_of_kilowatt_hours_is_believed() {
        let estimator = Estimator::shipped();
        let window =
            minute(Source::Redfish, Counters::default().with(Counter::EnergyMicrojoules, 360_000_000_000));
        assert_eq!(estimator.doubt(estimator.table().find(None, H100), &window), None);
    }

    #[test]
    fn a_window_that_cannot_be_is_certain_of_nothing_and_possible_up_to_the_peak() {
        let estimator = Estimator::shipped();
        let model = estimator.table().find(None, H100);
        let all = minute(Source::Nvml, Counters::default().with(Counter::TensorCycles, MINUTE_CYCLES * 100));
        let estimate = estimator.estimate(model, &all);
        assert!(estimate.bound.low() > Operations::ZERO, "by itself it would be certain");
        let doubted = estimate.doubted(60_000);
        assert_eq!((doubted.bound.low(), doubted.calibrated.low()), (Operations::ZERO, Operations::ZERO));
        assert_eq!(doubted.bound.high(), estimate.bound.high());
        assert_eq!(estimate.doubted(60_000).piece(0, 30_000, 60_000).bound.low(), Operations::ZERO);
    }
}
