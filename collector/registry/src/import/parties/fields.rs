//! What a row can tell of a party: each thing by its path, what its text must be, and both ways between text and
//! record.

use std::sync::LazyLock;

use serde::{
    Deserialize, Serialize,
    de::{IntoDeserializer, value},
};
use zeroize::Zeroizing;

use super::{
    super::{MOMENT, moment},
    PartyRecord, Told,
};
use crate::{
    Access, ControlGroupId, CustomerKind, Party, PartyId, Standing, UsPerson,
    party::{
        Address, AddressKind, Basis, Country, Discrepancy, Identifier, Method, Name, NameKind, Outcome,
        PartialDate, Payment, Remedy, Resolution, Risk, Scheme, StatusBasis, Verification,
    },
};

/// One thing: its parts in the order of the group's, `None` where blank.
pub(super) type Entry = Vec<Option<Zeroizing<String>>>;

/// What a group of paths fills.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Shape {
    Id,
    Kind,
    ControlGroup,
    NoAccount,
    Reseller,
    Remedy,
    Risk,
    Opened,
    Closed,
    LastAccess,
    Names(NameKind),
    Born,
    Jurisdiction,
    Citizenships,
    Residence,
    Addresses(AddressKind),
    Emails,
    Telephones,
    Domains,
    Payments,
    Identifiers(Scheme),
    Accesses,
    UsPerson,
    Verifications,
    Discrepancies,
    RiskReasons,
}

/// What the text of a value must be.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Value {
    Text,
    Id,
    ControlGroup,
    Kind,
    Bool,
    Remedy,
    Risk,
    Moment,
    Country,
    Date,
    Access,
    UsPerson,
    Basis,
    Method,
    Outcome,
}

/// One part of a thing.
pub(super) struct Part {
    name: &'static str,
    pub(super) value: Value,
}

/// Paths that tell of one kind of thing together.
pub(super) struct Group {
    pub(super) shape: Shape,
    pub(super) parts: &'static [Part],
    /// Of each part.
    pub(super) paths: Vec<String>,
    /// Whether there may be several of it.
    pub(super) many: bool,
}

/// A part that does not fit the others.
pub(super) struct Unfit {
    pub(super) part: usize,
    pub(super) expected: &'static str,
}

const fn part(name: &'static str, value: Value) -> Part {
    Part { name, value }
}

const NAME: &[Part] = &[
    part("full", Value::Text),
    part("given", Value::Text),
    part("middle", Value::Text),
    part("patronymic", Value::Text),
    part("family", Value::Text),
    part("script", Value::Text),
];

const ADDRESS: &[Part] = &[
    part("full", Value::Text),
    part("street", Value::Text),
    part("locality", Value::Text),
    part("region", Value::Text),
    part("postcode", Value::Text),
    part("country", Value::Country),
];

const IDENTIFIER: &[Part] = &[
    part("number", Value::Text),
    part("issuer", Value::Text),
    part("country", Value::Country),
    part("expires", Value::Date),
];

const PAYMENT: &[Part] = &[part("means", Value::Text), part("source", Value::Text)];

const US_PERSON: &[Part] = &[
    part("", Value::UsPerson),
    part("basis", Value::Basis),
    part("decides", Value::Bool),
    part("at", Value::Moment),
    part("by", Value::Text),
];

const VERIFICATION: &[Part] = &[
    part("id", Value::Text),
    part("method", Value::Method),
    part("checker", Value::Text),
    part("at", Value::Moment),
    part("outcome", Value::Outcome),
    part("note", Value::Text),
];

const DISCREPANCY: &[Part] = &[
    part("id", Value::Text),
    part("what", Value::Text),
    part("found", Value::Moment),
    part("resolved.how", Value::Text),
    part("resolved.by", Value::Text),
    part("resolved.at", Value::Moment),
];

const NAMES: [NameKind; 6] = [
    NameKind::Legal,
    NameKind::Trading,
    NameKind::Alias,
    NameKind::Former,
    NameKind::Birth,
    NameKind::Transliteration,
];

const ADDRESSES: [AddressKind; 5] = [
    AddressKind::Principal,
    AddressKind::Registered,
    AddressKind::Mailing,
    AddressKind::Use,
    AddressKind::Other,
];

