//! Sealed batches on disk, until a collector has them and for a while after.
//!
//! A batch exists once [`Spool::append`] returned: it is fsynced, and from then on it is sent and resent byte
//! for byte. Each batch is one entry of a journal, so its sequence number is the entry's index, and neither can
//! be repeated or skipped over restarts and boots.
//!
//! ```text
//! EPOCHS                 one epoch a line, oldest first; the last is written to
//! GENERATION             store generation of the collector that acknowledged last
//! MARKS                  "epoch number": how far each epoch had come when that was last written down
//! LOSSES                 "epoch first last cause": what the collector has still to be told
//! LOCK                   held by the agent that has the spool
//! <epoch>/*.seg          journal: see weighbridge-journal
//! <epoch>/ACK            "sequence segment offset" of the first batch not acknowledged
//! <epoch>/PROMISES       the collector's signed word for batches, one JSON object a line
//! <epoch>/SALVAGED       the epoch is damaged; "first last" of what was told as lost
//! parked/<epoch>-<sequence>.batch     refused for good, for a person to look at
//! returned/<epoch>-<sequence>.batch   parked before, to be sent again
//! reseal/<epoch>-<sequence>.batch     refused; its records are to be sealed under another number
//! reseal/<epoch>-<sequence>.done      they are; empty
//! quarantine/<epoch>-<file>           segments with damage in them, and ends that were cut off
//! ```
//!
//! What is acknowledged stays until it is older or larger than configured; it is removed in whole segments,
//! and only after the cursor past it is durable. What is not acknowledged is never removed: when it reaches
//! its limit, [`Spool::append`] refuses, and the caller records a gap, for which there is room in reserve.
//!
//! Damage never keeps an agent from starting. An epoch in which anything cannot be read is written to no more;
//! what can be read of it is sent, what cannot is told to the collector as lost, and the files are moved to
//! the quarantine. Nothing there, and nothing parked, is ever removed by an agent.
//!
//! Deliberately absent: retries after a failed fsync. The journal is opened again instead, and what it holds
//! then decides whether the last batch exists.

mod check;
mod epoch;
mod event;
mod export;
mod files;
mod inspect;
mod kept;
mod losses;
mod marks;
mod missing;
mod open;
mod promises;
mod reseal;
mod salvaged;
mod scan;
mod tidy;

use std::{
    collections::VecDeque,
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use weighbridge_journal::{AppendError, FileError, OpenError, Place, ReadError, RemoveError};
use weighbridge_meter::EpochId;
use weighbridge_wire::{Hash, Loss, LossCause, Sealed};

pub(crate) use self::files::is_full;
pub use self::{
    check::{Finding, Verified, verify},
    event::SpoolEvent,
    export::{Exported, export},
    inspect::{EpochSummary, Inspection, Range, StoredFile, inspect},
    missing::Missing,
    open::Repaired,
    promises::Promise,
    reseal::Again,
};
use self::{
    epoch::{Epoch, Keeping},
    kept::Kept,
    losses::Losses,
    marks::Marks,
};

/// How a spool is kept.
#[derive(Clone, Debug)]
pub struct SpoolOptions {
    /// The folder. Created if it is not there; one agent at a time may have it.
    pub dir: PathBuf,
    /// Bytes of batches not acknowledged, with parked and quarantined ones, beyond which no more windows are
    /// taken. Gaps, losses and statuses may take a sixteenth more.
    pub max_bytes: u64,
    /// Bytes of acknowledged batches and of promises that are kept at most.
    pub keep_acknowledged_bytes: u64,
    /// How long acknowledged batches are kept at most.
    pub keep_acknowledged: Duration,
    /// A segment larger than this takes no more batches: the step in which acknowledged ones are removed.
    pub segment_bytes: u64,
    /// The step in which the last segment is filled ahead with zeros; 0 for not at all, and then a full disk
    /// takes no gaps either.
    pub fill_bytes: u64,
}

impl SpoolOptions {
    /// In this folder, otherwise by default: 1 GiB waiting, 64 MiB or 7 days acknowledged, segments of 1 MiB.
    pub fn in_dir(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            max_bytes: 1 << 30,
            keep_acknowledged_bytes: 64 << 20,
            keep_acknowledged: Duration::from_secs(7 * 86_400),
            segment_bytes: 1 << 20,
            fill_bytes: 128 << 10,
        }
    }

    fn keeping(&self) -> Keeping {
        Keeping { segment_bytes: self.segment_bytes, fill_bytes: self.fill_bytes }
    }
}

