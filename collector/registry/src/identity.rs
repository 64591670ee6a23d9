//! What identifies a customer: eight fields, which part of a report each fills, and which of them are blank.
//!
//! Clear values live only in an [`Identity`]: it is wiped when dropped, cannot be serialised, and its `Debug`
//! shows which fields there are, never what they hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use weighbridge_meter::UtcMillis;
use zeroize::{Zeroize, Zeroizing};

/// One thing to know about a customer. The names are part of what a sealed value is bound to: they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityField {
    /// Full legal name.
    Name,
    /// Residence or business address; of an entity, its principal place of business.
    Address,
    /// Places from which the service is used, separated by `;`.
    Locations,
    /// How it is paid: institution and method. Last digits or a token, not a full card number.
    PaymentMeans,
    /// From whom or what the money comes: account, customer or wallet id.
    PaymentSource,
    /// An email address.
    Email,
    /// A telephone number.
    Telephone,
    /// Addresses used for access or administration, each with its time: [`Access`], separated by `;`.
    Access,
}

impl IdentityField {
    /// Every field, in the order of the file and of the report.
    pub const ALL: [Self; 8] = [
        Self::Name,
        Self::Address,
        Self::Locations,
        Self::PaymentMeans,
        Self::PaymentSource,
        Self::Email,
        Self::Telephone,
        Self::Access,
    ];

    /// Its name in files, ledgers and associated data.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Address => "address",
            Self::Locations => "locations",
            Self::PaymentMeans => "payment_means",
            Self::PaymentSource => "payment_source",
            Self::Email => "email",
            Self::Telephone => "telephone",
            Self::Access => "access",
        }
    }

    /// Which field of the report it fills, alone or together with others.
    pub fn report_field(self) -> ReportField {
        match self {
            Self::Name => ReportField::Name,
            Self::Address | Self::Locations => ReportField::Address,
            Self::PaymentMeans | Self::PaymentSource => ReportField::Payment,
            Self::Email => ReportField::Email,
            Self::Telephone => ReportField::Telephone,
            Self::Access => ReportField::Access,
        }
    }
}

impl fmt::Display for IdentityField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A field of the report on a foreign person, as the proposed 15 CFR 7.308 (89 FR 5698) lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ReportField {
    /// Name of the customer.
    #[serde(rename = "A1")]
    Name,
    /// Address, and the places the request comes from.
    #[serde(rename = "A2")]
    Address,
    /// Means and source of payment.
    #[serde(rename = "A3")]
    Payment,
    /// Email address.
    #[serde(rename = "A4")]
    Email,
    /// Telephone number.
    #[serde(rename = "A5")]
    Telephone,
    /// Network addresses of access and administration, with times.
    #[serde(rename = "A6")]
    Access,
}

impl ReportField {
    /// Every field, in order.
    pub const ALL: [Self; 6] =
        [Self::Name, Self::Address, Self::Payment, Self::Email, Self::Telephone, Self::Access];

    /// Its number in rule packs and reports, `A1` to `A6`.
    pub fn id(self) -> &'static str {
        match self {
            Self::Name => "A1",
            Self::Address => "A2",
            Self::Payment => "A3",
            Self::Email => "A4",
            Self::Telephone => "A5",
            Self::Access => "A6",
        }
    }
}

/// The clear values. Blank is the same as absent.
#[derive(Default)]
pub struct Identity(BTreeMap<IdentityField, Zeroizing<String>>);

impl Identity {
    /// Sets a value; one of blanks alone removes the field, so that it is reported as not known.
    pub fn set(&mut self, field: IdentityField, value: Zeroizing<String>) {
        if value.trim().is_empty() {
            self.0.remove(&field);
        } else {
            self.0.insert(field, value);
        }
    }

    /// The value, if it is known.
    pub fn get(&self, field: IdentityField) -> Option<&str> {
        self.0.get(&field).map(|value| value.as_str())
    }

    /// What is known, in the order of [`IdentityField::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (IdentityField, &str)> {
        self.0.iter().map(|(field, value)| (*field, value.as_str()))
    }

    /// Which fields are known.
    pub fn completeness(&self) -> Completeness {
        Completeness::of(self.0.keys().copied())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity ")?;
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Which fields of an identity are known, and which a report would have to show as blank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completeness {
    present: BTreeSet<IdentityField>,
}

/// How far a field of the report can be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filled {
    /// All that it asks for is known.
    Whole,
    /// Some of it.
    Partly,
    /// None of it.
    Blank,
}

impl Completeness {
    /// Of an identity in which these fields are known.
    pub fn of(present: impl IntoIterator<Item = IdentityField>) -> Self {
        Self { present: present.into_iter().collect() }
    }

    /// Whether nothing is blank.
    pub fn is_whole(&self) -> bool {
        self.blanks().next().is_none()
    }

    /// The fields that are not known.
    pub fn blanks(&self) -> impl Iterator<Item = IdentityField> {
        IdentityField::ALL.into_iter().filter(|field| !self.present.contains(field))
    }

