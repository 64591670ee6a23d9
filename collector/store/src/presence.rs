//! When an accelerator was there: dated words of inventories, and what was measured in spite of them.
//!
//! A device that is taken out, or split into instances that are metered in its place, is absent from that word
//! on, and again present from the next word that says so. Whatever order words and windows arrive in, the same
//! ones give the same state, so nothing here depends on what was known at the time.
//!
//! Deliberately absent: why it was away, and any guess from silence. What nobody took out is present and silent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weighbridge_meter::{Span, UtcMillis};

use crate::hour::Spans;

/// A window may reach so far beyond the word that the device is gone: two agents, two clocks.
const SLACK_MS: i64 = UtcMillis::MINUTE;

/// The words and the measurements, as far as both tell when it was there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    words: BTreeMap<UtcMillis, Word>,
    /// UTC hours in which something was measured: where to look when a word that it is gone arrives late.
    measured: Spans,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    /// It is there.
    Here,
    /// It is gone.
    Gone {
        /// When it was measured again all the same.
        until: Option<UtcMillis>,
    },
}

fn hour(moment: UtcMillis) -> Span {
    Span::new(moment.hour(), moment.hour().plus(UtcMillis::HOUR)).expect("an hour is not empty")
}

impl Presence {
    /// Somebody says that it is there. Of two words of the same moment this one counts.
    pub(crate) fn here(&mut self, at: UtcMillis) {
        self.words.insert(at, Word::Here);
    }

