//! Rule packs as files: those that come with the program, and those of the operator, each with its signature beside it.
//!
//! A pack that cannot be used stops the start, whatever is wrong with it: a collector that runs without a rule looks
//! like one under whose rules nobody did anything. For the same reason a signature without its pack does.
//!
//! All versions of a pack are kept: the newest is compared with totals, the others are what findings and cases were
//! made under. A text never changes under its version, and each that was in use is in the ledger, so that a case can
//! be reported under its own text when the file is long gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use weighbridge_casework::{PackError, RulePack};
use weighbridge_store::{Fact, SqliteStore, StoreError, UsageStore, fold::hex};
use weighbridge_tlog::note::{KeyType, Note, NoteError, SignerKey, VerifierKey};

use crate::{
    app::{StartError, record, unreadable},
    judge::fact,
};

/// First line of what is signed, so that no signature of another kind can stand for one of a pack.
const FORMAT: &str = "weighbridge-pack/v1";

/// The longest pack that is read, in bytes; longer ones are refused.
const MAX_BYTES: u64 = 1 << 20;

/// What the name of a signature ends in, after the name of its pack.
const SIG: &str = ".sig";

/// A pack cannot be used as a file.
#[derive(Debug, thiserror::Error)]
pub enum PackFileError {
    /// It cannot be read.
    #[error("{file}: cannot be read: {source}")]
    Unreadable {
        /// Which, or the folder.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// It says what cannot be.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Its signature is missing or wrong.
    #[error("{file}: {problem}")]
    Signature {
        /// Which pack.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// There is another of its name.
    #[error(
        "{file}: the program comes with another text of this id and version (SHA-256 {shipped}, this one {found}); \
         give a changed pack a version of its own"
    )]
    Twice {
        /// Which.
        file: String,
        /// Of the one in the program.
        shipped: String,
        /// Of the file.
        found: String,
    },
}

/// All packs that a collector starts with.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    /// The newest version of each, in order of ids.
    pub newest: Vec<RulePack>,
    /// All others.
    pub older: Vec<RulePack>,
    /// Who signed what came out of the folder, by `<id>@<version>`.
    pub signers: BTreeMap<String, Vec<String>>,
}

/// Reads the packs of the program and of a folder.
pub fn load(folder: Option<&Path>, trusted: &[VerifierKey]) -> Result<Shelf, PackFileError> {
    let mut all: BTreeMap<(String, u32), RulePack> = BTreeMap::new();
    for (file, text) in weighbridge_casework::shipped() {
        let pack = RulePack::parse(file, text)?;
        all.insert((pack.id.clone(), pack.number()), pack);
    }
    let mut signers = BTreeMap::new();
    for (path, file) in folder.map(files).transpose()?.unwrap_or_default() {
        let text = read(&path, &file)?;
        let by = signed_by(&path, &file, &text, trusted)?;
        let pack = RulePack::parse(&file, &text)?;
        let key = (pack.id.clone(), pack.number());
        if let Some(shipped) = all.get(&key).filter(|shipped| shipped.sha256() != pack.sha256()) {
            let (shipped, found) = (shipped.sha256().to_owned(), pack.sha256().to_owned());
            return Err(PackFileError::Twice { file, shipped, found });
        }
        signers.insert(pack.named(), by);
        all.insert(key, pack);
    }
    let mut shelf = Shelf { signers, ..Shelf::default() };
    // In order of id and version: the last of an id is the newest.
    for pack in all.into_values() {
        if shelf.newest.last().is_some_and(|last| last.id == pack.id) {
            shelf.older.extend(shelf.newest.pop());
        }
        shelf.newest.push(pack);
    }
    Ok(shelf)
}

