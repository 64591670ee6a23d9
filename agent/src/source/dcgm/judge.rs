//! What the values of one device mean: pure, so that every strange one can be written by hand.

use std::time::Duration;

use tokio::time::Instant;
use weighbridge_meter::{
    Condition, Counters, DeviceState, GapCause, Model, Reading, Tier,
    reading::{Activity, Ratio, Traffic},
    window::Counter,
};

use super::{
    answer::Row,
    fields::{Field, Scalar},
    totals::{Calibration, Scale},
};
use crate::source::exposition::fleet::INTERVALS;

/// No accelerator is near these: an exporter that says so is not believed.
const FASTEST_CLOCK_MHZ: f64 = 5000.0;
const MOST_POWER_W: f64 = 100_000.0;
const FASTEST_LINKS: f64 = 1e14;

/// XID 79: the GPU has fallen off the bus.
const OFF_THE_BUS: u64 = 79;

/// What earlier looks at a device left behind.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// When tensor activity was last known.
    tensor: Option<Instant>,
    /// When the clock was.
    clock: Option<Instant>,
    calibration: Calibration,
    /// What it was calibrated for.
    units: Option<u32>,
}

/// What one look at a device gave.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub(super) state: DeviceState,
    pub(super) tier: Tier,
    pub(super) conditions: Vec<Condition>,
    /// Whether these values cannot stay as they are on a live device.
    pub(super) must_move: bool,
}

/// The device as far as its values depend on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind<'a> {
    pub(super) model: Option<&'a Model>,
    /// Its own units, where that is not all its model has.
    pub(super) units: Option<u32>,
    /// Whether it is an instance: what is printed for it of the board is the whole board's.
    pub(super) instance: bool,
}

/// Judges one row.
pub(super) fn judge(
    memory: &mut Memory,
    now: Instant,
    interval: Duration,
    kind: Kind<'_>,
    row: &Row,
) -> Judged {
    let units = kind.units.or(kind.model.map(|model| model.units));
    if std::mem::replace(&mut memory.units, units) != units {
        memory.calibration = Calibration::default();
    }
    let clock = clock(row.get(Field::SmClock));
    let elapsed_total = row.get(Field::ElapsedTotal).and_then(|scalar| scalar.whole);
    let known_clock = clock.as_ref().ok().copied().flatten();
    let scale = memory.calibration.look(now, interval, known_clock, elapsed_total, units);
    let state = match reading(row, kind, scale) {
        _ if row.disagrees => DeviceState::Missing(GapCause::Implausible),
        Err(Implausible) => DeviceState::Missing(GapCause::Implausible),
        Ok(_) if row.is_blank() => {
            let lost = row.get(Field::Xid).is_some_and(|xid| xid.whole == Some(OFF_THE_BUS));
            DeviceState::Missing(if lost { GapCause::DeviceLost } else { GapCause::ReadFailed })
        }
        Ok(reading) => DeviceState::Read(reading),
    };
    if let DeviceState::Read(reading) = &state {
        let tensor = reading.activity.tensor.is_some() || reading.totals.get(Counter::TensorCycles).is_some();
        memory.tensor = if tensor { Some(now) } else { memory.tensor };
        memory.clock = if reading.sm_clock_mhz.is_some() { Some(now) } else { memory.clock };
    }
    // A single blank changes nothing about a device.
    let lately = |at: Option<Instant>| at.is_some_and(|at| now.duration_since(at) <= interval * INTERVALS);
    let tier = if lately(memory.tensor) { Tier::C } else { Tier::D };
    let mut conditions = Vec::new();
    match scale {
        Scale::Refused => conditions.push(Condition::CountersRefused),
        Scale::Unknown if elapsed_total.is_some() => conditions.push(Condition::Calibrating),
        _ => {}
    }
    if tier == Tier::C && !lately(memory.clock) && kind.model.is_some() {
        conditions.push(Condition::ClockAssumed);
    }
    Judged { state, tier, conditions, must_move: must_move(row) }
}

/// A value that cannot be.
#[derive(Debug)]
struct Implausible;

fn reading(row: &Row, kind: Kind<'_>, scale: Scale) -> Result<Reading, Implausible> {
    let ratio = |field| fraction(row.get(field), 1.0);
    let activity = Activity {
        tensor: ratio(Field::Tensor)?,
        hmma: ratio(Field::Hmma)?,
        imma: ratio(Field::Imma)?,
        dfma: ratio(Field::Dfma)?,
        fp64: ratio(Field::Fp64)?,
        fp32: ratio(Field::Fp32)?,
        fp16: ratio(Field::Fp16)?,
        sm: ratio(Field::Sm)?,
        integer: ratio(Field::Integer)?,
    };
    let sm_clock_mhz = clock(row.get(Field::SmClock))?;
    let assumed = kind.model.map(|model| model.table_clock_mhz);
    let core = Reading {
        sm_clock_mhz,
        assumed_clock_mhz: assumed.filter(|_| sm_clock_mhz.is_none() && activity.tensor.is_some()),
        activity,
        dram: ratio(Field::Dram)?,
        totals: cycles(row, scale),
        ..Reading::default()
    };
    // Power, energy, utilisation and links of a split device are printed with each of its instances.
    let (busy, power_mw, energy_mj) = (busy(row)?, power_mw(row.get(Field::Power))?, energy_mj(row)?);
    if kind.instance {
        return Ok(core);
    }
    let bytes = |field| row.get(field).and_then(rate);
    let totals = [(Field::PcieTxTotal, Counter::PcieTxBytes), (Field::PcieRxTotal, Counter::PcieRxBytes)];
    Ok(Reading {
        busy,
        power_mw,
        energy_mj,
        traffic: Traffic {
            nvlink_tx: bytes(Field::NvlinkTx),
            nvlink_rx: bytes(Field::NvlinkRx),
            pcie_tx: bytes(Field::PcieTx),
            pcie_rx: bytes(Field::PcieRx),
            infiniband: None,
        },
        totals: totals.into_iter().fold(core.totals, |totals, (field, counter)| {
            let total = row.get(field).and_then(|scalar| scalar.whole);
            total.map_or(totals, |total| totals.with(counter, total))
        }),
        ..core
    })
}

