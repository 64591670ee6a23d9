//! FollowTheMoney: entities with properties that are lists of texts, one entity a line.
//!
//! | record | FollowTheMoney |
//! |---|---|
//! | person | `Person` |
//! | entity, reseller | `Company`: what is owned must be an `Asset` there. `Organization`, `PublicBody` and `LegalEntity` are read alike |
//! | arrangement | `Company` whose `legalForm` says so, for "companies" are trusts and funds too |
//! | legal name | `name`; of a person's first its parts: `firstName`, `middleName`, `fatherName`, `lastName` |
//! | former name; any other | `previousName`; `alias` |
//! | born | `birthDate` of a person, else `incorporationDate` |
//! | law; citizenship | `jurisdiction`; `citizenship`, read from `nationality` too |
//! | addresses | `Address` by `addressEntity`; texts in `address` are read too |
//! | email, telephone, domain | `email`, `phone`, `website` |
//! | identifiers | `Identification`, of passports `Passport`, by `holder`; beside it `passportNumber`, `taxNumber`, `registrationNumber`, `leiCode`, `idNumber`, where others look for them |
//! | shareholding | `Ownership` |
//! | manages | `Directorship` |
//! | appoints the board; other control | `Control`, of the board with `controlType` *appointment* |
//! | votes | `UnknownLink` whose `role` says so: not all votes are control, and none are `Ownership` |
//! | substantial control | said in `role` |
//!
//! Lost ([`held`], [`held_interests`]): whether an entity is a reseller; which kind an alias is, and its parts, and scripts;
//! names, and other values, that stand twice; residence; what an address is for; domains that are no name of a host;
//! payments, accesses, US status, verifications, discrepancies, reasons of risk; shares of anything but ownership;
//! the time of day of an interest's begin and end, and a share of votes with it.
//!
//! In files of others, `Control` by any other means than the board is control in another way, of votes too: that it is
//! control was told, how many votes it is was not. An `UnknownLink` whose role does not speak of votes, the board or
//! control is left out. Where a property has one place in a record and several values, the first counts and the others
//! are counted as left out; of dates of birth that agree the most exact counts, of others none; several percentages are
//! a range from the least to the most.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{
    COUNTRY_EXPECTED, DAY_EXPECTED, Errors, LONGEST_TEXT, MOST_BYTES, MOST_ITEMS, Read, Reading,
    TEXT_EXPECTED, add, begins, below, beyond, cleaned, composed, country, date, day, ends, host, hosts,
    id_of, in_days, is_code, once, party_id, plain_names, share, with_full, word,
};
use crate::{
    CustomerKind, Interest, InterestKind,
    ownership::{Share, Stake},
    party::{Address, AddressKind, Country, Identifier, Name, NameKind, PartialDate, Party, PartyId, Scheme},
};

const ARRANGEMENT: &str = "Legal arrangement";
const SUBSTANTIAL: &str = "Substantial control";
const VOTES: &str = "Voting rights";

const SHARE_EXPECTED: &str = "a percentage from 0 to 100, as 25, 25.5 %, 25-50 or >50";

/// Properties of an entity that hold an identifier, what it is, and of which country.
const NUMBERS: [(&str, Scheme, Option<&str>); 14] = [
    ("passportNumber", Scheme::Passport, None),
    ("socialSecurityNumber", Scheme::NationalId, None),
    // Of any personal document, which is not said.
    ("idNumber", Scheme::Other, None),
    ("taxNumber", Scheme::Tax, None),
    ("vatCode", Scheme::Tax, None),
    ("irsCode", Scheme::Tax, Some("US")),
    ("innCode", Scheme::Tax, Some("RU")),
    ("voenCode", Scheme::Tax, Some("AZ")),
    ("registrationNumber", Scheme::Registration, None),
    ("ogrnCode", Scheme::Registration, Some("RU")),
    ("uscCode", Scheme::Registration, Some("CN")),
    ("cikCode", Scheme::Registration, Some("US")),
    ("jibCode", Scheme::Registration, None),
    ("leiCode", Scheme::Lei, None),
];

