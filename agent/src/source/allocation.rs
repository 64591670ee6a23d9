//! Accelerators that nothing can be read from: all that is known is that they are there.
//!
//! The inventory comes from the configuration. Every look succeeds and says nothing, so windows are of tier E
//! and carry no integrals: the collector can bound them by what the model can do, and no better.

use weighbridge_meter::{DeviceState, Reading, Tier};

use super::{AcceleratorSource, Device, DeviceLook, Look, SourceState};

/// Devices as configured.
#[derive(Clone, Debug)]
pub struct AllocationSource {
    devices: Vec<Device>,
    told: bool,
}

impl AllocationSource {
    /// With these devices, which are taken to be present for as long as the agent runs.
    pub fn new(devices: Vec<Device>) -> Self {
        let devices = devices
            .into_iter()
            .map(|device| Device { tier: Tier::E, source: weighbridge_meter::Source::Allocation, ..device })
            .collect();
        Self { devices, told: false }
    }
}

impl AcceleratorSource for AllocationSource {
    async fn look(&mut self) -> Look {
        let inventory_changed = (!self.told).then(|| self.devices.clone());
        self.told = true;
        let devices = self.devices.iter().map(|device| DeviceLook {
            id: device.id.clone(),
            state: DeviceState::Read(Reading::default()),
            pids: None,
            used: Vec::new(),
            machines: None,
        });
        Look { devices: devices.collect(), source_state: SourceState::Ok, inventory_changed, unidentified: 0 }
    }
}
