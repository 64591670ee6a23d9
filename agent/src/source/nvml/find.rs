//! The thread that loads the library and finds devices and MIG instances. Its calls may block for ever.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
};

use nvml_wrapper::{
    Device as Handle, Nvml, enum_wrappers::device::Clock, enums::device::DeviceArchitecture, error::NvmlError,
};
use tokio::sync::mpsc as replies;
use weighbridge_meter::{AcceleratorId, AcceleratorTable, Condition, Source, Tier};

use super::{
    failure::{Failure, optional},
    judge::{Facts, Identity, kernel_pci_address, pci_device},
    raw, read,
};
use crate::source::Device;

/// CUDA cores of one SM, on every architecture with GPM.
const CORES_OF_AN_SM: u32 = 128;

/// To the thread that finds devices.
#[derive(Debug)]
pub(super) struct Find {
    /// Being read: not to be described again.
    pub(super) present: Vec<AcceleratorId>,
    /// MIG instances that were there: their device, and the number of their GPU instance.
    pub(super) instances: Vec<(AcceleratorId, AcceleratorId, u32)>,
    /// Nothing is being read: a chance to let the library notice what changed, which it does only when
    /// it is initialised.
    pub(super) afresh: bool,
}

/// From it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) nvml: Arc<Nvml>,
    pub(super) cards: Vec<FoundCard>,
    /// Devices and instances that are counted and cannot be named.
    pub(super) unidentified: u32,
    pub(super) confidential: bool,
}

/// A physical device.
#[derive(Debug)]
pub(super) struct FoundCard {
    pub(super) id: AcceleratorId,
    /// `None` if it is being read.
    pub(super) described: Option<(Device, Facts)>,
    pub(super) layout: Layout,
}

/// Whether a device is split by MIG.
#[derive(Debug)]
pub(super) enum Layout {
    Whole,
    Split(Split),
    /// The driver failed to say.
    Unknown,
}

/// What is known of a device that is split.
#[derive(Debug)]
pub(super) struct Split {
    pub(super) instances: Vec<FoundInstance>,
    /// All that are there could be named.
    pub(super) complete: bool,
    /// Known before; their GPU instance is still there and their compute instance is not.
    pub(super) without_compute: Vec<AcceleratorId>,
}

/// A MIG instance.
#[derive(Debug)]
pub(super) struct FoundInstance {
    pub(super) id: AcceleratorId,
    pub(super) identity: Option<Identity>,
    pub(super) memory_bytes: Option<u64>,
    /// One of several compute instances in one GPU instance, if that could be asked.
    pub(super) shares: Option<bool>,
}

/// Its answers. When the other end is dropped, the thread is gone, and so is its hold on the library.
pub(super) type Finds = replies::Receiver<Result<Found, Failure>>;

/// Starts the thread that loads the library and finds devices. It answers each request once.
pub(super) fn start(library: PathBuf) -> io::Result<(mpsc::Sender<Find>, Finds)> {
    let (ask, requests) = mpsc::channel::<Find>();
    let (reply, answers) = replies::channel(1);
    thread::Builder::new().name("nvml-find".into()).stack_size(read::STACK_BYTES).spawn(move || {
        let mut nvml: Option<Arc<Nvml>> = None;
        while let Ok(request) = requests.recv() {
            if request.afresh {
                nvml = None;
            }
            let found = find(&mut nvml, &library, &request);
            // One request at a time, so there is room, unless nobody listens any more.
            if reply.try_send(found).is_err() {
                break;
            }
        }
        // Before the channel: its end tells that the library is free.
        drop(nvml);
        drop(reply);
    })?;
    Ok((ask, answers))
}

