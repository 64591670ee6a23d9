//! Where entries become durable: one thread owns the journal, one fsync serves a group.
//!
//! A batch is acknowledged after the fsync of the group it is in, a duplicate after one that cannot be earlier
//! than that of its original. Duplicates are known by [ranges of numbers](crate::numbers) and the last hashes of
//! each agent and epoch; below those the ledger itself decides ([`Ledger::has`]).
//!
//! When the disk refuses, nothing that was not durable is believed: the journal is cut back to the last good point
//! and opened again from there, as often as it takes, while everything that comes is refused.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot, watch,
};
use weighbridge_journal::{Journal, MAX_PAYLOAD, OpenError, Options, RemoveError, Removed, fail};
use weighbridge_meter::{AgentId, EpochId, UtcMillis};
use weighbridge_wire::Batch;

use crate::{
    Place,
    entry::{Body, Entry, EntryError, Fact, Received},
    state::{CursorRow, State},
    tree::promise::InGroup,
};

mod clock;
mod cursor;
mod find;
pub mod generation;
mod tail;
mod writer;

pub use clock::{CLOCK_TOLERANCE_MS, is_new_offset, measured_offset};
pub use find::read_places;
pub use tail::Tail;

/// Entries in one group: bounds the time to the fsync.
const GROUP: usize = 1024;

/// Requests that wait for the thread; beyond it senders wait, and ingest answers 503.
const QUEUE: usize = 4096;

/// How to open a ledger.
#[derive(Clone, Debug)]
pub struct LedgerOptions {
    /// Of the journal.
    pub journal: Options,
    /// Bytes that batches leave free on the disk of the ledger, for facts and for the sums. 0 leaves none; `None` is
    /// 16 MiB, or a sixteenth of a disk that is smaller than that allows.
    pub reserve_bytes: Option<u64>,
    /// Until the disk is tried again after it refused.
    pub retry: Duration,
}

impl Default for LedgerOptions {
    fn default() -> Self {
        Self { journal: Options::default(), reserve_bytes: None, retry: Duration::from_secs(1) }
    }
}

/// Whether the ledger takes entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Writable,
    /// Facts only: batches leave the rest of the disk free.
    Full,
    /// The disk refused; it is tried again by itself.
    Unwritable,
}

impl Health {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Writable, Self::Full, Self::Unwritable];

    /// As shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Writable => "writable",
            Self::Full => "full",
            Self::Unwritable => "unwritable",
        }
    }
}

/// The ledger, as others hold it: cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger {
    requests: mpsc::Sender<Request>,
    durable: watch::Receiver<Place>,
    /// The same with the chain hash there.
    tip: watch::Receiver<(Place, [u8; 32])>,
    health: watch::Receiver<Health>,
    tail: Tail,
    folder: PathBuf,
    generation: [u8; 16],
    salts: Arc<Salts>,
    recalled: Arc<find::Recalled>,
}

/// Salts for facts, none twice: from random bytes drawn when the ledger was opened, and a count.
#[derive(Debug)]
struct Salts {
    seed: [u8; 32],
    next: AtomicU64,
}

impl Salts {
    fn draw(random: &mut dyn FnMut(&mut [u8])) -> Arc<Self> {
        let mut seed = [0; 32];
        random(&mut seed);
        Arc::new(Self { seed, next: AtomicU64::new(0) })
    }

    fn next(&self) -> [u8; 16] {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let digest = Sha256::new()
            .chain_update(b"weighbridge-fact-salt-v1\0")
            .chain_update(self.seed)
            .chain_update(count.to_le_bytes())
            .finalize();
        let mut salt = [0; 16];
        salt.copy_from_slice(&digest[..16]);
        salt
    }
}

/// A journal that is open and whole, before anybody writes.
#[derive(Debug)]
pub struct OpenLedger {
    journal: Journal,
    whole: WholeLock,
    options: LedgerOptions,
    folder: PathBuf,
    generation: [u8; 16],
    pending: Option<generation::Renewal>,
    salts: Arc<Salts>,
    /// Bytes of a torn tail that were cut: written, never acknowledged.
    pub cut_bytes: u64,
}

