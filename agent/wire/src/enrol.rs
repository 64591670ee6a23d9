//! How an agent joins and stays: join tokens, and what is asked and answered about certificates.
//!
//! A join token carries the fingerprint of the collector's authority, so that the first contact is no leap of
//! faith, and a secret that the collector knows by its hash only. Requests are JSON: they are few and small, and
//! people read them when something does not work. Every request is signed by the key that signs batches, so a
//! certificate can be had only together with that key.
//!
//! Deliberately absent: how a certificate is made, and any decision about who may have one.

use std::{fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, Signer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use weighbridge_meter::{AgentId, UtcMillis, hex};

use crate::{Hash, SigningKey, VerifyingKey};

/// Where a token is exchanged for a certificate.
pub const JOIN_PATH: &str = "/api/v1/enrolment";

/// Where a certificate is renewed.
pub const RENEW_PATH: &str = "/api/v1/enrolment/renew";

/// No request or answer about certificates is longer, in bytes.
pub const LONGEST: usize = 64 * 1024;

/// Lets one agent join once.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Tells tokens apart; no secret.
    pub id: [u8; 8],
    /// What makes it worth something.
    pub secret: [u8; 32],
    /// [`fingerprint`](crate::certificate::fingerprint) of an authority of the collector.
    pub authority: Hash,
}

/// Text that is no join token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a join token, expected the text that begins with {TOKEN}")]
pub struct BadToken;

const TOKEN: &str = "weighbridge-join-v1.";

impl JoinToken {
    /// What the collector keeps of the secret. A hash without salt will do: it is of 256 random bits.
    pub fn secret_hash(&self) -> Hash {
        secret_hash(&self.id, &self.secret)
    }
}

/// Hash of a token's secret, bound to its id.
pub fn secret_hash(id: &[u8; 8], secret: &[u8; 32]) -> Hash {
    Sha256::new()
        .chain_update("weighbridge-join-secret-v1\0")
        .chain_update(id)
        .chain_update(secret)
        .finalize()
        .into()
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.id[..], &self.secret, &self.authority].concat();
        write!(f, "{TOKEN}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for JoinToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let text = text.trim().strip_prefix(TOKEN).ok_or(BadToken)?;
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| BadToken)?;
        let (id, rest) = bytes.split_first_chunk().ok_or(BadToken)?;
        let (secret, rest) = rest.split_first_chunk().ok_or(BadToken)?;
        let authority = rest.try_into().map_err(|_| BadToken)?;
        Ok(Self { id: *id, secret: *secret, authority })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", hex(&self.id))
    }
}

/// What an agent sends to join.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    /// [`JoinToken::id`] in base64.
    pub token: String,
    /// [`JoinToken::secret`] in base64.
    pub secret: String,
    /// Whom its configuration says it is.
    pub agent: AgentId,
    /// The key that signs its batches, in base64.
    pub public_key: String,
    /// A PKCS #10 request for its TLS key, DER in base64.
    pub request: String,
    /// [`join_proof`] in base64.
    pub proof: String,
}

/// What an agent sends to renew, on a connection under the certificate that it has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RenewRequest {
    /// A PKCS #10 request for its new TLS key, DER in base64.
    pub request: String,
    /// [`renew_proof`] in base64.
    pub proof: String,
}

/// A certificate, and whom to believe from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// Whose.
    pub agent: AgentId,
    /// The host that it speaks for.
    pub host: String,
    /// The certificate and those between it and an authority, DER in base64.
    pub certificates: Vec<String>,
    /// All authorities of the collector, DER in base64.
    pub authorities: Vec<String>,
    /// From when on the certificate holds.
    pub not_before: UtcMillis,
    /// Until when.
    pub not_after: UtcMillis,
    /// The collector's clock.
    pub now: UtcMillis,
}

/// Why no certificate was issued, in the form of RFC 9457.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// In a few words.
    pub title: String,
    /// The status of the answer.
    pub status: u16,
    /// In more words.
    pub detail: String,
    /// For programs.
    pub code: RefusedCode,
}

/// Why no certificate was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedCode {
    /// No such token was ever made, or its secret is another.
    TokenUnknown,
    /// Somebody joined with it already.
    TokenUsed,
    /// It was made too long ago.
    TokenExpired,
    /// It is for another agent than the one that asks.
    OtherAgent,
    /// The agent is on the deny list.
    Denied,
    /// The connection is under no certificate that may be renewed.
    NoCertificate,
    /// The agent is not enrolled, or no longer.
    NotEnrolled,
    /// What was sent is no request, or its proof does not hold.
    BadRequest,
    /// Certificates do not come from here, but from the site's own authority.
    NotIssuedHere,
    /// The ledger takes nothing right now.
    NotAvailable,
    /// Something that this version does not know.
    #[serde(other)]
    Other,
}

