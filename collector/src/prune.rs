//! Payloads that are old enough go; what was made of them stays, signed, and so do their commitments.
//!
//! First the hours before a date are [closed] by a fact, then all sums and state are written
//! down in a [summary] that loads to the same digest, then a fact commits that summary, and
//! only then segments of the ledger are removed. A crash at any of these steps leaves a store that goes on; the next
//! start, or the next pruning, finishes it.

use std::{fs::File, io, path::Path, sync::Arc};

use serde::Serialize;
use weighbridge_journal::{ReadError, Reader, fail};
use weighbridge_meter::{EpochId, UtcMillis};
use weighbridge_store::{
    Entry, SqliteStore, StoreError, closed, files,
    ledger::{CommitError, PruneError as RemoveError},
    summary::{self, Summary, SummaryError},
};

use crate::{app::App, progress};

/// What pruning did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Hours before this are closed now.
    pub closed_before: UtcMillis,
    /// Segments that went.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The ledger entry after the last that the summary reflects; `None` where nothing was pruned.
    pub summary: Option<u64>,
    /// Why not more, in words.
    pub because: String,
}

/// Nothing was pruned, or not all.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The date.
    #[error("{before}: expected a whole UTC hour that is past")]
    Date {
        /// What was given.
        before: UtcMillis,
    },
    /// A backup or another pruning is under way.
    #[error("{file}: a backup or a pruning is under way, try again when it is done")]
    Busy {
        /// The file that says so.
        file: String,
    },
    /// The files.
    #[error("{file}: cannot be locked, read or removed")]
    File {
        /// Which.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The fold has stopped: what the sums lack would be lost.
    #[error("the sums do not follow the ledger: {0}")]
    Behind(String),
    /// A summary that does not give back what it was made of.
    #[error("the summary does not load to what it was made of: nothing is pruned")]
    Unfaithful,
    /// The summary.
    #[error(transparent)]
    Summary(#[from] SummaryError),
    /// The sums.
    #[error("the sums cannot be read")]
    Store(#[from] StoreError),
    /// The ledger.
    #[error("the ledger cannot be read")]
    Read(#[from] ReadError),
    /// The facts.
    #[error("the ledger took no facts")]
    Commit(#[from] CommitError),
    /// The segments.
    #[error(transparent)]
    Remove(#[from] RemoveError),
}

/// The folder, within that of the summaries, in which a summary is made again to compare it.
pub(crate) const CHECK: &str = "check.new";

/// Held while segments must stay as they are, or while they go.
#[derive(Debug)]
pub(crate) struct Maintenance(#[expect(dead_code, reason = "held, never read")] File);

impl Maintenance {
    /// Takes it for this data folder; an error says that somebody has it, or why it cannot be had.
    pub(crate) fn take(data: &Path) -> Result<Self, PruneError> {
        let path = data.join("MAINTENANCE");
        let file = path.display().to_string();
        let open = fail::around("maintenance.take", || {
            File::options().create(true).truncate(false).write(true).open(&path)
        });
        let open = open.map_err(|source| PruneError::File { file: file.clone(), source })?;
        match open.try_lock() {
            Ok(()) => Ok(Self(open)),
            Err(std::fs::TryLockError::WouldBlock) => Err(PruneError::Busy { file }),
            Err(std::fs::TryLockError::Error(source)) => Err(PruneError::File { file, source }),
        }
    }
}

impl App {
    /// Prunes payloads received before a whole UTC hour. Once begun it goes to its end, even if whoever asked for it
    /// goes away.
    pub async fn prune(&self, before: UtcMillis) -> Result<Pruned, PruneError> {
        let app = self.clone();
        let pruned = tokio::spawn(async move { app.prune_whole(before).await });
        pruned.await.unwrap_or(Err(PruneError::Commit(CommitError::Unwritable)))
    }

    async fn prune_whole(&self, before: UtcMillis) -> Result<Pruned, PruneError> {
        if before != before.hour() || before > self.now() {
            return Err(PruneError::Date { before });
        }
        let _alone = Maintenance::take(&self.places.data)?;
        self.settled().await;
        if let Some(fault) = self.fault() {
            return Err(PruneError::Behind(fault));
        }
        let closed_now = self.shared.with(|state| state.closed_before);
        let closed_before = closed_now.max(Some(before)).unwrap_or(before);
        let (segment, because) = self.prunable(closed_before).await?;
        let oldest = self.oldest_segment()?;
        if segment <= oldest {
            // One before this may have ended between its last segment and the summary that it replaced.
            self.forget_older().await?;
            return Ok(Pruned { closed_before, segments: 0, bytes: 0, summary: None, because });
        }
        // Also where these hours are closed already: what came since and speaks of hours to come is void from here on.
        // An import decides on what is open: none may be between its decision and its facts.
        let closing = self.writing.lock().await;
        self.record(vec![closed::fact(closed_before)]).await?;
        drop(closing);
        tracing::info!(%closed_before, "hours are closed; writing the summary");
        let generation = EpochId(self.ledger.generation());
        let summary = summary::write(
            &self.store,
            self.ledger.folder(),
            &self.places.summaries,
            generation,
            self.signing_key(),
            self.now(),
        )
        .await?;
        if let Err(error) = self.is_faithful(&summary).await {
            // Nobody is to start from it.
            files::remove(&summary.file)
                .and_then(|()| files::sync_folder(&self.places.summaries))
                .map_err(|source| PruneError::File { file: summary.file.display().to_string(), source })?;
            return Err(error);
        }
        self.record(vec![summary.fact(closed_before, segment)]).await?;
        let removed = self.ledger.prune(segment).await?;
        self.metrics.pruned(removed.bytes);
        self.forget_older().await?;
        let place = summary.header.place.index;
        tracing::info!(
            segments = removed.segments,
            bytes = removed.bytes,
            summary = place,
            "payloads are pruned: {}",
            progress::bytes(removed.bytes)
        );
        let (segments, bytes) = (removed.segments, removed.bytes);
        Ok(Pruned { closed_before, segments, bytes, summary: Some(place), because })
    }

    fn oldest_segment(&self) -> Result<u64, PruneError> {
        let oldest = weighbridge_journal::oldest_segment(self.ledger.folder()).map_err(ReadError::from)?;
        Ok(oldest.unwrap_or(1))
    }

    /// The segment before which nothing is needed any more, and what it is that still is.
    async fn prunable(&self, closed_before: UtcMillis) -> Result<(u64, String), PruneError> {
        // The one that is being written stays.
        let durable = *self.ledger.durable().borrow();
        let mut segment = durable.segment;
        let mut because = format!("segment {segment} is being written");
        if let Some((needed, agent)) = self.store.oldest_needed(self.ledger.folder(), closed_before).await?
            && needed < segment
        {
            segment = needed;
            because = format!("segment {needed} holds a batch of agent {agent} that reaches into open hours");
        }
        let needs_from = self.tree.needs_from().await;
        while segment > 1
            && let Some(first) = weighbridge_journal::first_place(self.ledger.folder(), segment)?
            && first.index > needs_from
        {
            segment -= 1;
            because = format!("the tree needs entry {needs_from} and what follows, in segment {segment}");
        }
        let folder = self.ledger.folder().to_owned();
        let received = tokio::task::spawn_blocking(move || received_before(&folder, segment, closed_before));
        let received = received.await.unwrap_or(Ok(0))?;
        if received < segment {
            segment = received;
            because = format!("segment {segment} was received after {closed_before}");
        }
        Ok((segment, because))
    }

    /// Loads the summary into a database of its own and compares: evidence goes only after that.
    async fn is_faithful(&self, summary: &Summary) -> Result<(), PruneError> {
        let file = self.places.summaries.join("check.sqlite.new");
        let folder = self.places.summaries.join(CHECK);
        let failed = |source| PruneError::File { file: file.display().to_string(), source };
        // What an earlier check left, or this one.
        let remove = || {
            for suffix in ["", "-wal", "-shm"] {
                let mut name = file.as_os_str().to_owned();
                name.push(suffix);
                files::remove(Path::new(&name))?;
            }
            remove_folder(&folder)
        };
        remove().map_err(failed)?;
        let checked = async {
            let store = Arc::new(SqliteStore::open(&file).await?);
            summary::load(&store, &summary.file).await?;
            let again = summary::write(
                &store,
                self.ledger.folder(),
                &folder,
                summary.header.generation,
                self.signing_key(),
                summary.header.made_at,
            )
            .await;
            store.close().await;
            Ok::<_, PruneError>(again?.signed.sha256 == summary.signed.sha256)
        }
        .await;
        remove().map_err(failed)?;
        if checked? { Ok(()) } else { Err(PruneError::Unfaithful) }
    }

    /// A newer summary says all that an older one did, once the ledger commits it.
    pub(crate) async fn forget_older(&self) -> Result<(), PruneError> {
        let Some((entry, _)) = self.last_summary().await? else { return Ok(()) };
        let folder = &self.places.summaries;
        let last = summary::file_of(folder, entry);
        let forget = || {
            if last.is_file() {
                for older in summary::list(folder)?.iter().filter(|file| **file < last) {
                    files::remove(older)?;
                }
                files::sync_folder(folder)?;
            }
            Ok(())
        };
        forget().map_err(|source| PruneError::File { file: folder.display().to_string(), source })
    }

    /// Prunes what is older than `keep` milliseconds; for calling every hour.
    pub(crate) async fn prune_older_than(&self, keep: i64) {
        let before = self.now().plus(-keep).hour();
        if self.shared.with(|state| state.closed_before).is_some_and(|closed| before <= closed) {
            return;
        }
        match self.prune(before).await {
            Ok(_) => {}
            Err(error @ PruneError::Busy { .. }) => {
                tracing::info!(problem = %error, "payloads are pruned later");
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "payloads cannot be pruned");
            }
        }
    }
}

/// Removes a folder with all that is in it, if there is one.
pub(crate) fn remove_folder(folder: &Path) -> io::Result<()> {
    match fail::around("prune.remove_check", || std::fs::remove_dir_all(folder)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The first segment from the oldest to `last` that was begun at `before` or later: everything before it was
/// received before.
fn received_before(folder: &Path, last: u64, before: UtcMillis) -> Result<u64, ReadError> {
    let oldest = weighbridge_journal::oldest_segment(folder)?.unwrap_or(1);
    let begun = |segment: u64| -> Result<bool, ReadError> {
        let Some(first) = weighbridge_journal::first_place(folder, segment)? else { return Ok(false) };
        let entry = Reader::new(folder, first).next()?;
        let received = entry.and_then(|entry| Entry::decode(&entry.payload).ok()).map(|entry| entry.received);
        Ok(received.is_some_and(|received| received < before))
    };
    // Segments follow each other in time: halve what is in doubt.
    let (mut certain, mut doubtful) = (oldest, last);
    while certain < doubtful {
        let middle = certain + (doubtful - certain).div_ceil(2);
        if begun(middle)? {
            certain = middle;
        } else {
            doubtful = middle - 1;
        }
    }
    Ok(certain)
}

/// A duration in days, such as `400d`, in milliseconds.
pub(crate) fn days(text: &str) -> Option<i64> {
    let days: i64 = text.strip_suffix('d')?.parse().ok()?;
    (LEAST_DAYS..=36_500).contains(&days).then_some(days * UtcMillis::DAY)
}

/// Agents keep what was acknowledged for 7 days, and send it again to a restored store.
const LEAST_DAYS: i64 = 8;
