//! Rule packs: what an instrument asks for, as a dated and versioned data file `packs/<id>@<version>.toml`.
//!
//! A pack says where every value comes from and how sure that is, and it carries worked examples: one that fails its
//! own examples does not load. An unknown key is an error, because a misspelt condition would be a missing one.
//!
//! Deliberately absent: signatures and files on disk (the collector checks and reads), and any opinion on whether
//! somebody must report. [`RulePack::evaluate`] is the shipped default; the operator's configuration may override it.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize, de};
use sha2::{Digest, Sha256};

use crate::{
    amount::{Amount, Comparator, Threshold},
    arrangement::End,
    clock::{ClockStart, Zone},
    finding::{Certainty, Declaration, Scope, Standing, Subject},
};

mod check;
mod condition;
mod date;
mod field;

pub use condition::Condition;
pub use date::PartialDate;
pub use field::{FieldSource, ReportField};

/// The packs that come with the program: file name and text.
pub fn shipped() -> Vec<(&'static str, &'static str)> {
    macro_rules! packs {
        ($($name:literal),+ $(,)?) => { vec![$(($name, include_str!(concat!("../packs/", $name)))),+] };
    }
    packs![
        "eu-ai-act@1.toml",
        "eu-gpai-guidelines@1.toml",
        "us-702.7@1.toml",
        "us-7.308@1.toml",
        "us-ca-sb53@1.toml",
        "us-eo14110@1.toml",
        "us-ny-raise@1.toml",
    ]
}

/// A pack that was read, checked and found to agree with its own examples. Made by [`RulePack::parse`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulePack {
    /// As in its file name.
    pub id: String,
    /// As in its file name.
    pub version: String,
    /// For lists and headings.
    pub title: String,
    /// How to name the instrument in "meets the criteria of ...".
    pub name: String,
    /// Where the text of the instrument is found.
    pub citation: String,
    /// The date of the newest source that its status was checked against.
    pub checked: PartialDate,
    /// Whether it is evaluated unless the operator says otherwise.
    pub evaluate: bool,
    /// Why that is the default.
    pub evaluate_reason: String,
    /// Whom it looks at.
    pub applies_to: AppliesTo,
    /// Its history, oldest first.
    pub status: Vec<StatusEntry>,
    /// What it asks for.
    pub rule: Vec<Rule>,
    /// Its deadlines.
    pub clock: Vec<Clock>,
    /// What a report under it contains.
    pub report_field: Vec<ReportField>,
    /// How long identities are to be kept, where it says so.
    pub retention: Option<Retention>,
    /// From which share on an owner is a beneficial one, where it says so.
    pub beneficial_owner: Option<OwnerLine>,
    /// From which part of a body on that persons under a special measure who hold it together bring it under theirs.
    pub measured_owners: Option<OwnerLine>,
    text: Box<str>,
    sha256: String,
}

/// Why a pack does not load. All of them need a person to change the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// It is not TOML at all.
    #[error("{file}: not a TOML file: {problem}")]
    Syntax {
        /// The pack's file name.
        file: String,
        /// What the reader stumbled over, with line and column.
        problem: String,
    },
    /// A key is missing or unknown, or a value has the wrong form.
    #[error("{file}: at {key}: {problem}")]
    Shape {
        /// The pack's file name.
        file: String,
        /// The key, or the table that misses one, such as `rule[0].condition[0]`; `.` is the whole file.
        key: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// A value is well formed and contradicts the rest.
    #[error("{file}: {key} is {value:?}, expected {expected}")]
    Contradiction {
        /// The pack's file name.
        file: String,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What it should be.
        expected: String,
    },
    /// The rules do not give what an example says.
    #[error("{file}: example[{index}] {title:?} expects {expected}, the rule gives {given}")]
    Example {
        /// The pack's file name.
        file: String,
        /// Which example, from 0.
        index: usize,
        /// Its title.
        title: String,
        /// What it expects.
        expected: String,
        /// What came out.
        given: String,
    },
}

