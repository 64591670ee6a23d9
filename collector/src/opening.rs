//! What a start finds on the disk, and how it goes on from there without a hand.
//!
//! The ledger is the truth: a torn end is cut, anything worse is refused. Everything else mends itself. Files that
//! were never finished go. A ledger that is not what was [promised](weighbridge_store::mark) gets a new generation, so
//! that agents send again what they hold. Sums that are missing, damaged, ahead of the ledger or of another
//! generation are set aside and folded anew, from a summary where payloads are pruned.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use weighbridge_journal::{Options, ReadError};
use weighbridge_meter::{EpochId, Estimator, UtcMillis};
use weighbridge_store::{
    LedgerOptions, SqliteStore, StoreError, UsageStore, files,
    follow::{FollowError, Follower},
    ledger::{
        OpenLedger,
        generation::{Reason, Renewal},
    },
    mark::{Mark, MarkError},
    summary::{self, Summary, SummaryError},
    verify::chain_of,
};

use crate::{config::Config, progress::Progress, prune, random, restore};

/// A start cannot go on by itself.
#[derive(Debug, thiserror::Error)]
pub enum OpeningError {
    /// A file can be neither read, made, renamed nor removed.
    #[error("{}: cannot be read, made, renamed or removed", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// How far the ledger was promised.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// The ledger cannot be read where it was promised to.
    #[error("the ledger cannot be compared with what was promised")]
    Compare(#[source] ReadError),
    /// What was pruned.
    #[error(transparent)]
    Summary(#[from] SummaryError),
    /// An empty ledger must not take the place of the one that was being restored.
    #[error("{}: a restore was interrupted before it was whole: run it again", path.display())]
    HalfRestored {
        /// What is there of it.
        path: PathBuf,
    },
}

/// What a start mended.
#[derive(Clone, Debug, Default)]
pub struct Mended {
    /// Why the sums were folded anew: `missing`, `damaged`, `schema`, `ahead`, `behind` or `generation`.
    pub sums: Option<&'static str>,
    /// The same in words, where they were there.
    pub problem: Option<String>,
    /// The summary they start from, where payloads are pruned.
    pub summary: Option<Summary>,
}

/// Where things lie.
#[derive(Clone, Debug)]
pub struct Places {
    /// Folder of all of them but the mark.
    pub data: PathBuf,
    /// The ledger.
    pub ledger: PathBuf,
    /// The sums.
    pub sums: PathBuf,
    /// Summaries of what is pruned.
    pub summaries: PathBuf,
    /// How far the ledger was promised: beside the keys, so that a copy of the data does not hold it.
    pub mark: PathBuf,
}

impl Places {
    /// As configured.
    pub fn of(config: &Config) -> Self {
        Self {
            data: config.data.clone(),
            ledger: config.data.join("ledger"),
            sums: config.data.join("usage.sqlite"),
            summaries: config.data.join("summaries"),
            mark: config.key_store.join(MARK),
        }
    }
}

/// The name of the mark in the key store.
pub(crate) const MARK: &str = "ledger-mark.json";

pub(crate) fn failed(path: &Path) -> impl FnOnce(io::Error) -> OpeningError {
    let path = path.to_owned();
    move |source| OpeningError::File { path, source }
}

/// Opens the ledger, and gives it another generation where it is not what was promised.
pub(crate) fn ledger(config: &Config, now: UtcMillis) -> Result<OpenLedger, crate::app::StartError> {
    let places = Places::of(config);
    restore::finish(&places)?;
    let options = LedgerOptions {
        journal: Options { segment_bytes: config.segment_bytes },
        reserve_bytes: config.reserve_bytes,
        ..LedgerOptions::default()
    };
    let mut open = OpenLedger::open(&places.ledger, &options, &mut random::fill)?;
    if open.cut_bytes > 0 {
        tracing::warn!(bytes = open.cut_bytes, "cut the torn end of the ledger: written, never acknowledged");
    }
    // Only whoever holds the ledger may tidy up: another process could be writing these.
    for folder in [&places.data, &places.ledger, &places.summaries] {
        remove_unfinished(folder).map_err(failed(folder))?;
    }
    let check = places.summaries.join(prune::CHECK);
    prune::remove_folder(&check).map_err(failed(&check))?;
    // A restore, or an earlier start, has said already why it is another.
    if open.pending_renewal().is_none()
        && let Some((reason, promised)) = contradiction(&open, &places.mark)?
    {
        let renewal = Renewal {
            generation: EpochId(random::bytes()),
            // Of a name that was taken away nothing follows; what was promised does.
            before: promised.map_or(open.generation(), |mark| mark.generation),
            reason,
            at: now,
            place: open.durable(),
            promised,
            backup: None,
        };
        tracing::error!(
            reason = reason.as_str(),
            ends = renewal.place.index,
            promised = promised.map(|mark| mark.place.index),
            generation = %renewal.generation,
            "the ledger is not the one that was promised: it goes on under a new generation, agents send again what they hold"
        );
        open.renew(renewal)?;
    }
    Ok(open)
}

fn contradiction(open: &OpenLedger, mark: &Path) -> Result<Option<(Reason, Option<Mark>)>, OpeningError> {
    let mark = match Mark::read(mark) {
        Ok(Some(mark)) => mark,
        // A first start, or the first of a release that notes it.
        Ok(None) => return Ok(None),
        Err(error @ MarkError::Damaged { .. }) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "how far the ledger was promised is lost"
            );
            return Ok(Some((Reason::MarkDamaged, None)));
        }
        Err(error) => return Err(error.into()),
    };
    let reason = open.contradicts(&mark).map_err(OpeningError::Compare)?;
    Ok(reason.map(|reason| (reason, Some(mark))))
}

