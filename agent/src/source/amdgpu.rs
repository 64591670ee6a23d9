//! AMD accelerators on this host, through the files of their driver.
//!
//! No file tells what matrix units do, so readings are of tier D: time in which something ran, power, energy and
//! the traffic between devices, from cumulative counters where the driver has them. A device is asked by a
//! thread of its own, and only until the deadline; one that hangs is [`GapCause::CallHung`] until it comes back.
//!
//! A package can show itself to programs as several devices (DPX, QPX, CPX). The kernel then tells activity and
//! power of the package only, so its first partition reports for it: its busy time is that of the package as if
//! it alone had been busy, which it cannot exceed. The others are bounded by their allocation, so the sum of all
//! is never below what the package can have done. Of an MI250X, whose table row is that of both dies, each die
//! is a device.
//!
//! Deliberately absent: activity by partition (in newer tables), processes, and virtual functions as such.

mod files;
mod judge;
mod layout;

use std::{io, path::PathBuf, time::Duration};

use tokio::time::Instant;
use weighbridge_meter::{
    AcceleratorId, AcceleratorTable, Condition, DeviceState, GapCause, Model, Reading, Source, Tier,
};

use self::{
    files::{Answer, Facts, Failure, Found, Package},
    judge::Judge,
};
use super::{
    AcceleratorSource, Device, DeviceLook, Look, SourceState,
    sysfs::id_by_address,
    worker::{Heard, Worker},
};

/// Reads whatever is given as a driver's table: for tests with bytes that nobody wrote. Must come back.
#[doc(hidden)]
pub fn read_anything(bytes: &[u8]) {
    let _ = layout::parse(bytes);
}

/// How to look through the amdgpu driver.
#[derive(Clone, Debug)]
pub struct AmdgpuOptions {
    /// Where the kernel shows devices: `/sys`.
    pub sysfs: PathBuf,
    /// The host's name, for devices that have no number of their own.
    pub host: String,
    /// The longest a look may take.
    pub deadline: Duration,
    /// Devices are searched for in every so many looks; 0 counts as 1.
    pub search_every: u32,
}

/// AMD accelerators on this host, through the files of their driver. Dropping it does not wait for threads that
/// hang in the driver.
#[derive(Debug)]
pub struct AmdgpuSource {
    options: AmdgpuOptions,
    table: AcceleratorTable,
    looks: u32,
    /// Whether a search ever succeeded.
    searched: bool,
    state: SourceState,
    unidentified: u32,
    packages: Vec<Tracked>,
}

impl AmdgpuSource {
    /// A source that touches nothing until its first look.
    pub fn start(options: AmdgpuOptions) -> Self {
        Self {
            options,
            table: AcceleratorTable::shipped(),
            looks: 0,
            searched: false,
            state: SourceState::Missing(GapCause::DriverMissing, "not looked for yet".into()),
            unidentified: 0,
            packages: Vec::new(),
        }
    }

    /// Searches for devices, which asks none of them. True if the inventory changed.
    fn search(&mut self) -> bool {
        let found = match files::find(&self.options.sysfs) {
            Ok(found) => found,
            Err(error) => {
                self.search_failed(&error);
                return false;
            }
        };
        let changed = !std::mem::replace(&mut self.searched, true);
        self.state = SourceState::Ok;
        self.take_in(found) || changed
    }

    fn search_failed(&mut self, error: &io::Error) {
        let (cause, detail) = match error.kind() {
            io::ErrorKind::NotFound => {
                for one in &mut self.packages {
                    one.end(GapCause::DriverMissing, "the driver is gone");
                }
                (GapCause::DriverMissing, "the amdgpu driver is not loaded".to_owned())
            }
            _ => (GapCause::ReadFailed, format!("listing the driver's devices: {error}")),
        };
        let state = SourceState::Missing(cause, detail);
        if self.state != state {
            tracing::warn!(%error, "cannot search for devices");
            self.state = state;
        }
    }

    fn take_in(&mut self, found: Found) -> bool {
        let accelerators: Vec<Package> =
            found.packages.into_iter().filter(|package| is_accelerator(package, &self.table)).collect();
        let mut changed = false;
        let mut seen: Vec<AcceleratorId> = Vec::new();
        self.unidentified = 0;
        for package in &accelerators {
            let Some(id) = id(package, &accelerators, &self.options.host) else {
                self.unidentified += 1;
                continue;
            };
            let model = self.table.find(Some(&package.function.pci_device), "");
            let device = describe(id, package, model, found.driver.as_deref());
            seen.push(device.id.clone());
            let tracked = match self.packages.iter_mut().find(|one| one.whole.id == device.id) {
                Some(known) => known,
                None => {
                    changed = true;
                    self.packages.push(Tracked::new(device.clone(), model));
                    let last = self.packages.len() - 1;
                    &mut self.packages[last]
                }
            };
            changed |= tracked.take_in(device);
            if tracked.reader.is_none() {
                let dir = files::device_dir(&self.options.sysfs, &package.function.address);
                tracked.start(dir);
            }
        }
        for one in self.packages.iter_mut().filter(|one| !seen.contains(&one.whole.id)) {
            one.end(GapCause::DeviceLost, "the driver has it no longer");
        }
        changed
    }
}

