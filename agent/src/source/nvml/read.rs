//! The thread that reads one physical device, whole or instance by instance. Its calls may block for ever.
//!
//! It lives as long as the channel it is asked through, or until its device is lost, and is never joined: a
//! thread inside a hung driver cannot be ended. It holds the library for as long as it runs, so that is shut
//! down and unloaded when the last one is done, and nothing needs to be leaked for the sake of handles and
//! samples that borrow from it. An instance costs two samples, used in turn, and no thread of its own.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use nvml_wrapper::{
    Device as Handle, GpmSample, Nvml,
    enum_wrappers::device::{Clock, Sampling},
    enums::device::SampleValue,
    error::NvmlError,
};
use tokio::{sync::mpsc as replies, time::Instant};
use weighbridge_meter::AcceleratorId;

use super::{
    failure::{Failure, is_unsupported, optional},
    judge::{Answer, Gpm, Identity, mean_clock},
    metrics::{IDS, Metrics, NEEDED, OLD},
    raw::{self, MetricsBuffer},
};

/// NVIDIA's hard limit: a pair of samples not further apart than this gives invalid metrics.
const SHORTEST_GPM_INTERVAL: Duration = Duration::from_millis(100);

/// Enough for the deepest calls, also without optimisation; of it only what is used is there. Sixteen at most.
pub(super) const STACK_BYTES: usize = 512 * 1024;

/// What is read of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// All of it.
    Whole { gpm: bool },
    /// One of its MIG instances.
    Instance { id: AcceleratorId, gi: u32, gpm: bool },
}

impl Target {
    fn gpm(&self) -> bool {
        match self {
            Self::Whole { gpm } | Self::Instance { gpm, .. } => *gpm,
        }
    }
}

/// To the thread that reads a device.
#[derive(Clone, Debug)]
pub(super) struct Read {
    /// What is wanted, in this order.
    pub(super) targets: Arc<[Target]>,
    /// Ask for processes too.
    pub(super) pids: bool,
}

/// What it read of each target. A failure of the whole is one of the device.
pub(super) type Answers = Result<Vec<Result<Answer, Failure>>, Failure>;

/// From it. After a final failure, or when the other end is dropped, the thread is gone, and so is its hold on
/// the library.
pub(super) type Reads = replies::Receiver<Answers>;

/// Starts the thread that reads this device. It answers each request once; `origin` is when time begins.
pub(super) fn start(
    nvml: Arc<Nvml>,
    id: AcceleratorId,
    origin: Instant,
) -> io::Result<(mpsc::Sender<Read>, Reads)> {
    let (ask, requests) = mpsc::channel();
    let (reply, answers) = replies::channel(1);
    thread::Builder::new().name("nvml-read".into()).stack_size(STACK_BYTES).spawn(move || {
        let last = serve(&nvml, &id, origin, &requests, &reply);
        // Before the answer, and the end of the channel: whoever gets it may want the library to be free.
        drop(nvml);
        if let Some(last) = last {
            // Nobody listening is as good as told.
            let _ = reply.try_send(Err(last));
        }
        drop(reply);
    })?;
    Ok((ask, answers))
}

/// Answers until nobody asks any more, or with a last failure that ends it.
fn serve(
    nvml: &Nvml,
    id: &AcceleratorId,
    origin: Instant,
    requests: &mpsc::Receiver<Read>,
    reply: &replies::Sender<Answers>,
) -> Option<Failure> {
    let mut card = Card {
        nvml,
        origin,
        clock: ClockSamples::default(),
        asking: Asking::All,
        buffer: MetricsBuffer::new(),
        parts: Vec::new(),
    };
    let mut handle = None;
    while let Ok(request) = requests.recv() {
        // Looking for the device can hang like any other call, so it waits for the first request.
        let opened = match handle.take() {
            Some(handle) => Ok(handle),
            None => {
                nvml.device_by_uuid(id.as_str()).map_err(|error| Failure::of("opening the device", &error))
            }
        };
        let answer = opened.and_then(|opened| card.read(handle.insert(opened), &request));
        match answer {
            Err(failure) if failure.is_final() => return Some(failure),
            answer => reply.try_send(answer).ok()?,
        }
    }
    None
}

/// A device between one read and the next.
struct Card<'nvml> {
    nvml: &'nvml Nvml,
    origin: Instant,
    clock: ClockSamples,
    asking: Asking,
    buffer: MetricsBuffer,
    parts: Vec<Part<'nvml>>,
}