fn remove_unfinished(folder: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // A database has files beside it.
        let unfinished = [files::UNFINISHED, ".new-wal", ".new-shm"].iter().any(|end| name.ends_with(end));
        if unfinished && path.is_file() {
            tracing::info!(file = %path.display(), "removed what was never finished");
            files::remove(&path)?;
        }
    }
    Ok(())
}

/// The sums, up to the end of the ledger.
pub(crate) struct Sums {
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) follower: Follower<SqliteStore>,
    pub(crate) mended: Mended,
}

/// Opens the sums and brings them up to the ledger; what is unfit is set aside and made anew.
pub(crate) async fn sums(
    places: &Places,
    ledger: &OpenLedger,
    estimator: &Estimator,
    now: UtcMillis,
) -> Result<Sums, crate::app::StartError> {
    let missing = !places.sums.exists();
    let (reason, problem) = if missing {
        ("missing", None)
    } else {
        match reused(places, ledger, estimator).await? {
            Ok((store, follower)) => return Ok(Sums { store, follower, mended: Mended::default() }),
            Err(Unfit { reason, problem }) => {
                tracing::error!(
                    reason,
                    problem = problem.as_str(),
                    "the sums are unfit: they are set aside and folded anew"
                );
                set_aside(&places.sums, now).map_err(failed(&places.sums))?;
                (reason, Some(problem))
            }
        }
    };
    // A write-ahead log without its database, as a crash between two removals leaves it, would be taken for its own.
    for beside in beside(&places.sums) {
        files::remove(&beside).map_err(failed(&beside))?;
    }
    let (store, follower, summary) = anew(&places.sums, places, ledger, estimator).await?;
    let mended = Mended { sums: (ledger.durable().index > 1).then_some(reason), problem, summary };
    Ok(Sums { store, follower, mended })
}

/// Folds the ledger into a new database in `file`.
pub(crate) async fn anew(
    file: &Path,
    places: &Places,
    ledger: &OpenLedger,
    estimator: &Estimator,
) -> Result<(Arc<SqliteStore>, Follower<SqliteStore>, Option<Summary>), crate::app::StartError> {
    let store = Arc::new(SqliteStore::open(file).await?);
    let end = ledger.durable();
    let summary =
        summary::begin(&store, &places.ledger, &places.summaries, end).await.map_err(OpeningError::from)?;
    if let Some(summary) = &summary {
        tracing::info!(
            entry = summary.header.place.index,
            rows = summary.rows,
            "the sums start from a summary"
        );
    }
    store.set_origin(&ledger.generation().to_string()).await?;
    let mut follower = Follower::new(&places.ledger, store.clone(), estimator.clone()).await?;
    caught_up(&mut follower, ledger).await?;
    if let Some(summary) = &summary
        && summary::commitment(&store, summary).await?.is_none()
    {
        tracing::error!(file = %summary.file.display(), "the ledger does not commit the summary that the sums start from");
    }
    Ok((store, follower, summary))
}