    /// How far a field of the report can be filled.
    pub fn filled(&self, report_field: ReportField) -> Filled {
        let mut parts = IdentityField::ALL.into_iter().filter(|field| field.report_field() == report_field);
        let known = parts.clone().any(|field| self.present.contains(&field));
        let all = parts.all(|field| self.present.contains(&field));
        match (known, all) {
            (_, true) => Filled::Whole,
            (true, false) => Filled::Partly,
            (false, false) => Filled::Blank,
        }
    }
}

/// One use of the service: from where on the network, and when. As text `IP@RFC3339`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Access {
    /// The address it came from.
    pub address: IpAddr,
    /// When.
    pub at: UtcMillis,
}

impl Serialize for Access {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Access {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        text.parse().map_err(|()| de::Error::custom(format_args!("not {}", Self::EXPECTED)))
    }
}

impl Zeroize for Access {
    fn zeroize(&mut self) {
        *self = Self { address: Ipv4Addr::UNSPECIFIED.into(), at: UtcMillis(0) };
    }
}

/// Text that is no list of accesses. It says which entry is at fault, not what stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {entry} is not {}", Access::EXPECTED)]
pub struct BadAccess {
    /// The entry at fault, counted from 1.
    pub entry: usize,
}

impl Access {
    /// What the text form must be, in words for an error message.
    pub const EXPECTED: &'static str =
        "an IP address, @ and an RFC 3339 time, for example 192.0.2.7@2026-01-31T08:00:00Z";

    /// Reads the value of [`IdentityField::Access`]: entries separated by `;`, blanks around them ignored.
    pub fn list(text: &str) -> Result<Vec<Self>, BadAccess> {
        text.split(';')
            .enumerate()
            .map(|(index, entry)| entry.trim().parse().map_err(|()| BadAccess { entry: index + 1 }))
            .collect()
    }
}

impl FromStr for Access {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, at) = text.split_once('@').ok_or(())?;
        Ok(Self { address: address.parse().map_err(|_| ())?, at: at.parse().map_err(|_| ())? })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.address, self.at)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_names_of_fields_are_the_same_everywhere() {
        for field in IdentityField::ALL {
            assert_eq!(serde_json::to_value(field).unwrap(), field.as_str());
            assert_eq!(serde_json::to_value(field.report_field()).unwrap(), field.report_field().id());
        }
        let filled_by: Vec<_> =
            IdentityField::ALL.map(|field| format!("{}={field}", field.report_field().id())).into();
        expect!["A1=name A2=address A2=locations A3=payment_means A3=payment_source A4=email A5=telephone A6=access"]
            .assert_eq(&filled_by.join(" "));
    }

    #[test]
    fn a_blank_value_is_not_known() {
        let mut identity = Identity::default();
        identity.set(IdentityField::Name, Zeroizing::new("Jane".into()));
        identity.set(IdentityField::Name, Zeroizing::new(" \t".into()));
        assert_eq!(identity.get(IdentityField::Name), None);
    }

    #[test]
    fn a_report_field_filled_by_two_is_partly_filled_by_one() {
        let completeness = Completeness::of([IdentityField::Name, IdentityField::Locations]);
        assert!(!completeness.is_whole());
        let filled = ReportField::ALL.map(|field| format!("{} {:?}", field.id(), completeness.filled(field)));
        expect!["A1 Whole, A2 Partly, A3 Blank, A4 Blank, A5 Blank, A6 Blank"].assert_eq(&filled.join(", "));
        expect!["[Address, PaymentMeans, PaymentSource, Email, Telephone, Access]"]
            .assert_eq(&format!("{:?}", completeness.blanks().collect::<Vec<_>>()));
        assert!(Completeness::of(IdentityField::ALL).is_whole());
    }

    #[test]
    fn debug_shows_fields_and_no_values() {
        let mut identity = Identity::default();
        identity.set(IdentityField::Name, Zeroizing::new("Jane".into()));
        expect!["Identity {Name}"].assert_eq(&format!("{identity:?}"));
    }

    #[test]
    fn accesses_are_read_with_their_times() {
        let list =
            Access::list("192.0.2.7@2026-01-31T08:00:00Z; 2001:db8::1@2026-01-31T10:00:00+02:00").unwrap();
        let shown: Vec<_> = list.iter().map(Access::to_string).collect();
        expect!["192.0.2.7@2026-01-31T08:00:00Z 2001:db8::1@2026-01-31T08:00:00Z"]
            .assert_eq(&shown.join(" "));
    }

    #[test]
    fn a_bad_access_names_its_place_and_hides_its_text() {
        let error = Access::list("192.0.2.7@2026-01-31T08:00:00Z;192.0.2.8").unwrap_err();
        assert_eq!(error, BadAccess { entry: 2 });
        assert!(!error.to_string().contains("192.0.2.8"));
        assert!(Access::list("").is_err());
    }
}
