//! Another operator's key in the place of the one before, while the store is in use.
//!
//! First `operator.json` says so: from then on every key that is made is under the new one, and either opens. Then the
//! lock of each key is changed, some at a time: drafts beside, synced, renamed into place, and what was there is
//! overwritten where it lies. Last `operator.json` forgets the key before, and nothing opens with it any more. Whatever
//! happens in between, who has the new key goes on from there by asking for the same again.
//!
//! A key is bound to its file's name, a hash of its customer, so that changing its lock takes no list of customers. Keys
//! of the first form are bound to the customer's id, which the folder does not say: those are put, as they are and with
//! the key that opens them, under the new lock.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
};

use zeroize::Zeroizing;

use super::{
    KeyError, KeyFile, KeyStore, OperatorKey, RandomSource, draft_name,
    files::{Sync, io_error, overwrite, step, sync_folder, sync_written},
    ring::Ring,
};
use crate::sealed;

/// Locks that are changed between two syncs. Whoever is to be erased meanwhile waits for as many.
const AT_ONCE: usize = 512;

/// Files of which the report names at most so many.
const NAMED: usize = 16;

/// How it stands with the locks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locks {
    /// Keys under the key in use.
    pub current: usize,
    /// Keys under the one that is being left.
    pub before: usize,
    /// Marks of destroyed keys.
    pub destroyed: usize,
    /// Files that say something else: damaged, or under another key altogether. They are left as they are.
    pub unfit: usize,
    /// The first of those.
    pub named: Vec<PathBuf>,
}

enum Found {
    Current,
    Before(Box<KeyFile>),
    Destroyed,
    Unfit,
}

impl KeyStore {
    /// Id of the key in use, and of the one that is being left, if one is.
    pub fn operators(&self) -> (String, Option<String>) {
        let ring = self.ring();
        (ring.current.id(), ring.before.map(|before| before.id()))
    }

    /// Whether a program shows [`OperatorKey::token`] of a key in use. While one takes the place of another, both are.
    pub fn accepts(&self, token: &str) -> bool {
        use sha2::{Digest, Sha256};
        let ring = self.ring();
        // Hashes are compared, so that the time it takes says nothing about the token.
        let is_of = |key: &Arc<OperatorKey>| Sha256::digest(token) == Sha256::digest(key.token());
        is_of(&ring.current) || ring.before.as_ref().is_some_and(is_of)
    }

    /// Begins to put `to` in the place of the key in use; the same again changes nothing. `file` is where it lies, so
    /// that a start with the key before can find it.
    ///
    /// # Errors
    /// [`KeyError::SameOperatorKey`] and [`KeyError::Rotating`] where there is nothing to begin; [`KeyError::Io`].
    pub fn begin_rotation(
        &self,
        to: OperatorKey,
        file: Option<&Path>,
        random: RandomSource<'_>,
    ) -> Result<(), KeyError> {
        // Whoever is making a key under the one before has made it.
        let _nobody = self.making.write().unwrap_or_else(PoisonError::into_inner);
        let ring = self.ring();
        match (&ring.before, ring.current.id() == to.id()) {
            (Some(_), true) => return Ok(()),
            (None, true) => return Err(KeyError::SameOperatorKey { given: to.id() }),
            (Some(_), false) => {
                return Err(KeyError::Rotating { to: ring.current.id(), file: None, given: to.id() });
            }
            (None, false) => {}
        }
        step("keys.rotate", || Ok(())).map_err(io_error("change the lock of", &self.folder))?;
        self.clear_drafts()?;
        let Ring { current, digests, .. } = ring;
        let ring = Ring { current: Arc::new(to), before: Some(current), digests, kept: false };
        self.keep(ring, file, random)
    }

    /// Changes the lock of every key that is under the one before, and tells how it stands then.
    ///
    /// # Errors
    /// [`KeyError::Io`]; what was changed is changed, and the call has to be repeated.
    pub fn change_locks(&self, random: RandomSource<'_>) -> Result<Locks, KeyError> {
        loop {
            let mut locks = Locks::default();
            let mut changed = 0;
            for some in self.names()?.chunks(AT_ONCE) {
                changed += self.change_some(some, &mut locks, random)?;
            }
            // Once more, to have seen that there are none left.
            if changed == 0 {
                return Ok(locks);
            }
        }
    }

    /// How it stands with the locks.
    ///
    /// # Errors
    /// [`KeyError::Io`].
    pub fn locks(&self) -> Result<Locks, KeyError> {
        let mut locks = Locks::default();
        for stem in self.names()? {
            let path = self.folder.join(format!("{stem}.json"));
            let found = match self.found(&path) {
                // While it is changed, it may read as nothing.
                Found::Unfit => {
                    let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
                    self.found(&path)
                }
                found => found,
            };
            locks.count(&found, &path);
        }
        Ok(locks)
    }

