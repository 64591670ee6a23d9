//! Files on their way: written in a folder beside the keys, where no reader looks, and linked or renamed from there.
//!
//! A crash leaves them, and some hold a key. They have a folder of their own so that looking for those of one
//! customer does not mean to list the keys of all.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{PoisonError, atomic::Ordering},
};

use super::{
    KeyError, KeyFile, KeyStore, file_stem,
    files::{Sync, io_error, remove, step, wipe, write_private},
};
use crate::CustomerId;

/// The folder, within that of the keys.
pub(super) const FOLDER: &str = "drafts";

const ENDING: &str = ".draft";

/// A draft; it is removed when it is dropped.
#[derive(Debug)]
pub(super) struct Draft {
    path: PathBuf,
    gone: bool,
}

impl Draft {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name, unless somebody was first: a rename would lose that one's key. Whether it did.
    pub(super) fn link(&self, to: &Path) -> Result<bool, KeyError> {
        match step("keys.link", || fs::hard_link(&self.path, to)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(io_error("make", to)(error)),
        }
    }

    /// Gives it its name in place of what is there.
    pub(super) fn replace(mut self, to: &Path) -> Result<(), KeyError> {
        step("keys.replace", || fs::rename(&self.path, to)).map_err(io_error("replace", to))?;
        self.gone = true;
        Ok(())
    }

    pub(super) fn remove(mut self) -> Result<(), KeyError> {
        remove(&self.path)?;
        self.gone = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.gone {
            // Something went wrong already, and is being told; what stays is found by the next start.
            drop(remove(&self.path));
        }
    }
}

impl KeyStore {
    /// A file with this content under a name that no reader looks at.
    pub(super) fn draft(
        &self,
        subject: &CustomerId,
        name: &str,
        content: &KeyFile,
        sync: Sync,
    ) -> Result<Draft, KeyError> {
        let path = self.drafts().join(format!("{}.{name}{ENDING}", file_stem(subject)));
        let text = serde_json::to_vec(content).map_err(|error| io_error("write", &path)(error.into()))?;
        if name == MARK {
            // Of an attempt before; only whoever destroys makes it, and does so alone.
            remove(&path)?;
        }
        // Before it is written: what could be written of it goes too.
        let draft = Draft { path, gone: false };
        write_private(&draft.path, &text, sync)?;
        Ok(draft)
    }

    fn drafts(&self) -> PathBuf {
        self.folder.join(FOLDER)
    }

    /// Destroys what a crash left of a customer's key.
    pub(super) fn destroy_drafts(&self, subject: &CustomerId) -> Result<(), KeyError> {
        if !self.swept.load(Ordering::SeqCst) {
            // Programs of before made drafts beside the keys. That is a long list, looked through once.
            clear(&self.folder, Some(subject))?;
            self.swept.store(true, Ordering::SeqCst);
        }
        let stem = file_stem(subject);
        for path in listed(&self.drafts())? {
            if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&stem)) {
                wipe(&path)?;
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Removes what crashes left, so that it is neither kept nor looked through again and again. For when no key is
    /// being made, by this process or another.
    ///
    /// # Errors
    /// [`KeyError::Io`]; what is left is found again.
    pub fn clear_drafts(&self) -> Result<(), KeyError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.swept.load(Ordering::SeqCst) {
            clear(&self.folder, None)?;
            self.swept.store(true, Ordering::SeqCst);
        }
        clear(&self.drafts(), None)
    }
}

/// The mark of a destroyed key, while it is written.
pub(super) const MARK: &str = "destroyed";

fn listed(folder: &Path) -> Result<Vec<PathBuf>, KeyError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_error("list folder", folder))? {
        let name = entry.map_err(io_error("list folder", folder))?.file_name();
        if name.to_str().is_some_and(|name| name.ends_with(ENDING)) {
            paths.push(folder.join(name));
        }
    }
    Ok(paths)
}

/// Removes the drafts in a folder. What is a key by another name too is not overwritten, unless it is that of who is
/// destroyed.
fn clear(folder: &Path, destroyed: Option<&CustomerId>) -> Result<(), KeyError> {
    let stem = destroyed.map(file_stem);
    for path in listed(folder)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_destroyed = stem.as_ref().is_some_and(|stem| name.starts_with(stem));
        let is_alone = fs::symlink_metadata(&path).is_ok_and(|file| file.is_file() && file.nlink() == 1);
        if is_destroyed || is_alone {
            wipe(&path)?;
        }
        remove(&path)?;
    }
    Ok(())
}
