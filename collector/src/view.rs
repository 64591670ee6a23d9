//! Where everybody gets the same numbers from: pages, API, metrics and rules.
//!
//! A [`View`] is the account as of a moment, with each principal's share given to whose it was, hour by hour.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
};

use tokio::sync::OnceCell;
use weighbridge_casework::{CappedBy, Projection, Standing, Subject, Terms, finding};
use weighbridge_meter::{AcceleratorId, Interval, Operations, Principal, Span, UtcMillis};
use weighbridge_registry::{
    Groups, SealedCustomer, UsPerson,
    interest::Behind,
    statement::{Kind, Statement},
};
use weighbridge_store::{
    Filter, HourlySum, StoreError, UsageStore, UsageSum,
    account::{Account, AttemptAccount, TimeAccount, Totals, account, account_within},
    hour::{DoubtedHour, HeldState, Holder, Sums},
    state::CursorRow,
    witness::WitnessedHour,
};

use crate::{app::App, parties::Kept};

/// A view is made anew when the ledger moved on, at most this often, and at least this often: gaps grow with time.
const FRESH_MS: i64 = 1_000;

/// Hours older than this change seldom: they are added up once.
const SETTLED_MS: i64 = 2 * UtcMillis::DAY;

/// How often what came late to such hours is added up again.
const ROLLED_MS: i64 = 10 * UtcMillis::MINUTE;

/// The account, and whose it is.
#[derive(Clone, Debug)]
pub struct View {
    /// As of when.
    pub as_of: UtcMillis,
    /// By attempt and accelerator.
    pub account: Account,
    /// The time of all accelerators together.
    pub time: TimeAccount,
    /// By customer.
    pub customers: BTreeMap<String, Owned>,
    /// By control group; a group of one is its customer and not listed again.
    pub groups: BTreeMap<String, Owned>,
    /// Which customers these are, and why.
    pub grouped: Arc<(Groups, Behind)>,
    /// By principal that no customer is mapped to.
    pub unmapped: BTreeMap<Principal, Owned>,
    /// Hours in which two sources of an accelerator said what cannot both be true, in their order.
    pub disagreements: Vec<WitnessedHour>,
    /// Hours in which something was said that cannot be, in their order.
    pub doubted: Vec<DoubtedHour>,
    /// What of each epoch of each agent is here, in order of agents.
    pub epochs: Vec<CursorRow>,
    /// The run that each attempt is, in their order.
    run_ids: Vec<String>,
    /// Of all accelerators in the hours of the last day, once somebody asked.
    last_day: OnceCell<TimeAccount>,
}

/// What belongs to somebody.
#[derive(Clone, Debug, Default)]
pub struct Owned {
    /// Measured and gaps.
    pub totals: Totals,
    /// Their attempts, as indexes into [`Account::attempts`].
    pub attempts: BTreeSet<usize>,
    /// Those that are theirs now: what is to come of the others is somebody else's.
    pub current: BTreeSet<usize>,
    /// Their principals.
    pub principals: BTreeSet<Principal>,
    /// U.S. person or not.
    pub standing: Standing,
    /// What they reserved, ended or not. Runs and principals have none.
    pub reserved: Vec<Terms>,
}

impl App {
    /// The view as of now.
    pub async fn view(&self) -> Result<Arc<View>, StoreError> {
        let mut viewed = self.viewed.lock().await;
        let (stands, now) = (self.stands(), self.now());
        if let Some((at, view)) = &*viewed
            && *at == stands
            && (0..FRESH_MS).contains(&now.since(view.as_of))
        {
            return Ok(view.clone());
        }
        let view = Arc::new(self.view_as_of(now).await?);
        *viewed = Some((stands, view.clone()));
        Ok(view)
    }

    async fn view_as_of(&self, as_of: UtcMillis) -> Result<View, StoreError> {
        let still = self.shared.still().await;
        self.view_while(&still, as_of).await
    }

