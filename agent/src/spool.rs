//! Sealed batches on disk, until a collector has them and for a while after.
//!
//! A batch exists once [`Spool::append`] returned: it is fsynced, and from then on it is sent and resent byte
//! for byte. Each batch is one entry of a journal, so its sequence number is the entry's index, and neither can
//! be repeated or skipped over restarts and boots.
//!
//! ```text
//! EPOCHS                 one epoch a line, oldest first; the last is written to
//! GENERATION             store generation of the collector that acknowledged last
//! <epoch>/*.seg          journal: see weighbridge-journal
//! <epoch>/ACK            "sequence segment offset" of the first batch not acknowledged
//! parked/<epoch>-<sequence>.batch     refused for good, for a person to look at
//! ```
//!
//! What is acknowledged stays until it is older or larger than configured; it is removed in whole segments,
//! and only after the cursor past it is durable. What is not acknowledged is never removed: when it reaches
//! its limit, [`Spool::append`] refuses, and the caller records a gap.
//!
//! Deliberately absent: retries after a failed fsync. The journal is opened again instead, and what it holds
//! then decides whether the last batch exists.

mod epoch;
mod files;
mod inspect;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use weighbridge_journal::{AppendError, FileError, OpenError, ReadError, RemoveError, fail};
use weighbridge_meter::{EpochId, UtcMillis};
use weighbridge_wire::{Hash, Sealed};

use self::epoch::Epoch;
pub use self::inspect::{EpochSummary, Inspection, inspect};

/// How a spool is kept.
#[derive(Clone, Debug)]
pub struct SpoolOptions {
    /// The folder. Created if it is not there; one agent at a time may have it.
    pub dir: PathBuf,
    /// Bytes of batches not acknowledged, parked ones included, beyond which no more are taken.
    pub max_bytes: u64,
    /// Bytes of acknowledged batches that are kept at most.
    pub keep_acknowledged_bytes: u64,
    /// How long acknowledged batches are kept at most.
    pub keep_acknowledged: Duration,
    /// A segment larger than this takes no more batches: the step in which acknowledged ones are removed.
    pub segment_bytes: u64,
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
        }
    }
}

/// Batches on disk.
#[derive(Debug)]
pub struct Spool {
    options: SpoolOptions,
    /// Those before the last only wait for their acknowledgements.
    epochs: Vec<Epoch>,
    generation: Option<String>,
    /// From this and the epoch before, new ones are made.
    seed: [u8; 32],
    parked: Parked,
    set_aside: Vec<(EpochId, SpoolError)>,
    /// Acknowledged since the cursors were last made durable.
    unsaved: u32,
}

/// Batches that were refused for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parked {
    /// How many.
    pub batches: u64,
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
    next: weighbridge_journal::Place,
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

/// Acknowledgements that may be forgotten by a crash: what they were for is sent again and is a duplicate.
const UNSAVED_ACKNOWLEDGEMENTS: u32 = 64;

impl Spool {
    /// Opens the spool and goes on where it ended. `random` fills what it is given; it makes new epochs.
    pub fn open(options: SpoolOptions, random: &mut dyn FnMut(&mut [u8])) -> Result<Self, SpoolError> {
        files::create_dir(&options.dir)?;
        let mut seed = [0; 32];
        random(&mut seed);
        let list = options.dir.join(EPOCHS);
        let (mut epochs, mut set_aside) = (Vec::new(), Vec::new());
        for name in files::read(&list)?.unwrap_or_default().lines() {
            let id = name.parse().map_err(|_| SpoolError::Nonsense {
                path: list.clone(),
                value: name.chars().take(80).collect(),
                expected: "an epoch: 32 hexadecimal digits",
            })?;
            match Epoch::open(&options.dir, id, options.segment_bytes) {
                Ok(epoch) => epochs.push(epoch),
                // The agent has to measure all the same. What lies there is neither sent nor removed.
                Err(error @ SpoolError::Damaged(_)) => set_aside.push((id, error)),
                Err(error) => return Err(error),
            }
        }
        let generation = files::read(&options.dir.join(GENERATION))?.map(|text| text.trim().to_owned());
        let parked = parked(&options.dir.join(PARKED))?;
        let mut spool = Self { options, epochs, generation, seed, parked, set_aside, unsaved: 0 };
        if spool.epochs.is_empty() || !spool.set_aside.is_empty() {
            spool.start_epoch()?;
        }
        Ok(spool)
    }

