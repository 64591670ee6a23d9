//! The machine behind the symbols: the script, which faults are on, and the GPM samples taken.

mod counters;

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    thread,
    time::Duration,
};

use nvml_wrapper_sys::bindings as nvml;

use self::counters::Counters;
use crate::{
    install::{DriverFault, Fault, SAMPLERS, USERS},
    script::{Device, Instance, Script},
};

pub(crate) type Code = nvml::nvmlReturn_t;

/// How often a blocked call looks whether its file is gone.
const HANG_POLL: Duration = Duration::from_millis(2);

const INVALID: Code = nvml::nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
const NOT_FOUND: Code = nvml::nvmlReturn_enum_NVML_ERROR_NOT_FOUND;
const UNSUPPORTED: Code = nvml::nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED;

/// What `nvmlInit` made, and how many times more it was called than `nvmlShutdown`.
static LOADED: RwLock<Option<(usize, Arc<Machine>)>> = RwLock::new(None);

pub(crate) struct Machine {
    pub(crate) driver_version: String,
    pub(crate) confidential: Option<bool>,
    faults: PathBuf,
    /// In the order of the script; a handle is a place in here.
    cards: Vec<Card>,
    /// Of all cards; a handle is a place in here, after the cards.
    parts: Vec<Part>,
    samples: Mutex<Vec<Slot>>,
    /// Threads that took samples, and how many there were when that was told last.
    samplers: Mutex<(HashSet<PathBuf>, usize)>,
}

/// A device.
pub(crate) struct Card {
    pub(crate) device: Device,
    pub(crate) switches: Switches,
    pub(crate) counters: Counters,
}

/// A MIG instance.
pub(crate) struct Part {
    pub(crate) instance: Instance,
    pub(crate) switches: Switches,
    pub(crate) counters: Counters,
    card: usize,
}

/// What a handle stands for, once its faults let a call through.
pub(crate) enum Node<'a> {
    Card(&'a Card),
    Part(&'a Card, &'a Part),
}

/// The names of fault files, made once: the calls themselves allocate nothing.
pub(crate) struct Switches {
    files: [(Fault, PathBuf); Fault::ALL.len()],
    totals: PathBuf,
}

/// A place for a GPM sample: free, allocated, or taken of the node at this place.
#[derive(Clone, Copy)]
enum Slot {
    Free,
    Empty,
    Taken { place: usize, at: Duration },
}

/// Two samples of one node.
pub(crate) struct Pair<'a> {
    pub(crate) node: Node<'a>,
    pub(crate) apart: Duration,
    /// Boot time of the later one.
    pub(crate) at: Duration,
}

/// Initialises, or counts one more user of what is there.
pub(crate) fn init() -> Code {
    let path = match script_path() {
        Ok(path) => path,
        Err(error) => return complain(&format!("cannot tell where the script is: {error}")),
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => return complain(&format!("cannot read {}: {error}", path.display())),
    };
    // The caller's stack may be small; NVML itself reads no script.
    let parsed = thread::scope(|scope| scope.spawn(|| toml::from_str::<Script>(&text)).join());
    let script = match parsed {
        Ok(Ok(script)) => script,
        Ok(Err(error)) => return complain(&format!("{}: {error}", path.display())),
        Err(_) => return complain(&format!("{}: reading it panicked", path.display())),
    };
    let faults = path.parent().unwrap_or(Path::new("")).join(&script.control_dir);
    let driver_fault = |fault: DriverFault| faults.join(format!("driver.{}", fault.suffix()));
    wait_while_exists(&driver_fault(DriverFault::Hang));
    if driver_fault(DriverFault::NotLoaded).exists() {
        return nvml::nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED;
    }

    let mut loaded = LOADED.write().unwrap_or_else(PoisonError::into_inner);
    let (users, machine) = loaded.get_or_insert_with(|| (0, Arc::new(Machine::new(script, faults))));
    *users += 1;
    machine.tell_users(*users);
    nvml::nvmlReturn_enum_NVML_SUCCESS
}

/// Counts one user less.
pub(crate) fn shutdown() -> Code {
    let mut loaded = LOADED.write().unwrap_or_else(PoisonError::into_inner);
    let Some((users, machine)) = &mut *loaded else {
        return nvml::nvmlReturn_enum_NVML_ERROR_UNINITIALIZED;
    };
    *users -= 1;
    machine.tell_users(*users);
    if *users == 0 {
        *loaded = None;
    }
    nvml::nvmlReturn_enum_NVML_SUCCESS
}

pub(crate) fn machine() -> Result<Arc<Machine>, Code> {
    let loaded = LOADED.read().unwrap_or_else(PoisonError::into_inner);
    let machine = loaded.as_ref().map(|(_, machine)| Arc::clone(machine));
    machine.ok_or(nvml::nvmlReturn_enum_NVML_ERROR_UNINITIALIZED)
}

