//! Which certificates of agents are taken.
//!
//! One that is not valid yet is taken as if it were: an authority does not sign ahead of its time, so it is the
//! collector's clock that went back. One that has ended is taken for a while too, and marked: with it an agent
//! that was off may renew, and do nothing else ([`super::peer`]). A connection without one may join.

use std::{sync::Arc, time::Duration};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
    server::{
        VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use weighbridge_wire::certificate::Looked;

/// Checks the certificates of agents.
#[derive(Debug)]
pub struct AgentVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    grace: Duration,
}

impl AgentVerifier {
    /// Believes these authorities; what ended less than `grace` ago may renew.
    pub fn new(
        roots: RootCertStore,
        grace: Duration,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        Ok(Self { inner: inner.allow_unauthenticated().build()?, grace })
    }
}

fn seconds(moment: weighbridge_meter::UtcMillis) -> u64 {
    u64::try_from(moment.0 / 1000).unwrap_or(0)
}

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

impl ClientCertVerifier for AgentVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let looked =
            Looked::at(end_entity).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let begins = now.as_secs().max(seconds(looked.not_before));
        let verified = self.inner.verify_client_cert(end_entity, intermediates, at(begins));
        let ends = seconds(looked.not_after);
        match verified {
            Err(Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) if now.as_secs().saturating_sub(ends) <= self.grace.as_secs() => {
                self.inner.verify_client_cert(end_entity, intermediates, at(ends))
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
