use num_bigint::BigInt;
use num_rational::BigRational;
use proptest::{prelude::*, test_runner::FileFailurePersistence};

use super::*;

fn percent(text: &str) -> Share {
    text.parse().unwrap()
}

fn holding(owner: usize, asset: usize, share: &str) -> Holding {
    Holding { owner, asset, stake: Stake::exact(percent(share)) }
}

fn between(owner: usize, asset: usize, least: &str, most: &str) -> Holding {
    Holding { owner, asset, stake: Stake::between(percent(least), percent(most)).unwrap() }
}

/// Persons first, then so many companies.
fn graph(persons: usize, companies: usize, holdings: &[Holding]) -> Ownership {
    let holders = vec![Holder::Last; persons].into_iter().chain(vec![Holder::Company; companies]);
    Ownership::new(holders.collect(), holdings.iter().copied()).unwrap()
}

fn shown(owners: &Owners) -> String {
    let one = |one: &Effective| {
        let (least, most) = one.range();
        let range = if least == most { least.to_string() } else { format!("{least}..{most}") };
        format!("{}:{range} {:?}", one.owner, one.standing(Share::QUARTER))
    };
    let all: Vec<String> = owners.owners.iter().map(one).collect();
    let (least, most) = owners.unknown;
    let closed = if owners.closed_circle { " closed" } else { "" };
    format!("{} unknown {least}..{most}{closed}", all.join(", "))
}

#[test]
fn a_chain_multiplies_and_paths_add_up() {
    let owned = graph(
        2,
        3,
        &[
            // Person 0 holds 2 by company 3 and by company 4, person 1 the rest of both.
            holding(3, 2, "60"),
            holding(4, 2, "40"),
            holding(0, 3, "25"),
            holding(1, 3, "75"),
            holding(0, 4, "25"),
            holding(1, 4, "75"),
        ],
    );
    assert_eq!(
        shown(&owned.owners_of(2)),
        "1:75 Reaches, 3:60 Reaches, 4:40 Reaches, 0:25 Reaches unknown 0..0"
    );
    assert_eq!(shown(&owned.owners_of(0)), " unknown 0..0");
}

#[test]
fn a_line_is_met_exactly_through_chains_and_circles_and_missed_by_a_millionth() {
    let through = |share: &str| {
        // 50 % of 50 % of it.
        let owned = graph(1, 3, &[holding(0, 3, share), holding(3, 2, "50"), holding(2, 1, "100")]);
        owned.owners_of(1).owners.iter().find(|one| one.owner == 0).unwrap().standing(Share::QUARTER)
    };
    assert_eq!((through("50"), through("49.9999")), (Standing::Reaches, Standing::Below));
    let round = |share: &str| {
        // Company 1 holds two thirds of itself by company 2: what is paid out comes back, again and again.
        let owned = graph(1, 2, &[holding(0, 1, share), holding(2, 1, "66.6667"), holding(1, 2, "100")]);
        owned.owners_of(1).owners.iter().find(|one| one.owner == 0).unwrap().standing(Share::QUARTER)
    };
    // 8.3333 % of what stays, which is 33.3333 %: 0.083333 / 0.333333 is below a quarter, and 8.333325 would be it.
    assert_eq!((round("8.3333"), round("8.3334")), (Standing::Below, Standing::Reaches));
    let half = graph(1, 2, &[holding(0, 1, "12.5"), holding(2, 1, "50"), holding(1, 2, "100")]);
    assert_eq!(
        half.owners_of(1).owners.iter().find(|one| one.owner == 0).unwrap().standing(Share::QUARTER),
        Standing::Reaches
    );
}

