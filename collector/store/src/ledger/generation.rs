//! The name of a store, and when it must get a new one.
//!
//! Agents that see another generation than the one that acknowledged their batches send again what they still
//! hold. So a ledger that lost entries, by whatever was put back in its place, needs a new one. Why it got it is
//! noted in `RENEWED` beside it until it is a fact in the ledger: a crash in between loses neither.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use weighbridge_journal::{Damage, ReadError, Reader};
use weighbridge_meter::{EpochId, UtcMillis};

use super::{Ledger, LedgerError, OpenLedger};
use crate::{
    Place, files,
    mark::{self, Mark},
};

/// Why a store has the generation it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renewal {
    /// The new one.
    pub generation: EpochId,
    /// The one before.
    pub before: EpochId,
    /// What happened.
    pub reason: Reason,
    /// When that was noticed or done.
    pub at: UtcMillis,
    /// Where the ledger ended then: what follows is of the new generation.
    #[serde(with = "mark::place")]
    pub place: Place,
    /// How far it had been promised, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promised: Option<Mark>,
    /// The backup it was restored from, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
}

/// What happened to a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It was restored from a backup.
    Restored,
    /// It ends before what was promised.
    Behind,
    /// It does not lead to what was promised.
    OtherHistory,
    /// It is of another generation than what was promised.
    OtherGeneration,
    /// How far it was promised can no longer be read.
    MarkDamaged,
}

impl Reason {
    /// As recorded and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::Behind => "behind",
            Self::OtherHistory => "other_history",
            Self::OtherGeneration => "other_generation",
            Self::MarkDamaged => "mark_damaged",
        }
    }
}

/// The file that names the generation.
pub const GENERATION: &str = "GENERATION";

/// The file that says why, until the ledger does.
const RENEWED: &str = "RENEWED";

fn failed(file: PathBuf) -> impl FnOnce(io::Error) -> LedgerError {
    move |source| LedgerError::Generation { file, source }
}

/// Gives the ledger in `folder`, which nobody has open, another generation for this reason.
pub fn renew(folder: &Path, renewal: &Renewal) -> Result<(), LedgerError> {
    let note = folder.join(RENEWED);
    let text = serde_json::to_vec(renewal).expect("numbers and texts");
    files::replace(&note, &text).map_err(failed(note))?;
    name(folder, renewal.generation)
}

fn name(folder: &Path, generation: EpochId) -> Result<(), LedgerError> {
    let file = folder.join(GENERATION);
    files::replace(&file, generation.to_string().as_bytes()).map_err(failed(file))
}

/// The renewal that is not yet in the ledger; one that a crash left half done is finished.
pub(super) fn pending(folder: &Path) -> Result<Option<Renewal>, LedgerError> {
    let Some(renewal) = noted(folder)? else { return Ok(None) };
    name(folder, renewal.generation)?;
    Ok(Some(renewal))
}

/// The renewal that is not yet in the ledger, as it is noted beside it.
pub fn noted(folder: &Path) -> Result<Option<Renewal>, LedgerError> {
    let note = folder.join(RENEWED);
    match fs::read(&note) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from).map_err(failed(note)).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(note)(error)),
    }
}

impl OpenLedger {
    /// What a ledger has to say against the note of how far it was promised; `None`: it goes on from there.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn contradicts(&self, mark: &Mark) -> Result<Option<Reason>, ReadError> {
        let durable = self.journal.durable();
        if mark.generation.0 != self.generation {
            return Ok(Some(Reason::OtherGeneration));
        }
        if durable < mark.place {
            return Ok(Some(Reason::Behind));
        }
        if durable == mark.place {
            return Ok((self.journal.chain() != mark.chain).then_some(Reason::OtherHistory));
        }
        match Reader::following(&self.folder, mark.place, mark.chain).next_before(durable) {
            Ok(_) => Ok(None),
            Err(ReadError::Corrupt(corrupt))
                if matches!(
                    corrupt.damage,
                    Damage::Chain | Damage::HeaderChain | Damage::FirstIndex { .. } | Damage::CutShort
                ) =>
            {
                Ok(Some(Reason::OtherHistory))
            }
            // What was noted has been pruned since, which is done to what is much older than its end.
            Err(ReadError::NoSegment { oldest: Some(oldest), .. }) if mark.place.segment < oldest => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives it another generation for this reason, which is pending until it is recorded.
    pub fn renew(&mut self, renewal: Renewal) -> Result<(), LedgerError> {
        renew(&self.folder, &renewal)?;
        self.generation = renewal.generation.0;
        self.pending = Some(renewal);
        Ok(())
    }

    /// Why it has its generation, if that is not yet in the ledger.
    pub fn pending_renewal(&self) -> Option<&Renewal> {
        self.pending.as_ref()
    }

    /// Random bytes made with this ledger: another one has others.
    pub fn generation(&self) -> EpochId {
        EpochId(self.generation)
    }

    /// Number of its oldest segment: above 1, what came before was pruned.
    pub fn oldest_segment(&self) -> u64 {
        self.journal.segments().first().map_or(1, |segment| segment.number)
    }
}

/// How far a ledger is durable, as it moves: it keeps nothing open.
#[derive(Clone, Debug)]
pub struct Promised {
    generation: EpochId,
    tip: watch::Receiver<(Place, [u8; 32])>,
}

impl Promised {
    /// Returns once it has moved; `false` if it never will again.
    pub async fn changed(&mut self) -> bool {
        self.tip.changed().await.is_ok()
    }

    /// Whether it never will again.
    pub fn is_closed(&self) -> bool {
        self.tip.has_changed().is_err()
    }

    /// How far it is.
    pub fn mark(&mut self) -> Mark {
        let (place, chain) = *self.tip.borrow_and_update();
        Mark { generation: self.generation, place, chain }
    }
}

impl Ledger {
    /// How far it is durable, with the chain hash there.
    pub fn mark(&self) -> Mark {
        self.promised().mark()
    }

    /// The same, as it moves.
    pub fn promised(&self) -> Promised {
        Promised { generation: EpochId(self.generation), tip: self.tip.clone() }
    }

    /// Forgets the note of a renewal that is a durable fact now.
    pub fn renewal_recorded(&self) -> Result<(), LedgerError> {
        let note = self.folder.join(RENEWED);
        files::remove(&note).and_then(|()| files::sync_folder(&self.folder)).map_err(failed(note))
    }
}
