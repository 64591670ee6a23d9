//! Parties and what they hold of each other, in the formats that others read and write: FollowTheMoney ([`ftm`]),
//! the Beneficial Ownership Data Standard ([`bods`]) and OpenID's verified claims ([`verified_claims`]).
//!
//! Each has `write`, `read`, and `held`, which says of a record what is left of it once it was written and read again.
//! A file is read whole or not at all, and a refused one is refused with every fault in it. No message repeats a value,
//! for every one of them may name a person: it names line, place and what was expected. What a file holds that has no
//! place in a record is left out and counted by name ([`Read::left_out`]).
//!
//! In all of them a text that has several lines becomes one, a blank value is none, and a share of more decimals
//! than a record has is a range that holds it.
//!
//! Deliberately absent: properties of our own making where a format has none, and any judgement whether two records
//! are of one party.

pub mod bods;
pub mod ftm;
pub mod verified_claims;

#[cfg(test)]
mod generate;

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value, value::RawValue};
use sha2::{Digest, Sha256};
use weighbridge_meter::UtcMillis;

use crate::{
    Interest, SHOWN_FAULTS,
    ownership::{Share, Stake},
    party::{Address, Country, Name, NameKind, PartialDate, Party, PartyId},
};

/// The most bytes of a file.
pub const MOST_BYTES: usize = 256 * 1024 * 1024;

/// The most entities or statements of a file.
pub const MOST_ITEMS: usize = 1_000_000;

/// The most values in one list.
const MOST_VALUES: usize = 10_000;

/// The most bytes of one text: what a record takes.
const LONGEST_TEXT: usize = 4096;
const TEXT_EXPECTED: &str = "text of at most 4,096 bytes";

/// The most bytes of one entity or statement.
const LONGEST_ITEM: usize = 4 * 1024 * 1024;

/// Names under which something was left out, and the longest of them; what is beyond counts under one name.
const MOST_NAMES: usize = 200;
const LONGEST_NAME: usize = 80;
const OTHERS: &str = "other";

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Parties, in the order of the file.
    pub parties: Vec<(PartyId, Party)>,
    /// What they hold of each other. Who holds or is held need not be in the file.
    pub interests: Vec<Interest>,
    /// What has no place in a record, and how often it stood in the file.
    pub left_out: BTreeMap<String, usize>,
}

/// A file that was refused, and everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Errors {
    /// The file, as the caller named it.
    pub file: String,
    /// The first faults by line, at most [`SHOWN_FAULTS`].
    pub shown: Vec<Fault>,
    /// How many there are in all.
    pub total: usize,
}

/// One thing wrong in a file. It holds no value from it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The line on which the entity or statement begins, counted from 1.
    pub line: u64,
    /// Where in it, as `properties.percentage`; empty where it is all of it.
    pub place: String,
    /// What was expected there.
    pub expected: &'static str,
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.total == 1 { "" } else { "s" };
        write!(f, "{} is not read, for {} fault{plural} (values are withheld):", self.file, self.total)?;
        for Fault { line, place, expected } in &self.shown {
            let colon = if place.is_empty() { "" } else { ": " };
            write!(f, "\n{}:{line}: {place}{colon}expected {expected}", self.file)?;
        }
        match self.total.saturating_sub(self.shown.len()) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

