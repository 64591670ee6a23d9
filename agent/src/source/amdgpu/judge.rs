//! What a device's answers mean: pure, so that every strange one can be written by hand.
//!
//! Busy time comes from a cumulative counter, so that nothing between two looks is missed. AMD documents it
//! (ROCm SMI, `rsmi_utilization_count_get`) as a sum of percentages to which the firmware adds every
//! millisecond, and elsewhere (RDC's change log for ROCm 7.13) uses it as if it were something else. So it is
//! not believed before it has agreed with the activity that the driver reports beside it: until then that
//! activity counts, or the counter where it says more, and the device is [`Condition::Calibrating`].
//!
//! Power and energy are those of the whole package, so one of its devices reports them: on the second die of
//! an MI250X both read zero, which means that they are not there, and not that nothing is used.

use weighbridge_meter::{
    Condition, Counters, DeviceState, GapCause, Reading,
    reading::{Ratio, Traffic},
    window::Counter,
};

use super::{
    files::{Answer, Awake, Mode},
    layout::{Metrics, Table},
};

/// A counter grows by this in a millisecond at most: by 100 %.
const FULL_MS: u64 = 100;
/// One percent of a millisecond.
const MICROS_PER_PERCENT_MS: u64 = 10;
/// Looks that a verdict on the counter needs, and how much must have been seen in them: 5 s of full load.
const ENOUGH_LOOKS: u32 = 10;
const ENOUGH: u64 = 5_000 * FULL_MS;
/// Counter and activity may differ by this factor: one is exact, the other was looked at now and then. The
/// units they could be mistaken for differ by ten or more.
const AGREE: u64 = 3;
/// What happened in a longer time, one look at its end does not tell.
const LONGEST_LESSON_MS: u64 = 60_000;

/// What is remembered of one package from look to look.
#[derive(Debug, Default)]
pub(super) struct Judge {
    /// When the driver wrote the table before.
    boot_ns: Option<u64>,
    gfx: Sum,
    memory: Sum,
    scale: Scale,
    busy_us: u64,
    dram_us: u64,
    asleep: Option<Option<u64>>,
    conditions: Vec<Condition>,
    parts: u32,
}

/// Whether the counter counts what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    /// Not known yet; in percent x milliseconds.
    Learning {
        looks: u32,
        reported: u64,
        counted: u64,
    },
    Trusted,
    Refused,
}

impl Default for Scale {
    fn default() -> Self {
        Self::Learning { looks: 0, reported: 0, counted: 0 }
    }
}

/// A sum of 32 bits, which wraps every twelve hours at full load.
#[derive(Clone, Copy, Debug, Default)]
struct Sum(Option<u32>);

/// What a sum did since the look before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing to compare with.
    Unknown,
    Added(u64),
    Fell,
    /// More than time allows.
    TooFast,
}

impl Sum {
    fn step(&mut self, now: Option<u32>, elapsed_ns: Option<u64>) -> Step {
        let before = std::mem::replace(&mut self.0, now);
        let (Some(before), Some(now), Some(elapsed_ns)) = (before, now, elapsed_ns) else {
            return Step::Unknown;
        };
        let added = u64::from(now.wrapping_sub(before));
        // A tenth for the firmware's clock, and 20 ms for when it adds.
        let most = elapsed_ns.saturating_mul(FULL_MS * 11) / 10_000_000 + 20 * FULL_MS;
        match added {
            _ if added <= most => Step::Added(added),
            _ if now < before => Step::Fell,
            _ => Step::TooFast,
        }
    }
}

impl Judge {
    /// For the same package after it was away: nothing counted goes on, what it is stays until it says otherwise.
    pub(super) fn anew(&self) -> Self {
        Self { parts: self.parts, conditions: self.conditions.clone(), ..Self::default() }
    }

    /// What an answer says of the package, or of the first of its partitions if it has several.
    pub(super) fn judge(&mut self, answer: &Answer) -> DeviceState {
        match answer {
            Answer::Asleep(awake_ms) => self.asleep(*awake_ms),
            Answer::Awake(awake) => self.awake(awake),
        }
    }

    /// What made the last reading worse than it could be, in ascending order.
    pub(super) fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    /// As how many devices the package shows itself, as far as is known.
    pub(super) fn parts(&self) -> u32 {
        self.parts.max(1)
    }

    /// A device that is suspended computes nothing: the driver keeps it awake for as long as a queue is open.
    /// That it did nothing since the look before is known if it slept then and was not awake for a millisecond
    /// since. Else it is not known: its counters may have begun anew.
    fn asleep(&mut self, awake_ms: Option<u64>) -> DeviceState {
        let before = self.asleep.replace(awake_ms);
        (self.boot_ns, self.gfx, self.memory) = (None, Sum::default(), Sum::default());
        let slept_through = awake_ms.is_some() && before == Some(awake_ms);
        DeviceState::Read(Reading { busy: slept_through.then_some(Ratio::ZERO), ..Reading::default() })
    }

