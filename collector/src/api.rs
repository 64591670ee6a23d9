//! The JSON API, and the router of the port for pages and API.
//!
//! Every answer is made of the same [`View`](crate::view::View) as the pages. Operations are decimal strings of
//! whole teraoperations under keys that end in `_tera`, times RFC 3339 in UTC, durations milliseconds as numbers
//! under keys that end in `_ms`. What cannot be answered is an `application/problem+json` (RFC 9457).
//!
//! No route that is asked with GET shows who a customer is. Those that do (a case's report; a party's and a statement's
//! `reveal`, `bundle` and `export`) want the admin token, a name and a reason, which are recorded first. The other routes that want the token are import, `POST /api/v1/leases`, prune
//! and `POST /api/v1/trust`, by which operators make join tokens, shut agents out and change the certificate authority.
//!
//! Deliberately absent: accounts and roles, and any way to change a number. Whoever can reach the port can read
//! what is on the pages; the default is to listen on the loopback address only.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, State, rejection::BytesRejection, rejection::QueryRejection},
    http::{Method, StatusCode, Uri},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;

use crate::{
    app::App,
    enrol,
    import::{Imported, Kind},
    pages,
    parties::How,
    prune::Pruned,
    tree,
};

pub(crate) mod amount;
pub(crate) mod cases;
pub(crate) mod delivery;
pub(crate) mod device;
pub(crate) mod fleet;
pub(crate) mod integrity;
mod leases;
pub(crate) mod packs;
mod papers;
pub(crate) mod parties;
pub(crate) mod problem;
pub(crate) mod statements;
pub(crate) mod status;
pub(crate) mod subjects;
pub(crate) mod unattributed;
pub(crate) mod usage;
mod verifications;
pub(crate) mod work;

use problem::{Admin, Problem};

/// The largest file that can be imported, in bytes. One that is larger is refused and has to be divided.
const IMPORT_BYTES: usize = 64 << 20;

/// The largest record of a party, in bytes.
const PARTY_BYTES: usize = 1 << 20;

/// The largest body of any other request, in bytes.
const BODY_BYTES: usize = 64 << 10;

/// Everything on the port for pages and API.
pub fn http_routes(app: App) -> Router {
    routes(app.clone())
        .merge(tree::routes(app.clone()))
        .merge(pages::routes(app))
        .fallback(nothing_here)
        .method_not_allowed_fallback(not_that_way)
        .layer(middleware::map_response(pages::headers))
}

