//! What the collector signed when it acknowledged a batch: that the batch, received then, is a leaf of its log.
//!
//! Agents keep these promises. Whoever has them can show later that a batch was taken out of the ledger.
//!
//! A signature is a quarter of what taking a small batch costs, so batches that became durable together share one: over
//! the root of a small tree (RFC 6962) of what is promised to each, and each promise carries the path to it.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use weighbridge_meter::{UtcMillis, hex};
use weighbridge_tlog::{Hash, from_base64, node_hash, proof, to_base64};
use weighbridge_wire::KeyId;

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
    /// Over [`message`], or over [`message_of_group`] where it shares the signature with others; base64.
    pub signature: String,
    /// Its place among those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<PlaceInGroup>,
}

/// Where in a group a promise stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceInGroup {
    /// From 0.
    pub index: u64,
    /// Promises in the group.
    pub size: u64,
    /// Hashes that lead from this one to the root, nearest first, base64.
    pub path: Vec<String>,
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

/// What is signed of a group: the root of the tree of what is promised to each.
pub fn message_of_group(generation: &[u8; 16], root: &Hash) -> Vec<u8> {
    [b"weighbridge-promises-v1\0".as_slice(), generation, root].concat()
}

/// What is promised to one of a group.
fn leaf(batch_hash: &Hash, leaf_hash: &Hash, received_at: UtcMillis) -> Hash {
    weighbridge_tlog::leaf_hash(&[batch_hash.as_slice(), leaf_hash, &received_at.0.to_le_bytes()].concat())
}

/// What is to be promised of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// Hash of the batch.
    pub batch_hash: Hash,
    /// Hash of its leaf in the log.
    pub leaf_hash: Hash,
    /// When it was received.
    pub received_at: UtcMillis,
}

/// What became durable together; signed once, when the first of it is asked for.
#[derive(Debug)]
pub struct Group {
    words: Vec<Word>,
    signed: OnceLock<Signed>,
}

#[derive(Debug)]
struct Signed {
    /// The tree, leaves first.
    levels: Vec<Vec<Hash>>,
    key_id: String,
    signature: String,
}

/// One of a group.
#[derive(Clone, Debug)]
pub struct InGroup {
    group: Arc<Group>,
    index: usize,
}

/// Of the same word, whatever it shares its signature with.
impl PartialEq for InGroup {
    fn eq(&self, other: &Self) -> bool {
        self.word() == other.word()
    }
}

impl Eq for InGroup {}

impl Group {
    /// Of these, in this order.
    pub fn of(words: Vec<Word>) -> Arc<Self> {
        Arc::new(Self { words, signed: OnceLock::new() })
    }

    /// The one with this number, from 0.
    pub fn at(self: &Arc<Self>, index: usize) -> Option<InGroup> {
        (index < self.words.len()).then(|| InGroup { group: self.clone(), index })
    }

    fn sign(&self, generation: &[u8; 16], key: &SigningKey) -> Signed {
        let (mut levels, message) = match self.words.as_slice() {
            [only] => (Vec::new(), message(generation, &only.batch_hash, &only.leaf_hash, only.received_at)),
            words => {
                let leaves =
                    words.iter().map(|word| leaf(&word.batch_hash, &word.leaf_hash, word.received_at));
                let levels = levels(leaves.collect());
                let root = levels.last().and_then(|top| top.first()).copied().unwrap_or_default();
                (levels, message_of_group(generation, &root))
            }
        };
        levels.pop();
        Signed {
            levels,
            key_id: KeyId::of(&key.verifying_key()).to_string(),
            signature: BASE64.encode(key.sign(&message).to_bytes()),
        }
    }
}

impl InGroup {
    /// What is promised.
    pub fn word(&self) -> Word {
        self.group.words[self.index]
    }

