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
    reading::{Source, Tier},
    table::{AcceleratorTable, Factor, Format, Hardware, Model},
    window::{Counter, Counters, Window},
};

mod plausible;

pub use plausible::Doubt;

/// Name of this way to estimate. A change of formulas changes it; a change of figures changes the hashes.
pub const METHOD: &str = "weighbridge-estimate/3";

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
    assumed_clock_low: u128,
    assumed_clock_calibrated: u128,
    utilisation_best: u128,
    utilisation_power: u128,
    utilisation_calibrated: (u128, u128),
    idle_power: u128,
    unknown_high: u128,
    allocation: [Share; 4],
    declared: Share,
    model: Share,
    sha256: [u8; 32],
}

/// Error of an instrument, and what it read in known cases.
#[derive(Clone, Debug)]
struct Scale {
    low: u128,
    high: u128,
    calibrated: (u128, u128),
}

/// A share with its doubt: 5 %, middle, 95 %.
#[derive(Clone, Copy, Debug)]
struct Share {
    low: u128,
    best: u128,
    high: u128,
}

const PER_MILLE: u128 = 1000;

/// A device is split into so many instances at most (NVIDIA's MIG).
const MOST_PARTS: u128 = 7;

impl Factors {
    fn parse(text: &str) -> Option<Self> {
        let get = |name: &str| -> Option<u128> {
            let row = text.lines().find(|line| line.split(',').next() == Some(name))?;
            row.split(',').nth(1)?.parse().ok()
        };
        let pair = |name: &str| Some((get(&format!("{name}_low"))?, get(&format!("{name}_high"))?));
        let share = |name: &str| {
            let (low, high) = pair(name)?;
            Some(Share { low, best: get(&format!("{name}_best"))?, high })
        };
        let scale = |name: &str| {
            let (low, high) = pair(name)?;
            Some(Scale { low, high, calibrated: pair("tensor_calibrated")? })
        };
        Some(Self {
            tensor: scale("tensor")?,
            exporter: scale("exporter")?,
            assumed_clock_low: get("assumed_clock_low")?,
            assumed_clock_calibrated: get("assumed_clock_calibrated")?,
            utilisation_best: get("utilisation_best")?,
            utilisation_power: get("utilisation_power")?,
            utilisation_calibrated: pair("utilisation_calibrated")?,
            idle_power: get("idle_power")?,
            unknown_high: get("unknown_high")?,
            allocation: [
                share("allocation_volta")?,
                share("allocation_ampere")?,
                share("allocation_hopper")?,
                share("allocation_other")?,
            ],
            declared: share("declared")?,
            model: share("model")?,
            sha256: Sha256::digest(text.as_bytes()).into(),
        })
    }

    /// What part of the 16-bit peak paid hours of this generation came to.
    fn allocation(&self, model: &Model) -> Share {
        let [volta, ampere, hopper, other] = self.allocation;
        match model.architecture.as_str() {
            "Volta" | "Turing" => volta,
            "Ampere" => ampere,
            "Ada" | "Hopper" | "Blackwell" => hopper,
            _ => other,
        }
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

/// What accelerator hours amount to when nothing else is known of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// Operations executed.
    pub executed: Estimate,
    /// Operations that the model itself needs, 5 %, best and 95 %: without recomputation and padding.
    pub model: Interval<Operations>,
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

    /// The most a device can do in a millisecond, in operations. A model that is not in the table is taken for
    /// several of the fastest that is: an unknown device must not make the bound too low.
    pub fn peak_ops_per_ms<'a>(&self, hardware: impl Into<Hardware<'a>>) -> u128 {
        let hardware = hardware.into();
        match (hardware.model, self.fastest()) {
            (Some(model), _) => hardware.peak_ops_per_ms(model),
            (None, Some(fastest)) => {
                hardware.peak_ops_per_ms(fastest) * self.factors.unknown_high / PER_MILLE
            }
            (None, None) => 0,
        }
    }