/// What the `type` of a document says it is; the first word that it has decides.
const DOCUMENTS: [(&str, Scheme); 9] = [
    ("passport", Scheme::Passport),
    ("driv", Scheme::DrivingLicence),
    ("residen", Scheme::ResidencePermit),
    ("tax", Scheme::Tax),
    ("national", Scheme::NationalId),
    ("identity card", Scheme::NationalId),
    ("id card", Scheme::NationalId),
    ("registration", Scheme::Registration),
    ("legal entity identifier", Scheme::Lei),
];

fn document(scheme: Scheme) -> Option<&'static str> {
    match scheme {
        Scheme::Passport => Some("Passport"),
        Scheme::NationalId => Some("National identity card"),
        Scheme::DrivingLicence => Some("Driving licence"),
        Scheme::ResidencePermit => Some("Residence permit"),
        Scheme::Tax => Some("Tax number"),
        Scheme::Registration => Some("Registration number"),
        Scheme::Lei => Some("Legal entity identifier"),
        Scheme::Other => None,
    }
}

/// One line for each entity: parties with what belongs to them, then interests.
pub fn write(parties: &[(PartyId, Party)], interests: &[Interest]) -> String {
    let mut lines = String::new();
    for (id, party) in parties {
        write_party(&mut lines, id.as_str(), party);
    }
    let mut written: BTreeMap<String, usize> = BTreeMap::new();
    for interest in interests {
        let interest = in_days(interest);
        let key = interest.key();
        let nth = written.entry(key.clone()).or_default();
        let id = id_of(&["interest", &key, &nth.to_string()]);
        *nth += 1;
        write_interest(&mut lines, &id, &interest);
    }
    lines
}

fn entity(lines: &mut String, id: &str, schema: &str, properties: Properties) {
    let entity = json!({ "id": id, "schema": schema, "properties": properties.0 });
    lines.push_str(&entity.to_string());
    lines.push('\n');
}

#[derive(Default)]
struct Properties(Map<String, Value>);

impl Properties {
    fn add(&mut self, property: &str, values: impl IntoIterator<Item = impl Into<String>>) {
        for value in values {
            let list = self.0.entry(property).or_insert_with(|| json!([]));
            let value = Value::String(value.into());
            if let Value::Array(list) = list {
                add(list, value);
            }
        }
    }
}

fn code(country: &Country) -> String {
    country.as_str().to_ascii_lowercase()
}

fn write_party(lines: &mut String, id: &str, party: &Party) {
    let mut properties = Properties::default();
    let full = |kinds: &'static [NameKind]| {
        party.names.iter().filter(|name| kinds.contains(&name.kind)).map(|name| &name.full)
    };
    properties.add("name", full(&[NameKind::Legal]));
    properties.add("alias", full(OTHER_NAMES));
    properties.add("previousName", full(&[NameKind::Former]));
    let person = party.kind == CustomerKind::Person;
    if let Some(name) = party.legal_name().filter(|_| person) {
        properties.add("firstName", &name.given);
        properties.add("middleName", &name.middle);
        properties.add("fatherName", &name.patronymic);
        properties.add("lastName", &name.family);
    }
    properties
        .add(if person { "birthDate" } else { "incorporationDate" }, party.born.map(|born| born.to_string()));
    properties.add("jurisdiction", party.jurisdiction.as_ref().map(code));
    if person {
        properties.add("citizenship", party.citizenships.iter().map(code));
    }
    if party.kind == CustomerKind::Arrangement {
        properties.add("legalForm", [ARRANGEMENT]);
    }
    properties.add("email", &party.emails);
    properties.add("phone", &party.telephones);
    properties.add("website", hosts(party).iter().map(|host| format!("https://{host}/")));
    for identifier in &party.identifiers {
        let property = match identifier.scheme {
            Scheme::Passport if person => "passportNumber",
            Scheme::NationalId if person => "idNumber",
            Scheme::Tax => "taxNumber",
            Scheme::Registration => "registrationNumber",
            Scheme::Lei => "leiCode",
            _ => continue,
        };
        properties.add(property, [&identifier.number]);
    }
    let address_ids: Vec<String> =
        (0..party.addresses.len()).map(|index| id_of(&["address", id, &index.to_string()])).collect();
    properties.add("addressEntity", &address_ids);
    entity(lines, id, if person { "Person" } else { "Company" }, properties);

    for (address, address_id) in party.addresses.iter().zip(&address_ids) {
        let mut properties = Properties::default();
        properties.add("full", [&address.full]);
        properties.add("street", &address.street);
        properties.add("city", &address.locality);
        properties.add("region", &address.region);
        properties.add("postalCode", &address.postcode);
        properties.add("country", address.country.as_ref().map(code));
        entity(lines, address_id, "Address", properties);
    }
    for (index, identifier) in party.identifiers.iter().enumerate() {
        let mut properties = Properties::default();
        properties.add("holder", [id]);
        properties.add("type", document(identifier.scheme));
        properties.add("number", [&identifier.number]);
        properties.add("authority", &identifier.issuer);
        properties.add("country", identifier.country.as_ref().map(code));
        properties.add("endDate", identifier.expires.map(|expires| expires.to_string()));
        let schema = if identifier.scheme == Scheme::Passport { "Passport" } else { "Identification" };
        entity(lines, &id_of(&["identification", id, &index.to_string()]), schema, properties);
    }
}

