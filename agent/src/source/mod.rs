//! Where readings come from.
//!
//! A source looks at all its accelerators once a tick, always answers within its deadline, and says for each
//! one that it knows either what it read or why it could not: an accelerator once found never drops out.
//!
//! Deliberately absent: what readings mean (`weighbridge_meter`), who holds an accelerator, and any retry
//! that would make a look take longer.

pub mod allocation;
pub mod amdgpu;
pub mod dcgm;
pub mod exposition;
pub mod gaudi;
pub mod nvml;
pub mod passthrough;
pub mod redfish;
pub mod replay;
pub mod simulated;
mod sysfs;
mod worker;

use std::future::Future;

use weighbridge_meter::{AcceleratorId, Condition, DeviceState, GapCause, Source, Tier, Trust};

pub use allocation::AllocationSource;
pub use amdgpu::{AmdgpuOptions, AmdgpuSource};
pub use dcgm::{DcgmOptions, DcgmSource};
pub use gaudi::{GaudiOptions, GaudiSource};
pub use nvml::{NvmlOptions, NvmlSource};
pub use passthrough::{PassthroughOptions, WithPassthrough};
pub use redfish::{RedfishOptions, RedfishSource};
pub use replay::{Replay, ReplaySource};
pub use simulated::{Scenario, SimulatedSource};
pub(crate) use sysfs::{mediated_in, physical_of};

/// Something that can look at accelerators.
pub trait AcceleratorSource: Send {
    /// Looks once at everything. Returns within the source's deadline, whatever the driver does.
    ///
    /// Dropping the future is safe: what was asked and not heard counts as a hung call in the next look.
    fn look(&mut self) -> impl Future<Output = Look> + Send;
}

/// Which part of a device a MIG instance is, by the driver's own numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Of the GPU instance.
    pub gi: u32,
    /// Of the compute instance in it.
    pub ci: u32,
}

/// An accelerator as it was found: what the inventory says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub id: AcceleratorId,
    /// Where it sits, as the kernel writes it: `0000:1a:00.0`.
    pub pci_address: Option<String>,
    /// `vendor:device` in hexadecimal: `10de:2330`.
    pub pci_device: Option<String>,
    /// What the driver calls the model.
    pub name: String,
    /// The highest SM clock in MHz.
    pub max_sm_clock_mhz: Option<u32>,
    /// The enforced power limit in milliwatts, as it was when the device was found.
    pub power_limit_mw: Option<u32>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// How good its readings are.
    pub tier: Tier,
    /// Where they come from.
    pub source: Source,
    /// The driver's version.
    pub driver: Option<String>,
    /// The host it is in, where that is not the agent's own.
    pub host: Option<String>,
    /// Who could have changed its readings, where that is not who runs the agent's host.
    pub trust: Option<Trust>,
    /// The device that it is a part of: of a MIG instance or partition.
    pub parent: Option<AcceleratorId>,
    /// Its own units, where that is not all its model has.
    pub units: Option<u32>,
    /// The driver's numbers of a MIG instance.
    pub instance: Option<Instance>,
    /// Milliseconds between its readings, where the source gives them less often than it is looked at; 0 if not.
    pub sample_ms: u32,
    /// What makes its readings worse than they could be, in ascending order.
    pub conditions: Vec<Condition>,
    /// `false`: it is no longer there by design (a MIG instance that was removed, a device that was split),
    /// which is not the same as lost. It is not metered from then on.
    pub present: bool,
}

impl Device {
    /// A device of which nothing is known but what it is called and where its readings come from.
    pub fn new(id: AcceleratorId, name: impl Into<String>, source: Source, tier: Tier) -> Self {
        Self {
            id,
            pci_address: None,
            pci_device: None,
            name: name.into(),
            max_sm_clock_mhz: None,
            power_limit_mw: None,
            memory_bytes: None,
            tier,
            source,
            driver: None,
            host: None,
            trust: None,
            parent: None,
            units: None,
            instance: None,
            sample_ms: 0,
            conditions: Vec::new(),
            present: true,
        }
    }
}

/// What one look gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Every accelerator ever found by this source, in the order of finding.
    pub devices: Vec<DeviceLook>,
    /// How the source itself is.
    pub source_state: SourceState,
    /// All accelerators, when there is something new to say about one of them, and at the first finding
    /// even if it found none.
    pub inventory_changed: Option<Vec<Device>>,
    /// Accelerators that the driver counts but cannot name: they are there and are not metered.
    pub unidentified: u32,
}

/// What one look at one accelerator gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceLook {
    /// Which one.
    pub id: AcceleratorId,
    /// What was read, or why nothing was.
    pub state: DeviceState,
    /// Processes with a compute context. `None` if they were not asked for in this look, or the driver would
    /// not say; some drivers name processes that do not exist.
    pub pids: Option<Vec<u32>>,
    /// Of several processes, for how many microseconds since they were last asked for kernels of each were resident.
    /// Empty where the driver does not tell them apart.
    pub used: Vec<(u32, u64)>,
    /// UUIDs of the virtual machines that have a part of it, as its driver says, in ascending order. `None` as above.
    pub machines: Option<Vec<String>>,
}

/// How a source is as a whole. Devices it knows are looked at in either state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// It can find accelerators.
    Ok,
    /// It cannot, for this reason, told in words by the text.
    Missing(GapCause, String),
}

/// Whichever source is configured.
pub enum AnySource {
    /// NVIDIA's library, with what is given to virtual machines.
    Nvml(Box<WithPassthrough<NvmlSource>>),
    /// The amdgpu driver's files, with what is given to virtual machines.
    Amdgpu(Box<WithPassthrough<AmdgpuSource>>),
    /// dcgm-exporter.
    Dcgm(Box<DcgmSource>),
    /// Gaudi's exporter.
    Gaudi(Box<GaudiSource>),
    /// Management controllers.
    Redfish(Box<RedfishSource>),
    /// A scenario.
    Simulated(SimulatedSource),
    /// A recording.
    Replay(ReplaySource),
    /// Nothing but an inventory.
    Allocation(AllocationSource),
}

impl AnySource {
    /// Whether there will never be anything more to see: a recording has been played.
    pub fn is_over(&self) -> bool {
        match self {
            Self::Replay(source) => source.is_over(),
            Self::Nvml(_)
            | Self::Amdgpu(_)
            | Self::Dcgm(_)
            | Self::Gaudi(_)
            | Self::Redfish(_)
            | Self::Simulated(_)
            | Self::Allocation(_) => false,
        }
    }
}

impl AcceleratorSource for AnySource {
    async fn look(&mut self) -> Look {
        match self {
            Self::Nvml(source) => source.look().await,
            Self::Amdgpu(source) => source.look().await,
            Self::Dcgm(source) => source.look().await,
            Self::Gaudi(source) => source.look().await,
            Self::Redfish(source) => source.look().await,
            Self::Simulated(source) => source.look().await,
            Self::Replay(source) => source.look().await,
            Self::Allocation(source) => source.look().await,
        }
    }
}
