//! One epoch: a journal in which the index of an entry is the sequence number of a batch.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use weighbridge_journal::{HEADER_LEN, Journal, Options, Place, Reader, SegmentInfo};
use weighbridge_meter::EpochId;
use weighbridge_wire::{Hash, Sealed, hash};

use super::{Pending, SpoolError, files};

/// How far the collector has this epoch.
const ACK: &str = "ACK";

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
    /// Something in it cannot be read: what is behind waits for a person, newer epochs go on.
    blocked: bool,
}

impl std::fmt::Debug for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Epoch").field("id", &self.id).field("next", &self.next).finish_non_exhaustive()
    }
}

impl Epoch {
    pub(super) fn open(spool: &Path, id: EpochId, segment_bytes: u64) -> Result<Self, SpoolError> {
        let dir = spool.join(id.to_string());
        let (journal, opened) = Journal::open(&dir, Options { segment_bytes })?;
        let mut epoch = Self {
            id,
            next: journal.next(),
            segments: journal.segments(),
            last_hash: [0; 32],
            cursor: opened.first,
            cursor_saved: true,
            reader: None,
            blocked: false,
            journal: Some(journal),
            dir,
        };
        epoch.last_hash = epoch.read_last_hash()?;
        epoch.cursor = epoch.read_cursor()?;
        Ok(epoch)
    }

    /// Opens the journal again after a failure; what it holds then is what exists.
    pub(super) fn ready(&mut self, segment_bytes: u64) -> Result<(), SpoolError> {
        if self.journal.is_some() {
            return Ok(());
        }
        let (journal, _) = Journal::open(&self.dir, Options { segment_bytes })?;
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

    /// Where the cursor says, if that is a place in this journal; else at the oldest batch: what was
    /// acknowledged is then sent again, and is a duplicate.
    fn read_cursor(&self) -> Result<Place, SpoolError> {
        let oldest = self.oldest();
        let Some(text) = files::read(&self.dir.join(ACK))? else { return Ok(oldest) };
        let mut numbers = text.split_ascii_whitespace().map(str::parse::<u64>);
        let place = match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(index)), Some(Ok(segment)), Some(Ok(offset)), None) => Place { index, segment, offset },
            _ => return Ok(oldest),
        };
        if place.index < oldest.index || place.index > self.next.index {
            return Ok(oldest);
        }
        if place.index == self.next.index {
            return Ok(self.next);
        }
        match Reader::new(&self.dir, place).next_before(self.next) {
            Ok(Some(entry)) if entry.place.index == place.index => Ok(place),
            Ok(_) | Err(_) => Ok(oldest),
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

    pub(super) fn append(&mut self, sealed: &Sealed) -> Result<(), SpoolError> {
        let Some(journal) = &mut self.journal else { return Err(SpoolError::NotWritten(None)) };
        if let Err(error) = journal.append(&sealed.bytes).and_then(|_| journal.sync()) {
            // Only opening it again tells what is there now.
            self.journal = None;
            return Err(SpoolError::NotWritten(Some(error)));
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
        if self.blocked || self.cursor.index >= self.next.index {
            return Ok(None);
        }
        let mut reader = match self.reader.take() {
            Some((at, reader)) if at == self.cursor.index => reader,
            _ => Reader::new(&self.dir, self.cursor),
        };
        let Some(entry) = reader.next_before(self.next)? else { return Ok(None) };
        self.reader = Some((entry.next.index, reader));
        Ok(Some(Pending {
            epoch: self.id,
            sequence: entry.place.index,
            hash: hash(&entry.payload),
            bytes: entry.payload,
            next: entry.next,
        }))
    }

    pub(super) fn block(&mut self) {
        self.blocked = true;
        self.reader = None;
    }

    /// Whether the cursor moved.
    pub(super) fn acknowledge(&mut self, pending: &Pending) -> bool {
        if pending.sequence != self.cursor.index {
            return false;
        }
        self.cursor = pending.next;
        self.cursor_saved = false;
        true
    }

    pub(super) fn forget_acknowledgements(&mut self) {
        self.cursor = self.oldest();
        self.cursor_saved = false;
        self.reader = None;
    }

    pub(super) fn save(&mut self) -> Result<(), SpoolError> {
        if self.cursor_saved {
            return Ok(());
        }
        let Place { index, segment, offset } = self.cursor;
        files::write(&self.dir.join(ACK), format!("{index} {segment} {offset}\n").as_bytes())?;
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

fn start_of(segment: &SegmentInfo) -> Place {
    Place { index: segment.first_index, segment: segment.number, offset: HEADER_LEN }
}
