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
    /// The energy counter starts again from zero when the file appears, and goes on from there.
    Backwards,
    /// GPM metrics are not numbers.
    Nan,
    /// The device is no longer counted or found, and its handles answer `NVML_ERROR_GPU_IS_LOST`.
    Gone,
}

impl Fault {
    /// The end of the file's name.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Hang => "hang",
            Self::Error => "error",
            Self::Backwards => "backwards",
            Self::Nan => "nan",
            Self::Gone => "gone",
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
