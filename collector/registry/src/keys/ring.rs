//! Which operator's key is in use, and which one is being left: `operator.json`, beside the keys.
//!
//! The file says the ids, holds the key of digests, and, while one key takes the place of another, the one before
//! under lock of the new one. So whoever has the new key can go on at any moment, and the old key opens nothing of it.
//! It is missing in a store of before, which has the key it is opened with.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    KeyError, KeyStore, OperatorKey, RandomSource,
    digests::DigestKey,
    drafts::Draft,
    files::{self, io_error, overwrite, step, sync_folder},
};
use crate::sealed::{self, DoesNotOpen, Key, SealedField};

/// The name of the file.
pub(super) const FILE: &str = "operator.json";

/// The keys in use.
#[derive(Clone)]
pub(super) struct Ring {
    pub(super) current: Arc<OperatorKey>,
    pub(super) before: Option<Arc<OperatorKey>>,
    pub(super) digests: Arc<DigestKey>,
    /// Whether the file is there.
    pub(super) kept: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: String,
    /// Id of the key in use.
    operator: String,
    /// The key of digests, under that.
    digests: SealedField,
    /// Missing unless one key is taking the place of another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<Before>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Before {
    operator: String,
    /// That key, under the one in use.
    key: SealedField,
    /// From where the one in use came, so that a start with the one before finds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
}

const VERSION: &str = "operator-v1";
const DIGESTS: &[u8] = b"weighbridge-digests-v1\0";
const BEFORE: &[u8] = b"weighbridge-operator-before-v1\0";

impl Ring {
    /// The key with this id.
    pub(super) fn key(&self, id: &str) -> Option<&OperatorKey> {
        [Some(&self.current), self.before.as_ref()]
            .into_iter()
            .flatten()
            .map(|key| &**key)
            .find(|key| key.id() == id)
    }

    /// As the folder says.
    pub(super) fn read(folder: &Path, given: OperatorKey) -> Result<Self, KeyError> {
        let path = folder.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let digests = Arc::new(DigestKey::of(&given));
                return Ok(Self { current: Arc::new(given), before: None, digests, kept: false });
            }
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let damaged = |problem: String| KeyError::KeyDamaged { path: path.clone(), problem };
        let stored: Stored = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if stored.version != VERSION {
            return Err(damaged(format!("version {:?}, expected {VERSION:?}", stored.version)));
        }
        if stored.operator != given.id() {
            return Err(match stored.before {
                Some(before) if before.operator == given.id() => {
                    KeyError::Rotating { to: stored.operator, file: before.file, given: given.id() }
                }
                _ => KeyError::WrongOperatorKey { path, expected: stored.operator, given: given.id() },
            });
        }
        let altered = |DoesNotOpen| damaged("altered".into());
        let digests = sealed::open(&given.key, DIGESTS, &stored.digests).map_err(altered)?;
        let digests = DigestKey::from_bytes(&digests).ok_or_else(|| damaged("no key of digests".into()))?;
        let before = match stored.before {
            None => None,
            Some(before) => {
                let key = sealed::open(&given.key, BEFORE, &before.key).map_err(altered)?;
                let key = <[u8; 32]>::try_from(key.as_slice()).map(Key::new);
                let key = key.map_err(|_| damaged("no key of an operator".into()))?;
                Some(Arc::new(OperatorKey { key }))
            }
        };
        Ok(Self { current: Arc::new(given), before, digests: Arc::new(digests), kept: true })
    }

    fn stored(&self, file: Option<&Path>, random: RandomSource<'_>) -> Stored {
        let key = &self.current.key;
        let before = self.before.as_ref().map(|before| Before {
            operator: before.id(),
            key: sealed::seal(key, BEFORE, before.key.as_slice(), random),
            file: file.map(Path::to_owned),
        });
        let digests = sealed::seal(key, DIGESTS, self.digests.as_bytes(), random);
        Stored { version: VERSION.into(), operator: self.current.id(), digests, before }
    }
}

impl KeyStore {
    /// Keeps `ring` in the folder, and uses it from then on.
    pub(super) fn keep(
        &self,
        mut ring: Ring,
        file: Option<&Path>,
        random: RandomSource<'_>,
    ) -> Result<(), KeyError> {
        let path = self.folder.join(FILE);
        let text = serde_json::to_vec(&ring.stored(file, random))
            .map_err(|error| io_error("write", &path)(error.into()))?;
        let draft = Draft::of(
            self.folder.join(super::drafts::FOLDER).join("operator.draft"),
            &text,
            files::Sync::Now,
        )?;
        let old = match fs::OpenOptions::new().write(true).open(&path) {
            Ok(old) => Some(old),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_error("open", &path)(error)),
        };
        draft.replace(&path)?;
        sync_folder(&self.folder)?;
        ring.kept = true;
        *self.ring.write().unwrap_or_else(std::sync::PoisonError::into_inner) = ring;
        // What is under the key before, which is nobody's any more by name.
        if let Some(mut old) = old {
            step("keys.wipe", || overwrite(&mut old).and_then(|()| old.sync_all()))
                .map_err(io_error("overwrite", &path))?;
        }
        Ok(())
    }

    /// Gives a store its file, for when nobody else uses the folder, and removes the drafts that crashes left. The
    /// digests of a store in which there are keys stay those that follow from its operator's key; a new one draws a
    /// key for them.
    ///
    /// # Errors
    /// [`KeyError::Io`].
    pub fn settle(&self, random: RandomSource<'_>) -> Result<(), KeyError> {
        self.clear_drafts()?;
        let mut ring = self.ring();
        if ring.kept {
            return Ok(());
        }
        if self.names()?.is_empty() {
            let mut fresh = Zeroizing::new([0; 64]);
            random(&mut *fresh);
            ring.digests = Arc::new(DigestKey::from_bytes(&*fresh).expect("it has the length"));
        }
        self.keep(ring, None, random)
    }
}
