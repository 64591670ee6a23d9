//! Entries that became durable lately, as they were opened by ingest: what the fold takes from here it need neither
//! read nor decode again. What is no longer here it reads from the ledger, to the same values.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{Place, fold::Opened};

/// Windows and other records held at most, or twice as much where one batch has more: bounds memory where the fold
/// falls behind.
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
    /// Entries that are durable now, in order and without a hole after those before them.
    pub(super) fn extend(&self, entries: impl IntoIterator<Item = (Opened, Place)>) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (entry, next) in entries {
            if recent.entries.back().is_some_and(|(_, expected)| *expected != entry.place()) {
                // The ledger was opened again in between.
                (recent.entries, recent.records) = (VecDeque::new(), 0);
            }
            recent.records += entry.records();
            recent.entries.push_back((entry, next));
            while (recent.records > RECORDS || recent.entries.len() > ENTRIES)
                && let Some((oldest, _)) = recent.entries.pop_front()
            {
                recent.records -= oldest.records();
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
