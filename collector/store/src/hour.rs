//! One accelerator in one UTC hour: what was covered, what was not and why, and the sums.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use weighbridge_meter::{
    AcceleratorId, AgentId, AttemptId, Calibrated, Doubt, Estimate, GapCause, Interval, Operations,
    Principal, Signs, Span, UtcMillis,
};

use crate::witness::Witness;

/// Names an hour of an accelerator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HourKey {
    /// Which.
    pub accelerator: AcceleratorId,
    /// Start of the UTC hour.
    pub hour: UtcMillis,
}

/// How a piece of time was held. Together they make up all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldState {
    /// By one holder, who used it.
    Attributed,
    /// By several at once.
    Shared,
    /// By one holder, and measured idle.
    IdleHeld,
    /// By nobody, and measured idle.
    Free,
    /// Claims of the same weight contradict each other.
    Disputed,
    /// Used, and nobody is known to have held it.
    Unattributed,
}

impl HeldState {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Attributed, Self::Shared, Self::IdleHeld, Self::Free, Self::Disputed, Self::Unattributed];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attributed => "attributed",
            Self::Shared => "shared",
            Self::IdleHeld => "idle_held",
            Self::Free => "free",
            Self::Disputed => "disputed",
            Self::Unattributed => "unattributed",
        }
    }

    /// From how it is stored.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// Why time has no holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unattributed {
    /// Nobody said who: no witness on its host, or none that knew.
    NoEvidence,
    /// Only agents said so whose word does not count here.
    NotBelieved,
    /// Somebody held it, and no record says who that was: a job without its account, a pod without its namespace.
    Unnamed,
    /// More say so than can be weighed.
    TooManyClaims,
}

impl Unattributed {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::NoEvidence, Self::NotBelieved, Self::Unnamed, Self::TooManyClaims];

    /// As shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoEvidence => "no_evidence",
            Self::NotBelieved => "not_believed",
            Self::Unnamed => "unnamed",
            Self::TooManyClaims => "too_many_claims",
        }
    }

    /// What sums know of it.
    pub(crate) fn coarse(self) -> Self {
        if self.is_nobody() { Self::NoEvidence } else { Self::Unnamed }
    }

    /// Whether it is nobody's as far as anybody tells: then it is free while it is idle.
    pub fn is_nobody(self) -> bool {
        matches!(self, Self::NoEvidence | Self::NotBelieved)
    }
}

/// Who, in which attempt.
pub type Holder = (Principal, AttemptId);

/// Who and how: the key of sums within an hour.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsageKey {
    /// Who; `None` where nobody is known.
    pub holder: Option<Holder>,
    /// How.
    pub state: HeldState,
}

impl UsageKey {
    /// The part of one of several holders: nobody's if no record says who that one is.
    pub fn of(holder: Holder, state: HeldState) -> Self {
        match holder.0.is_unknown() {
            true => Self { holder: None, state: HeldState::Unattributed },
            false => Self { holder: Some(holder), state },
        }
    }
}

/// Hours that somebody, or nobody, held from beginning to end, and that another or nobody did after all: sums that
/// belonged to the one belong to the other, as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relabel {
    /// Of which accelerator.
    pub accelerator: AcceleratorId,
    /// Whole hours.
    pub hours: Span,
    /// Whose they were; `None` for nobody.
    pub before: Option<Holder>,
    /// Whose they are.
    pub after: Option<Holder>,
}

impl Relabel {
    /// How many hours.
    pub fn count(&self) -> usize {
        usize::try_from(self.hours.end().since(self.hours.start()) / UtcMillis::HOUR).unwrap_or(usize::MAX)
    }

    /// How time is held that one holder, or nobody, has: used and idle.
    pub fn states(holder: Option<&Holder>) -> [HeldState; 2] {
        match holder {
            Some(_) => [HeldState::Attributed, HeldState::IdleHeld],
            None => [HeldState::Unattributed, HeldState::Free],
        }
    }

    /// What a key is called now; `None` if it stays as it is.
    fn renamed(&self, key: &UsageKey) -> Option<UsageKey> {
        let states = Self::states(self.before.as_ref()).into_iter().zip(Self::states(self.after.as_ref()));
        let (_, state) =
            states.filter(|_| key.holder == self.before).find(|(before, _)| *before == key.state)?;
        Some(UsageKey { holder: self.after.clone(), state })
    }
}

