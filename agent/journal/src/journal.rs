//! The writer.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::Place;
use crate::error::{AppendError, FileError, OpenError, RemoveError};
use crate::fail;
use crate::folder::{self, segment_path};
use crate::format::{Chain, EntryHead, HEADER_LEN, Header, MAX_PAYLOAD, chain_after};
use crate::recover::{Recovered, recover};
use crate::segment::Segment;

/// Appended bytes that are held in memory at most, but for one entry; beyond, they are written without
/// being synced. Large enough that an ordinary group is one write.
const BUFFER: usize = 1 << 20;

/// A journal open for writing; there is one at a time for a folder.
///
/// Dropping it does not sync: what was appended since the last [`Journal::sync`] is lost.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    options: Options,
    closed: Vec<SegmentInfo>,
    /// The active segment; `next` and `durable` always lie in it.
    file: File,
    header: Header,
    /// Appended but not yet written: the bytes before `next`.
    buffer: Vec<u8>,
    next: Place,
    durable: Place,
    chain: Chain,
    poisoned: bool,
    /// Held, never read.
    _lock: File,
}

/// How a journal is kept. It may differ from one opening to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// A segment that has become larger than this, in bytes, takes no more entries. With 0, each entry gets a
    /// segment of its own.
    pub segment_bytes: u64,
}

impl Default for Options {
    /// 64 MiB: large enough to be few, small enough to remove in steps.
    fn default() -> Self {
        Self { segment_bytes: 64 << 20 }
    }
}

/// What was found when a journal was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Bytes of a torn write that were cut off the end; above 0 the writer had crashed.
    pub cut_bytes: u64,
    /// Entries in the journal now.
    pub entries: u64,
    /// Where the oldest of them begins, or the next one if there is none.
    pub first: Place,
}

/// A segment of an open journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub number: u64,
    /// Index of its first entry.
    pub first_index: u64,
    /// Its length, with header and with what is not yet written.
    pub bytes: u64,
}

