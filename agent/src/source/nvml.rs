//! NVIDIA accelerators on this host, through the driver's own library.
//!
//! Any call into the driver may hang, so each device has a thread of its own that makes them, and the sampling
//! loop only waits for it until the deadline. A device whose thread is still inside the driver is
//! [`GapCause::CallHung`] in every look until it comes out; its late answer is thrown away and the reading
//! after it starts anew. The other devices do not notice.
//!
//! A device that is lost stays in every look as [`GapCause::DeviceLost`], and a search every few looks finds it
//! again, as it finds new ones. The library itself is searched for in the same way, so the agent may start
//! before the driver does.
//!
//! Deliberately absent for now: cumulative cycle counters (tier A) and readings of MIG instances.

mod driver;
mod judge;

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
    time::Duration,
};

use nvml_wrapper::Nvml;
use tokio::{
    sync::mpsc::error::TryRecvError,
    time::{Instant, timeout_at},
};
use weighbridge_meter::{AcceleratorId, DeviceState, GapCause};

use self::{
    driver::{Failure, Find, Finds, Found, Read, Reads},
    judge::{Answer, judge},
};
use super::{AcceleratorSource, Device, DeviceLook, Look, SourceState};

/// How to look through NVML.
#[derive(Clone, Debug)]
pub struct NvmlOptions {
    /// The library: a path, or a name for the dynamic loader.
    pub library: PathBuf,
    /// The longest a look may take. Shorter than the time between looks, or looks will be late when a driver
    /// hangs.
    pub deadline: Duration,
    /// Devices, or the missing library, are searched for in every so many looks; 0 counts as 1.
    pub search_every: u32,
    /// Each device's processes are asked for in every so many looks; 0 counts as 1.
    pub pids_every: u32,
    /// While this file is there, the devices and the library are let go of.
    pub release_file: Option<PathBuf>,
}

impl Default for NvmlOptions {
    fn default() -> Self {
        Self {
            library: PathBuf::from("libnvidia-ml.so.1"),
            deadline: Duration::from_millis(500),
            search_every: 30,
            pids_every: 10,
            release_file: None,
        }
    }
}

/// NVIDIA accelerators through NVML. Dropping it does not wait for threads that hang in the driver.
#[derive(Debug)]
pub struct NvmlSource {
    options: NvmlOptions,
    looks: u32,
    search: Search,
    state: SourceState,
    unidentified: u32,
    devices: Vec<Tracked>,
}

/// The thread that finds devices.
#[derive(Debug)]
struct Search {
    thread: Option<(mpsc::Sender<Find>, Finds)>,
    /// Asked, not yet heard.
    pending: bool,
    /// Whether it ever succeeded.
    succeeded: bool,
}

impl NvmlSource {
    /// A source that touches nothing until its first look.
    pub fn start(options: NvmlOptions) -> Self {
        Self {
            options,
            looks: 0,
            search: Search { thread: None, pending: false, succeeded: false },
            state: SourceState::Missing(GapCause::DriverMissing, "not looked for yet".into()),
            unidentified: 0,
            devices: Vec::new(),
        }
    }

    /// Searches if it is time to, and takes in what a search found. True if the inventory changed.
    async fn search(&mut self, deadline: Instant) -> bool {
        let due = self.looks.is_multiple_of(self.options.search_every.max(1));
        if due && !self.search.pending {
            self.ask_for_devices();
        }
        if !self.search.pending {
            return false;
        }
        let Some((_, answers)) = &mut self.search.thread else { return false };
        // Devices that are known must not wait for those that are not.
        let answer = if self.devices.is_empty() && due {
            match timeout_at(deadline, answers.recv()).await {
                Ok(answer) => answer.ok_or(TryRecvError::Disconnected),
                Err(_) => Err(TryRecvError::Empty),
            }
        } else {
            answers.try_recv()
        };
        match answer {
            Ok(Ok(found)) => {
                self.search.pending = false;
                self.take_in(found)
            }
            Ok(Err(failure)) => {
                self.search.pending = false;
                self.search_failed(&failure);
                false
            }
            Err(TryRecvError::Empty) => {
                if due || !self.search.succeeded {
                    let detail = "the search for devices has not come back from the driver".into();
                    self.state = SourceState::Missing(GapCause::CallHung, detail);
                }
                false
            }
            Err(TryRecvError::Disconnected) => {
                self.search = Search { thread: None, pending: false, ..self.search };
                self.search_ended("the thread that searches for devices ended");
                false
            }
        }
    }

