//! Where sums become totals: measured operations, and what the gaps in held time could have hidden.
//!
//! A gap is what was present and not covered. It counts nothing in low, the mean of its attempt in best and
//! peak x time in high, and it is computed here, when read, as of a stated moment: so a dead agent still has
//! gaps, and nobody has to write them down for it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use weighbridge_meter::{
    AcceleratorId, AttemptId, Calibrated, Estimator, GapCause, Interval, Operations, Principal, Span,
    UtcMillis,
};

use crate::{
    CoverageSum, UsageSum,
    entry::Selector,
    holders,
    hour::{HeldState, Spans, Sums, Unattributed},
    state::State,
};

/// Totals of something: measured, and with gaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// What was measured.
    pub measured: Sums,
    /// Accelerator-milliseconds held.
    pub held_ms: u64,
    /// Of these not covered.
    pub gap_ms: u64,
    /// Of those on accelerators that no agent ever reported.
    pub never_seen_ms: u64,
    /// Measured and gaps together.
    pub bound: Interval<Operations>,
    /// Measured and gaps together, 5 to 95 %.
    pub calibrated: Calibrated,
}

impl Totals {
    /// Adds other totals.
    pub fn merge(&mut self, other: &Self) {
        self.measured.merge(&other.measured);
        self.held_ms += other.held_ms;
        self.gap_ms += other.gap_ms;
        self.never_seen_ms += other.never_seen_ms;
        self.bound = self.bound.saturating_add(other.bound);
        self.calibrated = self.calibrated.saturating_add(other.calibrated);
    }
}

/// One attempt of one principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptAccount {
    /// Who.
    pub principal: Principal,
    /// Which.
    pub attempt: AttemptId,
    /// How much.
    pub totals: Totals,
    /// When it began to hold something.
    pub started: UtcMillis,
    /// When its lease ends; `None` if it has none.
    pub lease_end: Option<UtcMillis>,
    /// Accelerators that were reported and that it held, or that were measured as its.
    pub accelerators: BTreeSet<AcceleratorId>,
    /// Accelerators it held, by model.
    pub models: BTreeMap<String, u64>,
    /// Accelerators it held as of the moment of the account, reported or not.
    pub devices: u64,
    /// Of these never reported by any agent.
    pub never_seen: u64,
    /// The most that all of these can do in a millisecond, in operations.
    pub peak_ops_per_ms: u128,
}

impl AttemptAccount {
    /// The total at `until` if it goes on like this: nothing more in low, at the mean rate so far in best,
    /// at peak in high. `None` without a lease that reaches beyond `as_of`, or before anything was measured.
    pub fn projection(&self, as_of: UtcMillis, until: UtcMillis) -> Option<Interval<Operations>> {
        let end = self.lease_end?.min(until);
        let millis = u64::try_from(end.since(as_of)).ok().filter(|millis| *millis > 0)?;
        let measured_ms = self.totals.measured.measured_ms + self.totals.measured.interpolated_ms;
        if measured_ms == 0 {
            return None;
        }
        let device_ms = u128::from(self.devices) * u128::from(millis);
        let best = self.totals.measured.bound.best().scaled(device_ms, u128::from(measured_ms));
        let high = tera(self.peak_ops_per_ms.saturating_mul(u128::from(millis)));
        let more = Interval::new(Operations::ZERO, best, high.max(best)).expect("high is at least best");
        Some(self.totals.bound.saturating_add(more))
    }
}

/// How the wall time of accelerators divides, in milliseconds; each of both sets sums to `wall_ms`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TimeAccount {
    /// From first seen, or from the start asked for, to as of.
    pub wall_ms: u64,
    /// Measured.
    pub measured_ms: u64,
    /// Bounded by a cumulative counter.
    pub interpolated_ms: u64,
    /// Neither, by cause; what nobody explained is `silent`.
    pub gap_ms: BTreeMap<GapCause, u64>,
    /// How it was held.
    pub held_ms: BTreeMap<HeldState, u64>,
    /// Why what is unattributed of it is: as much, by reason.
    pub unattributed_ms: BTreeMap<Unattributed, u64>,
}

