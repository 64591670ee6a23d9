//! The Beneficial Ownership Data Standard 0.4: statements about persons, entities and their relationships, in one JSON
//! array or one a line.
//!
//! | record | BODS |
//! |---|---|
//! | person | `person` record, *knownPerson* |
//! | entity, reseller | `entity` record, *registeredEntity* where a register gave it a number, else *legalEntity*; all others but *arrangement* are read alike |
//! | arrangement | `entity` record, *arrangement* |
//! | names of a person | `names` with full, given, patronymic and family name: *legal*, *former*, *birth*, *transliteration*; any other *alternative* |
//! | names of another | `name` is the first legal one, `alternateNames` are all others |
//! | born | `birthDate`; `foundingDate`, which must be a whole day |
//! | law; citizenship | `jurisdiction` of an entity; `nationalities` of a person |
//! | addresses | full text, postal code and country: a person's principal one is its *residence*, the one for mail *service*; an entity's *business* and *registered*; any other *alternative* |
//! | identifiers | `scheme` is `{country}-PASSPORT`, `-TAXID` or `-IDCARD` of a person, *XI-LEI*, or a register's code by org-id.guide; `schemeName` is who issued it, else what it is |
//! | interests | the relationship of both, with the kind, the share and the days of each |
//! | substantial control | said in `details`; of a person that is `beneficialOwnershipOrControl` too |
//!
//! Lost ([`held`], [`held_interests`]): whether an entity is a reseller; middle names and scripts; parts and kinds of an entity's
//! names; a founding date that is no whole day; law of a person, citizenship of others; residence; street, town and
//! region of an address apart from its text, and what it is for beyond the kinds above; email, telephone, domains; when
//! a document ends, and what a scheme's code cannot say: country of an entity's number, what an issued number is;
//! payments, accesses, US status, verifications, discrepancies, reasons of risk; the time of day of an interest's begin
//! and end.
//!
//! Of one record the latest statement counts, and of two of one moment the later in the file. A *closed* party is left
//! out; the interests of a closed relationship end when that was stated, unless before. A relationship with or of
//! somebody unspecified is left out under its reason. Whether an interest is direct has no place in a record: one that
//! is *indirect* is left out where the file tells its components, for these say the same, and else taken as it is. Who is a
//! beneficial owner is worked out here, and not taken from others, whose definition may differ.
//!
//! Interests by their type; what is left out is counted under it:
//!
//! | type | kind | why |
//! |---|---|---|
//! | shareholding | shareholding | |
//! | votingRights | votes | |
//! | appointmentOfBoard | appoints the board | |
//! | boardMember, boardChair, seniorManagingOfficial | manages | |
//! | trustee | manages | runs the arrangement; that is no control of its own over what another settled |
//! | otherInfluenceOrControl, controlViaCompanyRulesOrArticles, controlByLegalFramework | other control | |
//! | rightsGrantedByContract | other control | control by contract stands under this; in doubt it is that |
//! | settlor, protector | other control | who gave, and who directs the trustees; the standard calls both controlling |
//! | nominator | other control | the nominee acts as it says |
//! | beneficiaryOfLegalArrangement | shareholding | a part of what the arrangement is worth |
//! | rightsToSurplusAssetsOnDissolution | shareholding | the same, as of partners without shares; left out beside a shareholding of the same relationship, which it would count twice |
//! | rightsToProfitOrIncome, rightToProfitOrIncomeFromAssets, enjoymentAndUseOfAssets | left out | economic: no part of it, and no say |
//! | conditionalRightsGrantedByContract | left out | not in force before its condition is |
//! | nominee | left out | acts as it is told |
//! | unknownInterest, unpublishedInterest | left out | nothing is told |

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use weighbridge_meter::UtcMillis;

use super::{
    COUNTRY_EXPECTED, DAY_EXPECTED, Errors, Read, Reading, TEXT_EXPECTED, begins, below, beyond, country,
    date, day, ends, id_of, in_days, is_code, join, moment, party_id, plain_names, share, three_letters,
    with_full, word,
};
use crate::{
    CustomerKind, Interest, InterestKind,
    ownership::{Share, Stake},
    party::{Address, AddressKind, Country, Identifier, Name, NameKind, PartialDate, Party, PartyId, Scheme},
};

