//! What can still be read of a damaged epoch, found one segment file at a time.
//!
//! Batches say themselves of which epoch they are and which number they have, so it does not matter what a
//! file is called, what is missing before it, or in which order files come. Whatever in a file is no batch of
//! this epoch sends the whole file to the quarantine; batches beside the damage are read from there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use weighbridge_journal::{Piece, Salvage};
use weighbridge_meter::EpochId;
use weighbridge_wire::{Envelope, limits};

use super::{SpoolError, files};

/// Stretches that are kept in mind of one epoch, 48 bytes each. Where damage leaves more than these, what lies
/// behind counts as damaged: it stays in the quarantine.
const MOST_RUNS: usize = 50_000;

/// Bytes of a file that are looked at. No agent makes segments as long as this.
pub(super) const LONGEST_FILE: u64 = 64 << 20;

/// Batches that follow each other, in one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: u64,
    pub(super) last: u64,
    /// Which of [`Scan::files`].
    pub(super) file: usize,
    /// Where the first batch begins in it.
    pub(super) offset: u64,
}

/// Looks through the files of one epoch.
#[derive(Debug)]
pub(super) struct Scan {
    epoch: EpochId,
    quarantine: PathBuf,
    pub(super) files: Vec<PathBuf>,
    looked_at: usize,
    pub(super) runs: Vec<Run>,
    /// Files moved into the quarantine, and their bytes that are no batch.
    pub(super) moved: Vec<(PathBuf, u64)>,
    /// Only looks: nothing is moved.
    looks: bool,
}