impl TimeAccount {
    /// Adds another.
    pub fn merge(&mut self, other: &Self) {
        self.wall_ms += other.wall_ms;
        self.measured_ms += other.measured_ms;
        self.interpolated_ms += other.interpolated_ms;
        for (cause, millis) in &other.gap_ms {
            *self.gap_ms.entry(*cause).or_default() += millis;
        }
        for (state, millis) in &other.held_ms {
            *self.held_ms.entry(*state).or_default() += millis;
        }
        for (why, millis) in &other.unattributed_ms {
            *self.unattributed_ms.entry(*why).or_default() += millis;
        }
    }

    fn unattributed(&mut self, why: Unattributed, millis: u64) {
        *self.held_ms.entry(HeldState::Unattributed).or_default() += millis;
        *self.unattributed_ms.entry(why).or_default() += millis;
    }

    /// So much of what seemed unattributed was measured idle. For which reason sums do not know; where there are
    /// several, those of which somebody is to be asked first, so that nobody is asked in vain.
    fn freed(&mut self, millis: u64) {
        let mut rest = millis;
        use Unattributed::{NoEvidence, NotBelieved, TooManyClaims, Unnamed};
        for why in [NotBelieved, NoEvidence, Unnamed, TooManyClaims] {
            let Some(left) = self.unattributed_ms.get_mut(&why) else { continue };
            let freed = rest.min(*left);
            *left -= freed;
            rest -= freed;
        }
    }
}

/// One accelerator's time and operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceleratorAccount {
    /// Which.
    pub accelerator: AcceleratorId,
    /// Its time.
    pub time: TimeAccount,
    /// What it did, whoever held it.
    pub measured: Sums,
}

/// Everything as of a moment.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// The moment.
    pub as_of: UtcMillis,
    /// By attempt.
    pub attempts: Vec<AttemptAccount>,
    /// By accelerator.
    pub accelerators: Vec<AcceleratorAccount>,
    /// Measured while nobody was known to hold it, by state.
    pub unheld: BTreeMap<HeldState, Sums>,
}

/// Makes the account. `sums` and `coverage` are those of whole hours in `within`, or of all time without it;
/// held time is taken from holdings alone, clipped to `within` and to `as_of`.
pub fn account(
    state: &State,
    estimator: &Estimator,
    sums: &[UsageSum],
    coverage: &[CoverageSum],
    within: Option<Span>,
    as_of: UtcMillis,
) -> Account {
    let mut maker =
        Maker { state, estimator, as_of, within, means: BTreeMap::new(), attempts: BTreeMap::new() };
    let by_accelerator = by_accelerator(sums);
    let mut unheld: BTreeMap<HeldState, Sums> = BTreeMap::new();
    for sum in sums.iter().filter(|sum| sum.holder.is_none()) {
        unheld.entry(sum.state).or_default().merge(&sum.sums);
    }
    let coverage: BTreeMap<_, _> = coverage.iter().map(|sum| (&sum.accelerator, sum)).collect();
    let mut accelerators = Vec::with_capacity(state.accelerators.len());
    for id in state.accelerators.keys() {
        let sums = by_accelerator.get(id).map_or(&[][..], Vec::as_slice);
        accelerators.push(maker.accelerator(id, sums, coverage.get(id).copied()));
    }
    maker.never_seen(None);
    Account { as_of, attempts: maker.finish(), accelerators, unheld }
}

/// The attempts of one principal in a part of the time that `whole` is the account of; `sums` are its own there. A gap
/// in it counts the mean of its attempt in all of that time, so that parts add up to the whole however they are cut.
pub fn account_within(
    state: &State,
    estimator: &Estimator,
    principal: &Principal,
    sums: &[UsageSum],
    within: Span,
    whole: &Account,
) -> Vec<AttemptAccount> {
    let theirs = || whole.attempts.iter().filter(|attempt| attempt.principal == *principal);
    let means = theirs().map(|a| ((a.principal.clone(), a.attempt.clone()), a.totals.measured)).collect();
    let held: BTreeSet<&AcceleratorId> = theirs().flat_map(|attempt| &attempt.accelerators).collect();
    let mut maker = Maker {
        state,
        estimator,
        as_of: whole.as_of,
        within: Some(within),
        means,
        attempts: BTreeMap::new(),
    };
    let by_accelerator = by_accelerator(sums);
    for id in held {
        maker.accelerator(id, by_accelerator.get(id).map_or(&[][..], Vec::as_slice), None);
    }
    maker.never_seen(Some(principal));
    let mut attempts = maker.finish();
    attempts.retain(|attempt| attempt.principal == *principal);
    attempts
}

