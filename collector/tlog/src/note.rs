//! Signed notes: a text, and signatures each by a named key (C2SP signed-note).

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::{Signature as Ed25519, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

/// The longest note that is read, in bytes: a checkpoint with the signatures of many witnesses.
pub const MAX_BYTES: usize = 64 << 10;

/// The most signatures that are read of one note.
pub const MAX_SIGNATURES: usize = 64;

/// How a key signs: the byte that its id and its text form carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// Ed25519 over the text: a log.
    Ed25519,
    /// Ed25519 over the text and the time: a witness.
    Cosignature,
}

impl KeyType {
    /// As it is written.
    pub fn byte(self) -> u8 {
        match self {
            Self::Ed25519 => 1,
            Self::Cosignature => 4,
        }
    }
}

/// A note or a key does not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Larger than any that is read.
    #[error("the note has {bytes} bytes, at most {MAX_BYTES} are read")]
    TooLarge {
        /// How many.
        bytes: usize,
    },
    /// Not text, blank line, signature lines.
    #[error("not a signed note: expected {expected}")]
    Shape {
        /// What should be there.
        expected: &'static str,
    },
    /// A key in its text form.
    #[error("{key:?} is not a key: expected {expected}")]
    Key {
        /// What stood there.
        key: String,
        /// What may stand there.
        expected: &'static str,
    },
    /// A key of a type that is not known here, such as ML-DSA.
    #[error("key {name} is of type {found:#04x}, known are 0x01 (Ed25519) and 0x04 (Ed25519 cosignature)")]
    KeyType {
        /// Whose.
        name: String,
        /// Which type.
        found: u8,
    },
    /// The line of a known key that its key did not make.
    #[error("the signature of {name} does not verify")]
    BadSignature {
        /// Whose.
        name: String,
    },
}

/// Whether it may name a key: not empty, without spaces, plus and control characters.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('+') && !name.chars().any(|c| c.is_whitespace() || c.is_control())
}

/// A key to verify with: `<name>+<id in hexadecimal>+<base64 of type and key>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    kind: KeyType,
    key: VerifyingKey,
}

impl VerifierKey {
    /// `None` if the name is none.
    pub fn new(name: &str, kind: KeyType, key: VerifyingKey) -> Option<Self> {
        is_name(name).then(|| Self { name: name.into(), kind, key })
    }

    /// Its name; of a log, its origin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it signs.
    pub fn kind(&self) -> KeyType {
        self.kind
    }

    /// The key itself.
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// The first bytes of the hash of all that: tells keys of one name apart.
    pub fn id(&self) -> u32 {
        let digest = Sha256::new()
            .chain_update(&self.name)
            .chain_update([b'\n', self.kind.byte()])
            .chain_update(self.key.as_bytes())
            .finalize();
        u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&[self.kind.byte()], self.key.as_bytes().as_slice()].concat();
        write!(f, "{}+{:08x}+{}", self.name, self.id(), BASE64.encode(bytes))
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let bad = |expected| NoteError::Key { key: text.into(), expected };
        let form = "<name>+<8 hexadecimal digits>+<base64>";
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(bytes)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(bad(form));
        };
        let bytes = BASE64.decode(bytes).map_err(|_| bad(form))?;
        let (kind, key) = bytes.split_first().ok_or_else(|| bad(form))?;
        let kind = match kind {
            1 => KeyType::Ed25519,
            4 => KeyType::Cosignature,
            found => return Err(NoteError::KeyType { name: name.into(), found: *found }),
        };
        let key: [u8; 32] = key.try_into().map_err(|_| bad("32 bytes of key after the type"))?;
        let key = VerifyingKey::from_bytes(&key).map_err(|_| bad("a point of Ed25519"))?;
        let key = Self::new(name, kind, key).ok_or_else(|| bad("a name without spaces"))?;
        if format!("{:08x}", key.id()) != id {
            return Err(bad("the id that follows from name, type and key"));
        }
        Ok(key)
    }
}

/// A key to sign with, as it is kept in a file: `PRIVATE+KEY+<name>+<id in hexadecimal>+<base64 of type and seed>`.
pub struct SignerKey {
    verifier: VerifierKey,
    key: SigningKey,
}

impl SignerKey {
    /// `None` if the name is none.
    pub fn new(name: &str, key: SigningKey) -> Option<Self> {
        let verifier = VerifierKey::new(name, KeyType::Ed25519, key.verifying_key())?;
        Some(Self { verifier, key })
    }

    /// What others verify with.
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Its line under a text that ends in a newline.
    pub fn sign(&self, text: &str) -> Signature {
        let bytes = self.key.sign(text.as_bytes()).to_bytes().to_vec();
        Signature { name: self.verifier.name.clone(), id: self.verifier.id(), bytes }
    }

    /// As it is kept in a file. Whoever reads it can sign.
    pub fn secret_text(&self) -> String {
        let bytes = [&[KeyType::Ed25519.byte()], self.key.as_bytes().as_slice()].concat();
        format!("{PRIVATE}{}+{:08x}+{}", self.verifier.name, self.verifier.id(), BASE64.encode(bytes))
    }
}

