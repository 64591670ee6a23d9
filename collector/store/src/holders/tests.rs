use proptest::prelude::*;
use weighbridge_meter::{Tier, Trust};

use super::*;
use crate::{
    entry::{LeaseFact, Selector},
    presence::Presence,
    state::{Accelerator, HeldKey, Report},
};

fn span(start: i64, length: i64) -> Span {
    Span::new(UtcMillis(start), UtcMillis(start + length)).expect("not empty")
}

/// Who, by which evidence, from when, for how long, by which agent.
type Word = (usize, usize, i64, i64, usize);

/// Two of one allocator, one of another, and somebody in the first one's attempt of whom no more is known.
const WHO: [(&str, &str); 4] = [
    ("slurm:c/one", "slurm:c/1"),
    ("slurm:c/two", "slurm:c/2"),
    ("k8s:c/three", "k8s:c/3"),
    ("slurm:c/%3F", "slurm:c/1"),
];

/// One on the host, one on another that says the device is in it, a tenant's, and one that never reported it.
const AGENTS: [&str; 4] = ["agent-0", "agent-1", "guest", "stranger"];

fn principal(number: usize) -> Principal {
    WHO[number].0.parse().expect("valid")
}

fn report(host: &str, trust: Trust) -> Report {
    // Better than what the other host says of it, so that it is in this one.
    let tier = if host == "host" { Tier::A } else { Tier::B };
    Report { tier, trust, name: "device".into(), ..Report::unknown(host.into(), UtcMillis(0)) }
}

fn key(who: usize, attempt: &str, evidence: Evidence, start: i64) -> HeldKey {
    let agent = Some(AGENTS[0].parse().expect("valid"));
    let attempt = attempt.parse().expect("valid");
    HeldKey { principal: principal(who), attempt, evidence, agent, start: UtcMillis(start) }
}

fn held(words: &[Word]) -> (State, AcceleratorId) {
    let id: AcceleratorId = "GPU-0".parse().expect("valid");
    let mut state = State::default();
    let zero = UtcMillis(0);
    let reports = [("host", Trust::Host), ("other", Trust::Host), ("virtual", Trust::Guest)];
    let reports = AGENTS
        .iter()
        .zip(reports)
        .map(|(agent, (host, trust))| (agent.parse().expect("valid"), report(host, trust)));
    let reports = reports.collect();
    let accelerator =
        Accelerator { first_seen: zero, last_end: zero, presence: Presence::default(), reports };
    state.accelerators.insert(id.clone(), accelerator);
    for (index, &(who, evidence, start, length, agent)) in words.iter().enumerate() {
        let (principal, span) = (principal(who), span(start, length));
        let evidence = Evidence::ALL[evidence];
        // Leases are told apart by their names.
        let attempt = if evidence.is_agreed() { "lease" } else { WHO[who].1 };
        if evidence == Evidence::Lease {
            let lease = LeaseFact {
                lease: attempt.parse().expect("valid"),
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
            let agent = Some(AGENTS[agent].parse().expect("valid"));
            let key = HeldKey { agent, ..key(who, attempt, evidence, start) };
            state.hold(id.clone(), key, span.end());
        }
    }
    (state, id)
}

/// Whether a word counts.
fn counts(&(_, evidence, .., agent): &Word) -> bool {
    agent < 2 || Evidence::ALL[evidence] == Evidence::Lease
}

proptest! {
    #[test]
    fn at_every_moment_the_best_evidence_there_is_decides(
        words in prop::collection::vec(
            (0..WHO.len(), 0..Evidence::ALL.len(), 0_i64..40, 1_i64..30, 0..AGENTS.len()),
            0..12,
        ).prop_map(|words| {
            // Nobody leases anything to nobody.
            let named = |word: &Word| word.0 != 3 || !Evidence::ALL[word.1].is_agreed();
            words.into_iter().filter(named).collect::<Vec<_>>()
        }),
        (start, length) in (0_i64..40, 1_i64..40),
    ) {
        // Of two words that begin at once by the same evidence of the same agent the store keeps one.
        let mut words = words;
        words.sort_unstable_by_key(|(who, evidence, start, length, agent)| (*who, *evidence, *agent, *start, *length));
        words.dedup_by_key(|(who, evidence, start, _, agent)| (*who, *evidence, *agent, *start));
        let (state, id) = held(&words);
        let segments = segments_by_reason(&state, &id, span(start, length));
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
                let said = || words.iter().filter(|(_, _, start, length, _)| (*start..start + length).contains(&moment));
                let here = || said().filter(|word| counts(word));
                let rank_of = |word: &Word| Evidence::ALL[word.1].rank();
                let rank = here().map(rank_of).min();
                // What the operator leased excludes all else; apart from that each host says the best that it knows.
                let leased = here().any(|word| Evidence::ALL[word.1] == Evidence::Lease);
                let best_of = |agent: usize| here().filter(|word| word.4 == agent).map(rank_of).min();
                let best = || {
                    here().filter(|word| match leased {
                        true => Some(rank_of(word)) == rank,
                        false => Some(rank_of(word)) == best_of(word.4),
                    })
                };
                let attempt = |word: &Word| {
                    if Evidence::ALL[word.1].is_agreed() { "lease" } else { WHO[word.0].1 }
                };
                let mut who: Vec<(usize, &str)> = best().map(|word| (word.0, attempt(word))).collect();
                who.sort_unstable();
                who.dedup();
                if who.contains(&(0, WHO[0].1)) {
                    // The first one's own record says whose attempt it is.
                    who.retain(|(who, _)| *who != 3);
                }
                let why = match who.as_slice() {
                    [] if said().count() > 0 => Some(Unattributed::NotBelieved),
                    [] => Some(Unattributed::NoEvidence),
                    [(3, _)] => Some(Unattributed::Unnamed),
                    _ => None,
                };
                prop_assert_eq!(segment.unattributed, why);
                // What the operator leased has no host that saw it.
                let seen_by = |agent: usize| {
                    best().any(|word| word.4 == agent && Evidence::ALL[word.1] != Evidence::Lease)
                };
                let disputed = who.len() > 1 && match rank {
                    Some(0) => true,
                    Some(1) => who.iter().any(|(who, _)| *who == 2),
                    _ => false,
                } || who.len() > 1 && seen_by(0) && seen_by(1);
                prop_assert_eq!(segment.disputed, disputed);
                if why.is_some() {
                    who.clear();
                }
                let mut who: Vec<Principal> = who.into_iter().map(|(who, _)| principal(who)).collect();
                who.sort_unstable();
                let mut holders: Vec<Principal> =
                    segment.holders.iter().map(|(principal, _)| principal.clone()).collect();
                holders.sort_unstable();
                prop_assert_eq!(holders, who);
            }
        }
    }
}

