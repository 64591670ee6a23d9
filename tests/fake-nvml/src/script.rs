//! What the fake machine looks like.
//!
//! ```toml
//! driver_version = "580.95.05"
//! control_dir = "faults"            # relative to the script; this is the default
//!
//! [[device]]
//! uuid = "GPU-00000000-0000-0000-0000-000000000001"
//! name = "NVIDIA H100 80GB HBM3"
//! pci_bus_id = "00000000:1A:00.0"
//! pci_device = "10de:2330"
//! architecture = "hopper"
//! sm_clock_mhz = 1500
//! max_sm_clock_mhz = 1980
//! power_mw = 500000
//! power_limit_mw = 700000
//! energy_start_mj = 1000000
//! energy_mw = 500000
//! gpm = true
//! gpm_percent = { any_tensor = 50.0, hmma = 40.0, sm = 90.0 }
//! gpu_util = 100
//! pids = [4711]
//! sms = 132
//! cumulative = "sum"                # of cycles, over SMs; or "mean"
//! process_percent = [[4711, 30]]   # what every question for the use of processes gives
//! vgpus = ["01234567-89ab-cdef-0123-456789abcdef", "7"]
//! clock_samples = [1400, 1600]      # what every question for samples gives
//!
//! [[device.instance]]               # there while MIG is on
//! uuid = "MIG-00000000-0000-0000-0000-000000000001"
//! gi = 7
//! ci = 0
//! sms = 16
//! gpm_percent = { any_tensor = 50.0 }
//! ```
//!
//! A value that is left out is one the driver does not support.

use std::path::PathBuf;

use nvml_wrapper_sys::bindings as nvml;
use serde::Deserialize;

/// The whole machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// What the driver calls its version.
    pub driver_version: String,
    /// Whether confidential computing is on: then no GPM sample is taken.
    pub confidential: Option<bool>,
    /// Where fault files are looked for; relative paths are relative to the script.
    #[serde(default = "faults")]
    pub control_dir: PathBuf,
    /// The devices in the order of their indices.
    #[serde(default)]
    pub device: Vec<Device>,
}

fn faults() -> PathBuf {
    PathBuf::from("faults")
}

/// One device.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// `GPU-...`; names its fault files too.
    pub uuid: String,
    /// The marketing name.
    pub name: String,
    /// As NVML writes it: `00000000:1A:00.0`.
    pub pci_bus_id: Option<String>,
    /// `vendor:device` in hexadecimal: `10de:2330`.
    pub pci_device: Option<String>,
    /// The chip's generation.
    pub architecture: Option<Architecture>,
    /// CUDA cores.
    pub num_cores: Option<u32>,
    /// The SM clock now, in MHz.
    pub sm_clock_mhz: Option<u32>,
    /// The highest SM clock, in MHz.
    pub max_sm_clock_mhz: Option<u32>,
    /// Board power in milliwatts.
    pub power_mw: Option<u32>,
    /// Enforced power limit in milliwatts.
    pub power_limit_mw: Option<u32>,
    /// The energy counter at boot, in millijoules.
    #[serde(default)]
    pub energy_start_mj: u64,
    /// How fast the energy counter grows, in milliwatts. Without it there is no counter.
    pub energy_mw: Option<u64>,
    /// Memory in bytes, all of it free.
    pub memory_bytes: Option<u64>,
    /// Whether MIG is on.
    pub mig: Option<bool>,
    /// Whether GPM is supported.
    #[serde(default)]
    pub gpm: bool,
    /// GPM metrics in percent.
    #[serde(default)]
    pub gpm_percent: GpmPercent,
    /// Percent of the time in which a kernel was resident.
    pub gpu_util: Option<u32>,
    /// Processes with a compute context.
    #[serde(default)]
    pub pids: Vec<u32>,
    /// How many percent of the time kernels of a process were resident, whenever it is asked: process and percent.
    #[serde(default)]
    pub process_percent: Vec<(u32, u32)>,
    /// Streaming multiprocessors, for cumulative counters that are sums over them.
    #[serde(default = "one")]
    pub sms: u32,
    /// How cumulative cycles are scaled. Without it the driver does not know them.
    pub cumulative: Option<Scale>,
    /// How a driver that does not know a metric says so.
    #[serde(default)]
    pub unknown_metric: Refusal,
    /// Whether GPM is streaming, unless a fault switches it off.
    pub streaming: Option<bool>,
    /// GPM traffic in MiB a second.
    #[serde(default)]
    pub gpm_mib_per_s: GpmTraffic,
    /// SM clocks in MHz: the samples since whichever moment is asked about.
    #[serde(default)]
    pub clock_samples: Vec<u32>,
    /// Its vGPUs, if the driver is one of a vGPU host: by the machine's UUID, or by a number of the hypervisor's.
    pub vgpus: Option<Vec<String>>,
    /// Its MIG instances.
    #[serde(default)]
    pub instance: Vec<Instance>,
}

fn one() -> u32 {
    1
}

/// One MIG device: a GPU instance with its compute instance.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// `MIG-...`; names its fault files too.
    pub uuid: String,
    /// Of the GPU instance.
    pub gi: u32,
    /// Of the compute instance in it.
    pub ci: u32,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Slices of the GPU instance.
    #[serde(default = "one")]
    pub gi_slices: u32,
    /// Those of them that are the compute instance's.
    #[serde(default = "one")]
    pub ci_slices: u32,
    /// Memory in mebibytes.
    #[serde(default)]
    pub memory_mib: u64,
    /// GPM metrics in percent of this GPU instance.
    #[serde(default)]
    pub gpm_percent: GpmPercent,
    /// Processes with a compute context.
    #[serde(default)]
    pub pids: Vec<u32>,
    /// Its multiprocessors once it was made anew.
    pub recreated_sms: Option<u32>,
    /// Its compute instance's number once it was made anew.
    pub recreated_ci: Option<u32>,
}

