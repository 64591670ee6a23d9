//! Customers, control groups, unmapped principals and runs: totals, and how each stands to every rule in use.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Serialize;
use weighbridge_casework::{Passing, Projection, Standing, Subject, Verdict, nearing, pack::Status};
use weighbridge_meter::{AttemptId, Operations, Principal, UtcMillis};
use weighbridge_registry::{ControlGroupId, CustomerKind, SealedCustomer};
use weighbridge_store::account::AttemptAccount;

use super::{
    amount::{Amount, Total},
    packs::today,
    parties::{Behind, GroupJson, PartyJson},
    problem::Problem,
    work::{Looks, ModelOperations},
};
use crate::{
    app::App,
    judge,
    view::{Owned, View, unowned},
};

/// Several of a kind.
#[derive(Debug, Serialize)]
pub(crate) struct Subjects {
    pub(crate) as_of: UtcMillis,
    pub(crate) subjects: Vec<Summary>,
}

/// One of them in a line.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    #[serde(serialize_with = "as_text")]
    pub(crate) subject: Subject,
    pub(crate) id: String,
    /// `null` for what is not one customer.
    pub(crate) kind: Option<CustomerKind>,
    pub(crate) standing: Standing,
    pub(crate) control_group: Option<String>,
    pub(crate) total: Total,
    pub(crate) principals: BTreeSet<Principal>,
    pub(crate) runs: usize,
}

fn as_text<S: serde::Serializer>(subject: &Subject, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(subject)
}

/// Everything about one.
#[derive(Debug, Serialize)]
pub(crate) struct Detail {
    pub(crate) as_of: UtcMillis,
    #[serde(flatten)]
    pub(crate) summary: Summary,
    /// What of its total, which is what was executed, the models themselves needed.
    pub(crate) model_operations: ModelOperations,
    /// The customers of a control group.
    pub(crate) members: Vec<String>,
    /// Which fields of its identity are known; never what they say.
    pub(crate) identity: BTreeMap<&'static str, &'static str>,
    /// Of a customer, what is kept in clear.
    pub(crate) party: Option<PartyJson>,
    /// Of a customer, who stands behind it.
    pub(crate) behind: Option<Behind>,
    /// Of a reseller, its customers.
    pub(crate) sells_to: Vec<String>,
    /// Of a control group, who is in it, and why.
    pub(crate) group: Option<GroupJson>,
    pub(crate) attempts: Vec<AttemptJson>,
    pub(crate) rules: Vec<RuleCheck>,
}

/// One attempt.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct AttemptJson {
    pub(crate) attempt: AttemptId,
    pub(crate) principal: Principal,
    /// `null`: no customer is mapped to the principal.
    pub(crate) customer: Option<String>,
    pub(crate) standing: Standing,
    pub(crate) started: UtcMillis,
    pub(crate) lease_end: Option<UtcMillis>,
    /// Accelerators it holds now, reported or not.
    pub(crate) devices: u64,
    /// Of these never reported by any agent.
    pub(crate) never_seen: u64,
    /// All it ever held, by model.
    pub(crate) models: BTreeMap<String, u64>,
    /// Operations executed.
    pub(crate) total: Total,
    /// Evidence of what kind of work it was.
    #[serde(flatten)]
    pub(crate) looks: Looks,
}

/// How totals stand to one rule.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RuleCheck {
    pub(crate) pack: String,
    pub(crate) pack_version: String,
    pub(crate) name: String,
    pub(crate) rule: String,
    pub(crate) title: String,
    /// What the instrument is today.
    pub(crate) status: Option<Status>,
    /// As the pack writes it, such as `more than 1e26`.
    pub(crate) line: Option<String>,
    /// The line to the nearest teraoperation, for charts.
    pub(crate) line_nearest_tera: Option<Operations>,
    /// `certain`, `likely`, `projected`, `possible`, `not_known` or `not_met`.
    pub(crate) verdict: &'static str,
    /// What is not known, in words.
    pub(crate) unknown: Vec<String>,
    pub(crate) projection: Option<Projection>,
    /// How much of the line the best total is, in whole per cent.
    pub(crate) percent: Option<u64>,
    /// When the line would be passed if it goes on as projected.
    pub(crate) passing: Option<Passing>,
}

