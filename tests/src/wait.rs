//! Waiting for something to become true, and what time it is.

use std::{
    thread,
    time::{Duration, Instant},
};

use weighbridge_meter::UtcMillis;

/// Long enough for anything that works, also on a busy machine; a test that fails waits for so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks until `look` gives a value, and returns it. An `Err` says how things stand instead.
///
/// # Panics
/// After [`PATIENCE`], with what was awaited and how things stood in the end.
#[track_caller]
pub fn until<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    until_for(PATIENCE, what, look)
}

/// [`until`] with another limit.
///
/// # Panics
/// After `limit`.
#[track_caller]
pub fn until_for<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = instant() + limit;
    loop {
        match look() {
            Ok(value) => return value,
            Err(stands) if instant() > deadline => {
                panic!("waited {} s for this: {what}; but: {stands}", limit.as_secs())
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Returns at `moment`: to place a disturbance in time, never to give something time to happen.
pub fn until_moment(moment: Instant) {
    thread::sleep(moment.saturating_duration_since(instant()));
}

/// Now, to measure with.
#[expect(clippy::disallowed_methods, reason = "the kit's clock")]
pub fn instant() -> Instant {
    Instant::now()
}

/// Now, by the wall clock.
pub fn now() -> UtcMillis {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    UtcMillis(time.tv_sec * 1000 + time.tv_nsec / 1_000_000)
}
