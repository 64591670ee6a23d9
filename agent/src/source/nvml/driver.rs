//! The calls into NVML, all of which may block for ever: nothing here runs on the sampling loop's thread.
//!
//! One thread finds devices; one for each device reads it. They live as long as the channel they are asked
//! through, or until their device is lost, and are never joined: a thread inside a hung driver cannot be ended.
//! Each holds the library for as long as it runs, so it is shut down and unloaded when the last one is done,
//! and nothing needs to be leaked for the sake of handles and samples that borrow from it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use nvml_wrapper::{
    Device as Handle, GpmSample, Nvml, enum_wrappers::device::Clock, enums::gpm::GpmMetricId,
    error::NvmlError, gpm::gpm_metrics_get,
};
use tokio::{sync::mpsc as replies, time::Instant};
use weighbridge_meter::{AcceleratorId, Condition, GapCause, Source, Tier};

use super::judge::{Answer, Percents, kernel_pci_address, pci_device};
use crate::source::Device;

/// In the order of [`Percents`]; all are asked for in one call.
pub(super) const METRICS: [GpmMetricId; 8] = [
    GpmMetricId::AnyTensorUtil,
    GpmMetricId::HmmaTensorUtil,
    GpmMetricId::ImmaTensorUtil,
    GpmMetricId::DfmaTensorUtil,
    GpmMetricId::Fp64Util,
    GpmMetricId::Fp32Util,
    GpmMetricId::Fp16Util,
    GpmMetricId::SmUtil,
];

/// NVIDIA's hard limit: a pair of samples not further apart than this gives invalid metrics.
const SHORTEST_GPM_INTERVAL: Duration = Duration::from_millis(100);

/// Enough for the deepest calls; there may be sixteen of them.
const STACK_BYTES: usize = 256 * 1024;

/// `NVML_ERROR_GPU_NOT_FOUND`, for which the wrapper has no name.
const GPU_NOT_FOUND: u32 = 28;

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) cause: GapCause,
    /// Which call, and what the driver said.
    pub(super) detail: String,
}

impl Failure {
    fn of(call: &str, error: &NvmlError) -> Self {
        let cause = match error {
            NvmlError::GpuLost | NvmlError::NotFound | NvmlError::UnexpectedVariant(GPU_NOT_FOUND) => {
                GapCause::DeviceLost
            }
            NvmlError::LibloadingError(_)
            | NvmlError::DriverNotLoaded
            | NvmlError::LibraryNotFound
            | NvmlError::LibRmVersionMismatch
            | NvmlError::Uninitialized => GapCause::DriverMissing,
            _ => GapCause::ReadFailed,
        };
        Self { cause, detail: format!("{call}: {error}") }
    }

    /// Whether handles are worthless from here on.
    pub(super) fn is_final(&self) -> bool {
        matches!(self.cause, GapCause::DeviceLost | GapCause::DriverMissing)
    }
}

/// A failed call is a failed look, unless it says that there is nothing of the kind.
fn optional<T>(call: &str, result: Result<T, NvmlError>) -> Result<Option<T>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        // A symbol that is not there is how an old driver says it.
        Err(NvmlError::NotSupported | NvmlError::FunctionNotFound | NvmlError::FailedToLoadSymbol(_)) => {
            Ok(None)
        }
        Err(error) => Err(Failure::of(call, &error)),
    }
}

/// To the thread that finds devices.
#[derive(Debug)]
pub(super) struct Find {
    /// Being read: not to be described again.
    pub(super) present: Vec<AcceleratorId>,
    /// Nothing is being read: a chance to let the library notice what changed, which it does only when
    /// it is initialised.
    pub(super) afresh: bool,
}

/// From it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) nvml: Arc<Nvml>,
    pub(super) devices: Vec<Device>,
    pub(super) unidentified: u32,
}

/// Its answers. When the other end is dropped, the thread is gone.
pub(super) type Finds = replies::Receiver<Result<Found, Failure>>;

