//! Drives the fold: reads the durable part of the ledger in order and writes the sums.
//!
//! The same code serves the start (replay before ingest opens), the live collector and a rebuild.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::sync::{OwnedRwLockWriteGuard, watch};
use weighbridge_journal::{ReadError, Reader};
use weighbridge_meter::{AgentId, Estimator, UtcMillis};

use crate::{
    Applied, Place, StoreError, UsageStore,
    fold::{self, Fold, FoldError, Opened},
    hour::HourKey,
    ledger::{Tail, read_places},
    state::{PlaceRow, State},
};

/// Entries folded between two writes: bounds memory and the time a reader of the pages is behind.
const PIECE: usize = 4096;

/// Windows and other records after which a piece ends: they take half a kilobyte each.
const PIECE_RECORDS: usize = 32_768;

/// Bytes of entries after which a piece ends, whatever their number: bounds memory where batches are large.
const PIECE_BYTES: usize = 16 << 20;

/// Hours of accelerators after which a piece ends: bounds memory whatever agents say of which hours.
const PIECE_HOURS: usize = 40_000;

/// Between two pieces of a live ledger where little comes in.
const BREATH: Duration = Duration::from_millis(25);

/// The same where much does, a part of the half second in which sums must follow: however many entries a piece has,
/// the rows it writes are those of the hours that it touches, so that larger pieces cost less.
const LONG_BREATH: Duration = Duration::from_millis(200);

/// Until the database is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Accelerators made anew from one reading of their hour: bounds the batches in memory.
const KEYS: usize = 4096;

/// Hours made anew at once: bounds those in memory, of which one word may mark any number.
const REFOLDED: usize = 10_000;

/// Hours that change their holder after which a piece ends, with the word that has the last of them: bounds the
/// transaction. They are in no memory.
const RELABELLED: usize = 250_000;

/// The fold cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The ledger cannot be read.
    #[error("the ledger cannot be read")]
    Read(#[from] ReadError),
    /// The ledger holds what cannot be folded.
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// Do not retry: the ledger is older than the sums, as after a restored backup. Rebuild the sums.
    #[error("usage stands at ledger entry {stands}, but the ledger ends before entry {ends}")]
    Ahead {
        /// Next entry it needs.
        stands: u64,
        /// Next entry the ledger will have.
        ends: u64,
    },
    /// Do not retry: what came before was pruned, and no summary of it was loaded.
    #[error("the ledger begins at entry {begins}, and the sums hold nothing of what was before it")]
    Pruned {
        /// Its oldest entry.
        begins: u64,
    },
    /// The sums cannot be written.
    #[error("the sums cannot be written")]
    Store(#[from] StoreError),
}

/// The fold with its place in the ledger and the store it writes to.
pub struct Follower<S> {
    folder: PathBuf,
    reader: Reader,
    fold: Fold,
    store: Arc<S>,
    shared: Shared,
    stands: Place,
    /// What ingest opened already.
    tail: Tail,
    /// The entry to read next.
    at: Place,
    /// Whether the reader stands there: it does not after entries that came from the tail.
    reader_at: bool,
    /// Entries that were read and belong to the next piece, with the place after each and its bytes.
    waiting: VecDeque<(Opened, Place, usize)>,
    /// Hours made anew at once.
    refolded: usize,
    /// Hours relabelled at once.
    relabelled: usize,
    worked: Worked,
    /// Held while hours are written of a piece that is not: readers wait until all of it is.
    moving: Option<OwnedRwLockWriteGuard<()>>,
}

/// What late words have cost so far, in hours of accelerators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Worked {
    /// They got another name.
    pub relabelled: u64,
    /// They were made anew from their batches.
    pub remade: u64,
}

/// The state as of the last write, for readers.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<RwLock<State>>, Arc<tokio::sync::RwLock<()>>);

