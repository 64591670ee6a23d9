//! The API server under TLS, with the cluster's own authority.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use weighbridge_agent::holders::kubernetes::{ApiError, ApiOptions, ask};
use weighbridge_fake_kubernetes::ApiServer;

/// A cluster's authority, in PEM, and the API server's certificate by it.
fn certified() -> (String, TlsAcceptor) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["127.0.0.1".into()]).unwrap().signed_by(&key, &issuer).unwrap();
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
async fn the_api_server_is_believed_by_the_clusters_authority_and_a_token_is_shown_to_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (authority, acceptor) = certified();
    std::fs::write(at("own.pem"), authority).unwrap();
    std::fs::write(at("other.pem"), certified().0).unwrap();
    std::fs::write(at("token"), "secret").unwrap();
    let api = ApiServer::start().unwrap();
    api.require_token("secret");
    api.put("/version", serde_json::json!({"major": "1"}));
    let plain: std::net::SocketAddr = api.url().trim_start_matches("http://").parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Who breaks off the handshake gets nothing.
            let Ok(mut secure) = acceptor.accept(stream).await else { continue };
            let Ok(mut inner) = TcpStream::connect(plain).await else { continue };
            tokio::spawn(async move { drop(tokio::io::copy_bidirectional(&mut secure, &mut inner).await) });
        }
    });
    let options = |ca: &str| ApiOptions {
        url: format!("https://127.0.0.1:{port}").parse().unwrap(),
        token_file: Some(at("token")),
        ca_file: Some(at(ca)),
        deadline: std::time::Duration::from_secs(20),
    };
    assert_eq!(ask(&options("own.pem"), "/version").await.unwrap(), br#"{"major":"1"}"#);
    let asked = api.requests().len();
    let Err(ApiError::Unreachable(why)) = ask(&options("other.pem"), "/version").await else {
        panic!("a stranger is believed");
    };
    assert!(why.contains("invalid peer certificate"), "{why}");
    let Err(ApiError::Unreachable(why)) = ask(&options("none.pem"), "/version").await else {
        panic!("nobody is believed");
    };
    assert!(why.contains("cannot read certificates from"), "{why}");
    assert_eq!(api.requests().len(), asked);
}
