//! What would be sent: every field with where it comes from, blanks shown as blanks, and the doubt in words.
//!
//! [`Report::build`] puts a case, its finding and the account together as the pack's fields ask.
//! The JSON form is the record; [`Report::sections`] gives the same in words and tables for a page.
//!
//! Deliberately absent: markup, and any statement that something must be sent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weighbridge_meter::{AttemptId, GapCause, Interval, Operations, UtcMillis};

use crate::{
    case::Case,
    clock::ClockReading,
    finding::{Certainty, Finding, Subject, Totals, certainty_of},
    pack::{Confidence, FieldSource, PartialDate, ReportField, Rule, RulePack, Status},
};

mod changes;
mod declared;
mod questions;
mod sections;
mod words;

pub use changes::{Change, Changes};
pub use declared::{Attestation, Attested, DeclaredDates, Through};
pub use questions::Question;
pub use sections::Section;
use words::{accelerator_hours, method_and_doubt};

/// Everything that a report is made of, read by the collector.
#[derive(Clone, Debug)]
pub struct ReportInput<'a> {
    /// The pack that the finding is under, in the finding's version.
    pub pack: &'a RulePack,
    /// The case.
    pub case: &'a Case,
    /// The finding of the case that the report is about.
    pub finding: &'a Finding,
    /// What the account holds now; the finding keeps what it held when it was raised.
    pub totals: Totals,
    /// The same by attempt.
    pub attempts: Vec<AttemptRow>,
    /// On what it ran.
    pub accelerators: Vec<AcceleratorRow>,
    /// What was seen and what was not.
    pub coverage: CoverageSummary,
    /// Whose it was.
    pub attribution: AttributionSummary,
    /// Version of the method of estimation.
    pub method_version: String,
    /// SHA-256 of the accelerator table, hexadecimal.
    pub table_sha256: String,
    /// Identity fields by the keys of the pack's `identity.<key>`.
    pub identity: BTreeMap<String, IdentityValue>,
    /// What customers declared and answered, by the keys of the pack's `attested.<key>`.
    pub attested: BTreeMap<String, Attested>,
    /// Declared and observed dates.
    pub dates: RunDates,
    /// What a reader has to be pointed out beside the rule, a sentence or two each.
    pub remarks: Vec<String>,
    /// Initial, follow-up or corrected.
    pub kind: ReportKind,
    /// Its version in the case, from 1.
    pub version: u32,
    /// The version that it replaces.
    pub supersedes: Option<u32>,
    /// The moment of writing.
    pub written_at: UtcMillis,
}

/// One attempt of the account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRow {
    /// Which.
    pub attempt: AttemptId,
    /// First moment that counts.
    pub start: UtcMillis,
    /// First moment that no longer counts.
    pub end: UtcMillis,
    /// Accelerators held at most at once.
    pub accelerators: u32,
    /// Low, best and high.
    pub operations: OperationsRange,
}

/// Accelerators of one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceleratorRow {
    /// As its maker names it.
    pub model: String,
    /// How many different ones.
    pub count: u32,
}

/// Accelerator-milliseconds by what is known about them. They sum to the time that was held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoverageSummary {
    /// Measured.
    pub measured_ms: u64,
    /// Readings missing, bounded by a cumulative counter.
    pub interpolated_ms: u64,
    /// Nothing known, by reason.
    pub gap_ms: BTreeMap<GapCause, u64>,
    /// The accelerator was not there.
    pub not_present_ms: u64,
}

/// Accelerator-milliseconds by how well it is known whose they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributionSummary {
    /// One holder.
    pub attributed_ms: u64,
    /// Several holders at once.
    pub shared_ms: u64,
    /// Held, and measured idle.
    pub idle_held_ms: u64,
    /// Claims that contradict.
    pub disputed_ms: u64,
}

/// An identity field as the registry gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "value", rename_all = "snake_case")]
pub enum IdentityValue {
    /// Known and opened for this report.
    Value(String),
    /// Not known.
    Blank,
    /// Known and not opened: whoever made this report may not see it, or it was erased.
    Sealed,
}

/// When a run began and ends, as told and as seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunDates {
    /// Told by customers, the newest declaration of each.
    pub declared: Vec<DeclaredDates>,
    /// There are declarations that were not opened.
    pub declared_sealed: bool,
    /// Until when accelerators are let to it.
    pub lease_end: Option<UtcMillis>,
    /// First activity seen.
    pub observed_start: Option<UtcMillis>,
    /// Last activity seen.
    pub observed_end: Option<UtcMillis>,
}

