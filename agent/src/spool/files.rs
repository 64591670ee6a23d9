//! Small files that are replaced as a whole, durably.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::io::Errno;
use weighbridge_journal::fail;

use super::SpoolError;

pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    move |source| SpoolError::File { doing, path: path.to_owned(), source }
}

/// `None` if there is no such file. What is not UTF-8, or what the disk does not give back, comes back as
/// something that no reader will accept: it is damage, and damage stops nobody.
pub(super) fn read(path: &Path) -> Result<Option<String>, SpoolError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if passes(&error) => Err(failed("read", path)(error)),
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "a file of the spool cannot be read");
            Ok(Some(char::REPLACEMENT_CHARACTER.into()))
        }
    }
}

/// Replaces the file: after a crash there is the old content or the new, never a part.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), SpoolError> {
    let new = path.with_extension("new");
    replace(path, &new, content).inspect_err(|_| {
        // Half a file would take space from a disk that has none.
        let _ = fs::remove_file(&new);
    })?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

fn replace(path: &Path, new: &Path, content: &[u8]) -> Result<(), SpoolError> {
    let file = fail::around("spool.create", || File::create(new));
    let mut file = file.map_err(failed("create", new))?;
    fail::around("spool.write", || file.write_all(content)).map_err(failed("write", new))?;
    fail::around("spool.sync", || file.sync_all()).map_err(failed("sync", new))?;
    let replaced = match fail::around("spool.replace", || fs::rename(new, path)) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            move_to(path, &path.with_extension("in-the-way"))?;
            fail::around("spool.replace", || fs::rename(new, path))
        }
        result => result,
    };
    replaced.map_err(failed("replace", path))
}

/// Replaces a short text of always the same length. It is written over in place: that needs no space, which a
/// full disk has not, and one sync instead of three. Whoever reads half of it takes it for nothing.
pub(super) fn overwrite(path: &Path, content: &str) -> Result<(), SpoolError> {
    let same = fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == content.len() as u64);
    if !same {
        return write(path, content.as_bytes());
    }
    let file = File::options().write(true).open(path).map_err(failed("open", path))?;
    fail::around("spool.write_over", || file.write_all_at(content.as_bytes(), 0))
        .map_err(failed("write", path))?;
    fail::around("spool.sync_over", || file.sync_data()).map_err(failed("sync", path))
}

/// Whether the disk, or what this program may use of it, is full or cannot be written at all.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::ReadOnlyFilesystem
    )
}

/// Whether something cannot be read because of this moment, and not because of what lies on the disk.
pub(super) fn passes(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    is_full(error)
        || matches!(error.kind(), io::ErrorKind::OutOfMemory | io::ErrorKind::Interrupted)
        || matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

/// Moves a file within the file system, durably, and gives back where it is: under this name, or under one
/// with a number if there is a file of that name already.
pub(super) fn move_to(path: &Path, to: &Path) -> Result<PathBuf, SpoolError> {
    let mut free = to.to_owned();
    let mut number = 2;
    while free.symlink_metadata().is_ok() {
        let extension = to.extension().and_then(|e| e.to_str()).unwrap_or_default();
        free = to.with_extension(format!("{number}.{extension}"));
        number += 1;
    }
    fail::around("spool.move", || fs::rename(path, &free)).map_err(failed("move", path))?;
    for dir in [free.parent(), path.parent()].into_iter().flatten() {
        sync_dir(dir)?;
    }
    Ok(free)
}

pub(super) fn create_dir(dir: &Path) -> Result<(), SpoolError> {
    if dir.is_dir() {
        return Ok(());
    }
    fail::around("spool.create_folder", || fs::create_dir_all(dir)).map_err(failed("create", dir))?;
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync_dir)
}

/// Removes what is in a folder, and leaves the folder.
pub(super) fn empty(dir: &Path) -> Result<(), SpoolError> {
    for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
        let entry = entry.map_err(failed("list", dir))?;
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        fail::around("spool.remove_epoch", || {
            if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
        })
        .map_err(failed("remove", &path))?;
    }
    sync_dir(dir)
}

/// Removes a folder with nothing in it.
pub(super) fn remove_empty(dir: &Path) -> Result<(), SpoolError> {
    fail::around("spool.remove_epoch_folder", || fs::remove_dir(dir)).map_err(failed("remove", dir))
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), SpoolError> {
    fail::around("spool.sync_folder", || File::open(dir)?.sync_all()).map_err(failed("sync", dir))
}

/// Files in a folder with the bytes they take; none if there is no such folder.
pub(super) fn list(dir: &Path) -> Result<Vec<(PathBuf, u64)>, SpoolError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", dir)(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("list", dir))?;
        let metadata = entry.metadata().map_err(failed("look at", &entry.path()))?;
        if metadata.is_file() {
            files.push((entry.path(), size(&metadata)));
        }
    }
    files.sort();
    Ok(files)
}

/// Bytes that a file takes: what was never written to is not on the disk.
pub(super) fn size(metadata: &fs::Metadata) -> u64 {
    metadata.len().min(metadata.blocks().saturating_mul(512))
}

/// Folders in a folder, with the times at which they were last changed.
pub(super) fn folders(dir: &Path) -> Result<Vec<(PathBuf, SystemTime)>, SpoolError> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
        let entry = entry.map_err(failed("list", dir))?;
        let metadata = entry.metadata().map_err(failed("look at", &entry.path()))?;
        if metadata.is_dir() {
            folders.push((entry.path(), metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)));
        }
    }
    Ok(folders)
}