    /// What the window amounts to on this device.
    pub fn estimate<'a>(&self, hardware: impl Into<Hardware<'a>>, window: &Window) -> Estimate {
        let hardware = hardware.into();
        let millis = u128::from(window.span.millis());
        let peak_ops_per_ms = self.peak_ops_per_ms(hardware);
        let Some(device) = self.device(&hardware) else {
            return Estimate::round(Raw::default(), peak_ops_per_ms);
        };
        let scale = match (window.tier, window.source) {
            // Points in time, of which nobody knows how long they speak for.
            (Tier::C, _) | (_, Source::Redfish) => &self.factors.exporter,
            _ => &self.factors.tensor,
        };
        let counters = &window.counters;
        let raw =
            (window.tier <= Tier::C).then(|| self.by_tensor(&device, counters, millis, scale)).flatten();
        let raw = raw
            .or_else(|| {
                (window.tier < Tier::E).then(|| self.by_utilisation(&device, counters, millis)).flatten()
            })
            .unwrap_or_else(|| self.by_allocation(&device, millis));
        let mut raw = raw.within(peak_ops_per_ms * millis * PER_MILLE, device.known);
        if hardware.is_part_of_unknown_size() {
            // Its activity is that of its own units, of which there may be a few or nearly all.
            (raw.low, raw.best, raw.calibrated.0) = (0, raw.best / MOST_PARTS, 0);
            raw.calibrated.1 = raw.calibrated.1.max(raw.best);
        }
        Estimate::round(raw, peak_ops_per_ms)
    }

    /// The best guess for time in which a device was given to someone and nothing else is known.
    pub fn allocated<'a>(&self, hardware: impl Into<Hardware<'a>>, millis: u64) -> Operations {
        let Some(device) = self.device(&hardware.into()) else { return Operations::ZERO };
        let raw = self.by_allocation(&device, u128::from(millis));
        tera((raw.best + Operations::UNIT * PER_MILLE / 2) / (Operations::UNIT * PER_MILLE))
    }

    /// What so many milliseconds of such devices amount to, if all that is known is that somebody had them, and
    /// perhaps which part of the peak (of the declared format, else of 16 bit), per mille, they say to have used
    /// while the run was running. What is said moves best and narrows what is likely; it cannot move the bound.
    pub fn hours<'a>(
        &self,
        hardware: impl Into<Hardware<'a>>,
        millis: u64,
        utilisation_per_mille: Option<u32>,
    ) -> Hours {
        let hardware = hardware.into();
        let peak_ops_per_ms = self.peak_ops_per_ms(hardware);
        let Some(device) = self.device(&hardware) else {
            let executed = Estimate::round(Raw::default(), peak_ops_per_ms);
            return Hours { executed, model: Interval::default() };
        };
        let full = device.full(u128::from(millis));
        let format = device.declared_factor();
        let allocation = self.factors.allocation(device.model);
        let (told, share) = match (utilisation_per_mille, format) {
            (Some(said), format) => {
                let told = full * u128::from(said.min(1000)) / PER_MILLE;
                (format.map_or(told, |format| apply(told, format)), self.factors.declared)
            }
            // Vector pipes alone: no matrix unit takes this format.
            (None, Some(format)) if device.declared_is_vector() => (apply(full, format), allocation),
            (None, _) => (full, allocation),
        };
        let cap = peak_ops_per_ms * u128::from(millis) * PER_MILLE;
        let raw = |share: Share| {
            let mut raw = Raw::shared(told, share);
            if utilisation_per_mille.is_none() {
                // A format that was only declared does not take away what another could have done.
                raw.calibrated.1 = raw.calibrated.1.max(full * share.high);
            }
            raw.within(cap, device.known)
        };
        let executed = raw(Share {
            low: share.low,
            best: share.best * PER_MILLE / self.factors.model.best,
            high: share.high * PER_MILLE / self.factors.model.low,
        });
        let model = raw(share);
        let as_interval = |raw: Raw| {
            let e = Estimate::round(raw, peak_ops_per_ms);
            Interval::new(
                e.calibrated.low().min(e.bound.best()),
                e.bound.best(),
                e.calibrated.high().max(e.bound.best()),
            )
            .expect("best in between")
        };
        Hours { executed: Estimate::round(executed, peak_ops_per_ms), model: as_interval(model) }
    }

    /// What the model itself needed of what was executed: 5 %, best and 95 %. Executed operations include
    /// recomputation, padding and whatever else was not asked for by the model's own arithmetic.
    pub fn model_operations(&self, best: Operations, calibrated: Calibrated) -> Interval<Operations> {
        let share = self.factors.model;
        let low = calibrated.low().scaled(share.low, PER_MILLE);
        let high = calibrated.high().scaled(share.high, PER_MILLE).max(low);
        let best = best.scaled(share.best, PER_MILLE).clamp(low, high);
        Interval::new(low, best, high).expect("clamped")
    }

    fn fastest(&self) -> Option<&Model> {
        self.table.models().iter().max_by_key(|model| model.peak_ops_per_ms())
    }

    /// The device with what stands in for its model, if that is not in the table.
    fn device<'a>(&'a self, hardware: &Hardware<'a>) -> Option<Device<'a>> {
        let model = hardware.model.or_else(|| self.fastest())?;
        Some(Device {
            known: hardware.model.is_some(),
            model,
            per_clock: hardware.part(model, u128::from(model.ops_per_clock)),
            units: u128::from(hardware.units().unwrap_or(model.units)),
            max_clock_mhz: u128::from(hardware.max_clock_mhz(model)),
            declared: hardware.declared,
        })
    }

    /// Pipe-active cycles x units x dense operations per clock, pipe by pipe where the counters tell.
    fn by_tensor(
        &self,
        device: &Device<'_>,
        counters: &Counters,
        millis: u128,
        scale: &Scale,
    ) -> Option<Raw> {
        let model = device.model;
        let any = counters.get(Counter::TensorCycles)?;
        let pipe = |counter| counters.get(counter).unwrap_or(0);
        let (hmma, imma, dfma) =
            (pipe(Counter::HmmaCycles), pipe(Counter::ImmaCycles), pipe(Counter::DfmaCycles));
        // Tensor work that no pipe accounts for could be of any format.
        let rest = u128::from(any.saturating_sub(hmma).saturating_sub(imma).saturating_sub(dfma));
        let hmma = u128::from(hmma);
        let at = |cycles: u128, factor: Factor| apply(cycles * device.per_clock, factor);
        let as_published = |cycles: u64, peak: Option<u32>| match (peak, model.peaks.bf16) {
            (Some(peak), Some(bf16)) => at(u128::from(cycles), Factor { numerator: peak, denominator: bf16 }),
            _ => at(u128::from(cycles), model.high_format),
        };
        let fixed = as_published(imma, model.peaks.int8) + as_published(dfma, model.peaks.fp64_tensor);
        // Where a device has FP8, the 16-bit class pipe runs it.
        let hmma_high = if model.peaks.fp8.is_some() {
            model.high_format
        } else {
            Factor { numerator: 1, denominator: 1 }
        };
        let rest_low = match (counters.get(Counter::DfmaCycles), model.peaks.fp64_tensor, model.peaks.bf16) {
            // Nobody told FP64 matrix work apart, and it is far slower than any other.
            (None, Some(fp64), Some(bf16)) => {
                model.low_format.min(Factor { numerator: fp64, denominator: bf16 })
            }
            _ => model.low_format,
        };
        let low = at(hmma, model.low_format) + at(rest, rest_low) + fixed;
        let high = at(hmma, hmma_high) + at(rest, model.high_format) + fixed;
        let open = (hmma + rest) * device.per_clock;
        let matrix = device
            .declared_factor()
            .map_or(open, |format| apply(open, format))
            .clamp(at(hmma + rest, model.low_format), at(hmma, hmma_high) + at(rest, model.high_format))
            + fixed;
        let vector = device.vector_operations(counters, millis);
        let mut raw = Raw {
            low: low * scale.low,
            best: (matrix + vector.seen) * PER_MILLE,
            high: (high + vector.high) * scale.high,
            calibrated: (matrix * scale.calibrated.0, (matrix + vector.seen) * scale.calibrated.1),
        };
        if counters.get(Counter::ElapsedCycles).is_none() {
            // The clock was assumed: under a power cap it is lower, without one it can be at its maximum.
            raw.low = raw.low * self.factors.assumed_clock_low / PER_MILLE;
            let (max, table) = (device.max_clock_mhz, u128::from(model.table_clock_mhz));
            raw.high = raw.high / table * max + raw.high % table * max / table;
            raw.calibrated.0 = raw.calibrated.0 * self.factors.assumed_clock_calibrated / PER_MILLE;
        }
        Some(raw)
    }

    /// Kernel utilisation says that something was resident, not how much it did: it bounds from above only.
    /// Power, where known, tells work from waiting (spinning collectives are "busy" at a third of the power).
    fn by_utilisation(&self, device: &Device<'_>, counters: &Counters, millis: u128) -> Option<Raw> {
        let model = device.model;
        let busy_us = u128::from(counters.get(Counter::BusyMicros)?);
        // 16-bit operations at the table clock, MHz x microseconds = cycles.
        let table = busy_us * u128::from(model.table_clock_mhz) * device.per_clock;
        let mut best = table * self.factors.utilisation_best;
        if let Some(energy_uj) = counters.get(Counter::EnergyMicrojoules) {
            // Watts x milliseconds x 1000 = microjoules.
            let limit_uj = u128::from(model.power_w) * millis * 1000;
            let idle_uj = limit_uj * self.factors.idle_power / PER_MILLE;
            // No board draws more than twice its limit for long; what says so is not believed further.
            let dynamic = u128::from(energy_uj).min(limit_uj * 2).saturating_sub(idle_uj);
            // Ordered so that the product stays far below 2^128: full < 2^80, dynamic < 2^50.
            let by_power = device.full(millis) * dynamic / (limit_uj - idle_uj).max(1);
            best = best.min(by_power * self.factors.utilisation_power);
        }
        let (low, high) = self.factors.utilisation_calibrated;
        let fastest = apply(busy_us * device.max_clock_mhz * device.per_clock, model.high_format);
        Some(Raw {
            low: 0,
            best,
            high: fastest * PER_MILLE,
            calibrated: ((table * low).min(best), (table * high).max(best)),
        })
    }

    /// Nothing but the fact that the device was given to someone.
    fn by_allocation(&self, device: &Device<'_>, millis: u128) -> Raw {
        Raw::shared(device.full(millis), self.factors.allocation(device.model))
    }
}

