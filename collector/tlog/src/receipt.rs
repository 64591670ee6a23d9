//! A proof that something is in a log, as one text that is checked without the log (C2SP tlog-proof).

use std::{fmt, str::FromStr};

use crate::{
    Hash,
    checkpoint::{Checkpoint, CheckpointError},
    decimal, from_base64, leaf_hash,
    note::{Note, NoteError, VerifierKey},
    proof, to_base64,
};

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";

/// The most lines of an inclusion proof: as high as a tree can be.
const MAX_PATH: usize = 64;

/// That a leaf is in a tree that its log signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Which leaf, from 0.
    pub index: u64,
    /// From the leaf to the root.
    pub path: Vec<Hash>,
    /// What the log, and witnesses, signed.
    pub note: Note,
}

/// A receipt proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Its checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The leaf is not in that tree.
    #[error("leaf {index} is not in the tree of size {size}")]
    NotIncluded {
        /// Which leaf.
        index: u64,
        /// Of the tree.
        size: u64,
    },
}

impl Receipt {
    /// The checkpoint of `log` that has a leaf with this data.
    pub fn check(&self, data: &[u8], log: &VerifierKey) -> Result<Checkpoint, ReceiptError> {
        let checkpoint = Checkpoint::open(&self.note, log)?;
        let Checkpoint { size, root, .. } = &checkpoint;
        if !proof::includes(&self.path, &leaf_hash(data), self.index, *size, root) {
            return Err(ReceiptError::NotIncluded { index: self.index, size: *size });
        }
        Ok(checkpoint)
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}\nindex {}", self.index)?;
        self.path.iter().try_for_each(|hash| writeln!(f, "{}", to_base64(hash)))?;
        write!(f, "\n{}", self.note)
    }
}

impl FromStr for Receipt {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let shape = |expected| NoteError::Shape { expected };
        let (head, note) = text.split_once("\n\n").ok_or_else(|| shape("a blank line after the path"))?;
        let mut lines = head.split('\n');
        if lines.next() != Some(FIRST_LINE) {
            return Err(shape("`c2sp.org/tlog-proof@v1` in the first line"));
        }
        let mut line = lines.next();
        if line.is_some_and(|line| line.starts_with("extra ")) {
            line = lines.next(); // Not signed by anybody, so nothing follows from it.
        }
        let index = line.and_then(|line| line.strip_prefix("index ")).and_then(decimal);
        let index = index.ok_or_else(|| shape("`index` and a number"))?;
        let path: Option<Vec<Hash>> = lines.take(MAX_PATH + 1).map(from_base64).collect();
        let path = path.ok_or_else(|| shape("32 bytes in base64 in each line of the path"))?;
        if path.len() > MAX_PATH {
            return Err(shape("at most 64 lines of path"));
        }
        Ok(Self { index, path, note: note.parse()? })
    }
}