fn write_interest(lines: &mut String, id: &str, interest: &Interest) {
    let (schema, owner, asset) = match interest.kind {
        InterestKind::Shareholding => ("Ownership", "owner", "asset"),
        InterestKind::VotingRights => ("UnknownLink", "subject", "object"),
        InterestKind::Manages => ("Directorship", "director", "organization"),
        InterestKind::AppointsBoard | InterestKind::OtherControl => ("Control", "controller", "controlled"),
    };
    let mut properties = Properties::default();
    properties.add(owner, [interest.owner.as_str()]);
    properties.add(asset, [interest.asset.as_str()]);
    match interest.kind {
        InterestKind::Shareholding => properties.add("percentage", interest.share.map(percentage)),
        InterestKind::VotingRights => properties.add("role", [VOTES]),
        InterestKind::AppointsBoard => properties.add("controlType", ["appointment"]),
        InterestKind::Manages | InterestKind::OtherControl => {}
    }
    properties.add("role", interest.substantial_control.then_some(SUBSTANTIAL));
    properties.add("startDate", interest.from.map(day));
    properties.add("endDate", interest.to.map(day));
    entity(lines, id, schema, properties);
}

fn percentage(stake: Stake) -> String {
    match (stake.least(), stake.most()) {
        (least, most) if least == most => least.to_string(),
        (least, most) => format!("{least}-{most}"),
    }
}

const OTHER_NAMES: &[NameKind] =
    &[NameKind::Trading, NameKind::Alias, NameKind::Birth, NameKind::Transliteration];

/// What is left of a party once it was written and read again. See the module for what is not.
pub fn held(party: &Party) -> Party {
    let kind = match party.kind {
        CustomerKind::Reseller => CustomerKind::Entity,
        kind => kind,
    };
    let person = kind == CustomerKind::Person;
    let mut left = Party::unknown(kind);
    left.names = plain_names(party, &[NameKind::Legal], NameKind::Legal);
    if let (Some(first), Some(legal), true) = (left.names.first_mut(), party.legal_name(), person) {
        *first = Name { script: None, ..legal.clone() };
    }
    left.names.extend(plain_names(party, OTHER_NAMES, NameKind::Alias));
    left.names.extend(plain_names(party, &[NameKind::Former], NameKind::Former));
    left.born = party.born;
    left.jurisdiction = party.jurisdiction;
    if person {
        party.citizenships.iter().for_each(|country| add(&mut left.citizenships, *country));
    }
    left.addresses = party.addresses.clone();
    left.addresses.iter_mut().for_each(|address| address.kind = AddressKind::Other);
    party.emails.iter().for_each(|email| add(&mut left.emails, email.clone()));
    party.telephones.iter().for_each(|number| add(&mut left.telephones, number.clone()));
    left.domains = hosts(party);
    left.identifiers = party.identifiers.clone();
    left
}

