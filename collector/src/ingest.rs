//! Where batches come in: size, key, signature, content; then the ledger, one fsync, and the acknowledgement.
//!
//! Nothing is stored of a batch that is refused, and nothing is acknowledged before it is durable.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use tokio::sync::oneshot;
use weighbridge_meter::{AcceleratorId, AgentId, BootId, EpochId, UtcMillis};
use weighbridge_store::{
    UsageStore,
    entry::{Clocks, Received},
    fold::{HeldHours, held_hours, hex, hours_of, touched_hours},
    ledger::{self, CommitError, Committed, Health, Outcome, Submission},
    tree::promise::Promised,
};
use weighbridge_wire::{Batch, Envelope, KeyId, OpenError, limits};

use crate::{
    alarm::Alarm,
    app::App,
    random,
    tls::peer::{NotAdmitted, PeerAgent, admit, admit_any},
};

use self::opener::Opened;

pub mod delays;
pub mod opener;
pub mod quota;
pub mod status;

/// For the whole body of a request, from its head on: a megabyte over a line of a few hundred kilobits.
pub(crate) const BODY: Duration = Duration::from_secs(60);

/// Hours of accelerators that one batch may touch: 72 devices that were away for eleven days. Beyond it somebody is
/// marking hours, each of which costs the collector something.
const TOUCHED_HOURS: u64 = 20_000;

/// Hours that may be made anew for what one batch says of leases: 72 devices for 400 days, as where a lease file first
/// comes to an agent that has long been there.
const LEASED_HOURS: u64 = 700_000;

/// Holdings of accelerators in one batch, each counted with each of its accelerators: more than a host with hundreds of
/// processes that come and go has, and each is remembered.
const HOLDINGS: usize = 16_384;

/// Of one accelerator: every look back weighs all that speak for a moment.
const HOLDINGS_OF_ONE: usize = 1_024;

/// What a sender is asked to wait where the collector is behind: about the time of a few groups.
const BUSY: Duration = Duration::from_secs(1);

/// What a sender is asked to wait where its clock has to be measured again.
const DOUBT: Duration = Duration::from_secs(2);

/// What a sender is asked to wait where the disk refuses or is full.
const NO_DISK: Duration = Duration::from_secs(10);

/// The routes of the ingest port.
pub fn routes(app: App) -> Router {
    Router::new()
        .route("/api/v1/batches", post(take))
        .route("/api/v1/status", post(status::take))
        .route("/-/healthy", get(|| async { "ok\n" }))
        .with_state(app)
}

/// The acknowledgement.
#[derive(Debug, Serialize)]
struct Acknowledged {
    outcome: &'static str,
    batch_hash: String,
    store_generation: String,
    promise: Option<Promised>,
    /// Numbers of this agent that are neither here nor given up: to be sent again, or closed by a loss.
    missing: Vec<Missing>,
}

#[derive(Debug, Serialize)]
struct Missing {
    epoch: EpochId,
    first: u64,
    last: u64,
}

/// Why a batch was not taken, in the form of RFC 9457.
#[derive(Debug, Serialize)]
struct Problem {
    title: &'static str,
    status: u16,
    detail: String,
}

#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    title: &'static str,
    detail: String,
    retry_after: Option<Duration>,
    /// Nothing more is taken on this connection.
    closes: bool,
}

impl Refusal {
    fn new(status: StatusCode, title: &'static str, detail: impl ToString) -> Self {
        Self { status, title, detail: detail.to_string(), retry_after: None, closes: false }
    }