impl AcceleratorSource for AmdgpuSource {
    async fn look(&mut self) -> Look {
        let deadline = Instant::now() + self.options.deadline;
        let mut changed = false;
        if self.looks.is_multiple_of(self.options.search_every.max(1)) {
            changed = self.search();
        }
        self.looks = self.looks.wrapping_add(1);
        for one in &mut self.packages {
            one.ask();
        }
        let mut devices = Vec::new();
        for one in &mut self.packages {
            let state = one.hear(deadline).await;
            changed |= one.refresh();
            one.show(state, &mut devices);
        }
        let inventory = || self.packages.iter().flat_map(Tracked::devices).cloned().collect();
        Look {
            devices,
            source_state: self.state.clone(),
            inventory_changed: changed.then(inventory),
            unidentified: self.unidentified,
        }
    }
}

/// A row of the table, or what only accelerators are: processing accelerators, and display controllers that have
/// no display.
fn is_accelerator(package: &Package, table: &AcceleratorTable) -> bool {
    let function = &package.function;
    function.vendor() == "1002"
        && (table.find(Some(&function.pci_device), "").is_some()
            || matches!(function.kind(), 0x0380 | 0x1200))
}

/// By its number; by where it is if it has none, or shares it with another (which would merge the two).
fn id(package: &Package, all: &[Package], host: &str) -> Option<AcceleratorId> {
    let own = package
        .unique_id
        .as_ref()
        .filter(|own| all.iter().filter(|other| other.unique_id.as_ref() == Some(own)).count() == 1);
    let named = own.and_then(|own| format!("AMD-{own}").parse().ok());
    named.or_else(|| id_by_address(host, &package.function.address))
}

fn describe(id: AcceleratorId, package: &Package, model: Option<&Model>, driver: Option<&str>) -> Device {
    let pci_device = &package.function.pci_device;
    let name = package.product_name.clone().or_else(|| model.map(|model| model.device_name.clone()));
    Device {
        pci_address: Some(package.function.address.clone()),
        pci_device: Some(pci_device.clone()),
        memory_bytes: package.memory_bytes,
        driver: driver.map(Into::into),
        units: model.and_then(die_units),
        ..Device::new(id, name.unwrap_or_else(|| format!("AMD {pci_device}")), Source::Amdgpu, Tier::D)
    }
}

/// Compute units of one device, where the model's row is of two: an MI250X. A die of that generation has no more
/// than 112.
fn die_units(model: &Model) -> Option<u32> {
    (model.architecture == "CDNA2" && model.units > 112).then(|| model.units.div_ceil(2))
}

/// A package that was found at some time.
#[derive(Debug)]
struct Tracked {
    /// The package as one device.
    whole: Device,
    /// Its partitions, however many it ever had.
    parts: Vec<Device>,
    /// Compute units of the package.
    units: Option<u32>,
    /// The thread that asks it. None while the device is lost.
    reader: Option<Worker<bool, Result<Answer, Failure>>>,
    /// Why there is no thread.
    absent: GapCause,
    judge: Judge,
    facts: Option<Facts>,
    /// What was logged last.
    logged: Option<GapCause>,
}

impl Tracked {
    fn new(whole: Device, model: Option<&Model>) -> Self {
        Self {
            units: whole.units.or(model.map(|model| model.units)),
            whole,
            parts: Vec::new(),
            reader: None,
            absent: GapCause::DeviceLost,
            judge: Judge::default(),
            facts: None,
            logged: None,
        }
    }

    /// What a search found. True if that is new.
    fn take_in(&mut self, device: Device) -> bool {
        let known = Device {
            max_sm_clock_mhz: self.whole.max_sm_clock_mhz,
            power_limit_mw: self.whole.power_limit_mw,
            conditions: self.whole.conditions.clone(),
            present: self.whole.present,
            ..device
        };
        let changed = self.whole != known;
        self.whole = known;
        changed
    }

    fn start(&mut self, dir: PathBuf) {
        match Worker::start("amdgpu-read", move |facts| files::read(&dir, facts)) {
            Ok(reader) => {
                // Whatever was before, its counters may have begun anew.
                self.judge = self.judge.anew();
                self.reader = Some(reader);
            }
            Err(error) => {
                let detail = format!("starting the thread that reads the device: {error}");
                self.end(GapCause::ReadFailed, &detail);
            }
        }
    }

