//! Secrets of the collector itself, under lock of the operator's key: the keys of its authorities.

use zeroize::Zeroizing;

use super::{KeyError, KeyStore, RandomSource};
use crate::sealed::{self, SealedField};

fn place(purpose: &str) -> Vec<u8> {
    [b"weighbridge-secret-v1\0", purpose.as_bytes()].concat()
}

impl KeyStore {
    /// Locks a secret; it opens for the same purpose only. Keeping it is the caller's part.
    pub fn wrap(&self, purpose: &str, secret: &[u8], random: RandomSource<'_>) -> SealedField {
        sealed::seal(&self.ring().current.key, &place(purpose), secret, random)
    }

    /// Opens what was locked for this purpose.
    ///
    /// # Errors
    /// [`KeyError::SecretDamaged`] where it was altered, or locked for another purpose or with another key.
    pub fn open_wrapped(&self, purpose: &str, wrapped: &SealedField) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let ring = self.ring();
        let keys = [Some(&ring.current), ring.before.as_ref()];
        let opened =
            keys.into_iter().flatten().find_map(|key| sealed::open(&key.key, &place(purpose), wrapped).ok());
        opened
            .ok_or_else(|| KeyError::SecretDamaged { purpose: purpose.to_owned(), given: ring.current.id() })
    }

    /// The folder of the keys.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OperatorKey;

    #[test]
    fn a_secret_opens_for_its_purpose_under_its_key_and_else_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = |seed| KeyStore::at(folder.path(), OperatorKey::generate([seed; 32])).expect("a store");
        let wrapped = store(1).wrap("authority a", b"key", &mut |bytes| bytes.fill(3));
        let opened = store(1).open_wrapped("authority a", &wrapped).expect("opens");
        assert_eq!(opened.as_slice(), b"key");
        assert!(matches!(
            store(1).open_wrapped("authority b", &wrapped),
            Err(KeyError::SecretDamaged { .. })
        ));
        assert!(matches!(
            store(2).open_wrapped("authority a", &wrapped),
            Err(KeyError::SecretDamaged { .. })
        ));
    }
}
