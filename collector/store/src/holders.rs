//! Who held an accelerator when: claims of different weight, cut into segments with one answer each.
//!
//! A scheduler's record of a job says whose it was and when, and not which accelerators it had: it speaks of those
//! that an agent saw the job hold. It names whose attempt that is, disputes it if the agent said another, and holds
//! until its end what nobody else is given meanwhile, as where an epilog never ran.

mod claims;

use std::collections::BTreeMap;

use weighbridge_meter::{AcceleratorId, AttemptId, Evidence, Principal, Span, UtcMillis};

pub use self::claims::selects;
use self::claims::{Claim, NOT_BELIEVED, Records, claims};
use crate::{
    entry::{JobFact, job_of},
    hour::{HeldState, Spans, Unattributed},
    state::{HeldKey, State},
};

/// A piece of time with one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// When.
    pub span: Span,
    /// Who: nobody, one, or several, of which some may be [unknown](Principal::is_unknown).
    pub holders: Vec<(Principal, AttemptId)>,
    /// Of those who share it, the shares that each was given; empty where that is not known of all.
    pub shares: Vec<u64>,
    /// Whether several contradict each other instead of sharing.
    pub disputed: bool,
    /// Why there is no holder; `None` where there is one.
    pub unattributed: Option<Unattributed>,
}

impl Segment {
    /// Whether both have one answer.
    pub(crate) fn answers_like(&self, other: &Self) -> bool {
        (&self.holders, &self.shares, self.disputed, self.unattributed)
            == (&other.holders, &other.shares, other.disputed, other.unattributed)
    }

    /// The state of measured time in this segment.
    pub fn state(&self, idle: bool) -> HeldState {
        match (self.holders.len(), idle) {
            (0, true) if self.unattributed.is_none_or(Unattributed::is_nobody) => HeldState::Free,
            (0, _) => HeldState::Unattributed,
            (1, true) => HeldState::IdleHeld,
            (1, false) => HeldState::Attributed,
            _ if self.disputed => HeldState::Disputed,
            _ => HeldState::Shared,
        }
    }
}

/// So many claims on one accelerator in one UTC hour are no account of who held it: what each costs grows with all
/// others. By the hour, so that what is said of a moment does not depend on the span that is asked for.
const MOST_CLAIMS: usize = 4096;

/// So many at one moment, of one rank.
const MOST_AT_ONCE: usize = 64;

/// Cuts `span` where the answer changes. The evidence of the best rank decides; a lease excludes all else.
/// Leases to several are a dispute, and so are allocators that each gave it to theirs; what one allocator gave to
/// several they share, and so do containers, units and users.
///
/// Sums are made of these, so that they are cut only where it matters: of why nobody holds it they tell no more than
/// whether it is [nobody's](Unattributed::is_nobody).
pub fn segments(state: &State, id: &AcceleratorId, span: Span) -> Vec<Segment> {
    segments_with(state, None, id, span, Unattributed::coarse)
}

/// The same, cut also where the reason changes for which nobody holds it.
pub fn segments_by_reason(state: &State, id: &AcceleratorId, span: Span) -> Vec<Segment> {
    segments_with(state, None, id, span, |why| why)
}

/// The same if this record of a job were there too.
fn segments_with(
    state: &State,
    job: Option<&JobFact>,
    id: &AcceleratorId,
    span: Span,
    told: impl Fn(Unattributed) -> Unattributed,
) -> Vec<Segment> {
    // Each holding is a claim, and one or two more for each record of its job.
    let starts =
        |word: &HeldKey| job_of(&word.attempt).and_then(|job| state.jobs.get(job)).map_or(0, BTreeMap::len);
    let claims_of = |word: &HeldKey| 1 + 2 * (starts(word) + usize::from(job.is_some()));
    let leases =
        state.accelerators.get(id).and_then(|one| state.leases.get(one.host())).map_or(0, BTreeMap::len);
    let near = state.held.get(id).into_iter().flat_map(|words| words.near(hours_around(span)));
    let mut room = MOST_CLAIMS.checked_sub(leases);
    for (word, _) in near {
        let Some(left) = room else { break };
        room = left.checked_sub(claims_of(word));
    }
    let around = room.is_none().then(|| claims(state, job, id, hours_around(span)));
    let crowded = around.map_or_else(Spans::default, |around| crowded(&around));
    let mut claims = claims(state, job, id, span);
    claims.retain(|claim| !crowded.missing(claim.span).is_empty());
    // As a rule: nobody, or one all the time.
    if crowded.is_empty() && claims.iter().all(|claim| claim.span == span) {
        let here: Vec<&Claim<'_>> = claims.iter().collect();
        return vec![Answer::of(&here).of_span(span, told)];
    }
    claims.sort_unstable_by_key(|claim| claim.span.start());
    let mut cuts: Vec<UtcMillis> = vec![span.start(), span.end()];
    cuts.extend(claims.iter().flat_map(|claim| [claim.span.start(), claim.span.end()]));
    let edges = crowded.pairs().iter().flat_map(|(start, end)| [UtcMillis(*start), UtcMillis(*end)]);
    cuts.extend(edges.filter(|edge| (span.start()..span.end()).contains(edge)));
    cuts.sort_unstable();
    cuts.dedup();
    let mut segments: Vec<Segment> = Vec::with_capacity(cuts.len() - 1);
    let mut coming = claims.iter().peekable();
    let mut here: Vec<&Claim<'_>> = Vec::new();
    for pair in cuts.windows(2) {
        let Some(piece) = Span::new(pair[0], pair[1]) else { continue };
        here.retain(|claim| claim.span.contains(piece.start()));
        here.extend(std::iter::from_fn(|| coming.next_if(|claim| claim.span.contains(piece.start()))));
        let answer = if crowded.touches(piece) {
            Answer::nobody(Unattributed::TooManyClaims)
        } else {
            Answer::of(&here)
        };
        let segment = answer.of_span(piece, &told);
        match segments.last_mut() {
            Some(last) if last.answers_like(&segment) => {
                last.span = Span::new(last.span.start(), piece.end()).expect("longer than before");
            }
            _ => segments.push(segment),
        }
    }
    segments
}

