//! What kind of work it was: evidence per window, added up over hours, judged at the end.
//!
//! [`Signs::of`] says what one window speaks for; [`Signs::merge`] adds, in any order; [`Signs::judge`] makes of
//! hours of them a [`Judgement`] with its likelihood. A label never changes a sum of operations.

use serde::{Deserialize, Serialize};

use crate::{
    reading::coded,
    table::Hardware,
    window::{Counter, Window},
};

coded! {
    /// A kind of work.
    Class {
        /// Training of a model.
        Training = 1 "training",
        /// Answering requests with a finished one.
        Inference = 2 "inference",
        /// Neither: rendering, simulation, or nothing at all.
        Other = 3 "other",
        /// The evidence does not say.
        Undetermined = 4 "undetermined",
    }
}

coded! {
    /// A sum of evidence over windows. Each is a whole number, so that sums do not depend on their order.
    Sign {
        /// Milliseconds looked at.
        Millis = 0 "millis",
    }
}

/// Sums of evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signs([i64; Signs::LEN]);

/// What the evidence comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// The likeliest kind of work, or undetermined.
    pub class: Class,
    /// How likely it is, per mille; of an undetermined one, that of the likeliest.
    pub likelihood_per_mille: u16,
}

impl Signs {
    /// How many there are.
    pub const LEN: usize = Sign::ALL.len();

    /// What one whole window speaks for.
    pub fn of(_hardware: &Hardware<'_>, window: &Window) -> Self {
        let _ = window.counters.get(Counter::TensorCycles);
        Self::default().with(Sign::Millis, i64::try_from(window.span.millis()).unwrap_or(i64::MAX))
    }

    /// One of the sums.
    pub fn get(&self, sign: Sign) -> i64 {
        self.0[sign as usize]
    }

    #[must_use]
    fn with(mut self, sign: Sign, value: i64) -> Self {
        self.0[sign as usize] = value;
        self
    }

    /// Adds others.
    pub fn merge(&mut self, other: &Self) {
        for (sum, other) in self.0.iter_mut().zip(other.0) {
            *sum = sum.saturating_add(other);
        }
    }

    /// The part that falls into `from..to` of a whole: pieces that meet add up to it.
    #[must_use]
    pub fn piece(&self, from: u64, to: u64, whole: u64) -> Self {
        let upto = |value: i64, moment: u64| {
            let part = i128::from(value) * i128::from(moment.min(whole)) / i128::from(whole.max(1));
            i64::try_from(part).unwrap_or(value)
        };
        let mut piece = *self;
        for value in &mut piece.0 {
            *value = upto(*value, to) - upto(*value, from);
        }
        piece
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&sum| sum == 0)
    }

    /// What it was, by all of them.
    pub fn judge(&self) -> Judgement {
        Judgement { class: Class::Undetermined, likelihood_per_mille: 0 }
    }
}
