//! A new TLS key, and the request for a certificate of it.

use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;

/// A key and a request that is signed by it.
pub struct Requested {
    /// PKCS #8, DER.
    pub key: Vec<u8>,
    /// PKCS #10, DER.
    pub request: Vec<u8>,
}

/// No request could be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a request for a certificate")]
pub struct RequestError(#[from] rcgen::Error);

/// What stands before 32 bytes to make an Ed25519 key of them: version 0, the algorithm, two lengths (RFC 8410).
const ED25519_PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// An Ed25519 key in PKCS #8 from 32 random bytes.
pub fn ed25519(seed: &[u8; 32]) -> Vec<u8> {
    [&ED25519_PKCS8[..], seed].concat()
}

/// A key from 32 random bytes. The request names nobody: who it is for is decided by who asks.
pub fn request(seed: &[u8; 32]) -> Result<Requested, RequestError> {
    let key = ed25519(seed);
    let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key.as_slice()))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&pair)?;
    Ok(Requested { key, request: request.der().to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_random_bytes_make_the_same_request() {
        let [a, b, c] = [[1; 32], [1; 32], [2; 32]].map(|seed| request(&seed).unwrap().request);
        assert_eq!(a, b);
        assert_ne!(a, c);
    }
}