/// Held from before the journal is opened until nobody writes any more. The journal has a lock of its own, which is let
/// go while it is closed because the disk refused: who took it for free then would believe entries that are cut off
/// again, and make sums of them.
#[derive(Debug)]
struct WholeLock(#[expect(dead_code, reason = "held, never read")] File);

impl WholeLock {
    fn take(folder: &Path) -> Result<Self, LedgerError> {
        let path = folder.join("WRITER");
        let failed = |source| LedgerError::Lock { file: path.clone(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::Error(source)) => Err(failed(source)),
            Err(TryLockError::WouldBlock) => Err(LedgerError::Journal {
                folder: folder.into(),
                source: OpenError::Locked { dir: folder.into() },
            }),
        }
    }
}

/// A ledger cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The journal is damaged, locked or cannot be read.
    #[error("the ledger in {}", folder.display())]
    Journal {
        /// Where.
        folder: PathBuf,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// The lock cannot be made.
    #[error("{}: cannot be made or locked", file.display())]
    Lock {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file that names this store cannot be read or made.
    #[error("{}: cannot read or make the generation of this store", file.display())]
    Generation {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A batch to commit, opened and with its signature checked.
#[derive(Debug)]
pub struct Submission {
    /// When it was received.
    pub received_at: UtcMillis,
    /// As it came.
    pub received: Received,
    /// What is in it.
    pub batch: Batch,
    /// [`weighbridge_wire::hash`] of the envelope.
    pub hash: [u8; 32],
}

/// What became of a batch. All three are durable when they are said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the ledger now.
    Accepted {
        /// Its leaf.
        leaf_hash: [u8; 32],
    },
    /// It was there already, with the same hash.
    Duplicate,
    /// Its number is below what is remembered: [`Ledger::has`] decides.
    Old,
}

/// A batch that is in the ledger, and what else its agent should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// What became of it.
    pub outcome: Outcome,
    /// What may be promised of it: of one that was accepted.
    pub promised: Option<InGroup>,
    /// Numbers of its agent, in any epoch, that are neither here nor given up; not more than a few.
    pub missing: Vec<Missing>,
}

/// Batches that an agent made, as those after them show, and that are not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// In which epoch.
    pub epoch: EpochId,
    /// From.
    pub first: u64,
    /// To, inclusive.
    pub last: u64,
}

/// Why a batch or fact was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The same number with other content: nothing is stored, someone has to look.
    #[error(
        "agent {agent}, epoch {epoch}, sequence {sequence}: another batch with this number is in the ledger, \
         which knows numbers up to {highest}"
    )]
    Conflict {
        /// Whose.
        agent: AgentId,
        /// Which epoch.
        epoch: EpochId,
        /// Which number.
        sequence: u64,
        /// The highest that is known.
        highest: u64,
        /// It goes on from a batch that is here, where another one goes on already: as a spool that was restored
        /// to an earlier state, or that two hosts have, would.
        set_back: bool,
    },
    /// It does not follow on the batch before it.
    #[error(
        "agent {agent}, epoch {epoch}, sequence {sequence}: the chain does not lead to the batch before it"
    )]
    BrokenChain {
        /// Whose.
        agent: AgentId,
        /// Which epoch.
        epoch: EpochId,
        /// Which number.
        sequence: u64,
    },
    /// It reaches into hours that are [closed](crate::closed): nothing is stored, do not send it again.
    #[error(
        "agent {agent}, epoch {epoch}, sequence {sequence}: it reaches back to {reaches}, and hours before {closed} \
         are closed: what they were made of is pruned"
    )]
    Closed {
        /// Whose.
        agent: AgentId,
        /// Which epoch.
        epoch: EpochId,
        /// Which number.
        sequence: u64,
        /// How far back.
        reaches: UtcMillis,
        /// Hours from this one on are open.
        closed: UtcMillis,
    },
    /// It begins another hole, or tells losses that leave other ones, where there are too many already: an agent sends in order.
    #[error(
        "agent {agent}, epoch {epoch}, sequence {sequence}: there are {limit} separate runs of numbers already"
    )]
    Holes {
        /// Whose.
        agent: AgentId,
        /// Which epoch.
        epoch: EpochId,
        /// Which number.
        sequence: u64,
        /// The most that are kept.
        limit: usize,
    },
    /// It names another epoch where its agent has too many already.
    #[error("agent {agent}, epoch {epoch}, sequence {sequence}: the agent has {limit} epochs already")]
    Epochs {
        /// Whose.
        agent: AgentId,
        /// Which epoch.
        epoch: EpochId,
        /// Which number.
        sequence: u64,
        /// The most that are kept.
        limit: usize,
    },
    /// It would not read back as it is: nothing of the request is stored, do not send it again.
    #[error("fact {index} of {count} cannot be kept")]
    BadFact {
        /// Which, from 0.
        index: usize,
        /// Of how many.
        count: usize,
        /// Why; `None` where it is too long.
        #[source]
        source: Option<EntryError>,
    },
    /// The disk refused; nothing since the last fsync is certain, and nothing of this is kept. Send it again later.
    #[error("the ledger cannot be written")]
    Unwritable,
    /// What is left of the disk is for facts. Send it again later.
    #[error("the disk of the ledger is full")]
    Full,
    /// Too many wait already.
    #[error("the ledger is behind")]
    Busy,
}