impl RulePack {
    /// Reads a pack. `file_name` is without a folder; it must say the same id and version as the text.
    pub fn parse(file_name: &str, text: &str) -> Result<Self, PackError> {
        let file: PackFile = read(file_name, text)?;
        let examples = file.example;
        let pack = Self {
            id: file.id,
            version: file.version,
            title: file.title,
            name: file.name,
            citation: file.citation,
            checked: file.checked,
            evaluate: file.evaluate,
            evaluate_reason: file.evaluate_reason,
            applies_to: file.applies_to,
            status: file.status,
            rule: file.rule,
            clock: file.clock,
            report_field: file.report_field,
            retention: file.retention,
            beneficial_owner: file.beneficial_owner,
            measured_owners: file.measured_owners,
            text: text.into(),
            sha256: Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        check::consistent(file_name, &pack)?;
        check::examples(file_name, &pack, &examples)?;
        Ok(pack)
    }

    /// `<id>@<version>`.
    pub fn named(&self) -> String {
        format!("{}@{}", self.id, self.version)
    }

    /// Its version as a number: of two versions of one pack the larger is the newer.
    pub fn number(&self) -> u32 {
        self.version.parse().expect("checked when it was read")
    }

    /// The text that it was read from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// SHA-256 of its text, 64 hexadecimal digits.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// What the instrument is on `date`; `None` before its history begins.
    /// An entry dated by month or year counts from the first day of it.
    pub fn status_on(&self, date: jiff::civil::Date) -> Option<&StatusEntry> {
        self.status.iter().take_while(|entry| entry.from.first_day() <= date).last()
    }

    /// The rule of this id.
    pub fn rule(&self, id: &str) -> Option<&Rule> {
        self.rule.iter().find(|rule| rule.id == id)
    }
}

fn read(file_name: &str, text: &str) -> Result<PackFile, PackError> {
    let syntax = |error: toml::de::Error| PackError::Syntax {
        file: file_name.to_owned(),
        problem: error.to_string().trim_end().to_owned(),
    };
    let deserializer = toml::Deserializer::parse(text).map_err(syntax)?;
    serde_path_to_error::deserialize(deserializer).map_err(|error| PackError::Shape {
        file: file_name.to_owned(),
        key: error.path().to_string(),
        problem: error.inner().message().to_owned(),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PackFile {
    #[serde(deserialize_with = "nonblank")]
    id: String,
    #[serde(deserialize_with = "nonblank")]
    version: String,
    #[serde(deserialize_with = "nonblank")]
    title: String,
    #[serde(deserialize_with = "nonblank")]
    name: String,
    #[serde(deserialize_with = "nonblank")]
    citation: String,
    checked: PartialDate,
    evaluate: bool,
    #[serde(deserialize_with = "nonblank")]
    evaluate_reason: String,
    applies_to: AppliesTo,
    status: Vec<StatusEntry>,
    rule: Vec<Rule>,
    clock: Vec<Clock>,
    report_field: Vec<ReportField>,
    retention: Option<Retention>,
    beneficial_owner: Option<OwnerLine>,
    measured_owners: Option<OwnerLine>,
    example: Vec<Example>,
}

fn nonblank<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.trim().is_empty() { Err(de::Error::custom("is blank, expected some text")) } else { Ok(text) }
}

/// Which customers a pack looks at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppliesTo {
    /// By their standing.
    pub who: Who,
    /// Why.
    #[serde(deserialize_with = "nonblank")]
    pub note: String,
}

/// Customers by their standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    /// Everyone not determined to be a U.S. person: foreign, undetermined and unmapped.
    Foreign,
    /// Those determined to be U.S. persons.
    Us,
    /// Everyone.
    Any,
}

/// What an instrument was from a date on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusEntry {
    /// From when on.
    pub from: PartialDate,
    /// What it was.
    pub value: Status,
    /// Who says so.
    #[serde(deserialize_with = "nonblank")]
    pub source: String,
    /// How sure that is.
    pub confidence: Confidence,
    /// What a reader should know about it.
    #[serde(default)]
    pub note: Option<String>,
}

