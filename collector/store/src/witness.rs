//! Two sources that metered the same accelerator at the same time, one against the other.
//!
//! Each accelerator-second counts from one source; what another says of the same time is a witness. `Testimony`
//! cuts windows of both to the time they share and adds up what each says of it. Bounds are physical, so two
//! that do not meet cannot both be true: a broken sensor, a wrong clock, or somebody's hand.
//!
//! Deliberately absent: who is right, and any change of a sum. That is for a person to find out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weighbridge_meter::{
    AcceleratorId, AgentId, Estimate, Interval, Operations, OutOfOrder, Source, Span, UtcMillis, Window,
};

use crate::hour::Spans;

/// Who says something about an accelerator: an agent, and where it reads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Teller {
    /// Which agent.
    pub agent: AgentId,
    /// Where it reads.
    pub source: Source,
}

impl std::fmt::Display for Teller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.agent, self.source)
    }
}

/// What a witness said of an hour of an accelerator, beside what counted of the same time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Witness {
    /// Whose windows counted.
    pub counted: Teller,
    /// Whose did not.
    pub witness: Teller,
    /// Milliseconds of which both spoke: nothing else is compared.
    pub compared_ms: u64,
    /// What counted of them amounts to.
    pub counted_bound: Interval<Operations>,
    /// What the witness says of them.
    pub witness_bound: Interval<Operations>,
}

impl Witness {
    /// Whether both cannot be true: one's high is below the other's low.
    pub fn disagrees(&self) -> bool {
        let (ours, theirs) = (&self.counted_bound, &self.witness_bound);
        ours.high() < theirs.low() || theirs.high() < ours.low()
    }
}

/// A witness of one accelerator in one hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessedHour {
    /// Which.
    pub accelerator: AcceleratorId,
    /// Start of the UTC hour.
    pub hour: UtcMillis,
    /// What was said.
    pub witness: Witness,
}

/// A witness as written: bounds as low, best and high in teraoperations.
#[derive(Serialize, Deserialize)]
struct Stored {
    counted: Teller,
    witness: Teller,
    compared_ms: u64,
    counted_tera: [Operations; 3],
    witness_tera: [Operations; 3],
}

impl From<Witness> for Stored {
    fn from(witness: Witness) -> Self {
        let ends = |bound: Interval<Operations>| [bound.low(), bound.best(), bound.high()];
        Self {
            counted: witness.counted,
            witness: witness.witness,
            compared_ms: witness.compared_ms,
            counted_tera: ends(witness.counted_bound),
            witness_tera: ends(witness.witness_bound),
        }
    }
}

impl TryFrom<Stored> for Witness {
    type Error = OutOfOrder;

    fn try_from(stored: Stored) -> Result<Self, OutOfOrder> {
        let bound = |[low, best, high]: [Operations; 3]| Interval::new(low, best, high);
        Ok(Self {
            counted: stored.counted,
            witness: stored.witness,
            compared_ms: stored.compared_ms,
            counted_bound: bound(stored.counted_tera)?,
            witness_bound: bound(stored.witness_tera)?,
        })
    }
}

/// What was said of one hour, told in the order of who is believed first.
#[derive(Default)]
pub(crate) struct Testimony {
    spoken: BTreeMap<Teller, Spans>,
    counted: Vec<Said>,
    compared: BTreeMap<(Teller, Teller), Compared>,
}

/// A part of a window, with what all of the window amounts to.
struct Said {
    teller: Teller,
    span: Span,
    window: Span,
    estimate: Estimate,
}

#[derive(Default)]
struct Compared {
    millis: u64,
    counted: Interval<Operations>,
    witness: Interval<Operations>,
}

impl Said {
    /// What falls into `part` of it.
    fn bound(&self, part: Span) -> Interval<Operations> {
        let from = part.start().since(self.window.start()).unsigned_abs();
        self.estimate.piece(from, from + part.millis(), self.window.millis()).bound
    }
}

impl Testimony {
    /// The next window in order, of which `within` lies in the hour and `counts` is what counts of it.
    /// A source that speaks twice of the same time, as in two epochs, is heard once.
    pub(crate) fn hear(
        &mut self,
        teller: &Teller,
        window: &Window,
        estimate: &Estimate,
        within: Span,
        counts: &[Span],
    ) {
        let spoken = self.spoken.entry(teller.clone()).or_default();
        let new = spoken.missing(within);
        spoken.insert(within);
        let said = |span| Said { teller: teller.clone(), span, window: window.span, estimate: *estimate };
        for part in new {
            let witness = said(part);
            for counted in self.counted.iter().filter(|counted| counted.teller != *teller) {
                let Some(both) = counted.span.overlap(&part) else { continue };
                let pair = (counted.teller.clone(), teller.clone());
                let compared = self.compared.entry(pair).or_default();
                compared.millis += both.millis();
                compared.counted = compared.counted.saturating_add(counted.bound(both));
                compared.witness = compared.witness.saturating_add(witness.bound(both));
            }
        }
        self.counted.extend(counts.iter().map(|span| said(*span)));
    }

    /// What came of it, in order of who counted and who did not.
    pub(crate) fn witnesses(self) -> Vec<Witness> {
        let witness = |((counted, witness), compared): ((Teller, Teller), Compared)| Witness {
            counted,
            witness,
            compared_ms: compared.millis,
            counted_bound: compared.counted,
            witness_bound: compared.witness,
        };
        self.compared.into_iter().map(witness).collect()
    }
}
