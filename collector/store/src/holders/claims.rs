//! What is said of who held an accelerator, and whose word on it counts.
//!
//! An agent speaks of the accelerators that it reports itself. Where an agent of the operator's does, a tenant's own
//! agent has no say. What two hosts say of one moment contradicts itself: a device is in one of them.

use std::collections::{BTreeMap, BTreeSet};

use weighbridge_meter::{AcceleratorId, AgentId, AttemptId, Evidence, Principal, Span, Trust, UtcMillis};

use crate::{
    entry::{JobFact, LeaseFact, Selector, job_of},
    hour::Spans,
    state::{Accelerator, HeldKey, State},
};

/// The rank of words that do not count: behind all evidence.
pub(super) const NOT_BELIEVED: u8 = u8::MAX;

/// A claim as found.
pub(super) struct Claim<'a> {
    pub(super) span: Span,
    pub(super) principal: &'a Principal,
    pub(super) attempt: &'a AttemptId,
    pub(super) rank: u8,
    /// Where it was seen; `None` of what the collector was told.
    pub(super) host: Option<&'a str>,
    /// Shares of a device that it was given.
    pub(super) shares: Option<u64>,
    /// Whether it says that it went on, and nothing was seen of that: anybody else's claim of an allocator ends it.
    pub(super) fills: bool,
}

/// The agents whose words on an accelerator's holders count, with the hosts for which they were enrolled: what an agent
/// says of its host could be another's.
pub(crate) fn voices<'a>(state: &'a State, accelerator: &'a Accelerator) -> Vec<(&'a AgentId, &'a str)> {
    let known = || accelerator.reports.iter().filter(|(_, report)| !report.is_unknown());
    // Who reads a device from outside its host sees no holder in it, and silences nobody.
    let inside = known().map(|(_, report)| report.trust).filter(|trust| *trust != Trust::Bmc);
    let best = inside.min().unwrap_or(Trust::Bmc);
    let counts = known().filter(|(_, report)| report.trust <= best);
    counts.map(|(agent, report)| (agent, state.host_of(agent).unwrap_or(&report.host))).collect()
}

/// Whether a lease speaks of this accelerator on its host.
pub fn selects(lease: &LeaseFact, id: &AcceleratorId, pci_device: &str) -> bool {
    match &lease.selector {
        Selector::All => true,
        Selector::Accelerator(leased) => leased == id,
        Selector::Count { pci_device: leased, .. } => leased.eq_ignore_ascii_case(pci_device),
    }
}

/// All claims that touch the span, cut to it.
pub(super) fn claims<'a>(
    state: &'a State,
    job: Option<&'a JobFact>,
    id: &AcceleratorId,
    span: Span,
) -> Vec<Claim<'a>> {
    let mut claims = Vec::new();
    let accelerator = state.accelerators.get(id);
    if let Some(accelerator) = accelerator {
        let pci_device = accelerator.report().map_or("", |report| &report.pci_device);
        let of_host = state.leases.get(accelerator.host());
        for lease in of_host.into_iter().flat_map(|leases| leases.values()) {
            let Some(span) = lease.span().and_then(|leased| leased.overlap(&span)) else { continue };
            if selects(lease, id, pci_device) {
                let (principal, attempt, rank) = (&lease.principal, &lease.lease, Evidence::Lease.rank());
                claims.push(Claim { span, principal, attempt, rank, host: None, shares: None, fills: false });
            }
        }
    }
    let voices = accelerator.map(|accelerator| voices(state, accelerator)).unwrap_or_default();
    let records = Records { state, job };
    // However many there are, they come to as many claims as there are spans of them.
    let mut not_believed = NotBelieved::default();
    let words = state.held.get(id).into_iter();
    // A record that is not there yet may say that what is long over went on.
    let of_job = job.into_iter().flat_map(JobFact::names).filter_map(|name| state.of_jobs.get(name)?.get(id));
    let of_job: BTreeSet<&HeldKey> = of_job.flatten().collect();
    let near = words.clone().flat_map(|words| words.near(span)).filter(|(word, _)| !of_job.contains(word));
    let of_job = of_job.iter().filter_map(|word| Some((*word, state.held.get(id)?.get(word)?)));
    for (held, end) in near.chain(of_job) {
        // Whatever a record adds, it adds after this.
        if held.start >= span.end() {
            continue;
        }
        let seen = Span::new(held.start, end);
        let (principal, attempt) = (&held.principal, &held.attempt);
        let voice = held.agent.as_ref().map(|teller| voices.iter().find(|(agent, _)| *agent == teller));
        if voice == Some(None) {
            not_believed.extend(held, seen.and_then(|seen| seen.overlap(&span)));
            continue;
        }
        let host = voice.flatten().map(|(_, host)| *host);
        let claim =
            |span: Span, rank: u8| Claim { span, principal, attempt, rank, host, shares: None, fills: false };
        if let Some(overlap) = seen.and_then(|seen| seen.overlap(&span)) {
            claims.push(claim(overlap, held.evidence.rank()));
        }
        for (record, speaks) in records.of(held) {
            let Some(seen) = seen.and_then(|seen| seen.overlap(&speaks)) else { continue };
            let of_record = |span: Span| Claim {
                principal: &record.principal,
                shares: record.shares,
                ..claim(span, Evidence::Scheduler.rank())
            };
            claims.extend(seen.overlap(&span).map(of_record));
            let rest = record.ended.and_then(|ended| Span::new(end, ended));
            let rest = rest.and_then(|rest| rest.overlap(&span));
            claims.extend(rest.map(|rest| Claim { fills: true, ..of_record(rest) }));
        }
    }
    claims.extend(not_believed.claims());
    claims
}

/// Words that do not count.
#[derive(Default)]
struct NotBelieved<'a> {
    when: Spans,
    /// Any of them.
    one: Option<&'a HeldKey>,
}

impl<'a> NotBelieved<'a> {
    fn extend(&mut self, held: &'a HeldKey, span: Option<Span>) {
        if let Some(span) = span {
            self.when.insert(span);
            self.one = Some(held);
        }
    }

    fn claims(&self) -> Vec<Claim<'a>> {
        let Some(HeldKey { principal, attempt, .. }) = self.one else { return Vec::new() };
        let spans = self.when.pairs().iter();
        let spans = spans.filter_map(|(start, end)| Span::new(UtcMillis(*start), UtcMillis(*end)));
        let claim = |span| Claim {
            span,
            principal,
            attempt,
            rank: NOT_BELIEVED,
            host: None,
            shares: None,
            fills: false,
        };
        spans.map(claim).collect()
    }
}

/// What schedulers keep of jobs, as far as it is here.
pub(super) struct Records<'a> {
    pub(super) state: &'a State,
    /// One that is not there yet, or will be otherwise.
    pub(super) job: Option<&'a JobFact>,
}

/// The clocks of a scheduler and of a host may differ by so much.
const CLOCKS_MS: i64 = 5 * UtcMillis::MINUTE;

/// What is left of a job may go on for so long after its scheduler gave it up.
const LEFTOVER_MS: i64 = UtcMillis::DAY;

impl<'a> Records<'a> {
    /// Records of the job of which an agent spoke, each with the time of which it speaks: until the next start.
    pub(super) fn of(&self, held: &HeldKey) -> Vec<(&'a JobFact, Span)> {
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