const SUBSTANTIAL: &str = "Substantial control";

/// All interest types of the standard.
const TYPES: [(&str, Option<InterestKind>); 23] = [
    ("shareholding", Some(InterestKind::Shareholding)),
    ("votingRights", Some(InterestKind::VotingRights)),
    ("appointmentOfBoard", Some(InterestKind::AppointsBoard)),
    ("otherInfluenceOrControl", Some(InterestKind::OtherControl)),
    ("seniorManagingOfficial", Some(InterestKind::Manages)),
    ("settlor", Some(InterestKind::OtherControl)),
    ("trustee", Some(InterestKind::Manages)),
    ("protector", Some(InterestKind::OtherControl)),
    ("beneficiaryOfLegalArrangement", Some(InterestKind::Shareholding)),
    (SURPLUS, Some(InterestKind::Shareholding)),
    ("rightsToProfitOrIncome", None),
    ("rightsGrantedByContract", Some(InterestKind::OtherControl)),
    ("conditionalRightsGrantedByContract", None),
    ("controlViaCompanyRulesOrArticles", Some(InterestKind::OtherControl)),
    ("controlByLegalFramework", Some(InterestKind::OtherControl)),
    ("boardMember", Some(InterestKind::Manages)),
    ("boardChair", Some(InterestKind::Manages)),
    ("unknownInterest", None),
    ("unpublishedInterest", None),
    ("enjoymentAndUseOfAssets", None),
    ("rightToProfitOrIncomeFromAssets", None),
    ("nominee", None),
    ("nominator", Some(InterestKind::OtherControl)),
];

const SURPLUS: &str = "rightsToSurplusAssetsOnDissolution";

/// What a number is, in words, where neither a code nor its issuer says anything.
const SCHEMES: [(&str, Scheme); 8] = [
    ("Passport", Scheme::Passport),
    ("National identity card", Scheme::NationalId),
    ("Driving licence", Scheme::DrivingLicence),
    ("Residence permit", Scheme::ResidencePermit),
    ("Tax number", Scheme::Tax),
    ("Registration number", Scheme::Registration),
    ("Legal entity identifier", Scheme::Lei),
    ("Other number", Scheme::Other),
];

/// Who says so, and when.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'a> {
    /// The publisher's name.
    pub publisher: &'a str,
    /// The moment.
    pub at: UtcMillis,
}

/// One array of statements: one for each party, then one for each two of them that have interests.
pub fn write(parties: &[(PartyId, Party)], interests: &[Interest], by: Publication<'_>) -> String {
    let mut statements = Vec::new();
    let persons: Vec<&PartyId> =
        parties.iter().filter(|(_, party)| party.kind == CustomerKind::Person).map(|(id, _)| id).collect();
    for (id, party) in parties {
        let (kind, details) = match party.kind {
            CustomerKind::Person => ("person", person(party)),
            _ => ("entity", entity(party)),
        };
        statements.push(statement(id.as_str(), id.as_str(), kind, details, by));
    }
    let mut pairs: BTreeMap<(&PartyId, &PartyId), Vec<Value>> = BTreeMap::new();
    for one in interests {
        let is_person = persons.contains(&&one.owner);
        pairs.entry((&one.asset, &one.owner)).or_default().push(interest(one, is_person));
    }
    for ((asset, owner), interests) in pairs {
        let (asset, owner) = (asset.as_str(), owner.as_str());
        let details = json!({ "isComponent": false, "subject": asset, "interestedParty": owner, "interests": interests });
        let record = id_of(&["relationship", asset, owner]);
        statements.push(statement(asset, &record, "relationship", details, by));
    }
    Value::Array(statements).to_string()
}

