//! Makes the requests.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use reqwest::{Client, Url, header, redirect::Policy};

use super::{
    Answer, Retry,
    answer::{answer, hex},
    chain,
};
use crate::{clock::Clock, spool::Pending};

/// An answer has no reason to be longer; one that is, is no collector's.
const LONGEST_ANSWER: usize = 64 * 1024;

const BATCHES: &str = "/api/v1/batches";
const STATUS: &str = "/api/v1/status";

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
    /// Base addresses, as `http://collector:19312`; at least one.
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
    /// Complete addresses.
    collectors: Vec<Url>,
    current: AtomicUsize,
}

/// The sender could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SenderError {
    /// There is nobody to send to.
    #[error("no collector is given")]
    NoCollector,
    /// The client could not be set up.
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
}

impl Sender {
    /// Sets up the client. No connection is made yet.
    pub fn new(options: SenderOptions) -> Result<Self, SenderError> {
        let client = Client::builder()
            .connect_timeout(options.connect_timeout)
            .timeout(options.timeout)
            // An answer from elsewhere is not one of the collector that was configured.
            .redirect(Policy::none())
            // Nor may an environment variable send records through somebody else's machine.
            .no_proxy()
            .pool_max_idle_per_host(1)
            .user_agent(concat!("weighbridge-agent/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(SenderError::Client)?;
        let collectors: Vec<Url> = options.collectors.into_iter().map(with_path).collect();
        if collectors.is_empty() {
            return Err(SenderError::NoCollector);
        }
        Ok(Self { client, collectors, current: AtomicUsize::new(0) })
    }

    /// From the next request on, asks the collector after this one in the list.
    pub fn next_collector(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    /// Where the next request goes.
    pub fn collector(&self) -> &Url {
        &self.collectors[self.current.load(Ordering::Relaxed) % self.collectors.len()]
    }

    /// Sends one batch once.
    pub async fn send(&self, pending: &Pending, clock: &dyn Clock) -> Answer {
        match self.request(pending, clock).await {
            Ok(answer) => answer,
            Err(error) => Answer::Retry(Retry::Unreachable(chain(&error.without_url()))),
        }
    }

    async fn request(&self, pending: &Pending, clock: &dyn Clock) -> Result<Answer, reqwest::Error> {
        let mut request = self
            .client
            .post(self.collector().clone())
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header("x-weighbridge-boot-ms", clock.now().boot_ms)
            .header("x-weighbridge-boot-id", hex(&clock.boot().0));
        if let Some(wall) = clock.raw_wall() {
            request = request.header("x-weighbridge-wall-ms", wall.0);
        }
        let mut response = request.body(pending.bytes.clone()).send().await?;
        let status = response.status().as_u16();
        let retry_after = response.headers().get(header::RETRY_AFTER).cloned();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > LONGEST_ANSWER {
                let why = format!("its answer is longer than {LONGEST_ANSWER} bytes");
                return Ok(Answer::Retry(Retry::NotACollector(why)));
            }
            body.extend_from_slice(&chunk);
        }
        let retry_after = retry_after.as_ref().and_then(|value| value.to_str().ok());
        Ok(answer(status, retry_after, &body, &pending.hash))
    }

    /// Sends a signed status once. It is worth no second attempt: a newer one comes soon.
    pub async fn report(&self, report: Vec<u8>) -> Reported {
        let mut url = self.collector().clone();
        let path = url.path().strip_suffix(BATCHES).unwrap_or_default().to_owned() + STATUS;
        url.set_path(&path);
        let request = self.client.post(url).header(header::CONTENT_TYPE, "application/x-protobuf");
        match request.body(report).send().await.map(|response| response.status().as_u16()) {
            Ok(200..=299) => Reported::Taken,
            Ok(404 | 405 | 501) => Reported::NotWanted,
            Ok(_) | Err(_) => Reported::Failed,
        }
    }

    /// Whether each collector can be reached at all: `Ok` with the status it answers.
    pub async fn probe(&self) -> Vec<(Url, Result<u16, String>)> {
        let mut results = Vec::new();
        for url in &self.collectors {
            let answered = self.client.get(url.clone()).send().await;
            let result = answered
                .map(|response| response.status().as_u16())
                .map_err(|error| chain(&error.without_url()));
            results.push((url.clone(), result));
        }
        results
    }
}

fn with_path(mut base: Url) -> Url {
    let path = format!("{}{BATCHES}", base.path().trim_end_matches('/'));
    base.set_path(&path);
    base
}
