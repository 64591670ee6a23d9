//! Requests to the API server, each on a connection of its own: there are few, and a watch keeps its own for minutes.
//!
//! Deliberately absent: client certificates, redirects, proxies, and anything that changes something.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;
use reqwest::Url;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::uplink::chain;

/// A token is shorter.
const LONGEST_TOKEN: u64 = 64 << 10;

/// An answer that is taken whole is at most so long: a page of a hundred pods, or a hundred resource slices.
const LONGEST_ANSWER: usize = 32 << 20;

/// Where the API server is, and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiOptions {
    /// As `https://10.0.0.1:443`.
    pub url: Url,
    /// A file with the token; it is read anew for each request, as the kubelet renews it.
    pub token_file: Option<PathBuf>,
    /// The authority of its certificate, in PEM; `None`: those of the system.
    pub ca_file: Option<PathBuf>,
    /// For an answer, or for the next piece of one.
    pub deadline: Duration,
}

/// Why the API server told nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// No connection, or it broke.
    #[error("{0}")]
    Unreachable(String),
    /// This account may not ask that: 401 or 403.
    #[error("the API server refuses this with status {0}")]
    Refused(u16),
    /// There is no such object.
    #[error("there is no such object")]
    Absent,
    /// The version to go on from is no longer known.
    #[error("the version is too old")]
    Expired,
    /// It does not answer this now: 429, or an error of its own.
    #[error("the API server answers {0}")]
    Busy(u16),
    /// More than is taken in one piece.
    #[error("an answer of more than {LONGEST_ANSWER} bytes")]
    TooLong,
    /// Something else than what was asked for.
    #[error("{0}")]
    Bad(String),
}

impl ApiError {
    /// Whether the same question may well be answered later, by whoever may ask it.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Busy(_) | Self::Refused(401))
    }
}

/// An answer that is still coming.
#[derive(Debug)]
pub(super) struct Stream {
    body: Incoming,
    // Dropping it ends the connection.
    _connection: SendRequest<Empty<Bytes>>,
    deadline: Duration,
}

impl Stream {
    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            let frame = timeout(self.deadline, self.body.frame()).await;
            let frame = frame.map_err(|_| late(self.deadline))?;
            match frame {
                None => return Ok(None),
                Some(frame) => match frame.map_err(unreachable)?.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => continue,
                },
            }
        }
    }
}

/// Asks, and takes the answer whole. `accept` is a media type.
pub(super) async fn get(
    options: &ApiOptions,
    target: &str,
    accept: &'static str,
) -> Result<Vec<u8>, ApiError> {
    let taken = async {
        let mut stream = open(options, target, accept, options.deadline).await?;
        let mut body = Vec::new();
        while let Some(data) = stream.next().await? {
            if body.len() + data.len() > LONGEST_ANSWER {
                return Err(ApiError::TooLong);
            }
            body.extend_from_slice(&data);
        }
        Ok(body)
    };
    timeout(options.deadline, taken).await.map_err(|_| late(options.deadline))?
}

/// Asks; the answer comes piece by piece, each at most `patience` after the one before.
pub(super) async fn open(
    options: &ApiOptions,
    target: &str,
    accept: &'static str,
    patience: Duration,
) -> Result<Stream, ApiError> {
    let asked = async {
        let request = request(options, target, accept)?;
        let mut connection = connect(options).await?;
        let response = connection.send_request(request).await.map_err(unreachable)?;
        Ok::<_, ApiError>((connection, response))
    };
    let (connection, response) =
        timeout(options.deadline, asked).await.map_err(|_| late(options.deadline))??;
    match response.status() {
        StatusCode::OK => {
            Ok(Stream { body: response.into_body(), _connection: connection, deadline: patience })
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(ApiError::Refused(response.status().as_u16()))
        }
        StatusCode::NOT_FOUND => Err(ApiError::Absent),
        StatusCode::GONE => Err(ApiError::Expired),
        status if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
            Err(ApiError::Busy(status.as_u16()))
        }
        status => Err(ApiError::Bad(format!("the API server answers {}", status.as_u16()))),
    }
}

fn request(
    options: &ApiOptions,
    target: &str,
    accept: &'static str,
) -> Result<Request<Empty<Bytes>>, ApiError> {
    let url = &options.url;
    let host = match (url.host_str().unwrap_or_default(), url.port()) {
        (host, Some(port)) => format!("{host}:{port}"),
        (host, None) => host.to_owned(),
    };
    let mut request = Request::get(format!("{}{target}", url.path().trim_end_matches('/')))
        .header(header::HOST, host)
        .header(header::ACCEPT, accept)
        .header(header::USER_AGENT, concat!("weighbridge-agent/", env!("CARGO_PKG_VERSION")));
    if let Some(file) = &options.token_file {
        request = request.header(header::AUTHORIZATION, token(file)?);
    }
    request
        .body(Empty::new())
        .map_err(|error| ApiError::Bad(format!("a request that cannot be made: {error}")))
}

/// What a token file holds. The error says why not, and nothing of what is in it.
fn token(path: &Path) -> Result<HeaderValue, ApiError> {
    let shown = path.display();
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST_TOKEN).read_to_string(&mut text));
    read.map_err(|error| ApiError::Unreachable(format!("cannot read token file {shown}: {error}")))?;
    let value = HeaderValue::from_str(&format!("Bearer {}", text.trim()));
    let mut value = value.map_err(|_| ApiError::Unreachable(format!("token file {shown} holds no token")))?;
    value.set_sensitive(true);
    Ok(value)
}

async fn connect(options: &ApiOptions) -> Result<SendRequest<Empty<Bytes>>, ApiError> {
    let url = &options.url;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or(443);
    let stream = TcpStream::connect((host, port)).await.map_err(unreachable)?;
    if url.scheme() != "https" {
        return talk(stream).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(unreachable)?;
    let connector = TlsConnector::from(Arc::new(tls(options.ca_file.as_deref())?));
    talk(connector.connect(name, stream).await.map_err(unreachable)?).await
}

/// Read anew each time: authorities change too.
fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, ApiError> {
    let mut authorities = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let unusable =
                || ApiError::Unreachable(format!("cannot read certificates from {}", path.display()));
            for certificate in CertificateDer::pem_file_iter(path).map_err(|_| unusable())? {
                authorities.add(certificate.map_err(|_| unusable())?).map_err(|_| unusable())?;
            }
        }
        None => {
            authorities.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(unreachable)?;
    Ok(builder.with_root_certificates(authorities).with_no_client_auth())
}

async fn talk<S>(stream: S) -> Result<SendRequest<Empty<Bytes>>, ApiError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
    // It ends when the sender is dropped; what breaks it is said to whoever waits for an answer.
    tokio::spawn(connection);
    Ok(sender)
}

fn late(limit: Duration) -> ApiError {
    ApiError::Unreachable(format!("no answer within {} ms", limit.as_millis()))
}

fn unreachable(error: impl std::error::Error) -> ApiError {
    ApiError::Unreachable(chain(&error))
}

impl From<io::Error> for ApiError {
    fn from(error: io::Error) -> Self {
        unreachable(error)
    }
}
