//! The writer.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::Place;
use crate::error::{AppendError, FileError, OpenError, RemoveError};
use crate::fail;
use crate::folder::{self, segment_path};
use crate::format::{Chain, ENTRY_HEAD_LEN, EntryHead, HEADER_LEN, Header, MAX_PAYLOAD, chain_after};
use crate::recover::{Keep, Recovered, Torn, recover};
use crate::segment::{Segment, fill};

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
    /// Length of the active segment's file: zeros stand from `next` up to here.
    filled: u64,
    /// The step in which it is filled ahead; 0 for not at all.
    step: u64,
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
        Self::open_with(dir, options, None)
    }

    /// The same, but `keep` is told what is cut off before it is.
    pub fn open_keeping(
        dir: &Path,
        options: Options,
        keep: &mut dyn FnMut(&Torn<'_>),
    ) -> Result<(Self, Opened), OpenError> {
        Self::open_with(dir, options, Some(keep))
    }

    fn open_with(dir: &Path, options: Options, keep: Option<Keep<'_>>) -> Result<(Self, Opened), OpenError> {
        folder::create(dir)?;
        let lock = folder::lock(dir)?;
        let Recovered { closed, file, header, next, chain, filled, cut_bytes } = recover(dir, keep)?;

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
            filled,
            step: 0,
            poisoned: false,
            _lock: lock,
        };
        Ok((journal, Opened { cut_bytes, entries: next.index - index, first }))
    }

    /// From now on, fills segments with zeros ahead of what is appended, in steps of so many bytes.
    ///
    /// A sync then overwrites blocks that are there already, and the file system need not commit where they
    /// are and how long the file is: on most disks that is most of its time. And what is filled is space that
    /// a full disk cannot refuse any more. For journals with one entry a sync: with several, a power cut that
    /// keeps a later block of a group and loses an earlier one looks like damage, as the length of the file no
    /// longer tells how far it was written.
    pub fn fill_ahead(&mut self, step: u64) {
        self.step = step;
    }

    /// Bytes of entries, heads included, that fit into space that is already filled.
    pub fn filled_ahead(&self) -> u64 {
        self.filled.saturating_sub(self.next.offset)
    }

    fn fill_for(&mut self, payload: u64, spare: u64) -> Result<(), FileError> {
        if self.step == 0 {
            return Ok(());
        }
        let wanted = self.next.offset + ENTRY_HEAD_LEN + payload + spare;
        if wanted <= self.filled {
            return Ok(());
        }
        let end = wanted.div_ceil(self.step).saturating_mul(self.step);
        let path = segment_path(&self.dir, self.header.number);
        let filled = fail::around("journal.fill", || fill(&self.file, self.filled, end))
            .map_err(FileError::new("fill", &path));
        if filled.is_ok() {
            self.filled = end;
        }
        filled
    }

    /// Appends an entry behind the last, into space that is filled already, even if the segment is full.
    /// `None` if it does not fit.
    pub fn append_into_filled(&mut self, payload: &[u8]) -> Result<Option<Place>, AppendError> {
        self.refuse_if_poisoned()?;
        if ENTRY_HEAD_LEN + payload.len() as u64 > self.filled_ahead() {
            return Ok(None);
        }
        Self::check(payload)?;
        self.push(payload).map(Some)
    }

    /// Gives back what was filled ahead and never written to, durably: for a journal that is done with.
    pub fn trim(&mut self) -> Result<(), AppendError> {
        self.refuse_if_poisoned()?;
        self.attempt(|journal| {
            journal.write()?;
            journal.cut_filled()?;
            journal.durable = journal.next;
            Ok(())
        })
    }

    /// Appends an entry and tells where it begins. It is durable only after [`Journal::sync`].
    ///
    /// Entries appended between two syncs are one group: they are written together.
    pub fn append(&mut self, payload: &[u8]) -> Result<Place, AppendError> {
        self.refuse_if_poisoned()?;
        Self::check(payload)?;
        if self.is_full() {
            self.begin_segment()?;
        }
        self.push(payload)
    }

    fn check(payload: &[u8]) -> Result<(), AppendError> {
        if payload.is_empty() {
            return Err(AppendError::Empty);
        }
        if payload.len() > MAX_PAYLOAD {
            return Err(AppendError::TooLarge { bytes: payload.len() });
        }
        Ok(())
    }

    fn push(&mut self, payload: &[u8]) -> Result<Place, AppendError> {
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

    /// Whether an earlier call failed in a way that leaves open what is on the disk: it has to be opened again.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
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
        self.filled = self.filled.max(self.next.offset);
        Ok(())
    }

    /// The file ends with its last entry again, durably.
    fn cut_filled(&mut self) -> Result<(), FileError> {
        let path = segment_path(&self.dir, self.header.number);
        if self.filled > self.next.offset {
            fail::around("journal.cut_filled", || self.file.set_len(self.next.offset))
                .map_err(FileError::new("cut", &path))?;
            self.filled = self.next.offset;
        }
        fail::around("journal.sync_closed", || self.file.sync_all()).map_err(FileError::new("sync", &path))
    }

    fn write_and_sync(&mut self) -> Result<(), FileError> {
        self.write()?;
        fail::around("journal.sync", || self.file.sync_data())
            .map_err(FileError::new("sync", &segment_path(&self.dir, self.header.number)))?;
        self.durable = self.next;
        Ok(())
    }

    /// Makes ready for the next entry, of `payload` bytes: begins a segment if this one is full, and fills it so
    /// far that `spare` bytes remain behind the entry. Where the disk gives no space, nothing has changed, and
    /// what fits may still be appended with [`Journal::append_into_filled`].
    pub fn prepare(&mut self, payload: u64, spare: u64) -> Result<(), AppendError> {
        self.refuse_if_poisoned()?;
        if self.is_full() {
            self.begin_segment()?;
        }
        Ok(self.fill_for(payload, spare)?)
    }

    fn is_full(&self) -> bool {
        self.next.offset > self.options.segment_bytes && self.next.index > self.header.first_index
    }

    /// Closes the active segment, durably, before the next exists. The next one takes its space before the
    /// active one gives any back, so that a full disk refuses while all is as it was.
    fn begin_segment(&mut self) -> Result<(), AppendError> {
        let header =
            Header { number: self.header.number + 1, first_index: self.next.index, chain: self.chain };
        let file = Segment::make_ready(&self.dir, &header, self.step)?;
        self.attempt(|journal| {
            journal.write()?;
            journal.cut_filled()?;
            journal.durable = journal.next;
            Segment::put_in_place(&journal.dir, header.number)
        })?;
        self.file = file;
        self.closed.push(self.active());
        self.header = header;
        self.next = Place { index: header.first_index, segment: header.number, offset: HEADER_LEN };
        self.durable = self.next;
        self.filled = self.step.max(HEADER_LEN);
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