/// Measured operations and the time they were measured in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Cannot be outside.
    pub bound: Interval<Operations>,
    /// 5 to 95 %.
    pub calibrated: Calibrated,
    /// Milliseconds measured.
    pub measured_ms: u64,
    /// Milliseconds bounded by a cumulative counter.
    pub interpolated_ms: u64,
    /// Evidence of what kind of work it was, which changes none of the above.
    pub signs: Signs,
}

impl Sums {
    /// Adds an estimate over so much time, with what it speaks for.
    pub fn add(&mut self, estimate: &Estimate, signs: &Signs, measured_ms: u64, interpolated_ms: u64) {
        self.bound = self.bound.saturating_add(estimate.bound);
        self.calibrated = self.calibrated.saturating_add(estimate.calibrated);
        self.signs.merge(signs);
        self.measured_ms += measured_ms;
        self.interpolated_ms += interpolated_ms;
    }

    /// Adds other sums.
    pub fn merge(&mut self, other: &Self) {
        self.bound = self.bound.saturating_add(other.bound);
        self.calibrated = self.calibrated.saturating_add(other.calibrated);
        self.signs.merge(&other.signs);
        self.measured_ms += other.measured_ms;
        self.interpolated_ms += other.interpolated_ms;
    }
}

/// Disjoint spans in ascending order, neighbours joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans(Vec<(i64, i64)>);

impl Spans {
    /// From stored pairs; sorts and joins whatever it is given.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (i64, i64)>) -> Self {
        let mut spans = Self::default();
        for (start, end) in pairs {
            if let Some(span) = Span::new(UtcMillis(start), UtcMillis(end)) {
                spans.insert(span);
            }
        }
        spans
    }

    /// As stored.
    pub fn pairs(&self) -> &[(i64, i64)] {
        &self.0
    }

    /// Total length in milliseconds.
    pub fn millis(&self) -> u64 {
        self.0.iter().map(|(start, end)| end.abs_diff(*start)).sum()
    }

    /// Whether any of `span` is inside.
    pub fn touches(&self, span: Span) -> bool {
        let after = self.0.partition_point(|(_, end)| *end <= span.start().0);
        self.0.get(after).is_some_and(|(start, _)| *start < span.end().0)
    }

    /// Adds `span`.
    pub fn insert(&mut self, span: Span) {
        let (mut start, mut end) = (span.start().0, span.end().0);
        let first = self.0.partition_point(|(_, e)| *e < start);
        let mut last = first;
        while let Some((s, e)) = self.0.get(last).filter(|(s, _)| *s <= end) {
            (start, end) = (start.min(*s), end.max(*e));
            last += 1;
        }
        self.0.splice(first..last, [(start, end)]);
    }

    /// Takes `span` out.
    pub fn remove(&mut self, span: Span) {
        let (from, to) = (span.start().0, span.end().0);
        let first = self.0.partition_point(|(_, end)| *end <= from);
        let after = self.0.partition_point(|(start, _)| *start < to);
        let touched = self.0.get(first..after).unwrap_or_default();
        let before = touched.first().filter(|(start, _)| *start < from).map(|(start, _)| (*start, from));
        let behind = touched.last().filter(|(_, end)| to < *end).map(|(_, end)| (to, *end));
        let kept: Vec<_> = before.into_iter().chain(behind).collect();
        if first < after {
            self.0.splice(first..after, kept);
        }
    }

    /// Whether nothing is inside.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first moment inside that is not before `moment`.
    pub fn first_from(&self, moment: UtcMillis) -> Option<UtcMillis> {
        let after = self.0.partition_point(|(_, end)| *end <= moment.0);
        self.0.get(after).map(|(start, _)| moment.max(UtcMillis(*start)))
    }

    /// The parts of `span` that are not inside, in order.
    pub fn missing(&self, span: Span) -> Vec<Span> {
        let mut parts = Vec::new();
        let mut from = span.start().0;
        let first = self.0.partition_point(|(_, end)| *end <= from);
        for (start, end) in &self.0[first..] {
            if *start >= span.end().0 {
                break;
            }
            parts.extend(Span::new(UtcMillis(from), UtcMillis(*start)));
            from = *end;
        }
        parts.extend(Span::new(UtcMillis(from.max(span.start().0)), span.end()));
        parts
    }
}

impl Serialize for Spans {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Spans {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::from_pairs)
    }
}

/// An hour in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hour {
    /// What was covered by windows that count.
    pub covered: Spans,
    /// What was not, by cause, as reported; what is covered after all does not count.
    pub gaps: BTreeMap<GapCause, Spans>,
    /// Whose batches touch it.
    pub agents: BTreeSet<AgentId>,
    /// The sums.
    pub usage: BTreeMap<UsageKey, Sums>,
    /// What sources said that did not count, beside what did.
    pub witnesses: Vec<Witness>,
    /// Milliseconds of windows that cannot be as they say, by who says it and why.
    pub doubts: BTreeMap<(AgentId, Doubt), u64>,
}

