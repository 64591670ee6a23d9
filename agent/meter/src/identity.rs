//! Names of things: accelerators, agents, principals, attempts. Never of persons.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A name that breaks the rules of its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not {expected}")]
pub struct BadName {
    /// What was given.
    pub value: String,
    /// What was expected.
    pub expected: &'static str,
}

/// Printable ASCII without blanks; long enough for every identifier in use, short enough for an index.
fn printable(text: &str, longest: usize) -> bool {
    !text.is_empty() && text.len() <= longest && text.bytes().all(|byte| byte.is_ascii_graphic())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $longest:expr, $expected:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                if printable(text, $longest) && Self::fits(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(BadName { value: text.into(), expected: $expected })
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

name! {
    /// An accelerator: a GPU by its UUID, a MIG instance by its own, anything else by host and PCI address.
    /// Never an ordinal: those change at every boot.
    AcceleratorId, 96, "an accelerator id: 1 to 96 printable characters without blanks"
}
name! {
    /// An agent, as enrolled.
    AgentId, 96, "an agent id: 1 to 96 printable characters without blanks"
}
name! {
    /// One try at something: job and restart, pod owner and restart, VM boot, lease.
    AttemptId, 192, "an attempt id: 1 to 192 printable characters without blanks"
}
name! {
    /// Who holds an accelerator, in the words of what allocates it: `scheme:scope/name`, percent-encoded.
    Principal, 256,
    "a principal: scheme:scope/name, percent-encoded, with a scheme of slurm, k8s, vm, lease, uid, unit or container"
}

impl AcceleratorId {
    fn fits(_: &str) -> bool {
        true
    }
}

impl AgentId {
    fn fits(_: &str) -> bool {
        true
    }
}

impl AttemptId {
    fn fits(_: &str) -> bool {
        true
    }
}

impl Principal {
    const SCHEMES: [&str; 7] = ["slurm", "k8s", "vm", "lease", "uid", "unit", "container"];

    fn fits(text: &str) -> bool {
        let Some((scheme, rest)) = text.split_once(':') else { return false };
        let Some((scope, name)) = rest.split_once('/') else { return false };
        Self::SCHEMES.contains(&scheme) && !scope.is_empty() && !name.is_empty()
    }

    /// From its parts; what is not a letter, digit or one of `-._~@` is percent-encoded.
    pub fn new(scheme: &str, scope: &str, name: &str) -> Result<Self, BadName> {
        format!("{scheme}:{}/{}", percent_encoded(scope), percent_encoded(name)).parse()
    }

    /// Somebody there whom only a better record of the same attempt can name: a job whose account is not known here.
    /// Its name is a single question mark.
    pub fn unknown(scheme: &str, scope: &str) -> Result<Self, BadName> {
        Self::new(scheme, scope, "?")
    }

    /// Whether it is [`unknown`](Self::unknown).
    pub fn is_unknown(&self) -> bool {
        self.0.ends_with("/%3F")
    }

    /// The part before the colon.
    pub fn scheme(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Bytes in lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            digits.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    digits
}

macro_rules! bytes16 {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(pub [u8; 16]);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl FromStr for $type {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                let bad = || BadName { value: text.into(), expected: "32 hexadecimal digits" };
                if text.len() != 32 || !text.is_ascii() {
                    return Err(bad());
                }
                let mut bytes = [0; 16];
                for (index, byte) in bytes.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).map_err(|_| bad())?;
                }
                Ok(Self(bytes))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

bytes16! {
    /// One boot of a host: the kernel's boot id.
    BootId
}
bytes16! {
    /// One spool folder of an agent: random bytes made with it. Sequence numbers count within it.
    EpochId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_needs_scheme_scope_and_name() {
        for good in ["slurm:alpha/physics", "lease:site/7", "uid:gpu/1000", "k8s:eu-1/team%2Fa"] {
            assert!(good.parse::<Principal>().is_ok(), "{good}");
        }
        for bad in ["", "slurm", "slurm:alpha", "slurm:/x", "slurm:a/", "ftp:a/b", "slurm:a/b c", "slurm:a/é"]
        {
            assert!(bad.parse::<Principal>().is_err(), "{bad}");
        }
    }

    #[test]
    fn odd_characters_in_a_principal_are_percent_encoded() {
        let principal = Principal::new("slurm", "alpha", "a/b é").expect("encoded");
        assert_eq!(principal.as_str(), "slurm:alpha/a%2Fb%20%C3%A9");
    }

    #[test]
    fn sixteen_bytes_read_back_as_written() {
        let epoch = EpochId([0xab; 16]);
        assert_eq!(epoch.to_string().parse(), Ok(epoch));
        assert!("abc".parse::<EpochId>().is_err());
        assert!("é".repeat(16).parse::<EpochId>().is_err());
    }
}