fn apply(amount: u128, factor: Factor) -> u128 {
    amount * u128::from(factor.numerator) / u128::from(factor.denominator)
}

impl Raw {
    /// A share of a whole.
    fn shared(full: u128, share: Share) -> Self {
        let calibrated = (full * share.low, full * share.high);
        Self { low: 0, best: full * share.best, high: u128::MAX, calibrated }
    }

    /// Below what the device can do, and in order. Of a device that nobody knows nothing is known from below.
    fn within(mut self, cap: u128, known: bool) -> Self {
        if !known {
            (self.low, self.calibrated.0) = (0, 0);
        }
        self.high = self.high.min(cap);
        self.best = self.best.min(self.high);
        self.low = self.low.min(self.best);
        self.calibrated.0 = self.calibrated.0.clamp(self.low, self.high);
        self.calibrated.1 = self.calibrated.1.clamp(self.calibrated.0, self.high);
        self
    }
}

/// A device as estimates see it.
struct Device<'a> {
    /// Whether the model is its own.
    known: bool,
    model: &'a Model,
    /// 16-bit matrix operations in one clock.
    per_clock: u128,
    units: u128,
    max_clock_mhz: u128,
    declared: Option<Format>,
}

/// What vector pipes did.
struct Vector {
    /// As their counters tell.
    seen: u128,
    /// The most they can have done, pipes without a counter included.
    high: u128,
}

