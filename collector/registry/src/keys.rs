//! The keys of identities: one for each customer, each under lock of the operator's key, in a folder of its own.
//!
//! Erasing a customer is destroying its key: every copy of its identity, in ledgers and backups that nobody can
//! edit, is unreadable from then on. So the folder must stay out of the backups of the ledger, and a backup of
//! the folder must be one that can forget. Overwriting a file does not reach older blocks of a copying file
//! system or a worn flash disk; what is left there is still under the operator's key.
//!
//! A destroyed key leaves a mark behind, so that it is told from one that is missing, and so that no new key is
//! made for the same customer by an import that came too late. Who returns gets a new customer id.
//!
//! The operator's key can be changed while the store is in use: `rotation`. Deliberately absent: a list of the
//! customers that have keys: file names are hashes.

mod digests;
mod drafts;
mod files;
#[cfg(test)]
mod interrupted;
mod operator;
mod prepare;
mod ring;
mod rotation;
mod secret;
mod shared;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

pub use operator::OperatorKey;
pub use rotation::Locks;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
pub use shared::SharedRecord;
use weighbridge_meter::UtcMillis;
use zeroize::Zeroizing;

use crate::{
    ControlGroupId, CustomerId, Identity, IdentityField, Party, PartyId, SealedCustomer, SealedField,
    Standing,
    party::Basis,
    sealed::{self, DoesNotOpen, Key},
};

use self::{
    files::{hex, io_error, make_folder, sync_folder, wipe},
    ring::Ring,
};

/// Fills its argument with random bytes fit for keys, for example from the system's generator.
pub type RandomSource<'a> = &'a mut dyn FnMut(&mut [u8]);

/// Seals and opens identities with keys from a folder.
pub struct KeyStore {
    folder: PathBuf,
    ring: RwLock<Ring>,
    /// Shared by who makes a key, for as long as it takes; whoever begins to change the operator's key has it alone.
    making: RwLock<()>,
    /// Held while what a customer's file says is changed: of two changes the later counts.
    changing: Mutex<()>,
    /// Keys whose names may not be durable yet.
    unsynced: AtomicUsize,
    /// Whether drafts were looked for where programs of before made them.
    swept: AtomicBool,
}

/// Why a key or a value could not be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The operator has to mend the file of the operator's key.
    #[error("operator key {}: {problem}", path.display())]
    OperatorKey {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// The disk or its permissions; the same call may succeed later.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The customer was erased. Nothing brings the values back.
    #[error(
        "the key of customer {subject} was destroyed: its identity is erased, and its id is not used again"
    )]
    KeyDestroyed {
        /// The customer.
        subject: CustomerId,
    },
    /// The folder is not the one the values were sealed with, or a part of it is lost.
    #[error("no key of customer {subject} at {}", path.display())]
    KeyMissing {
        /// The customer.
        subject: CustomerId,
        /// Where it should be.
        path: PathBuf,
    },
    /// The program runs with another operator's key.
    #[error("{} is locked with operator key {expected}, the one given is {given}", path.display())]
    WrongOperatorKey {
        /// The file of the customer's key.
        path: PathBuf,
        /// Id of the key it was locked with.
        expected: String,
        /// Id of the key in use.
        given: String,
    },
    /// The file of the customer's key has to come back from a backup.
    #[error("key file {} is damaged: {problem}", path.display())]
    KeyDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// One operator's key is taking the place of another: it goes on with that one.
    #[error(
        "operator key {to} is taking the place of another here, the one given is {given}: {}",
        at(file.as_deref())
    )]
    Rotating {
        /// Id of the key that is needed.
        to: String,
        /// Where it was.
        file: Option<PathBuf>,
        /// Id of the key that was given.
        given: String,
    },
    /// There is nothing to change.
    #[error("operator key {given} is the one in use")]
    SameOperatorKey {
        /// Its id.
        given: String,
    },
    /// The key before is still needed.
    #[error("{left} keys are still locked with the operator key before: repeat the change")]
    LocksLeft {
        /// How many.
        left: usize,
    },
    /// A secret of the collector itself was altered, or the program runs with another operator's key.
    #[error("the {purpose} does not open with operator key {given}: altered, or locked with another key")]
    SecretDamaged {
        /// What it is.
        purpose: String,
        /// Id of the key in use.
        given: String,
    },
    /// The value was altered, or sealed for another field, customer or key.
    #[error("the {field} of customer {subject} does not open: altered, or sealed for another place or key")]
    ValueDamaged {
        /// The customer.
        subject: CustomerId,
        /// The field.
        field: IdentityField,
    },
    /// The record was altered, or sealed for another purpose, party or key.
    #[error("the {what} record of {subject} does not open: altered, or sealed for another place or key")]
    RecordDamaged {
        /// The party.
        subject: CustomerId,
        /// Which record.
        what: String,
    },
}