const SCHEMES: [Scheme; 8] = [
    Scheme::Passport,
    Scheme::NationalId,
    Scheme::DrivingLicence,
    Scheme::ResidencePermit,
    Scheme::Tax,
    Scheme::Registration,
    Scheme::Lei,
    Scheme::Other,
];

/// All that a row can tell, in the order in which it is written.
pub(super) static GROUPS: LazyLock<Vec<Group>> =
    LazyLock::new(|| {
        let group = |shape, prefix: &str, parts: &'static [Part], many| {
            let path = |part: &Part| match part.name {
                "" => prefix.to_owned(),
                name => format!("{prefix}.{name}"),
            };
            Group { shape, parts, paths: parts.iter().map(path).collect(), many }
        };
        macro_rules! of {
            ($shape:ident, $path:expr, $value:ident, $many:expr) => {
                group(Shape::$shape, $path, const { &[part("", Value::$value)] }, $many)
            };
        }
        let mut groups = vec![
            of!(Id, "id", Id, false),
            of!(Kind, "kind", Kind, false),
            of!(ControlGroup, "control_group", ControlGroup, false),
            of!(NoAccount, "standing.no_account", Bool, false),
            of!(Reseller, "standing.reseller", Id, false),
            of!(Remedy, "standing.remedy", Remedy, false),
            of!(Risk, "standing.risk", Risk, false),
            of!(Opened, "standing.opened", Moment, false),
            of!(Closed, "standing.closed", Moment, false),
            of!(LastAccess, "standing.last_access", Moment, false),
        ];
        groups.extend(
            NAMES.map(|kind| group(Shape::Names(kind), &format!("names.{}", name_of(&kind)), NAME, true)),
        );
        groups.extend([
            of!(Born, "born", Date, false),
            of!(Jurisdiction, "jurisdiction", Country, false),
            of!(Citizenships, "citizenships", Country, true),
            of!(Residence, "residence", Country, false),
        ]);
        groups.extend(ADDRESSES.map(|kind| {
            group(Shape::Addresses(kind), &format!("addresses.{}", name_of(&kind)), ADDRESS, true)
        }));
        groups.extend([
            of!(Emails, "emails", Text, true),
            of!(Telephones, "telephones", Text, true),
            of!(Domains, "domains", Text, true),
            group(Shape::Payments, "payments", PAYMENT, true),
        ]);
        groups.extend(SCHEMES.map(|scheme| {
            group(Shape::Identifiers(scheme), &format!("identifiers.{}", name_of(&scheme)), IDENTIFIER, true)
        }));
        groups.extend([
            of!(Accesses, "accesses", Access, true),
            group(Shape::UsPerson, "us_person", US_PERSON, true),
            group(Shape::Verifications, "verifications", VERIFICATION, true),
            group(Shape::Discrepancies, "discrepancies", DISCREPANCY, true),
            of!(RiskReasons, "risk_reasons", Text, true),
        ]);
        groups
    });

/// Every path that a column may fill.
pub fn party_paths() -> impl Iterator<Item = &'static str> {
    GROUPS.iter().flat_map(|group| group.paths.iter().map(String::as_str))
}

/// The group of a path, and which of its parts it is.
pub(super) fn find(path: &str) -> Option<(&'static Group, &'static Part)> {
    GROUPS.iter().find_map(|group| {
        let part = group.paths.iter().position(|known| known == path)?;
        Some((group, group.parts.get(part)?))
    })
}

/// What is expected at a path.
pub(super) fn expected(path: &str) -> &'static str {
    find(path).map_or(Value::Text.expected(), |(_, part)| part.value.expected())
}

/// The path of a place that [`Party::check`] names, as `names[0].full`.
pub(super) fn path_of(party: &Party, place: &str) -> String {
    let Some((list, rest)) = place.split_once('[') else { return place.into() };
    let Some((index, part)) = rest.split_once(']') else { return place.into() };
    let index: usize = index.parse().unwrap_or(usize::MAX);
    let kind = match list {
        "names" => party.names.get(index).map(|name| name_of(&name.kind)),
        "addresses" => party.addresses.get(index).map(|address| name_of(&address.kind)),
        "identifiers" => party.identifiers.get(index).map(|identifier| name_of(&identifier.scheme)),
        _ => None,
    };
    match kind {
        Some(kind) => format!("{list}.{kind}{part}"),
        None => format!("{list}{part}"),
    }
}

