//! The pages: rendered here, without scripts, readable on a phone and on paper.
//!
//! They show what the API says, from the same functions, as of a stated time, each with a link to its JSON.
//! Start with `today`, what a person should look at first.
//!
//! No page shows who a customer is: account numbers, and which fields of an identity are known. A report can be
//! read here masked; the opened one is made by the `report` command or by the API, where the look is recorded.
//!
//! Deliberately absent: forms and logins. Deciding on a case is an act with a name and a reason, and belongs where
//! both are known.

use std::sync::LazyLock;

use axum::{
    Router,
    extract::{Path, Query, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use weighbridge_casework::{Report, Subject};
use weighbridge_meter::UtcMillis;
use weighbridge_store::account::TimeAccount;

use crate::{
    api::{
        cases,
        fleet::Fleet,
        packs::Packs,
        problem::Problem,
        subjects::{self, Detail, Run},
    },
    app::App,
    casefile::Identity,
    questionnaire::Questionnaire,
};

mod casework;
mod fleet;
mod parties;
mod people;
mod rules;
mod show;
mod today;

const STYLE: &str = include_str!("pages/style.css");

/// What a browser may do with anything from here: show it. The hash is that of the style sheet inside a
/// [`report_document`], which needs no other file.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let style = BASE64.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'self' 'sha256-{style}'; img-src 'self'; form-action 'none'; \
         frame-ancestors 'none'; base-uri 'none'"
    );
    HeaderValue::from_str(&policy).expect("plain words and base64")
});

/// The pages and their style sheet.
pub fn routes(app: App) -> Router {
    Router::new()
        .route("/", get(today_page))
        .route("/fleet", get(fleet_page))
        .route("/host", get(host_page))
        .route("/accelerators/{id}", get(accelerator_page))
        .route("/customers", get(customers_page))
        .route("/customers/{id}", get(customer_page))
        .route("/groups/{id}", get(group_page))
        .route("/principals/{id}", get(principal_page))
        .route("/runs", get(runs_page))
        .route("/runs/{id}", get(run_page))
        .route("/cases", get(cases_page))
        .route("/cases/{id}", get(case_page))
        .route("/cases/{id}/report", get(report_page))
        .route("/rules", get(rules_page))
        .route("/style.css", get(style))
        .with_state(app)
}

/// Headers of every answer on this port.
pub(crate) async fn headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Numbers are as of a moment, and reports are nobody's to keep: only the style sheet says otherwise.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn style() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, "max-age=300")];
    (headers, STYLE).into_response()
}

/// What a page says about itself.
struct Page<'a> {
    title: &'a str,
    /// Path of the entry in the navigation that it belongs to.
    of: &'a str,
    as_of: UtcMillis,
    /// Path of the same as JSON.
    json: &'a str,
}

const NAVIGATION: [(&str, &str); 6] = [
    ("/", "Today"),
    ("/fleet", "Fleet"),
    ("/customers", "Customers"),
    ("/runs", "Runs"),
    ("/cases", "Cases"),
    ("/rules", "Rules"),
];

impl Page<'_> {
    fn with(&self, app: &App, body: &Markup) -> Html<String> {
        let fault = app.fault();
        let simulated = app.shared.with(|state| {
            state.accelerators.values().any(|accelerator| {
                accelerator
                    .report()
                    .is_some_and(|report| report.source == weighbridge_meter::Source::Simulated)
            })
        });
        let page = document(
            self.title,
            &html! {
                body {
                    a.skip href="#main" { "Skip to the content" }
                    header.top {
                        a.name href="/" { "weighbridge" }
                        nav aria-label="Pages" {
                            @for (path, name) in NAVIGATION {
                                @let current = (path == self.of).then_some("page");
                                a href=(path) aria-current=[current] { (name) }
                            }
                        }
                    }
                    main #main {
                        @if let Some(fault) = fault {
                            p.alarm role="alert" {
                                strong { "The numbers stand still. " }
                                "The fold has stopped, so the sums no longer follow the ledger; nothing is lost. " (fault)
                            }
                        }
                        @if simulated {
                            p.notice { "Part of this fleet is simulated: its numbers are of no real device." }
                        }
                        h1 { (self.title) }
                        p.asof { "As of " (show::when(self.as_of)) " · " a href=(self.json) { "JSON" } }
                        (body)
                    }
                    footer {
                        p {
                            "Operations are dense, a multiply-add counted as two, all number formats alike. Time that was "
                            "not measured counts nothing in low, the mean of its attempt in best, and the peak of the "
                            "device in high. Whether anything has to be reported is for a person to decide."
                        }
                    }
                }
            },
        );
        Html(page)
    }
}