#[test]
fn an_attempt_that_is_said_to_be_for_two_is_disputed() {
    let (mut state, id) = held(&[(0, 3, 0, 10, 0)]);
    let key = key(1, WHO[0].1, Evidence::SchedulerHook, 5);
    state.hold(id.clone(), key, UtcMillis(10));
    let segments = segments_by_reason(&state, &id, span(0, 10));
    assert_eq!(segments.iter().map(|segment| segment.disputed).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn of_more_claims_than_can_be_weighed_nobody_is_charged() {
    let many = |count: i64, at_once: bool| {
        let (mut state, id) = held(&[(0, 3, 0, 1, 0)]);
        for number in 0..count {
            let (start, end) = if at_once { (0, 10) } else { (number, number + 1) };
            let key = HeldKey {
                principal: format!("slurm:c/{number}").parse().expect("valid"),
                ..key(0, &format!("slurm:c/{number}"), Evidence::SchedulerHook, start)
            };
            state.hold(id.clone(), key, UtcMillis(end));
        }
        segments_by_reason(&state, &id, span(5, 10_000))
    };
    let crowd = Some(Unattributed::TooManyClaims);
    let few = many(40, true);
    assert!(few[0].unattributed.is_none() && few[0].holders.len() == 40);
    let at_once = many(100, true);
    assert_eq!((at_once[0].holders.len(), at_once[0].unattributed), (0, crowd));
    let in_a_row = many(20_000, false);
    assert!(in_a_row.len() == 1 && in_a_row[0].unattributed == crowd);
}

#[test]
fn a_crowded_hour_is_nobodys_and_what_is_said_of_a_moment_is_the_same_however_much_is_asked_for() {
    let (mut state, id) = held(&[(0, 3, 0, 1, 0)]);
    let mut hold = |number: i64, start: i64, end: i64| {
        let key = HeldKey {
            principal: format!("slurm:c/{number}").parse().expect("valid"),
            ..key(0, &format!("slurm:c/{number}"), Evidence::SchedulerHook, start)
        };
        state.hold(id.clone(), key, UtcMillis(end));
    };
    // A job every ten minutes for a year, and one hour in which somebody says more than can be.
    let ten = UtcMillis::HOUR / 6;
    (1..52_000).for_each(|number| hold(number, number * ten, number * ten + ten));
    let crowded = 1000 * UtcMillis::HOUR;
    (60_000..65_000).for_each(|number| hold(number, crowded + number, crowded + number + 1));
    let year = segments_by_reason(&state, &id, span(ten, 51_000 * ten));
    let of = |moment: i64| {
        let found = year.iter().find(|segment| segment.span.contains(UtcMillis(moment))).expect("covered");
        (found.holders.clone(), found.unattributed)
    };
    for moment in [ten, crowded - 1, crowded, crowded + 61_000, crowded + UtcMillis::HOUR, 50_000 * ten] {
        let alone = segments_by_reason(&state, &id, span(moment, 1));
        assert_eq!((alone[0].holders.clone(), alone[0].unattributed), of(moment), "{moment}");
        let crowded = (crowded..crowded + UtcMillis::HOUR).contains(&moment);
        assert_eq!(alone[0].unattributed, crowded.then_some(Unattributed::TooManyClaims), "{moment}");
    }
    assert_eq!(
        year.iter().filter(|segment| segment.unattributed == Some(Unattributed::TooManyClaims)).count(),
        1
    );
}

#[test]
fn the_later_of_two_starts_is_the_one_with_the_greater_number() {
    let (mut state, id) = held(&[(0, 3, 0, 1, 0)]);
    for restart in [9, 10] {
        let key = key(0, &format!("slurm:c/7+{restart}"), Evidence::SchedulerHook, 2);
        state.hold(id.clone(), key, UtcMillis(9));
    }
    let segments = segments_by_reason(&state, &id, span(3, 2));
    assert_eq!(segments[0].holders[0].1.as_str(), "slurm:c/7+10");
    assert_eq!(segments[0].holders.len(), 1);
}

#[test]
fn each_segment_has_one_state() {
    let of = |number: usize, disputed: bool, unattributed: Option<Unattributed>| {
        let holders = (0..number).map(|who| (principal(who), "try-1".parse().expect("valid"))).collect();
        let segment = Segment { span: span(0, 1), holders, shares: Vec::new(), disputed, unattributed };
        [segment.state(false), segment.state(true)]
    };
    for why in Unattributed::ALL {
        let idle = if why.is_nobody() { HeldState::Free } else { HeldState::Unattributed };
        assert_eq!(of(0, false, Some(why)), [HeldState::Unattributed, idle]);
    }
    assert_eq!(of(1, false, None), [HeldState::Attributed, HeldState::IdleHeld]);
    assert_eq!(of(2, false, None), [HeldState::Shared, HeldState::Shared]);
    assert_eq!(of(2, true, None), [HeldState::Disputed, HeldState::Disputed]);
}

#[test]
fn words_that_do_not_count_crowd_nobody_out() {
    let (mut state, id) = held(&[(0, 3, 0, 10, 0)]);
    for number in 0..20_000_i64 {
        let told = key(1, &format!("slurm:c/{number}"), Evidence::LeaseFile, number % 10);
        let agent = Some(AGENTS[2].parse().expect("valid"));
        state.hold(id.clone(), HeldKey { agent, ..told }, UtcMillis(20));
    }
    let segments = segments_by_reason(&state, &id, span(0, 20));
    let why: Vec<_> = segments.iter().map(|segment| (segment.holders.len(), segment.unattributed)).collect();
    assert_eq!(why, [(1, None), (0, Some(Unattributed::NotBelieved))]);
}

#[test]
fn a_tenants_own_word_counts_where_nobody_elses_does() {
    let words = [(0, 3, 0, 10, 2)];
    let (mut state, id) = held(&words);
    assert_eq!(segments_by_reason(&state, &id, span(0, 10))[0].unattributed, Some(Unattributed::NotBelieved));
    let accelerator = state.accelerators.get_mut(&id).expect("known");
    accelerator.reports.retain(|agent, _| agent.as_str() == AGENTS[2]);
    // A controller that is read from outside sees no holders, and silences nobody.
    let outside = Report { tier: Tier::C, ..report("host", Trust::Bmc) };
    accelerator.reports.insert("controller".parse().expect("valid"), outside);
    assert_eq!(segments_by_reason(&state, &id, span(0, 10))[0].unattributed, None);
}
