//! The files of a certificate.
//!
//! What `enroll` and renewals write lies in one folder: `identity.pem` holds the key and the certificates, so
//! that they change together, and `authorities.pem` the collector's authorities. Of a renewal the authorities are
//! written first: they name the ones before too, so that either file alone is good. Both have mode 600.
//! Certificates of the site's own authority lie wherever the site's tools put them, and are only read.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use weighbridge_journal::fail;
use weighbridge_wire::Hash;

/// Where a certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Files {
    /// In a folder of this agent: it enrols and renews.
    Own(PathBuf),
    /// Where the site's own tools put it: it is read again when it changes.
    Site {
        /// The certificate, and those between it and the authority.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
        /// Those whom to believe.
        authorities: PathBuf,
    },
}

/// A file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Not readable, or not to be written.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Others can read the key, and so pass for this agent.
    #[error("{} has mode {mode:o}, expected 600: nobody else may read the key in it", path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Something in it is missing or cannot be read.
    #[error("{}: no {expected} in PEM", path.display())]
    Lacks {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
    },
}

impl FileError {
    /// Whether the file is simply not there.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError::Io { doing, path: path.to_owned(), source }
}

/// What the files hold.
#[derive(Clone)]
pub struct Read {
    certificate: (PathBuf, Vec<u8>),
    key: (PathBuf, Vec<u8>),
    authorities: (PathBuf, Vec<u8>),
}

/// The same, taken apart.
pub struct Parsed {
    /// The agent's own comes first.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Of the first certificate.
    pub key: PrivateKeyDer<'static>,
    /// At least one.
    pub authorities: Vec<CertificateDer<'static>>,
}

impl Files {
    /// The file with the certificate.
    pub fn certificate_path(&self) -> PathBuf {
        match self {
            Self::Own(folder) => folder.join("identity.pem"),
            Self::Site { certificate, .. } => certificate.clone(),
        }
    }

    /// Whether this agent renews the certificate itself.
    pub fn are_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    /// Reads all of them.
    pub fn read(&self) -> Result<Read, FileError> {
        let take = |path: PathBuf| match fs::read(&path) {
            Ok(bytes) => Ok((path, bytes)),
            Err(error) => Err(failed("read", &path)(error)),
        };
        let private = |path: &Path| {
            let mode = fs::metadata(path).map_err(failed("look at", path))?.permissions().mode() & 0o777;
            // A group may read: services get secrets that way.
            if mode & 0o027 == 0 { Ok(()) } else { Err(FileError::TooOpen { path: path.into(), mode }) }
        };
        match self {
            Self::Own(folder) => {
                let identity = folder.join("identity.pem");
                private(&identity)?;
                let identity = take(identity)?;
                let authorities = take(folder.join("authorities.pem"))?;
                Ok(Read { key: identity.clone(), certificate: identity, authorities })
            }
            Self::Site { certificate, key, authorities } => {
                private(key)?;
                Ok(Read {
                    certificate: take(certificate.clone())?,
                    key: take(key.clone())?,
                    authorities: take(authorities.clone())?,
                })
            }
        }
    }
}

impl Read {
    /// Tells one content from another.
    pub fn hash(&self) -> Hash {
        let parts = [&self.certificate.1, &self.key.1, &self.authorities.1];
        weighbridge_wire::hash(&parts.map(|part| weighbridge_wire::hash(part)).concat())
    }

    /// Takes the content apart.
    pub fn parse(&self) -> Result<Parsed, FileError> {
        let lacks = |path: &PathBuf, expected| FileError::Lacks { path: path.clone(), expected };
        let certificates = |(path, bytes): &(PathBuf, Vec<u8>)| {
            let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
            let read = read.ok().filter(|list| !list.is_empty());
            read.ok_or_else(|| lacks(path, "certificates"))
        };
        let key = PrivateKeyDer::from_pem_slice(&self.key.1);
        Ok(Parsed {
            certificates: certificates(&self.certificate)?,
            key: key.map_err(|_| lacks(&self.key.0, "private key"))?,
            authorities: certificates(&self.authorities)?,
        })
    }
}

/// Writes what was issued, durably: what is there before stays good until the new is whole.
pub fn install(
    folder: &Path,
    key: &[u8],
    certificates: &[Vec<u8>],
    authorities: &[Vec<u8>],
) -> Result<(), FileError> {
    fs::create_dir_all(folder).map_err(failed("make folder", folder))?;
    let bundle: String = authorities.iter().map(|der| pem("CERTIFICATE", der)).collect();
    write_private(&folder.join("authorities.pem"), bundle.as_bytes())?;
    let chain: String = certificates.iter().map(|der| pem("CERTIFICATE", der)).collect();
    write_private(&folder.join("identity.pem"), (pem("PRIVATE KEY", key) + &chain).as_bytes())
}

/// Whole or not at all, and for nobody else to read.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("replace", &new)(error)),
        _ => {}
    }
    let mut file = fail::around("tls.create", || {
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)
    })
    .map_err(failed("create", &new))?;
    fail::around("tls.write", || file.write_all(content)).map_err(failed("write", &new))?;
    fail::around("tls.sync", || file.sync_all()).map_err(failed("write", &new))?;
    fail::around("tls.replace", || fs::rename(&new, path)).map_err(failed("create", path))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fail::around("tls.sync_folder", || fs::File::open(folder)?.sync_all()).map_err(failed("sync", folder))
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem + &format!("-----END {label}-----\n")
}
