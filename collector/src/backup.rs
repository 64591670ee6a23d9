//! A copy of the whole collector, made while it runs: ledger, tree, summaries, configuration. Not the keys.
//!
//! The ledger is copied up to a durable place, so that the copy is what the collector would be after a crash at
//! that moment; whatever follows from the ledger is copied before it, so that it never leads. Sums are left out:
//! they are folded anew. Keys have a [backup of their own](keys): a copy of the ledger that everybody keeps must not
//! hold what makes an erased customer readable again.
//!
//! The folder holds one [manifest] and, for each run, a folder with what was new then. A run that is interrupted
//! leaves the manifest of the one before, and that backup is whole; a run that ends replaces it, and then removes
//! what nothing in it names any more, pruned segments too.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use weighbridge_journal::{ReadError, chain_at, fail};
use weighbridge_meter::{EpochId, UtcMillis};
use weighbridge_store::{Place, files, mark};
use weighbridge_wire::{KeyId, SigningKey};

use crate::{
    opening::Places,
    progress::{self, Progress},
    prune::PruneError,
};

pub mod keys;
pub mod manifest;

use manifest::{Copied, Head, Manifest};

/// A backup cannot be made, or what is there is none.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The folder that was given.
    #[error("{}: {problem}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The manifest.
    #[error("{}: no whole backup: {problem}", path.display())]
    Manifest {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The ledger cannot be read up to the place that is to be kept.
    #[error("the ledger cannot be read")]
    Ledger(#[from] ReadError),
    /// Somebody else is at it.
    #[error(transparent)]
    Maintenance(#[from] PruneError),
    /// A file of the backup is not what the manifest says; one line each.
    #[error("{}", .0.join("\n"))]
    Unlike(Vec<String>),
}

pub(crate) fn failed<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> BackupError + 'a {
    move |source| BackupError::File { doing, path: path.to_owned(), source }
}

/// What to copy.
#[derive(Debug)]
pub struct Source {
    /// Where it lies.
    pub places: Places,
    /// Configuration files, by the name they get in the backup.
    pub configuration: BTreeMap<String, PathBuf>,
    /// Signs the manifest.
    pub key: SigningKey,
}

/// The note that a backup was made, beside the ledger: how old the last one is can be told by whoever runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    /// As of when it is.
    pub at: UtcMillis,
    /// Up to where in the ledger.
    #[serde(with = "mark::place")]
    pub place: Place,
    /// Where it lies.
    pub to: String,
    /// Its bytes, all runs together.
    pub bytes: u64,
}

const DONE: &str = "LAST-BACKUP";

impl Done {
    /// Reads it; `None` if there is none that can be read.
    pub fn read(data: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(data.join(DONE)).ok()?).ok()
    }

    fn write(&self, data: &Path) -> Result<(), BackupError> {
        let path = data.join(DONE);
        let text = serde_json::to_vec(self).expect("numbers and texts");
        files::replace(&path, &text).map_err(failed("write", &path))
    }
}

/// Of the data folder, what a backup leaves out: locks, notes about this machine, what is derived or unfinished.
fn is_left_out(name: &str) -> bool {
    let unfinished = [files::UNFINISHED, ".new-wal", ".new-shm"].iter().any(|end| name.ends_with(end));
    unfinished
        || name.starts_with("usage.sqlite")
        || name.starts_with(crate::restore::STAGING)
        || ["LOCK", "RENEWED", "MAINTENANCE", DONE, "ledger"].contains(&name)
}

/// Files below `folder`, those that commit to others first: what is copied after them is at least as new.
fn files_below(folder: &Path, within: &str, found: &mut Vec<(String, PathBuf)>) -> Result<(), BackupError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed("list", folder))?,
    };
    let mut here = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("list", folder))?;
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| BackupError::Folder {
            path: entry.path(),
            problem: "expected a name in UTF-8".into(),
        })?;
        if !is_left_out(name) {
            here.push((name.to_owned(), entry.path()));
        }
    }
    here.sort_by_key(|(name, _)| (!name.starts_with("checkpoint"), name.clone()));
    for (name, path) in here {
        let name = format!("{within}/{name}");
        if path.is_dir() {
            files_below(&path, &name, found)?;
        } else {
            found.push((name, path));
        }
    }
    Ok(())
}

/// One run.
struct Run<'a> {
    to: &'a Path,
    /// The folder of this run, within `to`.
    name: String,
    /// What the backup before this one has, by path.
    before: BTreeMap<String, Copied>,
    copied: Vec<Copied>,
    new_bytes: u64,
    progress: Progress,
    say: &'a dyn Fn(String),
}

