//! Where entries become durable: one thread owns the journal, one fsync serves a group.
//!
//! A batch is acknowledged after the fsync of the group it is in, a duplicate after one that cannot be earlier
//! than that of its original. Duplicates are known by a floor, the numbers above it and the last hashes of each
//! agent and epoch; below those the ledger itself decides ([`find`]).

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::{Path, PathBuf},
};

use tokio::sync::{mpsc, oneshot, watch};
use weighbridge_journal::{
    AppendError, Journal, MAX_PAYLOAD, OpenError, Options, Reader, RemoveError, Removed,
};
use weighbridge_meter::{AgentId, BootId, EpochId, UtcMillis};
use weighbridge_wire::{Batch, Envelope};

use crate::{
    Place, closed,
    entry::{Body, Entry, EntryError, Fact, Received},
    state::{CursorRow, PlaceRow, State},
};

pub mod generation;

/// Hashes kept for each agent and epoch: what an agent may resend after a lost acknowledgement, many times over.
const HASHES: usize = 4096;

/// Entries in one group: bounds the time to the fsync.
const GROUP: usize = 1024;

/// Requests that wait for the thread; beyond it senders wait, and ingest answers 503.
const QUEUE: usize = 4096;

/// Clocks that agree within this are taken as they are.
const CLOCK_TOLERANCE_MS: i64 = 5 * UtcMillis::MINUTE;

/// How to open a ledger.
#[derive(Clone, Debug, Default)]
pub struct LedgerOptions {
    /// Of the journal.
    pub journal: Options,
}

/// The ledger, as others hold it: cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger {
    requests: mpsc::Sender<Request>,
    durable: watch::Receiver<Place>,
    /// The same with the chain hash there.
    tip: watch::Receiver<(Place, [u8; 32])>,
    folder: PathBuf,
    generation: [u8; 16],
}

/// A journal that is open and whole, before anybody writes.
#[derive(Debug)]
pub struct OpenLedger {
    journal: Journal,
    folder: PathBuf,
    generation: [u8; 16],
    pending: Option<generation::Renewal>,
    /// Bytes of a torn tail that were cut: written, never acknowledged.
    pub cut_bytes: u64,
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
    /// Its number is below what is remembered: [`find`] decides.
    Old,
}

/// Why a batch or fact was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The same number with other content: nothing is stored, someone has to look.
    #[error(
        "agent {agent}, epoch {epoch}, sequence {sequence}: another batch with this number is in the ledger"
    )]
    Conflict {
        /// Whose.
        agent: AgentId,
        /// Which epoch.
        epoch: EpochId,
        /// Which number.
        sequence: u64,
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
    /// The disk refused; nothing since the last fsync is certain. The collector stops taking batches.
    #[error("the ledger cannot be written")]
    Unwritable,
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

#[derive(Debug)]
enum Request {
    Batch(Box<Submission>, oneshot::Sender<Result<Outcome, CommitError>>),
    Facts(Vec<(Fact, Vec<u8>)>, oneshot::Sender<Result<Place, CommitError>>),
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
        let (journal, opened) = Journal::open(folder, options.journal)
            .map_err(|source| LedgerError::Journal { folder: folder.into(), source })?;
        let pending = generation::pending(folder)?;
        let generation = generation(folder, random)?;
        Ok(Self { journal, folder: folder.into(), generation, pending, cut_bytes: opened.cut_bytes })
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
        let offsets = state
            .offsets
            .iter()
            .filter_map(|(key, list)| list.last().map(|(_, minutes)| (key.clone(), *minutes)))
            .collect();
        let writer = Writer {
            journal: self.journal,
            cursors: cursors.into_iter().map(Cursor::from_row).collect(),
            offsets,
            closed: state.closed_before,
            announce,
            announce_tip,
        };
        std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || writer.run(queue))
            .expect("a thread can be started at start-up");
        Ledger { requests, durable, tip, folder: self.folder, generation: self.generation }
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
                std::fs::write(&new, EpochId(bytes).to_string())?;
                std::fs::File::open(&new)?.sync_all()?;
                std::fs::rename(&new, &file)?;
                std::fs::File::open(folder)?.sync_all()
            };
            write().map_err(failed)?;
            Ok(bytes)
        }
        Err(error) => Err(failed(error)),
    }
}