impl Scan {
    /// Lists the files; nothing is read yet.
    pub(super) fn new(epoch: EpochId, dir: &Path, quarantine: &Path) -> Result<Self, SpoolError> {
        let of_epoch =
            |(path, _): (PathBuf, u64)| path.extension().is_some_and(|e| e == "seg").then_some(path);
        let mut paths: Vec<PathBuf> = files::list(dir)?.into_iter().filter_map(of_epoch).collect();
        let prefix = format!("{epoch}-");
        let ours = |path: &PathBuf| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix))
        };
        paths.extend(files::list(quarantine)?.into_iter().filter_map(of_epoch).filter(ours));
        Ok(Self {
            epoch,
            quarantine: quarantine.to_owned(),
            files: paths,
            looked_at: 0,
            runs: Vec::new(),
            moved: Vec::new(),
            looks: false,
        })
    }

    /// Looks at all files and leaves them where they are: from outside, also beside an agent.
    pub(super) fn look(epoch: EpochId, dir: &Path, quarantine: &Path) -> Result<Self, SpoolError> {
        let mut scan = Self { looks: true, ..Self::new(epoch, dir, quarantine)? };
        while !scan.step()? {}
        Ok(scan)
    }

    /// Calls `visit` with each batch, in order of numbers.
    pub(super) fn each(
        &self,
        mut visit: impl FnMut(u64, &[u8]) -> Result<(), SpoolError>,
    ) -> Result<(), SpoolError> {
        let mut next = 0;
        for run in &self.runs {
            let mut salvage = Salvage::open(&self.files[run.file], limits::ENCODED_BYTES, LONGEST_FILE)?;
            let mut offset = run.offset;
            for sequence in run.first..=run.last {
                let Some(bytes) = salvage.entry_at(offset)? else { break };
                offset += weighbridge_journal::ENTRY_HEAD_LEN + bytes.len() as u64;
                if sequence >= next {
                    visit(sequence, &bytes)?;
                    next = sequence + 1;
                }
            }
        }
        Ok(())
    }

    /// Looks at one more file. `true` once there is no more.
    pub(super) fn step(&mut self) -> Result<bool, SpoolError> {
        let Some(path) = self.files.get(self.looked_at).cloned() else {
            self.resolve();
            return Ok(true);
        };
        let before = self.runs.len();
        let damaged = match self.look_at(&path) {
            Ok(damaged) => damaged,
            // Removed since it was listed, by whoever has the spool or by a person.
            Err(SpoolError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                self.runs.truncate(before);
                0
            }
            // The disk gives some of it back no more: what was read before that counts.
            Err(SpoolError::File { source, .. }) if !files::passes(&source) => {
                tracing::warn!(file = %path.display(), error = %source, "a segment of the spool cannot be read");
                fs::metadata(&path).map_or(1, |metadata| metadata.len().max(1))
            }
            Err(error) => {
                self.runs.truncate(before);
                return Err(error);
            }
        };
        if damaged > 0 && !self.looks && !path.starts_with(&self.quarantine) {
            let to = self.move_away(&path)?;
            self.moved.push((to.clone(), damaged));
            self.files[self.looked_at] = to;
        }
        self.looked_at += 1;
        Ok(false)
    }

    /// Gives back how many bytes are no batch of this epoch.
    fn look_at(&mut self, path: &Path) -> Result<u64, SpoolError> {
        let mut salvage = Salvage::open(path, limits::ENCODED_BYTES, LONGEST_FILE)?;
        // As long as nothing is amiss, numbers follow from the header too: a batch of a later version of this
        // program that cannot be read by this one still has its number.
        let mut counted = salvage.header().map(|(_, first)| first);
        let length = fs::metadata(path).map_err(files::failed("look at", path))?.len();
        let mut damaged = u64::from(counted.is_none()).max(length.saturating_sub(LONGEST_FILE));
        let mut in_run = false;
        while let Some(piece) = salvage.next()? {
            let (offset, payload, continues) = match piece {
                Piece::Entry { offset, payload, continues } => (offset, payload, continues),
                Piece::Damaged { bytes, .. } => {
                    damaged += bytes;
                    (counted, in_run) = (None, false);
                    continue;
                }
            };
            let number = counted;
            counted = counted.filter(|_| continues).map(|number| number.saturating_add(1));
            if in_run
                && continues
                && let Some(run) = self.runs.last_mut()
            {
                run.last += 1;
                continue;
            }
            let sequence = match identify(&payload) {
                Identity::Batch(epoch, sequence) => (epoch == self.epoch).then_some(sequence),
                Identity::Unreadable => number.filter(|_| continues),
            };
            in_run = sequence.is_some() && self.runs.len() < MOST_RUNS;
            match sequence.filter(|_| in_run) {
                Some(first) => {
                    self.runs.push(Run { first, last: first, file: self.looked_at, offset });
                    // Something is missing before it, or it is in the wrong place: the file is evidence.
                    damaged += u64::from(!continues);
                }
                None => damaged += payload.len() as u64,
            }
        }
        Ok(damaged)
    }

    fn move_away(&self, path: &Path) -> Result<PathBuf, SpoolError> {
        files::create_dir(&self.quarantine)?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("unnamed.seg");
        files::move_to(path, &self.quarantine.join(format!("{}-{name}", self.epoch)))
    }

    /// In order of numbers, each number once.
    fn resolve(&mut self) {
        self.runs.sort_by_key(|run| (run.first, std::cmp::Reverse(run.last)));
        let mut end = 0;
        self.runs.retain(|run| {
            let new = run.last > end;
            end = end.max(run.last);
            new
        });
    }

    /// What of `from..until` no run has, as first and last numbers. Only once all files were looked at.
    pub(super) fn holes(&self, from: u64, until: u64) -> Vec<(u64, u64)> {
        let mut holes = Vec::new();
        let mut next = from;
        for run in self.runs.iter().filter(|run| run.last >= from) {
            if run.first >= until {
                break;
            }
            if run.first > next {
                holes.push((next, run.first - 1));
            }
            next = next.max(run.last + 1);
        }
        if next < until {
            holes.push((next, until - 1));
        }
        holes
    }
}

/// Which batch some bytes are.
pub(super) enum Identity {
    Batch(EpochId, u64),
    /// Nothing that this version can read.
    Unreadable,
}

pub(super) fn identify(payload: &[u8]) -> Identity {
    match Envelope::decode(payload).and_then(|envelope| envelope.read()) {
        Ok(batch) => Identity::Batch(batch.epoch, batch.sequence),
        Err(_) => Identity::Unreadable,
    }
}