fn statement(subject: &str, record: &str, kind: &str, details: Value, by: Publication<'_>) -> Value {
    let at = by.at.to_string();
    json!({
        "statementId": id_of(&["statement", kind, record, &at]),
        "statementDate": at,
        "declarationSubject": subject,
        "publicationDetails": {
            "publicationDate": at, "bodsVersion": "0.4", "publisher": { "name": by.publisher },
        },
        "recordId": record,
        "recordStatus": "new",
        "recordType": kind,
        "recordDetails": details,
    })
}

fn set(details: &mut Value, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        details[key] = value.into();
    }
}

fn set_list(details: &mut Value, key: &str, values: Vec<Value>) {
    set(details, key, (!values.is_empty()).then_some(values));
}

/// A country must have a name; its letters are one.
fn named(country: Country) -> Value {
    json!({ "name": country.as_str(), "code": country.as_str() })
}

fn person(party: &Party) -> Value {
    let mut details = json!({ "isComponent": false, "personType": "knownPerson" });
    let names = party.names.iter().map(|name| {
        let kind = match name.kind {
            NameKind::Legal => "legal",
            NameKind::Former => "former",
            NameKind::Birth => "birth",
            NameKind::Transliteration => "transliteration",
            NameKind::Trading | NameKind::Alias => "alternative",
        };
        let mut told = json!({ "type": kind, "fullName": name.full });
        set(&mut told, "givenName", name.given.as_deref());
        set(&mut told, "patronymicName", name.patronymic.as_deref());
        set(&mut told, "familyName", name.family.as_deref());
        told
    });
    set_list(&mut details, "names", names.collect());
    set_list(&mut details, "nationalities", party.citizenships.iter().copied().map(named).collect());
    set(&mut details, "birthDate", party.born.map(|born| born.to_string()));
    written_alike(&mut details, party);
    details
}

fn entity(party: &Party) -> Value {
    let registered = party.identifiers.iter().any(|number| number.scheme == Scheme::Registration);
    let kind = match party.kind {
        CustomerKind::Arrangement => "arrangement",
        _ if registered => "registeredEntity",
        _ => "legalEntity",
    };
    let mut details = json!({ "isComponent": false, "entityType": { "type": kind } });
    let first = party.names.iter().position(|name| name.kind == NameKind::Legal);
    set(&mut details, "name", party.legal_name().map(|name| name.full.as_str()));
    let others = party.names.iter().enumerate().filter(|(index, _)| Some(*index) != first);
    set_list(&mut details, "alternateNames", others.map(|(_, name)| name.full.as_str().into()).collect());
    set(&mut details, "jurisdiction", party.jurisdiction.map(named));
    set(&mut details, "foundingDate", party.born.filter(PartialDate::is_whole).map(|born| born.to_string()));
    written_alike(&mut details, party);
    details
}

fn written_alike(details: &mut Value, party: &Party) {
    let is_person = party.kind == CustomerKind::Person;
    let addresses = party.addresses.iter().map(|address| {
        let kind = match (address.kind, is_person) {
            (AddressKind::Principal, true) => "residence",
            (AddressKind::Mailing, true) => "service",
            (AddressKind::Principal, false) => "business",
            (AddressKind::Registered, false) => "registered",
            _ => "alternative",
        };
        let mut told = json!({ "type": kind, "address": address.full });
        set(&mut told, "postCode", address.postcode.as_deref());
        set(&mut told, "country", address.country.map(named));
        told
    });
    set_list(details, "addresses", addresses.collect());
    let identifiers = party.identifiers.iter().map(|number| {
        let mut told = json!({ "id": number.number });
        let (code, name) = scheme(number, is_person);
        set(&mut told, "scheme", code);
        set(&mut told, "schemeName", name);
        told
    });
    set_list(details, "identifiers", identifiers.collect());
}