impl Run<'_> {
    /// Copies a file, up to `limit`; unchanged ones stay as they were copied. `false`: it is no longer there.
    fn take(&mut self, path: String, from: &Path, limit: Option<u64>) -> Result<bool, BackupError> {
        let file = match File::open(from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file.map_err(failed("open", from))?,
        };
        let metadata = file.metadata().map_err(failed("read", from))?;
        let bytes = limit.unwrap_or(metadata.len());
        let modified_ns = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
            .map_or(0, |since| since.as_nanos() as u64);
        // A file that grows has a time of its own each time; one that is finished keeps it.
        let unchanged = self.before.get(&path).filter(|before| {
            before.bytes == bytes && before.modified_ns == modified_ns && bytes == metadata.len()
        });
        if let Some(before) = unchanged
            && fs::metadata(self.to.join(&before.stored)).is_ok_and(|stored| stored.len() == bytes)
        {
            self.copied.push(before.clone());
            return Ok(true);
        }
        let stored = format!("{}/{path}", self.name);
        let target = self.to.join(&stored);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(failed("make", folder))?;
        }
        let (sha256, read) = copy(file.take(bytes), from, &target)?;
        if limit.is_some_and(|limit| read < limit) {
            let problem = format!("expected {bytes} durable bytes, found {read}");
            return Err(BackupError::Folder { path: from.into(), problem });
        }
        self.new_bytes += read;
        if self.progress.is_due() {
            (self.say)(format!("copied {}, now at {path}", progress::bytes(self.new_bytes)));
        }
        self.copied.push(Copied { path, stored, bytes: read, sha256, modified_ns });
        Ok(true)
    }
}

/// Copies, durably, and tells digest and length of what was copied.
pub(crate) fn copy(mut from: impl Read, name: &Path, to: &Path) -> Result<([u8; 32], u64), BackupError> {
    let mut out = fail::around("copy.create", || File::create(to)).map_err(failed("make", to))?;
    let mut digest = Sha256::new();
    let mut chunk = vec![0; 1 << 20];
    let mut length = 0;
    loop {
        let read = from.read(&mut chunk).map_err(failed("read", name))?;
        let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        digest.update(bytes);
        fail::around("copy.write", || out.write_all(bytes)).map_err(failed("write", to))?;
        length += read as u64;
    }
    fail::around("copy.sync", || out.sync_all()).map_err(failed("sync", to))?;
    Ok((digest.finalize().into(), length))
}

/// The file of a segment, as the journal names it.
fn segment_file(number: u64) -> String {
    format!("{number:020}.seg")
}

/// Makes a backup in `to`, or brings the one that is there up to date. `durable` tells how far the ledger is,
/// when it is asked.
pub fn make(
    source: &Source,
    to: &Path,
    at: UtcMillis,
    durable: &mut dyn FnMut() -> Result<Place, BackupError>,
    say: &dyn Fn(String),
) -> Result<Manifest, BackupError> {
    let places = &source.places;
    let _alone = crate::prune::Maintenance::take(&places.data)?;
    fs::create_dir_all(to).map_err(failed("make", to))?;
    let inside = |a: &Path, b: &Path| match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a.starts_with(b),
        _ => false,
    };
    if inside(to, &places.data) || places.mark.parent().is_some_and(|keys| inside(to, keys)) {
        let problem = "expected a folder outside of the data and of the key store".into();
        return Err(BackupError::Folder { path: to.into(), problem });
    }
    let file = places.ledger.join(weighbridge_store::ledger::generation::GENERATION);
    let generation = fs::read_to_string(&file).map_err(failed("read", &file))?;
    let generation: EpochId = generation.trim().parse().map_err(|_| BackupError::Folder {
        path: file.clone(),
        problem: "expected 32 hexadecimal digits".into(),
    })?;
    let before = before(to, generation, say)?;
    let name = format!("run-{}", at.0);
    let target = to.join(&name);
    if target.exists() {
        // Of a run at this very millisecond, which did not end: nothing names it.
        fs::remove_dir_all(&target).map_err(failed("remove", &target))?;
    }
    let mut run =
        Run { to, name, before, copied: Vec::new(), new_bytes: 0, progress: Progress::default(), say };
    for (name, path) in &source.configuration {
        run.take(format!("config/{name}"), path, None)?;
    }
    let mut others = Vec::new();
    files_below(&places.data, "data", &mut others)?;
    for (name, path) in others {
        run.take(name, &path, None)?;
    }
    // Only now: what was copied so far follows from entries before this.
    let place = durable()?;
    let generation_file = format!("data/ledger/{}", weighbridge_store::ledger::generation::GENERATION);
    run.take(generation_file, &file, None)?;
    let oldest = weighbridge_journal::oldest_segment(&places.ledger).map_err(ReadError::from)?.unwrap_or(1);
    for number in oldest..=place.segment {
        let name = segment_file(number);
        let from = places.ledger.join(&name);
        let limit = (number == place.segment).then_some(place.offset);
        if !run.take(format!("data/ledger/{name}"), &from, limit)? {
            return Err(failed("open", &from)(io::ErrorKind::NotFound.into()));
        }
    }
    let chain = chain_at(&places.ledger, place)?;
    let Run { copied, new_bytes, .. } = run;
    let bytes = copied.iter().map(|file| file.bytes).sum();
    let head = Head {
        backup: 1,
        made_at: at,
        program: env!("CARGO_PKG_VERSION").into(),
        generation,
        place,
        chain,
        oldest_segment: oldest,
        files: copied.len() as u64,
        bytes,
    };
    sync_folders(to, &copied)?;
    let manifest = manifest::write(to, head, copied, &source.key)?;
    remove_unnamed(to, &manifest)?;
    Done { at, place, to: to.display().to_string(), bytes }.write(&places.data)?;
    say(format!(
        "{} files, {}, of which {} new",
        manifest.head.files,
        progress::bytes(bytes),
        progress::bytes(new_bytes)
    ));
    Ok(manifest)
}

