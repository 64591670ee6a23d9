//! What rows mean: which of them speak for now, and what reading they make. Pure; time is an argument.
//!
//! A controller shows points in time, each with the moment at which it took it, by a clock of its own. So rows
//! are only ever compared with other rows of the same controller: with the newest one beside them, and with what
//! the look before saw.

use std::collections::HashMap;

use weighbridge_meter::{
    DeviceState, GapCause, Reading, UtcMillis,
    reading::{Activity, Ratio, Traffic},
    window::{Counter, Counters},
};

use super::{
    quantity::whole,
    rows::{Property, Row, Said},
};

/// A row that is so much older than the newest one beside it says nothing about now: three of the looks that
/// are usual where something is asked over a network.
const OLDEST_MS: i64 = 90_000;

/// Controllers that renew their values less often than this are not waited for.
const LONGEST_RENEWAL_MS: u64 = 300_000;

/// Faster clocks, links and boards there are not.
const FASTEST_CLOCK_MHZ: f64 = 10_000.0;
const FASTEST_LINK_GBPS: f64 = 100_000.0;
const MOST_WATTS: f64 = 20_000.0;

/// What is remembered of one device from look to look.
#[derive(Debug, Default)]
pub(super) struct Past {
    seen: HashMap<(Property, Option<String>), Seen>,
    /// When it was last judged, on the monotonic clock.
    judged_ms: Option<u64>,
    /// Between its last two looks.
    look_ms: Option<u64>,
    busy: BusyTime,
    /// Whether tensor activity was ever known.
    pub(super) has_tensor: bool,
    /// Whether a clock was ever known.
    pub(super) has_clock: bool,
}

/// The last of a device's values of one kind.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// By the controller's clock.
    at: UtcMillis,
    /// When it was first seen, on ours.
    first_ms: u64,
    /// The shortest time there was between two.
    shortest_ms: Option<u64>,
    /// How many times there were between two.
    renewals: u64,
    /// How often it is renewed, as told.
    told_ms: Option<u64>,
}

impl Past {
    /// Milliseconds between values of the kind that matters most: as told or measured, and no less than between
    /// looks. `None` as long as neither is known.
    pub(super) fn sample_ms(&self) -> Option<u64> {
        let of = |property| {
            self.seen.get(&(property, None)).and_then(|seen: &Seen| seen.told_ms.or(seen.shortest_ms))
        };
        let leading = [Property::Tensor, Property::Sm, Property::Busy, Property::Power];
        // Nobody looks several times a second, but to see something at once.
        let looks = self.look_ms.filter(|millis| *millis >= 1000);
        leading.into_iter().find_map(of).max(looks)
    }

    /// What this look's rows of the device say, `newest` being the latest moment in any row of the controller.
    /// `assumed_mhz` is what to take for a clock that is not there.
    pub(super) fn judge(
        &mut self,
        rows: &[&Row],
        newest: Option<UtcMillis>,
        now_ms: u64,
        assumed_mhz: Option<u32>,
    ) -> DeviceState {
        let before = self.judged_ms.replace(now_ms);
        self.look_ms = before.map(|before| now_ms.saturating_sub(before)).filter(|millis| *millis > 0);
        if rows.is_empty() {
            return DeviceState::Missing(GapCause::NotReported);
        }
        let current: Vec<&Row> =
            rows.iter().copied().filter(|row| self.is_current(row, newest, now_ms)).collect();
        if current.is_empty() {
            return DeviceState::Missing(GapCause::Stale);
        }
        let Some(mut reading) = (Values { current: &current, all: rows }).reading() else {
            return DeviceState::Missing(GapCause::Implausible);
        };
        let busy = current.iter().find_map(|row| match row.said {
            Said::Micros(micros) => Some((micros, row.at)),
            _ => None,
        });
        if let Some(micros) = busy.and_then(|(micros, at)| self.busy.check(micros, at, now_ms)) {
            reading.totals = reading.totals.with(Counter::BusyMicros, micros);
        }
        if reading == Reading::default() {
            // It answered, and there was no value in what it said.
            return DeviceState::Missing(GapCause::ReadFailed);
        }
        self.has_tensor |= reading.activity.tensor.is_some();
        self.has_clock |= reading.sm_clock_mhz.is_some();
        if reading.sm_clock_mhz.is_none() && reading.activity.tensor.is_some() {
            reading.assumed_clock_mhz = assumed_mhz;
        }
        DeviceState::Read(reading)
    }