/// Takes into a record what a file says of the same party: what is not known yet is added, a verification with the id
/// of an earlier one replaces it. `held` is what the file's format has of the known record: what says no more than that
/// is known already, however much the format lost. Returns the fields in which both contradict each other; what was
/// known stays.
pub fn merge(known: &mut Party, told: &Party, held: &Party) -> Vec<&'static str> {
    fn add_to<T: Clone + PartialEq>(known: &mut Vec<T>, told: &[T], held: &[T]) {
        for one in told {
            if !held.contains(one) {
                add(known, one.clone());
            }
        }
    }
    fn one<T: Copy + PartialEq>(known: &mut Option<T>, told: Option<T>) -> bool {
        *known = known.or(told);
        told.is_some() && *known != told
    }
    /// A date of which one says more than the other is the one that says more.
    fn dated(known: &mut Option<PartialDate>, told: Option<PartialDate>) -> bool {
        let (Some(before), Some(told)) = (*known, told) else { return one(known, told) };
        let (shorter, longer) = (before.to_string(), told.to_string());
        if longer.starts_with(&shorter) {
            *known = Some(told);
        }
        !longer.starts_with(&shorter) && !shorter.starts_with(&longer)
    }
    macro_rules! add {
        ($($list:ident),*) => { $(add_to(&mut known.$list, &told.$list, &held.$list);)* };
    }
    add!(names, citizenships, addresses, emails, telephones, domains, payments, identifiers, accesses);
    add!(discrepancies, risk_reasons);
    add_to(&mut known.us_person.0, &told.us_person.0, &held.us_person.0);
    for verification in told.verifications.iter().filter(|one| !held.verifications.contains(one)) {
        match known.verifications.iter_mut().find(|one| one.id == verification.id) {
            Some(earlier) => earlier.clone_from(verification),
            None => known.verifications.push(verification.clone()),
        }
    }
    let contradictions = [
        ("kind", known.kind != told.kind && held.kind != told.kind),
        ("born", dated(&mut known.born, told.born)),
        ("jurisdiction", one(&mut known.jurisdiction, told.jurisdiction)),
        ("residence", one(&mut known.residence, told.residence)),
    ];
    contradictions.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
}

/// What interests of a file say that those that are known do not: one that says what its format has of a known one is
/// left out, and one that tells more of it tells it of that one, with what the format lost of it. `held` is what the
/// format has of known ones.
pub fn new_interests(
    told: Vec<Interest>,
    known: &[Interest],
    held: fn(&[Interest]) -> Vec<Interest>,
) -> Vec<Interest> {
    let mut of_key: BTreeMap<String, Vec<(Interest, &Interest)>> = BTreeMap::new();
    for one in known {
        for held in held(std::slice::from_ref(one)) {
            of_key.entry(held.key()).or_default().push((held, one));
        }
    }
    let fitted = told.into_iter().filter_map(|told| {
        let alike = of_key.get(&told.key()).map_or(&[][..], Vec::as_slice);
        if alike.iter().any(|(held, _)| *held == told) {
            return None;
        }
        let Some((held, known)) = alike.last() else { return Some(told) };
        let share = if told.share == held.share { known.share } else { told.share };
        let to = if told.to == held.to { known.to } else { told.to };
        Some(Interest { from: known.from, to, share, ..told })
    });
    let known: BTreeMap<String, &Interest> = known.iter().map(|one| (one.key(), one)).collect();
    fitted.filter(|one| known.get(&one.key()) != Some(&one)).collect()
}

/// A file under reading.
#[derive(Default)]
struct Reading {
    shown: Vec<Fault>,
    total: usize,
    /// The line of what is being read.
    line: u64,
    left_out: BTreeMap<String, usize>,
}

impl Reading {
    fn fault(&mut self, place: impl Into<String>, expected: &'static str) {
        self.total += 1;
        if self.shown.len() < SHOWN_FAULTS {
            self.shown.push(Fault { line: self.line, place: place.into(), expected });
        }
    }