    /// Not now: the sender keeps it and comes again.
    fn later(status: StatusCode, title: &'static str, detail: impl ToString, after: Duration) -> Self {
        Self { retry_after: Some(after), ..Self::new(status, title, detail) }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let problem = Problem { title: self.title, status: self.status.as_u16(), detail: self.detail };
        let mut response = (self.status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
        if let Some(after) = self.retry_after {
            // In whole seconds, and never none.
            headers.insert(
                header::RETRY_AFTER,
                after.as_millis().div_ceil(1000).max(1).try_into().unwrap_or(60_u64).into(),
            );
        }
        if self.closes {
            headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
        response
    }
}

async fn take(State(app): State<App>, request: Request) -> Response {
    match accept(&app, request).await {
        Ok(acknowledged) => {
            app.metrics.batch(acknowledged.outcome);
            Json(acknowledged).into_response()
        }
        Err(refusal) => {
            app.metrics.batch(match refusal.status {
                StatusCode::FORBIDDEN => "refused_key",
                StatusCode::CONFLICT => "refused_conflict",
                StatusCode::TOO_MANY_REQUESTS => "over_quota",
                StatusCode::SERVICE_UNAVAILABLE => "unavailable",
                _ => "refused_content",
            });
            refusal.into_response()
        }
    }
}

async fn accept(app: &App, request: Request) -> Result<Acknowledged, Refusal> {
    let (parts, body) = request.into_parts();
    let body = of_admitted(app, &parts, body, limits::ENCODED_BYTES).await?;
    writable(app)?;
    let body = whole(&parts.headers, body, limits::ENCODED_BYTES).await?;
    let envelope = Envelope::decode(&body).map_err(|error| unreadable(&error))?;
    let (agent, key) = app.agent(envelope.key_id()).ok_or_else(|| unknown(envelope.key_id()))?;
    admitted(app, &parts, &agent.agent)?;
    let received_at = app.now();
    app.quotas.allows(&agent.agent, received_at).map_err(|wait| over_quota(&agent.agent, wait))?;
    let (clocks, hash) = (SentAt::of(&parts.headers), weighbridge_wire::hash(&body));
    let (reply, answer) = oneshot::channel();
    let of_app = app.clone();
    // Straight on from thread to thread: the one that waits for the answer is woken once.
    let then = move |opened| match checked(&of_app, opened, &agent.agent, body, hash, clocks, received_at) {
        Ok(Checked { submission, windows, asked }) => {
            of_app.ledger.submit_then(submission, move |committed| {
                // Who asked may be gone.
                drop(reply.send(Ok((committed, windows, asked))));
            })
        }
        Err(refusal) => drop(reply.send(Err(refusal))),
    };
    app.opener.open(envelope, key, then).map_err(|error| unavailable(&error, BUSY))?;
    let (committed, windows, asked) =
        answer.await.unwrap_or_else(|_| Err(unavailable(&CommitError::Unwritable, NO_DISK)))?;
    let Committed { outcome, promised, missing } = match committed {
        Ok(committed) => committed,
        Err(error) => return Err(refused(app, error).await),
    };
    let outcome = match outcome {
        Outcome::Accepted { .. } => {
            app.metrics.windows(windows);
            "accepted"
        }
        Outcome::Duplicate => "duplicate",
        Outcome::Old if is_known(app, &asked).await? => "duplicate",
        Outcome::Old => {
            let Asked { agent, epoch, sequence, .. } = asked;
            let highest = sequence;
            let conflict = CommitError::Conflict { agent, epoch, sequence, highest, set_back: false };
            return Err(refused(app, conflict).await);
        }
    };
    let missing = missing.into_iter();
    Ok(Acknowledged {
        outcome,
        batch_hash: hex(&hash),
        store_generation: hex(&app.ledger.generation()),
        promise: promised.map(|promised| promised.promise(&app.ledger.generation(), app.signing_key())),
        missing: missing
            .map(|ledger::Missing { epoch, first, last }| Missing { epoch, first, last })
            .collect(),
    })
}

/// A batch that may go into the ledger.
struct Checked {
    submission: Submission,
    windows: usize,
    asked: Asked,
}

/// Whether what was opened is its sender's own, and can be believed.
fn checked(
    app: &App,
    opened: Opened,
    agent: &AgentId,
    body: Bytes,
    hash: weighbridge_wire::Hash,
    sent_at: Option<SentAt>,
    received_at: UtcMillis,
) -> Result<Checked, Refusal> {
    let batch = opened.map_err(|error| unreadable(&error))?;
    app.quotas.spend(agent, body.len(), received_at);
    if batch.agent != *agent {
        return Err(somebody_elses(&batch.agent, agent));
    }
    bounded(app, &batch, received_at)?;
    let clocks = sent_at.filter(|sent_at| sent_at.boot == batch.boot).map(|sent_at| sent_at.clocks);
    believed(app, &batch, clocks, received_at)?;
    let received = Received { clocks, salt: random::bytes(), envelope: body.into() };
    let (asked, windows) = (Asked::of(app, &batch, hash), batch.windows.len());
    Ok(Checked { submission: Submission { received_at, received, batch, hash }, windows, asked })
}

/// Every hour that a batch touches costs the collector something, and every hour that is made anew because of it.
fn bounded(app: &App, batch: &Batch, received_at: UtcMillis) -> Result<(), Refusal> {
    let mut of_each: HashMap<&AcceleratorId, usize> = HashMap::new();
    for id in batch.holdings.iter().flat_map(|holding| &holding.accelerators) {
        *of_each.entry(id).or_default() += 1;
    }
    let all: usize = of_each.values().sum();
    let (most, count) = of_each.iter().max_by_key(|(_, count)| **count).unzip();
    if all > HOLDINGS || count.is_some_and(|count| *count > HOLDINGS_OF_ONE) {
        let detail = format!(
            "it says {all} times who held an accelerator, {} times of {}: at most {HOLDINGS}, {HOLDINGS_OF_ONE} of one",
            count.unwrap_or(&0),
            most.map_or("none", |id| id.as_str()),
        );
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "too many hours", detail));
    }
    let touched = touched_hours(batch);
    let HeldHours { seen, leased } = app.shared.with(|state| {
        let minutes = state.offset_minutes(&batch.agent, batch.boot, u64::MAX);
        held_hours(state, batch, minutes, received_at)
    });
    let refused = |hours: u64, most: u64| {
        let detail = format!("it touches {hours} hours of accelerators, more than {most}");
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "too many hours", detail)
    };
    let touched = seen.saturating_add(touched as u64);
    if touched > TOUCHED_HOURS {
        return Err(refused(touched, TOUCHED_HOURS));
    }
    if leased > LEASED_HOURS { Err(refused(leased, LEASED_HOURS)) } else { Ok(()) }
}