fn at(file: Option<&Path>) -> String {
    match file {
        Some(file) => format!("give that of {}", file.display()),
        None => "give that one".into(),
    }
}

/// The record of who a party is.
const PARTY: &str = "party";

impl KeyStore {
    /// The store in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// [`KeyError::Io`] where the folder can be neither found nor made; [`KeyError::WrongOperatorKey`] where it says
    /// that it is locked with another key, and [`KeyError::Rotating`] where it has begun to be.
    pub fn at(folder: impl Into<PathBuf>, operator: OperatorKey) -> Result<Self, KeyError> {
        let folder = folder.into();
        make_folder(&folder)?;
        make_folder(&folder.join(drafts::FOLDER))?;
        // What a process before linked and could not sync counts from here on.
        sync_folder(&folder)?;
        Ok(Self {
            ring: RwLock::new(Ring::read(&folder, operator)?),
            folder,
            making: RwLock::default(),
            changing: Mutex::default(),
            unsynced: AtomicUsize::new(0),
            swept: AtomicBool::new(false),
        })
    }

    /// Seals what is known of a party. Its key is made if there is none yet. Of `standing` what follows from the record
    /// is taken from there.
    ///
    /// # Errors
    /// As [`KeyStore::seal`].
    pub fn seal_party(
        &self,
        id: &PartyId,
        control_group: Option<ControlGroupId>,
        standing: Standing,
        party: &Party,
        random: RandomSource<'_>,
    ) -> Result<SealedCustomer, KeyError> {
        let text =
            Zeroizing::new(serde_json::to_vec(party).expect("a record has string keys and no failing parts"));
        let open_discrepancies = u32::try_from(party.open_discrepancies().count()).unwrap_or(u32::MAX);
        Ok(SealedCustomer {
            customer: id.clone(),
            kind: party.kind,
            us_person: party.us_person.stands(),
            control_group,
            fields: BTreeMap::new(),
            party: Some(self.seal_record(id, PARTY, &text, random)?),
            known: party.identity().iter().map(|(field, _)| field).collect(),
            standing: Standing { verified: party.verified(), open_discrepancies, ..standing },
        })
    }

    /// Opens what is known of a party.
    /// Looking at an identity is an act to be recorded; that is the caller's part.
    ///
    /// # Errors
    /// As [`KeyStore::open`].
    pub fn open_party(&self, sealed: &SealedCustomer) -> Result<Party, KeyError> {
        let subject = &sealed.customer;
        if let Some(record) = &sealed.party {
            let text = self.open_record(subject, PARTY, record)?;
            return serde_json::from_slice(&text)
                .map_err(|_| KeyError::RecordDamaged { subject: subject.clone(), what: PARTY.into() });
        }
        let mut party = Party::unknown(sealed.kind);
        party.take(&self.open(subject, &sealed.fields)?);
        party.us_person.decide(sealed.us_person, Basis::Told, "a file of customers", UtcMillis(0));
        Ok(party)
    }

    /// Seals a record about a subject, which opens as that alone.
    ///
    /// # Errors
    /// As [`KeyStore::seal`].
    pub fn seal_record(
        &self,
        subject: &PartyId,
        what: &str,
        plaintext: &[u8],
        random: RandomSource<'_>,
    ) -> Result<SealedField, KeyError> {
        let key = self.key_or_new(subject, random)?;
        Ok(sealed::seal(&key, &sealed::place_of_record(subject, what), plaintext, random))
    }

