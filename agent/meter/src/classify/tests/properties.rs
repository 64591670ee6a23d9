//! Whatever windows and sums there are.

use proptest::prelude::*;

use super::super::*;
use crate::{
    features::{Feature, Features},
    reading::{Source, Tier},
    table::AcceleratorTable,
    time::{Span, UtcMillis},
    window::{Counters, Coverage},
};

fn window(counters: Counters, features: Features, millis: i64) -> Window {
    Window {
        accelerator: "GPU-1".parse().expect("valid"),
        span: Span::new(UtcMillis(0), UtcMillis(millis)).expect("not empty"),
        boot_start_ms: 0,
        source: Source::Nvml,
        tier: Tier::B,
        coverage: Coverage::Measured,
        ticks: 60,
        counters,
        features,
        uses: Vec::new(),
    }
}

fn any_window() -> impl Strategy<Value = Window> {
    let counters = proptest::collection::vec(
        proptest::option::of(prop_oneof![any::<u64>(), 0..=1_000_000_000_000_u64, Just(0), Just(u64::MAX)]),
        Counters::LEN,
    );
    let features = proptest::collection::vec(
        proptest::option::of(prop_oneof![any::<i32>(), -1000..=1000_i32]),
        Features::LEN,
    );
    (counters, features, prop_oneof![1..=60_000_i64, 1..=4_000_000_000_000_i64]).prop_map(
        |(counters, features, millis)| {
            let counters =
                Counter::ALL.iter().zip(counters).fold(Counters::default(), |all, (counter, value)| {
                    value.map_or(all, |value| all.with(*counter, value))
                });
            let features =
                Feature::ALL.iter().zip(features).fold(Features::default(), |all, (feature, value)| {
                    value.map_or(all, |value| all.with(*feature, value))
                });
            window(counters, features, millis)
        },
    )
}

fn any_signs() -> impl Strategy<Value = Signs> {
    proptest::collection::vec(-1_000_000_000_000_000_i64..1_000_000_000_000_000, Signs::LEN).prop_map(
        |sums| Sign::ALL.iter().zip(sums).fold(Signs::default(), |signs, (sign, sum)| signs.with(*sign, sum)),
    )
}

proptest! {
    #[test]
    fn any_window_gives_signs_within_their_limits_and_a_judgement(
        window in any_window(),
        known in any::<bool>(),
    ) {
        let table = AcceleratorTable::shipped();
        let hardware = Hardware::from(table.find(None, "NVIDIA H100 80GB HBM3").filter(|_| known));
        let signs = Signs::of(&hardware, &window);
        prop_assert_eq!(signs.get(Sign::Millis).unsigned_abs(), window.span.millis());
        prop_assert!((0..=signs.get(Sign::Millis)).contains(&signs.get(Sign::IdleMillis)));
        for sign in [Sign::Training, Sign::Inference, Sign::Other] {
            prop_assert!(signs.get(sign).abs() <= Evidence::MOST);
        }
        let judgement = signs.judge();
        prop_assert!(judgement.likelihood_per_mille <= MOST_LIKELY);
        if window.span.millis() <= 60_000 {
            let by_itself = matches!(judgement.class, Class::Training | Class::Inference);
            prop_assert!(!by_itself, "no window decides alone");
        }
    }

    #[test]
    fn the_order_of_windows_does_not_matter(
        signs in proptest::collection::vec(any_signs(), 1..8),
        at in any::<prop::sample::Index>(),
    ) {
        let sum = |signs: &[Signs]| {
            let mut sum = Signs::default();
            signs.iter().for_each(|signs| sum.merge(signs));
            sum
        };
        let mut turned = signs.clone();
        turned.rotate_left(at.index(signs.len()));
        turned.reverse();
        prop_assert_eq!(sum(&turned), sum(&signs));
        prop_assert_eq!(sum(&turned).judge(), sum(&signs).judge());
    }

    #[test]
    fn pieces_that_meet_add_up_to_the_whole(signs in any_signs(), whole in 1_u64..1_000_000, cuts in any::<[u64; 2]>()) {
        let mut at = cuts.map(|cut| cut % (whole + 1));
        at.sort_unstable();
        let mut sum = signs.piece(0, at[0], whole);
        sum.merge(&signs.piece(at[0], at[1], whole));
        sum.merge(&signs.piece(at[1], whole, whole));
        prop_assert_eq!(sum, signs);
    }

    #[test]
    fn any_sums_can_be_judged(sums in proptest::collection::vec(any::<i64>(), Signs::LEN)) {
        let signs = Sign::ALL.iter().zip(sums).fold(Signs::default(), |signs, (sign, sum)| signs.with(*sign, sum));
        prop_assert!(signs.judge().likelihood_per_mille <= 1000);
    }
}