    /// Counts something that has no place.
    fn leave_out(&mut self, name: &str) {
        let plain = |character: char| character.is_ascii_alphanumeric() || " ._:()-".contains(character);
        let is_name = (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(plain);
        let full = self.left_out.len() >= MOST_NAMES && !self.left_out.contains_key(name);
        let name = if is_name && !full { name } else { OTHERS };
        *self.left_out.entry(name.to_owned()).or_default() += 1;
    }

    fn refused(mut self, file_name: &str) -> Errors {
        self.shown.sort();
        let Self { shown, total, .. } = self;
        Errors { file: file_name.escape_debug().to_string(), shown, total }
    }

    /// The objects of a file: the members of an array, one on each line, or one that takes all of it.
    fn objects(&mut self, bytes: &[u8]) -> Vec<(u64, Map<String, Value>)> {
        self.line = 1;
        if bytes.len() > MOST_BYTES {
            self.fault("", "a file of at most 256 MiB");
            return Vec::new();
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let text = match str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                self.line = lines_before(&bytes[..error.valid_up_to()]) + 1;
                self.fault("", "UTF-8 text");
                return Vec::new();
            }
        };
        let mut items: Vec<(u64, &str)> = Vec::new();
        if text.trim_start().starts_with('[') {
            match serde_json::from_str::<Vec<&RawValue>>(text) {
                Ok(values) => {
                    let (mut at, mut line) = (0, 1);
                    for value in values {
                        let begins = value.get().as_ptr().addr().saturating_sub(text.as_ptr().addr());
                        line += lines_before(bytes.get(at..begins).unwrap_or_default());
                        at = begins;
                        items.push((line, value.get()));
                    }
                }
                Err(error) => {
                    self.line = u64::try_from(error.line()).unwrap_or(1).max(1);
                    self.fault("", "an array of JSON objects");
                }
            }
        } else if serde_json::from_str::<&RawValue>(text).is_ok() {
            let blank = text.len() - text.trim_start().len();
            items.push((lines_before(&bytes[..blank]) + 1, text));
        } else {
            let lines = (1..).zip(text.split('\n'));
            items.extend(lines.filter(|(_, line)| !line.trim().is_empty()));
        }
        if items.is_empty() && self.total == 0 {
            self.fault("", "at least one JSON object");
        }
        if items.len() > MOST_ITEMS {
            self.fault("", "a file of at most a million objects");
            return Vec::new();
        }
        let mut objects = Vec::with_capacity(items.len());
        for (line, text) in items {
            self.line = line;
            if text.len() > LONGEST_ITEM {
                self.fault("", "an object of at most 4 MiB");
                continue;
            }
            match serde_json::from_str(text) {
                Ok(Value::Object(object)) => objects.push((line, object)),
                _ => self.fault("", "a JSON object"),
            }
        }
        objects
    }

    /// A text in an object; `None` where there is none, and where it is none, which is a fault.
    fn text(&mut self, object: &Map<String, Value>, place: &str, key: &str) -> Option<String> {
        self.lines(object, place, key, " ")
    }

    /// As [`Reading::text`], with something between the lines of what has several.
    fn lines(
        &mut self,
        object: &Map<String, Value>,
        place: &str,
        key: &str,
        between: &str,
    ) -> Option<String> {
        let text = match object.get(key)? {
            Value::Null => return None,
            Value::String(text) => cleaned(text, between),
            _ => {
                self.fault(join(place, key), TEXT_EXPECTED);
                return None;
            }
        };
        let fits = text.as_ref().is_none_or(|text| text.len() <= LONGEST_TEXT);
        if !fits {
            self.fault(join(place, key), TEXT_EXPECTED);
        }
        text.filter(|_| fits)
    }

    /// As [`Reading::text`], of that which is read from it.
    fn parsed<T>(
        &mut self,
        object: &Map<String, Value>,
        place: &str,
        key: &str,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(object, place, key)?;
        let value = parse(&text);
        if value.is_none() {
            self.fault(join(place, key), expected);
        }
        value
    }

    fn object<'a>(
        &mut self,
        object: &'a Map<String, Value>,
        place: &str,
        key: &str,
    ) -> Option<&'a Map<String, Value>> {
        match object.get(key)? {
            Value::Null => None,
            Value::Object(inner) => Some(inner),
            _ => {
                self.fault(join(place, key), "a JSON object");
                None
            }
        }
    }

    /// What an array holds, each with its place.
    fn array<'a>(
        &mut self,
        object: &'a Map<String, Value>,
        place: &str,
        key: &str,
    ) -> Vec<(String, &'a Value)> {
        match object.get(key) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(values)) if values.len() <= MOST_VALUES => {
                let place = join(place, key);
                values.iter().enumerate().map(|(index, value)| (format!("{place}[{index}]"), value)).collect()
            }
            Some(_) => {
                self.fault(join(place, key), "an array of at most 10,000 values");
                Vec::new()
            }
        }
    }

    fn objects_in<'a>(
        &mut self,
        object: &'a Map<String, Value>,
        place: &str,
        key: &str,
    ) -> Vec<(String, &'a Map<String, Value>)> {
        let mut objects = Vec::new();
        for (place, value) in self.array(object, place, key) {
            match value {
                Value::Object(object) => objects.push((place, object)),
                _ => self.fault(place, "a JSON object"),
            }
        }
        objects
    }

    /// Whether a party can be kept; a fault where it cannot.
    fn keepable(&mut self, party: &Party) -> bool {
        match party.check() {
            Ok(()) => true,
            Err(error) => {
                self.fault(error.place, error.expected);
                false
            }
        }
    }
}

