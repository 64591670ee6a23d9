//! Records whose batch can never be stored under its number, because the collector has something else there.
//!
//! Whoever measured them measured them: they go into a batch of the new epoch. The refused batch itself is
//! parked; a copy waits here until its records are durable once more, so that no crash loses them, and is
//! compared with the last batch written, so that no crash writes them twice. What was sealed again leaves an
//! empty file, `.done`, as long as the refused batch may come up once more: after a crash, in another store, or
//! because a person had parked batches sent again.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use weighbridge_journal::fail;
use weighbridge_wire::{Batch, Envelope};

use super::{
    Kept, PARKED, Pending, RESEAL, RETURNED, Spool, SpoolError, files,
    open::{is_damage, name_of_batch},
};

/// Records to be sealed again.
#[derive(Debug)]
pub struct Again {
    /// As they were refused.
    pub batch: Batch,
    path: PathBuf,
}

impl Spool {
    pub(crate) fn keep_to_reseal(&mut self, pending: &Pending) -> Result<(), SpoolError> {
        let dir = self.options.dir.join(RESEAL);
        files::create_dir(&dir)?;
        let path = dir.join(format!("{}-{}.batch", pending.epoch, pending.sequence));
        if path.exists() || path.with_extension(DONE).exists() {
            return Ok(());
        }
        files::write(&path, &pending.bytes)
    }

    /// The next records to be sealed again, if there are any. Those that the last batch holds already are done.
    pub fn reseal(&mut self) -> Result<Option<Again>, SpoolError> {
        for (path, _) in files::list(&self.options.dir.join(RESEAL))? {
            if path.extension().is_none_or(|extension| extension != "batch") {
                continue;
            }
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) => {
                    // It is parked as well, and the next one may be readable.
                    tracing::warn!(file = %path.display(), %error, "records to be sealed again cannot be read");
                    continue;
                }
            };
            let Ok(batch) = Envelope::decode(&bytes).and_then(|envelope| envelope.read()) else {
                // It is parked as well: a person can look at it there.
                done(&path)?;
                continue;
            };
            if self.last_batch()?.is_some_and(|last| same_records(&last, &batch)) {
                done(&path)?;
                continue;
            }
            return Ok(Some(Again { batch, path }));
        }
        Ok(None)
    }

    /// They are durable in another batch.
    pub fn resealed(&mut self, again: &Again) -> Result<(), SpoolError> {
        done(&again.path)
    }

    /// Forgets what was sealed again once nothing can bring the refused batch up any more.
    pub(super) fn forget_resealed(&mut self) -> Result<(), SpoolError> {
        let dir = self.options.dir.join(RESEAL);
        let mut removed = false;
        for (path, _) in files::list(&dir)? {
            if path.extension().is_none_or(|extension| extension != DONE) {
                continue;
            }
            let batch = path.with_extension("batch");
            let held = name_of_batch(&batch).is_some_and(|(id, sequence)| {
                self.epochs.iter().any(|kept| match kept {
                    Kept::Whole(epoch) => epoch.id() == id && epoch.held().0 <= sequence,
                    Kept::Salvaged(epoch) => epoch.id() == id,
                })
            });
            let apart = [PARKED, RETURNED].into_iter().any(|folder| {
                batch.file_name().is_some_and(|name| self.options.dir.join(folder).join(name).exists())
            });
            if !held && !apart {
                remove(&path)?;
                removed = true;
            }
        }
        if removed { files::sync_dir(&dir) } else { Ok(()) }
    }

    fn last_batch(&mut self) -> Result<Option<Batch>, SpoolError> {
        let Some(Kept::Whole(epoch)) = self.epochs.last() else { return Ok(None) };
        let (first, next) = epoch.held();
        if next == first {
            return Ok(None);
        }
        let bytes = match epoch.bytes_of(next - 1) {
            Err(error) if is_damage(&error) => {
                self.salvage(self.epochs.len() - 1, &error)?;
                return Ok(None);
            }
            result => result?,
        };
        Ok(bytes.and_then(|bytes| Envelope::decode(&bytes).and_then(|envelope| envelope.read()).ok()))
    }
}

fn same_records(one: &Batch, other: &Batch) -> bool {
    one.windows == other.windows
        && one.gaps == other.gaps
        && one.holdings == other.holdings
        && one.inventory == other.inventory
}

/// Ends the name of what was sealed again.
const DONE: &str = "done";

/// Durably: whoever forgets it seals the same once more.
fn done(path: &Path) -> Result<(), SpoolError> {
    let to = path.with_extension(DONE);
    match fail::around("spool.rename_resealed", || fs::rename(path, &to)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.map_err(files::failed("rename", path))?,
    }
    if let Some(dir) = path.parent() {
        files::sync_dir(dir)?;
    }
    // Its name is all that is asked for.
    if let Err(error) = fs::File::options().write(true).open(&to).and_then(|file| file.set_len(0)) {
        tracing::debug!(file = %to.display(), %error, "what was sealed again takes space a while longer");
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), SpoolError> {
    match fail::around("spool.remove_resealed", || fs::remove_file(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(files::failed("remove", path)(error)),
        _ => Ok(()),
    }
}
