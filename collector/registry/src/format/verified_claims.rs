//! `verified_claims` of OpenID Identity Assurance (schema definition and claims, final of October 2024): what is known
//! of a person, and how it was found out.
//!
//! One JSON object for each person, with the standard claims of OpenID Connect. They stand in `verified_claims` where
//! somebody verified who it is, once for each such verification, and beside it as mere claims where nobody did: the
//! format has no words for a verification that goes on or failed.
//!
//! | record | claim or element |
//! |---|---|
//! | id | `sub` |
//! | legal name | `name`, `given_name`, `middle_name`, `family_name` |
//! | transliteration with a script | the same with the tag `und-` and the script, as `name#und-Cyrl` |
//! | birth name | `birth_given_name`, `birth_middle_name`, `birth_family_name` |
//! | alias | `also_known_as` |
//! | born | `birthdate`, as a day or a year |
//! | citizenship | `nationalities` |
//! | principal address | `address` |
//! | email, telephone, domain | `email`, `phone_number`, `website` |
//! | verification: id, time | `verification_process`, `time` |
//! | checker | `organization` in `check_details` of each evidence, whose `check_method` is *unspecified* |
//! | documentary or not | evidence of type `document`, else `electronic_record`; `vouch` and `electronic_signature` are read as the latter |
//! | what was looked at | `type` of the document or record |
//! | its hash | `attachments` with a `digest`, and as address the same hash (`ni:`, RFC 6920). What is embedded is hashed |
//! | identity document | `document_details`, where a document of its type was looked at and the party has one of that type |
//! | note | `trust_framework` and `assurance_level`, where it says just these |
//!
//! Lost ([`held`]): everybody who is no person; further values of what the format has one of: names of a kind (of a
//! transliteration: of a script), emails, telephones, domains; former and trading names; patronymics; scripts of other
//! names; how a birth name is written as a whole; a month of birth without a day; law; residence; addresses but the
//! principal one; identifiers that no verification looked at, and their expiry where it is no whole day;
//! verifications that did not succeed, and notes; payments, accesses, US status, discrepancies, reasons of risk.
//!
//! In files of others the verification is documentary where any evidence is a document, and its other evidence is
//! written as documents too. Its id is the process's, else
//! that of a check, else made of what it says. Its checker is the organization that did a check, else who handed the
//! file over; its time is its own, else that of an evidence, else when the file came. Claims that have no place, as
//! `place_of_birth`, are counted as left out.

use std::collections::{BTreeMap, BTreeSet};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use weighbridge_meter::UtcMillis;

use super::{
    COUNTRY_EXPECTED, Errors, FIRST_DAY, LAST_DAY, Reading, add, composed, country, date, host, hosts, id_of,
    is_code, join, merge, moment, party_id, three_letters, with_full, word,
};
use crate::{
    CustomerKind,
    party::{
        Address, AddressKind, Country, Evidence, Identifier, Method, Name, NameKind, Outcome, PartialDate,
        Party, PartyId, Scheme, Verification,
    },
};

const FRAMEWORK: &str = "trust framework: ";
const LEVEL: &str = ", assurance level: ";
const UNTOLD: &str = "unspecified";

/// Types of documents that say who somebody is.
const DOCUMENTS: [(&str, Scheme); 4] = [
    ("passport", Scheme::Passport),
    ("idcard", Scheme::NationalId),
    ("driving_permit", Scheme::DrivingLicence),
    ("residence_permit", Scheme::ResidencePermit),
];

/// Who handed a file over, and when.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Who claims what is in it.
    pub provider: &'a str,
    /// The moment.
    pub at: UtcMillis,
}

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Persons, in the order of the file.
    pub persons: Vec<Claimed>,
    /// Claims that have no place in a record, and how often they stood in the file.
    pub left_out: BTreeMap<String, usize>,
}

/// What is claimed of one person.
#[derive(Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Of whom, by `sub`, where that is told.
    pub sub: Option<PartyId>,
    /// What, with the verifications.
    pub party: Party,
}