/// The packs in a folder, in order of names. What is neither a pack nor a signature is left alone.
fn files(folder: &Path) -> Result<Vec<(PathBuf, String)>, PackFileError> {
    let failed = |source| PackFileError::Unreadable { file: folder.display().to_string(), source };
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        names.insert(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    if let Some(alone) = names.iter().find_map(|name| {
        let pack = name.strip_suffix(SIG).filter(|pack| pack.ends_with(".toml"))?;
        (!names.contains(pack)).then(|| pack.to_owned())
    }) {
        let problem = "is not there, and its signature is; take both away to go on without it".into();
        return Err(PackFileError::Signature { file: alone, problem });
    }
    let packs = names.into_iter().filter(|name| name.ends_with(".toml"));
    Ok(packs.map(|name| (folder.join(&name), name)).collect())
}

/// The text of a file that is not endless.
pub fn read(path: &Path, file: &str) -> Result<String, PackFileError> {
    let failed = |source| PackFileError::Unreadable { file: file.to_owned(), source };
    let mut text = String::new();
    let open = std::fs::File::open(path).map_err(failed)?;
    open.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        let problem = std::io::Error::other(format!("larger than {MAX_BYTES} bytes"));
        return Err(failed(problem));
    }
    Ok(text)
}

/// Where the signature of a pack lies.
pub fn signature_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SIG);
    name.into()
}

/// Which of these keys signed the pack; an error if none did.
pub fn signed_by(
    path: &Path,
    file: &str,
    text: &str,
    trusted: &[VerifierKey],
) -> Result<Vec<String>, PackFileError> {
    let wrong = |problem: String| PackFileError::Signature { file: file.to_owned(), problem };
    let path = signature_of(path);
    let sig = format!("{file}{SIG}");
    let note = match read(&path, &sig) {
        Ok(note) => note,
        Err(PackFileError::Unreadable { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(wrong(format!("is not signed: there is no {sig}; `packs sign` makes it")));
        }
        Err(error) => return Err(error),
    };
    check(file, text, &note, trusted).map_err(wrong)
}

fn check(file: &str, text: &str, note: &str, trusted: &[VerifierKey]) -> Result<Vec<String>, String> {
    let sig = format!("{file}{SIG}");
    let note: Note = note.parse().map_err(|error: NoteError| format!("{sig}: {error}"))?;
    let expected = signed_text(file, text);
    if note.text != expected {
        let found = note.text.trim_end().replace('\n', " ");
        return Err(format!("{sig} is of {found:?}, expected {:?}", expected.trim_end().replace('\n', " ")));
    }
    let mut by = Vec::new();
    for key in trusted {
        if note.is_signed_by(key).map_err(|error| format!("{sig}: {error}"))? {
            by.push(named(key));
        }
    }
    if by.is_empty() {
        let found: Vec<String> =
            note.signatures.iter().map(|line| format!("{}+{:08x}", line.name, line.id)).collect();
        let known: Vec<String> = trusted.iter().map(named).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(format!("{sig} is of {}; trusted (rules.trusted_keys): {known}", found.join(", ")));
    }
    Ok(by)
}

/// A key by name and id.
fn named(key: &VerifierKey) -> String {
    format!("{}+{:08x}", key.name(), key.id())
}

/// What is signed of a pack: its name and its hash.
fn signed_text(file: &str, text: &str) -> String {
    use sha2::Digest;
    format!("{FORMAT}\n{file}\n{}\n", hex(&sha2::Sha256::digest(text.as_bytes())))
}

/// The signature of a pack with one more line, under those that are there already if they are of the same text.
pub fn sign(file: &str, text: &str, before: Option<&str>, key: &SignerKey) -> String {
    let signed = signed_text(file, text);
    let same = |note: &Note| note.text == signed;
    let before = before.and_then(|note| note.parse::<Note>().ok()).filter(same);
    let mut note = before.unwrap_or_else(|| Note { text: signed.clone(), signatures: Vec::new() });
    note.signatures.retain(|line| !line.is_of(key.verifier()));
    note.signatures.push(key.sign(&signed));
    note.to_string()
}

/// A key that packs are believed by; `None` if it is none, or of another kind.
pub fn trusted_key(text: &str) -> Option<VerifierKey> {
    text.parse().ok().filter(|key: &VerifierKey| key.kind() == KeyType::Ed25519)
}

/// Where a pack came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// It came with the program.
    Shipped,
    /// The operator's folder.
    Folder,
    /// It was in use and is loaded no more.
    Gone,
    /// The ledger: its file is gone.
    Ledger,
}