    /// The promise, signed by this key for this store. All of a group are asked for with the same.
    pub fn promise(&self, generation: &[u8; 16], key: &SigningKey) -> Promised {
        let Word { leaf_hash, received_at, .. } = self.word();
        let signed = self.group.signed.get_or_init(|| self.group.sign(generation, key));
        let of_level =
            |(depth, level): (usize, &Vec<Hash>)| level.get(self.index >> depth ^ 1).map(to_base64);
        let size = self.group.words.len();
        let group = (size > 1).then(|| PlaceInGroup {
            index: self.index as u64,
            size: size as u64,
            path: signed.levels.iter().enumerate().filter_map(of_level).collect(),
        });
        Promised {
            leaf_hash: hex(&leaf_hash),
            received_at,
            key_id: signed.key_id.clone(),
            signature: signed.signature.clone(),
            group,
        }
    }
}

/// All levels of a tree, leaves first, the root last. What has no neighbour goes up as it is, which gives the same tree
/// as splitting from above at powers of two.
fn levels(leaves: Vec<Hash>) -> Vec<Vec<Hash>> {
    let mut levels = vec![leaves];
    while let Some(below) = levels.last().filter(|below| below.len() > 1) {
        let above = below.chunks(2).map(|pair| match pair {
            [left, right] => node_hash(left, right),
            odd => odd[0],
        });
        let above = above.collect();
        levels.push(above);
    }
    levels
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
        let message = match &self.promise.group {
            None => message(&generation, &batch, &leaf, self.promise.received_at),
            Some(place) => {
                let root = place.root(&self::leaf(&batch, &leaf, self.promise.received_at));
                message_of_group(&generation, &root.ok_or(Unreadable("the place in the group"))?)
            }
        };
        key.verify_strict(&message, &Signature::from_bytes(&signature))
            .map_err(|_| PromiseError::NotSigned)?;
        Ok(leaf)
    }
}

impl PlaceInGroup {
    /// The root that the leaf and its path lead to; `None` if there is no such place or path.
    fn root(&self, leaf: &Hash) -> Option<Hash> {
        let path: Vec<Hash> = self.path.iter().map(|hash| from_base64(hash)).collect::<Option<_>>()?;
        proof::root_of(&path, leaf, self.index, self.size)
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
                group: None,
            },
        }
    }

    #[test]
    fn each_of_a_group_is_promised_by_one_signature_and_for_no_other() {
        let (key, generation) = (SigningKey::from_bytes(&[1; 32]), [7; 16]);
        for size in 1..40_u8 {
            let word = |number: u8| Word {
                batch_hash: [number; 32],
                leaf_hash: [100 + number; 32],
                received_at: UtcMillis(i64::from(number)),
            };
            let group = Group::of((0..size).map(word).collect());
            let promises: Vec<Promise> = (0..size)
                .map(|number| Promise {
                    sequence: 1,
                    batch_hash: hex(&[number; 32]),
                    store_generation: hex(&generation),
                    promise: group.at(number.into()).unwrap().promise(&generation, &key),
                })
                .collect();
            assert!(group.at(size.into()).is_none());
            for (promise, number) in promises.iter().zip(0..) {
                assert_eq!(promise.promise.signature, promises[0].promise.signature);
                assert_eq!(promise.leaf(&key.verifying_key()), Ok([100 + number; 32]), "{number} of {size}");
                for other in promises.iter().filter(|other| *other != promise) {
                    let place = other.promise.group.clone();
                    let moved = Promised { group: place, ..promise.promise.clone() };
                    let moved = Promise { promise: moved, ..promise.clone() };
                    assert!(moved.leaf(&key.verifying_key()).is_err(), "{number} of {size}");
                }
                let alone = Promised { group: None, ..promise.promise.clone() };
                let alone = Promise { promise: alone, ..promise.clone() };
                assert_eq!(alone.leaf(&key.verifying_key()).is_ok(), size == 1);
            }
        }
    }

    #[test]
    fn a_place_that_no_group_has_is_refused() {
        let key = SigningKey::from_bytes(&[1; 32]);
        for (index, size, path) in [
            (0, 0, vec![]),
            (1, 1, vec![]),
            (5, 2, vec![to_base64(&[1; 32])]),
            (0, 2, vec!["no hash".into()]),
            (0, u64::MAX, vec![to_base64(&[1; 32]); 64]),
            (u64::MAX - 1, u64::MAX, Vec::new()),
        ] {
            let mut promise = promise(&key, [9; 32]);
            promise.promise.group = Some(PlaceInGroup { index, size, path });
            assert!(promise.leaf(&key.verifying_key()).is_err());
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
