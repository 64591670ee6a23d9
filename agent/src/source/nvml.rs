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
//! How good readings are is found out while reading: cumulative cycle counters once their scale is known (tier
//! A), else activity ratios (tier B), else kernel utilisation (tier D); what stands in the way is a named
//! condition. A device that is split by MIG is not metered; its instances are, by the thread of their device.
//!
//! While a release file is there, everything is let go of and the library is shut down.
//!
//! Deliberately absent: GPU instances that never had a compute instance (nothing can run on them), what each
//! vGPU does, NVLink's own counters (in KiB on some generations, in bytes on others; so a device without GPM has no NVLink
//! traffic), utilisation by process and accounting, and switching anything on or off in the driver.

mod card;
mod failure;
mod find;
mod judge;
mod metrics;
mod raw;
mod read;
pub mod release;
mod scale;
mod take_in;

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
    time::Duration,
};

use tokio::{
    sync::mpsc::{self as replies, error::TryRecvError},
    time::{Instant, timeout_at},
};
use weighbridge_meter::{AcceleratorId, GapCause, Tier};

use self::{
    card::{Card, Tracked},
    failure::Failure,
    find::{Find, Finds},
    read::Reads,
    release::Release,
};
use super::{AcceleratorSource, DeviceLook, Look, SourceState};
use crate::clock::Clock;

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
    /// While this file is there, the devices and the library are let go of: every device is
    /// [`GapCause::Released`] and nothing of NVML is touched. It may hold an RFC 3339 time after which it no
    /// longer counts. A file beside it, `<name>.done`, is there once everything was let go of.
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
    /// When time begins for those who read.
    origin: Instant,
    looks: u32,
    search: Search,
    state: SourceState,
    unidentified: u32,
    cards: Vec<Card>,
    devices: Vec<Tracked>,
    release: Release,
    held: Held,
}

/// The thread that finds devices.
#[derive(Debug, Default)]
struct Search {
    /// How it is asked, until it is let go of, and how it answers.
    thread: Option<(Option<mpsc::Sender<Find>>, Finds)>,
    /// Asked, not yet heard.
    pending: bool,
    /// Whether it ever succeeded.
    succeeded: bool,
    /// Not to be waited for: something is not as it was found.
    soon: bool,
}

/// Whether the driver is held.
#[derive(Debug)]
enum Held {
    /// As far as there is one.
    Yes,
    /// To be let go of as soon as these threads, and the one that searches, are out of it.
    Leaving { readers: Vec<Reads> },
    /// No longer.
    No,
}

impl NvmlSource {
    /// A source that touches nothing until its first look.
    pub fn start(options: NvmlOptions) -> Self {
        Self {
            release: Release::new(options.release_file.clone()),
            options,
            origin: Instant::now(),
            looks: 0,
            search: Search::default(),
            state: SourceState::Missing(GapCause::DriverMissing, "not looked for yet".into()),
            unidentified: 0,
            cards: Vec::new(),
            devices: Vec::new(),
            held: Held::Yes,
        }
    }

    /// The source of a running agent: it knows what time it is, for the time in the release file, and says
    /// beside that file when everything was let go of. Without it, as in a check, the file counts for as long as
    /// it is there, and nothing is written.
    #[must_use]
    pub fn of_agent(mut self, clock: Arc<dyn Clock>) -> Self {
        self.release.answer(clock);
        self
    }

    /// Searches if it is time to, and takes in what a search found. True if it was the first to succeed.
    async fn search(&mut self, deadline: Instant) -> bool {
        let due = self.search.soon || self.looks.is_multiple_of(self.options.search_every.max(1));
        if due && !self.search.pending {
            self.search.soon = false;
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
                let first = !self.search.succeeded;
                self.take_in(found);
                first
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
            match find::start(self.options.library.clone()) {
                Ok((ask, answers)) => self.search.thread = Some((Some(ask), answers)),
                Err(error) => {
                    self.search_ended(&format!("starting the thread that searches for devices: {error}"));
                    return;
                }
            }
        }
        let present: Vec<AcceleratorId> =
            self.cards.iter().filter(|card| card.reader.is_some()).map(|card| card.id.clone()).collect();
        let instances =
            self.devices.iter().filter(|one| one.device.present).filter_map(|one| {
                Some((one.device.parent.clone()?, one.device.id.clone(), one.identity?.gi))
            });
        let find = Find { afresh: present.is_empty(), present, instances: instances.collect() };
        if let Some((Some(ask), _)) = &self.search.thread {
            // If nobody is there to hear it, the answer's channel says so.
            let _ = ask.send(find);
            self.search.pending = true;
        }
    }

