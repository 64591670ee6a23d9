//! The agent's own pages: `/metrics` for Prometheus, `/-/healthy` and `/-/ready` for whoever supervises it.
//!
//! Plain HTTP for the same host or a trusted network: nothing here says who holds what. Deliberately absent:
//! anything that changes something.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::Registry;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;
use weighbridge_meter::meter::Now;

use crate::{
    clock::Clock,
    metrics::{Metrics, exposition},
};

/// Connections at a time; those beyond it wait to be accepted.
const CONNECTIONS: usize = 32;

/// Within this time a connection has to send its request and take the answer, or it is closed.
const CONNECTION_LASTS: Duration = Duration::from_secs(30);

/// Whether the agent does what it is for.
#[derive(Debug)]
pub struct Health {
    last_tick_ms: AtomicU64,
    spool_works: AtomicBool,
    longest_tick_ms: u64,
}

impl Health {
    /// Nothing done yet. Without a tick for `longest_tick_ms` milliseconds, sampling does not progress.
    pub fn new(longest_tick_ms: u64) -> Self {
        Self { last_tick_ms: AtomicU64::new(u64::MAX), spool_works: AtomicBool::new(true), longest_tick_ms }
    }

    /// A look was taken.
    pub fn ticked(&self, now: Now) {
        self.last_tick_ms.store(now.boot_ms, Ordering::Relaxed);
    }

    /// A batch was kept, or not.
    pub fn sealed(&self, kept: bool) {
        self.spool_works.store(kept, Ordering::Relaxed);
    }

    /// `Err` says what is wrong.
    pub fn check(&self, now: Now) -> Result<(), &'static str> {
        let last = self.last_tick_ms.load(Ordering::Relaxed);
        if last == u64::MAX {
            Err("no look was taken yet")
        } else if now.boot_ms.saturating_sub(last) > self.longest_tick_ms {
            Err("sampling does not progress")
        } else if !self.spool_works.load(Ordering::Relaxed) {
            Err("the spool does not take batches")
        } else {
            Ok(())
        }
    }
}

/// What the pages show.
pub struct Pages {
    /// All metrics.
    pub registry: Registry,
    /// Those that are read when asked for.
    pub metrics: Arc<Metrics>,
    /// For `/-/ready`.
    pub health: Arc<Health>,
    /// For `/-/ready`.
    pub clock: Arc<dyn Clock>,
    /// Shown on the first page.
    pub agent: String,
}

impl Pages {
    /// One page.
    pub fn respond(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here\n");
        }
        match path {
            "/" => {
                let page = format!(
                    "<!doctype html><title>weighbridge-agent</title><h1>weighbridge-agent {}</h1><p>{}</p>\
                     <ul><li><a href=\"/metrics\">metrics</a><li><a href=\"/-/healthy\">healthy</a>\
                     <li><a href=\"/-/ready\">ready</a></ul>\n",
                    env!("CARGO_PKG_VERSION"),
                    self.agent.replace('&', "&amp;").replace('<', "&lt;"),
                );
                answer(StatusCode::OK, "text/html; charset=utf-8", page.into())
            }
            "/metrics" => match exposition(&self.registry, &self.metrics) {
                Ok(body) => answer(StatusCode::OK, prometheus::TEXT_FORMAT, body.into()),
                Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be shown\n"),
            },
            "/-/healthy" => text(StatusCode::OK, "healthy\n"),
            "/-/ready" => match self.health.check(self.clock.now()) {
                Ok(()) => text(StatusCode::OK, "ready\n"),
                Err(why) => answer(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{why}\n").into()),
            },
            _ => text(StatusCode::NOT_FOUND, "there is no such page\n"),
        }
    }
}

const PLAIN: &str = "text/plain; charset=utf-8";

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    answer(status, PLAIN, Bytes::from_static(body.as_bytes()))
}

fn answer(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

/// Answers until `stop` is cancelled; connections still open then are dropped.
pub async fn serve(listener: TcpListener, pages: Arc<Pages>, stop: CancellationToken) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            permit = Arc::clone(&connections).acquire_owned() => permit,
        };
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, as a rule: trying again at once would only burn time.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (pages, stop) = (Arc::clone(&pages), stop.clone());
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let response = pages.respond(request.method(), request.uri().path());
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = stop.cancelled() => {}
                // Whoever breaks the connection off gets no answer; there is nobody to tell.
                _ = tokio::time::timeout(CONNECTION_LASTS, connection) => {}
            }
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use weighbridge_meter::UtcMillis;

    use super::*;

    #[test]
    fn ready_means_that_sampling_progresses_and_the_spool_takes_batches() {
        let health = Health::new(10_000);
        let at = |boot_ms| Now { boot_ms, wall: UtcMillis(0) };
        assert_eq!(health.check(at(0)), Err("no look was taken yet"));
        health.ticked(at(5_000));
        assert_eq!(health.check(at(15_000)), Ok(()));
        assert_eq!(health.check(at(15_001)), Err("sampling does not progress"));
        health.sealed(false);
        assert_eq!(health.check(at(6_000)), Err("the spool does not take batches"));
        health.sealed(true);
        assert_eq!(health.check(at(6_000)), Ok(()));
    }
}
