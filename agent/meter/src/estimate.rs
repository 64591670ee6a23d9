//! Where raw integrals become operations.
//!
//! [`Estimator::estimate`] takes one whole window; [`Estimate::piece`] cuts the result where a holder's
//! boundary turned out to lie inside. Each is rounded once: low down, high up, best to nearest; from there
//! on everything is integer addition, in any order.
//!
//! What the counters cannot tell is in the bounds: the number format above all. *Bound* is physical,
//! *calibrated* comes from the factors in `data/factors.csv`, each with its source.

use sha2::{Digest, Sha256};

use crate::{
    operations::{Calibrated, Interval, Operations},
    reading::Tier,
    table::{AcceleratorTable, Factor, Model},
    window::{Counter, Counters, Window},
};

/// Name of this way to estimate. A change of formulas changes it; a change of figures changes the hashes.
pub const METHOD: &str = "weighbridge-estimate/1";

const FACTORS: &str = include_str!("../data/factors.csv");

/// What one window amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Cannot be outside.
    pub bound: Interval<Operations>,
    /// 5 to 95 % by data of the past, inside the bound.
    pub calibrated: Calibrated,
    /// The most the device can do in a millisecond, in operations; decides how far pieces can differ.
    peak_ops_per_ms: u128,
}

/// Turns windows into operations by one table and one set of factors.
#[derive(Clone, Debug)]
pub struct Estimator {
    table: AcceleratorTable,
    factors: Factors,
}

/// Parts per thousand, from `data/factors.csv`.
#[derive(Clone, Debug)]
struct Factors {
    tensor: Scale,
    exporter: Scale,
    utilisation_best: u128,
    utilisation_power: u128,
    utilisation_calibrated: (u128, u128),
    idle_power: u128,
    allocation_best_ampere: u128,
    allocation_best_hopper: u128,
    allocation_best_other: u128,
    allocation_calibrated: (u128, u128),
    sha256: [u8; 32],
}

/// Error of an instrument, and what it read in known cases.
#[derive(Clone, Debug)]
struct Scale {
    low: u128,
    high: u128,
    calibrated: (u128, u128),
}

const PER_MILLE: u128 = 1000;

impl Factors {
    fn parse(text: &str) -> Option<Self> {
        let get = |name: &str| -> Option<u128> {
            let row = text.lines().find(|line| line.split(',').next() == Some(name))?;
            row.split(',').nth(1)?.parse().ok()
        };
        let calibrated = (get("tensor_calibrated_low")?, get("tensor_calibrated_high")?);
        Some(Self {
            tensor: Scale { low: get("tensor_low")?, high: get("tensor_high")?, calibrated },
            exporter: Scale { low: get("exporter_low")?, high: get("exporter_high")?, calibrated },
            utilisation_best: get("utilisation_best")?,
            utilisation_power: get("utilisation_power")?,
            utilisation_calibrated: (get("utilisation_calibrated_low")?, get("utilisation_calibrated_high")?),
            idle_power: get("idle_power")?,
            allocation_best_ampere: get("allocation_best_ampere")?,
            allocation_best_hopper: get("allocation_best_hopper")?,
            allocation_best_other: get("allocation_best_other")?,
            allocation_calibrated: (get("allocation_calibrated_low")?, get("allocation_calibrated_high")?),
            sha256: Sha256::digest(text.as_bytes()).into(),
        })
    }
}

/// Operations before rounding: whole operations x 1000, so that factors in per mille stay exact.
#[derive(Clone, Copy, Debug, Default)]
struct Raw {
    low: u128,
    best: u128,
    high: u128,
    calibrated: (u128, u128),
}

impl Estimator {
    /// With the table and factors that this build ships.
    pub fn shipped() -> Self {
        Self::new(AcceleratorTable::shipped())
    }

    /// With another table.
    pub fn new(table: AcceleratorTable) -> Self {
        Self { table, factors: Factors::parse(FACTORS).expect("a test parses the shipped factors") }
    }

    /// The table in use.
    pub fn table(&self) -> &AcceleratorTable {
        &self.table
    }

    /// SHA-256 over the hashes of table and factors: names the figures behind every estimate.
    pub fn figures_sha256(&self) -> [u8; 32] {
        let both = [self.table.sha256(), self.factors.sha256].concat();
        Sha256::digest(both).into()
    }

    /// The most a device can do in a millisecond, in operations. A model that is not in the table
    /// is taken for the fastest that is: an unknown device must not make the bound too low.
    pub fn peak_ops_per_ms(&self, model: Option<&Model>) -> u128 {
        match model {
            Some(model) => model.peak_ops_per_ms(),
            None => self.table.models().iter().map(Model::peak_ops_per_ms).max().unwrap_or(0),
        }
    }

