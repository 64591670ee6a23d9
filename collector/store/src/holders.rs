//! Who held an accelerator when: claims of different weight, cut into segments with one answer each.
//!
//! A scheduler's record of a job says whose it was and when, and not which accelerators it had: it speaks of those
//! that an agent saw the job hold. It names whose attempt that is, disputes it if the agent said another, and holds
//! until its end what nobody else is given meanwhile, as where an epilog never ran.

use std::collections::BTreeMap;

use weighbridge_meter::{AcceleratorId, AttemptId, Evidence, Principal, Span, UtcMillis};

use crate::{
    entry::{JobFact, LeaseFact, Selector, job_of},
    hour::{HeldState, Spans},
    state::{HeldKey, State},
};

/// A piece of time with one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// When.
    pub span: Span,
    /// Who: nobody, one, or several.
    pub holders: Vec<(Principal, AttemptId)>,
    /// Whether several contradict each other instead of sharing.
    pub disputed: bool,
    /// Whether somebody holds it and no record says who, or more say so than can be weighed.
    pub unnamed: bool,
}

impl Segment {
    /// The state of measured time in this segment.
    pub fn state(&self, idle: bool) -> HeldState {
        match (self.holders.len(), idle) {
            (0, true) if !self.unnamed => HeldState::Free,
            (0, _) => HeldState::Unattributed,
            (1, true) => HeldState::IdleHeld,
            (1, false) => HeldState::Attributed,
            _ if self.disputed => HeldState::Disputed,
            _ => HeldState::Shared,
        }
    }
}

/// A claim as found.
struct Claim<'a> {
    span: Span,
    principal: &'a Principal,
    attempt: &'a AttemptId,
    rank: u8,
    /// Whether it says that it went on, and nothing was seen of that: anybody else's claim of an allocator ends it.
    fills: bool,
}