/// A scheme's code, and its name.
fn scheme(number: &Identifier, of_person: bool) -> (Option<String>, Option<&str>) {
    let issuer = number.issuer.as_deref();
    let by_country = |kind| Some(format!("{}-{kind}", three_letters(number.country?)));
    let code = match number.scheme {
        Scheme::Lei => Some("XI-LEI".to_owned()),
        Scheme::Passport if of_person => by_country("PASSPORT"),
        Scheme::NationalId if of_person => by_country("IDCARD"),
        Scheme::Tax if of_person => by_country("TAXID"),
        Scheme::Registration => match issuer {
            Some(issuer) if register(issuer).is_some_and(|of| Some(of) == number.country) => {
                return (Some(issuer.to_owned()), None);
            }
            _ => None,
        },
        _ => None,
    };
    let words = || SCHEMES.iter().find(|(_, scheme)| *scheme == number.scheme).map(|(words, _)| *words);
    let name = if code.is_some() { issuer } else { issuer.or_else(words) };
    (code, name)
}

/// The country of a register, by its code of org-id.guide, as GB-COH.
fn register(code: &str) -> Option<Country> {
    let (of, rest) = code.split_once('-')?;
    let good = of.len() == 2 && of.bytes().all(|byte| byte.is_ascii_uppercase());
    let rest_good =
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if good && rest_good { of.parse().ok() } else { None }
}

fn interest(interest: &Interest, of_person: bool) -> Value {
    let interest = in_days(interest);
    let kind = match interest.kind {
        InterestKind::Shareholding => "shareholding",
        InterestKind::VotingRights => "votingRights",
        InterestKind::AppointsBoard => "appointmentOfBoard",
        InterestKind::Manages => "seniorManagingOfficial",
        InterestKind::OtherControl => "otherInfluenceOrControl",
    };
    let mut told = json!({ "type": kind, "directOrIndirect": "unknown" });
    if interest.substantial_control {
        set(&mut told, "details", Some(SUBSTANTIAL));
        set(&mut told, "beneficialOwnershipOrControl", of_person.then_some(true));
    }
    let percent = |share: Share| match share.millionths() {
        whole if whole.is_multiple_of(10_000) => Value::from(whole / 10_000),
        millionths => Value::from(f64::from(millionths) / 10_000.0),
    };
    let share = interest.share.map(|stake| {
        let (least, most) = (stake.least(), stake.most());
        let mut told = json!({ "minimum": percent(least), "maximum": percent(most) });
        set(&mut told, "exact", (least == most).then(|| percent(least)));
        told
    });
    set(&mut told, "share", share);
    set(&mut told, "startDate", interest.from.map(day));
    set(&mut told, "endDate", interest.to.map(day));
    told
}

/// What is left of a party once it was written and read again. See the module for what is not.
pub fn held(party: &Party) -> Party {
    let kind = match party.kind {
        CustomerKind::Reseller => CustomerKind::Entity,
        kind => kind,
    };
    let mut left = Party::unknown(kind);
    let is_person = kind == CustomerKind::Person;
    if is_person {
        left.names = party.names.clone();
        for name in &mut left.names {
            (name.middle, name.script) = (None, None);
            if name.kind == NameKind::Trading {
                name.kind = NameKind::Alias;
            }
        }
        left.citizenships = party.citizenships.clone();
        left.born = party.born;
    } else {
        left.names.extend(plain_names(party, &[NameKind::Legal], NameKind::Legal).into_iter().take(1));
        let first = party.names.iter().position(|name| name.kind == NameKind::Legal);
        let others = party.names.iter().enumerate().filter(|(index, _)| Some(*index) != first);
        left.names.extend(others.map(|(_, name)| Name::of(NameKind::Alias, name.full.as_str())));
        left.jurisdiction = party.jurisdiction;
        left.born = party.born.filter(PartialDate::is_whole);
    }
    left.addresses = party.addresses.clone();
    for address in &mut left.addresses {
        (address.street, address.locality, address.region) = (None, None, None);
        address.kind = match (address.kind, is_person) {
            (AddressKind::Principal, _) => AddressKind::Principal,
            (AddressKind::Mailing, true) => AddressKind::Mailing,
            (AddressKind::Registered, false) => AddressKind::Registered,
            _ => AddressKind::Other,
        };
    }
    left.identifiers = party.identifiers.clone();
    for number in &mut left.identifiers {
        number.expires = None;
        let code_of_country =
            is_person && matches!(number.scheme, Scheme::Passport | Scheme::NationalId | Scheme::Tax);
        let by_register = number.scheme == Scheme::Registration
            && number.issuer.as_deref().and_then(register).is_some_and(|of| Some(of) == number.country);
        if (code_of_country && number.country.is_some()) || by_register {
            continue;
        }
        number.country = None;
        if number.scheme != Scheme::Lei
            && let Some((_, scheme)) =
                SCHEMES.iter().find(|(words, _)| Some(*words) == number.issuer.as_deref())
        {
            // Said as an issuer, it is read as what the number is.
            (number.scheme, number.issuer) = (*scheme, None);
        }
        if number.issuer.is_some() && number.scheme != Scheme::Lei {
            number.scheme = Scheme::Other;
        }
    }
    left
}