    /// Opens a record about a subject.
    ///
    /// # Errors
    /// As [`KeyStore::open`].
    pub fn open_record(
        &self,
        subject: &PartyId,
        what: &str,
        record: &SealedField,
    ) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let key = self.key_there(subject)?;
        sealed::open(&key, &sealed::place_of_record(subject, what), record)
            .map_err(|DoesNotOpen| KeyError::RecordDamaged { subject: subject.clone(), what: what.into() })
    }

    /// Seals one value. The customer's key is made, and durable, if there is none yet.
    ///
    /// # Errors
    /// [`KeyError::KeyDestroyed`] for a customer that was erased; else what keeps its key from being read or made.
    pub fn seal(
        &self,
        subject: &CustomerId,
        field: IdentityField,
        plaintext: &str,
        random: RandomSource<'_>,
    ) -> Result<SealedField, KeyError> {
        let key = self.key_or_new(subject, random)?;
        Ok(sealed::seal(&key, &sealed::place(subject, field), plaintext.as_bytes(), random))
    }

    /// Opens values of one customer: all of them, or none.
    /// Looking at an identity is an act to be recorded; that is the caller's part.
    ///
    /// # Errors
    /// [`KeyError::KeyDestroyed`] and [`KeyError::KeyMissing`] where there is no key,
    /// [`KeyError::ValueDamaged`] where a value does not belong here; else what keeps the key from being read.
    pub fn open(
        &self,
        subject: &CustomerId,
        fields: &BTreeMap<IdentityField, SealedField>,
    ) -> Result<Identity, KeyError> {
        let key = self.key_there(subject)?;
        let mut identity = Identity::default();
        for (field, value) in fields {
            let damaged = || KeyError::ValueDamaged { subject: subject.clone(), field: *field };
            let plaintext = sealed::open(&key, &sealed::place(subject, *field), value)
                .map_err(|DoesNotOpen| damaged())?;
            let text = str::from_utf8(&plaintext).map_err(|_| damaged())?;
            identity.set(*field, Zeroizing::new(text.into()));
        }
        Ok(identity)
    }

    /// A digest of a text that only who has the store's key for it can make: equal where kind and text are, and
    /// nothing else. It stays the same when the operator's key changes.
    pub fn digest(&self, kind: &str, text: &str) -> String {
        self.ring().digests.digest(kind, text)
    }

    fn ring(&self) -> Ring {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Destroys the key of a customer for good and leaves a mark. Again, or without a key, it only leaves the mark.
    ///
    /// # Errors
    /// [`KeyError::Io`]; the key may then still be there, and the call has to be repeated.
    pub fn destroy(&self, subject: &CustomerId) -> Result<(), KeyError> {
        let path = self.path(subject);
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        // Drafts too: a crash while the key was made can have left one, with the key in it.
        self.destroy_drafts(subject)?;
        let mark = self.draft(subject, drafts::MARK, &KeyFile::Destroyed {}, files::Sync::Now)?;
        wipe(&path)?;
        mark.replace(&path)?;
        sync_folder(&self.folder)
    }

    /// Whether the key of a customer was destroyed.
    ///
    /// # Errors
    /// What keeps its key from being read.
    pub fn is_destroyed(&self, subject: &CustomerId) -> Result<bool, KeyError> {
        match self.key(subject, &self.path(subject)) {
            Ok(_) => Ok(false),
            Err(KeyError::KeyDestroyed { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn path(&self, subject: &CustomerId) -> PathBuf {
        self.folder.join(file_stem(subject) + ".json")
    }

    fn key_there(&self, subject: &CustomerId) -> Result<Key, KeyError> {
        let path = self.path(subject);
        self.key(subject, &path)?.ok_or_else(|| KeyError::KeyMissing { subject: subject.clone(), path })
    }

    fn key_or_new(&self, subject: &CustomerId, random: RandomSource<'_>) -> Result<Key, KeyError> {
        let _nobody_rotates = self.making.read().unwrap_or_else(PoisonError::into_inner);
        let path = self.path(subject);
        if let Some(key) = self.key(subject, &path)? {
            self.settle_names()?;
            return Ok(key);
        }
        let (key, file) = self.new_key(subject, random);
        let draft = self.draft(subject, &draft_name(random), &file, files::Sync::Now)?;
        let linked = self.linked(|| draft.link(&path));
        draft.remove()?;
        if linked? {
            return Ok(key);
        }
        self.key(subject, &path)?.ok_or_else(|| KeyError::KeyMissing { subject: subject.clone(), path })
    }

    /// A fresh key, and what its file says.
    fn new_key(&self, subject: &CustomerId, random: RandomSource<'_>) -> (Key, KeyFile) {
        let mut key = Key::new([0; 32]);
        random(&mut *key);
        let operator = self.ring().current;
        let place = sealed::place_of_file(&file_stem(subject));
        let wrapped = sealed::seal(&operator.key, &place, &*key, random);
        (key, KeyFile::Bound { operator: operator.id(), wrapped })
    }

    /// Gives keys their names, durably. Until that is done, and for good where it fails, nothing is sealed with a
    /// key that was only found without syncing the folder first: its name could be gone after a crash.
    fn linked<T>(&self, link: impl FnOnce() -> Result<T, KeyError>) -> Result<T, KeyError> {
        self.unsynced.fetch_add(1, Ordering::SeqCst);
        let linked = link()?;
        sync_folder(&self.folder)?;
        self.unsynced.fetch_sub(1, Ordering::SeqCst);
        Ok(linked)
    }

    fn settle_names(&self) -> Result<(), KeyError> {
        if self.unsynced.load(Ordering::SeqCst) == 0 { Ok(()) } else { sync_folder(&self.folder) }
    }

    /// `None` where there is neither a key nor the mark of a destroyed one.
    fn key(&self, subject: &CustomerId, path: &Path) -> Result<Option<Key>, KeyError> {
        match self.key_as_read(subject, path) {
            Err(KeyError::KeyDamaged { .. } | KeyError::WrongOperatorKey { .. }) => {
                // It may have been read while it was replaced: what counts is what is there when nobody does that.
                let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
                self.key_as_read(subject, path)
            }
            read => read,
        }
    }

    fn key_as_read(&self, subject: &CustomerId, path: &Path) -> Result<Option<Key>, KeyError> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", path)(error)),
        };
        let damaged = |problem: String| KeyError::KeyDamaged { path: path.into(), problem };
        let file: KeyFile = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        let Some(named) = file.operator() else {
            return Err(KeyError::KeyDestroyed { subject: subject.clone() });
        };
        let ring = self.ring();
        let operator = ring.key(named).ok_or_else(|| KeyError::WrongOperatorKey {
            path: path.into(),
            expected: named.into(),
            given: ring.current.id(),
        })?;
        let another = |DoesNotOpen| damaged("altered, or the key of another customer".into());
        let short = || damaged("the key in it is not of 32 bytes".into());
        let mut inner = match &file {
            KeyFile::Destroyed {} => return Err(KeyError::KeyDestroyed { subject: subject.clone() }),
            KeyFile::Key { wrapped, .. } => {
                sealed::open(&operator.key, &sealed::place_of_key(subject), wrapped).map_err(another)?
            }
            KeyFile::Bound { wrapped, .. } => {
                sealed::open(&operator.key, &sealed::place_of_file(&file_stem(subject)), wrapped)
                    .map_err(another)?
            }
        };
        if let (Some((before, wrapped)), KeyFile::Bound { .. }) = (inner.split_first_chunk::<32>(), &file)
            && !wrapped.is_empty()
        {
            // One of the first form, with the operator's key that it was made under.
            let (before, wrapped) = (Key::new(*before), SealedField::from_bytes(wrapped).ok_or_else(short)?);
            inner = sealed::open(&before, &sealed::place_of_key(subject), &wrapped).map_err(another)?;
        }
        let key = <[u8; 32]>::try_from(inner.as_slice()).map(Key::new);
        key.map(Some).map_err(|_| short())
    }
}

impl fmt::Debug for KeyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyStore").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// What a file of the folder holds.
#[derive(Serialize, Deserialize)]
#[serde(tag = "version", deny_unknown_fields)]
enum KeyFile {
    #[serde(rename = "key-v1")]
    Key {
        /// Id of the operator's key.
        operator: String,
        /// The customer's key under that.
        wrapped: SealedField,
    },
    #[serde(rename = "key-v2")]
    Bound {
        /// Id of the operator's key.
        operator: String,
        /// The customer's key under that, bound to the file's name; or one of the first form, behind the operator's
        /// key that opens it.
        wrapped: SealedField,
    },
    #[serde(rename = "destroyed-v1")]
    Destroyed {},
}

impl KeyFile {
    /// Id of the operator's key; `None` for the mark of a destroyed one.
    fn operator(&self) -> Option<&str> {
        match self {
            Self::Key { operator, .. } | Self::Bound { operator, .. } => Some(operator),
            Self::Destroyed {} => None,
        }
    }
}

fn draft_name(random: RandomSource<'_>) -> String {
    let mut name = [0; 16];
    random(&mut name);
    hex(&name)
}

/// The file with the key of a customer, if a folder of keys has it: no operator's key is needed to look.
///
/// # Errors
/// [`KeyError::Io`] where the folder cannot be read; [`KeyError::KeyDamaged`] where it cannot be told what a file is.
pub fn key_in(folder: &Path, subject: &CustomerId) -> Result<Option<PathBuf>, KeyError> {
    let path = folder.join(file_stem(subject) + ".json");
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    match serde_json::from_slice(&text) {
        Ok(KeyFile::Destroyed {}) => Ok(None),
        Ok(KeyFile::Key { .. } | KeyFile::Bound { .. }) => Ok(Some(path)),
        Err(error) => Err(KeyError::KeyDamaged { path, problem: error.to_string() }),
    }
}

fn file_stem(subject: &CustomerId) -> String {
    hex(&Sha256::digest(subject.as_str()))
}