/// The same of interests.
pub fn held_interests(interests: &[Interest]) -> Vec<Interest> {
    let held = interests.iter().map(|interest| {
        let share = interest.share.filter(|_| interest.kind == InterestKind::Shareholding);
        Interest { share, ..in_days(interest) }
    });
    held.collect()
}

/// Schemata that have a place.
const KNOWN: [&str; 12] = [
    "Person",
    "Company",
    "Organization",
    "PublicBody",
    "LegalEntity",
    "Address",
    "Identification",
    "Passport",
    "Ownership",
    "Control",
    "Directorship",
    "UnknownLink",
];

/// One entity of a file.
struct Entity {
    line: u64,
    id: String,
    schema: String,
    properties: Map<String, Value>,
}

/// Reads a file of entities.
///
/// # Errors
/// Every fault in the file, by line and property but without the values; nothing of it is read then.
pub fn read(file_name: &str, bytes: &[u8]) -> Result<Read, Errors> {
    let mut reading = Reading::default();
    let entities = entities(&mut reading, bytes);
    let mut addresses: BTreeMap<&str, Option<Address>> = BTreeMap::new();
    let mut identifiers: BTreeMap<String, Vec<Identifier>> = BTreeMap::new();
    for entity in &entities {
        reading.line = entity.line;
        match entity.schema.as_str() {
            "Address" => {
                addresses.insert(&entity.id, read_address(&mut reading, entity));
            }
            "Identification" | "Passport" => {
                let holder = reading.one(entity, "holder");
                if holder.is_none() {
                    reading.fault("properties.holder", "the id of an entity");
                }
                let identifier = read_identifier(&mut reading, entity);
                if let (Some(holder), Some(identifier)) = (holder, identifier) {
                    identifiers.entry(holder).or_default().push(identifier);
                }
            }
            _ => {}
        }
    }
    let others: BTreeSet<&str> = entities
        .iter()
        .filter(|entity| !KNOWN.contains(&entity.schema.as_str()))
        .map(|entity| entity.id.as_str())
        .collect();
    let mut read = Read::default();
    // Many can share an address, and each gets a copy.
    let mut shared = 0;
    for entity in &entities {
        reading.line = entity.line;
        let mut interests = |reading: &mut Reading, owner, asset| {
            read_interests(reading, &mut read, &others, entity, owner, asset)
        };
        match entity.schema.as_str() {
            "Ownership" => interests(&mut reading, "owner", "asset"),
            "Control" => interests(&mut reading, "controller", "controlled"),
            "Directorship" => interests(&mut reading, "director", "organization"),
            "UnknownLink" => interests(&mut reading, "subject", "object"),
            "Person" | "Company" | "Organization" | "PublicBody" | "LegalEntity" => {
                let numbers = identifiers.remove(&entity.id).unwrap_or_default();
                let party = read_party(&mut reading, entity, &addresses, &mut shared, numbers);
                let id = party_id(&mut reading, "id", &entity.id);
                if let Some(id) = id.filter(|_| reading.keepable(&party)) {
                    read.parties.push((id, party));
                }
            }
            "Address" | "Identification" | "Passport" => {}
            other => reading.leave_out(word(other)),
        }
    }
    let told = identifiers.values().map(Vec::len).sum::<usize>();
    (0..told).for_each(|_| reading.leave_out("Identification of somebody else"));
    if reading.total > 0 {
        return Err(reading.refused(file_name));
    }
    Ok(Read { left_out: reading.left_out, ..read })
}

fn entities(reading: &mut Reading, bytes: &[u8]) -> Vec<Entity> {
    let mut entities = Vec::new();
    let mut ids = BTreeSet::new();
    for (line, mut object) in reading.objects(bytes) {
        reading.line = line;
        let mut text = |key: &str| match object.get(key) {
            Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
            _ => {
                reading.fault(key, "the text that every entity has");
                None
            }
        };
        let (id, schema) = (text("id"), text("schema"));
        let properties = match object.remove("properties") {
            Some(Value::Object(properties)) => properties,
            None => Map::new(),
            Some(_) => {
                reading.fault("properties", "a JSON object");
                continue;
            }
        };
        let (Some(id), Some(schema)) = (id, schema) else { continue };
        if !ids.insert(id.clone()) {
            reading.fault("id", "an id of its own: entities in pieces must be put together first");
        }
        entities.push(Entity { line, id, schema, properties });
    }
    entities
}

