//! The machine behind the symbols: the script, which faults are on, and the GPM samples taken.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use nvml_wrapper_sys::bindings as nvml;

use crate::{
    install::{DriverFault, Fault},
    script::{Device, Script},
};

pub(crate) type Code = nvml::nvmlReturn_t;

/// How often a blocked call looks whether its file is gone.
const HANG_POLL: Duration = Duration::from_millis(2);

/// What `nvmlInit` made, and how many times more it was called than `nvmlShutdown`.
static LOADED: RwLock<Option<(usize, Arc<Machine>)>> = RwLock::new(None);

pub(crate) struct Machine {
    driver_version: String,
    cards: Vec<Card>,
    samples: Mutex<Vec<Slot>>,
}

/// A device and the names of its fault files, made once: the calls themselves allocate nothing.
pub(crate) struct Card {
    pub(crate) device: Device,
    files: [(Fault, PathBuf); 6],
    restart: Mutex<Restart>,
}

/// Of the energy counter.
#[derive(Default)]
struct Restart {
    on: bool,
    /// Boot time at which the counter last began at zero.
    origin: Option<Duration>,
}

/// A place for a GPM sample: free, allocated, or taken.
#[derive(Clone, Copy)]
enum Slot {
    Free,
    Empty,
    Taken { card: usize, at: Duration },
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
    let script: Script = match toml::from_str(&text) {
        Ok(script) => script,
        Err(error) => return complain(&format!("{}: {error}", path.display())),
    };
    let faults = path.parent().unwrap_or(Path::new("")).join(&script.control_dir);
    let driver_fault = |fault: DriverFault| faults.join(format!("driver.{}", fault.suffix()));
    wait_while_exists(&driver_fault(DriverFault::Hang));
    if driver_fault(DriverFault::NotLoaded).exists() {
        return nvml::nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED;
    }

    let mut loaded = LOADED.write().unwrap_or_else(PoisonError::into_inner);
    match &mut *loaded {
        Some((users, _)) => *users += 1,
        none => *none = Some((1, Arc::new(Machine::new(script, &faults)))),
    }
    nvml::nvmlReturn_enum_NVML_SUCCESS
}

/// Counts one user less.
pub(crate) fn shutdown() -> Code {
    let mut loaded = LOADED.write().unwrap_or_else(PoisonError::into_inner);
    match &mut *loaded {
        None => return nvml::nvmlReturn_enum_NVML_ERROR_UNINITIALIZED,
        Some((users, _)) if *users > 1 => *users -= 1,
        last => *last = None,
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
fn boot_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

impl Machine {
    fn new(script: Script, faults: &Path) -> Self {
        let card = |device: Device| {
            let file = |fault: Fault| (fault, faults.join(format!("{}.{}", device.uuid, fault.suffix())));
            let files =
                [Fault::Lost, Fault::Hang, Fault::Error, Fault::Backwards, Fault::Nan, Fault::Gone].map(file);
            Card { device, files, restart: Mutex::default() }
        };
        Self {
            driver_version: script.driver_version,
            cards: script.device.into_iter().map(card).collect(),
            samples: Mutex::default(),
        }
    }

    pub(crate) fn driver_version(&self) -> &str {
        &self.driver_version
    }

    /// How many devices are there now.
    pub(crate) fn count(&self) -> usize {
        self.present().count()
    }

    fn present(&self) -> impl Iterator<Item = (usize, &Card)> {
        self.cards.iter().enumerate().filter(|(_, card)| !card.has(Fault::Gone))
    }

    /// The place in the script of the device that has this index now; places never change.
    pub(crate) fn by_index(&self, index: usize) -> Result<usize, Code> {
        let (place, card) =
            self.present().nth(index).ok_or(nvml::nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT)?;
        card.ready().map(|()| place)
    }

    /// The place in the script of the device with this UUID.
    pub(crate) fn by_uuid(&self, uuid: &str) -> Result<usize, Code> {
        let mut present = self.present();
        let found = present.find(|(_, card)| card.device.uuid == uuid);
        let (place, card) = found.ok_or(nvml::nvmlReturn_enum_NVML_ERROR_NOT_FOUND)?;
        card.ready().map(|()| place)
    }

    /// The device at this place, once its faults let a call through.
    pub(crate) fn card(&self, place: usize) -> Result<&Card, Code> {
        let card = self.cards.get(place).ok_or(nvml::nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT)?;
        card.ready().map(|()| card)
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
            _ => return Err(nvml::nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT),
        }
        Ok(())
    }

    /// Takes a sample of the device at `place`.
    pub(crate) fn sample_take(&self, place: usize, sample: usize) -> Result<(), Code> {
        if !self.card(place)?.device.gpm {
            return Err(nvml::nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
        }
        match self.samples().get_mut(sample) {
            Some(slot @ (Slot::Empty | Slot::Taken { .. })) => {
                *slot = Slot::Taken { card: place, at: boot_time() };
            }
            _ => return Err(nvml::nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT),
        }
        Ok(())
    }

    /// The device two samples are of, and the time between them.
    pub(crate) fn sample_pair(&self, first: usize, second: usize) -> Result<(&Card, Duration), Code> {
        let (first, second) = {
            let samples = self.samples();
            (samples.get(first).copied(), samples.get(second).copied())
        };
        match (first, second) {
            (Some(Slot::Taken { card, at }), Some(Slot::Taken { card: other, at: later }))
                if card == other && at <= later =>
            {
                Ok((self.card(card)?, later - at))
            }
            _ => Err(nvml::nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT),
        }
    }
}

impl Card {
    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.file(fault).is_some_and(|file| file.exists())
    }

    fn file(&self, fault: Fault) -> Option<&Path> {
        self.files.iter().find(|(of, _)| *of == fault).map(|(_, file)| file.as_path())
    }

    /// Blocks, fails or lets the call through.
    fn ready(&self) -> Result<(), Code> {
        if let Some(file) = self.file(Fault::Hang) {
            wait_while_exists(file);
        }
        if self.has(Fault::Lost) || self.has(Fault::Gone) {
            return Err(nvml::nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST);
        }
        if self.has(Fault::Error) {
            return Err(nvml::nvmlReturn_enum_NVML_ERROR_UNKNOWN);
        }
        Ok(())
    }

    /// The energy counter in millijoules. `None` if the device has none.
    pub(crate) fn energy_mj(&self) -> Option<u64> {
        let rate_mw = self.device.energy_mw?;
        let now = boot_time();
        let backwards = self.has(Fault::Backwards);
        let mut restart = self.restart.lock().unwrap_or_else(PoisonError::into_inner);
        if backwards && !restart.on {
            restart.origin = Some(now);
        }
        restart.on = backwards;
        let (start_mj, since) = match restart.origin {
            Some(origin) => (0, now - origin),
            None => (self.device.energy_start_mj, now),
        };
        let grown = u128::from(rate_mw) * since.as_nanos() / 1_000_000_000;
        Some(start_mj.saturating_add(u64::try_from(grown).unwrap_or(u64::MAX)))
    }
}
