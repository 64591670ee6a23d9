//! The only place that asks what time it is.
//!
//! A clock gives two readings at once: milliseconds since boot, which only run forward and go on while the
//! host sleeps, to measure with; and wall time, to label with. The wall time is anchored once, when the clock
//! is made: within one run of the agent the two differ by a constant, so windows never overlap or run back,
//! whatever is done to the host's wall clock. What that clock says right now goes only into request headers,
//! where the collector compares it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::time::{ClockId, clock_gettime};
use weighbridge_meter::{BootId, UtcMillis, meter::Now};

/// What time it is, as far as this agent is concerned.
pub trait Clock: Send + Sync {
    /// The moment, on both scales.
    fn now(&self) -> Now;

    /// What the host's wall clock says. `None` where time is not real: a recording that is replayed.
    fn raw_wall(&self) -> Option<UtcMillis>;

    /// In which boot the milliseconds since boot count.
    fn boot(&self) -> BootId;
}

/// The host's own clock.
#[derive(Debug)]
pub struct SystemClock {
    wall_at_boot: UtcMillis,
    boot: BootId,
}

/// Where Linux says which boot this is.
pub const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";

/// The boot could not be identified.
#[derive(Debug, thiserror::Error)]
pub enum BootIdError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// It held something else.
    #[error("{}: {value:?} is not a boot id: 32 hexadecimal digits, with or without dashes", path.display())]
    NotAnId {
        /// The file.
        path: PathBuf,
        /// What it held.
        value: String,
    },
}

impl SystemClock {
    /// Anchors the wall clock now. The boot id is read from `boot_id`, as a rule [`BOOT_ID_PATH`].
    pub fn start(boot_id: &Path) -> Result<Self, BootIdError> {
        let wall_at_boot = wall().plus(-boot_ms().cast_signed());
        Ok(Self { wall_at_boot, boot: read_boot_id(boot_id)? })
    }
}

fn boot_ms() -> u64 {
    u64::try_from(millis(ClockId::Boottime)).unwrap_or(0)
}

fn wall() -> UtcMillis {
    UtcMillis(millis(ClockId::Realtime))
}

fn millis(id: ClockId) -> i64 {
    let time = clock_gettime(id);
    time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000)
}

fn read_boot_id(path: &Path) -> Result<BootId, BootIdError> {
    let text = fs::read_to_string(path)
        .map_err(|source| BootIdError::Unreadable { path: path.to_owned(), source })?;
    let digits = text.trim().replace('-', "");
    digits.parse().map_err(|_| BootIdError::NotAnId {
        path: path.to_owned(),
        value: text.trim().chars().take(80).collect(),
    })
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let boot_ms = boot_ms();
        Now { boot_ms, wall: self.wall_at_boot.plus(boot_ms.cast_signed()) }
    }

    fn raw_wall(&self) -> Option<UtcMillis> {
        Some(wall())
    }

    fn boot(&self) -> BootId {
        self.boot
    }
}

/// Time that runs faster than it does, from a moment of one's choice: for recordings.
pub struct ScaledClock {
    real: Arc<dyn Clock>,
    real_start: Now,
    start: Now,
    rate: u32,
    boot: BootId,
}

impl ScaledClock {
    /// Starts at `start` and runs `rate` times as fast as `real`. As its milliseconds since boot are not those
    /// of the host, it needs a `boot` of its own.
    pub fn new(real: Arc<dyn Clock>, start: UtcMillis, rate: u32, boot: BootId) -> Self {
        let real_start = real.now();
        Self { real, real_start, start: Now { boot_ms: 0, wall: start }, rate: rate.max(1), boot }
    }
}

impl Clock for ScaledClock {
    fn now(&self) -> Now {
        let real = self.real.now().boot_ms.saturating_sub(self.real_start.boot_ms);
        let passed = real.saturating_mul(u64::from(self.rate));
        Now { boot_ms: self.start.boot_ms + passed, wall: self.start.wall.plus(passed.cast_signed()) }
    }

    fn raw_wall(&self) -> Option<UtcMillis> {
        None
    }

    fn boot(&self) -> BootId {
        self.boot
    }
}

/// Time that stands still until it is told to move: for tests and for simulated fleets.
#[derive(Debug)]
pub struct ManualClock {
    wall_at_boot: UtcMillis,
    boot: BootId,
    boot_ms: AtomicU64,
    /// Says its wall time in requests, as a real host would.
    real: bool,
}

impl ManualClock {
    /// Stands at `wall`, `boot_ms` milliseconds after a boot, and passes for the clock of a real host.
    pub fn new(wall: UtcMillis, boot_ms: u64, boot: BootId) -> Self {
        let wall_at_boot = wall.plus(-boot_ms.cast_signed());
        Self { wall_at_boot, boot, boot_ms: AtomicU64::new(boot_ms), real: true }
    }

    /// The same, but requests leave the wall time out, as for recordings.
    pub fn unreal(wall: UtcMillis, boot_ms: u64, boot: BootId) -> Self {
        Self { real: false, ..Self::new(wall, boot_ms, boot) }
    }

    /// Moves on by so many milliseconds.
    pub fn advance(&self, millis: u64) {
        self.boot_ms.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Now {
        let boot_ms = self.boot_ms.load(Ordering::Relaxed);
        Now { boot_ms, wall: self.wall_at_boot.plus(boot_ms.cast_signed()) }
    }

    fn raw_wall(&self) -> Option<UtcMillis> {
        self.real.then(|| self.now().wall)
    }

    fn boot(&self) -> BootId {
        self.boot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_scales_of_the_system_clock_move_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("boot_id");
        fs::write(&path, "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0\n").unwrap();
        let clock = SystemClock::start(&path).unwrap();
        let (first, second) = (clock.now(), clock.now());
        assert_eq!(
            second.wall.since(first.wall),
            (second.boot_ms - first.boot_ms).cast_signed(),
            "the wall time is anchored once"
        );
        assert_eq!(clock.boot().to_string(), "0f1e2d3c4b5a69788796a5b4c3d2e1f0");
        assert!(clock.raw_wall().unwrap().since(second.wall).abs() < 60_000);
    }

    #[test]
    fn a_boot_id_that_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("boot_id");
        fs::write(&path, "none\n").unwrap();
        let error = SystemClock::start(&path).unwrap_err().to_string();
        assert!(
            error.ends_with(
                r#"boot_id: "none" is not a boot id: 32 hexadecimal digits, with or without dashes"#
            )
        );
    }

    #[test]
    fn a_scaled_clock_runs_faster_and_admits_that_it_is_not_real() {
        let real = Arc::new(ManualClock::new(UtcMillis(1_000_000), 500, BootId([1; 16])));
        let scaled = ScaledClock::new(Arc::clone(&real) as Arc<dyn Clock>, UtcMillis(0), 60, BootId([2; 16]));
        real.advance(1_000);
        assert_eq!(scaled.now(), Now { boot_ms: 60_000, wall: UtcMillis(60_000) });
        assert_eq!(scaled.raw_wall(), None);
        assert_eq!(scaled.boot(), BootId([2; 16]));
    }
}
