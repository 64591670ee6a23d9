//! Making and opening the signed envelope.

use std::{cell::RefCell, fmt};

use ed25519_dalek::{Signature, Signer};
pub use ed25519_dalek::{SigningKey, VerifyingKey};
use prost::Message;
use sha2::{Digest, Sha256};
use weighbridge_meter::hex;

use crate::{Batch, Hash, Malformed, convert, group::fits_with_cofactor, limits, proto, weight};

/// What the signature is over, before the payload: a signature made for one purpose serves no other.
const CONTEXT: &[u8] = b"weighbridge-batch-v1\0";

/// Level at which a batch is small enough and costs the host next to nothing.
const ZSTD_LEVEL: i32 = 3;

/// Names a public key: the first 16 bytes of its SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 16]);

impl KeyId {
    /// Of this key.
    pub fn of(key: &VerifyingKey) -> Self {
        let digest: Hash = Sha256::digest(key.as_bytes()).into();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A batch as kept and sent, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The encoded envelope.
    pub bytes: Vec<u8>,
    /// [`hash`] of it.
    pub hash: Hash,
}

/// SHA-256 of an encoded envelope: its name in acknowledgements and the link to the batch after it.
pub fn hash(envelope: &[u8]) -> Hash {
    Sha256::digest(envelope).into()
}

/// Packs, compresses and signs. An error means that the batch is over a limit or cannot be compressed.
pub fn seal(batch: &Batch, key: &SigningKey) -> Result<Sealed, SealError> {
    let plain = convert::to_proto(batch).encode_to_vec();
    if plain.len() > limits::DECODED_BYTES {
        return Err(SealError::TooLarge { bytes: plain.len(), limit: limits::DECODED_BYTES });
    }
    let payload = zstd::bulk::compress(&plain, ZSTD_LEVEL).map_err(SealError::Compress)?;
    let bytes = envelope(CONTEXT, payload, key);
    if bytes.len() > limits::ENCODED_BYTES {
        return Err(SealError::TooLarge { bytes: bytes.len(), limit: limits::ENCODED_BYTES });
    }
    Ok(Sealed { hash: hash(&bytes), bytes })
}

/// Signs a payload for one purpose.
pub(crate) fn envelope(context: &[u8], payload: Vec<u8>, key: &SigningKey) -> Vec<u8> {
    let signature = key.sign(&[context, &payload].concat()).to_bytes().to_vec();
    let key_id = KeyId::of(&key.verifying_key()).0.to_vec();
    proto::Signed { payload, key_id, signature }.encode_to_vec()
}

/// A batch could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Make smaller batches.
    #[error("the batch has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// It has.
        bytes: usize,
        /// At most.
        limit: usize,
    },
    /// The compressor failed.
    #[error("could not compress the batch")]
    Compress(#[source] std::io::Error),
}

/// An envelope taken apart, its signature not yet checked.
#[derive(Clone, Debug)]
pub struct Envelope {
    payload: Vec<u8>,
    signature: Signature,
    key_id: KeyId,
}

thread_local! {
    /// Making one takes longer than most batches do.
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The payload decompressed, or refused once it would be longer than allowed.
///
/// It is decompressed in one go into memory of the size that its first frame tells, at most what is allowed: frames
/// after that one, and the window that a frame asks for, take no memory of their own. Frames to be skipped make no
/// output; they are limited by the length of the envelope.
fn decompress(payload: &[u8]) -> std::io::Result<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(decompressor) => decompressor,
            None => kept.insert(zstd::bulk::Decompressor::new()?),
        };
        decompressor.decompress(payload, limits::DECODED_BYTES)
    })
}

/// A batch could not be opened. None of these gets better by sending it again.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Larger than allowed.
    #[error("the envelope has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// It has.
        bytes: usize,
        /// At most.
        limit: usize,
    },
    /// Not an envelope.
    #[error("the envelope is not a weighbridge.v1.Signed message")]
    NotAnEnvelope(#[source] Option<prost::DecodeError>),
    /// Somebody else's key, or altered on the way.
    #[error("the signature does not fit the key {key_id}")]
    BadSignature {
        /// The key that was named.
        key_id: KeyId,
    },
    /// Not compressed as agreed, or larger than allowed once decompressed.
    #[error("the payload does not decompress to at most {} bytes", limits::DECODED_BYTES)]
    Decompress(#[source] std::io::Error),
    /// Decompressed, but not a batch.
    #[error("the payload is not a weighbridge.v1.Batch message")]
    NotABatch(#[source] prost::DecodeError),
    /// Signed as a status report, but none.
    #[error("the payload is not a weighbridge.v1.Report message")]
    NotAReport(#[source] prost::DecodeError),
    /// A batch with something in it that cannot be.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl Envelope {
    /// Takes the envelope apart; nothing in it is believed yet.
    pub fn decode(bytes: &[u8]) -> Result<Self, OpenError> {
        if bytes.len() > limits::ENCODED_BYTES {
            return Err(OpenError::TooLarge { bytes: bytes.len(), limit: limits::ENCODED_BYTES });
        }
        let signed = proto::Signed::decode(bytes).map_err(|error| OpenError::NotAnEnvelope(Some(error)))?;
        let key_id = signed.key_id.try_into().map_err(|_| OpenError::NotAnEnvelope(None))?;
        let signature = signed.signature.try_into().map_err(|_| OpenError::NotAnEnvelope(None))?;
        Ok(Self {
            payload: signed.payload,
            signature: Signature::from_bytes(&signature),
            key_id: KeyId(key_id),
        })
    }

    /// The key that is said to have signed.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// Checks the signature, then reads the content.
    pub fn open(&self, key: &VerifyingKey) -> Result<Batch, OpenError> {
        self.check(CONTEXT, key)?;
        self.read()
    }

    /// The payload, if it was signed with this key for this purpose.
    pub(crate) fn check(&self, context: &[u8], key: &VerifyingKey) -> Result<&[u8], OpenError> {
        let message = [context, &self.payload].concat();
        let fits = key.verify_strict(&message, &self.signature).is_ok()
            || fits_with_cofactor(&message, &self.signature, key);
        if fits { Ok(&self.payload) } else { Err(OpenError::BadSignature { key_id: self.key_id }) }
    }

    /// What the signature of a batch is over.
    pub(crate) fn signed_bytes(&self) -> Vec<u8> {
        [CONTEXT, &self.payload].concat()
    }

    /// The signature.
    pub(crate) fn signature(&self) -> Signature {
        self.signature
    }

    /// Reads the content without checking the signature: for bytes whose signature was checked before
    /// they were kept.
    pub fn read(&self) -> Result<Batch, OpenError> {
        let plain = decompress(&self.payload).map_err(OpenError::Decompress)?;
        weight::check(&plain)?;
        let batch = proto::Batch::decode(plain.as_slice()).map_err(OpenError::NotABatch)?;
        Ok(convert::from_proto(batch)?)
    }
}
