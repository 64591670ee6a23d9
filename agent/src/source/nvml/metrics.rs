//! GPM metrics: their numbers in NVML and what a pair of samples said of each.

/// A metric that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Metric {
    // In percent of elapsed cycles.
    AnyTensor,
    Hmma,
    Imma,
    Dfma,
    Fp64,
    Fp32,
    Fp16,
    Sm,
    Integer,
    Dram,
    // In MiB a second, whatever comments elsewhere say: NVIDIA's NVML header.
    PcieTx,
    PcieRx,
    NvlinkTx,
    NvlinkRx,
    // Percent again, but from here on only newer drivers know them: NVML header of CUDA 13.2.
    Dmma,
    // Cumulative since the host was started.
    CyclesElapsed,
    SmCycles,
    MmaCycles,
    DmmaCycles,
    HmmaCycles,
    ImmaCycles,
    DfmaCycles,
    PcieTxBytes,
    PcieRxBytes,
    IntegerCycles,
    Fp64Cycles,
    Fp32Cycles,
    Fp16Cycles,
}

/// NVML's numbers, in the order of [`Metric`]: one array, so that one call can ask for all.
pub(super) const IDS: [u32; 28] = [
    5, 7, 9, 6, 11, 12, 13, 2, 4, 10, 20, 21, 61, 60, 8, 248, 249, 250, 251, 252, 253, 254, 255, 256, 257,
    258, 259, 260,
];

/// As many of [`IDS`] as every driver with GPM knows.
pub(super) const OLD: usize = Metric::Dmma as usize;

/// As many of [`IDS`] as a reading cannot do without: a driver that fails to give one of them fails.
pub(super) const NEEDED: usize = Metric::Integer as usize;

/// What a pair of samples said of each metric; `None` for what the driver does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Metrics([Option<f64>; IDS.len()]);

impl Metrics {
    pub(super) fn get(&self, metric: Metric) -> Option<f64> {
        self.0[metric as usize]
    }

    /// The value of the metric at this place in [`IDS`].
    pub(super) fn set(&mut self, place: usize, value: Option<f64>) {
        self.0[place] = value;
    }

    /// A cumulative one, as whole counts. `None` also for what cannot be a count.
    pub(super) fn count(&self, metric: Metric) -> Option<u64> {
        /// 2^63, which a float holds exactly.
        const TOO_MANY: f64 = 9_223_372_036_854_775_808.0;
        let value = self.get(metric).filter(|value| (0.0..TOO_MANY).contains(value))?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to be from 0 to below 2^63"
        )]
        let count = value as u64;
        Some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_its_number() {
        let id = |metric: Metric| IDS[metric as usize];
        let cumulative = [
            Metric::CyclesElapsed,
            Metric::SmCycles,
            Metric::MmaCycles,
            Metric::DmmaCycles,
            Metric::HmmaCycles,
            Metric::ImmaCycles,
            Metric::DfmaCycles,
            Metric::PcieTxBytes,
            Metric::PcieRxBytes,
            Metric::IntegerCycles,
            Metric::Fp64Cycles,
            Metric::Fp32Cycles,
            Metric::Fp16Cycles,
        ];
        assert_eq!(cumulative.map(id), [248, 249, 250, 251, 252, 253, 254, 255, 256, 257, 258, 259, 260]);
        assert_eq!((id(Metric::Dmma), id(Metric::Integer), id(Metric::Dram), OLD, NEEDED), (8, 4, 10, 14, 8));
        assert_eq!((id(Metric::NvlinkTx), id(Metric::NvlinkRx)), (61, 60));
    }

    #[test]
    fn what_is_no_count_is_unknown() {
        let counted = |value| {
            let mut metrics = Metrics::default();
            metrics.set(Metric::MmaCycles as usize, Some(value));
            metrics.count(Metric::MmaCycles)
        };
        assert_eq!(counted(0.0), Some(0));
        assert_eq!(counted(1e18), Some(1_000_000_000_000_000_000));
        for value in [f64::NAN, -1.0, 1e19, f64::INFINITY] {
            assert_eq!(counted(value), None, "{value}");
        }
    }
}
