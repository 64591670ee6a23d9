//! One segment file: created, opened, and read entry by entry.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Corrupt, Damage, FileError};
use crate::fail;
use crate::folder::{self, segment_path};
use crate::format::{Chain, ENTRY_HEAD, EntryHead, HEADER, HEADER_LEN, Header};
use crate::search::whole_entry;

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

    /// Writes what will be a segment under a name that no reader knows, with zeros up to `filled`. The file is
    /// open for writing.
    pub(crate) fn make_ready(dir: &Path, header: &Header, filled: u64) -> Result<File, FileError> {
        let path = ready_path(dir, header.number);
        let created = fail::around("journal.begin_segment", || File::create(&path));
        let made = created.map_err(FileError::new("create", &path)).and_then(|file| {
            fail::around("journal.write_begun", || {
                file.write_all_at(&header.encode(), 0)?;
                fill(&file, HEADER_LEN, filled)
            })
            .map_err(FileError::new("write", &path))?;
            fail::around("journal.sync_begun", || file.sync_all()).map_err(FileError::new("sync", &path))?;
            Ok(file)
        });
        if made.is_err() {
            // A full disk needs the space back; if not even that works, the next attempt takes the file over.
            let _ = fs::remove_file(&path);
        }
        made
    }

    /// Gives what was made ready its name, durably.
    pub(crate) fn put_in_place(dir: &Path, number: u64) -> Result<(), FileError> {
        let path = segment_path(dir, number);
        if path.symlink_metadata().is_ok() {
            let there = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(FileError::new("create", &path)(there));
        }
        fail::around("journal.rename_segment", || fs::rename(ready_path(dir, number), &path))
            .map_err(FileError::new("create", &path))?;
        folder::sync(dir)
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

    /// Opens a file as a segment, with its header as far as that can be believed.
    pub(crate) fn open_any(path: &Path) -> Result<(Result<Header, Damage>, Self), FileError> {
        let file = File::open(path).map_err(FileError::new("open", path))?;
        let mut bytes = [0; HEADER];
        let header = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Header::decode_any(&bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Damage::HeaderCutShort),
            Err(error) => return Err(FileError::new("read", path)(error)),
        };
        let stands_for = *header.as_ref().unwrap_or(&Header::FIRST);
        let segment =
            Self { header: stands_for, path: path.to_owned(), file, window: Vec::new(), window_at: 0 };
        Ok((header, segment))
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

    /// Whether nothing but zeros stands from `offset` up to `end`.
    pub(crate) fn is_zero_from(&mut self, offset: u64, end: u64) -> Result<bool, FileError> {
        let path = self.path.clone();
        let mut at = offset;
        while at < end {
            let wanted = usize::try_from(CHUNK.min(end - at)).unwrap_or(usize::MAX);
            let bytes = self.bytes(at, wanted, end).map_err(FileError::new("read", &path))?;
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            if bytes.is_empty() {
                break;
            }
            at += bytes.len() as u64;
        }
        Ok(true)
    }

    /// Offset of the first whole entry at or behind `from`, with a payload of at most `largest` bytes.
    ///
    /// Looks at pieces that overlap by the longest entry there can be, so that none is missed and no more
    /// than two of that length are in memory.
    pub(crate) fn search(&mut self, from: u64, end: u64, largest: usize) -> Result<Option<u64>, FileError> {
        let path = self.path.clone();
        let reach = (ENTRY_HEAD + largest) as u64;
        let mut start = from;
        while start < end {
            let wanted = usize::try_from((2 * reach).min(end - start)).unwrap_or(usize::MAX);
            let bytes = self.bytes(start, wanted, end).map_err(FileError::new("read", &path))?;
            if let Some(at) = whole_entry(bytes, largest) {
                return Ok(Some(start + at as u64));
            }
            if start + 2 * reach >= end {
                break;
            }
            start += reach + 1;
        }
        self.window = Vec::new();
        Ok(None)
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

fn ready_path(dir: &Path, number: u64) -> PathBuf {
    segment_path(dir, number).with_extension("seg.new")
}

/// Zeros written at once.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Writes zeros: to let the file system set the space aside alone would leave it to mark each block as
/// written later, which is what a sync is to be spared.
pub(crate) fn fill(file: &File, from: u64, to: u64) -> io::Result<()> {
    let mut at = from;
    while at < to {
        let length = usize::try_from((to - at).min(ZEROS.len() as u64)).unwrap_or(ZEROS.len());
        file.write_all_at(&ZEROS[..length], at)?;
        at += length as u64;
    }
    Ok(())
}

/// Damage at a place.
pub(crate) fn corrupt(dir: &Path, segment: u64, index: Option<u64>, offset: u64, damage: Damage) -> Corrupt {
    Corrupt { file: segment_path(dir, segment), segment, index, offset, damage, follows: None }
}