/// Whether a lease speaks of this accelerator on its host.
pub fn selects(lease: &LeaseFact, id: &AcceleratorId, pci_device: &str) -> bool {
    match &lease.selector {
        Selector::All => true,
        Selector::Accelerator(leased) => leased == id,
        Selector::Count { pci_device: leased, .. } => leased.eq_ignore_ascii_case(pci_device),
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
pub fn segments(state: &State, id: &AcceleratorId, span: Span) -> Vec<Segment> {
    segments_with(state, None, id, span)
}

/// The same if this record of a job were there too.
fn segments_with(state: &State, job: Option<&JobFact>, id: &AcceleratorId, span: Span) -> Vec<Segment> {
    // Each holding is a claim, and one or two more for each record of its job.
    let few = state.held.get(id).is_none_or(|held| held.len() <= MOST_CLAIMS / 8);
    let crowded = if few { Spans::default() } else { crowded(&claims(state, job, id, hours_around(span))) };
    let mut claims = claims(state, job, id, span);
    claims.retain(|claim| !crowded.missing(claim.span).is_empty());
    // As a rule: nobody, or one all the time.
    if crowded.is_empty() && claims.iter().all(|claim| claim.span == span) {
        let here: Vec<&Claim<'_>> = claims.iter().collect();
        let Answer { holders, disputed, unnamed } = Answer::of(&here);
        return vec![Segment { span, holders, disputed, unnamed }];
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
        let answer = if crowded.touches(piece) { Answer::many() } else { Answer::of(&here) };
        let Answer { holders, disputed, unnamed } = answer;
        match segments.last_mut() {
            Some(last) if last.holders == holders && last.disputed == disputed && last.unnamed == unnamed => {
                last.span = Span::new(last.span.start(), piece.end()).expect("longer than before");
            }
            _ => segments.push(Segment { span: piece, holders, disputed, unnamed }),
        }
    }
    segments
}

/// What several claims come to.
struct Answer {
    holders: Vec<(Principal, AttemptId)>,
    disputed: bool,
    unnamed: bool,
}

impl Answer {
    /// More than can be weighed.
    fn many() -> Self {
        Self { holders: Vec::new(), disputed: false, unnamed: true }
    }

    fn of(claims: &[&Claim<'_>]) -> Self {
        let rank = claims.iter().map(|claim| claim.rank).min();
        let best = || claims.iter().filter(|claim| Some(claim.rank) == rank);
        let seen = best().any(|claim| !claim.fills);
        let mut best: Vec<(&Principal, &AttemptId)> = best()
            .filter(|claim| !(claim.fills && seen))
            .map(|claim| (claim.principal, claim.attempt))
            .collect();
        best.sort_unstable();
        best.dedup();
        if best.len() > MOST_AT_ONCE {
            return Self::many();
        }
        // Who an attempt is for, any better record of it says, or of the same job: a device has one start of it.
        let same =
            |a: &AttemptId, b: &AttemptId| a == b || job_of(a).is_some_and(|job| job_of(b) == Some(job));
        let outdone = |(principal, attempt): &(&Principal, &AttemptId)| {
            best.iter().any(|(by, other)| {
                let named = principal.is_unknown() && !by.is_unknown();
                // Of one job for one principal the start that is told is the one there is, and of two the later.
                let later = (other.as_str().len(), other) > (attempt.as_str().len(), attempt);
                let told = principal == by && later;
                (named || told) && same(other, attempt)
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
        let unnamed = known.len() == 1 && known[0].0.is_unknown();
        let holders = known.into_iter().filter(|_| !unnamed);
        let holders = holders.map(|(principal, attempt)| (principal.clone(), attempt.clone())).collect();
        Self { holders, disputed, unnamed }
    }
}

/// All of the UTC hours that the span touches.
fn hours_around(span: Span) -> Span {
    let end = span.end().plus(-1).hour().plus(UtcMillis::HOUR);
    Span::new(span.start().hour(), end).unwrap_or(span)
}

/// The hours with more claims than can be weighed, of all claims on whole hours.
fn crowded(claims: &[Claim<'_>]) -> Spans {
    if claims.len() <= MOST_CLAIMS {
        return Spans::default();
    }
    // How many more there are from each hour on.
    let mut steps: BTreeMap<UtcMillis, i64> = BTreeMap::new();
    for Claim { span, .. } in claims {
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

fn claims<'a>(state: &'a State, job: Option<&'a JobFact>, id: &AcceleratorId, span: Span) -> Vec<Claim<'a>> {
    let mut claims = Vec::new();
    if let Some(accelerator) = state.accelerators.get(id) {
        let pci_device = accelerator.report().map_or("", |report| &report.pci_device);
        let of_host = state.leases.get(accelerator.host());
        for lease in of_host.into_iter().flat_map(|leases| leases.values()) {
            let Some(overlap) = lease.span().and_then(|leased| leased.overlap(&span)) else { continue };
            if selects(lease, id, pci_device) {
                let rank = Evidence::Lease.rank();
                claims.push(Claim {
                    span: overlap,
                    principal: &lease.principal,
                    attempt: &lease.lease,
                    rank,
                    fills: false,
                });
            }
        }
    }
    let records = Records { state, job };
    for (held, end) in state.held.get(id).into_iter().flatten() {
        // Whatever a record adds, it adds after this.
        if held.start >= span.end() {
            continue;
        }
        if let Some(overlap) = Span::new(held.start, *end).and_then(|held| held.overlap(&span)) {
            let rank = held.evidence.rank();
            let (principal, attempt) = (&held.principal, &held.attempt);
            claims.push(Claim { span: overlap, principal, attempt, rank, fills: false });
        }
        for (record, speaks) in records.of(held) {
            let Some(seen) = Span::new(held.start, *end).and_then(|held| held.overlap(&speaks)) else {
                continue;
            };
            let (principal, attempt, rank) = (&record.principal, &held.attempt, Evidence::Scheduler.rank());
            if let Some(overlap) = seen.overlap(&span) {
                claims.push(Claim { span: overlap, principal, attempt, rank, fills: false });
            }
            let rest = record.ended.and_then(|ended| Span::new(*end, ended));
            if let Some(overlap) = rest.and_then(|rest| rest.overlap(&span)) {
                claims.push(Claim { span: overlap, principal, attempt, rank, fills: true });
            }
        }
    }
    claims
}

/// What schedulers keep of jobs, as far as it is here.
struct Records<'a> {
    state: &'a State,
    /// One that is not there yet, or will be otherwise.
    job: Option<&'a JobFact>,
}

/// The clocks of a scheduler and of a host may differ by so much.
const CLOCKS_MS: i64 = 5 * UtcMillis::MINUTE;

/// What is left of a job may go on for so long after its scheduler gave it up.
const LEFTOVER_MS: i64 = UtcMillis::DAY;

impl<'a> Records<'a> {
    /// Records of the job of which an agent spoke, each with the time of which it speaks: until the next start.
    fn of(&self, held: &HeldKey) -> Vec<(&'a JobFact, Span)> {
        let of_allocator = held.evidence.rank() == Evidence::ALLOCATOR_RANK;
        let Some(job) = job_of(&held.attempt).filter(|_| of_allocator) else { return Vec::new() };
        let known = self.state.jobs.get(job);
        let new = self.job.filter(|new| new.names().any(|name| name == job));
        if known.is_none() && new.is_none() {
            return Vec::new();
        }
        let mut starts: BTreeMap<UtcMillis, &JobFact> =
            known.into_iter().flatten().map(|(submitted, fact)| (*submitted, fact)).collect();
        // Under another name it may stand no longer.
        starts.retain(|submitted, fact| {
            self.job.is_none_or(|job| (&job.job, job.submitted) != (&fact.job, *submitted))
        });
        starts.extend(new.map(|new| (new.submitted, new)));
        let starts: Vec<&JobFact> = starts.into_values().collect();
        let told =
            held.attempt.as_str().rsplit_once('+').and_then(|(_, restart)| restart.parse::<u32>().ok());
        let mut speaking = Vec::with_capacity(starts.len());
        for (index, fact) in starts.iter().enumerate() {
            let other = told.is_some_and(|told| fact.restart.is_some_and(|restart| restart != told));
            let from = if index == 0 { fact.started.plus(-CLOCKS_MS) } else { fact.started };
            let last = fact.ended.map_or(UtcMillis(i64::MAX), |ended| ended.plus(LEFTOVER_MS));
            let to = starts.get(index + 1).map_or(last, |next| next.started.min(last));
            speaking.extend(Span::new(from, to).filter(|_| !other).map(|speaks| (*fact, speaks)));
        }
        speaking
    }
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
        names.iter().filter_map(|name| state.of_jobs.get(*name)).flatten().collect();
    ids.sort_unstable();
    ids.dedup();
    let hull = |id: &AcceleratorId| {
        let of_job = state.held.get(id).into_iter().flatten();
        let of_job = of_job.filter(|(held, _)| job_of(&held.attempt).is_some_and(|job| names.contains(&job)));
        let hull = of_job.fold(None, |hull: Option<(UtcMillis, UtcMillis)>, (held, end)| {
            let end = last_end.map_or(*end, |last| last.max(*end));
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
        let (old, new) = (segments(state, &id, hull), segments_with(state, Some(job), &id, hull));
        for segment in &new {
            for other in &old {
                let same = Segment { span: segment.span, ..other.clone() } == *segment;
                changed.extend(
                    segment.span.overlap(&other.span).filter(|_| !same).map(|span| (id.clone(), span)),
                );
            }
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        presence::Presence,
        state::{Accelerator, HeldKey, Report},
    };

    fn span(start: i64, length: i64) -> Span {
        Span::new(UtcMillis(start), UtcMillis(start + length)).expect("not empty")
    }

    /// Who, by which evidence, from when, for how long.
    type Word = (usize, usize, i64, i64);

    /// Two of one allocator, one of another, and somebody in the first one's attempt of whom no more is known.
    const WHO: [(&str, &str); 4] = [
        ("slurm:c/one", "slurm:c/1"),
        ("slurm:c/two", "slurm:c/2"),
        ("k8s:c/three", "k8s:c/3"),
        ("slurm:c/%3F", "slurm:c/1"),
    ];

    fn principal(number: usize) -> Principal {
        WHO[number].0.parse().expect("valid")
    }

    fn held(words: &[Word]) -> (State, AcceleratorId) {
        let id: AcceleratorId = "GPU-0".parse().expect("valid");
        let mut state = State::default();
        let zero = UtcMillis(0);
        let reports = [("agent-0".parse().expect("valid"), Report::unknown("host".into(), zero))].into();
        let accelerator =
            Accelerator { first_seen: zero, last_end: zero, presence: Presence::default(), reports };
        state.accelerators.insert(id.clone(), accelerator);
        for (index, &(who, evidence, start, length)) in words.iter().enumerate() {
            let (principal, span) = (principal(who), span(start, length));
            let evidence = Evidence::ALL[evidence];
            // Leases are told apart by their names.
            let attempt = if evidence.is_agreed() { "lease" } else { WHO[who].1 };
            let attempt: AttemptId = attempt.parse().expect("valid");
            if evidence == Evidence::Lease {
                let lease = LeaseFact {
                    lease: attempt,
                    host: "host".into(),
                    // Another count for each, so that none replaces another; an unknown device is of kind "".
                    selector: Selector::Count {
                        count: u32::try_from(index).expect("few"),
                        pci_device: String::new(),
                    },
                    principal,
                    start: span.start(),
                    end: span.end(),
                };
                state.lease(lease);
            } else {
                let key = HeldKey { principal, attempt, evidence, start: span.start() };
                state.held.entry(id.clone()).or_default().insert(key, span.end());
            }
        }
        (state, id)
    }

    proptest! {
        #[test]
        fn at_every_moment_the_best_evidence_there_is_decides(
            words in prop::collection::vec(
                (0..WHO.len(), 0..Evidence::ALL.len(), 0_i64..40, 1_i64..30),
                0..12,
            ).prop_map(|words| {
                // Nobody leases anything to nobody.
                let named = |word: &Word| word.0 != 3 || !Evidence::ALL[word.1].is_agreed();
                words.into_iter().filter(named).collect::<Vec<_>>()
            }),
            (start, length) in (0_i64..40, 1_i64..40),
        ) {
            // Of two words that begin at once by the same evidence the store keeps one.
            let mut words = words;
            words.sort_unstable();
            words.dedup_by_key(|(who, evidence, start, _)| (*who, *evidence, *start));
            let (state, id) = held(&words);
            let segments = segments(&state, &id, span(start, length));
            prop_assert_eq!(segments[0].span.start().0, start);
            prop_assert_eq!(segments[segments.len() - 1].span.end().0, start + length);
            for pair in segments.windows(2) {
                prop_assert_eq!(pair[0].span.end(), pair[1].span.start());
                prop_assert_ne!(
                    Segment { span: pair[1].span, ..pair[0].clone() },
                    pair[1].clone(),
                    "one answer is one segment"
                );
            }
            for segment in &segments {
                for moment in segment.span.start().0..segment.span.end().0 {
                    let here = || words.iter().filter(|(.., start, length)| (*start..start + length).contains(&moment));
                    let rank = here().map(|(_, evidence, ..)| Evidence::ALL[*evidence].rank()).min();
                    let mut who: Vec<usize> = here()
                        .filter(|(_, evidence, ..)| Some(Evidence::ALL[*evidence].rank()) == rank)
                        .map(|(who, ..)| *who)
                        .collect();
                    who.sort_unstable();
                    who.dedup();
                    if who.contains(&0) {
                        // The first one's own record says whose attempt it is.
                        who.retain(|who| *who != 3);
                    }
                    prop_assert_eq!(segment.unnamed, who == [3]);
                    let disputed = match rank {
                        Some(0) => who.len() > 1,
                        Some(1) => who.contains(&2) && who.len() > 1,
                        _ => false,
                    };
                    prop_assert_eq!(segment.disputed, disputed);
                    if segment.unnamed {
                        who.clear();
                    }
                    let mut who: Vec<Principal> = who.into_iter().map(principal).collect();
                    who.sort_unstable();
                    let holders: Vec<Principal> =
                        segment.holders.iter().map(|(principal, _)| principal.clone()).collect();
                    prop_assert_eq!(holders, who);
                }
            }
        }
    }

    #[test]
    fn an_attempt_that_is_said_to_be_for_two_is_disputed() {
        let (mut state, id) = held(&[(0, 3, 0, 10)]);
        let key = HeldKey {
            principal: principal(1),
            attempt: WHO[0].1.parse().expect("valid"),
            evidence: Evidence::SchedulerHook,
            start: UtcMillis(5),
        };
        state.held.get_mut(&id).expect("held").insert(key, UtcMillis(10));
        let segments = segments(&state, &id, span(0, 10));
        assert_eq!(segments.iter().map(|segment| segment.disputed).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn of_more_claims_than_can_be_weighed_nobody_is_charged() {
        let many = |count: i64, at_once: bool| {
            let (mut state, id) = held(&[(0, 3, 0, 1)]);
            for number in 0..count {
                let (start, end) = if at_once { (0, 10) } else { (number, number + 1) };
                let key = HeldKey {
                    principal: format!("slurm:c/{number}").parse().expect("valid"),
                    attempt: format!("slurm:c/{number}").parse().expect("valid"),
                    evidence: Evidence::SchedulerHook,
                    start: UtcMillis(start),
                };
                state.held.get_mut(&id).expect("held").insert(key, UtcMillis(end));
            }
            segments(&state, &id, span(5, 10_000))
        };
        let few = many(40, true);
        assert!(!few[0].unnamed && few[0].holders.len() == 40);
        let at_once = many(100, true);
        assert!(at_once[0].unnamed && at_once[0].holders.is_empty());
        let in_a_row = many(20_000, false);
        assert!(in_a_row.len() == 1 && in_a_row[0].unnamed);
    }

    #[test]
    fn a_crowded_hour_is_nobodys_and_what_is_said_of_a_moment_is_the_same_however_much_is_asked_for() {
        let (mut state, id) = held(&[(0, 3, 0, 1)]);
        let claimed = state.held.get_mut(&id).expect("held");
        let mut hold = |number: i64, start: i64, end: i64| {
            let key = HeldKey {
                principal: format!("slurm:c/{number}").parse().expect("valid"),
                attempt: format!("slurm:c/{number}").parse().expect("valid"),
                evidence: Evidence::SchedulerHook,
                start: UtcMillis(start),
            };
            claimed.insert(key, UtcMillis(end));
        };
        // A job every ten minutes for a year, and one hour in which somebody says more than can be.
        let ten = UtcMillis::HOUR / 6;
        (1..52_000).for_each(|number| hold(number, number * ten, number * ten + ten));
        let crowded = 1000 * UtcMillis::HOUR;
        (60_000..65_000).for_each(|number| hold(number, crowded + number, crowded + number + 1));
        let year = segments(&state, &id, span(ten, 51_000 * ten));
        let of = |moment: i64| {
            let found =
                year.iter().find(|segment| segment.span.contains(UtcMillis(moment))).expect("covered");
            (found.holders.clone(), found.unnamed)
        };
        for moment in [ten, crowded - 1, crowded, crowded + 61_000, crowded + UtcMillis::HOUR, 50_000 * ten] {
            let alone = segments(&state, &id, span(moment, 1));
            assert_eq!((alone[0].holders.clone(), alone[0].unnamed), of(moment), "{moment}");
            assert_eq!(alone[0].unnamed, (crowded..crowded + UtcMillis::HOUR).contains(&moment), "{moment}");
        }
        assert_eq!(year.iter().filter(|segment| segment.unnamed).count(), 1);
    }

    #[test]
    fn the_later_of_two_starts_is_the_one_with_the_greater_number() {
        let (mut state, id) = held(&[(0, 3, 0, 1)]);
        for restart in [9, 10] {
            let key = HeldKey {
                principal: principal(0),
                attempt: format!("slurm:c/7+{restart}").parse().expect("valid"),
                evidence: Evidence::SchedulerHook,
                start: UtcMillis(2),
            };
            state.held.get_mut(&id).expect("held").insert(key, UtcMillis(9));
        }
        let segments = segments(&state, &id, span(3, 2));
        assert_eq!(segments[0].holders[0].1.as_str(), "slurm:c/7+10");
        assert_eq!(segments[0].holders.len(), 1);
    }

    #[test]
    fn each_segment_has_one_state() {
        let of = |number: usize, disputed: bool, unnamed: bool| {
            let holders = (0..number).map(|who| (principal(who), "try-1".parse().expect("valid"))).collect();
            let segment = Segment { span: span(0, 1), holders, disputed, unnamed };
            [segment.state(false), segment.state(true)]
        };
        assert_eq!(of(0, false, false), [HeldState::Unattributed, HeldState::Free]);
        assert_eq!(of(0, false, true), [HeldState::Unattributed, HeldState::Unattributed]);
        assert_eq!(of(1, false, false), [HeldState::Attributed, HeldState::IdleHeld]);
        assert_eq!(of(2, false, false), [HeldState::Shared, HeldState::Shared]);
        assert_eq!(of(2, true, false), [HeldState::Disputed, HeldState::Disputed]);
    }
}
