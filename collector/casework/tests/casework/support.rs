//! A small pack and short ways to write totals.

use weighbridge_casework::{CappedBy, Projection, RulePack, Totals};
use weighbridge_meter::{Calibrated, Interval, Operations, UtcMillis};

/// The name that [`SMALL`] loads under.
pub(crate) const SMALL_NAME: &str = "small@1.toml";

/// A pack with one rule at 1e26, one clock for each start, and a field for each source.
pub(crate) const SMALL: &str = include_str!("small@1.toml");

/// The small pack.
pub(crate) fn small() -> RulePack {
    RulePack::parse(SMALL_NAME, SMALL).unwrap()
}

/// A moment.
pub(crate) fn at(text: &str) -> UtcMillis {
    text.parse().unwrap()
}

/// Whole teraoperations.
pub(crate) fn tera(tera: u64) -> Operations {
    Operations::from_tera(tera).unwrap()
}

/// Totals without a projection; calibrated from just above low to just below high.
pub(crate) fn totals(low: u64, best: u64, high: u64) -> Totals {
    Totals {
        as_of: at("2026-02-25T12:00:00Z"),
        bound: Interval::new(tera(low), tera(best), tera(high)).unwrap(),
        calibrated: Calibrated::new(tera(low), tera(high)).unwrap(),
        projection: None,
    }
}

/// The same, projected over `days`.
pub(crate) fn projected(totals: Totals, days: i64, best: u64) -> Totals {
    let projection = Projection {
        until: totals.as_of.plus(days * UtcMillis::DAY),
        bound: Interval::exact(tera(best)),
        capped_by: CappedBy::RuleDays,
    };
    Totals { projection: Some(projection), ..totals }
}