/// A word of the file that is part of a name under which something is left out; none that could be of a person.
fn word(text: &str) -> &str {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if (1..=40).contains(&text.len()) && text.bytes().all(plain) { text } else { OTHERS }
}

fn lines_before(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

fn join(place: &str, key: &str) -> String {
    if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") }
}

/// A text in one line, without blanks around it; `None` where nothing is left.
fn cleaned(text: &str, between_lines: &str) -> Option<String> {
    let lines = text.split(char::is_control).map(str::trim).filter(|line| !line.is_empty());
    Some(lines.collect::<Vec<_>>().join(between_lines)).filter(|text| !text.is_empty())
}

/// Adds what is not in it yet.
fn add<T: PartialEq>(list: &mut Vec<T>, value: T) {
    if !list.contains(&value) {
        list.push(value);
    }
}

/// The whole name where a file gives its parts alone.
fn composed(name: Name) -> Option<Name> {
    let full = {
        let parts = [&name.given, &name.middle, &name.patronymic, &name.family];
        parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" ")
    };
    (!full.is_empty()).then_some(Name { full, ..name })
}

/// The same of an address: as it is written, else put together from its parts.
fn with_full(full: Option<String>, address: Address) -> Option<Address> {
    let parts = || {
        let texts = [&address.street, &address.locality, &address.region, &address.postcode];
        let texts = texts.into_iter().flatten().map(String::as_str);
        let country = address.country.as_ref().map(Country::as_str);
        texts.chain(country).collect::<Vec<_>>().join(", ")
    };
    let full = full.unwrap_or_else(parts);
    (!full.is_empty()).then_some(Address { full, ..address })
}

/// Keeps of names with one text the first.
fn once(names: impl Iterator<Item = Name>) -> Vec<Name> {
    let mut kept: Vec<Name> = Vec::new();
    for name in names {
        if !kept.iter().any(|one| one.full == name.full) {
            kept.push(name);
        }
    }
    kept
}

/// Names that have one of these kinds, without their parts, as one kind.
fn plain_names(party: &Party, kinds: &[NameKind], told_as: NameKind) -> Vec<Name> {
    let of = party.names.iter().filter(|name| kinds.contains(&name.kind));
    once(of.map(|name| Name::of(told_as, name.full.as_str())))
}

/// An id that no two different lists of texts share.
fn id_of(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().iter().take(20).map(|byte| format!("{byte:02x}")).collect()
}

/// A name in the domain system, or in an address of the web.
fn host(text: &str) -> Option<String> {
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let name = text.split(['/', '?', '#', ':']).next().unwrap_or_default().trim_end_matches('.');
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|character| character.is_alphanumeric() || "-_".contains(character))
    };
    let is = name.len() <= 253 && name.split('.').all(label);
    is.then(|| name.to_ascii_lowercase())
}

/// Domains that an address of the web can be made of.
fn hosts(party: &Party) -> Vec<String> {
    let mut hosts = Vec::new();
    for domain in &party.domains {
        if let Some(host) = host(domain).filter(|host| *host == domain.to_ascii_lowercase()) {
            add(&mut hosts, host);
        }
    }
    hosts
}

