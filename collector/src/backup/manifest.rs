//! What a backup consists of.
//!
//! `MANIFEST` is lines of JSON: first of what it is ([`Head`]), then a line a file ([`Copied`]), last a [`Signed`] over all
//! lines before. It is written under another name, made durable, and only then named so: a backup without it, or
//! with one that does not end in a right signature, is none.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Component, Path},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use weighbridge_journal::fail;
use weighbridge_meter::{EpochId, UtcMillis};
use weighbridge_store::{Place, files, mark, signed::Signed};
use weighbridge_wire::{KeyId, SigningKey};

use super::{BackupError, failed};

/// Its name.
pub const MANIFEST: &str = "MANIFEST";

const CONTEXT: &[u8] = b"weighbridge-backup-v1\0";

/// Of what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Version of the format: 1.
    pub backup: u32,
    /// As of when.
    pub made_at: UtcMillis,
    /// Version of the program that made it.
    pub program: String,
    /// Of which store.
    pub generation: EpochId,
    /// It holds every entry of the ledger before this that is not pruned.
    #[serde(with = "mark::place")]
    pub place: Place,
    /// The chain hash of the ledger there.
    #[serde(with = "mark::hash")]
    pub chain: [u8; 32],
    /// Number of its oldest segment.
    pub oldest_segment: u64,
    /// How many files follow.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A file of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copied {
    /// What it is: below `data/` or `config/`.
    pub path: String,
    /// Where it lies in the backup.
    pub stored: String,
    /// Its length.
    pub bytes: u64,
    /// Its digest.
    #[serde(with = "mark::hash")]
    pub sha256: [u8; 32],
    /// When the file it was copied from was last changed, in nanoseconds since 1970.
    pub modified_ns: u64,
}

/// A manifest that was read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Of what it is.
    pub head: Head,
    /// Its files.
    pub files: Vec<Copied>,
    /// Who signed it.
    pub key_id: KeyId,
}

/// Writes it in place of the one before, durably.
pub(super) fn write(
    to: &Path,
    head: Head,
    copied: Vec<Copied>,
    key: &SigningKey,
) -> Result<Manifest, BackupError> {
    let path = to.join(MANIFEST);
    let new = files::unfinished(&path);
    let mut text = Vec::new();
    let mut line = |value: &dyn erased::Line| {
        value.write(&mut text);
        text.push(b'\n');
    };
    line(&head);
    copied.iter().for_each(|file| line(file));
    let signed = Signed::new(CONTEXT, Sha256::digest(&text).into(), key);
    let key_id = KeyId::of(&key.verifying_key());
    erased::Line::write(&signed, &mut text);
    text.push(b'\n');
    let mut out = BufWriter::new(File::create(&new).map_err(failed("make", &new))?);
    fail::around("manifest.write", || out.write_all(&text).and_then(|()| out.flush()))
        .map_err(failed("write", &new))?;
    fail::around("manifest.sync", || out.get_ref().sync_all()).map_err(failed("sync", &new))?;
    files::settle(&path).map_err(failed("name", &path))?;
    Ok(Manifest { head, files: copied, key_id })
}

/// Reads whatever is given as a manifest, as a file and as lines under a right signature: for tests with bytes that
/// nobody wrote. Must come back.
#[doc(hidden)]
pub fn read_anything(bytes: &[u8], folder: &Path) {
    let signed = Signed::new(CONTEXT, Sha256::digest(bytes).into(), &SigningKey::from_bytes(&[1; 32]));
    let last = serde_json::to_vec(&signed).unwrap_or_default();
    for text in [bytes.to_vec(), [bytes, last.as_slice(), b"\n".as_slice()].concat()] {
        if std::fs::write(folder.join(MANIFEST), text).is_ok() {
            drop(read(folder));
        }
    }
}

/// Reads and checks it: format, signature, and that no path leads out of its folder.
pub fn read(from: &Path) -> Result<Manifest, BackupError> {
    let path = from.join(MANIFEST);
    let none = |problem: String| BackupError::Manifest { path: path.clone(), problem };
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(none("there is no such file".into()));
        }
        text => text.map_err(failed("read", &path))?,
    };
    let body = text.strip_suffix(b"\n").ok_or_else(|| none("it is cut short".into()))?;
    let last = body.iter().rposition(|byte| *byte == b'\n').ok_or_else(|| none("it is cut short".into()))?;
    let (lines, signature) = text.split_at(last + 1);
    let signed: Signed = serde_json::from_slice(signature)
        .map_err(|error| none(format!("it does not end with a signature: {error}")))?;
    let digest: [u8; 32] = Sha256::digest(lines).into();
    if digest != signed.sha256 {
        return Err(none("its digest is not that of its lines".into()));
    }
    let key_id = signed.key_id(CONTEXT).ok_or_else(|| none("its signature is not right".into()))?;
    let mut lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    fn parsed<T: DeserializeOwned>(line: &[u8]) -> Result<T, String> {
        serde_json::from_slice(line).map_err(|error| error.to_string())
    }
    let head: Head = parsed(lines.next().unwrap_or_default()).map_err(none)?;
    if head.backup != 1 {
        return Err(none(format!("its format is {}, expected 1", head.backup)));
    }
    let mut files = Vec::new();
    for line in lines {
        let file: Copied = parsed(line).map_err(none)?;
        for name in [&file.path, &file.stored] {
            if !stays_within(name) {
                return Err(none(format!("{name:?} leads out of its folder")));
            }
        }
        files.push(file);
    }
    if files.len() as u64 != head.files {
        return Err(none(format!("it names {} files, expected {}", files.len(), head.files)));
    }
    Ok(Manifest { head, files, key_id })
}

fn stays_within(name: &str) -> bool {
    !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Lines of several kinds, written alike.
mod erased {
    pub(super) trait Line {
        fn write(&self, text: &mut Vec<u8>);
    }

    impl<T: serde::Serialize> Line for T {
        fn write(&self, text: &mut Vec<u8>) {
            serde_json::to_writer(text, self).expect("numbers and texts into memory");
        }
    }
}