/// Batches on disk.
#[derive(Debug)]
pub struct Spool {
    options: SpoolOptions,
    /// Held as long as the spool is open.
    lock: Option<File>,
    /// Those before the last only wait for their acknowledgements. Empty while the disk let nothing be opened.
    epochs: Vec<Kept>,
    /// Not all of them are open: what is can be sent, and the rest is tried again.
    incomplete: bool,
    generation: Option<String>,
    /// From this and the epoch before, new ones are made.
    seed: [u8; 32],
    parked: Stored,
    quarantined: Stored,
    /// Parked before, to be sent again.
    returned: VecDeque<PathBuf>,
    losses: Losses,
    marks: Marks,
    events: Vec<SpoolEvent>,
    /// Acknowledged since the cursors were last made durable.
    unsaved: u32,
    /// How often the collector asked again for what it was sent.
    asked: std::collections::HashMap<(EpochId, u64), u32>,
    promised: u64,
    /// The newest status of the agent, until it is sent.
    report: Option<Vec<u8>>,
}

/// Files that are kept for a person.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// How many; of parked ones each is a batch.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What the next batch has to continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// In which epoch.
    pub epoch: EpochId,
    /// With which sequence number.
    pub sequence: u64,
    /// Hash of the batch before; zeros for the first.
    pub prev_hash: Hash,
}

/// A batch that waits for its acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// In which epoch.
    pub epoch: EpochId,
    /// Its number there.
    pub sequence: u64,
    /// As sealed.
    pub bytes: Vec<u8>,
    /// Of those bytes.
    pub hash: Hash,
    origin: Origin,
}

/// Where it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    /// With the place behind it.
    Journal(Place),
    Salvaged,
    Returned(PathBuf),
}

/// What could not be done with the spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Go on and record a gap: what is not acknowledged has reached its limit.
    #[error("the spool is full: {bytes} bytes are not acknowledged, the limit is {limit}")]
    Full {
        /// There are.
        bytes: u64,
        /// At most.
        limit: u64,
    },
    /// Retry once the cause is gone, with [`Spool::ready`] first.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Retry with [`Spool::ready`]: it opens the journal again and finds out what is there.
    #[error("a batch was not written")]
    NotWritten(#[source] Option<AppendError>),
    /// Another agent has the folder.
    #[error("the spool is in use by another agent")]
    InUse(#[source] OpenError),
    /// Do not retry: someone has to look.
    #[error("the spool is damaged")]
    Damaged(#[source] ReadError),
    /// Do not retry: someone has to look.
    #[error("{}: {value:?} is not {expected}", path.display())]
    Nonsense {
        /// File in the spool.
        path: PathBuf,
        /// What it held.
        value: String,
        /// What it should hold.
        expected: &'static str,
    },
}

impl From<FileError> for SpoolError {
    fn from(error: FileError) -> Self {
        Self::File { doing: error.doing, path: error.path, source: error.source }
    }
}

impl From<OpenError> for SpoolError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Corrupt(corrupt) => Self::Damaged(corrupt.into()),
            OpenError::File(error) => error.into(),
            error @ OpenError::Locked { .. } => Self::InUse(error),
        }
    }
}

impl From<ReadError> for SpoolError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::File(error) => error.into(),
            error => Self::Damaged(error),
        }
    }
}

impl From<RemoveError> for SpoolError {
    fn from(error: RemoveError) -> Self {
        match error {
            RemoveError::File(error) => error.into(),
            RemoveError::Poisoned { .. } => Self::NotWritten(None),
        }
    }
}

const EPOCHS: &str = "EPOCHS";
const GENERATION: &str = "GENERATION";
const PARKED: &str = "parked";
const RETURNED: &str = "returned";
const QUARANTINE: &str = "quarantine";
const RESEAL: &str = "reseal";

/// Acknowledgements that may be forgotten by a crash: what they were for is sent again and is a duplicate.
const UNSAVED_ACKNOWLEDGEMENTS: u32 = 64;

/// Events that wait to be fetched; there is nobody to tell more to.
const MOST_EVENTS: usize = 1_000;

