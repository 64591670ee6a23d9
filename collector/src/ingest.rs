//! Where batches come in: size, key, signature, content; then the ledger, one fsync, and the acknowledgement.
//!
//! Nothing is stored of a batch that is refused, and nothing is acknowledged before it is durable.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::Signer;
use serde::Serialize;
use weighbridge_meter::{BootId, UtcMillis};
use weighbridge_store::{
    UsageStore,
    entry::{Clocks, Received},
    fold::hex,
    ledger::{self, CommitError, Outcome, Submission},
};
use weighbridge_wire::{Batch, Envelope, KeyId, OpenError, limits};

use crate::{app::App, random};

/// The routes of the ingest port.
pub fn routes(app: App) -> Router {
    Router::new()
        .route("/api/v1/batches", post(take))
        .route("/-/healthy", get(|| async { "ok\n" }))
        .layer(DefaultBodyLimit::max(limits::ENCODED_BYTES))
        .with_state(app)
}

/// The acknowledgement.
#[derive(Debug, Serialize)]
struct Acknowledged {
    outcome: &'static str,
    batch_hash: String,
    store_generation: String,
    promise: Option<Promise>,
}

/// What the collector signs: this batch, received then, is in the ledger of this generation.
/// The signature is over `weighbridge-promise-v1\0`, generation, batch hash, leaf hash and time (i64, little endian).
#[derive(Debug, Serialize)]
struct Promise {
    leaf_hash: String,
    received_at: UtcMillis,
    key_id: String,
    signature: String,
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
    retry_after_s: Option<u32>,
}

