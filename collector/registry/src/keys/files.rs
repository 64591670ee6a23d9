//! How files of the key store come, change and go: each step on which something durable rests runs through [`step`].

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use weighbridge_journal::fail;

use super::KeyError;

/// Runs a step on the disk, with a place to fail before it and one after it.
pub(super) fn step<T>(name: &'static str, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    #[cfg(test)]
    super::interrupted::before(name)?;
    let done = fail::around(name, run)?;
    #[cfg(test)]
    super::interrupted::after(name)?;
    Ok(done)
}

/// Whether a file is durable when it is written, or only once its file system is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    Now,
    Later,
}

/// A new file for its owner alone.
pub(super) fn write_private(path: &Path, content: &[u8], sync: Sync) -> Result<(), KeyError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    step("keys.write", || {
        let mut file = options.open(path)?;
        file.write_all(content)?;
        if sync == Sync::Now { file.sync_all() } else { Ok(()) }
    })
    .map_err(io_error("write", path))
}

/// Overwrites a file where it lies, if it is there.
pub(super) fn wipe(path: &Path) -> Result<(), KeyError> {
    let mut file = match fs::OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("overwrite", path)(error)),
    };
    step("keys.wipe", || overwrite(&mut file).and_then(|()| file.sync_all()))
        .map_err(io_error("overwrite", path))
}

/// Puts zeros in the place of what a file holds.
pub(super) fn overwrite(file: &mut fs::File) -> io::Result<()> {
    let length = file.metadata()?.len();
    io::copy(&mut io::repeat(0).take(length), file).map(drop)
}

/// Removes a file; one that is not there is removed.
pub(super) fn remove(path: &Path) -> Result<(), KeyError> {
    step("keys.remove_draft", || match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    })
    .map_err(io_error("remove", path))
}

/// A name is durable only once its folder is.
pub(super) fn sync_folder(folder: &Path) -> Result<(), KeyError> {
    step("keys.sync_folder", || fs::File::open(folder)?.sync_all()).map_err(io_error("sync folder", folder))
}

/// Makes durable what was written into a folder since it was opened: for many files one sync of their file system is
/// a fraction of the work of one for each.
pub(super) fn sync_written(open: &fs::File, folder: &Path, files: &[PathBuf]) -> Result<(), KeyError> {
    step("keys.sync_drafts", || {
        #[cfg(target_os = "linux")]
        {
            let _ = files;
            rustix::fs::syncfs(open).map_err(io::Error::from)
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = open;
            files.iter().try_for_each(|file| fs::File::open(file)?.sync_all())
        }
    })
    .map_err(io_error("sync", folder))
}

/// Makes a folder for its owner alone, if it is not there.
pub(super) fn make_folder(folder: &Path) -> Result<(), KeyError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(io_error("make folder", folder))
}

pub(super) fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyError {
    let path = path.to_path_buf();
    move |source| KeyError::Io { doing, path, source }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
