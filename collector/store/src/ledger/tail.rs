//! Entries that became durable lately, as they were opened by ingest: what the fold takes from here it need neither
//! read nor decode again. What is no longer here it reads from the ledger, to the same values.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{Place, fold::Opened};

/// Windows and other records held at most, or twice as much where one batch has more: bounds memory where the fold
/// falls behind. Then what is newest is not held: it is what the fold needs last.
const RECORDS: usize = 16_384;

/// Entries held at most.
const ENTRIES: usize = 4_096;

/// The last entries, cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tail(Arc<Mutex<Recent>>);

#[derive(Debug, Default)]
struct Recent {
    entries: VecDeque<(Opened, Place)>,
    records: usize,
}

impl Tail {
    /// Entries that are durable now, in order.
    pub(super) fn extend(&self, entries: impl IntoIterator<Item = (Opened, Place)>) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (entry, next) in entries {
            let records = recent.records + entry.records();
            let fits = records <= RECORDS && recent.entries.len() < ENTRIES;
            if fits || recent.entries.is_empty() {
                recent.records = records;
                recent.entries.push_back((entry, next));
            }
        }
    }

    /// The entry at this place with the place after it, if it is still here; those before it are let go.
    pub(crate) fn take(&self, at: Place) -> Option<(Opened, Place)> {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while recent.entries.front().is_some_and(|(entry, _)| entry.place() <= at) {
            let (entry, next) = recent.entries.pop_front()?;
            recent.records -= entry.records();
            if entry.place() == at {
                return Some((entry, next));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use weighbridge_meter::UtcMillis;

    use super::*;
    use crate::Fact;

    fn entries(indexes: std::ops::Range<u64>) -> impl Iterator<Item = (Opened, Place)> {
        let place = |index| Place { index, segment: 1, offset: 100 * index };
        let fact = || Fact::Method { method: "a".into(), figures_sha256: "b".into() };
        indexes.map(move |index| (Opened::of_fact(place(index), UtcMillis(0), fact()), place(index + 1)))
    }

    fn taken(tail: &Tail, at: u64) -> Option<u64> {
        tail.take(Place { index: at, segment: 9, offset: 9 }).map(|(entry, _)| entry.place().index)
    }

    #[test]
    fn of_too_much_the_oldest_is_held_and_what_comes_after_a_hole_is_found_again() {
        let most = ENTRIES as u64;
        let tail = Tail::default();
        tail.extend(entries(1..most + 100));
        assert_eq!(taken(&tail, 1), Some(1));
        tail.extend(entries(most + 100..most + 200));
        for at in 2..=most {
            assert_eq!(taken(&tail, at), Some(at));
        }
        // Read from the ledger, up to where it is held again.
        assert!((most + 1..most + 100).all(|at| taken(&tail, at).is_none()));
        assert_eq!(taken(&tail, most + 100), Some(most + 100));
        assert_eq!(taken(&tail, most + 101), None);
        // Nothing that was passed over comes back.
        tail.extend(entries(most + 300..most + 310));
        assert_eq!(taken(&tail, most + 305), Some(most + 305));
        assert_eq!(taken(&tail, most + 301), None);
        assert_eq!(taken(&tail, most + 306), Some(most + 306));
    }
}