/// Why a report is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportKind {
    /// The first of its case.
    Initial,
    /// In answer to a further question.
    FollowUp,
    /// In place of one found wrong or out of date.
    Corrected,
}

impl ReportKind {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::FollowUp => "follow-up",
            Self::Corrected => "corrected",
        }
    }
}

/// An amount, exact for machines and rounded for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationsRange {
    /// At least this, in whole teraoperations.
    pub low_tera: Operations,
    /// Most plausibly this.
    pub best_tera: Operations,
    /// At most this.
    pub high_tera: Operations,
    /// `low_tera` in operations, for people.
    pub low: String,
    /// `best_tera` in operations, for people.
    pub best: String,
    /// `high_tera` in operations, for people.
    pub high: String,
}

impl From<&Interval<Operations>> for OperationsRange {
    fn from(interval: &Interval<Operations>) -> Self {
        Self {
            low_tera: interval.low(),
            best_tera: interval.best(),
            high_tera: interval.high(),
            low: interval.low().to_string(),
            best: interval.best().to_string(),
            high: interval.high().to_string(),
        }
    }
}

impl OperationsRange {
    /// `low 1.00e26, best 1.20e26, high 1.50e26 operations`.
    pub fn in_words(&self) -> String {
        format!("low {}, best {}, high {} operations", self.low, self.best, self.high)
    }
}

/// A report cannot be made of these parts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Two parts do not belong together: the collector read the wrong one.
    #[error("report on case {case}: {part} is {value:?}, expected {expected:?}")]
    Mismatch {
        /// The case.
        case: String,
        /// Which part.
        part: &'static str,
        /// What it is.
        value: String,
        /// What it should be.
        expected: String,
    },
}

/// A report, as it is kept and sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What it says, and about which instrument.
    pub header: Header,
    /// The case it belongs to.
    pub case: String,
    /// The finding it is about.
    pub finding: String,
    /// Whose totals.
    pub subject: Subject,
    /// How sure the finding was when it was raised.
    pub certainty: Certainty,
    /// How sure it is by the totals of this report; `None` if they no longer pass the line.
    pub certainty_now: Option<Certainty>,
    /// Its version in the case, from 1.
    pub version: u32,
    /// Why it is made.
    pub kind: ReportKind,
    /// The version that it replaces.
    pub supersedes: Option<u32>,
    /// The moment of writing.
    pub written_at: UtcMillis,
    /// What a reader has to be pointed out beside the rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// The fields that the pack asks for, in its order.
    pub fields: Vec<Field>,
    /// The clocks of the case as of the moment of writing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clocks: Vec<ClockReading>,
    /// What the account holds.
    pub totals: Totals,
    /// The same by attempt.
    pub attempts: Vec<AttemptRow>,
    /// On what it ran.
    pub accelerators: Vec<AcceleratorRow>,
    /// What was seen and what was not.
    pub coverage: CoverageSummary,
    /// Whose it was.
    pub attribution: AttributionSummary,
    /// How the numbers were made and what they do not say, a paragraph each.
    pub method_and_doubt: Vec<String>,
    /// What is other than in an earlier version, where one could be compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
}

/// The head of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// `customer:acme likely meets the criteria of the proposed 15 CFR 7.308`.
    pub statement: String,
    /// What the instrument is on the day of writing; `None` before its history begins.
    pub status: Option<HeaderStatus>,
    /// The same in a sentence.
    pub status_in_words: String,
    /// Where the instrument is found.
    pub citation: String,
    /// Who would have to act on the rule.
    pub duty_on: String,
    /// Rule pack.
    pub pack: String,
    /// Its version.
    pub pack_version: String,
    /// SHA-256 of its text.
    pub pack_sha256: String,
    /// Rule of the pack.
    pub rule: String,
    /// The line, as the pack writes it, such as `more than 1e26`; `None` for a rule without one.
    pub line: Option<String>,
    /// Whether the line is the operator's default and not in the text.
    pub line_is_operators: bool,
    /// That a person decides.
    pub caution: String,
}

/// The status of an instrument on a day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderStatus {
    /// What it is.
    pub value: Status,
    /// Since when.
    pub since: PartialDate,
    /// Who says so.
    pub source: String,
    /// How sure that is.
    pub confidence: Confidence,
}