/// What an instrument can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Published for comment; binds nobody.
    Proposed,
    /// Taken back before it bound anybody.
    Withdrawn,
    /// Made law, not yet in effect.
    Enacted,
    /// Binding.
    InForce,
    /// No longer binding.
    Revoked,
    /// Still in the books; the authority has said that it does not enforce it.
    Unenforced,
    /// The authority's reading of other law.
    Guidance,
    /// Agreed between parties.
    Contract,
}

impl Status {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proposed => "proposed",
            Self::Withdrawn => "withdrawn",
            Self::Enacted => "enacted, not yet in force",
            Self::InForce => "in force",
            Self::Revoked => "revoked",
            Self::Unenforced => "not enforced",
            Self::Guidance => "guidance",
            Self::Contract => "contract",
        }
    }
}

/// How a value in a pack is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// Read in the official text.
    Primary,
    /// Read in somebody's account of it.
    Secondary,
    /// Remembered, not found in a source: to be checked before anyone relies on it.
    Memory,
}

impl Confidence {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "official text",
            Self::Secondary => "secondary source",
            Self::Memory => "from memory, not checked against a source",
        }
    }
}

/// Something that a subject can meet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Unique in its pack.
    #[serde(deserialize_with = "nonblank")]
    pub id: String,
    /// For lists and headings.
    #[serde(deserialize_with = "nonblank")]
    pub title: String,
    /// Where it stands.
    #[serde(deserialize_with = "nonblank")]
    pub citation: String,
    /// How sure its conditions are.
    pub confidence: Confidence,
    /// Who would have to act on it. Where that is not the operator, a finding is information for the customer.
    #[serde(deserialize_with = "nonblank")]
    pub duty_on: String,
    /// Fewer customers than its pack looks at, where the instrument says so for this rule only.
    #[serde(default)]
    pub who: Option<Who>,
    /// Whose totals it looks at.
    pub scope: Vec<Scope>,
    /// At which certainties a case is opened; what is projected is said under `projection`, what is reserved under
    /// `reservations`.
    pub opens_case: Vec<Certainty>,
    /// Whether it looks ahead.
    #[serde(default)]
    pub projection: Option<ProjectionRule>,
    /// Whether it looks at what is reserved.
    #[serde(default)]
    pub reservations: Option<ReservationRule>,
    /// All of them must hold.
    pub condition: Vec<Condition>,
    /// What a reader should know about it.
    #[serde(default)]
    pub note: Option<String>,
}

impl Rule {
    /// Whether it looks at this kind of subject.
    pub fn looks_at(&self, subject: &Subject) -> bool {
        self.scope.contains(&subject.scope())
    }

    /// Whether a case is opened for a finding of this certainty.
    pub fn opens_case(&self, certainty: Certainty) -> bool {
        match certainty {
            Certainty::Projected => self.projection.as_ref().is_some_and(|projection| projection.opens_case),
            Certainty::CouldResult => self.reservations.as_ref().is_some_and(|asked| asked.opens_case),
            Certainty::Certain | Certainty::Likely | Certainty::Possible => {
                self.opens_case.contains(&certainty)
            }
        }
    }

    /// The line on operations and how it is compared; `None` for a rule without one.
    pub fn line(&self) -> Option<(&Threshold, Comparator)> {
        self.condition.iter().find_map(|condition| match condition {
            Condition::Operations { threshold, comparator, .. } => Some((threshold, *comparator)),
            Condition::Declared { .. } | Condition::Cluster { .. } => None,
        })
    }