    /// Somebody says that it is gone. `covered` tells what was measured in each hour that
    /// [`Presence::asks_for`] names.
    pub(crate) fn gone<'a>(&mut self, at: UtcMillis, covered: impl Fn(UtcMillis) -> Option<&'a Spans>) {
        let from = at.plus(SLACK_MS);
        let until = self.asks_for(at).find_map(|hour| covered(hour)?.first_from(from));
        self.words.entry(at).or_insert(Word::Gone { until });
    }

    /// The hours in which it can have been measured first after a word that it is gone.
    pub(crate) fn asks_for(&self, gone_at: UtcMillis) -> impl Iterator<Item = UtcMillis> + use<> {
        let first = hour(gone_at.plus(SLACK_MS));
        let later = self.measured.first_from(first.end());
        [Some(first.start()), later].into_iter().flatten()
    }

    /// It was measured.
    pub(crate) fn measured(&mut self, span: Span) {
        if self.measured.missing(span).is_empty() && self.words.is_empty() {
            return;
        }
        for start in crate::fold::hours(span) {
            self.measured.insert(hour(start));
        }
        for (at, word) in self.words.range_mut(..span.end()) {
            let from = at.plus(SLACK_MS);
            if let Word::Gone { until } = word
                && span.end() > from
            {
                let again = span.start().max(from);
                *until = Some(until.map_or(again, |until| until.min(again)));
            }
        }
    }

    /// When it was away, in order; one that goes on has no end.
    pub fn absences(&self) -> Vec<(UtcMillis, Option<UtcMillis>)> {
        let mut absences: Vec<(UtcMillis, Option<UtcMillis>)> = Vec::new();
        let mut here = None;
        for (at, word) in self.words.iter().rev() {
            match word {
                Word::Here => here = Some(*at),
                Word::Gone { until } => {
                    let end = match (here, *until) {
                        (Some(here), Some(until)) => Some(here.min(until)),
                        (here, until) => here.or(until),
                    };
                    match absences.last_mut().filter(|(later, _)| end.is_none_or(|end| *later <= end)) {
                        Some(later) => later.0 = *at,
                        None => absences.push((*at, end)),
                    }
                }
            }
        }
        absences.reverse();
        absences
    }

    /// Since when it is away, if it is.
    pub fn away_since(&self) -> Option<UtcMillis> {
        self.absences().last().filter(|(_, end)| end.is_none()).map(|(start, _)| *start)
    }

    /// The parts of `span` in which it was there, in order.
    pub fn within(&self, span: Span) -> Vec<Span> {
        let mut away = Spans::default();
        for (start, end) in self.absences() {
            if let Some(absence) = Span::new(start, end.unwrap_or(span.end())) {
                away.insert(absence);
            }
        }
        away.missing(span)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Here(i64),
        Gone(i64),
        Measured(i64, i64),
    }

    fn any_event() -> impl Strategy<Value = Event> {
        // Half minutes over four hours, so that everything coincides now and then.
        prop_oneof![
            (0_i64..480).prop_map(Event::Here),
            (0_i64..480).prop_map(Event::Gone),
            (0_i64..480, 1_i64..20).prop_map(|(start, length)| Event::Measured(start, length)),
        ]
    }

    const STEP: i64 = 30_000;

    fn told(events: &[Event]) -> Presence {
        let mut presence = Presence::default();
        let mut covered: BTreeMap<UtcMillis, Spans> = BTreeMap::new();
        for event in events {
            match *event {
                Event::Here(at) => presence.here(UtcMillis(at * STEP)),
                Event::Gone(at) => presence.gone(UtcMillis(at * STEP), |hour| covered.get(&hour)),
                Event::Measured(start, length) => {
                    let span = Span::new(UtcMillis(start * STEP), UtcMillis((start + length) * STEP));
                    let span = span.expect("not empty");
                    for start in crate::fold::hours(span) {
                        let part = span.overlap(&hour(start)).expect("touched");
                        covered.entry(start).or_default().insert(part);
                    }
                    presence.measured(span);
                }
            }
        }
        presence
    }

    /// Whether it was away at a moment, by looking at every event.
    fn away(events: &[Event], moment: i64) -> bool {
        let here = |at: i64| events.iter().any(|event| matches!(event, Event::Here(h) if *h == at));
        let gone = events.iter().filter_map(|event| match event {
            Event::Gone(at) if *at <= moment && !here(*at) => Some(*at),
            _ => None,
        });
        gone.into_iter().any(|gone| {
            let slack = SLACK_MS / STEP;
            !events.iter().any(|event| match *event {
                Event::Here(at) => gone < at && at <= moment,
                Event::Gone(_) => false,
                Event::Measured(start, length) => {
                    start + length > gone + slack && start.max(gone + slack) <= moment
                }
            })
        })
    }

    proptest! {
        #[test]
        fn the_same_words_and_windows_in_any_order_give_the_same_state(
            (events, shuffled) in prop::collection::vec(any_event(), 0..14)
                .prop_flat_map(|events| (Just(events.clone()), Just(events).prop_shuffle())),
        ) {
            let presence = told(&events);
            prop_assert_eq!(&presence, &told(&shuffled));
            let whole = Span::new(UtcMillis(0), UtcMillis(520 * STEP)).expect("not empty");
            let there = presence.within(whole);
            for moment in 0..520 {
                let inside = there.iter().any(|span| span.contains(UtcMillis(moment * STEP)));
                prop_assert_eq!(inside, !away(&events, moment), "{}", moment);
            }
            let json = serde_json::to_string(&presence).expect("plain data");
            prop_assert_eq!(serde_json::from_str::<Presence>(&json).expect("reads back"), presence);
        }
    }

    #[test]
    fn an_absence_ends_with_the_word_that_it_is_back_and_one_without_an_end_goes_on() {
        let minutes = |minutes: i64| UtcMillis(minutes * UtcMillis::MINUTE);
        let mut presence = Presence::default();
        presence.gone(minutes(10), |_| None);
        presence.here(minutes(20));
        presence.gone(minutes(30), |_| None);
        presence.gone(minutes(40), |_| None);
        assert_eq!(presence.absences(), [(minutes(10), Some(minutes(20))), (minutes(30), None)]);
        assert_eq!(presence.away_since(), Some(minutes(30)));
        presence.here(minutes(50));
        assert_eq!(presence.away_since(), None);
    }
}