fn by_accelerator(sums: &[UsageSum]) -> BTreeMap<&AcceleratorId, Vec<&UsageSum>> {
    let mut found: BTreeMap<&AcceleratorId, Vec<&UsageSum>> = BTreeMap::new();
    sums.iter().for_each(|sum| found.entry(&sum.accelerator).or_default().push(sum));
    found
}

struct Maker<'a> {
    state: &'a State,
    estimator: &'a Estimator,
    as_of: UtcMillis,
    within: Option<Span>,
    /// What was measured of attempts in all of the time, where this is the account of a part.
    means: BTreeMap<(Principal, AttemptId), Sums>,
    attempts: BTreeMap<(Principal, AttemptId), Attempt>,
}

#[derive(Default)]
struct Attempt {
    measured: Sums,
    held_ms: u64,
    gap_ms: u64,
    /// Peak x time of the gaps, in operations.
    gap_peak: u128,
    /// What allocation alone would say of the gaps, for attempts of which nothing was measured.
    gap_allocated: Operations,
    never_seen_ms: u64,
    started: Option<UtcMillis>,
    accelerators: BTreeSet<AcceleratorId>,
    models: BTreeMap<String, u64>,
    never_seen_models: BTreeMap<String, u64>,
    devices: u64,
    never_seen: u64,
    peak_ops_per_ms: u128,
    /// What agents have shown of each kind on each host, for what a lease by count has not shown.
    shown: BTreeMap<(Box<str>, String), Shown>,
    /// When any part of a divided device was held, and whether one is now.
    parts: BTreeMap<AcceleratorId, (Spans, bool)>,
}

/// Accelerators of one kind on one host that a holder was seen to hold.
#[derive(Default)]
struct Shown {
    /// Accelerator-milliseconds; whole ones, disputed or not: what is disputed was seen all the same.
    millis: u64,
    /// As of the moment of the account.
    now: u64,
    /// At any time.
    ever: u64,
}

impl Shown {
    fn add(&mut self, millis: u64, first: bool, now: bool) {
        self.millis += millis;
        self.ever += u64::from(first);
        self.now += u64::from(now);
    }
}

