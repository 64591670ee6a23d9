//! How the collector itself is.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use weighbridge_casework::State as CaseState;
use weighbridge_meter::UtcMillis;
use weighbridge_store::{fold::hex, ledger::Health};

use super::problem::Problem;
use crate::{app::App, metrics};

#[derive(Debug, Serialize)]
pub(super) struct Status {
    as_of: UtcMillis,
    version: &'static str,
    ledger: LedgerJson,
    /// Why the fold has stopped; `null` while it runs.
    fault: Option<String>,
    /// Whether the ledger takes entries.
    ledger_open: bool,
    method: Option<String>,
    figures_sha256: Option<String>,
    counts: BTreeMap<&'static str, usize>,
    history: History,
}

/// What the store has been through.
#[derive(Debug, Serialize)]
struct History {
    /// How often it got another generation.
    renewals: usize,
    /// As of when the last whole backup is.
    last_backup: Option<UtcMillis>,
    /// Hours before this one are closed.
    closed_before: Option<UtcMillis>,
    /// Everything before this entry is in the last summary.
    summarised_index: Option<u64>,
    /// Why this start folded the sums anew.
    sums_made_anew: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct LedgerJson {
    /// Index of the next entry: so many are durable.
    next_index: u64,
    durable: PlaceJson,
    /// Up to where the sums reflect them.
    folded: PlaceJson,
    store_generation: String,
}

#[derive(Debug, Serialize)]
struct PlaceJson {
    index: u64,
    segment: u64,
    offset: u64,
}

impl From<weighbridge_store::Place> for PlaceJson {
    fn from(place: weighbridge_store::Place) -> Self {
        Self { index: place.index, segment: place.segment, offset: place.offset }
    }
}

/// Whether the ledger takes batches.
pub(crate) fn ledger_open(app: &App) -> bool {
    *app.ledger.health().borrow() == Health::Writable
}

pub(super) async fn status(State(app): State<App>) -> Result<Json<Status>, Problem> {
    let view = app.view().await?;
    let durable = *app.ledger.durable().borrow();
    let (method, agents, seen) =
        app.shared.with(|state| (state.method.clone(), state.agents.len(), state.seen.len()));
    let (findings, integrity, alarms, cases, open) = {
        let book = app.casebook();
        let open = book.cases.values().filter(|case| case.state() != CaseState::Closed).count();
        (book.findings.len(), book.integrity.len(), book.alarms.len(), book.cases.len(), open)
    };
    let (method, figures_sha256) = method.unzip();
    let history = History {
        renewals: app.generations().await?,
        last_backup: app.last_backup(),
        closed_before: app.shared.with(|state| state.closed_before),
        summarised_index: app.last_summary().await?.map(|(place, _)| place),
        sums_made_anew: app.mended.sums,
    };
    Ok(Json(Status {
        as_of: view.as_of,
        version: env!("CARGO_PKG_VERSION"),
        ledger: LedgerJson {
            next_index: durable.index,
            durable: durable.into(),
            folded: app.stands().into(),
            store_generation: hex(&app.ledger.generation()),
        },
        fault: app.fault(),
        ledger_open: ledger_open(&app),
        method,
        figures_sha256,
        counts: BTreeMap::from([
            ("accelerators", view.account.accelerators.len()),
            ("agents_enrolled", agents),
            ("agents_seen", seen),
            ("customers", view.customers.len()),
            ("control_groups", view.groups.len()),
            ("principals_unmapped", view.unmapped.len()),
            ("runs", view.account.attempts.len()),
            ("findings", findings),
            ("findings_of_integrity", integrity),
            ("alarms", alarms),
            ("cases", cases),
            ("cases_open", open),
        ]),
        history,
    }))
}

pub(super) async fn healthy() -> &'static str {
    "ok\n"
}

/// Ready: what is sent here is kept, and the numbers follow.
pub(super) async fn ready(State(app): State<App>) -> Response {
    let reason = match app.fault() {
        Some(fault) => format!("the fold has stopped: {fault}\n"),
        None => match *app.ledger.health().borrow() {
            Health::Writable => return "ready\n".into_response(),
            Health::Full => {
                "the disk of the ledger is full: batches are refused until there is room\n".to_owned()
            }
            Health::Unwritable => "the ledger cannot be written: it is tried again by itself\n".to_owned(),
        },
    };
    (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
}

pub(super) async fn scrape(State(app): State<App>) -> Result<Response, Problem> {
    let text = metrics::scrape(&app).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
