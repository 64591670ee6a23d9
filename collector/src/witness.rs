//! A witness: cosigns checkpoints of logs it knows, each only if it follows on the last one it cosigned.
//!
//! For a second party: a customer, an auditor, another site. It needs no ledger and no data of the log, only its key.
//! Answers `POST /add-checkpoint` as C2SP tlog-witness says.

use std::{
    collections::BTreeMap,
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use sha2::{Digest, Sha256};
use tokio::{net::TcpListener, sync::Mutex, time::timeout};
use tokio_util::sync::CancellationToken;
use weighbridge_store::{
    fold::hex,
    tree::{TreeError, keep, read_note},
    verify::chain_of,
};
use weighbridge_tlog::{
    Hash,
    checkpoint::{Checkpoint, cosign},
    note::{KeyType, VerifierKey},
    witness::{AddCheckpoint, Refusal, judge},
};
use weighbridge_wire::SigningKey;

use crate::{
    app::{Clock, signing_key},
    command::{Failure, say, start_log, wait_for_signal},
    listen::{self, Limits},
    random,
};

/// The largest request: a proof of 63 hashes and a note.
const BODY_BYTES: usize = 80 << 10;

/// Collectors come once in a while, and each is done in a second.
const LIMITS: Limits = Limits { connections: 128, per_address: 16, head: Duration::from_secs(10) };

/// For the whole of a request's body.
const BODY: Duration = Duration::from_secs(10);

/// What a witness is told.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where to take requests.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:19313")]
    listen: SocketAddr,
    /// File with its key, 32 bytes; made when missing.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Its name, as its key and its cosignatures carry it.
    #[arg(long, default_value = "weighbridge-witness")]
    name: String,
    /// Folder of what it has cosigned. Losing it makes the witness believe a log anew.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Key of a log, as `weighbridge-collector log-key` prints it there; may be given several times.
    #[arg(long, value_name = "KEY", required = true)]
    log_key: Vec<VerifierKey>,
}

/// A witness at work.
pub struct Witness {
    name: String,
    key: SigningKey,
    logs: Vec<VerifierKey>,
    folder: PathBuf,
    clock: Clock,
    /// The last checkpoint of each log; held over check, write and answer, so that none overtakes another.
    last: Mutex<BTreeMap<String, (u64, Hash)>>,
    /// Held, never read.
    _lock: File,
}