/// What several claims come to.
struct Answer {
    holders: Vec<(Principal, AttemptId)>,
    shares: Vec<u64>,
    disputed: bool,
    unattributed: Option<Unattributed>,
}

impl Answer {
    fn nobody(unattributed: Unattributed) -> Self {
        Self { holders: Vec::new(), shares: Vec::new(), disputed: false, unattributed: Some(unattributed) }
    }

    fn of_span(self, span: Span, told: impl Fn(Unattributed) -> Unattributed) -> Segment {
        let Self { holders, shares, disputed, unattributed } = self;
        Segment { span, holders, shares, disputed, unattributed: unattributed.map(told) }
    }

    fn of(claims: &[&Claim<'_>]) -> Self {
        let rank = claims.iter().map(|claim| claim.rank).min();
        match rank {
            None => return Self::nobody(Unattributed::NoEvidence),
            Some(NOT_BELIEVED) => return Self::nobody(Unattributed::NotBelieved),
            Some(_) => {}
        }
        // What the operator recorded excludes all else. Apart from that each host that speaks of the device says who has
        // it by the best that it knows: which of them is right is not for the better evidence to say.
        let recorded = claims.iter().any(|claim| claim.host.is_none() && Some(claim.rank) == rank);
        let best_of = |host: Option<&str>| {
            let of_host = claims.iter().filter(|claim| claim.host == host);
            of_host.map(|claim| claim.rank).min()
        };
        let counts = |claim: &&&Claim<'_>| match recorded {
            true => Some(claim.rank) == rank,
            false => claim.host.is_some() && Some(claim.rank) == best_of(claim.host),
        };
        let best = || claims.iter().filter(counts);
        let seen = |host: Option<&str>| best().any(|claim| !claim.fills && claim.host == host);
        let mut hosts: Vec<&str> = best().filter_map(|claim| claim.host).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let mut best: Vec<(&Principal, &AttemptId)> = best()
            .filter(|claim| !(claim.fills && seen(claim.host)))
            .map(|claim| (claim.principal, claim.attempt))
            .collect();
        best.sort_unstable();
        best.dedup();
        if best.len() > MOST_AT_ONCE {
            return Self::nobody(Unattributed::TooManyClaims);
        }
        // Who an attempt is for, any better record of it says, or of the same job: a device has one start of it.
        let outdone = |(principal, attempt): &(&Principal, &AttemptId)| {
            best.iter().any(|(by, other)| {
                let named = principal.is_unknown() && !by.is_unknown();
                // Of one job for one principal the start that is told is the one there is, and of two the later.
                let later = (other.as_str().len(), other) > (attempt.as_str().len(), attempt);
                let told = principal == by && later;
                (named || told) && is_same_attempt(other, attempt)
            })
        };
        let known: Vec<_> = best.iter().copied().filter(|claim| !outdone(claim)).collect();
        let disputed = match rank {
            Some(Evidence::LEASE_RANK) => known.len() > 1,
            Some(Evidence::ALLOCATOR_RANK) => {
                let twice = known.windows(2).any(|pair| pair[0].0.scheme() != pair[1].0.scheme());
                let mut attempts: Vec<_> =
                    known.iter().map(|(_, attempt)| job_of(attempt).unwrap_or(attempt.as_str())).collect();
                attempts.sort_unstable();
                twice || attempts.windows(2).any(|pair| pair[0] == pair[1])
            }
            _ => false,
        };
        // A device is in one host: what two say of one moment is no sharing.
        let disputed = disputed || hosts.len() > 1 && known.len() > 1;
        if known.iter().all(|(principal, _)| principal.is_unknown()) {
            return Self::nobody(Unattributed::Unnamed);
        }
        let shares = if disputed || known.len() < 2 { Vec::new() } else { shares_of(&known, claims) };
        let holders = known.into_iter().map(|(principal, attempt)| (principal.clone(), attempt.clone()));
        Self { holders: holders.collect(), shares, disputed, unattributed: None }
    }
}

