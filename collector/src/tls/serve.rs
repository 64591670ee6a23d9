//! The serving loop of the ingest port under TLS.
//!
//! As [`crate::listen`], with the same limits, and a handshake before each connection. Each connection takes the certificates that
//! are there when it begins. A handshake that fails is answered by an alert, and the connection kept for a moment, so that the other side can read why.

use std::{sync::Arc, time::Duration};

use axum::{Router, middleware};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::peer::{self, Connection};
use crate::{
    app::App,
    enrol, ingest,
    listen::{self, Addresses, Limits, Taken},
};

/// Whoever has not agreed on TLS by then goes.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A connection under an agent's certificate may be silent for so long: longer than the time between two batches
/// as a rule, so that not each of them costs a handshake.
const IDLE: Duration = Duration::from_secs(150);

/// How long, and for how much, a refused connection is kept so that its alert is read.
const LINGER: (Duration, u64) = (Duration::from_secs(1), 64 * 1024);

/// Everything on the ingest port under TLS.
fn routes(app: &App) -> Router {
    ingest::routes(app.clone())
        .merge(enrol::routes::on_ingest(app.clone()))
        .layer(middleware::from_fn_with_state(app.clone(), peer::identify))
}

/// Serves until told to stop; requests that were taken are finished.
pub async fn serve(app: App, listener: TcpListener, limits: Limits, stop: CancellationToken) {
    let routes = routes(&app);
    let permits = Arc::new(Semaphore::new(limits.connections));
    let addresses = Addresses::default();
    let graceful = GracefulShutdown::new();
    loop {
        let taken = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            taken = listen::next(&listener, &permits) => taken,
        };
        let (stream, address, permit) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "no connection could be taken");
                tokio::time::sleep(listen::BREATH).await;
                continue;
            }
        };
        let Some(counted) = addresses.enter(address, limits.per_address) else {
            tracing::debug!(%address, "an address has too many connections");
            continue;
        };
        let (app, routes, watcher) = (app.clone(), routes.clone(), graceful.watcher());
        let stop = stop.clone();
        tokio::spawn(async move {
            let agreed = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                agreed = handshake(&app, stream) => agreed,
            };
            let Some((stream, connection)) = agreed else { return };
            let _held = (permit, counted);
            let head = if connection.chain.is_empty() { limits.head } else { limits.head.max(IDLE) };
            let routes = TowerToHyperService::new(routes);
            let connection = Arc::new(connection);
            let service = service_fn(move |request: Request<Incoming>| {
                let mut request = request.map(listen::impatient);
                request.extensions_mut().insert(Arc::clone(&connection));
                hyper::service::Service::call(&routes, request)
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(head)
                .max_buf_size(listen::BUFFER)
                .serve_connection(TokioIo::new(stream), service);
            // Whoever breaks the connection off gets no answer; there is nobody to tell.
            drop(watcher.watch(served).await);
        });
    }
    drop(listener);
    if timeout(listen::GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("connections were still busy at the end of the grace period");
    }
}

/// Agrees on TLS; `None` if that did not work.
async fn handshake(app: &App, stream: TcpStream) -> Option<(TlsStream<Taken<TcpStream>>, Connection)> {
    // Before the certificate is looked at, so that a change in between makes it looked at again.
    let version = app.trust.version();
    let config = app.trust.server_config()?;
    // An error says that nobody is there any more, which the handshake will find.
    let _ = stream.set_nodelay(true);
    let stream = Taken::by(stream);
    let accepted = timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream).into_fallible()).await;
    match accepted {
        Ok(Ok(stream)) => {
            app.metrics.handshake("ok");
            let (_, session) = stream.get_ref();
            let chain = session.peer_certificates().unwrap_or_default();
            let chain = chain.iter().cloned().map(CertificateDer::into_owned).collect();
            Some((stream, Connection { chain, version }))
        }
        Ok(Err((error, stream))) => {
            app.metrics.handshake("refused");
            tracing::debug!(error = &error as &dyn std::error::Error, "no secure connection was agreed on");
            linger(stream).await;
            None
        }
        Err(_) => {
            app.metrics.handshake("late");
            None
        }
    }
}

/// Closing with something unread would reset the connection and take the alert with it.
async fn linger(mut stream: Taken<TcpStream>) {
    let (time, most) = LINGER;
    let drained = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut (&mut stream).take(most), &mut tokio::io::sink()).await
    };
    // Whatever comes of it, the connection ends here.
    drop(timeout(time, drained).await);
}
