//! Rule packs: what each instrument is today, who says so, and whether totals are compared with it.

use axum::{Json, extract::State};
use jiff::{civil::Date, tz::TimeZone};
use serde::Serialize;
use weighbridge_casework::{
    Rule,
    pack::{AppliesTo, Clock, StatusEntry},
};
use weighbridge_meter::UtcMillis;

use crate::app::App;

/// The UTC date of a moment.
pub(crate) fn today(moment: UtcMillis) -> Date {
    jiff::Timestamp::from_millisecond(moment.0)
        .map_or(Date::MAX, |timestamp| timestamp.to_zoned(TimeZone::UTC).date())
}

#[derive(Debug, Serialize)]
pub(crate) struct Packs {
    pub(crate) as_of: UtcMillis,
    pub(crate) packs: Vec<PackJson>,
}

#[derive(Debug, Serialize)]
pub(crate) struct PackJson {
    pub(crate) id: String,
    pub(crate) version: String,
    pub(crate) sha256: String,
    pub(crate) title: String,
    pub(crate) name: String,
    pub(crate) citation: String,
    pub(crate) checked: String,
    /// What it is today; `null` before its history begins.
    pub(crate) status: Option<StatusEntry>,
    pub(crate) history: Vec<StatusEntry>,
    /// Whether totals are compared with it here.
    pub(crate) evaluated: bool,
    /// Why the pack itself says to, or not to.
    pub(crate) evaluate_reason: String,
    pub(crate) applies_to: AppliesTo,
    pub(crate) rules: Vec<Rule>,
    pub(crate) clocks: Vec<Clock>,
}

impl Packs {
    pub(crate) fn of(app: &App) -> Self {
        let as_of = app.now();
        let packs = app.packs.iter().map(|(pack, evaluated)| PackJson {
            id: pack.id.clone(),
            version: pack.version.clone(),
            sha256: pack.sha256().to_owned(),
            title: pack.title.clone(),
            name: pack.name.clone(),
            citation: pack.citation.clone(),
            checked: pack.checked.to_string(),
            status: pack.status_on(today(as_of)).cloned(),
            history: pack.status.clone(),
            evaluated: *evaluated,
            evaluate_reason: pack.evaluate_reason.clone(),
            applies_to: pack.applies_to.clone(),
            rules: pack.rule.clone(),
            clocks: pack.clock.clone(),
        });
        Self { as_of, packs: packs.collect() }
    }
}

pub(super) async fn packs(State(app): State<App>) -> Json<Packs> {
    Json(Packs::of(&app))
}
