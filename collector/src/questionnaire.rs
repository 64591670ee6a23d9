//! What only customers can say about a case: what is still to be asked of each, what they answered, and what they
//! declared before.
//!
//! The questions are those of the rule pack. They leave as a file that is filled in and comes back; the answers hold
//! names, so they are sealed under the customer's key, and shown in an opened report alone.
//!
//! Deliberately absent: any check whether an answer is true. A report shows it as the customer's word.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weighbridge_casework::{
    Case, RulePack,
    report::{Attestation, Attested, DeclaredDates, Question, Through},
};
use weighbridge_meter::UtcMillis;
use weighbridge_registry::{
    PartyId,
    party::{CardReading, NO_CARD, PartialDate, is_card_number},
    statement::{Declaration, Kind, Statement},
};
use weighbridge_store::ledger::CommitError;

use crate::{
    app::App,
    casefile::CasefileError,
    import::{Imported, LeftOut},
    parties::Answer,
};

/// The longest answer, in bytes.
const LONGEST: usize = 4_096;

/// The most answers that come at once.
const MOST: usize = 10_000;

/// What is to be asked about a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Questionnaire {
    /// Which case.
    pub case: String,
    /// Under which pack.
    pub pack: String,
    /// How the instrument is named.
    pub instrument: String,
    /// As of when.
    pub as_of: UtcMillis,
    /// Each customer with what it has not said yet; who has said everything is left out.
    pub customers: Vec<Asked>,
}

/// What is to be asked of one customer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Which.
    pub customer: PartyId,
    /// What.
    pub questions: Vec<Question>,
}

/// One answer as it comes back. The other columns of the file that was sent out are not looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerRow {
    /// Whose.
    pub customer: String,
    /// To which question.
    pub key: String,
    /// What it says; blank: nothing was answered.
    pub answer: String,
    /// Who signed.
    pub signed_by: String,
    /// The date of the signature.
    pub signed_on: String,
}

/// What customers said of which a report speaks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    pub(crate) attested: BTreeMap<String, Attested>,
    pub(crate) dates: Vec<DeclaredDates>,
}

impl Said {
    /// The same, told no further than that something was said.
    pub(crate) fn masked(self) -> (BTreeMap<String, Attested>, bool) {
        let sealed = self.attested.into_keys().map(|key| (key, Attested::Sealed)).collect();
        (sealed, !self.dates.is_empty())
    }
}

/// The columns of a questionnaire as a file. The first three of the last four are for the customer to fill in.
pub const COLUMNS: [&str; 8] =
    ["case", "customer", "key", "question", "asked_for_in", "answer", "signed_by", "signed_on"];

impl Questionnaire {
    /// As a file to be filled in.
    pub fn to_csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let rows = self.customers.iter().flat_map(|one| {
            one.questions.iter().map(|question| {
                let cells =
                    [&self.case, one.customer.as_str(), &question.key, &question.label, &question.citation];
                cells.map(str::to_owned)
            })
        });
        let header = COLUMNS.map(str::to_owned);
        for row in std::iter::once(header.to_vec()).chain(
            rows.map(|row| row.into_iter().map(unexecuted).chain(["", "", ""].map(str::to_owned)).collect()),
        ) {
            writer.write_record(&row).expect("memory can be written, and rows are of one length");
        }
        let bytes = writer.into_inner().expect("memory can be written");
        String::from_utf8(bytes).expect("texts are written as they are")
    }
}

/// A spreadsheet takes a cell that begins so for a formula.
fn unexecuted(cell: String) -> String {
    if cell.starts_with(['=', '+', '-', '@']) { format!("'{cell}") } else { cell }
}

/// Reads a filled-in questionnaire: CSV with at least the columns of an [`AnswerRow`], or a list of such in JSON.
///
/// # Errors
/// Every fault with its line, and what was expected there.
pub fn read_answers(text: &str) -> Result<Vec<AnswerRow>, Vec<String>> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text).map_err(|error| {
            vec![format!("line {}, column {}: expected a list of answers", error.line(), error.column())]
        });
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|error| vec![format!("line 1: {error}")])?.clone();
    let place = |name: &str| {
        header
            .iter()
            .position(|column| column == name)
            .ok_or_else(|| format!("line 1: column {name} is missing, expected {}", COLUMNS.join(",")))
    };
    let places = ["customer", "key", "answer", "signed_by", "signed_on"].map(place);
    let bad: Vec<String> = places.iter().filter_map(|place| place.clone().err()).collect();
    let [Ok(customer), Ok(key), Ok(answer), Ok(by), Ok(on)] = places else { return Err(bad) };
    let (mut rows, mut bad) = (Vec::new(), Vec::new());
    for row in reader.records() {
        match row {
            Ok(row) => {
                let cell = |place: usize| row.get(place).unwrap_or_default().to_owned();
                rows.push(AnswerRow {
                    customer: cell(customer),
                    key: cell(key),
                    answer: cell(answer),
                    signed_by: cell(by),
                    signed_on: cell(on),
                });
            }
            Err(error) => {
                let line = error.position().map_or(0, csv::Position::line);
                bad.push(format!("line {line}: not a row of as many cells as the header, in UTF-8"));
            }
        }
    }
    if bad.is_empty() { Ok(rows) } else { Err(bad) }
}

