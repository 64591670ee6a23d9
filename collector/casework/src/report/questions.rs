//! What a report has to ask of the customer, because nothing that is measured or registered says it.

use serde::{Deserialize, Serialize};

use crate::pack::{Confidence, FieldSource, RulePack};

/// One question: a field of the pack that only the customer can fill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Id of the field in the report.
    pub field: String,
    /// The key by which it is answered, of the pack's `attested.<key>`.
    pub key: String,
    /// What is asked for.
    pub label: String,
    /// Where it is asked for.
    pub citation: String,
    /// How sure it is that it is asked for.
    pub confidence: Confidence,
}

impl RulePack {
    /// Everything that only the customer can say, in the order of the pack.
    pub fn questions(&self) -> impl Iterator<Item = Question> + '_ {
        self.report_field.iter().filter_map(|field| match &field.source {
            FieldSource::Attested(key) => Some(Question {
                field: field.id.clone(),
                key: key.clone(),
                label: field.label.clone(),
                citation: field.citation.clone(),
                confidence: field.confidence,
            }),
            _ => None,
        })
    }
}
