//! What one window speaks for, each piece with its physical reason.
//!
//! Ratios of one kind of work to another are asked rather than levels: they stay the same when a run slows down,
//! waits, or is capped. What is asked of levels is only whether there is any of it.

use crate::{
    features::Feature,
    table::Hardware,
    window::{Counter, Window},
};

/// Thousandths of a nat for a minute, and what was seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Evidence {
    pub(super) training: i64,
    pub(super) inference: i64,
    pub(super) other: i64,
    pub(super) memory_bound: bool,
    pub(super) exchange: bool,
    pub(super) waiting: bool,
    pub(super) no_tensor: bool,
}

/// What of a window evidence rests on.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Parts per million of the cycles at the measured, or else the table clock.
    tensor: Option<u64>,
    /// The same.
    sm: Option<u64>,
    /// Parts per million of the time.
    dram: Option<u64>,
    busy: Option<u64>,
    /// 16-bit matrix operations, in millions of millions, as if each active tensor cycle did its most.
    tera: Option<u64>,
    nvlink: Option<Both>,
    pcie: Option<Both>,
    /// Mean power, per mille of the board's limit.
    power: Option<u64>,
}

/// Traffic in both directions.
#[derive(Clone, Copy, Debug)]
struct Both {
    less: u64,
    more: u64,
    /// Of the lesser direction, bytes a second.
    rate: u64,
}

impl Seen {
    fn of(hardware: &Hardware<'_>, window: &Window) -> Self {
        let millis = u128::from(window.span.millis().max(1));
        let get = |counter| window.counters.get(counter);
        let table = hardware.model.map(|model| u128::from(model.table_clock_mhz) * millis * 1000);
        let cycles = get(Counter::ElapsedCycles).map(u128::from).or(table);
        let part = |value: Option<u64>, whole: Option<u128>| {
            let (value, whole) = value.zip(whole)?;
            u64::try_from(u128::from(value) * 1_000_000 / whole.max(1)).ok()
        };
        let both = |one, two| {
            let (one, two) = (get(one)?, get(two)?);
            let less = one.min(two);
            let rate = u64::try_from(u128::from(less) * 1000 / millis).ok()?;
            Some(Both { less, more: one.max(two), rate })
        };
        let tera = get(Counter::TensorCycles).zip(hardware.model).map(|(cycles, model)| {
            let per_clock = hardware.part(model, u128::from(model.ops_per_clock));
            u64::try_from(u128::from(cycles) * per_clock / 1_000_000_000_000).unwrap_or(u64::MAX)
        });
        let power = get(Counter::EnergyMicrojoules).zip(hardware.model).map(|(energy, model)| {
            let limit = u128::from(model.power_w.max(1)) * millis * 1000;
            u64::try_from(u128::from(energy) * 1000 / limit).unwrap_or(u64::MAX)
        });
        Self {
            tensor: part(get(Counter::TensorCycles), cycles),
            sm: part(get(Counter::SmCycles), cycles),
            dram: part(get(Counter::DramMicros), Some(millis * 1000)),
            busy: part(get(Counter::BusyMicros), Some(millis * 1000)),
            tera,
            nvlink: both(Counter::NvlinkTxBytes, Counter::NvlinkRxBytes),
            pcie: both(Counter::PcieTxBytes, Counter::PcieRxBytes),
            power,
        }
    }

    /// Nothing ran. Of power alone, and where utilisation was asked once or twice (it tells about the second before),
    /// only where power does not move: the least kernel makes it.
    fn idle(&self, window: &Window) -> bool {
        if window.features.get(Feature::Waiting).is_some_and(|waiting| waiting > 0) {
            return false;
        }
        let below = |value: Option<u64>, most: u64| value.is_none_or(|value| value < most);
        let still = window.features.get(Feature::PowerSpread).is_some_and(|spread| spread < 1_500);
        if self.busy.is_some() || self.sm.is_some() {
            let often = self.sm.is_some() || self.tensor.is_some() || window.ticks >= 3;
            let nothing = below(self.busy, 5_000) && below(self.sm, 3_000) && below(self.tensor, 500);
            return nothing && (often || still);
        }
        if self.tensor.is_some() || self.dram.is_some() {
            return below(self.tensor, 500) && below(self.dram, 3_000);
        }
        still && self.power.is_some_and(|power| power < 350)
    }
}

impl Evidence {
    /// No minute says more than this for or against anything, in thousandths of a nat.
    pub(super) const MOST: i64 = 2_500;

    /// `None`: nothing ran.
    pub(super) fn of(hardware: &Hardware<'_>, window: &Window) -> Option<Self> {
        let seen = Seen::of(hardware, window);
        if seen.idle(window) {
            return None;
        }
        let mut evidence = Self::default();
        evidence.ask_waiting(window);
        match seen.tensor {
            Some(tensor) => {
                if evidence.ask_tensor(&seen, tensor) {
                    evidence.ask_memory(&seen, tensor);
                    evidence.ask_exchange(hardware, &seen, window);
                    evidence.ask_company(window);
                }
            }
            None => evidence.ask_memory_alone(&seen),
        }
        Some(evidence)
    }

    fn add(&mut self, training: i64, inference: i64, other: i64) {
        self.training += training;
        self.inference += inference;
        self.other += other;
    }

    /// One of two accelerators whose power moves together works outside (it writes a checkpoint) and the other
    /// spins in a collective at little power: a gang that steps together. Serving that stops is idle everywhere.
    fn ask_waiting(&mut self, window: &Window) {
        let waiting = window.features.get(Feature::Waiting).map_or(0, i64::from);
        let strength = ramp(waiting, &[(10, 0), (30, 1_500), (100, 2_200)]);
        self.add(strength, -strength / 2, -strength / 2);
        self.waiting = strength > 0;
    }

