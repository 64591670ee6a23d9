//! Windows and gaps into hours: added at once where nothing covers their time, and made anew where something does.

use std::collections::BTreeMap;

use weighbridge_meter::{
    AgentId, Doubt, EpochId, Estimate, Estimator, Gap, Signs, Span, Tier, Trust, Use, UtcMillis, Window,
    window::Coverage,
};

use super::{Fold, Opened, What, hours, shifted};
use crate::{
    State,
    holders::{self, Segment},
    hour::{Holder, Hour, HourKey, Spans, UsageKey},
    ledger::CLOCK_TOLERANCE_MS,
    witness::{Teller, Testimony},
};

/// A window or gap of one hour with what decides which comes first.
struct Candidate {
    trust: Trust,
    tier: Tier,
    agent: AgentId,
    epoch: EpochId,
    index: u64,
    received: UtcMillis,
    window: Window,
}

/// What each epoch of each agent said first.
#[derive(Default)]
struct Epochs(BTreeMap<AgentId, BTreeMap<EpochId, Spans>>);

impl Epochs {
    /// The parts of `piece` that no other epoch of the agent spoke of before. Two epochs that overlap are two
    /// hosts with one identity, or a spool that was set back: what came first stays, whatever its tier.
    fn first(&mut self, agent: &AgentId, epoch: EpochId, piece: Span) -> Vec<Span> {
        let of_agent = self.0.entry(agent.clone()).or_default();
        let mut parts = vec![piece];
        for (_, others) in of_agent.iter().filter(|(other, _)| **other != epoch) {
            parts = parts.into_iter().flat_map(|part| others.missing(part)).collect();
        }
        let own = of_agent.entry(epoch).or_default();
        parts.iter().for_each(|part| own.insert(*part));
        parts
    }
}

impl Fold {
    pub(super) fn window(&mut self, agent: &AgentId, received: UtcMillis, window: Window) {
        let weighed = Weighed::of(&self.estimator, &self.state, received, window);
        let window = &weighed.window;
        for hour in hours(window.span) {
            let key = HourKey { accelerator: window.accelerator.clone(), hour };
            let within = Span::new(hour, hour.plus(UtcMillis::HOUR)).expect("an hour is not empty");
            let Some(piece) = window.span.overlap(&within) else { continue };
            let slot = self.hours.entry(key.clone()).or_default();
            slot.agents.insert(agent.clone());
            self.changed.hours.insert(key.clone());
            if self.state.closed_before.is_some_and(|closed| hour < closed) {
                // It is not made anew, so what came first counts.
                for piece in slot.covered.missing(piece) {
                    weighed.add(&self.state, agent, slot, piece);
                }
            } else if slot.covered.touches(piece) {
                // Its sums wait; that it was measured is known at once.
                slot.covered.insert(piece);
                self.mark_hours(&key.accelerator, within);
            } else {
                weighed.add(&self.state, agent, slot, piece);
            }
        }
    }

    pub(super) fn gap(&mut self, agent: &AgentId, gap: &Gap) {
        for hour in hours(gap.span) {
            let key = HourKey { accelerator: gap.accelerator.clone(), hour };
            let within = Span::new(hour, hour.plus(UtcMillis::HOUR)).expect("an hour is not empty");
            let Some(piece) = gap.span.overlap(&within) else { continue };
            let slot = self.hours.entry(key.clone()).or_default();
            slot.agents.insert(agent.clone());
            slot.gaps.entry(gap.cause).or_default().insert(piece);
            self.changed.hours.insert(key);
        }
    }