/// Segments were not removed; those that were stay so.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The journal.
    #[error("segments of the ledger cannot be removed")]
    Remove(#[source] RemoveError),
    /// The thread of the ledger.
    #[error(transparent)]
    Commit(CommitError),
}

/// What goes on with a batch.
type Then = Box<dyn FnOnce(Result<Committed, CommitError>) + Send>;

enum Request {
    Batch(Box<Submission>, Then),
    Facts(Vec<(UtcMillis, Fact, Vec<u8>)>, oneshot::Sender<Result<Place, CommitError>>),
    /// Remove the segments numbered below this one.
    Prune(u64, oneshot::Sender<Result<Removed, RemoveError>>),
}

impl OpenLedger {
    /// Opens or makes the ledger in `folder`; a torn tail is cut, anything worse refused.
    pub fn open(
        folder: &Path,
        options: &LedgerOptions,
        random: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Self, LedgerError> {
        let whole = WholeLock::take(folder)?;
        let (journal, opened) = Journal::open(folder, options.journal)
            .map_err(|source| LedgerError::Journal { folder: folder.into(), source })?;
        let pending = generation::pending(folder)?;
        let generation = generation(folder, random)?;
        let salts = Salts::draw(random);
        let options = options.clone();
        Ok(Self {
            journal,
            whole,
            options,
            folder: folder.into(),
            generation,
            pending,
            salts,
            cut_bytes: opened.cut_bytes,
        })
    }

    /// Everything before this is in the ledger.
    pub fn durable(&self) -> Place {
        self.journal.durable()
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Begins to take entries; cursors and clock offsets are those at [`OpenLedger::durable`].
    pub fn start(self, cursors: Vec<CursorRow>, state: &State) -> Ledger {
        let (requests, queue) = mpsc::channel(QUEUE);
        let (announce, durable) = watch::channel(self.journal.durable());
        let (announce_tip, tip) = watch::channel((self.journal.durable(), self.journal.chain()));
        let (report, health) = watch::channel(Health::Writable);
        let tail = Tail::default();
        let outlets = writer::Outlets { tail: tail.clone(), health: report, announce, announce_tip };
        let locked = (self.journal, self.whole);
        let salts = self.salts.clone();
        let writer = writer::Writer::new(locked, &self.folder, self.options, cursors, state, salts, outlets);
        std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || writer.run(queue))
            .expect("a thread can be started at start-up");
        Ledger {
            requests,
            durable,
            tip,
            health,
            tail,
            folder: self.folder,
            generation: self.generation,
            salts: self.salts,
            recalled: Arc::default(),
        }
    }
}

fn generation(folder: &Path, random: &mut dyn FnMut(&mut [u8])) -> Result<[u8; 16], LedgerError> {
    let file = folder.join("GENERATION");
    let failed = |source| LedgerError::Generation { file: file.clone(), source };
    match std::fs::read_to_string(&file) {
        Ok(text) => text
            .trim()
            .parse::<EpochId>()
            .map(|id| id.0)
            .map_err(|error| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, error))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut bytes = [0; 16];
            random(&mut bytes);
            // Under another name until it is whole: an empty file after a crash would need a person.
            let new = folder.join("GENERATION.new");
            let write = || {
                fail::around("generation.write", || std::fs::write(&new, EpochId(bytes).to_string()))?;
                fail::around("generation.sync", || std::fs::File::open(&new)?.sync_all())?;
                fail::around("generation.replace", || std::fs::rename(&new, &file))?;
                fail::around("generation.sync_folder", || std::fs::File::open(folder)?.sync_all())
            };
            write().map_err(failed)?;
            Ok(bytes)
        }
        Err(error) => Err(failed(error)),
    }
}