    /// What the window amounts to on a device of this model (`None`: not in the table).
    pub fn estimate(&self, model: Option<&Model>, window: &Window) -> Estimate {
        let millis = u128::from(window.span.millis());
        let peak_ops_per_ms = self.peak_ops_per_ms(model);
        let cap = peak_ops_per_ms * millis * PER_MILLE;
        let Some(model) = model.or_else(|| self.fastest()) else {
            return Estimate::round(Raw::default(), peak_ops_per_ms);
        };
        let mut raw = match window.tier {
            Tier::A | Tier::B => self.by_tensor(model, &window.counters, &self.factors.tensor),
            Tier::C => self.by_tensor(model, &window.counters, &self.factors.exporter),
            Tier::D | Tier::E => None,
        }
        .or_else(|| {
            (window.tier < Tier::E).then(|| self.by_utilisation(model, &window.counters, millis)).flatten()
        })
        .unwrap_or_else(|| self.by_allocation(model, millis));
        raw.high = raw.high.min(cap);
        raw.best = raw.best.min(raw.high);
        raw.low = raw.low.min(raw.best);
        raw.calibrated.0 = raw.calibrated.0.clamp(raw.low, raw.high);
        raw.calibrated.1 = raw.calibrated.1.clamp(raw.calibrated.0, raw.high);
        Estimate::round(raw, peak_ops_per_ms)
    }

    /// The best guess for time in which a device was given to someone and nothing else is known.
    pub fn allocated(&self, model: Option<&Model>, millis: u64) -> Operations {
        let Some(model) = model.or_else(|| self.fastest()) else { return Operations::ZERO };
        let raw = self.by_allocation(model, u128::from(millis));
        tera((raw.best + Operations::UNIT * PER_MILLE / 2) / (Operations::UNIT * PER_MILLE))
    }

    fn fastest(&self) -> Option<&Model> {
        self.table.models().iter().max_by_key(|model| model.peak_ops_per_ms())
    }

    /// Pipe-active cycles x units x dense operations per clock, pipe by pipe where the counters tell.
    fn by_tensor(&self, model: &Model, counters: &Counters, scale: &Scale) -> Option<Raw> {
        let any = counters.get(Counter::TensorCycles)?;
        let (hmma, imma, dfma) = (
            counters.get(Counter::HmmaCycles).unwrap_or(0),
            counters.get(Counter::ImmaCycles).unwrap_or(0),
            counters.get(Counter::DfmaCycles).unwrap_or(0),
        );
        // Tensor work that no pipe accounts for could be of any format, as the 16-bit class on Hopper can be FP8.
        let open_format = u128::from(any.saturating_sub(imma).saturating_sub(dfma).max(hmma));
        let per_clock = u128::from(model.ops_per_clock);
        let at = |cycles: u128, factor: Factor| {
            cycles * per_clock * u128::from(factor.numerator) / u128::from(factor.denominator)
        };
        let as_published = |cycles: u64, peak: Option<u32>| match (peak, model.peaks.bf16) {
            (Some(peak), Some(bf16)) => at(u128::from(cycles), Factor { numerator: peak, denominator: bf16 }),
            _ => at(u128::from(cycles), model.high_format),
        };
        let fixed = as_published(imma, model.peaks.int8) + as_published(dfma, model.peaks.fp64_tensor);
        let vector = vector_operations(model, counters);
        let best = open_format * per_clock + fixed;
        Some(Raw {
            low: (at(open_format, model.low_format) + fixed) * scale.low,
            best: (best + vector) * PER_MILLE,
            high: (at(open_format, model.high_format) + fixed) * scale.high + vector * PER_MILLE,
            calibrated: (best * scale.calibrated.0, best * scale.calibrated.1 + vector * PER_MILLE),
        })
    }

