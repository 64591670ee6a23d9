//! Amounts as JSON: whole teraoperations as decimal strings, each key with its unit.

use serde::Serialize;
use weighbridge_meter::{Calibrated, Estimate, Interval, Operations};
use weighbridge_store::{account::Totals, hour::Sums};

/// A bound and a calibrated range, never one for the other.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Amount {
    pub(crate) low_tera: Operations,
    pub(crate) best_tera: Operations,
    pub(crate) high_tera: Operations,
    pub(crate) calibrated_low_tera: Operations,
    pub(crate) calibrated_high_tera: Operations,
}

impl Amount {
    pub(crate) fn of(bound: &Interval<Operations>, calibrated: &Calibrated) -> Self {
        Self {
            low_tera: bound.low(),
            best_tera: bound.best(),
            high_tera: bound.high(),
            calibrated_low_tera: calibrated.low(),
            calibrated_high_tera: calibrated.high(),
        }
    }

    /// Both together, bound by bound.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        Self {
            low_tera: self.low_tera.saturating_add(other.low_tera),
            best_tera: self.best_tera.saturating_add(other.best_tera),
            high_tera: self.high_tera.saturating_add(other.high_tera),
            calibrated_low_tera: self.calibrated_low_tera.saturating_add(other.calibrated_low_tera),
            calibrated_high_tera: self.calibrated_high_tera.saturating_add(other.calibrated_high_tera),
        }
    }
}

impl From<&Sums> for Amount {
    fn from(sums: &Sums) -> Self {
        Self::of(&sums.bound, &sums.calibrated)
    }
}

impl From<&Estimate> for Amount {
    fn from(estimate: &Estimate) -> Self {
        Self::of(&estimate.bound, &estimate.calibrated)
    }
}

/// Totals of something, with the time behind them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Total {
    /// What was measured.
    pub(crate) measured: Amount,
    /// The same and what the gaps could have hidden.
    pub(crate) with_gaps: Amount,
    pub(crate) held_ms: u64,
    pub(crate) measured_ms: u64,
    pub(crate) interpolated_ms: u64,
    /// Held and not covered.
    pub(crate) gap_ms: u64,
    /// Of these on accelerators that no agent ever reported.
    pub(crate) never_seen_ms: u64,
}

impl From<&Totals> for Total {
    fn from(totals: &Totals) -> Self {
        Self {
            measured: Amount::from(&totals.measured),
            with_gaps: Amount::of(&totals.bound, &totals.calibrated),
            held_ms: totals.held_ms,
            measured_ms: totals.measured.measured_ms,
            interpolated_ms: totals.measured.interpolated_ms,
            gap_ms: totals.gap_ms,
            never_seen_ms: totals.never_seen_ms,
        }
    }
}
