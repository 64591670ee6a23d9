//! What is known of a party: who it says it is, what shows it, and what was found about it.
//!
//! A party is a customer, or somebody who stands behind one. All of a [`Party`] but its kind tells who somebody is:
//! it lives in memory for as long as it is needed, is wiped when dropped, and goes to a disk only sealed
//! ([`crate::SealedCustomer`]). Its `Debug` shows how much there is, never what.
//!
//! What goes into a report, and what may still be blank, is its [`Identity`]. Where it stands with the operator,
//! account, restrictions and dates, is a [`Standing`], which names nobody and is kept in clear.
//!
//! Deliberately absent: what several parties have to do with each other ([`crate::interest`]), and any judgement
//! whether a name is that of somebody listed.

mod check;
mod country;
mod date;
mod standing;
mod status;

use std::fmt;

use serde::{Deserialize, Serialize};
use weighbridge_meter::UtcMillis;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

pub use check::{BadParty, CardReading, NO_CARD, is_card_number};
pub use country::{BadCountry, Country};
pub use date::{BadDate, PartialDate};
pub use standing::{Remedy, Risk, Standing, Verified};
pub use status::{Basis, StatusBasis, UsStatus};

use crate::{Access, CustomerId, CustomerKind, Identity, IdentityField};

/// A party, by a number of the operator's books: a customer's, or that of who stands behind one. They share one
/// space of numbers, for a customer may own another.
pub type PartyId = CustomerId;

/// Everything that is known of a party. See the module.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct Party {
    /// Person, entity, arrangement or reseller.
    #[zeroize(skip)]
    pub kind: CustomerKind,
    /// The first that is [`NameKind::Legal`] is the full legal name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<Name>,
    /// When a person was born, or a body was founded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born: Option<PartialDate>,
    /// Under whose law a body is organised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jurisdiction: Option<Country>,
    /// Whose citizen a person is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub citizenships: Vec<Country>,
    /// Where a person may stay for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residence: Option<Country>,
    /// Where it is, gets its mail, and uses the service from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// Email addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub emails: Vec<String>,
    /// Telephone numbers, as E.164 writes them where that is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub telephones: Vec<String>,
    /// Names in the domain system that it says are its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<String>,
    /// How it pays, and from what.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub payments: Vec<Payment>,
    /// Numbers that others gave it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identifiers: Vec<Identifier>,
    /// Uses of the service that came with the record. Those of a log are kept apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accesses: Vec<Access>,
    /// Whether it is a US person, and why.
    #[serde(default)]
    pub us_person: UsStatus,
    /// How it was found out who it is, in the order of time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verifications: Vec<Verification>,
    /// What does not fit together, and how it was resolved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub discrepancies: Vec<Discrepancy>,
    /// Why its risk is what it is, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub risk_reasons: Vec<String>,
}

/// What a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NameKind {
    /// The full legal name.
    Legal,
    /// What it trades under.
    Trading,
    /// Another one that it uses.
    Alias,
    /// What it was called before.
    Former,
    /// What a person was called when it was born.
    Birth,
    /// Another one of these, written in another script.
    Transliteration,
}

/// One name.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize)]
#[serde(deny_unknown_fields)]
pub struct Name {
    /// What it is.
    #[zeroize(skip)]
    pub kind: NameKind,
    /// All of it, as it is written.
    pub full: String,
    /// Given names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<String>,
    /// Names between given and family name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub middle: Option<String>,
    /// After the father.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patronymic: Option<String>,
    /// The family's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// The script that it is written in, by ISO 15924, as `Cyrl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
}

impl Name {
    /// A name of which only the whole is known.
    pub fn of(kind: NameKind, full: impl Into<String>) -> Self {
        let full = full.into();
        Self { kind, full, given: None, middle: None, patronymic: None, family: None, script: None }
    }
}

/// What an address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressKind {
    /// Where a person lives, or a body has its principal place of business.
    Principal,
    /// Where a body is registered.
    Registered,
    /// Where mail goes.
    Mailing,
    /// Where the service is used from.
    Use,
    /// Another one.
    Other,
}

/// One address.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// What it is for.
    #[zeroize(skip)]
    pub kind: AddressKind,
    /// All of it, as it is written.
    pub full: String,
    /// Street and number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub street: Option<String>,
    /// City, town or village.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<String>,
    /// State or province.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Postal code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postcode: Option<String>,
    /// The country.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<Country>,
}

impl Address {
    /// An address of which only the whole is known.
    pub fn of(kind: AddressKind, full: impl Into<String>) -> Self {
        let full = full.into();
        Self { kind, full, street: None, locality: None, region: None, postcode: None, country: None }
    }
}