    /// Makes an hour anew from all batches that touch it. Each accelerator-second counts from one source:
    /// of an agent's epochs the first in the ledger, then by trust, tier, agent id, and first in the ledger. What the
    /// others say of it is kept beside it.
    pub fn refold<'a>(&mut self, key: &HourKey, batches: impl IntoIterator<Item = &'a Opened>) {
        let within = Span::new(key.hour, key.hour.plus(UtcMillis::HOUR)).expect("an hour is not empty");
        if let Some(marked) = self.changed.refold.get_mut(&key.accelerator) {
            marked.remove(within);
            if marked.is_empty() {
                self.changed.refold.remove(&key.accelerator);
            }
        }
        // Between the first and the last window there may be hours that no batch touches.
        let Some(old) = self.hours.remove(key) else { return };
        let mut slot = Hour { agents: old.agents, gaps: old.gaps, ..Hour::default() };
        let mut candidates = Vec::new();
        for entry in batches {
            let What::Batch(batch) = &entry.what else { continue };
            if is_void(&self.state, entry.place.index, entry.received, key.hour) {
                continue;
            }
            let minutes = self.state.offset_minutes(&batch.agent, batch.boot, entry.place.index);
            let accelerator = self.state.accelerators.get(&key.accelerator);
            let report = accelerator.and_then(|accelerator| accelerator.reports.get(&batch.agent));
            for window in &batch.windows {
                let span = shifted(window.span, minutes);
                if window.accelerator == key.accelerator && span.overlap(&within).is_some() {
                    candidates.push(Candidate {
                        trust: report.map_or(Trust::Guest, |report| report.trust),
                        tier: window.tier,
                        agent: batch.agent.clone(),
                        epoch: batch.epoch,
                        index: entry.place.index,
                        received: entry.received,
                        window: Window { span, ..window.clone() },
                    });
                }
            }
        }
        candidates.sort_by_key(|candidate| candidate.index);
        let mut epochs = Epochs::default();
        let mut heard: Vec<(Candidate, Vec<Span>)> = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let Some(piece) = candidate.window.span.overlap(&within) else { continue };
            let parts = epochs.first(&candidate.agent, candidate.epoch, piece);
            heard.push((candidate, parts));
        }
        heard.sort_by(|(a, _), (b, _)| {
            (a.trust, a.tier, &a.agent, a.index).cmp(&(b.trust, b.tier, &b.agent, b.index))
        });
        let mut testimony = Testimony::default();
        for (Candidate { agent, received, window, .. }, parts) in heard {
            let teller = Teller { agent, source: window.source };
            let weighed = Weighed::of(&self.estimator, &self.state, received, window);
            for part in parts {
                let counts = slot.covered.missing(part);
                testimony.hear(&teller, &weighed.window, &weighed.estimate, part, &counts);
                for piece in counts {
                    weighed.add(&self.state, &teller.agent, &mut slot, piece);
                }
            }
        }
        slot.witnesses = testimony.witnesses();
        self.hours.insert(key.clone(), slot);
        self.changed.hours.insert(key.clone());
    }
}

/// By what the operations of several holders are divided: how long the driver says kernels of each were resident, else
/// the shares that they were given, else one like the other. Time is always divided equally: all of them held it.
struct Weights {
    each: Vec<u64>,
    all: u64,
    /// Whether the driver says so.
    told: bool,
}

impl Weights {
    fn of(segment: &Segment, uses: &[Use]) -> Self {
        // More is no measure of time, and the sum of all has to fit.
        const MOST: u64 = 1 << 48;
        let busy = |(_, attempt): &Holder| {
            let used = uses.iter().filter(|told| holders::is_same_attempt(&told.attempt, attempt));
            used.map(|told| told.busy_us.min(MOST)).sum::<u64>().min(MOST)
        };
        let shares = || {
            let given = segment.shares.iter().map(|shares| (*shares).min(MOST)).collect();
            let equal = || vec![1; segment.holders.len()];
            if segment.shares.iter().any(|shares| *shares > 0) { given } else { equal() }
        };
        // What is told of somebody who is none of the holders may be one of them by another name.
        let of_holder = |told: &Use| {
            told.busy_us == 0
                || segment.holders.iter().any(|(_, attempt)| holders::is_same_attempt(&told.attempt, attempt))
        };
        let told: Vec<u64> = match segment.disputed || uses.is_empty() || !uses.iter().all(of_holder) {
            true => Vec::new(),
            false => segment.holders.iter().map(busy).collect(),
        };
        let is_told = told.iter().any(|busy| *busy > 0);
        let each = if is_told { told } else { shares() };
        Self { all: each.iter().sum(), each, told: is_told }
    }
}

/// A window with all that its sums are made of.
struct Weighed {
    window: Window,
    estimate: Estimate,
    signs: Signs,
    /// Why it cannot be as it says: then it is certain of nothing.
    doubt: Option<Doubt>,
}

