//! Keys for many customers at once: as each for itself, with a few syncs for all.

use std::{collections::BTreeSet, fs, path::PathBuf};

use super::{
    KeyError, KeyStore, RandomSource, draft_name,
    files::{Sync, io_error, sync_written},
};
use crate::PartyId;

/// Keys that are made between two syncs: enough that syncs do not count, and what a crash leaves is bounded.
const AT_ONCE: usize = 4_096;

impl KeyStore {
    /// Makes the keys that are missing among those of `subjects`, durably, so that sealing for them later needs no
    /// sync of its own; tells how many it made. If it fails, some may be there: each whole, and the same as if it had
    /// been made alone.
    ///
    /// # Errors
    /// [`KeyError::KeyDestroyed`] names the first that was erased, before any key is made; else as
    /// [`KeyStore::seal`].
    pub fn prepare(&self, subjects: &[PartyId], random: RandomSource<'_>) -> Result<usize, KeyError> {
        let mut missing = Vec::new();
        for subject in subjects.iter().collect::<BTreeSet<_>>() {
            let path = self.path(subject);
            if self.key(subject, &path)?.is_none() {
                missing.push((subject, path));
            }
        }
        self.settle_names()?;
        let mut made = 0;
        for some in missing.chunks(AT_ONCE) {
            made += self.make(some, random)?;
        }
        Ok(made)
    }

    fn make(&self, some: &[(&PartyId, PathBuf)], random: RandomSource<'_>) -> Result<usize, KeyError> {
        // Opened first: a sync of the file system tells what went wrong since then.
        let open = fs::File::open(&self.folder).map_err(io_error("open folder", &self.folder))?;
        let mut drafts = Vec::with_capacity(some.len());
        for (subject, _) in some {
            let (_, file) = self.new_key(subject, random);
            drafts.push(self.draft(subject, &draft_name(random), &file, Sync::Later)?);
        }
        let paths: Vec<PathBuf> = drafts.iter().map(|draft| draft.path().to_owned()).collect();
        sync_written(&open, &self.folder, &paths)?;
        // Only now: a name never leads to half a key.
        let mut others = Vec::new();
        let made = self.linked(|| {
            let mut made = 0;
            for ((subject, path), draft) in some.iter().zip(&drafts) {
                if draft.link(path)? {
                    made += 1;
                } else {
                    others.push((*subject, path));
                }
            }
            Ok(made)
        });
        for draft in drafts {
            draft.remove()?;
        }
        let made = made?;
        for (subject, path) in others {
            // Somebody was first: with a key of this operator's, or with the mark of a destroyed one.
            self.key(subject, path)?;
        }
        Ok(made)
    }
}
