//! What the driver's answers mean: pure, so that every strange one can be written by hand.

use weighbridge_meter::{
    Condition, Counters, DeviceState, GapCause, Reading, Tier,
    reading::{Activity, Ratio, Traffic},
    window::Counter,
};

use super::{
    metrics::{Metric, Metrics},
    scale::{Evidence, Scale},
};

/// What the driver said in one look, taken as it came.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Answer {
    /// Microseconds since the source was started: tells looks apart and goes into no record.
    pub(super) at_us: u64,
    pub(super) sm_clock_mhz: Option<u32>,
    pub(super) power_mw: Option<u32>,
    pub(super) energy_mj: Option<u64>,
    pub(super) busy_percent: Option<u32>,
    pub(super) gpm: Gpm,
    /// Whether GPM is streaming. `None` where the driver does not say.
    pub(super) streaming: Option<bool>,
    /// Of a MIG instance, if it could be asked.
    pub(super) identity: Option<Identity>,
    /// `None` if not asked or not said.
    pub(super) pids: Option<Vec<u32>>,
    /// For how many microseconds kernels of each were resident, where there are several and the driver tells.
    pub(super) used: Vec<(u32, u64)>,
    /// UUIDs of machines that have a vGPU of it; `None` as above.
    pub(super) machines: Option<Vec<String>>,
}

/// What GPM gave.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one a look, and nearly always the large one")]
pub(super) enum Gpm {
    /// The device has none, or says so now.
    #[default]
    Unsupported,
    /// The right to it is missing.
    Refused,
    /// A MIG instance without a compute instance.
    NoData,
    /// A first sample, with nothing to compare it with.
    Seed,
    /// The sample before is too young to be compared with: what was read last still holds.
    Young,
    /// What happened between two samples so many microseconds apart.
    Pair { micros: u64, metrics: Metrics },
}

/// By what a MIG instance is told from one that was made anew under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// Number of the GPU instance.
    pub(super) gi: u32,
    /// Number of the compute instance in it.
    pub(super) ci: u32,
    /// Streaming multiprocessors.
    pub(super) sms: u32,
}

/// What is known of a device when it is found, as far as its answers are judged by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// A MIG instance, which has neither kernel utilisation nor power of its own.
    pub(super) instance: bool,
    /// One of several compute instances in one GPU instance: activity is not told apart between them.
    pub(super) shares: bool,
    /// Whether it has GPM.
    pub(super) gpm: bool,
    /// Streaming multiprocessors.
    pub(super) sms: Option<u32>,
    /// Its power limit in milliwatts.
    pub(super) power_limit_mw: Option<u32>,
    /// Confidential computing is on.
    pub(super) confidential: bool,
}

/// What an answer says of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) state: DeviceState,
    pub(super) tier: Tier,
    /// In ascending order.
    pub(super) conditions: Vec<Condition>,
}

/// A device between one look and the next.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watch {
    /// Energy and when it was read.
    energy: Option<(u64, u64)>,
    /// Cumulative counters, as the driver gave them.
    counted: Option<Counters>,
    /// Those of the sample that the next one is compared with.
    base: Option<Counters>,
    /// The next pair of samples begins before a gap: its rates are not those of the time since the last look.
    astride: bool,
    /// Rates of the last pair of samples.
    rates: Rates,
    scale: Scale,
    /// Whether the driver knows the cumulative counters.
    knows_counters: bool,
    /// GPM was seen to stream.
    streamed: bool,
    /// It was switched off.
    streaming_off: bool,
}

/// What a pair of samples gives for the time between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rates {
    activity: Activity,
    dram: Option<Ratio>,
    traffic: Traffic,
}

/// Where the activity of a device is to be had from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    Clear,
    Dark(Option<Condition>),
}

/// No board draws more than twice its limit for long.
const ENERGY_MARGIN: u128 = 2;

