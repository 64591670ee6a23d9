//! Who may sign: one process at a time, and never a tree that does not begin with the last one signed.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
};

use ed25519_dalek::SigningKey;
use weighbridge_tlog::{
    checkpoint::Checkpoint,
    note::{Note, VerifierKey},
};

use super::{Durable, TreeError, log_key, read_checkpoint, replace};

/// The right to sign for a log, as long as nobody takes it over.
///
/// The lock keeps two processes on one machine apart. Where it does not reach (a folder that two machines share),
/// the epoch does: who starts later counts it up, and the one before sees that before it signs again.
#[derive(Debug)]
pub struct Fence {
    folder: PathBuf,
    file: PathBuf,
    epoch: u64,
    last: Option<Checkpoint>,
    key: SigningKey,
    log: VerifierKey,
    /// Held, never read.
    _lock: File,
}

/// The file with the last checkpoint that a log signed. A log is `<site>/<generation>`, the file is named after
/// the generation.
pub fn signed_file(folder: &Path, origin: &str) -> PathBuf {
    let name = origin.rsplit('/').next().unwrap_or(origin);
    folder.join(format!("{name}.signed"))
}

/// The last checkpoint that this log signed, if it ever did.
pub fn last_signed(folder: &Path, log: &VerifierKey) -> Result<Option<Checkpoint>, TreeError> {
    let read = read_checkpoint(&signed_file(folder, log.name()), log)?;
    Ok(read.map(|(checkpoint, _)| checkpoint))
}

impl Fence {
    /// Takes the right to sign for this log with this key.
    pub fn take(folder: &Path, origin: &str, key: &SigningKey) -> Result<Self, TreeError> {
        std::fs::create_dir_all(folder).map_err(TreeError::file("create", folder))?;
        let path = folder.join("LOCK");
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(TreeError::file("create", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(TreeError::Locked { folder: folder.into() }),
            Err(TryLockError::Error(error)) => return Err(TreeError::file("lock", &path)(error)),
        }
        let epoch = read_epoch(folder)? + 1;
        replace(&folder.join("EPOCH"), format!("{epoch}\n").as_bytes(), Durable::Yes)?;
        let log = log_key(origin, key.verifying_key())?;
        let last = last_signed(folder, &log)?;
        let file = signed_file(folder, origin);
        Ok(Self { folder: folder.into(), file, epoch, last, key: key.clone(), log, _lock: lock })
    }

    /// The last checkpoint that this log signed.
    pub fn last(&self) -> Option<&Checkpoint> {
        self.last.as_ref()
    }

    /// Of which log.
    pub fn log(&self) -> &VerifierKey {
        &self.log
    }

    /// Signs a tree that begins with the last one signed, which is for the caller to know; a smaller one, and
    /// another of the same size, are refused. That it was signed is durable when this returns.
    pub fn sign(&mut self, checkpoint: &Checkpoint) -> Result<Note, TreeError> {
        let theirs = read_epoch(&self.folder)?;
        if theirs != self.epoch {
            return Err(TreeError::Fenced { ours: self.epoch, theirs });
        }
        if let Some(last) = &self.last {
            if checkpoint.size < last.size {
                return Err(TreeError::Behind { size: checkpoint.size, signed: last.size });
            }
            if checkpoint.size == last.size && checkpoint.root != last.root {
                return Err(TreeError::rewritten(last, &checkpoint.root));
            }
        }
        let origin = || TreeError::Origin(checkpoint.origin.clone());
        let note = checkpoint.sign(&self.key).ok_or_else(origin)?;
        if self.last.as_ref() != Some(checkpoint) {
            replace(&self.file, note.to_string().as_bytes(), Durable::Yes)?;
            self.last = Some(checkpoint.clone());
        }
        Ok(note)
    }
}

fn read_epoch(folder: &Path) -> Result<u64, TreeError> {
    let path = folder.join("EPOCH");
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| {
            let expected = format!("a number, found {text:?}");
            TreeError::Content { path, expected }
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(TreeError::file("read", &path)(error)),
    }
}
