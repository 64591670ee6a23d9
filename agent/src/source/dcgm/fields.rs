//! The fields that are read, under every name they go by, and what their values can be.
//!
//! Names, numbers and blank values are those of NVIDIA's DCGM (`dcgm_fields.h` of 4.6, which renamed many
//! fields and kept the old names as aliases). An exporter prints whichever name its list of fields has.

use crate::source::exposition::Value;

macro_rules! fields {
    ($($(#[$doc:meta])* $field:ident $names:expr;)+) => {
        /// A field that is read.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Field { $($(#[$doc])* $field,)+ }

        impl Field {
            /// How many there are.
            pub(super) const COUNT: usize = [$(Self::$field),+].len();

            /// From the name of a metric, old or new.
            pub(super) fn from_name(name: &str) -> Option<Self> {
                let short = name.strip_prefix("DCGM_FI_")?;
                $(if $names.contains(&short) { return Some(Self::$field); })+
                None
            }
        }
    };
}

fields! {
    /// 1004: any tensor pipe active, of all SM cycles.
    Tensor ["PROF_PIPE_TENSOR_ACTIVE", "PROF_TENSOR_UTIL_RATIO"];
    /// 1014.
    Hmma ["PROF_PIPE_TENSOR_HMMA_ACTIVE", "PROF_HMMA_UTIL_RATIO"];
    /// 1013.
    Imma ["PROF_PIPE_TENSOR_IMMA_ACTIVE", "PROF_IMMA_UTIL_RATIO"];
    /// 1015.
    Dfma ["PROF_PIPE_TENSOR_DFMA_ACTIVE", "PROF_DFMA_UTIL_RATIO"];
    /// 1006, tensor work excluded, as in the next two.
    Fp64 ["PROF_PIPE_FP64_ACTIVE", "PROF_FP64_UTIL_RATIO"];
    /// 1007.
    Fp32 ["PROF_PIPE_FP32_ACTIVE", "PROF_FP32_UTIL_RATIO"];
    /// 1008.
    Fp16 ["PROF_PIPE_FP16_ACTIVE", "PROF_FP16_UTIL_RATIO"];
    /// 1016.
    Integer ["PROF_PIPE_INT_ACTIVE", "PROF_INT_UTIL_RATIO"];
    /// 1002: at least one warp resident.
    Sm ["PROF_SM_ACTIVE", "PROF_SM_UTIL_RATIO"];
    /// 1005: memory interface active.
    Dram ["PROF_DRAM_ACTIVE", "PROF_DRAM_UTIL_RATIO"];
    /// 1009: bytes a second, as the next three, for all that the name says.
    PcieTx ["PROF_PCIE_TX_BYTES"];
    /// 1010.
    PcieRx ["PROF_PCIE_RX_BYTES"];
    /// 1011.
    NvlinkTx ["PROF_NVLINK_TX_BYTES"];
    /// 1012.
    NvlinkRx ["PROF_NVLINK_RX_BYTES"];
    /// 100, in MHz.
    SmClock ["DEV_SM_CLOCK"];
    /// 113, in MHz.
    MaxSmClock ["DEV_MAX_SM_CLOCK"];
    /// 155, in watts.
    Power ["DEV_POWER_USAGE", "DEV_BOARD_POWER_WATTS"];
    /// 164, in watts.
    PowerLimit ["DEV_ENFORCED_POWER_LIMIT"];
    /// 156, in millijoules since the driver was loaded.
    Energy ["DEV_TOTAL_ENERGY_CONSUMPTION"];
    /// 203, in percent.
    GpuUtil ["DEV_GPU_UTIL"];
    /// 203 in DCGM 4.6, still in percent; a field of its own from 4.7 on, as a fraction.
    GpuUtilRatio ["DEV_GPU_UTIL_RATIO"];
    /// 230: the last XID error.
    Xid ["DEV_XID_ERRORS", "DEV_XID_ERROR"];
    /// 250, in mebibytes.
    Memory ["DEV_FB_TOTAL"];
    /// 1084: totals since boot, new in 4.6, as all that follow.
    ElapsedTotal ["PROF_SM_CYCLES_ELAPSED_TOTAL"];
    /// 1085.
    SmTotal ["PROF_SM_CYCLES_ACTIVE_TOTAL"];
    /// 1086: any tensor pipe.
    MmaTotal ["PROF_MMA_CYCLES_ACTIVE_TOTAL"];
    /// 1087.
    DmmaTotal ["PROF_DMMA_CYCLES_ACTIVE_TOTAL"];
    /// 1088.
    HmmaTotal ["PROF_HMMA_CYCLES_ACTIVE_TOTAL"];
    /// 1089.
    ImmaTotal ["PROF_IMMA_CYCLES_ACTIVE_TOTAL"];
    /// 1090.
    DfmaTotal ["PROF_DFMA_CYCLES_ACTIVE_TOTAL"];
    /// 1091.
    PcieTxTotal ["PROF_PCIE_TX_BYTES_TOTAL"];
    /// 1092.
    PcieRxTotal ["PROF_PCIE_RX_BYTES_TOTAL"];
    /// 1093.
    IntegerTotal ["PROF_INT_CYCLES_ACTIVE_TOTAL"];
    /// 1094.
    Fp64Total ["PROF_FP64_CYCLES_ACTIVE_TOTAL"];
    /// 1095.
    Fp32Total ["PROF_FP32_CYCLES_ACTIVE_TOTAL"];
    /// 1096.
    Fp16Total ["PROF_FP16_CYCLES_ACTIVE_TOTAL"];
}

impl Field {
    /// Whether it only ever grows, so that any 32-bit number may come by.
    fn counts(self) -> bool {
        self == Self::Energy || self as usize >= Self::ElapsedTotal as usize
    }

    /// Its value, if the exporter had one. DCGM has sentinels for blank, not found, not supported and not
    /// permitted, one after the other, and leaves room for more; some exporters print them.
    pub(super) fn known(self, value: Value<'_>) -> Option<Scalar> {
        let number = value.number();
        let blank = match value.whole() {
            _ if !number.is_finite() => true,
            Some(0x7fff_ffff_ffff_fff0..=u64::MAX) => true,
            // 0x7fff_fff0 for 32 bits, 2^47 for floating point.
            Some(0x7fff_fff0..=0x7fff_ffff | 0x8000_0000_0000..=0x8000_0000_000f) => !self.counts(),
            Some(_) => false,
            None => number >= 9.2e18,
        };
        (!blank).then_some(Scalar { number, whole: value.whole() })
    }
}

/// A value that an exporter had.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scalar {
    /// As a number, always finite.
    pub(super) number: f64,
    /// As a whole number, exact, if it is one.
    pub(super) whole: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::exposition::samples;

    #[test]
    fn blank_values_are_unknown_whatever_their_width() {
        let known = |field: Field, text: &str| {
            let line = format!("x {text}");
            let sample = samples(line.as_bytes()).next().expect("a line").expect("a sample");
            field.known(sample.value).map(|scalar| scalar.number)
        };
        let blanks = [
            "NaN",
            "+Inf",
            "2147483632",
            "2147483634",
            "2147483635.000000",
            "140737488355328",
            "140737488355330.000000",
            "9223372036854775792",
            "9223372036854775794",
            "9223372036854775795",
            "9.223372036854776e+18",
            "1e30",
        ];
        for blank in blanks {
            assert_eq!(known(Field::Power, blank), None, "{blank}");
        }
        assert_eq!(known(Field::Power, "2147483631"), Some(2_147_483_631.0));
        assert_eq!(known(Field::Power, "0"), Some(0.0), "zero is known");
        // A counter passes by the small ones.
        assert_eq!(known(Field::Energy, "2147483634"), Some(2_147_483_634.0));
        assert_eq!(known(Field::MmaTotal, "140737488355330"), Some(140_737_488_355_330.0));
        assert_eq!(known(Field::Energy, "9223372036854775794"), None);
    }

    #[test]
    fn totals_go_by_the_one_name_that_they_ever_had() {
        for (name, field) in [
            ("SM_CYCLES_ELAPSED", Field::ElapsedTotal),
            ("SM_CYCLES_ACTIVE", Field::SmTotal),
            ("MMA_CYCLES_ACTIVE", Field::MmaTotal),
            ("DMMA_CYCLES_ACTIVE", Field::DmmaTotal),
            ("HMMA_CYCLES_ACTIVE", Field::HmmaTotal),
            ("IMMA_CYCLES_ACTIVE", Field::ImmaTotal),
            ("DFMA_CYCLES_ACTIVE", Field::DfmaTotal),
            ("PCIE_TX_BYTES", Field::PcieTxTotal),
            ("PCIE_RX_BYTES", Field::PcieRxTotal),
            ("INT_CYCLES_ACTIVE", Field::IntegerTotal),
            ("FP64_CYCLES_ACTIVE", Field::Fp64Total),
            ("FP32_CYCLES_ACTIVE", Field::Fp32Total),
            ("FP16_CYCLES_ACTIVE", Field::Fp16Total),
        ] {
            assert_eq!(Field::from_name(&format!("DCGM_FI_PROF_{name}_TOTAL")), Some(field));
        }
    }

    #[test]
    fn a_field_goes_by_its_old_and_its_new_name() {
        let pairs = [
            ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "DCGM_FI_PROF_TENSOR_UTIL_RATIO"),
            ("DCGM_FI_PROF_SM_ACTIVE", "DCGM_FI_PROF_SM_UTIL_RATIO"),
            ("DCGM_FI_PROF_DRAM_ACTIVE", "DCGM_FI_PROF_DRAM_UTIL_RATIO"),
            ("DCGM_FI_PROF_PIPE_TENSOR_HMMA_ACTIVE", "DCGM_FI_PROF_HMMA_UTIL_RATIO"),
            ("DCGM_FI_PROF_PIPE_TENSOR_IMMA_ACTIVE", "DCGM_FI_PROF_IMMA_UTIL_RATIO"),
            ("DCGM_FI_PROF_PIPE_TENSOR_DFMA_ACTIVE", "DCGM_FI_PROF_DFMA_UTIL_RATIO"),
            ("DCGM_FI_PROF_PIPE_FP64_ACTIVE", "DCGM_FI_PROF_FP64_UTIL_RATIO"),
            ("DCGM_FI_PROF_PIPE_FP32_ACTIVE", "DCGM_FI_PROF_FP32_UTIL_RATIO"),
            ("DCGM_FI_PROF_PIPE_FP16_ACTIVE", "DCGM_FI_PROF_FP16_UTIL_RATIO"),
            ("DCGM_FI_PROF_PIPE_INT_ACTIVE", "DCGM_FI_PROF_INT_UTIL_RATIO"),
            ("DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_BOARD_POWER_WATTS"),
            ("DCGM_FI_DEV_XID_ERRORS", "DCGM_FI_DEV_XID_ERROR"),
        ];
        for (old, new) in pairs {
            assert!(Field::from_name(old).is_some(), "{old}");
            assert_eq!(Field::from_name(old), Field::from_name(new));
        }
        for other in ["DCGM_FI_DEV_GPU_TEMP", "PROF_SM_ACTIVE", "DCGM_FI_PROF_SM_OCCUPANCY"] {
            assert_eq!(Field::from_name(other), None, "{other}");
        }
    }
}