    fn awake(&mut self, awake: &Awake) -> DeviceState {
        let metrics = match awake.table {
            Some(Table::Known(metrics)) => metrics,
            Some(Table::Broken) => return DeviceState::Missing(GapCause::Implausible),
            Some(Table::Unknown(..)) | None => Metrics::default(),
        };
        let percent = |said: Option<u32>, file: Option<u64>| said.map(u64::from).or(file);
        let gfx_percent = percent(metrics.gfx_percent, awake.busy_percent);
        let (Ok(sampled), Ok(memory)) =
            (ratio(gfx_percent), ratio(percent(metrics.memory_percent, awake.memory_percent)))
        else {
            return DeviceState::Missing(GapCause::Implausible);
        };
        let woke = self.asleep.take().is_some();
        self.parts = parts(awake, &metrics).unwrap_or(self.parts);

        let before = std::mem::replace(&mut self.boot_ns, metrics.boot_ns);
        let elapsed_ns = before.zip(metrics.boot_ns).and_then(|(before, now)| now.checked_sub(before));
        let (gfx, dram) =
            (self.gfx.step(metrics.gfx_sum, elapsed_ns), self.memory.step(metrics.memory_sum, elapsed_ns));
        if gfx == Step::Fell {
            return DeviceState::Missing(GapCause::CounterBackwards);
        }
        self.scale = self.scale.learn(gfx, sampled, elapsed_ns);
        self.conditions = self.named(awake.table, metrics.gfx_sum);

        let busy = match gfx {
            Step::Added(added) if self.scale != Scale::Refused => {
                let most = elapsed_ns.unwrap_or(0) / 1000;
                let mut micros =
                    added.saturating_mul(MICROS_PER_PERCENT_MS).saturating_mul(self.parts().into());
                if self.parts() > 1 {
                    micros = micros.min(most);
                }
                self.busy_us = self.busy_us.saturating_add(micros);
                let counted = share(micros, most);
                self.of_first(sampled).max(counted)
            }
            _ => self.of_first(sampled),
        };
        if let Step::Added(added) = dram {
            self.dram_us = self.dram_us.saturating_add(added.saturating_mul(MICROS_PER_PERCENT_MS));
        }
        DeviceState::Read(Reading {
            sm_clock_mhz: metrics.gfx_clock_mhz.or(awake.clock_mhz.and_then(|mhz| u32::try_from(mhz).ok())),
            // It slept until some moment since the look before: one look at the end does not speak for that.
            busy: busy.filter(|_| !woke),
            power_mw: power_mw(&metrics, awake),
            dram: memory.filter(|_| !woke),
            traffic: Traffic::default(),
            totals: self.totals(&metrics, gfx, dram),
            ..Reading::default()
        })
    }

    /// Activity is that of all dies together. The first partition may have done all of it, alone.
    fn of_first(&self, package: Option<Ratio>) -> Option<Ratio> {
        let package = package?;
        let most = u64::from(package.billionths()).saturating_mul(self.parts().into());
        Some(share(most, u64::from(Ratio::ONE.billionths())).unwrap_or(package))
    }

    /// A sum that could not be compared with the one before says nothing of the time in between.
    fn totals(&self, metrics: &Metrics, gfx: Step, dram: Step) -> Counters {
        let mut totals = Counters::default();
        let mut set = |counter, value: Option<u64>| {
            if let Some(value) = value {
                totals = totals.with(counter, value);
            }
        };
        if self.scale == Scale::Trusted {
            set(Counter::BusyMicros, matches!(gfx, Step::Added(_)).then_some(self.busy_us));
            set(Counter::DramMicros, matches!(dram, Step::Added(_)).then_some(self.dram_us));
        }
        set(Counter::EnergyMicrojoules, metrics.energy.filter(|&energy| energy > 0).map(microjoules));
        let bytes = |kib: Option<u64>| kib.map(|kib| kib.saturating_mul(1024));
        set(Counter::NvlinkRxBytes, bytes(metrics.xgmi_read_kib));
        set(Counter::NvlinkTxBytes, bytes(metrics.xgmi_write_kib));
        totals
    }

    fn named(&self, table: Option<Table>, gfx_sum: Option<u32>) -> Vec<Condition> {
        let mut conditions = Vec::new();
        match self.scale {
            Scale::Refused => conditions.push(Condition::CountersRefused),
            Scale::Learning { .. } if gfx_sum.is_some() => conditions.push(Condition::Calibrating),
            Scale::Learning { .. } | Scale::Trusted => {}
        }
        if let Some(Table::Unknown(..)) = table {
            conditions.push(Condition::UnknownLayout);
        }
        conditions.sort_unstable();
        conditions
    }
}