/// Starts the thread that loads the library and finds devices. It answers each request once.
pub(super) fn start_finder(library: PathBuf) -> io::Result<(mpsc::Sender<Find>, Finds)> {
    let (ask, requests) = mpsc::channel::<Find>();
    let (reply, answers) = replies::channel(1);
    thread::Builder::new().name("nvml-find".into()).stack_size(STACK_BYTES).spawn(move || {
        let mut nvml: Option<Arc<Nvml>> = None;
        while let Ok(request) = requests.recv() {
            if request.afresh {
                nvml = None;
            }
            let found = find(&mut nvml, &library, &request.present);
            // One request at a time, so there is room, unless nobody listens any more.
            if reply.try_send(found).is_err() {
                return;
            }
        }
    })?;
    Ok((ask, answers))
}

fn find(loaded: &mut Option<Arc<Nvml>>, library: &Path, present: &[AcceleratorId]) -> Result<Found, Failure> {
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
    let mut devices = Vec::new();
    let mut unidentified = 0;
    for index in 0..count {
        let named = nvml.device_by_index(index).and_then(|handle| Ok((handle.uuid()?, handle)));
        let named = named.ok().and_then(|(uuid, handle)| Some((uuid.parse::<AcceleratorId>().ok()?, handle)));
        match named {
            None => unidentified += 1,
            Some((id, _)) if present.contains(&id) => {}
            Some((id, handle)) => devices.push(describe(id, &handle, driver.clone())),
        }
    }
    Ok(Found { nvml: Arc::clone(nvml), devices, unidentified })
}

/// A device without some of its particulars is still one to be metered.
fn describe(id: AcceleratorId, handle: &Handle<'_>, driver: Option<String>) -> Device {
    let pci = handle.pci_info().ok();
    Device {
        id,
        pci_address: pci.as_ref().map(|pci| kernel_pci_address(&pci.bus_id)),
        pci_device: pci.as_ref().map(|pci| pci_device(pci.pci_device_id)),
        name: handle.name().unwrap_or_else(|_| "unknown".into()),
        max_sm_clock_mhz: handle.max_clock_info(Clock::SM).ok(),
        power_limit_mw: handle.enforced_power_limit().ok(),
        memory_bytes: handle.memory_info().ok().map(|memory| memory.total),
        tier: if handle.gpm_support().unwrap_or(false) { Tier::B } else { Tier::D },
        source: Source::Nvml,
        driver,
        host: None,
        trust: None,
        parent: None,
        units: None,
        sample_ms: 0,
        conditions: match handle.mig_mode() {
            Ok(mode) if mode.current != 0 => vec![Condition::Split],
            _ => Vec::new(),
        },
        present: true,
    }
}

/// To the thread that reads a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read {
    /// There was a gap: forget the sample before it.
    pub(super) rebase: bool,
    /// Ask for processes too.
    pub(super) pids: bool,
}

/// From it. After a final failure, or when the other end is dropped, the thread is gone.
pub(super) type Reads = replies::Receiver<Result<Answer, Failure>>;

/// Starts the thread that reads this device. It answers each request once.
pub(super) fn start_reader(nvml: Arc<Nvml>, device: &Device) -> io::Result<(mpsc::Sender<Read>, Reads)> {
    let (ask, requests) = mpsc::channel();
    let (reply, answers) = replies::channel(1);
    let (id, gpm) = (device.id.clone(), device.tier == Tier::B);
    thread::Builder::new().name("nvml-read".into()).stack_size(STACK_BYTES).spawn(move || {
        let last = serve(&nvml, &id, gpm, &requests, &reply);
        // Before the answer: whoever gets it may want the library to be free.
        drop(nvml);
        if let Some(last) = last {
            // Nobody listening is as good as told.
            let _ = reply.try_send(Err(last));
        }
    })?;
    Ok((ask, answers))
}