/// So many percent; a range of one millionth where it has more decimals.
fn share(percent: f64) -> Option<Stake> {
    if !(0.0..=100.0).contains(&percent) {
        return None;
    }
    let millionths = percent * 10_000.0;
    let nearest = millionths.round();
    let exact = (millionths - nearest).abs() < 1e-6;
    let (least, most) = if exact { (nearest, nearest) } else { (millionths.floor(), millionths.ceil()) };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a million")]
    let whole = |value: f64| Share::from_millionths(value as u32);
    Stake::between(whole(least)?, whole(most)?)
}

/// What is more, or less, than a share, by one step. Nothing is more than all of it.
fn beyond(share: Share) -> Option<Share> {
    Share::from_millionths(share.millionths() + 1)
}

fn below(share: Share) -> Option<Share> {
    share.millionths().checked_sub(1).and_then(Share::from_millionths)
}

/// The first and the last day that a moment has as text: 0001-01-01 and 9999-12-30.
const FIRST_DAY: UtcMillis = UtcMillis(-62_135_596_800_000);
const LAST_DAY: UtcMillis = UtcMillis(253_402_128_000_000);

/// An interest as far as days tell it: its begin and end at midnight before, in UTC.
fn in_days(interest: &Interest) -> Interest {
    let midnight = |at: UtcMillis| UtcMillis(at.0.div_euclid(UtcMillis::DAY).saturating_mul(UtcMillis::DAY));
    Interest {
        // Before the calendar is as far back as anything, beyond it is as good as never.
        from: interest.from.map(|at| midnight(at).min(LAST_DAY)).filter(|at| *at >= FIRST_DAY),
        to: interest.to.map(|at| midnight(at).max(FIRST_DAY)).filter(|at| *at <= LAST_DAY),
        ..interest.clone()
    }
}

/// A moment's day, for what [`in_days`] made.
fn day(at: UtcMillis) -> String {
    at.to_string().split('T').next().unwrap_or_default().to_owned()
}

const DAY_EXPECTED: &str = "a date as 2026-01-31, 2026-01 or 2026";

/// A date, of which a time of day is dropped.
fn date(text: &str) -> Option<PartialDate> {
    text.split(['T', ' ']).next()?.parse().ok()
}

/// Where an interest begins that is told to begin at a date: of a month or a year with its first day.
fn begins(date: PartialDate) -> UtcMillis {
    let text = date.to_string();
    let rest = &"0000-01-01"[text.len()..];
    // 9999-12-31 is written for never, and is no moment any more.
    format!("{text}{rest}T00:00:00Z").parse().unwrap_or(LAST_DAY)
}

/// Where it ends that is told to end at a date: on that day, and of a month or a year at its end.
fn ends(date: PartialDate) -> UtcMillis {
    if date.is_whole() { begins(date) } else { date.end().unwrap_or(LAST_DAY) }
}

/// A moment, or the midnight before a day, in UTC where no offset is told.
fn moment(text: &str) -> Option<UtcMillis> {
    if let Ok(day) = text.parse::<PartialDate>() {
        return day.is_whole().then(|| begins(day));
    }
    let in_utc = || format!("{text}Z").parse().ok();
    text.parse().ok().or_else(in_utc)
}

fn party_id(reading: &mut Reading, place: &str, text: &str) -> Option<PartyId> {
    let id = text.parse();
    if id.is_err() {
        reading.fault(place, PartyId::EXPECTED);
    }
    id.ok()
}

