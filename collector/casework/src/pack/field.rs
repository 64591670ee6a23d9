//! The fields of a report, and what fills them.

use serde::{Deserialize, Serialize};

use super::{Confidence, nonblank};

/// A field of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportField {
    /// Unique in its pack.
    #[serde(deserialize_with = "nonblank")]
    pub id: String,
    /// What it asks for.
    #[serde(deserialize_with = "nonblank")]
    pub label: String,
    /// Where that stands.
    #[serde(deserialize_with = "nonblank")]
    pub citation: String,
    /// How sure it is that the field is asked for.
    pub confidence: Confidence,
    /// What fills it.
    pub source: FieldSource,
}

/// What fills a field of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FieldSource {
    /// `identity.<key>`: the customer's record in the registry.
    Identity(String),
    /// `attested.<key>`: an answer signed for by a person.
    Attested(String),
    /// `operations`: low, best and high.
    Operations,
    /// `dates`: start and completion, declared and observed.
    Dates,
    /// `accelerators`: models and counts.
    Accelerators,
    /// `run_existence`: that there is a run, and by what it is known.
    RunExistence,
    /// `knowledge_time`: when the findings of the case were raised.
    KnowledgeTime,
    /// `method`: how the estimate was made.
    Method,
    /// `pack`: id, version and hash of the rule pack.
    Pack,
    /// `report_kind`: initial, follow-up or corrected.
    ReportKind,
    /// `supersedes`: the version that this one replaces.
    Supersedes,
}

impl FieldSource {
    const PLAIN: [(&'static str, Self); 9] = [
        ("operations", Self::Operations),
        ("dates", Self::Dates),
        ("accelerators", Self::Accelerators),
        ("run_existence", Self::RunExistence),
        ("knowledge_time", Self::KnowledgeTime),
        ("method", Self::Method),
        ("pack", Self::Pack),
        ("report_kind", Self::ReportKind),
        ("supersedes", Self::Supersedes),
    ];
}

impl TryFrom<String> for FieldSource {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once('.') {
            Some(("identity", key)) if !key.is_empty() => Ok(Self::Identity(key.to_owned())),
            Some(("attested", key)) if !key.is_empty() => Ok(Self::Attested(key.to_owned())),
            _ => {
                Self::PLAIN.into_iter().find(|(name, _)| *name == text).map(|(_, source)| source).ok_or_else(
                    || {
                        let names = Self::PLAIN.map(|(name, _)| name).join(", ");
                        format!("{text:?} is not identity.<key>, attested.<key> or one of {names}")
                    },
                )
            }
        }
    }
}

impl From<FieldSource> for String {
    fn from(source: FieldSource) -> Self {
        match source {
            FieldSource::Identity(key) => format!("identity.{key}"),
            FieldSource::Attested(key) => format!("attested.{key}"),
            plain => FieldSource::PLAIN
                .into_iter()
                .find(|(_, source)| *source == plain)
                .map(|(name, _)| name.to_owned())
                .expect("every source that has no key is in the table; a test goes through them"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_of_a_field_reads_back_as_written() {
        for (name, source) in FieldSource::PLAIN {
            assert_eq!(String::from(source.clone()), name);
            assert_eq!(FieldSource::try_from(name.to_owned()), Ok(source));
        }
        for keyed in ["identity.name", "attested.training_practices"] {
            assert_eq!(String::from(FieldSource::try_from(keyed.to_owned()).unwrap()), keyed);
        }
        for bad in ["identity", "identity.", "operation", "dates.start"] {
            assert!(FieldSource::try_from(bad.to_owned()).unwrap_err().contains(bad));
        }
    }
}