/// One object; `None` for who is no person. The format needs to be told by whose rules it was verified: `framework`,
/// where a verification's note does not say so.
pub fn write(id: &PartyId, party: &Party, framework: &str) -> Option<String> {
    if party.kind != CustomerKind::Person {
        return None;
    }
    let claims = claims(party);
    let elements: Vec<Value> = succeeded(party)
        .map(|one| json!({ "verification": verification(party, one, framework), "claims": claims }))
        .collect();
    let mut object = match elements.is_empty() {
        true => claims,
        false => Map::new(),
    };
    set(&mut object, "sub", Some(id.as_str()));
    let verified = match elements.len() {
        0 => None,
        1 => elements.into_iter().next(),
        _ => Some(Value::Array(elements)),
    };
    set(&mut object, "verified_claims", verified);
    Some(Value::Object(object).to_string())
}

fn set(object: &mut Map<String, Value>, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object.insert(key.to_owned(), value.into());
    }
}

fn succeeded(party: &Party) -> impl Iterator<Item = &Verification> {
    party.verifications.iter().filter(|one| one.outcome == Outcome::Verified)
}

fn first(party: &Party, kind: NameKind) -> Option<&Name> {
    party.names.iter().find(|name| name.kind == kind)
}

/// The first name in each script.
fn by_script(party: &Party) -> BTreeMap<&str, &Name> {
    let mut names = BTreeMap::new();
    for name in party.names.iter().filter(|name| name.kind == NameKind::Transliteration) {
        if let Some(script) = &name.script {
            names.entry(script.as_str()).or_insert(name);
        }
    }
    names
}

fn claims(party: &Party) -> Map<String, Value> {
    let mut claims = Map::new();
    let mut tell = |name: &Name, tag: &str| {
        set(&mut claims, &format!("name{tag}"), Some(name.full.as_str()));
        set(&mut claims, &format!("given_name{tag}"), name.given.as_deref());
        set(&mut claims, &format!("middle_name{tag}"), name.middle.as_deref());
        set(&mut claims, &format!("family_name{tag}"), name.family.as_deref());
    };
    party.legal_name().into_iter().for_each(|name| tell(name, ""));
    by_script(party).into_iter().for_each(|(script, name)| tell(name, &format!("#und-{script}")));
    if let Some(name) = first(party, NameKind::Birth) {
        set(&mut claims, "birth_given_name", name.given.as_deref());
        set(&mut claims, "birth_middle_name", name.middle.as_deref());
        set(&mut claims, "birth_family_name", name.family.as_deref());
    }
    set(&mut claims, "also_known_as", first(party, NameKind::Alias).map(|name| name.full.as_str()));
    let birthdate = party.born.map(|born| match born.is_whole() {
        true => born.to_string(),
        false => format!("{:04}", born.year()),
    });
    set(&mut claims, "birthdate", birthdate);
    let nationalities: Vec<Value> = party.citizenships.iter().map(|of| three_letters(*of).into()).collect();
    set(&mut claims, "nationalities", (!nationalities.is_empty()).then_some(nationalities));
    if let Some(address) = party.addresses_of(AddressKind::Principal).next() {
        let mut told = Map::new();
        set(&mut told, "formatted", Some(address.full.as_str()));
        set(&mut told, "street_address", address.street.as_deref());
        set(&mut told, "locality", address.locality.as_deref());
        set(&mut told, "region", address.region.as_deref());
        set(&mut told, "postal_code", address.postcode.as_deref());
        set(&mut told, "country_code", address.country.map(three_letters));
        set(&mut claims, "address", Some(told));
    }
    set(&mut claims, "email", party.emails.first().map(String::as_str));
    set(&mut claims, "phone_number", party.telephones.first().map(String::as_str));
    set(&mut claims, "website", hosts(party).first().map(|host| format!("https://{host}/")));
    claims
}