    /// Whether a row speaks for the time since the look before. One without a moment cannot be judged, and is
    /// believed: resources that are not in a report come without.
    fn is_current(&mut self, row: &Row, newest: Option<UtcMillis>, now_ms: u64) -> bool {
        let Some(at) = row.at else { return !row.stale };
        if row.stale || newest.is_some_and(|newest| newest.since(at) > OLDEST_MS) {
            return false;
        }
        let told = row.interval_ms.filter(|millis| (1..=LONGEST_RENEWAL_MS).contains(millis));
        let key = (row.property, row.port.clone());
        let seen = self.seen.get(&key).copied();
        let advanced = seen.map(|seen| at.since(seen.at));
        match (seen, advanced) {
            // Not renewed since. As long as a renewal is not due yet, it is still what there is.
            (Some(seen), Some(millis)) if (-OLDEST_MS..=0).contains(&millis) => {
                // A single time between two may be that of an outage.
                let measured = seen.shortest_ms.filter(|_| seen.renewals > 1);
                now_ms.saturating_sub(seen.first_ms) < self.holds_ms(told.or(measured).unwrap_or(0))
            }
            // A step back by more than that is somebody setting the controller's clock.
            (_, advanced) => {
                let distance = advanced.and_then(|millis| u64::try_from(millis).ok());
                let distance = distance.filter(|millis| (1..=LONGEST_RENEWAL_MS).contains(millis));
                let shortest_ms = seen.and_then(|seen| seen.shortest_ms).into_iter().chain(distance).min();
                let renewals = seen.map_or(0, |seen| seen.renewals) + u64::from(distance.is_some());
                self.seen.insert(key, Seen { at, first_ms: now_ms, shortest_ms, renewals, told_ms: told });
                true
            }
        }
    }

    /// For how long a value that is not renewed is still the current one. Where looks are as far apart as
    /// renewals or farther, each look has to bring a new one.
    fn holds_ms(&self, renewal: u64) -> u64 {
        // Looks that are much closer together see a late renewal for what it is.
        if self.look_ms.is_some_and(|look| look * 2 <= renewal) { renewal + renewal / 2 } else { renewal }
    }
}

/// The accumulated time with a kernel, if it can be believed.
///
/// Firmware disagrees about its scale: releases of NVIDIA's nsmd hand on milliseconds where others hand on
/// nanoseconds, and what then writes the duration does not know. A counter that runs a million times too slow
/// would make a busy device idle. So it counts only once it has been seen to run at a believable pace, and never
/// again after it has run faster than time.
#[derive(Debug, Default)]
struct BusyTime {
    base: Option<(u64, Option<UtcMillis>, u64)>,
    pace: Pace,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Pace {
    #[default]
    Unknown,
    Believed,
    Refused,
}

impl BusyTime {
    /// Renewals and looks do not fall together.
    const SLACK_US: u64 = 60_000_000;

    /// The counter, if it is believed.
    fn check(&mut self, micros: u64, at: Option<UtcMillis>, now_ms: u64) -> Option<u64> {
        let base = self.base;
        if base.is_none_or(|(last, ..)| last != micros) {
            self.base = Some((micros, at, now_ms));
        }
        if let Some((last, last_at, last_ms)) = base
            && let Some(added) = micros.checked_sub(last)
        {
            let by_theirs = at.zip(last_at).and_then(|(at, last)| u64::try_from(at.since(last)).ok());
            let millis = by_theirs.unwrap_or(now_ms.saturating_sub(last_ms));
            let elapsed = millis.saturating_mul(1000);
            if added > elapsed.saturating_mul(3).saturating_add(Self::SLACK_US) {
                self.pace = Pace::Refused;
                tracing::warn!(added, elapsed, "a controller's busy time runs faster than time: not used");
            } else if self.pace == Pace::Unknown
                && added >= elapsed / 20
                && added > 0
                && added <= elapsed.saturating_add(elapsed / 2)
            {
                self.pace = Pace::Believed;
            }
        }
        (self.pace == Pace::Believed).then_some(micros)
    }
}

/// The rows of one device.
struct Values<'a> {
    /// Those that speak for now.
    current: &'a [&'a Row],
    all: &'a [&'a Row],
}

/// A value that cannot be.
struct Implausible;

