//! Small files that are whole or not there, whenever the machine stops.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use weighbridge_journal::fail;

/// Ends the name of a file that is not finished: whoever finds one after a crash may remove it.
pub const UNFINISHED: &str = ".new";

/// The name of `file` while it is written.
pub fn unfinished(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(UNFINISHED);
    name.into()
}

/// Writes `bytes` durably in place of what is there: at any moment the file is the old one or the new one.
pub fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = unfinished(file);
    let mut open = File::create(&new)?;
    fail::around("file.write", || open.write_all(bytes))?;
    fail::around("file.sync", || open.sync_all())?;
    settle(file)
}

/// Gives a finished and synced file its name, durably.
pub fn settle(file: &Path) -> io::Result<()> {
    fail::around("file.rename", || fs::rename(unfinished(file), file))?;
    sync_parent(file)
}

/// Makes the name of `file` durable.
pub fn sync_parent(file: &Path) -> io::Result<()> {
    match file.parent() {
        Some(folder) if folder.as_os_str().is_empty() => sync_folder(Path::new(".")),
        Some(folder) => sync_folder(folder),
        None => Ok(()),
    }
}

/// Makes the names in a folder durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    fail::around("file.sync_folder", || File::open(folder)?.sync_all())
}

/// Removes a file; one that is not there is removed.
pub fn remove(file: &Path) -> io::Result<()> {
    match fail::around("file.remove", || fs::remove_file(file)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
