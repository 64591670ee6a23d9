//! Findings, cases and reports. Identity is shown by one route only, to who has the token and says why.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::BytesRejection, rejection::QueryRejection},
    response::{Html, IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use weighbridge_casework::{
    Case, CaseEvent, Certainty, ClockReading, Finding, Report, State as CaseState, Subject, Totals,
    case::Decision,
};
use weighbridge_meter::UtcMillis;
use weighbridge_store::StoreError;

use super::{
    papers,
    parties::body,
    problem::{Admin, Problem},
};
use crate::{
    app::App,
    casefile::{CasefileError, Identity, main_finding},
    casesteps::Asked,
    judge, pages,
    parties::By,
    proof::{Content, Proof},
    view::View,
};

/// A finding as it was raised, and how it stands now.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FindingJson {
    #[serde(flatten)]
    pub(crate) finding: Finding,
    pub(crate) now: Now,
    /// The case it is in.
    pub(crate) case: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Now {
    pub(crate) as_of: UtcMillis,
    /// `null`: no longer met.
    pub(crate) certainty: Option<Certainty>,
    /// `null`: the subject is no longer there, or its pack not loaded.
    pub(crate) totals: Option<Totals>,
    /// When the data as they are now pass the line as surely as the finding says; told in its case only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) met_at: Option<UtcMillis>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Findings {
    pub(crate) as_of: UtcMillis,
    pub(crate) findings: Vec<FindingJson>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Cases {
    pub(crate) as_of: UtcMillis,
    pub(crate) cases: Vec<CaseJson>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct CaseJson {
    pub(crate) id: String,
    pub(crate) pack: String,
    pub(crate) pack_version: String,
    #[serde(serialize_with = "as_text")]
    pub(crate) subject: Subject,
    #[serde(flatten)]
    pub(crate) state: CaseState,
    /// The same in words.
    pub(crate) state_in_words: String,
    pub(crate) opened_at: UtcMillis,
    pub(crate) raised_at: UtcMillis,
    /// The surest of its findings.
    pub(crate) certainty: Option<Certainty>,
    pub(crate) statement: String,
    pub(crate) clocks: Vec<ClockReading>,
}

fn as_text<S: serde::Serializer>(subject: &Subject, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(subject)
}

#[derive(Debug, Serialize)]
pub(crate) struct CaseDetail {
    pub(crate) as_of: UtcMillis,
    #[serde(flatten)]
    pub(crate) case: CaseJson,
    pub(crate) decision: Option<DecisionJson>,
    /// Version of the newest draft; 0 if there is none.
    pub(crate) drafted: u32,
    pub(crate) filed: Option<u32>,
    /// What a reader has to be pointed out beside the rule.
    pub(crate) remarks: Vec<String>,
    /// Questions that only customers can answer and have not, by customer.
    pub(crate) unanswered: std::collections::BTreeMap<String, usize>,
    pub(crate) findings: Vec<FindingJson>,
    pub(crate) history: Vec<CaseEvent>,
}

#[derive(Debug, Serialize)]
pub(crate) struct DecisionJson {
    pub(crate) decision: Decision,
    pub(crate) reason: String,
    pub(crate) by: String,
}

impl CaseJson {
    fn of(app: &App, view: &View, case: &Case, main: Option<&Finding>) -> Self {
        let pack = app.pack_version(case.pack(), case.pack_version());
        let statement = match (pack, main) {
            (Some(pack), Some(finding)) => {
                format!("{} {} the criteria of {}", finding.subject, finding.certainty.meets(), pack.name)
            }
            _ => format!("{} under {}@{}", case.subject(), case.pack(), case.pack_version()),
        };
        Self {
            id: case.id().to_owned(),
            pack: case.pack().to_owned(),
            pack_version: case.pack_version().to_owned(),
            subject: case.subject().clone(),
            state: case.state(),
            state_in_words: case.state().to_string(),
            opened_at: case.opened_at(),
            raised_at: case.raised_at(),
            certainty: main.map(|finding| finding.certainty),
            statement,
            clocks: pack.map(|pack| case.clocks(pack, view.as_of)).unwrap_or_default(),
        }
    }

    /// The clock that runs out first, of those that run.
    pub(crate) fn next_clock(&self) -> Option<&ClockReading> {
        self.clocks.iter().filter(|clock| clock.stopped_at.is_none()).min_by_key(|clock| clock.due)
    }
}

impl FindingJson {
    fn of(app: &App, view: &View, finding: Finding, case: Option<String>) -> Self {
        let pack = app.pack_version(&finding.pack, &finding.pack_version);
        let rule = pack.and_then(|pack| Some((pack, pack.rule(&finding.rule)?)));
        let owned = view.subject(&finding.subject);
        let certainty = rule.zip(owned).and_then(|((pack, rule), owned)| {
            let subject = &finding.subject;
            let now = judge::compare(app, view, pack, rule, subject, &owned).map(|(met, _)| met.certainty);
            // What is reserved says nothing about a finding that was about something else.
            let reserved = || {
                let could = judge::could_result(app, view, pack, rule, subject, &owned);
                could.map(|(met, ..)| met.certainty)
            };
            match finding.certainty {
                Certainty::CouldResult => now.or_else(reserved),
                _ => now,
            }
        });
        let totals = app.totals_now(view, &finding);
        Self { now: Now { as_of: view.as_of, certainty, totals, met_at: None }, finding, case }
    }
}

/// All findings, newest first.
pub(crate) fn findings(app: &App, view: &View) -> Vec<FindingJson> {
    let book = app.casebook().clone();
    let case_of = |id: &str| {
        book.cases
            .values()
            .find(|case| case.findings().any(|finding| finding.id == id))
            .map(|case| case.id().to_owned())
    };
    let all = book.findings.values();
    let mut findings: Vec<FindingJson> =
        all.map(|finding| FindingJson::of(app, view, finding.clone(), case_of(&finding.id))).collect();
    findings.sort_by_key(|finding| std::cmp::Reverse((finding.finding.raised_at, finding.finding.certainty)));
    findings
}

/// All cases: those with a clock that runs first, by when it is due; closed ones last.
pub(crate) fn cases(app: &App, view: &View) -> Vec<CaseJson> {
    let book = app.casebook().clone();
    let of = |case: &Case| CaseJson::of(app, view, case, main_finding(case, &book.findings).as_ref());
    let mut cases: Vec<CaseJson> = book.cases.values().map(of).collect();
    cases.sort_by_key(|case| {
        let due = case.next_clock().map_or(UtcMillis(i64::MAX), |clock| clock.due);
        (case.state == CaseState::Closed, due, case.id.clone())
    });
    cases
}

/// One case with all that happened. `None`: there is no such case.
pub(crate) async fn case(app: &App, view: &View, id: &str) -> Result<Option<CaseDetail>, StoreError> {
    let book = app.casebook().clone();
    let Some(case) = book.cases.get(id) else { return Ok(None) };
    let mut findings = Vec::new();
    for finding in case.findings().filter_map(|reference| book.findings.get(&reference.id)) {
        let mut shown = FindingJson::of(app, view, finding.clone(), Some(id.to_owned()));
        shown.now.met_at = app.met_at_now(view, finding).await?;
        findings.push(shown);
    }
    Ok(Some(CaseDetail {
        as_of: view.as_of,
        findings,
        decision: case.decision().map(|(decision, reason, by)| DecisionJson {
            decision,
            reason: reason.to_owned(),
            by: by.to_owned(),
        }),
        drafted: case.drafted(),
        filed: case.filed(),
        remarks: app.remarks(case),
        unanswered: unanswered(app, id),
        history: case.history().to_vec(),
        case: CaseJson::of(app, view, case, main_finding(case, &book.findings).as_ref()),
    }))
}

fn unanswered(app: &App, id: &str) -> std::collections::BTreeMap<String, usize> {
    let asked = app.questionnaire(id).map(|asked| asked.customers).unwrap_or_default();
    asked.into_iter().map(|one| (one.customer.to_string(), one.questions.len())).collect()
}

pub(super) async fn all_findings(State(app): State<App>) -> Result<Json<Findings>, Problem> {
    let view = app.view().await?;
    Ok(Json(Findings { as_of: view.as_of, findings: findings(&app, &view) }))
}

#[derive(Debug, Serialize)]
pub(super) struct AllNearing {
    nearing: Vec<judge::Nearing>,
}

/// Who nears a line, by the last comparison; who would pass it first comes first.
pub(super) async fn nearing(State(app): State<App>) -> Json<AllNearing> {
    Json(AllNearing { nearing: app.nearing() })
}

pub(super) async fn all_cases(State(app): State<App>) -> Result<Json<Cases>, Problem> {
    let view = app.view().await?;
    Ok(Json(Cases { as_of: view.as_of, cases: cases(&app, &view) }))
}

pub(super) async fn one_case(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<CaseDetail>, Problem> {
    let view = app.view().await?;
    case(&app, &view, &id).await?.map(Json).ok_or_else(|| Problem::not_found("case", &id))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HowShown {
    #[serde(default)]
    format: Format,
    /// With the proof of its figures; comes with `format=both`.
    proof: Option<Content>,
    /// A draft as it was, in place of the report as it stands now.
    version: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// The record.
    #[default]
    Json,
    /// To read and to print.
    Html,
    /// On paper.
    Pdf,
    /// `{"report", "html", "pdf"}`, the last in base64: one request, so that one look at an identity is recorded.
    Both,
}

/// Who looks at an identity, and why; or that nobody does.
#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Look {
    Masked { masked: bool },
    Opened { actor: String, reason: String },
}

pub(super) async fn masked_report(
    State(app): State<App>,
    Path(id): Path<String>,
    shown: Result<Query<HowShown>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(shown) = shown?;
    if shown.version.is_some() {
        return Err(Problem::unusable(
            "a draft is sealed: ask for it with POST, the token, a name and a reason",
        ));
    }
    report(&app, &id, Identity::Masked, &shown).await
}

pub(super) async fn opened_report(
    State(app): State<App>,
    Path(id): Path<String>,
    shown: Result<Query<HowShown>, QueryRejection>,
    _admin: Admin,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let Query(shown) = shown?;
    let body = body.map_err(|error| Problem::new(error.status(), "body not readable", error.body_text()))?;
    let expected = "the body is not {\"actor\": ..., \"reason\": ...} nor {\"masked\": true}, in JSON";
    let identity = match serde_json::from_slice(&body) {
        Ok(Look::Masked { masked: true }) => Identity::Masked,
        Ok(Look::Opened { actor, reason }) => Identity::Opened { actor, reason },
        Ok(Look::Masked { masked: false }) | Err(_) => return Err(Problem::unusable(expected)),
    };
    report(&app, &id, identity, &shown).await
}

async fn report(app: &App, id: &str, identity: Identity, shown: &HowShown) -> Result<Response, Problem> {
    if let Some(content) = shown.proof {
        if !matches!(shown.format, Format::Both) {
            return Err(Problem::unusable("a proof comes with format=both only"));
        }
        let (report, proof) = app.proven_report(id, identity, content).await?;
        return Ok(Json(all_forms(app, &report, Some(&proof))?).into_response());
    }
    let report = match (shown.version, identity) {
        (None, identity) => app.report(id, identity).await?,
        (Some(version), Identity::Opened { actor, reason }) => {
            app.draft(id, version, &By { actor, reason }).await?
        }
        (Some(_), Identity::Masked) => return Err(Problem::unusable("a draft is not shown masked")),
    };
    Ok(match shown.format {
        Format::Json => Json(report).into_response(),
        Format::Html => Html(pages::report_document(&report)).into_response(),
        Format::Pdf => papers::pdf(app.pdf(&report).map_err(CasefileError::from)?),
        Format::Both => Json(all_forms(app, &report, None)?).into_response(),
    })
}

/// A report in all its forms, with its proof if there is one.
pub(crate) fn all_forms(
    app: &App,
    report: &Report,
    proof: Option<&Proof>,
) -> Result<serde_json::Value, CasefileError> {
    let html = pages::report_document(report);
    let pdf = BASE64.encode(app.pdf(report)?);
    let mut forms = serde_json::json!({ "report": report, "html": html, "pdf": pdf });
    if let Some(proof) = proof {
        forms["proof"] = serde_json::json!(proof);
    }
    Ok(forms)
}

/// What somebody did about a case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepAsked {
    actor: String,
    step: Asked,
}

/// Takes a step in a case and answers with the case as it is after it.
pub(super) async fn step(
    State(app): State<App>,
    Path(id): Path<String>,
    _admin: Admin,
    asked: Result<Bytes, BytesRejection>,
) -> Result<Json<CaseDetail>, Problem> {
    let expected = "{\"actor\", \"step\": {\"kind\": seen, decided, filed, follow_up_requested, follow_up_answered, \
        error_found, error_dismissed, corrected, closed or reopened, ...}} in JSON";
    let StepAsked { actor, step } = body(asked, expected)?;
    app.case_step(&id, step, &actor).await?;
    one_case(State(app), Path(id)).await
}

/// Who drafts, and why who it is about is opened for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DraftAsked {
    actor: String,
    reason: String,
    #[serde(default)]
    proof: Content,
}

/// Makes the next draft of a case's report, and answers with it.
pub(super) async fn draft(
    State(app): State<App>,
    Path(id): Path<String>,
    _admin: Admin,
    asked: Result<Bytes, BytesRejection>,
) -> Result<Json<serde_json::Value>, Problem> {
    let DraftAsked { actor, reason, proof } =
        body(asked, "{\"actor\", \"reason\", \"proof\": leaves or batches} in JSON")?;
    let (report, proof) = app.case_draft(&id, &actor, &reason, proof).await?;
    Ok(Json(all_forms(&app, &report, Some(&proof))?))
}
