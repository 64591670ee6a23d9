//! Records whose batch can never be stored under its number, because the collector has something else there.
//!
//! Whoever measured them measured them: they go into a batch of the new epoch. The refused batch itself is
//! parked; a copy waits here until its records are durable once more, so that no crash loses them, and is
//! compared with the last batch written, so that no crash writes them twice.

use std::{fs, io, path::PathBuf};

use weighbridge_journal::fail;
use weighbridge_wire::{Batch, Envelope};

use super::{Kept, Pending, RESEAL, Spool, SpoolError, files};

/// Records to be sealed again.
#[derive(Debug)]
pub struct Again {
    /// As they were refused.
    pub batch: Batch,
    path: PathBuf,
}

impl Spool {
    pub(super) fn keep_to_reseal(&mut self, pending: &Pending) -> Result<(), SpoolError> {
        let dir = self.options.dir.join(RESEAL);
        files::create_dir(&dir)?;
        let name = format!("{}-{}.batch", pending.epoch, pending.sequence);
        files::write(&dir.join(name), &pending.bytes)
    }

    /// The next records to be sealed again, if there are any. Those that the last batch holds already are done.
    pub fn reseal(&mut self) -> Result<Option<Again>, SpoolError> {
        for (path, _) in files::list(&self.options.dir.join(RESEAL))? {
            if path.extension().is_none_or(|extension| extension != "batch") {
                continue;
            }
            let bytes = fs::read(&path).map_err(files::failed("read", &path))?;
            let Ok(batch) = Envelope::decode(&bytes).and_then(|envelope| envelope.read()) else {
                // It is parked as well: a person can look at it there.
                remove(&path)?;
                continue;
            };
            if self.last_batch()?.is_some_and(|last| same_records(&last, &batch)) {
                remove(&path)?;
                continue;
            }
            return Ok(Some(Again { batch, path }));
        }
        Ok(None)
    }

    /// They are durable in another batch.
    pub fn resealed(&mut self, again: &Again) -> Result<(), SpoolError> {
        remove(&again.path)
    }

    fn last_batch(&self) -> Result<Option<Batch>, SpoolError> {
        let Some(Kept::Whole(epoch)) = self.epochs.last() else { return Ok(None) };
        let (first, next) = epoch.held();
        if next == first {
            return Ok(None);
        }
        let bytes = epoch.bytes_of(next - 1)?;
        Ok(bytes.and_then(|bytes| Envelope::decode(&bytes).and_then(|envelope| envelope.read()).ok()))
    }
}

fn same_records(one: &Batch, other: &Batch) -> bool {
    one.windows == other.windows
        && one.gaps == other.gaps
        && one.holdings == other.holdings
        && one.inventory == other.inventory
}

fn remove(path: &PathBuf) -> Result<(), SpoolError> {
    match fail::around("spool.remove_resealed", || fs::remove_file(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(files::failed("remove", path)(error)),
        _ => Ok(()),
    }
}
