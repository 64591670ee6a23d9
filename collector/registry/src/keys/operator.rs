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

    /// Reads the text of a key: 32 bytes in standard base64, blanks around them ignored.
    ///
    /// # Errors
    /// What it is instead, without repeating any of it.
    pub fn from_text(text: &[u8]) -> Result<Self, String> {
        let mut bytes = Zeroizing::new([0; 64]);
        match STANDARD.decode_slice(text.trim_ascii(), &mut *bytes) {
            Ok(32) => {}
            Ok(length) => return Err(format!("it holds {length} bytes, expected 32 in base64")),
            Err(_) => return Err("it is not base64 of 32 bytes, 44 characters".into()),
        }
        let mut key = Key::new([0; 32]);
        key.copy_from_slice(&bytes[..32]);
        Ok(Self { key })
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
        Self::from_text(&text).map_err(problem)
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

    /// What a program on the same host shows to be let in: it follows from the key, so that only who has that has it.
    /// A hash, so that the key itself never travels.
    pub fn token(&self) -> String {
        let mut text = Zeroizing::new([0; 44]);
        STANDARD.encode_slice(self.key.as_slice(), &mut *text).expect("32 bytes are 44 characters");
        // Of the text of the key's file, as it was at first.
        hex(&Sha256::new().chain_update(b"weighbridge-admin-token-v1\0").chain_update(*text).finalize())
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