/// The shares of those who share a device, if it is known of all of them.
fn shares_of(known: &[(&Principal, &AttemptId)], claims: &[&Claim<'_>]) -> Vec<u64> {
    let of = |attempt: &AttemptId| {
        let told = claims.iter().filter(|claim| is_same_attempt(claim.attempt, attempt));
        told.filter_map(|claim| claim.shares).max()
    };
    let shares: Option<Vec<u64>> = known.iter().map(|(_, attempt)| of(attempt)).collect();
    shares.unwrap_or_default()
}

/// Whether both are one attempt, told more or less exactly: of a job a device has one start at a time.
pub(crate) fn is_same_attempt(a: &AttemptId, b: &AttemptId) -> bool {
    a == b || job_of(a).is_some_and(|job| job_of(b) == Some(job))
}

/// All of the UTC hours that the span touches.
fn hours_around(span: Span) -> Span {
    let end = span.end().plus(-1).hour().plus(UtcMillis::HOUR);
    Span::new(span.start().hour(), end).unwrap_or(span)
}

/// The hours with more claims than can be weighed, of all claims on whole hours.
fn crowded(claims: &[Claim<'_>]) -> Spans {
    let counted = || claims.iter().filter(|claim| claim.rank != NOT_BELIEVED);
    if counted().count() <= MOST_CLAIMS {
        return Spans::default();
    }
    // How many more there are from each hour on.
    let mut steps: BTreeMap<UtcMillis, i64> = BTreeMap::new();
    for Claim { span, .. } in counted() {
        let hours = hours_around(*span);
        *steps.entry(hours.start()).or_default() += 1;
        *steps.entry(hours.end()).or_default() -= 1;
    }
    let (mut crowded, mut count, mut since) = (Spans::default(), 0_i64, UtcMillis(0));
    for (at, step) in steps {
        if usize::try_from(count).is_ok_and(|count| count > MOST_CLAIMS)
            && let Some(span) = Span::new(since, at)
        {
            crowded.insert(span);
        }
        count += step;
        since = at;
    }
    crowded
}

/// Until when records say that what an agent saw went on, if longer than it saw.
pub(crate) fn recorded_end(state: &State, held: &HeldKey, end: UtcMillis) -> Option<UtcMillis> {
    if state.jobs.is_empty() {
        return None;
    }
    let seen = Span::new(held.start, end)?;
    let records = Records { state, job: None }.of(held);
    let ends = records.iter().filter(|(_, speaks)| speaks.overlap(&seen).is_some());
    ends.filter_map(|(record, _)| record.ended).max().filter(|ended| *ended > end)
}

/// When who held an accelerator can be another if this record of a job is there too: all that agents saw of the job,
/// and as long as it is said to have gone on.
pub(crate) fn touched_by(state: &State, job: &JobFact) -> Vec<(AcceleratorId, Span)> {
    let before = state.jobs.get(job.job.as_str()).and_then(|starts| starts.get(&job.submitted));
    let names: Vec<&str> = before.into_iter().chain([job]).flat_map(JobFact::names).collect();
    // Also of the other starts: of which time they speak follows from this one.
    let starts = names.iter().filter_map(|name| state.jobs.get(*name)).flat_map(BTreeMap::values);
    let last_end = starts.chain([job]).filter_map(|start| start.ended).max();
    let mut ids: Vec<&AcceleratorId> =
        names.iter().filter_map(|name| state.of_jobs.get(*name)).flat_map(BTreeMap::keys).collect();
    ids.sort_unstable();
    ids.dedup();
    let hull = |id: &AcceleratorId| {
        let of_job = names.iter().filter_map(|name| state.of_jobs.get(*name)?.get(id)).flatten();
        let of_job = of_job.filter_map(|word| Some((word, state.held.get(id)?.get(word)?)));
        let hull = of_job.fold(None, |hull: Option<(UtcMillis, UtcMillis)>, (held, end)| {
            let end = last_end.map_or(end, |last| last.max(end));
            Some(hull.map_or((held.start, end), |(first, last)| (first.min(held.start), last.max(end))))
        });
        hull.and_then(|(first, last)| Span::new(first, last))
    };
    ids.into_iter().filter_map(|id| Some((id.clone(), hull(id)?))).collect()
}

/// When who held an accelerator is another if this record of a job is there too.
pub fn changed_by(state: &State, job: &JobFact) -> Vec<(AcceleratorId, Span)> {
    let mut changed = Vec::new();
    for (id, hull) in touched_by(state, job) {
        let (old, new) =
            (segments(state, &id, hull), segments_with(state, Some(job), &id, hull, Unattributed::coarse));
        for segment in &new {
            for other in &old {
                let same = other.answers_like(segment);
                changed.extend(
                    segment.span.overlap(&other.span).filter(|_| !same).map(|span| (id.clone(), span)),
                );
            }
        }
    }
    changed
}

#[cfg(test)]
mod tests;