    /// Kernel utilisation says that something was resident, not how much it did: it bounds from above only.
    /// Power, where known, tells work from waiting (spinning collectives are "busy" at a third of the power).
    fn by_utilisation(&self, model: &Model, counters: &Counters, millis: u128) -> Option<Raw> {
        let busy_us = u128::from(counters.get(Counter::BusyMicros)?);
        // 16-bit operations at the table clock, MHz x microseconds = cycles.
        let table = busy_us * u128::from(model.table_clock_mhz) * u128::from(model.ops_per_clock);
        let mut best = table * self.factors.utilisation_best;
        if let Some(energy_uj) = counters.get(Counter::EnergyMicrojoules) {
            // Watts x milliseconds x 1000 = microjoules.
            let limit_uj = u128::from(model.power_w) * millis * 1000;
            let idle_uj = limit_uj * self.factors.idle_power / PER_MILLE;
            // No board draws more than twice its limit for long; what says so is not believed further.
            let dynamic = u128::from(energy_uj).min(limit_uj * 2).saturating_sub(idle_uj);
            let full = millis * 1000 * u128::from(model.table_clock_mhz) * u128::from(model.ops_per_clock);
            // Ordered so that the product stays far below 2^128: full < 2^80, dynamic < 2^50.
            let by_power = full * dynamic / (limit_uj - idle_uj).max(1) * self.factors.utilisation_power;
            best = best.min(by_power);
        }
        let (low, high) = self.factors.utilisation_calibrated;
        let cycles = busy_us * u128::from(model.max_clock_mhz);
        let high_format = cycles * u128::from(model.ops_per_clock) * u128::from(model.high_format.numerator)
            / u128::from(model.high_format.denominator);
        Some(Raw {
            low: 0,
            best,
            high: high_format * PER_MILLE,
            calibrated: ((table * low).min(best), (table * high).max(best)),
        })
    }

    /// Nothing but the fact that the device was given to someone.
    fn by_allocation(&self, model: &Model, millis: u128) -> Raw {
        let full = millis * 1000 * u128::from(model.table_clock_mhz) * u128::from(model.ops_per_clock);
        let best = match model.architecture.as_str() {
            "Volta" | "Turing" | "Ampere" => self.factors.allocation_best_ampere,
            "Ada" | "Hopper" | "Blackwell" => self.factors.allocation_best_hopper,
            _ => self.factors.allocation_best_other,
        };
        let (low, high) = self.factors.allocation_calibrated;
        Raw { low: 0, best: full * best, high: u128::MAX, calibrated: (full * low, full * high) }
    }
}

/// Multiply-adds of the vector pipes, two operations each.
fn vector_operations(model: &Model, counters: &Counters) -> u128 {
    let Some(lanes) = model.lanes_fp32 else { return 0 };
    let lanes = u128::from(model.units) * u128::from(lanes);
    let get = |counter| u128::from(counters.get(counter).unwrap_or(0));
    let fp64_rate = match (model.peaks.fp64, model.peaks.fp32) {
        (Some(fp64), Some(fp32)) => {
            get(Counter::Fp64Cycles) * 2 * lanes * u128::from(fp64) / u128::from(fp32)
        }
        _ => 0,
    };
    // The FP16 pipe does two values in each lane.
    get(Counter::Fp32Cycles) * 2 * lanes + get(Counter::Fp16Cycles) * 4 * lanes + fp64_rate
}

impl Estimate {
    fn round(raw: Raw, peak_ops_per_ms: u128) -> Self {
        const UNIT: u128 = Operations::UNIT * PER_MILLE;
        let down = |raw: u128| tera(raw / UNIT);
        let nearest = |raw: u128| tera(raw.saturating_add(UNIT / 2) / UNIT);
        let up = |raw: u128| tera(raw.div_ceil(UNIT));
        let bound = Interval::new(down(raw.low), nearest(raw.best), up(raw.high))
            .expect("low <= best <= high before rounding, and rounding keeps the order");
        let calibrated = Calibrated::new(down(raw.calibrated.0), up(raw.calibrated.1))
            .expect("in order before rounding, and rounding keeps the order");
        Self { bound, calibrated, peak_ops_per_ms }
    }

    /// The part of this estimate that falls into milliseconds `from..to` of a window `whole` milliseconds long.
    ///
    /// Best goes by time, and pieces that meet add up to the whole. Low is what cannot have happened in the
    /// rest; high is what fits into the piece: so bounds widen, which is why agents cut at known boundaries.
    /// What is out of range is cut to the window.
    #[must_use]
    pub fn piece(&self, from: u64, to: u64, whole: u64) -> Self {
        let (to, from) = (to.min(whole), from.min(to.min(whole)));
        if from == 0 && to == whole {
            return *self;
        }
        let upto = |amount: Operations, moment: u64| amount.scaled(u128::from(moment), u128::from(whole));
        let share = |amount: Operations| upto(amount, to).saturating_sub(upto(amount, from));
        let part = u128::from(to - from);
        let most = |millis: u128| tera((self.peak_ops_per_ms * millis).div_ceil(Operations::UNIT));
        let best = share(self.bound.best());
        let low = self.bound.low().saturating_sub(most(u128::from(whole) - part)).min(best);
        let high = self.bound.high().min(most(part)).max(best);
        let calibrated_low = share(self.calibrated.low()).clamp(low, high);
        let calibrated_high = share(self.calibrated.high()).clamp(calibrated_low, high);
        Self {
            bound: Interval::new(low, best, high).expect("clamped around best"),
            calibrated: Calibrated::new(calibrated_low, calibrated_high).expect("clamped"),
            peak_ops_per_ms: self.peak_ops_per_ms,
        }
    }

