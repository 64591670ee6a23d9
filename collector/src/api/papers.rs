//! What goes out and comes back on paper: reports as PDF, questionnaires and their answers, what changed.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::BytesRejection, rejection::QueryRejection},
    http::{HeaderValue, header},
    response::{Html, IntoResponse, Response},
};
use serde::Deserialize;
use weighbridge_casework::report::Changes;

use super::{
    parties::body,
    problem::{Admin, Problem},
};
use crate::{app::App, casefile::Identity, import::Imported, pages, parties::By, questionnaire::AnswerRow};

/// A PDF as an answer.
pub(super) fn pdf(bytes: Vec<u8>) -> Response {
    let kind = HeaderValue::from_static("application/pdf");
    ([(header::CONTENT_TYPE, kind)], bytes).into_response()
}

/// The report with its identity masked.
pub(super) async fn masked_pdf(State(app): State<App>, Path(id): Path<String>) -> Result<Response, Problem> {
    let report = app.report(&id, Identity::Masked).await?;
    Ok(pdf(app.pdf(&report).map_err(crate::casefile::CasefileError::from)?))
}

/// Which versions to compare, and who looks and why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DiffAsked {
    from: u32,
    to: u32,
    actor: String,
    reason: String,
}

/// What one draft says other than an earlier one; recorded, because both name their customers.
pub(super) async fn diff(
    State(app): State<App>,
    Path(id): Path<String>,
    _admin: Admin,
    asked: Result<Bytes, BytesRejection>,
) -> Result<Json<Changes>, Problem> {
    let DiffAsked { from, to, actor, reason } =
        body(asked, "{\"from\", \"to\", \"actor\", \"reason\"} in JSON")?;
    Ok(Json(app.changes(&id, from, to, &By { actor, reason }).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HowAsked {
    #[serde(default)]
    format: Form,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    /// For programs.
    #[default]
    Json,
    /// To fill in and send back.
    Csv,
    /// To print and fill in by hand.
    Html,
}

/// What is still to be asked of the customers of a case.
pub(super) async fn questionnaire(
    State(app): State<App>,
    Path(id): Path<String>,
    asked: Result<Query<HowAsked>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(HowAsked { format }) = asked?;
    let asked = app.questionnaire(&id)?;
    Ok(match format {
        Form::Json => Json(asked).into_response(),
        Form::Csv => {
            let kind = HeaderValue::from_static("text/csv; charset=utf-8");
            ([(header::CONTENT_TYPE, kind)], asked.to_csv()).into_response()
        }
        Form::Html => Html(pages::questionnaire_document(&asked)).into_response(),
    })
}

/// What came back, and who records it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answered {
    actor: String,
    answers: Vec<AnswerRow>,
}

/// Records answers: all of them, or none.
pub(super) async fn answers(
    State(app): State<App>,
    Path(id): Path<String>,
    _admin: Admin,
    told: Result<Bytes, BytesRejection>,
) -> Result<Json<Imported>, Problem> {
    let expected = "{\"actor\", \"answers\": [{\"customer\", \"key\", \"answer\", \"signed_by\", \"signed_on\"}, ...]} in JSON";
    let Answered { actor, answers } = body(told, expected)?;
    Ok(Json(app.put_answers(&id, answers, &actor).await?))
}