    fn ask_for_devices(&mut self) {
        if self.search.thread.is_none() {
            match driver::start_finder(self.options.library.clone()) {
                Ok(thread) => self.search.thread = Some(thread),
                Err(error) => {
                    self.search_ended(&format!("starting the thread that searches for devices: {error}"));
                    return;
                }
            }
        }
        let present: Vec<AcceleratorId> =
            self.devices.iter().filter(|one| one.reader.is_some()).map(|one| one.device.id.clone()).collect();
        let afresh = present.is_empty();
        if let Some((ask, _)) = &self.search.thread {
            // If nobody is there to hear it, the answer's channel says so.
            let _ = ask.send(Find { present, afresh });
            self.search.pending = true;
        }
    }

    fn take_in(&mut self, found: Found) -> bool {
        let mut changed = !self.search.succeeded;
        self.search.succeeded = true;
        self.state = SourceState::Ok;
        self.unidentified = found.unidentified;
        for one in self.devices.iter_mut().filter(|one| one.reader.is_none()) {
            one.absent = GapCause::DeviceLost;
        }
        for device in found.devices {
            let tracked = match self.devices.iter_mut().find(|one| one.device.id == device.id) {
                Some(known) => {
                    changed |= known.device != device;
                    known.device = device;
                    known
                }
                None => {
                    changed = true;
                    self.devices.push(Tracked::new(device));
                    let last = self.devices.len() - 1;
                    &mut self.devices[last]
                }
            };
            if tracked.reader.is_none() {
                tracked.start(Arc::clone(&found.nvml));
            }
        }
        changed
    }

    fn search_failed(&mut self, failure: &Failure) {
        if failure.cause == GapCause::DriverMissing {
            for one in self.devices.iter_mut().filter(|one| one.reader.is_none()) {
                one.absent = GapCause::DriverMissing;
            }
        }
        let state = SourceState::Missing(failure.cause, failure.detail.clone());
        if self.state != state {
            tracing::warn!(cause = %failure.cause, detail = failure.detail, "cannot search for devices");
            self.state = state;
        }
    }

    fn search_ended(&mut self, detail: &str) {
        self.search_failed(&Failure { cause: GapCause::ReadFailed, detail: detail.into() });
    }
}

impl AcceleratorSource for NvmlSource {
    async fn look(&mut self) -> Look {
        let deadline = Instant::now() + self.options.deadline;
        let changed = self.search(deadline).await;
        self.looks = self.looks.wrapping_add(1);
        for one in &mut self.devices {
            one.ask(self.options.pids_every.max(1));
        }
        let mut devices = Vec::with_capacity(self.devices.len());
        for one in &mut self.devices {
            devices.push(one.hear(deadline).await);
        }
        Look {
            devices,
            source_state: self.state.clone(),
            inventory_changed: changed.then(|| self.devices.iter().map(|one| one.device.clone()).collect()),
            unidentified: self.unidentified,
        }
    }
}

/// A device that was found at some time.
#[derive(Debug)]
struct Tracked {
    device: Device,
    /// The thread that reads it. None while the device is lost.
    reader: Option<Reader>,
    /// Why there is no thread.
    absent: GapCause,
    /// The energy counter in the answer before, if there was one.
    energy_mj: Option<u64>,
    /// The look before gave no reading.
    rebase: bool,
    /// How many looks were asked for.
    asked: u32,
    /// What was logged last.
    logged: Option<GapCause>,
}

/// A thread that reads a device.
#[derive(Debug)]
struct Reader {
    ask: mpsc::Sender<Read>,
    answers: Reads,
    waiting: Waiting,
}

/// What a device's thread owes us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Nothing,
    /// An answer to this look.
    Now,
    /// An answer to an earlier one.
    Late,
}