impl Device<'_> {
    /// 16-bit operations at the table clock, all pipes busy.
    fn full(&self, millis: u128) -> u128 {
        millis * 1000 * u128::from(self.model.table_clock_mhz) * self.per_clock
    }

    /// The rate of the declared format against 16 bit; `None` if nothing was declared or it has no such rate.
    fn declared_factor(&self) -> Option<Factor> {
        let peaks = &self.model.peaks;
        Some(Factor { numerator: peaks.of(self.declared?)?, denominator: peaks.bf16? })
    }

    /// FP32 where no matrix unit takes it, as TF32.
    fn declared_is_vector(&self) -> bool {
        self.declared == Some(Format::Fp32) && self.model.peaks.tf32.is_none()
    }

    /// Multiply-adds of the vector pipes, two operations each.
    fn vector_operations(&self, counters: &Counters, millis: u128) -> Vector {
        let Some(lanes) = self.model.lanes_fp32 else { return Vector { seen: 0, high: 0 } };
        let lanes = self.units * u128::from(lanes);
        let get = |counter| u128::from(counters.get(counter).unwrap_or(0));
        let fp64 = match (self.model.peaks.fp64, self.model.peaks.fp32) {
            (Some(fp64), Some(fp32)) => {
                get(Counter::Fp64Cycles) * 2 * lanes * u128::from(fp64) / u128::from(fp32)
            }
            _ => 0,
        };
        // The FP16 pipe does two values in each lane.
        let seen = get(Counter::Fp32Cycles) * 2 * lanes + get(Counter::Fp16Cycles) * 4 * lanes + fp64;
        let all_told =
            [Counter::Fp32Cycles, Counter::Fp16Cycles].iter().all(|&pipe| counters.get(pipe).is_some());
        let high = if all_told {
            // Most integer work is addresses; what is not counts, and its pipe is at most as wide.
            seen + get(Counter::IntegerCycles) * 2 * lanes
        } else {
            let active = counters.get(Counter::SmCycles).map(u128::from);
            let resident = counters.get(Counter::BusyMicros).map(|us| u128::from(us) * self.max_clock_mhz);
            let longest = millis * 1000 * self.max_clock_mhz;
            seen.max(active.or(resident).unwrap_or(longest).min(longest) * 4 * lanes)
        };
        Vector { seen, high }
    }
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

    /// One of several holders' shares: the part `from..to` of `whole`. Nobody knows how much each did, so bounds go
    /// from nothing to all; best is divided so that all shares add up to the whole.
    ///
    /// Where the driver `told` how long each one's kernels were resident, the calibrated interval is divided too:
    /// what is resident as long works as much, as a rule.
    #[must_use]
    pub fn shared(&self, from: u64, to: u64, whole: u64, told: bool) -> Self {
        let upto = |amount: Operations, n: u64| amount.scaled(u128::from(n), u128::from(whole));
        let share = |amount: Operations| upto(amount, to).saturating_sub(upto(amount, from));
        let best = share(self.bound.best());
        let high = self.bound.high().max(best);
        let calibrated = if told {
            let low = share(self.calibrated.low()).min(high);
            (low, share(self.calibrated.high()).clamp(low, high))
        } else {
            (Operations::ZERO, self.calibrated.high().min(high))
        };
        Self {
            bound: Interval::new(Operations::ZERO, best, high).expect("in order"),
            calibrated: Calibrated::new(calibrated.0, calibrated.1).expect("in order"),
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
            features: crate::Features::default(),
            uses: Vec::new(),
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

    /// A minute at 1980 MHz with every pipe told apart, none of them busy.
    fn told() -> Counters {
        use Counter::*;
        let pipes = [TensorCycles, HmmaCycles, ImmaCycles, DfmaCycles, Fp64Cycles, Fp32Cycles, Fp16Cycles];
        let elapsed = Counters::default().with(ElapsedCycles, 118_800_000_000);
        pipes.into_iter().fold(elapsed, |counters, pipe| counters.with(pipe, 0))
    }

    #[test]
    fn half_a_minute_of_tensor_work_on_an_h100_is_what_a_pencil_says() {
        // 1980 MHz x 60 s = 118.8e9 cycles, half of them active: 59.4e9 x 132 SMs x 4096 = 32115.9168e12.
        let counters = told().with(Counter::TensorCycles, 59_400_000_000);
        // low: TF32 is half, x 0.95 = 15255.06; high: FP8 is double, x 1.05 = 67443.43.
        assert_eq!(estimated(H100, Tier::B, counters), "15255 <= 32116 <= 67444 (25050..33722)");
        let counters = counters.with(Counter::HmmaCycles, 59_400_000_000);
        assert_eq!(estimated(H100, Tier::B, counters), "15255 <= 32116 <= 67444 (25050..33722)");
    }

    #[test]
    fn pipes_that_nobody_counts_widen_the_bound_by_what_they_could_have_done() {
        let counters = Counters::default()
            .with(Counter::ElapsedCycles, 118_800_000_000)
            .with(Counter::TensorCycles, 59_400_000_000);
        // low: all of it could be FP64 matrix work, 66.9 / 989.4 x 0.95 = 2062.99;
        // high: 118.8e9 cycles x 132 x 128 lanes x 4 = 8028.98 of packed FP16 on top, x 1.05.
        assert_eq!(estimated(H100, Tier::B, counters), "2062 <= 32116 <= 75874 (25050..33722)");
        // An SM without a warp runs nothing on any pipe.
        let resident = counters.with(Counter::SmCycles, 59_400_000_000);
        assert_eq!(estimated(H100, Tier::B, resident), "2062 <= 32116 <= 71659 (25050..33722)");
    }

    #[test]
    fn an_assumed_clock_widens_the_bound_to_the_clocks_there_are() {
        let counters = told().with(Counter::TensorCycles, 59_400_000_000);
        let assumed = Counter::ALL
            .iter()
            .filter(|&&counter| counter != Counter::ElapsedCycles)
            .fold(Counters::default(), |kept, &counter| {
                counters.get(counter).map_or(kept, |value| kept.with(counter, value))
            });
        // 15255.06 x 0.45; 67443.43 x 1980 / 1830.
        assert_eq!(estimated(H100, Tier::B, assumed), "6864 <= 32116 <= 72972 (21292..33722)");
    }

    #[test]
    fn known_pipes_narrow_what_is_known_of_them() {
        let counters =
            told().with(Counter::TensorCycles, 59_400_000_000).with(Counter::ImmaCycles, 59_400_000_000);
        // All of it INT8, at 1978.9 / 989.4 of the 16-bit rate: 64235.08; x 0.95 and x 1.05 around it.
        assert_eq!(estimated(H100, Tier::B, counters), "61023 <= 64235 <= 67447 (61023..67447)");
    }

    #[test]
    fn the_16_bit_pipe_of_a_chip_without_fp8_is_no_faster_than_16_bit() {
        // 1410 MHz x 60 s x 108 SMs x 2048 = 18711.99e12.
        let cycles = 84_600_000_000;
        let any = told().with(Counter::TensorCycles, cycles);
        assert_eq!(estimated("NVIDIA A100-SXM4-80GB", Tier::B, any), "8888 <= 18712 <= 37425 (14595..19648)");
        let hmma = any.with(Counter::HmmaCycles, cycles);
        assert_eq!(
            estimated("NVIDIA A100-SXM4-80GB", Tier::B, hmma),
            "8888 <= 18712 <= 19648 (14595..19648)"
        );
    }

    #[test]
    fn vector_pipes_add_to_best_and_high_but_not_to_low() {
        let counters = told().with(Counter::Fp32Cycles, 118_800_000_000);
        // 118.8e9 x 132 x 128 x 2 = 4014.49e12: 66.9 TFLOP/s for a minute.
        assert_eq!(estimated(H100, Tier::B, counters), "0 <= 4014 <= 4216 (0..4216)");
        let integer = told().with(Counter::IntegerCycles, 118_800_000_000);
        assert_eq!(estimated(H100, Tier::B, integer), "0 <= 0 <= 4216 (0..0)");
    }

    #[test]
    fn nothing_ran_is_zero_throughout() {
        assert_eq!(estimated(H100, Tier::B, told()), "0 <= 0 <= 0 (0..0)");
    }

    #[test]
    fn a_mig_instance_is_the_part_that_its_units_are() {
        let estimator = Estimator::shipped();
        let model = estimator.table().find(None, H100);
        let counters = told().with(Counter::TensorCycles, 59_400_000_000);
        let e =
            |hardware: Hardware<'_>| estimator.estimate(hardware, &window(Tier::B, 60_000, counters)).bound;
        let instance = Hardware { units: Some(16), ..model.into() };
        // 59.4e9 x 16 SMs x 4096 = 3892.84e12.
        assert_eq!(e(instance).best().tera(), 3893);
        assert_eq!(estimator.peak_ops_per_ms(instance) * 132, estimator.peak_ops_per_ms(model) * 16);
    }

    #[test]
    fn of_an_instance_whose_size_nobody_told_nothing_is_known_from_below() {
        let estimator = Estimator::shipped();
        let model = estimator.table().find(None, H100);
        let counters = told().with(Counter::TensorCycles, 59_400_000_000);
        let e = |hardware| estimator.estimate(hardware, &window(Tier::B, 60_000, counters));
        let (whole, part) = (e(model.into()), e(Hardware { part: true, ..model.into() }));
        assert_eq!(part.bound.low(), Operations::ZERO);
        assert_eq!(part.bound.best().tera(), 4588);
        assert_eq!(part.bound.high(), whole.bound.high());
        let told = e(Hardware { part: true, units: Some(16), ..model.into() });
        assert_eq!(told.bound.best().tera(), 3893, "one whose size is told is no guess");
    }

    #[test]
    fn absurd_units_and_counters_do_not_overflow() {
        let estimator = Estimator::shipped();
        let most = Counter::ALL.iter().fold(Counters::default(), |all, &counter| all.with(counter, u64::MAX));
        for model in estimator.table().models() {
            for units in [0, 1, u32::MAX] {
                let hardware = Hardware { units: Some(units), max_clock_mhz: Some(u32::MAX), ..model.into() };
                for &tier in Tier::ALL {
                    let e = estimator.estimate(hardware, &window(tier, 86_400_000, most));
                    assert!(e.bound.best() <= e.bound.high(), "{}", model.name);
                }
            }
        }
    }

    #[test]
    fn a_declared_format_moves_best_and_nothing_else() {
        let estimator = Estimator::shipped();
        let model = estimator.table().find(None, H100);
        let counters = told().with(Counter::TensorCycles, 59_400_000_000);
        let e = |hardware: Hardware<'_>| estimator.estimate(hardware, &window(Tier::B, 60_000, counters));
        let plain = e(model.into());
        for (format, best) in [(Format::Fp8, 64_232), (Format::Bf16, 32_116), (Format::Fp4, 32_116)] {
            let told = e(Hardware { declared: Some(format), ..model.into() });
            assert_eq!(told.bound.best().tera(), best, "{format:?}");
            assert_eq!((told.bound.low(), told.bound.high()), (plain.bound.low(), plain.bound.high()));
        }
    }

    #[test]
    fn what_is_said_of_utilisation_narrows_what_is_likely_and_leaves_the_bound() {
        let estimator = Estimator::shipped();
        let a100 = estimator.table().find(None, "NVIDIA A100-SXM4-80GB");
        let day = 86_400_000;
        let silent = estimator.hours(a100, day, None);
        let told = estimator.hours(a100, day, Some(400));
        assert_eq!(told.executed.bound.high(), silent.executed.bound.high());
        assert_eq!(told.executed.bound.low(), Operations::ZERO);
        let spread = |hours: &Hours| hours.model.high().tera() / hours.model.low().tera();
        assert!(spread(&told) < spread(&silent));
        // 0.40 x 0.76 of 1410 MHz x 86400 s x 108 x 2048.
        assert_eq!(told.model.best().tera(), 8_191_438);
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
        assert_eq!(estimated(H100, Tier::E, Counters::default()), "0 <= 14841 <= 128464 (6530..26121)");
    }

    #[test]
    fn of_an_unknown_model_nothing_is_known_from_below_and_much_is_possible() {
        let counters = told().with(Counter::TensorCycles, 59_400_000_000);
        let e = |name| estimated(name, Tier::B, counters);
        // 59.4e9 x 148 x 8192: the fastest there is gives best; low is nothing; high is up to five of it.
        assert_eq!(e("NVIDIA GB300"), "34208 <= 72018 <= 453711 (56173..75619)");
        assert_eq!(e("NVIDIA Unheard Of"), "0 <= 72018 <= 453711 (0..75619)");
        let all = told().with(Counter::TensorCycles, 118_800_000_000);
        let estimator = Estimator::shipped();
        let fastest = estimator.table().find(None, "NVIDIA GB300");
        assert_eq!(estimator.peak_ops_per_ms(None), estimator.peak_ops_per_ms(fastest) * 5);
        assert_eq!(estimated("NVIDIA Unheard Of", Tier::B, all), "0 <= 144035 <= 907421 (0..151237)");
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
        fn shares_add_up_in_best_to_the_integer_and_stay_inside_the_whole(
            active in 0_u64..60_000_000_000, weights in proptest::collection::vec(0_u64..1_000_000, 1..9), told: bool,
        ) {
            let estimator = Estimator::shipped();
            let counters = Counters::default().with(Counter::TensorCycles, active);
            let whole = estimator.estimate(estimator.table().find(None, H100), &window(Tier::B, 60_000, counters));
            let all: u64 = weights.iter().sum();
            prop_assume!(all > 0);
            let (mut from, mut best, mut low, mut high) = (0, 0, 0, 0);
            for weight in &weights {
                let share = whole.shared(from, from + weight, all, told);
                from += weight;
                best += share.bound.best().tera();
                low += share.calibrated.low().tera();
                high += share.calibrated.high().tera();
                prop_assert!(share.bound.high() <= whole.bound.high());
                prop_assert_eq!(share.bound.low(), Operations::ZERO, "what one did nobody knows for certain");
            }
            prop_assert_eq!(best, whole.bound.best().tera());
            if told {
                // Both ends are rounded by themselves, and an end that would pass the other one moves outwards.
                let ends = (whole.calibrated.low().tera(), whole.calibrated.high().tera());
                prop_assert_eq!(low, ends.0);
                prop_assert!((ends.1..=ends.1 + weights.len() as u64).contains(&high), "{} {:?}", high, ends);
            }
        }
    }
}
