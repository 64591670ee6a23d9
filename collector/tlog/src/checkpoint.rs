//! Checkpoints: what a log says its tree is (C2SP tlog-checkpoint), and what a witness adds to that
//! (C2SP tlog-cosignature, version 1).

use ed25519_dalek::{Signature as Ed25519, Signer, SigningKey};

use crate::{
    Hash, decimal, from_base64,
    note::{KeyType, Note, NoteError, Signature, VerifierKey},
    to_base64,
};

/// A tree as a log says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// Leaves.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

/// A checkpoint cannot be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// It does not read.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The text of the note is no checkpoint.
    #[error("not a checkpoint: expected {expected}, found {found:?}")]
    Shape {
        /// What should be there.
        expected: &'static str,
        /// What is.
        found: String,
    },
    /// Of another log.
    #[error("the checkpoint is of {found:?}, expected {expected:?}")]
    Origin {
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// Nobody we know signed it.
    #[error("the checkpoint has no signature of {name}")]
    Unsigned {
        /// Who should have.
        name: String,
    },
}

impl Checkpoint {
    /// The text that is signed.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, to_base64(&self.root))
    }

    /// Reads the text of a note. Lines after the third are not ours to read: they are signed and left alone.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let mut lines = text.split_terminator('\n');
        let mut line = |expected| {
            let found = lines.next().filter(|line| !line.is_empty());
            found.ok_or(CheckpointError::Shape { expected, found: String::new() })
        };
        let origin = line("an origin")?.to_owned();
        let size = line("a size")?;
        let size = decimal(size)
            .ok_or(CheckpointError::Shape { expected: "a size in decimal", found: size.into() })?;
        let root = line("a root hash")?;
        let root = from_base64(root)
            .ok_or(CheckpointError::Shape { expected: "32 bytes in base64", found: root.into() })?;
        if lines.any(str::is_empty) || !text.ends_with('\n') {
            return Err(CheckpointError::Shape { expected: "lines that are not empty", found: text.into() });
        }
        Ok(Self { origin, size, root })
    }

    /// Signs it as its log; `None` if the origin cannot name a key.
    pub fn sign(&self, key: &SigningKey) -> Option<Note> {
        Note::signed(self.text(), &self.origin, key)
    }

    /// The checkpoint in a note that this log signed.
    pub fn open(note: &Note, log: &VerifierKey) -> Result<Self, CheckpointError> {
        let checkpoint = Self::parse(&note.text)?;
        if checkpoint.origin != log.name() {
            let expected = log.name().to_owned();
            return Err(CheckpointError::Origin { found: checkpoint.origin, expected });
        }
        if !note.is_signed_by(log)? {
            return Err(CheckpointError::Unsigned { name: log.name().into() });
        }
        Ok(checkpoint)
    }
}

fn cosigned_text(seconds: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {seconds}\n{text}")
}

/// A witness's line under the text of a checkpoint: it was consistent with all it had seen, at that time.
/// `None` if the name cannot name a key.
pub fn cosign(name: &str, key: &SigningKey, seconds: u64, text: &str) -> Option<Signature> {
    let id = VerifierKey::new(name, KeyType::Cosignature, key.verifying_key())?.id();
    let signature = key.sign(cosigned_text(seconds, text).as_bytes());
    let bytes = [seconds.to_be_bytes().as_slice(), &signature.to_bytes()].concat();
    Some(Signature { name: name.into(), id, bytes })
}

/// When this witness cosigned the text, in seconds since 1970; of several lines the last. `Ok(None)`: it did not.
pub fn cosigned_at(
    text: &str,
    signatures: &[Signature],
    witness: &VerifierKey,
) -> Result<Option<u64>, NoteError> {
    let mut last = None;
    for signature in signatures.iter().filter(|signature| signature.is_of(witness)) {
        let bad = || NoteError::BadSignature { name: witness.name().into() };
        let (seconds, bytes) = signature.bytes.split_first_chunk::<8>().ok_or_else(bad)?;
        let seconds = u64::from_be_bytes(*seconds);
        let bytes = bytes.try_into().map_err(|_| bad())?;
        witness
            .key()
            .verify_strict(cosigned_text(seconds, text).as_bytes(), &Ed25519::from_bytes(bytes))
            .map_err(|_| bad())?;
        last = last.max(Some(seconds));
    }
    Ok(last)
}
