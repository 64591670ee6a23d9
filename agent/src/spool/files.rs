//! Small files that are replaced as a whole, durably.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use weighbridge_journal::fail;

use super::SpoolError;

pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    move |source| SpoolError::File { doing, path: path.to_owned(), source }
}

/// `None` if there is no such file. What is not UTF-8 comes back as something that no reader will accept.
pub(super) fn read(path: &Path) -> Result<Option<String>, SpoolError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Replaces the file: after a crash there is the old content or the new, never a part.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), SpoolError> {
    let new = path.with_extension("new");
    let file = fail::around("spool.create", || File::create(&new));
    let mut file = file.map_err(failed("create", &new))?;
    fail::around("spool.write", || file.write_all(content)).map_err(failed("write", &new))?;
    fail::around("spool.sync", || file.sync_all()).map_err(failed("sync", &new))?;
    fail::around("spool.replace", || fs::rename(&new, path)).map_err(failed("replace", path))?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

pub(super) fn create_dir(dir: &Path) -> Result<(), SpoolError> {
    if dir.is_dir() {
        return Ok(());
    }
    fail::around("spool.create_folder", || fs::create_dir_all(dir)).map_err(failed("create", dir))?;
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync_dir)
}

fn sync_dir(dir: &Path) -> Result<(), SpoolError> {
    fail::around("spool.sync_folder", || File::open(dir)?.sync_all()).map_err(failed("sync", dir))
}

/// Files in a folder with their lengths; none if there is no such folder.
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
            files.push((entry.path(), metadata.len()));
        }
    }
    files.sort();
    Ok(files)
}