/// A wrong script is a wrong test: NVML has no words for it, so they go to whoever runs the test.
fn complain(message: &str) -> Code {
    eprintln!("fake NVML: {message}");
    nvml::nvmlReturn_enum_NVML_ERROR_UNKNOWN
}

fn script_path() -> io::Result<PathBuf> {
    if let Some(path) = std::env::var_os("WEIGHBRIDGE_FAKE_NVML") {
        return Ok(PathBuf::from(path));
    }
    let mut path = own_path()?.into_os_string();
    path.push(".toml");
    Ok(PathBuf::from(path))
}

/// The file this code was loaded from.
fn own_path() -> io::Result<PathBuf> {
    // Not one of the exported symbols: their addresses may be another library's.
    let here = own_path as fn() -> io::Result<PathBuf> as usize;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let path = maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        let path = &rest[rest.find('/')?..];
        (start..end).contains(&here).then(|| PathBuf::from(path))
    });
    path.ok_or_else(|| io::Error::other("this library is not in /proc/self/maps"))
}

fn wait_while_exists(file: &Path) {
    while file.exists() {
        std::thread::sleep(HANG_POLL);
    }
}

/// Time since boot, with suspension.
pub(crate) fn boot_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

impl Machine {
    fn new(script: Script, faults: PathBuf) -> Self {
        let (mut cards, mut parts) = (Vec::new(), Vec::new());
        for mut device in script.device {
            for instance in std::mem::take(&mut device.instance) {
                let switches = Switches::new(&faults, &instance.uuid);
                parts.push(Part { instance, switches, counters: Counters::default(), card: cards.len() });
            }
            let switches = Switches::new(&faults, &device.uuid);
            cards.push(Card { device, switches, counters: Counters::default() });
        }
        Self {
            driver_version: script.driver_version,
            confidential: script.confidential,
            faults,
            cards,
            parts,
            samples: Mutex::default(),
            samplers: Mutex::default(),
        }
    }

    fn tell_samplers(&self, samples: usize) {
        // Not by the standard library's name of it, whose last words would be said after this library is unloaded.
        let thread = fs::read_link("/proc/thread-self").unwrap_or_default();
        let mut samplers = self.samplers.lock().unwrap_or_else(PoisonError::into_inner);
        let (threads, told) = &mut *samplers;
        if threads.insert(thread) || samples > *told {
            *told = samples;
            self.tell(SAMPLERS, &format!("{} {samples}", threads.len()));
        }
    }

