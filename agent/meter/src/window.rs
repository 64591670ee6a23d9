//! What one accelerator did in a span: raw integer integrals, no holder, no estimate.

use crate::{
    features::Features,
    identity::{AcceleratorId, AttemptId},
    reading::{GapCause, Source, Tier, coded},
    time::{Span, UtcMillis},
};

coded! {
    /// The integrals a window can carry. Cycles are of one SM, averaged over all SMs of the device.
    Counter {
        /// SM clock x time.
        ElapsedCycles = 0 "elapsed_cycles",
        /// Any tensor pipe active.
        TensorCycles = 1 "tensor_cycles",
        /// 16-bit class tensor pipe active.
        HmmaCycles = 2 "hmma_cycles",
        /// Integer tensor pipe active.
        ImmaCycles = 3 "imma_cycles",
        /// FP64 tensor pipe active.
        DfmaCycles = 4 "dfma_cycles",
        /// FP64 vector pipe active.
        Fp64Cycles = 5 "fp64_cycles",
        /// FP32 vector pipe active.
        Fp32Cycles = 6 "fp32_cycles",
        /// FP16 vector pipe active.
        Fp16Cycles = 7 "fp16_cycles",
        /// At least one warp resident.
        SmCycles = 8 "sm_cycles",
        /// Microseconds in which a kernel was resident.
        BusyMicros = 9 "busy_us",
        /// Microjoules.
        EnergyMicrojoules = 10 "energy_uj",
        /// Microseconds in which the memory interface was active.
        DramMicros = 11 "dram_us",
        /// Integer vector pipe active.
        IntegerCycles = 12 "integer_cycles",
        /// Bytes sent over NVLink or what takes its place.
        NvlinkTxBytes = 13 "nvlink_tx_bytes",
        /// Bytes received over it.
        NvlinkRxBytes = 14 "nvlink_rx_bytes",
        /// Bytes sent over PCIe.
        PcieTxBytes = 15 "pcie_tx_bytes",
        /// Bytes received over it.
        PcieRxBytes = 16 "pcie_rx_bytes",
        /// Its share of the bytes through the host's InfiniBand ports.
        InfinibandBytes = 17 "infiniband_bytes",
    }
}

/// Raw integrals: each either known, zero included, or unknown. Never one for the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters([Option<u64>; Counters::LEN]);

impl Counters {
    /// How many there are.
    pub const LEN: usize = Counter::ALL.len();

    /// The integral, `None` where the source did not have it for the whole window.
    pub fn get(&self, counter: Counter) -> Option<u64> {
        self.0[counter as usize]
    }

    /// The same with one integral known.
    #[must_use]
    pub fn with(mut self, counter: Counter, value: u64) -> Self {
        self.0[counter as usize] = Some(value);
        self
    }

    /// What was added since `before`, for each that is known in both. `None` if one of them went backwards.
    pub fn since(&self, before: &Self) -> Option<Self> {
        let mut difference = Self::default();
        for (index, slot) in difference.0.iter_mut().enumerate() {
            if let (Some(now), Some(before)) = (self.0[index], before.0[index]) {
                *slot = Some(now.checked_sub(before)?);
            }
        }
        Some(difference)
    }

    /// These, and where one is unknown, that of `other`.
    #[must_use]
    pub fn or(mut self, other: &Self) -> Self {
        for (slot, other) in self.0.iter_mut().zip(other.0) {
            *slot = slot.or(other);
        }
        self
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Sum of both; known only where both are. `None` on overflow.
    pub fn checked_add(&self, other: &Self) -> Option<Self> {
        let mut sum = Self::default();
        for (index, slot) in sum.0.iter_mut().enumerate() {
            *slot = match (self.0[index], other.0[index]) {
                (Some(a), Some(b)) => Some(a.checked_add(b)?),
                _ => None,
            };
        }
        Some(sum)
    }

    /// Splits each integral by time: `part` of `whole` milliseconds go first, the rest second.
    /// Nothing is lost or made: both parts add up to the whole, to the integer.
    pub fn split(&self, part: u64, whole: u64) -> (Self, Self) {
        let (mut first, mut second) = (Self::default(), Self::default());
        for (index, value) in self.0.iter().enumerate() {
            let Some(value) = *value else { continue };
            let before = self::part(value, part, whole);
            first.0[index] = Some(before);
            second.0[index] = Some(value - before);
        }
        (first, second)
    }

    /// Measured, and nothing at all ran: no kernel resident, no pipe active.
    /// `false` where we cannot know.
    pub fn idle(&self) -> bool {
        use Counter::{BusyMicros, SmCycles, TensorCycles};
        let looked = self.get(BusyMicros).is_some() || self.get(SmCycles).is_some();
        looked && [BusyMicros, SmCycles, TensorCycles].iter().all(|&c| self.get(c).unwrap_or(0) == 0)
    }
}

/// How long one of several holders used the accelerator in a window, as far as its driver tells processes apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// The holder's attempt.
    pub attempt: AttemptId,
    /// Microseconds in which a kernel of its processes was resident; those of several processes are added up.
    pub busy_us: u64,
}

impl Use {
    /// More holders than this are not told apart in one window.
    pub const MOST: usize = 64;
}

