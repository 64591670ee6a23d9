//! How far each epoch had come, as last written down: outside of the epoch's own folder.
//!
//! A journal that is cut off between two batches, or whose last segment is gone, is whole in itself. These
//! notes tell that there was more, so that no number is given twice and what is gone is told as lost.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use weighbridge_meter::EpochId;

use super::{SpoolError, files};

/// `epoch number` a line: the number that the next batch of the epoch would get.
pub(super) const MARKS: &str = "MARKS";

#[derive(Debug)]
pub(super) struct Marks {
    path: PathBuf,
    marks: BTreeMap<EpochId, u64>,
    saved: bool,
}

impl Marks {
    pub(super) fn empty(spool: &Path) -> Self {
        Self { path: spool.join(MARKS), marks: BTreeMap::new(), saved: true }
    }

    pub(super) fn open(spool: &Path) -> Result<Self, SpoolError> {
        let path = spool.join(MARKS);
        let text = files::read(&path)?.unwrap_or_default();
        let parse = |line: &str| {
            let (epoch, number) = line.split_once(' ')?;
            Some((epoch.parse().ok()?, number.parse().ok()?))
        };
        Ok(Self { path, marks: text.lines().filter_map(parse).collect(), saved: true })
    }

    pub(super) fn get(&self, epoch: EpochId) -> u64 {
        self.marks.get(&epoch).copied().unwrap_or(1)
    }

    pub(super) fn set(&mut self, epoch: EpochId, number: u64) {
        if self.get(epoch) < number {
            self.marks.insert(epoch, number);
            self.saved = false;
        }
    }

    pub(super) fn forget(&mut self, epoch: EpochId) {
        self.saved &= self.marks.remove(&epoch).is_none();
    }

    pub(super) fn save(&mut self) -> Result<(), SpoolError> {
        if !self.saved {
            let text: String = self.marks.iter().map(|(epoch, next)| format!("{epoch} {next}\n")).collect();
            files::write(&self.path, text.as_bytes())?;
            self.saved = true;
        }
        Ok(())
    }
}
