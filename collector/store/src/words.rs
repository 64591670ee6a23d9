//! What agents said of who held one accelerator, found by when it was.
//!
//! In years of ten-minute jobs there are tens of thousands of words on an accelerator, and every window asks who held
//! it. Most words speak of a short time and are found by their start; the few that speak of a long one are looked at
//! each time.

use std::collections::{BTreeMap, BTreeSet};

use weighbridge_meter::{Span, UtcMillis};

use crate::state::HeldKey;

/// A word that reaches no further than this from its start is found by its start.
const SHORT_MS: i64 = 6 * UtcMillis::HOUR;

/// The words on one accelerator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// All of them, each with its end.
    ends: BTreeMap<HeldKey, UtcMillis>,
    /// Those that reach far, be it by what a scheduler's record adds.
    long: BTreeSet<HeldKey>,
    /// The others, by their start.
    by_start: BTreeMap<UtcMillis, BTreeSet<HeldKey>>,
}

impl Words {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Its end, if it was said.
    pub fn get(&self, word: &HeldKey) -> Option<UtcMillis> {
        self.ends.get(word).copied()
    }

    /// All of them, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&HeldKey, UtcMillis)> {
        self.ends.iter().map(|(word, end)| (word, *end))
    }

    /// The last one that is not after this in the order of keys.
    pub(crate) fn up_to(&self, word: &HeldKey) -> Option<(&HeldKey, UtcMillis)> {
        self.ends.range(..=word).next_back().map(|(word, end)| (word, *end))
    }

    /// All of the same principal, attempt and evidence, whoever said them.
    pub(crate) fn of<'a>(&'a self, word: &'a HeldKey) -> impl Iterator<Item = (&'a HeldKey, UtcMillis)> {
        let first = HeldKey { agent: None, start: UtcMillis(i64::MIN), ..word.clone() };
        let same = |other: &HeldKey| {
            (&other.principal, &other.attempt, other.evidence)
                == (&word.principal, &word.attempt, word.evidence)
        };
        self.ends.range(first..).map(|(other, end)| (other, *end)).take_while(move |(other, _)| same(other))
    }

    /// Says it, again or for the first time. With what records add, nothing follows from it after `reach`.
    pub fn say(&mut self, word: HeldKey, end: UtcMillis, reach: UtcMillis) {
        let long = end.max(reach).since(word.start) > SHORT_MS;
        self.ends.insert(word.clone(), end);
        if !long {
            self.long.remove(&word);
            self.by_start.entry(word.start).or_default().insert(word);
        } else if self.long.insert(word.clone())
            && let Some(beginning) = self.by_start.get_mut(&word.start)
        {
            beginning.remove(&word);
            if beginning.is_empty() {
                self.by_start.remove(&word.start);
            }
        }
    }

    /// All from which anything follows in this span, and some more.
    pub fn near(&self, span: Span) -> impl Iterator<Item = (&HeldKey, UtcMillis)> {
        let short =
            self.by_start.range(span.start().plus(-SHORT_MS)..span.end()).flat_map(|(_, words)| words);
        self.long.iter().chain(short).filter_map(|word| Some((word, self.get(word)?)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weighbridge_meter::Evidence;

    use super::*;

    proptest! {
        #[test]
        fn whatever_reaches_into_a_span_is_near_it_and_each_word_is_there_once(
            said in prop::collection::vec((0_usize..3, 0_i64..20, 0_i64..12, 0_i64..12), 1..40),
            (start, length) in (0_i64..30, 1_i64..8),
        ) {
            let hour = |hours: i64| UtcMillis(hours * UtcMillis::HOUR);
            let mut words = Words::default();
            let mut last = BTreeMap::new();
            for (who, start, held, longer) in said {
                let name = ["slurm:c/a", "slurm:c/b", "slurm:c/c"][who];
                let word = HeldKey {
                    principal: name.parse().expect("valid"),
                    attempt: name.parse().expect("valid"),
                    evidence: Evidence::SchedulerHook,
                    agent: None,
                    start: hour(start),
                };
                let (end, reach) = (hour(start + held), hour(start + held + longer));
                words.say(word.clone(), end, reach);
                last.insert(word, (end, reach));
            }
            let span = Span::new(hour(start), hour(start + length)).expect("not empty");
            let near: Vec<_> = words.near(span).collect();
            let mut once = near.clone();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), near.len());
            for (word, (end, reach)) in &last {
                prop_assert_eq!(words.get(word), Some(*end));
                let reaches = word.start < span.end() && (*reach).max(*end) > span.start();
                prop_assert!(!reaches || near.contains(&(word, *end)), "{word:?} to {reach:?}");
            }
            prop_assert_eq!(words.iter().count(), last.len());
            let apart = words.long.len() + words.by_start.values().map(BTreeSet::len).sum::<usize>();
            prop_assert_eq!(apart, last.len());
        }
    }
}
