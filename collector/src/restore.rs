//! A backup becomes a store again, under a new generation.
//!
//! Everything is copied and compared with the manifest into a folder beside, the ledger is read through to the
//! place that the manifest names, and only then the parts take their places, the ledger last. So a restore that is
//! interrupted has changed nothing, or is finished by the next start. The new generation makes agents send again
//! what they still hold; where it came from is a fact in the ledger after the first start.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use weighbridge_journal::{Journal, Options, fail};
use weighbridge_meter::{EpochId, UtcMillis};
use weighbridge_store::{
    files,
    ledger::{
        LedgerError,
        generation::{self, Reason, Renewal},
    },
    mark::Mark,
};
use weighbridge_wire::KeyId;

use crate::{
    backup::{self, BackupError, failed, manifest::Manifest},
    opening::{OpeningError, Places},
    progress::{self, Progress},
};

/// The folder that a restore is put together in, within the data folder.
pub const STAGING: &str = ".restore";

/// Says that all of it is there.
const WHOLE: &str = "WHOLE";

/// A backup cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup, or the folder for it.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// There is something already.
    #[error("{}: there is a ledger already; a restore takes nobody's place", path.display())]
    Occupied {
        /// Where.
        path: PathBuf,
    },
    /// The signature is right, but nobody said that it is to be trusted.
    #[error("{}: the backup is signed by key {found}, expected {expected}", path.display())]
    Signature {
        /// Which backup.
        path: PathBuf,
        /// Whose signature it bears.
        found: KeyId,
        /// Whose was expected, in words.
        expected: String,
    },
    /// The ledger does not come out as the manifest says.
    #[error("{}: the ledger in the backup is not what its manifest says: {problem}", path.display())]
    Ledger {
        /// Which backup.
        path: PathBuf,
        /// How it is.
        problem: String,
    },
    /// Its name.
    #[error(transparent)]
    Generation(#[from] LedgerError),
    /// Taking its place.
    #[error(transparent)]
    Opening(#[from] OpeningError),
}

/// Whose signature a backup must bear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signer {
    /// The collector whose keys are on this machine.
    This(KeyId),
    /// The one that somebody named.
    Named(String),
    /// Nobody can tell: the keys are not here.
    Unknown,
}