/// One way of paying. Never a full card number: [`Party::check`] refuses it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize)]
#[serde(deny_unknown_fields)]
pub struct Payment {
    /// How: institution and method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub means: Option<String>,
    /// From what: account, customer, transaction or wallet id, or last digits or token of a card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// Whose number an identifier is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// A passport.
    Passport,
    /// A national identity card, or the number that a state gives each person.
    NationalId,
    /// A driving licence.
    DrivingLicence,
    /// A permit to reside.
    ResidencePermit,
    /// A taxpayer.
    Tax,
    /// A register of companies.
    Registration,
    /// Legal entity identifier, ISO 17442.
    Lei,
    /// Any other.
    Other,
}

impl Scheme {
    /// Every one of them.
    pub const ALL: [Self; 8] = [
        Self::Passport,
        Self::NationalId,
        Self::DrivingLicence,
        Self::ResidencePermit,
        Self::Tax,
        Self::Registration,
        Self::Lei,
        Self::Other,
    ];

    /// Its name in files and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passport => "passport",
            Self::NationalId => "national_id",
            Self::DrivingLicence => "driving_licence",
            Self::ResidencePermit => "residence_permit",
            Self::Tax => "tax",
            Self::Registration => "registration",
            Self::Lei => "lei",
            Self::Other => "other",
        }
    }
}

/// A number that somebody else gave a party.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize)]
#[serde(deny_unknown_fields)]
pub struct Identifier {
    /// Whose.
    #[zeroize(skip)]
    pub scheme: Scheme,
    /// As written on the document.
    pub number: String,
    /// Who gave it, where the scheme does not say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Of which country that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<Country>,
    /// Until when the document is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<PartialDate>,
}

/// How somebody went about finding out who a party is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// By documents.
    Documentary,
    /// By anything else.
    NonDocumentary,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Begun, not ended.
    InProgress,
    /// It is who it says.
    Verified,
    /// It is not, or that could not be found out.
    Failed,
}

/// What somebody looked at. The thing itself is kept elsewhere; its hash shows that it is the same.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// What it is: `passport`, `register extract`.
    pub what: String,
    /// SHA-256 of it, 64 hexadecimal digits, where there is a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// One attempt at finding out who a party is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize)]
#[serde(deny_unknown_fields)]
pub struct Verification {
    /// What its maker calls it; one with the id of an earlier one replaces it.
    pub id: String,
    /// How.
    #[zeroize(skip)]
    pub method: Method,
    /// Who checked: a provider, or a member of the operator's staff.
    pub checker: String,
    /// When it stood so.
    #[zeroize(skip)]
    pub at: UtcMillis,
    /// What came of it.
    #[zeroize(skip)]
    pub outcome: Outcome,
    /// What was looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Evidence>,
    /// Why it failed, or what else there is to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Two things that are known of a party and do not fit together.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize)]
#[serde(deny_unknown_fields)]
pub struct Discrepancy {
    /// Its name within the party; the same signal raises it once.
    pub id: String,
    /// What does not fit, in words.
    pub what: String,
    /// When it was found.
    #[zeroize(skip)]
    pub found: UtcMillis,
    /// How it was resolved; `None` while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Resolution>,
}

/// How something was resolved, by a person.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize)]
#[serde(deny_unknown_fields)]
pub struct Resolution {
    /// In words.
    pub how: String,
    /// Who.
    pub by: String,
    /// When.
    #[zeroize(skip)]
    pub at: UtcMillis,
}

impl Party {
    /// One of whom nothing is known.
    pub fn unknown(kind: CustomerKind) -> Self {
        Self {
            kind,
            names: Vec::new(),
            born: None,
            jurisdiction: None,
            citizenships: Vec::new(),
            residence: None,
            addresses: Vec::new(),
            emails: Vec::new(),
            telephones: Vec::new(),
            domains: Vec::new(),
            payments: Vec::new(),
            identifiers: Vec::new(),
            accesses: Vec::new(),
            us_person: UsStatus::default(),
            verifications: Vec::new(),
            discrepancies: Vec::new(),
            risk_reasons: Vec::new(),
        }
    }

    /// The full legal name.
    pub fn legal_name(&self) -> Option<&Name> {
        self.names.iter().find(|name| name.kind == NameKind::Legal)
    }

    /// The country that it counts under where parties are counted by country: that of its principal address, else of
    /// its law, its residence or its first citizenship.
    pub fn country(&self) -> Option<Country> {
        let principal = self.addresses_of(AddressKind::Principal).find_map(|address| address.country);
        principal.or(self.jurisdiction).or(self.residence).or_else(|| self.citizenships.first().copied())
    }

    /// Addresses of one kind, in their order.
    pub fn addresses_of(&self, kind: AddressKind) -> impl Iterator<Item = &Address> {
        self.addresses.iter().filter(move |address| address.kind == kind)
    }

