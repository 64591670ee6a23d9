//! What a provider of verifications tells: which party it looked at, and what came of it.
//!
//! A provider shows that it is one by a signature: `weighbridge-signature: t=<seconds>,v1=<hex>`, HMAC-SHA-256 under
//! its secret over the seconds, a dot and the body. One that is older than [`OLDEST_S`], or from as far ahead, is
//! refused; and of one verification only what is said of a later time than what is known changes anything, so that what
//! was overheard does nothing when it is sent again.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
};
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;
use weighbridge_registry::{PartyId, party::Verification};

use super::{parties::body, problem::Problem};
use crate::{app::App, import::Imported, parties::TOLD};

/// The oldest signature that is taken, in seconds.
const OLDEST_S: i64 = 300;

/// Its name among the headers.
const HEADER: &str = "weighbridge-signature";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    party: PartyId,
    verification: Verification,
}

pub(super) async fn told(
    State(app): State<App>,
    Path(provider): Path<String>,
    headers: HeaderMap,
    asked: Result<Bytes, BytesRejection>,
) -> Result<Json<Imported>, Problem> {
    let refused = |detail: &str| Problem::new(StatusCode::UNAUTHORIZED, "not allowed", detail);
    let secret = app.providers.get(&provider).ok_or_else(|| refused("there is no such provider"))?;
    let asked =
        asked.map_err(|error| Problem::new(error.status(), "body not readable", error.body_text()))?;
    let header = headers.get(HEADER).and_then(|value| value.to_str().ok());
    let (at, signature) = header
        .and_then(signature)
        .ok_or_else(|| refused("the header `weighbridge-signature: t=<seconds>,v1=<hex>` is missing"))?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret.0).expect("keys of every length are taken");
    mac.update(format!("{at}.").as_bytes());
    mac.update(&asked);
    mac.verify_slice(&signature).map_err(|_| refused("the signature does not fit"))?;
    let age = app.now().0 / 1000 - at;
    if !(-OLDEST_S..=OLDEST_S).contains(&age) {
        return Err(refused("the signature is more than five minutes from now"));
    }
    let mut told: Told = body(
        Ok(asked),
        "{\"party\": id, \"verification\": {\"id\", \"method\", \"checker\", \"at\", \"outcome\", ...}}",
    )?;
    if told.verification.at.since(app.now()) > OLDEST_S * 1000 {
        return Err(Problem::unusable("verification.at: more than five minutes from now"));
    }
    // Each provider speaks of its own, and as itself.
    told.verification.id = format!("{TOLD}{provider}:{}", told.verification.id);
    told.verification.checker = provider;
    Ok(Json(app.verification(&told.party, told.verification).await?))
}

fn signature(header: &str) -> Option<(i64, Vec<u8>)> {
    let part = |name: &str| header.split(',').find_map(|part| part.trim().strip_prefix(name));
    let hex = part("v1=")?.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = hex.as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    let bytes: Option<Vec<u8>> = bytes.collect();
    let at: i64 = part("t=")?.parse().ok().filter(|at| (0..=253_402_300_799).contains(at))?;
    bytes.filter(|bytes| rest.is_empty() && bytes.len() == 32).map(|bytes| (at, bytes))
}