impl Ledger {
    /// Commits a batch; returns after the fsync.
    pub async fn submit(&self, submission: Submission) -> Result<Outcome, CommitError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Batch(Box::new(submission), reply))?;
        answer.await.unwrap_or(Err(CommitError::Unwritable))
    }

    /// Commits facts, all in one group; returns the place after them, after the fsync.
    pub async fn record(&self, at: UtcMillis, facts: Vec<Fact>) -> Result<Place, CommitError> {
        // What cannot be read back would stop the fold at this entry for ever.
        let count = facts.len();
        let mut entries = Vec::with_capacity(count);
        for (index, fact) in facts.into_iter().enumerate() {
            let entry = Entry { received: at, body: Body::Fact(fact) };
            let bytes = entry.encode();
            let bad = |source| CommitError::BadFact { index, count, source };
            Entry::decode(&bytes).map_err(|source| bad(Some(source)))?;
            if bytes.len() > MAX_PAYLOAD {
                return Err(bad(None));
            }
            let Body::Fact(fact) = entry.body else { continue };
            entries.push((fact, bytes));
        }
        let (reply, answer) = oneshot::channel();
        self.send(Request::Facts(entries, reply))?;
        answer.await.unwrap_or(Err(CommitError::Unwritable))
    }

    fn send(&self, request: Request) -> Result<(), CommitError> {
        self.requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CommitError::Busy,
            mpsc::error::TrySendError::Closed(_) => CommitError::Unwritable,
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

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Random bytes made with this ledger: another one has others.
    pub fn generation(&self) -> [u8; 16] {
        self.generation
    }
}

/// What is remembered of one epoch.
#[derive(Debug, Default)]
struct Cursor {
    floor: u64,
    sparse: BTreeMap<u64, ()>,
    hashes: HashMap<u64, [u8; 32]>,
    order: VecDeque<u64>,
}

impl Cursor {
    fn from_row(row: CursorRow) -> ((AgentId, EpochId), Self) {
        let mut cursor = Self { floor: row.floor, ..Self::default() };
        for (sequence, hash) in [(row.floor, row.floor_hash)].into_iter().chain(row.sparse) {
            if sequence > row.floor {
                cursor.sparse.insert(sequence, ());
            }
            if let Some(hash) = unhex(&hash) {
                cursor.remember(sequence, hash);
            }
        }
        ((row.agent, row.epoch), cursor)
    }

    fn has(&self, sequence: u64) -> bool {
        sequence <= self.floor || self.sparse.contains_key(&sequence)
    }

    fn remember(&mut self, sequence: u64, hash: [u8; 32]) {
        if self.hashes.insert(sequence, hash).is_none() {
            self.order.push_back(sequence);
        }
        if self.order.len() > HASHES
            && let Some(oldest) = self.order.pop_front()
        {
            self.hashes.remove(&oldest);
        }
    }

    fn take(&mut self, sequence: u64, hash: [u8; 32]) {
        self.sparse.insert(sequence, ());
        while self.sparse.remove(&(self.floor + 1)).is_some() {
            self.floor += 1;
        }
        self.remember(sequence, hash);
    }
}

pub(crate) fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Its fields go in this order: when nobody can announce any more, the journal is closed and unlocked.
struct Writer {
    journal: Journal,
    cursors: HashMap<(AgentId, EpochId), Cursor>,
    offsets: HashMap<(AgentId, BootId), i64>,
    /// Hours before this one take nothing in.
    closed: Option<UtcMillis>,
    announce: watch::Sender<Place>,
    announce_tip: watch::Sender<(Place, [u8; 32])>,
}

/// An answer that waits for the fsync.
enum Waiting {
    Batch(oneshot::Sender<Result<Outcome, CommitError>>, Outcome),
    Facts(oneshot::Sender<Result<Place, CommitError>>, Place),
}