/// What falls into the first `part` of `whole`.
fn part(value: u64, part: u64, whole: u64) -> u64 {
    if whole == 0 {
        return 0;
    }
    let part = u128::from(value) * u128::from(part.min(whole)) / u128::from(whole);
    u64::try_from(part).expect("a part is at most the whole, which fits")
}

/// How much of a span was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// All of it.
    Measured,
    /// Readings are missing, but a cumulative counter bounds what happened.
    Interpolated {
        /// How much of the span is bounded in this way, at most its length.
        missing_ms: u64,
    },
}

/// What one accelerator did during `span`: raw integrals, no estimate, and of holders only what the driver measured
/// of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Which.
    pub accelerator: AcceleratorId,
    /// When, by the host's wall clock as anchored when the agent started.
    pub span: Span,
    /// When the span starts, in milliseconds since boot, suspended time included.
    pub boot_start_ms: u64,
    /// From where.
    pub source: Source,
    /// How good.
    pub tier: Tier,
    /// How complete.
    pub coverage: Coverage,
    /// Readings that went into it.
    pub ticks: u32,
    /// The integrals.
    pub counters: Counters,
    /// What its readings looked like, one against the other; a piece of a window keeps those of the whole.
    pub features: Features,
    /// How long each of several holders used it, each attempt once; empty where nobody can tell.
    pub uses: Vec<Use>,
}

impl Window {
    /// Both parts, if `at` lies strictly inside. Integrals are divided by time and conserved.
    pub fn split(&self, at: UtcMillis) -> Option<(Self, Self)> {
        let (before, after) = self.span.split(at)?;
        let (first, second) = self.counters.split(before.millis(), self.span.millis());
        let missing = |missing_ms: u64, span: &Span| match self.coverage {
            Coverage::Measured => Coverage::Measured,
            Coverage::Interpolated { .. } => {
                Coverage::Interpolated { missing_ms: missing_ms.min(span.millis()) }
            }
        };
        let missing_ms = match self.coverage {
            Coverage::Measured => 0,
            Coverage::Interpolated { missing_ms } => missing_ms,
        };
        let missing_before = missing_ms * before.millis() / self.span.millis();
        let divided = |one: &Use| {
            let busy_us = part(one.busy_us, before.millis(), self.span.millis());
            (Use { busy_us, ..one.clone() }, Use { busy_us: one.busy_us - busy_us, ..one.clone() })
        };
        let (uses_before, uses_after) = self.uses.iter().map(divided).unzip();
        Some((
            Self {
                span: before,
                counters: first,
                coverage: missing(missing_before, &before),
                uses: uses_before,
                ..self.clone()
            },
            Self {
                span: after,
                boot_start_ms: self.boot_start_ms + before.millis(),
                counters: second,
                coverage: missing(missing_ms - missing_before, &after),
                uses: uses_after,
                ..self.clone()
            },
        ))
    }
}

/// A span in which one accelerator was not measured, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Which.
    pub accelerator: AcceleratorId,
    /// When, as for windows.
    pub span: Span,
    /// When the span starts, in milliseconds since boot.
    pub boot_start_ms: u64,
    /// Why.
    pub cause: GapCause,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(start: i64, length: i64, value: u64, missing_ms: u64) -> Window {
        Window {
            accelerator: "GPU-1".parse().expect("valid"),
            span: Span::new(UtcMillis(start), UtcMillis(start + length)).expect("not empty"),
            boot_start_ms: 7,
            source: Source::Nvml,
            tier: Tier::B,
            coverage: Coverage::Interpolated { missing_ms },
            ticks: 60,
            counters: Counters::default().with(Counter::TensorCycles, value).with(Counter::BusyMicros, 3),
            features: Features::default(),
            uses: vec![Use { attempt: "try-1".parse().expect("valid"), busy_us: value / 2 }],
        }
    }

    proptest! {
        #[test]
        fn splitting_conserves_every_integral_and_the_time(
            start in -1_000_000_000_000_i64..4_000_000_000_000,
            length in 2_i64..600_000,
            cut in 1_i64..600_000,
            value in any::<u64>(),
            missing in 0_u64..600_000,
        ) {
            let whole = window(start, length, value, missing.min(length.unsigned_abs()));
            prop_assume!(cut < length);
            let (first, second) = whole.split(UtcMillis(start + cut)).expect("inside");
            prop_assert_eq!(first.counters.checked_add(&second.counters), Some(whole.counters));
            prop_assert_eq!(first.uses[0].busy_us + second.uses[0].busy_us, whole.uses[0].busy_us);
            prop_assert_eq!(first.span.millis() + second.span.millis(), whole.span.millis());
            prop_assert_eq!(second.boot_start_ms, whole.boot_start_ms + first.span.millis());
            let missing = |w: &Window| match w.coverage {
                Coverage::Interpolated { missing_ms } => missing_ms,
                Coverage::Measured => 0,
            };
            prop_assert_eq!(missing(&first) + missing(&second), missing(&whole));
            prop_assert!(missing(&first) <= first.span.millis());
            prop_assert!(missing(&second) <= second.span.millis());
        }
    }

    #[test]
    fn unknown_is_not_zero() {
        let unknown = Counters::default();
        let zero = Counters::default().with(Counter::BusyMicros, 0);
        assert!(!unknown.idle(), "not having looked is not idleness");
        assert!(zero.idle());
        assert_eq!(unknown.checked_add(&zero).expect("no overflow").get(Counter::BusyMicros), None);
    }
}
