//! Devices that are given to virtual machines: bound to `vfio-pci`, out of their driver's sight.
//!
//! Their driver cannot see them, which is not idleness: they stay in every look as
//! [`GapCause::PassedThrough`], and what they may have done is the peak for as long as that lasts. A device that
//! was seen under its own name keeps it. One that never was is named after where it sits, until its driver
//! names it: then the made-up name is no longer present.
//!
//! The host's InfiniBand traffic is shared out here too, as this is where all its accelerators come together.
//!
//! Which processes have them open is told too, where this agent may see it: machines that no libvirt runs are known by
//! these alone.
//!
//! Deliberately absent: what the machines are that have them (holders say that), ways to give a device away
//! other than vfio, and any memory beyond this run: an agent that restarts while a device is given away knows
//! it by its place only.

mod infiniband;
mod scan;
mod vfio;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use tokio::time::Instant;
use weighbridge_meter::{AcceleratorId, AcceleratorTable, Condition, DeviceState, GapCause, Source, Tier};

use self::{
    infiniband::Infiniband,
    scan::{Bound, scan},
    vfio::Users,
};
use super::{
    AcceleratorSource, Device, DeviceLook, Look,
    sysfs::{Function, id_by_address},
};

/// The longest that a look waits for counters of InfiniBand ports.
const INFINIBAND_DEADLINE: Duration = Duration::from_millis(100);

/// What to look for beside a source.
#[derive(Clone, Debug)]
pub struct PassthroughOptions {
    /// Where the kernel shows devices: `/sys`.
    pub sysfs: PathBuf,
    /// The host's name, for devices that were never seen under their own.
    pub host: String,
    /// The bus is searched in every so many looks, and at once when a device stops answering; 0 counts as 1.
    pub search_every: u32,
    /// Where the kernel shows processes: `/proc`.
    pub proc: PathBuf,
    /// Who has a device that was given away open is asked in every so many looks; 0 counts as 1.
    pub pids_every: u32,
    /// The longest that a look waits for that; what comes later is told in the next one.
    pub pids_deadline: Duration,
}

/// A source, and what it cannot see because it was given away.
#[derive(Debug)]
pub struct WithPassthrough<S> {
    inner: S,
    options: PassthroughOptions,
    table: AcceleratorTable,
    looks: u32,
    /// Accelerators on the bus, by address, as of the last scan.
    bus: BTreeMap<String, Bound>,
    /// As the source last told them.
    known: Vec<Device>,
    /// Addresses of known devices that are given away.
    away: Vec<String>,
    /// Devices that the source never named.
    own: Vec<Device>,
    /// Known devices that answered in the look before.
    answered: usize,
    unidentified: u32,
    infiniband: Infiniband,
    users: Users,
}

impl<S> WithPassthrough<S> {
    /// Looks through `inner`, and under `options.sysfs` for what it cannot see.
    pub fn new(inner: S, options: PassthroughOptions) -> Self {
        Self {
            inner,
            infiniband: Infiniband::new(options.sysfs.join("class/infiniband")),
            users: Users::new(options.proc.clone()),
            options,
            table: AcceleratorTable::shipped(),
            looks: 0,
            bus: BTreeMap::new(),
            known: Vec::new(),
            away: Vec::new(),
            own: Vec::new(),
            answered: 0,
            unidentified: 0,
        }
    }

    fn is_known(&self, address: &str) -> bool {
        self.known.iter().any(|device| device.pci_address.as_deref() == Some(address))
    }

    fn is_away(&self, device: &Device) -> bool {
        device.pci_address.as_ref().is_some_and(|address| self.away.contains(address))
    }

    /// Known devices that are bound to vfio and do not answer: what answers is here, whatever the last scan said.
    fn find_away(&self, look: &Look) -> Vec<String> {
        let answers = |address: &str| {
            let mut here = self.known.iter().filter(|device| device.pci_address.as_deref() == Some(address));
            here.any(|device| look.devices.iter().any(|seen| seen.id == device.id && is_read(seen.state)))
        };
        let away = self
            .bus
            .iter()
            .filter(|(address, bound)| bound.is_vfio() && self.is_known(address) && !answers(address));
        away.map(|(address, _)| address.clone()).collect()
    }