impl Writer {
    /// Runs until nobody can send any more, or the disk refuses: then every later request is refused too,
    /// because the thread is gone and with it the receiving end.
    fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut group = Vec::with_capacity(GROUP);
        loop {
            if queue.blocking_recv_many(&mut group, GROUP) == 0 {
                return;
            }
            let mut waiting = Vec::with_capacity(group.len());
            for request in group.drain(..) {
                if let Err(error) = self.write(request, &mut waiting) {
                    tracing::error!(error = &error as &dyn std::error::Error, "the ledger cannot be written");
                    return;
                }
            }
            if let Err(error) = self.journal.sync() {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the ledger cannot be made durable"
                );
                return;
            }
            self.announce.send_replace(self.journal.durable());
            self.announce_tip.send_replace((self.journal.durable(), self.journal.chain()));
            for answer in waiting {
                // A sender that went away will ask again.
                match answer {
                    Waiting::Batch(reply, outcome) => drop(reply.send(Ok(outcome))),
                    Waiting::Facts(reply, place) => drop(reply.send(Ok(place))),
                }
            }
        }
    }

    fn write(&mut self, request: Request, waiting: &mut Vec<Waiting>) -> Result<(), AppendError> {
        match request {
            Request::Facts(facts, reply) => {
                for (fact, bytes) in facts {
                    match fact {
                        Fact::ClockOffset { agent, boot, minutes } => {
                            self.offsets.insert((agent, boot), minutes);
                        }
                        Fact::Record { kind, body, .. } => {
                            self.closed = self.closed.max(closed::before(&kind, &body));
                        }
                        _ => {}
                    }
                    self.journal.append(&bytes)?;
                }
                waiting.push(Waiting::Facts(reply, self.journal.next()));
            }
            Request::Batch(submission, reply) => match self.judge(&submission) {
                Err(refusal) => drop(reply.send(Err(refusal))),
                Ok(Some(outcome)) => waiting.push(Waiting::Batch(reply, outcome)),
                Ok(None) => {
                    let outcome = self.append(*submission)?;
                    waiting.push(Waiting::Batch(reply, outcome));
                }
            },
            Request::Prune(segment, reply) => {
                drop(reply.send(self.journal.remove_segments_before(segment)));
            }
        }
        Ok(())
    }

    /// `Ok(None)`: new.
    fn judge(&self, submission: &Submission) -> Result<Option<Outcome>, CommitError> {
        let Batch { agent, epoch, sequence, prev_hash, .. } = &submission.batch;
        let (agent, epoch, sequence) = (agent.clone(), *epoch, *sequence);
        let cursor = self.cursors.get(&(agent.clone(), epoch));
        if cursor.is_some_and(|cursor| cursor.has(sequence)) {
            return match cursor.and_then(|cursor| cursor.hashes.get(&sequence)) {
                Some(hash) if *hash == submission.hash => Ok(Some(Outcome::Duplicate)),
                Some(_) => Err(CommitError::Conflict { agent, epoch, sequence }),
                None => Ok(Some(Outcome::Old)),
            };
        }
        let before = match sequence {
            1 => Some([0; 32]),
            _ => cursor.and_then(|cursor| cursor.hashes.get(&(sequence - 1)).copied()),
        };
        if before.is_some_and(|before| before != *prev_hash) {
            return Err(CommitError::BrokenChain { agent, epoch, sequence });
        }
        if let Some(closed) = self.closed {
            let minutes = self.minutes(submission);
            if let Some(reaches) = closed::reaches(&submission.batch, minutes, closed) {
                return Err(CommitError::Closed { agent, epoch, sequence, reaches, closed });
            }
        }
        Ok(None)
    }

    /// Minutes by which the clock of this batch is off, as they will be fixed when it is taken.
    fn minutes(&self, Submission { received_at, received, batch, .. }: &Submission) -> i64 {
        let fixed = self.offsets.get(&(batch.agent.clone(), batch.boot)).copied().unwrap_or(0);
        match offset_minutes(batch, received, *received_at) {
            Some(minutes) if is_change(fixed, minutes) => minutes,
            _ => fixed,
        }
    }

    fn append(&mut self, submission: Submission) -> Result<Outcome, AppendError> {
        let Submission { received_at, received, batch, hash } = submission;
        if let Some(minutes) = offset_minutes(&batch, &received, received_at) {
            let key = (batch.agent.clone(), batch.boot);
            let fixed = self.offsets.get(&key).copied().unwrap_or(0);
            if is_change(fixed, minutes) {
                tracing::warn!(agent = %batch.agent, boot = %batch.boot, minutes, "the clock of a host is off");
                self.offsets.insert(key, minutes);
                let fact = Fact::ClockOffset { agent: batch.agent.clone(), boot: batch.boot, minutes };
                self.journal.append(&Entry { received: received_at, body: Body::Fact(fact) }.encode())?;
            }
        }
        let leaf_hash = received.leaf_hash();
        self.journal.append(&Entry { received: received_at, body: Body::Batch(received) }.encode())?;
        self.cursors.entry((batch.agent, batch.epoch)).or_default().take(batch.sequence, hash);
        Ok(Outcome::Accepted { leaf_hash })
    }
}

