//! The last readings of one accelerator, in a fixed place of about 1.4 kB.

use super::series::Series;
use crate::{
    reading::{Ratio, Reading},
    window::{Counter, Counters},
};

/// Readings kept. Those within the same second are averaged into one.
pub(super) const KEPT: usize = 64;
/// Time of one point.
const SLOT_MS: u64 = 1000;
/// A point does not have this value.
const UNKNOWN: u32 = u32::MAX;

/// What is kept of a reading, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    /// Milliwatts.
    Power,
    /// Parts per million of all cycles.
    Tensor,
    /// Part of the time with a kernel, per mille.
    Busy,
    /// Megabytes a second over NVLink, both directions.
    Nvlink,
}

/// One second, or one reading where they are rarer.
#[derive(Clone, Copy, Debug)]
struct Point {
    slot: u32,
    values: [u32; 4],
}

impl Point {
    fn get(&self, channel: Channel) -> Option<u32> {
        Some(self.values[channel as usize]).filter(|&value| value != UNKNOWN)
    }
}

/// Where cumulative counters stood.
#[derive(Clone, Copy, Debug)]
struct Stand {
    at_ms: u64,
    energy_mj: Option<u64>,
    tensor: Option<u64>,
    elapsed: Option<u64>,
    busy_us: Option<u64>,
    nvlink: Option<u64>,
}

/// The last readings of one accelerator, oldest overwritten first.
#[derive(Clone, Debug)]
pub struct History {
    points: [Point; KEPT],
    /// Where the next goes.
    next: usize,
    len: usize,
    /// Readings that were averaged into each value of the last point.
    averaged: [u32; 4],
    before: Option<Stand>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            points: [Point { slot: 0, values: [UNKNOWN; 4] }; KEPT],
            next: 0,
            len: 0,
            averaged: [0; 4],
            before: None,
        }
    }
}

impl History {
    /// Takes one reading at `boot_ms` since boot. Time that goes back begins anew.
    pub fn push(&mut self, boot_ms: u64, reading: &Reading) {
        let stand = Stand::of(boot_ms, reading);
        let values = [
            reading.power_mw.or_else(|| self.before.and_then(|before| stand.power_mw(&before))),
            reading
                .activity
                .tensor
                .map(|ratio| ratio.billionths() / 1000)
                .or_else(|| self.before.and_then(|before| stand.tensor_ppm(&before))),
            reading
                .busy
                .map(|ratio| ratio.billionths() / 1_000_000)
                .or_else(|| self.before.and_then(|before| stand.busy_per_mille(&before))),
            nvlink_mb_s(reading).or_else(|| self.before.and_then(|before| stand.nvlink_mb_s(&before))),
        ];
        self.before = Some(stand);
        let slot = u32::try_from(boot_ms / SLOT_MS).unwrap_or(UNKNOWN);
        let last = self.len.checked_sub(1).map(|_| (self.next + KEPT - 1) % KEPT);
        match last.map(|last| (last, self.points[last].slot)) {
            Some((_, before)) if slot < before => {
                self.clear();
                self.append(slot, values);
            }
            Some((last, before)) if slot == before => self.average(last, values),
            _ => self.append(slot, values),
        }
    }

    fn append(&mut self, slot: u32, values: [Option<u32>; 4]) {
        self.averaged = values.map(|value| u32::from(value.is_some()));
        let values = values.map(|value| value.map_or(UNKNOWN, |value| value.min(UNKNOWN - 1)));
        self.points[self.next] = Point { slot, values };
        self.next = (self.next + 1) % KEPT;
        self.len = (self.len + 1).min(KEPT);
    }

    fn average(&mut self, last: usize, values: [Option<u32>; 4]) {
        for ((mean, count), value) in self.points[last].values.iter_mut().zip(&mut self.averaged).zip(values)
        {
            let Some(value) = value else { continue };
            let sum = if *mean == UNKNOWN { 0 } else { u64::from(*mean) * u64::from(*count) };
            *count = count.saturating_add(1);
            let new = (sum + u64::from(value)) / u64::from(*count);
            *mean = u32::try_from(new).unwrap_or(UNKNOWN - 1).min(UNKNOWN - 1);
        }
    }

    /// Forgets all: what comes is somebody else's.
    pub fn clear(&mut self) {
        *self = Self { before: self.before, ..Self::default() };
    }

    fn points(&self) -> impl Iterator<Item = &Point> {
        let start = self.next + KEPT - self.len;
        (0..self.len).map(move |index| &self.points[(start + index) % KEPT])
    }

    fn between(&self, from_ms: u64, to_ms: u64) -> impl Iterator<Item = &Point> {
        self.points().filter(move |point| {
            let start = u64::from(point.slot) * SLOT_MS;
            start + SLOT_MS > from_ms && start < to_ms
        })
    }