/// The API, health and metrics.
pub fn routes(app: App) -> Router {
    let import = post(import).layer(DefaultBodyLimit::max(IMPORT_BYTES));
    let leases = get(leases::leases).post(leases::lease).layer(DefaultBodyLimit::max(leases::LEASE_BYTES));
    let party = get(parties::party).put(parties::put_party).layer(DefaultBodyLimit::max(PARTY_BYTES));
    let statements = get(statements::statements)
        .post(statements::put_statements)
        .layer(DefaultBodyLimit::max(IMPORT_BYTES));
    let answers = post(papers::answers).layer(DefaultBodyLimit::max(IMPORT_BYTES));
    let interests = post(parties::put_interests).layer(DefaultBodyLimit::max(IMPORT_BYTES));
    Router::new()
        .route("/api/v1/status", get(status::status))
        .route("/api/v1/fleet", get(fleet::fleet))
        .route("/api/v1/integrity", get(integrity::integrity))
        .route("/api/v1/windows", get(usage::windows))
        .route("/api/v1/usage", get(usage::usage))
        .route("/api/v1/customers", get(subjects::all_customers))
        .route("/api/v1/customers/{id}", get(subjects::customer))
        .route("/api/v1/customers/{id}/hours", get(subjects::customer_hours))
        .route("/api/v1/groups", get(subjects::all_groups))
        .route("/api/v1/groups/{id}", get(subjects::group))
        .route("/api/v1/unmapped", get(subjects::all_unmapped))
        .route("/api/v1/unmapped/{id}", get(subjects::principal))
        .route("/api/v1/runs", get(subjects::all_runs))
        .route("/api/v1/runs/{id}", get(subjects::run))
        .route("/api/v1/findings", get(cases::all_findings))
        .route("/api/v1/nearing", get(cases::nearing))
        .route("/api/v1/cases", get(cases::all_cases))
        .route("/api/v1/cases/{id}", get(cases::one_case))
        .route("/api/v1/cases/{id}/steps", post(cases::step))
        .route("/api/v1/cases/{id}/draft", post(cases::draft))
        .route("/api/v1/cases/{id}/report", get(cases::masked_report).post(cases::opened_report))
        .route("/api/v1/cases/{id}/report.pdf", get(papers::masked_pdf))
        .route("/api/v1/cases/{id}/diff", post(papers::diff))
        .route("/api/v1/cases/{id}/questionnaire", get(papers::questionnaire))
        .route("/api/v1/packs", get(packs::packs))
        .route("/api/v1/parties", get(parties::parties))
        .route("/api/v1/parties/{id}/behind", get(parties::behind))
        .route("/api/v1/parties/{id}/reveal", post(parties::reveal))
        .route("/api/v1/parties/{id}/bundle", post(parties::bundle))
        .route("/api/v1/parties/{id}/hold", post(parties::set_hold).delete(parties::lift_hold))
        .route("/api/v1/parties/{id}/erase", post(parties::erase))
        .route("/api/v1/statements/{kind}/{id}/reveal", post(statements::reveal))
        .route("/api/v1/verifications/{provider}", post(verifications::told))
        .route("/api/v1/export/{format}", post(parties::export))
        .route("/api/v1/find", post(parties::find))
        .route("/api/v1/proposals", get(parties::proposals))
        .route("/api/v1/retention", get(parties::due))
        .route("/api/v1/certification", get(parties::certification))
        .route("/api/v1/key-mirrors", post(parties::mirror))
        .route("/api/v1/links", get(parties::links).post(parties::link))
        .route("/api/v1/prune", post(prune))
        .route("/-/healthy", get(status::healthy))
        .route("/-/ready", get(status::ready))
        .route("/metrics", get(status::scrape))
        .merge(enrol::routes::on_api())
        .merge(crate::rotation::routes())
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .route("/api/v1/import/{kind}", import)
        .route("/api/v1/cases/{id}/answers", answers)
        .route("/api/v1/leases", leases)
        .route("/api/v1/parties/{id}", party)
        .route("/api/v1/interests", interests)
        .route("/api/v1/statements/{kind}", statements)
        .with_state(app)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportAsked {
    /// How to name the file in messages.
    file: Option<String>,
    /// Whether it is only checked.
    #[serde(default)]
    dry_run: bool,
}

async fn import(
    State(app): State<App>,
    Path(kind): Path<String>,
    asked: Result<Query<ImportAsked>, QueryRejection>,
    _admin: Admin,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Imported>, Problem> {
    let kind: Kind =
        kind.parse().map_err(|problem| Problem::new(StatusCode::NOT_FOUND, "not found", problem))?;
    let Query(ImportAsked { file, dry_run }) = asked?;
    let file = file.unwrap_or_else(|| format!("{}.csv", kind.as_str()));
    let body = body.map_err(|error| Problem::new(error.status(), "body not readable", error.body_text()))?;
    let how = if dry_run { How::DryRun } else { How::Record };
    Ok(Json(app.import_how(kind, &file, &body, how).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PruneAsked {
    /// A whole UTC hour.
    before: weighbridge_meter::UtcMillis,
}

async fn prune(
    State(app): State<App>,
    _admin: Admin,
    asked: Result<Query<PruneAsked>, QueryRejection>,
) -> Result<Json<Pruned>, Problem> {
    let Query(PruneAsked { before }) = asked?;
    Ok(Json(app.prune(before).await?))
}

/// Programs get a problem, people a page.
fn answer(uri: &Uri, problem: Problem) -> Response {
    if uri.path().starts_with("/api/") {
        problem.into_response()
    } else {
        pages::Trouble(problem).into_response()
    }
}

async fn nothing_here(uri: Uri) -> Response {
    answer(
        &uri,
        Problem::new(StatusCode::NOT_FOUND, "not found", format!("there is nothing at {}", uri.path())),
    )
}

async fn not_that_way(method: Method, uri: Uri) -> Response {
    let detail = format!("{} does not take {method}", uri.path());
    answer(&uri, Problem::new(StatusCode::METHOD_NOT_ALLOWED, "not that way", detail))
}
