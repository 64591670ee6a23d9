//! One connection to one controller: requests one after the other, answers limited in size and depth.
//!
//! Its own small client on hyper and rustls rather than the uplink's: there is one origin, one connection and
//! one kind of request, and a TLS backend in the uplink's client would change how that behaves. Deliberately
//! absent: redirects, proxies, cookies, compression, sessions, and anything that changes something.

use std::{path::Path, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, StatusCode,
    body::{Body, Bytes},
    client::conn::http1::{SendRequest, handshake},
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;
use reqwest::Url;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// The largest report seen in public is 2.5 MiB; what is longer than this is none.
/// The depth is limited by `serde_json`, to 128.
const LONGEST_ANSWER: usize = 8 * 1024 * 1024;

/// Why something was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nobody answered, or the connection broke.
    Unreachable(String),
    /// The controller does not accept the account, or not for this: the status it said.
    Refused(u16),
    /// There is no such thing.
    Absent,
    /// It answered with something else than what it was asked for.
    Bad(String),
}

/// What TLS is set up with failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    /// The file of the certificate authority cannot be used.
    #[error("cannot read certificates from {0}")]
    CaFile(String),
    /// There is no certificate to trust.
    #[error("the system has no certificate authorities: name one in source.redfish.ca_file")]
    NoAuthority,
    /// rustls says no.
    #[error("cannot set up TLS")]
    Setup(#[from] rustls::Error),
}

/// How all connections of a source are secured.
pub(super) fn tls_config(
    ca_file: Option<&Path>,
    any_certificate: bool,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let config = if any_certificate {
        let verifier = Arc::new(AnyCertificate(provider));
        builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
    } else {
        builder.with_root_certificates(authorities(ca_file)?).with_no_client_auth()
    };
    Ok(Arc::new(config))
}

fn authorities(ca_file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let unusable = || TlsError::CaFile(path.display().to_string());
            for certificate in CertificateDer::pem_file_iter(path).map_err(|_| unusable())? {
                store.add(certificate.map_err(|_| unusable())?).map_err(|_| unusable())?;
            }
            if store.is_empty() {
                return Err(unusable());
            }
        }
        None => {
            // Some systems carry a few that cannot be used; the others still can.
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if store.is_empty() {
                return Err(TlsError::NoAuthority);
            }
        }
    }
    Ok(store)
}

/// Believes everyone, as configured: controllers come with certificates that nobody signed, some of a version
/// that could not even be checked.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The connection to one controller. Dropping a request ends the connection; the next one makes another.
#[derive(Debug)]
pub(super) struct Client {
    origin: Url,
    tls: Option<Arc<ClientConfig>>,
    authorization: Option<HeaderValue>,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

impl Client {
    /// No connection is made yet. Of the address, only scheme, host and port count.
    pub(super) fn new(origin: Url) -> Self {
        Self { origin, tls: None, authorization: None, connection: None }
    }

    /// Whether it needs [`Self::secure_with`] before it can connect.
    pub(super) fn is_secure(&self) -> bool {
        self.origin.scheme() == "https"
    }

    /// What TLS connections are made with from now on.
    pub(super) fn secure_with(&mut self, tls: Arc<ClientConfig>) {
        self.tls = Some(tls);
    }

    /// Whose account requests use from now on.
    pub(super) fn log_in(&mut self, user: &str, password: &str) {
        let text = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
        self.authorization = HeaderValue::from_str(&text).ok().map(|mut value| {
            value.set_sensitive(true);
            value
        });
    }

    /// What the controller says at `link`, which must lead nowhere else than to itself.
    pub(super) async fn get(&mut self, link: &str) -> Result<Value, Failure> {
        let url = self.origin.join(link).ok().filter(|url| url.origin() == self.origin.origin());
        let Some(url) = url else {
            return Err(Failure::Bad("a link that leads away from the controller".into()));
        };
        let (status, body) = self.exchange(&url).await?;
        match status {
            StatusCode::OK => serde_json::from_slice(&body)
                .map_err(|error| Failure::Bad(format!("{}: not JSON: {error}", url.path()))),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Failure::Refused(status.as_u16())),
            StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::GONE
            | StatusCode::NOT_IMPLEMENTED => Err(Failure::Absent),
            status => Err(Failure::Bad(format!("{}: status {}", url.path(), status.as_u16()))),
        }
    }

    async fn exchange(&mut self, url: &Url) -> Result<(StatusCode, Vec<u8>), Failure> {
        // A connection that was kept may have been closed by the other side meanwhile: that is worth one more.
        if let Some(mut kept) = self.connection.take()
            && kept.ready().await.is_ok()
            && let Ok(response) = kept.send_request(self.request(url)?).await
        {
            return self.body(kept, response).await;
        }
        let mut connection = self.connect().await?;
        let response = connection.send_request(self.request(url)?).await.map_err(unreachable)?;
        self.body(connection, response).await
    }

    fn request(&self, url: &Url) -> Result<Request<Empty<Bytes>>, Failure> {
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let host = match (url.host_str().unwrap_or_default(), url.port()) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        };
        let mut request = Request::get(target)
            .header(header::HOST, host)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("weighbridge-agent/", env!("CARGO_PKG_VERSION")))
            .header("OData-Version", "4.0");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        request.body(Empty::new()).map_err(|error| Failure::Bad(format!("a link that is none: {error}")))
    }

    /// Takes the answer whole, and keeps the connection for the next request only then.
    async fn body(
        &mut self,
        connection: SendRequest<Empty<Bytes>>,
        response: hyper::Response<hyper::body::Incoming>,
    ) -> Result<(StatusCode, Vec<u8>), Failure> {
        let status = response.status();
        let mut incoming = response.into_body();
        let too_long = || Failure::Bad(format!("an answer of more than {LONGEST_ANSWER} bytes"));
        if incoming.size_hint().lower() > LONGEST_ANSWER as u64 {
            return Err(too_long());
        }
        let mut body = Vec::new();
        while let Some(frame) = incoming.frame().await {
            if let Ok(data) = frame.map_err(unreachable)?.into_data() {
                if body.len() + data.len() > LONGEST_ANSWER {
                    return Err(too_long());
                }
                body.extend_from_slice(&data);
            }
        }
        self.connection = Some(connection);
        Ok((status, body))
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, Failure> {
        let host = self.origin.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let port = self.origin.port_or_known_default().unwrap_or(443);
        let stream = TcpStream::connect((host, port)).await.map_err(unreachable)?;
        match (self.is_secure(), &self.tls) {
            (false, _) => talk(stream).await,
            (true, Some(tls)) => {
                let name = ServerName::try_from(host.to_owned()).map_err(unreachable)?;
                let connector = TlsConnector::from(Arc::clone(tls));
                talk(connector.connect(name, stream).await.map_err(unreachable)?).await
            }
            (true, None) => Err(Failure::Unreachable("TLS is not set up".into())),
        }
    }
}

async fn talk<S>(stream: S) -> Result<SendRequest<Empty<Bytes>>, Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
    // It ends when the sender is dropped; what breaks it is said to whoever waits for an answer.
    tokio::spawn(connection);
    Ok(sender)
}

fn unreachable(error: impl std::error::Error) -> Failure {
    Failure::Unreachable(crate::uplink::chain(&error))
}