fn verification(party: &Party, one: &Verification, framework: &str) -> Value {
    let (framework, level) = one.note.as_deref().and_then(rules).unwrap_or((framework, None));
    let mut told = Map::new();
    set(&mut told, "trust_framework", Some(framework));
    set(&mut told, "assurance_level", level);
    set(&mut told, "time", Some(one.at.clamp(FIRST_DAY, LAST_DAY).to_string()));
    set(&mut told, "verification_process", Some(one.id.as_str()));
    let documentary = one.method == Method::Documentary;
    let check = json!([{ "check_method": UNTOLD, "organization": one.checker }]);
    let bare =
        json!({ "type": if documentary { "document" } else { "electronic_record" }, "check_details": check });
    let with = |evidence: &Evidence| {
        let mut told = bare.clone();
        let mut details = Map::new();
        set(&mut details, "type", Some(evidence.what.as_str()));
        if let Some(identifier) = looked_at(party, one, evidence) {
            set(&mut details, "document_number", Some(identifier.number.as_str()));
            set(&mut details, "date_of_expiry", identifier.expires.map(|date| date.to_string()));
            let mut issuer = Map::new();
            set(&mut issuer, "name", identifier.issuer);
            set(&mut issuer, "country_code", identifier.country.map(three_letters));
            set(&mut details, "issuer", (!issuer.is_empty()).then_some(issuer));
        }
        told[if documentary { "document_details" } else { "record" }] = details.into();
        if let Some(hash) = evidence.sha256.as_deref().and_then(bytes_of) {
            let url = format!("ni:///sha-256;{}", URL_SAFE_NO_PAD.encode(&hash));
            told["attachments"] =
                json!([{ "url": url, "digest": { "alg": "sha-256", "value": STANDARD.encode(&hash) } }]);
        }
        told
    };
    let evidence: Vec<Value> = match one.evidence.is_empty() {
        true => vec![bare.clone()],
        false => one.evidence.iter().map(with).collect(),
    };
    set(&mut told, "evidence", Some(evidence));
    told.into()
}

/// By whose rules, and how sure by them, where a note says just that.
fn rules(note: &str) -> Option<(&str, Option<&str>)> {
    let rest = note.strip_prefix(FRAMEWORK)?;
    let (framework, level) = rest.split_once(LEVEL).map_or((rest, None), |(name, level)| (name, Some(level)));
    let told = |text: &str| !text.is_empty() && text.trim() == text;
    (told(framework) && level.is_none_or(told)).then_some((framework, level))
}

fn note(framework: &str, level: Option<&str>) -> String {
    let level = level.map(|level| format!("{LEVEL}{level}")).unwrap_or_default();
    format!("{FRAMEWORK}{framework}{level}")
}

/// The identity document that an evidence is: the party's only one of its type.
fn looked_at(party: &Party, one: &Verification, evidence: &Evidence) -> Option<Identifier> {
    let (_, scheme) = DOCUMENTS.iter().find(|(what, _)| *what == evidence.what)?;
    let mut of_type = party.identifiers.iter().filter(|identifier| identifier.scheme == *scheme);
    let identifier = of_type.next().filter(|_| one.method == Method::Documentary)?.clone();
    let expires = identifier.expires.filter(PartialDate::is_whole);
    of_type.next().is_none().then_some(Identifier { expires, ..identifier })
}