impl Refusal {
    fn new(status: StatusCode, title: &'static str, detail: impl ToString) -> Self {
        Self { status, title, detail: detail.to_string(), retry_after_s: None }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let problem = Problem { title: self.title, status: self.status.as_u16(), detail: self.detail };
        let mut response = (self.status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

async fn take(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Response {
    let answer = accept(&app, &headers, body).await;
    match answer {
        Ok(acknowledged) => {
            app.metrics.batch(acknowledged.outcome);
            Json(acknowledged).into_response()
        }
        Err(refusal) => {
            app.metrics.batch(match refusal.status {
                StatusCode::FORBIDDEN => "refused_key",
                StatusCode::CONFLICT => "refused_conflict",
                StatusCode::SERVICE_UNAVAILABLE => "unavailable",
                _ => "refused_content",
            });
            refusal.into_response()
        }
    }
}

async fn accept(app: &App, headers: &HeaderMap, body: Bytes) -> Result<Acknowledged, Refusal> {
    let envelope = Envelope::decode(&body).map_err(|error| unreadable(&error))?;
    let (agent, key) = app.agent(envelope.key_id()).ok_or_else(|| {
        let detail = format!("key {} belongs to no agent that is enrolled and valid now", envelope.key_id());
        Refusal::new(StatusCode::FORBIDDEN, "unknown key", detail)
    })?;
    let batch = envelope.open(&key).map_err(|error| unreadable(&error))?;
    if batch.agent != agent.agent {
        let detail = format!("the batch says {}, the key belongs to {}", batch.agent, agent.agent);
        return Err(Refusal::new(StatusCode::FORBIDDEN, "somebody else's key", detail));
    }
    let received_at = app.now();
    let hash = weighbridge_wire::hash(&body);
    let received = Received { clocks: clocks(headers, &batch), salt: random::bytes(), envelope: body.into() };
    let (id, epoch, sequence) = (batch.agent.clone(), batch.epoch, batch.sequence);
    let hours: Vec<_> =
        batch.windows.iter().map(|w| w.span).chain(batch.gaps.iter().map(|g| g.span)).collect();
    let boot = batch.boot;
    let windows = batch.windows.len();
    let outcome =
        app.ledger.submit(Submission { received_at, received, batch, hash }).await.map_err(uncommitted)?;
    let (outcome, promise) = match outcome {
        Outcome::Accepted { leaf_hash } => {
            app.metrics.windows(windows);
            ("accepted", Some(promise(app, &hash, &leaf_hash, received_at)))
        }
        Outcome::Duplicate => ("duplicate", None),
        Outcome::Old => {
            let mut places = Vec::new();
            let index = app.stands().index;
            let minutes = app.shared.with(|state| state.offset_minutes(&id, boot, index));
            let touched = hours.iter().map(|span| span.start().plus(minutes * UtcMillis::MINUTE).hour());
            for hour in touched.collect::<std::collections::BTreeSet<_>>() {
                let found = app.store.places(&id, hour).await;
                places.extend(found.map_err(|error| unavailable(&error))?);
            }
            let (folder, end) = (app.ledger.folder().to_owned(), app.stands());
            let oldest = weighbridge_journal::oldest_segment(&folder).map_err(|error| unavailable(&error))?;
            // With this number there was one; whether it was this one can no longer be told.
            let pruned = oldest > Some(1)
                && (places.is_empty() || places.iter().any(|place| Some(place.segment) < oldest));
            let agent = id.clone();
            let found = tokio::task::spawn_blocking(move || {
                ledger::find(&folder, &places, end, &agent, epoch, sequence)
            });
            match found.await {
                Ok(Ok(Some(found))) if found == hash => ("duplicate", None),
                Ok(Ok(None) | Err(_)) if pruned => {
                    let detail = format!(
                        "agent {id}, epoch {epoch}, sequence {sequence}: a batch with this number was taken, \
                         and what it held is pruned"
                    );
                    return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "closed", detail));
                }
                Ok(Ok(_)) => {
                    let agent = id;
                    return Err(uncommitted(CommitError::Conflict { agent, epoch, sequence }));
                }
                Ok(Err(error)) => return Err(unavailable(&error)),
                Err(error) => return Err(unavailable(&error)),
            }
        }
    };
    Ok(Acknowledged {
        outcome,
        batch_hash: hex(&hash),
        store_generation: hex(&app.ledger.generation()),
        promise,
    })
}

/// The agent's clocks, where they are of the boot that the batch was made in.
fn clocks(headers: &HeaderMap, batch: &Batch) -> Option<Clocks> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let boot: BootId = text("x-weighbridge-boot-id")?.parse().ok()?;
    let boot_ms = text("x-weighbridge-boot-ms")?.parse().ok()?;
    let wall = UtcMillis(text("x-weighbridge-wall-ms")?.parse().ok()?);
    (boot == batch.boot).then_some(Clocks { boot_ms, wall })
}

fn promise(app: &App, hash: &[u8; 32], leaf_hash: &[u8; 32], received_at: UtcMillis) -> Promise {
    let key = app.signing_key();
    let message = [
        b"weighbridge-promise-v1\0".as_slice(),
        &app.ledger.generation(),
        hash,
        leaf_hash,
        &received_at.0.to_le_bytes(),
    ]
    .concat();
    Promise {
        leaf_hash: hex(leaf_hash),
        received_at,
        key_id: KeyId::of(&key.verifying_key()).to_string(),
        signature: BASE64.encode(key.sign(&message).to_bytes()),
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

fn uncommitted(error: CommitError) -> Refusal {
    match error {
        CommitError::Conflict { .. } | CommitError::BrokenChain { .. } => {
            tracing::error!(problem = %error, "refused a batch: someone must look");
            Refusal::new(StatusCode::CONFLICT, "conflict", error)
        }
        CommitError::Closed { .. } => {
            tracing::error!(problem = %error, "refused a batch of closed hours: someone must look");
            Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "closed", error)
        }
        // Ingest gives no facts; `BadFact` would be a fault of ours, and the batch is not in.
        CommitError::Unwritable | CommitError::Busy | CommitError::BadFact { .. } => unavailable(&error),
    }
}

fn unavailable(error: &dyn std::error::Error) -> Refusal {
    let mut refusal = Refusal::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "not available",
        weighbridge_store::verify::chain_of(error),
    );
    refusal.retry_after_s = Some(1);
    refusal
}