    /// How many points lie in a time.
    pub(super) fn readings(&self, from_ms: u64, to_ms: u64) -> usize {
        self.between(from_ms, to_ms).count()
    }

    /// `from_ms`, or as far before it as `wanted` points need.
    pub(super) fn reach(&self, from_ms: u64, to_ms: u64, wanted: usize) -> u64 {
        let until = self.between(0, to_ms).count();
        let first = self.between(0, to_ms).nth(until.saturating_sub(wanted));
        first.map_or(from_ms, |point| from_ms.min(u64::from(point.slot) * SLOT_MS))
    }

    /// One channel of a time, as far as it is known.
    pub(super) fn series(&self, channel: Channel, from_ms: u64, to_ms: u64) -> Series {
        let mut series = Series::new(match channel {
            // What a sensor at rest still moves by.
            Channel::Power => 1_000.0,
            Channel::Tensor => 500.0,
            Channel::Busy | Channel::Nvlink => 10.0,
        });
        for point in self.between(from_ms, to_ms) {
            if let Some(value) = point.get(channel) {
                series.push(point.slot, f64::from(value));
            }
        }
        series
    }

    /// Part of the common readings, per mille, in which both drew little for themselves and only one had a kernel.
    pub(super) fn waiting(&self, other: &Self, from_ms: u64, to_ms: u64, fewest: usize) -> Option<i32> {
        let little = |history: &Self| {
            let top = history.series(Channel::Power, from_ms, to_ms).high()?;
            Some(move |power: u32| f64::from(power) <= top * 0.6)
        };
        let (ours, theirs) = (little(self)?, little(other)?);
        let (mut common, mut waiting) = (0_usize, 0_usize);
        let mut others = other.between(from_ms, to_ms).peekable();
        for point in self.between(from_ms, to_ms) {
            while others.next_if(|other| other.slot < point.slot).is_some() {}
            let Some(other) = others.peek().filter(|other| other.slot == point.slot) else { continue };
            let power = point.get(Channel::Power).zip(other.get(Channel::Power));
            let busy = point.get(Channel::Busy).zip(other.get(Channel::Busy));
            let (Some(power), Some(busy)) = (power, busy) else { continue };
            common += 1;
            let one_only = busy.0.min(busy.1) <= 300 && busy.0.max(busy.1) >= 850;
            waiting += usize::from(one_only && ours(power.0) && theirs(power.1));
        }
        let part = (waiting * 1000).checked_div(common).filter(|_| common >= fewest)?;
        i32::try_from(part).ok()
    }
}

fn nvlink_mb_s(reading: &Reading) -> Option<u32> {
    let (tx, rx) = reading.traffic.nvlink_tx.zip(reading.traffic.nvlink_rx)?;
    u32::try_from(tx.saturating_add(rx) / 1_000_000).ok()
}

impl Stand {
    fn of(at_ms: u64, reading: &Reading) -> Self {
        let get = |counter| Counters::get(&reading.totals, counter);
        let both = get(Counter::NvlinkTxBytes).zip(get(Counter::NvlinkRxBytes));
        Self {
            at_ms,
            energy_mj: reading.energy_mj,
            tensor: get(Counter::TensorCycles),
            elapsed: get(Counter::ElapsedCycles),
            busy_us: get(Counter::BusyMicros),
            nvlink: both.map(|(tx, rx)| tx.saturating_add(rx)),
        }
    }

    /// What a counter added since `before`, and in how many milliseconds.
    fn added(&self, before: &Self, counter: impl Fn(&Self) -> Option<u64>) -> Option<(u64, u64)> {
        let elapsed = self.at_ms.checked_sub(before.at_ms).filter(|&elapsed| elapsed > 0)?;
        Some((counter(self)?.checked_sub(counter(before)?)?, elapsed))
    }

    fn power_mw(&self, before: &Self) -> Option<u32> {
        let (mj, ms) = self.added(before, |stand| stand.energy_mj)?;
        u32::try_from(mj.checked_mul(1000)? / ms).ok()
    }

    fn tensor_ppm(&self, before: &Self) -> Option<u32> {
        let (tensor, _) = self.added(before, |stand| stand.tensor)?;
        let (elapsed, _) = self.added(before, |stand| stand.elapsed)?;
        let part = u128::from(tensor) * 1_000_000 / u128::from(elapsed.max(1));
        u32::try_from(part).ok().filter(|&ppm| ppm <= Ratio::ONE.billionths() / 1000)
    }

    fn busy_per_mille(&self, before: &Self) -> Option<u32> {
        let (us, ms) = self.added(before, |stand| stand.busy_us)?;
        u32::try_from(us / ms).ok().map(|part| part.min(1000))
    }

    fn nvlink_mb_s(&self, before: &Self) -> Option<u32> {
        let (bytes, ms) = self.added(before, |stand| stand.nvlink)?;
        u32::try_from(bytes / 1000 / ms).ok()
    }
}
