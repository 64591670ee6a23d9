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
//! Deliberately absent: changing the operator's key, and a list of the customers that have keys: file names are
//! hashes.

mod secret;

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use weighbridge_journal::fail;
use weighbridge_meter::UtcMillis;
use zeroize::Zeroizing;

use crate::{
    ControlGroupId, CustomerId, Identity, IdentityField, Party, PartyId, SealedCustomer, SealedField,
    Standing,
    party::Basis,
    sealed::{self, DoesNotOpen, Key},
};

/// Fills its argument with random bytes fit for keys, for example from the system's generator.
pub type RandomSource<'a> = &'a mut dyn FnMut(&mut [u8]);

/// Seals and opens identities with keys from a folder.
#[derive(Debug)]
pub struct KeyStore {
    folder: PathBuf,
    operator: OperatorKey,
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

/// The record of who a party is.
const PARTY: &str = "party";

impl KeyStore {
    /// The store in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// [`KeyError::Io`] where the folder can be neither found nor made.
    pub fn at(folder: impl Into<PathBuf>, operator: OperatorKey) -> Result<Self, KeyError> {
        let folder = folder.into();
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&folder).map_err(io_error("make folder", &folder))?;
        Ok(Self { folder, operator })
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

    /// See [`OperatorKey::digest`].
    pub fn digest(&self, kind: &str, text: &str) -> String {
        self.operator.digest(kind, text)
    }

    /// Destroys the key of a customer for good and leaves a mark. Again, or without a key, it only leaves the mark.
    ///
    /// # Errors
    /// [`KeyError::Io`]; the key may then still be there, and the call has to be repeated.
    pub fn destroy(&self, subject: &CustomerId) -> Result<(), KeyError> {
        let path = self.path(subject);
        // Drafts too: a crash while the key was made can have left one, with the key in it.
        for entry in fs::read_dir(&self.folder).map_err(io_error("list folder", &self.folder))? {
            let entry = entry.map_err(io_error("list folder", &self.folder))?;
            let name = entry.file_name();
            let is_draft = name
                .to_str()
                .is_some_and(|name| name.starts_with(&file_stem(subject)) && name.ends_with(DRAFT));
            if is_draft {
                wipe(&entry.path())?;
                fail::around("keys.remove_draft", || fs::remove_file(entry.path()))
                    .map_err(io_error("remove", &entry.path()))?;
            }
        }
        let mark = self.draft(subject, "destroyed", &KeyFile::Destroyed {})?;
        wipe(&path)?;
        fail::around("keys.replace", || fs::rename(&mark, &path)).map_err(io_error("replace", &path))?;
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
        let path = self.path(subject);
        if let Some(key) = self.key(subject, &path)? {
            return Ok(key);
        }
        let mut key = Key::new([0; 32]);
        random(&mut *key);
        let wrapped = sealed::seal(&self.operator.key, &sealed::place_of_key(subject), &*key, random);
        let mut name = [0; 16];
        random(&mut name);
        let draft =
            self.draft(subject, &hex(&name), &KeyFile::Key { operator: self.operator.id(), wrapped })?;
        // A link, not a rename: it fails where another process was first, instead of losing that one's key.
        let linked = fail::around("keys.link", || fs::hard_link(&draft, &path));
        fs::remove_file(&draft).map_err(io_error("remove", &draft))?;
        match linked {
            Ok(()) => {
                sync_folder(&self.folder)?;
                Ok(key)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self
                .key(subject, &path)?
                .ok_or_else(|| KeyError::KeyMissing { subject: subject.clone(), path }),
            Err(error) => Err(io_error("make", &path)(error)),
        }
    }

    /// `None` where there is neither a key nor the mark of a destroyed one.
    fn key(&self, subject: &CustomerId, path: &Path) -> Result<Option<Key>, KeyError> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", path)(error)),
        };
        let damaged = |problem: String| KeyError::KeyDamaged { path: path.into(), problem };
        let file: KeyFile = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        let KeyFile::Key { operator, wrapped } = file else {
            return Err(KeyError::KeyDestroyed { subject: subject.clone() });
        };
        let given = self.operator.id();
        if operator != given {
            return Err(KeyError::WrongOperatorKey { path: path.into(), expected: operator, given });
        }
        let key = sealed::open(&self.operator.key, &sealed::place_of_key(subject), &wrapped)
            .map_err(|DoesNotOpen| damaged("altered, or the key of another customer".into()))?;
        let key = <[u8; 32]>::try_from(key.as_slice()).map(Key::new);
        key.map(Some).map_err(|_| damaged("the key in it is not of 32 bytes".into()))
    }

    /// A file with this content, durable, under a name that no reader looks at.
    fn draft(&self, subject: &CustomerId, name: &str, content: &KeyFile) -> Result<PathBuf, KeyError> {
        let path = self.folder.join(format!("{}.{name}{DRAFT}", file_stem(subject)));
        let text = serde_json::to_vec(content).map_err(|error| io_error("write", &path)(error.into()))?;
        write_private(&path, &text)?;
        Ok(path)
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
    #[serde(rename = "destroyed-v1")]
    Destroyed {},
}

const DRAFT: &str = ".draft";

fn file_stem(subject: &CustomerId) -> String {
    hex(&Sha256::digest(subject.as_str()))
}

/// The operator's key, which locks those of the customers. Wiped when dropped; `Debug` shows only its id.
pub struct OperatorKey {
    key: Key,
}

impl OperatorKey {
    /// A key of 32 fresh random bytes.
    pub fn generate(random: [u8; 32]) -> Self {
        Self { key: Key::new(random) }
    }