#[test]
fn what_nobody_told_of_is_unknown_and_a_closed_circle_is_said_and_stops_nothing() {
    let owned = graph(1, 2, &[holding(0, 1, "30"), holding(2, 1, "20")]);
    assert_eq!(shown(&owned.owners_of(1)), "0:30 Reaches, 2:20 Below unknown 70..70");
    // 2 and 3 hold all of each other; 1 belongs to them by half.
    let owned =
        graph(1, 3, &[holding(0, 1, "50"), holding(2, 1, "50"), holding(2, 3, "100"), holding(3, 2, "100")]);
    let owners = owned.owners_of(1);
    assert!(owners.closed_circle);
    assert_eq!(owners.unknown, (percent("50"), percent("50")));
    let person = owners.owners.iter().find(|one| one.owner == 0).unwrap();
    assert_eq!(person.range(), (percent("50"), percent("50")));
    assert!(
        owners
            .owners
            .iter()
            .filter(|one| one.owner > 1)
            .all(|one| one.standing(Share::QUARTER) != Standing::Below)
    );
}

#[test]
fn ranges_are_narrowed_by_what_is_left_and_give_ranges() {
    let owned = graph(2, 1, &[between(0, 2, "25", "50"), between(1, 2, "60", "100")]);
    assert_eq!(shown(&owned.owners_of(2)), "1:60..75 Reaches, 0:25..40 Reaches unknown 0..15");
    let owned = graph(1, 2, &[between(0, 1, "40", "60"), between(1, 2, "50", "75")]);
    assert_eq!(shown(&owned.owners_of(2)), "1:50..75 Reaches, 0:20..45 Possible unknown 55..80");
}

#[test]
fn more_than_the_whole_is_named_and_makes_ranges() {
    let owned = graph(2, 1, &[holding(0, 2, "60"), holding(1, 2, "60")]);
    assert_eq!(owned.overheld(), [2]);
    assert_eq!(shown(&owned.owners_of(2)), "0:40..60 Reaches, 1:40..60 Reaches unknown 0..20");
    let bad =
        |holding| Ownership::new(vec![Holder::Last, Holder::Company], [holding]).unwrap_err().to_string();
    assert_eq!(bad(holding(5, 1, "1")), "holding 0: there is no party 5, expected a number below 2");
    assert_eq!(bad(holding(1, 0, "1")), "holding 0: party 0 is a person or a body that has no owners");
}

#[test]
fn listed_owners_count_together_and_by_steps() {
    // OFAC's FAQ 401: X holds 25 % of A and 25 % of B, and both hold 50 % of C: nothing is blocked.
    let owned =
        graph(1, 3, &[holding(0, 1, "25"), holding(0, 2, "25"), holding(1, 3, "50"), holding(2, 3, "50")]);
    assert_eq!(owned.aggregate(&[0], Share::HALF)[1..], [Standing::Below; 3]);
    // X holds 50 % of A and 10 % of B, A holds 40 % of B: both are blocked.
    let owned = graph(1, 2, &[holding(0, 1, "50"), holding(0, 2, "10"), holding(1, 2, "40")]);
    assert_eq!(owned.aggregate(&[0], Share::HALF), [Standing::Reaches; 3]);
    let owned = graph(1, 2, &[holding(0, 1, "49.9999"), holding(0, 2, "10"), holding(1, 2, "40")]);
    assert_eq!(owned.aggregate(&[0], Share::HALF), [Standing::Reaches, Standing::Below, Standing::Below]);
    let owned = graph(2, 1, &[between(0, 2, "20", "30"), holding(1, 2, "25")]);
    assert_eq!(owned.aggregate(&[0, 1, 9], Share::HALF)[2], Standing::Possible);
}

#[test]
fn who_holds_more_than_half_and_who_controls_belong_together() {
    // 0 holds 1 by 60 %; both hold 2 by 30 % each; 3 and 4 by exactly half; 5 is controlled by 4.
    let owned = graph(
        1,
        5,
        &[
            holding(0, 1, "60"),
            holding(0, 2, "30"),
            holding(1, 2, "30"),
            holding(0, 3, "50"),
            holding(3, 4, "50"),
        ],
    );
    assert_eq!(owned.control_groups(&[(4, 5)]), [vec![0, 1, 2], vec![4, 5]]);
}