/// What the whole backup in `to` holds of the same store.
fn before(
    to: &Path,
    generation: EpochId,
    say: &dyn Fn(String),
) -> Result<BTreeMap<String, Copied>, BackupError> {
    match manifest::read(to) {
        Ok(manifest) if manifest.head.generation == generation => {
            Ok(manifest.files.into_iter().map(|file| (file.path.clone(), file)).collect())
        }
        Ok(_) => {
            say("the backup that is there is of another generation: everything is copied".into());
            Ok(BTreeMap::new())
        }
        Err(BackupError::Manifest { problem, .. }) => {
            let entries = fs::read_dir(to).map_err(failed("list", to))?;
            let names: Result<Vec<String>, io::Error> =
                entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect();
            let names = names.map_err(failed("list", to))?;
            let ours = |name: &String| name.starts_with("run-") || name.starts_with(manifest::MANIFEST);
            if let Some(name) = names.iter().find(|name| !ours(name)) {
                let problem = format!("expected an empty folder or one with a backup, found {name}");
                return Err(BackupError::Folder { path: to.into(), problem });
            }
            if !names.is_empty() {
                say(format!("no whole backup is there ({problem}): everything is copied"));
            }
            Ok(BTreeMap::new())
        }
        Err(error) => Err(error),
    }
}

fn sync_folders(to: &Path, copied: &[Copied]) -> Result<(), BackupError> {
    let mut folders = BTreeSet::from([to.to_owned()]);
    for file in copied {
        folders.extend(
            to.join(&file.stored).ancestors().skip(1).take_while(|folder| *folder != to).map(Path::to_owned),
        );
    }
    for folder in folders {
        files::sync_folder(&folder).map_err(failed("sync", &folder))?;
    }
    Ok(())
}

/// Removes what the manifest does not name: what was left of interrupted runs, and what is no longer kept.
fn remove_unnamed(to: &Path, manifest: &Manifest) -> Result<(), BackupError> {
    let named: BTreeSet<PathBuf> = manifest.files.iter().map(|file| to.join(&file.stored)).collect();
    for entry in fs::read_dir(to).map_err(failed("list", to))? {
        let path = entry.map_err(failed("list", to))?.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("run-")) {
            remove_below(&path, &named)?;
        }
    }
    files::sync_folder(to).map_err(failed("sync", to))
}

/// Removes files that are not named, and folders that are empty then.
fn remove_below(folder: &Path, named: &BTreeSet<PathBuf>) -> Result<bool, BackupError> {
    let mut empty = true;
    for entry in fs::read_dir(folder).map_err(failed("list", folder))? {
        let path = entry.map_err(failed("list", folder))?.path();
        if path.is_dir() {
            empty &= remove_below(&path, named)?;
        } else if named.contains(&path) {
            empty = false;
        } else {
            files::remove(&path).map_err(failed("remove", &path))?;
        }
    }
    if empty {
        fs::remove_dir(folder).map_err(failed("remove", folder))?;
    }
    Ok(empty)
}

/// Reads a whole backup again and compares it with its manifest; tells whose signature it bears.
pub fn check(from: &Path, say: &dyn Fn(String)) -> Result<(Manifest, KeyId), BackupError> {
    let manifest = manifest::read(from)?;
    let mut wrong = Vec::new();
    let mut progress = Progress::default();
    let mut read = 0;
    for file in &manifest.files {
        if let Err(problem) = is_whole(from, file) {
            wrong.push(problem);
        }
        read += file.bytes;
        if progress.is_due() {
            say(format!("read {} of {}", progress::bytes(read), progress::bytes(manifest.head.bytes)));
        }
    }
    if !wrong.is_empty() {
        return Err(BackupError::Unlike(wrong));
    }
    let key = manifest.key_id;
    Ok((manifest, key))
}

fn is_whole(from: &Path, file: &Copied) -> Result<(), String> {
    let path = from.join(&file.stored);
    let named = |problem: String| format!("{}: {problem}", path.display());
    let open = File::open(&path).map_err(|error| named(error.to_string()))?;
    let mut digest = Sha256::new();
    let read = io::copy(&mut io::BufReader::with_capacity(1 << 20, open), &mut Hashing(&mut digest));
    let read = read.map_err(|error| named(error.to_string()))?;
    if read != file.bytes {
        return Err(named(format!("it has {read} bytes, expected {}", file.bytes)));
    }
    let found: [u8; 32] = digest.finalize().into();
    if found != file.sha256 {
        return Err(named("its digest is not what the manifest says".into()));
    }
    Ok(())
}

struct Hashing<'a>(&'a mut Sha256);

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