    /// Brings the devices that the source never named up to what is on the bus. True if that changed them.
    fn refresh_own(&mut self) -> bool {
        self.unidentified = 0;
        let mut own: Vec<Device> = Vec::with_capacity(self.own.len());
        for device in &self.own {
            let address = device.pci_address.as_deref().unwrap_or_default();
            let present = !self.is_known(address);
            let conditions = match self.bus.get(address) {
                Some(bound) if present && bound.is_vfio() => vec![Condition::PassedThrough],
                _ => Vec::new(),
            };
            own.push(Device { present, conditions, ..device.clone() });
        }
        for (address, bound) in &self.bus {
            let named =
                self.is_known(address) || own.iter().any(|one| one.pci_address.as_ref() == Some(address));
            // A virtual function is a part of a device that is known.
            let part = bound.parent.as_ref().is_some_and(|parent| self.is_known(parent));
            if !bound.is_vfio() || named || part {
                continue;
            }
            match self.describe(&bound.function) {
                Some(device) => own.push(device),
                None => self.unidentified += 1,
            }
        }
        let changed = own != self.own;
        self.own = own;
        changed
    }

    fn describe(&self, function: &Function) -> Option<Device> {
        let id = id_by_address(&self.options.host, &function.address)?;
        let model = self.table.find(Some(&function.pci_device), "");
        let name =
            model.map_or_else(|| format!("PCI {}", function.pci_device), |model| model.device_name.clone());
        Some(Device {
            pci_address: Some(function.address.clone()),
            pci_device: Some(function.pci_device.clone()),
            conditions: vec![Condition::PassedThrough],
            ..Device::new(id, name, Source::Allocation, Tier::E)
        })
    }

    /// Why a device that the source never named says nothing.
    fn cause(&self, device: &Device) -> GapCause {
        let bound = device.pci_address.as_ref().and_then(|address| self.bus.get(address));
        match bound.map(|bound| bound.driver.as_deref()) {
            None => GapCause::DeviceLost,
            Some(None) => GapCause::DriverMissing,
            Some(Some(_)) if bound.is_some_and(Bound::is_vfio) => GapCause::PassedThrough,
            // Given back, and not named by its driver yet.
            Some(Some(_)) => GapCause::NotReported,
        }
    }

    /// Everything there is, known devices that are given away marked as such.
    fn inventory(&self) -> Vec<Device> {
        let known = self.known.iter().map(|device| {
            let mut device = device.clone();
            if device.present && self.is_away(&device) {
                device.tier = Tier::E;
                device.conditions.push(Condition::PassedThrough);
                device.conditions.sort_unstable();
                device.conditions.dedup();
            }
            device
        });
        known.chain(self.own.iter().cloned()).collect()
    }
}

fn is_read(state: DeviceState) -> bool {
    matches!(state, DeviceState::Read(_))
}

impl<S: AcceleratorSource> AcceleratorSource for WithPassthrough<S> {
    async fn look(&mut self) -> Look {
        let mut look = self.inner.look().await;
        let mut changed = false;
        if let Some(devices) = look.inventory_changed.take() {
            self.known = devices;
            changed = true;
        }
        let answered = look.devices.iter().filter(|seen| is_read(seen.state)).count();
        // A device that stops answering may have been given away just now.
        let fewer = answered < std::mem::replace(&mut self.answered, answered);
        let due = self.looks.is_multiple_of(self.options.search_every.max(1));
        let ask = self.looks.is_multiple_of(self.options.pids_every.max(1));
        self.looks = self.looks.wrapping_add(1);
        if due || fewer {
            self.bus = scan(&self.options.sysfs, &self.table);
            self.infiniband.search();
            self.users.search(&self.options.sysfs, &self.bus);
        }
        let away = self.find_away(&look);
        changed |= away != self.away;
        self.away = away;
        changed |= self.refresh_own();

        for seen in &mut look.devices {
            let device = self.known.iter().find(|device| device.id == seen.id);
            if device.is_some_and(|device| self.is_away(device)) && !is_read(seen.state) {
                seen.state = DeviceState::Missing(GapCause::PassedThrough);
            }
        }
        for device in self.own.iter().filter(|device| device.present) {
            let state = DeviceState::Missing(self.cause(device));
            look.devices.push(DeviceLook {
                id: device.id.clone(),
                state,
                pids: None,
                used: Vec::new(),
                machines: None,
            });
        }
        let all = self.known.iter().chain(&self.own);
        let address =
            |id: &AcceleratorId| all.clone().find(|device| device.id == *id)?.pci_address.as_deref();
        let deadline = Instant::now() + self.options.pids_deadline;
        self.users.tell(&mut look.devices, address, ask, deadline).await;
        self.infiniband.share(&mut look.devices, Instant::now() + INFINIBAND_DEADLINE).await;
        look.inventory_changed = changed.then(|| self.inventory());
        look.unidentified += self.unidentified;
        look
    }
}