    /// Whether matrix units took part. Rendering and most simulations leave them alone; so does a model that
    /// answers one request at a time with plain vector kernels, which then reads memory all the time.
    fn ask_tensor(&mut self, seen: &Seen, tensor: u64) -> bool {
        let of_sm = seen.sm.map(|sm| tensor.saturating_mul(1000) / sm.max(1));
        if tensor >= 3_000 && of_sm.is_none_or(|of_sm| of_sm >= 10) {
            return true;
        }
        self.no_tensor = true;
        if seen.dram.is_some_and(|dram| dram >= 350_000) {
            self.add(-1_000, 300, 300);
        } else {
            self.add(-1_000, -700, 1_500);
        }
        false
    }

    /// Generating tokens reads all weights for few operations; training and prefill use what they read often.
    fn ask_memory(&mut self, seen: &Seen, tensor: u64) {
        let Some(dram) = seen.dram else { return };
        let ratio = i64::try_from(dram.saturating_mul(1000) / tensor.max(1)).unwrap_or(i64::MAX);
        let decode = ramp(ratio, &[(1_900, 0), (3_000, 700), (6_000, 1_500)]);
        self.add(-decode, decode, -decode / 3);
        self.memory_bound = ratio >= 2_500;
        // Training and prefill alike.
        self.add(0, 0, -ramp(ratio, &[(1_000, 400), (2_100, 0)]));
    }

    /// Memory that is busy nearly all the time, where matrix units cannot be seen: training leaves it time.
    fn ask_memory_alone(&mut self, seen: &Seen) {
        let dram = seen.dram.map_or(0, |dram| i64::try_from(dram).unwrap_or(0));
        let bound = ramp(dram, &[(500_000, 0), (750_000, 600)]);
        self.add(-bound, bound, 0);
        self.memory_bound = bound > 0;
    }

    /// Gradients are exchanged evenly in both directions, and their size goes with the parameters: a few megabytes
    /// for each 1e12 operations, up to a hundred where steps are short. Activations of a model that is split go with
    /// the tokens: `(n - 1) / (3 h)` bytes an operation over `n` accelerators at a hidden size of `h`, which is 30 to
    /// 70 megabytes over two, 90 to 200 over four, 200 to 500 over eight. So between, only company of more than four
    /// tells: what is so little for its size cannot be a split model.
    fn ask_exchange(&mut self, hardware: &Hardware<'_>, seen: &Seen, window: &Window) {
        let Some(tera) = seen.tera.filter(|tera| *tera > 0 && !self.memory_bound) else { return };
        let per_tera = |both: &Both| i64::try_from(both.less / 1_000_000 / tera).unwrap_or(i64::MAX);
        let pcie = seen.pcie.filter(|pcie| pcie.rate >= 300_000_000 && pcie.less >= pcie.more / 2);
        let strength = match (seen.nvlink, pcie) {
            (Some(nvlink), _) if nvlink.rate >= 100_000_000 => {
                if nvlink.less < nvlink.more / 5 * 4 {
                    // A pipeline that only goes forward, or prompts that are handed on.
                    self.add(-300, 300, 0);
                    return;
                }
                let some = if all_together(window) { 900 } else { 0 };
                ramp(per_tera(&nvlink), &[(2, 0), (4, 1_200), (15, 1_200), (25, some), (90, some), (140, 0)])
            }
            // Boards that are always joined by NVLink use PCIe for this only where they were told to, and evenly
            // to the host's memory and back where the optimiser is there.
            (Some(_), Some(pcie)) if hardware.model.is_some_and(|model| model.name.contains("SXM")) => {
                ramp(per_tera(&pcie), &[(6, 0), (15, 1_200)])
            }
            (_, Some(pcie)) => ramp(per_tera(&pcie), &[(6, 0), (10, 500), (15, 500), (25, 0)]),
            (Some(_), None) if window.features.get(Feature::Others).is_some_and(|others| others > 0) => {
                self.add(-50, 50, 0);
                return;
            }
            _ => return,
        };
        self.add(strength, -strength / 2, -strength);
        self.exchange = strength >= 300;
    }

    /// Accelerators that answer their own requests do not move together; those of one training do, as do those
    /// that share a model, and several small trainings do not.
    fn ask_company(&mut self, window: &Window) {
        let others = window.features.get(Feature::Others).unwrap_or(0);
        let together = window.features.get(Feature::TensorTogether).map(i64::from);
        let Some(together) = together.filter(|_| others >= 3) else { return };
        let apart = ramp(together, &[(100, 50), (300, 0)]);
        self.add(-apart, apart, 0);
    }
}

/// Whether two of three of at least five others move with this one.
fn all_together(window: &Window) -> bool {
    let others = window.features.get(Feature::Others).unwrap_or(0);
    let company = window.features.get(Feature::Company).unwrap_or(0);
    others >= 5 && i64::from(company) * 3 >= i64::from(others) * 2
}

/// The value at `x` of straight lines through points in order; level outside them.
pub(super) fn ramp(x: i64, points: &[(i64, i64)]) -> i64 {
    let after = points.partition_point(|(at, _)| *at <= x);
    match (after.checked_sub(1).and_then(|before| points.get(before)), points.get(after)) {
        (Some((_, level)), None) | (None, Some((_, level))) => *level,
        (Some((x0, y0)), Some((x1, y1))) => y0 + (x - x0) * (y1 - y0) / (x1 - x0).max(1),
        (None, None) => 0,
    }
}