impl Maker<'_> {
    fn clip(&self, span: Span) -> Option<Span> {
        let until_now = Span::new(span.start(), span.end().min(self.as_of))?;
        self.within.map_or(Some(until_now), |within| until_now.overlap(&within))
    }

    fn accelerator(
        &mut self,
        id: &AcceleratorId,
        sums: &[&UsageSum],
        coverage: Option<&CoverageSum>,
    ) -> AcceleratorAccount {
        let accelerator = &self.state.accelerators[id];
        let mut measured = Sums::default();
        sums.iter().for_each(|sum| measured.merge(&sum.sums));
        let mut time = TimeAccount::default();
        let present = accelerator.present(self.as_of).into_iter();
        let present: Vec<Span> = present.filter_map(|present| self.clip(present)).collect();
        time.wall_ms = present.iter().map(Span::millis).sum();
        let hardware = accelerator.hardware(self.estimator.table(), self.as_of);
        let peak = self.estimator.peak_ops_per_ms(hardware);
        let parent = accelerator.parent();
        let model_name = match (hardware.model, parent) {
            (Some(model), Some(_)) => format!("part of {}", model.name),
            (Some(model), None) => model.name.clone(),
            (None, _) => "not in the table".into(),
        };
        let pci_device = accelerator.report().map_or("", |report| &report.pci_device).to_ascii_lowercase();
        let mut held: BTreeMap<(Principal, AttemptId), u64> = BTreeMap::new();
        let segments =
            present.iter().flat_map(|present| holders::segments_by_reason(self.state, id, *present));
        for segment in segments {
            let millis = segment.span.millis();
            let state = segment.state(false);
            if let Some(why) = segment.unattributed {
                time.unattributed(why, millis);
            }
            let holders = segment.holders.len() as u64;
            let now = segment.span.end() == self.as_of;
            for (index, holder) in (0..).zip(segment.holders) {
                let share = millis * (index + 1) / holders - millis * index / holders;
                if holder.0.is_unknown() {
                    time.unattributed(Unattributed::Unnamed, share);
                    continue;
                }
                *time.held_ms.entry(state).or_default() += share;
                let so_far = held.get(&holder).copied();
                held.insert(holder.clone(), so_far.unwrap_or_default() + share);
                let attempt = self.attempts.entry(holder).or_default();
                let since = segment.span.start();
                attempt.started = Some(attempt.started.map_or(since, |started| started.min(since)));
                if so_far.is_none() {
                    attempt.accelerators.insert(id.clone());
                    *attempt.models.entry(model_name.clone()).or_default() += 1;
                }
                let shown = attempt.shown.entry((accelerator.host().into(), pci_device.clone())).or_default();
                match parent {
                    None => shown.add(millis, so_far.is_none(), now),
                    // All parts of a device show one device, however many they are.
                    Some(parent) => {
                        let (seen, seen_now) = attempt.parts.entry(parent.clone()).or_default();
                        let first = seen.pairs().is_empty();
                        let new = seen.missing(segment.span).iter().map(Span::millis).sum();
                        seen.insert(segment.span);
                        shown.add(new, first, now && !*seen_now);
                        *seen_now |= now;
                    }
                }
                if now {
                    attempt.devices += 1;
                    attempt.peak_ops_per_ms += peak;
                }
            }
        }
        let mut covered: BTreeMap<&(Principal, AttemptId), u64> = BTreeMap::new();
        for sum in sums {
            let millis = sum.sums.measured_ms + sum.sums.interpolated_ms;
            // Idle time was measured; segments know only who held it.
            let from = match sum.state {
                HeldState::IdleHeld => Some(HeldState::Attributed),
                HeldState::Free => Some(HeldState::Unattributed),
                _ => None,
            };
            if let Some(from) = from {
                let slot = time.held_ms.entry(from).or_default();
                let moved = millis.min(*slot);
                *slot -= moved;
                if sum.state == HeldState::Free {
                    time.freed(moved);
                }
                *time.held_ms.entry(sum.state).or_default() += moved;
            }
            if let Some(holder) = &sum.holder {
                *covered.entry(holder).or_default() += millis;
                let attempt = self.attempts.entry(holder.clone()).or_default();
                attempt.measured.merge(&sum.sums);
                attempt.accelerators.insert(id.clone());
            }
        }
        for (holder, held_ms) in &held {
            let gap_ms = held_ms.saturating_sub(covered.get(holder).copied().unwrap_or(0));
            self.gap(holder, peak, hardware, *held_ms, gap_ms);
        }
        if let Some(coverage) = coverage {
            time.measured_ms = coverage.measured_ms.min(time.wall_ms);
            time.interpolated_ms = coverage.interpolated_ms.min(time.wall_ms - time.measured_ms);
        }
        let mut rest = time.wall_ms - time.measured_ms - time.interpolated_ms;
        for (cause, millis) in coverage.map_or(&[][..], |coverage| &coverage.gaps) {
            let explained = (*millis).min(rest);
            rest -= explained;
            *time.gap_ms.entry(*cause).or_default() += explained;
        }
        if rest > 0 {
            *time.gap_ms.entry(GapCause::Silent).or_default() += rest;
        }
        time.held_ms.retain(|_, millis| *millis > 0);
        time.unattributed_ms.retain(|_, millis| *millis > 0);
        AcceleratorAccount { accelerator: id.clone(), time, measured }
    }

    fn gap(
        &mut self,
        holder: &(Principal, AttemptId),
        peak: u128,
        hardware: weighbridge_meter::Hardware<'_>,
        held_ms: u64,
        gap_ms: u64,
    ) {
        let attempt = self.attempts.entry(holder.clone()).or_default();
        attempt.held_ms += held_ms;
        attempt.gap_ms += gap_ms;
        attempt.gap_peak = attempt.gap_peak.saturating_add(peak.saturating_mul(u128::from(gap_ms)));
        let allocated = self.estimator.allocated(hardware, gap_ms);
        attempt.gap_allocated = attempt.gap_allocated.saturating_add(allocated);
    }

    /// Leases by count: what they give away and no agent has shown is held all the same.
    /// Only those of `principal`, if one is given.
    fn never_seen(&mut self, principal: Option<&Principal>) {
        let state = self.state;
        for lease in state.leases.values().flat_map(BTreeMap::values) {
            if principal.is_some_and(|principal| *principal != lease.principal) {
                continue;
            }
            let Selector::Count { count, pci_device } = &lease.selector else { continue };
            let Some(span) = lease.span().and_then(|span| self.clip(span)) else { continue };
            let holder = (lease.principal.clone(), lease.lease.clone());
            let attempt = self.attempts.entry(holder.clone()).or_default();
            let kind = (lease.host.as_str().into(), pci_device.to_ascii_lowercase());
            let shown = attempt.shown.entry(kind).or_default();
            // What is credited to one lease is not there for the next of the same name.
            let missing = |leased: u64, shown: &mut u64| {
                let credited = leased.min(*shown);
                *shown -= credited;
                leased - credited
            };
            let count = u64::from(*count);
            let missing_ms = missing(count.saturating_mul(span.millis()), &mut shown.millis);
            let missing_ever = missing(count, &mut shown.ever);
            let missing_now = if lease.end > self.as_of { missing(count, &mut shown.now) } else { 0 };
            let model = self.estimator.table().find(Some(pci_device), "");
            let peak = self.estimator.peak_ops_per_ms(model);
            attempt.never_seen_ms += missing_ms;
            attempt.started = Some(attempt.started.map_or(span.start(), |started| started.min(span.start())));
            attempt.never_seen += missing_now;
            attempt.devices += missing_now;
            attempt.peak_ops_per_ms += peak * u128::from(missing_now);
            if missing_ever > 0 {
                let name = model.map_or("not in the table", |model| &model.name);
                *attempt.never_seen_models.entry(name.into()).or_default() += missing_ever;
            }
            self.gap(&holder, peak, model.into(), missing_ms, missing_ms);
        }
    }

    fn finish(self) -> Vec<AttemptAccount> {
        let mut lease_ends: BTreeMap<(&Principal, &AttemptId), UtcMillis> = BTreeMap::new();
        let leases = self.state.leases.values().flat_map(BTreeMap::values);
        for lease in leases.filter(|lease| lease.span().is_some()) {
            let end = lease_ends.entry((&lease.principal, &lease.lease)).or_insert(lease.end);
            *end = (*end).max(lease.end);
        }
        self.attempts
            .into_iter()
            .map(|((principal, id), attempt)| {
                let key = (principal, id);
                let mean_of = self.means.get(&key).unwrap_or(&attempt.measured);
                let (principal, id) = key;
                let mean = match mean_of.measured_ms + mean_of.interpolated_ms {
                    0 => attempt.gap_allocated,
                    measured_ms => {
                        mean_of.bound.best().scaled(u128::from(attempt.gap_ms), u128::from(measured_ms))
                    }
                };
                let high = tera(attempt.gap_peak);
                let gaps =
                    Interval::new(Operations::ZERO, mean.min(high), high).expect("best is at most high");
                let gaps_likely = Calibrated::new(Operations::ZERO, mean.min(high)).expect("from zero");
                let mut models = attempt.models;
                for (model, count) in attempt.never_seen_models {
                    *models.entry(model).or_default() += count;
                }
                AttemptAccount {
                    lease_end: lease_ends.get(&(&principal, &id)).copied(),
                    principal,
                    attempt: id,
                    totals: Totals {
                        measured: attempt.measured,
                        held_ms: attempt.held_ms,
                        gap_ms: attempt.gap_ms,
                        never_seen_ms: attempt.never_seen_ms,
                        bound: attempt.measured.bound.saturating_add(gaps),
                        calibrated: attempt.measured.calibrated.saturating_add(gaps_likely),
                    },
                    started: attempt.started.unwrap_or(self.as_of),
                    accelerators: attempt.accelerators,
                    models,
                    devices: attempt.devices,
                    never_seen: attempt.never_seen,
                    peak_ops_per_ms: attempt.peak_ops_per_ms,
                }
            })
            .collect()
    }
}

fn tera(operations: u128) -> Operations {
    u64::try_from(operations.div_ceil(Operations::UNIT))
        .ok()
        .and_then(|tera| Operations::from_tera(tera).ok())
        .unwrap_or(Operations::MAX)
}
