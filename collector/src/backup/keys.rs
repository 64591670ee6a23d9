//! The backup of the key store: a mirror, so that it can forget.
//!
//! What was destroyed in the store is destroyed in the mirror at the next run. So the mirror must be the only copy,
//! apart from every copy of the ledger, and nobody may keep older states of it.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use weighbridge_store::files;

use super::{BackupError, failed};
use crate::opening::MARK;

/// Says of a folder that it is such a mirror: what is in it and not in the store may be removed.
const SIGN: &str = "WEIGHBRIDGE-KEYS";

/// What a mirroring did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mirrored {
    /// Files that are the same now.
    pub files: usize,
    /// Files that were destroyed, because the store has them no more.
    pub destroyed: usize,
}

fn names(folder: &Path) -> Result<BTreeSet<String>, BackupError> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(failed("list", folder))? {
        let entry = entry.map_err(failed("list", folder))?;
        let name = entry.file_name().into_string().map_err(|_| BackupError::Folder {
            path: entry.path(),
            problem: "expected a name in UTF-8".into(),
        })?;
        names.insert(name);
    }
    Ok(names)
}

/// Makes `to` hold what `store` holds, and nothing else.
pub fn mirror(store: &Path, to: &Path) -> Result<Mirrored, BackupError> {
    folder(to)?;
    let sign = to.join(SIGN);
    let there = names(to)?;
    if !there.contains(SIGN) {
        if let Some(name) = there.first() {
            let problem = format!("expected an empty folder or a mirror of a key store, found {name}");
            return Err(BackupError::Folder { path: to.into(), problem });
        }
        files::replace(&sign, b"The keys of customers, a mirror. Keep no older states of this folder.\n")
            .map_err(failed("write", &sign))?;
    }
    let mut mirrored = Mirrored::default();
    level(store, to, &mut mirrored)?;
    Ok(mirrored)
}

fn folder(to: &Path) -> Result<(), BackupError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(to).map_err(failed("make", to))?;
    Ok(())
}

/// What is about this machine's ledger and no key: how far it was promised, and what was signed of it. And what is on
/// its way: drafts are keys of nobody yet.
const LEFT_OUT: [&str; 4] = [MARK, "tlog", "LOCK", "drafts"];

/// One folder of it.
fn level(store: &Path, to: &Path, mirrored: &mut Mirrored) -> Result<(), BackupError> {
    let there = names(to)?;
    // Drafts are keys of nobody yet.
    let kept: BTreeSet<String> = names(store)?
        .into_iter()
        .filter(|name| !LEFT_OUT.contains(&name.as_str()) && !name.ends_with(files::UNFINISHED))
        .collect();
    // Destroyed first: if this is interrupted, it has forgotten all the same.
    for name in there.iter().filter(|name| *name != SIGN && !kept.contains(*name)) {
        let path = to.join(name);
        destroy(&path).map_err(failed("destroy", &path))?;
        mirrored.destroyed += 1;
    }
    for name in &kept {
        let (from, target) = (store.join(name), to.join(name));
        if from.is_dir() {
            folder(&target)?;
            level(&from, &target, mirrored)?;
            continue;
        }
        let bytes = match fs::read(&from) {
            // Destroyed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            bytes => bytes.map_err(failed("read", &from))?,
        };
        if fs::read(&target).is_ok_and(|there| there == bytes) {
            mirrored.files += 1;
            continue;
        }
        if target.exists() {
            destroy(&target).map_err(failed("destroy", &target))?;
        }
        private(&target, &bytes).map_err(failed("write", &target))?;
        mirrored.files += 1;
    }
    files::sync_folder(to).map_err(failed("sync", to))
}

fn private(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let new: PathBuf = files::unfinished(file);
    files::remove(&new)?;
    let mut out = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    files::settle(file)
}

/// Overwrites and removes; a folder with all that is in it.
fn destroy(file: &Path) -> io::Result<()> {
    if file.is_dir() {
        for entry in fs::read_dir(file)? {
            destroy(&entry?.path())?;
        }
        return fs::remove_dir(file);
    }
    let length = fs::metadata(file)?.len();
    let mut out = File::options().write(true).open(file)?;
    io::copy(&mut io::Read::take(io::repeat(0), length), &mut out)?;
    out.sync_all()?;
    files::remove(file)
}
