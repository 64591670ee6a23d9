//! What kind of work something looks like, and what of it the model itself needed: evidence beside the totals.
//!
//! Neither changes a total. A label is no determination, and nothing is counted less because of it.

use std::collections::BTreeMap;

use serde::Serialize;
use weighbridge_meter::{Calibrated, Class, Estimator, Interval, Operations, Signs, classify::Sign};
use weighbridge_store::account::Totals;

/// What it looks like, over all hours.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Looks {
    pub(crate) class: Class,
    /// How likely that is, from 0 to 1; of an undetermined one, that of the likeliest.
    pub(crate) likelihood: f64,
    /// What decided, or why nothing could.
    pub(crate) because: &'static str,
    /// The sums of evidence behind it, by name.
    pub(crate) signs: BTreeMap<&'static str, i64>,
}

impl From<&Signs> for Looks {
    fn from(signs: &Signs) -> Self {
        let judged = signs.judge();
        Self {
            class: judged.class,
            likelihood: f64::from(judged.likelihood_per_mille) / 1000.0,
            because: judged.because,
            signs: Sign::ALL.iter().map(|sign| (sign.as_str(), signs.get(*sign))).collect(),
        }
    }
}

/// Operations that the model itself needed, of those that were executed.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct ModelOperations {
    /// Of what was measured.
    pub(crate) measured: Needed,
    /// Of the same and what the gaps could have hidden.
    pub(crate) with_gaps: Needed,
}

/// 5 %, best and 95 %: an estimate, and no bound.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Needed {
    pub(crate) calibrated_low_tera: Operations,
    pub(crate) best_tera: Operations,
    pub(crate) calibrated_high_tera: Operations,
}

impl ModelOperations {
    pub(crate) fn of(estimator: &Estimator, totals: &Totals) -> Self {
        let needed = |bound: &Interval<Operations>, calibrated: Calibrated| {
            let needed = estimator.model_operations(bound.best(), calibrated);
            Needed {
                calibrated_low_tera: needed.low(),
                best_tera: needed.best(),
                calibrated_high_tera: needed.high(),
            }
        };
        Self {
            measured: needed(&totals.measured.bound, totals.measured.calibrated),
            with_gaps: needed(&totals.bound, totals.calibrated),
        }
    }
}
