//! From sightings of holders to holdings.
//!
//! A holding runs from the first look that showed its holder to the last; in between it is confirmed once a batch.
//! When looks failed for longer than a minute, the time in between is not claimed.

use weighbridge_meter::{AcceleratorId, AttemptId, Evidence, Holding, Principal, Span, UtcMillis};

/// Two sightings further apart than this do not make one holding.
const LONGEST_MS: i64 = 60_000;

/// Somebody who holds something, and how we know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// As mapped to customers.
    pub principal: Principal,
    /// In which attempt.
    pub attempt: AttemptId,
    /// How we know.
    pub evidence: Evidence,
}

/// A holder in one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Who.
    pub(super) who: Who,
    /// Since when it is known to hold it, which may be before the look.
    pub(super) since: UtcMillis,
    /// When what holds it began: it held nothing before.
    pub(super) begun: UtcMillis,
}

/// Who was seen with what, from when to when.
#[derive(Clone, Debug, Default)]
pub(super) struct Sightings {
    held: Vec<Held>,
    ended: Vec<Held>,
}

#[derive(Clone, Debug)]
struct Held {
    accelerator: AcceleratorId,
    who: Who,
    from: UtcMillis,
    to: UtcMillis,
}

impl Sightings {
    /// These and nobody else hold the device now. Whether they are others than at the last sighting.
    pub(super) fn see(&mut self, id: &AcceleratorId, holders: &[Who], wall: UtcMillis) -> bool {
        let seen = |who: &Who| Seen { who: who.clone(), since: wall, begun: UtcMillis(i64::MIN) };
        self.see_since(id, &holders.iter().map(seen).collect::<Vec<_>>(), wall)
    }

    /// The same where more is known than that they hold it now.
    pub(super) fn see_since(&mut self, id: &AcceleratorId, holders: &[Seen], wall: UtcMillis) -> bool {
        let mut changed = false;
        for Seen { who, since, begun } in holders {
            let from = *since.min(&wall);
            match self.held.iter_mut().find(|held| held.accelerator == *id && held.who == *who) {
                Some(held) if wall.since(held.to) <= LONGEST_MS && *begun <= held.to => held.to = wall,
                Some(held) if *begun > held.to => {
                    // Another run of the same.
                    self.ended.push(held.clone());
                    (held.from, held.to) = (from, wall);
                    changed = true;
                }
                Some(held) => {
                    self.ended.push(held.clone());
                    (held.from, held.to) = (wall, wall);
                }
                None => {
                    self.held.push(Held { accelerator: id.clone(), who: who.clone(), from, to: wall });
                    changed = true;
                }
            }
        }
        let ended = &mut self.ended;
        self.held.retain(|held| {
            let stays = held.accelerator != *id || holders.iter().any(|seen| seen.who == held.who);
            if !stays {
                ended.push(held.clone());
                changed = true;
            }
            stays
        });
        changed
    }

    /// What was held since the last call; accelerators of one holder and span in one record.
    pub(super) fn confirm(&mut self) -> Vec<Holding> {
        let mut spans: Vec<Held> = std::mem::take(&mut self.ended);
        for held in &mut self.held {
            spans.push(held.clone());
            held.from = held.to;
        }
        let mut holdings: Vec<Holding> = Vec::new();
        for Held { accelerator, who, from, to } in spans {
            let Some(span) = Span::new(from, to) else { continue };
            let Who { principal, attempt, evidence } = who;
            let same = holdings.iter_mut().find(|other| {
                other.span == span
                    && other.attempt == attempt
                    && other.principal == principal
                    && other.evidence == evidence
            });
            match same {
                Some(other) => other.accelerators.push(accelerator),
                None => holdings.push(Holding {
                    principal,
                    attempt,
                    accelerators: vec![accelerator],
                    span,
                    evidence,
                }),
            }
        }
        holdings
    }
}
