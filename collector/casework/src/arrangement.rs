//! What a subject has arranged to have: accelerators reserved for a time, before a single operation ran.
//!
//! Nobody knows what will be done with them, so their hours become an interval as hours of allocation do, from peaks
//! and from what published runs made of theirs. Which end of it a rule looks at is for its pack to say ([`End`]).
//!
//! Time that is past counts as what was measured in it, and gaps; only what is left of a reservation is added to that.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use weighbridge_meter::{Calibrated, Estimator, Interval, Model, Operations, UtcMillis};

use crate::finding::{Totals, calibrated_record, interval_record};

/// Which end of what is reserved is compared with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The best guess: reservations of this kind come to about so much.
    Best,
    /// The upper calibrated end: of comparable hours, a twentieth came to more.
    CalibratedHigh,
    /// The high bound: more is not physically possible.
    High,
}

impl End {
    /// In words, to put after an amount.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Best => "as the best guess",
            Self::CalibratedHigh => "at the upper calibrated end",
            Self::High => "at the high bound",
        }
    }

    /// Of an amount in its two intervals.
    pub fn of(self, bound: &Interval<Operations>, calibrated: &Calibrated) -> Operations {
        match self {
            Self::Best => bound.best(),
            Self::CalibratedHigh => calibrated.high(),
            Self::High => bound.high(),
        }
    }

    pub(crate) fn of_totals(self, totals: &Totals) -> Operations {
        self.of(&totals.bound, &totals.calibrated)
    }
}

/// What was agreed on, as the operator's books have it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Terms {
    /// Id of the reservation.
    pub id: String,
    /// Which accelerators, as it was written.
    pub model: String,
    /// How many.
    pub count: u32,
    /// From.
    pub from: UtcMillis,
    /// Before; `None`: for good.
    pub to: Option<UtcMillis>,
}

impl Terms {
    /// Whether everything that `other` gives was given by `self` already.
    fn cover(&self, other: &Self) -> bool {
        let ends_within = match (self.to, other.to) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(known), Some(asked)) => asked <= known,
        };
        self.id == other.id
            && self.model == other.model
            && self.count >= other.count
            && self.from <= other.from
            && ends_within
    }
}

/// A reservation, with what is left of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// What was agreed on.
    #[serde(flatten)]
    pub terms: Terms,
    /// The model whose peaks were taken; `None`: it is in no table and was taken for the fastest there.
    pub taken_for: Option<String>,
    /// Until when it was counted.
    pub counted_to: UtcMillis,
    /// What it can come to: cannot be outside.
    #[serde(with = "interval_record")]
    pub bound: Interval<Operations>,
    /// Narrower, by data of the past.
    #[serde(with = "calibrated_record")]
    pub calibrated: Calibrated,
}

impl Reservation {
    /// What is left of it as of a moment; `None` if nothing is. One without an end is counted over `open_days`.
    pub fn left(
        terms: Terms,
        estimator: &Estimator,
        model: Option<&Model>,
        as_of: UtcMillis,
        open_days: u16,
    ) -> Option<Self> {
        let start = terms.from.max(as_of);
        let counted_to = terms.to.unwrap_or_else(|| start.plus(i64::from(open_days) * UtcMillis::DAY));
        // One that ends as it begins was taken back.
        let millis = u64::try_from(counted_to.since(start)).ok().filter(|millis| *millis > 0)?;
        // Up to 2^63 ms of accelerators: 3e8 years.
        let millis = millis.saturating_mul(u64::from(terms.count)).min(u64::MAX >> 1);
        let executed = estimator.hours(model, millis, None).executed;
        Some(Self {
            taken_for: model.map(|model| model.name.clone()),
            counted_to,
            bound: executed.bound,
            calibrated: executed.calibrated,
            terms,
        })
    }
}

/// All that a subject has reserved and that has not ended, in order of ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Arrangement(Vec<Reservation>);

impl Arrangement {
    /// Of these, in any order.
    pub fn of(reservations: impl IntoIterator<Item = Reservation>) -> Self {
        let mut all: Vec<Reservation> = reservations.into_iter().collect();
        all.sort_by(|one, other| one.terms.cmp(&other.terms));
        Self(all)
    }

    /// Whether nothing is reserved.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them.
    pub fn reservations(&self) -> &[Reservation] {
        &self.0
    }

    /// What all of it comes to.
    pub fn sum(&self) -> (Interval<Operations>, Calibrated) {
        self.0.iter().fold((Interval::default(), Calibrated::default()), |(bound, calibrated), one| {
            (bound.saturating_add(one.bound), calibrated.saturating_add(one.calibrated))
        })
    }

    /// Whether `other` holds nothing that `self` does not: the same, or shrunk, or what time has left of it.
    /// More accelerators, another model, an earlier beginning, a later end or another reservation is something new.
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|asked| self.0.iter().any(|known| known.terms.cover(&asked.terms)))
    }

    /// SHA-256 of what was agreed on, hexadecimal: the same whenever it is looked at.
    pub fn sha256(&self) -> String {
        let mut digest = Sha256::new();
        for Reservation { terms, .. } in &self.0 {
            let to = terms.to.map(|to| to.0.to_string()).unwrap_or_default();
            let parts = [&terms.id, &terms.model, &terms.count.to_string(), &terms.from.0.to_string(), &to];
            for part in parts {
                // With its length, so that no part can be mistaken for a piece of another.
                digest.update(format!("{}:", part.len()));
                digest.update(part);
            }
        }
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// In words: the largest of them by name, the others by number.
    pub fn in_words(&self) -> String {
        const NAMED: usize = 3;
        let mut largest: Vec<&Reservation> = self.0.iter().collect();
        largest.sort_by_key(|one| std::cmp::Reverse(one.bound.high()));
        let named = largest.iter().take(NAMED).map(|one| {
            let Terms { id, model, count, from, to } = &one.terms;
            let taken = match &one.taken_for {
                Some(name) => format!("counted as {name}"),
                None => "in no table, counted as the fastest there".to_owned(),
            };
            let to = match to {
                Some(to) => format!("to {to}"),
                None => format!("without an end, counted to {}", one.counted_to),
            };
            format!(
                "reservation {id} of {count} {model} ({taken}) from {from} {to} leaves {} to {} operations, \
                 at most {}",
                one.calibrated.low(),
                one.calibrated.high(),
                one.bound.high()
            )
        });
        let mut text = named.collect::<Vec<_>>().join("; ");
        match self.0.len().saturating_sub(NAMED) {
            0 => {}
            1 => text.push_str("; and 1 other"),
            more => text.push_str(&format!("; and {more} others")),
        }
        text
    }
}