/// How a pack is in use: what the ledger says of it whenever that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InUse {
    /// Which version.
    pub version: String,
    /// Of its text.
    pub sha256: String,
    /// Whether totals are compared with it.
    pub evaluated: bool,
    /// From where; `None` in old records.
    #[serde(default)]
    pub origin: Option<Origin>,
    /// Who signed it, of those that are trusted.
    #[serde(default)]
    pub signed_by: Vec<String>,
}

/// A text that was in use.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    sha256: String,
    text: String,
}

/// The packs beside those that are newest: what is loaded of older ones, and what only the ledger still has.
/// Refuses a text that is another than was in use under the same name.
pub(crate) async fn older(
    store: &SqliteStore,
    newest: &[(RulePack, bool)],
    older: &[RulePack],
) -> Result<Vec<RulePack>, StartError> {
    let newest = newest.iter().map(|(pack, _)| pack);
    let loaded: BTreeMap<String, &RulePack> = newest.chain(older).map(|pack| (pack.named(), pack)).collect();
    let changed = |name: &str, sha256: &str| match loaded.get(name) {
        Some(pack) if pack.sha256() != sha256 => Err(StartError::PackChanged {
            pack: name.to_owned(),
            next: format!("{}@{}.toml", pack.id, pack.number().saturating_add(1)),
            recorded: sha256.to_owned(),
            found: pack.sha256().to_owned(),
        }),
        _ => Ok(()),
    };
    for row in store.records(record::PACK).await? {
        let said: InUse = serde_json::from_value(row.body.clone())
            .map_err(|error| unreadable(record::PACK, &row, error))?;
        changed(&format!("{}@{}", row.key, said.version), &said.sha256)?;
    }
    let mut all = older.to_vec();
    for row in store.records(record::PACK_TEXT).await? {
        let kept: Kept = serde_json::from_value(row.body.clone())
            .map_err(|error| unreadable(record::PACK_TEXT, &row, error))?;
        changed(&row.key, &kept.sha256)?;
        if loaded.contains_key(&row.key) {
            continue;
        }
        match RulePack::parse(&format!("{}.toml", row.key), &kept.text) {
            Ok(pack) => all.push(pack),
            // A program that reads packs otherwise must still start; cases under this one say that it is not there.
            Err(error) => tracing::error!(
                pack = row.key,
                problem = %error,
                "a rule pack in the ledger does not read: cases under it cannot be reported"
            ),
        }
    }
    Ok(all)
}

/// What the ledger does not say yet of the packs that totals are compared with, and of those that are gone.
pub(crate) async fn unrecorded(
    store: &SqliteStore,
    newest: &[(RulePack, bool)],
    signers: &BTreeMap<String, Vec<String>>,
) -> Result<Vec<Fact>, StoreError> {
    let mut last: BTreeMap<String, Option<InUse>> = BTreeMap::new();
    for row in store.records(record::PACK).await? {
        last.insert(row.key, serde_json::from_value(row.body).ok());
    }
    let kept: BTreeSet<String> =
        store.records(record::PACK_TEXT).await?.into_iter().map(|row| row.key).collect();
    let mut facts = Vec::new();
    for (pack, evaluated) in newest {
        if *evaluated && !kept.contains(&pack.named()) {
            let text = Kept { sha256: pack.sha256().to_owned(), text: pack.text().to_owned() };
            facts.push(fact(record::PACK_TEXT, &pack.named(), &text));
        }
        let by = signers.get(&pack.named());
        let now = InUse {
            version: pack.version.clone(),
            sha256: pack.sha256().to_owned(),
            evaluated: *evaluated,
            origin: Some(if by.is_some() { Origin::Folder } else { Origin::Shipped }),
            signed_by: by.cloned().unwrap_or_default(),
        };
        if last.remove(&pack.id).flatten().as_ref() != Some(&now) {
            facts.push(fact(record::PACK, &pack.id, &now));
        }
    }
    for (id, was) in last {
        let Some(was) = was.filter(|was| was.origin != Some(Origin::Gone)) else { continue };
        tracing::warn!(pack = id, version = was.version, "a rule pack that was loaded is gone");
        let gone = InUse { evaluated: false, origin: Some(Origin::Gone), signed_by: Vec::new(), ..was };
        facts.push(fact(record::PACK, &id, &gone));
    }
    Ok(facts)
}

#[cfg(test)]
mod tests;