const JOIN: &[u8] = b"weighbridge-join-v1\0";
const RENEW: &[u8] = b"weighbridge-renew-v1\0";

fn join_bytes(token: &[u8], agent: &AgentId, request: &[u8]) -> Vec<u8> {
    let request: Hash = Sha256::digest(request).into();
    [JOIN, token, &request, agent.as_str().as_bytes()].concat()
}

fn renew_bytes(agent: &AgentId, request: &[u8]) -> Vec<u8> {
    let request: Hash = Sha256::digest(request).into();
    [RENEW, &request, agent.as_str().as_bytes()].concat()
}

/// Shows that who joins has the signing key, for this token, agent and request only.
pub fn join_proof(key: &SigningKey, token: &[u8; 8], agent: &AgentId, request: &[u8]) -> String {
    BASE64_STANDARD.encode(key.sign(&join_bytes(token, agent, request)).to_bytes())
}

/// Whether that holds.
pub fn join_proof_holds(
    key: &VerifyingKey,
    token: &[u8; 8],
    agent: &AgentId,
    request: &[u8],
    proof: &str,
) -> bool {
    holds(key, &join_bytes(token, agent, request), proof)
}

/// Shows that who renews has the signing key, for this agent and request only.
pub fn renew_proof(key: &SigningKey, agent: &AgentId, request: &[u8]) -> String {
    BASE64_STANDARD.encode(key.sign(&renew_bytes(agent, request)).to_bytes())
}

/// Whether that holds.
pub fn renew_proof_holds(key: &VerifyingKey, agent: &AgentId, request: &[u8], proof: &str) -> bool {
    holds(key, &renew_bytes(agent, request), proof)
}

fn holds(key: &VerifyingKey, message: &[u8], proof: &str) -> bool {
    let signature = BASE64_STANDARD.decode(proof).ok().and_then(|bytes| Signature::from_slice(&bytes).ok());
    signature.is_some_and(|signature| key.verify_strict(message, &signature).is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> JoinToken {
        JoinToken { id: [1; 8], secret: [2; 32], authority: [3; 32] }
    }

    #[test]
    fn a_token_reads_back_and_does_not_show_its_secret() {
        let text = token().to_string();
        assert_eq!(format!("{text}\n").parse(), Ok(token()));
        assert_eq!(format!("{:?}", token()), "JoinToken(0101010101010101)");
        for bad in ["", "weighbridge-join-v1.", &text[..text.len() - 2], &text[1..]] {
            assert_eq!(bad.parse::<JoinToken>(), Err(BadToken), "{bad}");
        }
    }

    #[test]
    fn a_proof_holds_for_what_it_was_made_for_and_nothing_else() {
        let (key, other) = (SigningKey::from_bytes(&[7; 32]), SigningKey::from_bytes(&[8; 32]));
        let (a, b): (AgentId, AgentId) = ("a".parse().expect("a name"), "b".parse().expect("a name"));
        let public = key.verifying_key();
        let join = join_proof(&key, &[1; 8], &a, b"csr");
        assert!(join_proof_holds(&public, &[1; 8], &a, b"csr", &join));
        assert!(!join_proof_holds(&public, &[2; 8], &a, b"csr", &join));
        assert!(!join_proof_holds(&public, &[1; 8], &b, b"csr", &join));
        assert!(!join_proof_holds(&public, &[1; 8], &a, b"another", &join));
        assert!(!join_proof_holds(&other.verifying_key(), &[1; 8], &a, b"csr", &join));
        let renew = renew_proof(&key, &a, b"csr");
        assert!(renew_proof_holds(&public, &a, b"csr", &renew));
        assert!(!renew_proof_holds(&public, &b, b"csr", &renew));
        assert!(!renew_proof_holds(&public, &a, b"csr", &join), "a proof of one kind serves no other");
        assert!(!renew_proof_holds(&public, &a, b"csr", "garbage"));
    }

    proptest! {
        #[test]
        fn foreign_text_is_refused_or_read_and_never_a_panic(text in "\\PC{0,160}") {
            let _ = text.parse::<JoinToken>();
            let _ = format!("{TOKEN}{text}").parse::<JoinToken>();
        }
    }
}
