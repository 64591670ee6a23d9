//! Makes the requests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::{
    Method,
    body::Bytes,
    header::{self, HeaderName, HeaderValue},
};
use reqwest::Url;
use weighbridge_meter::hex;

use super::{
    Answer, Retry,
    answer::answer,
    chain,
    client::{Answered, Asked, Client, ClientError, Credentials, Distrust},
};
use crate::{clock::Clock, spool::Pending, tls::Identity};

/// Where batches go.
const BATCHES_PATH: &str = "/api/v1/batches";

/// Where a status goes ahead of batches.
const STATUS_PATH: &str = "/api/v1/status";

/// What came of sending a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// The collector has it.
    Taken,
    /// It knows no such thing: an earlier version.
    NotWanted,
    /// Not this time.
    Failed,
}

/// Where and how to send.
#[derive(Clone, Debug)]
pub struct SenderOptions {
    /// Base addresses, as `https://collector:19312`; at least one.
    pub collectors: Vec<Url>,
    /// For the connection.
    pub connect_timeout: Duration,
    /// For the whole request, answer included.
    pub timeout: Duration,
}

/// Sends to one of several collectors. May be shared by many hosts.
#[derive(Debug)]
pub struct Sender {
    client: Client,
    /// Base addresses.
    collectors: Vec<Url>,
    current: AtomicUsize,
}

/// The sender could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SenderError {
    /// There is nobody to send to.
    #[error("no collector is given")]
    NoCollector,
    /// An address is secure, and there is nothing to connect with.
    #[error("{0} needs a certificate to connect with, and none is configured")]
    NoIdentity(Url),
}

impl Sender {
    /// Sets up a client without a certificate, for plain HTTP. No connection is made yet.
    pub fn new(options: SenderOptions) -> Result<Self, SenderError> {
        if let Some(secure) = options.collectors.iter().find(|url| url.scheme() == "https") {
            return Err(SenderError::NoIdentity(secure.clone()));
        }
        Self::with(options, Credentials::None)
    }

    /// Sets up a client that connects under this identity, as it changes.
    pub fn with_identity(options: SenderOptions, identity: Arc<Identity>) -> Result<Self, SenderError> {
        Self::with(options, Credentials::Identity(identity))
    }

    fn with(options: SenderOptions, credentials: Credentials) -> Result<Self, SenderError> {
        if options.collectors.is_empty() {
            return Err(SenderError::NoCollector);
        }
        let client = Client::new(options.connect_timeout, options.timeout, credentials);
        Ok(Self { client, collectors: options.collectors, current: AtomicUsize::new(0) })
    }

    /// From the next request on, asks the collector after this one in the list.
    pub fn next_collector(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    /// Where the next request goes.
    pub fn collector(&self) -> &Url {
        &self.collectors[self.current.load(Ordering::Relaxed) % self.collectors.len()]
    }

    /// The identity that it connects under.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.client.identity()
    }

    /// Returns once it connects under another certificate than now; never where it has none.
    pub async fn identity_changed(&self) {
        match self.identity() {
            Some(identity) => identity.changed_from(identity.state().version).await,
            None => std::future::pending().await,
        }
    }

    /// Sends one batch once.
    pub async fn send(&self, pending: &Pending, clock: &dyn Clock) -> Answer {
        let answered = match self.request(pending, clock).await {
            Ok(answered) => answered,
            Err(ClientError::TooLong) => {
                return Answer::Retry(Retry::NotACollector(ClientError::TooLong.to_string()));
            }
            Err(error) => return Answer::Retry(retry(&error)),
        };
        let retry_after = answered.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let answer = answer(answered.status, retry_after, &answered.body, &pending.hash);
        if let (Answer::Retry(Retry::CertificateRefused(_)), Some(identity)) = (&answer, self.identity()) {
            identity.refused.notify_one();
        }
        answer
    }

    async fn request(&self, pending: &Pending, clock: &dyn Clock) -> Result<Answered, ClientError> {
        let number = |value: i64| HeaderValue::from(value);
        let mut headers = vec![
            (header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf")),
            (HeaderName::from_static("x-weighbridge-boot-ms"), HeaderValue::from(clock.now().boot_ms)),
        ];
        if let Ok(boot) = HeaderValue::from_str(&hex(&clock.boot().0)) {
            headers.push((HeaderName::from_static("x-weighbridge-boot-id"), boot));
        }
        if let Some(wall) = clock.raw_wall() {
            headers.push((HeaderName::from_static("x-weighbridge-wall-ms"), number(wall.0)));
        }
        let url = at(self.collector(), BATCHES_PATH);
        let body = Bytes::from(pending.bytes.clone());
        self.client.request(&Asked { method: Method::POST, url, headers, body }).await
    }

    /// Sends a signed status once. It is worth no second attempt: a newer one comes soon.
    pub async fn report(&self, report: Vec<u8>) -> Reported {
        let headers = vec![(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"))];
        let url = at(self.collector(), STATUS_PATH);
        let asked = Asked { method: Method::POST, url, headers, body: report.into() };
        match self.client.request(&asked).await.map(|answered| answered.status) {
            Ok(200..=299) => Reported::Taken,
            Ok(404 | 405 | 501) => Reported::NotWanted,
            Ok(_) | Err(_) => Reported::Failed,
        }
    }

    /// Posts JSON to the current collector.
    pub(crate) async fn post_json(&self, path: &str, body: Vec<u8>) -> Result<Answered, ClientError> {
        post_json(&self.client, self.collector(), path, body).await
    }

    /// Whether each collector can be reached at all: `Ok` with the status it answers.
    pub async fn probe(&self) -> Vec<(Url, Result<u16, String>)> {
        let mut results = Vec::new();
        for base in &self.collectors {
            let url = at(base, BATCHES_PATH);
            let asked =
                Asked { method: Method::GET, url: url.clone(), headers: Vec::new(), body: Bytes::new() };
            let answered = self.client.request(&asked).await;
            let result = answered.map(|answered| answered.status).map_err(|error| chain(&error));
            results.push((url, result));
        }
        results
    }
}

/// Posts JSON with this client.
pub(crate) async fn post_json(
    client: &Client,
    base: &Url,
    path: &str,
    body: Vec<u8>,
) -> Result<Answered, ClientError> {
    let headers = vec![(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    client.request(&Asked { method: Method::POST, url: at(base, path), headers, body: body.into() }).await
}

/// What to make of a request without an answer.
pub(crate) fn retry(error: &ClientError) -> Retry {
    match (error, error.distrust()) {
        (ClientError::NoCertificate(why), _) => Retry::NoCertificate(why.clone()),
        (_, Some(Distrust::OfCollector | Distrust::Expired)) => Retry::Untrusted(chain(error)),
        (_, Some(Distrust::OfAgent)) => Retry::CertificateRefused(chain(error)),
        (_, None) => Retry::Unreachable(chain(error)),
    }
}

fn at(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    let path = format!("{}{path}", base.path().trim_end_matches('/'));
    url.set_path(&path);
    url
}