impl Reading {
    /// The values of a property, without those that are blank or stand twice.
    fn values(&mut self, entity: &Entity, property: &str) -> Vec<String> {
        let between = if matches!(property, "address" | "full" | "street") { ", " } else { " " };
        let mut values = Vec::new();
        let mut known = BTreeSet::new();
        for (place, value) in self.array(&entity.properties, "properties", property) {
            let text = value.as_str().map(|text| cleaned(text, between));
            match text {
                Some(None) => {}
                Some(Some(text)) if text.len() <= LONGEST_TEXT => {
                    if known.insert(text.clone()) {
                        values.push(text);
                    }
                }
                _ => self.fault(place, TEXT_EXPECTED),
            }
        }
        values
    }

    /// The one value of a property that has one place in a record.
    fn one(&mut self, entity: &Entity, property: &str) -> Option<String> {
        let mut values = self.values(entity, property).into_iter();
        let first = values.next();
        values.for_each(|_| self.leave_out(&format!("{} {property}: further values", entity.schema)));
        first
    }

    /// All values of a property, read.
    fn each<T>(
        &mut self,
        entity: &Entity,
        property: &str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let mut parsed = Vec::new();
        for value in self.values(entity, property) {
            match parse(&value) {
                Some(value) => parsed.push(value),
                None => self.fault(format!("properties.{property}"), expected),
            }
        }
        parsed
    }

    /// Countries of a property; codes that are not of ISO are left out.
    fn countries(&mut self, entity: &Entity, property: &str) -> Vec<Country> {
        let mut countries = Vec::new();
        for value in self.values(entity, property) {
            match country(&value) {
                Some(country) => add(&mut countries, country),
                None if is_code(&value) => {
                    self.leave_out(&format!("{} {property}: not of ISO 3166-1", entity.schema));
                }
                None => self.fault(format!("properties.{property}"), COUNTRY_EXPECTED),
            }
        }
        countries
    }

    fn one_country(&mut self, entity: &Entity, property: &str) -> Option<Country> {
        let countries = self.countries(entity, property);
        for _ in countries.iter().skip(1) {
            self.leave_out(&format!("{} {property}: further values", entity.schema));
        }
        countries.first().copied()
    }

    /// The date that all agree with.
    fn agreed_date(&mut self, entity: &Entity, property: &str) -> Option<PartialDate> {
        let dates = self.each(entity, property, DAY_EXPECTED, date);
        let texts: Vec<String> = dates.iter().map(PartialDate::to_string).collect();
        let longest = texts.iter().max_by_key(|text| text.len())?;
        if texts.iter().all(|text| longest.starts_with(text.as_str())) {
            return longest.parse().ok();
        }
        self.leave_out(&format!("{} {property}: values that contradict each other", entity.schema));
        None
    }
}

