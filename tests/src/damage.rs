//! What disks and people do to files.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::random::Random;

/// One kind of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// One bit is another.
    Flip,
    /// The end is missing.
    Truncate,
    /// Some bytes are zeros.
    Zeros,
    /// Some bytes are anything.
    Noise,
    /// Something stands behind the end.
    Extend,
    /// The file is gone.
    Delete,
    /// It stands under the name of another, and that one under its name.
    Swap,
}

impl Damage {
    /// All kinds.
    pub const ALL: [Self; 7] =
        [Self::Flip, Self::Truncate, Self::Zeros, Self::Noise, Self::Extend, Self::Delete, Self::Swap];

    /// Does it to one of `files`, by chance; tells to which. With a single file, a swap is a deletion.
    pub fn strike(self, files: &[PathBuf], random: &mut Random) -> io::Result<PathBuf> {
        let file = files[usize::try_from(random.within(0..files.len() as u64)).unwrap_or(0)].clone();
        let mut bytes = fs::read(&file)?;
        let at = |random: &mut Random, len: usize| {
            usize::try_from(random.within(0..len.max(1) as u64)).unwrap_or(0)
        };
        let (start, end) = {
            let (a, b) = (at(random, bytes.len()), at(random, bytes.len()));
            (a.min(b), (a.max(b) + 1).min(bytes.len()))
        };
        match self {
            Self::Flip => {
                if let Some(byte) = bytes.get_mut(start) {
                    *byte ^= 1 << random.within(0..8);
                }
            }
            Self::Truncate => bytes.truncate(start),
            Self::Zeros => bytes[start..end].fill(0),
            Self::Noise => bytes[start..end].iter_mut().for_each(|byte| *byte = random.number() as u8),
            Self::Extend => bytes.extend((0..random.within(1..200)).map(|_| random.number() as u8)),
            Self::Delete => {
                fs::remove_file(&file)?;
                return Ok(file);
            }
            Self::Swap => {
                let others: Vec<&PathBuf> = files.iter().filter(|other| **other != file).collect();
                let Some(other) = others.get(at(random, others.len())) else {
                    fs::remove_file(&file)?;
                    return Ok(file);
                };
                let theirs = fs::read(other)?;
                fs::write(other, &bytes)?;
                bytes = theirs;
            }
        }
        fs::write(&file, bytes)?;
        Ok(file)
    }
}

/// All files below a folder with this ending, in order of their names.
pub fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Copies a folder with everything in it.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?
        } else {
            fs::copy(entry.path(), target).map(drop)?
        }
    }
    Ok(())
}

/// Bytes of all files below a folder.
pub fn bytes(folder: &Path) -> u64 {
    files(folder, "").iter().filter_map(|file| fs::metadata(file).ok()).map(|metadata| metadata.len()).sum()
}
