//! Hours whose payloads may be gone: what stands in them stays as it is.
//!
//! Before payloads are pruned a fact closes the hours that were made of them. From its place on nothing makes a
//! closed hour anew, neither live nor in a rebuild, so both go on giving the same integers. What would change one
//! is refused by name: a batch with windows in it, a lease, a record of a job. What is only read, as whose a principal was, may
//! still be corrected.

use serde::{Deserialize, Serialize};
use weighbridge_meter::{Span, UtcMillis};
use weighbridge_wire::Batch;

use crate::{
    entry::{Fact, JobFact, LeaseFact},
    holders,
    state::State,
};

/// The kind of record that closes hours.
pub const KIND: &str = "closed";

#[derive(Serialize, Deserialize)]
struct Closed {
    /// The first hour that stays open.
    before: UtcMillis,
}

/// The fact that closes all hours before a whole UTC hour.
pub fn fact(before: UtcMillis) -> Fact {
    let body = serde_json::to_value(Closed { before }).expect("a time is a text");
    Fact::Record { kind: KIND.into(), key: before.to_string(), body }
}

/// Which hours this record closes, if it does.
pub(crate) fn before(kind: &str, body: &serde_json::Value) -> Option<UtcMillis> {
    if kind != KIND {
        return None;
    }
    // One that does not say when closes nothing: the fold must not stop at it.
    serde_json::from_value::<Closed>(body.clone()).ok().map(|closed| closed.before.hour())
}

/// The part of the span that lies in open hours.
pub(crate) fn open_part(closed: Option<UtcMillis>, span: Span) -> Option<Span> {
    match closed {
        Some(closed) => Span::new(span.start().max(closed), span.end()),
        None => Some(span),
    }
}

/// The earliest moment of a batch that lies in a closed hour, with its clock corrected by whole minutes.
pub(crate) fn reaches(batch: &Batch, minutes: i64, closed: UtcMillis) -> Option<UtcMillis> {
    let windows = batch.windows.iter().map(|window| window.span);
    let gaps = batch.gaps.iter().map(|gap| gap.span);
    let earliest = windows.chain(gaps).map(|span| span.start()).min()?;
    let corrected = crate::fold::corrected(earliest, minutes);
    (corrected < closed).then_some(corrected)
}

/// Whether a record of a job that is to be kept changes who held what in closed hours.
pub fn job_changes_closed(state: &State, job: &JobFact) -> bool {
    let Some(closed) = state.closed_before else { return false };
    job.started < closed && holders::changed_by(state, job).iter().any(|(_, span)| span.start() < closed)
}

/// Whether a lease that is to be recorded says something else about closed hours than what is there.
pub fn changes_closed(state: &State, lease: &LeaseFact) -> bool {
    let Some(closed) = state.closed_before else { return false };
    let part = |lease: &LeaseFact| {
        let span = lease.span()?;
        let span = Span::new(span.start(), span.end().min(closed))?;
        Some((span, lease.principal.clone()))
    };
    let of_host = state.leases.get(lease.host.as_str());
    let there = of_host.and_then(|leases| leases.get(&(lease.lease.clone(), lease.selector.clone())));
    part(lease) != there.and_then(part)
}