    /// The view as of a moment. Sums and state are of one moment: the fold writes neither while `_still` is held.
    pub(crate) async fn view_while(
        &self,
        _still: &tokio::sync::OwnedRwLockReadGuard<()>,
        as_of: UtcMillis,
    ) -> Result<View, StoreError> {
        self.roll_up(as_of).await;
        let all = Filter::default();
        let (sums, coverage) = (self.store.sums(&all).await?, self.store.coverage(&all).await?);
        let disagreements = self.store.disagreements(&all).await?;
        let doubted = self.store.doubted(&all).await?;
        let epochs = self.store.cursors().await?;
        let (account, Changes { since, changing }) = self.shared.with(|state| {
            (account(state, &self.estimator, &sums, &coverage, None, as_of), changes(state, as_of))
        });
        let (customers, groups) = (self.customers(), self.groups());
        let mut view = View {
            as_of,
            time: TimeAccount::default(),
            customers: customers
                .iter()
                .filter(|(_, party)| !party.standing.no_account)
                .map(|(id, customer)| (id.clone(), unowned(customer)))
                .collect(),
            groups: BTreeMap::new(),
            grouped: Arc::default(),
            unmapped: BTreeMap::new(),
            disagreements,
            doubted,
            epochs,
            run_ids: run_ids(&account),
            last_day: OnceCell::new(),
            account,
        };
        for (customer, terms) in self.reserved() {
            if let Some(owned) = view.customers.get_mut(&customer) {
                owned.reserved.push(terms);
            }
        }
        for accelerator in &view.account.accelerators {
            view.time.merge(&accelerator.time);
        }
        // Most principals belong to one customer all the time: their attempts go over whole.
        let whole: Vec<(usize, AttemptAccount)> = view
            .account
            .attempts
            .iter()
            .cloned()
            .enumerate()
            .filter(|(_, a)| !changing.contains_key(&a.principal))
            .collect();
        self.shared.with(|state| {
            for (index, attempt) in &whole {
                view.give(state.customer(&attempt.principal, since), attempt, *index, true);
            }
        });
        let index: BTreeMap<_, _> = view
            .account
            .attempts
            .iter()
            .enumerate()
            .map(|(index, attempt)| ((attempt.principal.clone(), attempt.attempt.clone()), index))
            .collect();
        for (principal, periods) in &changing {
            let filter = Filter { principal: Some(principal.clone()), ..Filter::default() };
            let hours = self.store.hourly(&filter).await?;
            for period in periods {
                let sums = added_up(hours.iter().filter(|sum| period.contains(sum.hour)));
                let now = period.contains(as_of);
                self.shared.with(|state| {
                    let part =
                        account_within(state, &self.estimator, principal, &sums, *period, &view.account);
                    for attempt in &part {
                        let key = (attempt.principal.clone(), attempt.attempt.clone());
                        let Some(index) = index.get(&key) else { continue };
                        view.give(state.customer(principal, period.start()), attempt, *index, now);
                    }
                });
            }
        }
        for (name, group) in groups.0.iter() {
            let members = group.customers.iter().filter_map(|id| view.customers.get(id.as_str()));
            let standing = Standing::of_group(members.clone().map(|owned| owned.standing));
            let mut of_group = Owned { standing, ..Owned::default() };
            for owned in members {
                of_group.totals.merge(&owned.totals);
                of_group.attempts.extend(&owned.attempts);
                of_group.current.extend(&owned.current);
                of_group.principals.extend(owned.principals.iter().cloned());
                of_group.reserved.extend(owned.reserved.iter().cloned());
            }
            view.groups.insert(name.to_owned(), of_group);
        }
        view.grouped = groups;
        Ok(view)
    }

