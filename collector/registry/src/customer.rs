//! The clear part of a customer: an account number, a kind, and whether it is a US person.
//!
//! Nothing here names anybody, so all of it may stand in ledgers, logs and pages.
//! What identifies the customer is in [`crate::identity`].

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Text that is no customer or control group id.
/// It does not repeat the text: whoever types a person's name here must not find it in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not {expected}")]
pub struct BadId {
    /// What was expected.
    pub expected: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $type:ident, $expected:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Box<str>);

        impl $type {
            /// What the text form must be, in words for an error message.
            pub const EXPECTED: &'static str = $expected;

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                if (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
                    Ok(Self(text.into()))
                } else {
                    Err(BadId { expected: Self::EXPECTED })
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

id! {
    /// A customer, by a number of the operator's books: an account number, never a name or an address.
    /// It stands in clear in the ledger, in logs and on pages, and outlives the erasure of the identity.
    CustomerId,
    "an account number, not a name: 1 to 64 printable ASCII characters without blanks"
}
id! {
    /// Customers joined by ownership or control, by a number of the operator's books. In clear, like [`CustomerId`].
    ControlGroupId,
    "a control group number, not a name: 1 to 64 printable ASCII characters without blanks"
}

/// What a customer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CustomerKind {
    /// A natural person.
    Person,
    /// A company, an agency, or any other body.
    Entity,
    /// What is not a body of its own: a trust, a partnership without one.
    Arrangement,
    /// Who passes the compute on to customers of its own.
    Reseller,
}

impl CustomerKind {
    /// Every one of them.
    pub const ALL: [Self; 4] = [Self::Person, Self::Entity, Self::Arrangement, Self::Reseller];

    /// What the text form must be, in words for an error message.
    pub const EXPECTED: &'static str = "person, entity, arrangement or reseller";

    /// Its name in files and ledgers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Entity => "entity",
            Self::Arrangement => "arrangement",
            Self::Reseller => "reseller",
        }
    }

    pub(crate) fn from_name(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Whether a customer is a US person, as far as the operator has established it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsPerson {
    /// Established to be one.
    Us,
    /// Established not to be one.
    Foreign,
    /// Not established.
    Undetermined,
}

impl UsPerson {
    /// What the text form must be, in words for an error message.
    pub const EXPECTED: &'static str = "us, foreign or undetermined";

    /// Its name in files and ledgers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Us => "us",
            Self::Foreign => "foreign",
            Self::Undetermined => "undetermined",
        }
    }

    /// Whether rules about foreign persons look at this customer.
    /// What is not established counts: else the way out of every rule would be not to ask.
    pub fn counts_as_foreign(self) -> bool {
        match self {
            Self::Us => false,
            Self::Foreign | Self::Undetermined => true,
        }
    }

    pub(crate) fn from_name(text: &str) -> Option<Self> {
        [Self::Us, Self::Foreign, Self::Undetermined].into_iter().find(|status| status.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customer_id_is_short_and_has_no_blanks() {
        for good in ["a", "ACME-0001", &"x".repeat(64)] {
            assert_eq!(good.parse::<CustomerId>().unwrap().as_str(), good);
        }
        for bad in ["", "Jane Doe", "müller", "a\n", &"x".repeat(65)] {
            assert!(bad.parse::<CustomerId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_refused_id_is_not_repeated_in_the_error() {
        let error = serde_json::from_str::<CustomerId>("\"Jane Doe\"").unwrap_err().to_string();
        assert!(error.contains("account number"), "{error}");
        assert!(!error.contains("Jane"), "{error}");
    }

    #[test]
    fn only_an_established_us_person_is_not_counted_as_foreign() {
        assert!(!UsPerson::Us.counts_as_foreign());
        assert!(UsPerson::Foreign.counts_as_foreign());
        assert!(UsPerson::Undetermined.counts_as_foreign());
    }

    #[test]
    fn names_in_files_are_the_names_in_ledgers() {
        for kind in CustomerKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
            assert_eq!(CustomerKind::from_name(kind.as_str()), Some(kind));
        }
        for status in [UsPerson::Us, UsPerson::Foreign, UsPerson::Undetermined] {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
            assert_eq!(UsPerson::from_name(status.as_str()), Some(status));
        }
    }
}