/// Checks one answer: what it says, apart from whether anybody is asked for it.
fn checked(row: &AnswerRow, now: UtcMillis) -> Result<Answer, String> {
    let text = |field: &str, said: &str, expected: &str| {
        let odd = said.chars().any(|one| one.is_control() && one != '\n');
        if said.trim().is_empty() || said.len() > LONGEST || odd {
            return Err(format!("{field}: {} bytes, expected {expected}", said.len()));
        }
        match is_card_number(said, CardReading::Strict) {
            true => Err(format!("{field}: expected text {NO_CARD}")),
            false => Ok(said.trim().to_owned()),
        }
    };
    let answer = text("answer", &row.answer, "text of at most 4,096 bytes")?;
    let signed_by = text("signed_by", &row.signed_by, "who signed, in at most 4,096 bytes")?;
    let signed_on: PartialDate = row
        .signed_on
        .trim()
        .parse()
        .map_err(|_| format!("signed_on: {:?}, expected {}", row.signed_on, PartialDate::EXPECTED))?;
    if signed_on.start().is_none_or(|signed| signed > now) {
        return Err(format!("signed_on: {signed_on} is still to come, expected a date that has passed"));
    }
    Ok(Answer { answer, signed_by, signed_on })
}

impl App {
    /// What is still to be asked about a case.
    ///
    /// # Errors
    /// [`CasefileError`], where there is no such case or its pack is not loaded.
    pub fn questionnaire(&self, id: &str) -> Result<Questionnaire, CasefileError> {
        let (case, pack) = self.case_and_pack(id)?;
        let about = self.customers_of(&case);
        let customers = about.iter().map(|customer| {
            let said = self.said(&case, &pack, std::slice::from_ref(customer));
            let questions = pack.questions().filter(|question| !said.attested.contains_key(&question.key));
            Asked { customer: customer.clone(), questions: questions.collect() }
        });
        Ok(Questionnaire {
            case: id.to_owned(),
            pack: format!("{}@{}", pack.id, pack.version),
            instrument: pack.name.clone(),
            as_of: self.now(),
            customers: customers.filter(|one| !one.questions.is_empty()).collect(),
        })
    }

    /// Records what customers answered: all of it, or none. Blank answers are left out.
    ///
    /// # Errors
    /// [`CasefileError`]; then nothing is recorded.
    pub async fn put_answers(
        &self,
        id: &str,
        rows: Vec<AnswerRow>,
        actor: &str,
    ) -> Result<Imported, CasefileError> {
        let (app, id, actor) = (self.clone(), id.to_owned(), actor.trim().to_owned());
        let done = tokio::spawn(async move {
            let _one_at_a_time = app.writing.lock().await;
            if actor.is_empty() || actor.len() > LONGEST || actor.contains(char::is_control) {
                return Err(CasefileError::Blank("who records the answers"));
            }
            let (case, pack) = app.case_and_pack(&id)?;
            let told = app.answers_of(&case, &pack, &rows)?;
            let recorded = app.answers_told(&id, told, &actor).await?;
            Ok(Imported { rows: rows.len(), recorded, left_out: LeftOut::new() })
        });
        done.await.unwrap_or(Err(CasefileError::Commit(CommitError::Unwritable)))
    }