fn read_party(
    reading: &mut Reading,
    entity: &Entity,
    addresses: &BTreeMap<&str, Option<Address>>,
    shared: &mut usize,
    mut identifiers: Vec<Identifier>,
) -> Party {
    let person = entity.schema == "Person";
    let arrangement =
        |form: &String| [ARRANGEMENT, "Trust"].iter().any(|known| form.eq_ignore_ascii_case(known));
    let mut party = Party::unknown(match person {
        true => CustomerKind::Person,
        false if reading.values(entity, "legalForm").iter().any(arrangement) => CustomerKind::Arrangement,
        false => CustomerKind::Entity,
    });
    let mut names = |property: &str, kind| {
        let names = reading.values(entity, property);
        names.into_iter().map(|full| Name::of(kind, full)).collect::<Vec<_>>()
    };
    let (legal, former) = (names("name", NameKind::Legal), names("previousName", NameKind::Former));
    let aliases = [names("alias", NameKind::Alias), names("weakAlias", NameKind::Alias)].concat();
    party.names = [legal, once(aliases.into_iter()), former].concat();
    if person {
        let parts = Name {
            given: reading.one(entity, "firstName"),
            middle: reading.one(entity, "middleName"),
            patronymic: reading.one(entity, "fatherName"),
            family: reading.one(entity, "lastName"),
            ..Name::of(NameKind::Legal, "")
        };
        match party.names.iter_mut().find(|name| name.kind == NameKind::Legal) {
            Some(name) => *name = Name { full: std::mem::take(&mut name.full), ..parts },
            None => party.names.splice(0..0, composed(parts)).for_each(drop),
        }
        party.citizenships = reading.countries(entity, "citizenship");
        for country in reading.countries(entity, "nationality") {
            add(&mut party.citizenships, country);
        }
    }
    party.born = reading.agreed_date(entity, if person { "birthDate" } else { "incorporationDate" });
    party.jurisdiction = reading.one_country(entity, "jurisdiction");
    for id in reading.values(entity, "addressEntity") {
        match addresses.get(id.as_str()) {
            Some(address) => {
                let bytes = address.as_ref().map_or(0, |address| address.full.len());
                *shared = shared.saturating_add(bytes);
                if *shared > MOST_BYTES {
                    reading.fault("properties.addressEntity", "addresses that are 256 MiB in all at most");
                    break;
                }
                party.addresses.extend(address.clone());
            }
            None => reading.leave_out("addressEntity: of another file"),
        }
    }
    for full in reading.values(entity, "address") {
        if !party.addresses.iter().any(|address| address.full == full) {
            party.addresses.push(Address::of(AddressKind::Other, full));
        }
    }
    party.emails = reading.values(entity, "email");
    party.telephones = reading.values(entity, "phone");
    let sites = reading.each(entity, "website", "the address of a website, as https://example.com", host);
    sites.into_iter().for_each(|site| add(&mut party.domains, site));
    for (property, scheme, of) in NUMBERS {
        for number in reading.values(entity, property) {
            // Told with its document already, where more is known of it.
            if !identifiers.iter().any(|known| known.number == number) {
                let country = of.and_then(country);
                identifiers.push(Identifier { scheme, number, issuer: None, country, expires: None });
            }
        }
    }
    party.identifiers = identifiers;
    party
}

fn read_address(reading: &mut Reading, entity: &Entity) -> Option<Address> {
    let full = reading.one(entity, "full");
    let street = reading.one(entity, "street");
    let locality = reading.one(entity, "city");
    let region = reading.one(entity, "region").or_else(|| reading.one(entity, "state"));
    let postcode = reading.one(entity, "postalCode");
    let country = reading.one_country(entity, "country");
    with_full(
        full,
        Address {
            kind: AddressKind::Other,
            full: String::new(),
            street,
            locality,
            region,
            postcode,
            country,
        },
    )
}

fn read_identifier(reading: &mut Reading, entity: &Entity) -> Option<Identifier> {
    let kind = reading.one(entity, "type").unwrap_or_default().to_lowercase();
    let known = DOCUMENTS.iter().find(|(word, _)| kind.contains(word)).map(|(_, scheme)| *scheme);
    let passport = (entity.schema == "Passport").then_some(Scheme::Passport);
    let number = reading.one(entity, "number").or_else(|| reading.one(entity, "passportNumber"));
    let expires = reading.agreed_date(entity, "endDate");
    let issuer = reading.one(entity, "authority");
    let country = reading.one_country(entity, "country");
    let scheme = passport.or(known).unwrap_or(Scheme::Other);
    if number.is_none() {
        reading.fault("properties.number", "the number that every document has");
    }
    Some(Identifier { scheme, number: number?, issuer, country, expires })
}