fn document(title: &str, body: &Markup) -> String {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · weighbridge" }
                link rel="stylesheet" href="/style.css";
            }
            (body)
        }
    };
    document.into_string()
}

/// A report as a document of its own, to be kept, sent or printed.
pub fn report_document(report: &Report) -> String {
    let title = format!("Report on {}, version {}", report.case, report.version);
    paper(&title, &format!("Report on {}", report.case), &casework::report(report))
}

/// What is to be asked about a case as a document of its own, to be printed and filled in.
pub fn questionnaire_document(asked: &Questionnaire) -> String {
    let title = format!("Questions on {}", asked.case);
    paper(&title, &title, &casework::questionnaire(asked))
}

/// A page that needs no other file.
fn paper(title: &str, heading: &str, body: &Markup) -> String {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body.document {
                main {
                    h1 { (heading) }
                    (body)
                }
            }
        }
    };
    document.into_string()
}

/// A problem as a page.
pub(crate) struct Trouble(pub(crate) Problem);

impl<E: Into<Problem>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let (title, detail) = self.0.words();
        let title = match self.0.status() {
            StatusCode::NOT_FOUND => "Not found",
            _ => title,
        };
        let page = document(
            title,
            &html! {
                body {
                    header.top { a.name href="/" { "weighbridge" } }
                    main #main {
                        h1 { (title) }
                        p { (detail) "." }
                        p { a href="/" { "Go to today" } }
                    }
                }
            },
        );
        (self.0.status(), Html(page)).into_response()
    }
}

type Shown = Result<Html<String>, Trouble>;

async fn today_page(State(app): State<App>) -> Shown {
    let view = app.view().await?;
    let fleet = Fleet::of(&app, &view);
    let last_day = match view.time.unattributed_ms.is_empty() {
        true => TimeAccount::default(),
        false => app.last_day(&view).await?.clone(),
    };
    let seen = today::Seen {
        cases: cases::cases(&app, &view),
        findings: cases::findings(&app, &view),
        nearing: app.nearing(),
        unmapped: subjects::unmapped(&view),
        customers: subjects::customers(&app, &view),
        runs: subjects::runs(&view),
        fleet,
        last_day,
    };
    let page = Page { title: "Today", of: "/", as_of: view.as_of, json: "/api/v1/status" };
    Ok(page.with(&app, &today::page(&seen)))
}

async fn fleet_page(State(app): State<App>) -> Shown {
    let view = app.view().await?;
    let page = Page { title: "Fleet", of: "/fleet", as_of: view.as_of, json: "/api/v1/fleet" };
    Ok(page.with(&app, &fleet::page(&Fleet::of(&app, &view), &subjects::runs(&view))))
}

#[derive(Deserialize)]
struct HostAsked {
    /// Blank: accelerators of which nobody said where they are.
    #[serde(default)]
    name: String,
}

async fn host_page(State(app): State<App>, Query(HostAsked { name }): Query<HostAsked>) -> Shown {
    let view = app.view().await?;
    let fleet = Fleet::of(&app, &view);
    let body = fleet::host(&fleet, &name).ok_or_else(|| Problem::not_found("host", &name))?;
    let title = if name.is_empty() { "Host not known".to_owned() } else { format!("Host {name}") };
    let page = Page { title: &title, of: "/fleet", as_of: view.as_of, json: "/api/v1/fleet" };
    Ok(page.with(&app, &body))
}

async fn accelerator_page(State(app): State<App>, Path(id): Path<String>) -> Shown {
    let view = app.view().await?;
    let fleet = Fleet::of(&app, &view);
    let found = fleet.accelerators.iter().find(|accelerator| accelerator.id.as_str() == id);
    let accelerator = found.ok_or_else(|| Problem::not_found("accelerator", &id))?;
    let usage = format!("/api/v1/usage?accelerator={}", show::encoded(&id));
    let title = format!("Accelerator {id}");
    let page = Page { title: &title, of: "/fleet", as_of: view.as_of, json: &usage };
    Ok(page.with(&app, &fleet::accelerator(accelerator, &fleet.integrity)))
}