    fn search_failed(&mut self, failure: &Failure) {
        if failure.cause == GapCause::DriverMissing {
            for card in self.cards.iter_mut().filter(|card| card.reader.is_none()) {
                card.absent = GapCause::DriverMissing;
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

    /// Lets go of everything, further with each look.
    async fn let_go(&mut self, deadline: Instant) {
        if let Held::Yes = self.held {
            tracing::info!("letting go of the driver: somebody asked for it");
            let readers = self.cards.iter_mut().filter_map(Card::let_go).collect();
            self.held = Held::Leaving { readers };
            self.devices.iter_mut().for_each(Tracked::forget);
            self.unidentified = 0;
        }
        let Held::Leaving { readers } = &mut self.held else { return };
        let mut inside = Vec::new();
        for mut reads in readers.drain(..) {
            if !ended(&mut reads, deadline).await {
                inside.push(reads);
            }
        }
        *readers = inside;
        let clear = readers.is_empty();
        if self.search.let_go(deadline).await && clear {
            tracing::info!("the driver was let go of");
            self.held = Held::No;
        }
    }

    /// Begins again where it began.
    fn resume(&mut self) {
        tracing::info!("searching for devices again");
        // Threads that are still inside the driver end as they come out of it.
        self.held = Held::Yes;
        self.search = Search { succeeded: self.search.succeeded, ..Search::default() };
        self.looks = 0;
    }

    /// What is known of every device while nothing may be touched.
    fn released(&mut self) -> Look {
        Look {
            devices: self.devices.iter_mut().map(|one| one.missing(GapCause::Released)).collect(),
            source_state: self.state.clone(),
            inventory_changed: None,
            unidentified: 0,
        }
    }

    /// Asks every device's thread, and hears what it says until the deadline.
    async fn read(&mut self, deadline: Instant) -> Vec<DeviceLook> {
        let pids_every = self.options.pids_every.max(1);
        for card in &mut self.cards {
            let asked = card.ask(pids_every);
            for &place in &card.metered {
                match &asked {
                    Ok(false) => {}
                    Ok(true) => self.devices[place].rebase(),
                    Err(failure) => self.devices[place].log(failure.cause, &failure.detail),
                }
            }
        }
        let mut looks: Vec<Option<DeviceLook>> = self.devices.iter().map(|_| None).collect();
        for card in &mut self.cards {
            let mut answers = card.hear(deadline).await.map(Vec::into_iter);
            for &place in &card.metered {
                let one = &mut self.devices[place];
                let (tier, cause) = (one.device.tier, one.last_logged());
                let look = match &mut answers {
                    Ok(answers) => answers.next().map(|answer| match answer {
                        Ok(answer) => one.heard(Ok(answer)),
                        Err(failure) => one.heard(Err(&failure)),
                    }),
                    Err(failure) => Some(one.heard(Err(failure))),
                };
                // MIG may have been switched, or an instance be gone: that is not to wait for the next search.
                let lost_sight = one.device.tier != tier && one.device.tier >= Tier::D;
                let no_compute = one.last_logged() == Some(GapCause::NoComputeInstance);
                self.search.soon |= lost_sight || no_compute && cause != one.last_logged();
                looks[place] = look;
            }
        }
        let seen = looks.into_iter().zip(&mut self.devices);
        seen.map(|(look, one)| look.unwrap_or_else(|| one.unread())).collect()
    }
}

impl Search {
    /// Lets go of the library. True once the thread is out of it.
    async fn let_go(&mut self, deadline: Instant) -> bool {
        let Some(thread) = &mut self.thread else { return true };
        if self.pending {
            // What was found holds the library too. It is dropped here before the thread lets go, or the library
            // would be shut down here, which may take for ever.
            match timeout_at(deadline, thread.1.recv()).await {
                Err(_) => return false,
                Ok(_) => self.pending = false,
            }
        }
        thread.0 = None;
        let gone = ended(&mut thread.1, deadline).await;
        if gone {
            self.thread = None;
        }
        gone
    }
}

/// Whether whoever answers here is gone by the deadline. What is still said is about a moment that has passed.
async fn ended<T>(answers: &mut replies::Receiver<T>, deadline: Instant) -> bool {
    loop {
        match timeout_at(deadline, answers.recv()).await {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

impl AcceleratorSource for NvmlSource {
    async fn look(&mut self) -> Look {
        let deadline = Instant::now() + self.options.deadline;
        if let Some(file) = self.release.asked() {
            let detail = format!("let go of as long as {} is there", file.display());
            self.state = SourceState::Missing(GapCause::Released, detail);
            self.let_go(deadline).await;
            self.release.tell(matches!(self.held, Held::No));
            return self.released();
        }
        self.release.tell(false);
        if !matches!(self.held, Held::Yes) {
            self.resume();
        }
        let first = self.search(deadline).await;
        self.looks = self.looks.wrapping_add(1);
        let devices = self.read(deadline).await;
        let changed = self.devices.iter_mut().fold(first, |any, one| std::mem::take(&mut one.changed) | any);
        Look {
            devices,
            source_state: self.state.clone(),
            inventory_changed: changed.then(|| self.devices.iter().map(|one| one.device.clone()).collect()),
            unidentified: self.unidentified,
        }
    }
}