impl Watch {
    /// What the answer says. `rebase`: the look before gave no reading, so that rates are not those of the time
    /// since the last one.
    pub(super) fn judge(&mut self, facts: &Facts, answer: &Answer, rebase: bool) -> Verdict {
        let sight = self.sight(facts, answer);
        let state = self.state(facts, answer, rebase, sight);
        let dark = if facts.instance { Tier::E } else { Tier::D };
        let (tier, condition) = match sight {
            Sight::Dark(condition) => (dark, condition),
            Sight::Clear => match self.scale {
                Scale::Known { .. } => (Tier::A, None),
                Scale::Measuring { .. } => (Tier::B, self.knows_counters.then_some(Condition::Calibrating)),
                Scale::Refused => (Tier::B, Some(Condition::CountersRefused)),
            },
        };
        Verdict { state, tier, conditions: condition.into_iter().collect() }
    }

    /// The driver may have been loaded anew, or the instance made anew: nothing from before is compared with.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    fn state(&mut self, facts: &Facts, answer: &Answer, rebase: bool, sight: Sight) -> DeviceState {
        if let Some(cause) = self.energy_fell(facts, answer) {
            if cause == GapCause::DriverReloaded {
                self.forget();
            }
            self.energy = answer.energy_mj.map(|mj| (mj, answer.at_us));
            return DeviceState::Missing(cause);
        }
        self.energy = answer.energy_mj.map(|mj| (mj, answer.at_us)).or(self.energy);
        if sight == Sight::Clear && answer.gpm == Gpm::NoData {
            self.pause();
            return DeviceState::Missing(GapCause::NoComputeInstance);
        }
        if let Sight::Dark(_) = sight {
            self.pause();
        } else if let Err(cause) = self.take_in(facts, answer, rebase) {
            return DeviceState::Missing(cause);
        }
        let Ok(busy) = ratio(answer.busy_percent.map(f64::from)) else {
            return DeviceState::Missing(GapCause::Implausible);
        };
        let totals = match (self.scale.divisor(), &self.counted) {
            (Some(divisor), Some(counted)) if sight == Sight::Clear => scaled(counted, divisor),
            _ => Counters::default(),
        };
        DeviceState::Read(Reading {
            sm_clock_mhz: answer.sm_clock_mhz,
            activity: self.rates.activity,
            busy,
            power_mw: answer.power_mw,
            energy_mj: answer.energy_mj,
            dram: self.rates.dram,
            traffic: self.rates.traffic,
            totals,
            ..Reading::default()
        })
    }

    /// Rates and counters of this look. An error is why it is none.
    fn take_in(&mut self, facts: &Facts, answer: &Answer, rebase: bool) -> Result<(), GapCause> {
        let rebase = rebase || self.astride;
        let Gpm::Pair { micros, metrics } = &answer.gpm else {
            if rebase || answer.gpm != Gpm::Young {
                (self.rates, self.base) = (Rates::default(), None);
            }
            self.astride = rebase && answer.gpm == Gpm::Young;
            return Ok(());
        };
        self.astride = false;
        let rates = rates(metrics).ok_or(GapCause::Implausible)?;
        let counted = counted(metrics);
        self.knows_counters = counted.get(Counter::TensorCycles).is_some();
        if self.counted.is_some_and(|before| counted.since(&before).is_none()) {
            // New ones are not of the old instance; those of a device go on at the scale they had.
            if facts.instance {
                self.forget();
            }
            (self.counted, self.base, self.rates) = (Some(counted), Some(counted), Rates::default());
            let anew = if facts.instance { GapCause::InstanceRecreated } else { GapCause::CounterBackwards };
            return Err(anew);
        }
        let base = self.base.replace(counted).filter(|_| !rebase);
        let evidence = base.and_then(|base| {
            let added = counted.since(&base)?;
            Some(Evidence {
                elapsed: added.get(Counter::ElapsedCycles)?,
                tensor: added.get(Counter::TensorCycles)?,
                // MHz x microseconds = cycles.
                clock_cycles: u64::from(answer.sm_clock_mhz?).saturating_mul(*micros),
                ratio: rates.activity.tensor?,
            })
        });
        if let Some(evidence) = evidence {
            self.scale.look(&evidence, facts.sms);
        }
        self.counted = Some(counted);
        self.rates = if rebase { Rates::default() } else { rates };
        Ok(())
    }

    /// No activity is to be had for now. What comes after has nothing to do with what was before, but for a
    /// refusal.
    fn pause(&mut self) {
        (self.rates, self.base, self.counted) = (Rates::default(), None, None);
        if self.scale != Scale::Refused {
            self.scale = Scale::default();
        }
    }

    /// Whether activity can be read, and if not, why.
    fn sight(&mut self, facts: &Facts, answer: &Answer) -> Sight {
        let missing = matches!(answer.gpm, Gpm::Unsupported | Gpm::Refused) || !facts.gpm;
        // Kernels were resident on no SM at all: then it is the counters that are off.
        let blind = match &answer.gpm {
            Gpm::Pair { metrics, .. } => {
                metrics.get(Metric::Sm) == Some(0.0) && answer.busy_percent.is_some_and(|busy| busy > 0)
            }
            _ => false,
        };
        match answer.streaming {
            Some(true) => (self.streamed, self.streaming_off) = (true, false),
            // Whether drivers begin with it switched on is not documented. So it was switched off if it was seen
            // to be on, or if what it gives cannot be.
            Some(false) => self.streaming_off |= self.streamed || missing || blind,
            None => self.streaming_off = false,
        }
        if facts.shares {
            Sight::Dark(Some(Condition::SecondaryPartition))
        } else if facts.confidential && (missing || blind) {
            Sight::Dark(Some(Condition::ConfidentialComputing))
        } else if !facts.gpm {
            Sight::Dark(None)
        } else if self.streaming_off {
            Sight::Dark(Some(Condition::StreamingOff))
        } else if answer.gpm == Gpm::Refused && facts.instance {
            Sight::Dark(Some(Condition::NoMigMonitor))
        } else if missing {
            Sight::Dark(None)
        } else {
            Sight::Clear
        }
    }

    /// Why the energy counter fell, if it did: it begins at zero when the driver is loaded, and then cannot be
    /// above what the board could have drawn since the look before.
    fn energy_fell(&self, facts: &Facts, answer: &Answer) -> Option<GapCause> {
        let ((before, then), now) = (self.energy?, answer.energy_mj?);
        if now >= before {
            return None;
        }
        let micros = answer.at_us.saturating_sub(then);
        // Milliwatts x microseconds / 1e6 = millijoules.
        let most = facts
            .power_limit_mw
            .map(|limit| u128::from(limit) * u128::from(micros) * ENERGY_MARGIN / 1_000_000);
        Some(match most {
            Some(most) if u128::from(now) <= most => GapCause::DriverReloaded,
            _ => GapCause::CounterBackwards,
        })
    }
}

