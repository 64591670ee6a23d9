//! The tree over the ledger on disk: every entry is a leaf, in the order of the ledger.
//!
//! [`sequencer::Sequencer`] is the one that writes it; [`fence::Fence`] sees to it that there is one, and that it
//! signs no tree that does not begin with the last it signed; [`tiles`] are the files; [`check`] compares them
//! with the ledger again.
//!
//! ```text
//! <data>/tlog/checkpoint        the newest tree, signed                    served as it is
//! <data>/tlog/cosigned          the newest that a witness cosigned
//! <data>/tlog/tile/...          hashes and leaves, as C2SP tlog-tiles      served as they are
//! <data>/tlog/synced            up to where the tiles are durable for sure
//! <data>/tlog/<log>.last        the last checkpoint of a log of before
//! <keys>/tlog/<log>.signed      the last checkpoint that was signed, kept apart from ordinary backups
//! <keys>/tlog/EPOCH, LOCK       who may sign
//! ```
//! A log is a generation of the store: its origin is `<site>/<generation>`. A ledger that was restored from a
//! backup begins a new one, because the old one has signed more than the backup holds.
//!
//! The tree may lag behind the ledger and never leads it: only what is durable there becomes a leaf. So nothing in
//! the tiles has to be durable before it is used: after a crash they are made again, from the last place up to
//! which they are known to be on the disk. What has to be durable is that a checkpoint was signed, before it is seen.

use std::path::{Path, PathBuf};

use weighbridge_journal::{ReadError, fail};
use weighbridge_tlog::{
    Hash,
    checkpoint::{Checkpoint, CheckpointError},
    note::{KeyType, Note, VerifierKey},
};

pub mod check;
pub mod fence;
pub mod promise;
pub mod sequencer;
pub mod tiles;

/// The tree cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A file.
    #[error("{}: cannot {doing}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// With which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The ledger cannot be read.
    #[error("the ledger cannot be read")]
    Ledger(#[from] ReadError),
    /// A file that the tree needs is not there.
    #[error("{}: the tile over ledger entry {entry} is not there", path.display())]
    NoTile {
        /// Which.
        path: PathBuf,
        /// First entry in it.
        entry: u64,
    },
    /// A file does not hold what it should.
    #[error("{}: expected {expected}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What should be there.
        expected: String,
    },
    /// A checkpoint on disk cannot be believed.
    #[error("{}", path.display())]
    Checkpoint {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: CheckpointError,
    },
    /// The origin cannot name a key.
    #[error("{0:?} cannot be the origin of a log: expected no spaces and no plus")]
    Origin(String),
    /// Another process signs with these keys.
    #[error("{}: another collector signs with the keys in this folder", folder.display())]
    Locked {
        /// Where.
        folder: PathBuf,
    },
    /// Another process took over: this one never signs again.
    #[error("epoch {theirs} has taken over from epoch {ours}: another collector signs with these keys")]
    Fenced {
        /// Of this process.
        ours: u64,
        /// Of the other.
        theirs: u64,
    },
    /// A smaller tree than one that was signed.
    #[error("the tree has {size} leaves, one with {signed} was signed: the ledger is an older one")]
    Behind {
        /// It would have.
        size: u64,
        /// The last signed one had.
        signed: u64,
    },
    /// Another tree than the one that was signed.
    #[error(
        "the first {size} entries of the ledger are not those of the tree that was signed: \
         root {found}, signed {signed}"
    )]
    Rewritten {
        /// Of the tree that was signed.
        size: u64,
        /// Its root, base64.
        signed: String,
        /// The root now, base64.
        found: String,
    },
}

impl TreeError {
    pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { doing, path, source }
    }

    pub(crate) fn rewritten(signed: &Checkpoint, found: &Hash) -> Self {
        Self::Rewritten {
            size: signed.size,
            signed: weighbridge_tlog::to_base64(&signed.root),
            found: weighbridge_tlog::to_base64(found),
        }
    }

    /// Whether somebody has changed the past, or signs beside us: nothing to be tried again.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Fenced { .. } | Self::Behind { .. } | Self::Rewritten { .. })
    }
}

/// Where a log and its evidence lie.
#[derive(Clone, Debug)]
pub struct LogPaths {
    /// Folder of the ledger.
    pub ledger: PathBuf,
    /// Folder of tiles and checkpoints.
    pub tlog: PathBuf,
    /// Folder of what was signed, outside ordinary backups.
    pub signed: PathBuf,
}

impl LogPaths {
    /// Those of a collector with this data and these keys.
    pub fn of(data: &Path, keys: &Path) -> Self {
        Self { ledger: data.join("ledger"), tlog: data.join("tlog"), signed: keys.join("tlog") }
    }

    /// The newest checkpoint that was published.
    pub fn checkpoint(&self) -> PathBuf {
        self.tlog.join("checkpoint")
    }

    /// The newest that a witness cosigned.
    pub fn cosigned(&self) -> PathBuf {
        self.tlog.join("cosigned")
    }
}

/// The name of the log of a generation at a site.
pub fn origin(site: &str, generation: &[u8; 16]) -> String {
    format!("{site}/{}", crate::fold::hex(generation))
}

/// The key that a log signs with, to verify with.
pub fn log_key(origin: &str, key: weighbridge_wire::VerifyingKey) -> Result<VerifierKey, TreeError> {
    VerifierKey::new(origin, KeyType::Ed25519, key).ok_or_else(|| TreeError::Origin(origin.into()))
}

/// Reads a note from a file; `Ok(None)` if there is none.
pub fn read_note(path: &Path) -> Result<Option<Note>, TreeError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(TreeError::file("read", path)(error)),
    };
    let note = text.parse::<Note>();
    note.map(Some).map_err(|error| TreeError::Checkpoint { path: path.into(), source: error.into() })
}

/// Reads a checkpoint of this log from a file and checks its signature; `Ok(None)` if there is no file.
pub fn read_checkpoint(path: &Path, log: &VerifierKey) -> Result<Option<(Checkpoint, Note)>, TreeError> {
    let Some(note) = read_note(path)? else { return Ok(None) };
    match Checkpoint::open(&note, log) {
        Ok(checkpoint) => Ok(Some((checkpoint, note))),
        Err(source) => Err(TreeError::Checkpoint { path: path.into(), source }),
    }
}

/// Puts a note in the place of the one before; it is durable when this returns.
pub fn keep(path: &Path, note: &Note) -> Result<(), TreeError> {
    replace(path, note.to_string().as_bytes(), Durable::Yes)
}

/// What becomes of a file after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durable {
    /// It is the old or the new one, whole.
    Yes,
    /// It may be anything: it is made again.
    No,
}

/// Replaces a file, so that nobody ever reads half of it.
pub(crate) fn replace(path: &Path, content: &[u8], durable: Durable) -> Result<(), TreeError> {
    use std::io::Write;
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let file = fail::around("tree.create", || std::fs::File::create(&new));
    let mut file = file.map_err(TreeError::file("create", &new))?;
    fail::around("tree.write", || file.write_all(content)).map_err(TreeError::file("write", &new))?;
    if durable == Durable::Yes {
        fail::around("tree.sync", || file.sync_all()).map_err(TreeError::file("sync", &new))?;
    }
    fail::around("tree.replace", || std::fs::rename(&new, path)).map_err(TreeError::file("rename", path))?;
    if durable == Durable::Yes {
        let folder = path.parent().unwrap_or(Path::new("."));
        let open = fail::around("tree.sync_folder", || std::fs::File::open(folder)?.sync_all());
        open.map_err(TreeError::file("sync", folder))?;
    }
    Ok(())
}
