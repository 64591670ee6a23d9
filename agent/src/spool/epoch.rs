//! One epoch: a journal in which the index of an entry is the sequence number of a batch.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use weighbridge_journal::{AppendError, HEADER_LEN, Journal, Options, Place, Reader, SegmentInfo, Torn};
use weighbridge_meter::EpochId;
use weighbridge_wire::{Hash, Sealed, hash, limits};

use super::{
    Origin, Pending, SpoolError, files,
    promises::Promises,
    scan::{Identity, identify},
};

/// How far the collector has this epoch.
pub(super) const ACK: &str = "ACK";

/// Space that stays behind a batch in what is filled ahead: on a full disk, gaps and losses are written there.
pub(super) const SPARE_BYTES: u64 = 64 << 10;

/// How segments are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keeping {
    pub(super) segment_bytes: u64,
    pub(super) fill_bytes: u64,
}

/// What is written to [`ACK`]: always of the same length, so that it can be written over in place.
pub(super) fn ack_text(index: u64, segment: u64, offset: u64) -> String {
    format!("{:<63}\n", format!("{index} {segment} {offset}"))
}

pub(super) struct Epoch {
    id: EpochId,
    dir: PathBuf,
    /// `None` after a failure, until opened again.
    journal: Option<Journal>,
    /// As of the last time the journal was open.
    segments: Vec<SegmentInfo>,
    next: Place,
    last_hash: Hash,
    /// The first batch not acknowledged.
    cursor: Place,
    cursor_saved: bool,
    /// With the index of the entry it reads next.
    reader: Option<(u64, Reader)>,
    pub(super) promises: Promises,
}

/// An epoch as it was found.
pub(super) struct Found {
    pub(super) epoch: Epoch,
    /// A batch that was cut off its end.
    pub(super) torn: bool,
    /// The number of the first batch not acknowledged, as far as somebody wrote it down.
    pub(super) acknowledged: u64,
}

impl std::fmt::Debug for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Epoch").field("id", &self.id).field("next", &self.next).finish_non_exhaustive()
    }
}

impl Epoch {
    /// Opens the epoch in `dir`, or makes it. `keep` is given what is cut off its end.
    pub(super) fn open(
        dir: &Path,
        id: EpochId,
        keeping: Keeping,
        keep: &mut dyn FnMut(&Torn<'_>),
    ) -> Result<Found, SpoolError> {
        let dir = dir.to_owned();
        let mut torn = false;
        let mut note = |what: &Torn<'_>| {
            torn = true;
            keep(what);
        };
        let options = Options { segment_bytes: keeping.segment_bytes };
        let (mut journal, opened) = Journal::open_keeping(&dir, options, &mut note)?;
        journal.fill_ahead(keeping.fill_bytes);
        let mut epoch = Self {
            id,
            next: journal.next(),
            segments: journal.segments(),
            last_hash: [0; 32],
            cursor: opened.first,
            cursor_saved: true,
            reader: None,
            promises: Promises::open(&dir)?,
            journal: Some(journal),
            dir,
        };
        epoch.last_hash = epoch.read_last_hash()?;
        let noted = epoch.read_cursor()?;
        if !epoch.dir.join(ACK).exists() {
            // It is there from the beginning, so that a full disk cannot keep it from being written.
            epoch.cursor_saved = false;
            epoch.save()?;
        }
        Ok(Found { epoch, torn, acknowledged: noted })
    }