fn read_interests(
    reading: &mut Reading,
    read: &mut Read,
    others: &BTreeSet<&str>,
    entity: &Entity,
    owner: &str,
    asset: &str,
) {
    let lower = |values: Vec<String>| values.iter().map(|value| value.to_lowercase()).collect::<Vec<_>>();
    let roles = lower(reading.values(entity, "role"));
    let has = |texts: &[String], word: &str| texts.iter().any(|text| text.contains(word));
    let substantial_control = roles.iter().any(|role| *role == SUBSTANTIAL.to_lowercase());
    let kind = match entity.schema.as_str() {
        "Ownership" => Some(InterestKind::Shareholding),
        "Directorship" => Some(InterestKind::Manages),
        "Control" if has(&lower(reading.values(entity, "controlType")), "appointment") => {
            Some(InterestKind::AppointsBoard)
        }
        "Control" => Some(InterestKind::OtherControl),
        _ if has(&roles, "voting") || has(&roles, "votes") => Some(InterestKind::VotingRights),
        _ if has(&roles, "appoint") => Some(InterestKind::AppointsBoard),
        _ if has(&roles, "control") => Some(InterestKind::OtherControl),
        _ => None,
    };
    let Some(kind) = kind else { return reading.leave_out(&entity.schema) };
    let mut percentages = match kind {
        InterestKind::Shareholding => reading.each(entity, "percentage", SHARE_EXPECTED, stake),
        _ => Vec::new(),
    };
    let first = percentages.pop();
    let share = percentages.into_iter().fold(first, |all, one| {
        let all = all?;
        Stake::between(all.least().min(one.least()), all.most().max(one.most()))
    });
    // Of several the widest: it may have held as long as that.
    let from =
        reading.each(entity, "startDate", DAY_EXPECTED, |text| date(text).map(begins)).into_iter().min();
    let to = reading.each(entity, "endDate", DAY_EXPECTED, |text| date(text).map(ends)).into_iter().max();
    let mut sides = [Vec::new(), Vec::new()];
    for (side, property) in sides.iter_mut().zip([owner, asset]) {
        let place = format!("properties.{property}");
        let ids = reading.values(entity, property);
        if ids.is_empty() {
            reading.fault(place.as_str(), "the id of an entity");
        }
        if ids.iter().any(|id| others.contains(id.as_str())) {
            // A ship, say: it was left out itself.
            return reading.leave_out(&format!("{} with what was left out", entity.schema));
        }
        side.extend(ids.iter().filter_map(|id| party_id(reading, &place, id)));
    }
    let [owners, assets] = sides;
    let pairs = owners.len().saturating_mul(assets.len());
    if read.interests.len().saturating_add(pairs) > MOST_ITEMS {
        return reading.fault("properties", "among a million pairs of owner and asset at most");
    }
    for owner in &owners {
        for asset in &assets {
            let (owner, asset) = (owner.clone(), asset.clone());
            read.interests.push(Interest { owner, asset, kind, share, substantial_control, from, to });
        }
    }
}

/// A percentage as others write it.
fn stake(text: &str) -> Option<Stake> {
    let plain = text.replace('%', " ").replace(['–', '—'], "-").replace(',', ".");
    let plain = plain.trim();
    let number = |text: &str| {
        let text = text.trim();
        let good = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if good { share(text.parse().ok()?) } else { None }
    };
    if let Some((least, most)) = plain.split_once('-') {
        let (least, most) = (number(least)?, number(most)?);
        return Stake::between(least.least(), most.most());
    }
    let from = |text| Some(number(text)?.least());
    let up_to = |text| Some(number(text)?.most());
    for or_equal in [">=", "≥"] {
        if let Some(text) = plain.strip_prefix(or_equal) {
            return Stake::between(from(text)?, Share::WHOLE);
        }
    }
    for or_equal in ["<=", "≤"] {
        if let Some(text) = plain.strip_prefix(or_equal) {
            return Stake::between(Share::NOTHING, up_to(text)?);
        }
    }
    if let Some(text) = plain.strip_prefix('>') {
        return Stake::between(beyond(from(text)?)?, Share::WHOLE);
    }
    if let Some(text) = plain.strip_prefix('<') {
        return Stake::between(Share::NOTHING, below(up_to(text)?)?);
    }
    number(plain)
}

#[cfg(test)]
mod tests;