impl Value {
    pub(super) fn expected(self) -> &'static str {
        match self {
            Self::Text => "text of at most 4,096 bytes in one line",
            Self::Id => PartyId::EXPECTED,
            Self::ControlGroup => ControlGroupId::EXPECTED,
            Self::Kind => CustomerKind::EXPECTED,
            Self::Bool => "true or false",
            Self::Remedy => "none, not_opened, restricted, monitored, closed or redress",
            Self::Risk => "standard or enhanced",
            Self::Moment => MOMENT,
            Self::Country => Country::EXPECTED,
            Self::Date => PartialDate::EXPECTED,
            Self::Access => Access::EXPECTED,
            Self::UsPerson => UsPerson::EXPECTED,
            Self::Basis => "citizenship, permanent_residence, organisation, location or told",
            Self::Method => "documentary or non_documentary",
            Self::Outcome => "in_progress, verified or failed",
        }
    }

    pub(super) fn fits(self, text: &str) -> bool {
        match self {
            Self::Text => !text.is_empty(),
            Self::Id => text.parse::<PartyId>().is_ok(),
            Self::ControlGroup => text.parse::<ControlGroupId>().is_ok(),
            Self::Kind => named::<CustomerKind>(text).is_some(),
            Self::Bool => text.parse::<bool>().is_ok(),
            Self::Remedy => named::<Remedy>(text).is_some(),
            Self::Risk => named::<Risk>(text).is_some(),
            Self::Moment => moment(text).is_some(),
            Self::Country => text.parse::<Country>().is_ok(),
            Self::Date => text.parse::<PartialDate>().is_ok(),
            Self::Access => text.parse::<Access>().is_ok(),
            Self::UsPerson => named::<UsPerson>(text).is_some(),
            Self::Basis => named::<Basis>(text).is_some(),
            Self::Method => named::<Method>(text).is_some(),
            Self::Outcome => named::<Outcome>(text).is_some(),
        }
    }
}

/// A value of an enum by its name in files and ledgers.
fn named<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    let text: value::StrDeserializer<'_, value::Error> = text.into_deserializer();
    T::deserialize(text).ok()
}

/// The name of it.
fn name_of(value: &impl Serialize) -> String {
    let name = serde_json::to_value(value).ok();
    name.and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A record while its row is read.
pub(super) struct Draft<'a> {
    told: Told<'a>,
    pub(super) id: Option<PartyId>,
    pub(super) kind: Option<CustomerKind>,
    control_group: Option<ControlGroupId>,
    standing: Standing,
    party: Party,
}

impl<'a> Draft<'a> {
    pub(super) fn new(told: Told<'a>) -> Self {
        Self {
            told,
            id: None,
            kind: None,
            control_group: None,
            standing: Standing::default(),
            party: Party::unknown(CustomerKind::Person),
        }
    }

    pub(super) fn finish(mut self) -> Option<PartyRecord> {
        self.party.kind = self.kind?;
        let Self { id, control_group, standing, party, .. } = self;
        Some(PartyRecord { id: id?, control_group, standing, party })
    }