/// One field of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// As in the pack.
    pub id: String,
    /// As in the pack.
    pub label: String,
    /// `null` if blank.
    pub value: Option<FieldValue>,
    /// Nobody has given it, or it is sealed.
    pub blank: bool,
    /// Where it comes from, or why it is blank.
    pub provenance: String,
    /// How sure it is, where it follows from the finding.
    pub certainty: Option<Certainty>,
    /// Where it is asked for.
    pub citation: String,
    /// How sure it is that it is asked for.
    pub confidence: Confidence,
}

/// What stands in a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FieldValue {
    /// Words.
    Text(String),
    /// Several lines of them.
    Lines(Vec<String>),
    /// Operations.
    Operations(OperationsRange),
}

impl FieldValue {
    /// One line for each thing to show.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Text(text) => vec![text.clone()],
            Self::Lines(lines) => lines.clone(),
            Self::Operations(range) => vec![
                range.in_words(),
                format!(
                    "exactly {}, {} and {} teraoperations",
                    range.low_tera.tera(),
                    range.best_tera.tera(),
                    range.high_tera.tera()
                ),
            ],
        }
    }
}

impl Report {
    /// Makes the report, or says which part does not belong.
    pub fn build(input: &ReportInput<'_>) -> Result<Self, ReportError> {
        let rule = fitting_rule(input)?;
        let now = certainty_now(input, rule);
        Ok(Self {
            header: header(input, rule, now),
            case: input.case.id().to_owned(),
            finding: input.finding.id.clone(),
            subject: input.finding.subject.clone(),
            certainty: input.finding.certainty,
            certainty_now: now,
            version: input.version,
            kind: input.kind,
            supersedes: input.supersedes,
            written_at: input.written_at,
            remarks: input.remarks.clone(),
            fields: input.pack.report_field.iter().map(|field| filled(field, input, now)).collect(),
            clocks: input.case.clocks(input.pack, input.written_at),
            totals: input.totals,
            attempts: input.attempts.clone(),
            accelerators: input.accelerators.clone(),
            coverage: input.coverage.clone(),
            attribution: input.attribution,
            method_and_doubt: method_and_doubt(input, rule, now),
            changes: None,
        })
    }

    /// The fields that are blank: what a person has to fill or to leave blank knowingly.
    pub fn blanks(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(|field| field.blank)
    }
}

fn fitting_rule<'a>(input: &ReportInput<'a>) -> Result<&'a Rule, ReportError> {
    let (pack, finding, case) = (input.pack, input.finding, input.case);
    let wrong = |part, value: &str, expected: &str| {
        Err(ReportError::Mismatch {
            case: case.id().to_owned(),
            part,
            value: value.to_owned(),
            expected: expected.to_owned(),
        })
    };
    if pack.id != finding.pack || pack.version != finding.pack_version {
        let named = format!("{}@{}", pack.id, pack.version);
        return wrong("the rule pack", &named, &format!("{}@{}", finding.pack, finding.pack_version));
    }
    if pack.sha256() != finding.pack_sha256 {
        return wrong("the hash of the rule pack", pack.sha256(), &finding.pack_sha256);
    }
    if !case.findings().any(|known| known.id == finding.id) {
        return wrong("the finding", &finding.id, "a finding of the case");
    }
    if let Some(earlier) = input.supersedes
        && earlier >= input.version
    {
        return wrong(
            "the superseded version",
            &earlier.to_string(),
            &format!("less than {}", input.version),
        );
    }
    match pack.rule(&finding.rule) {
        Some(rule) => Ok(rule),
        None => wrong("the rule", &finding.rule, "a rule of the pack"),
    }
}

/// A rule without a line stays as sure as it was: totals say nothing about it. Nor do they say that what was reserved
/// could not have resulted in it.
fn certainty_now(input: &ReportInput<'_>, rule: &Rule) -> Option<Certainty> {
    match rule.line() {
        Some((threshold, comparator)) => certainty_of(rule, &input.totals, threshold, comparator)
            .or(Some(input.finding.certainty).filter(|raised| *raised == Certainty::CouldResult)),
        None => Some(input.finding.certainty),
    }
}

