//! Append-only segment files with checksums and a hash chain: an agent keeps its spool in one, the
//! collector its ledger.
//!
//! An entry is some bytes; the journal does not look inside. [`Journal`] writes, and only one at a time
//! per folder; any number of [`Reader`]s read, also beside a live writer; [`verify()`] re-reads everything.
//! An entry exists for good once [`Journal::sync`] returned: until then a crash may take it.
//!
//! What is damaged is named and left as it is. [`Salvage`] reads what is readable around damage; [`repair()`]
//! cuts a journal before it and moves the rest away, when a person says so.
//!
//! Deliberately absent: compression, encryption, keys, any time or clock, and seeking by index (a caller that
//! wants to come back keeps the [`Place`]).
//!
//! # Format
//!
//! Stable and public: what was written once stays readable. All numbers are little-endian.
//!
//! A journal is one folder. Segments are files named `<number>.seg`, the number in 20 decimal digits,
//! counted from 1 without holes; old segments may have been removed, oldest first. `LOCK` is an empty file
//! on which the writer holds an exclusive lock. `<number>.seg.new` is a segment that is being begun. Other
//! files are ignored.
//!
//! A segment begins with a header of 60 bytes:
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | `WBJRNL01` |
//! | 8..16 | segment number, u64, as in the file name |
//! | 16..24 | index of its first entry, u64; entries count from 1 over all segments |
//! | 24..56 | chain hash of the entry before its first; 32 zero bytes in segment 1 |
//! | 56..60 | CRC-32 of bytes 0..56, u32 |
//!
//! Then follow the entries, without gaps or padding:
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | payload length, u32, from 1 to [`MAX_PAYLOAD`] |
//! | 4..8 | CRC-32 of bytes 0..4, then bytes 8 to the end of the entry, u32 |
//! | 8..40 | chain hash: SHA-256 of the chain hash before this entry, then the payload |
//! | 40.. | payload |
//!
//! The CRC-32 is the one of zlib and PNG. A length of 0 is no entry, so zeros behind the last entry read as the
//! end: a writer may fill the last segment with them ahead of what it appends ([`Journal::fill_ahead`]), and
//! some file systems leave them after a power cut. They are cut off when the segment is closed. The chain makes one hash stand for everything
//! before it: whoever has signed or written down [`Journal::chain`] can show later that nothing was changed.
//! A journal cut off exactly between two entries is whole in itself; only such a note reveals the cut.
//!
//! # What a crash leaves
//!
//! A segment and its folder are synced before the next segment is begun, so only the last can be incomplete.
//! [`Journal::open`] takes a bad entry there for a torn write and cuts it off, unless a whole entry with a
//! right checksum lies anywhere behind it: then bytes in the middle have changed, which no torn write does,
//! and it refuses. It also refuses, rather than guess, in the rare case that a power cut kept later blocks of
//! an unsynced group and lost earlier ones. Damage that hits nothing but the last entry looks like a torn
//! write and is cut; [`Opened::cut_bytes`] tells.

mod error;
pub mod fail;
mod folder;
mod format;
mod journal;
mod read;
mod recover;
mod repair;
mod salvage;
mod search;
mod segment;
mod starts;
mod verify;

pub use error::{AppendError, Corrupt, Damage, FileError, OpenError, ReadError, RemoveError};
pub use folder::oldest_segment;
pub use format::{ENTRY_HEAD_LEN, HEADER_LEN, MAX_PAYLOAD};
pub use journal::{Journal, Opened, Options, Removed, SegmentInfo};
pub use read::{Entry, Reader, chain_at, first_place};
pub use recover::Torn;
pub use repair::{Repaired, repair};
pub use salvage::{Piece, Salvage};
pub use starts::{check_headers, segment_of};
pub use verify::{Verified, verify};

use std::cmp::Ordering;

/// Where an entry begins, or where the next one will.
///
/// Places of one journal are equal and ordered by index alone: the end of a full segment and the beginning
/// of the next are the same place, and a reader accepts either.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Index of the entry that begins here; entries count from 1.
    pub index: u64,
    /// Number of the segment.
    pub segment: u64,
    /// Bytes from the start of the segment file.
    pub offset: u64,
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index
    }
}

impl Eq for Place {}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        self.index.cmp(&other.index)
    }
}
