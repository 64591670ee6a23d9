//! What becomes of hours that are summed when it turns out who held them.
//!
//! Where the answer was one holder or nobody for a whole hour, and is another such for the whole of it, every sum of
//! the hour belongs to the one as it belonged to the other: its rows change their name, and no batch is read again.
//! Everything else that changes, as the hours in which a lease begins and ends, is made anew.

use weighbridge_meter::{AcceleratorId, Span, UtcMillis};

use super::{Fold, hours};
use crate::{
    closed,
    entry::{JobFact, LeaseFact},
    holders::{self, Segment},
    hour::{Holder, HourKey, Relabel, Unattributed},
    state::{Accelerator, job_row, lease_row},
};

impl Fold {
    /// A lease came or changed.
    pub(super) fn lease(&mut self, lease: LeaseFact) {
        let replaced = self.state.replaced_by(&lease);
        let spans = replaced.iter().chain([&lease]).filter_map(LeaseFact::span);
        // All of them select the same.
        let touched = match spans.reduce(hull) {
            Some(span) => self.selected(&lease).into_iter().map(|id| (id, span)).collect(),
            None => Vec::new(),
        };
        self.reattribute(touched, |fold| {
            for lease in fold.state.withdraw_other_counts(&lease) {
                fold.changed.state.push(lease_row(&LeaseFact { end: lease.start, ..lease }));
            }
            fold.changed.state.push(lease_row(&lease));
            fold.state.lease(lease);
        });
    }

    /// A start of a job came or changed.
    pub(super) fn job(&mut self, job: JobFact) {
        let before = self.state.jobs.get(job.job.as_str()).and_then(|starts| starts.get(&job.submitted));
        if before == Some(&job) {
            return;
        }
        let touched = holders::touched_by(&self.state, &job);
        self.reattribute(touched, |fold| {
            fold.changed.state.push(job_row(&job));
            fold.state.job(job);
        });
    }

    /// The accelerators of its host that a lease speaks of.
    fn selected(&self, lease: &LeaseFact) -> Vec<AcceleratorId> {
        let selected = |id: &&AcceleratorId| {
            let report = self.state.accelerators.get(*id).and_then(Accelerator::report);
            holders::selects(lease, id, report.map_or("", |report| &report.pci_device))
        };
        let of_host = self.by_host.get(lease.host.as_str());
        of_host.into_iter().flatten().filter(selected).cloned().collect()
    }

    /// Makes a change that can say of no other time than this who held these accelerators, and brings what is summed
    /// of it in line.
    pub(super) fn reattribute(
        &mut self,
        touched: Vec<(AcceleratorId, Span)>,
        change: impl FnOnce(&mut Self),
    ) {
        let before: Vec<_> = touched
            .into_iter()
            .filter_map(|(id, span)| {
                let span = whole_hours(self.open_and_summed(&id, span)?)?;
                let segments = holders::segments(&self.state, &id, span);
                Some((id, span, segments))
            })
            .collect();
        change(self);
        for (id, span, before) in before {
            let after = holders::segments(&self.state, &id, span);
            self.compare(&id, &before, &after);
        }
    }

    /// The part of a span of which anything is summed that may still change.
    pub(super) fn open_and_summed(&self, id: &AcceleratorId, span: Span) -> Option<Span> {
        let accelerator = self.state.accelerators.get(id)?;
        let summed = Span::new(accelerator.first_seen, accelerator.last_end)?;
        // A closed hour stays as it is: what it was made of may be gone.
        closed::open_part(self.state.closed_before, summed.overlap(&span)?)
    }

    /// Both cut the same whole hours.
    fn compare(&mut self, id: &AcceleratorId, before: &[Segment], after: &[Segment]) {
        let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
        while let (Some(was), Some(is)) = (before.peek().copied(), after.peek().copied()) {
            if let Some(span) = was.span.overlap(&is.span)
                && !was.answers_like(is)
            {
                self.answered_otherwise(id, span, was, is);
            }
            before.next_if(|was| was.span.end() <= is.span.end());
            after.next_if(|is| is.span.end() <= was.span.end());
        }
    }

    fn answered_otherwise(&mut self, id: &AcceleratorId, span: Span, was: &Segment, is: &Segment) {
        let alone = was.one_or_nobody().zip(is.one_or_nobody());
        let Some(((before, after), hours)) = alone.zip(inner_hours(span)) else {
            return self.mark_hours(id, span);
        };
        let edges = [(span.start(), hours.start()), (hours.end(), span.end())];
        for edge in edges.into_iter().filter_map(|(start, end)| Span::new(start, end)) {
            self.mark_hours(id, edge);
        }
        let (before, after) = (before.cloned(), after.cloned());
        self.relabel(Relabel { accelerator: id.clone(), hours, before, after });
    }

    fn relabel(&mut self, relabel: Relabel) {
        let mut key = HourKey { accelerator: relabel.accelerator.clone(), hour: relabel.hours.start() };
        if relabel.count() <= self.hours.len() {
            for hour in hours(relabel.hours) {
                key.hour = hour;
                if let Some(hour) = self.hours.get_mut(&key) {
                    hour.relabel(&relabel);
                }
            }
        } else {
            let of =
                |key: &HourKey| key.accelerator == relabel.accelerator && relabel.hours.contains(key.hour);
            self.hours.iter_mut().filter(|(key, _)| of(key)).for_each(|(_, hour)| hour.relabel(&relabel));
        }
        self.changed.relabelled += relabel.count();
        self.changed.relabels.push(relabel);
    }

    /// How many hours were relabelled since the last [`Fold::take`]: bounds what is written at once.
    pub fn relabelled(&self) -> usize {
        self.changed.relabelled
    }
}

impl Segment {
    /// Who, if it is one or nobody: then all of an hour has one name, and one more where it was idle.
    fn one_or_nobody(&self) -> Option<Option<&Holder>> {
        match self.holders.as_slice() {
            [] if self.unattributed.is_none_or(Unattributed::is_nobody) => Some(None),
            [one] => Some(Some(one)),
            _ => None,
        }
    }
}

/// From the first start to the last end.
pub(super) fn hull(a: Span, b: Span) -> Span {
    Span::new(a.start().min(b.start()), a.end().max(b.end())).expect("not shorter than either")
}

/// The hours that the span touches.
pub(super) fn whole_hours(span: Span) -> Option<Span> {
    Span::new(span.start().hour(), span.end().plus(-1).hour().plus(UtcMillis::HOUR))
}

/// The hours that lie in it as a whole.
pub(super) fn inner_hours(span: Span) -> Option<Span> {
    Span::new(span.start().plus(UtcMillis::HOUR - 1).hour(), span.end().hour())
}