fn has_segments(ledger: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(ledger) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries?,
    };
    for entry in entries {
        if entry?.path().extension().is_some_and(|extension| extension == "seg") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Restores the backup in `from`, under the generation `new`.
pub fn restore(
    from: &Path,
    places: &Places,
    signer: &Signer,
    new: EpochId,
    at: UtcMillis,
    say: &dyn Fn(String),
) -> Result<Manifest, RestoreError> {
    let data = &places.data;
    fs::create_dir_all(data).map_err(failed("make", data))?;
    let _alone = crate::prune::Maintenance::take(data).map_err(BackupError::from)?;
    let staging = data.join(STAGING);
    let manifest = backup::manifest::read(from)?;
    is_trusted(from, &manifest, signer)?;
    if has_segments(&places.ledger).map_err(failed("list", &places.ledger))? {
        return Err(RestoreError::Occupied { path: places.ledger.clone() });
    }
    if staging.exists() {
        say("an earlier restore was interrupted: it begins anew".into());
        fs::remove_dir_all(&staging).map_err(failed("remove", &staging))?;
    }
    stage(from, &manifest, &staging, say)?;
    let ledger = staging.join("data").join("ledger");
    leads_there(from, &manifest, &ledger)?;
    let renewal = Renewal {
        generation: new,
        before: manifest.head.generation,
        reason: Reason::Restored,
        at,
        place: manifest.head.place,
        // What can no longer be read says nothing.
        promised: Mark::read(&places.mark).ok().flatten(),
        backup: Some(from.display().to_string()),
    };
    generation::renew(&ledger, &renewal)?;
    sync_below(&staging)?;
    let whole = staging.join(WHOLE);
    File::create(&whole)
        .and_then(|file| file.sync_all())
        .and_then(|()| files::sync_parent(&whole))
        .map_err(failed("write", &whole))?;
    finish(places)?;
    Ok(manifest)
}

fn is_trusted(from: &Path, manifest: &Manifest, signer: &Signer) -> Result<(), RestoreError> {
    let found = manifest.key_id;
    let expected = match signer {
        Signer::This(key) if *key == found => return Ok(()),
        Signer::Named(key) if *key == found.to_string() => return Ok(()),
        Signer::This(key) => format!("{key}, the key of this collector, or --signed-by {found}"),
        Signer::Named(key) => key.clone(),
        Signer::Unknown => {
            format!(
                "the key of this collector, which is not here: restore the key store first, or --signed-by {found}"
            )
        }
    };
    Err(RestoreError::Signature { path: from.into(), found, expected })
}

/// Copies everything of the data folder, each file compared with the manifest as it is copied.
fn stage(from: &Path, manifest: &Manifest, staging: &Path, say: &dyn Fn(String)) -> Result<(), RestoreError> {
    let mut progress = Progress::default();
    let mut done = 0;
    let mut wrong = Vec::new();
    for file in manifest.files.iter().filter(|file| file.path.starts_with("data/")) {
        let (source, target) = (from.join(&file.stored), staging.join(&file.path));
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(failed("make", folder))?;
        }
        let open = match File::open(&source) {
            Ok(open) => open,
            Err(error) => {
                wrong.push(format!("{}: {error}", source.display()));
                continue;
            }
        };
        let (sha256, bytes) = backup::copy(open, &source, &target)?;
        if (sha256, bytes) != (file.sha256, file.bytes) {
            wrong.push(format!("{}: it is not what the manifest says", source.display()));
        }
        done += bytes;
        if progress.is_due() {
            say(format!("copied {} of {}", progress::bytes(done), progress::bytes(manifest.head.bytes)));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(BackupError::Unlike(wrong).into()) }
}

/// Reads the staged ledger through: every checksum, every link of the chain, to the place of the manifest.
fn leads_there(from: &Path, manifest: &Manifest, ledger: &Path) -> Result<(), RestoreError> {
    let bad = |problem: String| RestoreError::Ledger { path: from.into(), problem };
    let head = &manifest.head;
    // A ledger without entries is one segment with a header.
    let verified = weighbridge_journal::verify(ledger, |_| ()).map_err(|error| bad(error.to_string()))?;
    if verified.end.index != head.place.index || verified.chain != head.chain {
        return Err(bad(format!(
            "it ends before entry {}, expected {}",
            verified.end.index, head.place.index
        )));
    }
    // As a start will open it.
    let (journal, opened) =
        Journal::open(ledger, Options::default()).map_err(|error| bad(error.to_string()))?;
    if opened.cut_bytes > 0 || journal.durable() != head.place {
        return Err(bad(format!("{} bytes of its end are torn", opened.cut_bytes)));
    }
    Ok(())
}

fn sync_below(folder: &Path) -> Result<(), BackupError> {
    for entry in fs::read_dir(folder).map_err(failed("list", folder))? {
        let path = entry.map_err(failed("list", folder))?.path();
        if path.is_dir() {
            sync_below(&path)?;
        }
    }
    files::sync_folder(folder).map_err(failed("sync", folder))
}

/// Puts what a whole restore left into its places; what an interrupted one left is refused, if nothing is there.
pub(crate) fn finish(places: &Places) -> Result<(), OpeningError> {
    let staging = places.data.join(STAGING);
    let at = crate::opening::failed;
    if !staging.exists() {
        return Ok(());
    }
    let data = staging.join("data");
    // Releases before this one removed what says that it is whole last.
    if !staging.join(WHOLE).exists() || !data.exists() {
        if has_segments(&places.ledger).map_err(at(&places.ledger))? {
            // Only its removal was left.
            return fs::remove_dir_all(&staging).map_err(at(&staging));
        }
        return Err(OpeningError::HalfRestored { path: staging });
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(&data).map_err(at(&data))? {
        names.push(entry.map_err(at(&data))?.file_name());
    }
    // The ledger last: with it the store is there.
    names.sort_by_key(|name| (name == "ledger", name.clone()));
    for name in names {
        let (from, to) = (data.join(&name), places.data.join(&name));
        if name == "ledger" && has_segments(&to).map_err(at(&to))? {
            return Err(at(&to)(io::ErrorKind::AlreadyExists.into()));
        }
        if to.is_dir() {
            // An empty one, or a lock: a restore begins only where there is no ledger.
            fs::remove_dir_all(&to).map_err(at(&to))?;
        }
        fail::around("restore.rename", || fs::rename(&from, &to)).map_err(at(&to))?;
        files::sync_folder(&places.data).map_err(at(&places.data))?;
    }
    // Sums of another store would be found to be of another generation, but they are of no use to anybody.
    for suffix in ["", "-wal", "-shm"] {
        let mut file = places.sums.as_os_str().to_owned();
        file.push(suffix);
        files::remove(Path::new(&file)).map_err(at(&places.sums))?;
    }
    // What says that it is whole goes first: without it, only the removal of the rest is left.
    let whole = staging.join(WHOLE);
    files::remove(&whole).and_then(|()| files::sync_folder(&staging)).map_err(at(&whole))?;
    fail::around("restore.remove", || fs::remove_dir_all(&staging)).map_err(at(&staging))?;
    files::sync_folder(&places.data).map_err(at(&places.data))
}