    /// Opens again what failed. To be called before the next batch after an error.
    pub fn ready(&mut self) -> Result<(), SpoolError> {
        let segment_bytes = self.options.segment_bytes;
        self.epochs.iter_mut().try_for_each(|epoch| epoch.ready(segment_bytes))
    }

    /// What the next batch has to continue.
    pub fn link(&self) -> Link {
        let epoch = self.current();
        Link { epoch: epoch.id(), sequence: epoch.next_sequence(), prev_hash: epoch.last_hash() }
    }

    /// Refuses if no more is to be taken.
    pub fn room(&self) -> Result<(), SpoolError> {
        let (bytes, limit) = (self.unacknowledged_bytes() + self.parked.bytes, self.options.max_bytes);
        if bytes >= limit { Err(SpoolError::Full { bytes, limit }) } else { Ok(()) }
    }

    /// Keeps a batch that continues [`Spool::link`]. It exists when this returns.
    ///
    /// After [`SpoolError::NotWritten`] it may exist or not: call [`Spool::ready`], then compare
    /// [`Link::prev_hash`] with the batch's.
    pub fn append(&mut self, sealed: &Sealed) -> Result<(), SpoolError> {
        self.room()?;
        self.current_mut().append(sealed)
    }

    /// The oldest batch not acknowledged, read from disk. `None` if there is none.
    ///
    /// An epoch in which it cannot be read is left as it is, for a person; the error says so once, and from
    /// then on batches are kept in a new epoch and newer epochs are up.
    pub fn peek(&mut self) -> Result<Option<Pending>, SpoolError> {
        for index in 0..self.epochs.len() {
            match self.epochs[index].peek() {
                Ok(None) => {}
                Ok(pending) => return Ok(pending),
                Err(error @ (SpoolError::Damaged(_) | SpoolError::Nonsense { .. })) => {
                    self.epochs[index].block();
                    if index + 1 == self.epochs.len() {
                        self.start_epoch()?;
                    }
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The collector has this batch. Unless it is the oldest not acknowledged, nothing changes.
    pub fn acknowledge(&mut self, pending: &Pending) -> Result<(), SpoolError> {
        if let Some(epoch) = self.epochs.iter_mut().find(|epoch| epoch.id() == pending.epoch)
            && epoch.acknowledge(pending)
        {
            self.unsaved += 1;
        }
        if self.unsaved >= UNSAVED_ACKNOWLEDGEMENTS { self.save() } else { Ok(()) }
    }

    /// Makes acknowledgements durable.
    pub fn save(&mut self) -> Result<(), SpoolError> {
        self.epochs.iter_mut().try_for_each(Epoch::save)?;
        self.unsaved = 0;
        Ok(())
    }

    /// The collector will never take this batch: it is kept apart for a person, and the next one is up.
    pub fn park(&mut self, pending: &Pending) -> Result<(), SpoolError> {
        let dir = self.options.dir.join(PARKED);
        files::create_dir(&dir)?;
        let path = dir.join(format!("{}-{}.batch", pending.epoch, pending.sequence));
        files::write(&path, &pending.bytes)?;
        self.parked.batches += 1;
        self.parked.bytes += pending.bytes.len() as u64;
        self.acknowledge(pending)?;
        self.save()
    }

    /// Begins a new epoch, to which batches go from here on; those of epochs before are still sent.
    pub fn start_epoch(&mut self) -> Result<(), SpoolError> {
        // From the seed of this run and the epoch before: never the same twice.
        let before = self.epochs.last().map_or([0; 16], |epoch| epoch.id().0);
        let mut digest = weighbridge_wire::hash(&[&self.seed[..], &before].concat());
        let mut id = [0; 16];
        loop {
            id.copy_from_slice(&digest[..16]);
            // Only with bad random numbers is there such a folder already.
            if !self.options.dir.join(EpochId(id).to_string()).exists() {
                break;
            }
            digest = weighbridge_wire::hash(&digest);
        }
        let epoch = Epoch::open(&self.options.dir, EpochId(id), self.options.segment_bytes)?;
        let names = self.epochs.iter().chain([&epoch]).map(|epoch| format!("{}\n", epoch.id()));
        files::write(&self.options.dir.join(EPOCHS), names.collect::<String>().as_bytes())?;
        self.epochs.push(epoch);
        Ok(())
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
            self.epochs.iter_mut().for_each(Epoch::forget_acknowledgements);
            self.save()?;
        }
        files::write(&self.options.dir.join(GENERATION), format!("{generation}\n").as_bytes())?;
        self.generation = Some(generation.to_owned());
        Ok(changed)
    }

    /// Removes acknowledged segments that are no longer to be kept. `wall` is the time by which they are old.
    pub fn tidy(&mut self, wall: UtcMillis) -> Result<(), SpoolError> {
        let keep_from = u64::try_from(wall.0)
            .ok()
            .and_then(|wall| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(wall)))
            .and_then(|wall| wall.checked_sub(self.options.keep_acknowledged));
        self.tidy_keeping(self.options.keep_acknowledged_bytes, keep_from)
    }

    /// Removes all acknowledged segments: the disk is full.
    pub fn give_up_acknowledged(&mut self) -> Result<(), SpoolError> {
        self.tidy_keeping(0, None)
    }

    fn tidy_keeping(&mut self, keep: u64, keep_from: Option<SystemTime>) -> Result<(), SpoolError> {
        let mut over = self.acknowledged_bytes().saturating_sub(keep);
        let is_old = |modified: SystemTime| keep_from.is_some_and(|from| modified < from);
        if over == 0 && !self.epochs.iter().any(|epoch| epoch.oldest_acknowledged().is_some_and(&is_old)) {
            return Ok(());
        }
        self.save()?;
        let last = self.epochs.len() - 1;
        let mut done = Vec::new();
        for (index, epoch) in self.epochs.iter_mut().enumerate() {
            // Of an epoch of the past, what is left goes as a whole.
            if index < last && epoch.is_done() && (over > 0 || epoch.last_written().is_some_and(&is_old)) {
                over = over.saturating_sub(epoch.bytes());
                done.push(epoch.id());
            } else {
                over = epoch.remove_acknowledged(over, is_old)?;
            }
        }
        if done.is_empty() {
            return Ok(());
        }
        self.epochs.retain(|epoch| !done.contains(&epoch.id()));
        let names: String = self.epochs.iter().map(|epoch| format!("{}\n", epoch.id())).collect();
        files::write(&self.options.dir.join(EPOCHS), names.as_bytes())?;
        for id in done {
            let path = self.options.dir.join(id.to_string());
            fail::around("spool.remove_epoch", || fs::remove_dir_all(&path))
                .map_err(files::failed("remove", &path))?;
        }
        Ok(())
    }

    /// Bytes of batches, acknowledged or not, without parked ones.
    pub fn bytes(&self) -> u64 {
        self.epochs.iter().map(Epoch::bytes).sum()
    }

    /// Bytes of batches not acknowledged.
    pub fn unacknowledged_bytes(&self) -> u64 {
        self.epochs.iter().map(Epoch::unacknowledged_bytes).sum()
    }

    fn acknowledged_bytes(&self) -> u64 {
        self.bytes().saturating_sub(self.unacknowledged_bytes())
    }

    /// Batches not acknowledged.
    pub fn unacknowledged(&self) -> u64 {
        self.epochs.iter().map(Epoch::unacknowledged).sum()
    }

    /// Batches that were refused for good.
    pub fn parked(&self) -> Parked {
        self.parked
    }

    /// Epochs that could not be opened, and why. They stay in their folders, no longer listed.
    pub fn set_aside(&self) -> &[(EpochId, SpoolError)] {
        &self.set_aside
    }

    /// The epoch that is written to.
    pub fn epoch(&self) -> EpochId {
        self.current().id()
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.options.dir
    }

    fn current(&self) -> &Epoch {
        self.epochs.last().expect("open() makes one, and the last one is never removed")
    }

    fn current_mut(&mut self) -> &mut Epoch {
        self.epochs.last_mut().expect("open() makes one, and the last one is never removed")
    }
}

fn parked(dir: &Path) -> Result<Parked, SpoolError> {
    let mut parked = Parked::default();
    for (_, bytes) in files::list(dir)? {
        parked.batches += 1;
        parked.bytes += bytes;
    }
    Ok(parked)
}

#[cfg(test)]
mod tests;
