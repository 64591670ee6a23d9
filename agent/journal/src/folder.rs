//! The journal's folder: file names, and making names durable.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{FileError, OpenError};
use crate::fail;

/// Digits of a segment number in a file name: as many as the largest u64 has, so names sort as numbers do.
const DIGITS: usize = 20;

pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:0DIGITS$}.seg"))
}

/// The numbers of all segments, in order.
pub(crate) fn segment_numbers(dir: &Path) -> Result<Vec<u64>, FileError> {
    let listing = |error| FileError::new("list", dir)(error);
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(listing)? {
        numbers.extend(segment_number(&entry.map_err(listing)?.file_name()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The number of the oldest segment in `dir`, if there is one: above 1, what came before was removed.
pub fn oldest_segment(dir: &Path) -> Result<Option<u64>, FileError> {
    Ok(segment_numbers(dir)?.first().copied())
}

fn segment_number(name: &OsStr) -> Option<u64> {
    let digits = name.to_str()?.strip_suffix(".seg")?;
    if digits.len() != DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|number| *number > 0)
}

/// Creates the folder and those above it, durably.
pub(crate) fn create(dir: &Path) -> Result<(), FileError> {
    let parent = match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()), // The root.
    };
    match fail::around("journal.create_folder", || fs::create_dir(dir)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(parent)?;
            fs::create_dir(dir).map_err(FileError::new("create", dir))?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        Err(error) => return Err(FileError::new("create", dir)(error)),
    }
    // Also for a folder that was there: whoever made it may have died before this.
    sync(parent)
}

/// Makes the names in a folder durable.
pub(crate) fn sync(dir: &Path) -> Result<(), FileError> {
    fail::around("journal.sync_folder", || File::open(dir)?.sync_all()).map_err(FileError::new("sync", dir))
}

/// Takes the writer's lock; it lasts as long as the file is open.
pub(crate) fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("LOCK");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(FileError::new("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(FileError::new("lock", &path)(error).into()),
    }
}
