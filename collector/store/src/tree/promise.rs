//! What the collector signed when it acknowledged a batch: that the batch, received then, is a leaf of its log.
//!
//! Agents keep these promises. Whoever has them can show later that a batch was taken out of the ledger.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use weighbridge_meter::UtcMillis;
use weighbridge_tlog::Hash;

use super::TreeError;

/// A longer line is no promise.
const LONGEST: u64 = 64 << 10;

/// A promise as an agent keeps it, one JSON object a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// Number of the batch in its epoch.
    pub sequence: u64,
    /// Hash of the batch, in hexadecimal.
    pub batch_hash: String,
    /// Of the store that has it, in hexadecimal.
    pub store_generation: String,
    /// What was signed.
    pub promise: Promised,
}

/// The signed part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promised {
    /// Hash of the leaf, in hexadecimal.
    pub leaf_hash: String,
    /// When the batch was received.
    pub received_at: UtcMillis,
    /// Who signed.
    pub key_id: String,
    /// Over [`message`], base64.
    pub signature: String,
}

/// A promise that says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromiseError {
    /// A hash or the signature is not written as one.
    #[error("{0} does not read")]
    Unreadable(&'static str),
    /// This collector's key did not sign it.
    #[error("the signature does not verify")]
    NotSigned,
}

/// What is signed.
pub fn message(
    generation: &[u8; 16],
    batch_hash: &Hash,
    leaf_hash: &Hash,
    received_at: UtcMillis,
) -> Vec<u8> {
    let start = b"weighbridge-promise-v1\0".as_slice();
    [start, generation, batch_hash, leaf_hash, &received_at.0.to_le_bytes()].concat()
}

/// Bytes from hexadecimal.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

impl Promise {
    /// The leaf that was promised, if this key signed that.
    pub fn leaf(&self, key: &VerifyingKey) -> Result<Hash, PromiseError> {
        use PromiseError::Unreadable;
        let generation = unhex(&self.store_generation).ok_or(Unreadable("the store generation"))?;
        let batch = unhex(&self.batch_hash).ok_or(Unreadable("the batch hash"))?;
        let leaf = unhex(&self.promise.leaf_hash).ok_or(Unreadable("the leaf hash"))?;
        let signature = BASE64.decode(&self.promise.signature).ok();
        let signature: [u8; 64] =
            signature.and_then(|bytes| bytes.try_into().ok()).ok_or(Unreadable("the signature"))?;
        let message = message(&generation, &batch, &leaf, self.promise.received_at);
        key.verify_strict(&message, &Signature::from_bytes(&signature))
            .map_err(|_| PromiseError::NotSigned)?;
        Ok(leaf)
    }
}

/// Promises that are to be found in the ledger.
#[derive(Debug, Default)]
pub struct Promises {
    wanted: HashMap<Hash, Vec<String>>,
    /// Promises read.
    pub read: u64,
    /// What is wrong with promises themselves, one line each.
    pub faults: Vec<String>,
    /// Lines that are none, as a crash leaves them.
    pub unreadable: u64,
}

impl Promises {
    /// Reads all files under a folder whose name is `PROMISES` or ends in `.promises`.
    pub fn under(folder: &Path, key: &VerifyingKey) -> Result<Self, TreeError> {
        let mut promises = Self::default();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            let list = std::fs::read_dir(&folder).map_err(TreeError::file("list", &folder))?;
            for entry in list {
                let path = entry.map_err(TreeError::file("list", &folder))?.path();
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                if path.is_dir() {
                    folders.push(path);
                } else if name == "PROMISES" || name.ends_with(".promises") {
                    promises.file(&path, key)?;
                }
            }
        }
        Ok(promises)
    }

    fn file(&mut self, path: &PathBuf, key: &VerifyingKey) -> Result<(), TreeError> {
        let file = std::fs::File::open(path).map_err(TreeError::file("read", path))?;
        let mut lines = BufReader::new(file);
        for number in 1_u64.. {
            let mut line = Vec::new();
            let read = std::io::Read::take(&mut lines, LONGEST).read_until(b'\n', &mut line);
            if read.map_err(TreeError::file("read", path))? == 0 {
                break;
            }
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let Ok(promise) = serde_json::from_slice::<Promise>(&line) else {
                self.unreadable += 1;
                continue;
            };
            self.read += 1;
            let what = format!(
                "{}, line {number}: batch {}, received {}",
                path.display(),
                promise.sequence,
                promise.promise.received_at
            );
            match promise.leaf(key) {
                Ok(leaf) => self.wanted.entry(leaf).or_default().push(what),
                Err(error) => self.faults.push(format!("{what}: {error}")),
            }
        }
        Ok(())
    }

    /// A leaf that is there.
    pub fn found(&mut self, leaf: &Hash) {
        self.wanted.remove(leaf);
    }

    /// Whether any is still to be found.
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// What is wrong after all leaves were seen, one line for each promise.
    pub fn broken(self) -> Vec<String> {
        let mut faults = self.faults;
        let mut missing: Vec<String> = self.wanted.into_values().flatten().collect();
        missing.sort();
        faults.extend(missing.into_iter().map(|what| format!("{what}: promised and not in the ledger")));
        faults
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;
    use crate::fold::hex;

    fn promise(key: &SigningKey, leaf: Hash) -> Promise {
        let (generation, batch, at) = ([1; 16], [2; 32], UtcMillis(3));
        let signature = key.sign(&message(&generation, &batch, &leaf, at));
        Promise {
            sequence: 7,
            batch_hash: hex(&batch),
            store_generation: hex(&generation),
            promise: Promised {
                leaf_hash: hex(&leaf),
                received_at: at,
                key_id: String::new(),
                signature: BASE64.encode(signature.to_bytes()),
            },
        }
    }

    #[test]
    fn a_promise_counts_only_as_it_was_signed() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let good = promise(&key, [9; 32]);
        assert_eq!(good.leaf(&key.verifying_key()), Ok([9; 32]));
        let mut changed = good.clone();
        changed.promise.received_at = UtcMillis(4);
        assert_eq!(changed.leaf(&key.verifying_key()), Err(PromiseError::NotSigned));
        let mut changed = good;
        changed.promise.leaf_hash = "é".repeat(32);
        assert_eq!(changed.leaf(&key.verifying_key()), Err(PromiseError::Unreadable("the leaf hash")));
    }

    #[test]
    fn promises_that_no_leaf_keeps_are_named_and_torn_lines_counted() {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::from_bytes(&[1; 32]);
        let line = |leaf| serde_json::to_string(&promise(&key, leaf)).unwrap();
        let epoch = folder.path().join("epoch");
        std::fs::create_dir(&epoch).unwrap();
        let text = format!("{}\n\n{}\n{{\"seq", line([5; 32]), line([6; 32]));
        std::fs::write(epoch.join("PROMISES"), text).unwrap();
        let mut promises = Promises::under(folder.path(), &key.verifying_key()).unwrap();
        assert_eq!((promises.read, promises.unreadable), (2, 1));
        promises.found(&[5; 32]);
        let broken = promises.broken();
        assert_eq!(broken.len(), 1, "{broken:?}");
        assert!(broken[0].contains("PROMISES, line 3: batch 7"), "{broken:?}");
    }
}
