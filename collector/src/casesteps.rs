//! What people do about a case: every step is checked against where the case stands, recorded, and never taken back.
//!
//! A draft is a report as it was at its moment: its hash is in the ledger, so that what was sent later can be shown to
//! be what was drafted. The report itself, which names people, is kept under their keys.
//!
//! Deliberately absent: who may do what, beyond the token and that a second person may be asked for.

use serde::Deserialize;
use weighbridge_casework::{Case, CaseError, CaseEvent, Report, Step, case::Decision};
use weighbridge_meter::UtcMillis;
use weighbridge_store::{Fact, ledger::CommitError};

use crate::{
    app::{App, record},
    casefile::{CasefileError, Identity},
    judge::fact,
    proof::{Content, Proof, report_hash},
};

/// The longest text of a step, in bytes.
const LONGEST: usize = 4_096;

/// What a person can do about a case; a draft is made with its report.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Asked {
    /// It was looked at.
    Seen {},
    /// It was decided.
    Decided {
        /// What.
        decision: Decision,
        /// Why.
        reason: String,
    },
    /// The first report was sent.
    Filed {
        /// Which draft.
        version: u32,
        /// What the authority calls it.
        reference: Option<String>,
    },
    /// The authority asked a further question.
    FollowUpRequested {
        /// When it arrived; now, if that is not said.
        received_at: Option<UtcMillis>,
        /// What was asked.
        question: String,
    },
    /// All further questions are answered.
    FollowUpAnswered {},
    /// What was sent was found wrong or out of date.
    ErrorFound {
        /// When; now, if that is not said.
        found_at: Option<UtcMillis>,
        /// What is wrong.
        what: String,
    },
    /// It is not wrong.
    ErrorDismissed {
        /// Why.
        reason: String,
    },
    /// A later report was sent in place of the one before.
    Corrected {
        /// Which draft.
        version: u32,
        /// What the authority calls it.
        reference: Option<String>,
    },
    /// Nothing is left to do.
    Closed {
        /// Why.
        reason: String,
    },
    /// It is taken up again.
    Reopened {
        /// Why.
        reason: String,
    },
}

impl Asked {
    /// What of it is text, each with its name.
    fn texts(&self) -> Vec<(&'static str, &str)> {
        match self {
            Self::Seen {} | Self::FollowUpAnswered {} => Vec::new(),
            Self::Decided { reason, .. }
            | Self::ErrorDismissed { reason }
            | Self::Closed { reason }
            | Self::Reopened { reason } => vec![("reason", reason)],
            Self::Filed { reference, .. } | Self::Corrected { reference, .. } => {
                reference.iter().map(|reference| ("reference", reference.as_str())).collect()
            }
            Self::FollowUpRequested { question, .. } => vec![("question", question)],
            Self::ErrorFound { what, .. } => vec![("what", what)],
        }
    }

    fn step(self, now: UtcMillis) -> Step {
        match self {
            Self::Seen {} => Step::Seen,
            Self::Decided { decision, reason } => Step::Decided { decision, reason },
            Self::Filed { version, reference } => Step::Filed { version, reference },
            Self::FollowUpRequested { received_at, question } => {
                Step::FollowUpRequested { received_at: received_at.unwrap_or(now), question }
            }
            Self::FollowUpAnswered {} => Step::FollowUpAnswered,
            Self::ErrorFound { found_at, what } => {
                Step::ErrorFound { found_at: found_at.unwrap_or(now), what }
            }
            Self::ErrorDismissed { reason } => Step::ErrorDismissed { reason },
            Self::Corrected { version, reference } => Step::Corrected { version, reference },
            Self::Closed { reason } => Step::Closed { reason },
            Self::Reopened { reason } => Step::Reopened { reason },
        }
    }
}