    /// Forgets the key before, which opens nothing any more.
    ///
    /// # Errors
    /// [`KeyError::LocksLeft`] where something is still under it; [`KeyError::Io`].
    pub fn finish_rotation(&self, random: RandomSource<'_>) -> Result<(), KeyError> {
        let ring = self.ring();
        if ring.before.is_none() {
            return Ok(());
        }
        let left = self.locks()?.before;
        if left > 0 {
            return Err(KeyError::LocksLeft { left });
        }
        self.keep(Ring { before: None, ..ring }, None, random)
    }

    /// What the files of keys are called, without their ending.
    pub(super) fn names(&self) -> Result<Vec<String>, KeyError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(io_error("list folder", &self.folder))? {
            let name = entry.map_err(io_error("list folder", &self.folder))?.file_name();
            let stem = name.to_str().and_then(|name| name.strip_suffix(".json"));
            let is_hash = |stem: &&str| stem.len() == 64 && stem.bytes().all(|byte| byte.is_ascii_hexdigit());
            names.extend(stem.filter(is_hash).map(str::to_owned));
        }
        Ok(names)
    }

    fn found(&self, path: &Path) -> Found {
        let ring = self.ring();
        let file = fs::read(path).ok().and_then(|text| serde_json::from_slice::<KeyFile>(&text).ok());
        match file {
            None => Found::Unfit,
            Some(KeyFile::Destroyed {}) => Found::Destroyed,
            Some(file) => match file.operator() {
                Some(id) if id == ring.current.id() => Found::Current,
                Some(id) if ring.before.as_ref().is_some_and(|before| before.id() == id) => {
                    Found::Before(Box::new(file))
                }
                _ => Found::Unfit,
            },
        }
    }

    fn change_some(
        &self,
        stems: &[String],
        locks: &mut Locks,
        random: RandomSource<'_>,
    ) -> Result<usize, KeyError> {
        // Nobody is erased between looking and renaming: a key that was destroyed would be back.
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = self.ring();
        let open = fs::File::open(&self.folder).map_err(io_error("open folder", &self.folder))?;
        let mut drafts = Vec::new();
        for stem in stems {
            let path = self.folder.join(format!("{stem}.json"));
            let found = self.found(&path);
            let Found::Before(file) = &found else {
                locks.count(&found, &path);
                continue;
            };
            let Some(file) = ring.relocked(stem, file, random) else {
                locks.count(&Found::Unfit, &path);
                continue;
            };
            let old = fs::OpenOptions::new().write(true).open(&path).map_err(io_error("open", &path))?;
            drafts.push((self.draft_named(stem, &draft_name(random), &file, Sync::Later)?, path, old));
        }
        if drafts.is_empty() {
            return Ok(0);
        }
        let changed = drafts.len();
        let paths: Vec<PathBuf> = drafts.iter().map(|(draft, ..)| draft.path().to_owned()).collect();
        sync_written(&open, &self.folder, &paths)?;
        let mut olds = Vec::with_capacity(changed);
        for (draft, path, old) in drafts {
            draft.replace(&path)?;
            olds.push(old);
        }
        sync_folder(&self.folder)?;
        // Only now: until the new names are durable a crash brings the old ones back.
        step("keys.overwrite", || olds.iter_mut().try_for_each(overwrite))
            .map_err(io_error("overwrite keys in", &self.folder))?;
        sync_written(&open, &self.folder, &[])?;
        locks.current += changed;
        Ok(changed)
    }
}

impl Ring {
    /// The same key under the key in use; `None` where it does not open.
    fn relocked(&self, stem: &str, file: &KeyFile, random: RandomSource<'_>) -> Option<KeyFile> {
        let before = self.before.as_ref()?;
        let inner = match file {
            KeyFile::Key { wrapped, .. } => {
                Zeroizing::new([before.key.as_slice(), &wrapped.to_bytes()].concat())
            }
            KeyFile::Bound { wrapped, .. } => {
                sealed::open(&before.key, &sealed::place_of_file(stem), wrapped).ok()?
            }
            KeyFile::Destroyed {} => return None,
        };
        let wrapped = sealed::seal(&self.current.key, &sealed::place_of_file(stem), &inner, random);
        Some(KeyFile::Bound { operator: self.current.id(), wrapped })
    }
}

impl Locks {
    fn count(&mut self, found: &Found, path: &Path) {
        match found {
            Found::Current => self.current += 1,
            Found::Before(_) => self.before += 1,
            Found::Destroyed => self.destroyed += 1,
            Found::Unfit => {
                self.unfit += 1;
                if self.named.len() < NAMED {
                    self.named.push(path.to_owned());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
