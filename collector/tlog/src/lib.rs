//! A transparency log without its storage: the tree of RFC 6962 and what is signed and shown of it.
//!
//! [`tree::Edge`] grows a tree leaf by leaf; [`tile`] says how it is cut into files (C2SP tlog-tiles);
//! [`proof`] makes and checks proofs; [`note`] and [`checkpoint`] are what a log signs and a witness cosigns
//! (C2SP signed-note, tlog-checkpoint, tlog-cosignature); [`witness`] decides as C2SP tlog-witness says;
//! [`receipt`] is a proof as a text (C2SP tlog-proof).
//!
//! Pure: no files, no network, no clock. Anybody can read what it makes with tools of their own.
//!
//! Deliberately absent: ML-DSA. A key says of which type it is ([`note::KeyType`]), and one of a type that is
//! not known here is refused by name.

use sha2::{Digest, Sha256};

pub mod checkpoint;
pub mod note;
pub mod proof;
pub mod receipt;
pub mod tile;
pub mod tree;
pub mod witness;

/// SHA-256.
pub type Hash = [u8; 32];

/// The hash of a leaf that holds `data`.
pub fn leaf_hash(data: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(data).finalize().into()
}

/// The hash of a node over two others.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The root of a tree without leaves.
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// The root over hashes whose number is a power of two; `None` for any other number.
pub fn perfect_root(hashes: &[Hash]) -> Option<Hash> {
    match hashes {
        [one] => Some(*one),
        _ if hashes.len().is_power_of_two() => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            Some(node_hash(&perfect_root(left)?, &perfect_root(right)?))
        }
        _ => None,
    }
}

/// A hash as standard base64.
pub fn to_base64(hash: &Hash) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(hash)
}

/// A hash from standard base64; `None` if it is none.
pub fn from_base64(text: &str) -> Option<Hash> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).ok()?.try_into().ok()
}

/// A decimal number without sign and leading zeros, as these formats write it.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let plain = text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
    plain.then(|| text.parse().ok()).flatten()
}
