//! What can go wrong, told apart by what the caller can do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::format::MAX_PAYLOAD;

/// The operating system refused something; `source` says why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", path.display())]
pub struct FileError {
    /// What was tried, as in "cannot read".
    pub doing: &'static str,
    /// The file or folder it was tried on.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`: adds what was being done, and to what.
    pub(crate) fn new(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { doing, path: path.to_owned(), source }
    }
}

/// The place of the first damage found. Nothing was changed; a person has to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrupt {
    /// The segment file.
    pub file: PathBuf,
    /// Number of the segment.
    pub segment: u64,
    /// Index of the first entry that cannot be read; `None` where the only header that tells is damaged.
    pub index: Option<u64>,
    /// Bytes from the start of the segment file; 0 is the segment header.
    pub offset: u64,
    /// What is wrong there.
    pub damage: Damage,
    /// Offset of a whole entry behind the damage, which shows that this is no torn write.
    pub follows: Option<u64>,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        if let Some(index) = self.index {
            write!(f, "entry {index} ")?;
        }
        write!(f, "at byte {}: {}", self.offset, self.damage)?;
        if let Some(follows) = self.follows {
            write!(f, "; a whole entry follows at byte {follows}, so this is no torn write")?;
        }
        Ok(())
    }
}

impl std::error::Error for Corrupt {}

/// What is wrong with a segment or an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A segment is missing between others.
    #[error("the segment is missing, but later ones exist")]
    Missing,
    /// The file is too short for a segment header.
    #[error("the segment header is cut short")]
    HeaderCutShort,
    /// The file is not a segment, or one of an unknown version.
    #[error("the segment header does not begin with WBJRNL01")]
    Magic,
    /// Some byte of the header has changed.
    #[error("the checksum of the segment header is wrong")]
    HeaderChecksum,
    /// The header belongs to another file name, or to no possible segment.
    #[error("the segment header says segment {found}")]
    Number {
        /// The number in the header.
        found: u64,
    },
    /// Entries are missing, or there are too many, before this segment.
    #[error("the segment header says its first entry is {found}")]
    FirstIndex {
        /// The first index in the header.
        found: u64,
    },
    /// The chain hash in the header is not that of the entry before.
    #[error("the segment header does not continue the hash chain")]
    HeaderChain,
    /// No entry has such a length.
    #[error("the entry's length is {found}, expected 1 to {MAX_PAYLOAD}")]
    Length {
        /// The length that was read, in bytes.
        found: u32,
    },
    /// The segment ends within the entry.
    #[error("the entry is cut short")]
    CutShort,
    /// Some byte of the entry has changed.
    #[error("the entry's checksum is wrong")]
    Checksum,
    /// The entry is whole, but it does not follow the one before.
    #[error("the entry does not continue the hash chain")]
    Chain,
}

/// Why a journal cannot be opened for writing.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another writer has it: stop that one first.
    #[error("journal {} is in use by another writer", dir.display())]
    Locked {
        /// The journal's folder.
        dir: PathBuf,
    },
    /// Do not retry: nothing was cut, someone has to look.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// Retry once the cause in `source` is gone.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Why an entry was not appended, or is not durable.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The journal is as before: an empty payload cannot be told from zeros.
    #[error("an entry needs a payload of at least 1 byte")]
    Empty,
    /// The journal is as before: split the payload.
    #[error("a payload has {bytes} bytes, at most {MAX_PAYLOAD} fit an entry")]
    TooLarge {
        /// Length of the payload.
        bytes: usize,
    },
    /// Entries since the last sync may or may not be there: drop the journal, open it again and look at
    /// [`crate::Journal::next`].
    #[error(transparent)]
    Failed(#[from] FileError),
    /// An earlier call failed: drop the journal and open it again.
    #[error("journal {} had a write error and has to be opened again", dir.display())]
    Poisoned {
        /// The journal's folder.
        dir: PathBuf,
    },
}

/// Why segments were not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// Retry once the cause in `source` is gone; segments removed so far stay removed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A write failed earlier: drop the journal and open it again, which needs no free space.
    #[error("journal {} had a write error and has to be opened again", dir.display())]
    Poisoned {
        /// The journal's folder.
        dir: PathBuf,
    },
}

/// Why the next entry cannot be read. The reader stays where it is.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Do not retry: someone has to look.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The place lies in a segment that was removed, or in one that this journal never had.
    #[error(
        "journal {} has no segment {segment}, {}",
        dir.display(),
        oldest.map_or("nor any other".to_owned(), |oldest| format!("its oldest is {oldest}"))
    )]
    NoSegment {
        /// The journal's folder.
        dir: PathBuf,
        /// The segment asked for.
        segment: u64,
        /// The oldest segment that is there.
        oldest: Option<u64>,
    },
    /// Retry once the cause in `source` is gone.
    #[error(transparent)]
    File(#[from] FileError),
}