/// The same of interests, whose order between different pairs of parties is lost too.
pub fn held_interests(interests: &[Interest]) -> Vec<Interest> {
    let mut left: Vec<Interest> = interests.iter().map(in_days).collect();
    left.sort_by(|a, b| (&a.asset, &a.owner).cmp(&(&b.asset, &b.owner)));
    left
}

/// One statement of a file.
struct Statement {
    line: u64,
    at: UtcMillis,
    kind: Record,
    closed: bool,
    details: Map<String, Value>,
}

#[derive(Clone, Copy, PartialEq)]
enum Record {
    Person,
    Entity,
    Relationship,
}

/// Reads a file of statements.
///
/// # Errors
/// Every fault in the file, by line and place but without the values; nothing of it is read then.
pub fn read(file_name: &str, bytes: &[u8]) -> Result<Read, Errors> {
    let mut reading = Reading::default();
    let (order, mut latest) = statements(&mut reading, bytes);
    let is_told = |one: &Statement| one.kind == Record::Relationship && !one.closed;
    let relationships: BTreeSet<String> =
        latest.iter().filter(|(_, one)| is_told(one)).map(|(record, _)| record.clone()).collect();
    let mut read = Read::default();
    for record in order {
        let Some(statement) = latest.remove(&record) else { continue };
        reading.line = statement.line;
        match statement.kind {
            Record::Person if statement.closed => reading.leave_out("person: closed"),
            Record::Entity if statement.closed => reading.leave_out("entity: closed"),
            Record::Person | Record::Entity => {
                let party = match statement.kind {
                    Record::Person => read_person(&mut reading, &statement.details),
                    _ => read_entity(&mut reading, &statement.details),
                };
                let id = party_id(&mut reading, "recordId", &record);
                if let Some(id) = id.filter(|_| reading.keepable(&party)) {
                    read.parties.push((id, party));
                }
            }
            Record::Relationship => read_relationship(&mut reading, &mut read, &relationships, &statement),
        }
    }
    if reading.total > 0 {
        return Err(reading.refused(file_name));
    }
    Ok(Read { left_out: reading.left_out, ..read })
}

/// The records in the order in which they are first told, and the latest statement of each.
fn statements(reading: &mut Reading, bytes: &[u8]) -> (Vec<String>, BTreeMap<String, Statement>) {
    let mut order = Vec::new();
    let mut latest: BTreeMap<String, Statement> = BTreeMap::new();
    for (line, mut object) in reading.objects(bytes) {
        reading.line = line;
        let kind = match object.get("recordType").and_then(Value::as_str) {
            Some("person") => Some(Record::Person),
            Some("entity") => Some(Record::Entity),
            Some("relationship") => Some(Record::Relationship),
            _ => {
                reading
                    .fault("recordType", "person, entity or relationship, as statements of BODS 0.4 have it");
                None
            }
        };
        let closed = match object.get("recordStatus") {
            None | Some(Value::Null) => false,
            Some(Value::String(status)) if matches!(status.as_str(), "new" | "updated" | "closed") => {
                status == "closed"
            }
            Some(_) => {
                reading.fault("recordStatus", "new, updated or closed");
                false
            }
        };
        if let Some(publication) = reading.object(&object, "", "publicationDetails") {
            let known = |version: &str| (version == "0.4").then_some(());
            reading.parsed(publication, "publicationDetails", "bodsVersion", "0.4", known);
        }
        let expected = "a date or an RFC 3339 time";
        let at = reading.parsed(&object, "", "statementDate", expected, moment);
        let id = reading.text(&object, "", "recordId");
        let details = match object.remove("recordDetails") {
            Some(Value::Object(details)) => Some(details),
            _ => None,
        };
        for (place, missing) in [
            ("statementDate", at.is_none() && !object.contains_key("statementDate")),
            ("recordId", id.is_none()),
            ("recordDetails", details.is_none()),
        ] {
            if missing {
                reading.fault(place, "what every statement has here");
            }
        }
        let (Some(kind), Some(at), Some(id), Some(details)) = (kind, at, id, details) else { continue };
        let statement = Statement { line, at, kind, closed, details };
        match latest.get_mut(&id) {
            None => {
                order.push(id.clone());
                latest.insert(id, statement);
            }
            Some(known) if known.kind != statement.kind => {
                reading.fault("recordType", "the same in all statements of a record");
            }
            Some(known) if known.at <= statement.at => *known = statement,
            Some(_) => {}
        }
    }
    (order, latest)
}