    /// Says something in a file. A test that is over has taken the folder away, and nobody listens.
    fn tell(&self, file: &str, text: &str) {
        match fs::write(self.faults.join(file), text) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                complain(&format!("cannot write {file}: {error}"));
            }
            _ => {}
        }
    }

    fn tell_users(&self, users: usize) {
        self.tell(USERS, &users.to_string());
    }

    /// How many devices are there now.
    pub(crate) fn count(&self) -> usize {
        self.present().count()
    }

    fn present(&self) -> impl Iterator<Item = (usize, &Card)> {
        self.cards.iter().enumerate().filter(|(_, card)| !card.switches.has(Fault::Gone))
    }

    /// The place of the device that has this index now; places never change.
    pub(crate) fn by_index(&self, index: usize) -> Result<usize, Code> {
        let (place, card) = self.present().nth(index).ok_or(INVALID)?;
        card.ready().map(|()| place)
    }

    /// The place of the device or listed instance with this UUID.
    pub(crate) fn by_uuid(&self, uuid: &str) -> Result<usize, Code> {
        if let Some((place, card)) = self.present().find(|(_, card)| card.device.uuid == uuid) {
            return card.ready().map(|()| place);
        }
        let found = self.parts.iter().position(|part| part.instance.uuid == uuid);
        let index = found.filter(|&index| self.is_listed(&self.parts[index])).ok_or(NOT_FOUND)?;
        self.cards[self.parts[index].card].ready()?;
        Ok(self.cards.len() + index)
    }

    /// The place of the `index`-th instance of the device at `place`: as with NVIDIA's, there may be holes.
    pub(crate) fn instance_by_index(&self, place: usize, index: usize) -> Result<usize, Code> {
        self.card(place)?;
        let mut parts = self.parts.iter().enumerate().filter(|(_, part)| part.card == place);
        let (part_place, part) = parts.nth(index).ok_or(NOT_FOUND)?;
        if self.is_listed(part) { Ok(self.cards.len() + part_place) } else { Err(NOT_FOUND) }
    }

    fn is_listed(&self, part: &Part) -> bool {
        self.exists(part) && !part.switches.has(Fault::NoCompute)
    }

    /// Whether its GPU instance is there.
    fn exists(&self, part: &Part) -> bool {
        self.cards[part.card].mig() == Some(true) && !part.switches.has(Fault::Gone)
    }

    /// The place of the GPU instance with this number on the device at `place`.
    pub(crate) fn gpu_instance(&self, place: usize, gi: u32) -> Result<usize, Code> {
        self.card(place)?;
        let of_it = |part: &&Part| part.card == place && part.instance.gi == gi && self.exists(part);
        let found = self.parts.iter().position(|part| of_it(&part));
        found.map(|index| self.cards.len() + index).ok_or(NOT_FOUND)
    }

    /// The device at this place, once its faults let a call through.
    pub(crate) fn card(&self, place: usize) -> Result<&Card, Code> {
        let card = self.cards.get(place).ok_or(INVALID)?;
        card.ready().map(|()| card)
    }

    /// What is at this place.
    pub(crate) fn node(&self, place: usize) -> Result<Node<'_>, Code> {
        let Some(index) = place.checked_sub(self.cards.len()) else {
            return self.card(place).map(Node::Card);
        };
        let part = self.parts.get(index).ok_or(INVALID)?;
        let card = self.card(part.card)?;
        if self.exists(part) { Ok(Node::Part(card, part)) } else { Err(NOT_FOUND) }
    }

    fn samples(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a sample.
    pub(crate) fn sample_alloc(&self) -> usize {
        let mut samples = self.samples();
        if let Some(free) = samples.iter().position(|slot| matches!(slot, Slot::Free)) {
            samples[free] = Slot::Empty;
            free
        } else {
            samples.push(Slot::Empty);
            samples.len() - 1
        }
    }

    /// Gives the place back; freeing twice is an error here, where a real driver would crash.
    pub(crate) fn sample_free(&self, sample: usize) -> Result<(), Code> {
        match self.samples().get_mut(sample) {
            Some(slot @ (Slot::Empty | Slot::Taken { .. })) => *slot = Slot::Free,
            _ => return Err(INVALID),
        }
        Ok(())
    }

    /// Takes a sample of the node at `place`.
    pub(crate) fn sample_take(&self, place: usize, sample: usize) -> Result<(), Code> {
        let refused = match self.node(place)? {
            Node::Card(card) if !card.device.gpm || card.mig() == Some(true) => Some(UNSUPPORTED),
            Node::Part(card, _) if !card.device.gpm => Some(UNSUPPORTED),
            _ if self.confidential == Some(true) => Some(UNSUPPORTED),
            node if node.switches().has(Fault::NoPermission) => {
                Some(nvml::nvmlReturn_enum_NVML_ERROR_NO_PERMISSION)
            }
            _ => None,
        };
        if let Some(code) = refused {
            return Err(code);
        }
        let mut samples = self.samples();
        match samples.get_mut(sample) {
            Some(slot @ (Slot::Empty | Slot::Taken { .. })) => {
                *slot = Slot::Taken { place, at: boot_time() };
            }
            _ => return Err(INVALID),
        }
        self.tell_samplers(samples.len());
        Ok(())
    }

    /// What two samples are of, and the time between them.
    pub(crate) fn sample_pair(&self, first: usize, second: usize) -> Result<Pair<'_>, Code> {
        let (first, second) = {
            let samples = self.samples();
            (samples.get(first).copied(), samples.get(second).copied())
        };
        match (first, second) {
            (Some(Slot::Taken { place, at }), Some(Slot::Taken { place: other, at: later }))
                if place == other && at <= later =>
            {
                Ok(Pair { node: self.node(place)?, apart: later - at, at: later })
            }
            _ => Err(INVALID),
        }
    }
}

impl Node<'_> {
    pub(crate) fn switches(&self) -> &Switches {
        match self {
            Self::Card(card) => &card.switches,
            Self::Part(_, part) => &part.switches,
        }
    }
}

impl Switches {
    fn new(faults: &Path, uuid: &str) -> Self {
        let file = |fault: Fault| (fault, faults.join(format!("{uuid}.{}", fault.suffix())));
        Self { files: Fault::ALL.map(file), totals: faults.join(format!("{uuid}.totals")) }
    }

    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.file(fault).is_some_and(Path::exists)
    }

    fn file(&self, fault: Fault) -> Option<&Path> {
        self.files.iter().find(|(of, _)| *of == fault).map(|(_, file)| file.as_path())
    }
}

impl Card {
    /// Blocks, fails or lets the call through.
    fn ready(&self) -> Result<(), Code> {
        if let Some(file) = self.switches.file(Fault::Hang) {
            wait_while_exists(file);
        }
        if self.switches.has(Fault::Lost) || self.switches.has(Fault::Gone) {
            return Err(nvml::nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST);
        }
        if self.switches.has(Fault::Error) {
            return Err(nvml::nvmlReturn_enum_NVML_ERROR_UNKNOWN);
        }
        Ok(())
    }

    /// Whether MIG is on. `None` if the device has none.
    pub(crate) fn mig(&self) -> Option<bool> {
        Some(self.device.mig? ^ self.switches.has(Fault::MigTurned))
    }
}