/// Countries by two letters and by three (ISO 3166-1).
const CODES: &str = "ADANDAEAREAFAFGAGATGAIAIAALALBAMARMAOAGOAQATAARARGASASMATAUTAUAUSAWABWAXALAAZAZEBABIHBBBRBBDBGDBEBELBFBFABGBGRBHBHRBIBDIBJBENBLBLMBMBMUBNBRNBOBOLBQBESBRBRABSBHSBTBTNBVBVTBWBWABYBLRBZBLZCACANCCCCKCDCODCFCAFCGCOGCHCHECICIVCKCOKCLCHLCMCMRCNCHNCOCOLCRCRICUCUBCVCPVCWCUWCXCXRCYCYPCZCZEDEDEUDJDJIDKDNKDMDMADODOMDZDZAECECUEEESTEGEGYEHESHERERIESESPETETHFIFINFJFJIFKFLKFMFSMFOFROFRFRAGAGABGBGBRGDGRDGEGEOGFGUFGGGGYGHGHAGIGIBGLGRLGMGMBGNGINGPGLPGQGNQGRGRCGSSGSGTGTMGUGUMGWGNBGYGUYHKHKGHMHMDHNHNDHRHRVHTHTIHUHUNIDIDNIEIRLILISRIMIMNININDIOIOTIQIRQIRIRNISISLITITAJEJEYJMJAMJOJORJPJPNKEKENKGKGZKHKHMKIKIRKMCOMKNKNAKPPRKKRKORKWKWTKYCYMKZKAZLALAOLBLBNLCLCALILIELKLKALRLBRLSLSOLTLTULULUXLVLVALYLBYMAMARMCMCOMDMDAMEMNEMFMAFMGMDGMHMHLMKMKDMLMLIMMMMRMNMNGMOMACMPMNPMQMTQMRMRTMSMSRMTMLTMUMUSMVMDVMWMWIMXMEXMYMYSMZMOZNANAMNCNCLNENERNFNFKNGNGANINICNLNLDNONORNPNPLNRNRUNUNIUNZNZLOMOMNPAPANPEPERPFPYFPGPNGPHPHLPKPAKPLPOLPMSPMPNPCNPRPRIPSPSEPTPRTPWPLWPYPRYQAQATREREUROROURSSRBRURUSRWRWASASAUSBSLBSCSYCSDSDNSESWESGSGPSHSHNSISVNSJSJMSKSVKSLSLESMSMRSNSENSOSOMSRSURSSSSDSTSTPSVSLVSXSXMSYSYRSZSWZTCTCATDTCDTFATFTGTGOTHTHATJTJKTKTKLTLTLSTMTKMTNTUNTOTONTRTURTTTTOTVTUVTWTWNTZTZAUAUKRUGUGAUMUMIUSUSAUYURYUZUZBVAVATVCVCTVEVENVGVGBVIVIRVNVNMVUVUTWFWLFWSWSMYEYEMYTMYTZAZAFZMZMBZWZWE";

const COUNTRY_EXPECTED: &str = "a country's two or three letters by ISO 3166-1";

/// The three letters of a country.
fn three_letters(country: Country) -> &'static str {
    CODES
        .as_bytes()
        .as_chunks::<5>()
        .0
        .iter()
        .find_map(|code| {
            let code = str::from_utf8(code).ok()?;
            (code.get(..2)? == country.as_str()).then(|| code.get(2..))?
        })
        .unwrap_or_default()
}

/// A country by two or three letters, or by those of a part of it, as US-CA.
fn country(text: &str) -> Option<Country> {
    let text = text.split_once('-').map_or(text, |(country, _)| country);
    let upper = text.to_ascii_uppercase();
    let by_three = || {
        let codes = CODES.as_bytes().as_chunks::<5>().0;
        let code = codes.iter().find(|code| upper.as_bytes() == &code[2..])?;
        str::from_utf8(&code[..2]).ok()?.parse().ok()
    };
    text.parse().ok().or_else(by_three)
}

