//! A signature over the digest of a file, as it stands in that file's last line.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::{Signature, Signer};
use serde::{Deserialize, Serialize};
use weighbridge_wire::{KeyId, SigningKey, VerifyingKey};

use crate::{mark, verify::public_key};

/// Digest, key and signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// Of everything before it.
    #[serde(with = "mark::hash")]
    pub sha256: [u8; 32],
    /// 32 bytes, base64.
    pub public_key: String,
    /// Over context and digest; 64 bytes, base64.
    pub signature: String,
}

impl Signed {
    /// Signs a digest; `context` keeps signatures for one purpose from serving another.
    pub fn new(context: &[u8], sha256: [u8; 32], key: &SigningKey) -> Self {
        let signature = key.sign(&[context, &sha256].concat());
        Self {
            sha256,
            public_key: BASE64.encode(key.verifying_key().as_bytes()),
            signature: BASE64.encode(signature.to_bytes()),
        }
    }

    /// Whose it is; `None` if the signature is not right.
    pub fn key(&self, context: &[u8]) -> Option<VerifyingKey> {
        let key = public_key(&self.public_key)?;
        let bytes: [u8; 64] = BASE64.decode(&self.signature).ok()?.try_into().ok()?;
        let message = [context, &self.sha256].concat();
        key.verify_strict(&message, &Signature::from_bytes(&bytes)).ok()?;
        Some(key)
    }

    /// The name of that key.
    pub fn key_id(&self, context: &[u8]) -> Option<KeyId> {
        self.key(context).map(|key| KeyId::of(&key))
    }
}