/// A value the driver gave that no part of a whole can have.
#[derive(Debug)]
struct Implausible;

/// Nothing stays nothing; a percentage must be one.
fn ratio(percent: Option<f64>) -> Result<Option<Ratio>, Implausible> {
    percent.map(|percent| Ratio::from_percent(percent).ok_or(Implausible)).transpose()
}

/// `None` if any of the values cannot be.
fn rates(metrics: &Metrics) -> Option<Rates> {
    let part = |metric| ratio(metrics.get(metric)).ok();
    let bytes = |metric| bytes_a_second(metrics.get(metric)).ok();
    let dfma = match (part(Metric::Dfma)?, part(Metric::Dmma)?) {
        // Two pipes for the same: together at most all of the time.
        (Some(dfma), Some(dmma)) => Ratio::from_fraction(
            f64::from(dfma.billionths().saturating_add(dmma.billionths()).min(1_000_000_000)) / 1e9,
        ),
        (dfma, dmma) => dfma.or(dmma),
    };
    Some(Rates {
        activity: Activity {
            tensor: part(Metric::AnyTensor)?,
            hmma: part(Metric::Hmma)?,
            imma: part(Metric::Imma)?,
            dfma,
            fp64: part(Metric::Fp64)?,
            fp32: part(Metric::Fp32)?,
            fp16: part(Metric::Fp16)?,
            sm: part(Metric::Sm)?,
            integer: part(Metric::Integer)?,
        },
        dram: part(Metric::Dram)?,
        traffic: Traffic {
            nvlink_tx: bytes(Metric::NvlinkTx)?,
            nvlink_rx: bytes(Metric::NvlinkRx)?,
            pcie_tx: bytes(Metric::PcieTx)?,
            pcie_rx: bytes(Metric::PcieRx)?,
            infiniband: None,
        },
    })
}