/// A clock that is newly off has to say so twice: it may be the request that is late.
fn believed(app: &App, batch: &Batch, clocks: Option<Clocks>, received_at: UtcMillis) -> Result<(), Refusal> {
    let fixed = app.shared.with(|state| state.fixed_minutes(&batch.agent, batch.boot));
    let Some(off) = ledger::measured_offset(batch, clocks, received_at, fixed) else { return Ok(()) };
    if !ledger::is_new_offset(fixed.unwrap_or(0), off) {
        app.delays.dispelled(&batch.agent, batch.boot);
        return Ok(());
    }
    if app.delays.believes(&batch.agent, batch.boot, off, received_at) {
        return Ok(());
    }
    let detail = format!(
        "the host's clock seems to be off by {} s, or the request was late by as much: send it again",
        off / 1000
    );
    Err(Refusal::later(StatusCode::SERVICE_UNAVAILABLE, "clock in doubt", detail, DOUBT))
}

/// Nothing is read of a request that could not be kept. Whether there is room again on a disk that was full only the
/// ledger finds out, at the next batch that comes.
fn writable(app: &App) -> Result<(), Refusal> {
    match *app.ledger.health().borrow() {
        Health::Writable | Health::Full => Ok(()),
        Health::Unwritable => Err(unavailable(&CommitError::Unwritable, NO_DISK)),
    }
}

fn unknown(key: KeyId) -> Refusal {
    let detail = format!("key {key} belongs to no agent that is enrolled and valid now");
    Refusal::new(StatusCode::FORBIDDEN, "unknown key", detail)
}

fn somebody_elses(said: &AgentId, owner: &AgentId) -> Refusal {
    let detail = format!("it says {said}, the key belongs to {owner}");
    Refusal::new(StatusCode::FORBIDDEN, "somebody else's key", detail)
}

fn over_quota(agent: &AgentId, wait: Duration) -> Refusal {
    let detail = format!("agent {agent} has sent as much as it may for now");
    Refusal::later(StatusCode::TOO_MANY_REQUESTS, "over the quota", detail, wait)
}

/// The body, if it is within the limit and all of it comes in time.
async fn whole(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Refusal> {
    let too_large = || {
        let detail = format!("the body is longer than {limit} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too large", detail)
    };
    let said =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if said.is_some_and(|bytes| bytes > limit) {
        discard(body, limit).await;
        return Err(too_large());
    }
    match tokio::time::timeout(BODY, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Refusal::later(StatusCode::SERVICE_UNAVAILABLE, "cut off", error, BUSY)),
        Err(_) => {
            let detail = format!("the body did not come within {} s", BODY.as_secs());
            Err(Refusal::later(StatusCode::SERVICE_UNAVAILABLE, "too slow", detail, BUSY))
        }
    }
}

/// Reads on for a moment and keeps nothing: a sender whose connection ends in the middle of its request may never
/// read the answer, which says what it has to do.
async fn discard(body: Body, limit: usize) {
    let mut body = Limited::new(body, 2 * limit);
    let read = async { while let Some(Ok(_)) = body.frame().await {} };
    // Whoever is slower than that will not read it either.
    drop(tokio::time::timeout(BUSY, read).await);
}

/// Which batch was asked about, and where to look for it.
struct Asked {
    agent: AgentId,
    epoch: EpochId,
    sequence: u64,
    hash: weighbridge_wire::Hash,
    hours: BTreeSet<UtcMillis>,
}

impl Asked {
    fn of(app: &App, batch: &Batch, hash: weighbridge_wire::Hash) -> Self {
        let minutes = app.shared.with(|state| state.all_offset_minutes(&batch.agent, batch.boot));
        let hours = hours_of(batch, &minutes);
        Self { agent: batch.agent.clone(), epoch: batch.epoch, sequence: batch.sequence, hash, hours }
    }
}