    /// Whether it was found out who it is: what the last attempt that ended came to, else whether one goes on.
    pub fn verified(&self) -> Verified {
        let latest = |outcomes: &[Outcome]| {
            let of = self.verifications.iter().filter(|one| outcomes.contains(&one.outcome));
            of.max_by_key(|one| one.at)
        };
        match latest(&[Outcome::Verified, Outcome::Failed]) {
            Some(ended) if ended.outcome == Outcome::Verified => Verified::Verified,
            Some(_) => Verified::Failed,
            None if latest(&[Outcome::InProgress]).is_some() => Verified::InProgress,
            None => Verified::Unverified,
        }
    }

    /// Discrepancies that nobody has resolved.
    pub fn open_discrepancies(&self) -> impl Iterator<Item = &Discrepancy> {
        self.discrepancies.iter().filter(|one| one.resolved.is_none())
    }

    /// What a report says of it.
    pub fn identity(&self) -> Identity {
        let mut identity = Identity::default();
        let mut set = |field, values: Vec<&str>| {
            identity.set(field, Zeroizing::new(values.join(SEPARATOR)));
        };
        set(IdentityField::Name, self.legal_name().map(|name| name.full.as_str()).into_iter().collect());
        let full = |kind| self.addresses_of(kind).map(|address| address.full.as_str()).collect();
        set(IdentityField::Address, full(AddressKind::Principal));
        set(IdentityField::Locations, full(AddressKind::Use));
        let paid = |part: fn(&Payment) -> Option<&String>| {
            self.payments.iter().filter_map(part).map(String::as_str).collect()
        };
        set(IdentityField::PaymentMeans, paid(|payment| payment.means.as_ref()));
        set(IdentityField::PaymentSource, paid(|payment| payment.source.as_ref()));
        set(IdentityField::Email, self.emails.iter().map(String::as_str).collect());
        set(IdentityField::Telephone, self.telephones.iter().map(String::as_str).collect());
        let accesses: Vec<_> =
            self.accesses.iter().map(|access| Zeroizing::new(access.to_string())).collect();
        set(IdentityField::Access, accesses.iter().map(|access| access.as_str()).collect());
        identity
    }

    /// Takes what a file of customers says, which has a column for each field of a report: what stands there takes
    /// the place of what was known, a blank too; what the file has no column for stays.
    pub fn take(&mut self, identity: &Identity) {
        let text = |field| identity.get(field).map(one_line);
        if self.legal_name().map(|name| name.full.as_str()) != identity.get(IdentityField::Name) {
            self.names.retain(|name| name.kind != NameKind::Legal);
            let legal = text(IdentityField::Name).map(|full| Name::of(NameKind::Legal, full));
            self.names.splice(0..0, legal);
        }
        let before = self.identity();
        let changed = |field| before.get(field) != identity.get(field);
        if changed(IdentityField::Address) {
            self.addresses.retain(|address| address.kind != AddressKind::Principal);
            let principal =
                text(IdentityField::Address).map(|full| Address::of(AddressKind::Principal, full));
            self.addresses.splice(0..0, principal);
        }
        if changed(IdentityField::Locations) {
            self.addresses.retain(|address| address.kind != AddressKind::Use);
            let places = identity.get(IdentityField::Locations).into_iter().flat_map(|text| text.split(';'));
            self.addresses.extend(places.map(|place| Address::of(AddressKind::Use, place.trim())));
        }
        if changed(IdentityField::PaymentMeans) || changed(IdentityField::PaymentSource) {
            let (means, source) = (text(IdentityField::PaymentMeans), text(IdentityField::PaymentSource));
            let told = means.is_some() || source.is_some();
            self.payments = told.then_some(Payment { means, source }).into_iter().collect();
        }
        if changed(IdentityField::Email) {
            self.emails = text(IdentityField::Email).into_iter().collect();
        }
        if changed(IdentityField::Telephone) {
            self.telephones = text(IdentityField::Telephone).into_iter().collect();
        }
        if changed(IdentityField::Access) {
            let list = identity.get(IdentityField::Access).map(Access::list);
            // What a file says was read already: it is a list.
            self.accesses = list.and_then(Result::ok).unwrap_or_default();
        }
    }
}

/// Lines of an address, say, as one.
fn one_line(text: &str) -> String {
    let lines = text.split(char::is_control).map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(", ")
}

/// Between several values in one field of a report.
const SEPARATOR: &str = ";";

impl fmt::Debug for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Party")
            .field("kind", &self.kind)
            .field("names", &self.names.len())
            .field("addresses", &self.addresses.len())
            .field("identifiers", &self.identifiers.len())
            .field("verifications", &self.verifications.len())
            .finish_non_exhaustive()
    }
}

macro_rules! hides {
    ($($type:ident),*) => {$(
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($type), "(..)"))
            }
        }
    )*};
}

hides!(Name, Address, Payment, Identifier, Evidence, Verification, Discrepancy, Resolution);

#[cfg(test)]
mod tests;
