//! Two sources of one accelerator that cannot both be right: recorded once, with the moment we knew.
//!
//! A finding of integrity is about measurements, not about anybody, and belongs to no rule pack. It is raised for
//! an accelerator, hour and pair of sources, when the hour is over and what agents held back of it has had time to
//! arrive. It says what both said then, and never moves; how it stands now is beside it on the pages.
//!
//! Deliberately absent: who is wrong, and any change of a sum. What counts is by trust, whatever a witness says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weighbridge_meter::{AcceleratorId, Interval, Operations, UtcMillis};
use weighbridge_store::{
    Fact,
    witness::{Teller, WitnessedHour},
};

use crate::{app::record, judge::fact, view::View};

/// After the end of an hour, until it is judged: twice the slowest pace at which agents send.
pub const SETTLED_AFTER_MS: i64 = 10 * UtcMillis::MINUTE;

/// A finding of integrity, as it was raised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrityFinding {
    /// Names it: accelerator, hour and both sources.
    pub id: String,
    /// Of which accelerator.
    pub accelerator: AcceleratorId,
    /// In which UTC hour.
    pub hour: UtcMillis,
    /// What both said.
    #[serde(flatten)]
    pub said: Said,
    /// When we knew.
    pub raised_at: UtcMillis,
}

/// What two sources said of the same time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// By the source that counts.
    pub counted: Told,
    /// By the one that does not.
    pub witness: Told,
    /// Milliseconds of which both spoke.
    pub compared_ms: u64,
}

/// What one of them said: its bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Which agent, and where it reads.
    #[serde(flatten)]
    pub by: Teller,
    /// At least.
    pub low_tera: Operations,
    /// Most plausibly.
    pub best_tera: Operations,
    /// At most.
    pub high_tera: Operations,
}

impl Told {
    fn of(by: &Teller, bound: &Interval<Operations>) -> Self {
        Self { by: by.clone(), low_tera: bound.low(), best_tera: bound.best(), high_tera: bound.high() }
    }
}

impl From<&WitnessedHour> for Said {
    fn from(WitnessedHour { witness, .. }: &WitnessedHour) -> Self {
        Self {
            counted: Told::of(&witness.counted, &witness.counted_bound),
            witness: Told::of(&witness.witness, &witness.witness_bound),
            compared_ms: witness.compared_ms,
        }
    }
}

/// Names a disagreement, whatever was said.
pub fn id_of(said: &WitnessedHour) -> String {
    let WitnessedHour { accelerator, hour, witness } = said;
    format!("{accelerator}@{hour}:{}:{}", witness.counted, witness.witness)
}

/// Findings to raise as of a view: of hours that are settled, and that were not raised before.
pub fn to_raise(view: &View, known: &BTreeMap<String, IntegrityFinding>) -> Vec<IntegrityFinding> {
    let settled = |said: &&WitnessedHour| said.hour.plus(UtcMillis::HOUR + SETTLED_AFTER_MS) <= view.as_of;
    let finding = |said: &WitnessedHour| IntegrityFinding {
        id: id_of(said),
        accelerator: said.accelerator.clone(),
        hour: said.hour,
        said: Said::from(said),
        raised_at: view.as_of,
    };
    let all = view.disagreements.iter().filter(settled).map(finding);
    all.filter(|finding| !known.contains_key(&finding.id)).collect()
}

impl IntegrityFinding {
    /// As it goes into the ledger.
    pub fn fact(&self) -> Fact {
        fact(record::INTEGRITY, &self.id, self)
    }
}