impl Shared {
    /// Calls `read` with the state; keep it short, the fold waits.
    pub fn with<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        // A panic elsewhere cannot leave it half written: rows are absorbed one by one, each whole.
        read(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps sums and state at one moment for as long as it is held: the fold waits before its next write.
    pub async fn still(&self) -> tokio::sync::OwnedRwLockReadGuard<()> {
        self.1.clone().read_owned().await
    }
}

impl<S: UsageStore> Follower<S> {
    /// Goes on from where the store stands.
    pub async fn new(folder: &Path, store: Arc<S>, estimator: Estimator) -> Result<Self, FollowError> {
        let stands = store.stands().await?;
        let mut state = State::default();
        for row in store.state().await? {
            state.absorb(&row)?;
        }
        let cursors = store.cursors().await?;
        let reader = if stands.index == 0 { Reader::from_start(folder) } else { Reader::new(folder, stands) };
        let shared = Shared(Arc::new(RwLock::new(state.clone())), Arc::default());
        let fold = Fold::new(estimator, state, cursors);
        let at = Place { index: stands.index.max(1), ..stands };
        let (tail, reader_at) = (Tail::default(), true);
        Ok(Self {
            folder: folder.into(),
            reader,
            fold,
            store,
            shared,
            stands,
            tail,
            at,
            reader_at,
            waiting: VecDeque::new(),
            refolded: REFOLDED,
            relabelled: RELABELLED,
            worked: Worked::default(),
            moving: None,
        })
    }

    /// Takes entries from here where it can, instead of reading them.
    #[must_use]
    pub fn with_tail(mut self, tail: Tail) -> Self {
        self.tail = tail;
        self
    }

    /// Makes not more than so many hours anew at once.
    #[must_use]
    pub fn refolding(mut self, most: usize) -> Self {
        self.refolded = most.max(1);
        self
    }

    /// Ends a piece after so many hours that change their holder.
    #[must_use]
    pub fn relabelling(mut self, most: usize) -> Self {
        self.relabelled = most.max(1);
        self
    }

    /// The next entry before `end`, with the place after it and its bytes.
    fn next(&mut self, end: Place) -> Result<Option<(Opened, Place, usize)>, FollowError> {
        if let Some(waiting) = self.waiting.pop_front() {
            return Ok(Some(waiting));
        }
        if self.at < end
            && let Some((entry, next)) = self.tail.take(self.at)
        {
            (self.at, self.reader_at) = (next, false);
            return Ok(Some((entry, next, 0)));
        }
        if !self.reader_at {
            (self.reader, self.reader_at) = (Reader::new(&self.folder, self.at), true);
        }
        let Some(entry) = self.reader.next_before(end)? else { return Ok(None) };
        self.at = entry.next;
        Ok(Some((fold::open(entry.place, &entry.payload)?, entry.next, entry.payload.len())))
    }

    /// What late words have cost since it was made.
    pub fn worked(&self) -> Worked {
        self.worked
    }

    /// The state as of the last write.
    pub fn shared(&self) -> Shared {
        self.shared.clone()
    }

    /// Folds everything before `end`, which is not before where the sums stand.
    pub async fn catch_up(&mut self, end: Place) -> Result<(), FollowError> {
        if end < self.stands {
            return Err(FollowError::Ahead { stands: self.stands.index, ends: end.index });
        }
        while self.piece(end).await? {}
        Ok(())
    }

    /// The same, telling after each piece how far it is.
    pub async fn catch_up_telling(
        &mut self,
        end: Place,
        mut tell: impl FnMut(Place),
    ) -> Result<(), FollowError> {
        if end < self.stands {
            return Err(FollowError::Ahead { stands: self.stands.index, ends: end.index });
        }
        while self.piece(end).await? {
            tell(self.stands);
        }
        Ok(())
    }