    /// Adds older hours up where that is due. Totals are the same without it, and take longer.
    async fn roll_up(&self, as_of: UtcMillis) {
        let last = UtcMillis(self.rolled_at.load(Ordering::Relaxed));
        if (0..ROLLED_MS).contains(&as_of.0.saturating_sub(last.0)) {
            return;
        }
        match self.store.roll_up(as_of.plus(-SETTLED_MS - UtcMillis::DAY).next_multiple(UtcMillis::DAY)).await
        {
            Ok(()) => self.rolled_at.store(as_of.0, Ordering::Relaxed),
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "older hours are not added up: totals take longer"
            ),
        }
    }

    /// What every customer reserved.
    fn reserved(&self) -> impl Iterator<Item = (String, Terms)> {
        self.statements(Kind::Reservation).into_iter().filter_map(|kept| match kept {
            Kept::Clear(Statement::Reservation(one)) => {
                let (id, model) = (one.id.as_str().to_owned(), one.model.as_str().to_owned());
                let terms = Terms { id, model, count: one.count.0, from: one.from, to: one.to };
                Some((one.customer.to_string(), terms))
            }
            Kept::Clear(_) | Kept::Sealed { .. } => None,
        })
    }

    /// The time of all accelerators together in the last 24 h and the hour in which those begin.
    pub async fn last_day<'a>(&self, view: &'a View) -> Result<&'a TimeAccount, StoreError> {
        view.last_day.get_or_try_init(|| self.day_before(view.as_of)).await
    }

    async fn day_before(&self, as_of: UtcMillis) -> Result<TimeAccount, StoreError> {
        let _still = self.shared.still().await;
        let (from, to) = (as_of.plus(-UtcMillis::DAY).hour(), as_of.next_multiple(UtcMillis::HOUR));
        let sums = self.store.sums(&Filter { from: Some(from), to: Some(to), ..Filter::default() }).await?;
        let within = Span::new(from, to);
        let account = self.shared.with(|state| account(state, &self.estimator, &sums, &[], within, as_of));
        let mut time = TimeAccount::default();
        account.accelerators.iter().for_each(|accelerator| time.merge(&accelerator.time));
        Ok(time)
    }

    /// Measured sums of a subject hour by hour.
    pub async fn hourly(&self, view: &View, subject: &Subject) -> Result<Vec<HourlySum>, StoreError> {
        let Some(owned) = view.subject(subject) else { return Ok(Vec::new()) };
        let mut hours = Vec::new();
        for principal in &owned.principals {
            let filter = Filter { principal: Some(principal.clone()), ..Filter::default() };
            let sums = self.store.hourly(&filter).await?;
            hours.extend(sums.into_iter().filter(|sum| self.belongs(view, sum, subject)));
        }
        hours.sort_by_key(|sum| sum.hour);
        Ok(hours)
    }

    fn belongs(&self, view: &View, sum: &HourlySum, subject: &Subject) -> bool {
        let Some((principal, attempt)) = &sum.usage.holder else { return false };
        match subject {
            Subject::Run(run) => view.run_id(principal, attempt) == Some(run),
            Subject::Principal(_) => true,
            Subject::Customer(id) => {
                self.shared.with(|state| state.customer(principal, sum.hour) == Some(id.as_str()))
            }
            Subject::ControlGroup(name) => {
                let Some((_, group)) = view.grouped.0.get(name) else { return false };
                self.shared.with(|state| {
                    let customer = state.customer(principal, sum.hour);
                    customer.is_some_and(|id| group.customers.iter().any(|member| member.as_str() == id))
                })
            }
        }
    }
}

/// Nothing, of somebody.
pub(crate) fn unowned(customer: &SealedCustomer) -> Owned {
    Owned { standing: standing(customer.us_person), ..Owned::default() }
}

/// The registry's word in the rules' terms.
pub fn standing(us_person: UsPerson) -> Standing {
    match us_person {
        UsPerson::Us => Standing::Us,
        UsPerson::Foreign => Standing::Foreign,
        UsPerson::Undetermined => Standing::Undetermined,
    }
}