fn header(input: &ReportInput<'_>, rule: &Rule, now: Option<Certainty>) -> Header {
    let (pack, finding) = (input.pack, input.finding);
    let status = jiff::Timestamp::from_millisecond(input.written_at.0)
        .ok()
        .and_then(|now| pack.status_on(now.to_zoned(jiff::tz::TimeZone::UTC).date()))
        .map(|entry| HeaderStatus {
            value: entry.value,
            since: entry.from.clone(),
            source: entry.source.clone(),
            confidence: entry.confidence,
        });
    let status_in_words = match &status {
        Some(status) => format!(
            "Status of the instrument: {} since {} ({}: {}), as last checked {}.",
            status.value.as_str(),
            status.since,
            status.confidence.as_str(),
            status.source,
            pack.checked
        ),
        None => "Status of the instrument: not known for this day.".to_owned(),
    };
    Header {
        statement: format!(
            "{} {} the criteria of {}",
            finding.subject,
            now.map_or("no longer meets", Certainty::meets),
            pack.name
        ),
        status,
        status_in_words,
        citation: pack.citation.clone(),
        duty_on: rule.duty_on.clone(),
        pack: pack.id.clone(),
        pack_version: pack.version.clone(),
        pack_sha256: pack.sha256().to_owned(),
        rule: rule.id.clone(),
        line: rule.line().map(|(threshold, comparator)| format!("{comparator} {threshold}")),
        line_is_operators: rule.line_is_operators(),
        caution: "This compares measurements with a rule. Whether anything is to be sent, and to whom, \
                  is for a person to decide."
            .to_owned(),
    }
}

fn filled(field: &ReportField, input: &ReportInput<'_>, now: Option<Certainty>) -> Field {
    let mut certainty = None;
    let (value, provenance) = match &field.source {
        FieldSource::Identity(key) => match input.identity.get(key) {
            Some(IdentityValue::Value(value)) if !value.trim().is_empty() => {
                // Of several customers a line each.
                let lines: Vec<String> = value.lines().map(str::to_owned).collect();
                let value = match lines.len() {
                    1 => FieldValue::Text(value.clone()),
                    _ => FieldValue::Lines(lines),
                };
                (Some(value), "customer registry".to_owned())
            }
            Some(IdentityValue::Sealed) => {
                (None, "sealed in the customer registry, not opened here".to_owned())
            }
            Some(IdentityValue::Value(_) | IdentityValue::Blank) | None => {
                (None, "not in the customer registry".to_owned())
            }
        },
        FieldSource::Attested(key) => declared::field(input.attested.get(key)),
        FieldSource::Operations => {
            certainty = now;
            let provenance = format!("measured on the hardware, gaps counted as of {}", input.totals.as_of);
            (Some(FieldValue::Operations((&input.totals.bound).into())), provenance)
        }
        FieldSource::Dates => declared::dates(&input.dates),
        FieldSource::Accelerators => {
            let mut rows: Vec<&AcceleratorRow> = input.accelerators.iter().collect();
            rows.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.model.cmp(&b.model)));
            let lines: Vec<String> =
                rows.iter().map(|row| format!("{} x {}", row.count, row.model)).collect();
            let provenance = "inventory of the agents, most frequent first".to_owned();
            ((!lines.is_empty()).then_some(FieldValue::Lines(lines)), provenance)
        }
        FieldSource::RunExistence => {
            certainty = now;
            let provenance = format!("finding {}, raised at {}", input.finding.id, input.finding.raised_at);
            (Some(FieldValue::Text(input.finding.reason.clone())), provenance)
        }
        FieldSource::KnowledgeTime => (
            Some(FieldValue::Text(input.case.raised_at().to_string())),
            "when the first finding of the case was raised".to_owned(),
        ),
        FieldSource::Method => (
            Some(FieldValue::Text(format!(
                "method {}, accelerator table sha256:{}",
                input.method_version, input.table_sha256
            ))),
            "the program that made the estimate".to_owned(),
        ),
        FieldSource::Pack => (
            Some(FieldValue::Text(format!(
                "{}@{} sha256:{}",
                input.pack.id,
                input.pack.version,
                input.pack.sha256()
            ))),
            "the rule pack that was applied".to_owned(),
        ),
        FieldSource::ReportKind => {
            (Some(FieldValue::Text(input.kind.as_str().to_owned())), "the history of the case".to_owned())
        }
        FieldSource::Supersedes => (
            Some(FieldValue::Text(match input.supersedes {
                Some(earlier) => format!("version {earlier}"),
                None => "none".to_owned(),
            })),
            "the history of the case".to_owned(),
        ),
    };
    Field {
        id: field.id.clone(),
        label: field.label.clone(),
        blank: value.is_none(),
        value,
        provenance,
        certainty,
        citation: field.citation.clone(),
        confidence: field.confidence,
    }
}
