//! The operator's key, which locks those of the customers.

use std::{
    fmt, fs,
    io::{self, Read},
    path::Path,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    KeyError,
    files::{Sync, hex, io_error, step, sync_folder, write_private},
};
use crate::sealed::Key;

/// The key itself. Wiped when dropped; `Debug` shows only its id.
pub struct OperatorKey {
    pub(super) key: Key,
}

impl OperatorKey {
    /// A key of 32 fresh random bytes.
    pub fn generate(random: [u8; 32]) -> Self {
        Self { key: Key::new(random) }
    }

    /// Reads a file of 32 bytes in standard base64, 44 characters and a line end.
    ///
    /// # Errors
    /// [`KeyError::OperatorKey`] where the content is something else, or where others than owner and group may
    /// read the file, or others than the owner may write it; [`KeyError::Io`] where it cannot be read.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        let problem = |problem: String| KeyError::OperatorKey { path: path.into(), problem };
        let file = fs::File::open(path).map_err(io_error("read operator key", path))?;
        let metadata = file.metadata().map_err(io_error("read operator key", path))?;
        if !metadata.is_file() {
            return Err(problem("not a file, expected one of 32 bytes in base64".into()));
        }
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
            // A group may read: services get secrets that way.
            if mode & 0o027 != 0 {
                return Err(problem(format!("its mode is {mode:04o}, expected 0600, 0400 or 0440")));
            }
        }
        // Room for any sane file at once: a buffer that grows leaves copies behind.
        let mut text = Zeroizing::new(Vec::with_capacity(1024));
        file.take(1024).read_to_end(&mut text).map_err(io_error("read operator key", path))?;
        let mut bytes = Zeroizing::new([0; 64]);
        match STANDARD.decode_slice(text.trim_ascii(), &mut *bytes) {
            Ok(32) => {}
            Ok(length) => return Err(problem(format!("it holds {length} bytes, expected 32 in base64"))),
            Err(_) => return Err(problem("it is not base64 of 32 bytes, 44 characters".into())),
        }
        let mut key = Key::new([0; 32]);
        key.copy_from_slice(&bytes[..32]);
        Ok(Self { key })
    }

    /// Writes the key to a new file that only its owner may read.
    ///
    /// # Errors
    /// [`KeyError::Io`], also where the file is already there: what is locked with the key in it would be lost.
    pub fn save_new(&self, path: &Path) -> Result<(), KeyError> {
        // Room for all of it at once: a string that grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(64));
        STANDARD.encode_string(self.key.as_slice(), &mut text);
        text.push('\n');
        // Whole or not there: half a key after a crash would need a person. What a crash left is nobody's key.
        let half = path.with_extension("new");
        match fs::remove_file(&half) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &half)(error));
            }
            _ => {}
        }
        write_private(&half, text.as_bytes(), Sync::Now)?;
        // A link, not a rename: it fails where there is a key already.
        let linked = step("operator_key.link", || fs::hard_link(&half, path));
        fs::remove_file(&half).map_err(io_error("remove", &half))?;
        linked.map_err(io_error("make", path))?;
        sync_folder(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }

    /// A digest of a text that only who has the key can make: equal where kind and text are, and nothing else.
    pub fn digest(&self, kind: &str, text: &str) -> String {
        // HMAC, RFC 2104; the key is shorter than a block.
        let mut pads = [Zeroizing::new([0x36_u8; 64]), Zeroizing::new([0x5c_u8; 64])];
        for pad in &mut pads {
            pad.iter_mut().zip(self.key.as_slice()).for_each(|(pad, key)| *pad ^= key);
        }
        let [inner, outer] = pads;
        let domain = Sha256::new().chain_update(*inner).chain_update("weighbridge-hint-v1\0");
        let message = domain.chain_update(kind).chain_update("\0").chain_update(text).finalize();
        hex(&Sha256::new().chain_update(*outer).chain_update(message).finalize()[..16])
    }

    /// Tells keys apart without showing them: 16 hexadecimal digits of a hash.
    pub fn id(&self) -> String {
        let digest = Sha256::new()
            .chain_update("weighbridge-operator-key-v1\0")
            .chain_update(self.key.as_slice())
            .finalize();
        hex(&digest[..8])
    }
}

impl fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperatorKey({})", self.id())
    }
}