impl Scale {
    fn learn(self, step: Step, sampled: Option<Ratio>, elapsed_ns: Option<u64>) -> Self {
        let Self::Learning { looks, reported, counted } = self else {
            return if step == Step::TooFast { Self::Refused } else { self };
        };
        let elapsed_ms = elapsed_ns.unwrap_or(0) / 1_000_000;
        let (added, sampled) = match (step, sampled) {
            (Step::TooFast, _) => return Self::Refused,
            (Step::Added(added), Some(sampled)) if elapsed_ms <= LONGEST_LESSON_MS => (added, sampled),
            _ => return self,
        };
        let looks = looks.saturating_add(1);
        let reported = reported.saturating_add(sampled.of(elapsed_ms * FULL_MS));
        let counted = counted.saturating_add(added);
        if looks < ENOUGH_LOOKS || reported.max(counted) < ENOUGH {
            Self::Learning { looks, reported, counted }
        } else if counted <= reported.saturating_mul(AGREE) && reported <= counted.saturating_mul(AGREE) {
            Self::Trusted
        } else {
            Self::Refused
        }
    }
}

/// A percentage that no part of a whole can have.
struct Implausible;

fn ratio(percent: Option<u64>) -> Result<Option<Ratio>, Implausible> {
    let Some(percent) = percent else { return Ok(None) };
    let percent = u32::try_from(percent).map_err(|_| Implausible)?;
    Ratio::from_percent(percent.into()).map(Some).ok_or(Implausible)
}

/// `part` of `whole`, at most all of it. `None` of nothing.
fn share(part: u64, whole: u64) -> Option<Ratio> {
    let billionths = (u128::from(part.min(whole)) * 1_000_000_000).checked_div(u128::from(whole))?;
    let billionths = u32::try_from(billionths).ok()?;
    Ratio::from_fraction(f64::from(billionths) / 1e9)
}

fn parts(awake: &Awake, metrics: &Metrics) -> Option<u32> {
    let parts = match (awake.mode, metrics.partitions) {
        (Some(Mode::Parts(parts)), _) => Some(parts),
        (Some(Mode::EachDie), partitions) => partitions.or(metrics.dies),
        (None, _) => None,
    };
    // No package has more; what says so is not believed.
    parts.filter(|parts| (1..=8).contains(parts))
}

fn power_mw(metrics: &Metrics, awake: &Awake) -> Option<u32> {
    let said = metrics.power_w.and_then(|watts| watts.checked_mul(1000)).filter(|&mw| mw > 0);
    said.or_else(|| awake.power_uw.and_then(|uw| u32::try_from(uw / 1000).ok()).filter(|&mw| mw > 0))
}

/// From 2^-16 J, which is 15.259 uJ.
fn microjoules(energy: u64) -> u64 {
    u64::try_from(u128::from(energy) * 1_000_000 / 65_536).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_answer() -> impl Strategy<Value = Answer> {
        let small = || proptest::option::of(prop_oneof![0_u32..200, any::<u32>()]);
        let large = || proptest::option::of(prop_oneof![0_u64..10_000_000_000, any::<u64>()]);
        let table = (small(), small(), small(), large(), large(), small(), small(), large(), small())
            .prop_map(
                |(
                    power_w,
                    gfx_percent,
                    memory_percent,
                    energy,
                    boot_ns,
                    gfx_sum,
                    memory_sum,
                    xgmi,
                    partitions,
                )| Metrics {
                    power_w,
                    gfx_percent,
                    memory_percent,
                    energy,
                    boot_ns,
                    gfx_sum,
                    memory_sum,
                    xgmi_read_kib: xgmi,
                    xgmi_write_kib: xgmi,
                    gfx_clock_mhz: power_w,
                    dies: partitions,
                    partitions,
                },
            );
        let mode = prop_oneof![
            Just(None),
            Just(Some(Mode::EachDie)),
            (0_u32..10).prop_map(|count| Some(Mode::Parts(count)))
        ];
        prop_oneof![
            1 => large().prop_map(Answer::Asleep),
            8 => (table, large(), mode).prop_map(|(metrics, file, mode)| Answer::Awake(Awake {
                table: Some(Table::Known(metrics)),
                busy_percent: file,
                memory_percent: file,
                power_uw: file,
                clock_mhz: file,
                mode,
                facts: None,
            })),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_answered_busy_time_never_falls_and_parts_are_one_to_eight(
            answers in proptest::collection::vec(any_answer(), 1..60),
        ) {
            let mut judge = Judge::default();
            let mut before = 0;
            for answer in &answers {
                if let DeviceState::Read(reading) = judge.judge(answer)
                    && let Some(busy) = reading.totals.get(Counter::BusyMicros)
                {
                    prop_assert!(busy >= before);
                    before = busy;
                }
                prop_assert!((1..=8).contains(&judge.parts()));
                prop_assert!(judge.conditions().is_sorted());
            }
        }
    }

    #[test]
    fn energy_is_in_parts_of_a_joule_by_two_to_the_sixteenth() {
        assert_eq!([0, 1, 65_536, 1 << 40].map(microjoules), [0, 15, 1_000_000, 16_777_216_000_000]);
        assert_eq!(microjoules(u64::MAX), u64::MAX);
    }
}
