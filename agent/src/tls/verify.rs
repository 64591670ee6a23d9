//! Whom this agent believes to be its collector.
//!
//! The collector's authorities, given at enrolment, and only they. Of the validity of a certificate one half is
//! left out: one that is not valid yet is taken as if it were. A host that boots with its clock at 1970 would
//! otherwise never reach the collector that could tell it the time, and an authority does not sign ahead of its
//! time. One that has expired is refused; so an agent whose clock runs years ahead waits, and keeps what it
//! measures, until somebody sets the clock.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        VerifierBuilderError, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use weighbridge_wire::{
    Hash,
    certificate::{Looked, fingerprint},
};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Believes these authorities.
#[derive(Debug)]
pub struct Pinned {
    inner: Arc<WebPkiServerVerifier>,
}

impl Pinned {
    /// An error means that there is none.
    pub fn new(roots: RootCertStore) -> Result<Self, VerifierBuilderError> {
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
        Ok(Self { inner })
    }
}

/// The later of now and the moment from which on all of these certificates hold.
fn from_when_they_hold(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> UnixTime {
    let begin = |der: &CertificateDer<'_>| {
        let looked = Looked::at(der).ok()?;
        u64::try_from(looked.not_before.0 / 1000).ok()
    };
    let begins = std::iter::once(end_entity).chain(intermediates).filter_map(begin);
    let latest = begins.fold(now.as_secs(), u64::max);
    UnixTime::since_unix_epoch(Duration::from_secs(latest))
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let at = from_when_they_hold(end_entity, intermediates, now);
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, at)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The collector shows no certificate of the authority that the token names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its authority is another than the one in the token, which has the fingerprint {expected}")]
pub struct OtherAuthority {
    /// In hexadecimal.
    pub expected: String,
}

/// Believes the one authority that has this fingerprint, once it is shown.
#[derive(Debug)]
pub struct FirstContact {
    authority: Hash,
    /// What the last server showed from when on, to tell a wrong clock.
    shown: Mutex<Option<Looked>>,
}

impl FirstContact {
    /// By the fingerprint in a token.
    pub fn new(authority: Hash) -> Self {
        Self { authority, shown: Mutex::default() }
    }

    /// What the server's certificate said, if it showed one.
    pub fn shown(&self) -> Option<Looked> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for FirstContact {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let named = intermediates.iter().find(|der| fingerprint(der) == self.authority);
        let Some(named) = named else {
            let expected = weighbridge_meter::hex(&self.authority);
            let error = rustls::OtherError(Arc::new(OtherAuthority { expected }));
            return Err(rustls::Error::Other(error));
        };
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Looked::at(end_entity).ok();
        let mut roots = RootCertStore::empty();
        roots.add(named.clone().into_owned())?;
        let pinned = Pinned::new(roots).map_err(|error| rustls::Error::General(error.to_string()))?;
        pinned.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
