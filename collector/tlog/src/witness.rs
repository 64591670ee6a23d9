//! What a log asks of a witness, and what the witness decides (C2SP tlog-witness, `add-checkpoint`).
//!
//! Deliberately absent: HTTP and files. Whoever answers keeps the checkpoint durably before the cosignature leaves,
//! and decides on one request at a time.

use std::fmt;

use crate::{
    Hash,
    checkpoint::{Checkpoint, CheckpointError},
    decimal, from_base64,
    note::{Note, NoteError, VerifierKey},
    proof, to_base64,
};

/// The most lines of a consistency proof.
const MAX_PROOF: usize = 63;

/// A request: a checkpoint, and the proof that it follows on the last one the witness cosigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// Size of that last one.
    pub old: u64,
    /// That it is the beginning of the new one.
    pub proof: Vec<Hash>,
    /// The new one.
    pub note: Note,
}

impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{}", to_base64(hash)))?;
        write!(f, "\n{}", self.note)
    }
}

impl std::str::FromStr for AddCheckpoint {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let shape = |expected| NoteError::Shape { expected };
        let (head, note) = text.split_once("\n\n").ok_or_else(|| shape("a blank line after the proof"))?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old ")).and_then(decimal);
        let old = old.ok_or_else(|| shape("`old` and a size in the first line"))?;
        let proof: Option<Vec<Hash>> = lines.take(MAX_PROOF + 1).map(from_base64).collect();
        let proof = proof.ok_or_else(|| shape("32 bytes in base64 in each line of the proof"))?;
        if proof.len() > MAX_PROOF {
            return Err(shape("at most 63 lines of proof"));
        }
        Ok(Self { old, proof, note: note.parse()? })
    }
}

/// Why a checkpoint is not cosigned, with the status that says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 404.
    #[error("the log {0:?} is not known here")]
    UnknownLog(String),
    /// 403.
    #[error("the checkpoint is not signed by the key of its log")]
    NotSigned(#[source] CheckpointError),
    /// 400.
    #[error("the old size {old} is above the size {size} of the checkpoint")]
    OldAbove {
        /// What was said.
        old: u64,
        /// Of the checkpoint.
        size: u64,
    },
    /// 400.
    #[error("the request cannot be read")]
    Unreadable(#[source] CheckpointError),
    /// 409: the log has to begin from there.
    #[error("the last checkpoint cosigned here has size {size}")]
    Stale {
        /// Of the last one.
        size: u64,
    },
    /// 409: two trees of one size.
    #[error("another tree of size {size} was cosigned here")]
    Split {
        /// Of both.
        size: u64,
    },
    /// 422.
    #[error("the tree of size {size} does not begin with the one of size {old} that was cosigned here")]
    Inconsistent {
        /// Of the one cosigned.
        old: u64,
        /// Of the one to cosign.
        size: u64,
    },
}

impl Refusal {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::OldAbove { .. } | Self::Unreadable(_) => 400,
            Self::NotSigned(_) => 403,
            Self::UnknownLog(_) => 404,
            Self::Stale { .. } | Self::Split { .. } => 409,
            Self::Inconsistent { .. } => 422,
        }
    }

    /// Whether it is a sign that the log shows different histories, rather than of a mistake.
    pub fn is_evidence(&self) -> bool {
        matches!(self, Self::Split { .. } | Self::Inconsistent { .. })
    }
}

/// Whether the checkpoint may be cosigned, where `last` is what was cosigned last for its log.
pub fn judge(
    logs: &[VerifierKey],
    last: impl Fn(&str) -> Option<(u64, Hash)>,
    request: &AddCheckpoint,
) -> Result<Checkpoint, Refusal> {
    let claimed = Checkpoint::parse(&request.note.text).map_err(Refusal::Unreadable)?;
    let mut keys = logs.iter().filter(|log| log.name() == claimed.origin).peekable();
    if keys.peek().is_none() {
        return Err(Refusal::UnknownLog(claimed.origin));
    }
    let opened: Vec<_> = keys.map(|key| Checkpoint::open(&request.note, key)).collect();
    let mut refused = CheckpointError::Unsigned { name: claimed.origin.clone() };
    let mut believed = None;
    for opened in opened {
        match opened {
            Ok(checkpoint) => believed = Some(checkpoint),
            Err(error) => refused = error,
        }
    }
    let Some(checkpoint) = believed else { return Err(Refusal::NotSigned(refused)) };
    let (old, size) = (request.old, checkpoint.size);
    if old > size {
        return Err(Refusal::OldAbove { old, size });
    }
    let (last_size, last_root) = last(&checkpoint.origin).unwrap_or((0, crate::empty_root()));
    if old != last_size {
        return Err(Refusal::Stale { size: last_size });
    }
    if size == last_size && checkpoint.root != last_root {
        return Err(Refusal::Split { size });
    }
    if !proof::consistent(&request.proof, (old, &last_root), (size, &checkpoint.root)) {
        return Err(Refusal::Inconsistent { old, size });
    }
    Ok(checkpoint)
}
