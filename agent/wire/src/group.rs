//! Checks the signatures of several envelopes at once, which costs less than half of checking each.
//!
//! What is accepted: a signature that fulfils the equation of RFC 8032, section 5.1.7, with its cofactor,
//! `[8][S]B = [8]R + [8][k]A`, for a key without a part of small order. A single signature is checked more
//! strictly, without the cofactor. The two differ only for signatures whose `R` was shifted by a point of small
//! order, which nobody can make who does not have the key; of those, the sum over a group lets some pass. So that
//! what was once accepted stays accepted, [`crate::Envelope::open`] takes what either equation takes.

use curve25519_dalek::{
    edwards::{CompressedEdwardsY, EdwardsPoint},
    scalar::Scalar,
    traits::IsIdentity,
};
use ed25519_dalek::{Signature, VerifyingKey, verify_batch};
use sha2::{Digest, Sha512};

use crate::Envelope;

/// Below this, checking each is as fast.
const WORTH_IT: usize = 3;

/// Whether each envelope was signed with the key beside it, in their order. Keys must be [`is_sound`].
pub fn verify(envelopes: &[(&Envelope, &VerifyingKey)]) -> Vec<bool> {
    let messages: Vec<Vec<u8>> = envelopes.iter().map(|(envelope, _)| envelope.signed_bytes()).collect();
    let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    let signatures: Vec<Signature> = envelopes.iter().map(|(envelope, _)| envelope.signature()).collect();
    let keys: Vec<VerifyingKey> = envelopes.iter().map(|(_, key)| **key).collect();
    let mut right = vec![false; envelopes.len()];
    check(&messages, &signatures, &keys, &mut right);
    right
}

/// A group with a wrong one in it is halved, so that the others pay little for it.
fn check(messages: &[&[u8]], signatures: &[Signature], keys: &[VerifyingKey], right: &mut [bool]) {
    if messages.len() < WORTH_IT {
        for (((message, signature), key), right) in messages.iter().zip(signatures).zip(keys).zip(right) {
            *right = key.verify_strict(message, signature).is_ok();
        }
    } else if verify_batch(messages, signatures, keys).is_ok() {
        right.fill(true);
    } else {
        let half = messages.len() / 2;
        let (first, second) = right.split_at_mut(half);
        check(&messages[..half], &signatures[..half], &keys[..half], first);
        check(&messages[half..], &signatures[half..], &keys[half..], second);
    }
}

/// Whether a key may be enrolled: it has no part of small order, which the key of no honest agent has.
pub fn is_sound(key: &VerifyingKey) -> bool {
    !key.is_weak() && key.to_edwards().is_torsion_free()
}

/// The equation with its cofactor, for one signature.
pub(crate) fn fits_with_cofactor(message: &[u8], signature: &Signature, key: &VerifyingKey) -> bool {
    let Some(r) = CompressedEdwardsY(*signature.r_bytes()).decompress() else { return false };
    let Some(s) = Option::<Scalar>::from(Scalar::from_canonical_bytes(*signature.s_bytes())) else {
        return false;
    };
    if !is_sound(key) {
        return false;
    }
    let digest = Sha512::new()
        .chain_update(signature.r_bytes())
        .chain_update(key.as_bytes())
        .chain_update(message)
        .finalize();
    let k = Scalar::from_bytes_mod_order_wide(&digest.into());
    let expected = EdwardsPoint::vartime_double_scalar_mul_basepoint(&k, &-key.to_edwards(), &s);
    (expected - r).mul_by_cofactor().is_identity()
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::{ED25519_BASEPOINT_TABLE, EIGHT_TORSION};
    use ed25519_dalek::SigningKey;
    use prost::Message;

    use super::*;
    use crate::{OpenError, proto, seal::envelope};

    const CONTEXT: &[u8] = b"weighbridge-batch-v1\0";

    fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    fn signed(number: u8) -> Envelope {
        let bytes = envelope(CONTEXT, vec![number; 100], &key(number));
        Envelope::decode(&bytes).expect("an envelope")
    }

    #[test]
    fn in_a_group_of_any_size_exactly_the_wrong_ones_are_found() {
        for count in [0, 1, 2, 3, 7, 64_u8] {
            for wrong in [vec![], vec![0], vec![count / 2, count.saturating_sub(1)]] {
                let envelopes: Vec<Envelope> = (0..count).map(signed).collect();
                let keys: Vec<VerifyingKey> = (0..count)
                    .map(|number| key(if wrong.contains(&number) { 200 } else { number }).verifying_key())
                    .collect();
                let pairs: Vec<_> = envelopes.iter().zip(&keys).collect();
                let expected: Vec<bool> = (0..count).map(|number| !wrong.contains(&number)).collect();
                assert_eq!(verify(&pairs), expected, "{count} {wrong:?}");
            }
        }
    }

    #[test]
    fn a_signature_that_a_group_may_let_pass_opens_alone_too_and_a_forged_one_does_not() {
        let key = key(7);
        let secret = Sha512::digest(key.to_bytes());
        let mut low: [u8; 32] = [0; 32];
        low.copy_from_slice(&secret[..32]);
        low[0] &= 248;
        low[31] = low[31] & 127 | 64;
        let secret = Scalar::from_bytes_mod_order(low);
        let payload = zstd::bulk::compress(b"", 3).expect("compresses");
        let message = [CONTEXT, &payload].concat();
        let nonce = Scalar::from(1_234_567_u64);
        let shifted = &nonce * ED25519_BASEPOINT_TABLE + EIGHT_TORSION[1];
        let r = shifted.compress().to_bytes();
        let digest = Sha512::new()
            .chain_update(r)
            .chain_update(key.verifying_key().as_bytes())
            .chain_update(&message)
            .finalize();
        let k = Scalar::from_bytes_mod_order_wide(&digest.into());
        let signature = Signature::from_components(r, (nonce + k * secret).to_bytes());
        let of_key = key.verifying_key();
        assert!(of_key.verify_strict(&message, &signature).is_err(), "strictly it is none");
        assert!(fits_with_cofactor(&message, &signature, &of_key));
        assert!(!fits_with_cofactor(b"another message", &signature, &of_key));

        let key_id = crate::KeyId::of(&of_key).0.to_vec();
        let bytes =
            proto::Signed { payload, key_id, signature: signature.to_bytes().to_vec() }.encode_to_vec();
        let opened = Envelope::decode(&bytes).expect("an envelope").open(&of_key);
        assert!(!matches!(opened, Err(OpenError::BadSignature { .. })), "{opened:?}");
    }

    #[test]
    fn a_key_of_small_order_is_not_sound() {
        assert!(is_sound(&key(1).verifying_key()));
        for point in EIGHT_TORSION {
            if let Ok(weak) = VerifyingKey::from_bytes(&point.compress().to_bytes()) {
                assert!(!is_sound(&weak));
            }
        }
        let mixed = (key(1).verifying_key().to_edwards() + EIGHT_TORSION[1]).compress().to_bytes();
        assert!(!is_sound(&VerifyingKey::from_bytes(&mixed).expect("a point")));
    }
}
