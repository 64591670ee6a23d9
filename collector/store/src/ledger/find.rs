//! Looks batches up in the ledger itself, where nothing shorter is remembered of them.

use std::path::Path;

use weighbridge_journal::{ReadError, Reader};
use weighbridge_meter::{AgentId, EpochId};
use weighbridge_wire::{Envelope, Hash};

use crate::{
    Place,
    entry::{Body, Entry},
    state::PlaceRow,
};

/// The hash of the batch with this number, if there is one in these places.
/// With no places given, everything before `end` is read.
pub fn find(
    folder: &Path,
    places: &[PlaceRow],
    end: Place,
    agent: &AgentId,
    epoch: EpochId,
    sequence: u64,
) -> Result<Option<Hash>, ReadError> {
    let mut found = None;
    let mut look = |payload: &[u8]| {
        let Ok(Entry { body: Body::Batch(received), .. }) = Entry::decode(payload) else { return };
        let batch = Envelope::decode(&received.envelope).and_then(|envelope| envelope.read());
        if batch.is_ok_and(|b| b.agent == *agent && b.epoch == epoch && b.sequence == sequence) {
            found = Some(weighbridge_wire::hash(&received.envelope));
        }
    };
    if places.is_empty() {
        let mut reader = Reader::from_start(folder);
        while let Some(entry) = reader.next_before(end)? {
            look(&entry.payload);
        }
    }
    for place in places {
        read_places(folder, place, end, |_, payload| look(payload))?;
    }
    Ok(found)
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