/// Windows of one accelerator in one hour that cannot be as they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoubtedHour {
    /// Which.
    pub accelerator: AcceleratorId,
    /// Start of the UTC hour.
    pub hour: UtcMillis,
    /// Who says it.
    pub agent: AgentId,
    /// Why it cannot be.
    pub doubt: Doubt,
    /// Their time within the hour, in milliseconds.
    pub millis: u64,
}

/// An hour as a store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HourRow {
    /// Which.
    pub key: HourKey,
    /// What.
    pub hour: Hour,
}

impl Hour {
    /// Gives sums their new name.
    pub fn relabel(&mut self, relabel: &Relabel) {
        for (key, sums) in std::mem::take(&mut self.usage) {
            let key = relabel.renamed(&key).unwrap_or(key);
            self.usage.entry(key).or_default().merge(&sums);
        }
    }

    /// Milliseconds by cause of gaps that nothing covers and no earlier cause explains.
    pub fn gap_millis(&self) -> Vec<(GapCause, u64)> {
        let mut known = self.covered.clone();
        let mut gaps = Vec::new();
        for (cause, spans) in &self.gaps {
            let mut millis = 0;
            for &(start, end) in spans.pairs() {
                let Some(span) = Span::new(UtcMillis(start), UtcMillis(end)) else { continue };
                millis += known.missing(span).iter().map(Span::millis).sum::<u64>();
                known.insert(span);
            }
            if millis > 0 {
                gaps.push((*cause, millis));
            }
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(start: i64, end: i64) -> Span {
        Span::new(UtcMillis(start), UtcMillis(end)).expect("not empty")
    }

    proptest! {
        #[test]
        fn spans_are_the_set_of_their_milliseconds(
            inserted in proptest::collection::vec((0_i64..200, 1_i64..40), 0..20), asked in (0_i64..200, 1_i64..60),
        ) {
            let mut spans = Spans::default();
            let mut set = BTreeSet::new();
            for (start, length) in inserted {
                spans.insert(span(start, start + length));
                set.extend(start..start + length);
            }
            let asked = span(asked.0, asked.0 + asked.1);
            let inside = |ms: i64| spans.pairs().iter().any(|(start, end)| (*start..*end).contains(&ms));
            prop_assert!((0..300).all(|ms| inside(ms) == set.contains(&ms)));
            prop_assert_eq!(spans.millis(), set.len() as u64);
            prop_assert!(spans.pairs().windows(2).all(|pair| pair[0].1 < pair[1].0), "joined and ordered");
            let missing: BTreeSet<i64> =
                spans.missing(asked).iter().flat_map(|span| span.start().0..span.end().0).collect();
            let expected: BTreeSet<i64> = (asked.start().0..asked.end().0).filter(|ms| !set.contains(ms)).collect();
            prop_assert_eq!(missing.len() as u64, spans.missing(asked).iter().map(Span::millis).sum::<u64>());
            prop_assert_eq!(spans.touches(asked), expected.len() as u64 != asked.millis());
            let first = set.range(asked.start().0..).next().map(|ms| UtcMillis(*ms));
            prop_assert_eq!(spans.first_from(asked.start()), first);
            prop_assert_eq!(missing, expected);
            spans.remove(asked);
            set.retain(|ms| !(asked.start().0..asked.end().0).contains(ms));
            let inside = |ms: i64| spans.pairs().iter().any(|(start, end)| (*start..*end).contains(&ms));
            prop_assert!((0..300).all(|ms| inside(ms) == set.contains(&ms)));
            prop_assert!(spans.pairs().windows(2).all(|pair| pair[0].1 < pair[1].0), "still joined and ordered");
            prop_assert_eq!(spans.is_empty(), set.is_empty());
        }
    }

    #[test]
    fn a_gap_that_is_covered_after_all_does_not_count_and_no_millisecond_counts_twice() {
        let mut hour = Hour::default();
        hour.covered.insert(span(0, 10));
        hour.gaps.entry(GapCause::DeviceLost).or_default().insert(span(5, 20));
        hour.gaps.entry(GapCause::CallHung).or_default().insert(span(15, 30));
        assert_eq!(hour.gap_millis(), [(GapCause::DeviceLost, 10), (GapCause::CallHung, 10)]);
    }
}