/// A target between one read and the next.
struct Part<'nvml> {
    target: Target,
    /// Of a MIG instance, once it was opened.
    handle: Option<Handle<'nvml>>,
    identity: Option<Identity>,
    samples: Samples<'nvml>,
    processes: ProcessSamples,
}

/// How GPM is asked for metrics that not every driver knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    /// With all others, in one call.
    All,
    /// In a call of their own.
    Apart,
    /// Not at all.
    Old,
}

impl<'nvml> Card<'nvml> {
    fn read(&mut self, handle: &Handle<'nvml>, request: &Read) -> Answers {
        self.arrange(&request.targets);
        let sm_clock_mhz = match self.clock.mean(handle) {
            Some(mhz) => Some(mhz),
            None => optional("reading the SM clock", handle.clock_info(Clock::SM))?,
        };
        let streaming = match request.targets.iter().any(Target::gpm).then(|| handle.gpm_streaming_enabled())
        {
            Some(Err(NvmlError::GpuLost)) => return Err(lost()),
            // Evidence beside the reading; without it that stands for itself.
            None | Some(Err(_)) => None,
            Some(Ok(streaming)) => Some(streaming),
        };
        let mut answers = Vec::with_capacity(self.parts.len());
        for part in &mut self.parts {
            let answer = part.read(handle, request.pids, self.nvml, &mut self.asking, &mut self.buffer);
            match answer {
                Err(failure) if failure.is_final() => return Err(failure),
                Err(failure) => answers.push(Err(failure)),
                Ok(answer) => answers.push(Ok(Answer {
                    at_us: u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX),
                    sm_clock_mhz,
                    streaming,
                    ..answer
                })),
            }
        }
        Ok(answers)
    }

    /// Parts as wanted; those that stay keep their samples.
    fn arrange(&mut self, targets: &[Target]) {
        if self.parts.iter().map(|part| &part.target).eq(targets) {
            return;
        }
        let mut before = std::mem::take(&mut self.parts);
        self.parts = targets
            .iter()
            .map(|target| match before.iter().position(|part| part.target == *target) {
                Some(place) => before.swap_remove(place),
                None => Part {
                    target: target.clone(),
                    handle: None,
                    identity: None,
                    samples: Samples::default(),
                    processes: ProcessSamples::default(),
                },
            })
            .collect();
    }
}

fn lost() -> Failure {
    Failure::of("asking whether GPM is streaming", &NvmlError::GpuLost)
}

impl<'nvml> Part<'nvml> {
    fn read(
        &mut self,
        card: &Handle<'nvml>,
        pids_wanted: bool,
        nvml: &'nvml Nvml,
        asking: &mut Asking,
        buffer: &mut MetricsBuffer,
    ) -> Result<Answer, Failure> {
        match self.target.clone() {
            Target::Whole { gpm } => Ok(Answer {
                gpm: if gpm {
                    self.samples.read(card, None, nvml, asking, buffer)?
                } else {
                    Gpm::Unsupported
                },
                power_mw: optional("reading the power", card.power_usage())?,
                energy_mj: optional("reading the energy", card.total_energy_consumption())?,
                busy_percent: optional("reading the utilisation", card.utilization_rates())?
                    .map(|rates| rates.gpu),
                // As a rule not supported: only a driver of a vGPU host knows of them.
                machines: if pids_wanted { raw::machines(card).ok() } else { None },
                ..self.processes(card, pids_wanted)
            }),
            // Utilisation and power are not told apart between instances: NVML's header.
            Target::Instance { id, gi, gpm } => {
                // Before any sample is taken: of old drivers it is told that calls on an instance fail after it.
                let identity = self.identify(nvml, &id)?;
                let pids = self.handle.as_ref().filter(|_| pids_wanted).and_then(pids);
                if identity.is_some() && self.identity.is_some() && identity != self.identity {
                    self.samples = Samples::default();
                }
                self.identity = identity.or(self.identity);
                let gi = self.identity.map_or(gi, |identity| identity.gi);
                let gpm = if gpm {
                    self.samples.read(card, Some(gi), nvml, asking, buffer)?
                } else {
                    Gpm::Unsupported
                };
                Ok(Answer { gpm, identity, pids, ..Answer::default() })
            }
        }
    }

