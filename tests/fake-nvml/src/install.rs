//! Putting a fake driver into a folder, and breaking it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What can go wrong with one device, while its file exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Every call answers `NVML_ERROR_GPU_IS_LOST`.
    Lost,
    /// Every call blocks until the file is gone, then goes on.
    Hang,
    /// Every call answers `NVML_ERROR_UNKNOWN`.
    Error,
    /// The energy counter falls to half of what it was when the file appears, and goes on from there.
    Backwards,
    /// Energy and cycle counters start again from zero when the file appears, and go on from there.
    Reloaded,
    /// GPM metrics are not numbers.
    Nan,
    /// The device is no longer counted or found, and its handles answer `NVML_ERROR_GPU_IS_LOST`. A MIG instance
    /// is no longer there.
    Gone,
    /// GPM is not streaming, and all it counted is zero.
    StreamingOff,
    /// Cumulative cycles of tensor pipes grow twice as fast from when the file appears.
    Drift,
    /// MIG is on where the script says off, and off where it says on.
    MigTurned,
    /// A MIG instance has no compute instance: it is not listed, and GPM has no data of it.
    NoCompute,
    /// GPM has no data of a MIG instance, though it is listed.
    NoData,
    /// A MIG instance was made anew when the file appeared: its counters begin again.
    Recreated,
    /// GPM samples are refused for want of a right.
    NoPermission,
    /// What a device is split into, or what an instance is called, cannot be asked.
    Unnamed,
    /// The question whether GPM is streaming answers `NVML_ERROR_GPU_IS_LOST`, and no other call does.
    LostToStreaming,
}

impl Fault {
    pub(crate) const ALL: [Self; 16] = [
        Self::Lost,
        Self::Hang,
        Self::Error,
        Self::Backwards,
        Self::Reloaded,
        Self::Nan,
        Self::Gone,
        Self::StreamingOff,
        Self::Drift,
        Self::MigTurned,
        Self::NoCompute,
        Self::NoData,
        Self::Recreated,
        Self::NoPermission,
        Self::Unnamed,
        Self::LostToStreaming,
    ];

    /// The end of the file's name.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Hang => "hang",
            Self::Error => "error",
            Self::Backwards => "backwards",
            Self::Reloaded => "reloaded",
            Self::Nan => "nan",
            Self::Gone => "gone",
            Self::StreamingOff => "streaming-off",
            Self::Drift => "drift",
            Self::MigTurned => "mig-turned",
            Self::NoCompute => "no-compute",
            Self::NoData => "no-data",
            Self::Recreated => "recreated",
            Self::NoPermission => "no-permission",
            Self::Unnamed => "unnamed",
            Self::LostToStreaming => "lost-to-streaming",
        }
    }
}

/// What can go wrong with the driver as a whole, while the file `<control_dir>/driver.<fault>` exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverFault {
    /// `nvmlInit` answers `NVML_ERROR_DRIVER_NOT_LOADED`.
    NotLoaded,
    /// `nvmlInit` blocks until the file is gone.
    Hang,
}

impl DriverFault {
    /// The end of the file's name.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::NotLoaded => "not-loaded",
            Self::Hang => "hang",
        }
    }
}

/// Where the library says how many use it.
pub(crate) const USERS: &str = "users";

/// Where it says how many threads took samples, and how many of these there were at most.
pub(crate) const SAMPLERS: &str = "samplers";

/// A copy of the library in a folder, its script beside it, and the switches for its faults.
///
/// Each copy is loaded as a library of its own, so tests in one process do not see each other's machine.
#[derive(Clone, Debug)]
pub struct FakeDriver {
    folder: PathBuf,
}

impl FakeDriver {
    /// Copies the built library into `folder`, with `script` beside it.
    /// Leave `control_dir` out of the script: the switches work on its default.
    pub fn install(folder: &Path, script: &str) -> io::Result<Self> {
        let driver = Self { folder: folder.to_owned() };
        fs::create_dir_all(driver.faults())?;
        fs::write(driver.script(), script)?;
        // The name appears with its content complete, for an agent that is already looking for it.
        let unfinished = folder.join("libnvidia-ml.so.1.unfinished");
        fs::copy(built_library()?, &unfinished)?;
        fs::rename(unfinished, driver.library())?;
        Ok(driver)
    }

    /// What to load in place of `libnvidia-ml.so.1`.
    pub fn library(&self) -> PathBuf {
        self.folder.join("libnvidia-ml.so.1")
    }

    /// The script, for `WEIGHBRIDGE_FAKE_NVML`.
    pub fn script(&self) -> PathBuf {
        self.folder.join("libnvidia-ml.so.1.toml")
    }

    fn faults(&self) -> PathBuf {
        self.folder.join("faults")
    }

    /// Breaks the device.
    pub fn set(&self, uuid: &str, fault: Fault) -> io::Result<()> {
        fs::write(self.faults().join(format!("{uuid}.{}", fault.suffix())), "")
    }

    /// Ends the fault, which must be on.
    pub fn clear(&self, uuid: &str, fault: Fault) -> io::Result<()> {
        fs::remove_file(self.faults().join(format!("{uuid}.{}", fault.suffix())))
    }

    /// From now on cumulative metrics of the device or instance, by their NVML ids, have these values and no
    /// others: they stand still until the next call, however much time passes.
    pub fn set_totals(&self, uuid: &str, totals: &[(u32, u64)]) -> io::Result<()> {
        let text: String = totals.iter().map(|(id, value)| format!("{id}={value}\n")).collect();
        // Complete when it appears.
        let unfinished = self.faults().join(format!("{uuid}.totals.unfinished"));
        fs::write(&unfinished, text)?;
        fs::rename(unfinished, self.faults().join(format!("{uuid}.totals")))
    }

    /// How many times more `nvmlInit` was called than `nvmlShutdown`. `None` before the first call of either.
    pub fn users(&self) -> Option<usize> {
        fs::read_to_string(self.faults().join(USERS)).ok()?.parse().ok()
    }

    /// How many threads ever took GPM samples, and how many samples there were at most at a time, since the
    /// library was initialised. `None` before the first.
    pub fn samplers(&self) -> Option<(usize, usize)> {
        let text = fs::read_to_string(self.faults().join(SAMPLERS)).ok()?;
        let (threads, samples) = text.split_once(' ')?;
        Some((threads.parse().ok()?, samples.parse().ok()?))
    }

    /// Breaks the driver.
    pub fn set_driver(&self, fault: DriverFault) -> io::Result<()> {
        fs::write(self.faults().join(format!("driver.{}", fault.suffix())), "")
    }

    /// Ends the fault, which must be on.
    pub fn clear_driver(&self, fault: DriverFault) -> io::Result<()> {
        fs::remove_file(self.faults().join(format!("driver.{}", fault.suffix())))
    }
}

/// Where cargo put the library, seen from a test: nearest first, beside the running program or above it.
///
/// Cargo builds it for whoever has this crate among its dependencies.
pub fn built_library() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    program
        .ancestors()
        .skip(1)
        .take(3)
        .flat_map(|folder| [folder.to_owned(), folder.join("deps")])
        .map(|folder| folder.join("libweighbridge_fake_nvml.so"))
        .find(|library| library.is_file())
        .ok_or_else(|| {
            let message = format!("no libweighbridge_fake_nvml.so beside or above {}", program.display());
            io::Error::new(io::ErrorKind::NotFound, message)
        })
}