/// Whether a text is at least shaped as a code: there are more of them than ISO has countries.
fn is_code(text: &str) -> bool {
    (1..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn countries_have_two_and_three_letters() {
        let mut all = 0;
        for known in Country::all() {
            let three = three_letters(known);
            assert_eq!(three.len(), 3, "{known}");
            assert_eq!(country(three), Some(known));
            assert_eq!(country(known.as_str()), Some(known));
            all += 1;
        }
        assert_eq!(all * 5, CODES.len());
        assert_eq!(country("us-de"), "US".parse().ok());
        assert_eq!((country("ZZ"), country("Germany"), country("")), (None, None, None));
    }

    #[test]
    fn a_share_with_more_decimals_than_there_are_is_a_range_that_holds_it() {
        let text = |percent| share(percent).map(|stake| format!("{}..{}", stake.least(), stake.most()));
        assert_eq!(text(25.0).as_deref(), Some("25..25"));
        assert_eq!(text(12.3456).as_deref(), Some("12.3456..12.3456"));
        assert_eq!(text(100.0 / 3.0).as_deref(), Some("33.3333..33.3334"));
        for bad in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            assert_eq!(share(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_share_reads_back_from_its_number() {
        for millionths in (0..=1_000_000).step_by(7).chain([333_333, 1_000_000]) {
            let percent = Share::from_millionths(millionths).unwrap();
            let read = share(percent.to_string().parse().unwrap()).unwrap();
            assert_eq!(read, Stake::exact(percent));
        }
    }

    #[test]
    fn what_begins_before_the_calendar_has_always_been_and_what_ends_beyond_it_lasts() {
        let at = |from, to| {
            let (owner, asset) = ("a".parse().unwrap(), "b".parse().unwrap());
            let (from, to) = (Some(UtcMillis(from)), Some(UtcMillis(to)));
            let kind = crate::InterestKind::Manages;
            let told =
                in_days(&Interest { owner, asset, kind, share: None, substantial_control: false, from, to });
            (told.from.map(day), told.to.map(day))
        };
        assert_eq!(at(i64::MIN, i64::MAX), (None, None));
        assert_eq!(at(i64::MAX, i64::MIN), (Some("9999-12-30".into()), Some("0001-01-01".into())));
        assert_eq!(at(-1, UtcMillis::DAY), (Some("1969-12-31".into()), Some("1970-01-02".into())));
    }

    #[test]
    fn a_date_without_a_day_is_the_widest_that_it_can_mean() {
        let span = |text| {
            let date = date(text)?;
            Some(format!("{} {}", day(begins(date)), day(ends(date))))
        };
        assert_eq!(span("2016").as_deref(), Some("2016-01-01 2017-01-01"));
        assert_eq!(span("2016-02").as_deref(), Some("2016-02-01 2016-03-01"));
        assert_eq!(span("9999-12-31").as_deref(), Some("9999-12-30 9999-12-30"));
        assert_eq!(span("9999").as_deref(), Some("9999-01-01 9999-12-30"));
        assert_eq!(span("2016-02-03T10:00:00").as_deref(), Some("2016-02-03 2016-02-03"));
    }

    #[test]
    fn no_depth_and_no_length_of_a_file_is_followed_to_its_end() {
        let objects = |text: &str| {
            let mut reading = Reading::default();
            let objects = reading.objects(text.as_bytes());
            (objects.len(), reading.shown.into_iter().map(|fault| fault.expected).collect::<Vec<_>>())
        };
        assert_eq!(objects(&"[".repeat(1_000_000)), (0, vec!["an array of JSON objects"]));
        assert_eq!(objects(&"{\"a\":".repeat(100_000)), (0, vec!["a JSON object"]));
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(objects(&deep), (0, vec!["a JSON object"]));
        assert_eq!(
            objects(&format!("{{\"a\":\"{}\"}}", "x".repeat(LONGEST_ITEM))).1,
            ["an object of at most 4 MiB"]
        );
        assert_eq!(objects("").1, ["at least one JSON object"]);
        assert_eq!(objects("{}\r\n\r\n{}").0, 2);
        assert_eq!(objects(" \n{\n}\n").0, 1);
    }

    #[test]
    fn what_is_left_out_is_named_by_short_plain_names_and_by_so_many() {
        let mut reading = Reading::default();
        reading.leave_out("Vessel");
        reading.leave_out("Jané Doe");
        reading.leave_out(&"x".repeat(LONGEST_NAME + 1));
        (0..MOST_NAMES).for_each(|index| reading.leave_out(&index.to_string()));
        assert_eq!(reading.left_out["Vessel"], 1);
        assert!(reading.left_out.len() <= MOST_NAMES + 1);
        assert_eq!(reading.left_out.values().sum::<usize>(), MOST_NAMES + 3);
    }

    #[test]
    fn a_second_record_adds_what_was_not_known_and_names_what_contradicts() {
        let mut known = Party::unknown(crate::CustomerKind::Person);
        known.born = "1970".parse().ok();
        known.emails = vec!["a@example.net".into()];
        let mut told = known.clone();
        told.born = "1971".parse().ok();
        told.residence = "FR".parse().ok();
        told.emails.push("b@example.net".into());
        let held = known.clone();
        assert_eq!(merge(&mut known, &told, &held), ["born"]);
        assert_eq!((known.emails.len(), known.residence), (2, told.residence));
        assert_eq!(known.born, "1970".parse().ok());
    }

    #[test]
    fn a_date_that_says_more_replaces_one_that_says_less_and_not_the_other_way() {
        for (before, told, after) in
            [("1970-05", "1970", "1970-05"), ("1970", "1970-05-01", "1970-05-01"), ("1970", "1970", "1970")]
        {
            let mut known = Party::unknown(crate::CustomerKind::Person);
            let mut other = known.clone();
            (known.born, other.born) = (before.parse().ok(), told.parse().ok());
            let held = known.clone();
            assert!(merge(&mut known, &other, &held).is_empty(), "{before} {told}");
            assert_eq!(known.born, after.parse().ok());
        }
    }

    #[test]
    fn a_file_that_tells_when_a_known_interest_ends_ends_that_one() {
        let (owner, asset) = ("a".parse().unwrap(), "b".parse().unwrap());
        let known = Interest {
            owner,
            asset,
            kind: crate::InterestKind::VotingRights,
            share: Some(Stake::exact(Share::HALF)),
            substantial_control: false,
            from: Some(UtcMillis(1)),
            to: None,
        };
        let told = Interest {
            from: Some(UtcMillis(0)),
            to: Some(UtcMillis(UtcMillis::DAY)),
            share: None,
            ..known.clone()
        };
        let new = new_interests(vec![told], std::slice::from_ref(&known), ftm::held_interests);
        assert_eq!(new, [Interest { to: Some(UtcMillis(UtcMillis::DAY)), ..known.clone() }]);
        assert_eq!(new[0].key(), known.key(), "so that it replaces it");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn what_is_written_and_read_into_the_same_records_changes_nothing(
            parties in generate::parties(), interests in generate::interests(),
        ) {
            // Of those with one key the last counts.
            let interests: BTreeMap<String, Interest> =
                interests.into_iter().map(|interest| (interest.key(), interest)).collect();
            let interests: Vec<Interest> = interests.into_values().collect();
            let by = bods::Publication { publisher: "p", at: UtcMillis(0) };
            let mut files = vec![
                ("ftm", ftm::read("f", ftm::write(&parties, &interests).as_bytes())),
                ("bods", bods::read("f", bods::write(&parties, &interests, by).as_bytes())),
            ];
            let persons: Vec<String> =
                parties.iter().filter_map(|(id, party)| verified_claims::write(id, party, "rules")).collect();
            if !persons.is_empty() {
                let source = verified_claims::Source { provider: "p", at: UtcMillis(0) };
                let read = verified_claims::read("f", persons.join("\n").as_bytes(), source);
                files.push(("claims", read.map(|read| Read {
                    parties: read.persons.into_iter().filter_map(|one| Some((one.sub?, one.party))).collect(),
                    ..Read::default()
                })));
            }
            for (format, read) in files {
                if parties.is_empty() && interests.is_empty() {
                    continue;
                }
                let read = read.map_err(|errors| TestCaseError::fail(errors.to_string()))?;
                let held_interests = if format == "ftm" { ftm::held_interests } else { bods::held_interests };
                prop_assert_eq!(new_interests(read.interests, &interests, held_interests), [], "{}", format);
                for (id, told) in &read.parties {
                    let (_, known) = parties.iter().find(|(known, _)| known == id).unwrap();
                    let held = match format {
                        "ftm" => ftm::held(known),
                        "bods" => bods::held(known),
                        _ => verified_claims::held(known, "rules").unwrap(),
                    };
                    let mut merged = known.clone();
                    prop_assert_eq!(merge(&mut merged, told, &held), [] as [&str; 0], "{}", format);
                    // Not by its text, which says nothing of it.
                    prop_assert!(merged == *known, "{}", format);
                }
            }
        }
    }
}