const AT: &str = "recordDetails";

impl Reading {
    /// A country, or a part of one, by its code, or by a name that is its code.
    fn country_in(&mut self, object: &Map<String, Value>, place: &str, called: &str) -> Option<Country> {
        let code = self.text(object, place, "code");
        let name = self.text(object, place, "name");
        match (&code, &name) {
            (Some(code), _) if country(code).is_some() => country(code),
            (Some(code), _) if !is_code(code) => {
                self.fault(join(place, "code"), COUNTRY_EXPECTED);
                None
            }
            (None, Some(name)) if country(name).is_some() => country(name),
            (None, None) => {
                self.fault(place, "a country with name or code");
                None
            }
            _ => {
                self.leave_out(&format!("{called}: without a code of ISO 3166-1"));
                None
            }
        }
    }
}

fn read_person(reading: &mut Reading, details: &Map<String, Value>) -> Party {
    let mut party = Party::unknown(CustomerKind::Person);
    for (place, name) in reading.objects_in(details, AT, "names") {
        let kind = match reading.text(name, &place, "type").as_deref() {
            // What has no type is the name.
            Some("legal") | None => NameKind::Legal,
            Some("former") => NameKind::Former,
            Some("birth") => NameKind::Birth,
            Some("transliteration") => NameKind::Transliteration,
            Some("alternative" | "translation") => NameKind::Alias,
            Some(_) => {
                let expected = "legal, translation, transliteration, former, alternative or birth";
                reading.fault(join(&place, "type"), expected);
                continue;
            }
        };
        let full = reading.text(name, &place, "fullName");
        let parts = Name {
            given: reading.text(name, &place, "givenName"),
            patronymic: reading.text(name, &place, "patronymicName"),
            family: reading.text(name, &place, "familyName"),
            ..Name::of(kind, "")
        };
        let name = match full {
            Some(full) => Some(Name { full, ..parts }),
            None => super::composed(parts),
        };
        match name {
            Some(name) => party.names.push(name),
            None => reading.fault(join(&place, "fullName"), "the name that every name has"),
        }
    }
    for (place, nationality) in reading.objects_in(details, AT, "nationalities") {
        party.citizenships.extend(reading.country_in(nationality, &place, "nationalities"));
    }
    party.born = reading.parsed(details, AT, "birthDate", DAY_EXPECTED, date);
    read_alike(reading, details, &mut party);
    party
}