impl Spool {
    /// What the next batch has to continue. Only after [`Spool::ready`].
    pub fn link(&self) -> Link {
        match self.epochs.last() {
            Some(Kept::Whole(epoch)) => {
                Link { epoch: epoch.id(), sequence: epoch.next_sequence(), prev_hash: epoch.last_hash() }
            }
            // Nothing can be appended to it: `append` refuses until there is an epoch.
            _ => Link { epoch: EpochId([0; 16]), sequence: 1, prev_hash: [0; 32] },
        }
    }

    /// Refuses if no more is to be taken.
    pub fn room(&self) -> Result<(), SpoolError> {
        let (bytes, limit) = (self.bytes_that_count(), self.options.max_bytes);
        if bytes >= limit { Err(SpoolError::Full { bytes, limit }) } else { Ok(()) }
    }

    fn bytes_that_count(&self) -> u64 {
        self.unacknowledged_bytes() + self.parked.bytes + self.quarantined.bytes
    }

    /// Keeps a batch that continues [`Spool::link`]. It exists when this returns.
    ///
    /// After [`SpoolError::NotWritten`] it may exist or not: call [`Spool::ready`], then compare its hash with
    /// [`Spool::hash_of`].
    pub fn append(&mut self, sealed: &Sealed) -> Result<(), SpoolError> {
        self.room()?;
        self.current()?.append(sealed, false)?;
        self.mark();
        Ok(())
    }

    /// The same for a batch without windows, in the room that is left for those when the spool or its disk is
    /// full.
    pub fn append_reserved(&mut self, sealed: &Sealed) -> Result<(), SpoolError> {
        let (bytes, limit) = (self.bytes_that_count(), self.options.max_bytes.saturating_mul(17) / 16);
        if bytes >= limit {
            return Err(SpoolError::Full { bytes, limit });
        }
        self.current()?.append(sealed, true)?;
        self.mark();
        Ok(())
    }

    fn current(&mut self) -> Result<&mut Epoch, SpoolError> {
        match self.epochs.last_mut() {
            Some(Kept::Whole(epoch)) if !self.incomplete => Ok(epoch),
            _ => Err(SpoolError::NotWritten(None)),
        }
    }

    fn mark(&mut self) {
        let Link { epoch, sequence, .. } = self.link();
        self.marks.set(epoch, sequence);
    }