/// Sums of several hours as one.
fn added_up<'a>(hours: impl Iterator<Item = &'a HourlySum>) -> Vec<UsageSum> {
    let mut found: BTreeMap<(&AcceleratorId, Option<&Holder>, HeldState), Sums> = BTreeMap::new();
    for HourlySum { usage, .. } in hours {
        let key = (&usage.accelerator, usage.holder.as_ref(), usage.state);
        found.entry(key).or_default().merge(&usage.sums);
    }
    let sum = |((accelerator, holder, state), sums): ((&AcceleratorId, Option<&Holder>, HeldState), Sums)| {
        UsageSum { accelerator: accelerator.clone(), holder: holder.cloned(), state, sums }
    };
    found.into_iter().map(sum).collect()
}

/// Which principals change hands within the time of the account, each with the spans in which it does not.
struct Changes {
    since: UtcMillis,
    changing: BTreeMap<Principal, Vec<Span>>,
}

/// Mappings change at whole hours only, as sums do.
fn changes(state: &weighbridge_store::State, as_of: UtcMillis) -> Changes {
    let leases = state.leases.values().flat_map(BTreeMap::values).map(|lease| lease.start);
    let seen = state.accelerators.values().map(|accelerator| accelerator.first_seen);
    let since = seen.chain(leases).min().unwrap_or(as_of).hour();
    // The hour in progress counts as a whole: what is after now is clipped where it matters.
    let end = as_of.next_multiple(UtcMillis::HOUR);
    let mut cuts: BTreeMap<&Principal, BTreeSet<UtcMillis>> = BTreeMap::new();
    for mapping in &state.mappings {
        let bounds = [Some(mapping.valid_from), mapping.valid_to];
        for cut in bounds.into_iter().flatten().filter(|cut| since < *cut && *cut < end) {
            cuts.entry(&mapping.principal).or_insert_with(|| [since, end].into()).insert(cut);
        }
    }
    let changing = cuts.into_iter().map(|(principal, cuts)| {
        let cuts: Vec<UtcMillis> = cuts.into_iter().collect();
        (principal.clone(), cuts.windows(2).filter_map(|pair| Span::new(pair[0], pair[1])).collect())
    });
    Changes { since, changing: changing.collect() }
}

/// For now each attempt is a run of its own, named after it; where principals use one name, also after them.
fn run_ids(account: &Account) -> Vec<String> {
    let mut principals: BTreeMap<&str, BTreeSet<&Principal>> = BTreeMap::new();
    for attempt in &account.attempts {
        principals.entry(attempt.attempt.as_str()).or_default().insert(&attempt.principal);
    }
    let shared = |name: &str| principals.get(name).is_some_and(|principals| principals.len() > 1);
    let id = |attempt: &AttemptAccount| match shared(attempt.attempt.as_str()) {
        true => format!("{}@{}", attempt.attempt, attempt.principal),
        false => attempt.attempt.to_string(),
    };
    account.attempts.iter().map(id).collect()
}

impl View {
    fn give(&mut self, owner: Option<&str>, attempt: &AttemptAccount, index: usize, now: bool) {
        let owned = match owner {
            Some(customer) => self.customers.entry(customer.to_owned()).or_default(),
            None if attempt.totals.held_ms == 0 && attempt.totals.measured.measured_ms == 0 => return,
            None => self.unmapped.entry(attempt.principal.clone()).or_default(),
        };
        owned.totals.merge(&attempt.totals);
        owned.attempts.insert(index);
        if now {
            owned.current.insert(index);
        }
        owned.principals.insert(attempt.principal.clone());
    }

    /// Time of accelerators that were reported, held by principals that belong to no customer.
    pub fn unmapped_ms(&self) -> u64 {
        let totals = self.unmapped.values().map(|owned| &owned.totals);
        totals.map(|totals| totals.held_ms.saturating_sub(totals.never_seen_ms)).sum()
    }

    /// The run that an attempt of a principal is.
    fn run_id(&self, principal: &Principal, attempt: &weighbridge_meter::AttemptId) -> Option<&String> {
        let found =
            self.account.attempts.iter().position(|a| a.principal == *principal && a.attempt == *attempt);
        found.and_then(|index| self.run_ids.get(index))
    }