/// A step was not taken. The case stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The case does not allow it.
    #[error(transparent)]
    Case(#[from] CaseError),
    /// A part of it cannot be.
    #[error("{field}: {found}, expected {expected}")]
    Unusable {
        /// Which part.
        field: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Whoever decided may not carry it out as well.
    #[error(
        "case {case}: {decided} decided, and the configuration asks for a second person (cases.second_person)"
    )]
    SamePerson {
        /// Which case.
        case: String,
        /// Who decided.
        decided: String,
    },
    /// The report.
    #[error(transparent)]
    Casefile(#[from] CasefileError),
    /// The ledger.
    #[error("the ledger took no record of it")]
    Commit(#[from] CommitError),
}

impl App {
    /// Takes a step, once it is recorded. Once begun it goes to its end, even if whoever asked for it goes away.
    ///
    /// # Errors
    /// [`StepError`]; the case is then as it was.
    pub async fn case_step(&self, id: &str, asked: Asked, actor: &str) -> Result<(), StepError> {
        let (app, id, actor) = (self.clone(), id.to_owned(), actor.to_owned());
        let taken = tokio::spawn(async move {
            let _one_at_a_time = app.writing.lock().await;
            let now = app.now();
            text("actor", &actor)?;
            for (field, said) in asked.texts() {
                text(field, said)?;
            }
            let told = match &asked {
                Asked::FollowUpRequested { received_at: Some(at), .. } => Some(("received_at", *at)),
                Asked::ErrorFound { found_at: Some(at), .. } => Some(("found_at", *at)),
                _ => None,
            };
            if let Some((field, at)) = told.filter(|(_, at)| *at > now) {
                let found = at.to_string();
                return Err(StepError::Unusable { field, found, expected: "a time that has passed" });
            }
            app.take(&id, CaseEvent { at: now, by: actor, step: asked.step(now) }).await
        });
        taken.await.unwrap_or(Err(StepError::Commit(CommitError::Unwritable)))
    }

    /// Makes the next draft: the report as it stands with its proof, opened, and the step with its hash.
    ///
    /// # Errors
    /// [`StepError`]; the case is then as it was, but the look at who it is about is on record.
    pub async fn case_draft(
        &self,
        id: &str,
        actor: &str,
        reason: &str,
        content: Content,
    ) -> Result<(Report, Proof), StepError> {
        let (app, id, by) = (self.clone(), id.to_owned(), (actor.to_owned(), reason.to_owned()));
        let drafted = tokio::spawn(async move {
            let (actor, reason) = by;
            let _one_at_a_time = app.writing.lock().await;
            text("actor", &actor)?;
            text("reason", &reason)?;
            let case = app.case(&id)?;
            let version = case.drafted() + 1;
            let event = |report_sha256| CaseEvent {
                at: app.now(),
                by: actor.clone(),
                step: Step::Drafted { version, report_sha256 },
            };
            // Before anybody is looked at for nothing.
            case.clone().apply(event(None))?;
            let identity = Identity::Opened { actor: actor.clone(), reason };
            // What was sent is what a reader has; before anything was, the draft before.
            let since = case.filed().unwrap_or_else(|| case.drafted());
            let earlier = match since {
                0 => None,
                since => app.earlier_draft(&case, since).await?,
            };
            let (report, proof) = app.proven_report_since(&id, identity, content, earlier.as_ref()).await?;
            let hash = report_hash(&serde_json::to_value(&report).unwrap_or_default());
            let kept = app.draft_fact(&id, version, &report, &app.customers_of(&case))?;
            app.take_with(&id, event(Some(hash)), vec![kept]).await?;
            Ok((report, proof))
        });
        drafted.await.unwrap_or(Err(StepError::Commit(CommitError::Unwritable)))
    }

    fn case(&self, id: &str) -> Result<Case, StepError> {
        let case = self.casebook().cases.get(id).cloned();
        case.ok_or_else(|| CasefileError::NoCase(id.to_owned()).into())
    }

    /// An earlier draft to compare with, if it still opens: one that is gone is nothing to stop at.
    async fn earlier_draft(&self, case: &Case, version: u32) -> Result<Option<Report>, StepError> {
        match self.kept_draft(case, version).await {
            Ok((report, _)) => Ok(Some(report)),
            Err(CasefileError::NoDraft { .. } | CasefileError::DraftErased { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn take(&self, id: &str, event: CaseEvent) -> Result<(), StepError> {
        self.take_with(id, event, Vec::new()).await
    }

    /// For who is the only one to write. What belongs to the step is recorded with it, or neither.
    async fn take_with(&self, id: &str, event: CaseEvent, with: Vec<Fact>) -> Result<(), StepError> {
        let before = self.case(id)?;
        let carries_out =
            matches!(event.step, Step::Filed { .. } | Step::Corrected { .. } | Step::Closed { .. });
        if self.second_person
            && carries_out
            && let Some((_, _, decided)) = before.decision().filter(|(.., by)| *by == event.by)
        {
            return Err(StepError::SamePerson { case: id.to_owned(), decided: decided.to_owned() });
        }
        let after = before.apply(event.clone())?;
        let facts = with.into_iter().chain([fact(record::CASE, id, &event)]).collect();
        self.record(facts).await?;
        tracing::info!(case = id, step = event.step.as_str(), state = %after.state(), "case");
        self.casebook().cases.insert(id.to_owned(), after);
        Ok(())
    }
}

/// That a text says something, in one line that is not endless.
fn text(field: &'static str, said: &str) -> Result<(), StepError> {
    let expected = "some words in one line, of at most 4,096 bytes";
    if said.trim().is_empty() {
        return Err(StepError::Unusable { field, found: "blank".into(), expected });
    }
    if said.len() > LONGEST || said.chars().any(char::is_control) {
        let found = format!("{} bytes, or a control character", said.len());
        return Err(StepError::Unusable { field, found, expected });
    }
    Ok(())
}