/// GPM counts traffic in MiB a second.
fn bytes_a_second(mib: Option<f64>) -> Result<Option<u64>, Implausible> {
    /// Bytes a second that no link comes near.
    const TOO_MUCH: f64 = 1e15;
    mib.map(|mib| {
        let bytes = mib * 1_048_576.0;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to be from 0 to 1e15"
        )]
        let whole = (0.0..TOO_MUCH).contains(&bytes).then_some(bytes as u64);
        whole.ok_or(Implausible)
    })
    .transpose()
}

/// The cumulative counters by what they count, not yet divided by anything.
fn counted(metrics: &Metrics) -> Counters {
    let dfma = [Metric::DmmaCycles, Metric::DfmaCycles].map(|metric| metrics.count(metric));
    let dfma = match dfma {
        [Some(dmma), Some(dfma)] => dmma.checked_add(dfma),
        [dmma, dfma] => dmma.or(dfma),
    };
    let all = [
        (Counter::ElapsedCycles, metrics.count(Metric::CyclesElapsed)),
        (Counter::SmCycles, metrics.count(Metric::SmCycles)),
        (Counter::TensorCycles, metrics.count(Metric::MmaCycles)),
        (Counter::HmmaCycles, metrics.count(Metric::HmmaCycles)),
        (Counter::ImmaCycles, metrics.count(Metric::ImmaCycles)),
        (Counter::DfmaCycles, dfma),
        (Counter::Fp64Cycles, metrics.count(Metric::Fp64Cycles)),
        (Counter::Fp32Cycles, metrics.count(Metric::Fp32Cycles)),
        (Counter::Fp16Cycles, metrics.count(Metric::Fp16Cycles)),
        (Counter::IntegerCycles, metrics.count(Metric::IntegerCycles)),
        (Counter::PcieTxBytes, metrics.count(Metric::PcieTxBytes)),
        (Counter::PcieRxBytes, metrics.count(Metric::PcieRxBytes)),
    ];
    let known = all.into_iter().filter_map(|(counter, value)| Some((counter, value?)));
    known.fold(Counters::default(), |counters, (counter, value)| counters.with(counter, value))
}

/// Cycles of one SM where they were of all; bytes are bytes.
fn scaled(counted: &Counters, divisor: u64) -> Counters {
    let divide = |counters: Counters, &counter: &Counter| match (counted.get(counter), counter) {
        (None, _) => counters,
        (Some(bytes), Counter::PcieTxBytes | Counter::PcieRxBytes) => counters.with(counter, bytes),
        (Some(cycles), _) => counters.with(counter, cycles / divisor.max(1)),
    };
    Counter::ALL.iter().fold(Counters::default(), divide)
}

/// Mean of clock samples in MHz. `None` if there are none, or none that can be.
pub(super) fn mean_clock(samples: impl Iterator<Item = u64>) -> Option<u32> {
    /// No processor is near this.
    const TOO_FAST: u64 = 5000;
    let (sum, count) = samples
        .filter(|mhz| (1..=TOO_FAST).contains(mhz))
        .fold((0_u64, 0_u64), |(sum, count), mhz| (sum.saturating_add(mhz), count + 1));
    u32::try_from((sum + count / 2).checked_div(count)?).ok()
}

/// NVML's `00000000:1A:00.0` as the kernel writes it: `0000:1a:00.0`.
pub(super) fn kernel_pci_address(bus_id: &str) -> String {
    let lower = bus_id.to_ascii_lowercase();
    // A domain that needs more than four digits keeps them.
    match lower.strip_prefix("0000") {
        Some(rest) if rest.find(':') == Some(4) => rest.to_owned(),
        _ => lower,
    }
}

/// NVML's combined id, vendor in the low half: `10de:2330`.
pub(super) fn pci_device(combined: u32) -> String {
    format!("{:04x}:{:04x}", combined & 0xffff, combined >> 16)
}

#[cfg(test)]
pub(super) mod tests;
