//! Removing what was acknowledged long enough ago, in the order that a crash cannot turn into a loss.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use weighbridge_journal::fail;
use weighbridge_meter::UtcMillis;

use super::{
    EPOCHS, Kept, Spool, SpoolError,
    files::{self, is_full},
    open::GONE,
};

impl Spool {
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
        let any_old = self.epochs.iter().any(|kept| match kept {
            Kept::Whole(epoch) => epoch.oldest_acknowledged().is_some_and(is_old),
            Kept::Salvaged(epoch) => epoch.is_done() && epoch.last_written().is_some_and(is_old),
        });
        if over == 0 && !any_old {
            return Ok(());
        }
        // The cursors are durable before anything in front of them goes.
        self.save()?;
        let last = self.epochs.len().saturating_sub(1);
        let mut done = Vec::new();
        for (index, kept) in self.epochs.iter_mut().enumerate() {
            // Of an epoch of the past, what is left goes as a whole.
            let last_written = match kept {
                Kept::Whole(epoch) => epoch.last_written(),
                Kept::Salvaged(epoch) => epoch.last_written(),
            };
            if index < last
                && !self.incomplete
                && kept.is_done()
                && (over > 0 || last_written.is_some_and(is_old))
            {
                over = over.saturating_sub(kept.bytes());
                done.push(kept.id());
            } else if let Kept::Whole(epoch) = kept {
                over = epoch.remove_acknowledged(over, is_old)?;
            }
        }
        for id in done {
            self.remove_epoch(id)?;
        }
        if self.incomplete { Ok(()) } else { self.forget_resealed() }
    }

    fn remove_epoch(&mut self, id: weighbridge_meter::EpochId) -> Result<(), SpoolError> {
        let folder = self.options.dir.join(id.to_string());
        let gone = self.options.dir.join(format!("{id}.{GONE}"));
        // By its new name it is known to be done with, at whatever step a crash comes.
        fail::around("spool.rename_epoch", || fs::rename(&folder, &gone))
            .map_err(files::failed("rename", &folder))?;
        files::sync_dir(&self.options.dir)?;
        self.epochs.retain(|kept| kept.id() != id);
        self.marks.forget(id);
        // What takes space first: without it a full disk takes no list either.
        files::empty(&gone)?;
        let names: String = self.epochs.iter().map(|kept| format!("{}\n", kept.id())).collect();
        let listed = files::write(&self.options.dir.join(EPOCHS), names.as_bytes());
        match listed.and_then(|()| self.marks.save()) {
            Ok(()) => files::remove_empty(&gone),
            // As long as the list names it the empty folder says what became of it; the next start removes both.
            Err(SpoolError::File { source, .. }) if is_full(&source) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn acknowledged_bytes(&mut self) -> u64 {
        let promises: u64 = self.epochs.iter_mut().map(|kept| kept.promises().bytes()).sum();
        self.bytes().saturating_sub(self.unacknowledged_bytes()) + promises
    }
}
