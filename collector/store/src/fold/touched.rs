//! How much one batch makes the fold do, known before it is taken: each hour that it touches, and each that is made
//! anew for what it says of holders.

use weighbridge_meter::{Holding, Span, UtcMillis};
use weighbridge_wire::Batch;

use super::{hours::within_reach, shifted};
use crate::state::{HeldKey, State};

/// How many hours of accelerators the windows and gaps of a batch touch, at most.
pub fn touched_hours(batch: &Batch) -> usize {
    let spans = batch.windows.iter().map(|window| window.span).chain(batch.gaps.iter().map(|gap| gap.span));
    usize::try_from(spans.map(count_hours).sum::<u64>()).unwrap_or(usize::MAX)
}

/// When something was held, as far as its agent can know: what it saw, it saw when it was there to see it, whatever
/// its clock says. A lease file says what the operator agreed, by whatever clock and for as long ahead as it likes.
pub(super) fn holding_span(holding: &Holding, minutes: i64, received: UtcMillis) -> Option<Span> {
    if holding.evidence.is_agreed() {
        Some(holding.span)
    } else {
        within_reach(shifted(holding.span, minutes), received)
    }
}

/// How many hours would be made anew for what a batch says of holders, or get another name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldHours {
    /// For what its agent saw.
    pub seen: u64,
    /// For what it was told of leases.
    pub leased: u64,
}

/// The same by what is known now of the accelerators: nothing is made anew of which nothing is summed, nor for what
/// is known already.
pub fn held_hours(state: &State, batch: &Batch, minutes: i64, received: UtcMillis) -> HeldHours {
    let mut held = HeldHours::default();
    for holding in &batch.holdings {
        let Some(span) = holding_span(holding, minutes, received) else { continue };
        let key = HeldKey::of(&batch.agent, holding, span.start());
        for id in &holding.accelerators {
            let Some(accelerator) = state.accelerators.get(id) else { continue };
            let known = state.held.get(id).is_some_and(|known| known.get(&key) == Some(span.end()));
            let summed = Span::new(accelerator.first_seen, accelerator.last_end);
            let touched = summed.filter(|_| !known).and_then(|summed| summed.overlap(&span));
            let Some(touched) = touched else { continue };
            let count = if holding.evidence.is_agreed() { &mut held.leased } else { &mut held.seen };
            *count = count.saturating_add(count_hours(touched));
        }
    }
    held
}

/// How many UTC hours the span touches.
fn count_hours(span: Span) -> u64 {
    (span.end().plus(-1).hour().since(span.start().hour()) / UtcMillis::HOUR + 1).unsigned_abs()
}