    /// Answers by customer and question, if each fits one that may be asked.
    fn answers_of(
        &self,
        case: &Case,
        pack: &RulePack,
        rows: &[AnswerRow],
    ) -> Result<BTreeMap<PartyId, BTreeMap<String, Answer>>, CasefileError> {
        if rows.len() > MOST {
            return Err(CasefileError::Answers(vec![format!(
                "{} answers, expected at most {MOST}",
                rows.len()
            )]));
        }
        let about = self.customers_of(case);
        let keys: Vec<String> = pack.questions().map(|question| question.key).collect();
        let mut told: BTreeMap<PartyId, BTreeMap<String, Answer>> = BTreeMap::new();
        let mut bad = Vec::new();
        for (index, row) in rows.iter().enumerate().filter(|(_, row)| !row.answer.trim().is_empty()) {
            let customer = about.iter().find(|customer| customer.as_str() == row.customer.trim());
            let key = keys.iter().find(|key| *key == row.key.trim());
            let place = index + 1;
            let (Some(customer), Some(key)) = (customer, key) else {
                let names: Vec<&str> = about.iter().map(PartyId::as_str).collect();
                let (what, expected) = match customer {
                    None => (format!("customer {:?}", row.customer), names.join(", ")),
                    Some(_) => (format!("key {:?}", row.key), keys.join(", ")),
                };
                bad.push(format!(
                    "answer {place}: {what} is not asked in {}, expected one of {expected}",
                    case.id()
                ));
                continue;
            };
            match checked(row, self.now()) {
                Ok(answer) => {
                    if told.entry(customer.clone()).or_default().insert(key.clone(), answer).is_some() {
                        bad.push(format!("answer {place}: {customer} answers {key} twice, expected once"));
                    }
                }
                Err(problem) => bad.push(format!("answer {place}: {problem}")),
            }
        }
        if bad.is_empty() { Ok(told) } else { Err(CasefileError::Answers(bad)) }
    }

    /// What these customers said, opened: for a report that may show it, or to see what is still to be asked. Of who
    /// was erased nothing is known any more.
    pub(crate) fn said(&self, case: &Case, pack: &RulePack, about: &[PartyId]) -> Said {
        let several = about.len() > 1;
        let mut said = Said::default();
        let all: Vec<(&PartyId, BTreeMap<String, Answer>, Vec<Declaration>)> = about
            .iter()
            .map(|customer| {
                let answers = self.answers(case.id(), customer).unwrap_or_default();
                (customer, answers, self.declarations_of(customer))
            })
            .collect();
        for question in pack.questions() {
            let (mut given, mut silent) = (Vec::new(), Vec::new());
            for (customer, answers, declarations) in &all {
                match word(&question.key, answers, declarations) {
                    Some(one) => {
                        given.push(Attestation { customer: several.then(|| customer.to_string()), ..one });
                    }
                    None => silent.push(customer.to_string()),
                }
            }
            if !given.is_empty() {
                said.attested.insert(question.key, Attested::Given { given, silent });
            }
        }
        for (customer, _, declarations) in &all {
            let dated = declarations.iter().rev().find(|one| one.from.is_some() || one.to.is_some());
            if let Some(one) = dated {
                said.dates.push(DeclaredDates {
                    start: one.from.map(|date| date.to_string()),
                    end: one.to.map(|date| date.to_string()),
                    by: one.signed_by.as_str().to_owned(),
                    on: one.signed_on.to_string(),
                    customer: several.then(|| customer.to_string()),
                });
            }
        }
        said
    }

    /// What a customer declared and signed before now, oldest first.
    fn declarations_of(&self, customer: &PartyId) -> Vec<Declaration> {
        let kept = self.statements_about(customer);
        let mut opened: Vec<Declaration> = kept
            .iter()
            .filter(|one| one.kind() == Kind::Declaration)
            .filter_map(|one| match self.opened(one) {
                Ok(Statement::Declaration(one)) => Some(one),
                // Erased, or its key is not there.
                Ok(_) | Err(_) => None,
            })
            .filter(|one| one.signed_on.start().is_some_and(|signed| signed <= self.now()))
            .collect();
        opened.sort_by_key(|one| (one.signed_on.start(), one.id.as_str().to_owned()));
        opened
    }
}

/// The newest word of a customer on a question; of the same day an answer, which was asked for.
fn word(key: &str, answers: &BTreeMap<String, Answer>, declarations: &[Declaration]) -> Option<Attestation> {
    let declared = declarations.iter().rev().find_map(|one| {
        let text = match key {
            "training_practices" => one.training_practices.as_ref(),
            "weight_protection" | "theft_controls" => one.cybersecurity_practices.as_ref(),
            _ => None,
        };
        text.map(|text| (one.signed_on, text.as_str(), one.signed_by.as_str(), Through::Declaration))
    });
    let answered = answers
        .get(key)
        .map(|one| (one.signed_on, one.answer.as_str(), one.signed_by.as_str(), Through::Answer));
    let newest = declared.into_iter().chain(answered).max_by_key(|(on, ..)| on.start());
    newest.map(|(on, answer, by, through)| Attestation {
        answer: answer.to_owned(),
        by: by.to_owned(),
        on: on.to_string(),
        customer: None,
        through,
    })
}