    /// The oldest batch not acknowledged, read from disk. `None` if there is none, as far as damaged epochs
    /// were looked through: see [`Spool::scan`].
    pub fn peek(&mut self) -> Result<Option<Pending>, SpoolError> {
        if let Some(pending) = self.peek_returned()? {
            return Ok(Some(pending));
        }
        let mut index = 0;
        while index < self.epochs.len() {
            let found = match &mut self.epochs[index] {
                Kept::Whole(epoch) => epoch.peek(),
                Kept::Salvaged(epoch) => epoch.peek(),
            };
            match found {
                Ok(None) => index += 1,
                Ok(pending) => return Ok(pending),
                Err(error) if open::is_damage(&error) && matches!(self.epochs[index], Kept::Whole(_)) => {
                    self.salvage(index, &error)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Looks at one more file of a damaged epoch. `false` if there was nothing to look at.
    pub fn scan(&mut self) -> Result<bool, SpoolError> {
        for index in 0..self.epochs.len() {
            let Kept::Salvaged(epoch) = &mut self.epochs[index] else { continue };
            if epoch.is_scanned() && !epoch.has_news() {
                continue;
            }
            let scanned = if epoch.is_scanned() { Ok(()) } else { epoch.scan() };
            for (file, bytes) in epoch.moved() {
                self.quarantined.files += 1;
                self.quarantined.bytes +=
                    std::fs::metadata(&file).map_or(0, |metadata| files::size(&metadata));
                self.event(SpoolEvent::Quarantined { file, bytes });
            }
            scanned?;
            self.tell_holes(index)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn tell_holes(&mut self, index: usize) -> Result<(), SpoolError> {
        let Kept::Salvaged(epoch) = &self.epochs[index] else { return Ok(()) };
        if !epoch.has_news() {
            return Ok(());
        }
        let (id, holes, end) = (epoch.id(), epoch.untold(), epoch.end());
        self.marks.set(id, end);
        let loss = |&(first, last): &(u64, u64)| Loss { epoch: id, first, last, cause: LossCause::Damaged };
        self.lose(&holes.iter().map(loss).collect::<Vec<_>>())?;
        match &mut self.epochs[index] {
            Kept::Salvaged(epoch) => epoch.told(&holes),
            Kept::Whole(_) => Ok(()),
        }
    }

    /// Notes that these will not be delivered, durably; the next batches say so.
    fn lose(&mut self, losses: &[Loss]) -> Result<(), SpoolError> {
        for loss in self.losses.add(losses)? {
            self.event(SpoolEvent::Lost(loss));
        }
        Ok(())
    }

    /// What the next batch is to say about batches that will not be delivered.
    pub fn losses_to_tell(&self) -> Vec<Loss> {
        self.losses.next(weighbridge_wire::limits::LOSSES)
    }

    /// A durable batch says so.
    pub fn losses_told(&mut self, losses: &[Loss], link: &Link) {
        self.losses.told(losses, link.epoch, link.sequence);
    }

    /// Ranges of batches that no batch told as lost yet.
    pub fn untold_losses(&self) -> usize {
        self.losses.pending()
    }

    /// The collector's signed word that it has this batch, to be kept beside it.
    pub fn promised(&mut self, pending: &Pending, generation: &str, promise: Value) {
        let promises = self.epochs.iter_mut().find(|epoch| epoch.id() == pending.epoch);
        if let Some(promises) = promises.map(Kept::promises) {
            promises.add(pending.sequence, &pending.hash, generation, promise);
            self.promised += 1;
        }
    }

    /// The collector has this batch. Unless it is the oldest not acknowledged, nothing changes.
    pub fn acknowledge(&mut self, pending: &Pending) -> Result<(), SpoolError> {
        if let Origin::Returned(path) = &pending.origin {
            self.losses.settled_alone(pending.epoch, pending.sequence);
            return self.returned_is_done(path);
        }
        self.losses.settled(pending.epoch, pending.sequence);
        let epoch = self.epochs.iter_mut().find(|epoch| epoch.id() == pending.epoch);
        let moved = match (epoch, &pending.origin) {
            (Some(Kept::Whole(epoch)), Origin::Journal(next)) => epoch.acknowledge(pending.sequence, *next),
            (Some(Kept::Salvaged(epoch)), _) => epoch.acknowledge(pending.sequence),
            _ => false,
        };
        self.unsaved += u32::from(moved);
        if self.unsaved < UNSAVED_ACKNOWLEDGEMENTS {
            return Ok(());
        }
        match self.save_acknowledgements() {
            // Sending must go on, or nothing ever frees the disk: after a crash these are duplicates.
            Err(SpoolError::File { source, .. }) if is_full(&source) => {
                self.unsaved = 0;
                Ok(())
            }
            result => result,
        }
    }

    /// Makes acknowledgements and promises durable, and writes down how far each epoch has come.
    pub fn save(&mut self) -> Result<(), SpoolError> {
        self.save_acknowledgements()?;
        match self.marks.save() {
            Err(SpoolError::File { source, .. }) if is_full(&source) => Ok(()),
            result => result,
        }
    }

    /// Makes acknowledgements and promises durable.
    pub(crate) fn save_acknowledgements(&mut self) -> Result<(), SpoolError> {
        for epoch in &mut self.epochs {
            match epoch.promises().save() {
                Ok(()) => {}
                // A cursor needs no space, and without it none becomes free.
                Err(SpoolError::File { source, .. }) if is_full(&source) => {}
                Err(error) => return Err(error),
            }
            epoch.save()?;
        }
        self.unsaved = 0;
        match self.losses.save().and_then(|()| self.marks.save_if_due()) {
            Err(SpoolError::File { source, .. }) if is_full(&source) => Ok(()),
            result => result,
        }
    }

    /// The collector will never take this batch: it is kept apart for a person, and the next one is up.
    pub fn park(&mut self, pending: &Pending) -> Result<(), SpoolError> {
        self.park_with(pending, Some(LossCause::Parked))
    }

    /// The same for one whose number the collector has already, with other content: there is no hole. With
    /// `again`, its records are to be sealed once more under the number they get now: see [`Spool::reseal`].
    pub fn park_conflict(&mut self, pending: &Pending, again: bool) -> Result<(), SpoolError> {
        if again {
            self.keep_to_reseal(pending)?;
        }
        self.park_with(pending, None)
    }

    /// The same for one whose number stays without a batch, and whose records are to be sealed once more.
    pub fn park_and_reseal(&mut self, pending: &Pending) -> Result<(), SpoolError> {
        self.keep_to_reseal(pending)?;
        self.park(pending)
    }

    fn park_with(&mut self, pending: &Pending, cause: Option<LossCause>) -> Result<(), SpoolError> {
        let dir = self.options.dir.join(PARKED);
        files::create_dir(&dir)?;
        let path = dir.join(format!("{}-{}.batch", pending.epoch, pending.sequence));
        if !path.exists() {
            files::write(&path, &pending.bytes)?;
            self.parked.files += 1;
            self.parked.bytes += pending.bytes.len() as u64;
        }
        let (epoch, first) = (pending.epoch, pending.sequence);
        // What it told was not heard.
        self.losses.untold(epoch, first, first);
        let told = cause.map_or(Ok(()), |cause| self.lose(&[Loss { epoch, first, last: first, cause }]));
        self.acknowledge(pending)?;
        self.save()?;
        told
    }

    /// Takes note of the store generation in an acknowledgement. A store that is not the one before may have
    /// lost what it acknowledged: then everything still here waits again, and this is `true`.
    pub fn generation(&mut self, generation: &str) -> Result<bool, SpoolError> {
        if self.generation.as_deref() == Some(generation) {
            return Ok(false);
        }
        let changed = self.generation.is_some();
        if changed {
            // The cursors first: a crash between the two repeats this, which is harmless.
            self.epochs.iter_mut().for_each(Kept::forget_acknowledgements);
            self.asked.clear();
            self.save()?;
        }
        let path = self.options.dir.join(GENERATION);
        match files::write(&path, format!("{generation}\n").as_bytes()) {
            // Then it is noted in memory, and everything is sent again after the next start.
            Err(SpoolError::File { source, .. }) if is_full(&source) => {}
            result => result?,
        }
        self.generation = Some(generation.to_owned());
        Ok(changed)
    }

    /// What happened since the last call.
    pub fn events(&mut self) -> Vec<SpoolEvent> {
        std::mem::take(&mut self.events)
    }

    fn event(&mut self, event: SpoolEvent) {
        if self.events.len() < MOST_EVENTS {
            self.events.push(event);
        }
    }

    /// The newest status, signed, to be sent ahead of batches that wait.
    pub fn say(&mut self, report: Vec<u8>) {
        self.report = Some(report);
    }

    /// Puts one back that could not be sent, unless there is a newer one.
    pub fn say_again(&mut self, report: Vec<u8>) {
        self.report.get_or_insert(report);
    }

    /// Takes that status, if it is worth sending: not if the batch that holds it comes next anyway.
    pub fn take_report(&mut self) -> Option<Vec<u8>> {
        if self.unacknowledged() > 1 { self.report.take() } else { None }
    }

    /// The hash of a batch, if it is here.
    pub fn hash_of(&mut self, epoch: EpochId, sequence: u64) -> Result<Option<Hash>, SpoolError> {
        match self.epochs.iter_mut().find(|kept| kept.id() == epoch) {
            Some(Kept::Whole(epoch)) => epoch.hash_of(sequence),
            Some(Kept::Salvaged(epoch)) => epoch.hash_of(sequence),
            None => Ok(None),
        }
    }

    /// Bytes of batches, acknowledged or not, without parked ones.
    pub fn bytes(&self) -> u64 {
        self.epochs.iter().map(Kept::bytes).sum()
    }

    /// Bytes of batches not acknowledged.
    pub fn unacknowledged_bytes(&self) -> u64 {
        self.epochs.iter().map(Kept::unacknowledged_bytes).sum()
    }

    /// Batches not acknowledged.
    pub fn unacknowledged(&self) -> u64 {
        self.epochs.iter().map(Kept::unacknowledged).sum::<u64>() + self.returned.len() as u64
    }

    /// Batches that were refused for good.
    pub fn parked(&self) -> Stored {
        self.parked
    }

    /// Files with damage in them.
    pub fn quarantined(&self) -> Stored {
        self.quarantined
    }

    /// Promises of the collector taken since the start.
    pub fn promises(&self) -> u64 {
        self.promised
    }

    /// The epoch that is written to.
    pub fn epoch(&self) -> EpochId {
        self.link().epoch
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.options.dir
    }
}

/// The files in a folder that are kept for a person.
fn stored(dir: &Path) -> Result<Stored, SpoolError> {
    let mut stored = Stored::default();
    for (_, bytes) in files::list(dir)? {
        stored.files += 1;
        stored.bytes += bytes;
    }
    Ok(stored)
}

#[cfg(test)]
mod tests;