    /// Takes one thing. Each of its values fits its part; what may be missing is that they do not make a thing.
    pub(super) fn take(&mut self, group: &Group, entry: &Entry) -> Result<(), Unfit> {
        let told = |part: usize| entry.get(part).and_then(Option::as_ref).map(|value| value.as_str());
        let text = |part| told(part).map(str::to_owned);
        let need = |part: usize| {
            let expected = group.parts.get(part).map_or("a value", |part| part.value.expected());
            told(part).ok_or(Unfit { part, expected })
        };
        // Whatever is told was looked at before, so nothing but what is blank is lacking here.
        macro_rules! parsed {
            ($part:expr, $parse:expr) => {{
                let value = need($part)?;
                let expected = group.parts.get($part).map_or("a value", |part| part.value.expected());
                $parse(value).ok_or(Unfit { part: $part, expected })?
            }};
        }
        let country = |part| told(part).and_then(|text| text.parse::<Country>().ok());
        let party = &mut self.party;
        match group.shape {
            Shape::Id => self.id = told(0).and_then(|text| text.parse().ok()),
            Shape::Kind => self.kind = told(0).and_then(named),
            Shape::ControlGroup => self.control_group = told(0).and_then(|text| text.parse().ok()),
            Shape::NoAccount => self.standing.no_account = told(0) == Some("true"),
            Shape::Reseller => self.standing.reseller = told(0).and_then(|text| text.parse().ok()),
            Shape::Remedy => self.standing.remedy = told(0).and_then(named).unwrap_or_default(),
            Shape::Risk => self.standing.risk = told(0).and_then(named).unwrap_or_default(),
            Shape::Opened => self.standing.opened = told(0).and_then(moment),
            Shape::Closed => self.standing.closed = told(0).and_then(moment),
            Shape::LastAccess => self.standing.last_access = told(0).and_then(moment),
            Shape::Names(kind) => party.names.push(Name {
                kind,
                full: need(0)?.into(),
                given: text(1),
                middle: text(2),
                patronymic: text(3),
                family: text(4),
                script: text(5),
            }),
            Shape::Born => party.born = told(0).and_then(|text| text.parse().ok()),
            Shape::Jurisdiction => party.jurisdiction = country(0),
            Shape::Citizenships => party.citizenships.push(parsed!(0, |text: &str| text.parse().ok())),
            Shape::Residence => party.residence = country(0),
            Shape::Addresses(kind) => party.addresses.push(Address {
                kind,
                full: need(0)?.into(),
                street: text(1),
                locality: text(2),
                region: text(3),
                postcode: text(4),
                country: country(5),
            }),
            Shape::Emails => party.emails.push(need(0)?.into()),
            Shape::Telephones => party.telephones.push(need(0)?.into()),
            Shape::Domains => party.domains.push(need(0)?.into()),
            Shape::Payments => party.payments.push(Payment { means: text(0), source: text(1) }),
            Shape::Identifiers(scheme) => party.identifiers.push(Identifier {
                scheme,
                number: need(0)?.into(),
                issuer: text(1),
                country: country(2),
                expires: told(3).and_then(|text| text.parse().ok()),
            }),
            Shape::Accesses => party.accesses.push(parsed!(0, |text: &str| text.parse().ok())),
            Shape::UsPerson => {
                let says = parsed!(0, named);
                // Nothing but that nobody has found it out: so it is without a word.
                let nothing = says == UsPerson::Undetermined && (1..5).all(|part| told(part).is_none());
                if !nothing {
                    party.us_person.0.push(StatusBasis {
                        says,
                        basis: told(1).and_then(named).unwrap_or(Basis::Told),
                        decides: told(2) != Some("false"),
                        at: told(3).and_then(moment).unwrap_or(self.told.at),
                        by: told(4).unwrap_or(self.told.by).into(),
                        evidence: Vec::new(),
                    });
                }
            }
            Shape::Verifications => party.verifications.push(Verification {
                id: need(0)?.into(),
                method: parsed!(1, named),
                checker: need(2)?.into(),
                at: parsed!(3, moment),
                outcome: parsed!(4, named),
                evidence: Vec::new(),
                note: text(5),
            }),
            Shape::Discrepancies => {
                let resolved = (3..6).any(|part| told(part).is_some());
                let resolved = match resolved {
                    false => None,
                    true => {
                        Some(Resolution { how: need(3)?.into(), by: need(4)?.into(), at: parsed!(5, moment) })
                    }
                };
                party.discrepancies.push(Discrepancy {
                    id: need(0)?.into(),
                    what: need(1)?.into(),
                    found: parsed!(2, moment),
                    resolved,
                });
            }
            Shape::RiskReasons => party.risk_reasons.push(need(0)?.into()),
        }
        Ok(())
    }
}