#[test]
fn shares_are_read_and_written_as_percentages() {
    for text in ["0", "100", "12.5", "0.0001", "33.3333", "99.9999"] {
        assert_eq!(percent(text).to_string(), text);
    }
    for bad in ["", ".", "100.0001", "101", "-1", "1.00000", "1,5", "1e1", " 1", "٣", "1.", "0001"] {
        assert!(bad.parse::<Share>().is_err(), "{bad}");
    }
    assert_eq!(percent("25"), Share::QUARTER);
}

/// Effective shares of everybody in everything by solving for all parties at once, in fractions; `None` where that
/// cannot be.
fn slowly(shares: &[Vec<u32>]) -> Option<Vec<Vec<BigRational>>> {
    let parties = shares.len();
    let fraction = |share: u32| BigRational::new(BigInt::from(share), BigInt::from(1_000_000));
    let held: Vec<Vec<BigRational>> =
        shares.iter().map(|row| row.iter().map(|share| fraction(*share)).collect()).collect();
    let (zero, one) = (fraction(0), fraction(1_000_000));
    // Columns of x where (1 - A) x = A.
    let mut left: Vec<Vec<BigRational>> = (0..parties)
        .map(|row| {
            (0..parties)
                .map(|column| (if row == column { one.clone() } else { zero.clone() }) - &held[row][column])
                .collect()
        })
        .collect();
    let mut right = held;
    for column in (0..parties).rev() {
        let pivot = (0..=column).rev().find(|row| left[*row][column] != zero)?;
        left.swap(column, pivot);
        right.swap(column, pivot);
        for row in 0..parties {
            if row == column || left[row][column] == zero {
                continue;
            }
            let factor = &left[row][column] / &left[column][column];
            for other in 0..parties {
                let (of_left, of_right) = (&factor * &left[column][other], &factor * &right[column][other]);
                left[row][other] -= of_left;
                right[row][other] -= of_right;
            }
        }
    }
    let solved =
        (0..parties).map(|row| right[row].iter().map(|value| value / &left[row][row]).collect()).collect();
    Some(solved)
}

/// Stakes as told, from and to, and stakes inside them that do not come to more than the whole: rows are owners. The
/// first two are persons.
fn any_graph(parties: usize) -> impl Strategy<Value = (Vec<Holding>, Vec<Vec<u32>>)> {
    let stake = (0..parties, 2..parties, 0_u32..=100, 0_u32..=60, 0_u32..=100, any::<bool>());
    prop::collection::vec(stake, 0..3 * parties).prop_map(move |stakes| {
        let mut truth = vec![vec![0_u32; parties]; parties];
        let mut holdings: BTreeMap<(usize, usize), (u32, u32)> = BTreeMap::new();
        for (owner, asset, share, width, place, exact) in stakes {
            let taken: u32 = truth.iter().map(|row| row[asset]).sum();
            // Whole percents, and fourths of one where there are several.
            let share = (share * 10_000).min(1_000_000 - taken);
            if truth[owner][asset] > 0 || share == 0 {
                continue;
            }
            truth[owner][asset] = share;
            let width = if exact { 0 } else { width * 10_000 };
            let below = width * place / 100;
            holdings.insert(
                (owner, asset),
                (share.saturating_sub(below), (share + width - below).min(1_000_000)),
            );
        }
        let told = holdings.into_iter().map(|((owner, asset), (least, most))| Holding {
            owner,
            asset,
            stake: Stake::between(Share(least), Share(most)).unwrap(),
        });
        (told.collect(), truth)
    })
}

fn parts(fraction: &BigRational) -> BigRational {
    fraction * BigRational::from(BigInt::from(1_000_000_000_000_000_000_u64))
}