impl Tracked {
    fn new(device: Device) -> Self {
        Self {
            device,
            reader: None,
            absent: GapCause::DeviceLost,
            energy_mj: None,
            rebase: true,
            asked: 0,
            logged: None,
        }
    }

    fn start(&mut self, nvml: Arc<Nvml>) {
        match driver::start_reader(nvml, &self.device) {
            Ok((ask, answers)) => {
                self.reader = Some(Reader { ask, answers, waiting: Waiting::Nothing });
                self.asked = 0;
            }
            Err(error) => {
                self.absent = GapCause::ReadFailed;
                self.log(
                    GapCause::ReadFailed,
                    &format!("starting the thread that reads the device: {error}"),
                );
            }
        }
    }

    /// Asks for a reading, unless the answer to an earlier question is still owed.
    fn ask(&mut self, pids_every: u32) {
        let Some(reader) = &mut self.reader else { return };
        if reader.waiting != Waiting::Nothing {
            match reader.answers.try_recv() {
                Ok(Err(failure)) if failure.is_final() => return self.end(failure.cause, &failure.detail),
                // Whatever it says, it is about a moment that has passed.
                Ok(_) => self.rebase = true,
                Err(TryRecvError::Empty) => {
                    reader.waiting = Waiting::Late;
                    return;
                }
                Err(TryRecvError::Disconnected) => return self.died(),
            }
        }
        let Some(reader) = &mut self.reader else { return };
        let read = Read { rebase: self.rebase, pids: self.asked.is_multiple_of(pids_every) };
        if reader.ask.send(read).is_err() {
            return self.died();
        }
        reader.waiting = Waiting::Now;
        self.asked = self.asked.wrapping_add(1);
    }

    /// Hears the answer, until the deadline.
    async fn hear(&mut self, deadline: Instant) -> DeviceLook {
        let answer = match &mut self.reader {
            None => return self.missing(self.absent),
            Some(Reader { waiting: Waiting::Late | Waiting::Nothing, .. }) => None,
            Some(reader) => match timeout_at(deadline, reader.answers.recv()).await {
                Ok(Some(answer)) => {
                    reader.waiting = Waiting::Nothing;
                    Some(answer)
                }
                Ok(None) => {
                    self.died();
                    return self.missing(self.absent);
                }
                Err(_) => None,
            },
        };
        match answer {
            None => {
                self.log(GapCause::CallHung, "a call into the driver has not come back");
                self.missing(GapCause::CallHung)
            }
            Some(Err(failure)) if failure.is_final() => {
                self.end(failure.cause, &failure.detail);
                self.missing(failure.cause)
            }
            Some(Err(failure)) => {
                self.log(failure.cause, &failure.detail);
                self.missing(failure.cause)
            }
            Some(Ok(answer)) => self.heard(answer),
        }
    }

    fn heard(&mut self, answer: Answer) -> DeviceLook {
        let before = if self.rebase { None } else { self.energy_mj };
        let state = judge(before, &answer);
        match state {
            DeviceState::Read(_) => {
                if self.logged.take().is_some() {
                    tracing::info!(accelerator = %self.device.id, "reading the device again");
                }
                self.rebase = false;
            }
            DeviceState::Missing(cause) => {
                self.log(cause, "the driver's answer cannot be");
                self.rebase = true;
            }
        }
        self.energy_mj = answer.energy_mj;
        DeviceLook { id: self.device.id.clone(), state, pids: answer.pids }
    }

    fn missing(&mut self, cause: GapCause) -> DeviceLook {
        self.rebase = true;
        DeviceLook { id: self.device.id.clone(), state: DeviceState::Missing(cause), pids: None }
    }

    /// The device's thread is gone, or about to be, for a reason it gave.
    fn end(&mut self, cause: GapCause, detail: &str) {
        self.reader = None;
        self.absent = cause;
        self.log(cause, detail);
    }

    /// It is gone without one. The next search starts another.
    fn died(&mut self) {
        self.end(GapCause::ReadFailed, "the thread that reads the device ended");
    }

    /// Once for each change, not for each look.
    fn log(&mut self, cause: GapCause, detail: &str) {
        if self.logged.replace(cause) != Some(cause) {
            tracing::warn!(accelerator = %self.device.id, %cause, detail, "cannot read the device");
        }
    }
}