    /// One of `holders` equal shares, the `index`-th: nobody knows how much each did, so each bound goes from
    /// nothing to all; best is divided so that all shares add up to the whole.
    #[must_use]
    pub fn shared(&self, index: u64, holders: u64) -> Self {
        if holders <= 1 {
            return *self;
        }
        let upto = |n: u64| self.bound.best().scaled(u128::from(n), u128::from(holders));
        let best = upto(index + 1).saturating_sub(upto(index));
        Self {
            bound: Interval::new(Operations::ZERO, best, self.bound.high().max(best)).expect("in order"),
            calibrated: Calibrated::new(Operations::ZERO, self.calibrated.high()).expect("from zero"),
            peak_ops_per_ms: self.peak_ops_per_ms,
        }
    }
}

fn tera(amount: u128) -> Operations {
    u64::try_from(amount).ok().and_then(|tera| Operations::from_tera(tera).ok()).unwrap_or(Operations::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        reading::Source,
        time::{Span, UtcMillis},
        window::Coverage,
    };

    fn window(tier: Tier, millis: i64, counters: Counters) -> Window {
        Window {
            accelerator: "GPU-1".parse().expect("valid"),
            span: Span::new(UtcMillis(0), UtcMillis(millis)).expect("not empty"),
            boot_start_ms: 0,
            source: Source::Nvml,
            tier,
            coverage: Coverage::Measured,
            ticks: 60,
            counters,
        }
    }

    fn estimated(name: &str, tier: Tier, counters: Counters) -> String {
        let estimator = Estimator::shipped();
        let model = estimator.table().find(None, name);
        let e = estimator.estimate(model, &window(tier, 60_000, counters));
        let b = e.bound;
        format!(
            "{} <= {} <= {} ({}..{})",
            b.low().tera(),
            b.best().tera(),
            b.high().tera(),
            e.calibrated.low().tera(),
            e.calibrated.high().tera()
        )
    }

    const H100: &str = "NVIDIA H100 80GB HBM3";

    #[test]
    fn half_a_minute_of_tensor_work_on_an_h100_is_what_a_pencil_says() {
        // 1980 MHz x 60 s = 118.8e9 cycles, half of them active: 59.4e9 x 132 SMs x 4096 = 32115.9168e12.
        let counters = Counters::default()
            .with(Counter::ElapsedCycles, 118_800_000_000)
            .with(Counter::TensorCycles, 59_400_000_000);
        // low: TF32 is half, x 0.95 = 15255.06; high: FP8 is double, x 1.05 = 67443.43.
        assert_eq!(estimated(H100, Tier::B, counters), "15255 <= 32116 <= 67444 (24086..33722)");
    }

    #[test]
    fn known_pipes_narrow_what_is_known_of_them() {
        let counters = Counters::default()
            .with(Counter::ElapsedCycles, 118_800_000_000)
            .with(Counter::TensorCycles, 59_400_000_000)
            .with(Counter::ImmaCycles, 59_400_000_000);
        // All of it INT8, at 1978.9 / 989.4 of the 16-bit rate: 64235.08; x 0.95 and x 1.05 around it.
        assert_eq!(estimated(H100, Tier::B, counters), "61023 <= 64235 <= 67447 (61023..67447)");
    }

    #[test]
    fn vector_pipes_add_to_best_and_high_but_not_to_low() {
        let counters = Counters::default()
            .with(Counter::ElapsedCycles, 118_800_000_000)
            .with(Counter::TensorCycles, 0)
            .with(Counter::Fp32Cycles, 118_800_000_000);
        // 118.8e9 x 132 x 128 x 2 = 4014.49e12: 66.9 TFLOP/s for a minute.
        assert_eq!(estimated(H100, Tier::B, counters), "0 <= 4014 <= 4015 (0..4015)");
    }

    #[test]
    fn nothing_ran_is_zero_throughout() {
        let counters =
            Counters::default().with(Counter::ElapsedCycles, 118_800_000_000).with(Counter::TensorCycles, 0);
        assert_eq!(estimated(H100, Tier::B, counters), "0 <= 0 <= 0 (0..0)");
    }

    #[test]
    fn kernel_time_bounds_from_above_only_and_power_tells_work_from_waiting() {
        let busy = Counters::default().with(Counter::BusyMicros, 60_000_000);
        let spinning = busy.with(Counter::EnergyMicrojoules, 150 * 60_000_000);
        assert_eq!(estimated(H100, Tier::D, busy), "0 <= 22559 <= 128464 (5936..35620)");
        assert_eq!(estimated(H100, Tier::D, spinning), "0 <= 1796 <= 128464 (1795..35620)");
    }

    #[test]
    fn allocation_alone_reaches_from_nothing_to_everything() {
        assert_eq!(estimated(H100, Tier::E, Counters::default()), "0 <= 13654 <= 128464 (2968..32652)");
    }

    #[test]
    fn an_unknown_model_counts_as_the_fastest_there_is() {
        let counters = Counters::default()
            .with(Counter::ElapsedCycles, 60_000_000_000)
            .with(Counter::TensorCycles, 60_000_000_000);
        let fastest = estimated("NVIDIA GB300", Tier::B, counters);
        assert_eq!(estimated("NVIDIA Unheard Of", Tier::B, counters), fastest);
    }

    #[test]
    fn an_absurd_energy_does_not_overflow() {
        let estimator = Estimator::shipped();
        let counters = Counters::default()
            .with(Counter::BusyMicros, u64::MAX)
            .with(Counter::EnergyMicrojoules, u64::MAX);
        for model in estimator.table().models() {
            let e = estimator.estimate(Some(model), &window(Tier::D, 86_400_000, counters));
            assert!(e.bound.best() <= e.bound.high());
        }
    }

    fn any_counters() -> impl Strategy<Value = Counters> {
        proptest::collection::vec(proptest::option::of(0_u64..2_000_000_000_000), Counters::LEN).prop_map(
            |values| {
                Counter::ALL.iter().zip(values).fold(Counters::default(), |counters, (&counter, value)| {
                    match value {
                        Some(value) => counters.with(counter, value),
                        None => counters,
                    }
                })
            },
        )
    }

    proptest! {
        #[test]
        fn any_counters_on_any_model_give_an_ordered_estimate_below_the_peak(
            counters in any_counters(), row in 0_usize..48, tier in 0_usize..5, millis in 1_i64..3_600_000,
        ) {
            let estimator = Estimator::shipped();
            let model = &estimator.table().models()[row];
            let e = estimator.estimate(Some(model), &window(Tier::ALL[tier], millis, counters));
            prop_assert!(e.bound.low() <= e.calibrated.low() && e.calibrated.high() <= e.bound.high());
            let peak = (model.peak_ops_per_ms() * millis.unsigned_abs() as u128).div_ceil(Operations::UNIT);
            prop_assert!(u128::from(e.bound.high().tera()) <= peak);
        }

        #[test]
        fn pieces_add_up_in_best_to_the_integer_and_their_bounds_hold_the_truth(
            active in 0_u64..60_000_000_000, cut in 1_u64..60_000, truth in 0_u64..=1000,
        ) {
            let estimator = Estimator::shipped();
            let model = estimator.table().find(None, H100);
            let counters = Counters::default().with(Counter::TensorCycles, active);
            let whole = estimator.estimate(model, &window(Tier::B, 60_000, counters));
            let (first, second) = (whole.piece(0, cut, 60_000), whole.piece(cut, 60_000, 60_000));
            prop_assert_eq!(first.bound.best().checked_add(second.bound.best()), Some(whole.bound.best()));
            // Any way to divide any truth inside the bound, within what the device can do, is inside the pieces.
            let total = whole.bound.low().tera() + (whole.bound.high().tera() - whole.bound.low().tera()) * truth / 1000;
            let peak = estimator.peak_ops_per_ms(model);
            let fits = |millis: u64| u64::try_from(peak * u128::from(millis) / Operations::UNIT).expect("small");
            let in_first = total.min(fits(cut));
            let in_second = total - in_first;
            if in_second <= fits(60_000 - cut) {
                prop_assert!(first.bound.low().tera() <= in_first && in_first <= first.bound.high().tera());
                prop_assert!(second.bound.low().tera() <= in_second && in_second <= second.bound.high().tera());
            }
        }

        #[test]
        fn equal_shares_add_up_in_best_to_the_integer(active in 0_u64..60_000_000_000, holders in 1_u64..9) {
            let estimator = Estimator::shipped();
            let counters = Counters::default().with(Counter::TensorCycles, active);
            let whole = estimator.estimate(estimator.table().find(None, H100), &window(Tier::B, 60_000, counters));
            let sum: u64 = (0..holders).map(|index| whole.shared(index, holders).bound.best().tera()).sum();
            prop_assert_eq!(sum, whole.bound.best().tera());
        }
    }
}