/// Cumulative cycles, as far as their scale is known.
fn cycles(row: &Row, scale: Scale) -> Counters {
    let total = |field| row.get(field).and_then(|scalar| scalar.whole);
    // Two pipes that do FP64 matrix work, on older and on newer architectures.
    let dfma = match (total(Field::DfmaTotal), total(Field::DmmaTotal)) {
        (Some(dfma), Some(dmma)) => dfma.checked_add(dmma),
        (dfma, dmma) => dfma.or(dmma),
    };
    let all = [
        (Counter::ElapsedCycles, total(Field::ElapsedTotal)),
        (Counter::TensorCycles, total(Field::MmaTotal)),
        (Counter::HmmaCycles, total(Field::HmmaTotal)),
        (Counter::ImmaCycles, total(Field::ImmaTotal)),
        (Counter::DfmaCycles, dfma),
        (Counter::Fp64Cycles, total(Field::Fp64Total)),
        (Counter::Fp32Cycles, total(Field::Fp32Total)),
        (Counter::Fp16Cycles, total(Field::Fp16Total)),
        (Counter::SmCycles, total(Field::SmTotal)),
        (Counter::IntegerCycles, total(Field::IntegerTotal)),
    ];
    all.into_iter().fold(Counters::default(), |counters, (counter, total)| {
        total.and_then(|total| scale.of_one(total)).map_or(counters, |total| counters.with(counter, total))
    })
}

/// Nothing stays nothing; a part of a whole must be one.
fn fraction(scalar: Option<Scalar>, whole: f64) -> Result<Option<Ratio>, Implausible> {
    scalar.map(|scalar| Ratio::from_fraction(scalar.number / whole).ok_or(Implausible)).transpose()
}

fn busy(row: &Row) -> Result<Option<Ratio>, Implausible> {
    match (row.get(Field::GpuUtil), row.get(Field::GpuUtilRatio)) {
        (Some(percent), _) => fraction(Some(percent), 100.0),
        // One name for a percentage and, since 4.7, for a fraction. What could be either is taken for a
        // fraction: a busy device must not look idle.
        (None, Some(either)) if either.number > 1.01 => fraction(Some(either), 100.0),
        (None, either) => fraction(either, 1.0),
    }
}

/// A clock of zero is that of a device that does not say.
fn clock(scalar: Option<Scalar>) -> Result<Option<u32>, Implausible> {
    Ok(limited(scalar, FASTEST_CLOCK_MHZ, 1.0)?.filter(|mhz| *mhz > 0))
}

fn power_mw(scalar: Option<Scalar>) -> Result<Option<u32>, Implausible> {
    limited(scalar, MOST_POWER_W, 1000.0)
}

/// A value from 0 to `most`, in units `scale` times as small.
fn limited(scalar: Option<Scalar>, most: f64, scale: f64) -> Result<Option<u32>, Implausible> {
    let Some(Scalar { number, .. }) = scalar else { return Ok(None) };
    if !(0.0..=most).contains(&number) {
        return Err(Implausible);
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 1e8")]
    Ok(Some((number * scale).round() as u32))
}

fn energy_mj(row: &Row) -> Result<Option<u64>, Implausible> {
    row.get(Field::Energy).map(|scalar| scalar.whole.ok_or(Implausible)).transpose()
}

/// Bytes a second. Traffic is context: what cannot be is left out, and the rest of the reading stands.
fn rate(scalar: Scalar) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be at most 1e14")]
    (0.0..=FASTEST_LINKS).contains(&scalar.number).then(|| scalar.number.round() as u64)
}

/// What the board's limits are, in milliwatts.
pub(super) fn power_limit_mw(row: &Row) -> Option<u32> {
    power_mw(row.get(Field::PowerLimit)).ok().flatten().filter(|mw| *mw > 0)
}

/// The highest SM clock in MHz.
pub(super) fn max_sm_clock_mhz(row: &Row) -> Option<u32> {
    clock(row.get(Field::MaxSmClock)).ok().flatten()
}

/// Memory in bytes.
pub(super) fn memory_bytes(row: &Row) -> Option<u64> {
    row.get(Field::Memory)?.whole?.checked_mul(1024 * 1024).filter(|bytes| *bytes > 0)
}

/// Energy grows in whatever draws power, and power trembles in whatever works.
fn must_move(row: &Row) -> bool {
    let some = |field| row.get(field).is_some_and(|scalar| scalar.number > 0.0);
    let works = [Field::GpuUtil, Field::GpuUtilRatio, Field::Tensor].into_iter().any(some);
    if some(Field::Energy) { works || some(Field::Power) } else { works && some(Field::Power) }
}