impl SegmentInfo {
    pub(crate) fn of(segment: &Segment) -> Result<Self, FileError> {
        let Header { number, first_index, .. } = segment.header;
        Ok(Self { number, first_index, bytes: segment.len()? })
    }
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Segments.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Journal {
    /// Opens the journal in `dir` to write on from its end, and creates the folder if there is none.
    ///
    /// Reads the last segment and the headers of the others. Cuts a torn write off the end; refuses anything
    /// else that is wrong and changes nothing then. What is in the journal afterwards is durable.
    pub fn open(dir: &Path, options: Options) -> Result<(Self, Opened), OpenError> {
        folder::create(dir)?;
        let lock = folder::lock(dir)?;
        let Recovered { closed, file, header, next, chain, cut_bytes } = recover(dir)?;

        let (segment, index) = closed
            .first()
            .map_or((header.number, header.first_index), |first| (first.number, first.first_index));
        let first = Place { index, segment, offset: HEADER_LEN };
        let journal = Self {
            dir: dir.to_owned(),
            options,
            closed,
            file,
            header,
            buffer: Vec::new(),
            next,
            durable: next,
            chain,
            poisoned: false,
            _lock: lock,
        };
        Ok((journal, Opened { cut_bytes, entries: next.index - index, first }))
    }

    /// Appends an entry and tells where it begins. It is durable only after [`Journal::sync`].
    ///
    /// Entries appended between two syncs are one group: they are written together.
    pub fn append(&mut self, payload: &[u8]) -> Result<Place, AppendError> {
        self.refuse_if_poisoned()?;
        if payload.is_empty() {
            return Err(AppendError::Empty);
        }
        if payload.len() > MAX_PAYLOAD {
            return Err(AppendError::TooLarge { bytes: payload.len() });
        }
        if self.next.offset > self.options.segment_bytes && self.next.index > self.header.first_index {
            self.attempt(Self::begin_segment)?;
        }

        let place = self.next;
        self.chain = chain_after(&self.chain, payload);
        let head = EntryHead::encode(&self.chain, payload);
        self.buffer.extend_from_slice(&head);
        self.buffer.extend_from_slice(payload);
        self.next.index += 1;
        self.next.offset += (head.len() + payload.len()) as u64;
        if self.buffer.len() >= BUFFER {
            self.attempt(Self::write)?;
        }
        Ok(place)
    }

    /// Makes everything appended so far durable.
    ///
    /// After a failure the journal refuses everything until it is opened again: the system may have dropped
    /// what it could not write, and a second sync would succeed without it.
    pub fn sync(&mut self) -> Result<(), AppendError> {
        self.refuse_if_poisoned()?;
        if self.durable == self.next {
            return Ok(());
        }
        self.attempt(Self::write_and_sync)
    }

    /// Where the next entry will begin.
    ///
    /// If the segment is full, that is its end; the entry then begins the next segment, which is the same
    /// place to every reader.
    pub fn next(&self) -> Place {
        self.next
    }

    /// Everything before this is durable.
    pub fn durable(&self) -> Place {
        self.durable
    }

    /// The chain hash at [`Journal::next`]: it stands for every entry before.
    pub fn chain(&self) -> [u8; 32] {
        self.chain
    }

    /// Removes the segments numbered below `segment`, oldest first, but never the one being written.
    ///
    /// Readers that still need them get [`crate::ReadError::NoSegment`].
    pub fn remove_segments_before(&mut self, segment: u64) -> Result<Removed, RemoveError> {
        if self.poisoned {
            return Err(RemoveError::Poisoned { dir: self.dir.clone() });
        }
        let mut removed = Removed::default();
        while let Some(oldest) = self.closed.first().copied().filter(|oldest| oldest.number < segment) {
            let path = segment_path(&self.dir, oldest.number);
            match fail::around("journal.remove_segment", || fs::remove_file(&path)) {
                Ok(()) => {}
                // An earlier call removed it, but could not sync the folder.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(FileError::new("remove", &path)(error).into()),
            }
            // Each by itself, so that a crash cannot keep an older one and leave a hole.
            folder::sync(&self.dir)?;
            self.closed.remove(0);
            removed.segments += 1;
            removed.bytes += oldest.bytes;
        }
        Ok(removed)
    }

    /// All segments, oldest first; the last is the one being written.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let mut segments = self.closed.clone();
        segments.push(self.active());
        segments
    }

    fn active(&self) -> SegmentInfo {
        SegmentInfo {
            number: self.header.number,
            first_index: self.header.first_index,
            bytes: self.next.offset,
        }
    }

    fn refuse_if_poisoned(&self) -> Result<(), AppendError> {
        if self.poisoned { Err(AppendError::Poisoned { dir: self.dir.clone() }) } else { Ok(()) }
    }

    /// Poisons the journal if `step` fails.
    fn attempt(&mut self, step: impl FnOnce(&mut Self) -> Result<(), FileError>) -> Result<(), AppendError> {
        step(self).map_err(|error| {
            self.poison();
            error.into()
        })
    }

    fn poison(&mut self) {
        self.poisoned = true;
        self.buffer = Vec::new();
        // Memory may still show what the disk never got, and the next open would believe it. If this fails
        // too, the file system is in such a state that the open will most likely fail as well.
        let _ = self.file.set_len(self.durable.offset);
    }

    fn write(&mut self) -> Result<(), FileError> {
        let start = self.next.offset - self.buffer.len() as u64;
        fail::around("journal.write", || self.file.write_all_at(&self.buffer, start))
            .map_err(FileError::new("write", &segment_path(&self.dir, self.header.number)))?;
        self.buffer.clear();
        self.buffer.shrink_to(2 * BUFFER);
        Ok(())
    }

    fn write_and_sync(&mut self) -> Result<(), FileError> {
        self.write()?;
        fail::around("journal.sync", || self.file.sync_data())
            .map_err(FileError::new("sync", &segment_path(&self.dir, self.header.number)))?;
        self.durable = self.next;
        Ok(())
    }

