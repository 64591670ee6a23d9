//! What a certificate says, and whose it is: the two things that both sides must read alike.
//!
//! An agent's certificate names it by one URI among its names. [`IdentityPattern`] makes that URI and reads it
//! back; both directions must give the same text, so that no two spellings are one agent.
//! Deliberately absent: whether a certificate is to be believed. TLS decides that first.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};
use weighbridge_meter::{AgentId, UtcMillis};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

use crate::Hash;

/// SHA-256 of a certificate as it is encoded: how people and join tokens name an authority.
pub fn fingerprint(der: &[u8]) -> Hash {
    Sha256::digest(der).into()
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// From when on it holds.
    pub not_before: UtcMillis,
    /// The last second in which it holds.
    pub not_after: UtcMillis,
    /// The URIs among its names.
    pub uris: Vec<String>,
    /// Who signed it, as encoded.
    pub issuer: Vec<u8>,
    /// Whom it is about, as encoded.
    pub subject: Vec<u8>,
}

/// Bytes that are no certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an X.509 certificate in DER")]
pub struct NotACertificate;

impl Looked {
    /// Reads a certificate in DER. Believes nothing of it.
    pub fn at(der: &[u8]) -> Result<Self, NotACertificate> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| NotACertificate)?;
        if !rest.is_empty() {
            return Err(NotACertificate);
        }
        let validity = certificate.validity();
        let millis = |seconds: i64| UtcMillis(seconds.saturating_mul(1000));
        let mut uris = Vec::new();
        for extension in certificate.extensions() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
                let of_names = names.general_names.iter().filter_map(|name| match name {
                    GeneralName::URI(uri) => Some((*uri).to_owned()),
                    _ => None,
                });
                uris.extend(of_names);
            }
        }
        Ok(Self {
            not_before: millis(validity.not_before.timestamp()),
            not_after: millis(validity.not_after.timestamp()),
            uris,
            issuer: certificate.issuer().as_raw().to_vec(),
            subject: certificate.subject().as_raw().to_vec(),
        })
    }

    /// How long it lasts, from first to last, in milliseconds.
    pub fn lasts_ms(&self) -> i64 {
        self.not_after.since(self.not_before).max(0)
    }

    /// When to renew it: at two thirds of its life.
    pub fn renew_at(&self) -> UtcMillis {
        self.not_before.plus(self.lasts_ms() / 3 * 2)
    }
}

/// How agents are named in certificates: a URI with `{agent}` in it once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityPattern {
    before: String,
    after: String,
}

/// A pattern that names no agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a URI with {{agent}} in it once, such as weighbridge://agent/{{agent}}")]
pub struct BadPattern;

const PLACE: &str = "{agent}";

impl Default for IdentityPattern {
    /// That of the collector's own authority.
    fn default() -> Self {
        Self { before: "weighbridge://agent/".into(), after: String::new() }
    }
}

impl FromStr for IdentityPattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let (before, after) = text.split_once(PLACE).ok_or(BadPattern)?;
        let scheme = before.split_once("://").is_some_and(|(scheme, _)| !scheme.is_empty());
        let printable = |part: &str| part.bytes().all(|byte| byte.is_ascii_graphic());
        if !scheme || after.contains(PLACE) || !printable(before) || !printable(after) {
            return Err(BadPattern);
        }
        Ok(Self { before: before.into(), after: after.into() })
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{PLACE}{}", self.before, self.after)
    }
}

impl IdentityPattern {
    /// The URI of this agent. What is not a letter, a digit or one of `-._~` is percent-encoded.
    pub fn uri(&self, agent: &AgentId) -> String {
        let mut uri = self.before.clone();
        for byte in agent.as_str().bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                uri.push(char::from(byte));
            } else {
                uri.push_str(&format!("%{byte:02X}"));
            }
        }
        uri.push_str(&self.after);
        uri
    }

    /// The agent that this URI is of, if it is spelt exactly so.
    pub fn agent(&self, uri: &str) -> Option<AgentId> {
        let name = uri.strip_prefix(&self.before)?.strip_suffix(&self.after)?;
        let agent: AgentId = decoded(name)?.parse().ok()?;
        (self.uri(&agent) == uri).then_some(agent)
    }

    /// The agent of a certificate: exactly one of its URIs must be of this pattern.
    pub fn agent_of(&self, certificate: &Looked) -> Option<AgentId> {
        let mut agents = certificate.uris.iter().filter_map(|uri| self.agent(uri));
        let agent = agents.next()?;
        agents.next().is_none().then_some(agent)
    }
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let digits = str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn certificate(uris: &[&str]) -> Looked {
        Looked {
            not_before: UtcMillis(0),
            not_after: UtcMillis(90_000),
            uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
            issuer: Vec::new(),
            subject: Vec::new(),
        }
    }

    #[test]
    fn an_agent_has_one_spelling() {
        let pattern = IdentityPattern::default();
        let agent: AgentId = "rack/7%a".parse().expect("a name");
        assert_eq!(pattern.uri(&agent), "weighbridge://agent/rack%2F7%25a");
        assert_eq!(pattern.agent("weighbridge://agent/rack%2F7%25a"), Some(agent));
        for other in [
            "weighbridge://agent/rack/7%25a",
            "weighbridge://agent/rack%2f7%25a",
            "weighbridge://agent/rack%2F7%25%61",
            "Weighbridge://agent/rack%2F7%25a",
            "weighbridge://agent/",
            "weighbridge://agent/%",
            "weighbridge://agent/%+1",
            "weighbridge://agent/%FF",
            "spiffe://agent/rack",
        ] {
            assert_eq!(pattern.agent(other), None, "{other}");
        }
    }

    #[test]
    fn a_certificate_of_two_agents_is_nobodys() {
        let pattern: IdentityPattern = "spiffe://example.org/gpu/{agent}/weigh".parse().expect("a pattern");
        let one = "spiffe://example.org/gpu/node1/weigh";
        let found = |uris: &[&str]| pattern.agent_of(&certificate(uris)).map(|agent| agent.to_string());
        assert_eq!(found(&[one, "https://elsewhere/"]), Some("node1".into()));
        assert_eq!(found(&[one, "spiffe://example.org/gpu/node2/weigh"]), None);
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn a_pattern_needs_a_scheme_and_one_place() {
        for bad in ["", "{agent}", "x://a", "x://{agent}{agent}", "://{agent}", "x:// {agent}"] {
            assert_eq!(bad.parse::<IdentityPattern>(), Err(BadPattern), "{bad}");
        }
        let pattern: IdentityPattern = "x://{agent}".parse().expect("a pattern");
        assert_eq!(pattern.to_string(), "x://{agent}");
    }

    #[test]
    fn renewal_is_due_at_two_thirds() {
        assert_eq!(certificate(&[]).renew_at(), UtcMillis(60_000));
    }

    proptest! {
        #[test]
        fn every_agent_reads_back_from_its_uri(name in "[!-~]{1,96}") {
            let agent: AgentId = name.parse().expect("printable");
            let pattern = IdentityPattern::default();
            prop_assert_eq!(pattern.agent(&pattern.uri(&agent)), Some(agent));
        }

        #[test]
        fn foreign_bytes_are_refused_or_read_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), uri in "\\PC{0,60}") {
            let _ = Looked::at(&bytes);
            let _ = IdentityPattern::default().agent(&uri);
        }
    }
}
