//! Whole records of parties, one a line, each an object of JSON: `{"id":…,"control_group":…,"standing":{…},"party":{…}}`.
//!
//! It holds all that a record does: what [`write_records`] writes, [`parse_records`] reads back the same. A field that
//! is not known is refused. Blank lines are passed over, and a byte order mark and CRLF are accepted.
//!
//! No message repeats a value, nor a name of a field that is not one of ours: those of the JSON reader do, so nothing
//! of them is passed on but what they expected, where that cannot hold anything of the file.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write};

use serde_path_to_error::{Path, Segment};
use zeroize::Zeroizing;

use super::{Faults, ImportErrors, TIME, parties::PartyRecord};
use crate::{
    Access, ControlGroupId, PartyId, UsPerson,
    party::{BadParty, Country, PartialDate},
};

/// The most bytes of a line: ten thousand values of each kind do not fit, those of anybody real do.
const LONGEST_LINE: usize = 16 * 1024 * 1024;

/// Reads records of parties. A party stands in the file once.
///
/// # Errors
/// Every fault in the file, by line and place in the record but without the values; nothing of it is imported then.
pub fn parse_records(file_name: &str, text: &[u8]) -> Result<Vec<PartyRecord>, ImportErrors> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut faults = Faults::default();
    let mut records = Vec::new();
    let mut first: BTreeMap<PartyId, u64> = BTreeMap::new();
    let mut last_line = 1;
    for (line, text) in (1_u64..).zip(text.split(|byte| *byte == b'\n')) {
        let text = text.trim_ascii();
        if text.is_empty() {
            continue;
        }
        last_line = line;
        match parse_record(text) {
            Ok(record) => {
                let before = *first.entry(record.id.clone()).or_insert(line);
                if before != line {
                    let problem = format!("the same party as on line {before}, expected each once");
                    faults.add(line, Some("id"), problem);
                }
                records.push(record);
            }
            Err(bad) => faults.add_at(line, bad.place.map(Cow::Owned), bad.problem),
        }
    }
    if records.is_empty() && faults.total == 0 {
        faults.add(last_line, None, "no record, expected at least one".into());
    }
    faults.or(file_name, records)
}

/// A record that cannot be taken. It repeats nothing of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRecord {
    /// Where in it, as `party.names[0].full`.
    pub place: Option<String>,
    /// What was found, without the value, and what was expected.
    pub problem: String,
}

/// Reads one record.
///
/// # Errors
/// The first fault in it.
pub fn parse_record(text: &[u8]) -> Result<PartyRecord, BadRecord> {
    if text.len() > LONGEST_LINE {
        let problem = format!("{} bytes, expected at most {LONGEST_LINE}", text.len());
        return Err(BadRecord { place: None, problem });
    }
    if !text.starts_with(b"{") {
        // Else a list of the values in their order would do.
        return Err(not_json(1));
    }
    let mut reader = serde_json::Deserializer::from_slice(text);
    let record: PartyRecord = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let names = names_of(error.path());
        let inner = error.into_inner();
        match inner.classify() {
            serde_json::error::Category::Data => {
                let place = (!names.is_empty()).then(|| shown(&names));
                let last = names.iter().rev().find_map(|name| match name {
                    Step::Field(name) => Some(*name),
                    Step::Index(_) => None,
                });
                BadRecord { place, problem: problem(&inner.to_string(), last) }
            }
            _ => not_json(inner.column()),
        }
    })?;
    reader.end().map_err(|error| not_json(error.column()))?;
    record.party.check().map_err(|BadParty { place, expected }| BadRecord {
        place: Some(format!("party.{place}")),
        problem: format!("the value (withheld) does not fit, expected {expected}"),
    })?;
    Ok(record)
}

/// Writes records as [`parse_records`] reads them.
pub fn write_records(records: &[PartyRecord]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::new());
    for record in records {
        // Texts, numbers and lists: nothing in it cannot be written.
        text.push_str(&Zeroizing::new(serde_json::to_string(record).unwrap_or_default()));
        text.push('\n');
    }
    text
}