fn read_entity(reading: &mut Reading, details: &Map<String, Value>) -> Party {
    let form = reading.object(details, AT, "entityType");
    let form = form.and_then(|form| reading.text(form, "recordDetails.entityType", "type"));
    let kind = match form.as_deref() {
        Some("arrangement") => CustomerKind::Arrangement,
        Some(
            "registeredEntity" | "legalEntity" | "anonymousEntity" | "unknownEntity" | "state" | "stateBody",
        ) => CustomerKind::Entity,
        _ => {
            let expected = "registeredEntity, legalEntity, arrangement, anonymousEntity, unknownEntity, state or stateBody";
            reading.fault("recordDetails.entityType.type", expected);
            CustomerKind::Entity
        }
    };
    let mut party = Party::unknown(kind);
    let name = reading.text(details, AT, "name");
    party.names.extend(name.map(|name| Name::of(NameKind::Legal, name)));
    for (place, name) in reading.array(details, AT, "alternateNames") {
        match name {
            Value::String(name) => {
                let name = super::cleaned(name, " ");
                party.names.extend(name.map(|name| Name::of(NameKind::Alias, name)));
            }
            _ => reading.fault(place, TEXT_EXPECTED),
        }
    }
    if let Some(of) = reading.object(details, AT, "jurisdiction") {
        party.jurisdiction = reading.country_in(of, "recordDetails.jurisdiction", "jurisdiction");
    }
    party.born = reading.parsed(details, AT, "foundingDate", DAY_EXPECTED, date);
    read_alike(reading, details, &mut party);
    party
}

fn read_alike(reading: &mut Reading, details: &Map<String, Value>, party: &mut Party) {
    for (place, address) in reading.objects_in(details, AT, "addresses") {
        let kind = match reading.text(address, &place, "type").as_deref() {
            Some("residence" | "business") => AddressKind::Principal,
            Some("service") => AddressKind::Mailing,
            Some("registered") => AddressKind::Registered,
            Some("alternative") | None => AddressKind::Other,
            Some("placeOfBirth") => {
                reading.leave_out("addresses: placeOfBirth");
                continue;
            }
            Some(_) => {
                let expected = "residence, service, registered, business or alternative";
                reading.fault(join(&place, "type"), expected);
                continue;
            }
        };
        let full = reading.lines(address, &place, "address", ", ");
        let postcode = reading.text(address, &place, "postCode");
        let country = reading
            .object(address, &place, "country")
            .and_then(|of| reading.country_in(of, &join(&place, "country"), "addresses"));
        party.addresses.extend(with_full(full, Address { postcode, country, ..Address::of(kind, "") }));
    }
    for (place, identifier) in reading.objects_in(details, AT, "identifiers") {
        let code = reading.text(identifier, &place, "scheme");
        let name = reading.text(identifier, &place, "schemeName");
        match reading.text(identifier, &place, "id") {
            Some(number) => party.identifiers.push(read_scheme(number, code, name)),
            None => reading.leave_out("identifiers: without id"),
        }
    }
}

fn read_scheme(number: String, code: Option<String>, name: Option<String>) -> Identifier {
    let of = |scheme, issuer, country| Identifier { scheme, number, issuer, country, expires: None };
    let Some(code) = code else {
        let words = SCHEMES.iter().find(|(words, _)| Some(*words) == name.as_deref());
        return match words {
            Some((_, scheme)) => of(*scheme, None, None),
            None => of(Scheme::Other, name, None),
        };
    };
    let document = match code.rsplit_once('-') {
        Some((by, "PASSPORT")) => Some((by, Scheme::Passport)),
        Some((by, "IDCARD")) => Some((by, Scheme::NationalId)),
        Some((by, "TAXID")) => Some((by, Scheme::Tax)),
        _ => None,
    };
    if code == "XI-LEI" {
        of(Scheme::Lei, name, None)
    } else if let Some((by, scheme)) = document {
        of(scheme, name, country(by))
    } else if let Some(by) = register(&code) {
        of(Scheme::Registration, Some(code), Some(by))
    } else {
        of(Scheme::Other, name.or(Some(code)), None)
    }
}

