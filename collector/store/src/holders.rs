//! Who held an accelerator when: claims of different weight, cut into segments with one answer each.

use weighbridge_meter::{AcceleratorId, AttemptId, Evidence, Principal, Span, UtcMillis};

use crate::{
    entry::{LeaseFact, Selector},
    hour::HeldState,
    state::State,
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
}

impl Segment {
    /// The state of measured time in this segment.
    pub fn state(&self, idle: bool) -> HeldState {
        match (self.holders.len(), idle) {
            (0, true) => HeldState::Free,
            (0, false) => HeldState::Unattributed,
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
}

/// Whether a lease speaks of this accelerator on its host.
pub fn selects(lease: &LeaseFact, id: &AcceleratorId, pci_device: &str) -> bool {
    match &lease.selector {
        Selector::All => true,
        Selector::Accelerator(leased) => leased == id,
        Selector::Count { pci_device: leased, .. } => leased.eq_ignore_ascii_case(pci_device),
    }
}

/// Cuts `span` where the answer changes. The evidence of the best rank decides; a lease excludes all else.
/// Claims of leases that contradict each other are a dispute, processes of several principals are sharing.
pub fn segments(state: &State, id: &AcceleratorId, span: Span) -> Vec<Segment> {
    let mut claims = claims(state, id, span);
    claims.sort_unstable_by_key(|claim| claim.span.start());
    let mut cuts: Vec<UtcMillis> = vec![span.start(), span.end()];
    cuts.extend(claims.iter().flat_map(|claim| [claim.span.start(), claim.span.end()]));
    cuts.sort_unstable();
    cuts.dedup();
    let mut segments: Vec<Segment> = Vec::with_capacity(cuts.len() - 1);
    let mut coming = claims.iter().peekable();
    let mut here: Vec<&Claim<'_>> = Vec::new();
    for pair in cuts.windows(2) {
        let Some(piece) = Span::new(pair[0], pair[1]) else { continue };
        here.retain(|claim| claim.span.contains(piece.start()));
        here.extend(std::iter::from_fn(|| coming.next_if(|claim| claim.span.contains(piece.start()))));
        let rank = here.iter().map(|claim| claim.rank).min();
        let mut holders: Vec<(Principal, AttemptId)> = here
            .iter()
            .filter(|claim| Some(claim.rank) == rank)
            .map(|claim| (claim.principal.clone(), claim.attempt.clone()))
            .collect();
        holders.sort_unstable();
        holders.dedup();
        let disputed = holders.len() > 1 && rank == Some(Evidence::Lease.rank());
        match segments.last_mut() {
            Some(last) if last.holders == holders && last.disputed == disputed => {
                last.span = Span::new(last.span.start(), piece.end()).expect("longer than before");
            }
            _ => segments.push(Segment { span: piece, holders, disputed }),
        }
    }
    segments
}

fn claims<'a>(state: &'a State, id: &AcceleratorId, span: Span) -> Vec<Claim<'a>> {
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
                });
            }
        }
    }
    for (held, end) in state.held.get(id).into_iter().flatten() {
        if let Some(overlap) = Span::new(held.start, *end).and_then(|held| held.overlap(&span)) {
            let rank = held.evidence.rank();
            claims.push(Claim { span: overlap, principal: &held.principal, attempt: &held.attempt, rank });
        }
    }
    claims
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

    fn principal(number: usize) -> Principal {
        format!("uid:gpu/{number}").parse().expect("valid")
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
            let attempt: AttemptId = "try-1".parse().expect("valid");
            let evidence = Evidence::ALL[evidence];
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
            words in prop::collection::vec((0_usize..3, 0_usize..3, 0_i64..40, 1_i64..30), 0..12),
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
                prop_assert!((&pair[0].holders, pair[0].disputed) != (&pair[1].holders, pair[1].disputed));
            }
            for segment in &segments {
                for moment in segment.span.start().0..segment.span.end().0 {
                    let here = || words.iter().filter(|(.., start, length)| (*start..start + length).contains(&moment));
                    let rank = here().map(|(_, evidence, ..)| Evidence::ALL[*evidence].rank()).min();
                    let mut who: Vec<Principal> = here()
                        .filter(|(_, evidence, ..)| Some(Evidence::ALL[*evidence].rank()) == rank)
                        .map(|(who, ..)| principal(*who))
                        .collect();
                    who.sort_unstable();
                    who.dedup();
                    prop_assert_eq!(segment.disputed, rank == Some(0) && who.len() > 1);
                    let holders: Vec<Principal> =
                        segment.holders.iter().map(|(principal, _)| principal.clone()).collect();
                    prop_assert_eq!(holders, who);
                }
            }
        }
    }

    #[test]
    fn each_segment_has_one_state() {
        let of = |number: usize, disputed: bool| {
            let holders = (0..number).map(|who| (principal(who), "try-1".parse().expect("valid"))).collect();
            let segment = Segment { span: span(0, 1), holders, disputed };
            [segment.state(false), segment.state(true)]
        };
        assert_eq!(of(0, false), [HeldState::Unattributed, HeldState::Free]);
        assert_eq!(of(1, false), [HeldState::Attributed, HeldState::IdleHeld]);
        assert_eq!(of(2, false), [HeldState::Shared, HeldState::Shared]);
        assert_eq!(of(2, true), [HeldState::Disputed, HeldState::Disputed]);
    }
}
