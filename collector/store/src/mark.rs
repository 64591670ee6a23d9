//! How far the ledger was promised, written down outside the data folder.
//!
//! Whoever puts an older copy of the data folder back takes acknowledged entries away, and nothing inside the
//! copy can tell. So generation, end and chain hash of the ledger are noted elsewhere, a few seconds behind;
//! at each start the ledger is [compared](crate::ledger::OpenLedger::contradicts) with that note, and one that ends
//! before it, or leads to it another way, gets a new generation: agents then send again what they still hold.
//!
//! A copy of the whole machine takes the note along. Then the holes in the numbers of each agent tell, as they
//! do for the seconds by which the note is behind.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use weighbridge_meter::EpochId;

use crate::{Place, files};

/// A moment of a ledger: everything before `place`, for which `chain` stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// Of which store.
    pub generation: EpochId,
    /// The next entry.
    #[serde(with = "place")]
    pub place: Place,
    /// The chain hash there.
    #[serde(with = "hash")]
    pub chain: [u8; 32],
}

/// A note cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The disk or its permissions.
    #[error("{}: cannot read or write how far the ledger was promised", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not such a note.
    #[error("{}: expected generation, place and chain hash of a ledger", file.display())]
    Damaged {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl Mark {
    /// Reads it; `None` if there is none.
    pub fn read(file: &Path) -> Result<Option<Self>, MarkError> {
        match std::fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| MarkError::Damaged { file: file.into(), source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(MarkError::File { file: file.into(), source }),
        }
    }

    /// Writes it durably in place of the one before.
    pub fn write(&self, file: &Path) -> Result<(), MarkError> {
        let text = serde_json::to_vec(self).expect("numbers and texts");
        files::replace(file, &text).map_err(|source| MarkError::File { file: file.into(), source })
    }
}

/// A [`Place`] in JSON.
pub mod place {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::Place;

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Json {
        index: u64,
        segment: u64,
        offset: u64,
    }

    /// Three numbers by name.
    pub fn serialize<S: Serializer>(place: &Place, serializer: S) -> Result<S::Ok, S::Error> {
        let Place { index, segment, offset } = *place;
        Json { index, segment, offset }.serialize(serializer)
    }

    /// The same read back.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Place, D::Error> {
        let Json { index, segment, offset } = Json::deserialize(deserializer)?;
        Ok(Place { index, segment, offset })
    }
}

/// 32 bytes in JSON.
pub mod hash {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::{fold::hex, numbers::unhex};

    /// Hexadecimal.
    pub fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(bytes))
    }

    /// The same read back.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        unhex(&text)
            .ok_or_else(|| de::Error::invalid_value(de::Unexpected::Str(&text), &"64 hexadecimal digits"))
    }
}