/// Which parties listed owners reach, by adding up what is reached until nothing more is.
fn naively_reached(parties: usize, listed: &[usize], line: u64, held: &[(usize, usize, u64)]) -> Vec<bool> {
    let mut reached: Vec<bool> = (0..parties).map(|party| listed.contains(&party)).collect();
    loop {
        let sum = |party| -> u64 {
            held.iter().filter(|(owner, asset, _)| *asset == party && reached[*owner]).map(|one| one.2).sum()
        };
        let next: Vec<bool> = (0..parties).map(|party| reached[party] || sum(party) >= line).collect();
        if next == reached {
            return reached;
        }
        reached = next;
    }
}

/// Who belongs together, as a relation that is closed step by step.
fn naively_together(
    parties: usize,
    controls: &[(usize, usize)],
    held: &[(usize, usize, u64)],
) -> Vec<Vec<bool>> {
    let mut together = vec![vec![false; parties]; parties];
    (0..parties).for_each(|party| together[party][party] = true);
    for &(one, other) in controls {
        (together[one][other], together[other][one]) = (true, true);
    }
    loop {
        let before = together.clone();
        for (one, middle, other) in
            (0..parties.pow(3)).map(|at| (at / parties / parties, at / parties % parties, at % parties))
        {
            together[one][other] |= together[one][middle] && together[middle][other];
        }
        for (party, asset) in (0..parties * parties).map(|at| (at / parties, at % parties)) {
            let of_its = held.iter().filter(|(owner, of, _)| *of == asset && together[party][*owner]);
            if of_its.map(|one| one.2).sum::<u64>() > 500_000 {
                (together[party][asset], together[asset][party]) = (true, true);
            }
        }
        if together == before {
            return together;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)), ..ProptestConfig::with_cases(10_000)
    })]

    #[test]
    fn results_hold_the_truth_of_an_independent_slow_method(
        (holdings, truth) in (3_usize..8).prop_flat_map(any_graph),
        listed in prop::collection::vec(0_usize..8, 0..3),
        controls in prop::collection::vec((0_usize..8, 0_usize..8), 0..2),
    ) {
        let parties = truth.len();
        let owned = graph(2, parties - 2, &holdings);
        let held: Vec<(usize, usize, u64)> = (0..parties * parties)
            .map(|at| (at / parties, at % parties))
            .map(|(owner, asset)| (owner, asset, u64::from(truth[owner][asset])))
            .collect();
        let exact = holdings.iter().all(|holding| holding.stake.least() == holding.stake.most());
        let reached = naively_reached(parties, &listed, 500_000, &held);
        for (found, reached) in owned.aggregate(&listed, Share::HALF).into_iter().zip(reached) {
            match found {
                Standing::Reaches => prop_assert!(reached),
                Standing::Below => prop_assert!(!reached),
                Standing::Possible => prop_assert!(!exact),
            }
        }
        let controls: Vec<(usize, usize)> =
            controls.into_iter().filter(|(one, other)| (*one).max(*other) < parties).collect();
        let together = naively_together(parties, &controls, &held);
        let (possible, certain) = (owned.control_groups(&controls), owned.certain_control_groups(&controls));
        let is = |groups: &[Vec<usize>], one, other| {
            groups.iter().any(|group| group.contains(&one) && group.contains(&other))
        };
        for (one, other) in (0..parties * parties).map(|at| (at / parties, at % parties)).filter(|(one, other)| one != other) {
            let truth = together[one][other];
            prop_assert!(truth <= is(&possible, one, other), "{} {}", one, other);
            prop_assert!(is(&certain, one, other) <= truth, "{} {}", one, other);
            if exact {
                prop_assert_eq!(truth, is(&possible, one, other));
                prop_assert_eq!(truth, is(&certain, one, other));
            }
        }
        let Some(expected) = slowly(&truth) else {
            // A closed circle: something is said of each party all the same.
            (0..parties).for_each(|party| drop(owned.owners_of(party)));
            return Ok(());
        };
        prop_assert_eq!(owned.overheld(), [] as [usize; 0]);
        for party in 0..parties {
            let owners = owned.owners_of(party);
            for owner in (0..parties).filter(|owner| *owner != party) {
                let share = &expected[owner][party];
                let found = owners.owners.iter().find(|one| one.owner == owner);
                let Some(found) = found else {
                    prop_assert_eq!(share, &BigRational::from(BigInt::from(0)));
                    continue;
                };
                let whole = BigRational::from(BigInt::from(1));
                let capped = parts(if *share > whole { &whole } else { share });
                let (least, most) = (BigInt::from(found.least), BigInt::from(found.most));
                prop_assert!(BigRational::from(least.clone()) <= capped && capped <= BigRational::from(most.clone()));
                if exact {
                    prop_assert!(most - least <= BigInt::from(parties), "{:?}", found);
                    let quarter = BigRational::new(BigInt::from(1), BigInt::from(4));
                    let reaches = found.standing(Share::QUARTER);
                    if reaches != Standing::Possible {
                        prop_assert_eq!(reaches == Standing::Reaches, *share >= quarter);
                    }
                }
            }
            let known: BigRational = expected[..2].iter().map(|row| row[party].clone()).sum();
            let unknown = (BigRational::from(BigInt::from(1)) - known) * BigRational::from(BigInt::from(1_000_000));
            let (least, most) = owners.unknown;
            if party > 1 {
                prop_assert!(BigRational::from(BigInt::from(least.0)) <= unknown);
                prop_assert!(unknown <= BigRational::from(BigInt::from(most.0)));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_circle_of_many_is_followed_to_the_bounds_that_fractions_would_give(
        shares in prop::collection::vec(1_u32..=99, components::MOST_SOLVED + 4), outside in 1_u32..=99,
    ) {
        // Person 0 holds what the circle leaves of each of its companies; person 1 holds company 2 too.
        let size = shares.len();
        let mut holdings = Vec::new();
        let mut truth = vec![vec![0; size + 2]; size + 2];
        for (place, share) in shares.iter().enumerate() {
            let (asset, owner) = (place + 2, (place + 1) % size + 2);
            let rest = 100 - share;
            let other = if place == 0 { rest.min(outside) } else { 0 };
            for (owner, share) in [(owner, *share), (0, rest - other), (1, other)] {
                truth[owner][asset] = share * 10_000;
                holdings.push(Holding { owner, asset, stake: Stake::exact(Share(share * 10_000)) });
            }
        }
        let expected = slowly(&truth).unwrap();
        let owned = graph(2, size, &holdings);
        prop_assert_eq!(owned.components.iter().map(|component| component.members.len()).max(), Some(size));
        let owners = owned.owners_of(2);
        prop_assert!(!owners.closed_circle);
        for one in owners.owners.iter().filter(|one| one.owner < 2) {
            let truth = parts(&expected[one.owner][2]);
            prop_assert!(BigRational::from(BigInt::from(one.least)) <= truth);
            prop_assert!(truth <= BigRational::from(BigInt::from(one.most)));
            prop_assert!(one.most - one.least < 10_000_000_000, "within a hundred-millionth: {one:?}");
        }
    }
}

#[test]
fn a_closed_circle_of_many_is_said_too_and_nobody_in_it_grows_by_going_round() {
    let size = components::MOST_SOLVED + 1;
    let ring = (0..size).map(|place| holding(2 + (place + 1) % size, 2 + place, "100"));
    // Company 1 is held by person 0 and, by a hundredth, by the ring.
    let of_one = [holding(0, 1, "99"), holding(2, 1, "1")];
    let owned = graph(1, 1 + size, &ring.chain(of_one).collect::<Vec<_>>());
    let owners = owned.owners_of(1);
    assert!(owners.closed_circle);
    let ring = owners.owners.iter().filter(|one| one.owner > 1);
    assert!(
        ring.clone().count() == size
            && ring.clone().all(|one| one.standing(Share::QUARTER) == Standing::Possible)
    );
}
