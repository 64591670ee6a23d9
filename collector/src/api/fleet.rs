//! Accelerators and agents: what is there, how much of its time was seen, who is silent.

use std::collections::{BTreeMap, BTreeSet};

use axum::{Json, extract::State};
use serde::Serialize;
use weighbridge_meter::{AcceleratorId, AgentId, Condition, Source, Tier, Trust, UtcMillis};
use weighbridge_store::account::TimeAccount;
use weighbridge_wire::Status;

use super::{
    amount::Amount, delivery::Delivery, device::ConditionJson, integrity::Integrity, problem::Problem,
    unattributed::UnattributedJson,
};
use crate::{app::App, ingest::status::Said, view::View};

/// An agent that sent nothing for longer is silent: twice the slowest pace at which agents send.
pub(crate) const SILENT_AFTER_MS: i64 = 10 * UtcMillis::MINUTE;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Fleet {
    pub(crate) as_of: UtcMillis,
    pub(crate) totals: FleetTotals,
    /// Why time has no holder: every reason.
    pub(crate) unattributed: Vec<UnattributedJson>,
    /// Hosts of accelerators; blank is the one of those of which nobody said where they are.
    pub(crate) hosts: Vec<HostJson>,
    pub(crate) accelerators: Vec<AcceleratorJson>,
    pub(crate) agents: Vec<AgentJson>,
    pub(crate) integrity: Integrity,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct FleetTotals {
    pub(crate) accelerators: usize,
    pub(crate) time: TimeAccount,
    /// Held by principals that belong to no customer: attributed, and still nobody's. On accelerators that were reported.
    pub(crate) unmapped_ms: u64,
    /// By whoever held it, or nobody.
    pub(crate) measured: Amount,
    /// By the tier of the last word on them.
    pub(crate) by_tier: BTreeMap<Tier, usize>,
    /// Those that are there now, by what makes their readings worse than they could be.
    pub(crate) by_condition: BTreeMap<Condition, usize>,
}

/// The accelerators of one host together.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct HostJson {
    pub(crate) host: String,
    pub(crate) accelerators: usize,
    pub(crate) time: TimeAccount,
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
    /// Milliseconds between its readings, where they come less often than the agent looks; `null`: as it looks.
    pub(crate) sample_ms: Option<u32>,
    pub(crate) driver: String,
    /// What makes its readings worse than they could be, and what to do about it.
    pub(crate) conditions: Vec<ConditionJson>,
    /// `false`: out of sight, as when it is given to a virtual machine. Never to be taken for idle.
    pub(crate) observed: bool,
    /// The device that it is a part of.
    pub(crate) parent: Option<AcceleratorId>,
    /// Its own streaming multiprocessors or compute units, where that is not all its model has.
    pub(crate) units: Option<u32>,
    /// Its parts: MIG instances or partitions ever reported.
    pub(crate) parts: Vec<AcceleratorId>,
    pub(crate) first_seen: UtcMillis,
    pub(crate) last_end: UtcMillis,
    /// Since when it is away; `null`: it is there.
    pub(crate) removed_at: Option<UtcMillis>,
    /// When it was away, from and to; `null`: it still is.
    pub(crate) absences: Vec<(UtcMillis, Option<UtcMillis>)>,
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
    /// What of its batches is here.
    pub(crate) delivery: Delivery,
    /// What it said of itself ahead of batches that wait; `null`: nothing since this collector started.
    pub(crate) last_said: Option<SaidJson>,
}

/// A report of an agent on itself: shown, and worth nothing as evidence.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SaidJson {
    pub(crate) received: UtcMillis,
    /// By its own clock.
    pub(crate) at: UtcMillis,
    pub(crate) source_state: String,
    pub(crate) version: String,
    pub(crate) unacknowledged: u64,
    pub(crate) spool_bytes: u64,
}

impl From<Said> for SaidJson {
    fn from(Said { received, report }: Said) -> Self {
        let Status { at, version, source_state, spool_bytes, unacknowledged, .. } = report.status;
        Self { received, at, source_state, version, unacknowledged, spool_bytes }
    }
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
            let mut by_condition: BTreeMap<Condition, usize> = BTreeMap::new();
            let mut parts: BTreeMap<&AcceleratorId, Vec<AcceleratorId>> = BTreeMap::new();
            for (id, accelerator) in &state.accelerators {
                if let Some(parent) = accelerator.parent() {
                    parts.entry(parent).or_default().push(id.clone());
                }
            }
            let accounts: BTreeMap<_, _> =
                view.account.accelerators.iter().map(|account| (&account.accelerator, account)).collect();
            let mut accelerators = Vec::with_capacity(accounts.len());
            let mut times: BTreeMap<&str, TimeAccount> = BTreeMap::new();
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for (id, accelerator) in &state.accelerators {
                // One that came after the view was made shows up with the next.
                let Some(account) = accounts.get(id) else { continue };
                let report = accelerator.report();
                let latest = report.map(|report| &report.latest);
                if let Some(latest) = latest {
                    *by_tier.entry(latest.tier).or_default() += 1;
                }
                let conditions = latest.map_or(&[][..], |latest| &latest.conditions);
                let removed_at = accelerator.removed_at();
                if removed_at.is_none() {
                    conditions.iter().for_each(|one| *by_condition.entry(*one).or_default() += 1);
                }
                let amount = Amount::from(&account.measured);
                measured = measured.plus(&amount);
                times.entry(accelerator.host()).or_default().merge(&account.time);
                *counts.entry(accelerator.host()).or_default() += 1;
                accelerators.push(AcceleratorJson {
                    id: id.clone(),
                    host: accelerator.host().to_owned(),
                    agents: accelerator.reports.keys().cloned().collect(),
                    model: accelerator.model(app.estimator.table()).map(|model| model.name.to_string()),
                    name: report.map(|report| report.name.clone()).unwrap_or_default(),
                    tier: latest.map(|latest| latest.tier),
                    trust: report.map(|report| report.trust),
                    source: latest.map(|latest| latest.source),
                    sample_ms: latest.map(|latest| latest.sample_ms).filter(|millis| *millis > 0),
                    driver: latest.map(|latest| latest.driver.clone()).unwrap_or_default(),
                    conditions: conditions.iter().map(|one| ConditionJson::from(*one)).collect(),
                    observed: !conditions.contains(&Condition::PassedThrough),
                    parent: accelerator.parent().cloned(),
                    units: report.and_then(|report| report.units(view.as_of)),
                    parts: parts.get(id).cloned().unwrap_or_default(),
                    first_seen: accelerator.first_seen,
                    last_end: accelerator.last_end,
                    removed_at,
                    absences: accelerator.presence.absences(),
                    time: account.time.clone(),
                    measured: amount,
                });
            }
            let mut said = app.said.all();
            let mut delivered = Delivery::of_all(&view.epochs);
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
                    delivery: delivered.remove(id).unwrap_or_default(),
                    last_said: said.remove(id).map(SaidJson::from),
                }
            });
            let agents = agents.collect();
            let totals = FleetTotals {
                accelerators: accelerators.len(),
                time: view.time.clone(),
                unmapped_ms: view.unmapped_ms(),
                measured,
                by_tier,
                by_condition,
            };
            let integrity = Integrity::of(app, view);
            let unattributed = UnattributedJson::of(&times);
            let hosts = times.into_iter().zip(counts.into_values());
            let hosts = hosts.map(|((host, time), accelerators)| HostJson {
                host: host.to_owned(),
                accelerators,
                time,
            });
            let hosts = hosts.collect();
            Self { as_of: view.as_of, totals, unattributed, hosts, accelerators, agents, integrity }
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