    /// Follows the ledger until nobody writes it any more, at least twice a second when there is something.
    pub async fn run(
        mut self,
        mut durable: watch::Receiver<Place>,
        stands: watch::Sender<Place>,
    ) -> Result<(), FollowError> {
        loop {
            let end = *durable.borrow_and_update();
            let before = self.stands.index;
            match self.catch_up(end).await {
                Ok(()) => {}
                Err(FollowError::Store(StoreError::Unavailable(error))) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "sums wait for the database");
                    tokio::time::sleep(RETRY).await;
                    // What was folded and not written is gone from memory: go on from what the store has.
                    self.reopen().await?;
                    continue;
                }
                Err(error) => return Err(error),
            }
            stands.send_replace(self.stands);
            if durable.changed().await.is_err() {
                return Ok(());
            }
            // Entries that come close together share a transaction.
            let entries = u32::try_from(self.stands.index - before).unwrap_or(u32::MAX);
            tokio::time::sleep((BREATH * (1 + entries / 200)).min(LONG_BREATH)).await;
        }
    }

    /// Starts over from where the store stands; readers keep what they hold.
    async fn reopen(&mut self) -> Result<(), FollowError> {
        loop {
            match Self::new(&self.folder, self.store.clone(), self.fold.estimator().clone()).await {
                Ok(fresh) => {
                    let Self { shared, tail, refolded, relabelled, worked, moving, .. } =
                        std::mem::replace(&mut *self, fresh);
                    (self.tail, self.refolded, self.moving) = (tail, refolded, moving);
                    (self.relabelled, self.worked) = (relabelled, worked);
                    let state = self.fold.state().clone();
                    *shared.0.write().unwrap_or_else(PoisonError::into_inner) = state;
                    self.shared = shared;
                    return Ok(());
                }
                Err(FollowError::Store(StoreError::Unavailable(_))) => tokio::time::sleep(RETRY).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Folds one piece; `false` if there was nothing.
    async fn piece(&mut self, end: Place) -> Result<bool, FollowError> {
        let mut entries = Vec::new();
        let mut lengths = Vec::new();
        let (mut bytes, mut hours, mut records) = (0, 0, 0);
        while entries.len() < PIECE
            && bytes < PIECE_BYTES
            && hours < PIECE_HOURS
            && records < PIECE_RECORDS
            && let Some((entry, next, length)) = self.next(end)?
        {
            // What closes hours is alone in its piece: what was marked before it is made anew as it was before it.
            if entry.closes() && !entries.is_empty() {
                self.waiting.push_front((entry, next, length));
                break;
            }
            hours += entry.touches();
            records += entry.records();
            bytes += length;
            let closes = entry.closes();
            entries.push(entry);
            lengths.push((next, length));
            if closes {
                break;
            }
        }
        let Some(first) = entries.first().map(|entry| entry.place().index) else { return Ok(false) };
        if first > self.stands.index.max(1) {
            return Err(FollowError::Pruned { begins: first });
        }
        let needed = self.fold.needs(&entries);
        if !needed.is_empty() {
            let rows = self.store.hours(&needed).await?;
            self.fold.load(rows);
        }
        let mut last = self.stands;
        let mut entries = entries.into_iter().zip(lengths);
        while self.fold.relabelled() < self.relabelled
            && let Some((entry, (next, _))) = entries.next()
        {
            self.fold.apply(entry, next);
            last = next;
        }
        let mut rest: VecDeque<_> = entries.map(|(entry, (next, length))| (entry, next, length)).collect();
        rest.append(&mut self.waiting);
        self.waiting = rest;
        self.refold(last).await?;
        let Some(piece) = self.fold.take() else { return Ok(false) };
        self.worked.relabelled += piece.relabels.iter().map(|relabel| relabel.count() as u64).sum::<u64>();
        let ahead = self.moving.is_some();
        self.moves().await;
        match self.store.apply(&piece).await {
            Ok(Applied::Now) => {}
            // Another process folded the same piece: its integers are these.
            Ok(Applied::AlreadyIn) => tracing::warn!("a piece of the ledger was already folded"),
            Err(error) => {
                // Nothing has moved, unless hours were written ahead: then readers wait until the rest has.
                self.moving = self.moving.take().filter(|_| ahead);
                return Err(error.into());
            }
        }
        let absorbed = {
            let mut state = self.shared.0.write().unwrap_or_else(PoisonError::into_inner);
            piece.state.iter().try_for_each(|row| state.absorb(row))
        };
        self.moving = None;
        absorbed?;
        self.stands = piece.ends;
        Ok(true)
    }

    /// From here on readers wait.
    async fn moves(&mut self) {
        if self.moving.is_none() {
            self.moving = Some(self.shared.1.clone().write_owned().await);
        }
    }

    /// Makes the marked hours anew, each from the batches that touch it. Where there are more than memory should hold
    /// they are written as they come, ahead of their piece: they say all that is before its end, however often they
    /// are made.
    async fn refold(&mut self, end: Place) -> Result<(), FollowError> {
        while self.fold.is_marked() {
            let keys = self.fold.to_refold(self.refolded);
            self.refold_some(keys.clone(), end).await?;
            if self.fold.is_marked() {
                let rows = self.fold.take_hours(&keys);
                self.moves().await;
                self.store.put_hours(&rows).await?;
            }
        }
        Ok(())
    }

    async fn refold_some(&mut self, keys: Vec<HourKey>, end: Place) -> Result<(), FollowError> {
        let absent: Vec<_> = keys.iter().filter(|key| !self.fold.holds(key)).cloned().collect();
        if !absent.is_empty() {
            let rows = self.store.hours(&absent).await?;
            self.fold.load(rows);
        }
        self.worked.remade += keys.len() as u64;
        let mut by_hour: BTreeMap<UtcMillis, Vec<(HourKey, Vec<AgentId>)>> = BTreeMap::new();
        for key in keys {
            let agents = self.fold.agents_of(&key);
            by_hour.entry(key.hour).or_default().push((key, agents));
        }
        for (hour, keys) in by_hour {
            for keys in keys.chunks(KEYS) {
                let batches = self.batches(hour, keys.iter().flat_map(|(_, agents)| agents), end).await?;
                for (key, agents) in keys {
                    let of_key = agents.iter().filter_map(|agent| batches.get(agent)).flatten();
                    self.fold.refold(key, of_key);
                }
            }
        }
        Ok(())
    }

    /// Batches of these agents that touch an hour, each entry of the ledger read once.
    async fn batches(
        &self,
        hour: UtcMillis,
        agents: impl Iterator<Item = &AgentId>,
        end: Place,
    ) -> Result<HashMap<AgentId, Vec<Opened>>, FollowError> {
        let mut batches: HashMap<AgentId, Vec<Opened>> =
            agents.map(|agent| (agent.clone(), Vec::new())).collect();
        let mut rows = Vec::new();
        for agent in batches.keys() {
            rows.extend(self.store.places(agent, hour).await?);
            rows.extend(self.fold.pending_places(agent, hour));
        }
        // What was pruned and is still noted is void.
        let oldest = weighbridge_journal::oldest_segment(&self.folder).map_err(ReadError::from)?.unwrap_or(1);
        let closed = self.fold.state().closed_at.unwrap_or(0);
        rows.retain(|row| row.segment >= oldest || row.last_index >= closed);
        let mut failed = None;
        for row in joined(rows) {
            read_places(&self.folder, &row, end, |place, payload| match fold::open(place, payload) {
                Ok(entry) => {
                    if let Some(wanted) = entry.agent().and_then(|agent| batches.get_mut(agent)) {
                        wanted.push(entry);
                    }
                }
                Err(error) => failed = Some(error),
            })?;
        }
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(batches),
        }
    }
}

/// The same entries without any of them twice, in order of the ledger.
fn joined(mut rows: Vec<PlaceRow>) -> Vec<PlaceRow> {
    rows.sort_unstable_by_key(|row| row.first_index);
    let mut joined: Vec<PlaceRow> = Vec::new();
    for row in rows {
        match joined.last_mut() {
            Some(last) if last.segment == row.segment && row.first_index <= last.last_index => {
                last.last_index = last.last_index.max(row.last_index);
            }
            _ => joined.push(row),
        }
    }
    joined
}
