//! Makes a damaged journal one that can be opened again, by the word of a person.
//!
//! What stands before the first damage stays as it is. What stands behind it cannot continue the chain, so it
//! is moved to another folder, whole files under their names; nothing is thrown away, and [`crate::Salvage`]
//! reads what is readable there. Whoever keeps a ledger has to bring it in again as what it is: late.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Corrupt, FileError, OpenError, ReadError};
use crate::folder::{self, segment_numbers, segment_path};
use crate::format::HEADER_LEN;
use crate::verify::{Verified, verify};

/// What a repair did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// The damage that was found; `None` if there was none, and then nothing was changed.
    pub damage: Option<Corrupt>,
    /// What remains in the journal.
    pub kept: Verified,
    /// Files that were moved away: the damaged segment, with what stood before the damage too, and all behind.
    pub quarantined: Vec<PathBuf>,
}

/// Cuts the journal in `dir` before its first damage. The damaged segment and all behind it are moved to
/// `quarantine`, which must be on the same file system and must not have files of these names.
///
/// A crash on the way leaves a journal with the same damage: repair it again. The journal must be closed.
pub fn repair(dir: &Path, quarantine: &Path) -> Result<Repaired, OpenError> {
    let _lock = folder::lock(dir)?;
    let corrupt = match verify(dir, |_| {}) {
        Ok(kept) => return Ok(Repaired { damage: None, kept, quarantined: Vec::new() }),
        Err(ReadError::Corrupt(corrupt)) => corrupt,
        Err(ReadError::File(error)) => return Err(error.into()),
        Err(ReadError::NoSegment { .. }) => {
            let nothing = io::Error::other("it changed while it was read");
            return Err(FileError::new("repair", dir)(nothing).into());
        }
    };
    folder::create(quarantine)?;
    let mut quarantined = Vec::new();
    // The last first: until the damaged one itself is replaced, the same damage shows.
    for number in segment_numbers(dir)?.into_iter().rev().filter(|number| *number >= corrupt.segment) {
        let (path, to) = (segment_path(dir, number), segment_path(quarantine, number));
        let cut = number == corrupt.segment && corrupt.offset > HEADER_LEN;
        if to.exists() && !(cut && same(&path, &to)?) {
            let there = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(FileError::new("move a segment to", &to)(there).into());
        }
        if cut {
            // A copy of all of it goes, a copy of what is right takes its place: each in one rename.
            fs::copy(&path, &to).map_err(FileError::new("copy", &to))?;
            File::open(&to).and_then(|file| file.sync_all()).map_err(FileError::new("sync", &to))?;
            folder::sync(quarantine)?;
            let file = File::options().write(true).open(&path).map_err(FileError::new("open", &path))?;
            file.set_len(corrupt.offset).map_err(FileError::new("cut", &path))?;
            file.sync_all().map_err(FileError::new("sync", &path))?;
        } else {
            fs::rename(&path, &to).map_err(FileError::new("move", &path))?;
            folder::sync(quarantine)?;
            folder::sync(dir)?;
        }
        quarantined.push(to);
    }
    quarantined.reverse();
    let kept = verify(dir, |_| {}).map_err(|error| match error {
        ReadError::Corrupt(corrupt) => OpenError::Corrupt(corrupt),
        ReadError::File(error) => OpenError::File(error),
        error @ ReadError::NoSegment { .. } => {
            OpenError::File(FileError::new("read", dir)(io::Error::other(error)))
        }
    })?;
    Ok(Repaired { damage: Some(corrupt), kept, quarantined })
}

/// Whether a repair was interrupted between copying and cutting.
fn same(path: &Path, copy: &Path) -> Result<bool, FileError> {
    let read = |path: &Path| fs::read(path).map_err(FileError::new("read", path));
    Ok(read(path)? == read(copy)?)
}