/// How cumulative cycles are scaled.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// Cycles of one SM.
    Mean,
    /// Cycles of all of them.
    Sum,
}

/// How a driver refuses a metric that it does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Refusal {
    /// That metric alone.
    #[default]
    Metric,
    /// The whole call that asks for it.
    Call,
}

/// GPM traffic in MiB a second; what is left out is not supported.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each is the GPM metric of its name")]
pub struct GpmTraffic {
    pub pcie_tx: Option<f64>,
    pub pcie_rx: Option<f64>,
    pub nvlink_tx: Option<f64>,
    pub nvlink_rx: Option<f64>,
}

impl GpmTraffic {
    /// The metric with this NVML id. `None` if it is not supported.
    pub(crate) fn metric(&self, id: u32) -> Option<f64> {
        match id {
            nvml::nvmlGpmMetricId_t_NVML_GPM_METRIC_PCIE_TX_PER_SEC => self.pcie_tx,
            nvml::nvmlGpmMetricId_t_NVML_GPM_METRIC_PCIE_RX_PER_SEC => self.pcie_rx,
            nvml::nvmlGpmMetricId_t_NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC => self.nvlink_tx,
            nvml::nvmlGpmMetricId_t_NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC => self.nvlink_rx,
            _ => None,
        }
    }
}

/// GPM metrics in percent; those left out are not supported.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each is the GPM metric of its name")]
pub struct GpmPercent {
    pub graphics: Option<f64>,
    pub sm: Option<f64>,
    pub occupancy: Option<f64>,
    pub integer: Option<f64>,
    pub any_tensor: Option<f64>,
    pub dfma: Option<f64>,
    pub dmma: Option<f64>,
    pub hmma: Option<f64>,
    pub imma: Option<f64>,
    pub dram: Option<f64>,
    pub fp64: Option<f64>,
    pub fp32: Option<f64>,
    pub fp16: Option<f64>,
}

impl GpmPercent {
    /// The metric with this NVML id. `None` if it is not supported.
    pub(crate) fn metric(&self, id: u32) -> Option<f64> {
        match id {
            nvml::nvmlGpmMetricId_t_NVML_GPM_METRIC_GRAPHICS_UTIL => self.graphics,
            nvml::nvmlGpmMetricId_t_NVML_GPM_METRIC_SM_UTIL => self.sm,
            nvml::nvmlGpmMetricId_t_NVML_GPM_METRIC_SM_OCCUPANCY => self.occupancy,
            nvml::nvmlGpmMetricId_t_NVML_GPM_METRIC_INTEGER_UTIL => self.integer,
            nvml::nvmlGpmMetricId_t_NVML_GPM_METRIC_ANY_TENSOR_UTIL => self.any_tensor,
            nvml::nvmlGpmMetricId_t_NVML_GPM_METRIC_DFMA_TENSOR_UTIL => self.dfma,
            DMMA_TENSOR_UTIL => self.dmma,
            nvml::nvmlGpmMetricId_t_NVML_GPM_METRIC_HMMA_TENSOR_UTIL => self.hmma,
            nvml::nvmlGpmMetricId_t_NVML_GPM_METRIC_IMMA_TENSOR_UTIL => self.imma,
            nvml::nvmlGpmMetricId_t_NVML_GPM_METRIC_DRAM_BW_UTIL => self.dram,
            nvml::nvmlGpmMetricId_t_NVML_GPM_METRIC_FP64_UTIL => self.fp64,
            nvml::nvmlGpmMetricId_t_NVML_GPM_METRIC_FP32_UTIL => self.fp32,
            nvml::nvmlGpmMetricId_t_NVML_GPM_METRIC_FP16_UTIL => self.fp16,
            _ => None,
        }
    }

    /// Percent of all cycles that the cumulative counter with this NVML id counts. `None` if it is not one, or
    /// not supported.
    pub(crate) fn cumulative(&self, id: u32) -> Option<f64> {
        match id {
            248 => Some(100.0),
            249 => self.sm,
            250 => self.any_tensor,
            251 => self.dmma,
            252 => self.hmma,
            253 => self.imma,
            254 => self.dfma,
            257 => self.integer,
            258 => self.fp64,
            259 => self.fp32,
            260 => self.fp16,
            _ => None,
        }
    }
}

/// Newer than the bindings, as are the cumulative counters.
pub(crate) const DMMA_TENSOR_UTIL: u32 = 8;

/// A chip's generation, as NVML numbers it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each is the generation of its name")]
pub enum Architecture {
    Volta,
    Turing,
    Ampere,
    Ada,
    Hopper,
    Blackwell,
    /// Newer than the bindings: callers must live with a number they do not know.
    Rubin,
    /// Newer than the driver, which has a number for that.
    Unknown,
}

impl Architecture {
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Volta => nvml::NVML_DEVICE_ARCH_VOLTA,
            Self::Turing => nvml::NVML_DEVICE_ARCH_TURING,
            Self::Ampere => nvml::NVML_DEVICE_ARCH_AMPERE,
            Self::Ada => nvml::NVML_DEVICE_ARCH_ADA,
            Self::Hopper => nvml::NVML_DEVICE_ARCH_HOPPER,
            Self::Blackwell => nvml::NVML_DEVICE_ARCH_BLACKWELL,
            Self::Rubin => 13,
            Self::Unknown => nvml::NVML_DEVICE_ARCH_UNKNOWN,
        }
    }
}
