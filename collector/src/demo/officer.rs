//! What a compliance officer does about a case: looks, asks the customer, decides, drafts the report and files it, by
//! the same calls that pages and commands make.

use std::path::Path;

use weighbridge_casework::case::Decision;

use crate::{
    api::cases,
    app::App,
    casesteps::Asked,
    command::{Failure, say, write_reports},
    proof::Content,
    questionnaire::AnswerRow,
};

/// Who decides.
const OFFICER: &str = "officer";
/// Who files what was decided: somebody else.
const SECOND: &str = "second officer";

/// What the customer of the story answers: the questions of the proposed 15 CFR 7.308 that only it can answer. What is
/// left out stays blank in the report, and says so.
const ANSWERS: [(&str, &str); 3] = [
    (
        "training_practices",
        "Pretraining on licensed text and code, then instruction tuning; no biological data.",
    ),
    (
        "weight_protection",
        "Weights are encrypted at rest and open on the cluster alone, for nine named engineers.",
    ),
    (
        "theft_controls",
        "Hardware keys, no egress from training hosts but a reviewed one, yearly outside test.",
    ),
];

/// Takes a case from the first look to a filed report, and writes the report into a folder.
pub(super) async fn works(app: &App, case: &str, folder: &Path) -> Result<(), Failure> {
    let step = async |asked: Asked, who: &str| app.case_step(case, asked, who).await.map_err(Failure::check);
    step(Asked::Seen {}, OFFICER).await?;
    let asked = app.questionnaire(case).map_err(|error| Failure::missing(&error))?;
    let answers = asked.customers.iter().flat_map(|customer| {
        let asked = |key: &str| customer.questions.iter().any(|question| question.key == key);
        ANSWERS.iter().filter(move |(key, _)| asked(key)).map(|(key, answer)| AnswerRow {
            customer: customer.customer.to_string(),
            key: (*key).to_owned(),
            answer: (*answer).to_owned(),
            signed_by: "R. Example, chief executive".into(),
            signed_on: "2026-03-01".into(),
        })
    });
    app.put_answers(case, answers.collect(), OFFICER).await.map_err(Failure::check)?;
    let reason =
        "projected to pass the line within the lease; reported as if the rule were in force as proposed";
    step(Asked::Decided { decision: Decision::Reportable, reason: reason.into() }, OFFICER).await?;
    let drafted = app.case_draft(case, OFFICER, "the report on it", Content::Leaves).await;
    let (report, proof) = drafted.map_err(|error| Failure::missing(&error))?;
    step(Asked::Filed { version: 1, reference: Some("DEMO-1".into()) }, SECOND).await?;
    let forms = cases::all_forms(app, &report, Some(&proof)).map_err(|error| Failure::missing(&error))?;
    std::fs::create_dir_all(folder)
        .map_err(|error| Failure::usage(format!("{}: {error}", folder.display())))?;
    say("");
    say(format_args!(
        "An officer looked at {case}, asked its customer, decided, and filed version 1 as it is here:"
    ));
    write_reports(folder, case, &forms)
}
