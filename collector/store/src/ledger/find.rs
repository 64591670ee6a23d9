//! Looks batches up in the ledger itself, where nothing shorter is remembered of them.
//!
//! After a restore agents send again all that they hold, hour after hour: what was read for one batch is remembered for
//! those that lie beside it, whosever they are.

use std::{
    collections::{HashSet, VecDeque},
    path::Path,
    sync::{Mutex, PoisonError},
};

use weighbridge_journal::{ReadError, Reader};
use weighbridge_wire::Hash;

use crate::{
    Place,
    entry::{Body, Entry},
    state::PlaceRow,
};

use super::Ledger;

/// Hashes that are remembered, the last that were read: an hour of two thousand agents.
const RECALLED: usize = 1 << 17;

/// Hashes of batches that were read in the ledger.
#[derive(Debug, Default)]
pub(super) struct Recalled(Mutex<Hashes>);

#[derive(Debug, Default)]
struct Hashes {
    all: HashSet<Hash>,
    /// In the order in which they were read.
    order: VecDeque<Hash>,
}

impl Hashes {
    fn take(&mut self, hash: Hash) {
        if !self.all.insert(hash) {
            return;
        }
        self.order.push_back(hash);
        if self.order.len() > RECALLED
            && let Some(oldest) = self.order.pop_front()
        {
            self.all.remove(&oldest);
        }
    }
}

impl Ledger {
    /// Whether the batch with this hash is known to be in the ledger without reading it.
    pub fn recalls(&self, hash: &Hash) -> bool {
        // Whoever reads holds it: then nothing is known yet.
        self.recalled.0.try_lock().is_ok_and(|hashes| hashes.all.contains(hash))
    }

    /// Whether the batch with this hash lies in these places before `end`. The bytes decide: none of them is decoded.
    /// Reads, one caller after the other.
    pub fn has(&self, hash: &Hash, places: &[PlaceRow], end: Place) -> Result<bool, ReadError> {
        let mut hashes = self.recalled.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = hashes.all.contains(hash);
        for place in places {
            if found {
                break;
            }
            read_places(&self.folder, place, end, |_, payload| {
                if let Ok(Entry { body: Body::Batch(received), .. }) = Entry::decode(payload) {
                    let read = weighbridge_wire::hash(&received.envelope);
                    found |= read == *hash;
                    hashes.take(read);
                }
            })?;
        }
        Ok(found)
    }
}

/// Reads the entries of one row of places.
pub fn read_places(
    folder: &Path,
    row: &PlaceRow,
    end: Place,
    mut visit: impl FnMut(Place, &[u8]),
) -> Result<(), ReadError> {
    let from = Place { index: row.first_index, segment: row.segment, offset: row.first_offset };
    let mut reader = Reader::new(folder, from);
    while let Some(entry) = reader.next_before(end)? {
        if entry.place.index > row.last_index {
            break;
        }
        visit(entry.place, &entry.payload);
    }
    Ok(())
}
