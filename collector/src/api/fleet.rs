//! Accelerators and agents: what is there, how much of its time was seen, who is silent.

use std::collections::{BTreeMap, BTreeSet};

use axum::{Json, extract::State};
use serde::Serialize;
use weighbridge_meter::{AcceleratorId, AgentId, Source, Tier, Trust, UtcMillis};
use weighbridge_store::account::TimeAccount;

use super::{amount::Amount, problem::Problem};
use crate::{app::App, view::View};

/// An agent that sent nothing for longer is silent: twice the slowest pace at which agents send.
pub(crate) const SILENT_AFTER_MS: i64 = 10 * UtcMillis::MINUTE;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Fleet {
    pub(crate) as_of: UtcMillis,
    pub(crate) totals: FleetTotals,
    pub(crate) accelerators: Vec<AcceleratorJson>,
    pub(crate) agents: Vec<AgentJson>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct FleetTotals {
    pub(crate) accelerators: usize,
    pub(crate) time: TimeAccount,
    /// By whoever held it, or nobody.
    pub(crate) measured: Amount,
    pub(crate) by_tier: BTreeMap<Tier, usize>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct AcceleratorJson {
    pub(crate) id: AcceleratorId,
    pub(crate) host: String,
    pub(crate) agents: Vec<AgentId>,
    /// `null`: not in the table, and taken for the fastest that is.
    pub(crate) model: Option<String>,
    /// As the driver prints it.
    pub(crate) name: String,
    pub(crate) tier: Option<Tier>,
    pub(crate) trust: Option<Trust>,
    pub(crate) source: Option<Source>,
    pub(crate) first_seen: UtcMillis,
    pub(crate) last_end: UtcMillis,
    pub(crate) removed_at: Option<UtcMillis>,
    pub(crate) time: TimeAccount,
    pub(crate) measured: Amount,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct AgentJson {
    pub(crate) id: AgentId,
    pub(crate) host: String,
    pub(crate) site: String,
    pub(crate) fabric: String,
    /// Whether a key of it is valid now.
    pub(crate) enrolled: bool,
    /// `null`: never.
    pub(crate) last_received: Option<UtcMillis>,
    /// `null`: never received anything.
    pub(crate) silent_for_ms: Option<i64>,
    pub(crate) source_state: Option<String>,
    pub(crate) version: Option<String>,
    /// Batches that it held back when it last wrote.
    pub(crate) unacknowledged: Option<u64>,
}

impl AgentJson {
    /// Whether someone should look: it may send, and does not.
    pub(crate) fn is_silent(&self) -> bool {
        self.enrolled && self.silent_for_ms.is_none_or(|millis| millis > SILENT_AFTER_MS)
    }

    /// Whether its source says that something is wrong.
    pub(crate) fn is_troubled(&self) -> bool {
        self.source_state.as_deref().is_some_and(|state| !state.is_empty() && state != "ok")
    }
}

impl Fleet {
    pub(crate) fn of(app: &App, view: &View) -> Self {
        app.shared.with(|state| {
            let mut measured = Amount::default();
            let mut by_tier = BTreeMap::new();
            let accounts: BTreeMap<_, _> =
                view.account.accelerators.iter().map(|account| (&account.accelerator, account)).collect();
            let mut accelerators = Vec::with_capacity(accounts.len());
            for (id, accelerator) in &state.accelerators {
                // One that came after the view was made shows up with the next.
                let Some(account) = accounts.get(id) else { continue };
                let report = accelerator.report();
                if let Some(report) = report {
                    *by_tier.entry(report.tier).or_default() += 1;
                }
                let amount = Amount::from(&account.measured);
                measured = measured.plus(&amount);
                accelerators.push(AcceleratorJson {
                    id: id.clone(),
                    host: accelerator.host().to_owned(),
                    agents: accelerator.reports.keys().cloned().collect(),
                    model: accelerator.model(app.estimator.table()).map(|model| model.name.to_string()),
                    name: report.map(|report| report.name.clone()).unwrap_or_default(),
                    tier: report.map(|report| report.tier),
                    trust: report.map(|report| report.trust),
                    source: report.map(|report| report.source),
                    first_seen: accelerator.first_seen,
                    last_end: accelerator.last_end,
                    removed_at: accelerator.removed_at,
                    time: account.time.clone(),
                    measured: amount,
                });
            }
            let ids: BTreeSet<&AgentId> = state.agents.keys().chain(state.seen.keys()).collect();
            let agents = ids.into_iter().map(|id| {
                let facts = state.agents.get(id).map_or(&[][..], Vec::as_slice);
                let valid = facts.iter().rev().find(|fact| {
                    fact.valid_from <= view.as_of && fact.valid_to.is_none_or(|end| view.as_of < end)
                });
                let fact = valid.or(facts.last());
                let seen = state.seen.get(id);
                let text = |part: fn(&weighbridge_store::entry::AgentFact) -> &String| {
                    fact.map(part).cloned().unwrap_or_default()
                };
                AgentJson {
                    id: id.clone(),
                    host: text(|fact| &fact.host),
                    site: text(|fact| &fact.site),
                    fabric: text(|fact| &fact.fabric),
                    enrolled: valid.is_some(),
                    last_received: seen.map(|seen| seen.received),
                    // What came in since the view was made is not silent for less than nothing.
                    silent_for_ms: seen.map(|seen| view.as_of.since(seen.received).max(0)),
                    source_state: seen.map(|seen| seen.source_state.clone()),
                    version: seen.map(|seen| seen.version.clone()),
                    unacknowledged: seen.map(|seen| seen.unacknowledged),
                }
            });
            let agents = agents.collect();
            let totals =
                FleetTotals { accelerators: accelerators.len(), time: view.time.clone(), measured, by_tier };
            Self { as_of: view.as_of, totals, accelerators, agents }
        })
    }

    /// Hosts on which no enrolled agent has sent anything lately.
    pub(crate) fn silent_hosts(&self) -> BTreeMap<&str, Vec<&AgentJson>> {
        let mut hosts: BTreeMap<&str, Vec<&AgentJson>> = BTreeMap::new();
        for agent in self.agents.iter().filter(|agent| agent.enrolled) {
            hosts.entry(&agent.host).or_default().push(agent);
        }
        hosts.retain(|_, agents| agents.iter().all(|agent| agent.is_silent()));
        hosts
    }
}

pub(super) async fn fleet(State(app): State<App>) -> Result<Json<Fleet>, Problem> {
    Ok(Json(Fleet::of(&app, &*app.view().await?)))
}
