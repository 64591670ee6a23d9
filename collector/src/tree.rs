//! The tree over the ledger in the running collector: made, signed, served, cosigned by witnesses.
//!
//! [`open`] takes up the tree and begins a new log where the ledger turns out to be an older one; [`Tree`] is how
//! the rest of the collector asks about it; [`routes`] is what auditors and witnesses read.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::{Notify, watch};
use weighbridge_meter::{EpochId, UtcMillis};
use weighbridge_store::{
    Place,
    ledger::{
        OpenLedger,
        generation::{Reason, Renewal},
    },
    tree::{
        LogPaths, TreeError, log_key, origin, read_checkpoint, read_note,
        sequencer::{Sequencer, leaves},
        tiles::TileFolder,
    },
    verify::chain_of,
};
use weighbridge_tlog::{note::VerifierKey, proof, receipt::Receipt, tile::Tile};
use weighbridge_wire::SigningKey;

use crate::{
    app::{App, Clock, StartError},
    random,
};

pub mod ask;

pub use ask::{Cosigned, WitnessAt};

/// Entries put under leaves between two checkpoints of a tree that is far behind.
const PIECE: usize = 1 << 16;

/// Between two times that all tiles are made durable: a start goes back no further.
const SYNC_EVERY: Duration = Duration::from_secs(60);

/// How long somebody waits for that who needs it at once.
const SYNC_PATIENCE: Duration = Duration::from_secs(30);

/// Until something that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How long a start waits for a process with the same keys that is about to end.
const LOCK_TRIES: u32 = 250;

/// Between two looks at the lock.
const LOCK_WAIT: Duration = Duration::from_millis(20);

/// How the tree is made.
#[derive(Clone, Debug)]
pub struct TreeConfig {
    /// The first part of the origin of the log.
    pub site: String,
    /// The least time between two checkpoints.
    pub every: Duration,
    /// Who cosigns.
    pub witnesses: Vec<WitnessAt>,
    /// How often they are asked.
    pub witness_every: Duration,
}

/// How the tree is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeStatus {
    /// Leaves of the newest checkpoint.
    pub size: u64,
    /// Leaves that are on the disk for sure, in whole tiles: the entries under them may be pruned.
    pub durable: u64,
    /// How often it was made durable by this process.
    pub syncs: u64,
    /// When it was signed by this process.
    pub signed_at: Option<UtcMillis>,
    /// Why nothing is signed, if nothing is.
    pub problem: Option<String>,
    /// Whether somebody has to look before anything is signed again.
    pub refused: bool,
}

/// The tree as the rest of the collector holds it.
#[derive(Debug)]
pub struct Tree {
    /// Where it lies.
    pub paths: LogPaths,
    /// The key of the log.
    pub log: VerifierKey,
    status: watch::Receiver<TreeStatus>,
    cosigned: watch::Receiver<Cosigned>,
    wake: Arc<Notify>,
    sync: Arc<AtomicBool>,
    witnesses: usize,
}

/// A tree that is taken up, before it is followed.
pub struct Opened {
    paths: LogPaths,
    log: VerifierKey,
    sequencer: Result<Sequencer, TreeError>,
}

/// Takes up the tree of the ledger. Only a collector that signs with the same keys beside this one is an error:
/// whatever else is wrong, batches are taken, and nothing is signed.
pub async fn open(
    paths: LogPaths,
    site: &str,
    key: &SigningKey,
    ledger: &mut OpenLedger,
    now: UtcMillis,
) -> Result<Opened, StartError> {
    let mut renewed = false;
    let mut tries = 0;
    loop {
        let name = origin(site, &ledger.generation().0);
        let log = log_key(&name, key.verifying_key())?;
        match Sequencer::open(&paths, &name, key, ledger.durable()) {
            Err(TreeError::Locked { .. }) if tries < LOCK_TRIES => {
                tries += 1;
                tokio::time::sleep(LOCK_WAIT).await;
            }
            Err(error @ TreeError::Locked { .. }) => return Err(error.into()),
            Err(TreeError::Behind { size, signed }) if !renewed => {
                tracing::error!(
                    entries = size,
                    signed,
                    log = name,
                    "the ledger is older than what was signed of it: it goes on as a new store, and agents send again what they hold"
                );
                ledger.renew(Renewal {
                    generation: EpochId(random::bytes()),
                    before: ledger.generation(),
                    reason: Reason::Behind,
                    at: now,
                    place: ledger.durable(),
                    promised: None,
                    backup: None,
                })?;
                renewed = true;
            }
            sequencer => return Ok(Opened { paths, log, sequencer }),
        }
    }
}

