//! Reads a whole journal and checks everything that can be checked.

use std::path::Path;

use crate::Place;
use crate::error::{Damage, ReadError};
use crate::folder::segment_numbers;
use crate::format::{FIRST_INDEX, FIRST_SEGMENT, HEADER_LEN, Header};
use crate::read::{Entry, Reader};
use crate::segment::{Found, Opening, Segment, corrupt};

/// What a journal was found to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Segment files.
    pub segments: u64,
    /// Entries.
    pub entries: u64,
    /// Where the oldest entry begins. If that is not entry 1, what came before was removed.
    pub first: Place,
    /// Where the next entry would begin.
    pub end: Place,
    /// Chain hash at `end`: compare it with one noted elsewhere to know that the end is not missing.
    pub chain: [u8; 32],
    /// Zero bytes behind the last entry, which a power cut may leave and the next open cuts off.
    pub zero_bytes: u64,
}

/// Reads the whole journal in `dir`: headers, that segments and indexes have no holes, every checksum and
/// chain hash. Calls `visit` for each entry in order, before the ones after it are checked.
///
/// A torn write at the end is an error here: [`crate::Journal::open`] is what cuts it off. For the same reason
/// verify a journal at rest; beside a live writer, read with [`Reader::next_before`], which checks the same.
pub fn verify(dir: &Path, mut visit: impl FnMut(&Entry)) -> Result<Verified, ReadError> {
    let mut reader = Reader::from_start(dir);
    let mut first = Place { index: FIRST_INDEX, segment: FIRST_SEGMENT, offset: HEADER_LEN };
    let mut entries = 0;
    while let Some(entry) = reader.next()? {
        if entries == 0 {
            first = entry.place;
        }
        entries += 1;
        visit(&entry);
    }

    // The reader takes what is unfinished for not yet written. At rest it has to be nothing.
    let numbers = segment_numbers(dir)?;
    let unfinished = |number, index| match Segment::open(dir, number)? {
        Opening::Unfinished { damage, .. } | Opening::Bad(damage) => {
            Err(ReadError::from(corrupt(dir, number, index, 0, damage)))
        }
        Opening::Absent | Opening::Open(_) => Ok(()),
    };
    let Some(current) = reader.current() else {
        if let Some(&number) = numbers.first() {
            unfinished(number, (number == FIRST_SEGMENT).then_some(FIRST_INDEX))?;
        }
        return Ok(Verified {
            segments: 0,
            entries,
            first,
            end: first,
            chain: Header::FIRST.chain,
            zero_bytes: 0,
        });
    };
    unfinished(current.at.segment + 1, Some(current.at.index))?;
    let rest = current.segment.rest(current.at.offset)?;
    if rest.iter().any(|byte| *byte != 0) {
        let damage = match current.segment.entry(current.at.offset, None)? {
            Found::Bad(damage) => damage,
            Found::Whole(_) | Found::End => Damage::CutShort, // Someone is writing.
        };
        return Err(current.corrupt(dir, damage));
    }
    Ok(Verified {
        segments: numbers.len() as u64,
        entries,
        first: if entries == 0 { current.at } else { first },
        end: current.at,
        chain: current.chain.unwrap_or(current.segment.header.chain),
        zero_bytes: rest.len() as u64,
    })
}