fn not_json(column: usize) -> BadRecord {
    BadRecord {
        place: None,
        problem: format!("no JSON at its byte {column}, expected one object in one line"),
    }
}

enum Step {
    Field(&'static str),
    Index(usize),
}

/// Every name that a field of a record has.
const FIELDS: &[&str] = &[
    "id",
    "control_group",
    "standing",
    "party",
    "no_account",
    "reseller",
    "verified",
    "remedy",
    "risk",
    "opened",
    "closed",
    "last_access",
    "open_discrepancies",
    "kind",
    "names",
    "born",
    "jurisdiction",
    "citizenships",
    "residence",
    "addresses",
    "emails",
    "telephones",
    "domains",
    "payments",
    "identifiers",
    "accesses",
    "us_person",
    "verifications",
    "discrepancies",
    "risk_reasons",
    "full",
    "given",
    "middle",
    "patronymic",
    "family",
    "script",
    "street",
    "locality",
    "region",
    "postcode",
    "country",
    "means",
    "source",
    "scheme",
    "number",
    "issuer",
    "expires",
    "what",
    "sha256",
    "method",
    "checker",
    "at",
    "outcome",
    "evidence",
    "note",
    "found",
    "resolved",
    "how",
    "by",
    "says",
    "basis",
    "decides",
];

fn field(name: &str) -> Option<&'static str> {
    FIELDS.iter().copied().find(|known| *known == name)
}

/// The way to a place, as far as it is by names of ours.
fn names_of(path: &Path) -> Vec<Step> {
    let steps = path.iter().map_while(|segment| match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => field(key).map(Step::Field),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    steps.collect()
}

fn shown(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        let _ = match step {
            Step::Field(name) if text.is_empty() => write!(text, "{name}"),
            Step::Field(name) => write!(text, ".{name}"),
            Step::Index(index) => write!(text, "[{index}]"),
        };
    }
    text
}

/// What is wrong, in words that hold nothing of the file. The reader's own begin with one of few words of which it is
/// known what follows; of any other nothing is taken.
fn problem(of_reader: &str, last: Option<&'static str>) -> String {
    // A name stands in backquotes, and is passed on only where it is one of ours.
    let named = || of_reader.split('`').nth(1).and_then(field).unwrap_or("a field");
    // What it knows stands after what it found, and holds no such word itself.
    let known = || {
        let (_, known) = of_reader.rsplit_once(", expected ")?;
        Some(known.rsplit_once(" at line ").map_or(known, |(known, _)| known))
    };
    if of_reader.starts_with("missing field `") {
        format!("{} is missing", named())
    } else if of_reader.starts_with("duplicate field `") {
        format!("{} stands there twice, expected once", named())
    } else if of_reader.starts_with("unknown field `") {
        format!("a field (withheld) is unknown, expected {}", known().unwrap_or("another"))
    } else if of_reader.starts_with("unknown variant `") {
        format!("the value (withheld) does not fit, expected {}", known().unwrap_or("another"))
    } else {
        let typed = ["invalid type: ", "invalid value: ", "invalid length "];
        let typed = typed.iter().any(|begin| of_reader.starts_with(begin));
        let expected = last.and_then(expected).or_else(|| known().filter(|_| typed));
        format!("the value (withheld) does not fit, expected {}", expected.unwrap_or("what its field is for"))
    }
}

/// What a field holds whose text has a form of its own.
fn expected(field: &str) -> Option<&'static str> {
    Some(match field {
        "id" | "reseller" => PartyId::EXPECTED,
        "control_group" => ControlGroupId::EXPECTED,
        "opened" | "closed" | "last_access" | "at" | "found" => TIME,
        "born" | "expires" => PartialDate::EXPECTED,
        "jurisdiction" | "citizenships" | "residence" | "country" => Country::EXPECTED,
        "accesses" => Access::EXPECTED,
        "says" => UsPerson::EXPECTED,
        _ => return None,
    })
}