/// What the task that makes the tree needs.
struct Maker {
    paths: LogPaths,
    origin: String,
    key: SigningKey,
    durable: watch::Receiver<Place>,
    every: Duration,
    clock: Clock,
    wake: Arc<Notify>,
    sync: Arc<AtomicBool>,
    status: watch::Sender<TreeStatus>,
}

impl Opened {
    /// Begins to follow the ledger, until nobody writes it any more.
    pub fn start(
        self,
        config: &TreeConfig,
        key: &SigningKey,
        durable: watch::Receiver<Place>,
        clock: Clock,
    ) -> Tree {
        let (status, read) = watch::channel(TreeStatus::default());
        let wake = Arc::new(Notify::new());
        let sync = Arc::new(AtomicBool::new(false));
        let maker = Maker {
            paths: self.paths.clone(),
            origin: self.log.name().to_owned(),
            key: key.clone(),
            durable,
            every: config.every,
            clock: clock.clone(),
            wake: wake.clone(),
            sync: sync.clone(),
            status,
        };
        tokio::spawn(maker.run(self.sequencer));
        let cosigned = ask::start(config, &self.paths, &self.log, read.clone(), clock);
        let witnesses = config.witnesses.len();
        Tree { paths: self.paths, log: self.log, status: read, cosigned, wake, sync, witnesses }
    }
}

/// Integrates one piece and signs it; tells whether there was more to do.
fn step(sequencer: &mut Sequencer, end: Place) -> Result<(Option<u64>, bool), TreeError> {
    let more = sequencer.integrate(end, PIECE)? == PIECE;
    let published = sequencer.publish()?;
    Ok((published.map(|(checkpoint, _)| checkpoint.size), more))
}