/// Whether the batch with a number that is here, but no longer remembered, is this one: if it is, the places of its
/// own hours lead to it.
async fn is_known(app: &App, asked: &Asked) -> Result<bool, Refusal> {
    if app.ledger.recalls(&asked.hash) {
        return Ok(true);
    }
    // It may be among what is not folded yet.
    app.settled().await;
    if let Some(fault) = app.fault() {
        return Err(Refusal::later(StatusCode::SERVICE_UNAVAILABLE, "not available", fault, NO_DISK));
    }
    let mut places = Vec::new();
    for hour in &asked.hours {
        let found = app.store.places(&asked.agent, *hour).await;
        places.extend(found.map_err(|error| unavailable(&error, BUSY))?);
    }
    if places.is_empty() {
        return Ok(false);
    }
    let end = app.stands();
    let oldest = weighbridge_journal::oldest_segment(app.ledger.folder())
        .map_err(|error| unavailable(&error, BUSY))?;
    if places.iter().any(|place| oldest.is_some_and(|oldest| place.segment < oldest)) {
        // With this number there was one; whether it was this one can no longer be told.
        let detail = format!(
            "agent {}, epoch {}, sequence {}: a batch with this number was taken, and what it held is pruned",
            asked.agent, asked.epoch, asked.sequence
        );
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "closed", detail));
    }
    let (ledger, hash) = (app.ledger.clone(), asked.hash);
    match tokio::task::spawn_blocking(move || ledger.has(&hash, &places, end)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(unavailable(&error, BUSY)),
        Err(error) => Err(unavailable(&error, BUSY)),
    }
}

/// The body, still to be read, if anything may come in on this connection. Of a body that may not, nothing is kept.
async fn of_admitted(app: &App, parts: &Parts, body: Body, limit: usize) -> Result<Body, Refusal> {
    match admit_any(app, parts.extensions.get::<Option<PeerAgent>>()) {
        Ok(()) => Ok(body),
        Err(no) => {
            discard(body, limit).await;
            Err(Refusal { closes: true, ..Refusal::new(StatusCode::FORBIDDEN, no.title, no.detail) })
        }
    }
}

/// Whether what this agent signed may come in on this connection. A batch must say the same agent as its key does,
/// which is checked once it is open.
fn admitted(app: &App, parts: &Parts, agent: &AgentId) -> Result<(), Refusal> {
    let refused = |no: NotAdmitted| Refusal::new(StatusCode::FORBIDDEN, no.title, no.detail);
    admit(app, parts.extensions.get::<Option<PeerAgent>>(), agent).map_err(refused)
}

/// The agent's clocks when it sent, and the boot that they are of.
#[derive(Clone, Copy)]
struct SentAt {
    boot: BootId,
    clocks: Clocks,
}

impl SentAt {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let boot = text("x-weighbridge-boot-id")?.parse().ok()?;
        let boot_ms = text("x-weighbridge-boot-ms")?.parse().ok()?;
        let wall = UtcMillis(text("x-weighbridge-wall-ms")?.parse().ok()?);
        Some(Self { boot, clocks: Clocks { boot_ms, wall } })
    }
}

fn unreadable(error: &OpenError) -> Refusal {
    let detail = weighbridge_store::verify::chain_of(error);
    match error {
        OpenError::TooLarge { .. } => Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too large", detail),
        OpenError::BadSignature { .. } => Refusal::new(StatusCode::FORBIDDEN, "bad signature", detail),
        _ => Refusal::new(StatusCode::BAD_REQUEST, "not a batch", detail),
    }
}

/// Why the ledger did not take a batch. An alarm is in the ledger before anybody is told: where it cannot be, the
/// sender comes again.
async fn refused(app: &App, error: CommitError) -> Refusal {
    if let Some(alarm) = Alarm::of_refusal(&error, app.now())
        && let Err(unrecorded) = app.raise(alarm).await
    {
        return unavailable(&unrecorded, BUSY);
    }
    match error {
        CommitError::Conflict { .. } | CommitError::BrokenChain { .. } => {
            Refusal::new(StatusCode::CONFLICT, "conflict", error)
        }
        CommitError::Closed { .. } => {
            tracing::error!(problem = %error, "refused a batch of closed hours: someone must look");
            Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "closed", error)
        }
        CommitError::Holes { .. } => Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "too many holes", error),
        CommitError::Epochs { .. } => {
            Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "too many epochs", error)
        }
        CommitError::Unwritable | CommitError::Full => unavailable(&error, NO_DISK),
        // Ingest gives no facts but alarms; `BadFact` would be a fault of ours, and the batch is not in.
        CommitError::Busy | CommitError::BadFact { .. } => unavailable(&error, BUSY),
    }
}

fn unavailable(error: &dyn std::error::Error, after: Duration) -> Refusal {
    let detail = weighbridge_store::verify::chain_of(error);
    Refusal::later(StatusCode::SERVICE_UNAVAILABLE, "not available", detail, after)
}