fn find(loaded: &mut Option<Arc<Nvml>>, library: &Path, request: &Find) -> Result<Found, Failure> {
    let nvml = match loaded {
        Some(nvml) => nvml,
        none => {
            let nvml = Nvml::builder()
                .lib_path(library.as_os_str())
                .init()
                .map_err(|error| Failure::of(&format!("initialising {}", library.display()), &error))?;
            none.insert(Arc::new(nvml))
        }
    };
    let driver = optional("reading the driver's version", nvml.sys_driver_version())?;
    let count = nvml.device_count().map_err(|error| Failure::of("counting devices", &error))?;
    let mut cards = Vec::new();
    let mut unidentified = 0;
    for index in 0..count {
        let named = nvml.device_by_index(index).and_then(|handle| Ok((handle.uuid()?, handle)));
        let named = named.ok().and_then(|(uuid, handle)| Some((uuid.parse::<AcceleratorId>().ok()?, handle)));
        let Some((id, handle)) = named else {
            unidentified += 1;
            continue;
        };
        let layout = match optional("reading the MIG mode", handle.mig_mode()) {
            Ok(Some(mode)) if mode.current != 0 => {
                let (split, unnamed) = split(&id, &handle, request);
                unidentified += unnamed;
                Layout::Split(split)
            }
            Ok(_) => Layout::Whole,
            Err(_) => Layout::Unknown,
        };
        let described =
            (!request.present.contains(&id)).then(|| describe(id.clone(), &handle, driver.clone()));
        cards.push(FoundCard { id, described, layout });
    }
    // Where the library cannot tell, there is nothing of the kind.
    let confidential = raw::confidential(nvml).unwrap_or(false);
    Ok(Found { nvml: Arc::clone(nvml), cards, unidentified, confidential })
}

/// A device without some of its particulars is still one to be metered.
fn describe(id: AcceleratorId, handle: &Handle<'_>, driver: Option<String>) -> (Device, Facts) {
    let pci = handle.pci_info().ok();
    let gpm = handle.gpm_support().unwrap_or(false);
    let name = handle.name().unwrap_or_else(|_| "unknown".into());
    let pci_device = pci.as_ref().map(|pci| pci_device(pci.pci_device_id));
    let power_limit_mw = handle.enforced_power_limit().ok();
    let tier = if gpm { Tier::B } else { Tier::D };
    let mut device = Device::new(id, name, Source::Nvml, tier);
    device.pci_address = pci.as_ref().map(|pci| kernel_pci_address(&pci.bus_id));
    device.max_sm_clock_mhz = handle.max_clock_info(Clock::SM).ok();
    device.power_limit_mw = power_limit_mw;
    device.memory_bytes = handle.memory_info().ok().map(|memory| memory.total);
    device.driver = driver;
    if let Err(NvmlError::UnexpectedVariant(_)) | Ok(DeviceArchitecture::Unknown) = handle.architecture() {
        device.conditions.push(Condition::UnknownArchitecture);
    }
    let by_table = || {
        let table = AcceleratorTable::shipped();
        table.find(pci_device.as_deref(), &device.name).map(|model| model.units)
    };
    let by_cores = || handle.num_cores().ok().map(|cores| cores / CORES_OF_AN_SM).filter(|&sms| sms > 0);
    let sms = if gpm { by_table().or_else(by_cores) } else { None };
    device.pci_device = pci_device;
    (device, Facts { gpm, sms, power_limit_mw, ..Facts::default() })
}

/// The MIG instances of a device, and how many could not be named.
fn split(id: &AcceleratorId, handle: &Handle<'_>, request: &Find) -> (Split, u32) {
    let mut split = Split { instances: Vec::new(), complete: true, without_compute: Vec::new() };
    let Ok(most) = handle.mig_device_count() else { return (Split { complete: false, ..split }, 1) };
    let mut unnamed = 0;
    for index in 0..most {
        let named = handle.mig_device_by_index(index).and_then(|instance| Ok((instance.uuid()?, instance)));
        match named {
            Ok((uuid, instance)) => match uuid.parse() {
                Ok(id) => split.instances.push(describe_instance(id, &instance)),
                Err(_) => unnamed += 1,
            },
            // Places may be empty.
            Err(NvmlError::NotFound | NvmlError::InvalidArg) => {}
            Err(_) => unnamed += 1,
        }
    }
    split.complete = unnamed == 0;
    for (parent, instance, gi) in &request.instances {
        let listed = split.instances.iter().any(|found| found.id == *instance);
        // Who may not ask cannot tell it from one that was removed, and nothing can run on either.
        if parent == id && !listed && split.complete && raw::has_gpu_instance(handle, *gi).unwrap_or(false) {
            split.without_compute.push(instance.clone());
        }
    }
    (split, unnamed)
}

fn describe_instance(id: AcceleratorId, handle: &Handle<'_>) -> FoundInstance {
    let attributes = handle.attributes().ok();
    FoundInstance {
        id,
        identity: read::identity(handle).ok(),
        memory_bytes: attributes.as_ref().map(|found| found.memory_size_mb.saturating_mul(1 << 20)),
        shares: attributes.map(|found| found.compute_instance_slice_count < found.gpu_instance_slice_count),
    }
}