impl Values<'_> {
    /// `None` if one of the values cannot be.
    fn reading(&self) -> Option<Reading> {
        self.checked().ok()
    }

    fn checked(&self) -> Result<Reading, Implausible> {
        let activity = Activity {
            tensor: self.ratio(Property::Tensor)?,
            hmma: self.ratio(Property::Hmma)?,
            imma: self.ratio(Property::Imma)?,
            dfma: self.ratio(Property::Dfma)?,
            fp64: self.ratio(Property::Fp64)?,
            fp32: self.ratio(Property::Fp32)?,
            fp16: self.ratio(Property::Fp16)?,
            sm: self.ratio(Property::Sm)?,
            integer: self.ratio(Property::Integer)?,
        };
        // A clock that stands still is one that was not read.
        let clock = self.scaled(Property::Clock, FASTEST_CLOCK_MHZ, 1.0)?.filter(|mhz| *mhz > 0);
        let power = self.scaled(Property::Power, MOST_WATTS, 1000.0)?;
        let narrow = |value: Option<u64>| value.and_then(|value| u32::try_from(value).ok());
        let mut totals = Counters::default();
        if let Some(microjoules) = self.energy(power.is_some())? {
            totals = totals.with(Counter::EnergyMicrojoules, microjoules);
        }
        Ok(Reading {
            sm_clock_mhz: narrow(clock),
            activity,
            busy: self.ratio(Property::Busy)?,
            power_mw: narrow(power),
            dram: self.ratio(Property::Dram)?,
            traffic: Traffic {
                nvlink_tx: self.nvlink(Property::NvlinkDataTx, Property::NvlinkRawTx)?,
                nvlink_rx: self.nvlink(Property::NvlinkDataRx, Property::NvlinkRawRx)?,
                pcie_tx: self.bytes(Property::PcieTx)?,
                pcie_rx: self.bytes(Property::PcieRx)?,
                infiniband: None,
            },
            totals,
            ..Reading::default()
        })
    }

    /// What the whole device said of a property.
    fn number(&self, property: Property) -> Option<f64> {
        let of_device = |row: &&&Row| row.property == property && row.port.is_none();
        self.current.iter().filter(of_device).find_map(|row| match row.said {
            Said::Number(number) => Some(number),
            _ => None,
        })
    }

    fn ratio(&self, property: Property) -> Result<Option<Ratio>, Implausible> {
        let percent = self.number(property);
        percent.map(|percent| Ratio::from_percent(percent).ok_or(Implausible)).transpose()
    }

    /// In smaller units, from 0 up to `most` in its own.
    fn scaled(&self, property: Property, most: f64, scale: f64) -> Result<Option<u64>, Implausible> {
        let number = self.number(property);
        number.map(|number| within(number, most, scale)).transpose()
    }

    /// A total in microjoules. Kilowatt-hours are written with two decimals, so they move in steps of minutes:
    /// where there is power, that is the better one.
    fn energy(&self, has_power: bool) -> Result<Option<u64>, Implausible> {
        let joules = self.scaled(Property::Energy, 1e12, 1e6)?;
        if joules.is_some() || has_power {
            return Ok(joules);
        }
        self.scaled(Property::EnergyKwh, 1e5, 3.6e12)
    }

    /// Gbit/s as bytes a second.
    fn bytes(&self, property: Property) -> Result<Option<u64>, Implausible> {
        self.scaled(property, FASTEST_LINK_GBPS, 125e6)
    }

    /// What was carried, else what went over the wire; of the device, else of all its ports together.
    fn nvlink(&self, data: Property, raw: Property) -> Result<Option<u64>, Implausible> {
        for property in [data, raw] {
            if let Some(bytes) = self.bytes(property)? {
                return Ok(Some(bytes));
            }
        }
        for property in [data, raw] {
            let of_port = |row: &&&Row| row.property == property && row.port.is_some();
            let ports = self.current.iter().filter(of_port);
            let mut sum = 0_u64;
            // Without one of its ports a device's sum is not known.
            let there_are = self.all.iter().filter(of_port).count();
            let mut known = there_are > 0 && ports.clone().count() == there_are;
            for port in ports {
                match port.said {
                    Said::Number(gbps) => sum = sum.saturating_add(within(gbps, FASTEST_LINK_GBPS, 125e6)?),
                    _ => known = false,
                }
            }
            if known {
                return Ok(Some(sum));
            }
        }
        Ok(None)
    }
}

fn within(number: f64, most: f64, scale: f64) -> Result<u64, Implausible> {
    if !(0.0..=most).contains(&number) {
        return Err(Implausible);
    }
    // In two parts: the product of a counter of years is beyond what a double holds exactly.
    let parts = [number.trunc(), number.fract()];
    let [units, scale, rest] = [parts[0], scale, parts[1] * scale].map(whole);
    let product = units.zip(scale).and_then(|(units, scale)| units.checked_mul(scale));
    product.zip(rest).and_then(|(product, rest)| product.checked_add(rest)).ok_or(Implausible)
}

#[cfg(test)]
mod within_tests {
    use super::within;

    #[test]
    fn a_counter_of_years_stays_exact_and_what_cannot_be_is_refused() {
        assert_eq!(within(9.1e9, 1e12, 1e6).ok(), Some(9_100_000_000_000_000));
        assert_eq!(within(12_345_678_901.5, 1e12, 1e6).ok(), Some(12_345_678_901_500_000));
        assert_eq!(within(2_502.25, 1e5, 3.6e12).ok(), Some(9_008_100_000_000_000));
        assert_eq!(within(1e12, 1e12, 1e6).ok(), Some(1_000_000_000_000_000_000));
        for wrong in [-1.0, 1.1e12, f64::NAN, f64::INFINITY] {
            assert!(within(wrong, 1e12, 1e6).is_err(), "{wrong}");
        }
    }
}
