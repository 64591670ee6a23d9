//! The agent's signing key: 32 random bytes, in base64, in a file that only the agent may read.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};
use weighbridge_journal::fail;
use weighbridge_wire::SigningKey;

/// A key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not readable, or not to be made.
    #[error("cannot {doing} key file {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Others can read it, and so sign for this agent.
    #[error("key file {} has mode {mode:o}, expected 600: nobody else may read it", path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It holds something else. What it holds is not shown.
    #[error("key file {} does not hold 32 bytes in base64", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyError {
    move |source| KeyError::File { doing, path: path.to_owned(), source }
}

/// Another secret that only this agent has, for `purpose`.
pub fn secret_for(key: &SigningKey, purpose: &str) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(b"weighbridge-agent-secret-v1\0");
    digest.update(key.to_bytes());
    digest.update(purpose);
    digest.finalize().into()
}

/// Reads the key; `None` if there is no such file.
pub fn read(path: &Path) -> Result<Option<SigningKey>, KeyError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("look at", path)(error)),
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::TooOpen { path: path.to_owned(), mode });
    }
    let text = fs::read_to_string(path).map_err(failed("read", path))?;
    let bytes = BASE64_STANDARD.decode(text.trim()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let bytes = bytes.ok_or_else(|| KeyError::NotAKey { path: path.to_owned() })?;
    Ok(Some(SigningKey::from_bytes(&bytes)))
}

/// Reads the key, or makes one; tells whether it was made. `random` fills what it is given.
pub fn read_or_make(path: &Path, random: &mut dyn FnMut(&mut [u8])) -> Result<(SigningKey, bool), KeyError> {
    if let Some(key) = read(path)? {
        return Ok((key, false));
    }
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs::create_dir_all(dir).map_err(failed("make a folder for", path))?;
    }
    let mut bytes = [0; 32];
    random(&mut bytes);
    // Whole or not at all: half a key after a power cut would stop the agent.
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("replace", &new)(error)),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .map_err(failed("create", &new))?;
    let text = format!("{}\n", BASE64_STANDARD.encode(bytes));
    fail::around("key.write", || file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(failed("write", &new))?;
    fail::around("key.replace", || fs::rename(&new, path)).map_err(failed("create", path))?;
    Ok((SigningKey::from_bytes(&bytes), true))
}

/// The public key, as the collector's `agents.csv` has it.
pub fn public_base64(key: &SigningKey) -> String {
    BASE64_STANDARD.encode(key.verifying_key().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent/key");
        let (made, new) = read_or_make(&path, &mut |bytes| bytes.fill(7)).unwrap();
        assert!(new);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (read, new) = read_or_make(&path, &mut |bytes| bytes.fill(8)).unwrap();
        assert!(!new);
        assert_eq!(made, read);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        read_or_make(&path, &mut |bytes| bytes.fill(7)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read(&path), Err(KeyError::TooOpen { mode: 0o640, .. })));
    }

    #[test]
    fn what_a_bad_key_file_holds_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "almost secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(
            error.ends_with("key does not hold 32 bytes in base64") && !error.contains("almost"),
            "{error}"
        );
    }
}
