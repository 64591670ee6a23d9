//! Who this agent is to the collector, and whom it believes: a certificate, its key and the authorities.
//!
//! [`Identity`] is what connections are made with. It changes while they go on: a renewal, another enrolment or
//! a new file of the site's own authority makes the next connection another one, and nothing waits for that.
//! An agent without a usable certificate measures and keeps all the same.
//!
//! Only TLS 1.3, only the pinned authorities, never those of the system; no resumption, so that every connection
//! shows a certificate. Deliberately absent: revocation lists. The collector decides at each request.

pub mod files;
pub mod keep;
pub mod request;
#[cfg(test)]
mod tests;
pub mod verify;

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    time_provider::TimeProvider,
};
use tokio::sync::{Notify, watch};
use weighbridge_meter::{AgentId, UtcMillis};
use weighbridge_wire::certificate::{IdentityPattern, Looked, NotACertificate};

use self::{
    files::{FileError, Files},
    verify::Pinned,
};
use crate::clock::Clock;

/// Why there is nothing to connect with.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Nobody enrolled this agent yet.
    #[error(
        "there is no certificate in {0}: enrol this agent with weighbridge-agent enroll --token-file FILE"
    )]
    NotEnrolled(String),
    /// A file cannot be read or does not hold what it should.
    #[error(transparent)]
    File(#[from] FileError),
    /// The certificate cannot be read.
    #[error("{0}: the first certificate")]
    Certificate(String, #[source] NotACertificate),
    /// rustls cannot use it; as a rule the key is of another certificate.
    #[error("the certificate cannot be used")]
    Unusable(#[from] rustls::Error),
    /// No authority can be believed.
    #[error("the authorities cannot be used")]
    Authorities(#[from] rustls::client::VerifierBuilderError),
}

/// What connections are made with now.
#[derive(Debug)]
pub struct State {
    /// Grows with each change: a connection of an older one is not used for new requests.
    pub version: u64,
    /// The certificate, or why there is none.
    pub ready: Result<Ready, TlsError>,
}

/// A certificate that can be shown.
#[derive(Clone, Debug)]
pub struct Ready {
    /// For connections.
    pub config: Arc<ClientConfig>,
    /// What it says.
    pub certificate: Looked,
    /// Whose it is, where it is of the collector's own authority.
    pub agent: Option<AgentId>,
    /// How many authorities are believed.
    pub authorities: usize,
}

/// The agent's certificate while it changes.
#[derive(Debug)]
pub struct Identity {
    files: Files,
    clock: Arc<HostTime>,
    /// Hash of what was loaded last.
    loaded: Mutex<Option<[u8; 32]>>,
    state: watch::Sender<Arc<State>>,
    /// The collector said that it no longer takes this certificate.
    pub(crate) refused: Notify,
}

/// The host's clock, for rustls.
pub struct HostTime(pub Arc<dyn Clock>);

impl std::fmt::Debug for HostTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HostTime")
    }
}

impl HostTime {
    /// What the host's wall clock says.
    pub fn wall(&self) -> UtcMillis {
        self.0.raw_wall().unwrap_or_else(|| self.0.now().wall)
    }
}

impl TimeProvider for HostTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.wall().0 / 1000).unwrap_or(0);
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}

impl Identity {
    /// Reads the files, as far as they are there.
    pub fn open(files: Files, clock: Arc<dyn Clock>) -> Self {
        let clock = Arc::new(HostTime(clock));
        let (state, _) = watch::channel(Arc::new(State { version: 0, ready: Err(not_enrolled(&files)) }));
        let identity = Self { files, clock, loaded: Mutex::default(), state, refused: Notify::new() };
        identity.reload();
        identity
    }

    /// Where it is kept.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// As it is now.
    pub fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    /// Returns once it is another than `version`.
    pub async fn changed_from(&self, version: u64) {
        let mut state = self.state.subscribe();
        // The sender lives as long as we do.
        drop(state.wait_for(|state| state.version != version).await);
    }

    /// What the host's wall clock says.
    pub fn wall(&self) -> UtcMillis {
        self.clock.wall()
    }

    /// Milliseconds since boot, to measure with.
    pub fn boot_ms(&self) -> u64 {
        self.clock.0.now().boot_ms
    }

    /// Reads the files again if they are others than before; whether they are.
    pub fn reload(&self) -> bool {
        let read = self.files.read();
        let hash = read.as_ref().ok().map(files::Read::hash);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.state();
        if hash == *loaded && (hash.is_some() || before.version > 0) {
            return false;
        }
        let ready = match read {
            Ok(read) => ready(&read, &self.files, Arc::clone(&self.clock) as Arc<dyn TimeProvider>),
            Err(error) if error.is_absence() => Err(not_enrolled(&self.files)),
            Err(error) => Err(error.into()),
        };
        if let (Err(error), Ok(_)) = (&ready, &before.ready) {
            // Half of a change, as a rule: what was read before stays good until the other half is there.
            tracing::warn!(
                error = crate::uplink::chain(error),
                "the files of the certificate cannot be used: going on with what was read before"
            );
            *loaded = hash;
            return false;
        }
        *loaded = hash;
        self.state.send_replace(Arc::new(State { version: before.version + 1, ready }));
        true
    }
}

fn not_enrolled(files: &Files) -> TlsError {
    TlsError::NotEnrolled(files.certificate_path().display().to_string())
}

fn ready(read: &files::Read, files: &Files, time: Arc<dyn TimeProvider>) -> Result<Ready, TlsError> {
    let parsed = read.parse()?;
    let first = parsed.certificates.first();
    let certificate = first.map_or(Err(NotACertificate), |first| Looked::at(first));
    let certificate = certificate
        .map_err(|error| TlsError::Certificate(files.certificate_path().display().to_string(), error))?;
    let authorities = parsed.authorities.len();
    let config = client_config(parsed.authorities, Some((parsed.certificates, parsed.key)), time)?;
    let agent = IdentityPattern::default().agent_of(&certificate);
    Ok(Ready { config: Arc::new(config), certificate, agent, authorities })
}

/// A configuration that believes these authorities and nobody else, and shows this certificate.
pub fn client_config(
    authorities: Vec<CertificateDer<'static>>,
    shown: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    time: Arc<dyn TimeProvider>,
) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority)?;
    }
    config_with(Arc::new(Pinned::new(roots)?), shown, time)
}

pub(crate) fn config_with(
    verifier: Arc<dyn rustls::client::danger::ServerCertVerifier>,
    shown: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    time: Arc<dyn TimeProvider>,
) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match shown {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}
