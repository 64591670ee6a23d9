//! Where everybody gets the same numbers from: pages, API, metrics and rules.
//!
//! A [`View`] is the account as of a moment, with each principal's share given to whose it was, hour by hour.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weighbridge_casework::{CappedBy, Projection, Standing, Subject, finding};
use weighbridge_meter::{Interval, Operations, Principal, Span, UtcMillis};
use weighbridge_registry::{SealedCustomer, UsPerson};
use weighbridge_store::{
    Filter, HourlySum, StoreError, UsageStore,
    account::{Account, AttemptAccount, TimeAccount, Totals, account},
};

use crate::app::App;

/// A view is made anew when the ledger moved on, at most this often, and at least this often: gaps grow with time.
const FRESH_MS: i64 = 1_000;

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
    /// By principal that no customer is mapped to.
    pub unmapped: BTreeMap<Principal, Owned>,
}

/// What belongs to somebody.
#[derive(Clone, Debug, Default)]
pub struct Owned {
    /// Measured and gaps.
    pub totals: Totals,
    /// Their attempts, as indexes into [`Account::attempts`].
    pub attempts: BTreeSet<usize>,
    /// Their principals.
    pub principals: BTreeSet<Principal>,
    /// U.S. person or not.
    pub standing: Standing,
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
        let all = Filter::default();
        let (sums, coverage) = (self.store.sums(&all).await?, self.store.coverage(&all).await?);
        let (account, periods) = self.shared.with(|state| {
            let periods = periods(state, as_of);
            (account(state, &self.estimator, &sums, &coverage, None, as_of), periods)
        });
        let customers = self.customers();
        let mut view = View {
            as_of,
            time: TimeAccount::default(),
            customers: customers.iter().map(|(id, customer)| (id.clone(), unowned(customer))).collect(),
            groups: BTreeMap::new(),
            unmapped: BTreeMap::new(),
            account,
        };
        for accelerator in &view.account.accelerators {
            view.time.merge(&accelerator.time);
        }
        let index: BTreeMap<_, _> = view
            .account
            .attempts
            .iter()
            .enumerate()
            .map(|(index, attempt)| ((attempt.principal.clone(), attempt.attempt.clone()), index))
            .collect();
        for period in &periods {
            let part = match periods.len() {
                1 => view.account.attempts.clone(),
                _ => {
                    let filter =
                        Filter { from: Some(period.start()), to: Some(period.end()), ..Filter::default() };
                    let sums = self.store.sums(&filter).await?;
                    self.shared.with(|state| {
                        self::account(state, &self.estimator, &sums, &[], Some(*period), as_of).attempts
                    })
                }
            };
            self.shared.with(|state| {
                for attempt in &part {
                    let index = index.get(&(attempt.principal.clone(), attempt.attempt.clone())).copied();
                    let owner = state.customer(&attempt.principal, period.start());
                    view.give(owner, attempt, index);
                }
            });
        }
        for (id, customer) in &customers {
            let Some(group) = &customer.control_group else { continue };
            if customers.values().filter(|other| other.control_group.as_ref() == Some(group)).count() < 2 {
                continue;
            }
            let Some(owned) = view.customers.get(id) else { continue };
            let of_group = view.groups.entry(group.to_string()).or_insert_with(|| unowned(customer));
            of_group.totals.merge(&owned.totals);
            of_group.attempts.extend(&owned.attempts);
            of_group.principals.extend(owned.principals.iter().cloned());
            of_group.standing = Standing::of_group([of_group.standing, owned.standing]);
        }
        Ok(view)
    }

    /// Measured sums of a subject hour by hour.
    pub async fn hourly(&self, view: &View, subject: &Subject) -> Result<Vec<HourlySum>, StoreError> {
        let Some(owned) = view.subject(subject) else { return Ok(Vec::new()) };
        let mut hours = Vec::new();
        for principal in &owned.principals {
            let filter = Filter { principal: Some(principal.clone()), ..Filter::default() };
            let sums = self.store.hourly(&filter).await?;
            hours.extend(sums.into_iter().filter(|sum| self.belongs(sum, subject)));
        }
        hours.sort_by_key(|sum| sum.hour);
        Ok(hours)
    }

    fn belongs(&self, sum: &HourlySum, subject: &Subject) -> bool {
        let Some((principal, attempt)) = &sum.usage.holder else { return false };
        match subject {
            Subject::Run(run) => attempt.as_str() == run,
            Subject::Principal(_) => true,
            Subject::Customer(id) => {
                self.shared.with(|state| state.customer(principal, sum.hour) == Some(id.as_str()))
            }
            Subject::ControlGroup(group) => {
                let customers = self.customers();
                self.shared.with(|state| {
                    let customer = state.customer(principal, sum.hour).and_then(|id| customers.get(id));
                    customer.and_then(|customer| customer.control_group.as_ref()).map(|id| id.as_str())
                        == Some(group.as_str())
                })
            }
        }
    }
}