    /// Closes the active segment, durably, before the next exists.
    fn begin_segment(&mut self) -> Result<(), FileError> {
        self.write_and_sync()?;
        let header =
            Header { number: self.header.number + 1, first_index: self.next.index, chain: self.chain };
        self.file = Segment::create(&self.dir, &header)?;
        self.closed.push(self.active());
        self.header = header;
        self.next = Place { index: header.first_index, segment: header.number, offset: HEADER_LEN };
        self.durable = self.next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify;

    fn opened(dir: &Path) -> Journal {
        Journal::open(dir, Options::default()).unwrap().0
    }

    /// A device file in place of the segment: the kernel itself refuses.
    fn device(path: &str) -> File {
        File::options().write(true).open(path).unwrap()
    }

    fn refuses_everything(journal: &mut Journal) {
        assert!(matches!(journal.append(b"more"), Err(AppendError::Poisoned { .. })));
        assert!(matches!(journal.sync(), Err(AppendError::Poisoned { .. })));
        assert!(matches!(journal.remove_segments_before(9), Err(RemoveError::Poisoned { .. })));
    }

    #[test]
    fn a_failed_write_poisons_until_reopened() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = opened(dir.path());
        journal.append(b"kept").unwrap();
        journal.sync().unwrap();
        journal.append(b"lost").unwrap();
        journal.file = device("/dev/full");
        let Err(AppendError::Failed(error)) = journal.sync() else { panic!("a full disk took a write") };
        assert_eq!(error.source.kind(), std::io::ErrorKind::StorageFull);
        refuses_everything(&mut journal);
        assert_eq!(journal.durable().index, 2);

        drop(journal);
        let mut journal = opened(dir.path());
        assert_eq!(journal.next().index, 2);
        journal.append(b"again").unwrap();
        journal.sync().unwrap();
    }

    #[test]
    fn a_failed_sync_poisons_and_is_not_retried() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = opened(dir.path());
        journal.append(b"lost").unwrap();
        journal.file = device("/dev/null"); // Takes writes, refuses fdatasync.
        let Err(AppendError::Failed(error)) = journal.sync() else { panic!("/dev/null was synced") };
        assert_eq!(error.doing, "sync");
        assert_eq!(journal.durable().index, 1);
        refuses_everything(&mut journal);
    }

    #[test]
    fn a_segment_that_cannot_be_begun_poisons_and_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path(), Options { segment_bytes: 0 }).unwrap();
        journal.append(b"first").unwrap();
        fs::create_dir(segment_path(dir.path(), 2)).unwrap(); // In the way.
        assert!(matches!(journal.append(b"second"), Err(AppendError::Failed(_))));
        refuses_everything(&mut journal);
        fs::remove_dir(segment_path(dir.path(), 2)).unwrap();
        assert_eq!(verify(dir.path(), |_| {}).unwrap().entries, 1);
    }

    #[test]
    fn a_failure_cuts_what_was_written_but_never_synced() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = opened(dir.path());
        journal.append(b"kept").unwrap();
        journal.sync().unwrap();
        journal.append(b"in memory only, for all we know").unwrap();
        journal.write().unwrap();
        assert_eq!(verify(dir.path(), |_| {}).unwrap().entries, 2);
        journal.poison();
        assert_eq!(verify(dir.path(), |_| {}).unwrap().entries, 1);
    }

    #[test]
    fn a_group_stays_in_memory_until_it_is_synced() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = opened(dir.path());
        let on_disk = || fs::metadata(segment_path(dir.path(), 1)).unwrap().len();
        for _ in 0..1000 {
            journal.append(b"small").unwrap();
        }
        // So the group goes out in the one write of the sync.
        assert_eq!(on_disk(), HEADER_LEN);
        journal.sync().unwrap();
        assert_eq!(on_disk(), journal.next().offset);
    }

    #[test]
    fn a_large_group_is_written_before_it_fills_the_memory() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = opened(dir.path());
        let payload = vec![1; BUFFER / 2];
        for _ in 0..9 {
            journal.append(&payload).unwrap();
            assert!(journal.buffer.len() < BUFFER);
        }
        assert_eq!(journal.durable().index, 1);
        journal.sync().unwrap();
        assert_eq!(verify(dir.path(), |_| {}).unwrap().entries, 9);
    }
}