/// Agents keep what they measured for so long at most, and as a rule for a week.
const OLDEST_MS: i64 = 400 * UtcMillis::DAY;

/// Whether it can have been measured then, by when it was received.
pub(super) fn dated(span: Span, received: UtcMillis) -> Option<Doubt> {
    if span.end() > received.plus(CLOCK_TOLERANCE_MS) {
        return Some(Doubt::Future);
    }
    (span.start() < received.plus(-OLDEST_MS)).then_some(Doubt::Past)
}

/// Whether what was said of an hour says nothing any more: from a close on nothing is made anew of what had not come yet
/// when it was said, or its payload would have to be kept until then, be it for ever. What is summed of it stays until
/// its hour is made anew of something else.
fn is_void(state: &State, index: u64, received: UtcMillis, hour: UtcMillis) -> bool {
    state.closed_at.is_some_and(|closed| index < closed) && is_ahead(hour, received)
}

/// Whether nothing of an hour had come yet when something was received.
pub(crate) fn is_ahead(hour: UtcMillis, received: UtcMillis) -> bool {
    hour > received.plus(CLOCK_TOLERANCE_MS)
}

/// The part of what an agent saw that it can have seen.
pub(super) fn within_reach(span: Span, received: UtcMillis) -> Option<Span> {
    span.overlap(&Span::new(received.plus(-OLDEST_MS), received.plus(CLOCK_TOLERANCE_MS))?)
}

impl Weighed {
    fn of(estimator: &Estimator, state: &State, received: UtcMillis, window: Window) -> Self {
        let device = state.accelerators.get(&window.accelerator);
        let hardware =
            device.map(|device| device.hardware(estimator.table(), window.span.start())).unwrap_or_default();
        let doubt = dated(window.span, received).or_else(|| estimator.doubt(hardware, &window));
        let estimate = estimator.estimate(hardware, &window);
        let estimate = if doubt.is_some() { estimate.doubted(window.span.millis()) } else { estimate };
        Self { estimate, signs: Signs::of(&hardware, &window), doubt, window }
    }

    /// Adds the `piece` of it that nothing covers yet.
    fn add(&self, state: &State, agent: &AgentId, slot: &mut Hour, piece: Span) {
        slot.covered.insert(piece);
        if let Some(doubt) = self.doubt {
            *slot.doubts.entry((agent.clone(), doubt)).or_default() += piece.millis();
        }
        let window = &self.window;
        let idle = window.counters.idle();
        let whole = window.span.millis();
        let interpolated_of = |from: u64, to: u64| match window.coverage {
            Coverage::Measured => 0,
            Coverage::Interpolated { missing_ms } => missing_ms * to / whole - missing_ms * from / whole,
        };
        for segment in holders::segments(state, &window.accelerator, piece) {
            let from = segment.span.start().since(window.span.start()).unsigned_abs();
            let to = from + segment.span.millis();
            let (part, signs) = (self.estimate.piece(from, to, whole), self.signs.piece(from, to, whole));
            let held = segment.state(idle);
            let interpolated = interpolated_of(from, to);
            let measured = (to - from) - interpolated;
            if segment.holders.is_empty() {
                let key = UsageKey { holder: None, state: held };
                slot.usage.entry(key).or_default().add(&part, &signs, measured, interpolated);
                continue;
            }
            let holders = segment.holders.len() as u64;
            let weights = Weights::of(&segment, &window.uses);
            let mut before = 0;
            for (index, holder) in (0..).zip(segment.holders) {
                let of_time = |millis: u64| millis * (index + 1) / holders - millis * index / holders;
                let key = UsageKey::of(holder, held);
                let from = before;
                before += weights.each.get(usize::try_from(index).unwrap_or_default()).unwrap_or(&0);
                let share = match holders {
                    1 => part,
                    _ => part.shared(from, before, weights.all, weights.told),
                };
                slot.usage.entry(key).or_default().add(
                    &share,
                    &signs.piece(index, index + 1, holders),
                    of_time(measured),
                    of_time(interpolated),
                );
            }
        }
    }
}