    /// Whether its line is the operator's default and not in the text.
    pub fn line_is_operators(&self) -> bool {
        self.condition.iter().any(|condition| {
            matches!(
                condition,
                Condition::Operations { threshold_origin: ThresholdOrigin::OperatorDefault, .. }
            )
        })
    }
}

/// How far ahead a rule looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectionRule {
    /// At most this many days of 24 hours.
    pub cap_days: u16,
    /// Whether a case is opened for what is projected.
    pub opens_case: bool,
}

/// How a rule looks at what is reserved, before a single operation ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReservationRule {
    /// Which end of what is reserved is compared with the line, together with the same end of what was used.
    pub end: End,
    /// Over how many days of 24 hours a reservation without an end is counted.
    pub open_days: u16,
    /// Whether a case is opened for what could result.
    pub opens_case: bool,
}

/// Where the number of a line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdOrigin {
    /// It is in the instrument.
    Text,
    /// The instrument leaves it open; this is a default that the operator may change.
    OperatorDefault,
}

/// A deadline in calendar days.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    /// Unique in its pack.
    #[serde(deserialize_with = "nonblank")]
    pub id: String,
    /// What has to happen until then.
    #[serde(deserialize_with = "nonblank")]
    pub label: String,
    /// What starts it.
    pub starts: ClockStart,
    /// Calendar days, at least 1.
    pub days: u16,
    /// Where the days are counted.
    pub time_zone: Zone,
    /// Where the length stands.
    #[serde(deserialize_with = "nonblank")]
    pub citation: String,
    /// How sure the length is.
    pub confidence: Confidence,
    /// What a reader should know about it.
    #[serde(default)]
    pub note: Option<String>,
}

/// How long what identifies a customer is to be kept, counted from when the account was closed or last used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Years of the calendar, at least 1.
    pub years: u16,
    /// Where that stands.
    #[serde(deserialize_with = "nonblank")]
    pub citation: String,
    /// How sure it is.
    pub confidence: Confidence,
    /// What a reader should know about it.
    #[serde(default)]
    pub note: Option<String>,
}

/// From which share on an owner counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnerLine {
    /// Whole percent, from 1 to 100: at it or above.
    pub percent: u8,
    /// Where that stands.
    #[serde(deserialize_with = "nonblank")]
    pub citation: String,
    /// How sure it is.
    pub confidence: Confidence,
    /// What a reader should know about it.
    #[serde(default)]
    pub note: Option<String>,
}

/// A worked example: inputs, and what the rule must give.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    #[serde(deserialize_with = "nonblank")]
    title: String,
    rule: String,
    standing: Standing,
    low: Amount,
    best: Amount,
    high: Amount,
    calibrated_low: Amount,
    calibrated_high: Amount,
    #[serde(default)]
    projected_best: Option<Amount>,
    #[serde(default)]
    projected_days: Option<u16>,
    #[serde(default)]
    reserved_best: Option<Amount>,
    #[serde(default)]
    reserved_calibrated_high: Option<Amount>,
    #[serde(default)]
    reserved_high: Option<Amount>,
    #[serde(default)]
    declared: std::collections::BTreeMap<Declaration, bool>,
    #[serde(default)]
    cluster_peak: Option<Amount>,
    #[serde(default)]
    network_gbit: Option<u32>,
    expect: Expected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Expected {
    Certain,
    Likely,
    Projected,
    Possible,
    CouldResult,
    NotKnown,
    NotMet,
}

impl Expected {
    fn as_str(self) -> &'static str {
        match self {
            Self::Certain => "certain",
            Self::Likely => "likely",
            Self::Projected => "projected",
            Self::Possible => "possible",
            Self::CouldResult => "could_result",
            Self::NotKnown => "not_known",
            Self::NotMet => "not_met",
        }
    }
}

/// Every id once.
fn first_duplicate<'a>(ids: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = BTreeSet::new();
    ids.into_iter().find(|id| !seen.insert(*id))
}
