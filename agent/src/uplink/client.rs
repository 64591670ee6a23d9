//! Requests to collectors: one connection at a time is kept for each, and made anew when the certificate changes.
//!
//! On hyper and rustls rather than with a client for the whole web: there are few addresses, no redirects, no
//! proxies, no cookies, and the certificate of a connection has to change while others go on. An answer is
//! limited in size, a request in time.

use std::{
    error::Error,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
    header::{self, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use reqwest::Url;
use rustls::{
    AlertDescription, CertificateError, ClientConfig,
    pki_types::{InvalidDnsNameError, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::chain;
use crate::tls::Identity;

/// An answer has no reason to be longer; one that is, is no collector's.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Whose certificate connections are made under.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// Nobody's: plain HTTP alone works.
    None,
    /// This agent's, as it changes.
    Identity(Arc<Identity>),
    /// None is shown; the server is checked by this: for the first contact.
    Fixed(Arc<ClientConfig>),
}

/// A request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `GET` or `POST`.
    pub method: Method,
    /// Where.
    pub url: Url,
    /// Beside those that every request has.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// What is sent.
    pub body: Bytes,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answered {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, whole.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The name in the address cannot be in a certificate.
    #[error("the address has no name that a certificate could have")]
    Name(#[source] InvalidDnsNameError),
    /// There is no certificate to connect with.
    #[error("{0}")]
    NoCertificate(String),
    /// TLS was not agreed on.
    #[error("no secure connection")]
    Handshake(#[source] io::Error),
    /// The connection broke, or what came was no HTTP.
    #[error("the request failed")]
    Http(#[source] hyper::Error),
    /// The request cannot be written down.
    #[error("the request cannot be made")]
    Request(#[source] hyper::http::Error),
    /// It took too long.
    #[error("no {what} within {} ms", limit.as_millis())]
    Late {
        /// What was awaited.
        what: &'static str,
        /// For so long.
        limit: Duration,
    },
    /// The answer has no end.
    #[error("its answer is longer than {LONGEST_ANSWER} bytes")]
    TooLong,
}

/// What TLS had against a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distrust {
    /// This side does not believe the collector.
    OfCollector,
    /// The collector's certificate is past its time, or this host's clock is ahead.
    Expired,
    /// The collector does not take this agent's certificate.
    OfAgent,
}

impl ClientError {
    /// Whether TLS is why, and of which side.
    pub fn distrust(&self) -> Option<Distrust> {
        match tls_error(self)? {
            rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            ) => Some(Distrust::Expired),
            rustls::Error::InvalidCertificate(_)
            | rustls::Error::Other(_)
            | rustls::Error::NoCertificatesPresented => Some(Distrust::OfCollector),
            rustls::Error::AlertReceived(
                AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError
                | AlertDescription::CertificateRequired,
            ) => Some(Distrust::OfAgent),
            _ => None,
        }
    }
}

/// What rustls said, somewhere among the causes.
pub fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // The cause that an I/O error shows is that of what it holds, not what it holds.
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = held.and_then(|held| tls_error(held)) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Makes requests. May be shared.
#[derive(Debug)]
pub struct Client {
    connect_timeout: Duration,
    timeout: Duration,
    credentials: Credentials,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    origin: Origin,
    /// Of the certificate that it was made under.
    version: u64,
    connection: SendRequest<Full<Bytes>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    secure: bool,
    host: String,
    port: u16,
}

impl Origin {
    fn of(url: &Url) -> Self {
        Self {
            secure: url.scheme() == "https",
            host: url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned(),
            port: url.port_or_known_default().unwrap_or(80),
        }
    }
}

impl Client {
    /// No connection is made yet. `timeout` is for a request with its answer.
    pub fn new(connect_timeout: Duration, timeout: Duration, credentials: Credentials) -> Self {
        Self { connect_timeout, timeout, credentials, idle: Mutex::default() }
    }

    /// The identity that it connects under, if it has one.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        match &self.credentials {
            Credentials::Identity(identity) => Some(identity),
            Credentials::None | Credentials::Fixed(_) => None,
        }
    }

    /// Sends a request and takes the answer whole.
    pub async fn request(&self, asked: &Asked) -> Result<Answered, ClientError> {
        let late = |_| ClientError::Late { what: "whole answer", limit: self.timeout };
        timeout(self.timeout, self.exchange(asked)).await.map_err(late)?
    }

    async fn exchange(&self, asked: &Asked) -> Result<Answered, ClientError> {
        let origin = Origin::of(&asked.url);
        let (version, config) = self.config(&origin)?;
        // A connection that was kept may have been closed by the other side meanwhile: that is worth one more.
        if let Some(mut kept) = self.kept(&origin, version)
            && kept.ready().await.is_ok()
            && let Ok(response) = kept.send_request(request(asked)?).await
        {
            return self.take(origin, version, kept, response).await;
        }
        let late = |_| ClientError::Late { what: "connection", limit: self.connect_timeout };
        let connected = timeout(self.connect_timeout, connect(&origin, config)).await;
        let mut connection = connected.map_err(late)??;
        let response = connection.send_request(request(asked)?).await.map_err(ClientError::Http)?;
        self.take(origin, version, connection, response).await
    }

    fn config(&self, origin: &Origin) -> Result<(u64, Option<Arc<ClientConfig>>), ClientError> {
        if !origin.secure {
            return Ok((0, None));
        }
        match &self.credentials {
            Credentials::None => {
                Err(ClientError::NoCertificate("there is no certificate for a secure connection".into()))
            }
            Credentials::Fixed(config) => Ok((0, Some(Arc::clone(config)))),
            Credentials::Identity(identity) => {
                let state = identity.state();
                match &state.ready {
                    Ok(ready) => Ok((state.version, Some(Arc::clone(&ready.config)))),
                    Err(error) => Err(ClientError::NoCertificate(chain(error))),
                }
            }
        }
    }

    fn kept(&self, origin: &Origin, version: u64) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| {
            (idle.origin != *origin || idle.version == version) && !idle.connection.is_closed()
        });
        let index = idle.iter().position(|idle| idle.origin == *origin)?;
        Some(idle.swap_remove(index).connection)
    }

    async fn take(
        &self,
        origin: Origin,
        version: u64,
        connection: SendRequest<Full<Bytes>>,
        response: hyper::Response<Incoming>,
    ) -> Result<Answered, ClientError> {
        let (parts, mut incoming) = response.into_parts();
        let mut body = Vec::new();
        while let Some(frame) = incoming.frame().await {
            if let Ok(data) = frame.map_err(ClientError::Http)?.into_data() {
                if body.len() + data.len() > LONGEST_ANSWER {
                    return Err(ClientError::TooLong);
                }
                body.extend_from_slice(&data);
            }
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // One for each is enough: requests of one agent follow each other.
        if !idle.iter().any(|idle| idle.origin == origin) {
            idle.push(Idle { origin, version, connection });
        }
        Ok(Answered { status: parts.status.as_u16(), headers: parts.headers, body })
    }
}

fn request(asked: &Asked) -> Result<Request<Full<Bytes>>, ClientError> {
    let url = &asked.url;
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let host = match (url.host_str().unwrap_or_default(), url.port()) {
        (host, Some(port)) => format!("{host}:{port}"),
        (host, None) => host.to_owned(),
    };
    let mut request = Request::builder()
        .method(asked.method.clone())
        .uri(target)
        .header(header::HOST, host)
        .header(header::ACCEPT, "*/*")
        .header(header::USER_AGENT, concat!("weighbridge-agent/", env!("CARGO_PKG_VERSION")));
    for (name, value) in &asked.headers {
        request = request.header(name, value);
    }
    request.body(Full::new(asked.body.clone())).map_err(ClientError::Request)
}

async fn connect(
    origin: &Origin,
    config: Option<Arc<ClientConfig>>,
) -> Result<SendRequest<Full<Bytes>>, ClientError> {
    let address = (origin.host.as_str(), origin.port);
    let stream = TcpStream::connect(address).await.map_err(ClientError::Connect)?;
    stream.set_nodelay(true).map_err(ClientError::Connect)?;
    match config {
        None => talk(stream).await,
        Some(config) => {
            let name = ServerName::try_from(origin.host.clone()).map_err(ClientError::Name)?;
            let connected = TlsConnector::from(config).connect(name, stream).await;
            talk(connected.map_err(ClientError::Handshake)?).await
        }
    }
}

async fn talk<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(ClientError::Http)?;
    // It ends when the sender is dropped; what breaks it is said to whoever waits for an answer.
    tokio::spawn(connection);
    Ok(sender)
}