/// Shows the name and never the key.
impl fmt::Debug for SignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignerKey({})", self.verifier)
    }
}

const PRIVATE: &str = "PRIVATE+KEY+";

impl FromStr for SignerKey {
    type Err = NoteError;

    /// An error shows nothing of the text: it may be a key with one wrong letter.
    fn from_str(text: &str) -> Result<Self, NoteError> {
        let bad = |expected| NoteError::Key { key: "what is there".into(), expected };
        let form = "PRIVATE+KEY+<name>+<8 hexadecimal digits>+<base64>, of type 1 (Ed25519)";
        let parts: Vec<&str> =
            text.trim().strip_prefix(PRIVATE).ok_or_else(|| bad(form))?.splitn(3, '+').collect();
        let [name, id, bytes] = parts.as_slice() else { return Err(bad(form)) };
        let bytes = BASE64.decode(bytes).map_err(|_| bad(form))?;
        let seed: &[u8; 32] = match bytes.split_first() {
            Some((1, seed)) => seed.try_into().map_err(|_| bad("32 bytes of key after the type"))?,
            _ => return Err(bad(form)),
        };
        let key =
            Self::new(name, SigningKey::from_bytes(seed)).ok_or_else(|| bad("a name without spaces"))?;
        if format!("{:08x}", key.verifier.id()) != *id {
            return Err(bad("the id that follows from name, type and key"));
        }
        Ok(key)
    }
}

/// One signature line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Of which key.
    pub name: String,
    /// Its id.
    pub id: u32,
    /// What it made.
    pub bytes: Vec<u8>,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [self.id.to_be_bytes().as_slice(), &self.bytes].concat();
        writeln!(f, "— {} {}", self.name, BASE64.encode(bytes))
    }
}

impl Signature {
    /// Reads one line, without its newline.
    pub fn parse(line: &str) -> Result<Self, NoteError> {
        let shape = NoteError::Shape { expected: "a signature line: em dash, name, base64" };
        let (name, bytes) =
            line.strip_prefix("— ").and_then(|rest| rest.split_once(' ')).ok_or_else(|| shape.clone())?;
        let bytes = BASE64.decode(bytes).map_err(|_| shape.clone())?;
        let (id, bytes) = bytes.split_first_chunk::<4>().ok_or_else(|| shape.clone())?;
        if !is_name(name) || bytes.is_empty() {
            return Err(shape);
        }
        Ok(Self { name: name.into(), id: u32::from_be_bytes(*id), bytes: bytes.to_vec() })
    }

    /// Whether this is the line of that key, right or wrong.
    pub fn is_of(&self, key: &VerifierKey) -> bool {
        self.name == key.name && self.id == key.id()
    }
}

/// A text with its signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What is signed; ends in a newline.
    pub text: String,
    /// By whom.
    pub signatures: Vec<Signature>,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| signature.fmt(f))
    }
}

impl FromStr for Note {
    type Err = NoteError;

    fn from_str(note: &str) -> Result<Self, NoteError> {
        let shape = |expected| NoteError::Shape { expected };
        if note.len() > MAX_BYTES {
            return Err(NoteError::TooLarge { bytes: note.len() });
        }
        if note.chars().any(|c| c < ' ' && c != '\n') {
            return Err(shape("no control characters"));
        }
        let end = note.rfind("\n\n").ok_or_else(|| shape("a blank line before the signatures"))?;
        let (text, rest) = (&note[..=end], &note[end + 2..]);
        let lines = rest.strip_suffix('\n').ok_or_else(|| shape("a newline at the end"))?;
        let signatures: Vec<Signature> =
            lines.split('\n').take(MAX_SIGNATURES + 1).map(Signature::parse).collect::<Result<_, _>>()?;
        if signatures.len() > MAX_SIGNATURES {
            return Err(shape("at most 64 signatures"));
        }
        Ok(Self { text: text.into(), signatures })
    }
}

impl Note {
    /// A text signed by a log. The text ends in a newline.
    pub fn signed(text: String, name: &str, key: &SigningKey) -> Option<Self> {
        let verifier = VerifierKey::new(name, KeyType::Ed25519, key.verifying_key())?;
        let bytes = key.sign(text.as_bytes()).to_bytes().to_vec();
        let signature = Signature { name: name.into(), id: verifier.id(), bytes };
        Some(Self { text, signatures: vec![signature] })
    }

    /// Whether the log's key signed this text. `Ok(false)`: it has no line of that key.
    pub fn is_signed_by(&self, key: &VerifierKey) -> Result<bool, NoteError> {
        let mut found = false;
        for signature in self.signatures.iter().filter(|signature| signature.is_of(key)) {
            let bad = || NoteError::BadSignature { name: key.name.clone() };
            let bytes = signature.bytes.as_slice().try_into().map_err(|_| bad())?;
            key.key.verify_strict(self.text.as_bytes(), &Ed25519::from_bytes(bytes)).map_err(|_| bad())?;
            found = true;
        }
        Ok(found)
    }
}
