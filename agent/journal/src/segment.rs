//! One segment file: created, opened, and read entry by entry.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Corrupt, Damage, FileError};
use crate::fail;
use crate::folder::{self, segment_path};
use crate::format::{Chain, ENTRY_HEAD, EntryHead, HEADER, HEADER_LEN, Header};

/// Bytes read at once: some hundred small entries a system call.
const CHUNK: u64 = 64 << 10;

/// A segment open for reading.
pub(crate) struct Segment {
    pub(crate) header: Header,
    path: PathBuf,
    file: File,
    /// Part of the file, from `window_at` on. Dropped whenever no entry was found in it, because a writer
    /// may have put other bytes there by the next look.
    window: Vec<u8>,
    window_at: u64,
}

/// What stands under a segment's name.
pub(crate) enum Opening {
    Absent,
    /// At most a header, and no right one: a crash, or a live writer, is between creating and writing it.
    Unfinished {
        damage: Damage,
        bytes: u64,
    },
    Bad(Damage),
    Open(Segment),
}

/// What stands at an offset.
pub(crate) enum Found {
    Whole(Whole),
    /// Nothing: the file ends here.
    End,
    Bad(Damage),
}

/// An entry with a right checksum; its chain hash is for the caller to check.
pub(crate) struct Whole {
    pub(crate) chain: Chain,
    pub(crate) payload: Vec<u8>,
}

impl Segment {
    /// Creates a segment, durable with its name before this returns. The file is open for writing.
    pub(crate) fn create(dir: &Path, header: &Header) -> Result<File, FileError> {
        let path = segment_path(dir, header.number);
        let file = fail::around("journal.create_segment", || {
            File::options().write(true).create_new(true).open(&path)
        });
        let file = file.map_err(FileError::new("create", &path))?;
        fail::around("journal.write_header", || file.write_all_at(&header.encode(), 0))
            .map_err(FileError::new("write", &path))?;
        fail::around("journal.sync_header", || file.sync_all()).map_err(FileError::new("sync", &path))?;
        folder::sync(dir)?;
        Ok(file)
    }

    pub(crate) fn open(dir: &Path, number: u64) -> Result<Opening, FileError> {
        let path = segment_path(dir, number);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Opening::Absent),
            Err(error) => return Err(FileError::new("open", &path)(error)),
        };
        let mut bytes = [0; HEADER];
        let decoded = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Header::decode(&bytes, number),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Damage::HeaderCutShort),
            Err(error) => return Err(FileError::new("read", &path)(error)),
        };
        let damage = match decoded {
            Ok(header) => {
                return Ok(Opening::Open(Self { header, path, file, window: Vec::new(), window_at: 0 }));
            }
            Err(damage) => damage,
        };
        let len = file.metadata().map_err(FileError::new("read", &path))?.len();
        let torn = matches!(damage, Damage::HeaderCutShort | Damage::Magic | Damage::HeaderChecksum);
        if torn && len <= HEADER_LEN {
            return Ok(Opening::Unfinished { damage, bytes: len });
        }
        Ok(Opening::Bad(damage))
    }

    /// Bytes in the file now.
    pub(crate) fn len(&self) -> Result<u64, FileError> {
        Ok(self.file.metadata().map_err(FileError::new("read", &self.path))?.len())
    }

    /// Reads the entry at `offset`, taking the file to end at `limit` if it is longer than that.
    pub(crate) fn entry(&mut self, offset: u64, limit: Option<u64>) -> Result<Found, FileError> {
        let found = self.look(offset, limit.unwrap_or(u64::MAX));
        if !matches!(found, Ok(Found::Whole(_))) {
            self.window.clear();
        }
        found.map_err(FileError::new("read", &self.path))
    }

    fn look(&mut self, offset: u64, limit: u64) -> io::Result<Found> {
        let bytes = self.bytes(offset, ENTRY_HEAD, limit)?;
        let Some((head, _)) = bytes.split_first_chunk::<ENTRY_HEAD>() else {
            return Ok(if bytes.is_empty() { Found::End } else { Found::Bad(Damage::CutShort) });
        };
        let head = *head;
        let entry = match EntryHead::decode(&head) {
            Ok(entry) => entry,
            Err(damage) => return Ok(Found::Bad(damage)),
        };
        let bytes = self.bytes(offset, ENTRY_HEAD + entry.len, limit)?;
        let Some(payload) = bytes.get(ENTRY_HEAD..ENTRY_HEAD + entry.len) else {
            return Ok(Found::Bad(Damage::CutShort));
        };
        if !entry.matches(&head, payload) {
            return Ok(Found::Bad(Damage::Checksum));
        }
        Ok(Found::Whole(Whole { chain: entry.chain, payload: payload.to_vec() }))
    }

    /// The `len` bytes at `offset`, fewer only where the file or `limit` ends.
    fn bytes(&mut self, offset: u64, len: usize, limit: u64) -> io::Result<&[u8]> {
        let held = |window: &[u8], window_at: u64| {
            let start = usize::try_from(offset.checked_sub(window_at)?).ok()?;
            let end = start.checked_add(len)?;
            (end <= window.len()).then_some(start..end)
        };
        if let Some(range) = held(&self.window, self.window_at) {
            return Ok(&self.window[range]);
        }

        // What is not there is not allocated, whatever a damaged length says.
        let there = self.file.metadata()?.len().min(limit).saturating_sub(offset);
        let wanted = CHUNK.max(len as u64).min(there);
        self.window_at = offset;
        self.window.clear();
        self.window.resize(usize::try_from(wanted).map_err(io::Error::other)?, 0);
        let mut filled = 0;
        while filled < self.window.len() {
            match self.file.read_at(&mut self.window[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.window.clear();
                    return Err(error);
                }
            }
        }
        self.window.truncate(filled);
        Ok(&self.window[..filled.min(len)])
    }

    /// Everything from `offset` on.
    pub(crate) fn rest(&mut self, offset: u64) -> Result<Vec<u8>, FileError> {
        let mut rest = Vec::new();
        self.file
            .seek(SeekFrom::Start(offset))
            .and_then(|_| self.file.read_to_end(&mut rest))
            .map_err(FileError::new("read", &self.path))?;
        Ok(rest)
    }
}

/// Damage at a place.
pub(crate) fn corrupt(dir: &Path, segment: u64, index: Option<u64>, offset: u64, damage: Damage) -> Corrupt {
    Corrupt { file: segment_path(dir, segment), segment, index, offset, damage, follows: None }
}