async fn customers_page(State(app): State<App>) -> Shown {
    let view = app.view().await?;
    let (customers, groups) = (subjects::customers(&app, &view), subjects::groups(&view));
    let unmapped = subjects::unmapped(&view);
    let checks = people::lines_of(&app, &view, customers.iter().chain(&groups).chain(&unmapped));
    let page = Page { title: "Customers", of: "/customers", as_of: view.as_of, json: "/api/v1/customers" };
    Ok(page.with(&app, &people::customers(&customers, &groups, &unmapped, &checks)))
}

async fn customer_page(State(app): State<App>, Path(id): Path<String>) -> Shown {
    subject_page(&app, Subject::Customer(id)).await
}

async fn group_page(State(app): State<App>, Path(id): Path<String>) -> Shown {
    subject_page(&app, Subject::ControlGroup(id)).await
}

async fn principal_page(State(app): State<App>, Path(id): Path<String>) -> Shown {
    subject_page(&app, Subject::Principal(id)).await
}

async fn subject_page(app: &App, subject: Subject) -> Shown {
    let (kind, path) = match &subject {
        Subject::Customer(_) => ("Customer", "customers"),
        Subject::ControlGroup(_) => ("Control group", "groups"),
        Subject::Principal(_) | Subject::Run(_) => ("Unmapped principal", "unmapped"),
    };
    let view = app.view().await?;
    let missing = || Problem::not_found(&kind.to_lowercase(), subject.id());
    let detail = Detail::of(app, &view, subject.clone()).ok_or_else(missing)?;
    let hours = subjects::hours(app, &view, &subject).await?;
    let cases: Vec<_> = cases::cases(app, &view).into_iter().filter(|case| case.subject == subject).collect();
    let title = format!("{kind} {}", subject.id());
    let json = format!("/api/v1/{path}/{}", show::encoded(subject.id()));
    let page = Page { title: &title, of: "/customers", as_of: view.as_of, json: &json };
    Ok(page.with(app, &people::subject(&detail, &hours, &cases)))
}

async fn runs_page(State(app): State<App>) -> Shown {
    let view = app.view().await?;
    let page = Page { title: "Runs", of: "/runs", as_of: view.as_of, json: "/api/v1/runs" };
    Ok(page.with(&app, &people::runs(&subjects::runs(&view))))
}

async fn run_page(State(app): State<App>, Path(id): Path<String>) -> Shown {
    let view = app.view().await?;
    let run = Run::of(&app, &view, &id).ok_or_else(|| Problem::not_found("run", &id))?;
    let hours = subjects::hours(&app, &view, &Subject::Run(id.clone())).await?;
    let title = format!("Run {id}");
    let json = format!("/api/v1/runs/{}", show::encoded(&id));
    let page = Page { title: &title, of: "/runs", as_of: view.as_of, json: &json };
    Ok(page.with(&app, &people::run(&run, &hours)))
}

async fn cases_page(State(app): State<App>) -> Shown {
    let view = app.view().await?;
    let (cases, findings) = (cases::cases(&app, &view), cases::findings(&app, &view));
    let page = Page { title: "Cases", of: "/cases", as_of: view.as_of, json: "/api/v1/cases" };
    Ok(page.with(&app, &casework::list(&cases, &findings)))
}

async fn case_page(State(app): State<App>, Path(id): Path<String>) -> Shown {
    let view = app.view().await?;
    let case = cases::case(&app, &view, &id).await?.ok_or_else(|| Problem::not_found("case", &id))?;
    let json = format!("/api/v1/cases/{}", show::encoded(&id));
    let page = Page { title: &id, of: "/cases", as_of: view.as_of, json: &json };
    Ok(page.with(&app, &casework::case(&case)))
}

async fn report_page(State(app): State<App>, Path(id): Path<String>) -> Shown {
    let report = app.report(&id, Identity::Masked).await?;
    let title = format!("Report on {id}");
    let json = format!("/api/v1/cases/{}/report", show::encoded(&id));
    let page = Page { title: &title, of: "/cases", as_of: report.written_at, json: &json };
    Ok(page.with(&app, &casework::masked_report(&report)))
}

async fn rules_page(State(app): State<App>) -> Shown {
    let packs = Packs::of(&app);
    let page = Page { title: "Rules", of: "/rules", as_of: packs.as_of, json: "/api/v1/packs" };
    Ok(page.with(&app, &rules::page(&packs)))
}
