//! Records that name several parties: each opens only while the keys of all of them are there, so that erasing one of
//! them takes the whole record away.
//!
//! The record is sealed under a key made of one random share for each party, and each share is sealed under the key of
//! its party. So the record is kept once, however many parties it names.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{KeyError, KeyStore, RandomSource};
use crate::{
    PartyId, SealedField,
    sealed::{self, DoesNotOpen, Key},
};

/// A record under the locks of several parties.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedRecord {
    /// For each party its share of the key.
    shares: BTreeMap<PartyId, SealedField>,
    /// What is said.
    record: SealedField,
}

impl SharedRecord {
    /// Whose keys it needs.
    pub fn parties(&self) -> impl Iterator<Item = &PartyId> {
        self.shares.keys()
    }
}

/// The share of a party is sealed as this record about it.
fn share_of(what: &str) -> String {
    format!("share of {what}")
}

/// The place of a shared record: what it is and whose it is. No part can hold a zero byte.
fn place<'a>(what: &str, parties: impl Iterator<Item = &'a PartyId>) -> Vec<u8> {
    let mut place = format!("weighbridge-shared-v1\0{what}").into_bytes();
    for party in parties {
        place.push(0);
        place.extend_from_slice(party.as_str().as_bytes());
    }
    place
}

/// The key that all shares make together, in the order of their parties.
fn together<'a>(shares: impl Iterator<Item = &'a [u8]>) -> Key {
    let mut hash = Sha256::new_with_prefix(b"weighbridge-shared-key-v1\0");
    for share in shares {
        hash.update(share);
    }
    Zeroizing::new(hash.finalize().into())
}

impl KeyStore {
    /// Seals a record that names these parties. `None` where they are none: then there is nobody whose key could lock it.
    ///
    /// # Errors
    /// As [`KeyStore::seal`].
    pub fn seal_shared(
        &self,
        parties: &BTreeSet<PartyId>,
        what: &str,
        plaintext: &[u8],
        random: RandomSource<'_>,
    ) -> Result<Option<SharedRecord>, KeyError> {
        if parties.is_empty() {
            return Ok(None);
        }
        let (mut open, mut shares) = (Vec::new(), BTreeMap::new());
        for party in parties {
            let mut share = Zeroizing::new([0_u8; 32]);
            random(&mut *share);
            let sealed = self.seal_record(party, &share_of(what), &*share, &mut *random)?;
            shares.insert(party.clone(), sealed);
            open.push(share);
        }
        let key = together(open.iter().map(|share| share.as_slice()));
        let record = sealed::seal(&key, &place(what, parties.iter()), plaintext, random);
        Ok(Some(SharedRecord { shares, record }))
    }

    /// Opens it. Looking at it is an act to be recorded; that is the caller's part.
    ///
    /// # Errors
    /// [`KeyError::KeyDestroyed`] once any of its parties is erased; else as [`KeyStore::open_record`].
    pub fn open_shared(&self, what: &str, shared: &SharedRecord) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let mut open = Vec::new();
        for (party, share) in &shared.shares {
            open.push(self.open_record(party, &share_of(what), share)?);
        }
        let key = together(open.iter().map(|share| share.as_slice()));
        sealed::open(&key, &place(what, shared.shares.keys()), &shared.record).map_err(|DoesNotOpen| {
            match shared.shares.keys().next() {
                Some(party) => KeyError::RecordDamaged { subject: party.clone(), what: what.to_owned() },
                None => KeyError::SecretDamaged { purpose: what.to_owned(), given: "of nobody".to_owned() },
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OperatorKey;

    fn store(folder: &std::path::Path) -> KeyStore {
        KeyStore::at(folder, OperatorKey::generate([1; 32])).unwrap()
    }

    fn random() -> impl FnMut(&mut [u8]) {
        let mut next = 0_u8;
        move |bytes: &mut [u8]| {
            for byte in bytes {
                next = next.wrapping_mul(31).wrapping_add(7);
                *byte = next;
            }
        }
    }

    #[test]
    fn a_shared_record_opens_until_one_of_its_parties_is_erased() {
        let folder = tempfile::tempdir().unwrap();
        let keys = store(folder.path());
        let parties: BTreeSet<PartyId> = ["C-1", "C-2"].map(|id| id.parse().unwrap()).into();
        let shared = keys.seal_shared(&parties, "draft 1", b"who they are", &mut random()).unwrap().unwrap();
        let kept = serde_json::to_string(&shared).unwrap();
        assert!(!kept.contains("who they are"));
        let shared: SharedRecord = serde_json::from_str(&kept).unwrap();
        assert_eq!(keys.open_shared("draft 1", &shared).unwrap().as_slice(), b"who they are");
        assert!(keys.open_shared("draft 2", &shared).is_err(), "it opens as what it is only");

        keys.destroy(&"C-2".parse().unwrap()).unwrap();
        let error = keys.open_shared("draft 1", &shared).unwrap_err();
        assert!(
            matches!(error, KeyError::KeyDestroyed { ref subject } if subject.as_str() == "C-2"),
            "{error}"
        );
    }

    #[test]
    fn a_share_that_is_taken_away_opens_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let keys = store(folder.path());
        let parties: BTreeSet<PartyId> = ["C-1", "C-2"].map(|id| id.parse().unwrap()).into();
        let mut shared = keys.seal_shared(&parties, "draft 1", b"who", &mut random()).unwrap().unwrap();
        shared.shares.pop_last();
        assert!(matches!(keys.open_shared("draft 1", &shared), Err(KeyError::RecordDamaged { .. })));
        shared.shares.clear();
        assert!(keys.open_shared("draft 1", &shared).is_err());
        assert_eq!(keys.seal_shared(&BTreeSet::new(), "draft 1", b"who", &mut random()).unwrap(), None);
    }
}