/// A witness cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// Its files.
    #[error(transparent)]
    Files(#[from] TreeError),
    /// Its lock.
    #[error("{}: cannot be locked: is another witness using it?", folder.display())]
    Lock {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What it kept.
    #[error("{}: is not what this witness keeps", file.display())]
    State {
        /// Which file.
        file: PathBuf,
        /// Why.
        #[source]
        source: weighbridge_tlog::checkpoint::CheckpointError,
    },
    /// Its name.
    #[error("{0:?} cannot name a witness: expected no spaces and no plus")]
    Name(String),
}

impl Witness {
    /// Takes up what was cosigned before.
    pub fn open(
        name: &str,
        key: SigningKey,
        folder: &Path,
        logs: Vec<VerifierKey>,
        clock: Clock,
    ) -> Result<Self, WitnessError> {
        let failed = |source| WitnessError::Lock { folder: folder.into(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let lock = File::options().create(true).truncate(false).write(true).open(folder.join("LOCK"));
        let lock = lock.map_err(failed)?;
        lock.try_lock().map_err(|error| failed(error.into()))?;
        if VerifierKey::new(name, KeyType::Cosignature, key.verifying_key()).is_none() {
            return Err(WitnessError::Name(name.into()));
        }
        let mut last = BTreeMap::new();
        for log in &logs {
            let file = file(folder, log.name());
            // What it cosigned stays cosigned, also where the log has changed its key since.
            let Some(note) = read_note(&file)? else { continue };
            let checkpoint = Checkpoint::parse(&note.text)
                .map_err(|source| WitnessError::State { file: file.clone(), source })?;
            last.insert(checkpoint.origin, (checkpoint.size, checkpoint.root));
        }
        Ok(Self {
            name: name.into(),
            key,
            logs,
            folder: folder.into(),
            clock,
            last: Mutex::new(last),
            _lock: lock,
        })
    }

    /// Its key, to verify with.
    pub fn verifier(&self) -> Option<VerifierKey> {
        VerifierKey::new(&self.name, KeyType::Cosignature, self.key.verifying_key())
    }

    async fn add(&self, body: &[u8]) -> Result<String, Response> {
        let plain = |status, text: String| (status, text).into_response();
        let bad = |error: &dyn std::error::Error| plain(StatusCode::BAD_REQUEST, chain_of(error) + "\n");
        let text = std::str::from_utf8(body).map_err(|error| bad(&error))?;
        let request: AddCheckpoint = text.parse().map_err(|error| bad(&error))?;
        let mut last = self.last.lock().await;
        let known = |origin: &str| last.get(origin).copied();
        let checkpoint = judge(&self.logs, known, &request).map_err(|refusal| self.refuse(&refusal))?;
        let seconds = u64::try_from((self.clock)().0 / 1000).unwrap_or_default();
        let line = cosign(&self.name, &self.key, seconds, &request.note.text);
        let line = line.ok_or_else(|| plain(StatusCode::INTERNAL_SERVER_ERROR, String::new()))?;
        let file = file(&self.folder, &checkpoint.origin);
        if last.get(&checkpoint.origin) != Some(&(checkpoint.size, checkpoint.root)) {
            keep(&file, &request.note).map_err(|error| {
                tracing::error!(
                    problem = chain_of(&error),
                    "a checkpoint cannot be kept: it is not cosigned"
                );
                plain(StatusCode::SERVICE_UNAVAILABLE, "the checkpoint cannot be kept\n".into())
            })?;
        }
        tracing::info!(log = checkpoint.origin, size = checkpoint.size, "cosigned");
        last.insert(checkpoint.origin, (checkpoint.size, checkpoint.root));
        Ok(line.to_string())
    }

    fn refuse(&self, refusal: &Refusal) -> Response {
        if refusal.is_evidence() {
            tracing::error!(problem = chain_of(refusal), "a log shows another history than before");
        } else {
            tracing::warn!(problem = chain_of(refusal), "a checkpoint was not cosigned");
        }
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
        match refusal {
            Refusal::Stale { size } => {
                (status, [(header::CONTENT_TYPE, "text/x.tlog.size")], format!("{size}\n")).into_response()
            }
            _ => (status, chain_of(refusal) + "\n").into_response(),
        }
    }
}

/// The file with the last checkpoint of a log: an origin can be any text, its hash is a name.
fn file(folder: &Path, origin: &str) -> PathBuf {
    folder.join(format!("{}.checkpoint", hex(&Sha256::digest(origin))))
}

/// The routes of a witness.
pub fn routes(witness: Arc<Witness>) -> Router {
    Router::new()
        .route("/add-checkpoint", post(add))
        .route("/-/healthy", get(|| async { "ok\n" }))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(witness)
}

async fn add(State(witness): State<Arc<Witness>>, request: Request) -> Response {
    let body = match timeout(BODY, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => body,
        Ok(Err(refused)) => return refused.into_response(),
        Err(_) => return (StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n").into_response(),
    };
    match witness.add(&body).await {
        Ok(line) => ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], line).into_response(),
        Err(refused) => refused,
    }
}

/// Runs a witness until it is told to stop.
pub async fn run(options: Options) -> Result<(), Failure> {
    start_log(tracing::Level::INFO);
    let stopped = wait_for_signal();
    let key = signing_key(&options.key).map_err(|error| Failure::missing(&error))?;
    let clock: Clock = Arc::new(random::now);
    let witness = Witness::open(&options.name, key, &options.state, options.log_key, clock)
        .map_err(|error| Failure::missing(&error))?;
    let listener = TcpListener::bind(options.listen).await;
    let listener = listener.map_err(|error| Failure::missing(&error))?;
    let at = listener.local_addr().map_err(|error| Failure::missing(&error))?;
    if let Some(key) = witness.verifier() {
        say(format_args!("key {key}"));
    }
    say(format_args!("witness http://{at}"));
    let stop = CancellationToken::new();
    let serving = listen::serve(listener, routes(Arc::new(witness)), LIMITS, stop.clone());
    tokio::join!(serving, async {
        stopped.await;
        stop.cancel();
    });
    Ok(())
}
