use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use weighbridge_meter::{BootId, UtcMillis};

use super::{
    Identity, TlsError,
    files::{self, Files},
    request::request,
};
use crate::clock::ManualClock;

/// A certificate of an authority of its own: key, certificate, authority.
fn issued(seed: u8, uri: &str) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = authority.self_signed(&key).unwrap().der().to_vec();
    let issuer = Issuer::new(authority, key);
    let requested = request(&[seed; 32]).unwrap();
    let own = KeyPair::try_from(requested.key.as_slice()).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    let certificate = params.signed_by(&own, &issuer).unwrap().der().to_vec();
    (requested.key, certificate, root)
}

fn install(folder: &Path, seed: u8) {
    let (key, certificate, root) = issued(seed, "weighbridge://agent/node1");
    files::install(folder, &key, &[certificate], &[root]).unwrap();
}

fn open(files: Files) -> Identity {
    Identity::open(files, Arc::new(ManualClock::new(UtcMillis(0), 0, BootId([1; 16]))))
}

#[test]
fn an_agent_that_nobody_enrolled_says_so_and_takes_what_comes_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let tls = folder.path().join("tls");
    let identity = open(Files::Own(tls.clone()));
    assert!(matches!(identity.state().ready, Err(TlsError::NotEnrolled(_))));
    assert!(!identity.reload(), "nothing is new");
    install(&tls, 1);
    assert!(identity.reload());
    let state = identity.state();
    let ready = state.ready.as_ref().unwrap();
    assert_eq!(ready.agent.as_ref().map(|agent| agent.as_str()), Some("node1"));
    for name in ["identity.pem", "authorities.pem"] {
        let mode = fs::metadata(tls.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert!(!identity.reload());
    install(&tls, 2);
    assert!(identity.reload());
    assert_eq!(identity.state().version, state.version + 1);
}

#[test]
fn half_of_a_change_leaves_what_was_read_before_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let write = |seed: u8, name: &str| {
        install(folder.path(), seed);
        fs::copy(path("identity.pem"), path(name)).unwrap();
    };
    write(1, "certificate.pem");
    write(1, "key.pem");
    let files = Files::Site {
        certificate: path("certificate.pem"),
        key: path("key.pem"),
        authorities: path("authorities.pem"),
    };
    let identity = open(files);
    let before = identity.state();
    let certificate = before.ready.as_ref().unwrap().certificate.clone();

    // The certificate is new, the key is not yet.
    write(2, "certificate.pem");
    assert!(!identity.reload());
    assert_eq!(identity.state().ready.as_ref().unwrap().certificate, certificate);
    write(2, "key.pem");
    assert!(identity.reload());
    assert!(identity.state().version > before.version);

    fs::remove_file(path("key.pem")).unwrap();
    assert!(!identity.reload(), "a file that is gone is half of a change too");
    assert!(identity.state().ready.is_ok());
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    install(folder.path(), 1);
    fs::set_permissions(folder.path().join("identity.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    let identity = open(Files::Own(folder.path().to_owned()));
    let state = identity.state();
    let error = state.ready.as_ref().unwrap_err();
    assert!(error.to_string().contains("has mode 644, expected 600"), "{error}");
}

#[test]
fn a_file_without_a_key_or_a_certificate_is_named() {
    let folder = tempfile::tempdir().unwrap();
    install(folder.path(), 1);
    files::write_private(&folder.path().join("identity.pem"), b"nothing").unwrap();
    let state = open(Files::Own(folder.path().to_owned())).state();
    let error = state.ready.as_ref().unwrap_err().to_string();
    assert!(error.contains("identity.pem: no certificates in PEM"), "{error}");
}