    /// Which processes there are, and how long each of several used the device.
    fn processes(&mut self, card: &Handle<'_>, wanted: bool) -> Answer {
        let pids = if wanted { pids(card) } else { None };
        let several = pids.as_ref().is_some_and(|pids| pids.len() > 1);
        let used = if several { self.processes.used(card) } else { Vec::new() };
        Answer { pids, used, ..Answer::default() }
    }

    /// Which instance has this name now. `None` if the driver would not say; that none has it is an error.
    fn identify(&mut self, nvml: &'nvml Nvml, id: &AcceleratorId) -> Result<Option<Identity>, Failure> {
        if let Some(handle) = &self.handle
            && let Ok(identity) = identity(handle)
        {
            return Ok(Some(identity));
        }
        // A handle does not outlive its instance.
        self.handle = None;
        match nvml.device_by_uuid(id.as_str()) {
            Ok(handle) => {
                let identity = identity(&handle).ok();
                self.handle = Some(handle);
                Ok(identity)
            }
            Err(error @ (NvmlError::NotFound | NvmlError::GpuLost)) => {
                Err(Failure::of_instance("opening the instance", &error))
            }
            Err(_) => Ok(None),
        }
    }
}

/// By what an instance is told from one that was made anew under its name.
pub(super) fn identity(handle: &Handle<'_>) -> Result<Identity, NvmlError> {
    Ok(Identity {
        gi: raw::gpu_instance_id(handle)?,
        ci: raw::compute_instance_id(handle)?,
        sms: handle.attributes()?.multiprocessor_count,
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

/// The driver's own samples of its processes.
#[derive(Debug, Default)]
struct ProcessSamples {
    /// The driver's time of the newest one seen, and when that was.
    seen: Option<(u64, Instant)>,
    /// The driver has none.
    none: bool,
}

/// Of what was not asked for longer than this nothing is said: a sample speaks of a second or so.
const LONGEST_USE: Duration = Duration::from_secs(60);

/// Of several samples of one process the mean counts; more of them are not looked at.
const MOST_SAMPLES: usize = 4096;

impl ProcessSamples {
    /// For how many microseconds since the last call kernels of each process were resident: of those of which any
    /// were. Nothing at the first call, nor where the driver has no samples.
    fn used(&mut self, handle: &Handle<'_>) -> Vec<(u32, u64)> {
        if self.none {
            return Vec::new();
        }
        let now = Instant::now();
        let samples = match handle.process_utilization_stats(self.seen.map(|(newest, _)| newest)) {
            Ok(samples) => samples,
            // Nothing was resident since.
            Err(NvmlError::NotFound) => Vec::new(),
            Err(error) => {
                self.none = is_unsupported(&error);
                return Vec::new();
            }
        };
        let newest = samples.iter().map(|sample| sample.timestamp).max();
        let before = self.seen;
        self.seen = Some((newest.or(before.map(|(newest, _)| newest)).unwrap_or_default(), now));
        let Some(elapsed) = before.map(|(_, at)| now - at).filter(|elapsed| *elapsed <= LONGEST_USE) else {
            return Vec::new();
        };
        let mut of_process: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        for sample in samples.iter().take(MOST_SAMPLES) {
            let (percent, count) = of_process.entry(sample.pid).or_default();
            *percent += u64::from(sample.sm_util.min(100));
            *count += 1;
        }
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or_default();
        let used =
            of_process.into_iter().map(|(pid, (percent, count))| (pid, micros * percent / count / 100));
        used.filter(|(_, busy_us)| *busy_us > 0).collect()
    }
}

/// The driver's own samples of the clock.
#[derive(Debug, Default)]
struct ClockSamples {
    /// The driver's time of the newest one seen.
    seen: Option<u64>,
    /// The driver has none.
    none: bool,
}

impl ClockSamples {
    /// Mean in MHz since the last call. `None` at the first, and where the driver has none.
    fn mean(&mut self, handle: &Handle<'_>) -> Option<u32> {
        if self.none {
            return None;
        }
        let samples = match handle.samples(Sampling::ProcessorClock, self.seen) {
            Ok(samples) => samples,
            Err(error) => {
                self.none = is_unsupported(&error);
                return None;
            }
        };
        let since = self.seen;
        self.seen = samples.iter().map(|sample| sample.timestamp).max().or(since);
        since?;
        mean_clock(samples.iter().filter_map(|sample| match sample.value {
            SampleValue::U32(mhz) => Some(u64::from(mhz)),
            SampleValue::U64(mhz) => Some(mhz),
            SampleValue::I64(mhz) => u64::try_from(mhz).ok(),
            _ => None,
        }))
    }
}

/// GPM samples of one device or instance: the last one, and one to be used for the next.
#[derive(Default)]
struct Samples<'nvml> {
    /// With a moment not before it was taken, which tells samples apart and goes into no record.
    base: Option<(GpmSample<'nvml>, Instant)>,
    spare: Option<GpmSample<'nvml>>,
}

impl<'nvml> Samples<'nvml> {
    /// What happened since the base.
    fn read(
        &mut self,
        card: &Handle<'nvml>,
        instance: Option<u32>,
        nvml: &'nvml Nvml,
        asking: &mut Asking,
        buffer: &mut MetricsBuffer,
    ) -> Result<Gpm, Failure> {
        if let Some((_, taken)) = &self.base
            && taken.elapsed() <= SHORTEST_GPM_INTERVAL
        {
            return Ok(Gpm::Young);
        }
        let failed = |call: &str, error: &NvmlError| match (error, instance) {
            (error, _) if is_unsupported(error) => Ok(Gpm::Unsupported),
            (NvmlError::NoPermission, _) => Ok(Gpm::Refused),
            (NvmlError::NoData, Some(_)) => Ok(Gpm::NoData),
            (error, Some(_)) => Err(Failure::of_instance(call, error)),
            (error, None) => Err(Failure::of(call, error)),
        };
        let sample = match self.take(card, instance) {
            Ok(sample) => sample,
            Err(error) => return failed("taking a GPM sample", &error),
        };
        let taken = Instant::now();
        let Some((first, before)) = self.base.replace((sample, taken)) else { return Ok(Gpm::Seed) };
        let Some((second, _)) = &self.base else { return Ok(Gpm::Seed) };
        let metrics = metrics(nvml, (&first, second), asking, buffer);
        self.spare = Some(first);
        match metrics {
            Ok(metrics) => {
                let micros = u64::try_from(taken.duration_since(before).as_micros()).unwrap_or(u64::MAX);
                Ok(Gpm::Pair { micros, metrics })
            }
            Err(error) => failed("reading GPM metrics", &error),
        }
    }

    fn take(&mut self, card: &Handle<'nvml>, instance: Option<u32>) -> Result<GpmSample<'nvml>, NvmlError> {
        match (self.spare.take(), instance) {
            (Some(sample), instance) => {
                let taken = raw::sample_again(card, instance, &sample);
                if let Err(error) = taken {
                    self.spare = Some(sample);
                    return Err(error);
                }
                Ok(sample)
            }
            (None, None) => card.gpm_sample(),
            (None, Some(instance)) => card.gpm_mig_sample(instance),
        }
    }
}

/// What a pair of samples says, in one call if the driver lets us.
fn metrics(
    nvml: &Nvml,
    (first, second): (&GpmSample<'_>, &GpmSample<'_>),
    asking: &mut Asking,
    buffer: &mut MetricsBuffer,
) -> Result<Metrics, NvmlError> {
    let mut metrics = Metrics::default();
    // Says whether the driver knew any of them.
    let mut ask = |metrics: &mut Metrics, from: usize, to: usize| -> Result<bool, NvmlError> {
        let answers = buffer.get(nvml, first, second, &IDS[from..to])?;
        let mut unknown = 0;
        for (place, answer) in (from..to).zip(answers) {
            let value = match answer {
                Ok(value) => Some(value),
                // An older driver does not know the number.
                Err(error) if is_unsupported(&error) || matches!(error, NvmlError::InvalidArg) => {
                    unknown += usize::from(place >= OLD);
                    None
                }
                Err(_) if place >= NEEDED => None,
                Err(error) => return Err(error),
            };
            metrics.set(place, value);
        }
        Ok(unknown < to.saturating_sub(OLD))
    };
    if *asking == Asking::All {
        match ask(&mut metrics, 0, IDS.len()) {
            Ok(known) => {
                if !known {
                    *asking = Asking::Old;
                }
                return Ok(metrics);
            }
            // One number too many may be why.
            Err(NvmlError::InvalidArg) => metrics = Metrics::default(),
            Err(error) => return Err(error),
        }
    }
    ask(&mut metrics, 0, OLD)?;
    if *asking != Asking::Old {
        *asking = match ask(&mut metrics, OLD, IDS.len()) {
            Err(NvmlError::InvalidArg) | Ok(false) => Asking::Old,
            _ => Asking::Apart,
        };
    }
    Ok(metrics)
}