/// The bytes of a hash that is written in hexadecimal digits.
fn bytes_of(hash: &str) -> Option<Vec<u8>> {
    let digits = hash.as_bytes().chunks(2);
    let bytes = digits.map(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
    bytes.collect::<Option<Vec<u8>>>().filter(|bytes| bytes.len() == 32)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is left of a party once it was written and read again; `None` for who is no person. See the module.
pub fn held(party: &Party, framework: &str) -> Option<Party> {
    if party.kind != CustomerKind::Person {
        return None;
    }
    let mut left = Party::unknown(CustomerKind::Person);
    let without_father = |name: &Name| Name { patronymic: None, ..name.clone() };
    left.names.extend(party.legal_name().map(|name| Name { script: None, ..without_father(name) }));
    left.names.extend(by_script(party).into_values().map(without_father));
    if let Some(name) = first(party, NameKind::Birth) {
        left.names.extend(composed(Name { script: None, ..without_father(name) }));
    }
    let alias = first(party, NameKind::Alias);
    left.names.extend(alias.map(|name| Name::of(NameKind::Alias, name.full.as_str())));
    left.born = match party.born {
        Some(born) if !born.is_whole() => format!("{:04}", born.year()).parse().ok(),
        born => born,
    };
    party.citizenships.iter().for_each(|of| add(&mut left.citizenships, *of));
    left.addresses = party.addresses_of(AddressKind::Principal).take(1).cloned().collect();
    left.emails = party.emails.iter().take(1).cloned().collect();
    left.telephones = party.telephones.iter().take(1).cloned().collect();
    left.domains = hosts(party).into_iter().take(1).collect();
    for one in succeeded(party) {
        for evidence in &one.evidence {
            looked_at(party, one, evidence)
                .into_iter()
                .for_each(|document| add(&mut left.identifiers, document));
        }
        let told = one.note.as_deref().and_then(rules).is_some();
        let note = if told { one.note.clone() } else { Some(note(framework, None)) };
        let verification = Verification { note, at: one.at.clamp(FIRST_DAY, LAST_DAY), ..one.clone() };
        match left.verifications.iter_mut().find(|known| known.id == one.id) {
            Some(known) => *known = verification,
            None => left.verifications.push(verification),
        }
    }
    Some(left)
}

/// Reads a file of persons.
///
/// # Errors
/// Every fault in the file, by line and place but without the values; nothing of it is read then.
pub fn read(file_name: &str, bytes: &[u8], source: Source<'_>) -> Result<Read, Errors> {
    let mut reading = Reading::default();
    let mut persons = Vec::new();
    for (line, object) in reading.objects(bytes) {
        reading.line = line;
        let sub = reading.text(&object, "", "sub").and_then(|sub| party_id(&mut reading, "sub", &sub));
        let mut party = read_claims(&mut reading, &object, "");
        let elements = match object.get("verified_claims") {
            Some(Value::Array(_)) => reading.objects_in(&object, "", "verified_claims"),
            _ => {
                let element = reading.object(&object, "", "verified_claims");
                element.map(|element| ("verified_claims".to_owned(), element)).into_iter().collect()
            }
        };
        if elements.is_empty() && sub.is_none() {
            reading.fault("verified_claims", "verified claims, or a sub: else it is said of nobody");
        }
        for (place, element) in elements {
            let claims = reading.object(element, &place, "claims");
            let verification = reading.object(element, &place, "verification");
            let (Some(claims), Some(verification)) = (claims, verification) else {
                reading.fault(place, "verification and claims");
                continue;
            };
            let mut told = read_claims(&mut reading, claims, &join(&place, "claims"));
            count_others(&mut reading, claims);
            read_verification(&mut reading, verification, &join(&place, "verification"), source, &mut told);
            for field in merge(&mut party, &told, &Party::unknown(CustomerKind::Person)) {
                reading.leave_out(&format!("claims: {field} that contradict each other"));
            }
        }
        if reading.keepable(&party) {
            persons.push(Claimed { sub, party });
        }
    }
    if reading.total > 0 {
        return Err(reading.refused(file_name));
    }
    Ok(Read { persons, left_out: reading.left_out })
}

const NAMES: [&str; 4] = ["name", "given_name", "middle_name", "family_name"];

const CLAIMS: [&str; 10] = [
    "birth_given_name",
    "birth_middle_name",
    "birth_family_name",
    "also_known_as",
    "birthdate",
    "nationalities",
    "address",
    "email",
    "phone_number",
    "website",
];

fn count_others(reading: &mut Reading, claims: &Map<String, Value>) {
    for claim in claims.keys() {
        let untagged = claim.split('#').next().unwrap_or_default();
        if !(CLAIMS.contains(&claim.as_str()) || NAMES.contains(&untagged)) {
            reading.leave_out(&format!("claims: {}", word(untagged)));
        }
    }
}

fn read_claims(reading: &mut Reading, claims: &Map<String, Value>, place: &str) -> Party {
    let mut party = Party::unknown(CustomerKind::Person);
    let tags: BTreeSet<&str> = claims
        .keys()
        .filter_map(|claim| claim.split_once('#'))
        .filter(|(claim, _)| NAMES.contains(claim))
        .map(|(_, tag)| tag)
        .collect();
    for tag in [""].into_iter().chain(tags) {
        let mut text = |claim: &str| {
            let claim = if tag.is_empty() { claim.to_owned() } else { format!("{claim}#{tag}") };
            reading.text(claims, place, &claim)
        };
        let kind = if tag.is_empty() { NameKind::Legal } else { NameKind::Transliteration };
        let name = Name {
            given: text("given_name"),
            middle: text("middle_name"),
            family: text("family_name"),
            script: script(tag),
            ..Name::of(kind, "")
        };
        party.names.extend(match text("name") {
            Some(full) => Some(Name { full, ..name }),
            None => composed(name),
        });
    }
    let birth = Name {
        given: reading.text(claims, place, "birth_given_name"),
        middle: reading.text(claims, place, "birth_middle_name"),
        family: reading.text(claims, place, "birth_family_name"),
        ..Name::of(NameKind::Birth, "")
    };
    party.names.extend(composed(birth));
    let alias = reading.text(claims, place, "also_known_as");
    party.names.extend(alias.map(|full| Name::of(NameKind::Alias, full)));
    if claims.get("birthdate").and_then(Value::as_str).is_some_and(|text| text.starts_with("0000-")) {
        reading.leave_out("claims: birthdate without a year");
    } else {
        let expected = "a date as 1970-05-12 or 1970";
        party.born = reading.parsed(claims, place, "birthdate", expected, date);
    }
    for (place, value) in reading.array(claims, place, "nationalities") {
        match value.as_str().map(|text| (nationality(text), is_code(text))) {
            Some((Some(country), _)) => add(&mut party.citizenships, country),
            Some((None, true)) => reading.leave_out("claims: nationalities that are not of ISO 3166-1"),
            _ => reading.fault(place, COUNTRY_EXPECTED),
        }
    }
    if let Some(address) = reading.object(claims, place, "address") {
        let place = join(place, "address");
        party.addresses.extend(read_address(reading, address, &place));
    }
    party.emails.extend(reading.text(claims, place, "email"));
    party.telephones.extend(reading.text(claims, place, "phone_number"));
    let expected = "the address of a website, as https://example.com";
    party.domains.extend(reading.parsed(claims, place, "website", expected, host));
    party
}

/// The script in the tag of a language, as Cyrl in ru-cyrl-RU.
fn script(tag: &str) -> Option<String> {
    let is = |part: &&str| part.len() == 4 && part.bytes().all(|byte| byte.is_ascii_alphabetic());
    let script = tag.split('-').skip(1).find(is)?;
    Some(format!("{}{}", script[..1].to_ascii_uppercase(), script[1..].to_ascii_lowercase()))
}

/// A citizenship by the codes of passports, which have their own for Germans and kinds of Britons.
fn nationality(text: &str) -> Option<Country> {
    match text {
        "D" => country("DE"),
        "GBD" | "GBN" | "GBO" | "GBP" | "GBS" => country("GB"),
        _ => country(text),
    }
}

fn read_address(reading: &mut Reading, address: &Map<String, Value>, place: &str) -> Option<Address> {
    let full = reading.lines(address, place, "formatted", ", ");
    let code = reading.parsed(address, place, "country_code", COUNTRY_EXPECTED, nationality);
    // The name of a country, which some write as a code.
    let name = reading.text(address, place, "country").and_then(|name| country(&name));
    let street = reading.lines(address, place, "street_address", ", ");
    let address = Address {
        kind: AddressKind::Principal,
        full: String::new(),
        street,
        locality: reading.text(address, place, "locality"),
        region: reading.text(address, place, "region"),
        postcode: reading.text(address, place, "postal_code"),
        country: code.or(name),
    };
    with_full(full, address)
}

fn read_verification(
    reading: &mut Reading,
    told: &Map<String, Value>,
    place: &str,
    source: Source<'_>,
    party: &mut Party,
) {
    let framework = reading.text(told, place, "trust_framework");
    if framework.is_none() {
        reading.fault(join(place, "trust_framework"), "by whose rules it was verified, which must be told");
    }
    let level = reading.text(told, place, "assurance_level");
    let mut id = reading.text(told, place, "verification_process");
    let (mut checker, mut at) = (None, None);
    let mut verifier = |reading: &mut Reading, of: &Map<String, Value>, place: &str| {
        at = at.or(time(reading, of, place));
        // As drafts had it.
        if let Some(verifier) = reading.object(of, place, "verifier") {
            let place = join(place, "verifier");
            let organization = reading.text(verifier, &place, "organization");
            checker = checker.take().or(organization);
            let transaction = reading.text(verifier, &place, "txn");
            id = id.take().or(transaction);
        }
        for (place, check) in reading.objects_in(of, place, "check_details") {
            let organization = reading.text(check, &place, "organization");
            checker = checker.take().or(organization);
            let check_id =
                reading.text(check, &place, "check_id").or_else(|| reading.text(check, &place, "txn"));
            id = id.take().or(check_id);
            at = at.or(time(reading, check, &place));
        }
    };
    verifier(reading, told, place);
    let mut method = Method::NonDocumentary;
    let mut evidence = Vec::new();
    for (place, one) in reading.objects_in(told, place, "evidence") {
        verifier(reading, one, &place);
        let kind = reading.text(one, &place, "type").unwrap_or_default();
        let details: &[&str] = match kind.as_str() {
            "document" | "id_document" => &["document_details", "document"],
            "utility_bill" => &[],
            "electronic_record" => &["record"],
            "vouch" => &["attestation"],
            "electronic_signature" | "qes" => &[],
            "" => {
                reading.fault(join(&place, "type"), "the type that every evidence has");
                continue;
            }
            other => {
                reading.leave_out(&format!("evidence: {}", word(other)));
                continue;
            }
        };
        let is_document = matches!(kind.as_str(), "document" | "id_document" | "utility_bill");
        if is_document {
            method = Method::Documentary;
        }
        let mut what = reading.text(one, &place, "signature_type");
        for key in details {
            if let Some(details) = reading.object(one, &place, key) {
                let place = join(&place, key);
                what = reading.text(details, &place, "type").or(Some(kind.clone()));
                if is_document {
                    party.identifiers.extend(read_document(reading, details, &place));
                }
            }
        }
        let hashes = read_attachments(reading, one, &place);
        if what.is_none() && (!hashes.is_empty() || details.is_empty()) {
            what = Some(kind);
        }
        let Some(what) = what else { continue };
        if hashes.is_empty() {
            evidence.push(Evidence { what, sha256: None });
        } else {
            let with = hashes.into_iter().map(|hash| Evidence { what: what.clone(), sha256: Some(hash) });
            evidence.extend(with);
        }
    }
    let made = || id_of(&["verification", &serde_json::to_string(told).unwrap_or_default()]);
    party.verifications.push(Verification {
        id: id.unwrap_or_else(made),
        method,
        checker: checker.unwrap_or_else(|| source.provider.to_owned()),
        at: at.unwrap_or(source.at),
        outcome: Outcome::Verified,
        evidence,
        note: framework.map(|framework| note(&framework, level.as_deref())),
    });
}

fn time(reading: &mut Reading, of: &Map<String, Value>, place: &str) -> Option<UtcMillis> {
    reading.parsed(of, place, "time", "an ISO 8601 time, as 2026-01-31T08:00Z", moment)
}

fn read_document(reading: &mut Reading, details: &Map<String, Value>, place: &str) -> Option<Identifier> {
    let kind = reading.text(details, place, "type");
    let number =
        reading.text(details, place, "document_number").or_else(|| reading.text(details, place, "number"));
    let expires = reading.parsed(details, place, "date_of_expiry", super::DAY_EXPECTED, date);
    let issuer = reading.object(details, place, "issuer");
    let place = join(place, "issuer");
    let code = issuer.and_then(|issuer| {
        let code = reading.text(issuer, &place, "country_code");
        code.or_else(|| reading.text(issuer, &place, "country"))
    });
    if code.as_deref().is_some_and(|code| nationality(code).is_none()) {
        reading.leave_out("document: issued by no country of ISO 3166-1");
    }
    let issuer = issuer.and_then(|issuer| reading.text(issuer, &place, "name"));
    let known = DOCUMENTS.iter().find(|(name, _)| Some(*name) == kind.as_deref());
    let scheme = known.map_or(Scheme::Other, |(_, scheme)| *scheme);
    Some(Identifier {
        scheme,
        number: number?,
        issuer,
        country: code.as_deref().and_then(nationality),
        expires,
    })
}

/// Hashes of what is attached, or of what is embedded.
fn read_attachments(reading: &mut Reading, evidence: &Map<String, Value>, place: &str) -> Vec<String> {
    let mut hashes = Vec::new();
    for (place, attachment) in reading.objects_in(evidence, place, "attachments") {
        let decoded = |text: &str| STANDARD.decode(text).ok();
        if let Some(digest) = reading.object(attachment, &place, "digest") {
            let place = join(&place, "digest");
            match reading.text(digest, &place, "alg") {
                Some(by) if by.eq_ignore_ascii_case("sha-256") => {
                    let hash = |text: &str| decoded(text).filter(|hash| hash.len() == 32);
                    let expected = "the 32 bytes of a SHA-256, in base64";
                    hashes.extend(reading.parsed(digest, &place, "value", expected, hash));
                }
                _ => reading.leave_out("attachments: digest by another algorithm"),
            }
        } else if attachment.contains_key("content") {
            let content = attachment.get("content").and_then(Value::as_str).and_then(decoded);
            match content {
                Some(content) => hashes.push(Sha256::digest(content).to_vec()),
                None => reading.fault(join(&place, "content"), "base64"),
            }
        }
    }
    hashes.iter().map(|hash| hexadecimal(hash)).collect()
}

#[cfg(test)]
mod tests;
