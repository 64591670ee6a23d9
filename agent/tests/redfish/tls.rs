//! Controllers speak TLS, with certificates of a site's own or of nobody's.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio_rustls::TlsAcceptor;
use weighbridge_agent::source::{AcceleratorSource, RedfishOptions, RedfishSource, SourceState};
use weighbridge_meter::GapCause;

use crate::{
    options,
    server::Bmc,
    tensor,
    trees::{FIRST, hgx},
};

/// A site's authority, in PEM, and a server certificate for this name by it.
fn certified(name: &str) -> (String, TlsAcceptor) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    (ca_pem, TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test]
async fn a_controller_is_believed_by_the_sites_authority_and_by_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (own, other) = (folder.path().join("own.pem"), folder.path().join("other.pem"));
    let (authority, acceptor) = certified("127.0.0.1");
    std::fs::write(&own, authority).unwrap();
    std::fs::write(&other, certified("127.0.0.1").0).unwrap();
    let bmc = Bmc::start_with_tls(hgx(), acceptor).await;

    let with = |ca_file| RedfishOptions { ca_file: Some(ca_file), ..options(&[&bmc]) };
    let look = RedfishSource::start(with(own)).look().await;
    assert_eq!((tensor(&look, FIRST), look.source_state), ("tensor 5000".into(), SourceState::Ok));
    bmc.asked();

    let look = RedfishSource::start(with(other)).look().await;
    let SourceState::Missing(GapCause::Unreachable, why) = &look.source_state else {
        panic!("{:?}", look.source_state);
    };
    assert!(why.contains("invalid peer certificate"), "{why}");
    assert_eq!(bmc.asked().len(), 0, "nothing is said to a stranger, least of all a password");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_believed_only_where_any_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("own.pem");
    let (authority, acceptor) = certified("bmc-8.example");
    std::fs::write(&file, authority).unwrap();
    let bmc = Bmc::start_with_tls(hgx(), acceptor).await;
    let strict = RedfishOptions { ca_file: Some(file), ..options(&[&bmc]) };
    let look = RedfishSource::start(strict.clone()).look().await;
    assert!(matches!(&look.source_state, SourceState::Missing(GapCause::Unreachable, _)));
    let look = RedfishSource::start(RedfishOptions { any_certificate: true, ..strict }).look().await;
    assert_eq!((tensor(&look, FIRST), look.source_state), ("tensor 5000".into(), SourceState::Ok));
}

#[tokio::test]
async fn an_authority_that_cannot_be_read_is_named_and_looked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let (authority, acceptor) = certified("127.0.0.1");
    let bmc = Bmc::start_with_tls(hgx(), acceptor).await;
    let mut source = RedfishSource::start(RedfishOptions { ca_file: Some(file.clone()), ..options(&[&bmc]) });
    for content in [None, Some("no certificate")] {
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let look = source.look().await;
        let SourceState::Missing(GapCause::ReadFailed, why) = &look.source_state else {
            panic!("{:?}", look.source_state);
        };
        assert!(why.contains("cannot read certificates from") && why.contains("ca.pem"), "{why}");
    }
    std::fs::write(&file, authority).unwrap();
    assert_eq!(tensor(&source.look().await, FIRST), "tensor 5000");
}