/// What a record tells of a group, in the record's order.
pub(super) fn entries(record: &PartyRecord, group: &Group) -> Vec<Entry> {
    fn one(text: impl Into<String>) -> Option<Zeroizing<String>> {
        Some(Zeroizing::new(text.into()))
    }
    fn maybe(text: Option<impl ToString>) -> Option<Zeroizing<String>> {
        text.map(|text| Zeroizing::new(text.to_string()))
    }
    fn texts(list: &[impl ToString]) -> Vec<Entry> {
        list.iter().map(|text| vec![one(text.to_string())]).collect()
    }
    fn single(value: Option<impl ToString>) -> Vec<Entry> {
        value.map(|value| vec![maybe(Some(value))]).into_iter().collect()
    }
    let PartyRecord { id, control_group, standing, party } = record;
    match group.shape {
        Shape::Id => single(Some(id)),
        Shape::Kind => single(Some(party.kind.as_str())),
        Shape::ControlGroup => single(control_group.as_ref()),
        Shape::NoAccount => single(standing.no_account.then_some(true)),
        Shape::Reseller => single(standing.reseller.as_ref()),
        Shape::Remedy => single((standing.remedy != Remedy::None).then(|| name_of(&standing.remedy))),
        Shape::Risk => single((standing.risk != Risk::Standard).then(|| name_of(&standing.risk))),
        Shape::Opened => single(standing.opened),
        Shape::Closed => single(standing.closed),
        Shape::LastAccess => single(standing.last_access),
        Shape::Names(kind) => {
            let of_kind = party.names.iter().filter(|name| name.kind == kind);
            let entry = |name: &Name| {
                let parts = [&name.given, &name.middle, &name.patronymic, &name.family, &name.script];
                let parts = parts.map(|part| maybe(part.as_ref()));
                [one(name.full.as_str())].into_iter().chain(parts).collect()
            };
            of_kind.map(entry).collect()
        }
        Shape::Born => single(party.born),
        Shape::Jurisdiction => single(party.jurisdiction),
        Shape::Citizenships => texts(&party.citizenships),
        Shape::Residence => single(party.residence),
        Shape::Addresses(kind) => {
            let entry = |address: &Address| {
                let parts = [&address.street, &address.locality, &address.region, &address.postcode];
                let parts = parts.map(|part| maybe(part.as_ref()));
                let full = [one(address.full.as_str())].into_iter();
                full.chain(parts).chain([maybe(address.country)]).collect()
            };
            party.addresses_of(kind).map(entry).collect()
        }
        Shape::Emails => texts(&party.emails),
        Shape::Telephones => texts(&party.telephones),
        Shape::Domains => texts(&party.domains),
        Shape::Payments => {
            let entry =
                |payment: &Payment| vec![maybe(payment.means.as_ref()), maybe(payment.source.as_ref())];
            party.payments.iter().map(entry).collect()
        }
        Shape::Identifiers(scheme) => {
            let of_scheme = party.identifiers.iter().filter(|identifier| identifier.scheme == scheme);
            let entry = |identifier: &Identifier| {
                vec![
                    one(identifier.number.as_str()),
                    maybe(identifier.issuer.as_ref()),
                    maybe(identifier.country),
                    maybe(identifier.expires),
                ]
            };
            of_scheme.map(entry).collect()
        }
        Shape::Accesses => texts(&party.accesses),
        Shape::UsPerson => {
            let entry = |status: &StatusBasis| {
                vec![
                    one(status.says.as_str()),
                    one(name_of(&status.basis)),
                    one(status.decides.to_string()),
                    one(status.at.to_string()),
                    one(status.by.as_str()),
                ]
            };
            party.us_person.0.iter().map(entry).collect()
        }
        Shape::Verifications => {
            let entry = |verification: &Verification| {
                vec![
                    one(verification.id.as_str()),
                    one(name_of(&verification.method)),
                    one(verification.checker.as_str()),
                    one(verification.at.to_string()),
                    one(name_of(&verification.outcome)),
                    maybe(verification.note.as_ref()),
                ]
            };
            party.verifications.iter().map(entry).collect()
        }
        Shape::Discrepancies => {
            let entry = |discrepancy: &Discrepancy| {
                let resolved = discrepancy.resolved.as_ref();
                vec![
                    one(discrepancy.id.as_str()),
                    one(discrepancy.what.as_str()),
                    one(discrepancy.found.to_string()),
                    maybe(resolved.map(|resolved| &resolved.how)),
                    maybe(resolved.map(|resolved| &resolved.by)),
                    maybe(resolved.map(|resolved| resolved.at)),
                ]
            };
            party.discrepancies.iter().map(entry).collect()
        }
        Shape::RiskReasons => texts(&party.risk_reasons),
    }
}