impl Ledger {
    /// Commits a batch; returns after the fsync.
    pub async fn submit(&self, submission: Submission) -> Result<Committed, CommitError> {
        let (reply, answer) = oneshot::channel();
        self.submit_then(submission, move |committed| drop(reply.send(committed)));
        answer.await.unwrap_or(Err(CommitError::Unwritable))
    }

    /// Commits a batch and calls `then`: after the fsync, on the thread that writes, so it must be short; or at once
    /// where too much waits. Where the ledger turns out not to be writable it may be dropped uncalled.
    pub fn submit_then(
        &self,
        submission: Submission,
        then: impl FnOnce(Result<Committed, CommitError>) + Send + 'static,
    ) {
        let request = Request::Batch(Box::new(submission), Box::new(then));
        if let Err(refused) = self.requests.try_send(request) {
            let (error, request) = match refused {
                TrySendError::Full(request) => (CommitError::Busy, request),
                TrySendError::Closed(request) => (CommitError::Unwritable, request),
            };
            if let Request::Batch(_, then) = request {
                then(Err(error));
            }
        }
    }

    /// Commits facts, all in one group; returns the place after them, after the fsync.
    pub async fn record(&self, at: UtcMillis, facts: Vec<Fact>) -> Result<Place, CommitError> {
        // What cannot be read back would stop the fold at this entry for ever.
        let count = facts.len();
        let mut entries = Vec::with_capacity(count);
        for (index, fact) in facts.into_iter().enumerate() {
            let entry = Entry { received: at, body: Body::Fact(fact) };
            let bytes = entry.encode(&self.salts.next());
            let bad = |source| CommitError::BadFact { index, count, source };
            Entry::decode(&bytes).map_err(|source| bad(Some(source)))?;
            if bytes.len() > MAX_PAYLOAD {
                return Err(bad(None));
            }
            let Body::Fact(fact) = entry.body else { continue };
            entries.push((at, fact, bytes));
        }
        let (reply, answer) = oneshot::channel();
        self.send(Request::Facts(entries, reply))?;
        answer.await.unwrap_or(Err(CommitError::Unwritable))
    }

    fn send(&self, request: Request) -> Result<(), CommitError> {
        self.requests.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => CommitError::Busy,
            TrySendError::Closed(_) => CommitError::Unwritable,
        })
    }

    /// Removes the segments numbered below this one: what they hold must be in a committed summary.
    pub async fn prune(&self, segment: u64) -> Result<Removed, PruneError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Prune(segment, reply)).map_err(PruneError::Commit)?;
        match answer.await {
            Ok(removed) => removed.map_err(PruneError::Remove),
            Err(_) => Err(PruneError::Commit(CommitError::Unwritable)),
        }
    }

    /// The place up to which the ledger is durable, as it moves.
    pub fn durable(&self) -> watch::Receiver<Place> {
        self.durable.clone()
    }

    /// Whether it takes entries, as that changes.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// The last entries, opened, for the fold.
    pub fn tail(&self) -> Tail {
        self.tail.clone()
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Random bytes made with this ledger: another one has others.
    pub fn generation(&self) -> [u8; 16] {
        self.generation
    }
}
