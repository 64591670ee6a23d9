//! Answers of customers to the questions of a report: of each case and customer the pieces in which they came, under
//! the customer's key. A later answer to a question takes the place of the one before.
//!
//! Which questions were answered stands beside them in clear, so that a ledger tells it without a key.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use weighbridge_registry::{CustomerId, KeyError, PartyId, SealedField, party::PartialDate};
use zeroize::Zeroizing;

use super::PartyError;
use crate::{
    app::{App, record},
    judge::fact,
    random,
};

/// What a customer answered to one question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// What it says.
    pub answer: String,
    /// Who signed.
    pub signed_by: String,
    /// The date of the signature, as far as it is known.
    pub signed_on: PartialDate,
}

/// Answers that came together, as the ledger has them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SealedAnswers {
    case: String,
    customer: CustomerId,
    /// To which questions.
    questions: BTreeSet<String>,
    /// Who recorded them.
    by: String,
    sealed: SealedField,
}

/// By case and customer.
pub(super) type AllAnswers = BTreeMap<(String, PartyId), Vec<SealedAnswers>>;

/// Takes a piece to the others.
pub(super) fn take(all: &mut AllAnswers, piece: SealedAnswers) {
    all.entry((piece.case.clone(), piece.customer.clone())).or_default().push(piece);
}

/// What the answers of a case are sealed as.
fn what(case: &str) -> String {
    format!("answers {case}")
}

impl App {
    /// What a customer answered in a case, the newest answer to each question, for who may know.
    ///
    /// # Errors
    /// What keeps it from being opened, above all that the customer was erased.
    pub(crate) fn answers(
        &self,
        case: &str,
        customer: &PartyId,
    ) -> Result<BTreeMap<String, Answer>, KeyError> {
        let key = (case.to_owned(), customer.clone());
        let pieces = self.parties(|known| known.answers.get(&key).cloned()).unwrap_or_default();
        let mut newest = BTreeMap::new();
        for piece in &pieces {
            let text = self.keys.open_record(customer, &what(case), &piece.sealed)?;
            let answers: BTreeMap<String, Answer> = serde_json::from_slice(&text)
                .map_err(|_| KeyError::RecordDamaged { subject: customer.clone(), what: what(case) })?;
            newest.extend(answers);
        }
        Ok(newest)
    }

    /// Records answers that say something new: all of them, or none. For who already is the only one to write.
    pub(crate) async fn answers_told(
        &self,
        case: &str,
        told: BTreeMap<PartyId, BTreeMap<String, Answer>>,
        by: &str,
    ) -> Result<usize, PartyError> {
        let mut pieces = Vec::new();
        let mut recorded = 0;
        for (customer, mut answers) in told {
            let before = self.answers(case, &customer)?;
            answers.retain(|question, answer| before.get(question) != Some(answer));
            if answers.is_empty() {
                continue;
            }
            recorded += answers.len();
            let text =
                Zeroizing::new(serde_json::to_vec(&answers).expect("texts under texts can be written"));
            let sealed = self.keys.seal_record(&customer, &what(case), &text, &mut random::fill)?;
            let questions = answers.into_keys().collect();
            pieces.push(SealedAnswers {
                case: case.to_owned(),
                customer,
                questions,
                by: by.to_owned(),
                sealed,
            });
        }
        if !pieces.is_empty() {
            let facts = pieces
                .iter()
                .map(|piece| fact(record::ANSWERS, &format!("{} {}", piece.case, piece.customer), piece));
            self.record(facts.collect()).await?;
            self.parties(|known| pieces.into_iter().for_each(|piece| take(&mut known.answers, piece)));
        }
        Ok(recorded)
    }
}
