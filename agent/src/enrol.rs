//! Joins a collector: a token goes in, a certificate comes out.
//!
//! The TLS key and the signing key are made on this host and never leave it. The collector is believed by the
//! fingerprint in the token, before anything is said to it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::Url;
use weighbridge_meter::{AgentId, UtcMillis};
use weighbridge_wire::enrol::{Issued, JOIN_PATH, JoinRequest, JoinToken, Refused, RefusedCode, join_proof};

use crate::{
    clock::Clock,
    key::{self, KeyError},
    tls::{
        HostTime, TlsError, config_with,
        files::{self, FileError},
        keep::{self, RenewError, Taken},
        request::{self, RequestError},
        verify::{FirstContact, OtherAuthority},
    },
    uplink::{
        client::{Client, ClientError, Credentials, Distrust, tls_error},
        post_json,
    },
};

/// A clock that is off by more is worth a word.
const CLOCK_TOLERANCE_MS: i64 = 5 * UtcMillis::MINUTE;

/// What joining needs.
#[derive(Clone, Debug)]
pub struct Joining {
    /// Base address, as `https://collector:19312`.
    pub collector: Url,
    /// Whom the configuration says this is.
    pub agent: AgentId,
    /// Where the signing key is, or will be.
    pub key_file: PathBuf,
    /// Where the certificate goes.
    pub folder: PathBuf,
    /// For the connection.
    pub connect_timeout: Duration,
    /// For the whole request.
    pub timeout: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Joined {
    /// What the collector issued.
    pub issued: Issued,
    /// By how much this host's clock is ahead of the collector's, where that is worth a word.
    pub clock_ahead_ms: Option<i64>,
}

/// Nothing came of it.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Plain HTTP would give the token away.
    #[error("{0}: joining needs an https address")]
    NotSecure(String),
    /// The signing key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The certificate cannot be kept.
    #[error(transparent)]
    File(#[from] FileError),
    /// No request could be made.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nobody is there.
    #[error("{collector} cannot be reached")]
    Unreachable {
        /// As given.
        collector: String,
        /// Why.
        #[source]
        source: ClientError,
    },
    /// Somebody else answers.
    #[error("{collector} is not the collector that this token is for: nothing was said to it")]
    OtherCollector {
        /// As given.
        collector: String,
        /// What it lacks.
        #[source]
        source: OtherAuthority,
    },
    /// It is the authority, and the certificate is not for this address, or otherwise wrong.
    #[error("{collector} shows a certificate of the right authority that cannot be believed")]
    Untrusted {
        /// As given.
        collector: String,
        /// Why.
        #[source]
        source: ClientError,
    },
    /// Time does not fit.
    #[error(
        "{collector} shows a certificate that ended at {until}, by this host's clock, which says {now}: \
         set the clock and try again"
    )]
    Clock {
        /// As given.
        collector: String,
        /// The certificate's end.
        until: UtcMillis,
        /// This host's clock.
        now: UtcMillis,
    },
    /// The collector says no.
    #[error("the collector refuses: {}", .0.detail)]
    Refused(Refused),
    /// Something answers that makes no sense.
    #[error("what answers is no collector, or of another version")]
    Answer(#[source] RenewError),
}

/// What there is to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinFailure {
    /// Give another address.
    Usage,
    /// The collector, or what it shows, was refused, or it refused: the same will not work again.
    Refused,
    /// Nobody answered, or this host could not: it may work later.
    Unavailable,
}

impl JoinError {
    /// What there is to do about it.
    pub fn kind(&self) -> JoinFailure {
        match self {
            Self::NotSecure(_) => JoinFailure::Usage,
            Self::Key(_)
            | Self::File(_)
            | Self::Request(_)
            | Self::Tls(_)
            | Self::Unreachable { .. }
            | Self::Refused(Refused { code: RefusedCode::NotAvailable, .. }) => JoinFailure::Unavailable,
            Self::OtherCollector { .. }
            | Self::Untrusted { .. }
            | Self::Clock { .. }
            | Self::Refused(_)
            | Self::Answer(_) => JoinFailure::Refused,
        }
    }
}

/// Joins once. Nothing that is there is touched before the new certificate is.
pub async fn join(
    joining: &Joining,
    token: &JoinToken,
    clock: Arc<dyn Clock>,
    random: &mut dyn FnMut(&mut [u8]),
) -> Result<Joined, JoinError> {
    let collector = &joining.collector;
    if collector.scheme() != "https" {
        return Err(JoinError::NotSecure(collector.to_string()));
    }
    let (signing, _) = key::read_or_make(&joining.key_file, random)?;
    let mut seed = [0; 32];
    random(&mut seed);
    let requested = request::request(&seed)?;
    let asked = JoinRequest {
        token: BASE64_STANDARD.encode(token.id),
        secret: BASE64_STANDARD.encode(token.secret),
        agent: joining.agent.clone(),
        public_key: key::public_base64(&signing),
        proof: join_proof(&signing, &token.id, &joining.agent, &requested.request),
        request: BASE64_STANDARD.encode(&requested.request),
    };
    let body = serde_json::to_vec(&asked).expect("plain data with string keys");

    let time = Arc::new(HostTime(clock));
    let contact = Arc::new(FirstContact::new(token.authority));
    let config = config_with(Arc::clone(&contact) as _, None, Arc::clone(&time) as _)?;
    let credentials = Credentials::Fixed(Arc::new(config));
    let client = Client::new(joining.connect_timeout, joining.timeout, credentials);
    let answered = post_json(&client, collector, JOIN_PATH, body).await;
    let answered = answered.map_err(|source| unanswered(collector, source, &contact, time.wall()))?;
    let taken = keep::issued(answered.status, &answered.body, &joining.agent);
    let Taken { issued, certificates, authorities } = taken.map_err(|error| match error {
        RenewError::Refused(refused) => JoinError::Refused(refused),
        other => JoinError::Answer(other),
    })?;
    files::install(&joining.folder, &requested.key, &certificates, &authorities)?;
    let ahead = time.wall().since(issued.now);
    let clock_ahead_ms = (ahead.saturating_abs() > CLOCK_TOLERANCE_MS).then_some(ahead);
    Ok(Joined { issued, clock_ahead_ms })
}

fn unanswered(collector: &Url, source: ClientError, contact: &FirstContact, now: UtcMillis) -> JoinError {
    let collector = collector.to_string();
    if let Some(rustls::Error::Other(other)) = tls_error(&source)
        && let Some(other) = other.0.downcast_ref::<OtherAuthority>()
    {
        return JoinError::OtherCollector { collector, source: other.clone() };
    }
    match (source.distrust(), contact.shown()) {
        (Some(Distrust::Expired), Some(shown)) => JoinError::Clock { collector, until: shown.not_after, now },
        (Some(_), _) => JoinError::Untrusted { collector, source },
        (None, _) => JoinError::Unreachable { collector, source },
    }
}