/// Answers until nobody asks any more, or with a last failure that ends it.
fn serve(
    nvml: &Nvml,
    id: &AcceleratorId,
    gpm: bool,
    requests: &mpsc::Receiver<Read>,
    reply: &replies::Sender<Result<Answer, Failure>>,
) -> Option<Failure> {
    let mut handle = None;
    let mut gpm = gpm.then(|| Gpm { nvml, base: None, latest: Percents::default() });
    while let Ok(request) = requests.recv() {
        // Looking for the device can hang like any other call, so it waits for the first request.
        let open =
            || nvml.device_by_uuid(id.as_str()).map_err(|error| Failure::of("opening the device", &error));
        let opened = match handle.take() {
            Some(handle) => Ok(handle),
            None => open(),
        };
        let answer = opened.and_then(|opened| read(handle.insert(opened), &mut gpm, request));
        match answer {
            Err(failure) if failure.is_final() => return Some(failure),
            answer => reply.try_send(answer).ok()?,
        }
    }
    None
}

fn read<'nvml>(
    handle: &Handle<'nvml>,
    gpm: &mut Option<Gpm<'nvml>>,
    request: Read,
) -> Result<Answer, Failure> {
    let gpm_percent = match gpm {
        Some(gpm) => {
            if request.rebase {
                gpm.forget();
            }
            gpm.read(handle)?
        }
        None => Percents::default(),
    };
    Ok(Answer {
        sm_clock_mhz: optional("reading the SM clock", handle.clock_info(Clock::SM))?,
        power_mw: optional("reading the power", handle.power_usage())?,
        energy_mj: optional("reading the energy", handle.total_energy_consumption())?,
        busy_percent: optional("reading the utilisation", handle.utilization_rates())?.map(|rates| rates.gpu),
        gpm_percent,
        pids: if request.pids { pids(handle) } else { None },
    })
}

/// Processes are evidence of a holder, not part of the reading: without them it is still good.
fn pids(handle: &Handle<'_>) -> Option<Vec<u32>> {
    let processes = handle.running_compute_processes().ok()?;
    let mut pids: Vec<u32> = processes.iter().map(|process| process.pid).filter(|&pid| pid != 0).collect();
    pids.sort_unstable();
    pids.dedup();
    Some(pids)
}

/// GPM between one read and the next.
struct Gpm<'nvml> {
    nvml: &'nvml Nvml,
    /// The sample that the next one is compared with, and a moment not before it was taken.
    /// The clock tells samples apart and goes into no record.
    base: Option<(GpmSample<'nvml>, Instant)>,
    latest: Percents,
}

impl<'nvml> Gpm<'nvml> {
    fn forget(&mut self) {
        self.base = None;
        self.latest = Percents::default();
    }

    /// Activity since the base. Nothing the first time; what was read last if the base is too young to be
    /// compared with.
    fn read(&mut self, handle: &Handle<'nvml>) -> Result<Percents, Failure> {
        if let Some((_, taken)) = &self.base
            && taken.elapsed() <= SHORTEST_GPM_INTERVAL
        {
            return Ok(self.latest);
        }
        let sample = handle.gpm_sample().map_err(|error| Failure::of("taking a GPM sample", &error))?;
        let taken = Instant::now();
        if let Some((base, _)) = self.base.replace((sample, taken))
            && let Some((sample, _)) = &self.base
        {
            self.latest = percents(self.nvml, &base, sample)?;
        }
        Ok(self.latest)
    }
}

fn percents(nvml: &Nvml, first: &GpmSample<'_>, second: &GpmSample<'_>) -> Result<Percents, Failure> {
    let call = "reading GPM metrics";
    let metrics =
        gpm_metrics_get(nvml, first, second, &METRICS).map_err(|error| Failure::of(call, &error))?;
    let mut percents = Percents::default();
    for (percent, metric) in percents.iter_mut().zip(metrics) {
        *percent = match metric {
            // An older driver does not know the id.
            Err(NvmlError::InvalidArg) => None,
            metric => optional(call, metric)?.map(|metric| metric.value),
        };
    }
    Ok(percents)
}