    /// What belongs to a subject.
    pub fn subject(&self, subject: &Subject) -> Option<Owned> {
        match subject {
            Subject::Customer(id) => self.customers.get(id).cloned(),
            // A name that went into another group means that one.
            Subject::ControlGroup(id) => self.groups.get(self.grouped.0.get(id)?.0).cloned(),
            Subject::Principal(id) => self.unmapped.get(&id.parse::<Principal>().ok()?).cloned(),
            Subject::Run(run) => self.runs().find(|(id, _)| id == run).map(|(_, owned)| owned),
        }
    }

    /// Training runs: for now each attempt is one. What links attempts has to be recorded before it may count.
    /// One that changed hands counts as foreign if anybody who had it does.
    pub fn runs(&self) -> impl Iterator<Item = (String, Owned)> {
        let mut owners: BTreeMap<usize, Vec<Standing>> = BTreeMap::new();
        for owned in self.customers.values().chain(self.unmapped.values()) {
            for index in &owned.attempts {
                owners.entry(*index).or_default().push(owned.standing);
            }
        }
        let attempts = self.account.attempts.iter().zip(&self.run_ids).enumerate();
        attempts.map(move |(index, (attempt, id))| {
            let owned = Owned {
                totals: attempt.totals.clone(),
                attempts: [index].into(),
                current: [index].into(),
                principals: [attempt.principal.clone()].into(),
                standing: owners
                    .get(&index)
                    .map_or_else(Standing::default, |all| Standing::of_group(all.iter().copied())),
                reserved: Vec::new(),
            };
            (id.clone(), owned)
        })
    }

    /// The customer that an attempt belongs to; where it changed hands, the first one.
    pub fn owner(&self, attempt: usize) -> Option<(&str, &Owned)> {
        let mut customers = self.customers.iter();
        customers.find(|(_, owned)| owned.attempts.contains(&attempt)).map(|(id, owned)| (id.as_str(), owned))
    }

    /// Attempts that are theirs now.
    pub fn current<'a>(&'a self, owned: &'a Owned) -> impl Iterator<Item = &'a AttemptAccount> {
        owned.current.iter().filter_map(|index| self.account.attempts.get(*index))
    }

    /// Attempts of something owned.
    pub fn attempts<'a>(&'a self, owned: &'a Owned) -> impl Iterator<Item = &'a AttemptAccount> {
        owned.attempts.iter().filter_map(|index| self.account.attempts.get(*index))
    }

    /// Totals in the rules' terms, with the projection as far as `cap_days` allow.
    pub fn totals(&self, owned: &Owned, cap_days: Option<u16>) -> finding::Totals {
        let projection = cap_days.and_then(|days| self.projection(owned, days));
        finding::Totals {
            as_of: self.as_of,
            bound: owned.totals.bound,
            calibrated: owned.totals.calibrated,
            projection,
        }
    }

    fn projection(&self, owned: &Owned, cap_days: u16) -> Option<Projection> {
        let cap = self.as_of.plus(i64::from(cap_days) * UtcMillis::DAY);
        let lease_end = self.current(owned).filter_map(|attempt| attempt.lease_end).max()?;
        let (until, capped_by) =
            if lease_end <= cap { (lease_end, CappedBy::HoldingEnd) } else { (cap, CappedBy::RuleDays) };
        let more = self.current(owned).filter_map(|attempt| {
            let then = attempt.projection(self.as_of, until)?;
            let now = attempt.totals.bound;
            Interval::new(
                then.low().saturating_sub(now.low()),
                then.best().saturating_sub(now.best()),
                then.high().saturating_sub(now.high()),
            )
            .ok()
        });
        let more: Vec<Interval<Operations>> = more.collect();
        if more.is_empty() {
            return None;
        }
        let bound = more.into_iter().fold(owned.totals.bound, Interval::saturating_add);
        Some(Projection { until, bound, capped_by })
    }
}
