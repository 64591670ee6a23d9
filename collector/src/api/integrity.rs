//! Where two sources of one accelerator say what cannot both be true.

use std::collections::{BTreeMap, BTreeSet};

use axum::{Json, extract::State};
use serde::Serialize;
use weighbridge_meter::{AcceleratorId, AgentId, Doubt, UtcMillis};
use weighbridge_store::{hour::DoubtedHour, witness::WitnessedHour};

use super::problem::Problem;
use crate::{
    alarm::Alarm,
    app::App,
    integrity::{IntegrityFinding, Said, id_of},
    view::View,
};

/// A disagreement as it was raised, and how it stands now.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Disagreement {
    pub(crate) id: String,
    pub(crate) accelerator: AcceleratorId,
    pub(crate) hour: UtcMillis,
    /// `null`: not raised yet, because the hour is not over or not settled.
    pub(crate) raised_at: Option<UtcMillis>,
    /// What both said then.
    pub(crate) raised: Option<Said>,
    /// What both say now; `null`: they no longer disagree.
    pub(crate) now: Option<Said>,
}

impl Disagreement {
    /// As it stands, else as it was raised.
    pub(crate) fn said(&self) -> Option<&Said> {
        self.now.as_ref().or(self.raised.as_ref())
    }
}

/// All of them, newest hour first.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Integrity {
    pub(crate) as_of: UtcMillis,
    /// Accelerator hours in disagreement as things stand, of the last 24 h and of all time.
    pub(crate) hours_last_day: usize,
    pub(crate) hours_total: usize,
    pub(crate) disagreements: Vec<Disagreement>,
    /// Hours in which something was said that cannot be, newest first: it is certain of nothing.
    pub(crate) implausible: Vec<ImplausibleHour>,
    /// Two histories under one identity, and what cannot be, newest first.
    pub(crate) alarms: Vec<AlarmJson>,
}

/// Windows of one agent in one hour that cannot be as they say.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ImplausibleHour {
    pub(crate) accelerator: AcceleratorId,
    pub(crate) hour: UtcMillis,
    pub(crate) agent: AgentId,
    pub(crate) doubt: Doubt,
    pub(crate) means: &'static str,
    pub(crate) counted_ms: u64,
}

/// An alarm with what it means.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct AlarmJson {
    #[serde(flatten)]
    pub(crate) alarm: Alarm,
    pub(crate) means: &'static str,
}

impl From<&DoubtedHour> for ImplausibleHour {
    fn from(DoubtedHour { accelerator, hour, agent, doubt, millis }: &DoubtedHour) -> Self {
        Self {
            accelerator: accelerator.clone(),
            hour: *hour,
            agent: agent.clone(),
            doubt: *doubt,
            means: doubt.means(),
            counted_ms: *millis,
        }
    }
}

impl Integrity {
    pub(crate) fn of(app: &App, view: &View) -> Self {
        let now: BTreeMap<String, &WitnessedHour> =
            view.disagreements.iter().map(|said| (id_of(said), said)).collect();
        let recorded = app.casebook().integrity.clone();
        let ids: BTreeSet<&String> = now.keys().chain(recorded.keys()).collect();
        let one = |id: &String| {
            let (now, recorded) = (now.get(id), recorded.get(id));
            let of_now = |said: &&WitnessedHour| (said.accelerator.clone(), said.hour);
            let of_record = |finding: &IntegrityFinding| (finding.accelerator.clone(), finding.hour);
            let (accelerator, hour) = now.map(of_now).or_else(|| recorded.map(of_record))?;
            Some(Disagreement {
                id: id.clone(),
                accelerator,
                hour,
                raised_at: recorded.map(|finding| finding.raised_at),
                raised: recorded.map(|finding| finding.said.clone()),
                now: now.map(|said| Said::from(*said)),
            })
        };
        let mut disagreements: Vec<Disagreement> = ids.into_iter().filter_map(one).collect();
        disagreements.sort_by(|a, b| (b.hour, &a.id).cmp(&(a.hour, &b.id)));
        let raised = app.casebook().alarms.clone().into_values();
        let mut alarms: Vec<AlarmJson> =
            raised.map(|alarm| AlarmJson { means: alarm.kind.means(), alarm }).collect();
        alarms.sort_by(|a, b| (b.alarm.raised_at, &a.alarm.id).cmp(&(a.alarm.raised_at, &b.alarm.id)));
        let hours = |since: UtcMillis| {
            let recent = view.disagreements.iter().filter(|said| said.hour.plus(UtcMillis::HOUR) > since);
            recent.map(|said| (&said.accelerator, said.hour)).collect::<BTreeSet<_>>().len()
        };
        Self {
            as_of: view.as_of,
            hours_last_day: hours(view.as_of.plus(-UtcMillis::DAY)),
            hours_total: hours(UtcMillis(i64::MIN)),
            disagreements,
            implausible: view.doubted.iter().rev().map(ImplausibleHour::from).collect(),
            alarms,
        }
    }

    /// Those of the last 24 h that still stand.
    pub(crate) fn of_last_day(&self) -> impl Iterator<Item = &Disagreement> {
        let since = self.as_of.plus(-UtcMillis::DAY);
        let all = self.disagreements.iter();
        all.filter(move |one| one.now.is_some() && one.hour.plus(UtcMillis::HOUR) > since)
    }
}

pub(super) async fn integrity(State(app): State<App>) -> Result<Json<Integrity>, Problem> {
    Ok(Json(Integrity::of(&app, &*app.view().await?)))
}
