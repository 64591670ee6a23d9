//! The key of digests: a secret of its own, so that digests stay what they are when the operator's key changes.
//!
//! It is the state of HMAC-SHA-256 (RFC 2104) after the key was taken in: two states of SHA-256. That of a store that
//! was made before follows from the operator's key it had then, which cannot be got back from it.

use sha2::{
    Digest, Sha256,
    digest::common::hazmat::{SerializableState, SerializedState},
};
use zeroize::Zeroizing;

use super::{files::hex, operator::OperatorKey};

/// Makes digests.
pub(super) struct DigestKey(Zeroizing<[u8; 64]>);

impl DigestKey {
    /// What digests were made with before it had a key of its own.
    pub(super) fn of(operator: &OperatorKey) -> Self {
        let mut states = Zeroizing::new([0; 64]);
        for (state, pad) in states.chunks_exact_mut(32).zip([0x36_u8, 0x5c]) {
            let mut block = Zeroizing::new([pad; 64]);
            block.iter_mut().zip(operator.key.as_slice()).for_each(|(pad, key)| *pad ^= key);
            let serialized = Sha256::new().chain_update(*block).serialize();
            state.copy_from_slice(&serialized[..32]);
        }
        Self(states)
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        <[u8; 64]>::try_from(bytes).ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// A digest of a text that only who has the key can make: equal where kind and text are, and nothing else.
    pub(super) fn digest(&self, kind: &str, text: &str) -> String {
        let (inner, outer) = self.0.split_at(32);
        let domain = after_one_block(inner).chain_update("weighbridge-hint-v1\0");
        let message = domain.chain_update(kind).chain_update("\0").chain_update(text).finalize();
        hex(&after_one_block(outer).chain_update(message).finalize()[..16])
    }
}

/// A hasher that has taken in one block and is in this state.
fn after_one_block(state: &[u8]) -> Sha256 {
    let mut serialized: SerializedState<Sha256> = Sha256::new().chain_update([0; 64]).serialize();
    serialized[..32].copy_from_slice(state);
    Sha256::deserialize(&serialized).expect("only the words of the state are others")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn digests_are_those_of_hmac_and_do_not_change() {
        let operator = OperatorKey::generate([1; 32]);
        let padded = |pad: u8| {
            let mut block = [pad; 64];
            block[..32].iter_mut().for_each(|byte| *byte ^= 1);
            Sha256::new().chain_update(block)
        };
        let inner = padded(0x36).chain_update("weighbridge-hint-v1\0user\0jane").finalize();
        let outer = padded(0x5c).chain_update(inner).finalize();
        let made = DigestKey::of(&operator).digest("user", "jane");
        assert_eq!(made, hex(&outer[..16]));
        expect!["73eb810c6b0671611a9bc6164ef9ceb9"].assert_eq(&made);
        let read = DigestKey::from_bytes(DigestKey::of(&operator).as_bytes()).unwrap();
        assert_eq!(read.digest("user", "jane"), made);
    }
}
