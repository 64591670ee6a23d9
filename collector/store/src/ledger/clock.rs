//! How far the wall clock of a host is off, by its boot clock.

use weighbridge_meter::UtcMillis;
use weighbridge_wire::Batch;

use crate::entry::{Clocks, Received};

/// Clocks that agree within this are taken as they are.
pub const CLOCK_TOLERANCE_MS: i64 = 5 * UtcMillis::MINUTE;

/// How many milliseconds the labels of this batch are off, by the boot clock at sending; `None` if that cannot be
/// known. Whatever time the batch spent on its way is in it too. `fixed` are the minutes that are fixed for its boot,
/// if any are.
pub fn measured_offset(
    batch: &Batch,
    clocks: Option<Clocks>,
    received_at: UtcMillis,
    fixed: Option<i64>,
) -> Option<i64> {
    let clocks = clocks?;
    let labelled = batch.windows.iter().map(|w| (w.span.start(), w.boot_start_ms));
    let labelled = labelled.chain(batch.gaps.iter().map(|g| (g.span.start(), g.boot_start_ms))).last();
    // The first batch of a boot has an inventory and nothing measured: the host's wall clock is all there is. Later it
    // may have been set, while the agent goes on by the time it began with.
    let first = batch.sequence == 1 && fixed.is_none();
    let (wall, boot) = labelled.or_else(|| first.then_some((clocks.wall, clocks.boot_ms)))?;
    // It was sent after it was measured, and no host is up for a century: anything else is no clock.
    const CENTURY_MS: i64 = 36_600 * UtcMillis::DAY;
    let since = i64::try_from(clocks.boot_ms.checked_sub(boot)?).ok().filter(|since| *since < CENTURY_MS)?;
    Some(received_at.since(wall.plus(since)))
}

/// The same rounded to whole minutes, so that windows still end at minutes; none within the tolerance.
pub(super) fn offset_minutes(
    batch: &Batch,
    received: &Received,
    received_at: UtcMillis,
    fixed: Option<i64>,
) -> Option<i64> {
    measured_offset(batch, received.clocks, received_at, fixed).map(in_minutes)
}

fn in_minutes(off: i64) -> i64 {
    match off.abs() <= CLOCK_TOLERANCE_MS {
        true => 0,
        false => (off + off.signum() * UtcMillis::MINUTE / 2) / UtcMillis::MINUTE,
    }
}

/// Whether the offset of a boot, `fixed` minutes so far, would have to be fixed anew for one measured as `off`
/// milliseconds.
pub fn is_new_offset(fixed: i64, off: i64) -> bool {
    is_news(fixed, in_minutes(off))
}

/// Whether the offset of a boot, `fixed` so far, has to be fixed anew.
pub(super) fn is_news(fixed: i64, minutes: i64) -> bool {
    let change = fixed.abs_diff(minutes).saturating_mul(UtcMillis::MINUTE.unsigned_abs());
    // A clock that was right is off from the first minute beyond the tolerance; one that was off
    // stays as it is fixed until it has moved by more than that, or it would flap.
    change > CLOCK_TOLERANCE_MS.unsigned_abs() || (fixed == 0 && minutes != 0)
}
