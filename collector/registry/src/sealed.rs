//! An identity under lock: what goes into the ledger, and how a value is bound to its place.
//!
//! A sealed value opens only as the field and the customer it was sealed for: moved to another place it is as
//! good as destroyed. Its length shows the length of what it holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead, KeyInit, Payload},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use crate::{
    Completeness, ControlGroupId, CustomerId, CustomerKind, IdentityField, RandomSource, Standing, UsPerson,
};

/// A party as the ledger has it: the clear part, and its record under lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedCustomer {
    /// The party.
    pub customer: CustomerId,
    /// Person, entity, arrangement or reseller.
    pub kind: CustomerKind,
    /// What has been established about it.
    pub us_person: UsPerson,
    /// With whom it is joined by ownership or control, as its file says.
    pub control_group: Option<ControlGroupId>,
    /// Of a record of the first form: each known field sealed for itself. Read for ever, no longer written.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<IdentityField, SealedField>,
    /// All that is known of who it is, in one piece; of the first form there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub party: Option<SealedField>,
    /// Which fields of a report can be filled from that.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub known: BTreeSet<IdentityField>,
    /// How it stands with the operator.
    #[serde(default)]
    pub standing: Standing,
}

impl SealedCustomer {
    /// Which fields are known. This needs no key.
    pub fn completeness(&self) -> Completeness {
        Completeness::of(self.fields.keys().chain(&self.known).copied())
    }

    /// Whether a field is known. This needs no key.
    pub fn knows(&self, field: IdentityField) -> bool {
        self.known.contains(&field) || self.fields.contains_key(&field)
    }
}

/// One sealed value: as text `v1:` and the base64 of nonce and ciphertext.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedField {
    nonce: [u8; NONCE],
    ciphertext: Box<[u8]>,
}

/// Text that is no sealed value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a sealed value, expected v1: and the base64 of at least 40 bytes")]
pub struct BadSealedField;

const NONCE: usize = 24;
const TAG: usize = 16;
const VERSION: &str = "v1:";

impl FromStr for SealedField {
    type Err = BadSealedField;

    fn from_str(text: &str) -> Result<Self, BadSealedField> {
        let text = text.strip_prefix(VERSION).ok_or(BadSealedField)?;
        let bytes = STANDARD.decode(text).map_err(|_| BadSealedField)?;
        let (nonce, ciphertext) = bytes.split_first_chunk().ok_or(BadSealedField)?;
        if ciphertext.len() < TAG {
            return Err(BadSealedField);
        }
        Ok(Self { nonce: *nonce, ciphertext: ciphertext.into() })
    }
}

impl fmt::Display for SealedField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}{}", STANDARD.encode([&self.nonce[..], &self.ciphertext].concat()))
    }
}

impl fmt::Debug for SealedField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedField({} bytes)", self.ciphertext.len())
    }
}

impl Serialize for SealedField {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SealedField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A 256-bit key, wiped when dropped.
pub(crate) type Key = Zeroizing<[u8; 32]>;

/// It does not open: altered, of another place, or under another key. Which of them cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DoesNotOpen;

/// Encrypts under a fresh nonce. The nonce is long enough to be drawn at random for every value of a key.
pub(crate) fn seal(key: &Key, bound_to: &[u8], plaintext: &[u8], random: RandomSource<'_>) -> SealedField {
    let mut nonce = [0; NONCE];
    random(&mut nonce);
    let ciphertext = XChaCha20Poly1305::new((&**key).into())
        .encrypt(&XNonce::from(nonce), Payload { msg: plaintext, aad: bound_to })
        .expect("the cipher refuses only what is longer than 256 GiB");
    SealedField { nonce, ciphertext: ciphertext.into() }
}

/// Decrypts what was sealed under the same key for the same place.
pub(crate) fn open(
    key: &Key,
    bound_to: &[u8],
    sealed: &SealedField,
) -> Result<Zeroizing<Vec<u8>>, DoesNotOpen> {
    XChaCha20Poly1305::new((&**key).into())
        .decrypt(&XNonce::from(sealed.nonce), Payload { msg: &sealed.ciphertext, aad: bound_to })
        .map(Zeroizing::new)
        .map_err(|_| DoesNotOpen)
}

/// The place of a value. Neither part can hold a zero byte, so no two places read the same.
pub(crate) fn place(subject: &CustomerId, field: IdentityField) -> Vec<u8> {
    format!("weighbridge-field-v1\0{subject}\0{field}").into_bytes()
}

/// The place of a whole record of a subject. Neither part can hold a zero byte.
pub(crate) fn place_of_record(subject: &CustomerId, what: &str) -> Vec<u8> {
    format!("weighbridge-record-v1\0{subject}\0{what}").into_bytes()
}

impl SealedField {
    /// Nonce and ciphertext.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        [&self.nonce[..], &self.ciphertext].concat()
    }

    /// `None` where it is too short for one.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (nonce, ciphertext) = bytes.split_first_chunk::<NONCE>()?;
        (ciphertext.len() >= TAG).then(|| Self { nonce: *nonce, ciphertext: ciphertext.into() })
    }
}

/// The place of a data key by the name of its file, a hash of its subject.
pub(crate) fn place_of_file(stem: &str) -> Vec<u8> {
    format!("weighbridge-key-v2\0{stem}").into_bytes()
}

/// The place of a subject's data key, as it was bound at first: changing the lock needs the subject's id then.
pub(crate) fn place_of_key(subject: &CustomerId) -> Vec<u8> {
    format!("weighbridge-key-v1\0{subject}").into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealed(plaintext: &[u8]) -> (Key, SealedField) {
        let key = Zeroizing::new([7; 32]);
        let sealed = seal(&key, b"here", plaintext, &mut |bytes| bytes.fill(9));
        (key, sealed)
    }

    #[test]
    fn the_format_does_not_change() {
        let (_, sealed) = sealed(b"Jane Roe");
        expect_test::expect!["v1:CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJ9BOM71z4FgdmQMZAL3NmASm0Y8yYPLvR"]
            .assert_eq(&sealed.to_string());
        assert_eq!(sealed.to_string().parse(), Ok(sealed));
    }

    #[test]
    fn a_sealed_value_opens_only_in_its_place_and_under_its_key() {
        let (key, sealed) = sealed(b"Jane Roe");
        assert_eq!(open(&key, b"here", &sealed).unwrap().as_slice(), b"Jane Roe");
        assert_eq!(open(&key, b"there", &sealed), Err(DoesNotOpen));
        assert_eq!(open(&Zeroizing::new([8; 32]), b"here", &sealed), Err(DoesNotOpen));
    }

    proptest! {
        #[test]
        fn a_changed_bit_is_noticed(plaintext: Vec<u8>, at: proptest::sample::Index, bit in 0..8_u32) {
            let (key, sealed) = sealed(&plaintext);
            let mut bytes = [&sealed.nonce[..], &sealed.ciphertext].concat();
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            let changed: SealedField = format!("v1:{}", STANDARD.encode(bytes)).parse().unwrap();
            prop_assert_eq!(open(&key, b"here", &changed), Err(DoesNotOpen));
        }

        #[test]
        fn no_text_makes_reading_a_sealed_value_panic(text in "(v1:)?[A-Za-z0-9+/=é]{0,80}") {
            if let Ok(sealed) = text.parse::<SealedField>() {
                prop_assert_eq!(sealed.to_string(), text);
            }
        }
    }
}