    /// Opens the journal again after a failure; what it holds then is what exists.
    pub(super) fn ready(
        &mut self,
        keeping: Keeping,
        keep: &mut dyn FnMut(&Torn<'_>),
    ) -> Result<(), SpoolError> {
        if self.journal.is_some() {
            return Ok(());
        }
        let options = Options { segment_bytes: keeping.segment_bytes };
        let (mut journal, _) = Journal::open_keeping(&self.dir, options, keep)?;
        journal.fill_ahead(keeping.fill_bytes);
        self.next = journal.next();
        self.segments = journal.segments();
        self.reader = None;
        self.last_hash = self.read_last_hash()?;
        self.journal = Some(journal);
        Ok(())
    }

    /// The last batch is in the last segment, or in the one before it if a crash came right after a cut.
    fn read_last_hash(&self) -> Result<Hash, SpoolError> {
        let Some(segment) = self.segments.iter().rev().find(|segment| segment.first_index < self.next.index)
        else {
            return Ok([0; 32]);
        };
        let mut reader = Reader::new(&self.dir, start_of(segment));
        let mut last = None;
        while let Some(entry) = reader.next_before(self.next)? {
            last = Some(entry.payload);
        }
        Ok(last.map_or([0; 32], |payload| hash(&payload)))
    }

    /// Sets the cursor where it was written down, if that is a place in this journal; else at the oldest batch:
    /// what was acknowledged is then sent again, and is a duplicate. Gives back the number that was written down.
    fn read_cursor(&mut self) -> Result<u64, SpoolError> {
        let oldest = self.oldest();
        self.cursor = oldest;
        let Some(text) = files::read(&self.dir.join(ACK))? else { return Ok(oldest.index) };
        let mut numbers = text.split_ascii_whitespace().map(str::parse::<u64>);
        let place = match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(index)), Some(Ok(segment)), Some(Ok(offset)), None) => Place { index, segment, offset },
            _ => return Ok(oldest.index),
        };
        if place.index == 0 {
            return Ok(oldest.index);
        }
        if place.index >= self.next.index {
            if place.index == self.next.index {
                self.cursor = self.next;
            }
            // More was acknowledged than is there: the caller has to know.
            return Ok(place.index.min(i64::MAX.unsigned_abs()));
        }
        if place.index < oldest.index {
            // What was not acknowledged is never removed: the caller has to know.
            return Ok(place.index);
        }
        match Reader::new(&self.dir, place).next_before(self.next) {
            Ok(Some(entry)) if entry.place.index == place.index => {
                self.cursor = place;
                Ok(place.index)
            }
            Ok(_) | Err(_) => Ok(oldest.index),
        }
    }

    fn oldest(&self) -> Place {
        self.segments.first().map_or(self.next, start_of)
    }

    pub(super) fn id(&self) -> EpochId {
        self.id
    }

    pub(super) fn next_sequence(&self) -> u64 {
        self.next.index
    }

    pub(super) fn last_hash(&self) -> Hash {
        self.last_hash
    }

    /// Keeps a batch. `Reserved` ones go where there is space already, and are refused where there is none.
    pub(super) fn append(&mut self, sealed: &Sealed, reserved: bool) -> Result<(), SpoolError> {
        let Some(journal) = &mut self.journal else { return Err(SpoolError::NotWritten(None)) };
        let bytes = sealed.bytes.len() as u64;
        let spare = if reserved { 0 } else { SPARE_BYTES };
        match journal.prepare(bytes, spare) {
            Err(AppendError::Failed(error)) if !journal.is_poisoned() => {
                // The disk gives no more, and nothing was written: there is room for reserved ones at most.
                if !reserved {
                    return Err(error.into());
                }
            }
            Err(error) => {
                self.journal = None;
                return Err(SpoolError::NotWritten(Some(error)));
            }
            Ok(()) => {}
        }
        let appended = if reserved {
            journal.append_into_filled(&sealed.bytes)
        } else {
            journal.append(&sealed.bytes).map(Some)
        };
        match appended.and_then(|place| journal.sync().map(|()| place)) {
            Ok(Some(_)) => {}
            Ok(None) => {
                let limit = journal.filled_ahead();
                return Err(SpoolError::Full { bytes, limit });
            }
            Err(error) => {
                // Only opening it again tells what is there now.
                self.journal = None;
                return Err(SpoolError::NotWritten(Some(error)));
            }
        }
        self.next = journal.next();
        self.last_hash = sealed.hash;
        let active = self.segments.last().map(|segment| segment.number);
        match self.segments.last_mut() {
            Some(last) if active == Some(self.next.segment) => last.bytes = self.next.offset,
            _ => self.segments = journal.segments(),
        }
        Ok(())
    }

    pub(super) fn peek(&mut self) -> Result<Option<Pending>, SpoolError> {
        if self.cursor.index >= self.next.index {
            return Ok(None);
        }
        let (mut reader, fresh) = match self.reader.take() {
            Some((at, reader)) if at == self.cursor.index => (reader, false),
            _ => (Reader::new(&self.dir, self.cursor), true),
        };
        let Some(entry) = reader.next_before(self.next)? else { return Ok(None) };
        if fresh {
            // From here on the chain holds it together; that it begins with ours only the batch itself can say.
            self.require_ours(entry.place, &entry.payload)?;
        }
        self.reader = Some((entry.next.index, reader));
        Ok(Some(Pending {
            epoch: self.id,
            sequence: entry.place.index,
            hash: hash(&entry.payload),
            bytes: entry.payload,
            origin: Origin::Journal(entry.next),
        }))
    }

    fn require_ours(&self, place: Place, payload: &[u8]) -> Result<(), SpoolError> {
        match identify(payload) {
            Identity::Batch(epoch, sequence) if (epoch, sequence) != (self.id, place.index) => {
                Err(SpoolError::Nonsense {
                    path: self.dir.join(format!("{:020}.seg", place.segment)),
                    value: format!("batch {sequence} of epoch {epoch}"),
                    expected: "the batch that was written there",
                })
            }
            Identity::Batch(..) | Identity::Unreadable => Ok(()),
        }
    }

    /// Whether the cursor moved.
    pub(super) fn acknowledge(&mut self, sequence: u64, next: Place) -> bool {
        if sequence != self.cursor.index {
            return false;
        }
        self.cursor = next;
        self.cursor_saved = false;
        true
    }

    /// First number that is here, and the one after the last.
    pub(super) fn held(&self) -> (u64, u64) {
        (self.oldest().index, self.next.index)
    }

    pub(super) fn cursor(&self) -> u64 {
        self.cursor.index
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Sends again from this batch on, which is here. Whether that changes anything.
    pub(super) fn rewind(&mut self, sequence: u64) -> Result<bool, SpoolError> {
        if sequence >= self.cursor.index {
            return Ok(false);
        }
        self.cursor = self.place_of(sequence)?;
        self.promises.sent_again();
        self.cursor_saved = false;
        self.reader = None;
        Ok(true)
    }

    fn place_of(&self, sequence: u64) -> Result<Place, SpoolError> {
        let segment = self.segments.iter().rev().find(|segment| segment.first_index <= sequence);
        let mut place = segment.map_or_else(|| self.oldest(), start_of);
        let mut reader = Reader::new(&self.dir, place);
        while place.index < sequence {
            let Some(entry) = reader.next_before(self.next)? else { break };
            place = entry.next;
        }
        Ok(place)
    }

    /// The hash of a batch that is here.
    pub(super) fn hash_of(&self, sequence: u64) -> Result<Option<Hash>, SpoolError> {
        Ok(self.bytes_of(sequence)?.map(|bytes| hash(&bytes)))
    }

    /// A batch that is here.
    pub(super) fn bytes_of(&self, sequence: u64) -> Result<Option<Vec<u8>>, SpoolError> {
        let (first, next) = self.held();
        if sequence < first || sequence >= next {
            return Ok(None);
        }
        let mut reader = Reader::new(&self.dir, self.place_of(sequence)?);
        Ok(reader.next_before(self.next)?.map(|entry| entry.payload))
    }

    /// Reads all of it.
    pub(super) fn check(&self) -> Result<(), SpoolError> {
        let mut reader = Reader::from_start(&self.dir);
        while reader.next_before(self.next)?.is_some() {}
        Ok(())
    }

    /// Nothing is written to it any more: space that was filled ahead is given back.
    pub(super) fn close(&mut self) {
        if let Some(journal) = &mut self.journal
            && let Err(error) = journal.trim()
        {
            tracing::debug!(epoch = %self.id, %error, "cannot cut what was filled ahead");
        }
    }

    pub(super) fn forget_acknowledgements(&mut self) {
        self.promises.sent_again();
        self.cursor = self.oldest();
        self.cursor_saved = false;
        self.reader = None;
    }

    pub(super) fn save(&mut self) -> Result<(), SpoolError> {
        if self.cursor_saved {
            return Ok(());
        }
        let Place { index, segment, offset } = self.cursor;
        files::overwrite(&self.dir.join(ACK), &ack_text(index, segment, offset))?;
        self.cursor_saved = true;
        Ok(())
    }

    /// When the oldest segment, if it could be removed, was last written.
    pub(super) fn oldest_acknowledged(&self) -> Option<SystemTime> {
        let oldest = self.segments.first()?;
        let end = self.segments.get(1).map_or(self.next.index, |following| following.first_index);
        if end > self.cursor.index { None } else { self.modified(oldest) }
    }

    /// When the last segment was last written.
    pub(super) fn last_written(&self) -> Option<SystemTime> {
        self.modified(self.segments.last()?)
    }

    fn modified(&self, segment: &SegmentInfo) -> Option<SystemTime> {
        let path = self.dir.join(format!("{:020}.seg", segment.number));
        fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
    }

    /// Removes whole acknowledged segments, oldest first, while `over` bytes are too many or they are old.
    /// Gives back how many bytes are still too many. The cursor must be durable.
    pub(super) fn remove_acknowledged(
        &mut self,
        over: u64,
        is_old: impl Fn(SystemTime) -> bool,
    ) -> Result<u64, SpoolError> {
        let mut over = over;
        let mut before = None;
        for pair in self.segments.windows(2) {
            let [segment, following] = pair else { break };
            if following.first_index > self.cursor.index
                || (over == 0 && !self.modified(segment).is_some_and(&is_old))
            {
                break;
            }
            over = over.saturating_sub(segment.bytes);
            before = Some(following.number);
        }
        if let Some(before) = before {
            // A cursor at the very end of a segment names that segment; the next one begins at the same place.
            if self.cursor.segment < before
                && let Some(following) = self.segments.iter().find(|segment| segment.number == before)
            {
                self.cursor = start_of(following);
                self.cursor_saved = false;
                self.reader = None;
                self.save()?;
            }
            self.journal_remove(before)?;
            // Last, for that needs space itself: on a full disk it is the segments that give some.
            if let Err(error) = self.promises.drop_before(self.held().0) {
                tracing::debug!(
                    epoch = %self.id,
                    error = crate::uplink::chain(&error),
                    "promises of batches that were removed are kept a while longer"
                );
            }
        }
        Ok(over)
    }

    fn journal_remove(&mut self, before: u64) -> Result<(), SpoolError> {
        if let Some(journal) = &mut self.journal {
            let removed = journal.remove_segments_before(before);
            self.segments = journal.segments();
            removed?;
        }
        Ok(())
    }

    /// Nothing of it waits.
    pub(super) fn is_done(&self) -> bool {
        self.cursor.index >= self.next.index
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    pub(super) fn unacknowledged_bytes(&self) -> u64 {
        let at = self.segments.iter().filter(|segment| segment.number >= self.cursor.segment);
        at.map(|segment| match segment.number == self.cursor.segment {
            true => segment.bytes.saturating_sub(self.cursor.offset),
            false => segment.bytes.saturating_sub(HEADER_LEN),
        })
        .sum()
    }

    pub(super) fn unacknowledged(&self) -> u64 {
        self.next.index.saturating_sub(self.cursor.index)
    }
}

/// The number in the file that says how far the collector has an epoch, whatever its folder holds otherwise.
pub(super) fn saved_cursor(dir: &Path) -> Result<Option<u64>, SpoolError> {
    let text = files::read(&dir.join(ACK))?;
    let number = text.and_then(|text| text.split_ascii_whitespace().next()?.parse::<u64>().ok());
    Ok(number.filter(|number| (1..=i64::MAX.unsigned_abs()).contains(number)))
}

/// Whether what lies here is too large to be a journal of ours: reading its end would take as much memory.
pub(super) fn is_oversized(dir: &Path, keeping: Keeping) -> Result<bool, SpoolError> {
    let largest = keeping.segment_bytes + keeping.fill_bytes + 8 * limits::ENCODED_BYTES as u64;
    let segments = files::list(dir)?;
    let mut segments = segments.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "seg"));
    Ok(segments.any(|(path, _)| fs::metadata(path).is_ok_and(|metadata| metadata.len() > largest)))
}

fn start_of(segment: &SegmentInfo) -> Place {
    Place { index: segment.first_index, segment: segment.number, offset: HEADER_LEN }
}