/// A clock that was right is off from the first minute beyond the tolerance; one that was off stays as it is
/// fixed until it has moved by more than that, or it would flap.
fn is_change(fixed: i64, minutes: i64) -> bool {
    let change = fixed.abs_diff(minutes).saturating_mul(UtcMillis::MINUTE.unsigned_abs());
    change > CLOCK_TOLERANCE_MS.unsigned_abs() || (fixed == 0 && minutes != 0)
}

/// How far the labels of this batch are off, by the boot clock at sending; `None` if that cannot be known.
fn offset_minutes(batch: &Batch, received: &Received, received_at: UtcMillis) -> Option<i64> {
    let clocks = received.clocks?;
    let labelled = batch.windows.iter().map(|w| (w.span.start(), w.boot_start_ms));
    let labelled = labelled.chain(batch.gaps.iter().map(|g| (g.span.start(), g.boot_start_ms))).last();
    // The first batch of a boot has an inventory and nothing measured: the host's wall clock is all there is.
    let (wall, boot) = labelled.unwrap_or((clocks.wall, clocks.boot_ms));
    // It was sent after it was measured, and no host is up for a century: anything else is no clock.
    const CENTURY_MS: i64 = 36_600 * UtcMillis::DAY;
    let since = i64::try_from(clocks.boot_ms.checked_sub(boot)?).ok().filter(|since| *since < CENTURY_MS)?;
    let off = received_at.since(wall.plus(since));
    // Rounded to whole minutes, so that windows still end at minutes.
    Some((off + off.signum() * UtcMillis::MINUTE / 2) / UtcMillis::MINUTE)
        .map(|minutes| if off.abs() <= CLOCK_TOLERANCE_MS { 0 } else { minutes })
}

/// Looks a batch up in the ledger: the hash of the one with this number, if there is one in these places.
/// With no places given, everything before `end` is read.
pub fn find(
    folder: &Path,
    places: &[PlaceRow],
    end: Place,
    agent: &AgentId,
    epoch: EpochId,
    sequence: u64,
) -> Result<Option<[u8; 32]>, weighbridge_journal::ReadError> {
    let mut found = None;
    let mut look = |payload: &[u8]| {
        let Ok(Entry { body: Body::Batch(received), .. }) = Entry::decode(payload) else { return };
        let batch = Envelope::decode(&received.envelope).and_then(|envelope| envelope.read());
        if batch.is_ok_and(|b| b.agent == *agent && b.epoch == epoch && b.sequence == sequence) {
            found = Some(weighbridge_wire::hash(&received.envelope));
        }
    };
    if places.is_empty() {
        let mut reader = Reader::from_start(folder);
        while let Some(entry) = reader.next_before(end)? {
            look(&entry.payload);
        }
    }
    for place in places {
        read_places(folder, place, end, |_, payload| look(payload))?;
    }
    Ok(found)
}

/// Reads the entries of one row of places.
pub fn read_places(
    folder: &Path,
    row: &PlaceRow,
    end: Place,
    mut visit: impl FnMut(Place, &[u8]),
) -> Result<(), weighbridge_journal::ReadError> {
    let from = Place { index: row.first_index, segment: row.segment, offset: row.first_offset };
    let mut reader = Reader::new(folder, from);
    while let Some(entry) = reader.next_before(end)? {
        if entry.place.index > row.last_index {
            break;
        }
        visit(entry.place, &entry.payload);
    }
    Ok(())
}
