//! The files of the amdgpu driver. Those of [`find`] are kept in memory by the kernel; those of [`read`] ask the
//! device's firmware, so they may block, and a thread of the device's own reads them.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use weighbridge_meter::GapCause;

use super::layout::{Table, parse};
use crate::source::sysfs::{Function, number, text};

/// More than any table there is.
const LONGEST_TABLE: u64 = 64 * 1024;

/// `ENXIO`, `ENODEV`: the device is gone. `EOPNOTSUPP`: it has no such thing.
const NO_SUCH_ADDRESS: i32 = 6;
const NO_SUCH_DEVICE: i32 = 19;
const NOT_SUPPORTED: i32 = 95;

/// What the driver has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// In order of their addresses.
    pub(super) packages: Vec<Package>,
    /// The driver's version, where it says one.
    pub(super) driver: Option<String>,
}

/// A device on the bus; it may show itself to programs as several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) function: Function,
    /// A number of its own, burnt in.
    pub(super) unique_id: Option<String>,
    pub(super) product_name: Option<String>,
    pub(super) memory_bytes: Option<u64>,
}

fn driver_dir(sysfs: &Path) -> PathBuf {
    sysfs.join("bus/pci/drivers/amdgpu")
}

/// Where a device's files are for as long as it is the driver's. Under `bus/pci/devices` they would outlast that.
pub(super) fn device_dir(sysfs: &Path, address: &str) -> PathBuf {
    driver_dir(sysfs).join(address)
}

/// What is bound to the driver. Fails if the driver is not there.
pub(super) fn find(sysfs: &Path) -> io::Result<Found> {
    let mut packages = Vec::new();
    for entry in fs::read_dir(driver_dir(sysfs))? {
        let dir = entry?.path();
        let Some(function) = Function::read(&dir) else { continue };
        packages.push(Package {
            function,
            unique_id: text(&dir.join("unique_id")).filter(|id| !id.bytes().all(|byte| byte == b'0')),
            product_name: text(&dir.join("product_name")).filter(|name| !name.is_empty()),
            memory_bytes: number(&dir.join("mem_info_vram_total")),
        });
    }
    packages.sort_by(|a, b| a.function.address.cmp(&b.function.address));
    Ok(Found { packages, driver: text(&sysfs.join("module/amdgpu/version")) })
}

/// What a device's files said in one look, taken as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It sleeps, and was not woken: milliseconds for which it has been awake in all.
    Asleep(Option<u64>),
    /// It was asked.
    Awake(Awake),
}

/// What a device that is awake says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Awake {
    /// `gpu_metrics`. `None` if the driver has none for it.
    pub(super) table: Option<Table>,
    /// The files that say the same in text are only read for what the table does not say.
    pub(super) busy_percent: Option<u64>,
    pub(super) memory_percent: Option<u64>,
    pub(super) power_uw: Option<u64>,
    pub(super) clock_mhz: Option<u64>,
    pub(super) mode: Option<Mode>,
    /// If they were asked for.
    pub(super) facts: Option<Facts>,
}

/// As how many devices a package shows itself to programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// So many of equal size.
    Parts(u32),
    /// One for each die.
    EachDie,
}

/// What does not change from look to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) max_clock_mhz: Option<u32>,
    pub(super) power_limit_mw: Option<u32>,
}

/// A device could not be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) cause: GapCause,
    pub(super) detail: String,
}

/// Asks the device whose files are in `dir`, unless it sleeps: a look a second must not keep it awake.
pub(super) fn read(dir: &Path, facts: bool) -> Result<Answer, Failure> {
    let power = dir.join("power");
    if let Some("suspended" | "suspending") = text(&power.join("runtime_status")).as_deref() {
        return Ok(Answer::Asleep(number(&power.join("runtime_active_time"))));
    }
    let table = match read_table(&dir.join("gpu_metrics")) {
        Ok(bytes) if bytes.is_empty() => None,
        Ok(bytes) => Some(parse(&bytes)),
        Err(error) => match error.raw_os_error() {
            Some(NOT_SUPPORTED) => None,
            Some(NO_SUCH_ADDRESS | NO_SUCH_DEVICE) => return Err(failure(GapCause::DeviceLost, dir, &error)),
            _ if error.kind() == io::ErrorKind::NotFound => match dir.join("vendor").metadata() {
                // An older driver, or a device it has no table for.
                Ok(_) => None,
                Err(error) => return Err(failure(GapCause::DeviceLost, dir, &error)),
            },
            _ => return Err(failure(GapCause::ReadFailed, dir, &error)),
        },
    };
    let said = match &table {
        Some(Table::Known(metrics)) => *metrics,
        _ => Default::default(),
    };
    let hwmon = hwmon(dir);
    let sensor = |name: &str| hwmon.as_ref().and_then(|dir| number(&dir.join(name)));
    let unless = |said: bool, file: &str| if said { None } else { number(&dir.join(file)) };
    Ok(Answer::Awake(Awake {
        table,
        busy_percent: unless(said.gfx_percent.is_some(), "gpu_busy_percent"),
        memory_percent: unless(said.memory_percent.is_some(), "mem_busy_percent"),
        power_uw: match said.power_w {
            Some(1..) => None,
            _ => sensor("power1_average").or_else(|| sensor("power1_input")),
        },
        clock_mhz: match said.gfx_clock_mhz {
            Some(_) => None,
            None => text(&dir.join("pp_dpm_sclk")).and_then(|levels| level_now(&levels)),
        },
        mode: text(&dir.join("current_compute_partition")).and_then(|mode| mode_named(&mode)),
        facts: facts.then(|| Facts {
            max_clock_mhz: text(&dir.join("pp_dpm_sclk")).and_then(|levels| highest_level(&levels)),
            power_limit_mw: sensor("power1_cap")
                .and_then(|uw| u32::try_from(uw / 1000).ok())
                .filter(|&mw| mw > 0),
        }),
    }))
}

fn failure(cause: GapCause, dir: &Path, error: &io::Error) -> Failure {
    Failure { cause, detail: format!("reading {}: {error}", dir.display()) }
}

fn read_table(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST_TABLE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The sensors, whose folder is numbered anew at each boot.
fn hwmon(dir: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(dir.join("hwmon")).ok()?;
    entries.find_map(|entry| entry.ok().map(|entry| entry.path()))
}

fn mode_named(name: &str) -> Option<Mode> {
    Some(match name {
        "SPX" => Mode::Parts(1),
        "DPX" => Mode::Parts(2),
        "TPX" => Mode::Parts(3),
        "QPX" => Mode::Parts(4),
        "CPX" => Mode::EachDie,
        _ => return None,
    })
}

/// Of lines like `1: 2100Mhz *`, the one with the star.
fn level_now(levels: &str) -> Option<u64> {
    levels.lines().find(|line| line.trim_end().ends_with('*')).and_then(level).map(u64::from)
}

fn highest_level(levels: &str) -> Option<u32> {
    levels.lines().filter_map(level).max()
}

fn level(line: &str) -> Option<u32> {
    let (_, rest) = line.split_once(':')?;
    let digits = rest.trim_start();
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok().filter(|&mhz| mhz > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_come_as_the_driver_lists_its_levels() {
        let levels = "0: 132Mhz \n1: 1208Mhz *\nS: 19Mhz\n2: 2100Mhz \nnonsense\n3:\n";
        assert_eq!((level_now(levels), highest_level(levels)), (Some(1208), Some(2100)));
        assert_eq!((level_now(""), highest_level("0: Mhz *")), (None, None));
    }
}
