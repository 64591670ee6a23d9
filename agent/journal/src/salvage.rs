//! Reads what can still be read of one segment file, whatever happened to it.
//!
//! A [`crate::Reader`] stops at the first damage, because behind it the chain cannot be checked. A [`Salvage`]
//! goes on: each entry has a checksum of its own, so the next whole one can be found behind any damage. It
//! says for each entry whether the chain connects it with the one before; what a batch of entries without that
//! is worth is for the caller to judge, who knows what is in them.

use std::path::Path;

use crate::error::{Damage, FileError};
use crate::format::{Chain, ENTRY_HEAD_LEN, HEADER_LEN, Header, chain_after};
use crate::segment::{Found, Segment};

/// What stands next in a segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// An entry with a right checksum.
    Entry {
        /// Where it begins, in bytes from the start of the file.
        offset: u64,
        /// What was appended.
        payload: Vec<u8>,
        /// Its chain hash follows from the entry before, or, for the first, from the header. Where this is not
        /// so, something is missing before it, or it was put here from elsewhere.
        continues: bool,
    },
    /// Bytes that are no entry, up to the next entry or to the end of the file.
    Damaged {
        /// Where they begin.
        offset: u64,
        /// How many.
        bytes: u64,
        /// What is wrong where they begin.
        damage: Damage,
    },
}

/// Reads one segment file piece by piece, needing little memory however large the file is.
pub struct Salvage {
    segment: Segment,
    /// Number and first index.
    header: Option<(u64, u64)>,
    /// What is wrong with the header, until that was told.
    untold: Option<Damage>,
    at: u64,
    len: u64,
    chain: Option<Chain>,
    largest: usize,
}

impl Salvage {
    /// Opens a file, wherever it lies and whatever it is called. `largest` is the longest payload that an
    /// entry can have; up to four times that is held in memory. What lies beyond `longest` bytes is not looked
    /// at: a file may claim to be larger than the disk.
    pub fn open(path: &Path, largest: usize, longest: u64) -> Result<Self, FileError> {
        let (header, segment) = Segment::open_any(path)?;
        let len = segment.len()?.min(longest);
        Ok(match header {
            Ok(Header { number, first_index, chain }) => {
                let (header, chain) = (Some((number, first_index)), Some(chain));
                Self { segment, header, untold: None, at: HEADER_LEN, len, chain, largest }
            }
            Err(damage) => {
                Self { segment, header: None, untold: Some(damage), at: 0, len, chain: None, largest }
            }
        })
    }

    /// What the header says: segment number and index of the first entry. `None` if it cannot be believed.
    pub fn header(&self) -> Option<(u64, u64)> {
        self.header
    }

    /// The entry that begins at `offset`, a place at which this file had one before.
    pub fn entry_at(&mut self, offset: u64) -> Result<Option<Vec<u8>>, FileError> {
        match self.segment.entry(offset, Some(self.len))? {
            Found::Whole(whole) => Ok(Some(whole.payload)),
            Found::Bad(_) | Found::End => Ok(None),
        }
    }

    /// The next piece; `None` at the end. Zeros behind the last entry are space that was never written to.
    #[expect(clippy::should_implement_trait, reason = "an error does not end it as it would an iterator")]
    pub fn next(&mut self) -> Result<Option<Piece>, FileError> {
        if self.at >= self.len {
            return Ok(None);
        }
        let damage = match self.untold.take() {
            Some(damage) => damage,
            None => match self.segment.entry(self.at, Some(self.len))? {
                Found::Whole(whole) if whole.payload.len() <= self.largest => {
                    let (offset, payload) = (self.at, whole.payload);
                    let continues =
                        self.chain.is_some_and(|chain| chain_after(&chain, &payload) == whole.chain);
                    self.chain = Some(whole.chain);
                    self.at += ENTRY_HEAD_LEN + payload.len() as u64;
                    return Ok(Some(Piece::Entry { offset, payload, continues }));
                }
                Found::Whole(whole) => {
                    Damage::Length { found: u32::try_from(whole.payload.len()).unwrap_or(u32::MAX) }
                }
                Found::Bad(damage) => {
                    if self.segment.is_zero_from(self.at, self.len)? {
                        self.at = self.len;
                        return Ok(None);
                    }
                    damage
                }
                Found::End => return Ok(None),
            },
        };
        let offset = self.at;
        let end = self.segment.search(offset + 1, self.len, self.largest)?.unwrap_or(self.len);
        self.at = end;
        self.chain = None;
        Ok(Some(Piece::Damaged { offset, bytes: end - offset, damage }))
    }
}