    /// Reads a file of 32 bytes in standard base64, 44 characters and a line end.
    ///
    /// # Errors
    /// [`KeyError::OperatorKey`] where the content is something else, or where others than owner and group may
    /// read the file, or others than the owner may write it; [`KeyError::Io`] where it cannot be read.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        let problem = |problem: String| KeyError::OperatorKey { path: path.into(), problem };
        let file = fs::File::open(path).map_err(io_error("read operator key", path))?;
        let metadata = file.metadata().map_err(io_error("read operator key", path))?;
        if !metadata.is_file() {
            return Err(problem("not a file, expected one of 32 bytes in base64".into()));
        }
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
            // A group may read: services get secrets that way.
            if mode & 0o027 != 0 {
                return Err(problem(format!("its mode is {mode:04o}, expected 0600, 0400 or 0440")));
            }
        }
        // Room for any sane file at once: a buffer that grows leaves copies behind.
        let mut text = Zeroizing::new(Vec::with_capacity(1024));
        file.take(1024).read_to_end(&mut text).map_err(io_error("read operator key", path))?;
        let mut bytes = Zeroizing::new([0; 64]);
        match STANDARD.decode_slice(text.trim_ascii(), &mut *bytes) {
            Ok(32) => {}
            Ok(length) => return Err(problem(format!("it holds {length} bytes, expected 32 in base64"))),
            Err(_) => return Err(problem("it is not base64 of 32 bytes, 44 characters".into())),
        }
        let mut key = Key::new([0; 32]);
        key.copy_from_slice(&bytes[..32]);
        Ok(Self { key })
    }

    /// Writes the key to a new file that only its owner may read.
    ///
    /// # Errors
    /// [`KeyError::Io`], also where the file is already there: what is locked with the key in it would be lost.
    pub fn save_new(&self, path: &Path) -> Result<(), KeyError> {
        // Room for all of it at once: a string that grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(64));
        STANDARD.encode_string(self.key.as_slice(), &mut text);
        text.push('\n');
        // Whole or not there: half a key after a crash would need a person. What a crash left is nobody's key.
        let half = path.with_extension("new");
        match fs::remove_file(&half) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &half)(error));
            }
            _ => {}
        }
        write_private(&half, text.as_bytes())?;
        // A link, not a rename: it fails where there is a key already.
        let linked = fail::around("operator_key.link", || fs::hard_link(&half, path));
        fs::remove_file(&half).map_err(io_error("remove", &half))?;
        linked.map_err(io_error("make", path))?;
        sync_folder(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }

    /// A digest of a text that only who has the key can make: equal where kind and text are, and nothing else.
    pub fn digest(&self, kind: &str, text: &str) -> String {
        // HMAC, RFC 2104; the key is shorter than a block.
        let mut pads = [Zeroizing::new([0x36_u8; 64]), Zeroizing::new([0x5c_u8; 64])];
        for pad in &mut pads {
            pad.iter_mut().zip(self.key.as_slice()).for_each(|(pad, key)| *pad ^= key);
        }
        let [inner, outer] = pads;
        let domain = Sha256::new().chain_update(*inner).chain_update("weighbridge-hint-v1\0");
        let message = domain.chain_update(kind).chain_update("\0").chain_update(text).finalize();
        hex(&Sha256::new().chain_update(*outer).chain_update(message).finalize()[..16])
    }

    /// Tells keys apart without showing them: 16 hexadecimal digits of a hash.
    pub fn id(&self) -> String {
        let digest = Sha256::new()
            .chain_update("weighbridge-operator-key-v1\0")
            .chain_update(self.key.as_slice())
            .finalize();
        hex(&digest[..8])
    }
}

impl fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperatorKey({})", self.id())
    }
}

fn write_private(path: &Path, content: &[u8]) -> Result<(), KeyError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(io_error("make", path))?;
    fail::around("keys.write", || file.write_all(content).and_then(|()| file.sync_all()))
        .map_err(io_error("write", path))
}

/// Overwrites a file where it lies, if it is there.
fn wipe(path: &Path) -> Result<(), KeyError> {
    let mut file = match fs::OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("overwrite", path)(error)),
    };
    let length = file.metadata().map_err(io_error("overwrite", path))?.len();
    io::copy(&mut io::repeat(0).take(length), &mut file)
        .and_then(|_| file.sync_all())
        .map_err(io_error("overwrite", path))
}

/// A name is durable only once its folder is.
fn sync_folder(folder: &Path) -> Result<(), KeyError> {
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync folder", folder))
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyError {
    let path = path.to_path_buf();
    move |source| KeyError::Io { doing, path, source }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