fn read_relationship(
    reading: &mut Reading,
    read: &mut Read,
    relationships: &BTreeSet<String>,
    statement: &Statement,
) {
    let details = &statement.details;
    let mut side = |key: &str| match details.get(key) {
        Some(Value::String(id)) => party_id(reading, &join(AT, key), id),
        Some(Value::Object(unspecified)) => {
            let reason = reading.text(unspecified, &join(AT, key), "reason").unwrap_or_default();
            reading.leave_out(&format!("{key}: {}", word(&reason)));
            None
        }
        _ => {
            reading.fault(join(AT, key), "the record of a party, or why it is not specified");
            None
        }
    };
    let (asset, owner) = (side("subject"), side("interestedParty"));
    let by_components = match details.get("componentRecords") {
        Some(Value::Array(records)) => {
            records.iter().filter_map(Value::as_str).any(|record| relationships.contains(record))
        }
        _ => false,
    };
    let interests = reading.objects_in(details, AT, "interests");
    if interests.is_empty() {
        reading.leave_out("relationship: without interests");
    }
    let has_shares =
        interests.iter().any(|(_, one)| one.get("type").and_then(Value::as_str) == Some("shareholding"));
    for (place, one) in interests {
        let kind = reading.text(one, &place, "type").unwrap_or_default();
        let Some((kind, known)) = TYPES.iter().find(|(known, _)| *known == kind) else {
            reading.fault(join(&place, "type"), "a type of interest of BODS 0.4");
            continue;
        };
        let indirect = match reading.text(one, &place, "directOrIndirect").as_deref() {
            Some("indirect") => true,
            Some("direct" | "unknown") | None => false,
            Some(_) => {
                reading.fault(join(&place, "directOrIndirect"), "direct, indirect or unknown");
                false
            }
        };
        let share = match reading.object(one, &place, "share") {
            Some(share) => read_share(reading, share, &join(&place, "share")),
            None => None,
        };
        let details = reading.text(one, &place, "details");
        let from = reading.parsed(one, &place, "startDate", DAY_EXPECTED, |text| date(text).map(begins));
        let to = reading.parsed(one, &place, "endDate", DAY_EXPECTED, |text| date(text).map(ends));
        let closed = statement.closed.then_some(statement.at);
        let to =
            if let (Some(to), Some(closed)) = (to, closed) { Some(to.min(closed)) } else { to.or(closed) };
        let twice = *kind == SURPLUS && has_shares;
        let (Some(known), false, false) = (known, twice, indirect && by_components) else {
            let why = if indirect && by_components { "indirect with components" } else { kind };
            reading.leave_out(&format!("interest: {why}"));
            continue;
        };
        if let (Some(owner), Some(asset)) = (&owner, &asset) {
            read.interests.push(in_days(&Interest {
                owner: owner.clone(),
                asset: asset.clone(),
                kind: *known,
                share,
                substantial_control: details.as_deref() == Some(SUBSTANTIAL),
                from,
                to,
            }));
        }
    }
}

fn read_share(reading: &mut Reading, share_: &Map<String, Value>, place: &str) -> Option<Stake> {
    let mut number = |key: &str| match share_.get(key) {
        None | Some(Value::Null) => None,
        Some(value) => {
            let stake = value.as_f64().and_then(share);
            if stake.is_none() {
                reading.fault(join(place, key), "a number from 0 to 100");
            }
            Some(stake)
        }
    };
    let exact = number("exact");
    let (least, over) = (number("minimum"), number("exclusiveMinimum"));
    let (most, under) = (number("maximum"), number("exclusiveMaximum"));
    let numbers = [exact, least, over, most, under];
    if numbers.contains(&Some(None)) || numbers.iter().all(Option::is_none) {
        return None;
    }
    let [exact, least, over, most, under] = numbers.map(Option::flatten);
    let least = least.map_or(Share::NOTHING, Stake::least);
    let most = most.map_or(Share::WHOLE, Stake::most);
    let least = over.map_or(Some(least), |over| Some(beyond(over.least())?.max(least)));
    let most = under.map_or(Some(most), |under| Some(below(under.most())?.min(most)));
    let range = least.zip(most).and_then(|(least, most)| Stake::between(least, most));
    let fits = |exact: &Stake| {
        range.is_some_and(|range| range.least() <= exact.most() && exact.least() <= range.most())
    };
    let stake = match exact {
        Some(exact) => Some(exact).filter(fits),
        None => range,
    };
    if stake.is_none() {
        reading.fault(place, "a share whose least is not more than its most, with exact between both");
    }
    stake
}

#[cfg(test)]
mod tests;
