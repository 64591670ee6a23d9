//! When to say how far something is: not before it has taken a second, and then once a second.

use std::time::Duration;

use tokio::time::Instant;

/// Time between two words.
const EVERY: Duration = Duration::from_secs(1);

/// How long ago something was last said.
#[derive(Debug)]
pub(crate) struct Progress(Instant);

impl Default for Progress {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Progress {
    /// Whether it is time to say something.
    pub(crate) fn is_due(&mut self) -> bool {
        let due = self.0.elapsed() >= EVERY;
        if due {
            self.0 = Instant::now();
        }
        due
    }
}

/// Bytes as people read them.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = count;
    let mut unit = 0;
    while scaled >= 10_240 && unit + 1 < UNITS.len() {
        scaled /= 1024;
        unit += 1;
    }
    format!("{scaled} {}", UNITS.get(unit).copied().unwrap_or_default())
}