fn unowned(customer: &SealedCustomer) -> Owned {
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

/// Spans within which no mapping changes. Mappings change at whole hours only, as sums do.
fn periods(state: &weighbridge_store::State, as_of: UtcMillis) -> Vec<Span> {
    let leases = state.leases.values().flat_map(BTreeMap::values).map(|lease| lease.start);
    let seen = state.accelerators.values().map(|accelerator| accelerator.first_seen);
    let Some(first) = seen.chain(leases).min().map(UtcMillis::hour) else { return Vec::new() };
    // The hour in progress counts as a whole: what is after now is clipped where it matters.
    let end = as_of.next_multiple(UtcMillis::HOUR);
    let mut cuts: BTreeSet<UtcMillis> = [first, end].into();
    let bounds = state.mappings.iter().flat_map(|mapping| [Some(mapping.valid_from), mapping.valid_to]);
    cuts.extend(bounds.flatten().filter(|cut| (first..end).contains(cut)));
    let cuts: Vec<UtcMillis> = cuts.into_iter().collect();
    cuts.windows(2).filter_map(|pair| Span::new(pair[0], pair[1])).collect()
}

impl View {
    fn give(&mut self, owner: Option<&str>, attempt: &AttemptAccount, index: Option<usize>) {
        let owned = match owner {
            Some(customer) => self.customers.entry(customer.to_owned()).or_default(),
            None if attempt.totals.held_ms == 0 && attempt.totals.measured.measured_ms == 0 => return,
            None => self.unmapped.entry(attempt.principal.clone()).or_default(),
        };
        owned.totals.merge(&attempt.totals);
        owned.attempts.extend(index);
        owned.principals.insert(attempt.principal.clone());
    }

    /// What belongs to a subject.
    pub fn subject(&self, subject: &Subject) -> Option<Owned> {
        match subject {
            Subject::Customer(id) => self.customers.get(id).cloned(),
            Subject::ControlGroup(id) => self.groups.get(id).cloned(),
            Subject::Principal(id) => self.unmapped.get(&id.parse::<Principal>().ok()?).cloned(),
            Subject::Run(run) => self.runs().find(|(id, _)| id == run).map(|(_, owned)| owned),
        }
    }

    /// Training runs: for now each attempt is one. What links attempts has to be recorded before it may count.
    pub fn runs(&self) -> impl Iterator<Item = (String, Owned)> {
        let owners: BTreeMap<usize, Standing> = self
            .customers
            .values()
            .flat_map(|owned| owned.attempts.iter().map(move |index| (*index, owned.standing)))
            .collect();
        self.account.attempts.iter().enumerate().map(move |(index, attempt)| {
            let owned = Owned {
                totals: attempt.totals.clone(),
                attempts: [index].into(),
                principals: [attempt.principal.clone()].into(),
                standing: owners.get(&index).copied().unwrap_or_default(),
            };
            (attempt.attempt.to_string(), owned)
        })
    }

    /// The customer that an attempt belongs to; where it changed hands, the first one.
    pub fn owner(&self, attempt: usize) -> Option<(&str, &Owned)> {
        let mut customers = self.customers.iter();
        customers.find(|(_, owned)| owned.attempts.contains(&attempt)).map(|(id, owned)| (id.as_str(), owned))
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
        let lease_end = self.attempts(owned).filter_map(|attempt| attempt.lease_end).max()?;
        let (until, capped_by) =
            if lease_end <= cap { (lease_end, CappedBy::HoldingEnd) } else { (cap, CappedBy::RuleDays) };
        let more = self.attempts(owned).filter_map(|attempt| {
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