/// A run: for now one attempt, or several where principals use the same name.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) as_of: UtcMillis,
    pub(crate) run: String,
    pub(crate) attempts: Vec<RunAttempt>,
}

#[derive(Debug, Serialize)]
pub(crate) struct RunAttempt {
    #[serde(flatten)]
    pub(crate) attempt: AttemptJson,
    /// What of its total, which is what was executed, the model itself needed.
    pub(crate) model_operations: ModelOperations,
    pub(crate) rules: Vec<RuleCheck>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Runs {
    pub(crate) as_of: UtcMillis,
    pub(crate) runs: Vec<AttemptJson>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Hours {
    pub(crate) as_of: UtcMillis,
    pub(crate) subject: String,
    pub(crate) hours: Vec<HourJson>,
}

/// What was measured in an hour.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct HourJson {
    pub(crate) hour: UtcMillis,
    #[serde(flatten)]
    pub(crate) amount: Amount,
    pub(crate) measured_ms: u64,
    pub(crate) interpolated_ms: u64,
}

impl Summary {
    fn of(view: &View, subject: Subject, owned: &Owned, customer: Option<&SealedCustomer>) -> Self {
        let grouped = customer.and_then(|customer| view.grouped.0.group_of(&customer.customer));
        Self {
            id: subject.id().to_owned(),
            subject,
            kind: customer.map(|customer| customer.kind),
            standing: owned.standing,
            control_group: grouped
                .or_else(|| customer?.control_group.as_ref().map(ControlGroupId::as_str))
                .map(str::to_owned),
            total: Total::from(&owned.totals),
            principals: owned.principals.clone(),
            runs: owned.attempts.len(),
        }
    }
}

/// All customers, those with most first.
pub(crate) fn customers(app: &App, view: &View) -> Vec<Summary> {
    let known = app.customers();
    let all = view.customers.iter();
    most_first(
        all.map(|(id, owned)| Summary::of(view, Subject::Customer(id.clone()), owned, known.get(id)))
            .collect(),
    )
}

/// All control groups.
pub(crate) fn groups(view: &View) -> Vec<Summary> {
    let all = view.groups.iter();
    most_first(
        all.map(|(id, owned)| Summary::of(view, Subject::ControlGroup(id.clone()), owned, None)).collect(),
    )
}

/// All principals that no customer is mapped to.
pub(crate) fn unmapped(view: &View) -> Vec<Summary> {
    let all = view.unmapped.iter();
    most_first(
        all.map(|(id, owned)| Summary::of(view, Subject::Principal(id.to_string()), owned, None)).collect(),
    )
}

fn most_first(mut all: Vec<Summary>) -> Vec<Summary> {
    all.sort_by(|a, b| {
        let best = |summary: &Summary| summary.total.with_gaps.best_tera;
        best(b).cmp(&best(a)).then_with(|| a.id.cmp(&b.id))
    });
    all
}

impl AttemptJson {
    fn of(attempt: &AttemptAccount, owner: Option<(&str, &Owned)>) -> Self {
        Self {
            attempt: attempt.attempt.clone(),
            principal: attempt.principal.clone(),
            customer: owner.map(|(id, _)| id.to_owned()),
            standing: owner.map(|(_, owned)| owned.standing).unwrap_or_default(),
            started: attempt.started,
            lease_end: attempt.lease_end,
            devices: attempt.devices,
            never_seen: attempt.never_seen,
            models: attempt.models.clone(),
            total: Total::from(&attempt.totals),
            looks: Looks::from(&attempt.totals.measured.signs),
        }
    }
}

/// Attempts by their indexes, those with most first.
pub(crate) fn attempts(view: &View, indexes: impl IntoIterator<Item = usize>) -> Vec<AttemptJson> {
    let mut owners: BTreeMap<usize, (&str, &Owned)> = BTreeMap::new();
    for (id, owned) in &view.customers {
        for index in &owned.attempts {
            // Where it changed hands, the first one, as `View::owner` has it.
            owners.entry(*index).or_insert((id, owned));
        }
    }
    let of =
        |index: usize| Some(AttemptJson::of(view.account.attempts.get(index)?, owners.get(&index).copied()));
    let mut attempts: Vec<AttemptJson> = indexes.into_iter().filter_map(of).collect();
    attempts.sort_by_key(|attempt| std::cmp::Reverse(attempt.total.with_gaps.best_tera));
    attempts
}

/// All runs.
pub(crate) fn runs(view: &View) -> Vec<AttemptJson> {
    attempts(view, 0..view.account.attempts.len())
}

/// How totals stand to every rule in use that looks at such a subject.
pub(crate) fn rules(app: &App, view: &View, subject: &Subject, owned: &Owned) -> Vec<RuleCheck> {
    let mut checks = Vec::new();
    for (pack, _) in app.packs.iter().filter(|(_, enabled)| *enabled) {
        for rule in &pack.rule {
            let Some((verdict, totals)) = judge::verdict(app, view, pack, rule, subject, owned) else {
                continue;
            };
            let unknown = match &verdict {
                Verdict::NotKnown { unknown, .. } => unknown.iter().map(ToString::to_string).collect(),
                Verdict::Met(_) | Verdict::NotMet => Vec::new(),
            };
            checks.push(RuleCheck {
                pack: pack.id.clone(),
                pack_version: pack.version.clone(),
                name: pack.name.clone(),
                rule: rule.id.clone(),
                title: rule.title.clone(),
                status: pack.status_on(today(view.as_of)).map(|entry| entry.value),
                line: rule.line().map(|(line, comparator)| format!("{comparator} {line}")),
                line_nearest_tera: rule.line().map(|(line, _)| line.nearest()),
                verdict: verdict.as_str(),
                unknown,
                projection: totals.projection,
                percent: rule.line().map(|(line, _)| nearing::percent_of(totals.bound.best(), line)),
                passing: rule.line().map(|(line, comparator)| Passing::of(&totals, line, comparator)),
            });
        }
    }
    checks
}

impl Detail {
    /// `None`: there is no such subject.
    pub(crate) fn of(app: &App, view: &View, subject: Subject) -> Option<Self> {
        let customers = app.customers();
        let customer = match &subject {
            Subject::Customer(id) => customers.get(id),
            _ => None,
        };
        // Who only stands behind customers used nothing.
        let owned = view.subject(&subject).or_else(|| customer.map(unowned))?;
        let members = match &subject {
            Subject::ControlGroup(name) => {
                let group = view.grouped.0.get(name);
                let customers = group.iter().flat_map(|(_, group)| &group.customers);
                customers.map(ToString::to_string).collect()
            }
            _ => Vec::new(),
        };
        let party = customer.map(|customer| PartyJson::of(app, customer));
        let behind = customer.map(|customer| Behind::of(app, &customer.customer));
        let sells_to = customer.into_iter().flat_map(|reseller| {
            let of_it =
                |other: &&SealedCustomer| other.standing.reseller.as_ref() == Some(&reseller.customer);
            customers.values().filter(of_it).map(|other| other.customer.to_string()).collect::<Vec<_>>()
        });
        let sells_to = sells_to.collect();
        let group = match &subject {
            Subject::ControlGroup(name) => view
                .grouped
                .0
                .get(name)
                .map(|(name, group)| GroupJson { name: name.to_owned(), group: group.clone() }),
            _ => None,
        };
        Some(Self {
            as_of: view.as_of,
            members,
            identity: party.as_ref().map(|party| party.identity.clone()).unwrap_or_default(),
            sells_to,
            party,
            behind,
            group,
            attempts: attempts(view, owned.attempts.iter().copied()),
            rules: rules(app, view, &subject, &owned),
            model_operations: ModelOperations::of(&app.estimator, &owned.totals),
            summary: Summary::of(view, subject, &owned, customer),
        })
    }
}

impl Run {
    /// `None`: there is no such run.
    pub(crate) fn of(app: &App, view: &View, run: &str) -> Option<Self> {
        let subject = Subject::Run(run.to_owned());
        let found = view.runs().enumerate().filter(|(_, (id, _))| id == run);
        let attempts: Vec<RunAttempt> = found
            .filter_map(|(index, (_, owned))| {
                let attempt = AttemptJson::of(view.account.attempts.get(index)?, view.owner(index));
                Some(RunAttempt {
                    attempt,
                    model_operations: ModelOperations::of(&app.estimator, &owned.totals),
                    rules: rules(app, view, &subject, &owned),
                })
            })
            .collect();
        (!attempts.is_empty()).then(|| Self { as_of: view.as_of, run: run.to_owned(), attempts })
    }
}

/// What was measured of a subject, one row an hour.
pub(crate) async fn hours(app: &App, view: &View, subject: &Subject) -> Result<Vec<HourJson>, Problem> {
    let mut hours: Vec<HourJson> = Vec::new();
    for sum in app.hourly(view, subject).await? {
        let sums = &sum.usage.sums;
        let amount = Amount::from(sums);
        match hours.last_mut().filter(|last| last.hour == sum.hour) {
            Some(last) => {
                last.amount = last.amount.plus(&amount);
                last.measured_ms += sums.measured_ms;
                last.interpolated_ms += sums.interpolated_ms;
            }
            None => hours.push(HourJson {
                hour: sum.hour,
                amount,
                measured_ms: sums.measured_ms,
                interpolated_ms: sums.interpolated_ms,
            }),
        }
    }
    Ok(hours)
}

pub(super) async fn all_customers(State(app): State<App>) -> Result<Json<Subjects>, Problem> {
    let view = app.view().await?;
    Ok(Json(Subjects { as_of: view.as_of, subjects: customers(&app, &view) }))
}

pub(super) async fn all_groups(State(app): State<App>) -> Result<Json<Subjects>, Problem> {
    let view = app.view().await?;
    Ok(Json(Subjects { as_of: view.as_of, subjects: groups(&view) }))
}

pub(super) async fn all_unmapped(State(app): State<App>) -> Result<Json<Subjects>, Problem> {
    let view = app.view().await?;
    Ok(Json(Subjects { as_of: view.as_of, subjects: unmapped(&view) }))
}

async fn detail(app: &App, subject: Subject) -> Result<Json<Detail>, Problem> {
    let (kind, id) = (subject.scope().as_str(), subject.id().to_owned());
    let view = app.view().await?;
    Detail::of(app, &view, subject).map(Json).ok_or_else(|| Problem::not_found(kind, &id))
}

pub(super) async fn customer(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Detail>, Problem> {
    detail(&app, Subject::Customer(id)).await
}

pub(super) async fn group(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Detail>, Problem> {
    detail(&app, Subject::ControlGroup(id)).await
}

pub(super) async fn principal(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Detail>, Problem> {
    detail(&app, Subject::Principal(id)).await
}

pub(super) async fn customer_hours(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Hours>, Problem> {
    let view = app.view().await?;
    if !view.customers.contains_key(&id) {
        return Err(Problem::not_found("customer", &id));
    }
    let subject = Subject::Customer(id);
    let hours = hours(&app, &view, &subject).await?;
    Ok(Json(Hours { as_of: view.as_of, subject: subject.to_string(), hours }))
}

pub(super) async fn all_runs(State(app): State<App>) -> Result<Json<Runs>, Problem> {
    let view = app.view().await?;
    Ok(Json(Runs { as_of: view.as_of, runs: runs(&view) }))
}

pub(super) async fn run(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Run>, Problem> {
    let view = app.view().await?;
    Run::of(&app, &view, &id).map(Json).ok_or_else(|| Problem::not_found("run", &id))
}