    fn ask(&mut self) {
        let facts = self.facts.is_none();
        if let Some(reader) = &mut self.reader {
            reader.ask(facts);
        }
    }

    async fn hear(&mut self, deadline: Instant) -> DeviceState {
        let Some(reader) = &mut self.reader else { return DeviceState::Missing(self.absent) };
        match reader.hear(deadline).await {
            Heard::Answer(Ok(answer)) => self.heard(&answer),
            Heard::Answer(Err(failure)) if failure.cause == GapCause::DeviceLost => {
                self.end(failure.cause, &failure.detail);
                DeviceState::Missing(failure.cause)
            }
            Heard::Answer(Err(failure)) => {
                self.log(failure.cause, &failure.detail);
                DeviceState::Missing(failure.cause)
            }
            Heard::Late => {
                self.log(GapCause::CallHung, "reading a file of the driver has not come back");
                DeviceState::Missing(GapCause::CallHung)
            }
            Heard::Died => {
                self.end(GapCause::ReadFailed, "the thread that reads the device ended");
                DeviceState::Missing(GapCause::ReadFailed)
            }
        }
    }

    fn heard(&mut self, answer: &Answer) -> DeviceState {
        if let Answer::Awake(awake) = answer
            && awake.facts.is_some()
        {
            self.facts = awake.facts;
        }
        let state = self.judge.judge(answer);
        match state {
            DeviceState::Read(_) => {
                if self.logged.take().is_some() {
                    tracing::info!(accelerator = %self.whole.id, "reading the device again");
                }
            }
            DeviceState::Missing(cause) => self.log(cause, "the driver's answer cannot be"),
        }
        state
    }

    fn end(&mut self, cause: GapCause, detail: &str) {
        self.reader = None;
        self.facts = None;
        self.absent = cause;
        self.log(cause, detail);
    }

    /// Once for each change, not for each look.
    fn log(&mut self, cause: GapCause, detail: &str) {
        if self.logged.replace(cause) != Some(cause) {
            tracing::warn!(accelerator = %self.whole.id, %cause, detail, "cannot read the device");
        }
    }

    /// The package, then its partitions.
    fn devices(&self) -> impl Iterator<Item = &Device> {
        std::iter::once(&self.whole).chain(&self.parts)
    }

    /// Brings the inventory up to what is known now. True if that changed it.
    fn refresh(&mut self) -> bool {
        let mut whole = Device { present: true, ..self.whole.clone() };
        if let Some(facts) = self.facts {
            (whole.max_sm_clock_mhz, whole.power_limit_mw) = (facts.max_clock_mhz, facts.power_limit_mw);
        }
        whole.conditions = self.judge.conditions().to_vec();
        let mut parts: Vec<Device> =
            self.parts.iter().map(|part| Device { present: false, ..part.clone() }).collect();
        let count = match self.judge.parts() {
            1 => 0,
            count => count,
        };
        let split: Option<Vec<Device>> = (0..count).map(|index| self.part(&whole, index, count)).collect();
        // Parts that cannot be named stay one device, which is right too.
        if let Some(split) = split.filter(|split| !split.is_empty()) {
            (whole.present, whole.conditions) = (false, vec![Condition::Split]);
            parts.splice(..split.len().min(parts.len()), split);
        }
        let changed = whole != self.whole || parts != self.parts;
        (self.whole, self.parts) = (whole, parts);
        changed
    }

    /// One of `count` partitions.
    fn part(&self, whole: &Device, index: u32, count: u32) -> Option<Device> {
        let first = index == 0;
        Some(Device {
            id: format!("{}/{index}", whole.id).parse().ok()?,
            parent: Some(whole.id.clone()),
            units: self.units.map(|units| units.div_ceil(count)),
            tier: if first { Tier::D } else { Tier::E },
            conditions: if first { whole.conditions.clone() } else { vec![Condition::SecondaryPartition] },
            power_limit_mw: whole.power_limit_mw.filter(|_| first),
            memory_bytes: None,
            ..whole.clone()
        })
    }

    /// What a look at the package says of each device that it is now.
    fn show(&self, state: DeviceState, looks: &mut Vec<DeviceLook>) {
        for device in self.devices().filter(|device| device.present) {
            let state = match state {
                DeviceState::Read(_) if device.tier == Tier::E => DeviceState::Read(Reading::default()),
                state => state,
            };
            looks.push(DeviceLook {
                id: device.id.clone(),
                state,
                pids: None,
                used: Vec::new(),
                machines: None,
            });
        }
    }
}