async fn caught_up(follower: &mut Follower<SqliteStore>, ledger: &OpenLedger) -> Result<(), FollowError> {
    let end = ledger.durable();
    let mut progress = Progress::default();
    follower
        .catch_up_telling(end, |stands| {
            if progress.is_due() {
                tracing::info!(entry = stands.index, of = end.index, "folding the ledger");
            }
        })
        .await
}

/// Sums that cannot be gone on with.
struct Unfit {
    reason: &'static str,
    problem: String,
}

type Reused = (Arc<SqliteStore>, Follower<SqliteStore>);

async fn reused(
    places: &Places,
    ledger: &OpenLedger,
    estimator: &Estimator,
) -> Result<Result<Reused, Unfit>, crate::app::StartError> {
    let judged = |error: StoreError| match error.unfit() {
        Some(reason) => Ok(Err(Unfit { reason, problem: chain_of(&error) })),
        None => Err(crate::app::StartError::Store(error)),
    };
    let store = match SqliteStore::open(&places.sums).await {
        Ok(store) => Arc::new(store),
        Err(error) => return judged(error),
    };
    let folded = go_on(&store, places, ledger, estimator).await;
    if !matches!(folded, Ok(Ok(_))) {
        store.close().await;
    }
    match folded {
        Ok(Ok(follower)) => Ok(Ok((store, follower))),
        Ok(Err(unfit)) => Ok(Err(unfit)),
        Err(FollowError::Store(error)) => judged(error),
        Err(error @ FollowError::Ahead { .. }) => {
            Ok(Err(Unfit { reason: "ahead", problem: chain_of(&error) }))
        }
        Err(error @ FollowError::Pruned { .. }) => {
            Ok(Err(Unfit { reason: "behind", problem: chain_of(&error) }))
        }
        Err(error) => Err(error.into()),
    }
}

async fn go_on(
    store: &Arc<SqliteStore>,
    places: &Places,
    ledger: &OpenLedger,
    estimator: &Estimator,
) -> Result<Result<Follower<SqliteStore>, Unfit>, FollowError> {
    let unfit = |reason, problem: String| Ok(Err(Unfit { reason, problem }));
    if let Some(problem) = store.damage().await? {
        return unfit("damaged", problem);
    }
    let generation = ledger.generation().to_string();
    match store.origin().await? {
        Some(origin) if origin == generation => {}
        // Folded by a release that did not say of which generation: by this one, unless it has just changed.
        None if ledger.pending_renewal().is_none() => store.set_origin(&generation).await?,
        origin => {
            let origin = origin.unwrap_or_else(|| "another".into());
            return unfit(
                "generation",
                format!("they are of generation {origin}, the ledger is {generation}"),
            );
        }
    }
    let stands = store.stands().await?;
    if stands > ledger.durable() {
        return Err(FollowError::Ahead { stands: stands.index, ends: ledger.durable().index });
    }
    if (stands.index == 0 && ledger.oldest_segment() > 1)
        || (stands.index > 0 && stands.segment < ledger.oldest_segment())
    {
        return unfit("behind", format!("they stand at entry {}, which is pruned", stands.index));
    }
    // A place that is none: the ledger was read whole up to its end when it was opened, so it is the sums that err.
    if stands.index > 0
        && let Err(error @ ReadError::Corrupt(_)) = weighbridge_journal::chain_at(&places.ledger, stands)
    {
        return unfit("damaged", chain_of(&error));
    }
    let mut follower = Follower::new(&places.ledger, store.clone(), estimator.clone()).await?;
    caught_up(&mut follower, ledger).await?;
    Ok(Ok(follower))
}

/// The files beside a database.
fn beside(file: &Path) -> [PathBuf; 2] {
    ["-wal", "-shm"].map(|suffix| {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        name.into()
    })
}

/// Renames a database, for a person to look at; only the last one is kept.
fn set_aside(file: &Path, now: UtcMillis) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let aside = format!("{name}.aside-");
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&aside) {
            files::remove(&entry.path())?;
        }
    }
    let target = folder.join(format!("{aside}{}", now.0));
    std::fs::rename(file, &target)?;
    for (from, to) in beside(file).iter().zip(beside(&target)) {
        match std::fs::rename(from, to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    files::sync_folder(folder)
}
