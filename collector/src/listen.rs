//! Serves a port so that no client can take it from the others: so many connections, so many from one address, and
//! so long for the head of a request.
//!
//! A client that drips its bytes, or opens connections and says nothing, is cut off; what waits beyond the limits
//! waits in the kernel, and one address alone never fills them.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

/// How much a port takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Connections from one address at a time; further ones are closed at once.
    pub per_address: usize,
    /// For the head of a request, from when the connection is ready for it: an idle connection is closed after it.
    pub head: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 8192, per_address: 2048, head: Duration::from_secs(30) }
    }
}

/// After the port could not be asked for the next connection, as when no file can be opened: until it is again.
pub(crate) const BREATH: Duration = Duration::from_millis(50);

/// For what was taken, once told to stop.
pub(crate) const GRACE: Duration = Duration::from_secs(30);

/// A buffer of a connection at most: heads that are longer are refused. Bodies pass through it.
pub(crate) const BUFFER: usize = 64 << 10;

/// Who is connected.
#[derive(Clone, Default)]
pub(crate) struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection of an address, until it is dropped.
pub(crate) struct Counted(Addresses, IpAddr);

impl Addresses {
    /// `None` if the address has as many as it may.
    pub(crate) fn enter(&self, address: IpAddr, most: usize) -> Option<Counted> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Counted(self.clone(), address))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

/// Serves until told to stop; then what was taken is finished, within a grace period.
pub async fn serve(listener: TcpListener, routes: Router, limits: Limits, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let addresses = Addresses::default();
    let open = GracefulShutdown::new();
    loop {
        let taken = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            taken = next(&listener, &permits) => taken,
        };
        let (stream, address, permit) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "no connection could be taken");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        let Some(counted) = addresses.enter(address, limits.per_address) else {
            tracing::debug!(%address, "an address has too many connections");
            continue;
        };
        // Answers are one write; waiting for more of them helps nobody.
        drop(stream.set_nodelay(true));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes.clone()));
        let connection = open.watch(connection);
        tokio::spawn(async move {
            let _held = (permit, counted);
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended early");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, open.shutdown()).await.is_err() {
        tracing::warn!("requests that were taken are given up: the grace period is over");
    }
}

pub(crate) async fn next(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, IpAddr, OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    Ok((stream, address.ip(), permit))
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn served(
        limits: Limits,
    ) -> (std::net::SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let routes = Router::new().route("/", get(|| async { "hello" }));
        let running = tokio::spawn(serve(listener, routes, limits, stop.clone()));
        (at, stop, running)
    }

    async fn asked(stream: &mut TcpStream) -> String {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("open");
        let mut answer = vec![0; 1024];
        let bytes = stream.read(&mut answer).await.expect("open");
        String::from_utf8_lossy(&answer[..bytes]).into_owned()
    }

    #[tokio::test]
    async fn a_client_that_drips_its_head_is_cut_off_and_others_are_served() {
        let limits = Limits { head: Duration::from_millis(100), ..Limits::default() };
        let (at, _stop, _running) = served(limits).await;
        let mut slow = TcpStream::connect(at).await.expect("listens");
        slow.write_all(b"GET / HTTP/1.1\r\nx-never").await.expect("open");
        let mut other = TcpStream::connect(at).await.expect("listens");
        assert!(asked(&mut other).await.ends_with("hello"));
        let mut rest = Vec::new();
        // Ends, with an answer or without.
        drop(slow.read_to_end(&mut rest).await);
    }

    #[tokio::test]
    async fn an_address_with_too_many_connections_gets_no_further_one_until_it_closes_one() {
        let (at, _stop, _running) = served(Limits { per_address: 2, ..Limits::default() }).await;
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut one = TcpStream::connect(at).await.expect("listens");
            assert!(asked(&mut one).await.ends_with("hello"));
            held.push(one);
        }
        let mut third = TcpStream::connect(at).await.expect("the kernel takes it");
        let mut rest = Vec::new();
        assert!(matches!(third.read_to_end(&mut rest).await, Ok(0) | Err(_)));
        drop(held.pop());
        loop {
            let mut again = TcpStream::connect(at).await.expect("the kernel takes it");
            if again.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.is_err() {
                continue;
            }
            let mut answer = String::new();
            if again.read_to_string(&mut answer).await.is_ok() && answer.ends_with("hello") {
                break;
            }
        }
    }

    #[tokio::test]
    async fn stopping_finishes_and_closes_idle_connections() {
        let (at, stop, running) = served(Limits::default()).await;
        let mut idle = TcpStream::connect(at).await.expect("listens");
        assert!(asked(&mut idle).await.ends_with("hello"));
        stop.cancel();
        running.await.expect("does not panic");
        let mut rest = Vec::new();
        assert!(matches!(idle.read_to_end(&mut rest).await, Ok(0) | Err(_)));
    }
}