impl Maker {
    async fn run(mut self, first: Result<Sequencer, TreeError>) {
        let mut next = Some(first);
        loop {
            let opened = match next.take() {
                Some(opened) => opened,
                None => {
                    let (paths, origin, key) = (self.paths.clone(), self.origin.clone(), self.key.clone());
                    let end = *self.durable.borrow();
                    let open = move || Sequencer::open(&paths, &origin, &key, end);
                    match tokio::task::spawn_blocking(open).await {
                        Ok(opened) => opened,
                        Err(_) => return, // The process ends.
                    }
                }
            };
            let error = match opened {
                Ok(sequencer) => match self.follow(sequencer).await {
                    Ok(()) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let (problem, refused) = (chain_of(&error), error.is_final());
            tracing::error!(problem, "the tree over the ledger is not signed");
            self.status.send_modify(|status| {
                status.problem = Some(problem);
                status.refused = refused;
            });
            if refused {
                return;
            }
            tokio::time::sleep(RETRY).await;
            if self.durable.has_changed().is_err() {
                return;
            }
        }
    }

    /// Follows until the ledger is closed.
    async fn follow(&mut self, mut sequencer: Sequencer) -> Result<(), TreeError> {
        let mut synced = None;
        loop {
            let end = *self.durable.borrow_and_update();
            let due = self.sync.swap(false, Ordering::Relaxed)
                || synced.is_none_or(|at: tokio::time::Instant| at.elapsed() >= SYNC_EVERY);
            let made = tokio::task::spawn_blocking(move || {
                let mut stepped = step(&mut sequencer, end);
                if due && stepped.is_ok() {
                    stepped = sequencer.sync().and(stepped);
                }
                (sequencer, stepped)
            });
            let Ok((back, stepped)) = made.await else { return Ok(()) }; // The process ends.
            sequencer = back;
            let (published, more) = stepped?;
            let durable = sequencer.needs_from() - 1;
            if due {
                synced = Some(tokio::time::Instant::now());
                self.status.send_modify(|status| {
                    status.durable = durable;
                    status.syncs += 1;
                });
            }
            if let Some(size) = published {
                let at = (self.clock)();
                self.status.send_modify(|status| {
                    let syncs = status.syncs;
                    *status = TreeStatus {
                        size,
                        durable,
                        syncs,
                        signed_at: Some(at),
                        problem: None,
                        refused: false,
                    };
                });
            }
            if !more && !self.wait().await {
                // What came in the meantime is the last.
                let end = *self.durable.borrow_and_update();
                let last = tokio::task::spawn_blocking(move || {
                    while step(&mut sequencer, end)?.1 {}
                    sequencer.sync()
                });
                return last.await.unwrap_or(Ok(()));
            }
        }
    }

    /// Waits until there is something new and the last checkpoint is old enough, or somebody asks; `false` once the
    /// ledger is closed.
    async fn wait(&mut self) -> bool {
        let next = tokio::time::Instant::now() + self.every;
        tokio::select! {
            biased;
            () = self.wake.notified() => return true,
            changed = self.durable.changed() => if changed.is_err() {
                return false;
            },
        }
        tokio::select! {
            biased;
            () = self.wake.notified() => true,
            () = tokio::time::sleep_until(next) => true,
        }
    }
}

impl Tree {
    /// Comes once nobody makes the tree any more: the ledger is closed and the last of it is written, or it was refused.
    pub fn closed(&self) -> impl Future<Output = ()> + use<> {
        let mut status = self.status.clone();
        async move { while status.changed().await.is_ok() {} }
    }

    /// How it is.
    pub fn status(&self) -> TreeStatus {
        self.status.borrow().clone()
    }

    /// What witnesses say.
    pub fn cosigned(&self) -> Cosigned {
        self.cosigned.borrow().clone()
    }

    /// Whether anybody is asked to cosign.
    pub fn has_witnesses(&self) -> bool {
        self.witnesses > 0
    }

    /// Waits until a checkpoint is out that has everything before `place`; `false` if none will be.
    pub async fn reaches(&self, place: Place) -> bool {
        let wanted = leaves(place);
        let mut status = self.status.clone();
        self.wake.notify_one();
        let there = |status: &TreeStatus| status.size >= wanted || status.problem.is_some();
        match status.wait_for(there).await {
            Ok(status) => status.size >= wanted,
            Err(_) => false,
        }
    }

    /// Waits until nothing is written any more, which follows once the ledger is closed.
    pub fn ended(&self) -> impl Future<Output = ()> + use<> {
        let mut status = self.status.clone();
        async move { while status.changed().await.is_ok() {} }
    }

    /// Makes the tree durable as far as it is published; gives the first entry whose payload it still needs.
    pub async fn needs_from(&self) -> u64 {
        let mut status = self.status.clone();
        let before = status.borrow().syncs;
        self.sync.store(true, Ordering::Relaxed);
        self.wake.notify_one();
        let done = status.wait_for(|status| {
            // One that was under way when we asked does not count.
            (status.syncs > before && !self.sync.load(Ordering::Relaxed)) || status.problem.is_some()
        });
        // An error means that it no longer follows: then it stays as it is.
        drop(tokio::time::timeout(SYNC_PATIENCE, done).await);
        let durable = status.borrow().durable;
        durable + 1
    }

    /// Waits until witnesses cosigned a tree with everything before `place`, for so long at most.
    pub async fn cosigns(&self, place: Place, patience: Duration) -> bool {
        let wanted = leaves(place);
        let mut cosigned = self.cosigned.clone();
        let there = cosigned.wait_for(|cosigned| cosigned.size >= wanted);
        matches!(tokio::time::timeout(patience, there).await, Ok(Ok(_)))
    }
}

/// What auditors and witnesses read: C2SP tlog-tiles under `/tlog`.
pub fn routes(app: App) -> Router {
    Router::new()
        .route("/tlog/checkpoint", get(checkpoint))
        .route("/tlog/cosigned", get(cosigned))
        .route("/tlog/proof/{leaf}", get(receipt))
        .route("/tlog/tile/{*rest}", get(tile))
        .with_state(app)
}

const NOTE: [(header::HeaderName, &str); 2] =
    [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];

fn nothing() -> Response {
    (StatusCode::NOT_FOUND, "there is nothing here\n").into_response()
}

fn unreadable(error: &dyn std::error::Error) -> Response {
    tracing::error!(problem = chain_of(error), "the tree cannot be read");
    (StatusCode::SERVICE_UNAVAILABLE, "the tree cannot be read\n").into_response()
}

/// The newest checkpoint, with the lines of witnesses if it has any.
async fn checkpoint(State(app): State<App>) -> Response {
    let paths = app.tree.paths.clone();
    let read = move || {
        let note = read_note(&paths.checkpoint())?;
        let cosigned = read_note(&paths.cosigned())?;
        Ok::<_, TreeError>(match (note, cosigned) {
            (Some(note), Some(cosigned)) if note.text == cosigned.text => Some(cosigned),
            (note, _) => note,
        })
    };
    answer(tokio::task::spawn_blocking(read).await)
}

/// The newest checkpoint that a witness cosigned; others read it to see that they were shown the same.
async fn cosigned(State(app): State<App>) -> Response {
    let file = app.tree.paths.cosigned();
    answer(tokio::task::spawn_blocking(move || read_note(&file)).await)
}

fn answer(
    read: Result<Result<Option<weighbridge_tlog::note::Note>, TreeError>, tokio::task::JoinError>,
) -> Response {
    match read {
        Ok(Ok(Some(note))) => (NOTE, note.to_string()).into_response(),
        Ok(Ok(None)) => nothing(),
        Ok(Err(error)) => unreadable(&error),
        Err(error) => unreadable(&error),
    }
}

/// That a leaf is in the newest tree, as C2SP tlog-proof: what a promise says can be checked with it. The first entry
/// of the ledger is leaf 0.
async fn receipt(State(app): State<App>, Path(leaf): Path<u64>) -> Response {
    let (paths, log) = (app.tree.paths.clone(), app.tree.log.clone());
    let made = tokio::task::spawn_blocking(move || {
        let Some((checkpoint, note)) = read_checkpoint(&paths.checkpoint(), &log)? else { return Ok(None) };
        if leaf >= checkpoint.size {
            return Ok(None);
        }
        let mut tiles = TileFolder::at(&paths.tlog).of_size(checkpoint.size);
        let path = proof::of_inclusion(&mut tiles, leaf, checkpoint.size)?;
        Ok::<_, TreeError>(Some(Receipt { index: leaf, path, note }))
    });
    match made.await {
        Ok(Ok(Some(receipt))) => (NOTE, receipt.to_string()).into_response(),
        Ok(Ok(None)) => nothing(),
        Ok(Err(error)) => unreadable(&error),
        Err(error) => unreadable(&error),
    }
}

async fn tile(State(app): State<App>, Path(rest): Path<String>) -> Response {
    // Only what is a tile's own name becomes the name of a file.
    let Some(tile) = Tile::parse(&format!("tile/{rest}")) else { return nothing() };
    let file: PathBuf = TileFolder::at(&app.tree.paths.tlog).path(tile);
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    match tokio::task::spawn_blocking(move || std::fs::read(file)).await {
        Ok(Ok(bytes)) => (headers, bytes).into_response(),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => nothing(),
        Ok(Err(error)) => unreadable(&error),
        Err(error) => unreadable(&error),
    }
}
